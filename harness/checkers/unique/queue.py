"""Checks in O(n log n) that a queue into which no item is put twice is linearizable.

Four patterns, and no others, prove that a history of a queue is not linearizable (Henzinger, Sezgin
and Vafeiadis, "Aspect-oriented linearizability proofs", CONCUR 2013; Bouajjani, Emmi, Enea and
Hamza, "On reducing linearizability to state reachability", ICALP 2015): a dequeued item that was
not put in, an item dequeued twice, two items dequeued in the wrong order, and a queue that seemed
empty while it held an item all the time. One sweep in order of time finds each of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Any

from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict


def unique_queue(promise: Promise) -> Checker:
    """Make the checker of `enqueue(item)` and `dequeue() -> item`, or None from an empty queue.

    Finds a *phantom* (an item that was never put in, or only later), a *duplicate*, an
    *out-of-order* item (taken after one that was put in later), a *lost-write* (never taken, though
    a later item was, or though the queue seemed empty), and a *stale-read* (the queue seemed empty,
    though it held items that were taken later).

    Unknown if an item was put in twice, and where a dequeue without a reply may have taken an item
    that seems lost. Other functions are ignored.
    """

    def check(history: History) -> Verdict:
        items: dict[Any, _Item] = {}
        repeated = []
        for put in history:
            if put.function == "enqueue" and put.outcome is not Outcome.FAIL:
                name = put.argument["item"]
                if name in items:
                    repeated.append(f"{name!r} was put in more than once")
                items[name] = _Item(put)
        if repeated:
            return Verdict(unknowns=tuple(repeated))
        dequeues = history.of("dequeue")
        mistaken = tuple(_mistaken(dequeues, items, promise))
        empty = [op for op in dequeues if op.outcome is Outcome.OK and op.result is None]
        gone = [item for item in items.values() if item.taken]
        sure = [item for item in items.values() if item.taken or item.put.outcome is Outcome.OK]
        disorders = tuple(_disorders(sure, empty, promise))
        if disorders and any(op.outcome is Outcome.INFO for op in dequeues):
            proven = mistaken + tuple(_disorders(gone, empty, promise))
            doubt = f"{disorders[0].message}, unless a dequeue without a reply took the item"
            return Verdict(proven) if proven else Verdict(unknowns=(doubt,))
        return Verdict(mistaken + disorders)

    return check


@dataclass(slots=True)
class _Item:
    """An item: its enqueue, and its dequeue if there was one."""

    put: Operation
    taken: Operation | None = None

    @property
    def name(self) -> Any:
        """The item itself."""
        return self.put.argument["item"]

    @property
    def end(self) -> float:
        """From when on the queue held it for certain."""
        return inf if self.put.completed_ns is None else self.put.completed_ns

    @property
    def begin(self) -> float:
        """From when on the queue may not hold it any more."""
        return inf if self.taken is None else self.taken.invoked_ns

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The enqueue, and the dequeue if there was one."""
        return (self.put,) if self.taken is None else (self.put, self.taken)


def _mistaken(
    dequeues: Sequence[Operation], items: dict[Any, _Item], promise: Promise
) -> Iterator[Anomaly]:
    """Report dequeues that are wrong in any order; give each item the dequeue that took it."""
    for taken in dequeues:
        if taken.outcome is not Outcome.OK or taken.result is None:
            continue
        item = items.get(taken.result) if isinstance(taken.result, Hashable) else None
        if item is None:
            yield _mistake(promise, "phantom", "was never put in", (taken,))
        elif taken.precedes(item.put):
            yield _mistake(promise, "phantom", "was put in only later", (item.put, taken))
        elif item.taken:
            problem = f"process {item.taken.process} has taken too"
            yield _mistake(promise, "duplicate", problem, (item.put, item.taken, taken))
        else:
            item.taken = taken


def _mistake(promise: Promise, name: str, problem: str, evidence: tuple[Operation, ...]) -> Anomaly:
    taken = evidence[-1]
    return Anomaly(
        promise,
        f"{taken.call} by process {taken.process} returned {taken.result!r}, which {problem}",
        evidence,
        name,
        expected="an item that was put in before and not taken yet, or None",
        observed=repr(taken.result),
    )


def _disorders(
    items: Sequence[_Item], empty: Sequence[Operation], promise: Promise
) -> Iterator[Anomaly]:
    """Report what contradicts the order in which the items were put in."""
    yield from _overtaken(items, promise)
    yield from _unseen(items, empty, promise)


def _overtaken(items: Sequence[_Item], promise: Promise) -> Iterator[Anomaly]:
    """Report once each item that was put in before another one and taken after it, or never.

    Of all items that were in for certain before an item was put in, the one taken last decides.
    """
    earlier = sorted(items, key=lambda item: item.end)
    passed = 0
    last: _Item | None = None
    reported = set()
    for item in sorted(items, key=lambda item: item.put.invoked_ns):
        while passed < len(earlier) and earlier[passed].end < item.put.invoked_ns:
            last = max(last or earlier[passed], earlier[passed], key=lambda item: item.begin)
            passed += 1
        if item.taken is None or last is None or id(last) in reported:
            continue
        if item.taken.completed_ns is not None and item.taken.completed_ns < last.begin:
            reported.add(id(last))
            later = "never taken" if last.taken is None else "taken later"
            yield Anomaly(
                promise,
                f"{item.taken.call} by process {item.taken.process} skipped {last.name!r}, which"
                f" was {later}",
                (last.put, item.put, item.taken, *last.operations[1:]),
                "lost-write" if last.taken is None else "out-of-order",
                expected=f"{last.name!r} before {item.name!r}",
                observed=f"{item.name!r} first, {last.name!r} {later}",
            )


def _unseen(
    items: Sequence[_Item], empty: Sequence[Operation], promise: Promise
) -> Iterator[Anomaly]:
    """Report answers that the queue is empty while it held some item at every time."""
    present = sorted((item for item in items if item.end < item.begin), key=lambda item: item.end)
    ends = [item.end for item in present]
    longest = list(accumulate(present, lambda *two: max(two, key=lambda item: item.begin)))
    for dequeue in empty:
        reach: float = dequeue.invoked_ns
        chain: list[_Item] = []
        while position := bisect_left(ends, reach):
            item = longest[position - 1]
            if item.begin <= reach:
                break
            chain.append(item)
            reach = item.begin
            if dequeue.completed_ns is not None and dequeue.completed_ns < reach:
                yield _false_empty(dequeue, chain, promise)
                break


def _false_empty(dequeue: Operation, chain: Sequence[_Item], promise: Promise) -> Anomaly:
    names = " or ".join(repr(item.name) for item in chain)
    return Anomaly(
        promise,
        f"{dequeue.call} by process {dequeue.process} found no item though the queue was never"
        " empty meanwhile",
        (*(operation for item in chain for operation in item.operations), dequeue),
        "lost-write" if chain[-1].taken is None else "stale-read",
        expected=names,
        observed="None",
    )
