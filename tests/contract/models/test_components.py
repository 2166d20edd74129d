"""Tests that the models of components accept right answers, and name the promise of wrong ones.

A story is a list of calls with their answers; its last answer is the one under test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.access_control import AccessControlModel
from harness.contract.models.agent_cache import AgentCacheModel
from harness.contract.models.disk_faults import DiskFaultsModel
from harness.contract.models.gateway_watcher import GatewayWatcherModel
from harness.contract.models.model_catalog import (
    VOLATILE_EXAMPLES,
    VOLATILE_KINDS,
    ModelCatalogModel,
    is_volatile,
)
from harness.contract.models.session_store import SessionStoreModel
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.model import Model, Refusal
from harness.core.verdict import VALID, Anomaly
from harness.models.register import Register
from reference_impl.model_catalog.catalog import VOLATILE_KEYS

Story = list[Operation]


def op(function: str, result: Any = None, **argument: Any) -> Operation:
    """A call, and its result."""
    return Operation(0, function, argument, Outcome.OK, 0, 0, result)


def raised(function: str, **argument: Any) -> Operation:
    """A call that raised."""
    return Operation(0, function, argument, Outcome.FAIL, 0, 0, error="RuntimeError: unforeseen")


def refused(model: Model[Any], story: Story) -> Anomaly:
    """The anomaly of the last answer; the earlier ones must be accepted."""
    fold = Fold(model)
    for operation in story[:-1]:
        anomaly = fold.step(operation)
        assert anomaly is None, anomaly.message
    anomaly = fold.step(story[-1])
    assert anomaly is not None, f"accepted: {story[-1]}"
    return anomaly


def accepts(model: Model[Any], story: Story) -> bool:
    verdict = conforms(model)(History(tuple(story)))
    assert verdict == VALID, verdict.anomalies[0].message
    return True


# Access control ----------------------------------------------------------------------------------

SERVES, REFUSES = ({"is_available": True, "serves": serves} for serves in (True, False))
LET_IN, KEPT_OUT = (200, 200, 200), (401, 401, 401)
NO_ADDRESS = {"is_available": False, "serves": False}


def opened(answer: dict[str, bool], where: str = "elsewhere", *, with_word: str = "") -> Operation:
    return op("open", answer, is_loopback=where == "here", password=with_word)


def knock(*statuses: int, word: str = "", scheme: str = "") -> Operation:
    return op("knock", [*statuses], scheme=scheme, word=word)


@pytest.mark.parametrize(
    "story",
    [
        [opened(SERVES, "here"), knock(*LET_IN), knock(*LET_IN, word="any", scheme="Basic")],
        [opened(REFUSES), knock()],
        [opened(SERVES), knock(401, 403, 401), knock(*KEPT_OUT, word="any", scheme="Bearer")],
        [opened(NO_ADDRESS, with_word="pw"), knock()],
        [opened(SERVES, with_word="pw"), knock(*KEPT_OUT)],
        [opened(SERVES, with_word="pw"), knock(*LET_IN, word="pw", scheme="Bearer")],
        [opened(SERVES, with_word="pw"), opened(SERVES, "here"), knock(*LET_IN)],
    ],
)
def test_access_with_sufficient_credentials_is_accepted(story: Story) -> None:
    assert accepts(AccessControlModel(), story)


FOREIGN_KNOCKS: list[Story] = [
    [opened(SERVES), knock(401, 401, 200)],
    [opened(SERVES), knock(*LET_IN, word="", scheme="Bearer")],
    [opened(SERVES, with_word="pw"), knock(*LET_IN)],
    [opened(SERVES, "here", with_word="pw"), knock(*LET_IN, word="wp", scheme="Basic")],
    [opened(SERVES, with_word="pw"), knock(*LET_IN, word="pw")],
    [opened(SERVES, with_word="pw"), knock(*KEPT_OUT, word="pw", scheme="Basic")],
    [opened(SERVES, "here"), knock(*KEPT_OUT)],
    [opened(SERVES, "here"), knock(200, 200)],
    [opened(REFUSES, "here")],
    [opened(SERVES, with_word="pw"), raised("knock", scheme="Basic", word="pw")],
]


@pytest.mark.parametrize("story", FOREIGN_KNOCKS)
def test_wrong_access_breaks_h1(story: Story) -> None:
    assert refused(AccessControlModel(), story).promise == promises.H1


# The agent cache ----------------------------------------------------------------------------------

CACHE = AgentCacheModel(cap=1)


def cached(function: str, events: str = "", session: str = "s", **argument: Any) -> Operation:
    """A call of the cache, and its events: `commit s a, close s a`."""
    split = [event.split() for event in events.split(", ") if event]
    calm = {"events": split, "blocked": False, "nested": False}
    fields = argument.pop("fields", {})
    return op(function, {**calm, **fields}, session=session, **argument)


def put(agent: str, events: str = "", session: str = "s", provider: str = "ok") -> Operation:
    return cached("put", events, session, agent=agent, provider=provider)


def evict(events: str = "", session: str = "s", provider: str = "ok") -> Operation:
    return cached("evict", events, session, provider=provider)


def end_run(events: str = "", session: str = "s", provider: str = "ok") -> Operation:
    return cached("end_run", events, session, provider=provider)


def configured(value: str) -> Operation:
    return op("configure", {"events": [], "blocked": False, "nested": False}, value=value)


def drained(events: str) -> Operation:
    return cached("drain", events)


def get(agent: str | None, events: str = "", session: str = "s") -> Operation:
    return cached("get", events, session, fields={"agent": agent})


def size(agents: int, entries: int) -> Operation:
    return op("size", {"agents": agents, "entries": entries})


def held(agents: int, entries: int, containers: int, **gauges: int) -> Operation:
    """The size with gauges, and with the entries of all containers."""
    sizes = {"agents": agents, "entries": entries, "gauges": gauges, "held": containers}
    return op("size", sizes)


def committed(events: str, *, done: bool, provider: str = "ok") -> Operation:
    return cached("commit", events, provider=provider, fields={"committed": done})


LIVE, TURN = cached("start_run"), cached("complete_turn")
FAILED = [put("a"), TURN, evict("commit s a", provider="fail")]

RIGHT_CACHES: list[Story] = [
    [put("a"), get("a"), get(None, session="t"), size(1, 1), evict("close s a"), size(0, 0)],
    [put("a"), TURN, TURN, put("b", "commit s a, close s a", "t"), get(None), get("b", "", "t")],
    [put("a"), LIVE, put("b", "close t b", "t"), get("a"), size(1, 1)],
    [put("a"), LIVE, TURN, evict(), end_run("commit s a, close s a"), size(0, 0)],
    [*FAILED, put("b"), evict("commit s a, close s b"), end_run("close s a")],
    [*FAILED, put("b"), evict("commit s a, close s b, close s a")],
    [*FAILED, put("b"), evict("commit s a, close s b"), get(None, "close s a")],
    [*FAILED, put("a"), evict("commit s a, close s a"), size(0, 0)],
    [TURN, put("a"), evict("commit s a, close s a")],
    [*FAILED, drained("commit s a, close s a"), size(0, 0)],
    [put("a"), TURN, drained("commit s a"), size(1, 1)],
    [configured("2"), put("a"), put("b", "", "t"), size(2, 2)],
    [configured("two"), put("a"), put("b", "", "t"), size(2, 2)],
    [put("a"), TURN, evict("commit s a, close s a", provider="stuck"), size(0, 0)],
    [put("a"), TURN, committed("commit s a", done=True), committed("", done=False)],
    [put("a"), TURN, committed("commit s a", done=False, provider="fail"), *FAILED[2:]],
    [*FAILED, LIVE, put("b"), committed("commit s a", done=True), put("c", "close t c", "t")],
    [*FAILED, held(0, 1, 2, agents_aside=1), put("a"), held(1, 1, 1, agents_kept=1)],
]
WRONG_CACHES: list[tuple[Promise, Story]] = [
    (promises.A1, [put("a"), get(None)]),
    (promises.A1, [put("a"), put("b", "close s a", "t"), size(2, 2)]),
    (promises.A1, [put("a"), put("b", "close t b", "t")]),
    (promises.A1, [put("a"), get("a", "close s a")]),
    (promises.A2, [put("a"), LIVE, put("b", "close s a", "t")]),
    (promises.A2, [put("a"), LIVE, evict("close s a")]),
    (promises.A3, [cached("put", agent="a", provider="ok", fields={"nested": True})]),
    (promises.A4, [cached("evict", provider="ok", fields={"blocked": True})]),
    (promises.L14, [cached("evict", provider="ok", fields={"blocked": True})]),
    (promises.A5, [put("a"), TURN, evict("close s a")]),
    (promises.A5, [put("a"), TURN, evict("close s a, commit s a")]),
    (promises.A5, [put("a"), TURN, evict("commit s a, close s a", provider="fail")]),
    (promises.A5, [put("a"), TURN, evict("commit s b, close s a")]),
    (promises.A5, [put("a"), evict("close s a, close s a")]),
    (promises.A5, [put("a"), evict("close s a"), end_run("close s a")]),
    (promises.A5, [put("a"), evict()]),
    (promises.A5, [put("a"), LIVE, evict(), end_run()]),
    (promises.A5, [*FAILED, end_run("close s a")]),
    (promises.A5, [*FAILED, drained("commit s a")]),
    (promises.A5, [*FAILED, drained("close s a, commit s a")]),
    (promises.A5, [raised("evict", session="s", provider="ok")]),
    (promises.L6, [put("a"), evict("commit s a, close s a")]),
    (promises.L6, [put("a"), TURN, evict("commit s a, commit s a, close s a")]),
    (promises.L9, [put("a"), evict("close s a"), size(0, 1)]),
    (promises.L9, [put("a"), size(1, 0)]),
    (promises.A1, [configured("1"), put("a"), put("b", "", "t")]),
    (promises.A1, [put("a"), TURN, put("b", "", "t")]),
    (promises.A1, [put("a"), TURN, put("b", "commit t b", "t", provider="fail")]),
    (promises.A1, [configured("2"), put("a"), put("b", "close s a", "t")]),
    (promises.A1, [configured("0"), put("a"), put("b", "close s a", "t")]),
    (promises.A5, [put("a"), TURN, evict("commit s a, close s a", provider="abort")]),
    (promises.A5, [put("a"), TURN, evict("commit s a", provider="stuck")]),
    (promises.L12, [put("a"), cached("complete_turn", "commit s a")]),
    (promises.L12, [put("a"), TURN, get("a", "commit s a")]),
    (
        promises.A2,
        [
            *FAILED,
            LIVE,
            put("b"),
            committed("commit s a", done=True),
            put("c", "close t c, close s a", "t"),
        ],
    ),
    (promises.A5, [put("a"), TURN, committed("", done=False)]),
    (promises.L3, [put("a"), TURN, committed("commit s a", done=False)]),
    (promises.L6, [put("a"), committed("", done=True)]),
    (promises.H4, [put("a"), evict("close s a"), held(0, 0, 1)]),
    (promises.H4, [put("a"), held(1, 1, 1, agents_kept=2)]),
    (promises.H4, [*FAILED, held(0, 1, 2, agents_aside=0)]),
]


@pytest.mark.parametrize("story", RIGHT_CACHES)
def test_right_agent_cache_is_accepted(story: Story) -> None:
    assert accepts(CACHE, story)


@pytest.mark.parametrize(("promise", "story"), WRONG_CACHES)
def test_wrong_agent_cache_names_its_promise(promise: Promise, story: Story) -> None:
    assert promise in refused(CACHE, story).promises


# The watcher --------------------------------------------------------------------------------------

WATCHER = GatewayWatcherModel()


def poll(announced: Any = None, projections: int = 0) -> Operation:
    return op("poll", {"announced": announced, "projections": projections})


def polled(*facts: list[Any], messages: int = 0, ended: bool = False) -> Operation:
    """A poll that announces session `s` with all fields."""
    announced = row(messages, ended=ended)
    return op("poll", {"announced": announced, "projections": 1, "facts": list(facts)})


def beside(announced: Any, projections: int, *, written: bool = True) -> Operation:
    """A poll, during whose projection another process adds a message."""
    result = {"announced": announced, "projections": projections, "written": written}
    return op("poll_beside", result, write={"function": "append", "session": "s", "text": "t9"})


def without(announced: Any = None) -> Operation:
    """Two polls while the database is away."""
    return op("poll_without", {"announced": announced, "projections": 0})


def create(session: str = "s", source: str = "cli") -> Operation:
    return op("create", session=session, source=source)


def rewrite(*texts: str) -> Operation:
    return op("rewrite", session="s", texts=list(texts))


def rename(title: str) -> Operation:
    return op("rename", session="s", title=title)


def row(messages: int = 0, title: str | None = None, *, ended: bool = False) -> list[list[Any]]:
    return [["s", title, messages, ended]]


SAID = op("append", session="s", text="t1")
DELETED, ENDED = op("delete", session="s"), op("end", session="s")
FAILS, WORKS = op("fail", how="raises"), op("fail", how="")
SEEN = [create(), SAID, poll(row(1), 1)]

RIGHT_WATCHERS: list[Story] = [
    [poll([], 1), poll(), op("shown", [])],
    [*SEEN, poll(), op("shown", row(1))],
    [*SEEN, rewrite("t2"), poll(row(1), 1), poll()],
    [*SEEN, rewrite("t1"), poll(None, 1), poll()],
    [*SEEN, rename("x"), ENDED, poll(row(1, "x", ended=True), 1), DELETED, poll([], 1)],
    [*SEEN, create("c", "cron"), create("w", "webui"), poll()],
    [*SEEN, FAILS, SAID, poll(None, 2), op("shown", row(1)), WORKS, poll(row(2), 1)],
    [*SEEN, create("u"), op("delete", session="u"), poll(None, 1), poll()],
    [*SEEN, FAILS, create("u"), op("delete", session="u"), poll()],
    [*SEEN, raised("rename", session="s", title="taken"), poll()],
    [*SEEN, op("restore", session="s"), poll([], 1)],
    [*SEEN, SAID, beside(row(2), 1), poll(row(3), 1), poll()],
    [*SEEN, SAID, beside(row(3), 2), poll(), op("shown", row(3))],
    [*SEEN, beside(None, 0, written=False), poll()],
    [*SEEN, FAILS, SAID, beside(None, 2, written=False), WORKS, poll(row(2), 1)],
    [*SEEN, without(), poll(), op("shown", row(1))],
    [*SEEN, without(), SAID, poll(row(2), 1)],
    [*SEEN, without(), op("restore", session="s"), poll([], 1)],
    [create(), polled(["s", "cli", None, None, 1, None, 1])],
    [create(), SAID, ENDED, polled(["s", "cli", None, "done", 1, 3, 2], messages=1, ended=True)],
]
WRONG_WATCHERS: list[tuple[Promise, Story]] = [
    (promises.G1, [create(), poll()]),
    (promises.G1, [*SEEN, rewrite("t2"), poll()]),
    (promises.G1, [*SEEN, rename("x"), poll(row(1), 1)]),
    (promises.G1, [*SEEN, ENDED, poll(None, 1)]),
    (promises.G1, [*SEEN, DELETED, poll()]),
    (promises.G1, [*SEEN, FAILS, SAID, poll(None, 1), WORKS, poll()]),
    (promises.G2, [*SEEN, poll(None, 1)]),
    (promises.G2, [*SEEN, SAID, poll(row(2), 2)]),
    (promises.G2, [*SEEN, SAID, poll(row(2), 0)]),
    (promises.G2, [*SEEN, FAILS, SAID, poll(None, 3)]),
    (promises.G2, [*SEEN, FAILS, SAID, poll()]),
    (promises.D3, [*SEEN, raised("append", session="s", text="t2")]),
    (promises.D3, [raised("create", session="s", source="cli")]),
    (promises.D3, [*SEEN, op("end", "done", session="s")]),
    (promises.G2, [*SEEN, poll(row(1), 0)]),
    (promises.G2, [*SEEN, create("c", "cron"), poll(None, 1)]),
    (promises.G3, [*SEEN, FAILS, SAID, poll([], 1)]),
    (promises.G3, [*SEEN, FAILS, SAID, poll(None, 1), op("shown", [])]),
    (promises.G3, [*SEEN, FAILS, SAID, raised("poll")]),
    (promises.G3, [*SEEN, raised("shown")]),
    (promises.G1, [*SEEN, op("restore", session="s"), poll()]),
    (promises.G3, [*SEEN, without([])]),
    (promises.G3, [*SEEN, raised("poll_without")]),
    (promises.G2, [*SEEN, without(), poll(row(1), 1)]),
    (promises.G1, [*SEEN, without(), SAID, poll()]),
    (promises.G1, [*SEEN, SAID, beside(row(2), 1), poll()]),
    (promises.G1, [*SEEN, SAID, beside(row(1), 1)]),
    (promises.G2, [*SEEN, SAID, beside(row(2), 3)]),
    (promises.G2, [*SEEN, beside(row(1), 1)]),
    (promises.G1, [create(), polled(["s", "cli", None, None, 1, None, None])]),
    (promises.G1, [create(), SAID, polled(["s", "cli", None, None, 1, None, 1], messages=1)]),
    (promises.G1, [create(), polled(["s", "telegram", None, None, 1, None, 1])]),
]


@pytest.mark.parametrize("story", RIGHT_WATCHERS)
def test_right_watcher_is_accepted(story: Story) -> None:
    assert accepts(WATCHER, story)


@pytest.mark.parametrize(("promise", "story"), WRONG_WATCHERS)
def test_wrong_watcher_names_its_promise(promise: Promise, story: Story) -> None:
    assert promise in refused(WATCHER, story).promises


# The catalog --------------------------------------------------------------------------------------

CATALOG = ModelCatalogModel()
DOWN, UP, RESTART = op("fail", fails=True), op("fail", fails=False), op("restart")


def shown(*models: str, asked: int = 0) -> Operation:
    return op("shown", {"models": list(models), "asked": asked})


def rebuilt(*models: str, asked: int = 0) -> Operation:
    return op("rebuilt", {"models": list(models), "asked": asked})


def auth(**values: Any) -> Operation:
    return op("set_auth", auth={"providers": [{"name": "x", **values}]})


def config(text: str) -> Operation:
    return op("set_config", text=text)


KNOWN = [auth(), rebuilt("model-1", asked=1)]

RIGHT_CATALOGS: list[Story] = [
    [shown("minimal"), rebuilt("model-1", asked=1), shown("model-1"), rebuilt("model-1")],
    [*KNOWN, RESTART, shown("model-1"), rebuilt("model-1")],
    [*KNOWN, auth(tier=2), shown("minimal"), rebuilt("model-2", asked=1), shown("model-2")],
    [*KNOWN, auth(tier=2), shown("minimal"), auth(), shown("model-1")],
    [*KNOWN, op("remove_auth"), rebuilt("model-2", asked=1)],
    [*KNOWN, config("x: 1"), DOWN, rebuilt("minimal", asked=1), UP, rebuilt("model-3", asked=1)],
    [DOWN, rebuilt("minimal", asked=3), UP, rebuilt("model-5", asked=2), shown("model-5")],
    [*KNOWN, DOWN, shown("model-1"), rebuilt("model-1")],
    *(
        [*KNOWN, auth(**{key: "new"}), shown("model-1"), rebuilt("model-1")]
        for key in VOLATILE_EXAMPLES
    ),
]
WRONG_CATALOGS: list[tuple[Promise, Story]] = [
    (promises.M1, [shown("model-1", asked=1)]),
    (promises.M1, [shown()]),
    (promises.M1, [raised("shown")]),
    (promises.M1, [DOWN, rebuilt(asked=1)]),
    (promises.M1, [op("set_config", "done", text="x: 1")]),
    (promises.M3, [*KNOWN, shown("minimal")]),
    (promises.M3, [*KNOWN, auth(expires_at=1), rebuilt("model-2", asked=1)]),
    (promises.M3, [*KNOWN, auth(tier=2), rebuilt("model-1")]),
    (promises.M3, [*KNOWN, auth(tier=2), shown("model-1")]),
    (promises.M3, [*KNOWN, config("x: 1"), rebuilt("model-1")]),
    (promises.M3, [*KNOWN, op("remove_auth"), shown("model-1")]),
    (promises.M3, [*KNOWN, RESTART, rebuilt("model-2", asked=1)]),
]


@pytest.mark.parametrize("kind", VOLATILE_KINDS)
def test_volatile_examples_match_only_their_kind(kind: str) -> None:
    for name in VOLATILE_KINDS[kind].examples:
        matching = [other for other, rule in VOLATILE_KINDS.items() if rule.pattern.fullmatch(name)]
        assert matching == [kind]


@pytest.mark.parametrize("key", ["name", "kind", "base_url", "scopes", "region", "enabled", "tier"])
def test_lasting_key_is_not_volatile(key: str) -> None:
    assert not is_volatile(key)


def test_reference_ignores_only_volatile_keys() -> None:
    """The rule of the model is written down independently of the reference's list."""
    assert all(map(is_volatile, VOLATILE_KEYS))
    assert set(VOLATILE_EXAMPLES) <= VOLATILE_KEYS


