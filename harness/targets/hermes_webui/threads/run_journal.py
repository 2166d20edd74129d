"""The *journal_threads* ability over the run journal of a checkout, which keeps its files.

The module only writes rows. What hands them on is the server's, so here each row counts as shown in
its order: which order readers get is not asked.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from harness.targets.components.run_journal import SESSION, STREAM
from harness.targets.hermes_webui import checkout
from harness.targets.hermes_webui.threads import modules

_numbers = itertools.count()  # one folder for each schedule


class WebuiJournalThreadsAdapter:
    """One run, whose threads write rows."""

    def __init__(self, folder: Path) -> None:
        modules.reset()
        self._folder = folder / f"{next(_numbers)}"
        self._module: Any = checkout.module("run_journal")
        self._writer = self._module.RunJournalWriter(SESSION, STREAM, session_dir=self._folder)
        self._shown: list[int] = []
        self._is_over = False

    def emit(self, text: str) -> int:
        """Write a row; its number."""
        return self._write("token", text)

    def finish(self) -> None:
        """End the run, which the server does once."""
        if self._is_over:
            return
        self._is_over = True
        self._write("done", "done")
        self._write("stream_end", "end")

    def _write(self, event: str, text: str) -> int:
        seq: int = self._writer.append_sse_event(event, {"text": text})["seq"]
        self._shown.append(seq)
        return seq

    def rows(self) -> dict[str, Any]:
        """The rows of the file, and the numbers of the shown rows."""
        read = self._module.read_run_events(SESSION, STREAM, session_dir=self._folder)
        rows = read["events"]
        return {
            "seqs": [row["seq"] for row in rows],
            "texts": [row["payload"]["text"] for row in rows],
            "shown": sorted(self._shown),
        }

    def close(self) -> None:
        """Do nothing: the journal opens its file anew for each row."""
