"""Exhaustive search strategies: by number of preemptions, or up to commuting steps.

`Bounded` follows Musuvathi and Qadeer, "Iterative Context Bounding for Systematic Testing of
Multithreaded Programs" (PLDI 2007): first every schedule without a preemption, then with one, two,
and so on. A preemption is a switch away from a task that could continue; that time passes to the
next deadline although a task could act costs as much as one, and the switch after it nothing. It
prunes nothing else, as
sleep sets are not sound under a bound: the schedule that represents an equivalent one may need more
preemptions (Coons, Musuvathi, McKinley, "Bounded Partial-Order Reduction", OOPSLA 2013).

`Reduced` has no bound, and so may prune with sleep sets (Godefroid, "Partial-Order Methods for the
Verification of Concurrent Systems", 1996): a task whose next transition commutes with everything
done since a sibling schedule took it first is not taken again. This needs to know which transitions
commute. The locks and cells that a transition touches are known; the plain memory that user code
touches is not, so a transition that ran user code counts as dependent on all others. With `guarded`
the caller declares that shared memory is touched only under locks or through cells: then only those
count.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from harness.schedule.scheduler import TIME, Scheduler
from harness.schedule.strategies import stay
from harness.schedule.tasks import LIBRARY, Ending, NondeterministicError, Task

PENDING = 200_000  # untried prefixes; a search with more is not exhaustive


class Bounded:
    """Runs all schedules, those with fewer preemptions first."""

    name = "bounded"

    def __init__(self, preemptions: int | None = None) -> None:
        """Limit the number of preemptions; None for no limit."""
        self._limit = preemptions
        self._levels: list[deque[str]] = [deque([""])]
        self._overflowed: int | None = None
        self._pending = 1
        self.level = 0
        self._cut = False

    @property
    def exhausted_bound(self) -> int | None:
        """The number of preemptions up to which every schedule ran; None if not even 0."""
        return self.level - 1 if self.level else None

    @property
    def exhausted(self) -> bool:
        """Whether no schedule is left."""
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
        self._made = ""
        self._is_free = False  # time has just passed: what acts next costs nothing
        return True

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Follow the prefix; then stay, and queue the alternatives."""
        made = self._made
        index = len(made)
        if index < len(self._prefix):
            number = _number(self._prefix[index])
            chosen = next((task for task in enabled if task.number == number), None)
            if chosen is None:
                raise NondeterministicError(f"task {number} could not act at choice {index}")
        else:
            chosen = stay(enabled, current)
            cost = self.level + (current in enabled and not self._is_free)
            for task in enabled:
                if task is not chosen:
                    passes = task.number == TIME
                    self._queue(made + _coded(task.number), self.level + 1 if passes else cost)
        self._made = made + _coded(chosen.number)
        self._is_free = chosen.number == TIME
        return chosen

    def _queue(self, prefix: str, level: int) -> None:
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
        """Advance to the next level; a schedule that the fairness rule changed hides others."""
        self._cut = self._cut or choices > len(self._made)
        while self.level < len(self._levels) and not self._levels[self.level]:
            if self._overflowed == self.level:
                break
            self.level += 1


@dataclass(slots=True)
class Touched:
    """The objects that one transition touched; `anything` if user code ran without `guarded`."""

    reads: set[int | str] = field(default_factory=set)
    writes: set[int | str] = field(default_factory=set)
    anything: bool = False

    def commutes(self, other: Touched) -> bool:
        """Return whether both orders lead to the same state, and neither blocks the other."""
        if self.anything or other.anything:
            return False
        return (
            self.writes.isdisjoint(other.writes)
            and self.writes.isdisjoint(other.reads)
            and self.reads.isdisjoint(other.writes)
        )


@dataclass(slots=True)
class _Node:
    """A node in the tree of schedules, where one transition begins."""

    sleeping: dict[int, Touched]
    taken: dict[int, Touched] = field(default_factory=dict)