@pytest.mark.parametrize("story", RIGHT_CATALOGS)
def test_right_catalog_is_accepted(story: Story) -> None:
    assert accepts(CATALOG, story)


@pytest.mark.parametrize(("promise", "story"), WRONG_CATALOGS)
def test_wrong_catalog_names_its_promise(promise: Promise, story: Story) -> None:
    assert refused(CATALOG, story).promise is promise


# Disk faults -------------------------------------------------------------------------------------

STRUCK = DiskFaultsModel(Register(promises.S1, start=0))


def write(value: int) -> Operation:
    return Operation(0, "write", {"value": value}, Outcome.OK, 0, 0)


def read(value: int) -> Operation:
    return Operation(0, "read", {}, Outcome.OK, 0, 0, value)


def striking(outcome: Outcome, function: str, argument: Any, result: Any = None) -> Operation:
    """A call under a disk fault; one that returned has its result."""
    request: Mapping[str, Any] = {
        "strike": "broken once",
        "at": 9,
        "function": function,
        "argument": argument,
    }
    answer = {"struck": True, "result": result} if outcome is Outcome.OK else None
    error = "" if outcome is Outcome.OK else "OSError: struck"
    return Operation(0, "striking", request, outcome, 0, 0, answer, error)


RIGHT_STRUCK: list[Story] = [
    [write(1), striking(Outcome.OK, "write", {"value": 2}), read(2)],
    [write(1), striking(Outcome.FAIL, "write", {"value": 2}), read(1)],
    [write(1), striking(Outcome.INFO, "write", {"value": 2}), read(1)],
    [write(1), striking(Outcome.INFO, "write", {"value": 2}), read(2), read(2)],
    [write(1), striking(Outcome.OK, "read", {}, 1)],
]
WRONG_STRUCK: list[Story] = [
    [write(1), striking(Outcome.OK, "write", {"value": 2}), read(1)],
    [write(1), striking(Outcome.FAIL, "write", {"value": 2}), read(2)],
    [write(1), striking(Outcome.INFO, "write", {"value": 2}), read(3)],
    [write(1), striking(Outcome.INFO, "write", {"value": 2}), read(2), read(1)],
    [write(1), striking(Outcome.OK, "read", {}, 0)],
]


