"""Finds accesses to shared memory that nothing orders, by vector clocks.

Two accesses to the same place by different tasks *race* if at least one writes and neither happens
before the other. Happens-before is the order within a task, and from a start to the task's first
step, from its end to a join, from each use of a lock, notification, cell, file or socket to the
next use of the same one (Lamport, "Time, Clocks, and the Ordering of Events in a Distributed
System", CACM 1978; the check of each access follows Flanagan and Freund, "FastTrack: Efficient and
Precise Dynamic Race Detection", PLDI 2009). So a race in one schedule has no common lock around
both accesses, and is none only of this schedule: there is another one in which they are adjacent.

A program whose schedules have no race behaves, between its visible operations, as if each task ran
undisturbed; one that has races does so if the racing accesses are visible operations too.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

from harness.schedule.scheduler import Scheduler
from harness.schedule.sites import Site
from harness.schedule.tasks import Footprint, Task

Clock = dict[int, int]  # the number of a task, and the last of its epochs that is known


class _Place:
    """The accesses of one schedule to one place: the last epoch of each task, site and kind."""

    __slots__ = ("accesses", "subject")

    def __init__(self, subject: Any) -> None:
        self.accesses: dict[tuple[int, Site, bool], int] = {}
        self.subject: Callable[[], Any]
        try:
            self.subject = weakref.ref(subject)
        except TypeError:
            self.subject = lambda: subject  # keeps it alive, so that its identity is not reused


class Races:
    """The races of the schedules that it is begun for; a footprint of each."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.found: dict[tuple[Site, Site], None] = {}
        self.begin()

    def begin(self) -> None:
        """Forget the last schedule, but not the races."""
        self._clocks: dict[int, Clock] = {0: {0: 1}}
        self._published: dict[Hashable, Clock] = {}
        self._places: dict[Hashable, _Place] = {}

    # -- happens-before --------------------------------------------------------------------------

    def spawned(self, task: Task) -> None:
        """Order all before the start of a task before its steps."""
        clock = self._own()
        self._clocks[task.number] = {**clock, task.number: 1}
        clock[self._scheduler.current.number] += 1

    def joined(self, tasks: list[Task]) -> None:
        """Order the steps of ended tasks before what follows."""
        clock = self._own()
        for task in tasks:
            _merge(clock, self._clocks.get(task.number, {}))

    def touch(self, target: Any, *, write: bool) -> None:
        """Order all earlier uses of a lock, cell or file before this one."""
        key: Hashable = target if isinstance(target, str) else target.key
        clock = self._own()
        published = self._published.get(key)
        if published is not None:
            _merge(clock, published)
        if write:
            self._published[key] = dict(clock)
            clock[self._scheduler.current.number] += 1

    def publish(self, target: Any) -> None:
        """Order what came before an addition to a queue before what its reader does next."""
        clock = self._own()
        _merge(self._published.setdefault(target.key, {}), clock)
        clock[self._scheduler.current.number] += 1

    def touch_anything(self) -> None:
        """Do nothing: time orders nothing."""

    def step(self, task: Task, enabled: list[Task]) -> None:
        """Do nothing: only uses of the same thing are ordered."""

    def _own(self) -> Clock:
        number = self._scheduler.current.number
        clock = self._clocks.get(number)
        if clock is None:
            clock = self._clocks[number] = {number: 1}
        return clock

    # -- accesses --------------------------------------------------------------------------------

    def access(self, subject: Any, name: str, site: Site, *, write: bool) -> None:
        """Record an access to `name` of `subject`; `name` is empty for the items of a container."""
        number = self._scheduler.current.number
        clock = self._own()
        key = (id(subject), name)
        place = self._places.get(key)
        if place is None or place.subject() is not subject:
            place = self._places[key] = _Place(subject)
        for (other, earlier, wrote), epoch in place.accesses.items():
            if other != number and (wrote or write) and epoch > clock.get(other, 0):
                self.found[earlier, site] = None
        place.accesses[number, site, write] = clock[number]


class Both:
    """Two footprints of one schedule."""

    def __init__(self, first: Footprint, second: Footprint) -> None:
        self.first = first
        self._both = (first, second)

    def touch_anything(self) -> None:
        """Pass it to both."""
        for footprint in self._both:
            footprint.touch_anything()

    def spawned(self, task: Task) -> None:
        """Pass it to both."""
        for footprint in self._both:
            footprint.spawned(task)

    def joined(self, tasks: list[Task]) -> None:
        """Pass it to both."""
        for footprint in self._both:
            footprint.joined(tasks)

    def publish(self, target: Any) -> None:
        """Pass it to both."""
        for footprint in self._both:
            footprint.publish(target)

    def touch(self, target: Any, *, write: bool) -> None:
        """Pass it to both."""
        for footprint in self._both:
            footprint.touch(target, write=write)

    def step(self, task: Task, enabled: list[Task]) -> None:
        """Pass it to both."""
        for footprint in reversed(self._both):  # the first one may end the schedule
            footprint.step(task, enabled)


def _merge(clock: Clock, other: Clock) -> None:
    for number, epoch in other.items():
        if epoch > clock.get(number, 0):
            clock[number] = epoch
