"""The history: everything the clients asked, and were told.

Knows nothing of servers, nor of the time of day: whoever writes a journal brings the clock. A
run's file holds one or more *episodes*, each the history of one target from its birth to its end.

An invocation is written before the call goes out and its completion after, so a crash of the
harness leaves evidence; an invocation without a completion is read back as *info*: it may have
happened, and may yet.
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
from types import TracebackType
from typing import Any, Self

from harness.core.errors import HistoryDamagedError


class Outcome(StrEnum):
    """What is known of a call after it came back, or did not."""

    OK = "ok"  # it happened
    FAIL = "fail"  # it did not happen, and will not
    INFO = "info"  # nobody knows


@dataclass(frozen=True, slots=True)
class Operation:
    """One question of one logical client, and its answer.

    `process` does one thing at a time; after a lost reply it gets a new number. Times are
    monotonic nanoseconds on the run's one clock; `completed_ns` is None while nobody knows.
    `result` belongs to an *ok*, `error` (one line, the exception's type first) to the others.
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
        """Whether whoever asked was gone before anything came back, not even a lost reply."""
        return self.outcome is Outcome.INFO and not self.error

    def precedes(self, other: Operation) -> bool:
        """Whether this was over before `other` began (real-time order)."""
        return self.completed_ns is not None and self.completed_ns < other.invoked_ns

    def meets(self, other: Operation) -> bool:
        """Whether the two surely overlap in time: for a moment, both were under way."""
        return _began_within(self, other) and _began_within(other, self)

    def __str__(self) -> str:
        said = {
            Outcome.OK: f"-> {json.dumps(self.result)}",
            Outcome.FAIL: f"failed: {self.error}",
            Outcome.INFO: f"unknown: {self.error or 'no reply'}",
        }[self.outcome]
        return f"{call(self.function, self.argument)} {said}"

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


def _began_within(one: Operation, other: Operation) -> bool:
    return other.completed_ns is None or one.invoked_ns < other.completed_ns


def call(function: str, argument: Any) -> str:
    """Render a call as a person would write it: `append(session='s1', text='x')`."""
    if isinstance(argument, Mapping):
        inside = ", ".join(f"{name}={value!r}" for name, value in argument.items())
    else:
        inside = "" if argument is None else repr(argument)
    return f"{function}({inside})"


@dataclass(frozen=True, slots=True)
class FaultInterval:
    """While this lasted, that was broken. `healed_ns` is None for what was never undone."""

    name: str
    began_ns: int
    healed_ns: int | None = None


@dataclass(frozen=True, slots=True)
class History:
    """One episode: operations in order of invocation, and the faults that roamed meanwhile."""

    operations: tuple[Operation, ...] = ()
    faults: tuple[FaultInterval, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    @property
    def happened(self) -> Iterator[Operation]:
        """Operations that are known to have happened: those with a result."""
        return (operation for operation in self.operations if operation.outcome is Outcome.OK)


def digest(histories: Iterable[History]) -> str:
    """Fingerprint what was asked and answered, without the times: same seed, same digest."""
    sha = hashlib.sha256()
    for history in histories:
        for op in history:
            row = (op.process, op.function, op.argument, str(op.outcome), op.result)
            sha.update(json.dumps(row, sort_keys=True, default=str).encode())
        sha.update(b"\n")
    return sha.hexdigest()[:16]


class Journal:
    """Writes a history as it happens, one JSON line an event, each with a single `write`.

    A line goes to the operating system at once: it survives a kill of this process. It is not
    synced, so it need not survive a power loss. Safe for threads as far as single appends are.
    Every method that writes raises OSError where that fails, on a full disk say.
    """

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        """Append to the file at `path`; `clock` gives monotonic nanoseconds."""
        self._path = path
        self._clock = clock
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._is_torn = False
        self._ids = iter(range(1 << 62))
        self._pending: dict[int, Operation] = {}

    def episode(self, **notes: Any) -> None:
        """Begin a new episode: a fresh target, about which the notes say what a judge needs."""
        self._write({"episode": notes})

    def invoke(self, process: int, function: str, argument: Any) -> int:
        """Note a call that is about to go out; returns the number by which to complete it."""
        number = next(self._ids)
        row = {"id": number, "process": process, "function": function, "argument": argument}
        at_ns = self._clock()
        self._pending[number] = Operation(process, function, argument, Outcome.INFO, at_ns, None)
        self._write({"invoke": row, "at": at_ns})
        return number

    def complete(
        self, number: int, outcome: Outcome, result: Any = None, error: str = ""
    ) -> Operation:
        """Note what came back, and return the whole operation."""
        row = {"id": number, "outcome": str(outcome), "result": result, "error": error}
        at_ns = self._clock()
        self._write({"complete": row, "at": at_ns})
        return _completed(self._pending.pop(number), row, at_ns)

    def record(self, operation: Operation) -> None:
        """Note a whole operation that was seen on a clock of its own, a virtual one say."""
        number = next(self._ids)
        process, function = operation.process, operation.function
        asked = {
            "id": number,
            "process": process,
            "function": function,
            "argument": operation.argument,
        }
        told = {
            "id": number,
            "outcome": str(operation.outcome),
            "result": operation.result,
            "error": operation.error,
        }
        self._write({"invoke": asked, "at": operation.invoked_ns})
        if operation.completed_ns is not None:
            self._write({"complete": told, "at": operation.completed_ns})

    def fault(self, name: str) -> None:
        """Note that something was broken on purpose."""
        self._write({"fault": name, "at": self._clock()})

    def heal(self, name: str) -> None:
        """Note that it was undone."""
        self._write({"heal": name, "at": self._clock()})

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        # A full disk takes what fits. Nothing may follow a torn line, or it would be lost as well.
        if self._is_torn or os.write(self._fd, line) < len(line):
            self._is_torn = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read(path: Path) -> tuple[History, ...]:
    """Read every episode of a journal.

    A kill can tear the last line; the journal before it is still good, so only that line goes.
    Raises HistoryDamagedError, naming file and line, for anything else that cannot be read.
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
        raise HistoryDamagedError(f"{path}:1: no whole line in it")
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
            asked = (row["process"], row["function"], row["argument"])
            operation = Operation(*asked, Outcome.INFO, invoked_ns=int(at), completed_ns=None)
            _current(episodes).invoked[row["id"]] = operation
        case {"complete": row, "at": at}:
            invoked = _current(episodes).invoked
            invoked[row["id"]] = _completed(invoked[row["id"]], row, int(at))
        case {"fault": name, "at": at}:
            _current(episodes).faults.append(FaultInterval(str(name), int(at)))
        case {"heal": name, "at": at}:
            _heal(_current(episodes).faults, str(name), int(at))
        case _:
            raise ValueError(f"no such event: {sorted(event)}")


def _current(episodes: list[_Episode]) -> _Episode:
    if not episodes:
        episodes.append(_Episode({}))
    return episodes[-1]


def _completed(asked: Operation, row: Mapping[str, Any], at_ns: int) -> Operation:
    outcome = Outcome(row["outcome"])
    return replace(
        asked,
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
    raise ValueError(f"{name!r} was healed, but nobody broke it")
