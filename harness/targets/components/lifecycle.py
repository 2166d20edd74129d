"""Scripted providers, and the lifecycle adapter that is built on them.

Knows a lifecycle only by its calls (`register_agent`, `commit_session_memory` ...), so any module
or object that has these can stand behind it; and it can stand in a test file of its own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

try:
    from harness.core.errors import UsageError as NotAskableError
except ImportError:  # where this stands alone

    class NotAskableError(Exception):  # type: ignore[no-redef]
        """The question makes no sense now."""


PATIENCE_S = 10.0  # how long a healthy target may take for anything; more is called hung
GLANCE_S = 5.0  # how long another thread may wait for a lock that nobody should hold
MOMENT_S = 0.02  # how long a caller waits who expects to be refused


class ProviderError(Exception):
    """What a scripted provider raises when told to fail."""


class HungError(Exception):
    """A call did not come back within `PATIENCE_S`."""


class Script:
    """What the providers of one instance do next, and what they did."""

    def __init__(self, glance: Callable[[], object]) -> None:
        """`glance` asks the target something harmless that takes its lock for a moment."""
        self.behaviour = "ok"
        self.called: list[list[str]] = []
        self.blocked = False
        self.entered: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.release = threading.Event()
        self._glance = glance

    def provide(self, session: str, agent: str) -> None:
        """Be the provider: note the call, look whether a lock is held, then act as told."""
        self.called.append([session, agent])
        behaviour = self.behaviour
        if not comes_back(self._glance, GLANCE_S):
            self.blocked = True
        if behaviour == "hang":
            self.entered.put(("hangs", None))
            self.release.wait(PATIENCE_S)
            behaviour = self.behaviour
        if behaviour == "fail":
            raise ProviderError(f"{agent} was told to fail")
        if behaviour == "exit":
            raise SystemExit(f"{agent} was told to exit")

    def take(self) -> dict[str, Any]:
        """What happened since the last look."""
        seen = {"called": self.called, "blocked": self.blocked}
        self.called, self.blocked = [], False
        return seen


class ScriptedAgent:
    """An agent of one session whose memory provider follows the script."""

    def __init__(self, script: Script, session: str, name: str) -> None:
        self.name = name
        self.closed = 0
        self._script = script
        self._session = session

    def commit_memory_session(self) -> None:
        """Do what the script says."""
        self._script.provide(self._session, self.name)

    def close(self) -> None:
        """Count how often the handle was closed."""
        self.closed += 1


class LifecycleAdapter:
    """The *lifecycle* ability over any object or module with the lifecycle's calls."""

    def __init__(self, lifecycle: Any) -> None:
        self._lifecycle = lifecycle
        self._script = Script(lambda: lifecycle.has_uncommitted_work("-"))
        self._agents: dict[tuple[str, str], ScriptedAgent] = {}
        self._background: dict[str, threading.Thread] = {}
        self._answers: dict[str, Any] = {}

    def register(self, session: str, agent: str) -> dict[str, Any]:
        """Make the agent the session's current one."""
        self._lifecycle.register_agent(session, self._agent(session, agent))
        return {}

    def unregister(self, session: str) -> dict[str, Any]:
        """Leave the session without a current agent."""
        self._lifecycle.unregister_agent(session)
        return {}

    def complete_turn(self, session: str, agent: str | None) -> dict[str, Any]:
        """Complete a turn; tells the generation, and what was called though nothing should be."""
        handle = self._agent(session, agent)
        generation = self._lifecycle.mark_turn_completed(session, agent=handle)
        return {"generation": generation, "called": self._script.take()["called"]}

    def dirty(self, session: str) -> dict[str, Any]:
        """Whether completed turns wait."""
        return {"dirty": self._lifecycle.has_uncommitted_work(session)}

    def discard(self, session: str) -> dict[str, Any]:
        """Drop the entry if that is safe."""
        return {"gone": self._lifecycle.discard_session(session)}

    def commit(
        self, session: str, agent: str | None, provider: str, *, wait: bool = False
    ) -> dict[str, Any]:
        """Commit now; `provider` says what whoever is called does."""
        self._script.behaviour = provider
        handle = self._agent(session, agent)
        patience = {"wait": True, "timeout": MOMENT_S} if wait else {}
        committed = self._lifecycle.commit_session_memory(session, handle, **patience)
        return {"committed": committed, **self._script.take()}

    def begin_commit(self, session: str, agent: str | None) -> dict[str, Any]:
        """Start a commit whose provider, if one is called, hangs until `finish_commit`."""
        if self._background:
            raise NotAskableError(f"a commit of {', '.join(self._background)} hangs already")
        script, handle = self._script, self._agent(session, agent)
        script.behaviour = "hang"
        script.release.clear()

        def work() -> None:
            answer: Any = None
            try:
                answer = self._lifecycle.commit_session_memory(session, handle)
            except BaseException as error:  # noqa: BLE001  whatever it raises is its answer
                answer = error
            self._answers[session] = answer
            script.entered.put(("returned", answer))

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        event, answer = _next(script.entered)
        script.behaviour = "ok"
        if event == "hangs":
            self._background[session] = worker
            return {"committed": None, **script.take()}
        worker.join(PATIENCE_S)
        return {"committed": _told(answer), **script.take()}

    def finish_commit(self, session: str, provider: str) -> dict[str, Any]:
        """Let the hanging provider go on as told, and tell what its commit returned."""
        if session not in self._background:
            raise NotAskableError(f"no commit of {session} hangs")
        self._script.behaviour = provider
        self._script.release.set()
        worker = self._background.pop(session)
        worker.join(PATIENCE_S)
        if worker.is_alive():
            raise HungError(f"the commit of {session} did not return")
        _next(self._script.entered)
        return {"committed": _told(self._answers.pop(session))}

    def drain(self, provider: str, deadline_s: float) -> dict[str, Any]:
        """Shut down; tells who was called, and whether it came back."""
        if self._background and deadline_s > MOMENT_S:
            raise NotAskableError(f"{deadline_s} s is long to wait for a commit that hangs")
        self._script.behaviour = provider
        returned = comes_back(lambda: self._lifecycle.drain_all_on_shutdown(deadline_s), PATIENCE_S)
        return {"returned": returned, "called": sorted(self._script.take()["called"])}

    def entries(self) -> dict[str, Any]:
        """How many sessions are remembered."""
        return {"entries": len(self._lifecycle)}

    def close(self) -> None:
        """Let hanging providers go."""
        self._script.release.set()
        for worker in self._background.values():
            worker.join(PATIENCE_S)

    def _agent(self, session: str, name: str | None) -> ScriptedAgent | None:
        if name is None:
            return None
        key = (session, name)
        if key not in self._agents:
            self._agents[key] = ScriptedAgent(self._script, session, name)
        return self._agents[key]


def comes_back(ask: Callable[[], object], within_s: float) -> bool:
    """Whether `ask`, on a thread of its own, returns in time."""
    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    asker.join(within_s)
    return not asker.is_alive()


def _next(events: queue.SimpleQueue[tuple[str, Any]]) -> tuple[str, Any]:
    try:
        return events.get(timeout=PATIENCE_S)
    except queue.Empty:
        raise HungError(f"nothing happened within {PATIENCE_S} s") from None


def _told(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer
