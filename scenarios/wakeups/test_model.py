"""Scenario of any sequence of completions, runs and restarts against the model of wakeups."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.wakeups import PATIENCE_S, WakeupsModel
from harness.core.history import History
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

NAMES = ("s1", "s2", "s3")
SESSIONS = st.sampled_from(NAMES)


class WakeupsMachine(Machine):
    """Three sessions; processes end, some are reported twice; starts fail, hosts restart."""

    model = WakeupsModel()

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.is_renamed = False

    @rule(session=SESSIONS, times=st.sampled_from([1, 1, 2, 3]))
    def complete(self, session: str, times: int) -> None:
        self.ask("complete", session=session, process=f"p{next(self.numbers)}", times=times)

    @rule(session=SESSIONS, other=SESSIONS)
    def index_elsewhere(self, session: str, other: str) -> None:
        self.ask("index_elsewhere", session=session, other=other)

    @rule(session=SESSIONS)
    def begin_run(self, session: str) -> None:
        self.ask("begin_run", session=session)

    @rule(session=SESSIONS)
    def end_run(self, session: str) -> None:
        self.ask("end_run", session=session)

    @rule(fails=st.booleans())
    def fail_starts(self, fails: bool) -> None:  # noqa: FBT001  drawn, as every argument of a rule
        self.ask("fail_starts", fails=fails)

    @rule()
    def drain(self) -> None:
        self.ask("drain")

    @rule(seconds=st.sampled_from([0.05, 1.0, PATIENCE_S]))
    def advance(self, seconds: float) -> None:
        self.ask("advance", seconds=seconds)

    @rule()
    def restart(self) -> None:
        if not self.is_renamed:
            self.ask("restart")

    @rule()
    def rename_marker(self) -> None:
        self.ask("rename_marker")
        self.is_renamed = True
        self.ask("drain")

    def finish(self) -> None:
        """With starts that work, end every run until no wakeup is pending."""
        self.ask("fail_starts", fails=False)
        self.ask("advance", seconds=PATIENCE_S)
        for _ in range(next(self.numbers)):
            for session in NAMES:
                self.ask("end_run", session=session)
        self.ask("advance", seconds=PATIENCE_S)
        self.ask("pending")


def _started(history: History) -> int:
    return sum(len(op.result["started"]) for op in history.happened if op.function != "pending")


def _deferred(history: History) -> int:
    """Count the wakeups that started when a run ended."""
    return sum(len(op.result["started"]) for op in history.happened.of("end_run"))


def _repeated(history: History) -> int:
    return sum(op.function == "complete" and op.argument["times"] > 1 for op in history)


def _reported(history: History) -> int:
    return sum(op.function == "drain" and op.result["error"] is not None for op in history.happened)


WAKEUPS = Scenario(
    name="wakeups-any-sequence",
    mode=Mode.MODEL,
    ability="wakeups",
    promises=(
        *(promises.W1, promises.W2, promises.W3, promises.W4),
        *(promises.W5, promises.W6, promises.W8, promises.W9),
    ),
    workload=explore(WakeupsMachine),
    checker=conforms(WakeupsMachine.model),
    expectations=(
        Expectation("a wakeup was started", _started),
        Expectation("a wakeup waited for a run to leave", _deferred),
        Expectation("a completion was reported more than once", _repeated),
        Expectation("a broken registry was reported", _reported),
    ),
    examples=150,
)


def test_completion_starts_one_turn_in_its_session(judge: Judge) -> None:
    """Completions repeat, starts fail, hosts restart and the index is wrong."""
    assert judge(WAKEUPS).is_valid
