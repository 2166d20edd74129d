"""The models of the smaller rooms let right answers go, and refuse wrong ones by their promise.

A story is what was asked, and what was answered; its last answer is the one that is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from harness.checkers.conformance import Fold, conforms
from harness.contract.models.access_control import DoorsModel
from harness.contract.models.agent_cache import AgentCacheModel
from harness.contract.models.disk_faults import StrikingModel
from harness.contract.models.gateway_watcher import WatcherModel
from harness.contract.models.model_catalog import VOLATILE, CatalogModel
from harness.contract.models.wakeups import PATIENCE_S, WakeupsModel
from harness.core.history import History, Operation, Outcome
from harness.core.model import Model, Refusal
from harness.core.promises import Promise
from harness.core.verdict import VALID, Anomaly
from harness.models.register import Register

Story = list[Operation]


def op(function: str, result: Any = None, **argument: Any) -> Operation:
    """A question, and its answer."""
    return Operation(0, function, argument, Outcome.OK, 0, 0, result)


def raised(function: str, **argument: Any) -> Operation:
    """A question whose answer was an error."""
    return Operation(0, function, argument, Outcome.FAIL, 0, 0, error="RuntimeError: unforeseen")


def refused(model: Model[Any], story: Story) -> Anomaly:
    """What the model says of the last answer; the ones before it are right."""
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


# The doors ----------------------------------------------------------------------------------------

SERVES, REFUSES = ({"can_be_had": True, "serves": serves} for serves in (True, False))
NO_ADDRESS = {"can_be_had": False, "serves": False}


def opened(told: dict[str, bool], where: str = "elsewhere", *, with_word: str = "") -> Operation:
    return op("open", told, is_loopback=where == "here", password=with_word)


def knock(*statuses: int, word: str = "", scheme: str = "") -> Operation:
    return op("knock", [*statuses], scheme=scheme, word=word)


@pytest.mark.parametrize(
    "story",
    [
        [opened(SERVES, "here"), knock(200, 201), knock(200, word="any", scheme="Basic")],
        [opened(REFUSES), knock()],
        [opened(REFUSES, "here"), knock()],
        [opened(SERVES, with_word="pw"), raised("knock", scheme="Basic", word="pw")],
        [opened(SERVES), knock(401, 403), knock(403, word="any", scheme="Bearer")],
        [opened(NO_ADDRESS, with_word="pw"), knock()],
        [opened(SERVES, with_word="pw"), knock(401), knock(200, word="pw", scheme="Bearer")],
        [opened(SERVES, with_word="pw"), opened(SERVES, "here"), knock(200)],
    ],
)
def test_a_door_opens_to_those_who_may_come_in(story: Story) -> None:
    assert accepts(DoorsModel(), story)


@pytest.mark.parametrize(
    "story",
    [
        [opened(SERVES), knock(401, 200)],
        [opened(SERVES), knock(200, word="", scheme="Bearer")],
        [opened(SERVES, with_word="pw"), knock(200)],
        [opened(SERVES, "here", with_word="pw"), knock(200, word="wp", scheme="Basic")],
        [opened(SERVES, with_word="pw"), knock(200, word="pw")],
        [opened(SERVES, with_word="pw"), knock(401, word="pw", scheme="Basic")],
        [opened(SERVES, "here"), knock(401)],
    ],
)
def test_a_door_that_opens_to_others_breaks_h1(story: Story) -> None:
    assert refused(DoorsModel(), story).promise is Promise.H1


# The agent cache ----------------------------------------------------------------------------------

CACHE = AgentCacheModel(cap=1)


def cached(function: str, events: str = "", session: str = "s", **argument: Any) -> Operation:
    """A call of the cache, and what happened meanwhile: `commit s a, close s a`."""
    told = [event.split() for event in events.split(", ") if event]
    calm = {"events": told, "blocked": False, "nested": False}
    names = argument.pop("told", {})
    return op(function, {**calm, **names}, session=session, **argument)


def put(agent: str, events: str = "", session: str = "s", provider: str = "ok") -> Operation:
    return cached("put", events, session, agent=agent, provider=provider)


def evict(events: str = "", session: str = "s", provider: str = "ok") -> Operation:
    return cached("evict", events, session, provider=provider)


def end_run(events: str = "", session: str = "s", provider: str = "ok") -> Operation:
    return cached("end_run", events, session, provider=provider)


def drained(events: str) -> Operation:
    return cached("drain", events)


def get(agent: str | None, events: str = "", session: str = "s") -> Operation:
    return cached("get", events, session, told={"agent": agent})


def size(agents: int, entries: int) -> Operation:
    return op("size", {"agents": agents, "entries": entries})


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
]
WRONG_CACHES: list[tuple[Promise, Story]] = [
    (Promise.A1, [put("a"), get(None)]),
    (Promise.A1, [put("a"), put("b", "close s a", "t"), size(2, 2)]),
    (Promise.A1, [put("a"), put("b", "close t b", "t")]),
    (Promise.A1, [put("a"), get("a", "close s a")]),
    (Promise.A2, [put("a"), LIVE, put("b", "close s a", "t")]),
    (Promise.A2, [put("a"), LIVE, evict("close s a")]),
    (Promise.A3, [cached("put", agent="a", provider="ok", told={"nested": True})]),
    (Promise.A4, [cached("evict", provider="ok", told={"blocked": True})]),
    (Promise.L14, [cached("evict", provider="ok", told={"blocked": True})]),
    (Promise.A5, [put("a"), TURN, evict("close s a")]),
    (Promise.A5, [put("a"), TURN, evict("close s a, commit s a")]),
    (Promise.A5, [put("a"), TURN, evict("commit s a, close s a", provider="fail")]),
    (Promise.A5, [put("a"), TURN, evict("commit s b, close s a")]),
    (Promise.A5, [put("a"), evict("close s a, close s a")]),
    (Promise.A5, [put("a"), evict("close s a"), end_run("close s a")]),
    (Promise.A5, [put("a"), evict()]),
    (Promise.A5, [put("a"), LIVE, evict(), end_run()]),
    (Promise.A5, [*FAILED, end_run("close s a")]),
    (Promise.A5, [*FAILED, drained("commit s a")]),
    (Promise.A5, [*FAILED, drained("close s a, commit s a")]),
    (Promise.A5, [raised("evict", session="s", provider="ok")]),
    (Promise.L6, [put("a"), evict("commit s a, close s a")]),
    (Promise.L6, [put("a"), TURN, evict("commit s a, commit s a, close s a")]),
    (Promise.L9, [put("a"), evict("close s a"), size(0, 1)]),
    (Promise.L12, [put("a"), cached("complete_turn", "commit s a")]),
    (Promise.L12, [put("a"), TURN, get("a", "commit s a")]),
]


@pytest.mark.parametrize("story", RIGHT_CACHES)
def test_a_right_agent_cache_is_accepted(story: Story) -> None:
    assert accepts(CACHE, story)


@pytest.mark.parametrize(("promise", "story"), WRONG_CACHES)
def test_a_wrong_agent_cache_is_refused_by_its_promise(promise: Promise, story: Story) -> None:
    assert promise in refused(CACHE, story).promises


# The watcher --------------------------------------------------------------------------------------

WATCHER = WatcherModel()


def poll(announced: Any = None, projections: int = 0) -> Operation:
    return op("poll", {"announced": announced, "projections": projections})


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
    [*SEEN, rename("x"), ENDED, poll(row(1, "x", ended=True), 2), DELETED, poll([], 1)],
    [*SEEN, create("c", "cron"), create("w", "webui"), poll()],
    [*SEEN, FAILS, SAID, poll(None, 2), op("shown", row(1)), WORKS, poll(row(2), 1)],
    [*SEEN, create("u"), op("delete", session="u"), poll(None, 1), poll()],
    [*SEEN, raised("rename", session="s", title="taken"), poll()],
]
WRONG_WATCHERS: list[tuple[Promise, Story]] = [
    (Promise.G1, [create(), poll()]),
    (Promise.G1, [*SEEN, rewrite("t2"), poll()]),
    (Promise.G1, [*SEEN, rename("x"), poll(row(1), 1)]),
    (Promise.G1, [*SEEN, ENDED, poll(None, 1)]),
    (Promise.G1, [*SEEN, DELETED, poll()]),
    (Promise.G1, [*SEEN, FAILS, SAID, poll(None, 1), WORKS, poll()]),
    (Promise.G2, [*SEEN, poll(None, 1)]),
    (Promise.G2, [*SEEN, poll(row(1), 0)]),
    (Promise.G2, [*SEEN, create("c", "cron"), poll(None, 1)]),
    (Promise.G3, [*SEEN, FAILS, SAID, poll([], 1)]),
    (Promise.G3, [*SEEN, FAILS, SAID, poll(None, 1), op("shown", [])]),
    (Promise.G3, [*SEEN, FAILS, SAID, raised("poll")]),
    (Promise.G3, [*SEEN, raised("shown")]),
]


@pytest.mark.parametrize("story", RIGHT_WATCHERS)
def test_a_right_watcher_is_accepted(story: Story) -> None:
    assert accepts(WATCHER, story)


@pytest.mark.parametrize(("promise", "story"), WRONG_WATCHERS)
def test_a_wrong_watcher_is_refused_by_its_promise(promise: Promise, story: Story) -> None:
    assert promise in refused(WATCHER, story).promises


# The catalog --------------------------------------------------------------------------------------

CATALOG = CatalogModel()
DOWN, UP, RESTART = op("fail", fails=True), op("fail", fails=False), op("restart")


def shown(*models: str, asked: int = 0) -> Operation:
    return op("shown", {"models": list(models), "asked": asked})


def rebuilt(*models: str, asked: int = 0) -> Operation:
    return op("rebuilt", {"models": list(models), "asked": asked})


def auth(**told: Any) -> Operation:
    return op("set_auth", auth={"providers": [{"name": "x", **told}]})


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
    *([*KNOWN, auth(**{key: "new"}), shown("model-1"), rebuilt("model-1")] for key in VOLATILE),
]
WRONG_CATALOGS: list[tuple[Promise, Story]] = [
    (Promise.M1, [shown("model-1", asked=1)]),
    (Promise.M1, [shown()]),
    (Promise.M1, [raised("shown")]),
    (Promise.M1, [DOWN, rebuilt(asked=1)]),
    (Promise.M3, [*KNOWN, shown("minimal")]),
    (Promise.M3, [*KNOWN, auth(expires_at=1), rebuilt("model-2", asked=1)]),
    (Promise.M3, [*KNOWN, auth(tier=2), rebuilt("model-1")]),
    (Promise.M3, [*KNOWN, auth(tier=2), shown("model-1")]),
    (Promise.M3, [*KNOWN, config("x: 1"), rebuilt("model-1")]),
    (Promise.M3, [*KNOWN, op("remove_auth"), shown("model-1")]),
    (Promise.M3, [*KNOWN, RESTART, rebuilt("model-2", asked=1)]),
]


def test_seventeen_keys_are_volatile() -> None:
    assert len(VOLATILE) == 17


@pytest.mark.parametrize("story", RIGHT_CATALOGS)
def test_a_right_catalog_is_accepted(story: Story) -> None:
    assert accepts(CATALOG, story)


@pytest.mark.parametrize(("promise", "story"), WRONG_CATALOGS)
def test_a_wrong_catalog_is_refused_by_its_promise(promise: Promise, story: Story) -> None:
    assert refused(CATALOG, story).promise is promise


# Wakeups ------------------------------------------------------------------------------------------

WAKEUPS = WakeupsModel()


def woken(function: str, started: str = "", error: str | None = None, **asked: Any) -> Operation:
    """A call, and the turns that it started: `s p1, t p2`."""
    turns = [turn.split() for turn in started.split(", ") if turn]
    return op(function, {"started": turns, "error": error}, **asked)


def done(process: str, started: str = "", session: str = "s", times: int = 1) -> Operation:
    return woken("complete", started, session=session, process=process, times=times)


def drain(started: str = "", error: str | None = None) -> Operation:
    return woken("drain", started, error)


def advance(seconds: float, started: str = "", error: str | None = None) -> Operation:
    return woken("advance", started, error, seconds=seconds)


def left(started: str = "", session: str = "s") -> Operation:
    return woken("end_run", started, session=session)


def starts(*, fail: bool) -> Operation:
    return woken("fail_starts", fails=fail)


def kept(number: int) -> Operation:
    return op("pending", {"kept": number})


BUSY, AFRESH, RENAMED = woken("begin_run", session="s"), woken("restart"), woken("rename_marker")
TROUBLE = [starts(fail=True), drain(), starts(fail=False)]
LATE = PATIENCE_S

RIGHT_WAKEUPS: list[Story] = [
    [done("p1"), kept(1), drain("s p1"), drain(), kept(0)],
    [done("p1", times=3), drain("s p1"), left(), drain()],
    [done("p1", "s p1"), done("p1"), drain()],
    [done("p1"), done("p2", session="t"), drain("t p2, s p1")],
    [BUSY, done("p1"), done("p2"), drain(), left("s p1"), left(), drain("s p2")],
    [BUSY, done("p1"), AFRESH, drain("s p1")],
    [done("p1"), *TROUBLE, drain(), advance(LATE, "s p1")],
    [done("p1"), *TROUBLE, drain("s p1")],
    [done("p1"), advance(0.05, "s p1")],
    [RENAMED, done("p1"), drain(error="RegistryContractError")],
]
WRONG_WAKEUPS: list[tuple[Promise, Story]] = [
    (Promise.W1, [done("p1"), drain("s p1, s p1")]),
    (Promise.W1, [done("p1"), drain("s p1"), left("s p1")]),
    (Promise.W1, [done("p1"), drain("s p1"), AFRESH, drain("s p1")]),
    (Promise.W1, [drain("s p0")]),
    (Promise.W2, [done("p1"), drain()]),
    (Promise.W2, [done("p1"), advance(1.0)]),
    (Promise.W3, [BUSY, done("p1"), drain("s p1")]),
    (Promise.W3, [BUSY, done("p1"), left(), drain()]),
    (Promise.W3, [done("p1"), done("p2"), drain("s p2")]),
    (Promise.W3, [done("p1"), done("p2"), drain("s p1, s p2")]),
    (Promise.W4, [BUSY, done("p1"), AFRESH, drain()]),
    (Promise.W4, [done("p1"), *TROUBLE, AFRESH, advance(LATE)]),
    (Promise.W5, [done("p1"), *TROUBLE, advance(LATE)]),
    (Promise.W5, [done("p1"), AFRESH, *TROUBLE, advance(LATE)]),
    (Promise.W5, [done("p1"), raised("drain")]),
    (Promise.W6, [done("p1"), drain("t p1")]),
    (Promise.W8, [RENAMED, drain()]),
    (Promise.W8, [done("p1"), RENAMED, drain("s p1")]),
    (Promise.W8, [RENAMED, raised("drain")]),
    (Promise.W9, [done("p1"), drain("s p1"), kept(1)]),
]


@pytest.mark.parametrize("story", RIGHT_WAKEUPS)
def test_right_wakeups_are_accepted(story: Story) -> None:
    assert accepts(WAKEUPS, story)


@pytest.mark.parametrize(("promise", "story"), WRONG_WAKEUPS)
def test_wrong_wakeups_are_refused_by_their_promise(promise: Promise, story: Story) -> None:
    assert promise in refused(WAKEUPS, story).promises


# What was struck ----------------------------------------------------------------------------------

STRUCK = StrikingModel(Register(Promise.S1, start=0))


def write(value: int) -> Operation:
    return Operation(0, "write", value, Outcome.OK, 0, 0)


def read(value: int) -> Operation:
    return Operation(0, "read", None, Outcome.OK, 0, 0, value)


def striking(outcome: Outcome, function: str, argument: Any, result: Any = None) -> Operation:
    """A call under a strike; one that survived says what it answered."""
    asked: Mapping[str, Any] = {"strike": "kill", "function": function, "argument": argument}
    told = {"struck": True, "result": result} if outcome is Outcome.OK else None
    error = "" if outcome is Outcome.OK else "OSError: struck"
    return Operation(0, "striking", asked, outcome, 0, 0, told, error)


RIGHT_STRUCK: list[Story] = [
    [write(1), striking(Outcome.OK, "write", 2), read(2)],
    [write(1), striking(Outcome.FAIL, "write", 2), read(1)],
    [write(1), striking(Outcome.INFO, "write", 2), read(1)],
    [write(1), striking(Outcome.INFO, "write", 2), read(2), read(2)],
    [write(1), striking(Outcome.OK, "read", None, 1)],
]
WRONG_STRUCK: list[Story] = [
    [write(1), striking(Outcome.OK, "write", 2), read(1)],
    [write(1), striking(Outcome.FAIL, "write", 2), read(2)],
    [write(1), striking(Outcome.INFO, "write", 2), read(3)],
    [write(1), striking(Outcome.INFO, "write", 2), read(2), read(1)],
    [write(1), striking(Outcome.OK, "read", None, 0)],
]


@pytest.mark.parametrize("story", RIGHT_STRUCK)
def test_what_was_struck_happened_or_did_not(story: Story) -> None:
    assert accepts(STRUCK, story)


@pytest.mark.parametrize("story", WRONG_STRUCK)
def test_what_was_struck_is_neither_half_done_nor_undone_later(story: Story) -> None:
    assert refused(STRUCK, story).promise is Promise.S1


# The fold -----------------------------------------------------------------------------------------


def test_a_refusal_lists_what_any_possible_state_would_have_answered() -> None:
    """After a write that nobody knows of there are two; the anomaly tells both answers."""
    anomaly = refused(STRUCK, [write(1), striking(Outcome.INFO, "write", 2), read(3)])

    assert set(anomaly.accepted) == {1, 2}
    assert len(anomaly.evidence) == 3


@pytest.mark.parametrize("model", [CACHE, WATCHER, CATALOG, WAKEUPS])
def test_a_fresh_target_is_blamed_for_nothing(model: Model[Any]) -> None:
    assert not isinstance(model.initial(), Refusal)
    assert accepts(model, [])
