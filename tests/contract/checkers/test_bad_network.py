"""The checker of a bad network rejects a history for each of its rules, and no sound one."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract.checkers.server.bad_network import check_bad_network
from harness.core.history import FaultInterval, History, Operation, Outcome

OK = {"status": 200, "active": None}
ONE, TWO, END = [1, "token", "0 "], [2, "token", "1 "], [3, "stream_end", ""]
RESET = FaultInterval("network: reset behind 9 bytes", 0, 99)
LATER = FaultInterval("network: reset behind 9 bytes", 50, 99)
LATENCY = FaultInterval("network: latency", 0, 99)
STALL = FaultInterval("network: stall behind 9 bytes", 0, 99)
LONG_STALL = FaultInterval("network: stall behind 9 bytes", 0, int(6e9))


def history(*operations: tuple[Any, ...], fault: FaultInterval | None = None) -> History:
    """One call after another."""
    made = tuple(op(at, *each) for at, each in enumerate(operations))
    return History(made, () if fault is None else (fault,))


def op(at: int, function: str, argument: dict[str, Any], result: Any, error: str = "") -> Operation:
    outcome = Outcome.INFO if error.startswith("TargetLost") else Outcome.OK
    outcome = Outcome.FAIL if error.startswith("Status") else outcome
    completed = None if outcome is Outcome.INFO else 10 * at + 5
    return Operation(0, function, argument, outcome, 10 * at, completed, result, error)


def send(session: str, *, far: bool = True, result: Any = OK, error: str = "") -> tuple[Any, ...]:
    argument = {"session": session, "run": session, "text": f"to {session}", "far": far}
    return "deliver", argument, result, error


def lost(session: str, *, far: bool = True) -> tuple[Any, ...]:
    return send(session, far=far, result=None, error="TargetLostError: reset")


def read(
    *events: list[Any], after: int = 0, end: str = "closed", far: bool = True
) -> tuple[Any, ...]:
    argument = {"run": "s1", "after": after, "far": far}
    return "follow", argument, {"events": list(events), "end": end}


def messages(session: str, *texts: str, pending: str | None = None) -> tuple[Any, ...]:
    said = [["user", text, ""] for text in texts]
    return "messages", {"session": session}, {"said": said, "pending": pending}


SCRIPT = "[tokens=1]"
TOKEN, LAST = [1, "token", "0 "], [2, "token", "That was turn 1 of s1."]
WHOLE = (TOKEN, LAST, [3, "done", ""], [4, "stream_end", ""])


def scripted(*, error: str = "") -> tuple[Any, ...]:
    """A send of a message with a script."""
    argument = {"session": "s1", "run": "s1", "text": SCRIPT, "far": True}
    return "deliver", argument, None if error else OK, error


def shown(reply: str = "0 That was turn 1 of s1.", **other: Any) -> tuple[Any, ...]:
    """The messages as a target shows them that adds none of its own."""
    rows = [["user", SCRIPT, "", "user"], ["assistant", reply, "", ""]]
    whole = {"said": [row[:3] for row in rows], "woken": [], "rows": rows, "pending": None}
    return "messages", {"session": "s1"}, {**whole, **other}


NOTHING: dict[str, Any] = {"said": [], "rows": []}
SOUND = [
    history(scripted(), read(*WHOLE), read(*WHOLE[2:], after=2), read(after=4), shown()),
    history(scripted(), read(TOKEN, end="lost"), shown(), fault=RESET),
    history(scripted(error="TargetLostError: reset"), shown(), fault=RESET),
    history(scripted(error="TargetLostError: reset"), shown(**NOTHING), fault=RESET),
    history(scripted(error="TargetLostError"), shown(**NOTHING, pending=SCRIPT), fault=RESET),
    history(scripted(error="StatusError: 400"), shown(**NOTHING), fault=RESET),
    history(send("s1"), messages("s1", "to s1")),
    history(send("s1"), messages("s1", pending="to s1")),
    history(lost("s1"), messages("s1"), fault=RESET),
    history(lost("s1"), messages("s1", "to s1"), fault=RESET),
    history(lost("s1"), fault=LONG_STALL),
    history(read(ONE, TWO, END), read(TWO, END, after=1)),
    history(read(ONE, end="lost"), fault=RESET),
    history(read(ONE, TWO, END), read(after=3)),
    history(read(ONE, TWO, END), read(after=1, end="gone")),
    history(("health", {}, 200), ("wait_idle", {"session": "s1"}, True)),
]
BROKEN = [
    (
        "C3",
        "of the turn's script",
        history(scripted(), read([1, "token", "1 "], end="lost"), shown(), fault=RESET),
    ),
    (
        "C3",
        "of the turn's script",
        history(scripted(), read([1, "tool", "0 "], end="lost"), shown(), fault=RESET),
    ),
    ("C3", "other events", history(scripted(), read(TOKEN, LAST, WHOLE[3]), shown())),
    ("C6", "has no end", history(read(ONE, end="torn"), fault=RESET)),
    ("S2", "of the turn", history(scripted(), shown("0 "))),
    ("S2", "of the turn", history(scripted(), shown(woken=["x"]))),
    ("S2", "of the turn", history(scripted(error="TargetLost"), shown("0 "), fault=RESET)),
    ("T1", "refused", history(send("s1", result={"status": 200, "active": "s1"}))),
    ("T1", "refused", history(send("s1", result={"status": 409}), fault=RESET)),
    ("H6", "bad network", history(send("s1", error="StatusLess: x"), fault=RESET)),
    ("H2", "answers something", history(("new", {"session": "s1"}, "x"))),
    ("S2", "is missing", history(send("s1"), messages("s1"))),
    ("S2", "is missing", history(send("s1"), messages("s1"), fault=RESET)),
    ("S2", "more than once", history(lost("s1"), messages("s1", *["to s1"] * 2), fault=RESET)),
    ("C5", "another session", history(send("s2"), messages("s1", "to s2"))),
    ("C5", "another stream", history(read([None, "token", "0 "], END))),
    ("C2", "twice", history(read(ONE, ONE, end="lost"), fault=RESET)),
    ("C1", "out of order", history(read(TWO, ONE, end="lost"), fault=RESET)),
    ("C4", "behind the cursor", history(read(TWO, END), read(END, after=1))),
    ("C3", "a gap", history(read(TWO, END, end="lost"), fault=RESET)),
    ("C3", "lacks its end", history(read(ONE, TWO))),
    ("C3", "lacks its end", history(read(ONE, TWO, end="open"), fault=LATENCY)),
    ("C3", "lacks its end", history(read(ONE, TWO, END, end="lost"), fault=STALL)),
    ("C4", "lacks its end", history(read(TWO, after=1))),
    ("C4", "lacks its end", history(read(TWO, after=1, far=False), fault=RESET)),
    ("C6", "went on", history(read([1, "stream_end", ""], [2, "token", "1 "]))),
    ("C4", "another one", history(read(ONE, TWO, END), read([2, "token", "x "], END, after=1))),
    ("H6", "slow network", history(lost("s1"), fault=LATENCY)),
    ("H6", "slow network", history(send("s1", error="StatusError: 400"), fault=LATENCY)),
    ("H6", "slow network", history(lost("s1"), fault=STALL)),
    ("H6", "slow network", history(lost("s1"), fault=LATER)),
    ("H6", "slow network", history(("follow", {"run": "s1", "far": True}, None, "StatusError:"))),
    ("C8", "good network", history(lost("s1", far=False), fault=RESET)),
    ("T1", "refused", history(send("s1", result={"status": 409, "active": None}))),
    ("C10", "health", history(("health", {}, None, "TargetLostError: silent"), fault=RESET)),
    ("C10", "health", history(("health", {}, 503), fault=RESET)),
    ("T3", "stayed busy", history(("wait_idle", {"session": "s1"}, False))),
]


@pytest.mark.parametrize("sound", SOUND)
def test_sound_history_is_valid(sound: History) -> None:
    assert check_bad_network(sound).is_valid


@pytest.mark.parametrize(("promise", "what", "broken"), BROKEN)
def test_broken_history_is_rejected(promise: str, what: str, broken: History) -> None:
    """By its promise; the other anomalies are what follows from it."""
    found = {anomaly.promise.id: anomaly for anomaly in check_bad_network(broken).anomalies}

    assert promise in found
    assert what in found[promise].message


def test_history_cut_short_is_unknown() -> None:
    verdict = check_bad_network(History((Operation(0, "health", {}, Outcome.INFO, 1, None),)))
    assert verdict.unknowns
    assert not verdict.anomalies
