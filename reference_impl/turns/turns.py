"""Turns: one entry point for all of them, one run per session, and one way out for every run.

A *run* is a turn while it executes. It is registered before anything else happens, and it leaves
the registry last: after its session is saved, its ending is decided and its terminal event is
written. Listeners learn that the session is idle after that, never before.

Two threads may end a run, the worker that returns and the caller of `cancel`; the first one does
it, and the other does nothing. For its clients a cancelled run is over at once, but its session is
busy until the agent has unwound, or until a bound, after which the run is reclaimed.

Everything on disk goes through the session store and the journals. Knows no HTTP. A turn whose host
was killed is found by its marks in the session, and settled there, once.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol, cast

from reference_impl.agents import identity
from reference_impl.agents.agent import Agent
from reference_impl.memory.agent_cache import AgentCache
from reference_impl.memory.lifecycle import Lifecycle
from reference_impl.sessions.session_files import UnknownSessionError, checked_id
from reference_impl.sessions.sidecar import (
    UNTITLED,
    USAGE,
    Message,
    Metadata,
    Session,
    SessionError,
    usage_of,
)
from reference_impl.sessions.store import SaveRefusedError, SessionStore
from reference_impl.storage.files import LockBusyError
from reference_impl.storage.json_log import Row
from reference_impl.turns.journal import RunJournal, RunWriter, Turn, TurnEvent, TurnJournal

UNWIND_BOUND_S = 180.0
TEARDOWN_PATIENCE_S = 5.0
UNWIND_PATIENCE_S = 0.5  # of a start, for the agent of a cancelled run
TOKEN_CHARS_MAX = 16_384
TOOL_CHARS_MAX = 16_384
_UNMARKED: Mapping[str, Any] = {}
_PENDING = (
    *("pending_turn_id", "pending_user_source", "pending_wakeup_id"),
    *("pending_attachments", "pending_notices"),
)
ENDED = ("ended_at", "end_reason")  # of a session that a client ended
KEPT = ("model", "model_provider", "workspace", "profile", "enabled_toolsets")
_NOTHING: Mapping[str, Any] = {}

log = logging.getLogger(__name__)


class TurnConflictError(Exception):
    """The session has a run already. `stream_id` is None if no client may attach to that run."""

    def __init__(self, run: Run) -> None:
        self.stream_id = run.stream_id if run.is_attachable else None
        super().__init__(f"session {run.session_id} already has an active stream")


class AlreadyDeliveredError(Exception):
    """The session has this wakeup already; no turn was started."""


class ShuttingDownError(Exception):
    """No turn can begin any more."""


class Source(StrEnum):
    """The origin of a turn. An ephemeral one leaves nothing in the session."""

    USER = "user"
    WAKEUP = "process_wakeup"
    EPHEMERAL = "ephemeral"


class State(StrEnum):
    """How a run ended."""

    DONE = "done"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(eq=False, slots=True)
class Run:
    """A turn while it executes. `started_at` is in seconds of the epoch.

    `asked` is what its start asked for, and then what it works with, as its session says.
    """

    session_id: str
    message: str
    source: Source
    wakeup_id: str | None
    started_at: float
    asked: Mapping[str, Any] = field(default_factory=dict)
    is_retry: bool = False
    notices: Sequence[tuple[str, str]] = ()  # ids and texts of the wakeups that it takes along
    stream_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    turn_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    cancelled: threading.Event = field(default_factory=threading.Event)
    unwound: threading.Event = field(default_factory=threading.Event)
    concluded: threading.Event = field(default_factory=threading.Event)
    title: str = UNTITLED  # of its session, once it is submitted
    is_submitted: bool = False
    is_concluding: bool = False
    state: State | None = None  # decided, and final
    error: str = ""
    unsynced: Session | None = None
    agent: Agent | None = None
    writer: RunWriter | None = None
    produced: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)  # of tools
    spent: list[Mapping[str, float]] = field(default_factory=list)  # by names of USAGE

    @property
    def is_attachable(self) -> bool:
        """Whether a client may attach to its stream."""
        return self.state is None and not self.cancelled.is_set()

    @property
    def phase(self) -> str:
        """What the run is doing, in one word."""
        if self.cancelled.is_set():
            return "cancelling"
        return "running" if self.state is None else "ending"


class PendingWakeups(Protocol):
    """The wakeups that a user's turn takes along: their prompts precede its message."""

    def claim(self, session_id: str) -> Sequence[tuple[str, str]]:
        """The ids and texts of the session's pending wakeups; no other path delivers them now."""
        ...

    def release(self, session_id: str, *, are_delivered: bool) -> None:
        """End the claim: they are delivered with a turn, or another path may deliver them."""
        ...


