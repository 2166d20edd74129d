"""The *wakeups_threads* ability over the background processes of a hermes-webui checkout.

On trial are `api/background_process.py`, the registries of `api/config.py`, and the part of
`api/streaming.py` that takes completions along with a user's turn. Stand-ins are the agent's
process registry, and `start_session_turn` of `api/routes.py`: it refuses a busy session with 409,
an unknown one with 404, and fails once where the script says so.

A call of `drain` does what the server's one drain thread does with the queue, so two of them wait
for each other. An end leaves the registry of runs, and calls the teardown, in the server's order.
"""

from __future__ import annotations

import errno
import itertools
import queue
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.targets.hermes_webui import checkout
from harness.targets.hermes_webui.threads import modules
from harness.targets.threads.wakeups import HELD_S_MAX, SETTLING_S, SETTLINGS_MAX, See

_PROCESS = re.compile(r"Background process (\S+) completed")
_BUSY, _UNKNOWN, _OK = 409, 404, 200


class TurnConflictError(Exception):
    """The session has this run."""


class _Registry:
    """The agent's process registry, as far as the server uses it."""

    def __init__(self) -> None:
        self.completion_queue: queue.Queue[Any] = queue.Queue()
        self.owners: dict[str, SimpleNamespace] = {}
        self._lock = threading.Lock()
        self._completion_consumed: set[str] = set()

    def is_completion_consumed(self, process: str) -> bool:
        """Whether the end of this process was delivered."""
        with self._lock:
            return process in self._completion_consumed

    def get(self, process: str) -> Any:
        """What is known of the process."""
        return self.owners.get(process)

    def list_sessions(self) -> list[Any]:
        """No process of an earlier host."""
        return []

    def recover_from_checkpoint(self) -> int:
        """No process of an earlier host."""
        return 0


