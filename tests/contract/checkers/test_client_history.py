"""What many clients saw of one server is judged: a good day stands, and each thing wrong is named.

A day is told by hand, operation by operation. Then it is attacked: something is told otherwise
than it was, as a wrong server would tell it, and the judge has to name the promise that breaks.
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


class Day:
    """A history that is told in order, one operation after another."""

    def __init__(self) -> None:
        self.told: list[Operation] = []
        self.faults: list[FaultInterval] = []

    @property
    def now(self) -> int:
        return 10 * len(self.told)

    def tell(
        self,
        function: str,
        result: Any = None,
        outcome: Outcome = Outcome.OK,
        error: str = "",
        **argument: Any,
    ) -> None:
        done = None if outcome is Outcome.INFO else self.now + 2
        told = Operation(1, function, argument, outcome, self.now, done, result, error)
        self.told.append(told)

    def send(self, session: str, text: str, run: str) -> None:
        self.tell("send", {"status": 200, "run": run}, session=session, text=text)

    def refuse(self, session: str, text: str, run: str | None) -> None:
        self.tell("send", {"status": 409, "run": run}, session=session, text=text)

    def relay(
        self, run: str, events: Events, after: str | None = None, end: str = "closed"
    ) -> None:
        rows = [["" if seq is None else f"{run}:{seq}", name, text] for seq, name, text in events]
        told = {"end": end, "rows": rows}
        self.tell("relay", told, run=run, after=after, leave=None, stall=False)

    def watch(self, session: str, notices: Notices, after: str | None = None) -> None:
        rows = [["", "initial", session, None, None], *map(list, notices)]
        self.tell("watch", {"end": "open", "rows": rows}, session=session, after=after)

    def read(self, session: str, rows: Rows, pending: str | None = None) -> None:
        self.tell("read", {"rows": rows, "pending": pending}, session=session)

    def look_back(self, sessions: Mapping[str, Rows]) -> None:
        """Come to rest, and read everything; die, and read it again."""
        self._read_all(sessions)
        self.tell("kill")
        for session, rows in sessions.items():
            self.tell("kept", {"rows": rows, "pending": None}, session=session)
        self.tell("boot", {"pid": 9, "port": 9})
        self._read_all(sessions)

    def _read_all(self, sessions: Mapping[str, Rows]) -> None:
        self.tell("rest", {"left": {}}, at_most={})
        for session, rows in sessions.items():
            self.read(session, rows)
        self.tell("sessions", sorted(sessions))

    def retell(self, function: str, act: Callable[[Any], Any], **which: Any) -> None:
        """Tell the last such operation with another result."""
        for at in reversed(range(len(self.told))):
            told = self.told[at]
            if told.function == function and which.items() <= told.argument.items():
                self.told[at] = replace(told, result=act(told.result))
                return
        raise LookupError(f"nobody asked for {function}, {which}")

    def history(self) -> History:
        return History(tuple(self.told), tuple(self.faults))


def broken(day: Day) -> set[Promise]:
    """What the day breaks; it must be judged at all."""
    verdict = check_end_to_end(day.history())
    assert not verdict.unknowns
    return {promise for anomaly in verdict.anomalies for promise in anomaly.promises}


def turn(text: str, reply: str, mark: str = "") -> Rows:
    """A turn as it is read."""
    return [["user", text, mark], *([["assistant", reply, mark]] if reply else [])]


def woken(word: str, number: int, session: str, told: str = "completed (exit_code=0)") -> Rows:
    """A wakeup turn as it is read."""
    head = f"[IMPORTANT: Background process p-{word} {told}."
    prompt = f"{head}\nCommand: printf {word}\nOutput:\n{word}]"
    return [["wakeup", prompt, ""], ["assistant", f"That was turn {number} of {session}.", ""]]


def line(word: str, number: int, session: str) -> Rows:
    """A wakeup because of a line of output."""
    return woken(word, number, session, "printed a line with 'hit'")


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
A: Rows = [*A_ONE, *A_HELD, *A_SPAWN, *woken("w1", 4, "a"), *A_LAST, *A_QUICK, *woken("w3", 7, "a")]
B_WATCHED = turn(WATCHED, "0 That was turn 1 of b.")
B_STRUCK = turn(STRUCK, "0 1 ", "interrupted")
B_CALM = turn(CALM, "0 That was turn 5 of b.")
B_STORM: Rows = [*B_WATCHED, *line("w2", 2, "b"), *woken("w2", 3, "b"), *B_STRUCK]
B: Rows = [*B_STORM, *B_CALM, *line("w4", 6, "b"), *woken("w4", 7, "b")]
C_LATER = turn(LATER, "0 That was turn 1 of c.")
C: Rows = [*C_LATER, ["user", FAILS, ""], ["assistant", "0 ", "error: ScriptedError: asked for"]]


def a_day(*, a: Rows = A, b: Rows = B, c: Rows = C, **more: Rows) -> Day:
    """Talks, a cancel, processes, a clear, deaths, and readers of every kind; what is left."""
    day = Day()
    day.tell("boot", {"pid": 1, "port": 1})
    for session in ("a", "b", "c", "d"):
        day.tell("new", session=session, previous=None)
    day.send("a", ONE, "r1")
    day.relay("r1", ENDS[:1], end="left")
    day.relay("r1", ENDS[1:], after="r1:1")
    day.relay("r1", [(None, "session_snapshot", "cursor_run_mismatch"), *ENDS], after="zz:4")
    day.relay("r1", [], after="r1:5")
    day.send("a", HELD, "r2")
    day.refuse("a", REFUSED, "r2")
    day.tell("health", {"status": 200, "runs": [["a", "r2", ""]], "containers": {}})
    day.tell("status", {"busy": True, "run": "r2"}, session="a")
    day.tell("cancel", result=True, run="r2")
    day.tell("offered", None, session="a")
    day.relay("r2", [(1, "token", "0 "), (2, "cancel", "")])
    day.send("a", SPAWN, "r3")
    day.watch("a", [("n:1", "bg_task_complete", "a", "p-w1", 5.0)])
    day.watch("a", [("n:2", "session-updated", "a", None, None)], after="n:1")
    day.send("c", CLEARED, "r4")
    day.read("c", turn(CLEARED, "0 That was turn 1 of c."))
    day.tell("clear", session="c", seen=[CLEARED, ""])
    day.send("c", LATER, "r5")
    day.relay("r5", [(1, "token", "0 "), (2, "tool_complete", "c"), (3, "stream_end", "")])
    day.send("c", FAILS, "r6")
    day.relay("r6", [(1, "token", "0 "), (2, "apperror", "asked for")])
    day.tell("delete", session="d")
    day.send("b", WATCHED, "r7")
    day.tell("acknowledge", result=True, session="b", task="p-w2")
    day.send("b", STRUCK, "r8")
    day.relay("r8", [(1, "token", "0 "), (2, "token", "1 ")], end="lost")
    day.tell("send", None, Outcome.INFO, "TargetLostError: it went", session="b", text=UNKNOWN)
    day.tell("kill")
    day.tell("boot", {"pid": 2, "port": 2})
    day.tell("terminate", 0)
    day.tell("boot", {"pid": 3, "port": 3})
    day.watch("a", [("m:1", "session_snapshot", "a", None, None)], after="n:2")
    day.send("a", LAST, "r9")
    day.send("a", QUICK, "r10")
    day.send("b", CALM, "r11")
    day.watch("a", [("m:2", "bg_task_complete", "a", "p-w3", 6.0)], after="m:1")
    day.look_back({"a": a, "b": b, "c": c, **more})
    return day


def without(rows: Rows, text: str) -> Rows:
    """The rows without a turn."""
    at = next(place for place, row in enumerate(rows) if text in row[1])
    return [*rows[:at], *rows[at + 2 :]]


def instead(rows: Rows, old: Rows, new: Rows) -> Rows:
    """The rows with another turn in the place of one."""
    at = rows.index(old[0])
    return [*rows[:at], *new, *rows[at + len(old) :]]


def test_a_good_day_stands() -> None:
    """Nothing is wrong with any of it, whether the answer that was lost had happened or not."""
    assert not broken(a_day())
    assert not broken(a_day(b=[*B, *turn(UNKNOWN, "0 That was turn 8 of b.")]))
    assert not broken(a_day(b=[*B, *turn(UNKNOWN, "", "interrupted")]))


WRONG_IN_THE_END: list[tuple[str, dict[str, Rows], Promise]] = [
    ("a turn is lost", {"a": without(A, ONE)}, promises.S2),
    ("a turn is doubled", {"a": [*A, *A_ONE]}, promises.S2),
    ("an unknown turn is doubled", {"b": [*B, *2 * turn(UNKNOWN, "")]}, promises.S2),
    ("two turns are swapped", {"a": [*A_HELD, *A_ONE, *A[4:]]}, promises.S2),
    ("a stranger's turn is there", {"a": [*A, *turn("nobody's", "")]}, promises.S2),
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
    ("nobody cancelled it", {"a": instead(A, A_LAST, turn(LAST, "0 ", "cancelled"))}, promises.T4),
    (
        "what goes on for ever is done",
        {"a": instead(A, A_HELD, turn(HELD, "0 That was turn 2 of a."))},
        promises.T3,
    ),
    (
        "it failed for no reason",
        {"a": instead(A, A_LAST, [A_LAST[0], ["assistant", "0 ", "error: OSError: no"]])},
        promises.T3,
    ),
    (
        "its agent was closed",
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
    ("a wakeup is doubled", {"a": [*A, *woken("w1", 8, "a")]}, promises.W1),
    (
        "a wakeup went astray",
        {"a": without(A, "printf w1"), "b": [*B, *woken("w1", 4, "b")]},
        promises.W6,
    ),
    ("a death took a wakeup", {"a": without(A, "printf w1")}, promises.W4),
    ("a wakeup never came", {"a": without(A, "printf w3")}, promises.W3),
    ("a line is told twice", {"b": [*B, *line("w2", 8, "b")]}, promises.W13),
    (
        "a line is taken for an end",
        {"b": [*B_STORM, *B_CALM, *line("w4", 6, "b")]},
        promises.W13,
    ),
    ("a line is never told", {"b": [*B_STORM, *B_CALM, *woken("w4", 6, "b")]}, promises.W13),
]


@pytest.mark.parametrize(
    ("rows", "promise"), [row[1:] for row in WRONG_IN_THE_END], ids=[r[0] for r in WRONG_IN_THE_END]
)
def test_what_is_left_in_the_end_is_judged(rows: dict[str, Rows], promise: Promise) -> None:
    """Each wrong server leaves something else, and breaks the promise that was made of it."""
    assert promise in broken(a_day(**rows))


def _rows(events: Events) -> Callable[[Any], Any]:
    def act(result: Any) -> Any:
        rows = [["" if seq is None else f"r1:{seq}", name, text] for seq, name, text in events]
        return {**result, "rows": rows}

    return act


def _first_row(**fields: Any) -> Callable[[Any], Any]:
    """The same with another first notice."""
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
    ("no continuing", "relay", {"after": "r1:1"}, _rows(ENDS), promises.C4),
    ("no snapshot", "relay", {"after": "zz:4"}, _rows(ENDS), promises.C4),
    ("silence", "relay", {"after": "zz:4"}, _rows([]), promises.C4),
    (
        "told otherwise",
        "relay",
        {"after": "r1:1"},
        _rows([(2, "token", "7 "), *ENDS[2:]]),
        promises.C2,
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
        "an end for nothing",
        "relay",
        {"run": "r2"},
        lambda told: {**told, "rows": [["r2:1", "token", "0 "], ["r2:2", "stream_end", ""]]},
        promises.T3,
    ),
    ("never closed", "relay", {"run": "r2"}, lambda told: {**told, "end": "open"}, promises.C6),
    (
        "another's event",
        "relay",
        {"run": "r2"},
        lambda told: {**told, "rows": [["r1:1", "token", "0 "]]},
        promises.C5,
    ),
    (
        "another's identity",
        "relay",
        {"run": "r5"},
        lambda told: {**told, "rows": [["r5:1", "tool_complete", "a"], ["r5:2", "stream_end", ""]]},
        promises.T7,
    ),
    ("another's notice", "watch", {"after": "n:1"}, _first_row(session="b"), promises.W7),
    ("a lost notice", "watch", {"after": "n:1"}, _first_row(id="n:3"), promises.C4),
    ("no snapshot of notices", "watch", {"after": "n:2"}, _first_row(name="x"), promises.C4),
    (
        "two runs",
        "health",
        {},
        lambda told: {**told, "runs": [["a", "r2", ""], ["a", "r3", ""]]},
        promises.T1,
    ),
    (
        "another run is in the way",
        "send",
        {"text": REFUSED},
        lambda told: {**told, "run": "r1"},
        promises.T1,
    ),
    (
        "a second run is let in",
        "send",
        {"text": REFUSED},
        lambda _: {"status": 200, "run": "rx"},
        promises.T1,
    ),
    ("it is not offered", "status", {}, lambda told: {**told, "run": None}, promises.C7),
    ("it is offered in vain", "offered", {}, lambda _: "r2", promises.C7),
    ("a session is not listed", "sessions", {}, lambda _: ["a", "b"], promises.S11),
    (
        "the disk says otherwise",
        "kept",
        {"session": "a"},
        lambda told: {**told, "rows": []},
        promises.H3,
    ),
    (
        "it is still pending",
        "read",
        {"session": "a"},
        lambda told: {**told, "pending": ONE},
        promises.S13,
    ),
    ("it does not go", "terminate", {}, lambda _: None, promises.H3),
    ("it goes badly", "terminate", {}, lambda _: -15, promises.H3),
    ("an acknowledgement acts", "acknowledge", {}, lambda _: False, promises.W11),
    ("a run never left", "rest", {}, lambda _: {"left": {"runs": [["a", "r9", ""]]}}, promises.T3),
    ("a wakeup is pending", "rest", {}, lambda _: {"left": {"wakeup_events": 1}}, promises.W3),
    ("too many agents", "rest", {}, lambda _: {"left": {"agents_cached": 9}}, promises.A1),
    ("too many sessions", "rest", {}, lambda _: {"left": {"sessions_held": 9}}, promises.A6),
    (
        "a wakeup overtook",
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
def test_what_is_told_on_the_way_is_judged(
    function: str, which: dict[str, Any], act: Callable[[Any], Any], promise: Promise
) -> None:
    """Each wrong server tells something else, and breaks the promise that was made of it."""
    day = a_day()
    day.retell(function, act, **which)

    assert promise in broken(day)


def test_a_wakeup_that_the_disk_delayed_must_come_in_the_end() -> None:
    """W5: with nothing but a full disk in its way."""
    day = a_day(a=without(A, "printf w3"))
    day.faults.append(FaultInterval(NO_DISK, 0, day.now))

    assert broken(day) == {promises.W5, promises.W1}


def test_what_a_full_disk_does_to_a_turn_is_no_breach() -> None:
    """A run that cannot be written ends as it can, and its relay too."""
    day = a_day(a=instead(A, A_LAST, turn(LAST, "", "interrupted")))
    day.faults.append(FaultInterval(NO_DISK, 0, day.now))

    assert not broken(day)


@pytest.mark.parametrize("more", [0, 1])
def test_a_user_waits_for_so_many_wakeups_and_no_more(more: int) -> None:
    """W10: each refusal names another run, which nobody but a wakeup began."""
    day = Day()
    day.tell("new", session="a", previous=None)
    for number in range(WAKEUPS_MAX + more):
        day.refuse("a", LAST, f"w{number}")
        day.refuse("a", LAST, f"w{number}")
    day.send("a", LAST, "r1")
    day.look_back({"a": turn(LAST, "0 That was turn 1 of a.")})

    assert broken(day) == ({promises.W10} if more else set())


def test_a_session_that_nobody_read_in_the_end_is_not_judged() -> None:
    """Without a last look nothing is known, and that is said."""
    day = Day()
    day.tell("new", session="a", previous=None)
    day.send("a", LAST, "r1")

    verdict = check_end_to_end(day.history())
    assert verdict.unknowns == ("a was not read when all was quiet",)


def test_an_agent_that_hangs_is_let_go_by_nobody_else() -> None:
    """A2: its turn is done although nothing ended it, so somebody closed the agent."""
    day = Day()
    day.tell("new", session="b", previous=None)
    day.send("b", HUNG, "r1")
    day.tell("kill")
    day.look_back({"b": turn(HUNG, "That was turn 1 of b.")})

    assert promises.A2 in broken(day)


def test_a_server_that_does_not_come_up_is_judged_by_that() -> None:
    """H3: whatever else is not known."""
    day = Day()
    day.tell("boot", None, Outcome.FAIL, "NotServingError: not serving within 30 s")

    assert promises.H3 in broken(day)


def test_an_error_of_the_server_s_own_is_told() -> None:
    """H2: never a 500, whatever was asked."""
    day = a_day()
    day.tell("status", None, Outcome.INFO, "TargetLostError: GET /x: 500 {}", session="a")

    assert broken(day) == {promises.H2}


def test_each_row_that_is_left_out_of_the_end_is_missed() -> None:
    """The attack that is not by hand: no row of a user or a wakeup can be left out or doubled."""
    for at, (role, *_) in enumerate(A):
        if role != "assistant":
            assert broken(a_day(a=[*A[:at], *A[at + 2 :]])), A[at]
            assert broken(a_day(a=[*A[: at + 2], *A[at:]])), A[at]


def test_each_event_that_is_left_out_or_doubled_is_missed() -> None:
    """The same for a run's events, as a reader sees them who comes back."""
    rest = ENDS[1:]
    for at in range(len(rest)):
        for events in ([*rest[:at], *rest[at + 1 :]], [*rest[: at + 1], *rest[at:]]):
            day = a_day()
            day.retell("relay", _rows(events), after="r1:1")
            assert broken(day), events