class NoWakeups:
    """A user's turn takes no wakeup along."""

    def claim(self, session_id: str) -> Sequence[tuple[str, str]]:  # noqa: ARG002
        """None is pending."""
        return ()

    def release(self, session_id: str, *, are_delivered: bool) -> None:
        """Do nothing: none was claimed."""


class TurnListener:
    """Base class of listeners; each overrides what it needs. No method may be slow."""

    def user_refused(self, run: Run) -> None:
        """A user's turn was refused because of this run."""

    def started(self, run: Run) -> None:
        """The run is registered, and the user's message is on disk."""

    def shown(self, run: Run, row: Row) -> None:
        """The run's next event is in its journal; in order, one at a time."""

    def ended(self, run: Run) -> None:
        """The run has left the registry. It may never have started."""


class Turns:
    """The runs of all sessions."""

    def __init__(  # noqa: PLR0913 - it connects the components
        self,
        store: SessionStore,
        runs: RunJournal,
        journal: TurnJournal,
        lifecycle: Lifecycle,
        make_agent: Callable[[str], Agent],
        *,
        sync: Callable[[Session], object] = lambda _: None,
        resolve: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: _NOTHING,
        clock: Callable[[], float] = time.time,
        unwind_bound_s: float = UNWIND_BOUND_S,
    ) -> None:
        """`sync` brings other copies up to a session's state; it may raise anything.

        `resolve` completes what a turn works with; it is quick, and uses no network.
        """
        self._store = store
        self._runs = runs
        self._journal = journal
        self._lifecycle = lifecycle
        self._make_agent = make_agent
        self.agents = AgentCache(lifecycle, self.live_sessions)
        self._sync = sync
        self._resolve = resolve
        self._clock = clock
        self._unwind_bound_s = unwind_bound_s
        self._pending: PendingWakeups = NoWakeups()
        self._listeners: list[TurnListener] = []
        self._changed = threading.Condition(threading.Lock())
        self._by_session: dict[str, Run] = {}
        self._by_stream: dict[str, Run] = {}
        self._abandoned: set[Run] = set()
        self._is_shutting_down = False

    def listen(self, listener: TurnListener) -> None:
        """Add a listener of all runs; before the first one starts."""
        self._listeners.append(listener)

    def take_along(self, pending: PendingWakeups) -> None:
        """Deliver these wakeups with the next turns of users; before the first one starts."""
        self._pending = pending

    # Queries

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {
            "runs": len(self._by_session),
            "streams": len(self._by_stream),
            "runs_abandoned": len(self._abandoned),
        }

    def runs(self) -> tuple[Run, ...]:
        """Every registered run."""
        with self._changed:
            return tuple(self._by_session.values())

    def live_sessions(self) -> frozenset[str]:
        """The sessions that have a run."""
        with self._changed:
            return frozenset(self._by_session)

    def is_live(self, stream_id: str) -> bool:
        """Whether the stream's run is registered."""
        return stream_id in self._by_stream

    def attachable_stream(self, session_id: str) -> str | None:
        """The stream of the session's run, if a client may attach to it."""
        run = self._by_session.get(session_id)
        return run.stream_id if run is not None and run.is_attachable else None

    # Starting

    def start(
        self,
        session_id: str,
        message: str,
        source: Source = Source.USER,
        *,
        wakeup_id: str | None = None,
        asked: Mapping[str, Any] = _NOTHING,
    ) -> Run:
        """Begin a turn; the message is on disk when this returns.

        `asked` may name attachments of this message, and what the session keeps from now on: model,
        provider, workspace, profile and toolsets. Raises TurnConflictError, ShuttingDownError,
        AlreadyDeliveredError for a wakeup that the session has already, UnknownSessionError, and
        whatever else the session store raises.
        """
        return self._begin(
            Run(checked_id(session_id), message, source, wakeup_id, self._clock(), asked)
        )

    def retry(self, session_id: str) -> Run:
        """Begin the session's last turn anew: its reply is removed, and its message sent again.

        That is one save, so a kill leaves the old turn or the new one. Raises SaveRefusedError if
        there is no turn, and what `start` raises.
        """
        session = self._store.load(session_id)
        if not session.is_busy:
            _request_of(session)
        run = Run(session_id, "", Source.USER, None, self._clock(), is_retry=True)
        return self._begin(run)

    def compress(self, session_id: str) -> Session:
        """Replace all turns but the last by the agent's summary, as the user asked.

        The agent may be slow, so no lock is held meanwhile. Raises TurnConflictError,
        SaveRefusedError if there is nothing to compress or the session changed meanwhile,
        SessionError if the agent fails, and what the session store raises.
        """
        with self._changed:
            self._wait_for_leaving(checked_id(session_id))
            run = self._by_session.get(session_id)
        if run is not None:
            raise TurnConflictError(run)
        session = self._store.load(session_id)
        first = _request_of(session)
        if not any(_is_request(message) for message in session.messages[:first]):
            raise SaveRefusedError(f"{session_id}: there is no turn before the last one")
        try:
            text = self._agent_of(session_id).summarize(session.messages[:first])
        except Exception as error:
            raise SessionError(f"{session_id}: could not be summarized: {error}") from error
        about = {"timestamp": self._clock(), "source": "compress"}
        summary: Message = {"role": "system", "content": text, **about}

        def compress(present: Session) -> Session:
            if present.is_busy or present.messages != session.messages:
                raise SaveRefusedError(f"{session_id}: has changed since it was summarized")
            return present.compressed(summary, first)

        return self._store.change(session_id, compress)

    def _begin(self, run: Run) -> Run:
        self._register(run)
        is_begun = False
        try:
            if run.source is Source.USER and not run.is_retry:
                run.notices = self._pending.claim(run.session_id)
            self._submit(run)
            run.is_submitted = True
            self._notify(lambda listener: listener.started(run))
            name = f"turn of {run.session_id}"
            threading.Thread(target=self._work, args=(run,), name=name, daemon=True).start()
            is_begun = True
        finally:
            if not is_begun:
                self._withdraw(run)
            if run.notices:
                self._pending.release(run.session_id, are_delivered=is_begun)
        return run

    def _wait_for_leaving(self, sid: str) -> None:
        """Wait, for a bounded time, for a run whose clients have its end. Under the condition."""

        def is_leaving() -> bool:
            # Its clients have its terminal event, so it must refuse no later turn.
            other = self._by_session.get(sid)
            return other is not None and other.phase == "ending"

        def is_unwinding() -> bool:
            # The same, but it may hang, so the wait for it is short.
            other = self._by_session.get(sid)
            return other is not None and other.state is State.CANCELLED

        self._changed.wait_for(lambda: not is_leaving(), TEARDOWN_PATIENCE_S)
        self._changed.wait_for(lambda: not is_unwinding(), UNWIND_PATIENCE_S)

    def _register(self, run: Run) -> None:
        sid = run.session_id
        with self._changed:
            self._wait_for_leaving(sid)
            if self._is_shutting_down:
                raise ShuttingDownError("the server is shutting down")
            other = self._by_session.get(sid)
            if other is None:
                self._by_session[sid] = self._by_stream[run.stream_id] = run
                return
        if run.source is Source.USER:
            self._notify(lambda listener: listener.user_refused(other))
        raise TurnConflictError(other)

    def _submit(self, run: Run) -> None:
        """Write the message to disk. The session is saved last: that is the commit point."""
        session = self._store.load_metadata_only(run.session_id)  # before anything is written
        run.writer = self._runs.begin(
            run.session_id, run.stream_id, lambda row: self._show(run, row)
        )
        self._journal.submit(run.turn_id, run.session_id, run.stream_id, run.source)
        if run.source is Source.EPHEMERAL:
            asked = _asked(session)
            run.asked = {**asked, **self._resolve(asked)}
            return
        dead: list[Session] = []

        def submit(session: Session) -> Session:
            if self._is_undelivered(session, run.wakeup_id):
                session = _without_pending(session)
            elif session.is_busy:
                dead.append(session)
                session = self._settled(session)
            if run.wakeup_id is not None and _has_wakeup(session, run.wakeup_id):
                raise AlreadyDeliveredError(f"{session.session_id} has had {run.wakeup_id}")
            if run.is_retry:
                session = _taken_back(session, run)
            return _with_pending(session, run)

        saved = self._store.change(run.session_id, submit)
        asked, run.title = _asked(saved), saved.title
        run.asked = {**asked, **self._resolve(asked)}
        self._end_dead_runs(dead)

    def _is_undelivered(self, session: Session, wakeup_id: str | None) -> bool:
        """Whether an earlier start of this same wakeup stopped after saving the session."""
        if wakeup_id is None or session.extra.get("pending_wakeup_id") != wakeup_id:
            return False
        turn = self._journal.get(session.extra.get("pending_turn_id", ""))
        return turn is not None and turn.event is TurnEvent.SUBMITTED

    def _withdraw(self, run: Run) -> None:
        """Undo a start that failed, as far as the disk allows."""
        run.error = "it could not be started"
        self._decide(run, State.ERROR)

        def withdraw(session: Session) -> Session:
            is_ours = session.active_stream_id == run.stream_id
            return _without_pending(session) if is_ours else session

        try:
            if run.writer is not None:
                run.writer.finish(State.ERROR, [])
            if run.source is not Source.EPHEMERAL:
                self._store.maintain(run.session_id, withdraw)
            self._journal.interrupt(run.turn_id)
        except UnknownSessionError:
            self._journal.interrupt(run.turn_id)
        except (OSError, SessionError, LockBusyError) as error:
            log.warning("%s: not withdrawn yet, will be settled later: %s", run.session_id, error)
        finally:
            self._forget_rows(run)
            self._tear_down(run)

    def _forget_rows(self, run: Run) -> None:
        """Remove the empty journal: repeated tries must not displace runs to be settled."""
        try:
            self._runs.remove(run.session_id, run.stream_id)
        except OSError as error:
            log.warning("%s: its empty journal stays: %s", run.stream_id, error)

    # Executing

    def _work(self, run: Run) -> None:
        reply = error = ""
        try:
            with identity.bound(identity.Identity(run.session_id, run.stream_id)):
                reply = self._run_agent(run)
        except BaseException as raised:  # an agent that exits must not wedge its session
            run.error = error = f"{type(raised).__name__}: {raised}"
            if not run.cancelled.is_set():
                log.exception("session %s: the turn failed", run.session_id)
        finally:
            try:
                self._conclude(run, reply, error)
                run.concluded.wait()
            finally:
                run.unwound.set()
                self._tear_down(run)
                with self._changed:
                    self._abandoned.discard(run)
        self.agents.shrink()

    def _run_agent(self, run: Run) -> str:
        self._journal.start(run.turn_id)
        session = self._store.load(run.session_id)
        history = session.messages + _notices(session, _NOTHING)
        agent = run.agent = self._agent_of(run.session_id)
        if run.cancelled.is_set():
            return ""
        return agent.run_turn(run.message, history, _RunOutput(run))

    def _agent_of(self, session_id: str) -> Agent:
        agent = cast("Agent | None", self.agents.get(session_id))  # only this class puts any
        if agent is None:
            agent = self._make_agent(session_id)
            self.agents.put(session_id, agent)
        return agent

    def _show(self, run: Run, row: Row) -> None:
        if row["event"] == "token":
            run.produced.append(row["payload"]["text"])
        elif row["event"] == "reasoning":
            run.thoughts.append(row["payload"]["text"])
        elif row["event"] == "tool":
            run.calls.append(row["payload"])
        self._notify(lambda listener: listener.shown(run, row))

    # Ending

    def cancel(self, stream_id: str) -> bool:
        """End a run now, and save what it produced; returns whether its state is cancelled."""
        with self._changed:
            run = self._by_stream.get(stream_id)
            if run is None or not run.is_submitted:
                return False
            if run.state is not None:
                return run.cancelled.is_set()
            is_first = not run.cancelled.is_set()
            run.cancelled.set()
        if is_first:
            threading.Thread(target=self._await_unwinding, args=(run,), daemon=True).start()
        self._conclude(run, "", "")
        # Another thread may be concluding it; after a cancel its output must be in the session.
        run.concluded.wait(TEARDOWN_PATIENCE_S)
        return True

    def end(self, session_id: str, patience_s: float) -> bool:
        """Cancel the session's run and wait until it has left; returns whether it did."""
        for run in self.runs():
            if run.session_id == session_id:
                self.cancel(run.stream_id)
        with self._changed:
            return self._changed.wait_for(lambda: session_id not in self._by_session, patience_s)

    def _conclude(self, run: Run, reply: str, error: str) -> None:
        """Save the session, decide how the run ended, and publish that; the first caller does it.

        The order is a promise: save, journal, check for a cancel, mark. Syncing follows when the
        run leaves the registry, so that `cancel` does not wait for it.
        """
        with self._changed:
            if run.is_concluding:
                return
            run.is_concluding = True
        session = None
        try:
            if run.writer is not None:
                run.writer.seal()
            session = self._save(run, reply, error)
            self._decide(run, State.ERROR if error else State.DONE)
            run.unsynced = session
            if run.state is State.DONE and session is not None:
                self._remember(run, reply)
        except Exception as failure:
            log.exception("session %s: the turn could not be saved", run.session_id)
            run.error = f"the turn could not be saved: {failure}"
            self._decide(run, State.ERROR)
            if isinstance(failure, UnknownSessionError):  # no later turn settles this one
                with suppress(OSError):
                    self._journal.interrupt(run.turn_id)
        finally:
            self._finish(run, session)
            run.concluded.set()

    def _remember(self, run: Run, reply: str) -> None:
        """Let the memory know of a completed turn, then mark it: who extracts it then has it."""
        assert run.agent is not None
        try:
            run.agent.sync_turn(run.turn_id, run.message, reply)
        except Exception:
            log.exception("session %s: its memory lacks a turn", run.session_id)
        self._lifecycle.mark_turn_completed(run.session_id, agent=run.agent)

    def _save(self, run: Run, reply: str, error: str) -> Session | None:
        """Add the turn to the session, unless it is an ephemeral one: that gives None."""
        text, mark = reply, _UNMARKED
        if run.cancelled.is_set():
            text, mark = "".join(run.produced), {"cancelled": True}
        elif error:
            text, mark = "".join(run.produced), {"error": error}
        saved = None
        if run.source is not Source.EPHEMERAL:
            about = _about_reply(run)
            saved = self._store.change(
                run.session_id,
                lambda session: _with_usage(
                    _concluded(session, text, mark, self._clock(), about), run
                ),
            )
        try:
            if mark:
                self._journal.interrupt(run.turn_id)
            else:
                self._journal.complete(run.turn_id)
        except OSError as failure:
            log.warning("%s: its ending is not in the journal: %s", run.turn_id, failure)
        return saved

    def _decide(self, run: Run, state: State) -> None:
        """Fix the run's state: a later cancel has no effect."""
        with self._changed:
            if run.state is None:
                run.state = State.CANCELLED if run.cancelled.is_set() else state

    def _finish(self, run: Run, session: Session | None) -> None:
        """Write and publish the terminal events."""
        count = session.message_count if session is not None else None
        state = run.state or State.ERROR
        events: Mapping[State, list[tuple[str, Mapping[str, Any]]]] = {
            State.DONE: [("done", {"message_count": count}), ("stream_end", {})],
            State.CANCELLED: [("cancel", {"message_count": count})],
            State.ERROR: [("apperror", {"message_count": count, "error": run.error})],
        }
        try:
            if run.writer is not None:
                run.writer.finish(state, events[state])
        except OSError as failure:
            log.error("%s: its end is not in the journal: %s", run.stream_id, failure)  # noqa: TRY400 - known

    def _sync_quietly(self, session: Session) -> None:
        try:
            self._sync(session)
        except BaseException:  # the run must leave the registry in any case
            log.exception("session %s: not synced; a later turn will do it", session.session_id)

    def _tear_down(self, run: Run) -> None:
        """Sync, leave the registry, and only then let the session's next turn begin."""
        with self._changed:
            unsynced, run.unsynced = run.unsynced, None
        if unsynced is not None:
            self._sync_quietly(unsynced)
        with self._changed:
            if self._by_stream.pop(run.stream_id, None) is None:
                return
            del self._by_session[run.session_id]
            self._changed.notify_all()
        self._notify(lambda listener: listener.ended(run))

    def _await_unwinding(self, run: Run) -> None:
        if run.unwound.wait(self._unwind_bound_s):
            return
        run.concluded.wait()
        log.error("%s: reclaimed after %s s of unwinding", run.stream_id, self._unwind_bound_s)
        with self._changed:
            if not run.unwound.is_set():
                self._abandoned.add(run)
        self.agents.evict(run.session_id)  # a hanging agent runs no other turn
        self._tear_down(run)
        self.agents.shrink()

    def shut_down(self, grace_s: float) -> bool:
        """Refuse new turns, give running ones some time, then cancel them.

        Returns whether all have unwound within as much time again.
        """
        with self._changed:
            self._is_shutting_down = True
            self._changed.wait_for(lambda: not self._by_session, grace_s)
        for run in self.runs():
            self.cancel(run.stream_id)
        with self._changed:
            return self._changed.wait_for(lambda: not self._by_session, grace_s)

    # Settling turns of a killed host

    def recover(self) -> tuple[str, ...]:
        """Settle every turn that was in flight when the last host died; returns the sessions.

        For start-up, before any turn begins or is read. A turn that cannot be settled now is
        logged, and settled by the session's next turn.
        """
        in_flight = self._journal.in_flight()
        suspects = {turn.session_id for turn in in_flight} | {
            row["session_id"]
            for row in self._store.rows()
            if row["active_stream_id"] is not None or row["has_pending_user_message"]
        }
        settled = []
        for sid in sorted(suspects):
            try:
                if self._recover(sid, [turn for turn in in_flight if turn.session_id == sid]):
                    settled.append(sid)
                    log.warning("session %s: its turn was interrupted when its host died", sid)
            except (OSError, SessionError, LockBusyError) as error:
                log.error("session %s: not settled: %s", sid, error)  # noqa: TRY400 - known
        self._write_missing_ends()
        return tuple(settled)

    def _recover(self, session_id: str, in_flight: list[Turn]) -> bool:
        """Settle the session, and record how its turns in flight ended."""
        try:
            is_settled = self.repair(session_id)
            session = self._store.load(session_id)
        except UnknownSessionError:
            for turn in in_flight:
                self._journal.interrupt(turn.turn_id)
            return False
        for turn in in_flight:
            turn_messages = [
                message for message in session.messages if _is_of(message, turn.turn_id)
            ]
            if turn_messages and not any(_is_marked(message) for message in turn_messages):
                self._journal.complete(turn.turn_id)
            else:
                self._journal.interrupt(turn.turn_id)
        self._sync_quietly(session)
        return is_settled

    def _write_missing_ends(self) -> None:
        """Write the missing end of every run whose turn has ended.

        A turn's end is on disk before its run's, so a kill between leaves a turn that is no longer
        in flight, and a run without an end.
        """
        for turn in self._journal.ended():
            try:
                self._runs.write_missing_end(turn.session_id, turn.stream_id, turn.event)
            except OSError as error:
                log.error("%s: its end is not written: %s", turn.stream_id, error)  # noqa: TRY400 - known

    def repair(self, session_id: str) -> bool:
        """Settle a turn whose run no longer exists; returns whether there was one.

        A live run is left alone. As maintenance, under the session's lock, by what is on disk at
        that moment. Raises as the session store does.
        """
        dead: list[Session] = []

        def settle(session: Session) -> Session:
            dead.append(session)
            return self._settled(session)

        is_settled = self._store.clean_stale_stream(session_id, self.is_live, settle)
        self._end_dead_runs(dead)
        if is_settled:
            self._sync_quietly(self._store.load(session_id))
        return is_settled

    def _settled(self, session: Session) -> Session:
        """The session with all tokens of its dead run, marked as interrupted."""
        text = ""
        if session.active_stream_id is not None:
            text = self._runs.text(session.session_id, session.active_stream_id)
        return _concluded(session, text, {"interrupted": True}, session.pending_started_at)

    def _end_dead_runs(self, dead: list[Session]) -> None:
        """Record in both journals that the runs of these sessions are over."""
        for session in dead:
            self._journal.interrupt(session.extra.get("pending_turn_id", ""))
            if session.active_stream_id is not None:
                stream_id = session.active_stream_id
                self._runs.write_missing_end(session.session_id, stream_id, TurnEvent.INTERRUPTED)

    def _notify(self, act: Callable[[TurnListener], object]) -> None:
        for listener in self._listeners:
            try:
                act(listener)
            except Exception:
                log.exception("%s failed; the turn goes on", type(listener).__name__)


