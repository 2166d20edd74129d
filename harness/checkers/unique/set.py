"""Checks that a growing set to which no item is added twice is linearizable.

Of two reads one must have seen every item that the other saw, so the seen items order the reads,
and each item belongs just before the first read that saw it. That fixes the order of all operations
except those between the same two reads, whose order does not matter. So the history is linearizable
exactly if no operation that belongs later completed before one that belongs earlier began (the
argument of Gibbons and Korach, "Testing shared memories", SIAM Journal on Computing 26, 1997, for
sets). The checker needs about linear time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict


def unique_set(promise: Promise) -> Checker:
    """Make the checker of `add(item)` and `read() -> items`, a list in any order.

    Finds a *phantom* (an item that was never added, or only later), a *duplicate*, a *lost-write*
    (an item that was there, and is in no later read), a *stale-read* (it is in a later one), an
    item *out-of-order* (seen without one that was there before it was added), and a *long-fork*
    (two reads, each without an item that the other saw). Unknown if an item was added twice. Other
    functions are ignored.
    """

    def check(history: History) -> Verdict:
        adds: dict[Any, Operation] = {}
        repeated = []
        for add in history:
            if add.function == "add" and add.outcome is not Outcome.FAIL:
                item = add.argument["item"]
                if item in adds:
                    repeated.append(f"{item!r} was added more than once")
                adds[item] = add
        if repeated:
            return Verdict(unknowns=tuple(repeated))
        views = [_View(read, _added(read, adds)) for read in history.happened.of("read")]
        views.sort(key=lambda view: len(view.items))
        mistaken = tuple(anomaly for view in views for anomaly in _mistaken(view, promise))
        case = _Case(promise, adds, views)
        return Verdict((*mistaken, *(tuple(case.forks()) or case.misplaced())))

    return check


@dataclass(frozen=True, slots=True)
class _View:
    """A read, and those of its items that were added."""

    read: Operation
    items: frozenset[Any]


def _added(read: Operation, adds: dict[Any, Operation]) -> frozenset[Any]:
    try:
        items = frozenset(read.result)
    except TypeError:  # an item without a hash cannot have been added
        items = frozenset(item for item in read.result if isinstance(item, Hashable))
    return items if items <= adds.keys() else items.intersection(adds)


def _mistaken(view: _View, promise: Promise) -> Iterator[Anomaly]:
    """Report what is wrong with a read in any order."""
    read = view.read
    if len(read.result) == len(view.items):
        return
    for position, item in enumerate(read.result):
        if not isinstance(item, Hashable) or item not in view.items:
            yield Anomaly(
                promise,
                f"{read.call} by process {read.process} has {item!r}, which was never added",
                (read,),
                "phantom",
                expected="only items that were added",
                observed=f"{item!r}",
            )
        elif item in read.result[:position]:
            yield Anomaly(
                promise,
                f"{read.call} by process {read.process} has {item!r} more than once",
                (read,),
                "duplicate",
                expected=f"{item!r} once",
                observed=f"{item!r} {read.result.count(item)} times",
            )


class _Position(NamedTuple):
    """Where an operation belongs: items before the reads that saw them first; and that read."""

    rank: int
    operation: Operation
    view: _View | None


@dataclass(frozen=True, slots=True)
class _Case:
    """All added items, and all views, those with the fewest items first."""

    promise: Promise
    adds: dict[Any, Operation]
    views: Sequence[_View]

    def forks(self) -> Iterator[Anomaly]:
        """Report two views, neighbours in size, neither of which has all items of the other."""
        for small, large in pairwise(self.views):
            if small.items <= large.items:
                continue
            in_small = self._in_order(small.items - large.items)[0]
            in_large = self._in_order(large.items - small.items)[0]
            if small.read.precedes(large.read):
                yield self._gone(in_small, small.read, large)
            elif large.read.precedes(small.read):
                yield self._gone(in_large, large.read, small)
            else:
                first, second = small.read.process, large.read.process
                yield Anomaly(
                    self.promise,
                    f"{small.read.call} by process {first} and by process {second} each lack an"
                    " item that the other one has",
                    (self.adds[in_small], self.adds[in_large], small.read, large.read),
                    "long-fork",
                    expected=f"{in_small!r} and {in_large!r} in one of the two reads",
                    observed=f"{in_small!r} only in the first, {in_large!r} only in the second",
                )

    def misplaced(self) -> Iterator[Anomaly]:
        """Report once each operation that completed before one began that belongs before it."""
        positions = self._positions()
        over = sorted(positions, key=lambda position: _end(position.operation))
        passed = 0
        last: _Position | None = None
        reported = set()
        for position in sorted(positions, key=lambda position: position.operation.invoked_ns):
            invoked_ns = position.operation.invoked_ns
            while passed < len(over) and _end(over[passed].operation) < invoked_ns:
                last = max(last or over[passed], over[passed], key=lambda position: position.rank)
                passed += 1
            if last is not None and last.rank > position.rank and id(last) not in reported:
                reported.add(id(last))
                yield self._swapped(last, position)

    def _positions(self) -> list[_Position]:
        positions = []
        first: dict[Any, tuple[int, _View | None]] = {}
        known: frozenset[Any] = frozenset()
        rank = 1
        for view in self.views:
            if len(view.items) > len(known):
                rank += 2
                first |= dict.fromkeys(view.items - known, (rank - 1, view))
                known = view.items
            positions.append(_Position(rank, view.read, view))
        for item, add in self.adds.items():
            if item in first or add.outcome is Outcome.OK:
                before, seen_in = first.get(item, (rank + 1, None))
                positions.append(_Position(before, add, seen_in))
        return positions

    def _swapped(self, sooner: _Position, later: _Position) -> Anomaly:
        """Report what is wrong with two operations that belong in the other order."""
        first, second = sooner.operation, later.operation
        assert later.view is not None  # an add that no read saw belongs last
        if second.function == "read":
            if first.function == "read" and sooner.view is not None:
                missing = self._in_order(sooner.view.items - later.view.items)[0]
            else:
                missing = first.argument["item"]
            return self._gone(missing, first, later.view)
        item = second.argument["item"]
        if first.function == "read":
            return Anomaly(
                self.promise,
                f"{first.call} by process {first.process} has {item!r}, which was added only later",
                (second, first),
                "phantom",
                expected=f"no {item!r} before {second.call} began",
                observed=f"{first.result}",
            )
        read, other = later.view.read, first.argument["item"]
        return Anomaly(
            self.promise,
            f"{read.call} by process {read.process} has {item!r} without {other!r}, which was"
            " there before",
            (first, second, read),
            "lost-write" if sooner.view is None else "out-of-order",
            expected=f"{other!r} in every read that has {item!r}",
            observed=f"{read.result}",
        )

    def _gone(self, item: Any, since: Operation, view: _View) -> Anomaly:
        """Report a view without an item that was there since that operation."""
        read, add = view.read, self.adds[item]
        back = any(
            item in other.items and other.read.invoked_ns > read.invoked_ns for other in self.views
        )
        return Anomaly(
            self.promise,
            f"{read.call} by process {read.process} lacks {item!r}, which was there since"
            f" {_reference(since)}",
            (add, read) if since is add else (add, since, read),
            "stale-read" if back else "lost-write",
            expected=f"{item!r} among the items",
            observed=f"{read.result}",
        )

    def _in_order(self, items: Iterable[Any]) -> list[Any]:
        return sorted(items, key=lambda item: (self.adds[item].invoked_ns, repr(item)))


def _reference(operation: Operation) -> str:
    if operation.function == "read":
        return f"a read of it by process {operation.process}"
    return operation.call


def _end(operation: Operation) -> float:
    return inf if operation.completed_ns is None else operation.completed_ns
