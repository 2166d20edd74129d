"""Tests of the end-to-end checker: a sound history is valid, and each wrong one is named.

A history is built operation by operation. Then one result is changed to what a wrong server would
return, and the checker names the promise that this breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.server.end_to_end import check_end_to_end
from harness.contract.checkers.server.wakeup_delivery import WAKEUPS_MAX
from harness.core.contract import Promise
from harness.core.history import FaultInterval, History, Operation, Outcome

Rows = list[list[str]]
Events = list[tuple[int | None, str, str]]
Notices = list[tuple[str, str, str, str | None, float | None]]


class Builder:
    """Builds a history of serial operations."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.faults: list[FaultInterval] = []

    @property
    def now(self) -> int:
        return 10 * len(self.operations)

    def add(
        self,
        function: str,
        result: Any = None,
        outcome: Outcome = Outcome.OK,
        error: str = "",
        **argument: Any,
    ) -> None:
        done = None if outcome is Outcome.INFO else self.now + 2
        operation = Operation(1, function, argument, outcome, self.now, done, result, error)
        self.operations.append(operation)

    def send(self, session: str, text: str, run: str) -> None:
        self.add("send", {"status": 200, "run": run}, session=session, text=text)

    def refuse(self, session: str, text: str, run: str | None) -> None:
        self.add("send", {"status": 409, "run": run}, session=session, text=text)

    def relay(
        self, run: str, events: Events, after: str | None = None, end: str = "closed"
    ) -> None:
        rows = [["" if seq is None else f"{run}:{seq}", name, text] for seq, name, text in events]
        result = {"end": end, "rows": rows}
        leave = len(rows) if end == "left" else None
        self.add("relay", result, run=run, after=after, leave=leave, stall=False)

    def watch(self, session: str, notices: Notices, after: str | None = None) -> None:
        rows = [["", "initial", session, None, None], *map(list, notices)]
        self.add("watch", {"end": "open", "rows": rows}, session=session, after=after)

    def read(self, session: str, rows: Rows, pending: str | None = None) -> None:
        self.add("read", {"rows": rows, "pending": pending}, session=session)

    def read_back(self, sessions: Mapping[str, Rows]) -> None:
        """Come to rest and read everything, kill the server, and read it again."""
        self._read_all(sessions)
        self.add("kill")
        for session, rows in sessions.items():
            self.add("kept", {"rows": rows, "pending": None}, session=session)
        self.add("boot", {"pid": 9, "port": 9})
        self._read_all(sessions)

    def _read_all(self, sessions: Mapping[str, Rows]) -> None:
        self.add("rest", {"left": {}}, at_most={})
        for session, rows in sessions.items():
            self.read(session, rows)
        self.add("sessions", sorted(sessions))

    def change(self, function: str, act: Callable[[Any], Any], **which: Any) -> None:
        """Change the result of the last such operation."""
        for at in reversed(range(len(self.operations))):
            operation = self.operations[at]
            if operation.function == function and which.items() <= operation.argument.items():
                self.operations[at] = replace(operation, result=act(operation.result))
                return
        raise LookupError(f"no {function}({which}) in the history")

    def history(self) -> History:
        return History(tuple(self.operations), tuple(self.faults))


def broken(built: Builder) -> set[Promise]:
    """The promises that a history breaks; its verdict must not be unknown."""
    verdict = check_end_to_end(built.history())
    assert not verdict.unknowns
    return {promise for anomaly in verdict.anomalies for promise in anomaly.promises}


def turn(text: str, reply: str, mark: str = "") -> Rows:
    """The rows of a turn."""
    return [["user", text, mark], *([["assistant", reply, mark]] if reply else [])]


def wakeup(word: str, number: int, session: str, cause: str = "completed (exit_code=0)") -> Rows:
    """The rows of a wakeup turn."""
    head = f"[IMPORTANT: Background process p-{word} {cause}."
    prompt = f"{head}\nCommand: printf {word}\nOutput:\n{word}]"
    return [["wakeup", prompt, ""], ["assistant", f"That was turn {number} of {session}.", ""]]


