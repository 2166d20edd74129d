"""Tests that models and checkers judge the histories that clients record, in the same shape."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.checkers.linearizability import linearizable
from harness.checkers.serializability.checker import Order, serializable
from harness.checkers.unique.queue import unique_queue
from harness.checkers.unique.register import unique_register
from harness.checkers.unique.set import unique_set
from harness.core import history
from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.history import Journal
from harness.core.verdict import Validity
from harness.engine.client import RecordingClient
from harness.engine.target import AdapterInstance
from harness.models.key_value import KeyValue, key
from harness.models.register import Register

PROMISE = Promise("R1", "A read returns the last write.")
Call = tuple[str, dict[str, Any]]


class RightObjects:
    """A register, a store, a queue, a set and a transaction log, as a user writes an adapter."""

    def __init__(self) -> None:
        self._value: Any = None
        self._texts: dict[str, str] = {}
        self._items: list[Any] = []
        self._lists: dict[str, list[Any]] = {}

    def read(self) -> Any:
        return self._value

    def write(self, value: Any) -> None:
        self._value = value

    def cas(self, expected: Any, new: Any) -> bool:
        if self._value != expected:
            return False
        self._value = new
        return True

    def get(self, key: str) -> str:
        return self._texts.get(key, "")

    def put(self, key: str, value: str) -> None:
        self._texts[key] = value

    def append(self, key: str, value: str) -> None:
        self._texts[key] = self.get(key) + value

    def enqueue(self, item: Any) -> None:
        self._items.append(item)

    def dequeue(self) -> Any:
        return self._items.pop(0) if self._items else None

    def txn(self, operations: list[list[Any]]) -> list[list[Any]]:
        result = []
        for what, name, value in operations:
            if what == "append":
                self._lists.setdefault(name, []).append(value)
                result.append([what, name, value])
            else:
                result.append([what, name, list(self._lists.get(name, []))])
        return result

    def close(self) -> None:
        self._items.clear()


class WrongObjects(RightObjects):
    """Every write is lost."""

    def write(self, value: Any) -> None:
        pass

    def put(self, key: str, value: str) -> None:
        pass

    def enqueue(self, item: Any) -> None:
        pass

    def txn(self, operations: list[list[Any]]) -> list[list[Any]]:
        result = super().txn(operations)
        self._lists.clear()
        return result


class RightSet(RightObjects):
    """A set, whose `read` returns its items."""

    def read(self) -> Any:
        return list(self._items)

    def add(self, item: Any) -> None:
        self._items.append(item)


class WrongSet(RightSet):
    """Every add is lost."""

    def add(self, item: Any) -> None:
        pass


REGISTER: list[Call] = [
    ("write", {"value": 1}),
    ("read", {}),
    ("write", {"value": 3}),
    ("read", {}),
]
CAS: list[Call] = [*REGISTER, ("cas", {"expected": 3, "new": 4}), ("read", {})]
STORE: list[Call] = [
    ("put", {"key": "x", "value": "a"}),
    ("append", {"key": "x", "value": "b"}),
    ("get", {"key": "x"}),
]
QUEUE: list[Call] = [("enqueue", {"item": 1}), ("dequeue", {}), ("dequeue", {})]
SET: list[Call] = [("add", {"item": 1}), ("read", {}), ("add", {"item": 2}), ("read", {})]
TRANSACTIONS: list[Call] = [
    ("txn", {"operations": [["append", "x", 1]]}),
    ("txn", {"operations": [["r", "x", None], ["append", "x", 2]]}),
    ("txn", {"operations": [["r", "x", None]]}),
]

CASES: dict[str, tuple[Checker, list[Call], type[RightObjects], type[RightObjects]]] = {
    "conforms": (conforms(Register(PROMISE)), CAS, RightObjects, WrongObjects),
    "linearizable": (linearizable(Register(PROMISE), PROMISE), CAS, RightObjects, WrongObjects),
    "linearizable by key": (
        linearizable(KeyValue(PROMISE), PROMISE, partition=key),
        STORE,
        RightObjects,
        WrongObjects,
    ),
    "unique register": (unique_register(PROMISE), REGISTER, RightObjects, WrongObjects),
    "unique queue": (unique_queue(PROMISE), QUEUE, RightObjects, WrongObjects),
    "unique set": (unique_set(PROMISE), SET, RightSet, WrongSet),
    "serializable": (
        serializable(PROMISE, Order.REAL_TIME),
        TRANSACTIONS,
        RightObjects,
        WrongObjects,
    ),
}


def recorded(path: Path, adapter: RightObjects, calls: list[Call]) -> Iterator[history.History]:
    """Ask an adapter through a client, and read the journal back."""
    with Journal(path, itertools.count().__next__) as journal:
        journal.episode()
        client = RecordingClient(AdapterInstance(adapter), journal)
        for function, argument in calls:
            client.ask(function, argument)
    yield from history.read(path)


@pytest.mark.parametrize(("checker", "calls", "right", "wrong"), CASES.values(), ids=CASES)
def test_recorded_history_gets_the_right_verdict(
    checker: Checker,
    calls: list[Call],
    right: type[RightObjects],
    wrong: type[RightObjects],
    tmp_path: Path,
) -> None:
    """A right object is valid, and one that loses its writes is not."""
    (of_right,) = recorded(tmp_path / "right.jsonl", right(), calls)
    (of_wrong,) = recorded(tmp_path / "wrong.jsonl", wrong(), calls)

    assert checker(of_right).validity is Validity.VALID
    verdict = checker(of_wrong)
    assert verdict.validity is Validity.INVALID
    assert {anomaly.promise for anomaly in verdict.anomalies} == {PROMISE}
    assert all(anomaly.expected and anomaly.observed for anomaly in verdict.anomalies)
