"""Scenario of any sequence of completions, runs and restarts against the model of wakeups."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.wakeups import (
    COMMAND_CHARS_MAX,
    HOLD_MAX_S,
    INDEX_MAX,
    JOINED_MAX,
    MISSING,
    OUTPUT_CHARS_MAX,
    PATIENCE_S,
    SILENT,
    UNROUTED_MAX,
    WAKEUPS_MAX,
    WakeupsModel,
)
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

Call = tuple[str, dict[str, Any]]
NAMES = ("s1", "S1", "s11", "s2")  # that differ in case only, or begin alike
SESSIONS = st.sampled_from(NAMES)
FAILURES = (
    *("disk full", "disk error", "no file", "no permission", "shutdown", "timeout", "connection"),
    *("bug", "wrong type", "wrong value", "memory"),
    *("damaged file", "stale copy", "refused save", "busy lock"),  # of the session store
)
SIZES = (1, OUTPUT_CHARS_MAX - 1, OUTPUT_CHARS_MAX, OUTPUT_CHARS_MAX + 1, 20 * OUTPUT_CHARS_MAX)
EXIT_CODES = (0, 1, 255, -9, None)
FAILURES_MANY = 1100  # 2 ** 1024 is no float, so a delay that doubles for so long has no value
PACES_S = (0.01, 1.5, 20.0)


class WakeupsMachine(Machine):
    """Four sessions; processes end in all of them; faults are few, and healed at once."""

    model = WakeupsModel()

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)

    def process(self) -> str:
        return f"p{next(self.numbers)}"

    @rule(session=SESSIONS, times=st.sampled_from([1, 1, 2, 3]), code=st.sampled_from(EXIT_CODES))
    def complete(self, session: str, times: int, code: int | None) -> None:
        process = self.process()
        self.ask("complete", session=session, process=process, times=times, exit_code=code)

    @rule(sessions=st.lists(SESSIONS, min_size=2, max_size=5))
    def complete_several(self, sessions: list[str]) -> None:
        for session in sessions:
            self.ask("complete", session=session, process=self.process())

    @rule(session=SESSIONS, suppressed=st.sampled_from([0, 1, 7]), ends=st.booleans())
    def match(self, session: str, suppressed: int, ends: bool) -> None:  # noqa: FBT001  drawn
        process = self.process()
        self.ask(
            "complete", session=session, process=process, match="hit '漢'", suppressed=suppressed
        )
        if ends:
            self.ask("complete", session=session, process=process)

    @rule(session=SESSIONS, key=st.sampled_from(["key", "KEY"]))
    def complete_unowned(self, session: str, key: str) -> None:
        process = self.process()
        self.ask("complete", session=session, process=process, is_owned=False, key=key)

    @rule(session=SESSIONS, keys=st.sampled_from(["key", "KEY", *NAMES]))
    def index(self, session: str, keys: str) -> None:
        self.ask("index", keys=keys, session=session, count=0)

    @rule(session=SESSIONS)
    def begin_run(self, session: str) -> None:
        self.ask("begin_run", session=session)

    @rule(session=SESSIONS, fails=st.booleans())
    def join_run(self, session: str, fails: bool) -> None:  # noqa: FBT001  drawn
        self.ask("join_run", session=session, fails=fails)

    @rule(session=SESSIONS)
    def end_run(self, session: str) -> None:
        self.ask("end_run", session=session)

    @rule()
    def end_every_run(self) -> None:
        for session in NAMES:
            self.ask("end_run", session=session)

    @rule(kind=st.sampled_from(FAILURES), times=st.sampled_from([1, 1, 2, 4]))
    def fail_starts(self, kind: str, times: int) -> None:
        self.ask("fail_starts", kind=kind, times=times)
        self.ask("drain")

    @rule(times=st.sampled_from([1, 2]))
    def fail_marks(self, times: int) -> None:
        self.ask("fail_marks", times=times)

    @rule()
    def drain(self) -> None:
        self.ask("drain")

    @rule(seconds=st.sampled_from([0.05, 1.0, PATIENCE_S]))
    def advance(self, seconds: float) -> None:
        self.ask("advance", seconds=seconds)

    @rule()
    def restart(self) -> None:
        self.ask("restart")

    @rule(session=st.sampled_from(["S1", "s2"]))
    def delete(self, session: str) -> None:
        self.ask("delete", session=session)

    @rule(kind=st.sampled_from([*MISSING, *SILENT]), session=SESSIONS)
    def break_registry(self, kind: str, session: str) -> None:
        self.ask("break_registry", kind=kind)
        self.ask("complete", session=session, process=self.process())
        self.ask("drain")
        self.ask("restart")

    def finish(self) -> None:
        """With starts that work, end every run until no wakeup is pending."""
        for function, argument in quiet(next(self.numbers)):
            self.ask(function, **argument)


def quiet(rounds: int) -> Iterator[Call]:
    """Heal, and end every run until no wakeup is pending."""
    yield "fail_starts", {"kind": FAILURES[0], "times": 0}
    yield "fail_marks", {"times": 0}
    yield "index", {"keys": "key", "session": "s1", "count": 0}
    yield "index", {"keys": "KEY", "session": "s1", "count": 0}
    yield "advance", {"seconds": HOLD_MAX_S}
    for _ in range(min(rounds, 40)):
        for session in NAMES:
            yield "end_run", {"session": session}
    yield "advance", {"seconds": HOLD_MAX_S}
    for session in NAMES:
        yield "end_run", {"session": session}
    yield "advance", {"seconds": HOLD_MAX_S}
    for session in NAMES:
        yield "end_run", {"session": session}
    yield "pending", {}


# Fixed programs, all of which every run asks


def ended(process: str, session: str = "s1", **details: Any) -> Call:
    """A process that ends."""
    return "complete", {"session": session, "process": process, **details}


DRAIN: Call = ("drain", {})
RESTART: Call = ("restart", {})
BEGIN: Call = ("begin_run", {"session": "s1"})
END: Call = ("end_run", {"session": "s1"})
DELETE: Call = ("delete", {"session": "s1"})


def at_every_size() -> Iterator[list[Call]]:
    """Outputs and commands at, around and far beyond their bounds; every exit code."""
    for size in SIZES:
        yield [ended("p1", output_size=size), DRAIN]
        yield [ended("p1", output_size=size, match="x"), DRAIN]
    for size in (COMMAND_CHARS_MAX - 1, COMMAND_CHARS_MAX, COMMAND_CHARS_MAX + 1, 30_000):
        yield [ended("p1", command_size=size), DRAIN]
    for code in EXIT_CODES:
        yield [ended("p1", exit_code=code), DRAIN]


def without_owner() -> Iterator[list[Call]]:
    """Reports that no session owns, and index keys, around their bounds."""
    lost: dict[str, Any] = {"is_owned": False, "key": "lost"}
    found: Call = ("index", {"keys": "lost", "session": "s1", "count": 0})
    for count in (UNROUTED_MAX - 1, UNROUTED_MAX, UNROUTED_MAX + 1, UNROUTED_MAX + 44):
        yield [ended("p", count=count, **lost), DRAIN, found, DRAIN, END, DELETE, DRAIN]
    for count in (INDEX_MAX - 1, INDEX_MAX, INDEX_MAX + 1):
        many: Call = ("index", {"keys": "k", "session": "s1", "count": count})
        first: dict[str, Any] = {"is_owned": False, "key": "k0"}
        yield [many, ended("p1", **first), DRAIN, END, DELETE, DRAIN]


def refused_users() -> Iterator[list[Call]]:
    """A user who retries at one pace, behind one wakeup after another."""
    for pace_s in PACES_S:
        # The user tries each time just before the wakeup ends, and comes back after its pace.
        turn: list[Call] = [BEGIN, END, ("advance", {"seconds": pace_s})]
        yield [ended("p", count=2 * WAKEUPS_MAX), DRAIN, *turn * (WAKEUPS_MAX + 2), BEGIN]
    # The wakeups go on when the user has gone, and when the user's own turn has ended.
    yield [ended("p", count=3), DRAIN, BEGIN, END, ("advance", {"seconds": HOLD_MAX_S})]
    yield [ended("p", count=3), DRAIN, BEGIN, END, BEGIN, END]


def after_each_failure() -> Iterator[list[Call]]:
    """Every kind of failed start, then a success; a restart or a deletion in between."""
    late: Call = ("advance", {"seconds": PATIENCE_S})
    for kind, times in itertools.product(FAILURES, (1, 3)):
        fail: Call = ("fail_starts", {"kind": kind, "times": times})
        yield [ended("p1"), ended("p2"), fail, *[DRAIN, late] * times, DRAIN, END, END]
        yield [ended("p1"), ended("p2"), fail, DRAIN, RESTART, DRAIN, *[late] * times, END, END]
        yield [ended("p1"), ended("p2"), fail, DRAIN, DELETE, *[late] * times, END]
    # However often a start has failed, the next one follows within the patience.
    fail = ("fail_starts", {"kind": FAILURES[0], "times": FAILURES_MANY})
    yield [ended("p1"), fail, *[late] * (FAILURES_MANY + 1), END]
    for times in (1, 2):
        fail = ("fail_marks", {"times": times})
        yield [ended("p1"), ended("p2"), fail, DRAIN, END, *[late] * times, END, late, END]
        yield [ended("p1"), ended("p2"), fail, DRAIN, RESTART, *[DRAIN, late] * times, END]


def join(session: str = "s1", *, fails: bool = False) -> Call:
    """A turn of the user that takes along what waits, or cannot begin."""
    return "join_run", {"session": session, "fails": fails}


def taken_along() -> Iterator[list[Call]]:
    """Turns of the user around the number of reports that they take, refused, failed, unmarked."""
    late: Call = ("advance", {"seconds": PATIENCE_S})
    for count in (1, JOINED_MAX - 1, JOINED_MAX, JOINED_MAX + 1, 2 * JOINED_MAX + 1):
        many = ended("p", count=count)
        yield [many, join(), END, join(), END, join(), END, DRAIN]
        yield [BEGIN, many, DRAIN, join(), END, END]
        yield [many, join(fails=True), join(), RESTART, DRAIN, END]
    other = ended("q1", session="s11")
    yield [other, ended("p1"), ended("p1", match="x"), ended("p2"), join(), END, DRAIN]
    yield [ended("p1"), ended("p2"), join(fails=True), DRAIN, END, END]
    yield [ended("p1"), ended("p2"), DELETE, join(), DRAIN]
    yield [ended("p1"), ended("p2"), join(), DELETE, DRAIN, ended("p3"), DRAIN]
    yield [ended("p", count=3), DRAIN, BEGIN, END, join(), END, DRAIN]
    fail: Call = ("fail_starts", {"kind": FAILURES[0], "times": 1})
    yield [ended("p1"), ended("p2"), fail, DRAIN, join(), END, DRAIN]
    for times, act in itertools.product((1, 2, 3), (END, RESTART)):
        unmarkable: Call = ("fail_marks", {"times": times})
        again = [act, late, late, join(), END, late]
        yield [ended("p", count=3), unmarkable, join(), *again]


def with_broken_registry() -> Iterator[list[Call]]:
    """Every break of the registry's contract, in every state of a session; then a restart."""
    yield [("open_broken", {"kind": kind}) for kind in MISSING[:3]]
    for kind in (*MISSING, *SILENT):
        broken: Call = ("break_registry", {"kind": kind})
        yield [ended("p1"), broken, DRAIN, DRAIN, RESTART, DRAIN, END]
        yield [BEGIN, ended("p1"), DRAIN, broken, ended("p2"), END, DRAIN, RESTART, DRAIN, END]