def line(word: str, number: int, session: str) -> Rows:
    """The rows of a wakeup by a watched line of output."""
    return wakeup(word, number, session, "printed a line with 'hit'")


HUNG = "b5 [hang]"
ONE, HELD, SPAWN = "a1 [tokens=2]", "a2 [tokens=1][sleep=900]", "a3 [process=0:w1][tokens=1]"
LAST, QUICK = "a4 [tokens=1]", "a5 [process=0:w3][tokens=1]"
WATCHED = "b1 [process=0:watch=hit:hit w2][tokens=1]"
STRUCK, UNKNOWN = "b2 [tokens=2]", "b3 [tokens=1]"
CALM = "b4 [process=0:watch=hit:hit w4][tokens=1]"
CLEARED, LATER, FAILS = "c1 [tokens=1]", "c2 [tokens=1][tool]", "c3 [tokens=1][fail]"
REFUSED = "a9 one too many"
NO_DISK = "process 7 writes no file beyond 0 bytes"

ENDS: Events = [
    *((1, "token", "0 "), (2, "token", "1 "), (3, "token", "That was turn 1 of a.")),
    *((4, "done", ""), (5, "stream_end", "")),
]
A_ONE = turn(ONE, "0 1 That was turn 1 of a.")
A_HELD = turn(HELD, "0 ", "cancelled")
A_SPAWN = turn(SPAWN, "0 That was turn 3 of a.")
A_LAST = turn(LAST, "0 That was turn 5 of a.")
A_QUICK = turn(QUICK, "0 That was turn 6 of a.")
A: Rows = [
    *A_ONE,
    *A_HELD,
    *A_SPAWN,
    *wakeup("w1", 4, "a"),
    *A_LAST,
    *A_QUICK,
    *wakeup("w3", 7, "a"),
]
B_WATCHED = turn(WATCHED, "0 That was turn 1 of b.")
B_STRUCK = turn(STRUCK, "0 1 ", "interrupted")
B_CALM = turn(CALM, "0 That was turn 5 of b.")
B_STORM: Rows = [*B_WATCHED, *line("w2", 2, "b"), *wakeup("w2", 3, "b"), *B_STRUCK]
B: Rows = [*B_STORM, *B_CALM, *line("w4", 6, "b"), *wakeup("w4", 7, "b")]
C_LATER = turn(LATER, "0 That was turn 1 of c.")
C: Rows = [*C_LATER, ["user", FAILS, ""], ["assistant", "0 ", "error: ScriptedError: asked for"]]


def sound(*, a: Rows = A, b: Rows = B, c: Rows = C, **more: Rows) -> Builder:
    """Turns, a cancel, processes, a clear, kills, readers of every kind, and the last reads."""
    built = Builder()
    built.add("boot", {"pid": 1, "port": 1})
    for session in ("a", "b", "c", "d"):
        built.add("new", session=session, previous=None)
    built.send("a", ONE, "r1")
    built.relay("r1", ENDS[:1], end="left")
    built.relay("r1", ENDS[1:], after="r1:1")
    built.relay("r1", [(None, "session_snapshot", "cursor_run_mismatch"), *ENDS], after="zz:4")
    built.relay("r1", [], after="r1:5")
    built.send("a", HELD, "r2")
    built.refuse("a", REFUSED, "r2")
    built.add("runs", [["a", "r2", "running"]])
    built.add("status", {"busy": True, "run": "r2"}, session="a")
    built.add("cancel", result=True, run="r2")
    built.add("offered", None, session="a")
    built.relay("r2", [(1, "token", "0 "), (2, "cancel", "")])
    built.send("a", SPAWN, "r3")
    built.watch("a", [("n:1", "bg_task_complete", "a", "p-w1", 5.0)])
    built.watch("a", [("n:2", "session-updated", "a", None, None)], after="n:1")
    built.send("c", CLEARED, "r4")
    built.read("c", turn(CLEARED, "0 That was turn 1 of c."))
    built.add("clear", session="c", seen=[CLEARED, ""])
    built.send("c", LATER, "r5")
    built.relay("r5", [(1, "token", "0 "), (2, "tool_complete", "c"), (3, "stream_end", "")])
    built.send("c", FAILS, "r6")
    built.relay("r6", [(1, "token", "0 "), (2, "apperror", "asked for")])
    built.add("delete", session="d")
    built.send("b", WATCHED, "r7")
    built.add("acknowledge", result=True, session="b", task="p-w2")
    built.send("b", STRUCK, "r8")
    built.relay("r8", [(1, "token", "0 "), (2, "token", "1 ")], end="lost")
    built.add("send", None, Outcome.INFO, "TargetLostError: closed", session="b", text=UNKNOWN)
    built.add("kill")
    built.add("boot", {"pid": 2, "port": 2})
    built.add("terminate", 0)
    built.add("boot", {"pid": 3, "port": 3})
    built.watch("a", [("m:1", "session_snapshot", "a", "m", None)], after="n:2")
    built.send("a", LAST, "r9")
    built.send("a", QUICK, "ra")
    built.send("b", CALM, "rb")
    built.watch("a", [("m:2", "bg_task_complete", "a", "p-w3", 6.0)], after="m:1")
    built.read_back({"a": a, "b": b, "c": c, **more})
    return built


