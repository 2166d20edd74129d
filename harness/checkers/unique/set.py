"""A growing set to which no item is added twice: linearizability in about linear time.

Of two reads one must have seen all that the other saw, so the reads order themselves by what they
saw, and each item belongs just before the first read that saw it. That fixes the order of all
operations but of those between the same two reads, which do not care. So the history is
linearizable exactly if nothing that belongs later was over before something that belongs earlier
began (the argument of Gibbons and Korach, "Testing shared memories", SIAM Journal on Computing 26,
1997, for sets).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict


def unique_set(promise: Promise) -> Checker:
    """Make the checker of `add(item)` and `read() -> items`, a list in any order.

    Finds a *phantom* (an item that nobody added, or not yet), a *duplicate*, a *lost-write* (an
    item that was there, and is in no later read), a *stale-read* (it is in a later one), an item
    *out-of-order* (seen without one that was there before it was added), and a *long-fork* (two
    reads, each without something that the other saw). Unknown if an item was added twice. What is
    neither an add nor a read is not looked at.
    """

    def check(history: History) -> Verdict:
        adds: dict[Any, Operation] = {}
        twice = []
        for add in history:
            if add.function == "add" and add.outcome is not Outcome.FAIL:
                if add.argument in adds:
                    twice.append(f"{add.argument!r} was added more than once")
                adds[add.argument] = add
        if twice:
            return Verdict(unknowns=tuple(twice))
        reads = [op for op in history if op.function == "read" and op.outcome is Outcome.OK]
        looks = [_Look(read, _added(read, adds)) for read in reads]
        looks.sort(key=lambda look: len(look.items))
        mistaken = tuple(anomaly for look in looks for anomaly in _mistaken(look, promise))
        case = _Case(promise, adds, looks)
        return Verdict((*mistaken, *(tuple(case.forks()) or case.misplaced())))

    return check


@dataclass(frozen=True, slots=True)
class _Look:
    """A read, and the items it saw that somebody added."""

    read: Operation
    items: frozenset[Any]


def _added(read: Operation, adds: dict[Any, Operation]) -> frozenset[Any]:
    try:
        items = frozenset(read.result)
    except TypeError:  # nobody adds what has no hash
        items = frozenset(item for item in read.result if isinstance(item, Hashable))
    return items if items <= adds.keys() else items.intersection(adds)


def _mistaken(look: _Look, promise: Promise) -> Iterator[Anomaly]:
    """Tell what is wrong with a read whatever the order."""
    read = look.read
    if len(read.result) == len(look.items):
        return
    for place, item in enumerate(read.result):
        if not isinstance(item, Hashable) or item not in look.items:
            message = f"process {read.process} saw {item!r}, which nobody added"
            yield Anomaly(promise, message, (read,), "phantom")
        elif item in read.result[:place]:
            message = f"process {read.process} saw {item!r} more than once in one read"
            yield Anomaly(promise, message, (read,), "duplicate")


class _Place(NamedTuple):
    """Where an operation belongs: what reads saw first, then they; and the first of those reads."""

    rank: int
    operation: Operation
    look: _Look | None


@dataclass(frozen=True, slots=True)
class _Case:
    """All that was added, and all looks, those that saw less first."""

    promise: Promise
    adds: dict[Any, Operation]
    looks: Sequence[_Look]

    def forks(self) -> Iterator[Anomaly]:
        """Tell of two looks, neighbours in size, neither of which saw all that the other did."""
        for small, large in pairwise(self.looks):
            if small.items <= large.items:
                continue
            mine = self._in_order(small.items - large.items)[0]
            yours = self._in_order(large.items - small.items)[0]
            if small.read.precedes(large.read):
                yield self._gone(mine, small.read, large)
            elif large.read.precedes(small.read):
                yield self._gone(yours, large.read, small)
            else:
                one, other = small.read.process, large.read.process
                message = (
                    f"process {one} saw {mine!r} and not {yours!r}, process {other} the reverse"
                )
                evidence = (self.adds[mine], self.adds[yours], small.read, large.read)
                yield Anomaly(self.promise, message, evidence, "long-fork")

    def misplaced(self) -> Iterator[Anomaly]:
        """Tell, once each, of what was over before something began that belongs before it."""
        places = self._places()
        over = sorted(places, key=lambda place: _end(place.operation))
        passed = 0
        last: _Place | None = None
        told = set()
        for place in sorted(places, key=lambda place: place.operation.invoked_ns):
            while passed < len(over) and _end(over[passed].operation) < place.operation.invoked_ns:
                last = max(last or over[passed], over[passed], key=lambda place: place.rank)
                passed += 1
            if last is not None and last.rank > place.rank and id(last) not in told:
                told.add(id(last))
                yield self._swapped(last, place)

    def _places(self) -> list[_Place]:
        places = []
        first: dict[Any, tuple[int, _Look | None]] = {}
        known: frozenset[Any] = frozenset()
        rank = 1
        for look in self.looks:
            if len(look.items) > len(known):
                rank += 2
                first |= dict.fromkeys(look.items - known, (rank - 1, look))
                known = look.items
            places.append(_Place(rank, look.read, look))
        for item, add in self.adds.items():
            if item in first or add.outcome is Outcome.OK:
                before, seen_in = first.get(item, (rank + 1, None))
                places.append(_Place(before, add, seen_in))
        return places

    def _swapped(self, sooner: _Place, later: _Place) -> Anomaly:
        """Name what is wrong with two operations that belong in the other order."""
        first, second = sooner.operation, later.operation
        assert later.look is not None  # what nobody saw belongs last, so before nothing
        if second.function == "read":
            missing = [first.argument]
            if first.function == "read" and sooner.look is not None:
                missing = self._in_order(sooner.look.items - later.look.items)
            return self._gone(missing[0], first, later.look)
        if first.function == "read":
            message = f"process {first.process} saw {second.argument!r} before {second} began"
            return Anomaly(self.promise, message, (second, first), "phantom")
        read = later.look.read
        message = (
            f"process {read.process} saw {second.argument!r} without {first.argument!r}, "
            "which was there before"
        )
        name = "lost-write" if sooner.look is None else "out-of-order"
        return Anomaly(self.promise, message, (first, second, read), name)

    def _gone(self, item: Any, since: Operation, look: _Look) -> Anomaly:
        """Tell of an item that was there since that operation, and was not seen in this look."""
        read, add = look.read, self.adds[item]
        back = any(
            item in other.items and other.read.invoked_ns > read.invoked_ns for other in self.looks
        )
        message = (
            f"process {read.process} did not see {item!r}, though {_told(since)} was over before"
        )
        evidence = (add, read) if since is add else (add, since, read)
        return Anomaly(self.promise, message, evidence, "stale-read" if back else "lost-write")

    def _in_order(self, items: Iterable[Any]) -> list[Any]:
        return sorted(items, key=lambda item: (self.adds[item].invoked_ns, repr(item)))


def _told(operation: Operation) -> str:
    if operation.function == "read":
        return f"a read of it by process {operation.process}"
    return str(operation)


def _end(operation: Operation) -> float:
    return inf if operation.completed_ns is None else operation.completed_ns
