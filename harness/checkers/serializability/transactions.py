"""List-append transactions: what was appended and read, and what reads alone prove.

An operation is one transaction. Its function is `txn`, its argument a list of micro-operations:
`["append", key, value]` adds a value to the end of the key's list, `["r", key, None]` reads the
list. Its result is the same, with what the reads saw: `["r", key, [1, 2]]`. Every list is empty at
first (None says so as well), and no value is appended twice to a key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly

Key: TypeAlias = Hashable
Value: TypeAlias = Any


@dataclass(slots=True)
class Log:
    """The transactions that may have happened, by number, and what they did, by key."""

    transactions: list[Operation]
    reads: defaultdict[Key, list[list[Value]]] = field(default_factory=lambda: defaultdict(list))
    readers: defaultdict[Key, list[int]] = field(default_factory=lambda: defaultdict(list))
    writers: defaultdict[Key, dict[Value, int]] = field(default_factory=lambda: defaultdict(dict))
    failed: dict[tuple[Key, Value], Operation] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)  # what was appended twice, so proves nothing


_NOTHING: list[Value] = []


def read_log(history: History) -> Log:
    """Sort the history's transactions out; other operations are not looked at."""
    transactions = [operation for operation in history if operation.function == "txn"]
    failed = [transaction for transaction in transactions if transaction.outcome is Outcome.FAIL]
    log = Log(transactions)
    if failed:
        log.transactions = [op for op in transactions if op.outcome is not Outcome.FAIL]
    for transaction in failed:
        log.failed |= {(key, value): transaction for _, key, value in _appends(transaction)}
    reads, readers, writers = log.reads, log.readers, log.writers
    appends = 0
    for number, transaction in enumerate(log.transactions):
        done = transaction.result
        if transaction.outcome is not Outcome.OK:
            done = _appends(transaction)
        for what, key, value in done:
            if what == "r":
                reads[key].append(value or _NOTHING)
                readers[key].append(number)
            else:
                writers[key][value] = number
                appends += 1
    if appends > sum(map(len, writers.values())):
        log.twice += _twice(log.transactions)
    return log


def _appends(operation: Operation) -> list[list[Any]]:
    return [micro for micro in operation.argument if micro[0] == "append"]


def _twice(transactions: Iterable[Operation]) -> Iterator[str]:
    seen = set()
    for transaction in transactions:
        for _, key, value in _appends(transaction):
            if (key, value) in seen:
                yield f"{value!r} was appended to {key!r} more than once"
            seen.add((key, value))


def internal(log: Log, key: Key, promise: Promise) -> Iterator[Anomaly]:
    """Tell of reads of this list that contradict what their transaction did to it before."""
    readers = log.readers[key]
    once = set(readers)
    repeating = once.intersection(log.writers[key].values())
    if len(once) < len(readers):
        repeating.update(one for one, other in pairwise(readers) if one == other)
    for number in sorted(repeating):
        transaction = log.transactions[number]
        about = [micro for micro in transaction.result if micro[1] == key]
        while about[-1][0] == "append":
            about.pop()  # what comes after the last read contradicts nothing
        if len(about) > 1 and not _agree(about):
            lists = ", then ".join(repr(value) for what, _, value in about if what == "r")
            message = f"a transaction saw {lists} in {key!r}, against what it did there itself"
            yield Anomaly(promise, message, (transaction,), "internal")


def _agree(about: Iterable[list[Any]]) -> bool:
    """Whether each read of a list saw what the one before did, and what was appended since."""
    known: list[Value] | None = None
    added: list[Value] = []
    for what, _, value in about:
        if what == "append":
            added.append(value)
            continue
        seen = value or _NOTHING
        start = len(seen) - len(added)
        if start < 0 or seen[start:] != added or known not in (None, seen[:start]):
            return False
        known, added = seen, []
    return True


def contradictory(log: Log, key: Key, longest: list[Value], promise: Promise) -> Iterator[Anomaly]:
    """Tell of reads that leave the key's list without an order: impossible values, two orders.

    `longest` is the longest of them.
    """
    lists = log.reads[key]
    forks = [place for place, seen in enumerate(lists) if seen != longest[: len(seen)]]
    if not forks and _is_possible(longest, log.writers[key]):
        return
    reader = log.transactions[log.readers[key][lists.index(longest)]]
    yield from _impossible(log, key, longest, reader, promise)
    for place in forks:
        other = log.transactions[log.readers[key][place]]
        if found := list(_impossible(log, key, lists[place], other, promise)):
            yield from found
        else:
            message = f"{key!r} was seen as {lists[place]!r} and as {longest!r}"
            yield Anomaly(promise, message, (other, reader), "incompatible-order")


def _is_possible(seen: list[Value], writers: dict[Value, int]) -> bool:
    try:
        values = set(seen)
    except TypeError:  # nobody appends what has no hash
        return False
    return len(values) == len(seen) and values <= writers.keys()


def _impossible(
    log: Log, key: Key, seen: list[Value], reader: Operation, promise: Promise
) -> Iterator[Anomaly]:
    """Tell of values in one list that nobody appended, that failed, or that are there twice."""
    for place, value in enumerate(seen):
        can_be = isinstance(value, Hashable)
        if can_be and value in log.writers[key]:
            if value in seen[:place]:
                message = f"{value!r} was seen more than once in {key!r}"
                yield Anomaly(promise, message, (reader,), "duplicate")
        elif can_be and (key, value) in log.failed:
            message = f"{value!r} was seen in {key!r}, though its transaction failed"
            yield Anomaly(promise, message, (log.failed[key, value], reader), "G1a")
        else:
            message = f"{value!r} was seen in {key!r}, though nobody appended it"
            yield Anomaly(promise, message, (reader,), "phantom")
