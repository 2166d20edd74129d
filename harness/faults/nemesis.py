"""Fault injection from outside a target: the interface of a fault, and its recorded interval.

A fault has a name, says whether it is available here, is injected and is healed. Faults address
processes by pid and files by path, and know nothing of the target that owns them: see
`process_faults`, `disk_faults` and `file_faults`. A fault that has to run inside a process belongs
to the target's adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from harness.core.history import Journal


class Fault(Protocol):
    """One way to disturb a target."""

    name: str

    def available(self) -> bool:
        """Return whether this system and this user can inject the fault."""
        ...

    def inject(self) -> None:
        """Inject the fault. Raises OSError where that is impossible."""
        ...

    def heal(self) -> None:
        """Undo the fault; a fault that cannot be undone does nothing here."""
        ...


@contextmanager
def injecting(fault: Fault, journal: Journal) -> Iterator[None]:
    """Inject a fault for the duration of the block, and record its interval in the journal."""
    journal.fault(fault.name)
    fault.inject()
    try:
        yield
    finally:
        fault.heal()
        journal.heal(fault.name)
