"""Model of wakeups: each completion of a background process starts one turn, in its own session.

Operations are those of the *wakeups* ability (`harness.targets`). A completion waits in the queue
of its session. Only the head of the queue may be started, only while the session is idle, and by
whichever call finds it first. The promise of a refusal follows from the history of the completion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

PATIENCE_S = 60.0  # after this time a start that failed must have been retried


@dataclass(frozen=True, slots=True)
class Waiting:
    """A completion that waits for its delivery, and what happened meanwhile."""

    process: str
    was_deferred: bool = False
    has_failed: bool = False
    was_restarted: bool = False

    @property
    def promises(self) -> tuple[Promise, ...]:
        """The promises that demand its delivery now, the most specific first."""
        reasons = {
            promises.W4: self.was_restarted,
            promises.W5: self.has_failed,
            promises.W3: self.was_deferred,
        }
        return tuple(promise for promise, holds in reasons.items() if holds) or (promises.W2,)


@dataclass(frozen=True, slots=True)
class State:
    """The queue of each session; busy sessions; delivered completions; present faults."""

    queues: tuple[tuple[str, tuple[Waiting, ...]], ...] = ()
    busy: frozenset[str] = frozenset()
    delivered: frozenset[str] = frozenset()
    failing: bool = False
    is_broken: bool = False

    def queue(self, session: str) -> tuple[Waiting, ...]:
        """The queue of the session."""
        return dict(self.queues).get(session, ())

    def put(self, session: str, queue: tuple[Waiting, ...]) -> State:
        """This state with another queue of the session."""
        queues = {**dict(self.queues), session: queue}
        return replace(
            self, queues=tuple(sorted((key, value) for key, value in queues.items() if value))
        )

    def after(self, event: Callable[[Waiting], Waiting]) -> State:
        """This state after an event that concerns every waiting completion."""
        queues = ((name, tuple(map(event, queue))) for name, queue in self.queues)
        return replace(self, queues=tuple(queues))


class WakeupsModel:
    """Which wakeup turns may be started."""

    name = "wakeups"

    def initial(self) -> State:
        """No completion waits, and no session is busy."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.W8 if state.is_broken else promises.W5,
                f"{operation.call} of the wakeups raised",
                expected="the call returns, and reports a failed start as 'error'",
            )
        argument, function = operation.argument, operation.function
        session = argument.get("session", "")
        match function:
            case "pending":
                return _pending(state, operation)
            case "complete":
                state = _completed(state, session, argument["process"])
            case "begin_run":
                state = replace(state, busy=state.busy | {session})
            case "end_run":
                state = replace(state, busy=state.busy - {session})
            case "fail_starts":
                state = replace(state, failing=argument["fails"])
            case "rename_marker":
                state = replace(state, is_broken=True)
            case "restart":
                state = replace(state, busy=frozenset()).after(_restarted)
        return _started(state, operation)


def _restarted(waiting: Waiting) -> Waiting:
    return replace(waiting, was_restarted=True)


def _failed(waiting: Waiting) -> Waiting:
    return replace(waiting, has_failed=True)


def _completed(state: State, session: str, process: str) -> State:
    known = {waiting.process for _, queue in state.queues for waiting in queue} | state.delivered
    if process in known:
        return state
    waiting = Waiting(process, was_deferred=session in state.busy)
    return state.put(session, (*state.queue(session), waiting))


def _pending(state: State, operation: Operation) -> tuple[State] | Refusal:
    bound = sum(len(queue) for _, queue in state.queues)
    if operation.result["kept"] <= bound:
        return (state,)
    return Refusal(
        promises.W9,
        f"{operation.call}: the bookkeeping holds more wakeups than wait",
        ({"kept": bound},),
        expected=f"at most {bound} wakeups",
    )


def _started(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Apply the turns that the call started, and find those that it should have started."""
    started, error = operation.result["started"], operation.result["error"]
    drains = operation.function in ("drain", "advance", "end_run")
    if state.is_broken:
        if started or (operation.function in ("drain", "advance") and error is None):
            return Refusal(
                promises.W8,
                f"{operation.call} went on although the registry's marker is gone",
                expected="no started turn, and an 'error' that names the broken registry",
            )
        return (state,)
    for session, process in started:
        refusal = _refused(state, session, process, operation)
        if refusal is not None:
            return refusal
        rest = tuple(replace(waiting, was_deferred=True) for waiting in state.queue(session)[1:])
        state = replace(
            state.put(session, rest),
            busy=state.busy | {session},
            delivered=state.delivered | {process},
        )
    if state.failing:
        return (state.after(_failed) if drains else state,)
    return _missed(state, operation)


def _refused(state: State, session: str, process: str, operation: Operation) -> Refusal | None:
    """The refusal of a turn that must not be started."""

    def refuse(promise: Promise, problem: str, expected: str) -> Refusal:
        message = f"{operation.call} started a turn of {session} for {process}, which {problem}"
        observed = f"started = {operation.result['started']}"
        return Refusal(promise, message, expected=expected, observed=observed)

    if process in state.delivered:
        return refuse(promises.W1, "was delivered before", f"no further turn for {process}")
    owners = [name for name, queue in state.queues for item in queue if item.process == process]
    if not owners:
        return refuse(promises.W1, "never completed", f"no turn for {process}")
    if owners != [session]:
        return refuse(promises.W6, "belongs to another session", f"a turn of {', '.join(owners)}")
    if session in state.busy:
        return refuse(promises.W3, "has to wait", f"no turn of {session} while it is busy")
    head = state.queue(session)[0].process
    if head != process:
        return refuse(promises.W3, "did not complete first", f"a turn for {head} first")
    return None


def _missed(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Refuse a call that left an idle session waiting although it had to start its wakeup."""
    had_time = operation.function == "advance" and operation.argument["seconds"] >= PATIENCE_S
    for session, queue in state.queues:
        if session in state.busy or not queue:
            continue
        head = queue[0]
        drains = operation.function in ("drain", "advance")
        if had_time or (drains and not head.has_failed):
            promise, *also = head.promises
            return Refusal(
                promise,
                f"{operation.call} started no turn for {head.process} although {session} is idle",
                also=tuple(also),
                expected=f"a started turn of {session} for {head.process}",
            )
    return (state,)
