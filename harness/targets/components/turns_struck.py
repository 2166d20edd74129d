"""The *turns_struck* ability: the turns of one session, on a disk that fails or crashes.

Turns, session store and both journals are real, and so are their files. A run is named by the first
word of its message; the second word says how its agent ends. A run's ids begin with its name, so
its files are known even if its start never returned.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.core.errors import TargetLostError
from harness.faults.simulated_disk import STRIKES, SimulatedCrash, SimulatedDisk, no_fault

SESSION = "s"
WORDS = ("one ", "two")  # that an agent shows
PATIENCE_S = 10.0
MARKS = ("interrupted", "cancelled", "error")


class ScriptError(Exception):
    """The script asked for a failure."""


class TurnsStruckAdapter:
    """One host at a time, its session, and what its clients were shown."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._folder = folder
        self._modules = modules
        self._run_module = modules("turns.run")
        self._uuid = self._run_module.uuid
        self._numbers = itertools.count(1)
        self._run = ""
        self._run_module.uuid = SimpleNamespace(uuid4=self._next_id)
        self._shown: dict[str, list[str]] = {}
        with self._sound_disk():
            self._open()
            self._store.new(SESSION)

    def _next_id(self) -> Any:
        return SimpleNamespace(hex=f"{self._run}-{next(self._numbers)}")

    def _open(self) -> None:
        """Start a host, as the server does: recovery comes first."""
        self._runs_here: list[Any] = []
        self._over: dict[str, threading.Event] = {}
        self._talked: dict[str, threading.Event] = {}
        self._let_go = threading.Event()
        self._store = self._modules("sessions.store").SessionStore(self._folder / "sessions")
        self._modules("sessions.recovery").recover_all(self._store)
        journal = self._modules("turns.journal")
        self._runs = journal.RunJournal(self._folder / "runs", clock=lambda: 0.0)
        self._journal = journal.TurnJournal(self._folder / "turns.jsonl", clock=lambda: 0.0)
        self._turns = self._modules("turns.turns").Turns(
            self._store,
            self._runs,
            self._journal,
            self._modules("memory.lifecycle").Lifecycle(),
            lambda _: _Agent(self._let_go),
            clock=lambda: 0.0,
        )
        self._turns.listen(_listener(self._modules("turns.listeners").TurnListener, self))
        self._turns.recover()

    # Calls

    def turn(self, run: str, script: str, wakeup: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Take a turn of a user or a wakeup to its end; a script *cancel* is cancelled."""
        with self._sound_disk():
            return self._turn(run, script, wakeup=wakeup)

    def _turn(self, run: str, script: str, *, wakeup: bool) -> dict[str, Any]:
        self._run = run
        self._let_go.clear()
        source = self._run_module.Source
        named = {"wakeup_id": run} if wakeup else {}
        try:
            started = self._turns.start(
                SESSION, f"{run} {script}", source.WAKEUP if wakeup else source.USER, **named
            )
        except self._run_module.AlreadyDeliveredError:
            return {"start": "again", "cancelled": None, "ended": True}
        cancelled = None
        if script == "cancel":
            self._talked[started.stream_id].wait(PATIENCE_S)
            try:
                cancelled = self._turns.cancel(started.stream_id)
            finally:
                self._let_go.set()  # so that the cancel always saves the turn
        ended = self._over[started.stream_id].wait(PATIENCE_S)
        return {"start": "begun", "cancelled": cancelled, "ended": ended}

    def struck(
        self,
        run: str,
        script: str,
        strike: str,
        at: int,
        wakeup: bool = False,  # noqa: FBT001, FBT002
    ) -> dict[str, Any]:
        """Take a turn while a fault hits the disk's change number `at`.

        Answers as `turn`, with whether the fault happened, and how many changes the turn made.
        Raises what the start raises, or TargetLostError where the fault killed the host; then
        another host starts.
        """
        disk = SimulatedDisk(self._folder, STRIKES[strike](at))
        answer: dict[str, Any] = {}
        failure: BaseException | None = None
        with disk, _quiet_threads():
            try:
                answer = self._turn(run, script, wakeup=wakeup)
            except (OSError, SimulatedCrash) as error:
                failure = error
            self._end_threads(is_dead=disk.crashed)
        if disk.crashed:
            self._close_files()
            disk.process_crash().put_into(self._folder)
            with self._sound_disk():
                self._open()
            raise TargetLostError(f"{strike} at {disk.faulted_call}")
        if failure is not None:
            raise failure
        is_struck = disk.faulted_call is not None
        return {**answer, "struck": is_struck, "changes": len(disk.calls)}

    def restart(self) -> None:
        """Stop the host, and start another one."""
        self._close_files()
        with self._sound_disk():
            self._open()

    def look(self) -> dict[str, Any]:
        """All that is stored of each run, what its clients were shown, and what is registered."""
        found = self._store.load(SESSION)
        messages: dict[str, list[list[str]]] = {}
        for message in found.messages:
            run = str(message.get("turn_id", "?")).partition("-")[0]
            mark = next((mark for mark in MARKS if message.get(mark)), "")
            messages.setdefault(run, []).append([message["role"], message["content"], mark])
        streams: dict[str, list[list[Any]]] = {}
        for stream in sorted(path.stem for path in (self._folder / "runs" / SESSION).glob("*")):
            rows = [
                [row["seq"], row["event"], row["payload"].get("text")]
                for row in self._runs.rows(SESSION, stream)
            ]
            streams.setdefault(stream.partition("-")[0], []).append(rows)
        turns: dict[str, list[str]] = {}
        for turn in self._journal.turns():
            turns.setdefault(turn.turn_id.partition("-")[0], []).append(str(turn.event))
        sizes = {**self._turns.gauges(), **self._runs.gauges()}
        return {
            "messages": messages,
            "streams": streams,
            "turns": turns,
            "shown": {run: list(shown) for run, shown in self._shown.items()},
            "busy": found.is_busy,
            "left": {name: size for name, size in sizes.items() if size},
        }

    def close(self) -> None:
        """Stop the host, and restore the module's ids."""
        self._close_files()
        self._run_module.uuid = self._uuid

    def _sound_disk(self) -> SimulatedDisk:
        """A disk without faults, whose syncs return at once."""
        return SimulatedDisk(self._folder, no_fault)

    def _end_threads(self, *, is_dead: bool) -> None:
        """Wait for the workers; those of a dead host do not wait."""
        for run in self._runs_here:
            if is_dead:
                run.concluded.set()
            run.unwound.wait(PATIENCE_S)

    def _close_files(self) -> None:
        for writer in list(self._runs._writers.values()):  # noqa: SLF001  a dead host has some
            with suppress(OSError):
                writer._file.close()  # noqa: SLF001
        self._journal.close()

    # What happens inside

    def started(self, run: Any) -> None:
        """Its message is on disk."""
        self._runs_here.append(run)
        self._over[run.stream_id] = threading.Event()
        self._talked[run.stream_id] = threading.Event()

    def shown(self, run: Any, row: Mapping[str, Any]) -> None:
        """A client has the event."""
        name = str(run.message.partition(" ")[0])
        self._shown.setdefault(name, []).append(row["payload"].get("text") or row["event"])
        if row["payload"].get("text") == WORDS[-1]:
            self._talked[run.stream_id].set()

    def ended(self, run: Any) -> None:
        """The run has left the registry."""
        if run.stream_id in self._over:
            self._talked[run.stream_id].set()
            self._over[run.stream_id].set()


def _listener(base: Any, adapter: TurnsStruckAdapter) -> Any:
    class Listener(base):  # type: ignore[misc]
        started = staticmethod(adapter.started)
        shown = staticmethod(adapter.shown)
        ended = staticmethod(adapter.ended)

    return Listener()


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Let the threads of a dead host end without a traceback."""
    report = threading.excepthook
    threading.excepthook = lambda _: None
    try:
        yield
    finally:
        threading.excepthook = report


class _Agent:
    """An agent that shows two words, and ends in the way that the message names."""

    system_prompt = ""

    def __init__(self, let_go: threading.Event) -> None:
        self._let_go = let_go

    def run_turn(self, message: str, _: Sequence[Any], output: Any) -> str:
        script = message.partition(" ")[2]
        for word in WORDS:
            output.token(word)
        if script == "cancel":
            self._let_go.wait(PATIENCE_S)
        if script == "fail":
            raise ScriptError
        return "".join(WORDS)

    def sync_turn(self, turn_id: str, request: str, reply: str) -> None:
        """Do nothing: the agent has no memory."""

    def commit_memory_session(self) -> None:
        """Do nothing: the agent has no memory."""

    def close(self) -> None:
        """Do nothing: the agent holds no resource."""
