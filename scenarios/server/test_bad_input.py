"""Whatever the wire can carry: bad input is refused with a sentence, and changes nothing.

Requests are drawn from the server's own description, each with one thing wrong in it; bytes that
are no requests are made by hand. A neighbour's files, and bait beside the folder, stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from harness.checkers.conformance import conforms
from harness.contract.models.bad_input import HostileModel
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.workloads.stateful import Machine, explore
from scenarios.conftest import Judge
from scenarios.server import openapi
from scenarios.server.openapi import Endpoint, Parameter

IDS = st.sampled_from(
    [
        *(
            "../bait",
            "..%2fbait",
            "%2e%2e/bait",
            "..\\bait",
            "../../bait",
            "/etc/passwd",
            "bait.json",
        ),
        *(
            "<session>/",
            "<session>.json",
            "<session>\0",
            "<session>\n",
            "<session> ",
            "<session>%00",
        ),
        *("", ".", "..", "_index", "_locks", "_run_journal", "x" * 129, "x" * 5000),
        *("sé", "٣٣", "ⅳ", "s\u202e1", "s1\ud800", "*", "s1;ls", "s1'--", "{}", "%", "%zz", "null"),
    ]
)
CURSORS = st.sampled_from(
    [
        *(
            "<run>:-1",
            "<run>:99999999999999999999",
            "<run>:1e3",
            "<run>:",
            ":1",
            ":",
            "<run>",
            "x:1",
        ),
        *("<run>:" + "9" * 5000, "<session>:1", "../bait:1", "%00", "\t", "9" * 8000, "<run>:0:1"),
    ]
)
NUMBERS = st.sampled_from(
    ["-1", "1.5", "1e3", "0x10", "٣", "", "9" * 400, "--1", "NaN", "true", " 1"]
)
BODIES = st.sampled_from(
    [
        *(
            "{",
            "[]",
            "null",
            "1",
            '"x"',
            "[" * 100_000,
            '{"a":' * 50_000,
            "\xff\xfe{\0}\0",
            "\0",
            "{}{}",
        ),
        *('{"session_id": NaN}', '{"session_id": "\\ud800"}', "{'session_id': 1}", '{"a": 1,}'),
    ]
)
PATHS = st.sampled_from(
    [
        *("/nope", "/api", "/api/", "/api//sessions", "/api/session/../sessions", "/../bait.json"),
        *(
            "/%2e%2e/bait.json",
            "/api/sessions%00",
            "/api/sessions/../bait/events/x",
            "//etc/passwd",
        ),
        *("/page.html", "/api/sessions/", "/API/SESSIONS", "/" + "x" * 8000, "/" + "a/" * 4000),
    ]
)
METHODS = st.sampled_from(
    ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "POST", "GET", "get"]
)
STRANGERS = st.sampled_from(
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "[::1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ]
)
HOST = "Host: localhost\r\n"
GET = f"GET /health HTTP/1.1\r\n{HOST}"
NEW = f"POST /api/session/new HTTP/1.1\r\n{HOST}"
FRAMINGS = st.sampled_from(
    [
        *(
            "\r\n\r\n",
            "\0" * 64,
            "\x16\x03\x01\x02\0\x01\0",
            "GET",
            "GET /health\r\n\r\n",
            "\xff" * 99,
        ),
        *(
            "GET  /health HTTP/1.1\r\n\r\n",
            "GET /health HTTP/9.9\r\n\r\n",
            "GET /health HTTP/1.1\r\n\r\n",
        ),
        *(
            "GET http://evil/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ),
        *("get /health HTTP/1.1\r\n" + HOST + "\r\n", "GET health HTTP/1.1\r\n" + HOST + "\r\n"),
        *(
            GET + HOST + "\r\n",
            GET + "A B: c\r\n\r\n",
            GET + ": c\r\n\r\n",
            GET + " folded\r\n\r\n",
        ),
        *(
            GET + "X: \0\r\n\r\n",
            GET + "X: " + "y" * 20_000 + "\r\n\r\n",
            GET + "X: y\r\n" * 5000 + "\r\n",
        ),
        *(NEW + "Content-Length: -1\r\n\r\n", NEW + "Content-Length: 1e3\r\n\r\n{}"),
        *(
            NEW + "Content-Length: 99999999999999999999\r\n\r\n{}",
            NEW + "Content-Length: +2\r\n\r\n{}",
        ),
        *(NEW + "Content-Length: 9000000\r\n\r\n{}", NEW + "Content-Length: 2, 2\r\n\r\n{}"),
        *(NEW + "Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}" + GET + "\r\n",),
        *(NEW + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET + "\r\n",),
        *(NEW + "Transfer-Encoding: chunked\r\n\r\nZZ\r\n", NEW + "Transfer-Encoding: x\r\n\r\n"),
        *(NEW + "Content-Length: 9\r\n\r\n{}", NEW + "Content-Length: 2\r\n\r\n{x" + "\r\n"),
    ]
)
TOO_MUCH = (
    NEW + "Transfer-Encoding: chunked\r\n\r\n",
    NEW + "Content-Length: 9000000\r\n\r\n",
    GET + "X: " + "y" * 20_000 + "\r\n\r\n",
)
TORN = f"GET /api/sessions HTTP/1.1\r\n{HOST}X-Never: en"
THERE = ("<session>", "<run>")  # what these stand for is there
ID = re.compile("[0-9A-Za-z_-]+", re.ASCII)  # what the contract lets an id be, at most
SERVED_MAX = 100
STEPS = 25


@dataclass(frozen=True)
class Asked:
    """One request. `bad` is the promise that stands where it has to be refused."""

    method: str
    path: str
    bad: Promise | None = None
    query: Sequence[tuple[str, Any]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    @classmethod
    def of(cls, endpoint: Endpoint, values: Mapping[Parameter, Any]) -> Asked:
        """Ask an endpoint, with these values."""
        placed = [(each.place, each.name, value) for each, value in values.items()]
        body = {name: value for place, name, value in placed if place == "body"}
        path = endpoint.path
        for place, name, value in placed:
            path = path.replace(f"{{{name}}}", str(value)) if place == "path" else path
        return cls(
            endpoint.method,
            path,
            query=[(name, value) for place, name, value in placed if place == "query"],
            headers={name: str(value) for place, name, value in placed if place == "header"},
            body=body if endpoint.has_body else None,
        )

    def argument(self) -> dict[str, Any]:
        """It, in JSON."""
        return {
            "method": self.method,
            "path": self.path,
            "query": [[name, str(value)] for name, value in self.query],
            "headers": dict(self.headers),
            "body": self.body,
            "bad": self.bad is not None,
            "promise": (self.bad or Promise.H2).name,
        }


@dataclass(frozen=True)
class Wrong:
    """A kind of thing that can be wrong in a request: with which parameters, by which values."""

    can: Callable[[Parameter], bool]
    values: Callable[[Parameter], st.SearchStrategy[Any]]


def is_id(parameter: Parameter) -> bool:
    """Whether it names a session."""
    return parameter.name in ("session_id", "prev_session_id")


def is_number(parameter: Parameter) -> bool:
    """Whether it is a number, in the text of a query."""
    return parameter.place == "query" and parameter.schema.get("type") == "integer"


def anything(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Draw what the parameter cannot be; None, which is no value, where there has to be one."""
    missing = [st.none()] if parameter.is_required and parameter.place != "path" else []
    match parameter.place:
        case "header":
            return CURSORS.filter(lambda text: "\t" not in text)
        case "body":
            return st.one_of(*missing, openapi.bad(parameter.schema, IDS))
    return st.one_of(*missing, IDS, CURSORS)


