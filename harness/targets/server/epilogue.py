"""The epilogue of a server: all clients leave, and it says what is above its first value.

Every session is deleted first, so that nothing of clients remains that a gauge may count. Gauges
are those of `/health`; threads and descriptors are counted from outside.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from harness.core.errors import TargetLostError
from harness.engine.http import NotReachedError, Web

PATIENCE_S = 20.0
REST_S = 15.0
POLLS_MIN = 40  # answered before a gauge counts as not coming back, however slow the machine is
POLL_S = 0.02
ALLOWED = {  # above the first value, because it is bounded and does not grow with sessions
    "threads": 24,  # that pools may start later
    "turn_journal": 256,  # the last ended turns
    "processes_finished": 64,  # the last ones
    "catalogs_kept": 1,
    "watcher_bytes_kept": 4096,  # the last change
    "channel_frames_kept": 1,  # the last change of the list
    "channel_bytes_kept": 512,
}
IGNORED = ("process_ledger", "process_completion_queue")  # of processes that outlive their session


class Gauges:
    """The gauges of one server process, and their first values."""

    def __init__(self, port: int, pid: int, state: Path) -> None:
        """Read the first values."""
        self._web = Web(port, PATIENCE_S)
        self._pid = pid
        self._state = state
        self._first = self._now()

    def left(self) -> dict[str, int]:
        """Let all clients leave, and wait; what is not back at its first value."""
        self._remove_sessions()
        ends_at, polls = time.monotonic() + REST_S, 0
        while left := _off(self._first, self._now()):
            polls += 1
            if polls >= POLLS_MIN and time.monotonic() > ends_at:
                break
            time.sleep(POLL_S)
        return left

    def _remove_sessions(self) -> None:
        _, listed = self._web.ask("GET", "/api/sessions")
        for row in listed["sessions"]:
            body = {"session_id": row["session_id"]}
            self._web.ask("POST", "/api/session/delete", body)
        self._web.ask("GET", "/api/sessions")

    def _now(self) -> dict[str, int]:
        status, health = self._web.ask("GET", "/health")
        if status != 200 or "containers" not in health:  # noqa: PLR2004
            return {}
        containers: Mapping[str, int] = health["containers"]
        runs = {"active_runs": health["active_runs"], "active_streams": health["active_streams"]}
        return {**containers, **runs, **self._process()}

    def _process(self) -> dict[str, int]:
        """Threads and descriptors: sockets, pipes, and files other than the database's."""
        kinds: Counter[str] = Counter()
        process = Path(f"/proc/{self._pid}")
        for descriptor in process.joinpath("fd").iterdir():
            with suppress(OSError):
                kinds[self._kind(str(descriptor.readlink()))] += 1
        counts = {f"open {kind}": kinds[kind] for kind in ("sockets", "pipes", "files", "others")}
        return {**counts, "threads": len([*process.joinpath("task").iterdir()])}

    def _kind(self, link: str) -> str:
        if link.startswith("socket:"):
            return "sockets"
        if link.startswith("pipe:"):
            return "pipes"
        if link.startswith(str(self._state / "state.db")):
            return "of the database"
        return "files" if link.startswith("/") else "others"


def _off(first: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """By how much gauges are above their first values, or below zero, which no size is."""
    over = {
        name: now.get(name, 0) - size - ALLOWED.get(name, 0)
        for name, size in first.items()
        if name not in IGNORED
    }
    above = {name: excess for name, excess in over.items() if excess > 0}
    return above | {name: size for name, size in now.items() if size < 0}


def left_by(gauges: Gauges) -> dict[str, int]:
    """What is left on a server after all clients; a server that is dead is left as such."""
    try:
        return gauges.left()
    except (NotReachedError, TargetLostError, OSError):
        return {"no answer": 1}
