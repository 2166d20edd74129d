"""The one way out for every run: it is saved, decided, published, and leaves the registry.

Two threads may end a run, the worker that returns and the caller of `cancel`; the first one does
it, and the other does nothing. For its clients a cancelled run is over at once, but its session is
busy until the agent has unwound, or until a bound, after which the run is reclaimed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from reference_impl.memory.agent_cache import AgentCache
from reference_impl.memory.lifecycle import Lifecycle
from reference_impl.sessions.session_files import UnknownSessionError
from reference_impl.sessions.sidecar import Session
from reference_impl.sessions.store import SessionStore
from reference_impl.turns.journal import TurnJournal
from reference_impl.turns.listeners import Listeners
from reference_impl.turns.registry import TEARDOWN_PATIENCE_S, RunRegistry
from reference_impl.turns.run import Run, Source, State
from reference_impl.turns.session_changes import NOTHING, about_reply, concluded, with_usage

UNWIND_BOUND_S = 180.0

log = logging.getLogger(__name__)


class Ending:
    """Ends runs, each of them once."""

    def __init__(  # noqa: PLR0913 - it connects the components
        self,
        registry: RunRegistry,
        store: SessionStore,
        journal: TurnJournal,
        lifecycle: Lifecycle,
        agents: AgentCache,
        *,
        listeners: Listeners,
        sync: Callable[[Session], object],
        clock: Callable[[], float],
        unwind_bound_s: float,
    ) -> None:
        """`sync` raises nothing."""
        self._registry = registry
        self._store = store
        self._journal = journal
        self._lifecycle = lifecycle
        self._agents = agents
        self._listeners = listeners
        self._sync = sync
        self._clock = clock
        self._unwind_bound_s = unwind_bound_s

    def cancel(self, stream_id: str) -> bool:
        """End a run now, and save what it produced; returns whether its state is cancelled."""
        with self._registry.changed:
            run = self._registry.get(stream_id)
            if run is None or not run.is_submitted:
                return False
            if run.state is not None:
                return run.cancelled.is_set()
            is_first = not run.cancelled.is_set()
            run.cancelled.set()
        if is_first:
            threading.Thread(target=self._await_unwinding, args=(run,), daemon=True).start()
        self.conclude(run, "", "")
        # Another thread may be concluding it; after a cancel its output must be in the session.
        run.concluded.wait(TEARDOWN_PATIENCE_S)
        return True

    def end(self, session_id: str, patience_s: float) -> bool:
        """Cancel the session's run and wait until it has left; returns whether it did."""
        for run in self._registry.runs():
            if run.session_id == session_id:
                self.cancel(run.stream_id)
        return self._registry.await_leaving(session_id, patience_s)

    def conclude(self, run: Run, reply: str, error: str) -> None:
        """Save the session, decide how the run ended, and publish that; the first caller does it.

        The order is a promise: save, journal, check for a cancel, mark. Syncing follows when the
        run leaves the registry, so that `cancel` does not wait for it.
        """
        with self._registry.changed:
            if run.is_concluding:
                return
            run.is_concluding = True
        session = None
        try:
            if run.writer is not None:
                run.writer.seal()
            session = self._save(run, reply, error)
            self.decide(run, State.ERROR if error else State.DONE)
            run.unsynced = session
            if run.state is State.DONE and session is not None:
                self._remember(run, reply)
        except Exception as failure:
            log.exception("session %s: the turn could not be saved", run.session_id)
            run.error = f"the turn could not be saved: {failure}"
            self.decide(run, State.ERROR)
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
        text, mark = reply, NOTHING
        if run.cancelled.is_set():
            text, mark = "".join(run.produced), {"cancelled": True}
        elif error:
            text, mark = "".join(run.produced), {"error": error}
        saved = None
        if run.source is not Source.EPHEMERAL:
            about = about_reply(run)
            saved = self._store.change(
                run.session_id,
                lambda session: with_usage(
                    concluded(session, text, mark, self._clock(), about), run
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

    def decide(self, run: Run, state: State) -> None:
        """Fix the run's state: a later cancel has no effect."""
        with self._registry.changed:
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

    def tear_down(self, run: Run) -> None:
        """Sync, leave the registry, and only then let the session's next turn begin."""
        with self._registry.changed:
            unsynced, run.unsynced = run.unsynced, None
        if unsynced is not None:
            self._sync(unsynced)
        if self._registry.remove(run):
            self._listeners.notify(lambda listener: listener.ended(run))

    def _await_unwinding(self, run: Run) -> None:
        if run.unwound.wait(self._unwind_bound_s):
            return
        run.concluded.wait()
        log.error("%s: reclaimed after %s s of unwinding", run.stream_id, self._unwind_bound_s)
        self._registry.abandon(run)
        self._agents.evict(run.session_id)  # a hanging agent runs no other turn
        self.tear_down(run)
        self._agents.shrink()