def without(rows: Rows, text: str) -> Rows:
    """The rows without one turn."""
    at = next(place for place, row in enumerate(rows) if text in row[1])
    return [*rows[:at], *rows[at + 2 :]]


def instead(rows: Rows, old: Rows, new: Rows) -> Rows:
    """The rows with one turn replaced."""
    at = rows.index(old[0])
    return [*rows[:at], *new, *rows[at + len(old) :]]


def test_sound_history_is_valid() -> None:
    """A call of unknown outcome may or may not have had its effect."""
    assert not broken(sound())
    assert not broken(sound(b=[*B, *turn(UNKNOWN, "0 That was turn 8 of b.")]))
    assert not broken(sound(b=[*B, *turn(UNKNOWN, "", "interrupted")]))


WRONG_IN_THE_END: list[tuple[str, dict[str, Rows], Promise]] = [
    ("a turn is lost", {"a": without(A, ONE)}, promises.S2),
    ("a turn is doubled", {"a": [*A, *A_ONE]}, promises.S2),
    ("an unknown turn is doubled", {"b": [*B, *2 * turn(UNKNOWN, "")]}, promises.S2),
    ("two turns are swapped", {"a": [*A_HELD, *A_ONE, *A[4:]]}, promises.S2),
    ("a stranger's turn is there", {"a": [*A, *turn("stranger's", "")]}, promises.S2),
    ("another session's turn is there", {"c": [*C, *A_ONE]}, promises.C5),
    ("a refused turn is there", {"a": [*A, *turn(REFUSED, "")]}, promises.T1),
    ("a cleared turn is back", {"c": [*turn(CLEARED, "0 "), *C]}, promises.S6),
    ("a deleted session is back", {"d": []}, promises.S6),
    ("a reply is lost", {"a": instead(A, A_ONE, turn(ONE, "0 1 "))}, promises.S2),
    (
        "shown tokens are lost",
        {"b": instead(B, B_STRUCK, turn(STRUCK, "0 ", "interrupted"))},
        promises.S13,
    ),
    ("a cancel keeps nothing", {"a": instead(A, A_HELD, turn(HELD, "", "cancelled"))}, promises.T4),
    (
        "a live run is repaired",
        {"a": instead(A, A_LAST, turn(LAST, "0 ", "interrupted"))},
        promises.S7,
    ),
    (
        "a turn is cancelled without a call",
        {"a": instead(A, A_LAST, turn(LAST, "0 ", "cancelled"))},
        promises.T4,
    ),
    (
        "a held turn is done",
        {"a": instead(A, A_HELD, turn(HELD, "0 That was turn 2 of a."))},
        promises.T3,
    ),
    (
        "a turn fails without a cause",
        {"a": instead(A, A_LAST, [A_LAST[0], ["assistant", "0 ", "error: OSError: no"]])},
        promises.T3,
    ),
    (
        "a turn fails by a closed agent",
        {
            "a": instead(
                A, A_LAST, [A_LAST[0], ["assistant", "", "error: it was closed, and asked"]]
            )
        },
        promises.A2,
    ),
    ("a reply to nothing", {"a": [*A, ["assistant", "hm", ""]]}, promises.S13),
    (
        "two turns with one number",
        {"a": instead(A, A_LAST, turn(LAST, "0 That was turn 6 of a."))},
        promises.T1,
    ),
    (
        "another session's name in a reply",
        {"a": instead(A, A_LAST, turn(LAST, "0 That was turn 5 of b."))},
        promises.T7,
    ),
    ("a wakeup is doubled", {"a": [*A, *wakeup("w1", 8, "a")]}, promises.W1),
    (
        "a wakeup is misrouted",
        {"a": without(A, "printf w1"), "b": [*B, *wakeup("w1", 4, "b")]},
        promises.W6,
    ),
    ("a kill loses a wakeup", {"a": without(A, "printf w1")}, promises.W4),
    ("a wakeup never came", {"a": without(A, "printf w3")}, promises.W3),
    ("a line wakes twice", {"b": [*B, *line("w2", 8, "b")]}, promises.W13),
    (
        "a line wakes, the end does not",
        {"b": [*B_STORM, *B_CALM, *line("w4", 6, "b")]},
        promises.W13,
    ),
    ("a line never wakes", {"b": [*B_STORM, *B_CALM, *wakeup("w4", 6, "b")]}, promises.W13),
]