@pytest.mark.parametrize("story", RIGHT_STRUCK)
def test_struck_call_happened_or_did_not(story: Story) -> None:
    assert accepts(STRUCK, story)


@pytest.mark.parametrize(
    ("function", "strike", "at", "was_struck", "is_possible"),
    [
        ("write", "kill", 9, False, True),
        ("write", "kill", 9, True, False),
        ("write", "power torn", 9, True, False),
        ("append", "kill", 9, False, True),
        ("append", "kill", 4, False, False),
        ("append", "broken once", 4, False, False),
        ("append", "broken once", 6, True, True),
        ("append", "full", 2, True, False),
        ("append", "full", 4, True, True),
    ],
)
def test_struck_says_whether_a_fault_hit(
    function: str, strike: str, at: int, *, was_struck: bool, is_possible: bool
) -> None:
    """A killed process returns nothing, and a save makes the changes that a whole save needs."""
    given: Mapping[str, Any] = {
        "strike": strike,
        "at": at,
        "function": function,
        "argument": {"session": "s", "text": "a"} if function == "append" else {"value": 1},
    }
    answer = {"struck": was_struck, "result": None}
    made = Operation(0, "new", {"session": "s"}, Outcome.OK, 0, 0)
    inner: Any = SessionStoreModel() if function == "append" else Register(promises.S1, start=0)
    story = [made] if function == "append" else []
    fold = Fold(DiskFaultsModel(inner))
    for operation in story:
        assert fold.step(operation) is None
    found = fold.step(Operation(0, "striking", given, Outcome.OK, 0, 0, answer))

    assert (found is None) is is_possible
    assert found is None or found.promise is promises.S1


@pytest.mark.parametrize("story", WRONG_STRUCK)
def test_struck_call_is_neither_partial_nor_undone(story: Story) -> None:
    assert refused(STRUCK, story).promise == promises.S1


# The fold -----------------------------------------------------------------------------------------


def test_anomaly_accepts_the_answer_of_every_state() -> None:
    """After a write of unknown outcome there are two states; the anomaly has both answers."""
    anomaly = refused(STRUCK, [write(1), striking(Outcome.INFO, "write", {"value": 2}), read(3)])

    assert set(anomaly.accepted) == {1, 2}
    assert set(anomaly.expected.split(" or ")) == {"1", "2"}
    assert anomaly.observed == "3"
    assert len(anomaly.evidence) == 3


@pytest.mark.parametrize("model", [CACHE, WATCHER, CATALOG])
def test_empty_history_is_accepted(model: Model[Any]) -> None:
    assert not isinstance(model.initial(), Refusal)
    assert accepts(model, [])
