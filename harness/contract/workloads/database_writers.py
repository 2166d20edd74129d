"""The crowd: many processes that work on one database at the same time, and what they noted.

Members are forks that ask their adapter by themselves, since one question over a pipe takes longer
than one write. Here they are given their work, started together, disturbed, and waited for; their
logs become one history on one clock. Each hand, a thread of a member, is one process of it.
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
from harness.engine.context import Stage
from harness.engine.target import Target
from harness.faults.nemesis import Kill
from harness.processes.pool import ProcessInstance
from harness.processes.remote import RefusedError

PATIENCE_S = 30.0  # for a member that only has to be given a processor
HANG_S = 50.0  # a member that notes nothing for so long hangs; no patience is that long
ABILITY = "state_db_crowd"
OLD_VERSION = 11  # of the schema that the earliest released packages make

Step = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Round:
    """Steps, asked so many times over, with a pause after each time."""

    steps: Sequence[Step]
    times: int = 1
    think_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Render as a member reads it."""
        return {"steps": self.steps, "times": self.times, "think_s": self.think_s}


@dataclass(frozen=True, slots=True)
class Doom:
    """At which of its statements a member gets a signal from itself.

    Only statements that begin with `match` count. With `after_s` the signal comes so long after the
    statement began, so perhaps in the middle of it.
    """

    signal: int
    at: int = 1
    match: str = ""
    after_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Render as a member reads it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True)
class Member:
    """One process of a crowd: its id, and what its hands are called in the history."""

    pid: int
    processes: tuple[int, ...]
    log: Path
    parent: ProcessInstance

    def told(self) -> list[Operation]:
        """What it has asked and was told so far."""
        return list(_operations(self.log)) if self.log.exists() else []

    def ends(self) -> bool:
        """Wait for its end, for as long as it goes on; whether it came."""
        before, now = -1, 0
        while before < now:
            if _ends(self.pid, HANG_S):
                return True
            before, now = now, self.log.stat().st_size if self.log.exists() else 0
        return False


