"""A queue into which no item is put twice: linearizability in O(n log n).

Four patterns, and no others, prove that a history of a queue is not linearizable (Henzinger, Sezgin
and Vafeiadis, "Aspect-oriented linearizability proofs", CONCUR 2013; Bouajjani, Emmi, Enea and
Hamza, "On reducing linearizability to state reachability", ICALP 2015): an item taken that was not
put in, an item taken twice, two items taken in the wrong order, and a queue that seemed empty while
something was in it all the time. Each is found by one sweep in order of time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Any

from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict


def unique_queue(promise: Promise) -> Checker:
    """Make the checker of `enqueue(item)` and `dequeue() -> item`, or None from an empty queue.

    Finds a *phantom* (an item that nobody put in, or not yet), a *duplicate*, an *out-of-order*
    item (taken after one that was put in later), a *lost-write* (never taken, though a later item
    was, or though the queue seemed empty), and a *stale-read* (the queue seemed empty, though items
    were in it that were taken later).

    Unknown if an item was put in twice, and where a dequeue without a reply may have taken what
    seems lost. What is neither an enqueue nor a dequeue is not looked at.
    """

    def check(history: History) -> Verdict:
        items: dict[Any, _Item] = {}
        twice = []
        for put in history:
            if put.function == "enqueue" and put.outcome is not Outcome.FAIL:
                if put.argument in items:
                    twice.append(f"{put.argument!r} was put in more than once")
                items[put.argument] = _Item(put)
        if twice:
            return Verdict(unknowns=tuple(twice))
        dequeues = [op for op in history if op.function == "dequeue"]
        mistaken = tuple(_mistaken(dequeues, items, promise))
        empty = [op for op in dequeues if op.outcome is Outcome.OK and op.result is None]
        gone = [item for item in items.values() if item.taken]
        there = [item for item in items.values() if item.taken or item.put.outcome is Outcome.OK]
        disorders = tuple(_disorders(there, empty, promise))
        if disorders and any(op.outcome is Outcome.INFO for op in dequeues):
            proven = mistaken + tuple(_disorders(gone, empty, promise))
            doubt = f"{disorders[0].message}, unless a dequeue whose reply was lost took it"
            return Verdict(proven) if proven else Verdict(unknowns=(doubt,))
        return Verdict(mistaken + disorders)

    return check


@dataclass(slots=True)
class _Item:
    """An item: how it was put in, and taken, if it was."""

    put: Operation
    taken: Operation | None = None

    @property
    def end(self) -> float:
        """When it was surely in."""
        return inf if self.put.completed_ns is None else self.put.completed_ns

    @property
    def begin(self) -> float:
        """When it was perhaps out."""
        return inf if self.taken is None else self.taken.invoked_ns

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Both of them."""
        return (self.put,) if self.taken is None else (self.put, self.taken)


def _mistaken(
    dequeues: Sequence[Operation], items: dict[Any, _Item], promise: Promise
) -> Iterator[Anomaly]:
    """Tell of dequeues that are wrong whatever the order; give each item the one that took it."""
    for taken in dequeues:
        if taken.outcome is not Outcome.OK or taken.result is None:
            continue
        item = items.get(taken.result) if isinstance(taken.result, Hashable) else None
        if item is None:
            yield Anomaly(promise, f"{taken}, which nobody put in", (taken,), "phantom")
        elif taken.precedes(item.put):
            message = f"{taken} was over before {item.put} began"
            yield Anomaly(promise, message, (item.put, taken), "phantom")
        elif item.taken:
            message = f"{taken}, which process {item.taken.process} took as well"
            yield Anomaly(promise, message, (item.put, item.taken, taken), "duplicate")
        else:
            item.taken = taken


def _disorders(
    items: Sequence[_Item], empty: Sequence[Operation], promise: Promise
) -> Iterator[Anomaly]:
    """Tell of what contradicts the order in which the items were put in."""
    yield from _overtaken(items, promise)
    yield from _unseen(items, empty, promise)


def _overtaken(items: Sequence[_Item], promise: Promise) -> Iterator[Anomaly]:
    """Tell, once each, of items that were put in before others and taken after them, or never.

    Of all that was surely in before an item was put in, look at the one that was taken last.
    """
    earlier = sorted(items, key=lambda item: item.end)
    place = 0
    last: _Item | None = None
    told = set()
    for item in sorted(items, key=lambda item: item.put.invoked_ns):
        while place < len(earlier) and earlier[place].end < item.put.invoked_ns:
            last = max(last or earlier[place], earlier[place], key=lambda item: item.begin)
            place += 1
        if item.taken is None or last is None or id(last) in told:
            continue
        if item.taken.completed_ns is not None and item.taken.completed_ns < last.begin:
            told.add(id(last))
            later = "never taken" if last.taken is None else "taken later"
            message = f"{last.put.argument!r} was {later}, though put in before {item.taken}"
            name = "lost-write" if last.taken is None else "out-of-order"
            evidence = (last.put, item.put, item.taken, *last.operations[1:])
            yield Anomaly(promise, message, evidence, name)


def _unseen(
    items: Sequence[_Item], empty: Sequence[Operation], promise: Promise
) -> Iterator[Anomaly]:
    """Tell of answers that the queue is empty while at every time some item was surely in it."""
    present = sorted((item for item in items if item.end < item.begin), key=lambda item: item.end)
    ends = [item.end for item in present]
    longest = list(accumulate(present, lambda *two: max(two, key=lambda item: item.begin)))
    for dequeue in empty:
        reach: float = dequeue.invoked_ns
        chain: list[_Item] = []
        while place := bisect_left(ends, reach):
            item = longest[place - 1]
            if item.begin <= reach:
                break
            chain.append(item)
            reach = item.begin
            if dequeue.completed_ns is not None and dequeue.completed_ns < reach:
                yield _false_empty(dequeue, chain, promise)
                break


def _false_empty(dequeue: Operation, chain: Sequence[_Item], promise: Promise) -> Anomaly:
    there = ", then ".join(repr(item.put.argument) for item in chain)
    message = f"{dequeue}, though all the while something was in the queue: {there}"
    evidence = (*(operation for item in chain for operation in item.operations), dequeue)
    lost = chain[-1].taken is None
    return Anomaly(promise, message, evidence, "lost-write" if lost else "stale-read")