class _RunOutput:
    """The output of one run."""

    def __init__(self, run: Run) -> None:
        assert run.writer is not None
        self.cancelled = run.cancelled
        self.asked = run.asked
        self._emit = run.writer.emit
        self._spent = run.spent

    def token(self, text: str) -> None:
        """Write a part of the reply, in as many rows as needed."""
        for at in range(0, len(text), TOKEN_CHARS_MAX):
            self._emit("token", {"text": text[at : at + TOKEN_CHARS_MAX]})

    def reasoning(self, text: str) -> None:
        """Write a thought, in as many rows as needed."""
        for at in range(0, len(text), TOKEN_CHARS_MAX):
            self._emit("reasoning", {"text": text[at : at + TOKEN_CHARS_MAX]})

    def tool(self, name: str, arguments: Any) -> None:
        """Report a tool call."""
        self._emit("tool", {"name": name, "arguments": arguments})

    def spent(self, **counts: float) -> None:
        """Add to what the run costs."""
        self._spent.append(counts)

    def tool_complete(self, name: str, output: str) -> None:
        """Report a tool's output, or its beginning."""
        clipped = output[:TOOL_CHARS_MAX]
        self._emit("tool_complete", {"name": name, "output": clipped, "output_chars": len(output)})


# How a turn changes a session