@pytest.mark.parametrize(
    ("rows", "promise"), [row[1:] for row in WRONG_IN_THE_END], ids=[r[0] for r in WRONG_IN_THE_END]
)
def test_wrong_final_rows_break_their_promise(rows: dict[str, Rows], promise: Promise) -> None:
    """Each wrong server stores something else."""
    assert promise in broken(sound(**rows))


def _rows(events: Events) -> Callable[[Any], Any]:
    def act(result: Any) -> Any:
        rows = [["" if seq is None else f"r1:{seq}", name, text] for seq, name, text in events]
        return {**result, "rows": rows}

    return act


def _first_row(**fields: Any) -> Callable[[Any], Any]:
    """Change the first notice."""
    names = ("id", "name", "session", "what", "at")

    def act(result: Any) -> Any:
        greeting, first, *rest = result["rows"]
        changed = {**dict(zip(names, first, strict=True)), **fields}
        return {**result, "rows": [greeting, [*changed.values()], *rest]}

    return act


WRONG_ON_THE_WAY: list[tuple[str, str, dict[str, Any], Callable[[Any], Any], Promise]] = [
    ("a gap", "relay", {"run": "r1", "after": "r1:1"}, _rows(ENDS[2:]), promises.C4),
    ("a later gap", "relay", {"after": "r1:1"}, _rows([ENDS[1], *ENDS[3:]]), promises.C3),
    ("an event twice", "relay", {"after": "r1:1"}, _rows([*ENDS[1:3], *ENDS[2:]]), promises.C2),
    (
        "an earlier event",
        "relay",
        {"after": "r1:1"},
        _rows([ENDS[1], ENDS[0], *ENDS[2:]]),
        promises.C1,
    ),
    ("no resumption", "relay", {"after": "r1:1"}, _rows(ENDS), promises.C4),
    ("no snapshot", "relay", {"after": "zz:4"}, _rows(ENDS), promises.C4),
    ("no event", "relay", {"after": "zz:4"}, _rows([]), promises.C4),
    (
        "another text",
        "relay",
        {"after": "r1:1"},
        _rows([(2, "token", "7 "), *ENDS[2:]]),
        promises.C2,
    ),
    (
        "an event after the end",
        "relay",
        {"after": "r1:1"},
        _rows([*ENDS[1:], (6, "token", "x")]),
        promises.T3,
    ),
    ("two ends", "relay", {"after": "r1:1"}, _rows([*ENDS[1:], (6, "cancel", "")]), promises.T3),
    (
        "another end",
        "relay",
        {"after": "r1:1"},
        _rows([*ENDS[1:4], (5, "cancel", "")]),
        promises.C2,
    ),
    (
        "an end of a held run",
        "relay",
        {"run": "r2"},
        lambda result: {**result, "rows": [["r2:1", "token", "0 "], ["r2:2", "stream_end", ""]]},
        promises.T3,
    ),
    ("never closed", "relay", {"run": "r2"}, lambda result: {**result, "end": "open"}, promises.C6),
    (
        "another's event",
        "relay",
        {"run": "r2"},
        lambda result: {**result, "rows": [["r1:1", "token", "0 "]]},
        promises.C5,
    ),
    (
        "another's identity",
        "relay",
        {"run": "r5"},
        lambda result: {
            **result,
            "rows": [["r5:1", "tool_complete", "a"], ["r5:2", "stream_end", ""]],
        },
        promises.T7,
    ),
    ("another's notice", "watch", {"after": "n:1"}, _first_row(session="b"), promises.W7),
    ("a lost notice", "watch", {"after": "n:1"}, _first_row(id="n:3"), promises.C4),
    ("no snapshot of notices", "watch", {"after": "n:2"}, _first_row(name="x"), promises.C4),
    (
        "two runs",
        "runs",
        {},
        lambda _: [["a", "r2", "running"], ["a", "r3", "running"]],
        promises.T1,
    ),
    (
        "another run is in the way",
        "send",
        {"text": REFUSED},
        lambda result: {**result, "run": "r1"},
        promises.T1,
    ),
    (
        "a second run is let in",
        "send",
        {"text": REFUSED},
        lambda _: {"status": 200, "run": "rx"},
        promises.T1,
    ),
    (
        "the active run is not offered",
        "status",
        {},
        lambda result: {**result, "run": None},
        promises.C7,
    ),
    ("a cancelled run is offered", "offered", {}, lambda _: "r2", promises.C7),
    ("a session is not listed", "sessions", {}, lambda _: ["a", "b"], promises.S11),
    (
        "the disk differs",
        "kept",
        {"session": "a"},
        lambda result: {**result, "rows": []},
        promises.H3,
    ),
    (
        "it is still pending",
        "read",
        {"session": "a"},
        lambda result: {**result, "pending": ONE},
        promises.S13,
    ),
    ("a hang at SIGTERM", "terminate", {}, lambda _: None, promises.H3),
    ("a bad exit code", "terminate", {}, lambda _: -15, promises.H3),
    ("an acknowledgement changes something", "acknowledge", {}, lambda _: False, promises.W11),
    ("a run never ends", "rest", {}, lambda _: {"left": {"runs": [["a", "r9", ""]]}}, promises.T3),
    ("a wakeup is pending", "rest", {}, lambda _: {"left": {"wakeup_events": 1}}, promises.W3),
    ("too many agents", "rest", {}, lambda _: {"left": {"agents_cached": 9}}, promises.A1),
    ("too many sessions", "rest", {}, lambda _: {"left": {"sessions_held": 9}}, promises.A6),
    (
        "wakeups are swapped",
        "watch",
        {"after": "m:1"},
        _first_row(at=4.0),
        promises.W3,
    ),
]


