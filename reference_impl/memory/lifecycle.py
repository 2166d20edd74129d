"""The memory lifecycle: each completed turn is committed once, by the agent that owns it.

A memory provider learns from a session only when its agent's `commit_memory_session()` is called.
Sessions are reopened, agents are replaced and evicted, and providers fail, so the lifecycle records
for each session which completed turns are not committed yet, and which agent owns them.

A monotonic *generation* counts the turns. Uncommitted generations are covered by ordered
*segments*, each with one owner; a commit passes exactly the oldest segment to its owner. One
condition guards everything, and it is never held while a provider runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

log = logging.getLogger(__name__)

DRAIN_WORKERS_MAX = 8


class MemoryAgent(Protocol):
    """What the lifecycle needs from an agent."""

    def commit_memory_session(self) -> None:
        """Extract the session's memory; may be slow, and may raise anything."""
        ...


@dataclass(slots=True)
class Segment:
    """Completed turns `start` to `end`, inclusive, owned by one agent (None: not owned yet)."""

    start: int
    end: int
    owner: MemoryAgent | None


@dataclass(slots=True)
class Entry:
    """One session: number of completed and of committed turns, and the segments between."""

    agent: MemoryAgent | None = None
    generation: int = 0
    committed_generation: int = 0
    in_flight: bool = False
    segments: deque[Segment] = field(default_factory=deque)

    @property
    def is_dirty(self) -> bool:
        """Whether a completed turn waits to be committed."""
        return self.generation > self.committed_generation

    def complete_turn(self, owner: MemoryAgent | None) -> int:
        """Count a turn; it joins its owner's segment, unless that is being committed now."""
        self.generation += 1
        last = self.segments[-1] if self.segments else None
        if last is not None and last.owner is owner and not self.in_flight:
            last.end = self.generation
        else:
            self.segments.append(Segment(self.generation, self.generation, owner))
        return self.generation

    def settle(self, end: int) -> None:
        """Drop what a commit covers that captured generations up to `end`."""
        self.committed_generation = max(self.committed_generation, end)
        while self.segments and self.segments[0].end <= self.committed_generation:
            self.segments.popleft()


class Lifecycle:
    """The commits of all sessions. Thread-safe; a falsy session id is a no-op everywhere."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._changed = threading.Condition(threading.Lock())

    def __len__(self) -> int:
        """Number of sessions remembered: those with an agent, and those with work to commit."""
        return len(self._entries)

    def register_agent(self, sid: str, agent: MemoryAgent) -> None:
        """Make `agent` the owner of later turns; turns that have an owner keep it."""
        if not sid:
            return
        with self._changed:
            self._entries.setdefault(sid, Entry()).agent = agent

    def unregister_agent(self, sid: str) -> None:
        """Leave later turns without an owner; turns that have one keep it."""
        with self._changed:
            if entry := self._entries.get(sid):
                entry.agent = None

    def discard_session(self, sid: str) -> bool:
        """Drop the session's entry, unless it has uncommitted work; returns whether it is gone."""
        if not sid:
            return False
        with self._changed:
            entry = self._entries.get(sid)
            if entry is None:
                return True
            if entry.in_flight or entry.is_dirty:
                return False
            del self._entries[sid]
            return True

    def mark_turn_completed(self, sid: str, *, agent: MemoryAgent | None = None) -> int:
        """Count a completed turn and return the number of turns; commits nothing.

        `agent`, where given, becomes the session's current agent and owns the turn.
        """
        if not sid:
            return 0
        with self._changed:
            entry = self._entries.setdefault(sid, Entry())
            if agent is not None:
                entry.agent = agent
            return entry.complete_turn(entry.agent)

    def has_uncommitted_work(self, sid: str) -> bool:
        """Whether a completed turn of the session waits to be committed."""
        with self._changed:
            entry = self._entries.get(sid)
            return entry is not None and entry.is_dirty

    def commit_session_memory(
        self,
        sid: str,
        agent: MemoryAgent | None = None,
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> bool:
        """Pass the oldest segment to its owner, and return whether the owner committed it.

        A segment without an owner gets `agent`, else the session's current agent, for good. While
        another commit of the session is in flight this returns False at once or, with `wait`, waits
        for it, at most `timeout` seconds. If the provider raises anything, its segment stays for a
        later try; only a KeyboardInterrupt on the main thread propagates, since it may be the
        user's.
        """
        if not sid:
            return False
        with self._changed:
            entry = self._take_turn(sid, timeout if wait else 0.0)
            if entry is None or not entry.is_dirty:
                return False
            segment = entry.segments[0]
            if segment.owner is None:
                segment.owner = agent if agent is not None else entry.agent
            owner = segment.owner
            if owner is None:
                return False
            captured = segment.end
            entry.in_flight = True

        committed = False
        try:
            owner.commit_memory_session()
            committed = True
        except BaseException as error:  # a provider that exits must not wedge the session
            if isinstance(error, KeyboardInterrupt) and _is_main_thread():
                raise
            log.exception("session %s: the provider failed; its turns stay uncommitted", sid)
        finally:
            with self._changed:
                entry.in_flight = False
                if committed:
                    entry.settle(captured)
                self._changed.notify_all()
        return committed

    def _take_turn(self, sid: str, patience_s: float | None) -> Entry | None:
        """Wait until no commit of the session is in flight. None: unknown session, or timeout."""

        def is_free() -> bool:
            entry = self._entries.get(sid)
            return entry is None or not entry.in_flight

        if not self._changed.wait_for(is_free, patience_s):
            return None
        return self._entries.get(sid)

    def drain_all_on_shutdown(self, deadline: float = 30.0) -> None:
        """Commit every dirty session, registered or not, in at most `deadline` seconds.

        Waits for commits in flight first, and passes over the sessions until a pass makes no
        progress. A provider that hangs stays behind on a daemon thread. Logs the sessions that it
        leaves.
        """
        ends_at = time.monotonic() + deadline
        while sids := self._dirty_sessions():
            flush = _Flush(self, sids, ends_at)
            flush.run()
            if not flush.made_progress or time.monotonic() >= ends_at:
                break
        if left := self._dirty_sessions():
            log.error("stopped with uncommitted sessions: %s", ", ".join(sorted(left)))

    def _dirty_sessions(self) -> list[str]:
        with self._changed:
            return [sid for sid, entry in self._entries.items() if entry.is_dirty]


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Flush:
    """One pass over dirty sessions. A hanging provider blocks one worker, not the pass."""

    def __init__(self, lifecycle: Lifecycle, sids: Iterable[str], ends_at: float) -> None:
        self.made_progress = False
        self._lifecycle = lifecycle
        self._waiting = deque(sids)
        self._ends_at = ends_at

    def run(self) -> None:
        """Commit until every session is clean or refuses, or the deadline is over."""
        count = min(len(self._waiting), DRAIN_WORKERS_MAX)
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(max(0.0, self._ends_at - time.monotonic()))

    def _work(self) -> None:
        while self._waiting:
            try:
                sid = self._waiting.popleft()
            except IndexError:  # another worker took the last one
                return
            while self._commit(sid):
                self.made_progress = True

    def _commit(self, sid: str) -> bool:
        patience_s = self._ends_at - time.monotonic()
        if patience_s <= 0:
            return False
        return self._lifecycle.commit_session_memory(sid, wait=True, timeout=patience_s)
