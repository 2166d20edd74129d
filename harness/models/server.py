"""A server as a sequential specification: what one client may be told of sessions, through deaths.

Operations are those of the *http* ability (`harness.targets`). What a turn comes to stands in its
message, in the scripted agent's words. Wakeups come when they come, so whoever asks waits for
those that are owed before anything else. After a lost answer nobody knows, and all is accepted.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from harness.history import Operation, Outcome
from harness.models.model import Refusal
from harness.promises import Promise

OK, CONFLICT = 200, 409
TERMINAL = ("stream_end", "cancel", "apperror", "error")
_HOLDS = re.compile(r"\[(sleep=\d{3,}|hang)\]")  # until it is cancelled, or for ever
_SPAWNS = re.compile(r"\[process=[^:\]]*:(\w+)\]")


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's turn. `marks` are those that its message may bear once it is over."""

    run: str
    text: str
    marks: tuple[str, ...] = ("",)
    shown: str = ""
    was_struck: bool = False

    @property
    def is_held(self) -> bool:
        """Whether it goes on until somebody ends it."""
        return _HOLDS.search(self.text) is not None

    @property
    def blamed(self) -> Promise:
        """Whose promise it is that the message is there, once, and marked."""
        return Promise.S13 if self.was_struck else Promise.S2


@dataclass(frozen=True, slots=True)
class Session:
    """Its turns; whether the last one is under way, and cancelled; wakeups owed, and had."""

    turns: tuple[Turn, ...] = ()
    is_busy: bool = False
    is_cancelled: bool = False
    owed: tuple[str, ...] = ()
    woken: tuple[str, ...] = ()
    was_deferred: bool = False
    was_struck: bool = False

    @property
    def offered(self) -> str | None:
        """The run that a client can attach to."""
        return self.turns[-1].run if self.is_busy and not self.is_cancelled else None

    def with_last(self, turn: Turn) -> Session:
        """The same with another last turn."""
        return replace(self, turns=(*self.turns[:-1], turn))

    def struck(self, marks: tuple[str, ...]) -> Session:
        """The same after its server died, which may leave those marks on a turn under way."""
        session = self
        if self.is_busy:
            last = self.turns[-1]
            could = marks if last.is_held else ("", *marks)
            session = self.with_last(
                replace(last, marks=(*could, *last.marks[: self.is_cancelled]), was_struck=True)
            )
        return replace(session, is_busy=False, is_cancelled=False, was_struck=True)


@dataclass(frozen=True, slots=True)
class State:
    """Every session by its name; whether an answer was lost."""

    sessions: tuple[tuple[str, Session], ...] = ()
    is_lost: bool = False

    def put(self, name: str, session: Session | None) -> State:
        """This state with another session of that name, or with none."""
        others = {key: value for key, value in self.sessions if key != name}
        every = others if session is None else {**others, name: session}
        return replace(self, sessions=tuple(sorted(every.items())))

    def after_death(self, *marks: str) -> State:
        """This state after a death of the server."""
        struck = ((name, session.struck(marks)) for name, session in self.sessions)
        return replace(self, sessions=tuple(struck))


