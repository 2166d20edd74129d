"""A machine finds what is wrong, leaves the least evidence of it, and never takes us for it."""

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
from hypothesis.stateful import precondition, rule

from harness.checkers.conformance import Fold
from harness.contract.models.lifecycle import LifecycleModel
from harness.core.history import Journal, Operation, read
from harness.core.promises import Promise
from harness.core.verdict import Verdict
from harness.engine import runner
from harness.engine.context import Stage
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
    """Toys of one make."""

    name = "toy"
    abilities = frozenset({"lifecycle"})

    def __init__(self, make: type[Toy]) -> None:
        self._make = make

    def prepare(self) -> None:
        """A toy is always ready."""

    def open(self, ability: str, folder: Path) -> Instance:  # noqa: ARG002  a toy keeps no files
        """A fresh toy."""
        return AdapterInstance(self._make())

    def standalone(self, ability: str) -> str:
        """Nobody asks."""
        raise NotImplementedError(ability)


def try_toy(make: type[Toy], folder: Path, seed: int = 1) -> Verdict:
    """Put toys of this make on trial."""
    return runner.run(OWNERS_AND_FAILURES, ToyTarget(make), seed, 0.5, folder).verdict


def asked_again(make: type[Toy], asked: Iterable[Operation], folder: Path) -> Promise | None:
    """Ask a fresh toy the same; the promise that it breaks."""
    fold = Fold(LifecycleModel())
    with (
        Journal(folder / "again.jsonl", time.monotonic_ns) as journal,
        Stage(ToyTarget(make), "lifecycle", "1", 1, journal).episode() as episode,
    ):
        for operation in asked:
            if anomaly := fold.step(episode.client.ask(operation.function, operation.argument)):
                return anomaly.promise
    return None


@pytest.mark.parametrize("seed", [1, 5, 7])
@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (CommitsAtOnce, Promise.L12),
        (DiscardsDirtyWork, Promise.L9),
        (ExplicitAgentSteals, Promise.L4),
        (LateCommitClearsAll, Promise.L2),
    ],
)
def test_of_each_broken_promise_no_operation_is_left_that_is_not_needed(
    make: type[Toy], promise: Promise, seed: int, tmp_path: Path
) -> None:
    """Also of those that were seen on the way to the least evidence of all."""
    anomalies = try_toy(make, tmp_path, seed).anomalies

    assert anomalies
    for anomaly in anomalies:
        assert promise in anomaly.promises
        *needed, last = anomaly.evidence
        assert asked_again(make, (*needed, last), tmp_path) is anomaly.promise
        for left_out in range(len(needed)):
            fewer = (*needed[:left_out], *needed[left_out + 1 :], last)
            assert asked_again(make, fewer, tmp_path) is not anomaly.promise


def test_without_time_to_leave_anything_out_the_proof_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less evidence is nicer, not truer."""
    monkeypatch.setattr(machine, "MINIMIZING_S_MAX", 0.0)
    (anomaly,) = try_toy(CommitsAtOnce, tmp_path).anomalies

    assert anomaly.promise is Promise.L12


class SpeaksByChance(machine.Machine):
    """Which rules there are depends on something else than what was drawn before."""

    model = LifecycleModel()
    chance: ClassVar[Iterator[int]] = itertools.cycle(range(7))

    @precondition(lambda self: next(self.chance) % 3)
    @rule(number=st.integers(0, 3))
    def shout(self, number: int) -> None:
        """Draw an integer."""

    @rule(is_low=st.booleans())
    def whisper(self, *, is_low: bool) -> None:
        """Draw a boolean."""


def test_rules_that_come_and_go_with_the_clock_are_no_failure_of_anybody(tmp_path: Path) -> None:
    """What Hypothesis calls inconsistent generation ends a search, and another one goes on."""
    path = tmp_path / "history.jsonl"
    with Journal(path, time.monotonic_ns) as journal:
        machine.explore(SpeaksByChance)(Stage(ToyTarget(Toy), "lifecycle", "1", 40, journal))

    assert len(read(path)) >= 40


def test_a_disk_that_is_full_for_a_moment_is_not_the_targets_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hypothesis calls flaky what goes wrong only once; it is our failure all the same."""
    write = Journal._write
    lines = iter(range(1 << 30))

    def fail_once(journal: Journal, event: dict[str, Any]) -> None:
        if next(lines) == 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(journal, event)

    monkeypatch.setattr(Journal, "_write", fail_once)
    with pytest.raises(OSError, match="No space left"):
        try_toy(Toy, tmp_path)
