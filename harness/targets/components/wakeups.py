"""The *wakeups* ability: wakeups between a scripted registry and scripted turns.

Nothing runs by itself: `drain` does what a drain thread does once, and time passes in `advance`
only. Every answer lists the attempts to deliver during the call, the announced reports, the
contract error, if one was raised, what the registry still owes, and the sizes of the bookkeeping.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from harness.contract.models.wakeups import OWED_SHOWN, sized

SIZES = {
    "events": "wakeup_events",
    "unrouted": "wakeup_homeless",
    "index": "wakeup_index",
    "runs": "wakeup_runs",
}
SIZES_AT_REST = {"lines": "wakeup_lines", "ready": "wakeup_ready", "timers": "wakeup_timers"}


class ScriptedRegistry:
    """A process registry whose parts can be renamed, retyped, or fail."""

    def __init__(self, marking: Callable[[str], None] = lambda _event_id: None) -> None:
        """`marking` is called before an event is marked; it may raise."""
        self.events: dict[str, Any] = {}
        self.consumed: set[str] = set()
        self._marking = marking
        self._queue: deque[Any] = deque()
        self._listener: Callable[[], object] = lambda: None

    def publish(self, event: Any, times: int) -> None:
        """Queue an event, `times` times over."""
        self.events[event.event_id] = event
        self._queue.extend([event] * times)
        self._listener()

    def reopened(self) -> ScriptedRegistry:
        """The registry of a new process: it queues every unconsumed event again."""
        fresh = ScriptedRegistry(self._marking)
        fresh.events, fresh.consumed = self.events, self.consumed
        fresh._queue.extend(e for e in self.events.values() if e.event_id not in self.consumed)
        return fresh

    def break_contract(self, kind: str) -> None:
        """Break the contract: a marker with another name, type or effect."""
        broken: dict[str, tuple[str, Any]] = {
            "no take": ("take", None),
            "no is_consumed": ("is_consumed", None),
            "no mark_consumed": ("mark_consumed", None),
            "take gives text": ("take", lambda: "p1"),
            "is_consumed answers text": ("is_consumed", lambda _event_id: "no"),
            "mark_consumed marks nothing": ("mark_consumed", self._marking),
        }
        setattr(self, *broken[kind])

    def rename_marker(self) -> None:
        """Give the marker another name."""
        self.break_contract("no mark_consumed")

    def listen(self, listener: Callable[[], object]) -> None:
        """Call `listener` when there is an event to take."""
        self._listener = listener

    def take(self) -> Any:
        """The next event."""
        return self._queue.popleft() if self._queue else None

    def is_consumed(self, event_id: str) -> bool:
        """Whether the event was delivered."""
        return event_id in self.consumed

    def mark_consumed(self, event_id: str) -> None:
        """Mark the event as delivered."""
        self._marking(event_id)
        self.consumed.add(event_id)


class WakeupsAdapter:
    """One host: its wakeups, a registry, and sessions that are busy or idle."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._modules = modules
        self._clock = SimpleNamespace(now_s=1_000.0)
        # The module reads its clock from its own global, which can be replaced.
        module = modules("turns.wakeups")
        module.time = SimpleNamespace(monotonic=lambda: self._clock.now_s)
        self._registry = ScriptedRegistry(self._marking)
        self._runs: dict[str, Any] = {}
        self._had: set[tuple[str, str]] = set()
        self._deleted: set[str] = set()
        self._attempts: list[list[str]] = []
        self._announced: list[list[str]] = []
        self._failing, self._failure = 0, ""
        self._unmarkable = 0
        self._is_broken = False
        self._number = 0
        self._open()

    def _open(self) -> None:
        self._wakeups = self._modules("turns.wakeups").Wakeups(
            self._registry,
            self._start,
            announce=lambda sid, event: self._announced.append([sid, event.event_id]),
        )

    def complete(
        self, session: str, process: str, times: int = 1, count: int = 1, **details: Any
    ) -> dict[str, Any]:
        """End a process of the session, or print a line of it; published `times` times.

        With `count` there are that many processes. For `details` see the model.
        """
        names = [process] if count == 1 else [f"{process}.{number}" for number in range(count)]
        for name in names:
            self._registry.publish(self._event(session, name, details), times)
        return self._answer()

    def index(self, keys: str, session: str, count: int = 0) -> dict[str, Any]:
        """Index a key for a session, or `count` keys that begin alike."""
        for key in [f"{keys}{number}" for number in range(count)] or [keys]:
            self._wakeups.index(key, session)
        return self._answer()

    def begin_run(self, session: str) -> dict[str, Any]:
        """Begin a turn of the user, or refuse the user because of a run."""
        if session in self._runs:
            self._wakeups.user_refused(self._runs[session])
        else:
            self._run(session, self._modules("turns.run").Source.USER)
        return self._answer()

    def join_run(self, session: str, fails: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Begin a turn of the user that takes along what waits, or fail to begin it.

        A busy session refuses the user, and a deleted one has no turn.
        """
        if session in self._deleted:
            return self._answer()
        if session in self._runs:
            return self.begin_run(session)
        return self._answer(lambda: self._join(session, fails=fails))

    def _join(self, session: str, *, fails: bool) -> None:
        """Do what a start does: register, claim, save or withdraw, and end the claim."""
        run = self._registered(session, self._modules("turns.turns").Source.USER)
        joined = self._wakeups.claim(session)
        for event_id, text in joined:
            how = "had" if (session, event_id) in self._had else "joined"
            self._attempts.append([session, event_id, how, text])
        if fails:
            del self._runs[session]
            self._wakeups.ended(run)
        else:
            self._had |= {(session, event_id) for event_id, _ in joined}
            self._wakeups.started(run)
        if joined:
            self._wakeups.release(session, are_delivered=not fails)

    def end_run(self, session: str) -> dict[str, Any]:
        """End the session's run, if it has one."""
        run = self._runs.pop(session, None)
        return self._answer(lambda: self._wakeups.ended(run) if run else None)

    def delete(self, session: str) -> dict[str, Any]:
        """Delete the session: end its run, and drop its bookkeeping."""
        self._deleted.add(session)
        run = self._runs.pop(session, None)

        def leave() -> None:
            if run:
                self._wakeups.ended(run)
            self._wakeups.forget_session(session)

        return self._answer(leave)

    def fail_starts(self, kind: str, times: int) -> dict[str, Any]:
        """Let the next starts of turns fail in this way."""
        self._failing, self._failure = times, kind
        return self._answer()

    def fail_marks(self, times: int) -> dict[str, Any]:
        """Let the disk refuse the next marks."""
        self._unmarkable = times
        return self._answer()

    def break_registry(self, kind: str) -> dict[str, Any]:
        """Break the registry's contract; `restart` mends it."""
        self._registry.break_contract(kind)
        self._is_broken = True
        return self._answer()

    def open_broken(self, kind: str) -> dict[str, Any]:
        """Start another host on a registry that breaks the contract."""
        registry = ScriptedRegistry()
        registry.break_contract(kind)
        wakeups = self._modules("turns.wakeups")
        try:
            wakeups.Wakeups(registry, self._start)
        except wakeups.RegistryContractError as error:
            return {"error": type(error).__name__}
        return {"error": None}

    def drain(self) -> dict[str, Any]:
        """Start every wakeup that can start now."""
        return self._answer(self._wakeups.drain)

    def advance(self, seconds: float) -> dict[str, Any]:
        """Let time pass, and drain."""
        self._clock.now_s += seconds
        return self.drain()

    def restart(self) -> dict[str, Any]:
        """Start a new process: no session has a run, and unconsumed events are queued again."""
        self._runs.clear()
        self._registry = self._registry.reopened()
        self._is_broken = False
        self._open()
        return self._answer()

    def pending(self) -> dict[str, Any]:
        """Every size of the bookkeeping."""
        answer = self._answer()
        gauges = self._wakeups.gauges()
        answer["sizes"] |= {name: gauges[gauge] for name, gauge in SIZES_AT_REST.items()}
        return answer

    def close(self) -> None:
        """Restore the module's clock."""
        self._modules("turns.wakeups").time = time

    def _event(self, session: str, process: str, details: Mapping[str, Any]) -> Any:
        self._number += 1
        module = self._modules("agents.processes")
        match = details.get("match")
        return module.Event(
            self._number,
            process if match is None else f"{process}#1",
            module.Kind.COMPLETION if match is None else module.Kind.WATCH_MATCH,
            process,
            session if details.get("is_owned", True) else None,
            details.get("key", session),
            sized(details.get("command_size", 9)),
            0.0,
            details.get("exit_code", 0) if match is None else None,
            sized(details.get("output_size", 5)),
            match or "",
            details.get("suppressed", 0),
        )

    def _marking(self, event_id: str) -> None:
        owner = self._registry.events[event_id].owner or ""
        session = next((had for had, event, *_ in self._attempts[::-1] if event == event_id), owner)
        how = "unmarked" if self._unmarkable and not self._is_broken else "marked"
        self._attempts.append([session, event_id, how, ""])
        if how == "unmarked":
            self._unmarkable -= 1
            raise OSError(errno.EIO, "the disk refuses the mark")

    def _start(self, session_id: str, message: str, source: Any, *, wakeup_id: str) -> None:
        turns = self._modules("turns.run")
        if session_id in self._runs:
            raise turns.TurnConflictError(self._runs[session_id])

        def note(how: str, text: str = "") -> None:
            self._attempts.append([session_id, wakeup_id, how, text])

        if session_id in self._deleted:
            note("gone")
            raise self._modules("sessions.session_files").UnknownSessionError(session_id)
        if self._failing:
            self._failing -= 1
            note("failed")
            raise self._failures()[self._failure]
        if (session_id, wakeup_id) in self._had:
            note("again")
            raise turns.AlreadyDeliveredError(wakeup_id)
        self._had.add((session_id, wakeup_id))
        note("started", message)
        self._run(session_id, source)

    def _failures(self) -> Mapping[str, Exception]:
        return {
            "disk full": OSError(errno.ENOSPC, "no space left"),
            "disk error": OSError(errno.EIO, "input/output error"),
            "shutdown": self._modules("turns.run").ShuttingDownError("shutting down"),
            "timeout": TimeoutError("the lock is busy"),
            "no file": FileNotFoundError(errno.ENOENT, "no such file"),
            "no permission": PermissionError(errno.EACCES, "permission denied"),
            "connection": ConnectionResetError(errno.ECONNRESET, "connection reset"),
            "wrong type": TypeError("a mistake of the turn's code"),
            "wrong value": ValueError("a mistake of the turn's code"),
            "bug": KeyError("a mistake of the turn's code"),
            "memory": MemoryError(),
            **self._refusals(),
        }

    def _refusals(self) -> Mapping[str, Exception]:
        """Errors of the session store about a session that exists, and may be saved later."""
        sidecar, store = self._modules("sessions.sidecar"), self._modules("sessions.store")
        return {
            "damaged file": sidecar.SidecarDamagedError("s1.json cannot be read"),
            "stale copy": store.StaleCopyError("s1: is at version 2, this was made from version 1"),
            "refused save": store.SaveRefusedError("s1: would lose 2 messages during a turn"),
            "busy lock": self._modules("storage.files").LockBusyError("s1 is locked"),
        }

    def _run(self, session: str, source: Any) -> None:
        self._wakeups.started(self._registered(session, source))

    def _registered(self, session: str, source: Any) -> Any:
        self._number += 1
        stream = f"stream-{self._number}"
        run = SimpleNamespace(
            session_id=session, stream_id=stream, source=source, is_attachable=True
        )
        self._runs[session] = run
        return run

    def _answer(self, act: Callable[[], object] = lambda: None) -> dict[str, Any]:
        error = None
        try:
            act()
        except self._modules("turns.wakeups").RegistryContractError as raised:
            error = type(raised).__name__
        gauges = self._wakeups.gauges()
        registry = self._registry
        owed = [event for event in registry.events if event not in registry.consumed]
        answer: dict[str, Any] = {
            "attempts": self._attempts,
            "announced": self._announced,
            "error": error,
            "owed": owed[:OWED_SHOWN],
            "owed_count": len(owed),
        }
        if not self._is_broken:
            answer["sizes"] = {name: gauges[gauge] for name, gauge in SIZES.items()}
        self._attempts, self._announced = [], []
        return answer
