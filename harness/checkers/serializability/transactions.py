"""List-append transactions: their appends and reads, and the anomalies that reads alone prove.

An operation is one transaction. Its function is `txn`, its argument has a list of micro-operations
under the name `operations`: `["append", key, value]` adds a value to the end of the key's list,
`["r", key, None]` reads the list. Its result is that list with the answers of the reads:
`["r", key, [1, 2]]`. Every list is empty at first (None stands for it too), and no value is
appended twice to a key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly

Key: TypeAlias = Hashable
Value: TypeAlias = Any


@dataclass(slots=True)
class Log:
    """The transactions that may have happened, by number, and their reads and appends, by key."""

    transactions: list[Operation]
    reads: defaultdict[Key, list[list[Value]]] = field(default_factory=lambda: defaultdict(list))
    readers: defaultdict[Key, list[int]] = field(default_factory=lambda: defaultdict(list))
    writers: defaultdict[Key, dict[Value, int]] = field(default_factory=lambda: defaultdict(dict))
    failed: dict[tuple[Key, Value], Operation] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)  # values appended twice prove nothing


_NOTHING: list[Value] = []


def read_log(history: History) -> Log:
    """Sort the history's transactions by key; other functions are ignored."""
    transactions = list(history.of("txn"))
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
        log.repeated += _repeated(log.transactions)
    return log


def _appends(operation: Operation) -> list[list[Any]]:
    return [micro for micro in operation.argument["operations"] if micro[0] == "append"]


def _repeated(transactions: Iterable[Operation]) -> Iterator[str]:
    seen = set()
    for transaction in transactions:
        for _, key, value in _appends(transaction):
            if (key, value) in seen:
                yield f"{value!r} was appended to {key!r} more than once"
            seen.add((key, value))


def internal(log: Log, key: Key, promise: Promise) -> Iterator[Anomaly]:
    """Report reads of this list that contradict earlier operations of their own transaction."""
    readers = log.readers[key]
    once = set(readers)
    repeating = once.intersection(log.writers[key].values())
    if len(once) < len(readers):
        repeating.update(first for first, second in pairwise(readers) if first == second)
    for number in sorted(repeating):
        transaction = log.transactions[number]
        about = [micro for micro in transaction.result if micro[1] == key]
        while about[-1][0] == "append":
            about.pop()  # an append behind the last read contradicts no read
        if len(about) > 1 and not _agree(about):
            lists = ", then ".join(repr(value) for what, _, value in about if what == "r")
            yield Anomaly(
                promise,
                f"a transaction of process {transaction.process} read {key!r} against its own"
                " operations",
                (transaction,),
                "internal",
                expected="each read is the read before it and the appends in between",
                observed=f"{lists}, with the own appends {_own(about)}",
            )


def _own(about: Iterable[list[Any]]) -> list[Value]:
    return [value for what, _, value in about if what == "append"]


def _agree(about: Iterable[list[Any]]) -> bool:
    """Whether each read of a list saw the result of the read before and the appends since."""
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
    """Report reads that leave the key's list without an order: impossible values, two orders.

    `longest` is the longest of them.
    """
    lists = log.reads[key]
    forks = [number for number, seen in enumerate(lists) if seen != longest[: len(seen)]]
    if not forks and _is_possible(longest, log.writers[key]):
        return
    reader = log.transactions[log.readers[key][lists.index(longest)]]
    yield from _impossible(log, key, longest, reader, promise)
    for number in forks:
        other = log.transactions[log.readers[key][number]]
        if found := list(_impossible(log, key, lists[number], other, promise)):
            yield from found
        else:
            yield Anomaly(
                promise,
                f"two transactions read {key!r} in incompatible orders",
                (other, reader),
                "incompatible-order",
                expected="one of the two lists begins with the other",
                observed=f"{lists[number]!r} and {longest!r}",
            )


def _is_possible(seen: list[Value], writers: dict[Value, int]) -> bool:
    try:
        values = set(seen)
    except TypeError:  # a value without a hash cannot have been appended
        return False
    return len(values) == len(seen) and values <= writers.keys()


def _impossible(
    log: Log, key: Key, seen: list[Value], reader: Operation, promise: Promise
) -> Iterator[Anomaly]:
    """Report values in one list that were never appended, that failed, or that are there twice."""
    for position, value in enumerate(seen):
        is_hashable = isinstance(value, Hashable)
        if is_hashable and value in log.writers[key]:
            if value in seen[:position]:
                problem = f"{value!r} more than once"
                yield _wrong_read(promise, "duplicate", key, problem, (reader,), seen)
        elif is_hashable and (key, value) in log.failed:
            problem = f"{value!r}, whose transaction failed"
            evidence = (log.failed[key, value], reader)
            yield _wrong_read(promise, "G1a", key, problem, evidence, seen)
        else:
            problem = f"{value!r}, which was never appended"
            yield _wrong_read(promise, "phantom", key, problem, (reader,), seen)


def _wrong_read(  # noqa: PLR0913, PLR0917  the parts of an anomaly
    promise: Promise,
    name: str,
    key: Key,
    problem: str,
    evidence: tuple[Operation, ...],
    seen: list[Value],
) -> Anomaly:
    return Anomaly(
        promise,
        f"a transaction of process {evidence[-1].process} read {problem}, in the list {key!r}",
        evidence,
        name,
        expected="each appended value at most once, and no other value",
        observed=f"{seen!r}",
    )
