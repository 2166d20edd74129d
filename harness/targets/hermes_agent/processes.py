"""The *processes* ability over the process registry of the released package `hermes-agent`.

The adapter of the reference is used; what differs is in the other words of the package, and in how
its host restarts: a process of its own ends, and another one begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.processes.pool import ProcessInstance
from harness.targets.components.processes import ProcessesAdapter

PATIENCE_S, SHORT_PATIENCE_S = 10.0, 0.3


@dataclass
class Patience:
    """How long the registry of a version is waited for to read what a process prints.

    Some versions read only whole blocks, so what is printed is not there before the process ends.
    What they miss by that is found without waiting for it each time.
    """

    seconds: float = PATIENCE_S


class AgentProcessesAdapter(ProcessesAdapter):
    """Hosts of the package's registry, one after another."""

    def __init__(self, folder: Path, host: ProcessInstance, patience: Patience) -> None:
        """`host` is a `ProcessHost` of this package in `folder`/processes."""
        (folder / "processes").mkdir(exist_ok=True)
        super().__init__(folder, host)
        self._patience = patience
        self._sessions: dict[str, str | None] = {}  # by the key that the package knows
        self._keys: set[str] = set()

    def spawn(  # noqa: PLR0913, PLR0917  the options of a process
        self,
        process: str,
        session: str | None,
        exit_code: int = 0,
        watches: list[str] | None = None,
        notify: bool = True,  # noqa: FBT001, FBT002  journalled by name
        key: str = "",
        beside: str | None = None,
    ) -> None:
        """Start a process in a turn of the session, or outside of turns; with a key of its own."""
        self._sessions[key or session or ""] = session
        self._keys.add(key)
        super().spawn(process, session, exit_code, watches, notify, key, beside)

    def spawn_brief(self, process: str, session: str, exit_code: int = 0) -> None:
        """Start a process that ends before the call that starts it goes on."""
        self._sessions[session] = session
        super().spawn_brief(process, session, exit_code)

    def spawn_late(self) -> str:
        """End the host, which starts nothing more; restart."""
        self.restart()
        return "SpawnRefusedError"

    def leave_files(self) -> None:
        """Do nothing: the package keeps no file of a process."""

    def _heard(self, process: str, mark: bytes) -> None:
        given: dict[str, Any] = {"process_id": self._ids[process], "end": mark.decode()}
        given["patience_s"] = self._patience.seconds
        is_read = self._host.call("wait_until_printed", given)
        self._patience.seconds = PATIENCE_S if is_read else SHORT_PATIENCE_S

    def take(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for that many events, and one more that must not come; they are consumed."""
        events = self._host.call("take", {"count": count, "running": len(self._pipes)})
        return [self._shown(event) for event in events]

    def take_some(self, count: int, marks: bool = True) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002
        """Take the first `count` events; the package marks none on a disk."""
        given = {"count": count, "running": len(self._pipes)}
        taken = self._host.call("take_some", given)
        return {**taken, "events": [self._shown(event) for event in taken["events"]]}

    def restart(self) -> None:
        """End the host; the next call starts another. The package has no other way."""
        self._host.kill()

    def proof(self) -> list[str]:
        """What the processes wrote; a variable without a value names nothing."""
        return [
            " ".join(word for word in line.split(" ") if not word.endswith("=")).rstrip()
            for line in super().proof()
        ]

    def _shown(self, event: dict[str, Any]) -> dict[str, Any]:
        key = event["key"]
        owner = self._sessions.get(key, key or None)
        return super()._shown({**event, "owner": owner, "key": key if key in self._keys else ""})
