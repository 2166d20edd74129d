"""The *journal* ability: one run's journal, on a simulated disk that fails or crashes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core.errors import TargetLostError
from harness.faults.simulated_disk import STRIKES, SimulatedCrash, SimulatedDisk

SESSION, STREAM = "s", "r"

_numbers = itertools.count()  # one folder for each schedule


class JournalAdapter:
    """One run; the journal writes its rows to a file and shows them to the adapter."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._modules = modules
        self._folder = folder / f"{next(_numbers)}"
        self._folder.mkdir()
        self._journal = self._open()
        self._shown: list[int] = []
        self._writer = self._journal.begin(
            SESSION, STREAM, lambda row: self._shown.append(row["seq"])
        )

    def _open(self) -> Any:
        return self._modules("turns.journal").RunJournal(self._folder, clock=lambda: 0.0)

    def emit(self, text: str) -> int:
        """Write a row and show it; the row's number."""
        seq: int = self._writer.emit("token", {"text": text})["seq"]
        return seq

    def emit_struck(self, text: str, strike: str, at: int) -> dict[str, Any]:
        """Emit while a fault hits the disk's change number `at`; whether the fault happened.

        Raises what the journal raises, or TargetLostError where the fault killed the process; then
        a new process opens the journal.
        """
        disk = SimulatedDisk(self._folder, STRIKES[strike](at))
        try:
            with disk:
                seq = self.emit(text)
        except SimulatedCrash as crash:
            disk.process_crash().put_into(self._folder)
            self._journal = self._open()
            raise TargetLostError(f"{strike} at {crash}") from None
        return {"seq": seq, "struck": disk.faulted_call is not None}

    def finish(self) -> None:
        """End the run."""
        self._writer.finish("done", [("done", {"text": "done"}), ("stream_end", {"text": "end"})])

    def rows(self) -> dict[str, Any]:
        """The rows of the file, and the numbers of the shown rows."""
        rows = list(self._journal.rows(SESSION, STREAM))
        return {
            "seqs": [row["seq"] for row in rows],
            "texts": [row["payload"]["text"] for row in rows],
            "shown": list(self._shown),
        }

    def close(self) -> None:
        """Close the file, in whatever state the run is."""
        self._writer.finish("done", [])
