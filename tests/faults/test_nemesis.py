"""Checks that a fault's interval is in the history and that the fault is healed."""

from __future__ import annotations

import time
from pathlib import Path

from harness.core.history import Journal, Outcome, read
from harness.faults.file_faults import CorruptFile
from harness.faults.nemesis import injecting


def test_fault_interval_is_recorded_and_healed(tmp_path: Path) -> None:
    """The recorded interval begins before the injection and ends after the healing."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with Journal(tmp_path / "history", time.monotonic_ns) as journal:
        fault = CorruptFile(path, 1, b"X")
        with injecting(fault, journal):
            journal.complete(journal.invoke(0, "look", None), Outcome.OK, "aXc")
    (history,) = read(tmp_path / "history")
    (interval,) = history.faults
    (look,) = history
    assert interval.name == fault.name
    assert interval.healed_ns is not None
    assert look.completed_ns is not None
    assert interval.began_ns <= look.invoked_ns <= look.completed_ns <= interval.healed_ns
    assert path.read_bytes() == b"abc"
