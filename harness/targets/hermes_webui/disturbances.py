"""The *disturbed* ability of a hermes-webui server, whose agent and registry are the harness's."""

from __future__ import annotations

from pathlib import Path

from harness.targets.hermes_webui.scripted_agent import TORN
from harness.targets.hermes_webui.server import ask_probe
from harness.targets.server.disturbances import DisturbancesAdapter

# Changes to the last event of a process, which make it another kind of event; None is no field.
_FIELDS = ("session_id", "command", "exit_code", "output", "completed_at")
NOISES: dict[str, dict[str, str | None]] = {
    "an event of a later kind": {"type": "a later kind", "session_id": "proc_later"},
    "a watch without a message": {"type": "watch_disabled", "session_id": "proc_mute"},
    "an event without a process": dict.fromkeys(_FIELDS),
}
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

    def make_noise(self, kind: str) -> None:
        """Let the registry queue an event that differs from its last one, or something else."""
        changes = NOISES.get(kind)
        path = "completion_queue.put" if changes is None else "repeat"
        argument = ["no event" if changes is None else changes]
        state, path = self._server.state, f"process_registry.{path}"
        ask_probe(state, "call", module=REGISTRY, path=path, argument=argument)
