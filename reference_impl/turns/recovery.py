"""Settles the turns of a killed host, once each, by their marks in the session and journals."""

from __future__ import annotations

import logging
from collections.abc import Callable

from reference_impl.sessions.session_files import UnknownSessionError
from reference_impl.sessions.sidecar import Session, SessionError
from reference_impl.sessions.store import SessionStore
from reference_impl.storage.files import LockBusyError
from reference_impl.turns.journal import RunJournal, Turn, TurnEvent, TurnJournal
from reference_impl.turns.session_changes import concluded, is_marked, is_of

log = logging.getLogger(__name__)


class TurnRecovery:
    """Settles turns whose runs no longer exist."""

    def __init__(
        self,
        store: SessionStore,
        runs: RunJournal,
        journal: TurnJournal,
        *,
        is_live: Callable[[str], bool],
        sync: Callable[[Session], object],
    ) -> None:
        """`is_live` says whether a stream's run is registered; `sync` raises nothing."""
        self._store = store
        self._runs = runs
        self._journal = journal
        self._is_live = is_live
        self._sync = sync

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
                message for message in session.messages if is_of(message, turn.turn_id)
            ]
            if turn_messages and not any(is_marked(message) for message in turn_messages):
                self._journal.complete(turn.turn_id)
            else:
                self._journal.interrupt(turn.turn_id)
        self._sync(session)
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
            return self.settled(session)

        is_settled = self._store.clean_stale_stream(session_id, self._is_live, settle)
        self.end_dead_runs(dead)
        if is_settled:
            self._sync(self._store.load(session_id))
        return is_settled

    def settled(self, session: Session) -> Session:
        """The session with all tokens of its dead run, marked as interrupted."""
        text = ""
        if session.active_stream_id is not None:
            text = self._runs.text(session.session_id, session.active_stream_id)
        return concluded(session, text, {"interrupted": True}, session.pending_started_at)

    def end_dead_runs(self, dead: list[Session]) -> None:
        """Record in both journals that the runs of these sessions are over."""
        for session in dead:
            self._journal.interrupt(session.extra.get("pending_turn_id", ""))
            if session.active_stream_id is not None:
                stream_id = session.active_stream_id
                self._runs.write_missing_end(session.session_id, stream_id, TurnEvent.INTERRUPTED)