HOSTILE_ID = Wrong(is_id, lambda _: IDS)
NO_NUMBER = Wrong(is_number, lambda _: NUMBERS)
ANYTHING = Wrong(lambda _: True, anything)


def good_value(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Draw what the parameter can be; None, which is no value, where there need be none."""
    if is_id(parameter):
        return st.just("<session>")
    if parameter.name == "stream_id":
        return st.just("<run>")
    if parameter.place != "body" and not parameter.is_required:
        return st.none()
    return openapi.good(parameter.schema)


def blamed(parameter: Parameter, value: Any) -> Promise | None:
    """Whose promise it is that this value is refused; None where it may as well be taken."""
    if parameter.place == "path":
        return Promise.S12
    if parameter.place == "header" or value in THERE:
        return None
    if value is None:
        return Promise.H2
    if is_id(parameter) and not (isinstance(value, str) and ID.fullmatch(value)):
        return Promise.S12
    if not is_number(parameter) and openapi.fits(value, parameter.schema):
        return None
    return Promise.S12 if is_id(parameter) else Promise.H2


class HostileMachine(Machine):
    """Requests with one thing wrong, strangers, and bytes that are no requests."""

    model = HostileModel()
    served_max = SERVED_MAX
    endpoints: ClassVar[list[Endpoint]] = []

    @initialize()
    def learn(self) -> None:
        if not self.endpoints:
            self.endpoints.extend(openapi.endpoints(self.ask("describe").result))
        self.ask("files")
        for data in TOO_MUCH:
            self.no_request_at_all(data)

    def one_of(self, data: st.DataObject, *, streams: bool = False) -> Endpoint:
        """Draw an endpoint."""
        known = [each for each in self.endpoints if each.is_stream or not streams]
        return data.draw(st.sampled_from(known))

    def needed(self, data: st.DataObject, endpoint: Endpoint) -> dict[Parameter, Any]:
        """Draw what the endpoint cannot do without."""
        needed = [each for each in endpoint.parameters if each.is_required]
        return {each: data.draw(good_value(each)) for each in needed}

    def ask_wrongly(self, data: st.DataObject, wrong: Wrong) -> None:
        """Ask an endpoint for which this can be wrong, and nothing else."""
        known = [
            (each, one) for each in self.endpoints for one in each.parameters if wrong.can(one)
        ]
        endpoint, victim = data.draw(st.sampled_from(known))
        values = {**self.needed(data, endpoint), victim: data.draw(wrong.values(victim))}
        bad = blamed(victim, values[victim])
        if bad is not None or endpoint.method == "GET":
            given = {each: value for each, value in values.items() if value is not None}
            self.ask("ask_badly", **replace(Asked.of(endpoint, given), bad=bad).argument())

    @rule(data=st.data())
    def hostile_id(self, data: st.DataObject) -> None:
        self.ask_wrongly(data, HOSTILE_ID)

    @rule(data=st.data())
    def no_number(self, data: st.DataObject) -> None:
        self.ask_wrongly(data, NO_NUMBER)

    @rule(data=st.data())
    def one_thing_wrong(self, data: st.DataObject) -> None:
        self.ask_wrongly(data, ANYTHING)

    @rule(data=st.data(), body=BODIES)
    def no_body_at_all(self, data: st.DataObject, body: str) -> None:
        endpoint = self.one_of(data)
        if endpoint.has_body:
            asked = Asked(endpoint.method, endpoint.path, Promise.H2, body=body)
            self.ask("ask_badly", **asked.argument())

    @rule(data=st.data(), method=METHODS)
    def wrong_method(self, data: st.DataObject, method: str) -> None:
        path = self.one_of(data).path
        if not any((each.method, each.path) == (method, path) for each in self.endpoints):
            asked = Asked(method, path.replace("{session_id}", "<session>"), Promise.H2)
            self.ask("ask_badly", **asked.argument())

    @rule(path=PATHS)
    def wrong_path(self, path: str) -> None:
        self.ask("ask_badly", **Asked("GET", path, Promise.H2).argument())

    @rule(data=st.data(), headers=STRANGERS)
    def stranger(self, data: st.DataObject, headers: dict[str, str]) -> None:
        endpoint = self.one_of(data)
        asked = Asked.of(endpoint, self.needed(data, endpoint))
        self.ask("ask_badly", **replace(asked, bad=Promise.H1, headers=headers).argument())

    @rule(data=st.data(), cursor=CURSORS)
    def strange_cursor(self, data: st.DataObject, cursor: str) -> None:
        endpoint = self.one_of(data, streams=True)
        asked = Asked.of(endpoint, self.needed(data, endpoint))
        query = [*asked.query, ("after_event_id", cursor)]
        self.ask("ask_badly", **replace(asked, query=query).argument())

    @rule(data=FRAMINGS)
    def no_request_at_all(self, data: str) -> None:
        self.ask("send_bytes", data=data, times=1, bad=True, promise="H2")

    @rule(times=st.integers(2, 5))
    def several_requests_at_once(self, times: int) -> None:
        self.ask("send_bytes", data=f"{GET}\r\n", times=times, bad=False, promise="H2")

    @rule(clients=st.integers(1, 20))
    def clients_that_never_end_a_request(self, clients: int) -> None:
        self.ask("dawdle", clients=clients, data=TORN)

    def finish(self) -> None:
        self.ask("files")


def _refused_for(promise: Promise, *statuses: int) -> Expectation:
    def count(history: History) -> int:
        asked = (op for op in history.happened if op.function in ("ask_badly", "send_bytes"))
        named = (op for op in asked if op.argument["promise"] == promise.name)
        return sum(not set(op.result["statuses"]).isdisjoint(statuses) for op in named)

    return Expectation(f"{promise.name}: a request was refused with {statuses}", count)


HOSTILE = Scenario(
    name="server-hostile-input",
    mode=Mode.HTTP,
    ability="hostile",
    promises=(Promise.H1, Promise.H2, Promise.S12),
    workload=explore(HostileMachine, steps=STEPS),
    checker=conforms(HostileMachine.model),
    expectations=(
        _refused_for(Promise.S12, 400, 404),
        _refused_for(Promise.H1, 403),
        _refused_for(Promise.H2, 400),
        _refused_for(Promise.H2, 404, 405),
        _refused_for(Promise.H2, 411, 413, 431),
    ),
    examples=40,
)


def test_bad_input_is_refused_and_changes_nothing(judge: Judge) -> None:
    """Every endpoint, every field, and what is no request at all."""
    assert judge(HOSTILE).is_valid
