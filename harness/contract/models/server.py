"""Model of a server: what it may answer to one client about its sessions, through kills.

Operations are those of the *http* ability (`harness.targets`). The message of a turn says what the
scripted agent does with it. Every call is answered: a server that hangs is refused.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.contract.models import conversation, copies, run_stream, transcripts
from harness.contract.models.conversation import Session
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

GONE = "UnknownError"  # the error of a session that does not exist any more
NEVER = "KeyError"  # the error of a session that was never made


@dataclass(frozen=True, slots=True)
class State:
    """Every session by its name, and the runs of those that were deleted."""

    sessions: tuple[tuple[str, Session], ...] = ()
    gone: frozenset[str] = frozenset()

    def put(self, name: str, session: Session | None) -> State:
        """This state with another session of that name, or without one (None)."""
        others = {key: value for key, value in self.sessions if key != name}
        sessions = others if session is None else {**others, name: session}
        return replace(self, sessions=tuple(sorted(sessions.items(), key=lambda item: item[0])))

    def named(self, session: str | None, run: str | None) -> tuple[str, Session] | None:
        """The session of that name, or the one with that run."""
        for name, candidate in self.sessions:
            if name == session or (session is None and candidate.find(run) is not None):
                return name, candidate
        return None

    def after_death(self, *marks: str) -> tuple[State, ...]:
        """The states that may hold after a death of the server."""
        names = [name for name, _ in self.sessions]
        outlooks = (
            [outlook.struck(marks) for outlook in session.outlooks()]
            for _, session in self.sessions
        )
        return tuple(
            replace(self, sessions=tuple(zip(names, sessions, strict=True)))
            for sessions in itertools.product(*outlooks)
        )


class ServerModel:
    """What a server may answer to one client."""

    name = "server"

    def initial(self) -> State:
        """No session."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:  # noqa: C901, PLR0911
        """The states that may hold after the operation, or the promise it broke."""
        if operation.outcome is Outcome.INFO:
            return _unanswered(operation)
        is_ok = operation.outcome is Outcome.OK
        if is_ok and operation.function in _SILENT and operation.result is not None:
            return Refusal(
                promises.H2, f"{operation.call} answers something", (None,), expected="null"
            )
        match operation.function:
            case "kill" | "terminate" if not is_ok:
                return Refusal(
                    promises.H3,
                    f"after {operation.call} the server did not end and start again",
                    expected="a server that ends, starts again and answers",
                )
            case "begin" if is_ok:
                return (State(),)
            case "begin":
                return Refusal(promises.S11, f"{operation.call} failed", expected="a list")
            case "new" if is_ok:
                return (state.put(operation.argument["session"], Session()),)
            case "sessions" if is_ok:
                return _listed(state, [name for name, _ in state.sessions], operation)
            case "titles" if is_ok:
                own = {name: title for name, title in operation.result if title is None}
                rows = [
                    [name, own.get(name, session.title) if session.named is None else session.title]
                    for name, session in state.sessions
                ]
                return _listed(state, rows, operation)
            case "kill":
                return state.after_death("interrupted")
            case "terminate" if operation.result != 0:
                return Refusal(
                    promises.H3,
                    f"{operation.call}: SIGTERM did not end the server cleanly",
                    (0,),
                    expected="exit code 0",
                    observed=f"exit code {operation.result!r}",
                )
            case "terminate":
                return state.after_death("interrupted", "cancelled")
        return _of_session(state, operation)

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """The states that hold if the observed answer is taken for the truth; none if unknown.

        A session whose content was observed to be wrong is not known any more: until it is
        deleted, calls about it are not judged. What only a view showed changes nothing.
        """
        argument = operation.argument or {}
        if operation.outcome is Outcome.INFO and operation.function in ("new", "begin"):
            return ()
        if operation.function in ("kill", "terminate"):
            return state.after_death("interrupted", "cancelled")
        if operation.function == "titles" and operation.outcome is Outcome.OK:
            adopted = state
            listed = dict(operation.result)
            for name, session in state.sessions:
                title = listed.get(name)
                is_right = title in (session.title, session.named)
                known = session if is_right else replace(session, named=title)
                adopted = adopted.put(name, known if name in listed else None)
            return (adopted,)
        found = state.named(argument.get("session"), argument.get("run"))
        if found is None or operation.outcome is Outcome.FAIL:
            return (state,)
        name, session = found
        if operation.function in _ONLY_VIEWS:
            return (state,)
        return (state.put(name, replace(session, is_unknown=True)),)


