"""The *turns_threads* ability: real turns and their wakeups, called by concurrent threads.

Fakes in memory replace the files, so that a schedule costs a few milliseconds. A turn may start a
process, which is recorded with the owner that the turn's identity names, and which ends at once.
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
    """One host: turns, wakeups, and a registry whose processes end as soon as they start."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._modules = modules
        self._registry = ScriptedRegistry()
        self._numbers = itertools.count(1)
        self._store = Store(modules("sessions.sidecar").Session)
        self._turns = modules("turns.turns").Turns(
            self._store,
            Runs(modules("turns.journal").RunWriter),
            TurnJournal(),
            modules("memory.lifecycle").Lifecycle(),
            lambda session: _SpawningAgent(self, session),
        )
        self._wakeups = modules("turns.wakeups").Wakeups(self._registry, self._start)
        self._turns.take_along(_Joining(self))
        self._turns.listen(self._wakeups)

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """Report events to `see`, with times of the clock `tick`."""
        self.tick, self.see = tick, see

    def turn(self, session: str, spawns: str = "") -> None:
        """Begin a turn of the user, which starts a process named `spawns`, if that is not empty."""
        self._turns.start(session, f"{SPAWN}{spawns}" if spawns else "hello")

    def complete(self, session: str, process: str) -> None:
        """End a background process of the session."""
        self._registry.publish(completion(self._modules, next(self._numbers), session, process), 1)

    def drain(self) -> None:
        """Start every wakeup that can start now."""
        self._wakeups.drain()

    def settle(self) -> dict[str, int]:
        """Drain until no turn runs and no wakeup is pending; the numbers of both in the end."""
        for _ in range(SETTLINGS_MAX):
            self._wakeups.drain()
            time.sleep(SETTLING_S)  # threads that can run do so before virtual time passes
            if not self._turns.runs() and not self._pending:
                break
        return {"kept": self._pending, "runs": len(self._turns.runs())}

    def close(self) -> None:
        """Do nothing: the host holds no resource."""

    def claim(self, session: str) -> Sequence[tuple[str, str]]:
        """Claim the wakeups that a turn of the user takes along."""
        claimed: Sequence[tuple[str, str]] = self._wakeups.claim(session)
        return claimed

    def release(self, session: str, joined: Sequence[str], *, are_delivered: bool) -> None:
        """End the claim, and report what the turn took along."""
        for process in joined if are_delivered else ():
            wake = {"session": session, "process": process, "by": "a user's turn"}
            self.see("wake", wake, self.tick())
        self._wakeups.release(session, are_delivered=are_delivered)

    def had(self, session: str) -> set[str]:
        """The wakeups that the session has already."""
        found = self._store.load(session)
        rows = (*found.messages, *found.extra.get("pending_notices", ()))
        return {row["wakeup_id"] for row in rows if "wakeup_id" in row}

    def spawn(self, session: str, process: str) -> None:
        """Start a process from a turn of the session; it takes some virtual time, and ends."""
        begun = self.tick()
        time.sleep(MOMENT_S)
        identity = self._modules("agents.identity").current()
        owner = None if identity is None else identity.session_id
        self._registry.publish(completion(self._modules, next(self._numbers), owner, process), 1)
        self.see("spawn", {"session": session, "process": process, "owner": owner}, begun)

    @property
    def _pending(self) -> int:
        pending: int = self._wakeups.gauges()["wakeup_events"]
        return pending

    def _start(self, session_id: str, message: str, source: Any, *, wakeup_id: str) -> None:
        begun = self.tick()
        self._turns.start(session_id, message, source, wakeup_id=wakeup_id)
        self.see("wake", {"session": session_id, "process": wakeup_id}, begun)