class WebuiWakeupsThreadsAdapter:
    """One host: its drain, a registry, and sessions that are busy or idle."""

    # The server indexes a key before a turn can start a process: no end comes before its index.
    LACKS = frozenset({"complete.key"})

    def __init__(self, folder: Path) -> None:  # noqa: ARG002  this ability keeps no files
        modules.reset()
        self._module: Any = checkout.module("background_process")
        self._config: Any = checkout.module("config")
        self._streaming: Any = checkout.module("streaming")
        self._registry = _Registry()
        registry = {"process_registry": self._registry, "format_process_notification": _prompt}
        modules.stand_in("tools", {"__path__": []})
        modules.stand_in("tools.process_registry", registry)
        modules.stand_in("api.routes", {"start_session_turn": self._start})
        self._lock = threading.Lock()
        self._draining = threading.Lock()
        self._deleted: set[str] = set()
        self._failing = 0
        self._is_served = False
        self._numbers = itertools.count(1)

    def watch(self, tick: Any, see: See) -> None:
        """Report events to `see`, with times of the clock `tick`."""
        self._tick, self._see = tick, see

    def serve(self) -> None:
        """Start the drain thread; from now on it alone drains."""
        self._is_served = True
        self._module.start_drain_thread()

    def complete(self, session: str, process: str, times: int = 1) -> None:
        """End a background process of the session; the registry publishes that `times` times."""
        if session not in self._config.PROCESS_SESSION_INDEX:
            self._module.register_process_session(session, session)  # as the turn that began it
        owner = SimpleNamespace(
            session_key=session, origin_ui_session_id=session, spawn_session_id=session
        )
        self._registry.owners[process] = owner
        event: dict[str, Any] = {
            "type": "completion",
            "session_id": process,
            "session_key": session,
        }
        event |= {"command": "true", "exit_code": 0, "output": "", "origin_ui_session_id": session}
        for _ in range(times):
            self._registry.completion_queue.put(dict(event))

    def begin_run(self, session: str) -> None:
        """Begin a turn of the user; raises if the session is busy."""
        begun = self._tick()
        busy, _ = self._run(session)
        if busy:
            self._see("refused", {"session": session, "run": busy}, begun)
            raise TurnConflictError(busy)
        for text in self._streaming._drain_webui_process_notifications(session):  # noqa: SLF001
            about = {"session": session, "process": _process_in(text), "by": "a user's turn"}
            self._see("wake", {**about, "run": "", "at_s": time.monotonic()}, self._tick())

    def end_run(self, session: str) -> None:
        """End the session's run: leave the registry, and call what a turn calls last."""
        with self._lock:
            stream = self._run_of(session)
            if stream is None:
                return
            over = {"session": session, "run": stream, "at_s": time.monotonic()}
            self._see("over", over, self._tick())
            self._config.unregister_active_run(stream)
        self._module.drain_deferred_wakeups_for_session(session)

    def delete(self, session: str) -> None:
        """Delete the session: end its run, and drop its bookkeeping."""
        with self._lock:
            self._deleted.add(session)
        self.end_run(session)
        forget = getattr(self._module, "forget_bg_task_completion_dedup", None)
        if forget is not None:
            forget(session)

    def fail_start(self) -> None:
        """Let the next start of a turn fail."""
        with self._lock:
            self._failing += 1

    def index(self, key: str, session: str) -> None:
        """Index a session's key for another session, as a stale index does."""
        self._module.register_process_session(key, session)

    def drain(self) -> None:
        """Start every wakeup that can start now."""
        with self._draining:
            while True:
                try:
                    event = self._registry.completion_queue.get_nowait()
                except queue.Empty:
                    return
                self._module._process_one(event)  # noqa: SLF001  what the drain thread calls

    def settle(self) -> dict[str, int]:
        """Drain, and end all runs, until no wakeup is pending; what the bookkeeping still holds."""
        for _ in range(SETTLINGS_MAX):
            self._drain_once()
            if not self._sessions() and not self._pending:
                break
            for session in self._sessions():
                self.end_run(session)
            time.sleep(SETTLING_S)
        time.sleep(HELD_S_MAX)
        self._drain_once()
        kept = self._pending
        self._module.stop_drain_thread()
        left = {
            "lines": self._config.DEFERRED_PROCESS_WAKEUPS,
            "runs": self._config.ACTIVE_RUNS,
            "timers": self._module._PENDING_EMIT_TIMERS,  # noqa: SLF001  it has no public gauge
        }
        return {"kept": kept, **{name: len(found) for name, found in left.items()}}

    def _drain_once(self) -> None:
        if not self._is_served:
            self.drain()
        time.sleep(SETTLING_S)  # virtual time passes when no other thread can act

    def close(self) -> None:
        """Stop the drain thread, if there is one."""
        self._module.stop_drain_thread()

    @property
    def _pending(self) -> int:
        deferred = self._config.DEFERRED_PROCESS_WAKEUPS.values()
        return self._registry.completion_queue.qsize() + sum(map(len, deferred))

    def _sessions(self) -> list[str]:
        return [run["session_id"] for run in self._config.ACTIVE_RUNS.values()]

    def _start(self, session_id: str, message: str, **_: Any) -> Mapping[str, Any]:
        """Begin a turn of the server, as its routes do."""
        begun = self._tick()
        with self._lock:
            if session_id in self._deleted:
                return {"_status": _UNKNOWN, "error": "Session not found"}
            if self._failing:
                self._failing -= 1
                raise OSError(errno.ENOSPC, "no space left")
        at_s = time.monotonic()
        busy, stream = self._run(session_id)
        if busy:
            error = "session already has an active stream"
            return {"_status": _BUSY, "error": error, "active_stream_id": busy}
        process = _process_in(message)
        wake = {"session": session_id, "process": process, "run": stream, "at_s": at_s}
        self._see("wake", wake, begun)
        return {"stream_id": stream, "session_id": session_id, "_status": _OK}

    def _run(self, session: str) -> tuple[str | None, str]:
        """The run that makes the session busy, or else a new one."""
        with self._lock:
            stream = f"stream-{next(self._numbers)}"
            busy = self._run_of(session)
            if busy is None:
                self._config.register_active_run(stream, session_id=session)
            return busy, stream

    def _run_of(self, session: str) -> str | None:
        runs = self._config.ACTIVE_RUNS.items()
        return next((stream for stream, run in runs if run["session_id"] == session), None)


def _process_in(text: str) -> str:
    """The process that a wakeup's prompt names."""
    found = _PROCESS.search(text)
    return found[1] if found else text


def _prompt(event: Mapping[str, Any]) -> str:
    """The agent's own text for a completion."""
    return f"[IMPORTANT: Background process {event['session_id']} completed (exit_code=0).]"
