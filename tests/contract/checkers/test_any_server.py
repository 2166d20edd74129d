"""The checker of declared servers rejects a history for each of its rules, and no sound one."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract.checkers.server.any_server import check_any_growth, check_any_server
from harness.core.history import History, Operation, Outcome

DECLARED = {
    "design": [],
    "keeps": True,
    "concurrent": "queue",
    "slow_s": 1.0,
    "order": "plus-one",
    "has": ["history", "list", "delete"],
    "accepted": ["a list"],
}
A, B = "w00001w", "w00002w"


def history(*steps: tuple[Any, ...], **declared: Any) -> History:
    """One call after another; a step is function, result, and arguments."""
    every = [("boot", {**DECLARED, **declared}, {}), *steps]
    return History(tuple(op(at, *step) for at, step in enumerate(every)))


def op(at: int, function: str, result: Any, argument: dict[str, Any]) -> Operation:
    """A call; a text as its result is an error, whose outcome is unknown."""
    argument = dict(argument)
    times = argument.pop("at", (at * 1000, at * 1000 + 500))
    if isinstance(result, str):
        outcome = Outcome.FAIL if result.startswith(("NotReached", "KeyError")) else Outcome.INFO
        return Operation(0, function, argument, outcome, times[0], None, error=result)
    return Operation(0, function, argument, Outcome.OK, times[0], times[1], result)


def create(session: str, *, done: bool = True, status: int = 200) -> tuple[Any, ...]:
    return "create", {"status": status, "done": done}, {"session": session}


def send(
    word: str, session: str = "s", *, status: int = 200, events: Any = (), **more: Any
) -> tuple[Any, ...]:
    result = {"status": status, "done": status < 300, "events": list(events)}
    return "send", result, {"session": session, "word": word, **more}


def recall(*words: str, session: str = "s", status: int = 200) -> tuple[Any, ...]:
    return "recall", {"status": status, "words": list(words)}, {"session": session, "words": []}


def event(id_: str | None, *words: str) -> dict[str, Any]:
    return {"id": id_, "type": "message", "words": list(words)}


def follow(reader: str, after: str | None = None) -> tuple[Any, ...]:
    return "follow", {"status": 200}, {"reader": reader, "session": "s", "after": after}


def followed(
    reader: str, *events: Any, missing: Any = (), unread: str = "", beside: str = ""
) -> tuple[Any, ...]:
    result = {"events": list(events), "missing": list(missing), "end": "open", "unread": unread}
    return "followed", result, {"reader": reader, "words": [], "beside": beside}


def offend(bad: str, status: int, *, refuse: bool = True, trace: bool = False) -> tuple[Any, ...]:
    return "offend", {"status": status, "trace": trace}, {"bad": bad, "refuse": refuse}


def idle(share: float, wakeups: int, *, held: int = 0) -> tuple[Any, ...]:
    return "idle", {"cpu_share": share, "wakeups_per_s": wakeups}, {"held": held}


def listing(*sessions: str) -> tuple[Any, ...]:
    return "listing", {"status": 200, "sessions": list(sessions)}, {}


DELETED = ("delete", {"status": 200, "done": True}, {"session": "s"})
TWO = [event("1", A), event("2", B)]
OF_OTHER = send(B, "other")

SOUND = [
    (create("s"), send(A), recall(A), listing("s"), DELETED, listing()),
    (send(A), ("kill", None, {}), recall(A)),
    (send(A), follow("r"), followed("r", *TWO[:1]), follow("x", "1"), followed("x", *TWO[1:])),
    (offend("send a list", 200), offend("send null", 422), offend("send huge", 200, refuse=False)),
    (idle(0.01, 20), idle(0.01, 900, held=4), ("answers", {"statuses": {"health": 200}}, {})),
    (("settle", {"left": {"threads": 1}}, {"readers": 4, "first": {"threads": 1}}),),
    (DELETED, recall(), send(A, status=404)),
]
WRONG = [
    ("H2", (create("s", done=False),)),
    ("H2", (create("s", done=False, status=500),)),
    ("H2", (("send", "TargetLostError: gone", {"session": "s", "word": A}),)),
    ("H2", (("listing", "NotReachedError: refused", {}),)),
    ("H2", (("use", {"done": 1}, {"sessions": 2}),)),
    ("H2", (offend("send broken JSON", 0),)),
    ("H2", (offend("send broken JSON", 500),)),
    ("H2", (offend("send broken JSON", 400, trace=True),)),
    ("H2", (offend("send broken JSON", 200),)),
    ("H2", (DELETED, send(A, status=404), recall(A))),
    ("S15", (create("s"), send(A), recall())),
    ("S15", (create("s"), recall(status=404))),
    ("S15", (create("s"), send(A, status=404))),
    ("S15", (create("s"), listing())),
    ("S2", (send(A), ("kill", None, {}), recall())),
    ("S2", (send(A), recall(A, A))),
    ("S6", (create("s"), DELETED, listing("s"))),
    ("S6", (("visit", {"status": 200, "gone": False}, {"session": "s"}),)),
    ("C5", (send(A), OF_OTHER, recall(A, B))),
    ("C5", (OF_OTHER, follow("r"), followed("r", event("1", B)))),
    ("C5", (OF_OTHER, send(A, events=[event("1", B)]))),
    ("C1", (follow("r"), followed("r", event("2"), event("1")))),
    ("C2", (follow("r"), followed("r", event("1"), event("1")))),
    ("C3", (follow("r"), followed("r", event("1"), event("3")))),
    ("C3", (follow("r"), followed("r", missing=[A]))),
    ("C8", (follow("r"), followed("r", missing=[A], beside="stalled"))),
    ("C4", (follow("r", "x"), followed("r", missing=[A]))),
    ("C4", (follow("r"), followed("r", *TWO), follow("x", "1"), followed("x", *TWO))),
    ("C10", (("answers", {"statuses": {"health": 429}}, {}),)),
    ("C11", (("settle", {"left": {"threads": 4}}, {"readers": 4, "first": {"threads": 1}}),)),
    ("H5", (idle(0.5, 20),)),
    ("H5", (idle(0.05, 900),)),
]


@pytest.mark.parametrize("steps", SOUND)
def test_sound_history_is_valid(steps: tuple[Any, ...]) -> None:
    assert check_any_server(history(*steps)).is_valid


@pytest.mark.parametrize(("promise", "steps"), WRONG)
def test_wrong_history_breaks_its_promise(promise: str, steps: tuple[Any, ...]) -> None:
    """Unless the file declares that promise as not made."""
    broken = [anomaly.promise.id for anomaly in check_any_server(history(*steps)).anomalies]
    assert broken == [promise]
    assert not check_any_server(history(*steps, design=[promise])).anomalies


def test_refused_pair_of_sends_breaks_t1() -> None:
    """A server that refuses a second turn takes one of two."""
    pair = [send(A, status=409, at=(10_000, 11_000)), send(B, status=409, at=(10_100, 11_000))]
    for way in ("queue", "refuse"):
        verdict = check_any_server(history(*pair, concurrent=way))
        assert {anomaly.promise.id for anomaly in verdict.anomalies} == {"T1"}
    one = [pair[0], send(B, at=(10_100, 11_000))]
    assert check_any_server(history(*one, concurrent="refuse")).is_valid


def test_second_turn_during_a_slow_one_breaks_t1() -> None:
    """Where the file says that it is refused; after the end of the first it is taken."""
    slow = send(A, slow=True)
    verdict = check_any_server(history(slow, send(B), concurrent="refuse"))
    assert [anomaly.promise.id for anomaly in verdict.anomalies] == ["T1"]
    later = send(B, at=(2_000_000_000, 2_000_000_100))
    assert check_any_server(history(slow, later, concurrent="refuse")).is_valid


def test_what_could_not_be_read_is_unknown() -> None:
    """A stream without an event, a failure of the harness, and a server that did not boot."""
    unread = history(follow("r"), followed("r", missing=[A], unread="no event"))
    failed = history(("recall", "KeyError: 's'", {"session": "s"}))
    for each in (unread, failed, History()):
        verdict = check_any_server(each)
        assert verdict.unknowns
        assert not verdict.anomalies


@pytest.mark.parametrize(("grows", "promise"), [("gauge sessions", "L9"), ("descriptors", "H8")])
def test_growth_breaks_its_promise(grows: str, promise: str) -> None:
    samples = [
        (
            "sample",
            {grows: n, "threads": 1},
            {"operations": n, "control_grows": 4096.0 * n, "control_steady": 1.0},
        )
        for n in range(5, 365, 5)
    ]
    assert [a.promise.id for a in check_any_growth(history(*samples)).anomalies] == [promise]
    assert not check_any_growth(history(*samples, design=[promise])).anomalies
