"""The history of a run: every operation of every client, and the journal file that stores it.

This module knows no server and no wall clock: the writer of a journal passes a clock in. A run's
file holds one or more *episodes*, each the history of one fresh instance of a target.

An invocation is written before the call goes out and its completion after, so a crash of the
harness leaves evidence. An invocation without a completion is read back as *info*: it may have
happened, and may still happen.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from harness.core.errors import HistoryDamagedError


class Outcome(StrEnum):
    """What is known of a call after its reply arrived or was lost."""

    OK = "ok"  # it happened
    FAIL = "fail"  # it did not happen, and will not
    INFO = "info"  # unknown: it may have happened


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one logical client, and its outcome.

    `argument` is the mapping of keyword arguments that the client journals, such as
    `{"key": "x", "value": 3}`; every model and checker reads that shape. `process` does one thing
    at a time; after a lost reply it gets a new number. Times are monotonic nanoseconds on the
    run's one clock; `completed_ns` is None where the completion is unknown. `result` belongs to
    an *ok*, `error` (one line, the exception's type first) to the others.
    """

    process: int
    function: str
    argument: Any
    outcome: Outcome
    invoked_ns: int
    completed_ns: int | None
    result: Any = None
    error: str = ""

    @property
    def is_unanswered(self) -> bool:
        """Whether the client itself was gone before a reply arrived or was given up."""
        return self.outcome is Outcome.INFO and not self.error

    def precedes(self, other: Operation) -> bool:
        """Whether this operation completed before `other` was invoked (real-time order)."""
        return self.completed_ns is not None and self.completed_ns < other.invoked_ns

    def meets(self, other: Operation) -> bool:
        """Whether the two operations overlap in time for certain."""
        return _begins_within(self, other) and _begins_within(other, self)

    @property
    def call(self) -> str:
        """The call as text: `append(session='s1', text='x')`."""
        return call(self.function, self.argument)

    @property
    def answer(self) -> str:
        """The outcome as text: the result, the error, or that it is unknown."""
        return {
            Outcome.OK: f"-> {json.dumps(self.result)}",
            Outcome.FAIL: f"failed: {self.error}",
            Outcome.INFO: f"unknown: {self.error or 'no reply'}",
        }[self.outcome]

    def __str__(self) -> str:
        return f"{self.call} {self.answer}"

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object; `from_json` reads it back."""
        return {
            "process": self.process,
            "function": self.function,
            "argument": self.argument,
            "outcome": str(self.outcome),
            "invoked_ns": self.invoked_ns,
            "completed_ns": self.completed_ns,
            "result": self.result,
            "error": self.error,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Operation:
        """Read what `to_json` wrote."""
        return cls(**{**data, "outcome": Outcome(data["outcome"])})


def _begins_within(first: Operation, second: Operation) -> bool:
    return second.completed_ns is None or first.invoked_ns < second.completed_ns


def call(function: str, argument: Any) -> str:
    """Render a call as source code would write it: `append(session='s1', text='x')`."""
    if isinstance(argument, Mapping):
        text = ", ".join(f"{name}={value!r}" for name, value in argument.items())
    else:
        text = "" if argument is None else repr(argument)
    return f"{function}({text})"


@dataclass(frozen=True, slots=True)
class FaultInterval:
    """The time during which one fault was active; `healed_ns` is None if it never ended."""

    name: str
    began_ns: int
    healed_ns: int | None = None


@dataclass(frozen=True, slots=True)
class History:
    """One episode: operations in order of invocation, and the faults injected meanwhile."""

    operations: tuple[Operation, ...] = ()
    faults: tuple[FaultInterval, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    def of(self, *functions: str) -> tuple[Operation, ...]:
        """The operations of these functions, in order of invocation."""
        return tuple([op for op in self.operations if op.function in functions])

    @property
    def happened(self) -> History:
        """The same episode with only the operations that happened: those with a result."""
        return replace(
            self, operations=tuple([op for op in self.operations if op.outcome is Outcome.OK])
        )


def digest(histories: Iterable[History]) -> str:
    """Fingerprint calls and outcomes without the times: same seed, same digest."""
    sha = hashlib.sha256()
    for history in histories:
        for op in history:
            row = (op.process, op.function, op.argument, str(op.outcome), op.result)
            sha.update(json.dumps(row, sort_keys=True, default=str).encode())
        sha.update(b"\n")
    return sha.hexdigest()[:16]


class Journal:
    """Writes a history while it happens, one JSON line for each event, each by a single `write`.

    A line goes to the operating system at once: it survives a kill of this process. It is not
    synced, so it need not survive a power loss. Threads may share a journal, because each line is
    a single append. Every method that writes raises OSError where that fails, such as on a full
    disk.
    """

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        """Append to the file at `path`; `clock` gives monotonic nanoseconds."""
        self.path = path
        self._clock = clock
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._is_torn = False
        self._ids = iter(range(1 << 62))
        self._pending: dict[int, Operation] = {}

    def episode(self, **notes: Any) -> None:
        """Begin a new episode; the notes say what a checker must know about the fresh target."""
        self._write({"episode": notes})

    def invoke(self, process: int, function: str, argument: Any) -> int:
        """Note a call that is about to be sent; returns the number by which to complete it."""
        number = next(self._ids)
        row = {"id": number, "process": process, "function": function, "argument": argument}
        at_ns = self._clock()
        self._pending[number] = Operation(process, function, argument, Outcome.INFO, at_ns, None)
        self._write({"invoke": row, "at": at_ns})
        return number

    def complete(
        self, number: int, outcome: Outcome, result: Any = None, error: str = ""
    ) -> Operation:
        """Note the outcome of a call, and return the whole operation."""
        row = {"id": number, "outcome": str(outcome), "result": result, "error": error}
        at_ns = self._clock()
        self._write({"complete": row, "at": at_ns})
        return _completed(self._pending.pop(number), row, at_ns)

    def record(self, operation: Operation) -> None:
        """Note a whole operation that carries times of another clock, such as a virtual one."""
        number = next(self._ids)
        invocation = {
            "id": number,
            "process": operation.process,
            "function": operation.function,
            "argument": operation.argument,
        }
        completion = {
            "id": number,
            "outcome": str(operation.outcome),
            "result": operation.result,
            "error": operation.error,
        }
        self._write({"invoke": invocation, "at": operation.invoked_ns})
        if operation.completed_ns is not None:
            self._write({"complete": completion, "at": operation.completed_ns})

    def fault(self, name: str) -> None:
        """Note that a fault begins."""
        self._write({"fault": name, "at": self._clock()})

    def heal(self, name: str) -> None:
        """Note that the fault of this name ends."""
        self._write({"heal": name, "at": self._clock()})

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        # A full disk takes what fits. No line may follow a torn line: it would be lost as well.
        if self._is_torn or os.write(self._fd, line) < len(line):
            self._is_torn = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: Path) -> tuple[History, ...]:
    """Read every episode of a journal.

    A kill can tear the last line; the journal before it is still good, so only that line goes.
    Raises HistoryDamagedError, naming file and line, for any other line that cannot be read.
    """
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()  # what follows the last newline: empty, or a line cut short by a kill
    episodes: list[_Episode] = []
    for number, line in enumerate(lines, start=1):
        try:
            _replay(json.loads(line), episodes)
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise HistoryDamagedError(f"{path}:{number}: {error!r}") from error
    if torn and not lines:
        raise HistoryDamagedError(f"{path}:1: the file has no complete line")
    return tuple(episode.history() for episode in episodes)


@dataclass
class _Episode:
    """An episode while it is being read."""

    notes: Mapping[str, Any]
    invoked: dict[int, Operation] = field(default_factory=dict)
    faults: list[FaultInterval] = field(default_factory=list)

    def history(self) -> History:
        return History(tuple(self.invoked.values()), tuple(self.faults), self.notes)


def _replay(event: Mapping[str, Any], episodes: list[_Episode]) -> None:
    match event:
        case {"episode": notes}:
            episodes.append(_Episode(dict(notes)))
        case {"invoke": row, "at": at}:
            question = (row["process"], row["function"], row["argument"])
            operation = Operation(*question, Outcome.INFO, invoked_ns=int(at), completed_ns=None)
            _current(episodes).invoked[row["id"]] = operation
        case {"complete": row, "at": at}:
            invoked = _current(episodes).invoked
            invoked[row["id"]] = _completed(invoked[row["id"]], row, int(at))
        case {"fault": name, "at": at}:
            _current(episodes).faults.append(FaultInterval(str(name), int(at)))
        case {"heal": name, "at": at}:
            _heal(_current(episodes).faults, str(name), int(at))
        case _:
            raise ValueError(f"unknown event with the keys {sorted(event)}")


def _current(episodes: list[_Episode]) -> _Episode:
    if not episodes:
        episodes.append(_Episode({}))
    return episodes[-1]


def _completed(invoked: Operation, row: Mapping[str, Any], at_ns: int) -> Operation:
    outcome = Outcome(row["outcome"])
    return replace(
        invoked,
        outcome=outcome,
        completed_ns=None if outcome is Outcome.INFO else at_ns,
        result=row["result"],
        error=row["error"],
    )


def _heal(faults: list[FaultInterval], name: str, at_ns: int) -> None:
    for index in reversed(range(len(faults))):
        if faults[index].name == name and faults[index].healed_ns is None:
            faults[index] = FaultInterval(name, faults[index].began_ns, at_ns)
            return
    raise ValueError(f"fault {name!r} was healed, but is not active")
