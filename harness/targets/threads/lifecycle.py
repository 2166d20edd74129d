"""Abilities for threads that meet: *lifecycle_threads* and *agent_cache_threads*.

Called by several threads at once, under a controlled schedule: no call waits for another thread by
itself, and what happens inside a call (a provider asked, an agent used or closed) is told as it
ends. An agent named `flaky` fails its first commit, one named `exits` leaves it by SystemExit.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from harness.schedule import calling
from harness.targets.components.lifecycle import ProviderError

CAP = 1
MOMENT_S = 0.01  # of virtual time
See = Callable[[str, Mapping[str, Any], int], None]


def _nothing() -> None:
    """What a call does that is only looked at."""


# Lock rules know these calls by name: while they run, no lock of the target may be held.
_ask_provider = calling("provider", _nothing)
_close_handle = calling("close", _nothing)


class ScriptedAgent:
    """An agent whose commits and closes take a moment, and are seen."""

    def __init__(self, adapter: _Threaded, session: str, name: str) -> None:
        self.name = name
        self._adapter = adapter
        self._told = {"session": session, "agent": name}
        self._commits = 0

    def commit_memory_session(self) -> None:
        """Take a moment, then succeed or fail as the name says."""
        _ask_provider()
        begun = self._adapter.tick()
        self._commits += 1
        time.sleep(MOMENT_S)
        ended = "ok"
        if self._commits == 1:
            ended = {"flaky": "failed", "exits": "exited"}.get(self.name, "ok")
        self._adapter.see("provide", {**self._told, "ended": ended}, begun)
        if ended == "exited":
            raise SystemExit(self.name)
        if ended == "failed":
            raise ProviderError(self.name)

    def close(self) -> None:
        """Close the handle."""
        _close_handle()
        begun = self._adapter.tick()
        time.sleep(MOMENT_S)
        self._adapter.see("close", self._told, begun)


class _Threaded:
    """What both adapters share: agents by name, and somebody who looks."""

    def __init__(self, lifecycle: Any) -> None:
        self.lifecycle = lifecycle
        self.agents: dict[tuple[str, str], ScriptedAgent] = {}

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """From now on tell `see`, on the clock `tick`."""
        self.tick, self.see = tick, see

    def agent(self, session: str, name: str | None) -> ScriptedAgent | None:
        """The session's agent of that name."""
        if name is None:
            return None
        return self.agents.setdefault((session, name), ScriptedAgent(self, session, name))

    def close(self) -> None:
        """Nothing is held."""


class LifecycleThreadsAdapter(_Threaded):
    """The lifecycle, called by threads."""

    def register(self, session: str, agent: str) -> None:
        """Make the agent the session's current one."""
        self.lifecycle.register_agent(session, self.agent(session, agent))

    def unregister(self, session: str) -> None:
        """Leave the session without a current agent."""
        self.lifecycle.unregister_agent(session)

    def complete_turn(self, session: str, agent: str) -> int:
        """Complete a turn of the agent."""
        done: int = self.lifecycle.mark_turn_completed(session, agent=self.agent(session, agent))
        return done

    def commit(self, session: str, *, wait: bool = False) -> bool:
        """Commit the oldest segment."""
        patience = {"wait": True, "timeout": 60.0} if wait else {}
        try:
            committed: bool = self.lifecycle.commit_session_memory(session, **patience)
        except SystemExit as left:
            raise ProviderError(f"{left} took the caller along") from left
        return committed

    def discard(self, session: str) -> bool:
        """Drop the entry if that is safe."""
        gone: bool = self.lifecycle.discard_session(session)
        return gone

    def dirty(self, session: str) -> bool:
        """Whether completed turns wait."""
        waits: bool = self.lifecycle.has_uncommitted_work(session)
        return waits

    def drain(self) -> None:
        """Shut down."""
        self.lifecycle.drain_all_on_shutdown(60.0)


class AgentCacheThreadsAdapter(_Threaded):
    """A cache of one agent and its lifecycle, with whole turns called by threads."""

    def __init__(self, make: Callable[[Callable[[], AbstractSet[str]], int], Any]) -> None:
        """`make(live_sessions, cap)` gives the cache and its lifecycle."""
        self._live: Counter[str] = Counter()
        self._live_lock = threading.Lock()
        self._cache, lifecycle = make(self._live_sessions, CAP)
        super().__init__(lifecycle)
        self._made = 0

    def turn(self, session: str) -> None:
        """Run a turn: be live, take or make the agent, work, complete, keep it, be idle."""
        with self._live_lock:
            self._live[session] += 1
        agent = self._cache.get(session) or self._new(session)
        begun = self.tick()
        self._cache.put(session, agent)
        time.sleep(MOMENT_S)
        told = {"session": session, "agent": agent.name}
        completing = self.tick()
        self.lifecycle.mark_turn_completed(session, agent=agent)
        self.see("complete_turn", told, completing)
        self.see("use", told, begun)
        with self._live_lock:
            self._live[session] -= 1
        self._cache.shrink()

    def evict(self, session: str) -> None:
        """Let the session's agent go."""
        self._cache.evict(session)

    def shrink(self) -> dict[str, int]:
        """Evict what exceeds the cap; how many agents are left."""
        self._cache.shrink()
        return {"agents": len(self._cache), "cap": CAP}

    def commit(self, session: str) -> bool:
        """Commit at some other boundary."""
        committed: bool = self.lifecycle.commit_session_memory(session)
        return committed

    def _new(self, session: str) -> ScriptedAgent:
        self._made += 1
        return ScriptedAgent(self, session, f"{session}-{self._made}")

    def _live_sessions(self) -> AbstractSet[str]:
        with self._live_lock:
            return frozenset(+self._live)