@pytest.mark.parametrize(
    ("function", "which", "act", "promise"),
    [row[1:] for row in WRONG_ON_THE_WAY],
    ids=[row[0] for row in WRONG_ON_THE_WAY],
)
def test_wrong_results_break_their_promise(
    function: str, which: dict[str, Any], act: Callable[[Any], Any], promise: Promise
) -> None:
    """Each wrong server returns something else."""
    built = sound()
    built.change(function, act, **which)

    assert promise in broken(built)


def test_wakeup_lost_by_full_disk_breaks_w5() -> None:
    """W5: nothing but a full disk delayed it."""
    built = sound(a=without(A, "printf w3"))
    built.faults.append(FaultInterval(NO_DISK, 0, built.now))

    assert broken(built) == {promises.W5, promises.W1}


def test_turn_interrupted_by_full_disk_is_valid() -> None:
    """A run that cannot be written ends as it can, and so does its stream."""
    built = sound(a=instead(A, A_LAST, turn(LAST, "", "interrupted")))
    built.faults.append(FaultInterval(NO_DISK, 0, built.now))

    assert not broken(built)


@pytest.mark.parametrize("more", [0, 1])
def test_user_waits_for_bounded_wakeups(more: int) -> None:
    """W10: each refusal names another run, begun by a wakeup."""
    built = Builder()
    built.add("new", session="a", previous=None)
    script = "b9 [process=0:w8]"
    built.send("a", script, "r0")
    for number in range(WAKEUPS_MAX + more):
        built.refuse("a", LAST, f"w{number}")
        built.refuse("a", LAST, f"w{number}")
    built.send("a", LAST, "r1")
    asked = turn(script, "That was turn 1 of a.")
    last = turn(LAST, "0 That was turn 3 of a.")
    built.read_back({"a": [*asked, *wakeup("w8", 2, "a"), *last]})

    assert broken(built) == ({promises.W10} if more else set())


