"""The components of one server and how they are connected. Knows no HTTP.

All state lies in one folder: `sessions/` with the journals beside the sidecars, `processes/`,
`state.db`, `config.yaml`, `auth.json`. What a killed host left is settled before anything starts.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from reference_impl.agents.agent import ScriptedAgent
from reference_impl.agents.processes import Event, Kind, ProcessRegistry
from reference_impl.config import env_seconds, env_switch
from reference_impl.live.channels import GRACE_S, IDLE_TTL_S, STARTED, STARTED_BY_CLIENT, Channels
from reference_impl.live.gateway_watcher import POLL_S, GatewayWatcher
from reference_impl.memory.agent_cache import COMMIT_PATIENCE_S
from reference_impl.memory.lifecycle import Lifecycle
from reference_impl.memory.provider import SessionMemory
from reference_impl.model_catalog.catalog import ModelCatalog
from reference_impl.model_catalog.providers import SCRIPTED, offered_models
from reference_impl.sessions import recovery
from reference_impl.sessions.list import SessionList, shown
from reference_impl.sessions.session_files import InvalidSessionIdError, UnknownSessionError
from reference_impl.sessions.sidecar import UNTITLED, Session, SessionError
from reference_impl.sessions.store import PATIENCE_S, SaveRefusedError, SessionStore
from reference_impl.sessions.titles import own_title, sanitized
from reference_impl.state_db.state_db import StateDb
from reference_impl.state_db.sync import SOURCE, StateSync, end_of
from reference_impl.storage.files import LockBusyError, StrPath, absolute
from reference_impl.storage.json_log import Row
from reference_impl.turns.journal import Replay, RunJournal, TurnJournal
from reference_impl.turns.listeners import TurnListener
from reference_impl.turns.run import Run, Source
from reference_impl.turns.session_changes import ENDED
from reference_impl.turns.turns import Turns
from reference_impl.turns.wakeups import Wakeups

_SYNC_LOCKS = 64
FOUND_CHARS = 200  # what a search shows of a message, and a notice of a line
DAY_S = 86_400.0

log = logging.getLogger(__name__)


class Recovered(NamedTuple):
    """What recovery did at the start: numbers of sessions.

    *Restored* ones had lost messages, *settled* ones a turn in flight when their host died.
    """

    scanned: int
    restored: int
    settled: int = 0


class App:
    """All components of one folder."""

    def __init__(self, folder: StrPath) -> None:
        """Open or create the folder. Raises OSError, LockBusyError."""
        self.folder = absolute(folder)
        self.store = SessionStore(self._at("sessions"), own_title=own_title)
        found = recovery.recover_all(self.store)
        self.recovered = Recovered(found.scanned, len(found.restored))
        self.runs = RunJournal(self._at("sessions", "_run_journal"))
        self.journal = TurnJournal(self._at("sessions", "_turn_journal.jsonl"))
        self.lifecycle = Lifecycle()
        self.catalog = ModelCatalog(self.folder, offered_models, SCRIPTED)
        self.processes = ProcessRegistry(self._at("processes"))
        self.turns = Turns(
            self.store,
            self.runs,
            self.journal,
            self.lifecycle,
            lambda session_id: ScriptedAgent(session_id, self.processes, SessionMemory(session_id)),
            sync=self.sync,
            resolve=self.resolve,
        )
        self.sessions = SessionList(self.store.rows, self.turns.attachable_stream)
        self.channels = Channels(
            self,
            grace_s=env_seconds("HERMES_WEBUI_CHANNEL_GRACE", GRACE_S),
            ttl_s=env_seconds("HERMES_WEBUI_CHANNEL_TTL", IDLE_TTL_S),
        )
        self.wakeups = Wakeups(
            self.processes,
            self.turns.start,
            announce=self._announce,
            is_gone=self._is_gone,
            wakes_idle=env_switch("HERMES_WEBUI_IDLE_WAKEUPS", default=True),
            joins_turns=env_switch("HERMES_WEBUI_NEXT_TURN_DRAIN", default=True),
        )
        self.turns.take_along(self.wakeups)
        self.announcer = TurnAnnouncer(self.channels)
        self.turns.listen(self.announcer)  # before the listener that starts the next run
        self.turns.listen(self.wakeups)
        self.processes.bind(self.wakeups.index)
        poll_s = env_seconds("HERMES_WEBUI_GATEWAY_POLL", POLL_S)
        self.watcher = GatewayWatcher(self._at("state.db"), poll_s=poll_s)
        self._db: StateDb | None = None
        self._sync_locks = [threading.Lock() for _ in range(_SYNC_LOCKS)]

    def _at(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def begin(self) -> None:
        """Settle what was in flight when the last host died, then start the background threads."""
        self.recovered = self.recovered._replace(settled=len(self.turns.recover()))
        log.info("recovery: %d sessions scanned, %d restored, %d settled", *self.recovered)
        self._reconcile()
        self.wakeups.begin()
        self.watcher.start()

    def shut_down(self, deadline_s: float) -> None:
        """Finish or mark running turns, commit pending memory, and end every subscription."""
        ends_at = time.monotonic() + deadline_s
        self.wakeups.stop()
        self.turns.shut_down(deadline_s / 4)
        self.lifecycle.drain_all_on_shutdown(max(0.0, ends_at - time.monotonic()))
        self.channels.close()
        self.watcher.stop()
        self.processes.close()
        self.journal.close()
        if self._db is not None:
            self._db.close()

    def gauges(self) -> dict[str, int]:
        """Sizes of all long-lived containers."""
        return {
            **self.store.gauges(),
            **self.runs.gauges(),
            **self.journal.gauges(),
            **self.processes.gauges(),
            **self.turns.gauges(),
            **self.turns.agents.gauges(),
            **self.wakeups.gauges(),
            **self.channels.gauges(),
            **self.watcher.gauges(),
            **self.catalog.gauges(),
            "sessions_listed": len(self.sessions),
            "lifecycle_entries": len(self.lifecycle),
            "agents_cached": len(self.turns.agents),
        }

    # The state database; a server that cannot open it works without it

    def sync(self, session: Session) -> None:
        """Bring state.db up to the session's sidecar. Raises StateDbError."""
        with self._sync_lock(session.session_id):
            StateSync(self._opened_db())(self.store.load(session.session_id))

    def changed(self, session: Session, reason: str) -> None:
        """Bring state.db up to a client's change of the session, and announce the change."""
        self._sync_quietly(session)
        self.channels.sessions_changed(reason, session.session_id)

    def _sync_quietly(self, session: Session) -> None:
        try:
            self.sync(session)
        except Exception:  # the sidecar has the change
            log.exception("session %s: not synced; its next change will do it", session.session_id)

    def _reconcile(self) -> None:
        """Bring state.db up to what its last server could not sync, such as when it was killed."""
        try:
            rows = {row["session_id"]: row for row in self.store.rows()}
            recent = {turn.session_id for turn in self.journal.ended()} & rows.keys()
            if not recent and not os.path.exists(self._at("state.db")):
                return
            copies = {copy.id: copy for copy in self._opened_db().list_sessions()}
            # A session that cannot be read may have no row, and its copy may be all that is left.
            for sid in sorted(copies.keys() - rows.keys() - self.store.files.live_ids()):
                if copies[sid].source == SOURCE:
                    self._opened_db().delete_session(sid)
        except Exception:
            log.exception("state.db is not reconciled; the next change of a session will do it")
            return
        for sid in sorted(rows.keys() & (recent | copies.keys())):
            copy = copies.get(sid)
            known = None
            if copy is not None:
                end = (copy.ended_at, copy.end_reason)
                known = (copy.title or UNTITLED, copy.message_count, end)
            row = rows[sid]
            wanted = (row["title"], row["message_count"], end_of(row))
            # A retried turn has as many messages as the one before, so equal counts prove nothing.
            if sid in recent or known != wanted:
                try:
                    self.sync(self.store.load(sid))
                except Exception:
                    log.exception("session %s: not synced; its next change will do it", sid)

    def _opened_db(self) -> StateDb:
        if self._db is None:
            self._db = StateDb(self._at("state.db"))
        return self._db

    def _sync_lock(self, session_id: str) -> threading.Lock:
        return self._sync_locks[zlib.crc32(session_id.encode()) % _SYNC_LOCKS]

    # What the channels need from the journals

    def owner(self, stream_id: str) -> str | None:
        """The session of a remembered run."""
        return self.journal.session_of(stream_id)

    def has_rows(self, stream_id: str) -> bool:
        """Whether the events of a run can still be read: its session may be deleted by now."""
        session_id = self.owner(stream_id)
        return session_id is not None and self.runs.has(session_id, stream_id)

    def read(self, session_id: str, cursor: str) -> Replay:
        """The events of a run after a cursor."""
        return self.runs.read(session_id, cursor)

    # Sessions

    def search(self, words: str) -> list[dict[str, Any]]:
        """The rows of sessions whose title or messages have all these words, the latest first.

        `match_type` says which of both; `text` is the beginning of the latest such message. Raises
        StateDbError, and what the session store raises.
        """
        texts: dict[str, str] = {}
        if self._db is not None or os.path.exists(self._at("state.db")):
            for message in self._opened_db().search(words, one_a_session=True):
                texts[message.session] = message.content or ""
        parts = words.casefold().split()
        found = []
        for row in self.store.rows():
            sid, title = row["session_id"], row["title"].casefold()
            if parts and all(part in title for part in parts):
                about = {"match_type": "title"}
            elif sid in texts:
                about = {"match_type": "content", "text": texts[sid][:FOUND_CHARS]}
            else:
                continue
            found.append({**shown(row, self.turns.attachable_stream(sid)), **about})
        return found

    def resolve(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """The model and provider of a session or turn, by the cached catalog."""
        model, provider = self.catalog.resolve(asked.get("model"), asked.get("model_provider"))
        return {"effective_model": model, "effective_model_provider": provider}

    def rename(self, session_id: str, title: str) -> Session:
        """Give a session a title, or with none its own one. Raises as the session store does."""
        return self.store.rename(session_id, sanitized(title) or UNTITLED)

    def delete(self, session_id: str) -> bool:
        """Delete a session and everything that belongs to it; returns whether it existed.

        Cancels its run and waits for the run's end first, so that nothing writes any more. Raises
        LockBusyError if that takes too long, and what the session store and state.db raise.
        """
        for run in self.turns.runs():
            if run.session_id == session_id:
                self.channels.withdraw_run(run.stream_id)
        if not self.turns.end(session_id, PATIENCE_S):
            raise LockBusyError(f"session {session_id} is busy, try again")
        existed = self.store.delete(session_id)
        self._forget(session_id, None if existed else SOURCE)
        return existed

    def _forget(self, session_id: str, source: str | None = None) -> None:
        """Remove everything else of a deleted session. Raises as state.db does.

        With a `source` a row of state.db stays that has another: it is of another program.
        """
        self.runs.remove_session(session_id)
        self.channels.forget(session_id)
        self.wakeups.forget_session(session_id)
        self.turns.agents.evict(session_id)
        self.channels.sessions_changed("deleted", session_id)
        with self._sync_lock(session_id):
            self._opened_db().delete_session(session_id, source)

    def end_session(self, session_id: str, reason: str) -> Session:
        """Note that the session is over; the first end stays, and its next turn reopens it.

        Raises SaveRefusedError if a turn is under way, and as the session store does.
        """

        def end(session: Session) -> Session:
            if session.is_busy:
                raise SaveRefusedError(f"{session_id}: a turn is under way")
            about = dict(zip(ENDED, (time.time(), reason), strict=True))
            return replace(session, extra={**about, **session.extra})

        return self.store.change(session_id, end)

    def reopen_session(self, session_id: str) -> Session:
        """Let an ended session go on. Raises as the session store does."""

        def reopen(session: Session) -> Session:
            kept = {name: value for name, value in session.extra.items() if name not in ENDED}
            return replace(session, extra=kept)

        return self.store.change(session_id, reopen)

    def prune(self, older_than_days: int, source: str | None = None) -> int:
        """Delete ended sessions that started longer ago, of one source if it is given.

        One that was reopened meanwhile stays. Returns their number. Raises as the session store and
        state.db do.
        """
        if self._db is None and not os.path.exists(self._at("state.db")):
            return 0
        latest = time.time() - older_than_days * DAY_S
        number = 0
        for found in self._opened_db().list_sessions():
            is_own = found.source == SOURCE and source in (None, SOURCE)
            if is_own and found.ended_at is not None and found.started_at < latest:
                number += self._prune(found.id)
        return number + self._opened_db().prune(older_than_days, source)

    def _prune(self, session_id: str) -> bool:
        try:
            is_pruned = self.store.delete(session_id, lambda session: "ended_at" in session.extra)
        except UnknownSessionError:  # only its row is left, which is pruned with the others
            return False
        if is_pruned:
            self._forget(session_id)
        return is_pruned

    def writes_are_fair(self) -> bool | None:
        """Whether processes write into state.db in order of arrival; None if it is not open."""
        return None if self._db is None else self._db.is_fair

    def record(self, session_id: str) -> dict[str, Any] | None:
        """The session's row in state.db, which other programs read; None for none."""
        if self._db is None and not os.path.exists(self._at("state.db")):
            return None
        found = self._opened_db().get_session(session_id)
        return None if found is None else asdict(found)

    def leave_session(self, session_id: str) -> None:
        """A boundary: commit all completed turns of the session to its agents."""
        self._at_boundary(lambda: self.commit_memory(session_id))

    def clear(self, session_id: str) -> Session:
        """Remove a session's messages, and evict its agent, which knows them: a boundary.

        Raises as the session store does.
        """
        session = self.store.clear(session_id)
        self._at_boundary(lambda: self.turns.agents.evict(session_id))
        return session

    def commit_memory(self, session_id: str) -> None:
        """Commit all completed turns of the session to its agents, one commit after another."""
        while self.lifecycle.commit_session_memory(
            session_id, wait=True, timeout=COMMIT_PATIENCE_S
        ):
            pass

    def _at_boundary(self, act: Callable[[], None]) -> None:
        """Reach a boundary: the provider may be slow, and the client does not wait for it."""
        threading.Thread(target=act, name="boundary", daemon=True).start()

    def _is_gone(self, session_id: str) -> bool:
        """Whether the session is known to be deleted."""
        try:
            self.store.load_metadata_only(session_id)
        except (UnknownSessionError, InvalidSessionIdError):
            return True
        except (OSError, SessionError):
            pass
        return False

    def cancel(self, stream_id: str) -> bool:
        """Cancel a run; from now on no client can attach to it."""
        self.channels.withdraw_run(stream_id)
        return self.turns.cancel(stream_id)

    def _announce(self, session_id: str, event: Event) -> None:
        if event.kind is Kind.WATCH_MATCH:
            self._announce_match(session_id, event)
            return
        payload = {
            "session_id": session_id,
            "task_id": event.process_id,
            "process_id": event.process_id,  # its former name
            "completed_at": event.at,
            "event_id": event.event_id,
            "summary": f"exit_code={event.exit_code}: {event.command[:120]}",
        }
        self.channels.notify(session_id, "bg_task_complete", payload)
        self.channels.notify(session_id, "process_complete", payload)

    def _announce_match(self, session_id: str, event: Event) -> None:
        line = {
            "session_id": session_id,
            "task_id": event.process_id,
            "process_id": event.process_id,
            "matched_at": event.at,
            "event_id": event.event_id,
            "pattern": event.pattern,
            "suppressed": event.suppressed,
            "summary": event.output[:FOUND_CHARS],
        }
        self.channels.notify(session_id, "process_watch_match", line)


class TurnAnnouncer(TurnListener):
    """Publishes the events of turns on the channels."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._ended = threading.Condition(threading.Lock())
        self.last_run_finished_at: float | None = None

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a condition that a run's end can change holds; returns whether it does."""
        with self._ended:
            return self._ended.wait_for(condition, timeout_s)

    def started(self, run: Run) -> None:
        """Open the run's buffer and announce the run: whether the server or a client began it."""
        self._channels.open_run(
            run.session_id,
            run.stream_id,
            notice=STARTED if run.source is Source.WAKEUP else STARTED_BY_CLIENT,
            pending_started_at=run.started_at,
            source=str(run.source),
        )
        self._channels.sessions_changed("turn_started", run.session_id)

    def shown(self, run: Run, row: Row) -> None:
        """Publish the event; after a terminal one no client can attach to the run."""
        self._channels.emit(run.stream_id, row["seq"], row["event"], row["payload"])
        if row["terminal"]:
            self._channels.withdraw_run(run.stream_id)
            self._notify_messages(run, row["payload"].get("message_count"))

    def _notify_messages(self, run: Run, count: Any) -> None:
        if count is not None:
            updated = {
                "session_id": run.session_id,
                "message_count": count,
                "known_count": None,
                "source": str(run.source),
            }
            self._channels.notify(run.session_id, "session-updated", updated)

    def ended(self, run: Run) -> None:
        """Close the run's buffer."""
        self.last_run_finished_at = time.time()
        self._channels.close_run(run.stream_id)
        self._channels.sessions_changed("turn_ended", run.session_id)
        with self._ended:
            self._ended.notify_all()
