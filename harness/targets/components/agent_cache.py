"""The *agent_cache* ability over an agent cache and its lifecycle.

Every answer lists what happened to agents during the call, in order: `["commit", session, agent]`
and `["close", session, agent]`; and whether the cache's lock was held while a provider ran, an
agent was closed (`blocked`), or live sessions were looked up (`nested`).

A provider may `fail` or raise any other exception of `RAISED`. It is `stuck` if its agent's close
raises, too late for the handle to be closed again.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

from harness.targets.components.lifecycle import LOCK_WAIT_S, RAISED, contained, returns_within

CAP = 2
SETTING = "HERMES_WEBUI_AGENT_CACHE_MAX"
DRAIN_S = 20.0
CONTAINERS = (dict, list, set, deque)


class CachedAgent:
    """An agent that records its commits and closes, and checks whether a lock is held meanwhile."""

    def __init__(self, adapter: AgentCacheAdapter, session: str, name: str) -> None:
        self.name = name
        self._adapter = adapter
        self._session = session

    def commit_memory_session(self) -> None:
        """Commit, or fail, as the adapter's `provider` says."""
        self._adapter.note("commit", self._session, self.name)
        if error := RAISED.get(self._adapter.provider):
            raise error(f"the provider of {self.name} is scripted to {self._adapter.provider}")

    def close(self) -> None:
        """Close the handle."""
        self._adapter.note("close", self._session, self.name)
        if self._adapter.provider == "stuck":
            raise OSError(f"the handle of {self.name} is scripted to fail as it closes")


class AgentCacheAdapter:
    """A cache of two agents, runs that start and end, and providers that follow the script."""

    def __init__(self, make: Callable[[Callable[[], AbstractSet[str]], int | None], Any]) -> None:
        """`make(live_sessions, cap)` returns the cache and its lifecycle.

        Where `cap` is None, the environment sets it.
        """
        self.provider = "ok"
        self._make = make
        self._cache, self._lifecycle = make(self._live_sessions, CAP)
        self._live: set[str] = set()
        self._live_lock = threading.Lock()
        self._agents: dict[tuple[str, str], CachedAgent] = {}
        self._events: list[list[str]] = []
        self._blocked = False
        self._nested = False

    def configure(self, value: str | None) -> dict[str, Any]:
        """Make the cache anew, with this text in the environment; None for no text."""
        before = os.environ.pop(SETTING, None)
        try:
            if value is not None:
                os.environ[SETTING] = value
            self._cache, self._lifecycle = self._make(self._live_sessions, None)
        finally:
            os.environ.pop(SETTING, None)
            if before is not None:
                os.environ[SETTING] = before
        return self._take_events()

    def put(self, session: str, agent: str, provider: str) -> dict[str, Any]:
        """Give the session an agent."""
        self.provider = provider
        with contained():
            self._cache.put(session, self._agent(session, agent))
        return self._take_events()

    def get(self, session: str) -> dict[str, Any]:
        """Name the session's agent."""
        agent = self._cache.get(session)
        return {"agent": agent.name if agent else None, **self._take_events()}

    def evict(self, session: str, provider: str) -> dict[str, Any]:
        """Let the session's agent go."""
        self.provider = provider
        with contained():
            self._cache.evict(session)
        return self._take_events()

    def start_run(self, session: str) -> dict[str, Any]:
        """Mark the session as one with a live run."""
        with self._live_lock:
            self._live.add(session)
        return self._take_events()

    def end_run(self, session: str, provider: str) -> dict[str, Any]:
        """End the session's run, and let the cache shrink."""
        self.provider = provider
        with self._live_lock:
            self._live.discard(session)
        with contained():
            self._cache.shrink()
        return self._take_events()

    def complete_turn(self, session: str) -> dict[str, Any]:
        """Complete a turn of the session's current agent."""
        self._lifecycle.mark_turn_completed(session)
        return self._take_events()

    def commit(self, session: str, provider: str) -> dict[str, Any]:
        """Commit the session's oldest turns, at a boundary other than an eviction."""
        self.provider = provider
        committed = None
        with contained():
            committed = self._lifecycle.commit_session_memory(session)
        return {"committed": committed, **self._take_events()}

    def drain(self) -> dict[str, Any]:
        """Commit all pending turns with working providers, and let the cache shrink."""
        self.provider = "ok"
        self._lifecycle.drain_all_on_shutdown(DRAIN_S)
        with contained():
            self._cache.shrink()
        return self._take_events()

    def size(self) -> dict[str, Any]:
        """The numbers of cached agents and lifecycle entries, the gauges, and what the cache holds.

        `held` counts the entries of all containers of the cache, whatever they are called.
        """
        containers = [held for held in vars(self._cache).values() if isinstance(held, CONTAINERS)]
        return {
            "agents": len(self._cache),
            "entries": len(self._lifecycle),
            "gauges": self._cache.gauges(),
            "held": sum(map(len, containers)),
        }

    def close(self) -> None:
        """Nothing is held."""

    def note(self, event: str, session: str, agent: str) -> None:
        """Record an agent's event, and whether another thread can use the cache now."""
        self._events.append([event, session, agent])
        self._blocked |= not returns_within(lambda: self._cache.get("-"), LOCK_WAIT_S)

    def _live_sessions(self) -> AbstractSet[str]:
        self._nested |= not returns_within(lambda: self._cache.get("-"), LOCK_WAIT_S)
        with self._live_lock:
            return frozenset(self._live)

    def _agent(self, session: str, name: str) -> CachedAgent:
        return self._agents.setdefault((session, name), CachedAgent(self, session, name))

    def _take_events(self) -> dict[str, Any]:
        taken = {"events": self._events, "blocked": self._blocked, "nested": self._nested}
        self._events, self._blocked, self._nested = [], False, False
        return taken
