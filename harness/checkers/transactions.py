"""List-append transactions: what was appended and read, and what reads alone prove.

An operation is one transaction. Its function is `txn`, its argument a list of micro-operations:
`["append", key, value]` adds a value to the end of the key's list, `["r", key, None]` reads the
list. Its result is the same, with what the reads saw: `["r", key, [1, 2]]`. Every list is empty at
first (None says so as well), and no value is appended twice to a key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from harness.history import History, Operation, Outcome
from harness.promises import Promise
from harness.verdict import Anomaly

Key: TypeAlias = Hashable
Value: TypeAlias = Any


@dataclass(slots=True)
class Log:
    """The transactions that may have happened, by number, and what they did, by key."""

    transactions: list[Operation] = field(default_factory=list)
    reads: defaultdict[Key, list[list[Value]]] = field(default_factory=lambda: defaultdict(list))
    readers: defaultdict[Key, list[int]] = field(default_factory=lambda: defaultdict(list))
    writers: defaultdict[Key, dict[Value, int]] = field(default_factory=lambda: defaultdict(dict))
    failed: dict[tuple[Key, Value], Operation] = field(default_factory=dict)
    repeats: list[int] = field(default_factory=list)  # who did more than one thing to some key
    twice: list[str] = field(default_factory=list)  # what was appended twice, so proves nothing


_NOTHING: list[Value] = []


def read_log(history: History) -> Log:
    """Sort the history's transactions out; other operations are not looked at."""
    log = Log()
    reads, readers, writers = log.reads, log.readers, log.writers
    appends = 0
    for operation in history:
        if operation.function != "txn":
            continue
        if operation.outcome is Outcome.FAIL:
            log.failed |= {(key, value): operation for _, key, value in _appends(operation)}
            continue
        done = operation.result if operation.outcome is Outcome.OK else _appends(operation)
        number = len(log.transactions)
        log.transactions.append(operation)
        for what, key, value in done:
            if what == "r":
                reads[key].append(value or _NOTHING)
                readers[key].append(number)
            else:
                writers[key][value] = number
                appends += 1
        if len(done) > 1 and len({key for _, key, _ in done}) < len(done):
            log.repeats.append(number)
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


def internal(log: Log, promise: Promise) -> Iterator[Anomaly]:
    """Tell of reads that contradict what the same transaction read or appended before."""
    for number in log.repeats:
        transaction = log.transactions[number]
        known: dict[Key, list[Value]] = {}
        added: defaultdict[Key, list[Value]] = defaultdict(list)
        for what, key, value in transaction.result or ():
            if what == "append":
                added[key].append(value)
                continue
            seen, mine = value or [], added[key]
            end = seen[max(len(seen) - len(mine), 0) :]
            if end != mine or (key in known and seen != known[key] + mine):
                message = f"a transaction saw {seen!r} in {key!r}, against what it did there before"
                yield Anomaly(promise, message, (transaction,), "internal")
            known[key], added[key] = seen, []


def contradictory(log: Log, key: Key, promise: Promise) -> Iterator[Anomaly]:
    """Tell of reads that leave the key's list without an order: impossible values, two orders."""
    lists = log.reads[key]
    longest = max(lists, key=len)
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


def intermediate(log: Log, keys: Container[Key], promise: Promise) -> Iterator[Anomaly]:
    """Tell of lists, of these keys, that were seen before their last writer was done with them."""
    undone: defaultdict[Key, dict[Value, int]] = defaultdict(dict)
    for number in log.repeats:
        last: dict[Key, Value] = {}
        for _, key, value in _appends(log.transactions[number]):
            if key in last:
                undone[key][last[key]] = number
            last[key] = value
    for key, writers in undone.items():
        if key not in keys:
            continue
        for seen, reader in zip(log.reads[key], log.readers[key], strict=True):
            if seen and writers.get(seen[-1], reader) != reader:
                evidence = (log.transactions[writers[seen[-1]]], log.transactions[reader])
                message = f"{key!r} was seen up to {seen[-1]!r}, when its transaction was not done"
                yield Anomaly(promise, message, evidence, "G1b")