def _with_pending(session: Session, run: Run) -> Session:
    attachments = run.asked.get("attachments") or None
    new = [
        {"wakeup_id": wakeup_id, "content": text}
        for wakeup_id, text in run.notices
        if not _has_wakeup(session, wakeup_id)
    ]
    values = (run.turn_id, str(run.source), run.wakeup_id, attachments, new or None)
    pending = zip(_PENDING, values, strict=True)
    return replace(
        session,
        active_stream_id=run.stream_id,
        pending_user_message=run.message,
        pending_started_at=run.started_at,
        extra={
            **{name: value for name, value in session.extra.items() if name not in ENDED},
            **{name: run.asked[name] for name in KEPT if name in run.asked},
            **{name: value for name, value in pending if value is not None},
        },
    )


def _taken_back(session: Session, run: Run) -> Session:
    """The session without its last turn, whose message the run sends again."""
    at = _request_of(session)
    request = session.messages[at]
    run.message = request["content"]
    run.asked = {"attachments": request.get("attachments", [])}
    return session.cut(at)


def _request_of(session: Session) -> int:
    """Index of the message that asked for the last turn. Raises SaveRefusedError if none did."""
    at = session.last_request()
    if at is None:
        raise SaveRefusedError(f"{session.session_id}: there is no turn")
    return at