def of_each_state() -> Iterator[list[Call]]:
    """Deletion and restart with a pending, deferred, running and delivered wakeup."""
    befores: Sequence[list[Call]] = (
        [ended("p1")],
        [BEGIN, ended("p1"), DRAIN],
        [ended("p1"), ended("p2"), DRAIN],
        [ended("p1"), DRAIN, END],
        [ended("p1"), ended("p2"), DRAIN, BEGIN, END],
        [ended("p1", is_owned=False, key="key"), DRAIN],
    )
    other = ended("q1", session="s11")
    for before, act in itertools.product(befores, (DELETE, RESTART)):
        yield [*before, other, act, DRAIN, ended("p1"), ended("p3"), DRAIN, END, END, END]
    stale: Call = ("index", {"keys": "s1", "session": "s11", "count": 0})
    yield [stale, ended("p1"), DRAIN, END, ("delete", {"session": "s11"}), ended("p2"), DRAIN]


PROGRAMS = (
    *(at_every_size, without_owner, refused_users),
    *(after_each_failure, taken_along, with_broken_registry, of_each_state),
)


def walk_and_explore(context: Context) -> None:
    """Ask every fixed program, then explore."""
    for make in PROGRAMS:
        for program in make():
            with context.episode() as episode:
                for function, argument in (*program, *quiet(2)):
                    episode.client.ask(function, argument)
    explore(WakeupsMachine)(context)


