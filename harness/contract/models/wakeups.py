"""Wakeups as a sequential specification: each completion starts one turn, in its own session.

Operations are those of the *wakeups* ability (`harness.targets`). A completion waits in its
session's line; only its head may be started, only while the session is idle, and by whichever call
comes by first. Whom a refusal blames is what the completion went through while it waited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

PATIENCE_S = 60.0  # after so long a start that failed must have been tried again


@dataclass(frozen=True, slots=True)
class Waiting:
    """A completion that is to be delivered, and what it went through."""

    process: str
    was_deferred: bool = False
    has_failed: bool = False
    was_restarted: bool = False

    @property
    def blamed(self) -> tuple[Promise, ...]:
        """Whose promise it is that it gets delivered now, the most telling first."""
        told = {
            Promise.W4: self.was_restarted,
            Promise.W5: self.has_failed,
            Promise.W3: self.was_deferred,
        }
        return tuple(promise for promise, holds in told.items() if holds) or (Promise.W2,)


@dataclass(frozen=True, slots=True)
class State:
    """Each session's line; who is busy; what was delivered; what is broken."""

    lines: tuple[tuple[str, tuple[Waiting, ...]], ...] = ()
    busy: frozenset[str] = frozenset()
    delivered: frozenset[str] = frozenset()
    failing: bool = False
    is_broken: bool = False

    def line(self, session: str) -> tuple[Waiting, ...]:
        """The session's line."""
        return dict(self.lines).get(session, ())

    def put(self, session: str, line: tuple[Waiting, ...]) -> State:
        """This state with another line."""
        lines = {**dict(self.lines), session: line}
        return replace(
            self, lines=tuple(sorted((key, value) for key, value in lines.items() if value))
        )

    def after(self, event: Callable[[Waiting], Waiting]) -> State:
        """This state after something that happened to all who wait."""
        lines = ((name, tuple(event(one) for one in line)) for name, line in self.lines)
        return replace(self, lines=tuple(lines))


class WakeupsModel:
    """What wakeups may start."""

    name = "wakeups"

    def initial(self) -> State:
        """Nobody waits, nobody runs."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        if operation.outcome is not Outcome.OK:
            broken = Promise.W8 if state.is_broken else Promise.W5
            return Refusal(broken, f"{operation}")
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
    known = {one.process for _, line in state.lines for one in line} | state.delivered
    if process in known:
        return state
    waiting = Waiting(process, was_deferred=session in state.busy)
    return state.put(session, (*state.line(session), waiting))


def _pending(state: State, operation: Operation) -> tuple[State] | Refusal:
    bound = sum(len(line) for _, line in state.lines)
    if operation.result["kept"] <= bound:
        return (state,)
    return Refusal(Promise.W9, f"{bound} wait, yet {operation}", ({"kept": bound},))


def _started(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Take note of the turns that were started, and miss those that should have been."""
    started, error = operation.result["started"], operation.result["error"]
    drains = operation.function in ("drain", "advance", "end_run")
    if state.is_broken:
        if started or (operation.function in ("drain", "advance") and error is None):
            message = f"the registry's marker is gone, and nobody was told: {operation}"
            return Refusal(Promise.W8, message)
        return (state,)
    for session, process in started:
        refused = _refused(state, session, process, operation)
        if refused is not None:
            return refused
        rest = tuple(replace(one, was_deferred=True) for one in state.line(session)[1:])
        state = replace(
            state.put(session, rest),
            busy=state.busy | {session},
            delivered=state.delivered | {process},
        )
    if state.failing:
        return (state.after(_failed) if drains else state,)
    return _missed(state, operation)


def _refused(state: State, session: str, process: str, operation: Operation) -> Refusal | None:
    """Why this turn should not have been started."""
    if process in state.delivered:
        return Refusal(Promise.W1, f"{process} was delivered before, yet {operation}")
    owners = [name for name, line in state.lines for one in line if one.process == process]
    if not owners:
        return Refusal(Promise.W1, f"{process} never completed, yet {operation}")
    if owners != [session]:
        return Refusal(Promise.W6, f"{process} belongs to {owners}, yet {operation}")
    if session in state.busy:
        return Refusal(Promise.W3, f"{session} is busy, yet {operation}")
    if state.line(session)[0].process != process:
        return Refusal(Promise.W3, f"{process} was not the first to complete, yet {operation}")
    return None


def _missed(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Whoever waits in an idle session when there was time to wake it."""
    had_time = operation.function == "advance" and operation.argument["seconds"] >= PATIENCE_S
    for session, line in state.lines:
        if session in state.busy or not line:
            continue
        head = line[0]
        drains = operation.function in ("drain", "advance")
        if had_time or (drains and not head.has_failed):
            message = f"{session} is idle and {head.process} waits, yet {operation}"
            broken, *also = head.blamed
            return Refusal(broken, message, also=tuple(also))
    return (state,)
