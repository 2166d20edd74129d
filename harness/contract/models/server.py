"""A server as a sequential specification: what one client may be told of sessions, through deaths.

Operations are those of the *http* ability (`harness.targets`). What a turn comes to stands in its
message, in the scripted agent's words. After a lost answer nobody knows, and all is accepted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from harness.contract.models import conversation
from harness.contract.models import run_stream as relay
from harness.contract.models.conversation import Session
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

GONE = "UnknownError"  # what the session's asker is told, of one that there is not
NEVER = "KeyError"  # and of one that was never made


@dataclass(frozen=True, slots=True)
class State:
    """Every session by its name; whether an answer was lost."""

    sessions: tuple[tuple[str, Session], ...] = ()
    is_lost: bool = False

    def put(self, name: str, session: Session | None) -> State:
        """This state with another session of that name, or with none."""
        others = {key: value for key, value in self.sessions if key != name}
        every = others if session is None else {**others, name: session}
        return replace(self, sessions=tuple(sorted(every.items(), key=lambda item: item[0])))

    def named(self, session: str | None, run: str | None) -> tuple[str, Session] | None:
        """The session of that name, or with that run."""
        for name, each in self.sessions:
            if name == session or (session is None and each.find(run) is not None):
                return name, each
        return None

    def after_death(self, *marks: str) -> tuple[State, ...]:
        """What may hold after a death of the server."""
        names = [name for name, _ in self.sessions]
        outlooks = ([one.struck(marks) for one in each.outlooks()] for _, each in self.sessions)
        return tuple(
            replace(self, sessions=tuple(zip(names, fates, strict=True)))
            for fates in itertools.product(*outlooks)
        )


class ServerModel:
    """What a server may answer to one client."""

    name = "server"

    def initial(self) -> State:
        """No session."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:  # noqa: PLR0911
        """What may hold after the operation, or the promise it broke."""
        if state.is_lost or operation.outcome is Outcome.INFO:
            return (replace(state, is_lost=True),)
        is_ok = operation.outcome is Outcome.OK
        match operation.function:
            case "kill" | "terminate" if not is_ok:
                return Refusal(Promise.H3, f"{operation}")
            case "begin":
                return (State(),)
            case "new" if is_ok:
                return (state.put(operation.argument["session"], Session()),)
            case "sessions" if is_ok:
                return _listed(state, [name for name, _ in state.sessions], operation)
            case "titles" if is_ok:
                rows = [[name, session.title] for name, session in state.sessions]
                return _listed(state, rows, operation)
            case "kill":
                return state.after_death("interrupted")
            case "terminate" if operation.result != 0:
                return Refusal(Promise.H3, f"exit 0 was promised, yet {operation}", (0,))
            case "terminate":
                return state.after_death("interrupted", "cancelled")
        return _asked_one(state, operation)


def _listed(state: State, rows: list[Any], operation: Operation) -> tuple[State] | Refusal:
    if operation.result == rows:
        return (state,)
    is_short = len(operation.result) < len(rows)
    return Refusal(Promise.S2 if is_short else Promise.S11, f"there are {rows}, yet {operation}")


def _asked_one(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    """What one session is asked, by its name or by a run's."""
    argument = operation.argument
    name, run = argument.get("session"), argument.get("run")
    found = state.named(name, run)
    if found is None:
        return _asked_none(state, operation)
    name, session = found
    if operation.outcome is Outcome.FAIL:
        return Refusal(Promise.S2, f"{operation}")
    if operation.function == "delete":
        return (state.put(name, None),)
    refusals: list[Refusal] = []
    after: list[State] = []
    for outlook in session.outlooks():
        stepped = _STEPS[operation.function](outlook, operation, outlook.find(run))
        if isinstance(stepped, Refusal):
            refusals.append(stepped)
        else:
            after.append(state.put(name, stepped))
    return tuple(after) or refusals[0]


def _asked_none(state: State, operation: Operation) -> tuple[State] | Refusal:
    """What is asked of a session that was deleted, or never there."""
    if operation.outcome is Outcome.FAIL:
        is_told = operation.error.partition(":")[0] in (GONE, NEVER)
        return (state,) if is_told else Refusal(Promise.H2, f"{operation}")
    is_nobodys = operation.result == [] or "session" not in operation.argument
    if operation.function == "delete" or is_nobodys:
        return (state,)
    return Refusal(Promise.S6, f"there is no such session, yet {operation}")


_STEPS = {
    "rename": conversation.renamed,
    "clear": conversation.cleared,
    "truncate": conversation.truncated,
    "undo": conversation.undone,
    "messages": conversation.said,
    "disk": conversation.on_disk,
    "send": conversation.sent,
    "send_watched": conversation.sent,
    "cancel": conversation.cancelled,
    "title": conversation.titled,
    "status": conversation.told,
    "wait_idle": conversation.idle,
    "wakeups": conversation.woken,
    "shown": conversation.showed,
    "watch": conversation.watched,
    "events": relay.relayed,
    "events_from": relay.resumed,
}