@dataclass(slots=True)
class _Item:
    """An untried branch: these choices, the last of them at this node."""

    choices: str  # coded
    node: _Node | None


class Reduced:
    """Runs all schedules up to commuting transitions, depth first."""

    name = "reduced"

    def __init__(self, scheduler: Scheduler, *, guarded: bool = False) -> None:
        """Search on this scheduler; `guarded` as the module's docstring says."""
        self._scheduler = scheduler
        self._guarded = guarded
        self._stack: list[_Item] = [_Item("", None)]
        self.exhausted = False
        self._cut = False

    def begin(self) -> bool:
        """Take the deepest untried branch."""
        if not self._stack:
            self.exhausted = not self._cut
            self._scheduler.footprint = None
            return False
        self._item = self._stack.pop()
        self._made = ""
        self._current = Touched()
        self._sleeping: dict[int, Touched] = {}
        self._calls: dict[int, FrameType | None] = {}
        self._node: _Node | None = None
        self._scheduler.footprint = self
        return True

    def touch(self, target: Any, *, write: bool) -> None:
        """Record that the current transition touches `target`, by its schedule-independent key."""
        key: int | str = target if isinstance(target, str) else target.key
        (self._current.writes if write else self._current.reads).add(key)

    def publish(self, target: Any) -> None:
        """Record an addition to a queue: of two, each order is another one."""
        self.touch(target, write=True)

    def touch_anything(self) -> None:
        """Record that the current transition may depend on any other."""
        self._current.anything = True

    def spawned(self, task: Task) -> None:  # noqa: ARG002 - the signature of a footprint
        """Count a start as dependent on all else."""
        self._current.anything = True

    def joined(self, tasks: list[Task]) -> None:
        """Do nothing: the ends of the tasks are transitions of their own."""

    def step(self, task: Task, enabled: list[Task]) -> None:
        """End a transition of `task`: wake the transitions that do not commute with it."""
        done, self._current = self._current, Touched()
        if not self._guarded:
            call = _library_call()
            if call is None or call is not self._calls.get(task.number):
                done.anything = True
            self._calls[task.number] = call
        if self._node is not None:
            self._node.taken[task.number] = done
            self._node = None
        if self._sleeping:
            self._sleeping = {
                number: touched
                for number, touched in self._sleeping.items()
                if number != task.number and touched.commutes(done)
            }
        if len(enabled) == 1 and enabled[0].number in self._sleeping:
            self._prune()

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Follow the branch; then stay with an awake task, and push the others."""
        made = self._made
        index = len(made)
        branch = self._item.choices
        if index < len(branch):
            number = _number(branch[index])
            chosen = next((task for task in enabled if task.number == number), None)
            if chosen is None:
                raise NondeterministicError(f"task {number} could not act at choice {index}")
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
                    self._stack.append(_Item(made + _coded(task.number), node))
        self._made = made + _coded(chosen.number)
        return chosen

    def _prune(self) -> None:
        self._scheduler.fail(Ending(PRUNED, "an equivalent schedule ran before", ""))

    def ended(self, choices: int, tasks: int) -> None:  # noqa: ARG002 - a strategy's signature
        """Drop the recorded frames; a schedule that the fairness rule changed hides others."""
        self._calls.clear()
        self._cut = self._cut or choices > len(self._made)


PRUNED = "pruned"


def _coded(number: int) -> str:
    """Return a choice as one character; a search stores hundreds of thousands of lists of them."""
    return chr(number - TIME)


def _number(character: str) -> int:
    return ord(character) + TIME


def _library_call() -> FrameType | None:
    """Return the outermost active frame of CPython's library that user code called."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the only way to read a stack
    call = None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module in LIBRARY:
            call = frame
        elif module not in _EXPLORER:
            if not module.startswith("harness.schedule"):
                return call
            _EXPLORER.add(module)
        frame = frame.f_back
    return None


_EXPLORER: set[str] = set()  # the modules of the explorer that were met
