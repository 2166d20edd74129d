"""A machine finds what is wrong, leaves the least evidence of it, and never takes us for it."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from harness import machine, runner
from harness.history import Journal, read
from harness.models.lifecycle import LifecycleModel
from harness.promises import Promise
from harness.stage import Stage
from harness.target import AdapterInstance, Instance
from harness.verdict import Verdict
from scenarios.test_lifecycle import OWNERS_AND_FAILURES
from tests.test_models_lifecycle import (
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


def try_toy(make: type[Toy], folder: Path) -> Verdict:
    """Put toys of this make on trial."""
    return runner.run(OWNERS_AND_FAILURES, ToyTarget(make), 1, 0.5, folder).verdict


@pytest.mark.parametrize(
    ("make", "promise", "steps"),
    [
        (CommitsAtOnce, Promise.L12, 2),
        (DiscardsDirtyWork, Promise.L9, 2),
        (ExplicitAgentSteals, Promise.L4, 2),
        (LateCommitClearsAll, Promise.L2, 5),
    ],
)
def test_what_fails_is_left_with_the_least_evidence(
    make: type[Toy], promise: Promise, steps: int, tmp_path: Path
) -> None:
    """No operation can be left out of it that is not needed to see it."""
    anomalies = try_toy(make, tmp_path).anomalies
    proofs = [len(anomaly.evidence) for anomaly in anomalies if promise in anomaly.promises]

    assert proofs
    assert min(proofs) <= steps


def test_without_time_to_leave_anything_out_the_proof_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less evidence is nicer, not truer."""
    monkeypatch.setattr(machine, "MINIMIZING_S_MAX", 0.0)
    anomalies = try_toy(CommitsAtOnce, tmp_path).anomalies

    assert Promise.L12 in {anomaly.promise for anomaly in anomalies}


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
