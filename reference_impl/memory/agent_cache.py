"""A bounded cache of idle agents for the next turn; never closes an agent under a live run.

An agent holds a database handle and a memory provider's uncommitted turns, so eviction commits
first, then closes. Victims are chosen under the cache's lock, and committed and closed outside it.
The set of live sessions is read before that lock is taken, and once more after it, never inside.
That is enough for a run that registers as live *before* it gets its agent: either the second read
includes the run, or the run no longer finds the agent.

An agent can come back during its eviction, put by a run that had got it before, and be evicted a
second time. So an eviction *claims* the agent, and only the latest claim may close it.

An agent that is evicted under a live run is *leaving* until that run is over. An agent whose
provider failed is put *aside*, and a later eviction closes it once its session is clean and idle.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from reference_impl.config import env_int
from reference_impl.memory.lifecycle import Lifecycle, MemoryAgent

log = logging.getLogger(__name__)

CAP_DEFAULT = 25
COMMIT_PATIENCE_S = 30.0


class CachedAgent(MemoryAgent, Protocol):
    """What the cache needs from an agent."""

    def close(self) -> None:
        """Close the agent's database handle."""
        ...


Victim = tuple[str, CachedAgent]  # a session, and its evicted agent


class AgentCache:
    """At most `cap` idle agents, one per session; the least recently used is evicted first."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        live_sessions: Callable[[], AbstractSet[str]],
        *,
        cap: int | None = None,
    ) -> None:
        """`live_sessions` returns the sessions that have a run; it may take locks of its own.

        `cap` defaults to HERMES_WEBUI_AGENT_CACHE_MAX, and that to 25.
        """
        self.cap = env_int("HERMES_WEBUI_AGENT_CACHE_MAX", CAP_DEFAULT) if cap is None else cap
        self._lifecycle = lifecycle
        self._live_sessions = live_sessions
        self._agents: OrderedDict[str, CachedAgent] = OrderedDict()
        self._leaving: list[Victim] = []
        self._aside: list[Victim] = []
        self._claims: dict[int, Victim] = {}  # by the agent's identity
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of cached agents."""
        return len(self._agents)

    def get(self, sid: str) -> CachedAgent | None:
        """The session's agent, now the most recently used; None if there is none."""
        with self._lock:
            agent = self._agents.get(sid)
            if agent is not None:
                self._agents.move_to_end(sid)
            return agent

    def put(self, sid: str, agent: CachedAgent) -> None:
        """Cache the session's agent; evict a replaced agent and those above the cap."""
        with self._lock:
            before = self._agents.get(sid)
            replaced = [] if before is None or before is agent else [self._claimed(sid, before)]
            self._agents[sid] = agent
            self._agents.move_to_end(sid)
            self._claims.pop(id(agent), None)
            for victims in (self._leaving, self._aside):
                victims[:] = [victim for victim in victims if victim[1] is not agent]
            self._lifecycle.register_agent(sid, agent)
        self._retire(replaced)
        self.shrink()

    def shrink(self) -> None:
        """Evict idle agents down to the cap; agents of live runs are evicted later."""
        live = self._live_sessions()
        with self._lock:
            excess = max(0, len(self._agents) - self.cap)
            idle = [sid for sid in self._agents if sid not in live]
            victims = [self._claimed(sid, self._agents.pop(sid)) for sid in idle[:excess]]
            leaving, aside = list(self._leaving), list(self._aside)
            self._leaving.clear()
            self._aside.clear()
        self._retire(leaving + victims)
        self._close(aside)

    def evict(self, sid: str) -> None:
        """Evict the session's agent: at once if it is idle, else when its run is over."""
        with self._lock:
            agent = self._agents.pop(sid, None)
            victims = [] if agent is None else [self._claimed(sid, agent)]
        self._retire(victims)

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {
            "agents_kept": len(self._agents),
            "agents_leaving": len(self._leaving),
            "agents_aside": len(self._aside),
            "agents_claimed": len(self._claims),
        }

    def _claimed(self, sid: str, agent: CachedAgent) -> Victim:
        """Claim an agent that leaves the cache; voids an earlier claim. Under the lock."""
        victim = self._claims[id(agent)] = (sid, agent)
        return victim

    def _retire(self, victims: Sequence[Victim]) -> None:
        """Commit and close agents that have left the cache, except those of a live run."""
        live = self._live_sessions() if victims else frozenset()
        idle = [victim for victim in victims if victim[0] not in live]
        self._defer(self._leaving, [victim for victim in victims if victim[0] in live])
        for sid, _ in idle:
            self._commit(sid)
        self._close(idle)

    def _commit(self, sid: str) -> None:
        """Commit all of the session's turns, waiting for a commit in flight."""
        while self._lifecycle.commit_session_memory(sid, wait=True, timeout=COMMIT_PATIENCE_S):
            pass

    def _close(self, victims: Sequence[Victim]) -> None:
        """Close the agents of clean and idle sessions, and put the others aside."""
        live = self._live_sessions() if victims else frozenset()
        for victim in victims:
            sid, agent = victim
            if sid in live or self._lifecycle.has_uncommitted_work(sid):
                self._defer(self._aside, [victim])
            elif self._release(victim):
                try:
                    agent.close()
                except Exception:
                    log.exception("session %s: its agent could not be closed", sid)

    def _defer(self, where: list[Victim], victims: Sequence[Victim]) -> None:
        """Close these agents later, except those that came back or were claimed anew."""
        with self._lock:
            where += [victim for victim in victims if self._claims.get(id(victim[1])) is victim]

    def _release(self, victim: Victim) -> bool:
        """Drop the lifecycle's entry unless the session has an agent; False for a void claim."""
        sid, agent = victim
        with self._lock:
            if self._claims.get(id(agent)) is not victim:
                return False
            del self._claims[id(agent)]
            if sid not in self._agents:
                self._lifecycle.unregister_agent(sid)
                self._lifecycle.discard_session(sid)
            return True
