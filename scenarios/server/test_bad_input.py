"""Scenario of bad input: the server refuses it with an error message, and changes nothing.

Requests are drawn from the server's own OpenAPI description, each with one wrong value; byte
sequences that are no requests are listed here. The files of another session, and bait beside the
state folder, stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.checkers.server.back_to_zero import resting
from harness.contract.models.bad_input import BadInputModel
from harness.core.contract import Promise
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

from . import openapi
from .openapi import Endpoint, Parameter

BAD_IDS = (
    *[
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
    ],
)
IDS = st.sampled_from(BAD_IDS)
PLAIN = {"session_id": "<session>", "stream_id": "<run>"}
BAD_CURSORS = (
    *[
        *(
            "<run>:-1",
            "<run>:99999999999999999999",
            "<run>:²",
            "<run>:1e3",
            "<run>:",
            ":1",
            ":",
            "<run>",
            "x:1",
        ),
        *("<run>:" + "9" * 5000, "<session>:1", "../bait:1", "%00", "\t", "9" * 8000, "<run>:0:1"),
    ],
)
CURSORS = st.sampled_from(BAD_CURSORS)
BAD_NUMBERS = (*["-1", "1.5", "1e3", "0x10", "٣", "", "9" * 400, "--1", "NaN", "true", " 1"],)
NUMBERS = st.sampled_from(BAD_NUMBERS)
BAD_BODIES = (
    *[
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
    ],
)
BODIES = st.sampled_from(BAD_BODIES)
WRONG_TYPES: tuple[Any, ...] = (True, 7, 1.5, "", " ", [], {})
BAD_PATHS = (
    *[
        *("/nope", "/api", "/api/", "/api//sessions", "/api/session/../sessions", "/../bait.json"),
        *(
            "/%2e%2e/bait.json",
            "/api/sessions%00",
            "/api/sessions/../bait/events/x",
            "//etc/passwd",
        ),
        *("/page.html", "/api/sessions/", "/API/SESSIONS", "/" + "x" * 8000, "/" + "a/" * 4000),
    ],
)
PATHS = st.sampled_from(BAD_PATHS)
ALL_METHODS = (*["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "POST", "GET", "get"],)
METHODS = st.sampled_from(ALL_METHODS)
ALL_FOREIGN = (
    *[
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "[::1"},
        {"Host": ""},
        {"Host": "localhost.evil.example"},
        {"Host": "evil@localhost.example"},
        {"Host": "127.0.0.2"},
        {"Host": "localhost:9", "Origin": "http://localhost:99"},
        {"Host": "localhost:9", "Origin": "http://localhost:9.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
OWN_HEADERS: tuple[dict[str, str], ...] = (
    *({"Host": host} for host in ("localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:80")),
    *({"Host": "localhost:9", "Origin": f"{scheme}://localhost:9"} for scheme in ("http", "https")),
    *({"Sec-Fetch-Site": site} for site in ("same-origin", "none")),
)
NEAR_IDS = ("<SESSION>", "<prefix>", "<longer>")  # of no session, but almost
BODY_MAX, HEAD_MAX, FIELDS_MAX = 8 * 1024 * 1024, 16 * 1024, 64
NO_SESSION, NO_RUN = "0" * 12, "0" * 32
FOREIGN_HEADERS = st.sampled_from(ALL_FOREIGN)
HOST = "Host: localhost\r\n"
GET = f"GET /health HTTP/1.1\r\n{HOST}"
NEW = f"POST /api/session/new HTTP/1.1\r\n{HOST}"
BAD_FRAMINGS = (
    *[
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
    ],
)
FRAMINGS = st.sampled_from(BAD_FRAMINGS)
TOO_MUCH = (
    NEW + "Transfer-Encoding: chunked\r\n\r\n",
    NEW + "Content-Length: 9000000\r\n\r\n",
    GET + "X: " + "y" * 20_000 + "\r\n\r\n",
)
BAD, NO_LENGTH, TOO_LARGE, LONG_HEAD, NO_METHOD, NO_VERSION = 400, 411, 413, 431, 501, 505


def refusals(data: str) -> list[int]:
    """The statuses that refuse such bytes, by what is wrong with them."""
    head = data.partition("\r\n\r\n")[0]
    if "Transfer-Encoding" in head:
        return [BAD, NO_LENGTH, NO_METHOD]
    if "9000000" in head:
        return [TOO_LARGE]
    if len(head) > HEAD_MAX:
        return [LONG_HEAD]
    if "HTTP/9.9" in head or "HTTP/2.0" in head:
        return [BAD, NO_VERSION]
    return [BAD, NO_METHOD] if head.startswith("get ") else [BAD]


def malformed_bytes(data: str) -> dict[str, Any]:
    """The argument that sends bytes which are no request."""
    promise = promises.H2.id
    return {"data": data, "times": 1, "bad": True, "promise": promise, "statuses": refusals(data)}


OK = 200
UNDO = f'{{"session_id": "{NO_SESSION}"}}'
LAST = "Connection: close\r\n"
WAITS = "Expect: 100-continue\r\n"


def posted(body: str, *headers: str) -> str:
    """A request with a body."""
    head = f"POST /api/session/undo HTTP/1.1\r\n{HOST}Content-Length: {len(body)}\r\n"
    return f"{head}{''.join(headers)}\r\n{body}"


def got(path: str, *headers: str, method: str = "GET") -> str:
    """A request without a body."""
    return f"{method} {path} HTTP/1.1\r\n{HOST}{''.join(headers)}\r\n"


# Requests of one connection; their statuses tell whether they are answered in order.
MIXED = (
    *((got("/health"), 200), (posted(UNDO), 404), (got("/nope"), 404), (posted("{"), 400)),
    *((got("/api/sessions", method="HEAD"), 200), (got("/api/sessions"), 200)),
    *((posted("", "X: y\r\n"), 400), (got("/health", method="PUT"), 405)),
    *((posted("[]" + " " * 9000), 400), (got("/openapi.json"), 200), (posted(UNDO), 404)),
    *((got("/health", "Origin: http://evil.example\r\n"), 403), (got("/health"), 200)),
    (got(f"/api/chat/stream?stream_id={NO_RUN}", method="HEAD"), 405),  # a stream has none
)


def conversations(rng: Random) -> Iterator[tuple[str, list[str], list[int], bool]]:
    """A name, the parts that are sent, the statuses, and whether the server ends the connection."""
    texts, statuses = map(list, zip(*MIXED, strict=True))
    yield "all at once", ["".join(texts)], statuses, False
    yield "one by one", texts, statuses, False
    whole = "".join(texts)
    cuts = sorted(rng.sample(range(len(whole)), 12))
    pieces = [whole[a:b] for a, b in pairwise((0, *cuts, len(whole)))]
    yield "in pieces", pieces, statuses, False
    first = rng.sample(MIXED, 5)
    shuffled = [text for text, _ in first] * 4
    yield "many at once", ["".join(shuffled)], [status for _, status in first] * 4, False
    yield (
        "the last is named",
        [got("/health") + got("/health", LAST) + got("/nope")],
        [200] * 2,
        True,
    )
    yield "an older client", [got("/health").replace("1.1", "1.0") + got("/nope")], [200], True
    yield "no request", [got("/health") + "get\r\n\r\n" + got("/nope")], [200, 400], True
    twice = got("/api/session?session_id=a&session_id=b")
    yield "a field twice", [got("/health") + twice + got("/nope")], [200, 400], True
    head = posted(UNDO, WAITS).removesuffix(UNDO)
    yield "asked before the body", [head, UNDO, got("/health")], [404, 200], False
    yield "asked with the body", [head + UNDO + got("/health")], [404, 200], False
    big = f"POST /api/session/undo HTTP/1.1\r\n{HOST}Content-Length: {BODY_MAX + 1}\r\n{WAITS}\r\n"
    yield "asked, and too large", [big], [413], True
    yield "read late", [got("/openapi.json") * LATE], [200] * LATE, False
    yield (
        "a head without an end",
        [f"GET /health HTTP/1.1\r\n{HOST}X: " + "y" * 40_000],
        [431],
        True,
    )


LATE = 100  # answers that no client reads before the last request: more than a socket holds
TORN = f"GET /api/sessions HTTP/1.1\r\n{HOST}X-Never: en"
EXISTING = ("<session>", "<run>")  # placeholders of an existing session and run
ID = re.compile("[0-9A-Za-z_-]+", re.ASCII)  # the widest form of an id that the contract allows
EXAMPLES_PER_SERVER = 100
STEPS = 25


@dataclass(frozen=True)
class Request:
    """One request. `bad` is the promise by which it must be refused, if any."""

    method: str
    path: str
    bad: Promise | None = None
    query: Sequence[tuple[str, Any]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    statuses: Sequence[int] = ()

    @classmethod
    def of(cls, endpoint: Endpoint, values: Mapping[Parameter, Any]) -> Request:
        """Make a request to an endpoint, with these values."""
        placed = [(parameter.place, parameter.name, value) for parameter, value in values.items()]
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
        """Render as the argument of an operation."""
        return {
            "method": self.method,
            "path": self.path,
            "query": [[name, str(value)] for name, value in self.query],
            "headers": dict(self.headers),
            "body": self.body,
            "bad": self.bad is not None,
            "promise": (self.bad or promises.H2).id,
            "statuses": list(self.statuses or self._usual),
        }

    @property
    def _usual(self) -> Sequence[int]:
        """The statuses that answer such a mistake; of a cursor that may be fine, also 200."""
        if self.bad is None:
            return (200, 400, 404)
        return (403,) if self.bad is promises.H1 else (400, 404, 413)


@dataclass(frozen=True)
class Mistake:
    """A kind of mistake in a request: the parameters that can have it, and its values."""

    applies: Callable[[Parameter], bool]
    values: Callable[[Parameter], st.SearchStrategy[Any]]


def is_id(parameter: Parameter) -> bool:
    """Whether a parameter is the id of a session."""
    return parameter.name in ("session_id", "prev_session_id")


def is_number(parameter: Parameter) -> bool:
    """Whether a parameter is a number, in the text of a query."""
    return parameter.place == "query" and parameter.schema.get("type") == "integer"


def anything(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Draw a value that the parameter rejects; None, for no value, where one is required."""
    missing = [st.none()] if parameter.is_required and parameter.place != "path" else []
    match parameter.place:
        case "header":
            return CURSORS.filter(lambda text: "\t" not in text)
        case "body":
            return st.one_of(*missing, openapi.bad(parameter.schema, IDS))
    return st.one_of(*missing, IDS, CURSORS)