def test_session_without_quiet_read_is_unknown() -> None:
    """Its messages cannot be judged."""
    built = Builder()
    built.add("new", session="a", previous=None)
    built.send("a", LAST, "r1")

    verdict = check_end_to_end(built.history())
    assert verdict.unknowns == ("a was not read when all was quiet",)


def test_hanging_turn_marked_done_breaks_a2() -> None:
    """A2: only the close of its agent ends such a turn."""
    built = Builder()
    built.add("new", session="b", previous=None)
    built.send("b", HUNG, "r1")
    built.add("kill")
    built.read_back({"b": turn(HUNG, "That was turn 1 of b.")})

    assert promises.A2 in broken(built)


def test_failed_boot_breaks_h3() -> None:
    """Even where nothing else is known."""
    built = Builder()
    built.add("boot", None, Outcome.FAIL, "NotServingError: not serving within 30 s")

    assert promises.H3 in broken(built)


def test_internal_error_breaks_h2() -> None:
    """No call may return a status 500."""
    built = sound()
    built.add("status", None, Outcome.INFO, "TargetLostError: GET /x: 500 {}", session="a")

    assert broken(built) == {promises.H2}


def test_any_missing_or_doubled_row_is_rejected() -> None:
    """Every row of a user or a wakeup in turn."""
    for at, (role, *_) in enumerate(A):
        if role != "assistant":
            assert broken(sound(a=[*A[:at], *A[at + 2 :]])), A[at]
            assert broken(sound(a=[*A[: at + 2], *A[at:]])), A[at]


def test_any_missing_or_doubled_event_is_rejected() -> None:
    """Every event of a run, for a reader that resumes."""
    rest = ENDS[1:]
    for at in range(len(rest)):
        for events in ([*rest[:at], *rest[at + 1 :]], [*rest[: at + 1], *rest[at:]]):
            built = sound()
            built.change("relay", _rows(events), after="r1:1")
            assert broken(built), events


def test_message_lost_between_quiet_reads_breaks_s2() -> None:
    """A read returned a message of unknown outcome, and the last quiet read lacks it."""
    built = sound(b=[*B, *turn(UNKNOWN, "0 That was turn 8 of b.")])
    last = next(op for op in reversed(built.operations) if op.argument.get("session") == "b")
    built.operations[built.operations.index(last)] = replace(
        last, result={"rows": B, "pending": None}
    )

    assert promises.S2 in broken(built)


def test_missing_session_breaks_s2() -> None:
    """A call does not find a session that no client deleted."""
    built = sound()
    built.add("status", None, Outcome.FAIL, "StatusError: GET /x: 404 {}", session="a")

    assert broken(built) == {promises.S2}
