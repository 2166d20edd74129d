"""Exhaustive search: every schedule, once; in order of preemptions, or up to commuting steps.

`Bounded` follows Musuvathi and Qadeer, "Iterative Context Bounding for Systematic Testing of
Multithreaded Programs" (PLDI 2007): first every schedule without a preemption, then with one, two,
... A preemption is a switch away from a task that could go on. It prunes nothing else, because
sleep sets are not sound under a bound: the schedule that they keep for an equivalent one may need
more preemptions (Coons, Musuvathi, McKinley, "Bounded Partial-Order Reduction", OOPSLA 2013).

`Reduced` has no bound, and so may prune with sleep sets (Godefroid, "Partial-Order Methods for the
Verification of Concurrent Systems", 1996): a task whose next transition commutes with everything
done since a sibling schedule took it first is not taken again. Which transitions commute must be
known. The locks and cells that one touches are; the plain memory that user code touches is not, so
a transition that ran any of it is taken to depend on all others. With `guarded` the caller vouches
that shared memory is touched only under locks or through cells: then only those count.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from harness.schedule.scheduler import LIBRARY, Ending, NondeterministicError, Scheduler, Task
from harness.schedule.strategies import stay

PENDING = 200_000  # prefixes that wait to be tried; beyond this a search is not exhaustive


class Bounded:
    """All schedules, those with fewer preemptions first."""

    name = "bounded"

    def __init__(self, preemptions: int | None = None) -> None:
        """At most so many preemptions; None for all, level by level."""
        self._limit = preemptions
        self._levels: list[deque[bytes]] = [deque([b""])]
        self._overflowed: int | None = None
        self._pending = 1
        self.level = 0
        self._cut = False

    @property
    def exhausted_bound(self) -> int | None:
        """Every schedule with at most this many preemptions was run; None: not even with 0."""
        return self.level - 1 if self.level else None

    @property
    def exhausted(self) -> bool:
        """Whether there is no schedule left at all."""
        return self.level >= len(self._levels) and not self._cut and self._overflowed is None

    def begin(self) -> bool:
        """Take the next prefix of the lowest level."""
        while self.level < len(self._levels) and not self._levels[self.level]:
            if self._overflowed == self.level:
                return False
            self.level += 1
        if self.level >= len(self._levels):
            return False
        self._prefix = self._levels[self.level].popleft()
        self._pending -= 1
        self._made = bytearray()
        return True

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """The prefix while it lasts; then stay, and note the alternatives for later."""
        made = self._made
        index = len(made)
        if index < len(self._prefix):
            wanted = self._prefix[index]
            chosen = next((task for task in enabled if task.number == wanted), None)
            if chosen is None:
                raise NondeterministicError(f"task {wanted} could not act at choice {index}")
        else:
            chosen = stay(enabled, current)
            cost = self.level + (current in enabled)
            for task in enabled:
                if task is not chosen:
                    self._note(bytes(made) + bytes((task.number,)), cost)
        made.append(chosen.number)
        return chosen

    def _note(self, prefix: bytes, level: int) -> None:
        if self._limit is not None and level > self._limit:
            self._cut = True
        elif self._overflowed is not None and level >= self._overflowed:
            return
        elif self._pending >= PENDING:
            self._overflowed = level
        else:
            if level == len(self._levels):
                self._levels.append(deque())
            self._levels[level].append(prefix)
            self._pending += 1

    def ended(self, choices: int, tasks: int) -> None:  # noqa: ARG002 - a strategy's signature
        """A new level may be complete; a schedule that had to be made fair hides others."""
        self._cut = self._cut or choices > len(self._made)
        while self.level < len(self._levels) and not self._levels[self.level]:
            if self._overflowed == self.level:
                break
            self.level += 1


@dataclass(slots=True)
class Touched:
    """What one transition touched: `anything` if user code ran in it that nobody vouches for."""

    reads: set[int | str] = field(default_factory=set)
    writes: set[int | str] = field(default_factory=set)
    anything: bool = False

    def commutes(self, other: Touched) -> bool:
        """Whether the two lead to the same state in either order, and neither hinders the other."""
        if self.anything or other.anything:
            return False
        return (
            self.writes.isdisjoint(other.writes)
            and self.writes.isdisjoint(other.reads)
            and self.reads.isdisjoint(other.writes)
        )


@dataclass(slots=True)
class _Node:
    """A place in the tree of schedules, where one transition begins."""

    sleeping: dict[int, Touched]
    taken: dict[int, Touched] = field(default_factory=dict)


@dataclass(slots=True)
class _Item:
    """A branch still to be taken: these choices, the last of them at this node."""

    choices: bytes
    node: _Node | None


class Reduced:
    """All schedules up to commuting transitions, depth first."""

    name = "reduced"

    def __init__(self, scheduler: Scheduler, *, guarded: bool = False) -> None:
        """Search on this scheduler; `guarded` as the module's docstring says."""
        self._scheduler = scheduler
        self._guarded = guarded
        self._stack: list[_Item] = [_Item(b"", None)]
        self.exhausted = False
        self._cut = False

    def begin(self) -> bool:
        """Take the deepest branch that is left."""
        if not self._stack:
            self.exhausted = not self._cut
            self._scheduler.footprint = None
            return False
        self._item = self._stack.pop()
        self._made = bytearray()
        self._under_way = Touched()
        self._sleeping: dict[int, Touched] = {}
        self._calls: dict[int, FrameType | None] = {}
        self._node: _Node | None = None
        self._scheduler.footprint = self
        return True

    def touch(self, target: Any, *, write: bool) -> None:
        """The transition under way touches this; `key` is its name in every schedule."""
        key: int | str = target if isinstance(target, str) else target.key
        (self._under_way.writes if write else self._under_way.reads).add(key)

    def touch_anything(self) -> None:
        """The transition under way may depend on any other."""
        self._under_way.anything = True

    def step(self, task: Task, enabled: list[Task]) -> None:
        """A transition of `task` ended here: those that do not commute with it wake up."""
        done, self._under_way = self._under_way, Touched()
        if not self._guarded:
            call = _library_call()
            if call is None or call is not self._calls.get(task.number):
                done.anything = True
            self._calls[task.number] = call
        if self._node is not None:
            self._node.taken[task.number] = done
            self._node = None
        self._sleeping = {
            number: touched
            for number, touched in self._sleeping.items()
            if number != task.number and touched.commutes(done)
        }
        if len(enabled) == 1 and enabled[0].number in self._sleeping:
            self._prune()

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """The branch while it lasts; then stay among those awake, and note the others."""
        made = self._made
        index = len(made)
        branch = self._item.choices
        if index < len(branch):
            chosen = next((task for task in enabled if task.number == branch[index]), None)
            if chosen is None:
                raise NondeterministicError(f"task {branch[index]} could not act at choice {index}")
            if index == len(branch) - 1 and self._item.node is not None:
                self._node = self._item.node
                self._sleeping = self._node.sleeping | self._node.taken
        else:
            awake = [task for task in enabled if task.number not in self._sleeping]
            if not awake:
                self._prune()
            chosen = stay(awake, current)
            self._node = node = _Node(self._sleeping)
            for task in awake:
                if task is not chosen:
                    self._stack.append(_Item(bytes(made) + bytes((task.number,)), node))
        made.append(chosen.number)
        return chosen

    def _prune(self) -> None:
        self._scheduler.fail(Ending(PRUNED, "an equivalent schedule was run before", ""))

    def ended(self, choices: int, tasks: int) -> None:  # noqa: ARG002 - a strategy's signature
        """Forget the frames that told which calls were the same; a fair schedule hides others."""
        self._calls.clear()
        self._cut = self._cut or choices > len(self._made)


PRUNED = "pruned"


def _library_call() -> FrameType | None:
    """The frame of CPython's own library that user code called, and that we are still inside."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no other way to see a stack
    call = None
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name in LIBRARY:
            call = frame
        elif not name.startswith("harness.schedule"):
            return call
        frame = frame.f_back
    return None
