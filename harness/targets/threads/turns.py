"""The *turns_threads* ability: real turns and their wakeups, called by threads that meet.

What lies on disk is played in memory, so that a schedule costs a few milliseconds. A turn may
start a process, which is recorded as belonging to whoever the turn's identity says, and which ends
at once.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.targets.components.wakeups import ScriptedRegistry
from harness.targets.threads.wakeups import SETTLING_S, SETTLINGS_MAX, See, completion

MOMENT_S = 0.01  # of virtual time
SPAWN = "spawn "


class TurnsThreadsAdapter:
    """One host: turns, wakeups, and a registry whose processes end when they begin."""

    def __init__(self, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        self._rooms = rooms
        self._registry = ScriptedRegistry()
        self._numbers = itertools.count(1)
        self._turns = rooms("turns.turns").Turns(
            _Store(rooms("sessions.sidecar").Session),
            _Runs(rooms("turns.journal").RunWriter),
            _Notes(),
            rooms("memory.lifecycle").Lifecycle(),
            lambda session: _Talker(self, session),
        )
        self._wakeups = rooms("turns.wakeups").Wakeups(self._registry, self._start)
        self._turns.listen(self._wakeups)

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """From now on tell `see`, on the clock `tick`."""
        self.tick, self.see = tick, see

    def turn(self, session: str, spawns: str = "") -> None:
        """The user begins a turn, which starts a process of that name."""
        self._turns.start(session, f"{SPAWN}{spawns}" if spawns else "hello")

    def complete(self, session: str, process: str) -> None:
        """A background process of the session ended."""
        self._registry.tell(completion(self._rooms, next(self._numbers), session, process), 1)

    def drain(self) -> None:
        """Start all that can be started now."""
        self._wakeups.drain()

    def settle(self) -> dict[str, int]:
        """Drain until nobody runs and nothing waits; how much still does after a while."""
        for _ in range(SETTLINGS_MAX):
            self._wakeups.drain()
            time.sleep(SETTLING_S)  # whoever can act does so before time passes
            if not self._turns.runs() and not self._kept:
                break
        return {"kept": self._kept, "runs": len(self._turns.runs())}

    def close(self) -> None:
        """Nothing is held."""

    def spawn(self, session: str, process: str) -> None:
        """Start a process, from within a turn of that session; it takes a moment, and ends."""
        begun = self.tick()
        time.sleep(MOMENT_S)
        identity = self._rooms("agents.identity").current()
        owner = None if identity is None else identity.session_id
        self.see("spawn", {"session": session, "process": process, "owner": owner}, begun)
        self._registry.tell(completion(self._rooms, next(self._numbers), owner, process), 1)

    @property
    def _kept(self) -> int:
        kept: int = self._wakeups.gauges()["wakeup_events"]
        return kept

    def _start(self, session_id: str, message: str, source: Any, *, wakeup_id: str) -> None:
        begun = self.tick()
        self._turns.start(session_id, message, source, wakeup_id=wakeup_id)
        self.see("wake", {"session": session_id, "process": wakeup_id}, begun)


class _Talker:
    """An agent that says one word, and starts the process that its user asks for."""

    def __init__(self, adapter: TurnsThreadsAdapter, session: str) -> None:
        self._adapter = adapter
        self._session = session

    def run_turn(self, message: str, _: Sequence[Any], stage: Any) -> str:
        stage.token("word")
        if message.startswith(SPAWN):
            self._adapter.spawn(self._session, message.removeprefix(SPAWN))
        return "word"

    def commit_memory_session(self) -> None:
        """Learn nothing."""

    def close(self) -> None:
        """Nothing is open."""


class _Store:
    """A session store whose sessions all exist, in memory."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    def load(self, session: str) -> Any:
        return self._sessions.get(session) or self._make(session_id=session)

    load_metadata_only = load

    def change(self, session: str, act: Callable[[Any], Any]) -> Any:
        with self._lock:
            changed = self._sessions[session] = act(self.load(session))
            return changed

    maintain = change


class _Runs:
    """A run journal whose writers are real, and write nowhere."""

    def __init__(self, writer: Callable[..., Any]) -> None:
        self._writer = writer

    def begin(self, session_id: str, stream_id: str, show: Callable[[Any], object]) -> Any:
        heading = {"run_id": stream_id, "session_id": session_id}
        return self._writer(_Paper(), heading, show, lambda: 0.0, lambda: None)


class _Paper:
    """A run's file."""

    path = Path("run.jsonl")
    size_bytes = 0
    rows = 0

    def append(self, _: Mapping[str, Any]) -> None:
        self.rows += 1

    append_durably = append

    def close(self) -> None:
        """Nothing is open."""


class _Notes:
    """A turn journal that nobody reads again."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None
