"""The *lifecycle* ability, over any lifecycle, with scripted memory providers.

It knows a lifecycle only by its calls (`register_agent`, `commit_session_memory` ...), so it adapts
any module or object that has them. It can be copied into a stand-alone test file.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

try:
    from harness.core.errors import UsageError as InvalidCallError
except ImportError:  # in a stand-alone test file

    class InvalidCallError(Exception):  # type: ignore[no-redef]
        """The call is not possible in this state."""


PATIENCE_S = 10.0  # the longest that a healthy target takes for any call; more counts as a hang
LOCK_WAIT_S = 5.0  # the longest that another thread waits for a lock that should be free
MOMENT_S = 0.02  # the timeout of a caller that expects a refusal


class ProviderError(Exception):
    """Raised by a provider that is scripted to fail."""


class ProviderAbort(BaseException):
    """Raised by a provider that is scripted to raise a BaseException of its own."""


class ProviderInterrupt(KeyboardInterrupt):
    """Raised by a provider that is scripted to interrupt; a caller may see it or a refusal."""


RAISED: dict[str, type[BaseException]] = {
    "fail": ProviderError,
    "exit": SystemExit,
    "abort": ProviderAbort,
    "close": GeneratorExit,
    "interrupt": ProviderInterrupt,
}


class HungError(Exception):
    """A call did not return within `PATIENCE_S`."""


class Script:
    """The next behaviour of an instance's providers, and a record of their calls."""

    def __init__(self, lock_probe: Callable[[], object]) -> None:
        """`lock_probe` calls the target read-only, in a way that takes its lock for a moment."""
        self.behaviour = "ok"
        self.called: list[list[str]] = []
        self.blocked = False
        self.entered: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.release = threading.Event()
        self._lock_probe = lock_probe

    def provide(self, session: str, agent: str) -> None:
        """Act as the provider: record the call, check for a held lock, then behave as scripted."""
        self.called.append([session, agent])
        behaviour = self.behaviour
        if not returns_within(self._lock_probe, LOCK_WAIT_S):
            self.blocked = True
        if behaviour == "hang":
            self.entered.put(("hangs", None))
            self.release.wait(PATIENCE_S)
            behaviour = self.behaviour
        if error := RAISED.get(behaviour):
            raise error(f"the provider of {agent} is scripted to {behaviour}")

    def take(self) -> dict[str, Any]:
        """Return what happened since the last `take`; later calls of providers succeed."""
        self.behaviour = "ok"
        taken = {"called": self.called, "blocked": self.blocked}
        self.called, self.blocked = [], False
        return taken


