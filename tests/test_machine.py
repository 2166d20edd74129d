"""A machine finds what is wrong, leaves the least evidence of it, and never takes us for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from harness import machine, runner
from harness.history import Journal
from harness.promises import Promise
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
        (CommitsAtOnce, Promise.L12, 1),
        (DiscardsDirtyWork, Promise.L9, 2),
        (ExplicitAgentSteals, Promise.L4, 2),
        (LateCommitClearsAll, Promise.L2, 5),
    ],
)
def test_what_fails_is_left_with_the_least_evidence(
    make: type[Toy], promise: Promise, steps: int, tmp_path: Path
) -> None:
    """No operation can be left out of it that is not needed to see it."""
    (anomaly,) = try_toy(make, tmp_path).anomalies

    assert promise in anomaly.promises
    assert len(anomaly.evidence) <= steps


def test_without_time_to_leave_anything_out_the_proof_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less evidence is nicer, not truer."""
    monkeypatch.setattr(machine, "MINIMIZING_S_MAX", 0.0)
    (anomaly,) = try_toy(CommitsAtOnce, tmp_path).anomalies

    assert anomaly.promise is Promise.L12


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