def _attempts(history: History, how: str) -> int:
    return sum(
        attempt[2] == how
        for op in history.happened
        if op.function != "open_broken"
        for attempt in op.result["attempts"]
    )


def _started(history: History) -> int:
    return _attempts(history, "started")


def _joined(history: History) -> int:
    return _attempts(history, "joined")


def _deferred(history: History) -> int:
    """Count the wakeups that started when a run ended."""
    return sum(
        attempt[2] == "started"
        for op in history.happened.of("end_run")
        for attempt in op.result["attempts"]
    )


def _repeated(history: History) -> int:
    return sum(op.argument.get("times", 1) > 1 for op in history.of("complete"))


def _reported(history: History) -> int:
    return sum(op.result["error"] is not None for op in history.happened.of("drain"))


def _failed(history: History) -> int:
    return _attempts(history, "failed")


def _dropped(history: History) -> int:
    return _attempts(history, "gone")


def _unmarked(history: History) -> int:
    return _attempts(history, "unmarked")


WAKEUPS = Scenario(
    name="wakeups-any-sequence",
    mode=Mode.MODEL,
    ability="wakeups",
    promises=(
        *(promises.W1, promises.W2, promises.W3, promises.W4, promises.W5),
        *(promises.W6, promises.W7, promises.W8, promises.W9, promises.W10, promises.W13),
    ),
    workload=walk_and_explore,
    checker=conforms(WakeupsMachine.model),
    expectations=(
        Expectation("a wakeup was started", _started, 100),
        Expectation("a wakeup waited for a run to leave", _deferred, 20),
        Expectation("a wakeup was taken along by the user's turn", _joined, 20),
        Expectation("a completion was reported more than once", _repeated),
        Expectation("a broken registry was reported", _reported),
        Expectation("a start failed", _failed, 20),
        Expectation("a wakeup of a deleted session was dropped", _dropped),
        Expectation("a delivered wakeup could not be marked", _unmarked),
    ),
    examples=80,
)


def test_completion_starts_one_turn_in_its_session(judge: Judge) -> None:
    """Completions repeat, starts fail, hosts restart and the index is wrong."""
    assert judge(WAKEUPS).is_valid
