"""The *processes_threads* ability: a process registry whose events are taken by threads.

The registry is real, and no process runs: a call records that one has ended. A map in memory
replaces the ledger, so that a schedule costs a few milliseconds.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SESSION = "s"
_numbers = itertools.count()  # one folder for each schedule


class ProcessesThreadsAdapter:
    """One registry, its ended processes, and the threads that deliver their events."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._module = modules("agents.processes")
        on_disk, self._module.DurableMap = self._module.DurableMap, _Map
        try:
            self._registry = self._module.ProcessRegistry(
                folder / f"{next(_numbers)}", clock=lambda: 0.0
            )
        finally:
            self._module.DurableMap = on_disk
        self._notified = 0
        self._registry.listen(self._notice)

    def _notice(self) -> None:
        self._notified += 1

    def end(self, process: str) -> None:
        """Record that a process has ended."""
        running = self._module._Running(  # noqa: SLF001  as if its shell had exited
            process_id=process,
            owner=SESSION,
            session_key="",
            command="true",
            is_promised=True,
            watches=self._module.Watches(()),
        )
        self._registry._conclude(running, 0, "")  # noqa: SLF001

    def deliver(self, marks: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002  journalled by name
        """Take an event and mark it; without `marks` the disk refuses that.

        The process that ended, if any, and whether its event was consumed before and afterwards.
        """
        event = self._registry.take()
        if event is None:
            return {"process": None, "before": None, "after": None}
        before = self._registry.is_consumed(event.event_id)
        _Map.fails = not marks
        try:
            self._registry.mark_consumed(event.event_id)
        except OSError:
            if marks:
                raise
        finally:
            _Map.fails = False
        after = self._registry.is_consumed(event.event_id)
        return {"process": event.process_id, "before": before, "after": after}

    def look(self, process: str) -> bool:
        """Whether the event of a process must not be delivered."""
        consumed: bool = self._registry.is_consumed(process)
        return consumed

    def settle(self) -> dict[str, Any]:
        """The events that were not taken, those that are not consumed, and the ended processes."""
        rest = []
        while (event := self._registry.take()) is not None:
            rest.append(event.process_id)
        return {
            "rest": rest,
            "pending": self._registry.gauges()["process_events_pending"],
            "ledger": self._registry.gauges()["process_ledger"],
            "finished": [found.process_id for found in self._registry.finished()],
            "notified": self._notified,
        }

    def close(self) -> None:
        """Close the registry."""
        self._registry.close()


class _Map:
    """A durable map without a file; its next change may fail."""

    fails = False

    def __init__(self, _: str) -> None:
        self._values: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._values)

    def copy(self) -> dict[str, Any]:
        return dict(self._values)

    def change(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self._values[key] = value

    def drop(self, key: str) -> None:
        if _Map.fails:
            raise OSError(errno.ENOSPC, "no space left")
        self._values.pop(key, None)

    def close(self) -> None:
        """Do nothing: no file is open."""