BAD_ID = Mistake(is_id, lambda _: IDS)
BAD_NUMBER = Mistake(is_number, lambda _: NUMBERS)
ANYTHING = Mistake(lambda _: True, anything)


def good_value(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Draw a value that the parameter accepts; None, for no value, where none is required."""
    if is_id(parameter):
        return st.just("<session>")
    if parameter.name == "stream_id":
        return st.just("<run>")
    if parameter.place != "body" and not parameter.is_required:
        return st.none()
    return openapi.good(parameter.schema)


def blamed(parameter: Parameter, value: Any) -> Promise | None:
    """The promise by which this value is refused; None where it may be accepted."""
    if parameter.place == "path":
        return promises.S12
    if parameter.place == "header" or value in EXISTING:
        return None
    if value is None:
        return promises.H2
    if is_id(parameter) and not (isinstance(value, str) and ID.fullmatch(value)):
        return promises.S12
    if not is_number(parameter) and openapi.fits(value, parameter.schema):
        return None
    return promises.S12 if is_id(parameter) else promises.H2


def malformed(endpoint: Endpoint, body: str) -> Request:
    """Make a request with a body that is no JSON object of the right fields."""
    return Request(endpoint.method, endpoint.path, promises.H2, body=body, statuses=(400, 413))


def with_method(method: str, path: str) -> Request:
    """Make a request with a method that the path lacks."""
    named = path.replace("{session_id}", "<session>")
    return Request(method, named, promises.H2, statuses=(400, 405))


def with_path(path: str) -> Request:
    """Make a request to a path that does not exist."""
    return Request("GET", path, promises.H2, statuses=(400, 404))


def every_mistake(known: Sequence[Endpoint]) -> Iterator[Request]:
    """Every value of every list, at every endpoint and parameter that it fits."""
    for endpoint in known:
        required = [parameter for parameter in endpoint.parameters if parameter.is_required]
        plain = {parameter: PLAIN.get(parameter.name, "1") for parameter in required}
        for wrong in endpoint.parameters:
            yield from _every_value(endpoint, plain, wrong)
        if endpoint.has_body:
            yield from (malformed(endpoint, body) for body in BAD_BODIES)
            yield from of_wrong_types(endpoint)
        request = Request.of(endpoint, plain)
        for cursor in BAD_CURSORS if endpoint.is_stream else ():
            yield replace(request, query=[*request.query, ("after_event_id", cursor)])
        others = {other.method for other in known if other.path == endpoint.path}
        for method in ALL_METHODS:
            if method not in others:
                yield with_method(method, endpoint.path)
        for headers in ALL_FOREIGN:
            yield replace(request, bad=promises.H1, headers=headers)
    yield from map(with_path, BAD_PATHS)
    yield from at_bounds(known)
    yield from of_near_ids(known)
    for headers in OWN_HEADERS:
        yield Request("GET", "/api/sessions", headers=headers, statuses=(200,))


def at_bounds(known: Sequence[Endpoint]) -> Iterator[Request]:
    """Each bounded value at its bound, and beyond it; of no session, so that nothing changes."""
    harmless = {"session_id": NO_SESSION, "stream_id": NO_RUN}
    for endpoint in known:
        required = [parameter for parameter in endpoint.parameters if parameter.is_required]
        plain: dict[Parameter, Any] = {
            parameter: harmless.get(parameter.name, "1") for parameter in required
        }
        plain |= {known: 1 for known in required if known.schema.get("type") == "integer"}
        either = {known: "1" for known in endpoint.parameters if known.name == "task_id"}
        for parameter in endpoint.parameters:
            for value, is_good in around(parameter):
                request = Request.of(endpoint, {**plain, **either, parameter: value})
                if not is_good:
                    yield replace(request, bad=promises.H2, statuses=(400,))
                elif not endpoint.is_stream or parameter.name in harmless:
                    yield replace(request, statuses=(200, 404))


def around(parameter: Parameter) -> Iterator[tuple[Any, bool]]:
    """Values one below, at and one above each bound of a parameter; whether each is accepted."""
    schema = parameter.schema
    schema = schema["anyOf"][0] if "anyOf" in schema else schema
    if most := schema.get("maxLength"):
        sign = "0" if "pattern" in schema else "é"
        yield from ((sign * length, length <= most) for length in (most - 1, most, most + 1))
    if "items" in schema:
        count, most = schema["maxItems"], schema["items"]["maxLength"]
        for step in (-1, 0, 1):
            yield ["x"] * (count + step), step <= 0
            yield ["x", "é" * (most + step)], step <= 0
    if "maximum" in schema:
        least, most = schema["minimum"], schema["maximum"]
        for value in (least - 1, least, least + 1, most - 1, most, most + 1):
            yield value, least <= value <= most
        if parameter.place == "body":
            yield float(least), True  # JSON has one kind of number


def of_wrong_types(endpoint: Endpoint) -> Iterator[Request]:
    """Each field of a body with values of other types, and without text; for no session."""
    required = [parameter for parameter in endpoint.parameters if parameter.is_required]
    plain: dict[Parameter, Any] = {known: PLAIN.get(known.name, "1") for known in required}
    plain |= {known: 1 for known in required if known.schema.get("type") == "integer"}
    plain |= {known: NO_SESSION for known in required if is_id(known)}
    for parameter in endpoint.parameters:
        for value in WRONG_TYPES:
            is_blank = value == " " and not parameter.is_required
            if parameter.place == "body" and not openapi.fits(value, parameter.schema) | is_blank:
                bad = promises.S12 if is_id(parameter) else promises.H2
                request = Request.of(endpoint, {**plain, parameter: value})
                yield replace(request, bad=bad, statuses=(400,))


def of_near_ids(known: Sequence[Endpoint]) -> Iterator[Request]:
    """Every endpoint of a session or a run, asked for an id that only resembles one."""
    for endpoint in known:
        names = {parameter.name: parameter for parameter in endpoint.parameters}
        required = [parameter for parameter in endpoint.parameters if parameter.is_required]
        plain: dict[Parameter, Any] = dict.fromkeys(required, "1")
        plain |= {known: 1 for known in required if known.schema.get("type") == "integer"}
        if "task_id" in names:
            plain[names["task_id"]] = "t1"
        ids = NEAR_IDS if "session_id" in names else ("<RUN>",) if "stream_id" in names else ()
        subject = names.get("session_id") or names.get("stream_id")
        for id_ in ids:
            assert subject is not None
            request = Request.of(endpoint, {**plain, subject: id_})
            is_tolerant = subject.name == "stream_id" and not endpoint.is_stream
            if is_tolerant or endpoint.path.endswith("delete"):
                yield replace(request, statuses=(200,))
            else:
                yield replace(request, bad=promises.S12, statuses=(404,))


def sizes() -> Iterator[tuple[str, int]]:
    """Requests whose head, body or number of fields is at a bound, with the right status."""
    for size in (BODY_MAX - 1, BODY_MAX, BODY_MAX + 1):
        head = f"POST /api/session/undo HTTP/1.1\r\n{HOST}Content-Length: {size}\r\n\r\n"
        body = f'{{"session_id": "{NO_SESSION}"' + " " * (size - 30) + "}"
        yield head + body, 404 if size <= BODY_MAX else 413
    for size in (HEAD_MAX - 1, HEAD_MAX, HEAD_MAX + 1):
        start = f"GET /health HTTP/1.1\r\n{HOST}X: "
        yield start + "y" * (size - len(start)) + "\r\n\r\n", 200 if size <= HEAD_MAX else 431
    for count in (FIELDS_MAX - 1, FIELDS_MAX, FIELDS_MAX + 1):
        query = "&".join(f"f{number}=1" for number in range(count))
        right = 200 if count <= FIELDS_MAX else 400
        yield f"GET /api/sessions?{query} HTTP/1.1\r\n{HOST}\r\n", right


def _every_value(
    endpoint: Endpoint, plain: Mapping[Parameter, Any], wrong: Parameter
) -> Iterator[Request]:
    """Every bad value of one parameter."""
    ids = BAD_IDS if is_id(wrong) else ()
    for value in (*ids, *(BAD_NUMBERS if is_number(wrong) else ())):
        bad = blamed(wrong, value)
        if bad is not None or (endpoint.method == "GET" and not endpoint.is_stream):
            yield replace(Request.of(endpoint, {**plain, wrong: value}), bad=bad)


def _packed(data: str) -> dict[str, Any]:
    """A long request: its parts, and how often the middle one is repeated."""
    longest = max(re.finditer(r"(.)\1{99,}", data), key=lambda found: len(found[0]), default=None)
    if longest is None:
        return {"start": data, "middle": "", "count": 0, "end": ""}
    return {
        "start": data[: longest.start()],
        "middle": longest[1],
        "count": len(longest[0]),
        "end": data[longest.end() :],
    }


def walk(context: Context) -> None:
    """Make every mistake once, and send all bytes that are no requests."""
    with context.episode() as episode:
        ask = episode.client.ask
        description = ask("describe", {}).result
        ask("files", {})
        for request in every_mistake(openapi.endpoints(description)):
            ask("ask_badly", request.argument())
        for data in (*BAD_FRAMINGS, *TOO_MUCH):
            ask("send_bytes", malformed_bytes(data))
        for name, parts, statuses, closes in conversations(context.rng("conversations")):
            argument = {"name": name, "parts": parts, "wanted": statuses, "closes": closes}
            ask("converse", argument)
        for data, status in sizes():
            argument = {"times": 1, "bad": status != OK, "promise": "H2", "statuses": [status]}
            ask("send_size", {**_packed(data), **argument})
        ask("files", {})


def walk_and_explore(context: Context) -> None:
    """Walk through all lists, then combine mistakes in any order."""
    walk(context)
    explore(BadInputMachine, steps=STEPS)(context)


class BadInputMachine(Machine):
    """Requests with one mistake, requests of foreign origins, and bytes that are no requests."""

    model = BadInputModel()
    examples_per_instance = EXAMPLES_PER_SERVER
    endpoints: ClassVar[list[Endpoint]] = []

    @initialize()
    def learn(self) -> None:
        if not self.endpoints:
            self.endpoints.extend(openapi.endpoints(self.ask("describe").result))
        self.ask("files")

    def draw_endpoint(self, data: st.DataObject, *, streams: bool = False) -> Endpoint:
        """Draw an endpoint."""
        known = [endpoint for endpoint in self.endpoints if endpoint.is_stream or not streams]
        return data.draw(st.sampled_from(known))

    def required_values(self, data: st.DataObject, endpoint: Endpoint) -> dict[Parameter, Any]:
        """Draw values of the required parameters."""
        required = [parameter for parameter in endpoint.parameters if parameter.is_required]
        return {parameter: data.draw(good_value(parameter)) for parameter in required}

    def make_mistake(self, data: st.DataObject, mistake: Mistake) -> None:
        """Call an endpoint with this mistake in one parameter."""
        known = [
            (endpoint, parameter)
            for endpoint in self.endpoints
            for parameter in endpoint.parameters
            if mistake.applies(parameter)
        ]
        endpoint, wrong = data.draw(st.sampled_from(known))
        values = {**self.required_values(data, endpoint), wrong: data.draw(mistake.values(wrong))}
        bad = blamed(wrong, values[wrong])
        if bad is not None or endpoint.method == "GET":
            given = {parameter: value for parameter, value in values.items() if value is not None}
            self.ask("ask_badly", **replace(Request.of(endpoint, given), bad=bad).argument())

    @rule(data=st.data())
    def bad_id(self, data: st.DataObject) -> None:
        self.make_mistake(data, BAD_ID)

    @rule(data=st.data())
    def bad_number(self, data: st.DataObject) -> None:
        self.make_mistake(data, BAD_NUMBER)

    @rule(data=st.data())
    def any_mistake(self, data: st.DataObject) -> None:
        self.make_mistake(data, ANYTHING)

    @rule(data=st.data(), body=BODIES)
    def malformed_body(self, data: st.DataObject, body: str) -> None:
        endpoint = self.draw_endpoint(data)
        if endpoint.has_body:
            request = malformed(endpoint, body)
            self.ask("ask_badly", **request.argument())

    @rule(data=st.data(), method=METHODS)
    def wrong_method(self, data: st.DataObject, method: str) -> None:
        path = self.draw_endpoint(data).path
        if not any((known.method, known.path) == (method, path) for known in self.endpoints):
            request = with_method(method, path)
            self.ask("ask_badly", **request.argument())

    @rule(path=PATHS)
    def wrong_path(self, path: str) -> None:
        self.ask("ask_badly", **with_path(path).argument())

    @rule(data=st.data(), headers=FOREIGN_HEADERS)
    def foreign_origin(self, data: st.DataObject, headers: dict[str, str]) -> None:
        endpoint = self.draw_endpoint(data)
        request = Request.of(endpoint, self.required_values(data, endpoint))
        self.ask("ask_badly", **replace(request, bad=promises.H1, headers=headers).argument())

    @rule(data=st.data(), cursor=CURSORS)
    def foreign_cursor(self, data: st.DataObject, cursor: str) -> None:
        endpoint = self.draw_endpoint(data, streams=True)
        request = Request.of(endpoint, self.required_values(data, endpoint))
        query = [*request.query, ("after_event_id", cursor)]
        self.ask("ask_badly", **replace(request, query=query).argument())

    @rule(data=FRAMINGS)
    def malformed_request(self, data: str) -> None:
        self.ask("send_bytes", **malformed_bytes(data))

    @rule(times=st.integers(2, 5))
    def pipelined_requests(self, times: int) -> None:
        self.ask("send_bytes", data=f"{GET}\r\n", times=times, bad=False, promise="H2")

    @rule(clients=st.integers(1, 20))
    def unfinished_requests(self, clients: int) -> None:
        self.ask("dawdle", clients=clients, data=TORN)

    def finish(self) -> None:
        self.ask("files")


def _refused_for(promise: Promise, *statuses: int) -> Expectation:
    def count(history: History) -> int:
        calls = (op for op in history.happened if op.function in ("ask_badly", "send_bytes"))
        named = (op for op in calls if op.argument["promise"] == promise.id)
        return sum(not set(op.result["statuses"]).isdisjoint(statuses) for op in named)

    return Expectation(f"{promise.id}: a request was refused with {statuses}", count)


BAD_INPUT = Scenario(
    name="server-hostile-input",
    mode=Mode.HTTP,
    ability="hostile",
    promises=(promises.H1, promises.H2, promises.S12),
    workload=walk_and_explore,
    checker=resting(conforms(BadInputMachine.model)),
    expectations=(
        _refused_for(promises.S12, 400, 404),
        _refused_for(promises.H1, 403),
        _refused_for(promises.H2, 400),
        _refused_for(promises.H2, 404, 405),
        _refused_for(promises.H2, 411, 413, 431),
    ),
    examples=10,
)


def test_bad_input_is_refused_without_effect(judge: Judge) -> None:
    """Every endpoint, every parameter, and malformed requests."""
    assert judge(BAD_INPUT).is_valid
