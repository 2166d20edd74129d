"""The *disturbed* ability of a hermes-webui server, whose agent and registry are the harness's."""

from __future__ import annotations

import time
from pathlib import Path

from harness.engine.http import PATIENCE_S
from harness.targets.hermes_webui.scripted_agent import OF_CHILD, TORN
from harness.targets.server.disturbances import POLL_S, TOKEN, DisturbancesAdapter
from harness.targets.server.probe import ask_probe

# Changes to the last event of a process, which make it another kind of event; None is no field.
_FIELDS = ("session_id", "command", "exit_code", "output", "completed_at")
NOISES: dict[str, dict[str, str | None]] = {
    "an event of a later kind": {"type": "a later kind", "session_id": "proc_later"},
    "a watch without a message": {"type": "watch_disabled", "session_id": "proc_mute"},
    "an event without a process": dict.fromkeys(_FIELDS),
}
CHILD_S = 1.0  # longer than a turn
NO_EVENT = "no event at all"
REGISTRY = "tools.process_registry"


class WebuiDisturbancesAdapter(DisturbancesAdapter):
    """One server, its agent's database, and a memory provider of its agent."""

    keeping = ("rename", "draft", "pin", "archive", "move", "toolsets", "update", "personality")
    beside_lock = (*DisturbancesAdapter.beside_lock, "draft", "pin", "archive")
    opened = ("head", "quiet")
    noises = (*NOISES, NO_EVENT)
    database = Path("state.db")

    def torn(self) -> set[str]:
        """Sessions whose agent found its database closed while it worked for them."""
        path = self._folder / "spool" / TORN
        return {*path.read_text(encoding="utf-8").split()} if path.exists() else set()

    def parents(self) -> list[str]:
        """The next turn of the session, and nothing."""
        return ["nothing", "the next turn"]

    def outlived(self, by: str) -> bool:
        """Let a child write after its turn; a server that has no database for it is not asked."""
        session = self._new()
        self._run(session, f"one [child={CHILD_S}]{TOKEN}")
        if not self._rows(session):
            return True
        if by == "the next turn":
            self._run(session, f"two {TOKEN}")
        ends_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_at:
            if session in self.torn():
                return False
            if self._rows(f"{session}{OF_CHILD}"):
                return True
            time.sleep(POLL_S)
        return False

    def make_noise(self, kind: str) -> None:
        """Let the registry queue an event that differs from its last one, or something else."""
        changes = NOISES.get(kind)
        path = "completion_queue.put" if changes is None else "repeat"
        argument = ["no event" if changes is None else changes]
        state, path = self._server.state, f"process_registry.{path}"
        ask_probe(state, "call", module=REGISTRY, path=path, argument=argument)