class Crowd:
    """The members of one episode, on the file in `folder`."""

    def __init__(self, parent: ProcessInstance, folder: Path, journal: Journal) -> None:
        """`parent` forks those of the target on trial."""
        self.folder = folder
        self._journal = journal
        self._parent = parent
        self._strangers: dict[str, ProcessInstance] = {}
        self._numbers = itertools.count(1)
        self._logs = itertools.count(1)
        self._living: list[Member] = []
        self._known: list[Member] = []
        self._gate: IO[bytes] | None = None
        self._notes = Path(tempfile.mkdtemp(prefix="harness-notes-"))  # whatever befalls the folder

    @property
    def database(self) -> Path:
        """The file that they share."""
        return self.folder / "state.db"

    def fork(
        self,
        *hands: Sequence[Round],
        doom: Doom | None = None,
        watched: bool = False,
        patience_s: float | None = None,
        stranger: Target | None = None,
    ) -> Member:
        """Make a member with so many hands. It waits while the gate is shut.

        `watched` has it note its transactions; `stranger` is a target that is not on
        trial; `patience_s` is the patience of its writes, for an adapter that can be told.
        """
        processes = tuple(next(self._numbers) for _ in hands)
        log = self._notes / f"{next(self._logs)}"
        work = {
            "log": str(log),
            "gate": self._gate and str(self._notes / "gate"),
            "doom": doom and doom.to_json(),
            "watched": watched,
            "patience_s": patience_s,
            "hands": [
                {"process": process, "rounds": [each.to_json() for each in rounds]}
                for process, rounds in zip(processes, hands, strict=True)
            ],
        }
        parent = self._parent if stranger is None else self._parent_of(stranger)
        member = Member(parent.call("fork", {"work": work}), processes, log, parent)
        self._living.append(member)
        self._known.append(member)
        return member

    def _parent_of(self, stranger: Target) -> ProcessInstance:
        if stranger.name not in self._strangers:
            parent = stranger.open(ABILITY, self.folder)
            assert isinstance(parent, ProcessInstance)
            self._strangers[stranger.name] = parent
        return self._strangers[stranger.name]

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Who is forked inside the block waits until its end; then all start at once."""
        with (self._notes / "gate").open("wb") as self._gate:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            yield
        self._gate = None

    def log_bytes(self) -> int:
        """How long the write-ahead log is."""
        log = self.folder / f"{self.database.name}-wal"
        return log.stat().st_size if log.exists() else 0

    def age(self) -> None:
        """Have the file, which nobody has open, say that its schema is of an earlier version."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute("PRAGMA user_version = 0")
            tables = "SELECT 1 FROM sqlite_master WHERE name = 'schema_version'"
            if connection.execute(tables).fetchone():
                connection.execute(f"UPDATE schema_version SET version = {OLD_VERSION}")  # noqa: S608

    def await_told(self, member: Member, function: str, times: int = 1) -> None:
        """Wait for so many answers of this function. Raises HarnessError if they do not come."""
        ends_at = time.monotonic() + PATIENCE_S
        while (
            sum(op.function == function and op.completed_ns is not None for op in member.told())
            < times
        ):
            if time.monotonic() > ends_at:
                raise HarnessError(f"member {member.pid} never told of {function!r}")
            time.sleep(0.001)

    def call_out(self, name: str) -> None:
        """Let all go on who `await` this name."""
        (self._notes / name).touch()

    def bury(self, member: Member) -> int:
        """Wait for a member's end; its exit code, negative if a signal ended it.

        One that neither ends nor gets any answer is killed, and the history says that it hung.
        """
        is_hung = not member.ends()
        if is_hung:
            Kill(member.pid).inject()
        code = member.parent.call("bury", {"pid": member.pid})
        self._living.remove(member)
        if code == -signal.SIGKILL:
            name = f"{HANG if is_hung else KILL}{member.pid}"
            self._journal.fault(name)
            self._journal.heal(name)
        if code > 0:
            raise HarnessError(f"member {member.pid} broke with exit code {code}")
        return int(code)

    def bury_all(self) -> list[int]:
        """Wait for the end of everybody; their exit codes."""
        return [self.bury(member) for member in tuple(self._living)]

    def ask(self, *steps: Step) -> list[Operation]:
        """Have a new member do these steps, and wait for it; what it was told of them."""
        member = self.fork([Round(steps)])
        self.bury(member)
        asked = {function for function, *_ in steps}
        return [operation for operation in member.told() if operation.function in asked]

    def close(self) -> None:
        """End whoever is left, and write down what all have noted."""
        for member in tuple(self._living):
            Kill(member.pid).inject()
            with suppress(TargetLostError, RefusedError):  # a parent that was lost took it along
                self.bury(member)
        told = (operation for member in self._known for operation in member.told())
        for operation in sorted(told, key=lambda operation: operation.invoked_ns):
            self._journal.record(operation)
        shutil.rmtree(self._notes)
        for parent in self._strangers.values():
            parent.close()


@contextmanager
def crowd(stage: Stage, **notes: Any) -> Iterator[Crowd]:
    """A crowd in an episode of its own."""
    with stage.episode(**notes) as episode:
        assert isinstance(episode.instance, ProcessInstance)
        gathered = Crowd(episode.instance, episode.folder, stage.journal)
        with closing(gathered):
            yield gathered


def _ends(pid: int, within_s: float) -> bool:
    """Wait for a process that is not ours to end; where that cannot be done take it for granted."""
    if not hasattr(os, "pidfd_open"):
        return True
    fd = os.pidfd_open(pid)
    try:
        return bool(select.select([fd], [], [], within_s)[0])
    finally:
        os.close(fd)


def _operations(log: Path) -> Iterator[Operation]:
    """Read a member's log. A kill leaves a call without an answer, and perhaps half a line."""
    asked: dict[int, Operation] = {}
    for line in log.read_bytes().split(b"\n")[:-1]:
        kind, number, at_ns, *rest = json.loads(line)
        if kind == "?":
            process, function, argument = rest
            asked[number] = Operation(process, function, argument, Outcome.INFO, at_ns, None)
            continue
        call = asked.pop(number)
        if kind == "+":
            yield replace(call, outcome=Outcome.OK, completed_ns=at_ns, result=rest[0])
        else:
            yield replace(call, outcome=Outcome.FAIL, completed_ns=at_ns, error=rest[0])
    yield from asked.values()
