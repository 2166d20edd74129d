"""Tests of rule-based machines: minimal evidence, unstable rules and failures of the harness."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from harness.checkers.conformance import Fold
from harness.contract import promises
from harness.contract.models.lifecycle import LifecycleModel
from harness.core.contract import Promise
from harness.core.history import Journal, Operation, read
from harness.core.model import Refusal
from harness.engine import runner
from harness.engine.context import Context
from harness.engine.target import AdapterInstance, Instance
from harness.workloads import stateful as machine
from scenarios.lifecycle.test_model import OWNERS_AND_FAILURES
from tests.contract.models.test_lifecycle import (
    CommitsAtOnce,
    DiscardsDirtyWork,
    ExplicitAgentSteals,
    LateCommitClearsAll,
    Toy,
)


class ToyTarget:
    """A target whose instances are toys of one class."""

    name = "toy"
    abilities = frozenset({"lifecycle"})

    def __init__(self, make: type[Toy]) -> None:
        self._make = make

    def prepare(self) -> None:
        """Do nothing: a toy needs no preparation."""

    def open(self, ability: str, folder: Path) -> Instance:  # noqa: ARG002  a toy keeps no files
        """Open a fresh toy."""
        return AdapterInstance(self._make())

    def standalone(self, ability: str) -> str:
        """Raise, as no test needs the source."""
        raise NotImplementedError(ability)


def try_toy(
    make: type[Toy], folder: Path, seed: int = 1, *, goes_on: bool = False
) -> runner.Judgement:
    """Run the scenario on toys of this class."""
    target = ToyTarget(make)
    return runner.run(OWNERS_AND_FAILURES, target, seed, 0.5, folder, goes_on=goes_on)


def broken_promise(make: type[Toy], calls: Iterable[Operation], folder: Path) -> Promise | None:
    """Repeat the calls on a fresh toy; the promise that they break."""
    fold = Fold(LifecycleModel())
    with (
        Journal(folder / "again.jsonl", time.monotonic_ns) as journal,
        Context(ToyTarget(make), "lifecycle", "1", 1, journal).episode() as episode,
    ):
        for operation in calls:
            if anomaly := fold.step(episode.client.ask(operation.function, operation.argument)):
                return anomaly.promise
    return None


@pytest.mark.parametrize("seed", [1, 5, 7])
@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (CommitsAtOnce, promises.L12),
        (DiscardsDirtyWork, promises.L9),
        (ExplicitAgentSteals, promises.L4),
        (LateCommitClearsAll, promises.L2),
    ],
)
def test_evidence_contains_only_needed_operations(
    make: type[Toy], promise: Promise, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That holds for every anomaly of the toy's promise; a toy lacks some further calls."""
    monkeypatch.setattr(machine, "MINIMIZING_S_MAX", 600.0)  # so that no busy machine ends it
    anomalies = try_toy(make, tmp_path, seed).verdict.anomalies

    named = [anomaly for anomaly in anomalies if promise in anomaly.promises]
    assert named
    own = [anomaly for anomaly in named if anomaly.promise is promise] or named[:1]
    for anomaly in own:
        *needed, last = anomaly.evidence
        assert broken_promise(make, (*needed, last), tmp_path) == anomaly.promise
        for left_out in range(len(needed)):
            fewer = (*needed[:left_out], *needed[left_out + 1 :], last)
            assert broken_promise(make, fewer, tmp_path) != anomaly.promise


class TwoBugs(DiscardsDirtyWork, ExplicitAgentSteals):
    """A toy with two independent bugs."""


def test_search_goes_on_past_a_known_anomaly(tmp_path: Path) -> None:
    """With `goes_on` the second bug is found by its own promise; neither hides the other."""
    judged = try_toy(TwoBugs, tmp_path, goes_on=True)
    found = {promise for anomaly in judged.verdict.anomalies for promise in anomaly.promises}

    assert {promises.L9, promises.L4} <= found
    assert judged.episodes > OWNERS_AND_FAILURES.examples * 0.5
    assert all(count >= 1 for count in judged.signatures.values())


def test_anomaly_remains_without_time_to_minimize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evidence is longer then, and proves as much."""
    monkeypatch.setattr(machine, "MINIMIZING_S_MAX", 0.0)
    (anomaly,) = try_toy(CommitsAtOnce, tmp_path).verdict.anomalies

    assert anomaly.promise == promises.L12


class UnstableRules(machine.Machine):
    """A machine whose enabled rules do not depend on earlier draws alone."""

    model = LifecycleModel()
    numbers: ClassVar[Iterator[int]] = itertools.cycle(range(7))

    @precondition(lambda self: next(self.numbers) % 3)
    @rule(number=st.integers(0, 3))
    def draw_integer(self, number: int) -> None:
        """Draw an integer."""

    @rule(flag=st.booleans())
    def draw_boolean(self, *, flag: bool) -> None:
        """Draw a boolean."""


def test_unstable_rules_are_not_a_failure(tmp_path: Path) -> None:
    """Hypothesis ends a search for inconsistent generation, and the next search continues."""
    path = tmp_path / "history.jsonl"
    with Journal(path, time.monotonic_ns) as journal:
        machine.explore(UnstableRules)(Context(ToyTarget(Toy), "lifecycle", "1", 40, journal))

    assert len(read(path)) >= 40


class RefusesAll:
    """A model that allows no answer, and cannot go on behind one."""

    name = "none"

    def initial(self) -> None:
        """There is one state."""

    def step(self, state: None, operation: Operation) -> Refusal:
        """Refuse."""
        return Refusal(promises.L1, f"{operation.call} after {state}")

    def adopt(self, state: None, operation: Operation) -> tuple[None, ...]:  # noqa: ARG002
        """No state follows."""
        return ()


class BrokenAtOnce(machine.Machine):
    """A machine whose first call finds something in each example."""

    model = RefusesAll()

    @initialize()
    def ask_first(self) -> None:
        """Ask for what is refused."""
        self.ask("dirty", session="s1")

    @rule(flag=st.booleans())
    def draw_boolean(self, *, flag: bool) -> None:
        """Draw a boolean."""


def test_first_call_of_each_example_may_be_refused(tmp_path: Path) -> None:
    """Then no example is left for another search, and that is no failure."""
    with Journal(tmp_path / "history.jsonl", time.monotonic_ns) as journal:
        context = Context(ToyTarget(Toy), "lifecycle", "1", 4, journal, goes_on=True)
        machine.explore(BrokenAtOnce)(context)

    assert len(read(tmp_path / "history.jsonl")) >= 2


def test_full_disk_is_a_failure_of_the_harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It happens once only, which Hypothesis would call flaky."""
    invoke = Journal.invoke
    calls = iter(range(1 << 30))

    def fail_once(journal: Journal, process: int, function: str, argument: Any) -> int:
        if next(calls) == 50:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return invoke(journal, process, function, argument)

    monkeypatch.setattr(Journal, "invoke", fail_once)
    with pytest.raises(OSError, match="No space left"):
        try_toy(Toy, tmp_path)
