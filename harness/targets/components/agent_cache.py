"""The *agent_cache* ability over an agent cache and its lifecycle.

Every answer tells what happened to agents meanwhile, in order: `["commit", session, agent]` and
`["close", session, agent]`; and whether the cache's lock was held while a provider ran, an agent
was closed (`blocked`), or live sessions were looked up (`nested`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

from harness.targets.components.lifecycle import GLANCE_S, ProviderError, comes_back

CAP = 2
DRAIN_S = 20.0


class CachedAgent:
    """An agent that notes when it commits and closes, and looks whether a lock is held."""

    def __init__(self, adapter: AgentCacheAdapter, session: str, name: str) -> None:
        self.name = name
        self._adapter = adapter
        self._session = session

    def commit_memory_session(self) -> None:
        """Commit, or fail, as the adapter was told."""
        self._adapter.note("commit", self._session, self.name)
        if self._adapter.provider != "ok":
            raise ProviderError(f"{self.name} was told to fail")

    def close(self) -> None:
        """Close the handle."""
        self._adapter.note("close", self._session, self.name)


class AgentCacheAdapter:
    """A cache of two agents, runs that start and end, and providers that follow the script."""

    def __init__(self, make: Callable[[Callable[[], AbstractSet[str]], int], Any]) -> None:
        """`make(live_sessions, cap)` gives the cache and its lifecycle."""
        self.provider = "ok"
        self._cache, self._lifecycle = make(self._live_sessions, CAP)
        self._live: set[str] = set()
        self._live_lock = threading.Lock()
        self._agents: dict[tuple[str, str], CachedAgent] = {}
        self._events: list[list[str]] = []
        self._blocked = False
        self._nested = False

    def put(self, session: str, agent: str, provider: str) -> dict[str, Any]:
        """Give the session an agent."""
        self.provider = provider
        self._cache.put(session, self._agent(session, agent))
        return self._told()

    def get(self, session: str) -> dict[str, Any]:
        """Name the session's agent."""
        agent = self._cache.get(session)
        return {"agent": agent.name if agent else None, **self._told()}

    def evict(self, session: str, provider: str) -> dict[str, Any]:
        """Let the session's agent go."""
        self.provider = provider
        self._cache.evict(session)
        return self._told()

    def start_run(self, session: str) -> dict[str, Any]:
        """The session has a live run from now on."""
        with self._live_lock:
            self._live.add(session)
        return self._told()

    def end_run(self, session: str, provider: str) -> dict[str, Any]:
        """Its run is over, and the cache may shrink."""
        self.provider = provider
        with self._live_lock:
            self._live.discard(session)
        self._cache.shrink()
        return self._told()

    def complete_turn(self, session: str) -> dict[str, Any]:
        """A turn of the session's current agent is completed."""
        self._lifecycle.mark_turn_completed(session)
        return self._told()

    def drain(self) -> dict[str, Any]:
        """Commit all that waits, with every provider well, and let the cache shrink."""
        self.provider = "ok"
        self._lifecycle.drain_all_on_shutdown(DRAIN_S)
        self._cache.shrink()
        return self._told()

    def size(self) -> dict[str, Any]:
        """How many agents are kept, and how many sessions the lifecycle remembers."""
        return {"agents": len(self._cache), "entries": len(self._lifecycle)}

    def close(self) -> None:
        """Nothing is held."""

    def note(self, event: str, session: str, agent: str) -> None:
        """Note what happens to an agent, and whether another thread could use the cache now."""
        self._events.append([event, session, agent])
        self._blocked |= not comes_back(lambda: self._cache.get("-"), GLANCE_S)

    def _live_sessions(self) -> AbstractSet[str]:
        self._nested |= not comes_back(lambda: self._cache.get("-"), GLANCE_S)
        with self._live_lock:
            return frozenset(self._live)

    def _agent(self, session: str, name: str) -> CachedAgent:
        return self._agents.setdefault((session, name), CachedAgent(self, session, name))

    def _told(self) -> dict[str, Any]:
        told = {"events": self._events, "blocked": self._blocked, "nested": self._nested}
        self._events, self._blocked, self._nested = [], False, False
        return told
