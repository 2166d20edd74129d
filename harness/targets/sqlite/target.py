"""Bare SQLite as a target: named policies for many writers, compared by the same scenarios."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import UsageError
from harness.core.suggestions import unknown
from harness.engine.target import Instance
from harness.processes.pool import ProcessInstance, ProcessPool
from harness.processes.repro_source import in_a_process
from harness.targets.sqlite import state_db as sqlite_adapter
from harness.worker import writers

POLICIES = tuple(sqlite_adapter.POLICIES)
ADAPTER = Path(sqlite_adapter.__file__)
WRITERS = Path(writers.__file__)


class SqliteTarget:
    """One policy, in processes of its own."""

    usage = "sqlite@POLICY"
    description = f"bare SQLite under a policy of waiting: {', '.join(POLICIES)}"
    abilities = frozenset({"state_db_crowd"})

    def __init__(self, policy: str) -> None:
        """Raises UsageError for an unknown policy."""
        if policy not in POLICIES:
            raise UsageError(f"--target sqlite@{policy}: {unknown('policy', policy, POLICIES)}")
        self.name = f"sqlite@{policy}"
        self._pool = ProcessPool((ADAPTER, WRITERS), {"HARNESS_POLICY": policy})

    def prepare(self) -> None:
        """Do nothing: SQLite comes with Python."""

    def open(self, ability: str, folder: Path) -> Instance:  # noqa: ARG002  it has only the one
        """Open a fresh adapter in a process of its own."""
        return ProcessInstance(self._pool, folder)

    def standalone(self, ability: str) -> str:  # noqa: ARG002  it has only the one
        """The adapter's source, run in a process of its own."""
        adapter, wrapper = (file.read_text(encoding="utf-8") for file in (ADAPTER, WRITERS))
        return in_a_process(adapter, [wrapper])