def _unanswered(operation: Operation) -> Refusal:
    """A call without an answer: only the client ends the server, and it waits for that."""
    is_stream = operation.function in ("events", "events_from", "shown", "watch", "send_watched")
    return Refusal(
        promises.C6 if is_stream else promises.H6,
        f"{operation.call} got no answer within the patience of its client",
        also=(promises.C10,),
        expected="an answer, or an error",
    )


def _listed(state: State, rows: list[Any], operation: Operation) -> tuple[State] | Refusal:
    if operation.result == rows:
        return (state,)
    is_short = len(operation.result) < len(rows)
    problem = "lacks sessions" if is_short else "lists other sessions or titles"
    is_of_titles = operation.function == "titles" and (
        [name for name, _ in operation.result] == [name for name, _ in rows]
    )
    return Refusal(
        promises.S2 if is_short else promises.S11,
        f"{operation.call} {problem}",
        also=(promises.S14, promises.S15) if is_of_titles else (),
        expected=f"{rows}",
    )


def _of_session(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    """Judge a call about one session, which the call names by the session or by a run."""
    argument = operation.argument
    name, run = argument.get("session"), argument.get("run")
    found = state.named(name, run)
    if found is None:
        return _of_no_session(state, operation)
    name, session = found
    if session.is_unknown and operation.function != "delete":
        return (state,)
    if operation.outcome is Outcome.FAIL:
        return Refusal(
            promises.S2,
            f"{operation.call} failed although {name} exists",
            also=(promises.C7,) if operation.function == "watch" else (),
            expected=f"an answer about {name}",
        )
    if operation.function == "delete":
        runs = {turn.run for turn in session.begun}
        return (replace(state.put(name, None), gone=state.gone | runs),)
    refusals: list[Refusal] = []
    after: list[State] = []
    for outlook in session.outlooks():
        step = _STEPS[operation.function](outlook, operation, outlook.find(run))
        if not isinstance(step, Refusal) and operation.function == "messages":
            step = transcripts.wrong_rows(outlook, operation) or step
        if isinstance(step, Refusal):
            refusals.append(step)
        else:
            after.append(state.put(name, step))
    return tuple(after) or refusals[0]


def _of_no_session(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Judge a call about a session that was deleted, or never made."""
    if operation.outcome is Outcome.FAIL:
        if operation.error.partition(":")[0] in (GONE, NEVER):
            return (state,)
        return Refusal(
            promises.H2,
            f"{operation.call} about a session that does not exist failed otherwise than by a 404",
            expected=f"{GONE} (a 404), or {NEVER}",
        )
    is_read = operation.function in ("events", "events_from")
    if is_read and operation.argument["run"] in state.gone:
        return Refusal(
            promises.S6,
            f"{operation.call} read a run of a deleted session",
            also=(promises.S14,),
            expected=f"{GONE} (a 404)",
        )
    is_empty = operation.result == [] or "session" not in operation.argument
    if operation.function == "delete" or is_empty:
        return (state,)
    return Refusal(
        promises.S6,
        f"{operation.call} answered about a session that does not exist",
        expected=f"{GONE} (a 404), or an empty answer",
    )


_SILENT = ("begin", "new", "clear", "rename", "truncate", "delete", "kill")  # without a result
_ONLY_VIEWS = ("views", "copies", "disk", "title", "status", "watch", "events", "events_from")

_STEPS = {
    "rename": conversation.renamed,
    "clear": conversation.cleared,
    "truncate": conversation.truncated,
    "undo": conversation.undone,
    "messages": conversation.messages_read,
    "disk": conversation.on_disk,
    "send": conversation.sent,
    "send_watched": conversation.sent,
    "cancel": conversation.cancelled,
    "title": conversation.titled,
    "views": copies.viewed,
    "copies": copies.compared,
    "status": conversation.status_read,
    "wait_idle": conversation.idle,
    "wakeups": conversation.wakeups_read,
    "shown": conversation.shown_first,
    "watch": conversation.run_offered,
    "events": run_stream.streamed,
    "events_from": run_stream.resumed,
}