class ScriptedAgent:
    """An agent of one session whose memory provider follows the script."""

    def __init__(self, script: Script, session: str, name: str) -> None:
        self.name = name
        self.closed = 0
        self._script = script
        self._session = session

    def commit_memory_session(self) -> None:
        """Behave as the script says."""
        self._script.provide(self._session, self.name)

    def close(self) -> None:
        """Count the closes of the handle."""
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
        """Remove the session's current agent."""
        self._lifecycle.unregister_agent(session)
        return {}

    def complete_turn(self, session: str, agent: str | None) -> dict[str, Any]:
        """Complete a turn; the generation, and the provider calls (there should be none)."""
        handle = self._agent(session, agent)
        generation = self._lifecycle.mark_turn_completed(session, agent=handle)
        return {"generation": generation, "called": self._script.take()["called"]}

    def dirty(self, session: str) -> dict[str, Any]:
        """Whether completed turns wait for a commit."""
        return {"dirty": self._lifecycle.has_uncommitted_work(session)}

    def discard(self, session: str) -> dict[str, Any]:
        """Drop the entry if that is safe."""
        return {"gone": self._lifecycle.discard_session(session)}

    def commit(
        self, session: str, agent: str | None, provider: str, *, wait: bool = False
    ) -> dict[str, Any]:
        """Commit now, with providers that behave as `provider` says.

        A caller that waits answers whether it was refused `early`: while a commit of the session
        hangs, and before its timeout.
        """
        self._script.behaviour = provider
        handle = self._agent(session, agent)
        patience = {"wait": True, "timeout": MOMENT_S} if wait else {}
        begun = time.monotonic()

        def commit() -> Any:
            with contained():
                return self._lifecycle.commit_session_memory(session, handle, **patience)

        try:
            committed = _in_time(commit) if wait else commit()
        except ProviderInterrupt:
            committed = False
        answer = {"committed": committed, **self._script.take()}
        if wait:
            waited_s = time.monotonic() - begun
            answer["early"] = session in self._background and waited_s < MOMENT_S
        return answer

    def begin_commit(self, session: str, agent: str | None) -> dict[str, Any]:
        """Start a commit whose provider, if it is called, hangs until `finish_commit`."""
        if self._background:
            raise InvalidCallError(f"a commit of {', '.join(self._background)} hangs already")
        script, handle = self._script, self._agent(session, agent)
        script.behaviour = "hang"
        script.release.clear()

        def work() -> None:
            answer: Any = None
            try:
                answer = self._lifecycle.commit_session_memory(session, handle)
            except BaseException as error:  # noqa: BLE001  any exception is the call's answer
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
        return {"committed": _result(answer), **script.take()}

    def finish_commit(self, session: str, provider: str) -> dict[str, Any]:
        """Release the hanging provider, and return the result of its commit."""
        finished = self._finish(session, provider)
        self._script.behaviour = "ok"
        return finished

    def _finish(self, session: str, provider: str) -> dict[str, Any]:
        if session not in self._background:
            raise InvalidCallError(f"no commit of {session} hangs")
        self._script.behaviour = provider
        self._script.release.set()
        worker = self._background.pop(session)
        worker.join(PATIENCE_S)
        if worker.is_alive():
            raise HungError(f"the commit of {session} did not return")
        _next(self._script.entered)
        return {"committed": _result(self._answers.pop(session))}

    def drain(self, provider: str, deadline_s: float) -> dict[str, Any]:
        """Shut down; the providers that were called, and whether the shutdown returned."""
        if self._background and deadline_s > MOMENT_S:
            hanging = ", ".join(self._background)
            raise InvalidCallError(
                f"drain(deadline_s={deadline_s}): a commit of {hanging} hangs,"
                f" so deadline_s must be at most {MOMENT_S}"
            )
        self._script.behaviour = provider
        returned = returns_within(
            lambda: self._lifecycle.drain_all_on_shutdown(deadline_s), deadline_s + PATIENCE_S / 2
        )
        return {"returned": returned, "called": sorted(self._script.take()["called"])}

    def drain_and_finish(self, session: str, provider: str) -> dict[str, Any]:
        """Shut down while a commit hangs, and release it then; every provider behaves as said."""
        if session not in self._background:
            raise InvalidCallError(f"no commit of {session} hangs")
        self._script.behaviour = provider
        drain = threading.Thread(
            target=self._lifecycle.drain_all_on_shutdown, args=(3 * PATIENCE_S,), daemon=True
        )
        drain.start()
        drain.join(MOMENT_S)
        waited = drain.is_alive()
        finished = self._finish(session, provider)
        drain.join(_Patience.seconds)
        returned = not drain.is_alive()
        if not returned:
            _Patience.seconds = _Patience.SHORT_S
        called = sorted(self._script.take()["called"])
        return {**finished, "waited": waited, "returned": returned, "called": called}

    def entries(self) -> dict[str, Any]:
        """The number of sessions with an entry."""
        return {"entries": len(self._lifecycle)}

    def close(self) -> None:
        """Release hanging providers."""
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


@contextmanager
def contained() -> Iterator[None]:
    """Turn a scripted exception that is no Exception into one, as a caller cannot handle it."""
    try:
        yield
    except (ProviderAbort, GeneratorExit, SystemExit) as error:
        raise ProviderError(f"{type(error).__name__} of a provider reached the caller") from error


class _Patience:
    """The longest wait for a call of a thread; short once a target has proven to hang."""

    seconds = LOCK_WAIT_S
    SHORT_S = 0.5  # while a failure is minimized


def _in_time(call: Callable[[], Any]) -> Any:
    """The result of a call on a thread of its own. Raises HungError where it does not return."""
    answers: list[Any] = []

    def work() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # noqa: BLE001  any exception is the call's answer
            answers.append(error)

    if not returns_within(work, _Patience.seconds):
        waited_s, _Patience.seconds = _Patience.seconds, _Patience.SHORT_S
        raise HungError(f"the commit, which may wait {MOMENT_S} s, took more than {waited_s} s")
    return _result(answers[0])


def returns_within(call: Callable[[], object], timeout_s: float) -> bool:
    """Whether `call`, on a thread of its own, returns in time."""
    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(timeout_s)
    return not caller.is_alive()


def _next(events: queue.SimpleQueue[tuple[str, Any]]) -> tuple[str, Any]:
    try:
        return events.get(timeout=PATIENCE_S)
    except queue.Empty:
        raise HungError(
            f"the commit neither called a provider nor returned within {PATIENCE_S} s"
        ) from None


def _result(answer: Any) -> Any:
    if isinstance(answer, ProviderInterrupt):
        return False
    if isinstance(answer, BaseException):
        with contained():
            raise answer
    return answer
