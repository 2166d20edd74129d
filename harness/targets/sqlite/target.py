"""Bare SQLite as a target: named policies for many writers, compared by the same scenarios."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import UsageError
from harness.engine.target import Instance
from harness.processes.pool import ProcessInstance, Stable
from harness.processes.repro_source import in_a_process
from harness.targets.sqlite import state_db as sqlite_adapter
from harness.worker import writers as sql_crowd

POLICIES = tuple(sqlite_adapter.POLICIES)
ADAPTER = Path(sqlite_adapter.__file__)
CROWD = Path(sql_crowd.__file__)


class SqliteTarget:
    """One policy, in processes of its own."""

    abilities = frozenset({"state_db_crowd"})

    def __init__(self, policy: str) -> None:
        """Raises UsageError for a policy that there is not."""
        if policy not in POLICIES:
            there_are = ", ".join(POLICIES)
            raise UsageError(f"no policy is called {policy!r}; there are {there_are}")
        self.name = f"sqlite@{policy}"
        self._stable = Stable((ADAPTER, CROWD), {"HARNESS_POLICY": policy})

    def prepare(self) -> None:
        """It is there wherever Python is."""

    def open(self, ability: str, folder: Path) -> Instance:  # noqa: ARG002  it has only the one
        """A fresh crowd."""
        return ProcessInstance(self._stable, folder)

    def standalone(self, ability: str) -> str:  # noqa: ARG002  it has only the one
        """The adapter's source, with a process around it."""
        adapter, crowd = (file.read_text(encoding="utf-8") for file in (ADAPTER, CROWD))
        return in_a_process(adapter, [crowd])
