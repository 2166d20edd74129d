"""The *journal* ability: one run's journal, for threads that meet, on a disk that fails or dies."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import TargetLostError
from harness.faults.simulated_disk import (
    Fault,
    SimulatedCrash,
    SimulatedDisk,
    crash_before,
    fail_from,
    fail_once,
    shorten,
    tear,
)

STRIKES: Mapping[str, Callable[[int], Fault]] = {
    "kill": crash_before,
    "kill torn": tear,
    "full": fail_from(errno.ENOSPC),
    "full once": fail_once(errno.ENOSPC),
    "broken once": fail_once(errno.EIO),
    "short write": shorten,
}
SESSION, STREAM = "s", "r"

_numbers = itertools.count()  # one folder for each schedule


class JournalAdapter:
    """One run; its rows are written to a file, and shown to us."""

    def __init__(self, folder: Path, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        self._rooms = rooms
        self._place = folder / f"{next(_numbers)}"
        self._place.mkdir()
        self._journal = self._open()
        self._shown: list[int] = []
        self._writer = self._journal.begin(
            SESSION, STREAM, lambda row: self._shown.append(row["seq"])
        )

    def _open(self) -> Any:
        return self._rooms("turns.journal").RunJournal(self._place, clock=lambda: 0.0)

    def emit(self, text: str) -> int:
        """Write a row and show it; its number."""
        seq: int = self._writer.emit("token", {"text": text})["seq"]
        return seq

    def emit_struck(self, text: str, strike: str, at: int) -> dict[str, Any]:
        """Emit while the disk strikes its change number `at`; whether it came to that.

        Raises what the journal does, or TargetLostError where the process died of it; then the
        next one has the journal.
        """
        disk = SimulatedDisk(self._place, STRIKES[strike](at))
        try:
            with disk:
                seq = self.emit(text)
        except SimulatedCrash as crash:
            disk.process_crash().put_into(self._place)
            self._journal = self._open()
            raise TargetLostError(f"{strike} at {crash}") from None
        return {"seq": seq, "struck": disk.struck is not None}

    def finish(self) -> None:
        """Bring the run to its end."""
        self._writer.finish("done", [("done", {"text": "done"}), ("stream_end", {"text": "end"})])

    def rows(self) -> dict[str, Any]:
        """What the file holds, and what was shown."""
        rows = list(self._journal.rows(SESSION, STREAM))
        return {
            "seqs": [row["seq"] for row in rows],
            "texts": [row["payload"]["text"] for row in rows],
            "shown": list(self._shown),
        }

    def close(self) -> None:
        """Let go of the file, whatever became of the run."""
        self._writer.finish("done", [])
