"""Turns: one entry point for all of them, one run per session, and one way out for every run.

A *run* is a turn while it executes. It is registered before anything else happens, and it leaves
the registry last: after its session is saved, its ending is decided and its terminal event is
written. Listeners learn that the session is idle after that, never before.

Here a turn is started and executed; `ending` ends it, and `recovery` settles the turns of a host
that was killed. Everything on disk goes through the session store and the journals. Knows no HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from reference_impl.agents import identity
from reference_impl.agents.agent import Agent
from reference_impl.memory.agent_cache import AgentCache
from reference_impl.memory.lifecycle import Lifecycle
from reference_impl.sessions.session_files import UnknownSessionError, checked_id
from reference_impl.sessions.sidecar import Message, Session, SessionError
from reference_impl.sessions.store import SaveRefusedError, SessionStore
from reference_impl.storage.files import LockBusyError
from reference_impl.storage.json_log import Row
from reference_impl.turns.ending import UNWIND_BOUND_S, Ending
from reference_impl.turns.journal import RunJournal, TurnEvent, TurnJournal
from reference_impl.turns.listeners import Listeners, NoWakeups, PendingWakeups, TurnListener
from reference_impl.turns.output import RunOutput
from reference_impl.turns.recovery import TurnRecovery
from reference_impl.turns.registry import RunRegistry
from reference_impl.turns.run import AlreadyDeliveredError, Run, Source, State, TurnConflictError
from reference_impl.turns.session_changes import (
    NOTHING,
    asked_of,
    has_wakeup,
    is_request,
    notices_of,
    request_of,
    taken_back,
    with_pending,
    without_pending,
)

log = logging.getLogger(__name__)


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
        resolve: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: NOTHING,
        clock: Callable[[], float] = time.time,
        unwind_bound_s: float = UNWIND_BOUND_S,
    ) -> None:
        """`sync` brings other copies up to a session's state; it may raise anything.

        `resolve` completes what a turn works with; it is quick, and uses no network.
        """
        self._store = store
        self._runs = runs
        self._journal = journal
        self._make_agent = make_agent
        self._sync = sync
        self._resolve = resolve
        self._clock = clock
        self._pending: PendingWakeups = NoWakeups()
        self._listeners = Listeners()
        self.agents = AgentCache(lifecycle, self.live_sessions)
        self._registry = RunRegistry()
        self._ending = Ending(
            self._registry,
            store,
            journal,
            lifecycle,
            self.agents,
            listeners=self._listeners,
            sync=self._sync_quietly,
            clock=clock,
            unwind_bound_s=unwind_bound_s,
        )
        self._recovery = TurnRecovery(
            store, runs, journal, is_live=self.is_live, sync=self._sync_quietly
        )

    def listen(self, listener: TurnListener) -> None:
        """Add a listener of all runs; before the first one starts."""
        self._listeners.add(listener)

    def take_along(self, pending: PendingWakeups) -> None:
        """Deliver these wakeups with the next turns of users; before the first one starts."""
        self._pending = pending

    # Queries

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return self._registry.gauges()

    def runs(self) -> tuple[Run, ...]:
        """Every registered run."""
        return self._registry.runs()

    def live_sessions(self) -> frozenset[str]:
        """The sessions that have a run."""
        return self._registry.live_sessions()

    def is_live(self, stream_id: str) -> bool:
        """Whether the stream's run is registered."""
        return self._registry.is_live(stream_id)

    def attachable_stream(self, session_id: str) -> str | None:
        """The stream of the session's run, if a client may attach to it."""
        return self._registry.attachable_stream(session_id)

    # Starting

    def start(
        self,
        session_id: str,
        message: str,
        source: Source = Source.USER,
        *,
        wakeup_id: str | None = None,
        asked: Mapping[str, Any] = NOTHING,
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
            request_of(session)
        run = Run(session_id, "", Source.USER, None, self._clock(), is_retry=True)
        return self._begin(run)

    def compress(self, session_id: str) -> Session:
        """Replace all turns but the last by the agent's summary, as the user asked.

        The agent may be slow, so no lock is held meanwhile. Raises TurnConflictError,
        SaveRefusedError if there is nothing to compress or the session changed meanwhile,
        SessionError if the agent fails, and what the session store raises.
        """
        run = self._registry.staying(checked_id(session_id))
        if run is not None:
            raise TurnConflictError(run)
        session = self._store.load(session_id)
        first = request_of(session)
        if not any(is_request(message) for message in session.messages[:first]):
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
            self._listeners.notify(lambda listener: listener.started(run))
            name = f"turn of {run.session_id}"
            threading.Thread(target=self._work, args=(run,), name=name, daemon=True).start()
            is_begun = True
        finally:
            if not is_begun:
                self._withdraw(run)
            if run.notices:
                self._pending.release(run.session_id, are_delivered=is_begun)
        return run

    def _register(self, run: Run) -> None:
        other = self._registry.add(run)
        if other is None:
            return
        if run.source is Source.USER:
            self._listeners.notify(lambda listener: listener.user_refused(other))
        raise TurnConflictError(other)

    def _submit(self, run: Run) -> None:
        """Write the message to disk. The session is saved last: that is the commit point."""
        session = self._store.load_metadata_only(run.session_id)  # before anything is written
        run.writer = self._runs.begin(
            run.session_id, run.stream_id, lambda row: self._show(run, row)
        )
        self._journal.submit(run.turn_id, run.session_id, run.stream_id, run.source)
        if run.source is Source.EPHEMERAL:
            asked = asked_of(session)
            run.asked = {**asked, **self._resolve(asked)}
            return
        dead: list[Session] = []

        def submit(session: Session) -> Session:
            if self._is_undelivered(session, run.wakeup_id):
                session = without_pending(session)
            elif session.is_busy:
                dead.append(session)
                session = self._recovery.settled(session)
            if run.wakeup_id is not None and has_wakeup(session, run.wakeup_id):
                raise AlreadyDeliveredError(f"{session.session_id} has had {run.wakeup_id}")
            if run.is_retry:
                session = taken_back(session, run)
            return with_pending(session, run)

        saved = self._store.change(run.session_id, submit)
        asked, run.title = asked_of(saved), saved.title
        run.asked = {**asked, **self._resolve(asked)}
        self._recovery.end_dead_runs(dead)

    def _is_undelivered(self, session: Session, wakeup_id: str | None) -> bool:
        """Whether an earlier start of this same wakeup stopped after saving the session."""
        if wakeup_id is None or session.extra.get("pending_wakeup_id") != wakeup_id:
            return False
        turn = self._journal.get(session.extra.get("pending_turn_id", ""))
        return turn is not None and turn.event is TurnEvent.SUBMITTED

    def _withdraw(self, run: Run) -> None:
        """Undo a start that failed, as far as the disk allows."""
        run.error = "it could not be started"
        self._ending.decide(run, State.ERROR)

        def withdraw(session: Session) -> Session:
            is_ours = session.active_stream_id == run.stream_id
            return without_pending(session) if is_ours else session

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
            self._ending.tear_down(run)

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
                self._ending.conclude(run, reply, error)
                run.concluded.wait()
            finally:
                run.unwound.set()
                self._ending.tear_down(run)
                self._registry.forget_abandoned(run)
        self.agents.shrink()

    def _run_agent(self, run: Run) -> str:
        is_wakeup = run.wakeup_id is not None  # which must not begin again once it has begun
        self._journal.start(run.turn_id, sync=is_wakeup)
        session = self._store.load(run.session_id)
        history = session.messages + notices_of(session, NOTHING)
        agent = run.agent = self._agent_of(run.session_id)
        if run.cancelled.is_set():
            return ""
        return agent.run_turn(run.message, history, RunOutput(run))

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
        self._listeners.notify(lambda listener: listener.shown(run, row))

    # Ending

    def cancel(self, stream_id: str) -> bool:
        """End a run now, and save what it produced; returns whether its state is cancelled."""
        return self._ending.cancel(stream_id)

    def end(self, session_id: str, patience_s: float) -> bool:
        """Cancel the session's run and wait until it has left; returns whether it did."""
        return self._ending.end(session_id, patience_s)

    def shut_down(self, grace_s: float) -> bool:
        """Refuse new turns, give running ones some time, then cancel them.

        Returns whether all have unwound within as much time again.
        """
        self._registry.refuse_more(grace_s)
        for run in self._registry.runs():
            self._ending.cancel(run.stream_id)
        return self._registry.await_all(grace_s)

    def _sync_quietly(self, session: Session) -> None:
        try:
            self._sync(session)
        except BaseException:  # the run must leave the registry in any case
            log.exception("session %s: not synced; a later turn will do it", session.session_id)

    # Settling turns of a killed host

    def recover(self) -> tuple[str, ...]:
        """Settle every turn that was in flight when the last host died; returns the sessions.

        For start-up, before any turn begins or is read. A turn that cannot be settled now is
        logged, and settled by the session's next turn.
        """
        return self._recovery.recover()

    def repair(self, session_id: str) -> bool:
        """Settle a turn whose run no longer exists; returns whether there was one.

        A live run is left alone. As maintenance, under the session's lock, by what is on disk at
        that moment. Raises as the session store does.
        """
        return self._recovery.repair(session_id)