def _is_request(message: Message) -> bool:
    return message.get("role") == "user"


def _asked(session: Metadata) -> Mapping[str, Any]:
    """What the session's pending turn works with."""
    kept = {name: session.extra[name] for name in KEPT if name in session.extra}
    return {**kept, "attachments": session.extra.get("pending_attachments", [])}


def _without_pending(session: Session) -> Session:
    return replace(
        session,
        active_stream_id=None,
        pending_user_message=None,
        pending_started_at=None,
        extra={name: value for name, value in session.extra.items() if name not in _PENDING},
    )


def _concluded(
    session: Session,
    text: str,
    mark: Message,
    at: float | None,
    about: Message = _NOTHING,
) -> Session:
    """The session with the pending turn among its messages: the request, and the reply."""
    extra = session.extra
    turn_id = {"turn_id": extra["pending_turn_id"]} if "pending_turn_id" in extra else {}
    sent = _NOTHING if "error" in mark else mark
    messages: list[Message] = [*_notices(session, sent)]
    if session.pending_user_message is not None:
        request: dict[str, Any] = {
            "role": "user",
            "content": session.pending_user_message,
            "timestamp": session.pending_started_at,
            **turn_id,
            "source": extra.get("pending_user_source", Source.USER),
        }
        if "pending_wakeup_id" in extra:
            request["wakeup_id"] = extra["pending_wakeup_id"]
        if "pending_attachments" in extra:
            request["attachments"] = extra["pending_attachments"]
        messages.append({**request, **sent})
    if text or "error" in mark or not mark:
        reply = {"role": "assistant", "content": text, "timestamp": at, **turn_id, **about}
        messages.append({**reply, **mark})
    return _without_pending(session).appended(*messages)


