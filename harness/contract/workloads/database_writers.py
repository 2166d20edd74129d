"""Starts writer processes on one database, disturbs them, and merges their logs into a history.

Writers are forks that call their adapter by themselves, since a request over a pipe takes longer
than a write. This module gives them their work, starts them together, injects faults, and waits for
them. Each thread of a writer is one process of the history, on one clock.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from harness.contract.checkers.state_db.fairness import HANG, KILL
from harness.core.errors import HarnessError, TargetLostError
from harness.core.history import Journal, Operation, Outcome
from harness.engine.context import Context
from harness.engine.target import Instance, Target
from harness.faults.process_faults import Kill
from harness.processes.remote import RefusedError

PATIENCE_S = 30.0  # for a writer that waits for a processor only
HANG_S = 50.0  # without a log entry: a hang, since every patience is shorter
ABILITY = "state_db_crowd"
OLD_VERSION = 11  # of the schema that the earliest released packages create

NEWER = (  # some columns of the present schema
    ("sessions", "model"),
    ("sessions", "reasoning_tokens"),
    ("messages", "reasoning"),
    ("messages", "tool_name"),
)
CHILD = ".child"  # see `harness/worker/writers.py`

Step = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Round:
    """Steps to repeat a number of times, with a pause after each repetition."""

    steps: Sequence[Step]
    times: int = 1
    think_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Render as a writer process reads it."""
        return {"steps": self.steps, "times": self.times, "think_s": self.think_s}


@dataclass(frozen=True, slots=True)
class SelfSignal:
    """The statement at which a writer sends a signal to itself.

    Only statements that begin with `match` count. With `after_s` the signal is sent that long after
    the statement began, so perhaps in the middle of it.
    """

    signal: int
    at: int = 1
    match: str = ""
    after_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Render as a writer process reads it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Syncs:
    """How long each sync takes in addition, and which one of the process fails, if any."""

    delay_s: float = 0.0
    fails_at: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Render as a writer process reads it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True)
class Writer:
    """One writer process: its id, and the process numbers of its threads in the history."""

    pid: int
    processes: tuple[int, ...]
    log: Path
    parent: Instance

    def operations(self) -> list[Operation]:
        """The operations that it, and a child that it forked, have logged so far."""
        logs = (self.log, self.log.with_name(f"{self.log.name}{CHILD}"))
        return [operation for log in logs if log.exists() for operation in _operations(log)]

    def wait_until_ended(self) -> bool:
        """Wait for its end while its log grows; returns whether it ended."""
        before, now = -1, 0
        while before < now:
            if _has_ended(self.pid, HANG_S):
                return True
            before, now = now, self.log.stat().st_size if self.log.exists() else 0
        return False


