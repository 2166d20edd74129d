"""The *run_journals* ability: the run journals of several sessions, over restarts and read faults.

A run's file gets a time of its own after every change, so that their order is known. `turns` asks
the journal of turns, which remembers those in flight and the last that ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from harness.faults.read_faults import ReadFaults
from harness.faults.simulated_disk import STRIKES, SimulatedDisk, no_fault

Rows = list[dict[str, Any]]


class RunJournalsAdapter:
    """A run journal whose writers are known by session and run."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._module = modules("turns.journal")
        self._refusals = (self._module.RunOverError, self._module.RunTooLargeError)
        self._folder = folder
        self._journal = self._open()
        self._writers: dict[tuple[str, str], Any] = {}
        self._shown: Rows = []
        self._changes = 0

    def _open(self) -> Any:
        return self._module.RunJournal(self._folder, clock=lambda: 0.0)

    def begin(self, session: str, run: str) -> dict[str, Any]:
        """Begin a run; the files of its session."""
        writer = self._journal.begin(session, run, lambda row: self._shown.append(dict(row)))
        self._writers[session, run] = writer
        self._touch(session, run)
        return self.files(session)

    def emit(self, session: str, run: str, event: str, text: str) -> dict[str, Any]:
        """Emit a row; what was shown, and the name of a refusal."""
        return self._changed(
            session, run, lambda: self._writers[session, run].emit(event, {"text": text})
        )

    def emit_sized(self, session: str, run: str, size_bytes: int) -> dict[str, Any]:
        """Emit a small row, and then one that takes that many bytes of the file."""
        overhead = self._emit_small(session, run)
        return self._emit_padded(session, run, size_bytes - overhead, size_bytes)

    def emit_last(self, session: str, run: str, size_bytes: int) -> dict[str, Any]:
        """Emit a small row, and then one with which the file would have that many bytes."""
        overhead = self._emit_small(session, run)
        left = size_bytes - self._path(session, run).stat().st_size
        return self._emit_padded(session, run, left - overhead, size_bytes)

    def _emit_small(self, session: str, run: str) -> int:
        """The bytes that a row needs besides its text."""
        path = self._path(session, run)
        before = path.stat().st_size
        self._writers[session, run].emit("token", {"text": ""})
        return path.stat().st_size - before

    def _emit_padded(self, session: str, run: str, length: int, size_bytes: int) -> dict[str, Any]:
        answer = self.emit(session, run, "token", "x" * length)
        for row in answer["shown"]:
            row["payload"] = {"bytes": size_bytes - length + len(row["payload"]["text"])}
        return answer

    def fill(self, session: str, run: str, rows: int, row_bytes: int) -> dict[str, Any]:
        """Give a run that has not begun that many rows of a size, as a dead host left them."""
        path = self._path(session, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for seq in range(1, rows + 1):
                row = b'{"seq":%d,"event":"token","payload":{"text":""}}\n' % seq
                file.write(row.replace(b'""}}', b'"%s"}}' % (b"x" * (row_bytes - len(row)))))
        self._touch(session, run)
        return {}

    def seal(self, session: str, run: str) -> dict[str, Any]:
        """Refuse later rows of a run."""
        self._writers[session, run].seal()
        return {}

    def finish(self, session: str, run: str, state: str, events: list[str]) -> dict[str, Any]:
        """End a run with these rows."""
        rows = [(event, {"text": event}) for event in events]
        return self._changed(session, run, lambda: self._writers[session, run].finish(state, rows))

    def restart(self) -> dict[str, Any]:
        """Lose the process, with every writer."""
        for writer in self._writers.values():
            with suppress(OSError):
                writer._file.close()  # noqa: SLF001  a dead process has no open file
        self._writers.clear()
        self._journal = self._open()
        return {}

    def tear(self, session: str, run: str) -> dict[str, Any]:
        """Leave a part of a row at the end of a file."""
        with self._path(session, run).open("ab") as file:
            file.write(b'{"seq":')
        self._touch(session, run)
        return {}

    def spoil(self, session: str, run: str, row: int) -> dict[str, Any]:
        """Replace a row by bytes that are no JSON."""
        path = self._path(session, run)
        lines = path.read_bytes().split(b"\n")
        lines[row - 1] = b"#" * len(lines[row - 1])
        path.write_bytes(b"\n".join(lines))
        self._touch(session, run)
        return {}

    def write_missing_end(self, session: str, run: str, ending: str) -> dict[str, Any]:
        """Write the end that a dead host left out."""
        self._journal.write_missing_end(session, run, self._module.TurnEvent(ending))
        self._touch(session, run)
        return {}

    def remove(self, session: str, run: str) -> dict[str, Any]:
        """Remove a run that never began."""
        self._journal.remove(session, run)
        return self.files(session)

    def remove_session(self, session: str) -> dict[str, Any]:
        """Remove the runs of a session."""
        self._journal.remove_session(session)
        return self.files(session)

    def rows(self, session: str, run: str, at: int = 0) -> dict[str, Any]:
        """The rows of a run, and its text; read number `at` fails, if it is not 0."""
        with self._faults(at):
            rows = [dict(row) for row in self._journal.rows(session, run)]
            return {"rows": rows, "text": self._journal.text(session, run)}

    def read(self, session: str, cursor: str, at: int = 0) -> dict[str, Any]:
        """The rows after a cursor; read number `at` fails, if it is not 0."""
        with self._faults(at):
            replay = self._journal.read(session, cursor)
        return {"status": str(replay.status), "seqs": [row["seq"] for row in replay.rows]}

    def files(self, session: str) -> dict[str, Any]:
        """The runs of a session that have a file, and the number of runs that are open."""
        names = sorted(path.stem for path in (self._folder / session).glob("*"))
        return {"files": names, "open": self._journal.gauges()["run_writers"]}

    def turns(self, ends: list[str], limit: int) -> dict[str, Any]:
        """Make a turn for each end, of which `limit` ended ones are remembered; which ones are.

        It stays *open*, or is *ended*; the disk refuses a *refused* end, and is asked once more.
        *Again* are those that the next host remembers, *streams* the runs of a known session.
        """
        folder = self._folder.with_name("turns")
        folder.mkdir(exist_ok=True)
        at_first, self._module.ENDED_TURNS_MAX = self._module.ENDED_TURNS_MAX, limit
        try:
            with SimulatedDisk(folder, no_fault):  # whose syncs return at once
                journal = self._module.TurnJournal(folder / "turns.jsonl", clock=lambda: 0.0)
            for number, end in enumerate(ends):
                with SimulatedDisk(folder, no_fault):
                    journal.submit(f"t{number}", "s", f"r{number}", "user")
                if end == "refused":
                    with SimulatedDisk(folder, STRIKES["full once"](1)), suppress(OSError):
                        journal.complete(f"t{number}")
                if end != "open":
                    with SimulatedDisk(folder, no_fault):
                        journal.complete(f"t{number}")
            remembered = sorted(turn.turn_id for turn in journal.turns())
            runs = [f"r{number}" for number in range(len(ends))]
            streams = [run for run in runs if journal.session_of(run) == "s"]
            journal.close()
            journal = self._module.TurnJournal(folder / "turns.jsonl", clock=lambda: 0.0)
            again = sorted(turn.turn_id for turn in journal.turns())
            journal.close()
        finally:
            self._module.ENDED_TURNS_MAX = at_first
        return {"remembered": remembered, "streams": sorted(streams), "again": again}

    def close(self) -> None:
        """Close the files."""
        self.restart()

    def _changed(self, session: str, run: str, change: Callable[[], object]) -> dict[str, Any]:
        self._shown.clear()
        refused = None
        try:
            change()
        except self._refusals as error:
            refused = type(error).__name__
        self._touch(session, run)
        return {"shown": list(self._shown), "refused": refused}

    def _faults(self, at: int) -> Any:
        return ReadFaults(self._folder, at) if at else nullcontext()

    def _path(self, session: str, run: str) -> Path:
        return self._folder / session / f"{run}.jsonl"

    def _touch(self, session: str, run: str) -> None:
        self._changes += 1
        time_ns = self._changes * 10**9
        with suppress(FileNotFoundError):
            os.utime(self._path(session, run), ns=(time_ns, time_ns))