def _about_reply(run: Run) -> Message:
    """What the session keeps of a reply besides its text."""
    found = {
        "tool_calls": [*run.calls],
        "reasoning": "".join(run.thoughts),
        "token_count": _sum(run, "output_tokens"),
    }
    return {name: value for name, value in found.items() if value}


def _with_usage(session: Session, run: Run) -> Session:
    """The session with what its run cost; a run that was cancelled or failed cost something too."""
    if run.agent is None:
        return session
    before = usage_of(session)
    usage = {name: before.get(name, 0) + _sum(run, name) for name in USAGE}
    model = before.get("model") or run.asked.get("effective_model")
    prompt = session.extra.get("system_prompt") or run.agent.system_prompt
    extra = {"usage": {**usage, "model": model}, "system_prompt": prompt}
    return replace(session, extra={**session.extra, **extra})


def _sum(run: Run, name: str) -> float:
    return sum(counts.get(name, 0) for counts in tuple(run.spent))


def _notices(session: Session, mark: Message) -> tuple[Message, ...]:
    """The messages of the wakeups that the session's pending turn takes along."""
    extra = session.extra
    about = {
        "timestamp": session.pending_started_at,
        **({"turn_id": extra["pending_turn_id"]} if "pending_turn_id" in extra else {}),
        "source": str(Source.WAKEUP),
    }
    return tuple(
        {"role": "user", "content": notice["content"], **about, "wakeup_id": notice["wakeup_id"]}
        | dict(mark)
        for notice in extra.get("pending_notices", ())
    )


def _has_wakeup(session: Session, wakeup_id: str) -> bool:
    return any(message.get("wakeup_id") == wakeup_id for message in session.messages)


def _is_of(message: Message, turn_id: str) -> bool:
    return message.get("turn_id") == turn_id


def _is_marked(message: Message) -> bool:
    return bool(message.keys() & {"interrupted", "cancelled", "error"})