class ServerModel:
    """What a server may answer to one client."""

    name = "server"

    def initial(self) -> State:
        """No session."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:  # noqa: PLR0911
        """The state after the operation, or the promise it broke."""
        if state.is_lost or operation.outcome is Outcome.INFO:
            return (replace(state, is_lost=True),)
        if operation.outcome is Outcome.FAIL:
            is_death = operation.function in ("kill", "terminate")
            return Refusal(Promise.H3 if is_death else Promise.S2, f"{operation}")
        match operation.function:
            case "new":
                return (state.put(operation.argument["session"], Session()),)
            case "delete":
                return (state.put(operation.argument["session"], None),)
            case "sessions":
                return _listed(state, operation)
            case "kill":
                return (state.after_death("interrupted"),)
            case "terminate" if operation.result != 0:
                return Refusal(Promise.H3, f"exit 0 was promised, yet {operation}", (0,))
            case "terminate":
                return (state.after_death("interrupted", "cancelled"),)
        return _asked_one(state, operation)


def _listed(state: State, operation: Operation) -> tuple[State] | Refusal:
    names = [name for name, _ in state.sessions]
    if operation.result == names:
        return (state,)
    is_lost = not set(names) <= set(operation.result)
    return Refusal(Promise.S2 if is_lost else Promise.S11, f"there are {names}, yet {operation}")


def _asked_one(state: State, operation: Operation) -> tuple[State] | Refusal:
    """What one session is asked, by its name or by a run's."""
    argument = operation.argument
    for name, session in state.sessions:
        turn = next((turn for turn in session.turns if turn.run == argument.get("run")), None)
        if name == argument.get("session") or ("session" not in argument and turn is not None):
            after = _STEPS[operation.function](session, operation, turn)
            return after if isinstance(after, Refusal) else (state.put(name, after),)
    return (state,)  # nothing that is known of


def _cleared(session: Session, _operation: Operation, _turn: Turn | None) -> Session | Refusal:
    return replace(session, turns=(), woken=())