class WriterPool:
    """The writer processes of one episode, on the database in `folder`."""

    def __init__(self, parent: Instance, folder: Path, journal: Journal) -> None:
        """`parent` is a process of the target on trial, which forks the writers."""
        self.folder = folder
        self._journal = journal
        self._parent = parent
        self._others: dict[str, Instance] = {}
        self._numbers = itertools.count(1)
        self._logs = itertools.count(1)
        self._running: list[Writer] = []
        self._writers: list[Writer] = []
        self._gate: IO[bytes] | None = None
        self._syncs: Syncs | None = None
        self._notes = Path(tempfile.mkdtemp(prefix="harness-notes-"))  # apart from faulty folders

    @property
    def database(self) -> Path:
        """The database that the writers share."""
        return self.folder / "state.db"

    def fork(
        self,
        *threads: Sequence[Round],
        signal_at: SelfSignal | None = None,
        traced: bool = False,
        patience_s: float | None = None,
        other: Target | None = None,
    ) -> Writer:
        """Fork a writer with these threads. It waits while the gate is closed.

        A `traced` writer logs its transactions; `other` is a target that is not on trial;
        `patience_s` is the patience of its writes, for adapters that accept one.
        """
        processes = tuple(next(self._numbers) for _ in threads)
        log = self._notes / f"{next(self._logs)}"
        work = {
            "log": str(log),
            "gate": self._gate and str(self._notes / "gate"),
            "signal_at": signal_at and signal_at.to_json(),
            "traced": traced,
            "patience_s": patience_s,
            "syncs": self._syncs and self._syncs.to_json(),
            "threads": [
                {"process": process, "rounds": [round_.to_json() for round_ in rounds]}
                for process, rounds in zip(processes, threads, strict=True)
            ],
        }
        parent = self._parent if other is None else self._parent_of(other)
        writer = Writer(parent.call("fork", {"work": work}), processes, log, parent)
        self._running.append(writer)
        self._writers.append(writer)
        return writer

    def _parent_of(self, other: Target) -> Instance:
        if other.name not in self._others:
            parent = other.open(ABILITY, self.folder)
            self._others[other.name] = parent
        return self._others[other.name]

    @contextmanager
    def starting_together(self) -> Iterator[None]:
        """Hold all writers that are forked inside the block, and start them at its end."""
        with (self._notes / "gate").open("wb") as self._gate:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            yield
        self._gate = None

    @contextmanager
    def observing(self, syncs: Syncs) -> Iterator[None]:
        """Let all writers that are forked inside the block log their syncs and commits."""
        self._syncs = syncs
        yield
        self._syncs = None

    def log_bytes(self) -> int:
        """The length of the write-ahead log."""
        log = self.folder / f"{self.database.name}-wal"
        return log.stat().st_size if log.exists() else 0

    def age(self) -> None:
        """Set an earlier schema version in the file, which no process has open.

        A file that keeps its version in the pragma loses the columns that version 1 did not have.
        """
        with closing(sqlite3.connect(self.database)) as connection, connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] > 1:
                for table, column in NEWER:
                    present = connection.execute(f"PRAGMA table_info({table})").fetchall()
                    if column in (name for _, name, *_ in present):
                        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
            connection.execute("PRAGMA user_version = 0")
            tables = "SELECT 1 FROM sqlite_master WHERE name = 'schema_version'"
            if connection.execute(tables).fetchone():
                connection.execute(f"UPDATE schema_version SET version = {OLD_VERSION}")  # noqa: S608

    def wait_for(self, writer: Writer, function: str, times: int = 1) -> None:
        """Wait until a writer has logged this number of results of a function.

        Raises HarnessError if it does not within PATIENCE_S.
        """
        ends_at = time.monotonic() + PATIENCE_S
        while _results(writer, function) < times:
            if time.monotonic() > ends_at:
                raise HarnessError(
                    f"writer {writer.pid} logged {_results(writer, function)} results of"
                    f" {function!r} in {PATIENCE_S:g} s; expected {times}"
                )
            time.sleep(0.001)

    def release(self, name: str) -> None:
        """Let all writers continue that `await` this name."""
        (self._notes / name).touch()

    def wait_for_child(self, name: str) -> None:
        """Let the child of a `fork` step with this name go on, and wait until it is over.

        One that hangs is killed, and the history says so.
        """
        self.release(name)
        ends_at = time.monotonic() + HANG_S
        while not (self._notes / f"{name} is over").exists():
            if time.monotonic() > ends_at:
                self._kill_child(name)
                return
            time.sleep(0.001)

    def _kill_child(self, name: str) -> None:
        operations = (op for writer in self._writers for op in writer.operations())
        forks = [op for op in operations if op.function == "fork" and op.argument["name"] == name]
        for pid in (op.result for op in forks if op.result):
            Kill(pid).inject()
            self._journal.fault(f"{HANG}{pid}")
            self._journal.heal(f"{HANG}{pid}")

    def wait_for_exit(self, writer: Writer) -> int:
        """Wait for a writer's end; returns its exit code, negative if a signal ended it.

        A writer that neither ends nor logs a result is killed, and the history says that it hung.
        """
        is_hung = not writer.wait_until_ended()
        if is_hung:
            Kill(writer.pid).inject()
        code = writer.parent.call("wait_for_exit", {"pid": writer.pid})
        self._running.remove(writer)
        if code == -signal.SIGKILL:
            name = f"{HANG if is_hung else KILL}{writer.pid}"
            self._journal.fault(name)
            self._journal.heal(name)
        if code > 0:
            raise HarnessError(f"writer {writer.pid} failed with exit code {code}")
        return int(code)

    def wait_for_all(self) -> list[int]:
        """Wait for the end of every writer; returns their exit codes."""
        return [self.wait_for_exit(writer) for writer in tuple(self._running)]

    def ask(self, *steps: Step) -> list[Operation]:
        """Run these steps in a new writer, and wait for it; returns their operations."""
        writer = self.fork([Round(steps)])
        self.wait_for_exit(writer)
        functions = {function for function, *_ in steps}
        return [operation for operation in writer.operations() if operation.function in functions]

    def close(self) -> None:
        """Kill the remaining writers, and write all logs into the journal."""
        for writer in tuple(self._running):
            Kill(writer.pid).inject()
            with suppress(TargetLostError, RefusedError):  # a lost parent took its writers along
                self.wait_for_exit(writer)
        logged = (operation for writer in self._writers for operation in writer.operations())
        for operation in sorted(logged, key=lambda operation: operation.invoked_ns):
            self._journal.record(operation)
        shutil.rmtree(self._notes)
        for parent in self._others.values():
            parent.close()


@contextmanager
def writer_pool(context: Context, **notes: Any) -> Iterator[WriterPool]:
    """Open a pool of writers in an episode of its own."""
    with (
        context.episode(**notes) as episode,
        closing(WriterPool(episode.instance, episode.folder, context.journal)) as pool,
    ):
        yield pool


def _results(writer: Writer, function: str) -> int:
    return sum(
        op.function == function and op.completed_ns is not None for op in writer.operations()
    )


def _has_ended(pid: int, within_s: float) -> bool:
    """Wait for a process that is no child to end; assume it where the system has no pidfd."""
    if not hasattr(os, "pidfd_open"):
        return True
    fd = os.pidfd_open(pid)
    try:
        return bool(select.select([fd], [], [], within_s)[0])
    finally:
        os.close(fd)


def _operations(log: Path) -> Iterator[Operation]:
    """Read a writer's log. A kill leaves a call without a result, and perhaps half a line."""
    pending: dict[int, Operation] = {}
    for line in log.read_bytes().split(b"\n")[:-1]:
        kind, number, at_ns, *rest = json.loads(line)
        if kind == "?":
            process, function, argument = rest
            pending[number] = Operation(process, function, argument, Outcome.INFO, at_ns, None)
            continue
        call = pending.pop(number)
        if kind == "+":
            yield replace(call, outcome=Outcome.OK, completed_ns=at_ns, result=rest[0])
        else:
            yield replace(call, outcome=Outcome.FAIL, completed_ns=at_ns, error=rest[0])
    yield from pending.values()
