"""The *run_calls* ability: real turns whose calls meet in concurrent threads.

Starts, cancels, repairs, removals, summaries and the shutdown meet runs that reply, wait, fail,
exit or hang. Fakes in memory replace the files, also below the real journal of turns, so that a
schedule costs a few milliseconds. A run is named by the first word of its message; the second word
says what its agent does.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from harness.targets.threads import turns
from harness.targets.threads.turns import Agent, Runs
from harness.targets.threads.wakeups import See

UNWIND_BOUND_S = 60.0  # of virtual time, as all times here
SETTLING_S = 10.0
SETTLINGS_MAX = 20
PATIENCE_S = 5.0
GRACE_S = 1.0
UNWINDS = {  # after a cancel, by the script
    "wait": 0.0,
    "chat": 0.0,
    "slow": 3.0,
    "late": UNWIND_BOUND_S,
    "later": UNWIND_BOUND_S + 5.0,
}
WORD, WORD_S = "word", 0.001
ROW_S = 0.002
SUMMARY_S = 5.0  # of an agent that summarizes, so that whole runs may pass meanwhile
COPIED, COPY_S = "copied", 0.01  # a script, and what the copies of its session take
DELETE_S = 0.01  # on a slow disk
SAVE_S = 0.01  # of a session whose agent talks on, so that it talks while its turn is saved
MARKS = ("interrupted", "cancelled", "error")


class RunCallsAdapter:
    """One host: its turns, and the sessions in memory."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._errors = {
            modules("turns.run").ShuttingDownError: 503,
            modules("sessions.session_files").UnknownSessionError: 404,
            modules("sessions.store").SaveRefusedError: 422,
        }
        self._conflict = modules("turns.run").TurnConflictError
        self._run_module = modules("turns.run")
        self._run_module.uuid = _Ids()
        self._store = Store(modules)
        self._runs = Runs(modules("turns.journal").RunWriter)
        self._journal = _turn_journal(modules("turns.journal"))
        self._turns = modules("turns.turns").Turns(
            self._store,
            self._runs,
            self._journal,
            modules("memory.lifecycle").Lifecycle(),
            lambda session: _Agent(self, session),
            sync=_copy,
            unwind_bound_s=UNWIND_BOUND_S,
        )
        self._names: dict[str, str] = {}  # of runs, by stream
        self._turn_ids: dict[str, str] = {}  # of runs
        self._over: dict[str, threading.Event] = {}
        self._cancelling: dict[str, threading.Event] = {}
        self._turns.listen(_listener(modules("turns.listeners").TurnListener, self))

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """Report events to `see`, with times of the clock `tick`."""
        self.tick, self.see = tick, see

    # Calls

    def make(self, session: str) -> None:
        """Make a session."""
        self._store.make(session)

    def slow_down(self) -> None:
        """Let the disk be slow from now on: a run's file takes longer than a removal."""
        self._store.delete_s, self._runs.begin_s = DELETE_S, 2 * DELETE_S

    def furnish(self, session: str, runs: Sequence[str]) -> None:
        """Make a session with a turn for each of these names, which is over."""
        self._store.make(session)
        rows = [(("user", f"{run} talk"), ("assistant", WORD)) for run in runs]
        messages = [{"role": role, "content": text} for turn in rows for role, text in turn]
        self._store.change(session, lambda found: found.appended(*messages))

    def start(self, session: str, run: str, script: str) -> dict[str, Any]:
        """Begin a turn; the status, the run that refused it, and whether its message is stored."""
        is_slow = script == "chat"  # of a slow disk
        self._store.save_s, self._runs.row_s = (SAVE_S, ROW_S) if is_slow else (0.0, 0.0)
        return self._begun(session, run, lambda: self._turns.start(session, f"{run} {script}"))

    def retry(self, session: str, run: str, script: str) -> dict[str, Any]:  # noqa: ARG002
        """Begin the last turn anew, whose message names this run and this script."""
        return self._begun(session, run, lambda: self._turns.retry(session))

    def _begun(self, session: str, run: str, begin: Callable[[], Any]) -> dict[str, Any]:
        try:
            begin()
        except self._conflict as conflict:
            active = conflict.stream_id and self._names.get(conflict.stream_id, "unknown")
            return {"status": 409, "active": active, "stored": False}
        except tuple(self._errors) as refused:
            return {"status": self._errors[type(refused)], "active": None, "stored": False}
        return {"status": 200, "active": None, "stored": self._store.has(session, run)}

    def follow(self, session: str, after: str, run: str, script: str) -> dict[str, Any]:
        """Wait for the terminal event of the run `after`, and begin the next turn at once."""
        self._event_of(after).wait()
        return self.start(session, run, script)

    def press(self, session: str, after: str, run: str, script: str) -> dict[str, Any]:
        """Wait until the agent of `after` sees its cancel, or is over; begin a turn at once."""
        self._cancelling_of(after).wait()
        return self.start(session, run, script)

    def cancel(self, run: str) -> dict[str, Any]:
        """Cancel the run, and look at its turn at once.

        Whether it is cancelled (None if it never started), and whether its turn is saved.
        """
        stream = next((stream for stream, name in self._names.items() if name == run), None)
        cancelled = None if stream is None else self._turns.cancel(stream)
        return {"cancelled": cancelled, "saved": self._store.has_saved(run)}

    def pause(self, seconds: float) -> None:
        """Let time pass, and with it bounds."""
        time.sleep(seconds)

    def repair(self, session: str) -> bool:
        """Settle a turn of the session whose run no longer exists; whether there was one."""
        repaired: bool = self._turns.repair(session)
        return repaired

    def status(self, session: str) -> dict[str, Any]:
        """Whether the session is busy, and the run that a client can attach to."""
        stream = self._turns.attachable_stream(session)
        active = None if stream is None else self._names.get(stream, "unknown")
        return {"busy": session in self._turns.live_sessions(), "active": active}

    def clear(self, session: str) -> None:
        """Remove the messages."""
        self._store.change(session, lambda found: found.cut(0))

    def compress(self, session: str) -> int:
        """Let the agent summarize all turns but the last; the status."""
        try:
            self._turns.compress(session)
        except self._conflict:
            return 409
        except tuple(self._errors) as refused:
            return self._errors[type(refused)]
        return 200

    def delete(self, session: str) -> bool:
        """End the session's run and delete the session; whether its run ended in time."""
        if not self._turns.end(session, PATIENCE_S):
            return False
        self._store.delete(session)
        return True

    def shut_down(self) -> bool:
        """Refuse new turns and end the running ones; whether all have unwound."""
        ended: bool = self._turns.shut_down(GRACE_S)
        return ended

    def settle(self) -> dict[str, Any]:
        """Wait until no run is registered; what is left, and the content of each session."""
        for _ in range(SETTLINGS_MAX):
            time.sleep(SETTLING_S)
            if not self._turns.runs():
                break
        time.sleep(SETTLING_S)  # a reclaimed run leaves the registry before its agent unwinds
        sizes = {**self._turns.gauges(), "in_flight": len(self._journal.in_flight())}
        left = {name: size for name, size in sizes.items() if size}
        turns = {
            run: None if (turn := self._journal.get(turn_id)) is None else str(turn.event)
            for run, turn_id in sorted(self._turn_ids.items())
        }
        return {"left": left, "sessions": self._store.content(), "turns": turns}

    def close(self) -> None:
        """Let ids be drawn again."""
        self._run_module.uuid = uuid

    # What happens inside

    def name_of(self, run: Any) -> str:
        """The name of a run."""
        return str(run.message.partition(" ")[0])

    def started(self, run: Any) -> None:
        """Remember the run's name."""
        self._names[run.stream_id] = self.name_of(run)
        self._turn_ids[self.name_of(run)] = run.turn_id

    def shown(self, run: Any, row: Mapping[str, Any]) -> None:
        """Report a token or a terminal event."""
        subject = {"run": self.name_of(run), "session": run.session_id}
        if row["terminal"]:
            self.see("terminal", {**subject, "event": row["event"]}, self.tick())
            if row["event"] != "done":
                self._event_of(self.name_of(run)).set()
        else:
            self.see("token", {**subject, "text": row["payload"]["text"]}, self.tick())

    def ended(self, run: Any) -> None:
        """Report that the run has left the registry; its agent may never have begun."""
        self._cancelling_of(self.name_of(run)).set()
        self.see("ended", {"run": self.name_of(run), "session": run.session_id}, self.tick())

    def seen_cancelled(self, run: str, session: str) -> None:
        """Report that the agent of a run sees its cancel."""
        self.see("cancelling", {"run": run, "session": session}, self.tick())
        self._cancelling_of(run).set()

    def _event_of(self, run: str) -> threading.Event:
        return self._over.setdefault(run, threading.Event())

    def _cancelling_of(self, run: str) -> threading.Event:
        return self._cancelling.setdefault(run, threading.Event())