def _sent(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    status, active = operation.result["status"], operation.result["active"]
    if session.is_busy:
        if status != CONFLICT:
            return Refusal(Promise.T1, f"the session is busy, yet {operation}")
        if active != session.offered:
            return _offered_wrongly(session, operation)
        return session
    if status != OK:
        return Refusal(Promise.T3, f"the session is idle, yet {operation}", also=(Promise.T1,))
    run, text = operation.argument["run"], operation.argument["text"]
    return replace(
        session,
        turns=(*session.turns, Turn(run, text)),
        is_busy=True,
        is_cancelled=False,
        owed=(*session.owed, *_SPAWNS.findall(text)),
        was_deferred=_HOLDS.search(text) is not None,
    )


def _offered_wrongly(session: Session, operation: Operation) -> Refusal:
    message = f"{session.offered} can be attached to, yet {operation}"
    if session.is_cancelled:
        return Refusal(Promise.C7, message, also=(Promise.T4,))
    also = Promise.C7 if operation.function == "watch" else Promise.T1
    return Refusal(also, message)


def _kept(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    texts = [turn.text for turn in session.turns]
    if operation.result == texts:
        return session
    lost = [turn for turn in session.turns if operation.result.count(turn.text) != 1]
    is_new = session.is_busy and lost == [session.turns[-1]]
    broken = Promise.T2 if is_new else lost[0].blamed if lost else Promise.S6
    message = f"{texts} were acknowledged, yet {operation}"
    return Refusal(broken, message, (texts,), also=(Promise.S2,) if lost else ())


def _cancelled(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    if not operation.result:
        is_under_way = session.is_busy and turn == session.turns[-1] and turn.is_held
        return Refusal(Promise.T4, f"it is under way, yet {operation}") if is_under_way else session
    last = replace(session.turns[-1], marks=("cancelled",))
    return replace(session.with_last(last), is_cancelled=True)


def _told(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """Of a session that is surely busy, or surely not."""
    busy, active = operation.result["busy"], operation.result["active"]
    if session.owed or (session.is_busy and not session.turns[-1].is_held):
        return session
    if busy != session.is_busy:
        promise = Promise.T4 if session.is_cancelled else Promise.T3
        return Refusal(promise, f"busy is {session.is_busy}, yet {operation}")
    return session if active == session.offered else _offered_wrongly(session, operation)


def _watched(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    return session if operation.result == session.offered else _offered_wrongly(session, operation)


def _idle(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    if not operation.result:
        return Refusal(Promise.T3, f"the run is over, and never left: {operation}")
    return replace(session, is_busy=False, is_cancelled=False)


def _showed(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    if turn is None or turn != session.turns[-1]:
        return session
    return session.with_last(replace(turn, shown=operation.result))


def _relayed(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """A run's events, read to their end."""
    result, after = operation.result, operation.argument["after"]
    ids, names = result["ids"], result["names"]
    ends = [name for name in names if name in TERMINAL]
    if not result["closed"]:
        return Refusal(Promise.C6, f"the relay was never closed: {operation}")
    if len(ends) != 1:
        return Refusal(Promise.T3, f"{len(ends)} terminal events: {operation}")
    if names[-1] not in TERMINAL:
        return Refusal(Promise.C6, f"the relay went on after its end: {operation}")
    wanted = list(range(after + 1, after + 1 + len(ids)))
    if ids == wanted:
        return session
    told = [seq for seq in ids if seq is not None]
    if len(set(told)) < len(told):
        promise = Promise.C2
    elif told != sorted(told):
        promise = Promise.C1
    else:
        promise = Promise.C4 if after and ids[:1] != wanted[:1] else Promise.C3
    return Refusal(promise, f"the ids should be {wanted}, yet {operation}", (wanted,))


def _said(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """All that was said: each message once, in order, marked as its turn came to its end."""
    result = operation.result
    is_pending = session.is_busy and not session.is_cancelled
    turns = session.turns[:-1] if is_pending else session.turns
    if is_pending and result["pending"] != session.turns[-1].text:
        if session.turns[-1].is_held:
            message = f"it is alive, and its message is pending no more: {operation}"
            return Refusal(Promise.S13, message, also=(Promise.S2,))
        return session  # it may be over by now
    said = result["said"]
    texts = [text for role, text, _ in said if role == "user"]
    for turn in turns:
        if texts.count(turn.text) != 1:
            message = f"{turn.text!r} is there {texts.count(turn.text)} times: {operation}"
            return Refusal(turn.blamed, message, also=(Promise.S2,))
        if refusal := _ended_otherwise(turn, said, operation):
            return refusal
    if texts != [turn.text for turn in turns]:
        return Refusal(Promise.S6, f"only {[turn.text for turn in turns]} are there: {operation}")
    return _woken_once(session, result["woken"], operation)


def _ended_otherwise(turn: Turn, said: list[Any], operation: Operation) -> Refusal | None:
    at = next(index for index, (_, text, _) in enumerate(said) if text == turn.text)
    if said[at][2] not in turn.marks:
        is_repaired = turn.was_struck or said[at][2] == "interrupted"
        promise = Promise.S13 if is_repaired else Promise.T4
        return Refusal(promise, f"{turn.text!r} should be marked {turn.marks}: {operation}")
    reply = "".join(text for role, text, _ in said[at + 1 : at + 2] if role == "assistant")
    if not reply.startswith(turn.shown):
        promise = Promise.S13 if turn.was_struck else Promise.T4
        return Refusal(promise, f"{turn.shown!r} was shown after {turn.text!r}: {operation}")
    return None


def _woken(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """The wakeups that were owed."""
    woken = operation.result
    if missing := [one for one in session.owed if one not in woken]:
        broken = Promise.W3 if session.was_deferred else Promise.W2
        broken = Promise.W4 if session.was_struck and session.was_deferred else broken
        return Refusal(broken, f"{missing} ended, and woke nobody: {operation}")
    done = replace(session, owed=(), woken=(*session.woken, *session.owed))
    return _woken_once(done, woken, operation)


def _woken_once(session: Session, woken: list[str], operation: Operation) -> Session | Refusal:
    for output, times in Counter(woken).items():
        if times > 1:
            return Refusal(Promise.W1, f"{output} ended once, and woke {times} times: {operation}")
        if output not in (*session.woken, *session.owed):
            return Refusal(Promise.W6, f"{output} is another session's: {operation}")
    if not set(session.woken) <= set(woken):
        return Refusal(Promise.S2, f"{session.woken} woke it, and are gone: {operation}")
    return session


_STEPS = {
    "clear": _cleared,
    "messages": _said,
    "disk": _kept,
    "send": _sent,
    "send_watched": _sent,
    "cancel": _cancelled,
    "status": _told,
    "wait_idle": _idle,
    "wakeups": _woken,
    "events": _relayed,
    "shown": _showed,
    "watch": _watched,
}