class _Joining:
    """The wakeups that turns of users take along, as the adapter reports them."""

    def __init__(self, adapter: TurnsThreadsAdapter) -> None:
        self._adapter = adapter
        self._joined: dict[str, list[str]] = {}

    def claim(self, session_id: str) -> Sequence[tuple[str, str]]:
        claimed = self._adapter.claim(session_id)
        had = self._adapter.had(session_id)
        self._joined[session_id] = [process for process, _ in claimed if process not in had]
        return claimed

    def release(self, session_id: str, *, are_delivered: bool) -> None:
        joined = self._joined.pop(session_id)
        self._adapter.release(session_id, joined, are_delivered=are_delivered)


class Agent:
    """What every agent of these rooms has, which has no memory and holds no resource."""

    system_prompt = ""

    def sync_turn(self, turn_id: str, request: str, reply: str) -> None:
        """Do nothing: the agent has no memory."""

    def commit_memory_session(self) -> None:
        """Do nothing: the agent has no memory."""

    def close(self) -> None:
        """Do nothing: the agent holds no resource."""


class _SpawningAgent(Agent):
    """An agent that shows one word, and starts the process that the message names."""

    def __init__(self, adapter: TurnsThreadsAdapter, session: str) -> None:
        self._adapter = adapter
        self._session = session

    def run_turn(self, message: str, _: Sequence[Any], output: Any) -> str:
        output.token("word")
        if message.startswith(SPAWN):
            self._adapter.spawn(self._session, message.removeprefix(SPAWN))
        return "word"


class Store:
    """A session store in memory, in which every session exists."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    def load(self, session: str) -> Any:
        """Read a session."""
        return self._sessions.get(session) or self._make(session_id=session)

    def load_metadata_only(self, session: str) -> Any:
        """Read a session, with its messages."""
        return self.load(session)

    def change(self, session: str, act: Callable[[Any], Any]) -> Any:
        """Change a session under the lock."""
        with self._lock:
            changed = self._sessions[session] = act(self.load(session))
            return changed

    def maintain(self, session: str, act: Callable[[Any], Any]) -> Any:
        """Change a session, without an activity of its user."""
        return self.change(session, act)

    def clean_stale_stream(
        self, session: str, is_live: Callable[[str], bool], settle: Callable[[Any], Any]
    ) -> bool:
        """Settle a busy session whose stream no run has; whether it did."""
        settled: list[Any] = []

        def clean(found: Any) -> Any:
            stream = found.active_stream_id
            if not found.is_busy or (stream is not None and is_live(stream)):
                return found
            settled.append(found)
            return settle(found)

        self.change(session, clean)
        return bool(settled)


class Runs:
    """A run journal whose writers are real, and whose files are fakes."""

    def __init__(self, writer: Callable[..., Any]) -> None:
        self._writer = writer
        self.row_s = self.begin_s = 0.0  # what a row and a run's file take, of virtual time

    def begin(self, session_id: str, stream_id: str, show: Callable[[Any], object]) -> Any:
        """Open a run's journal."""
        if self.begin_s:
            time.sleep(self.begin_s)
        heading = {"run_id": stream_id, "session_id": session_id}
        return self._writer(_RunFile(self.row_s), heading, show, lambda: 0.0, lambda: None)

    def remove(self, session_id: str, stream_id: str) -> None:
        """Do nothing: there is no file to remove."""

    def text(self, session_id: str, stream_id: str) -> str:  # noqa: ARG002  no file has any
        """No tokens: there is no file to read."""
        return ""

    def write_missing_end(self, *_: object) -> None:
        """Do nothing: there is no file to end."""


class _RunFile:
    """A run's file, which only counts its rows."""

    path = Path("run.jsonl")
    size_bytes = 0
    rows = 0

    def __init__(self, row_s: float) -> None:
        self._row_s = row_s

    def append(self, _: Mapping[str, Any]) -> None:
        if self._row_s:
            time.sleep(self._row_s)
        self.rows += 1

    append_durably = append

    def close(self) -> None:
        """Do nothing: no file is open."""


class TurnJournal:
    """A turn journal that stores nothing."""

    def submit(self, *_: Any, **_options: Any) -> None:
        """Drop the row."""

    start = complete = interrupt = get = submit
