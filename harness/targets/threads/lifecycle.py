"""The abilities *lifecycle_threads* and *agent_cache_threads*, called by concurrent threads.

The threads run under a controlled schedule. No call waits for another thread by itself, and an
event inside a call (a provider call, a use or close of an agent) is reported when it ends. An agent
named `flaky` fails its first commit, one named `exits` raises SystemExit there; one named `slow`
takes longer than its commits wait for one another, `hangs` longer than a shutdown may last.
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
PATIENCE_S = 60.0  # of a commit that waits, and of a shutdown
FIRST_S = {"slow": PATIENCE_S / 2, "hangs": PATIENCE_S * 1.5}  # the first commit of these agents
See = Callable[[str, Mapping[str, Any], int], None]


def _nothing() -> None:
    """Do nothing; the lock rules observe the call."""


# Lock rules name these calls: while they run, the target may hold no lock.
_ask_provider = calling("provider", _nothing)
_close_handle = calling("close", _nothing)


class ScriptedAgent:
    """An agent whose commits and closes take virtual time and are reported."""

    def __init__(self, adapter: _Threaded, session: str, name: str, kind: str = "") -> None:
        """`kind` says how its first commit ends, and is its name where none is given."""
        self.name = name
        self._kind = kind or name
        self._adapter = adapter
        self._argument = {"session": session, "agent": name}
        self._commits = 0

    def commit_memory_session(self) -> None:
        """Take some time, then succeed or fail as the name says."""
        _ask_provider()
        begun, begun_s = self._adapter.tick(), time.monotonic()
        self._commits += 1
        time.sleep(FIRST_S.get(self._kind, MOMENT_S) if self._commits == 1 else MOMENT_S)
        ended = "ok"
        if self._commits == 1:
            ended = {"flaky": "failed", "exits": "exited"}.get(self._kind, "ok")
        took_s = round(time.monotonic() - begun_s, 3)
        argument = {**self._argument, "ended": ended, "took_s": took_s}
        self._adapter.see("provide", argument, begun)
        if ended == "exited":
            raise SystemExit(self.name)
        if ended == "failed":
            raise ProviderError(self.name)

    def close(self) -> None:
        """Close the handle."""
        _close_handle()
        begun = self._adapter.tick()
        time.sleep(MOMENT_S)
        self._adapter.see("close", self._argument, begun)


class _Threaded:
    """The common part of both adapters: agents by name, and the report of events."""

    def __init__(self, lifecycle: Any) -> None:
        self.lifecycle = lifecycle
        self.agents: dict[tuple[str, str], ScriptedAgent] = {}

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """Report events to `see`, with times of the clock `tick`."""
        self.tick, self.see = tick, see

    def agent(self, session: str, name: str | None) -> ScriptedAgent | None:
        """The session's agent of that name."""
        if name is None:
            return None
        return self.agents.setdefault((session, name), ScriptedAgent(self, session, name))

    def commit(
        self,
        session: str,
        *,
        agent: str | None = None,
        wait: bool = False,
        timeout: float | None = PATIENCE_S,
    ) -> dict[str, Any]:
        """Commit the oldest segment; the result, and the seconds that it took."""
        patience = {"wait": True, "timeout": timeout} if wait else {}
        begun_s = time.monotonic()
        try:
            explicit = self.agent(session, agent)
            committed: bool = self.lifecycle.commit_session_memory(session, explicit, **patience)
        except SystemExit as left:
            raise ProviderError(f"SystemExit of provider {left} reached the caller") from left
        return {"committed": committed, "took_s": round(time.monotonic() - begun_s, 3)}

    def drain(self) -> dict[str, float]:
        """Shut down; the seconds that it took."""
        begun_s = time.monotonic()
        self.lifecycle.drain_all_on_shutdown(PATIENCE_S)
        return {"took_s": round(time.monotonic() - begun_s, 3)}

    def close(self) -> None:
        """Do nothing: the lifecycle holds no resource."""


