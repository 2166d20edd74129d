"""Tests of `harness.testing`: built histories, the recording checker, and the fake target."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.history import FaultInterval, History, Outcome
from harness.core.verdict import VALID, Anomaly, Verdict
from harness.engine.target import Target
from harness.testing import (
    STEP_NS,
    FakeTarget,
    RecordingChecker,
    at,
    fails,
    history,
    judged,
    ok,
    unknown,
)


def test_operations_have_their_outcomes() -> None:
    """The argument of an operation is what its builder got by name."""
    read = ok("read", result=3, process=2, key="a")
    assert (read.outcome, read.result, read.process, read.argument) == (
        Outcome.OK,
        3,
        2,
        {"key": "a"},
    )
    assert (fails("write").outcome, fails("write", error="KeyError: x").error) == (
        Outcome.FAIL,
        "KeyError: x",
    )
    assert unknown("write").outcome is Outcome.INFO
    assert unknown("write").completed_ns is None


def test_history_lays_operations_end_to_end() -> None:
    """Each takes a step, and so does the pause after it; one of unknown outcome never ends."""
    built = history(ok("a"), unknown("b", process=1), ok("c"))

    times = [(operation.invoked_ns, operation.completed_ns) for operation in built]
    assert times == [(0, STEP_NS), (2 * STEP_NS, None), (4 * STEP_NS, 5 * STEP_NS)]
    first, second, third = built
    assert first.precedes(third)
    assert not second.precedes(third)


def test_history_keeps_the_times_of_at() -> None:
    """And orders operations by invocation."""
    late, early = at(ok("late"), 5, 6), at(ok("early", process=1), 0.5, None)

    built = history(late, early)
    assert [operation.function for operation in built] == ["early", "late"]
    assert built.operations[0].invoked_ns == STEP_NS // 2
    assert built.operations[0].completed_ns is None


def test_history_has_notes_and_faults() -> None:
    fault = FaultInterval("kill", 0, 5)

    assert history(ok("a"), faults=(fault,), seed="1/x") == History(
        history(ok("a")).operations, (fault,), {"seed": "1/x"}
    )


@pytest.mark.parametrize("verdict", [VALID, Verdict((Anomaly(promises.L1, "lost"),))])
def test_a_recording_checker_keeps_histories(verdict: Verdict) -> None:
    """And returns the verdict that it was made with."""
    checker = RecordingChecker(verdict)

    assert judged(checker, ok("a"), seed="s") is verdict
    assert judged(checker, ok("b")) is verdict
    first, second = checker.histories
    assert [operation.function for operation in first] == ["a"]
    assert (first.notes, second.notes) == ({"seed": "s"}, {})


class Echo:
    """An adapter that returns what it is given, and its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_closed = False

    def echo(self, text: str) -> list[str]:
        return [text, str(self.folder)]

    def close(self) -> None:
        self.is_closed = True


def test_a_fake_target_opens_its_adapters(tmp_path: Path) -> None:
    """A fresh one for each episode; other abilities and functions are refused."""
    made: list[Echo] = []

    def make(folder: Path) -> Echo:
        made.append(Echo(folder))
        return made[-1]

    target: Target = FakeTarget({"echo": make})
    target.prepare()
    instance, other = target.open("echo", tmp_path), target.open("echo", tmp_path)

    assert target.abilities == {"echo"}
    assert instance.call("echo", {"text": "hi"}) == ["hi", str(tmp_path)]
    with pytest.raises(UsageError, match="Echo has no function 'shout'"):
        instance.call("shout", {})
    with pytest.raises(UsageError, match="fake target 'fake' has no ability 'sing'"):
        target.open("sing", tmp_path)
    instance.close()
    assert [adapter.is_closed for adapter in made] == [True, False]
    other.close()
    assert "NotImplementedError" in target.standalone("echo")