class _Ids:
    """Ids in order: a drawn one decides which lock its turn shares, so no schedule would repeat."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def uuid4(self) -> Any:
        return SimpleNamespace(hex=f"{next(self._numbers):032x}")


def _copy(session: Any) -> None:
    """Bring other copies up to the session, which is slow after a turn of that script."""
    if any(message["content"].endswith(COPIED) for message in session.messages):
        time.sleep(COPY_S)


def _listener(base: Any, adapter: RunCallsAdapter) -> Any:
    class Listener(base):  # type: ignore[misc]
        started = staticmethod(adapter.started)
        shown = staticmethod(adapter.shown)
        ended = staticmethod(adapter.ended)

    return Listener()


def _turn_journal(module: Any) -> Any:
    """A real journal of turns, on a map in memory."""
    on_disk, module.DurableMap = module.DurableMap, _Map
    try:
        return module.TurnJournal("turns")
    finally:
        module.DurableMap = on_disk


class _Map:
    """A durable map without a file: each change is one step."""

    def __init__(self, _: str) -> None:
        self._values: dict[str, Any] = {}
        self._lock = threading.Lock()

    def change(self, values: Mapping[str, Any], **_options: Any) -> None:
        with self._lock:
            for key, value in values.items():
                self._values.pop(key, None)
                if value is not None:
                    self._values[key] = value

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def copy(self) -> dict[str, Any]:
        return dict(self._values)


class ScriptError(Exception):
    """The script asked for a failure."""


class _Agent(Agent):
    """An agent that shows one word, and ends in the way that the message names."""

    def __init__(self, adapter: RunCallsAdapter, session: str) -> None:
        self._adapter = adapter
        self._session = session
        self._closed = threading.Event()

    def run_turn(self, message: str, _: Sequence[Any], output: Any) -> str:
        run, _, script = message.partition(" ")
        begun = self._adapter.tick()
        try:
            return self._obey(run, script, output)
        finally:
            self._adapter.see("work", {"run": run, "session": self._session}, begun)

    def _obey(self, run: str, script: str, output: Any) -> str:
        output.token(WORD)
        if script in UNWINDS:
            output.cancelled.wait()
            self._adapter.seen_cancelled(run, self._session)
            time.sleep(UNWINDS[script])
        for word in (" and", " so", " on") if script == "chat" else ():
            output.token(word)  # refused, once the run is sealed
            time.sleep(WORD_S)
        match script:
            case "hang":
                self._closed.wait()
            case "fail":
                raise ScriptError
            case "exit":
                raise SystemExit(1)
        return WORD

    def summarize(self, messages: Sequence[Any]) -> str:
        """Name the requests, after a while."""
        time.sleep(SUMMARY_S)
        return ", ".join(row["content"] for row in messages if row["role"] == "user")

    def close(self) -> None:
        """End a run that hangs."""
        self._closed.set()


class Store(turns.Store):
    """A session store in memory, whose changes may take time."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        super().__init__(modules("sessions.sidecar").Session)
        self._unknown = modules("sessions.session_files").UnknownSessionError
        self.save_s = self.delete_s = 0.0

    def make(self, session: str) -> None:
        """Make a session."""
        self._sessions[session] = self._make(session_id=session)

    def load(self, session: str) -> Any:
        """Read a session. Raises UnknownSessionError."""
        try:
            return self._sessions[session]
        except KeyError:
            raise self._unknown(session) from None

    def change(self, session: str, act: Callable[[Any], Any]) -> Any:
        """Change a session under the lock. Raises UnknownSessionError."""
        changed = super().change(session, act)
        if self.save_s:
            time.sleep(self.save_s)
        return changed

    def delete(self, session: str) -> None:
        """Delete a session."""
        if self.delete_s:
            time.sleep(self.delete_s)
        with self._lock:
            self._sessions.pop(session, None)

    def has(self, session: str, run: str) -> bool:
        """Whether the session has the run's message, pending or saved."""
        found = self._sessions.get(session)
        if found is None:
            return False
        texts = [found.pending_user_message, *(message["content"] for message in found.messages)]
        return any(text is not None and text.partition(" ")[0] == run for text in texts)

    def has_saved(self, run: str) -> bool:
        """Whether a session has the run's message among its messages."""
        return any(
            message["content"].partition(" ")[0] == run
            for found in list(self._sessions.values())
            for message in found.messages
        )

    def content(self) -> dict[str, Any]:
        """Each session's messages as rows of role, text and mark; and what marks it as busy."""
        return {
            name: {
                "rows": [_row(message) for message in found.messages],
                "busy": found.is_busy,
            }
            for name, found in self._sessions.items()
        }


def _row(message: Mapping[str, Any]) -> list[str]:
    mark = next((mark for mark in MARKS if message.get(mark)), "")
    return [message["role"], message["content"], mark]