class LifecycleThreadsAdapter(_Threaded):
    """The lifecycle, called by threads."""

    def register(self, session: str, agent: str) -> None:
        """Make the agent the session's current one."""
        self.lifecycle.register_agent(session, self.agent(session, agent))

    def unregister(self, session: str) -> None:
        """Remove the session's current agent."""
        self.lifecycle.unregister_agent(session)

    def complete_turn(self, session: str, agent: str | None) -> int:
        """Complete a turn of the agent, or of the session's current one."""
        done: int = self.lifecycle.mark_turn_completed(session, agent=self.agent(session, agent))
        return done

    def discard(self, session: str) -> bool:
        """Drop the entry if that is safe."""
        gone: bool = self.lifecycle.discard_session(session)
        return gone

    def dirty(self, session: str) -> bool:
        """Whether completed turns wait for a commit."""
        waits: bool = self.lifecycle.has_uncommitted_work(session)
        return waits


class AgentCacheThreadsAdapter(_Threaded):
    """A cache of one agent and its lifecycle, with whole turns called by threads."""

    def __init__(self, make: Callable[[Callable[[], AbstractSet[str]], int], Any]) -> None:
        """`make(live_sessions, cap)` returns the cache and its lifecycle."""
        self._live: Counter[str] = Counter()
        self._live_lock = threading.Lock()
        self._cache, lifecycle = make(self._live_sessions, CAP)
        super().__init__(lifecycle)
        self._made = 0
        self._registered: list[tuple[str, str, int, int]] = []  # session, agent, begun, ended

    def turn(self, session: str, new: str = "", *, cancelled: bool = False) -> None:
        """Run a turn: mark the session live, get or make its agent, use, complete, mark it idle.

        `new` is the kind of a new agent, which replaces a cached one. A cancelled turn does not
        complete.
        """
        with self._live_lock:
            self._live[session] += 1
        agent = (None if new else self._cache.get(session)) or self._new(session, new)
        begun = self.tick()
        self._cache.put(session, agent)
        self._registered.append((session, agent.name, begun, self.tick()))
        time.sleep(MOMENT_S)
        argument = {"session": session, "agent": agent.name}
        completing = self.tick()
        if not cancelled:
            self.lifecycle.mark_turn_completed(session, agent=agent)
            self.see("complete_turn", argument, completing)
            self._registered.append((session, agent.name, completing, self.tick()))
        self.see("use", argument, begun)
        with self._live_lock:
            self._live[session] -= 1
        self._cache.shrink()

    def pause(self) -> None:
        """Wait as long as a commit takes, so that what follows meets what follows the commit."""
        time.sleep(MOMENT_S)

    def own_turn(self, session: str) -> None:
        """Complete a turn of the session's current agent, if that is the cached one for certain.

        It is, if it was registered after every other one. Only when all is quiet: nothing evicts
        the agent meanwhile.
        """
        agent = self._cache.get(session)
        spans = [entry[1:] for entry in self._registered if entry[0] == session]
        own = [begun for name, begun, _ in spans if agent is not None and name == agent.name]
        others = [ended for name, _, ended in spans if agent is not None and name != agent.name]
        if agent is not None and max(own, default=0) > max(others, default=0):
            begun = self.tick()
            self.lifecycle.mark_turn_completed(session)
            self.see("complete_turn", {"session": session, "agent": agent.name}, begun)

    def evict(self, session: str) -> None:
        """Evict the session's agent."""
        self._cache.evict(session)

    def shrink(self) -> dict[str, int]:
        """Evict agents above the cap; the numbers of remaining agents and lifecycle entries."""
        self._cache.shrink()
        return {"agents": len(self._cache), "entries": len(self.lifecycle)}

    def _new(self, session: str, kind: str) -> ScriptedAgent:
        self._made += 1
        return ScriptedAgent(self, session, f"{session}-{self._made}", kind)

    def _live_sessions(self) -> AbstractSet[str]:
        with self._live_lock:
            return frozenset(+self._live)
