"""Enumerates the crash points and the failing calls of an operation on a folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .calls import Call, Fault, SimulatedCrash, crash_before, tear
from .image import Image
from .layer import SimulatedDisk


@dataclass(frozen=True, slots=True)
class Crash:
    """An operation that crashed before or within `call`; None after it completed."""

    disk: SimulatedDisk
    call: Call | None

    def images(self, random: Random, count: int = 64) -> Iterator[Image]:
        """Yield the image after a process kill, then those after a power loss: `count` at most."""
        killed = self.disk.process_crash()
        yield killed
        losses = self.disk.power_losses(random, count)
        yield from itertools.islice((image for image in losses if image != killed), count - 1)


def every_crash_point(folder: Path, operation: Callable[[], object]) -> Iterator[Crash]:
    """Repeat the operation from the same start, crashing one call later each time.

    A write is also torn in the middle. The last crash comes after the operation completed: what it
    acknowledged must survive that crash too. The operation must start afresh each time: open the
    store and keep no state in memory. An exception that it raises goes to the caller.
    """
    initial = Image.of(folder)
    for number in itertools.count(1):
        disk = _run(folder, initial, operation, crash_before(number))
        if not disk.crashed:
            yield Crash(disk, None)
            return
        yield Crash(disk, disk.faulted_call)
        if disk.faulted_call is not None and disk.faulted_call.length > 1:
            torn = _run(folder, initial, operation, tear(number))
            yield Crash(torn, torn.faulted_call)


def _run(
    folder: Path, initial: Image, operation: Callable[[], object], fault: Fault
) -> SimulatedDisk:
    initial.put_into(folder)
    with SimulatedDisk(folder, fault) as disk, suppress(SimulatedCrash):
        operation()
    return disk


@dataclass(frozen=True, slots=True)
class Failure:
    """An operation with a fault in one call, and the exception that it raised, or None."""

    disk: SimulatedDisk
    call: Call
    raised: Exception | None


def every_failure(
    folder: Path, operation: Callable[[], object], fault_at: Callable[[int], Fault]
) -> Iterator[Failure]:
    """Repeat the operation from the same start, injecting the fault one call later each time.

    `fault_at(number)` makes the fault: `fail_once(ENOSPC)`, `shorten`. The iteration ends when the
    operation makes no call of that number; calls that the fault does not affect are skipped.
    """
    initial = Image.of(folder)
    for number in itertools.count(1):
        initial.put_into(folder)
        raised = None
        with SimulatedDisk(folder, fault_at(number)) as disk:
            try:
                operation()
            except Exception as error:  # noqa: BLE001  the exception is the result
                raised = error
        if len(disk.calls) < number:
            return
        if disk.faulted_call is not None and disk.faulted_call.number == number:
            yield Failure(disk, disk.faulted_call, raised)
