"""Which targets there are, and how each is named on the command line."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import UsageError
from harness.engine.target import Target
from harness.targets.hermes_agent.target import HermesAgentTarget
from harness.targets.hermes_webui.target import HermesWebuiTarget
from harness.targets.reference.target import ReferenceTarget
from harness.targets.sqlite.target import POLICIES, SqliteTarget


def find_target(spec: str) -> Target:
    """Find a target by its name. Raises UsageError, listing what there is, for an unknown one."""
    kind, _, place = spec.partition("@")
    if kind == "reference":
        return ReferenceTarget(Path(place).resolve() if place else None)
    if kind == "hermes-webui" and place:
        return HermesWebuiTarget(Path(place).resolve())
    if kind == "sqlite" and place:
        return SqliteTarget(place)
    package, _, version = spec.partition("==")
    if package == "hermes-agent":
        return HermesAgentTarget(version)
    there_are = ", ".join(str(row["target"]) for row in list_targets())
    raise UsageError(f"no target is called {spec!r}; there are {there_are}")


def list_targets() -> list[dict[str, object]]:
    """Every kind of target: how it is named, what it can do, what it is."""
    return [
        {
            "target": "reference",
            "abilities": sorted(ReferenceTarget.abilities),
            "what": "the reference implementation; reference@FOLDER is a copy elsewhere",
        },
        {
            "target": "hermes-agent==VERSION",
            "abilities": sorted(HermesAgentTarget.abilities),
            "what": "the released package, in a process of its own",
        },
        {
            "target": "sqlite@POLICY",
            "abilities": sorted(SqliteTarget.abilities),
            "what": f"bare SQLite, and how a write waits: {', '.join(POLICIES)}",
        },
        {
            "target": "hermes-webui@FOLDER",
            "abilities": sorted(HermesWebuiTarget.abilities),
            "what": "a checkout: its server over HTTP, and some of its modules",
        },
    ]
