"""One session as its server tells of it: what was said, and the run that may be under way.

A *held* turn goes on until somebody ends it, so of its run all is known. Any other run is over at
a moment that nobody was told of: `outlooks` are what may hold meanwhile. Wakeups come when they
come, and until those that are owed were waited for nobody knows whether the session is busy.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from harness.core.history import Operation
from harness.core.model import Refusal
from harness.core.promises import Promise

OK, CONFLICT = 200, 409
UNTITLED = "Untitled"
ANOTHER = "another"  # a run that was never named, a wakeup's say
_HOLDS = re.compile(r"\[(sleep=\d{3,}|hang)\]")  # until it is cancelled, or for ever
_SPAWNS = re.compile(r"\[process=[^:\]]*:(\w+)\]")


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's turn. `marks` are those that its message may bear once it is over.

    `rows` is how many events its run showed in all, once somebody has read them to their end.
    """

    run: str
    text: str
    marks: tuple[str, ...] = ("",)
    shown: str = ""
    was_struck: bool = False
    rows: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether it goes on until somebody ends it."""
        return _HOLDS.search(self.text) is not None

    @property
    def hangs(self) -> bool:
        """Whether even a cancel does not end it."""
        return "[hang]" in self.text

    @property
    def blamed(self) -> Promise:
        """Whose promise it is that the message is there, once, and marked."""
        return Promise.S13 if self.was_struck else Promise.S2


class Phase(Enum):
    """What the last run came to: it is over; its turn is not yet; or its turn is, at least."""

    IDLE = auto()
    PENDING = auto()
    SAVED = auto()


@dataclass(frozen=True, slots=True)
class Session:
    """Its turns, the one that is pending last; its last run; wakeups owed, and had."""

    title: str = UNTITLED
    turns: tuple[Turn, ...] = ()
    phase: Phase = Phase.IDLE
    run: Turn | None = None
    is_cancelled: bool = False
    owed: tuple[str, ...] = ()
    woken: tuple[str, ...] = ()
    was_deferred: bool = False
    was_struck: bool = False

    @property
    def is_pending(self) -> bool:
        """Whether its last turn is under way."""
        return self.phase is Phase.PENDING

    @property
    def offered(self) -> str | None:
        """The run that a client can attach to."""
        return self.run.run if self.is_pending and self.run else None

    def hides(self, run: str | None) -> bool:
        """Whether that run was cancelled, so that nobody is sent to it any more."""
        return self.is_cancelled and self.run is not None and run == self.run.run

    @property
    def is_surely_busy(self) -> bool:
        """Whether its run ends only by what somebody does."""
        if self.run is None:
            return False
        return self.run.is_held if self.is_pending else self._hangs

    @property
    def is_surely_idle(self) -> bool:
        """Whether nothing is under way, or about to be."""
        return self.phase is Phase.IDLE and not self.owed

    @property
    def _hangs(self) -> bool:
        return self.phase is Phase.SAVED and self.run is not None and self.run.hangs

    def outlooks(self) -> tuple[Session, ...]:
        """What may hold by now: a turn that is not held may be over."""
        if self.is_pending and not self.is_surely_busy:
            return (replace(self, phase=Phase.SAVED), self)
        return (self,)

    def find(self, run: str | None) -> Turn | None:
        """The turn of that run; None for none that is known."""
        every = self.turns if self.run is None else (*self.turns, self.run)
        return next((turn for turn in every if turn.run == run), None)

    def with_turn(self, turn: Turn) -> Session:
        """The same with the turn as it is known now."""
        turns = tuple(turn if each.run == turn.run else each for each in self.turns)
        is_last = self.run is not None and self.run.run == turn.run
        return replace(self, turns=turns, run=turn if is_last else self.run)

    def kept(self, count: int) -> Session:
        """The same with its first turns only; what is pending stays, for it is not said yet."""
        pending = self.turns[-1:] if self.is_pending else ()
        said = self.turns[:-1] if self.is_pending else self.turns
        return replace(self, turns=said[:count] + pending)

    def struck(self, marks: tuple[str, ...]) -> Session:
        """The same after its server died, which leaves one of those marks on a turn under way."""
        session = self
        if self.is_pending:
            session = self.with_turn(replace(self.turns[-1], marks=marks, was_struck=True))
        return replace(session, phase=Phase.IDLE, is_cancelled=False, was_struck=True)


def renamed(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """It has another title."""
    return replace(session, title=operation.argument["title"])


def titled(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """The title that it was given last."""
    if operation.result == session.title:
        return session
    message = f"it was renamed to {session.title!r}, yet {operation}"
    return Refusal(Promise.S2, message, (session.title,))


def cleared(session: Session, _operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """All that was said is removed."""
    return replace(session.kept(0), woken=())


def truncated(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """What was said after the first turns is removed."""
    return session.kept(operation.argument["keep"])


def undone(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """The last turn that was said is removed; where there was none, that is what is told."""
    said = len(session.turns) - session.is_pending
    if operation.result != bool(said):
        return Refusal(Promise.S6, f"{said} turns were said, yet {operation}", (bool(said),))
    return session.kept(said - 1) if said else session


def sent(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """A turn begins, or another one is in its way."""
    status, active = operation.result["status"], operation.result["active"]
    if status == CONFLICT:
        if session.is_surely_idle:
            message = f"the session is idle, yet {operation}"
            return Refusal(Promise.T3, message, also=(Promise.T1,))
        if session.owed or active == session.offered:
            return session
        is_leaving = session.phase is Phase.SAVED and not session.is_cancelled
        if is_leaving and session.run and active == session.run.run:
            return session
        return _offered_wrongly(session, operation)
    if session.is_surely_busy:
        return Refusal(Promise.T1, f"the session is busy, yet {operation}")
    text = operation.argument["text"]
    turn = Turn(operation.argument["run"], text)
    return replace(
        session,
        turns=(*session.turns, turn),
        phase=Phase.PENDING,
        run=turn,
        is_cancelled=False,
        owed=(*session.owed, *_SPAWNS.findall(text)),
        was_deferred=turn.is_held,
    )


def _offered_wrongly(session: Session, operation: Operation) -> Refusal:
    message = f"{session.offered} can be attached to, yet {operation}"
    if session.is_cancelled:
        return Refusal(Promise.C7, message, also=(Promise.T4,))
    return Refusal(Promise.C7 if operation.function == "watch" else Promise.T1, message)


def on_disk(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """What users said, by the session's file."""
    texts = [turn.text for turn in session.turns]
    if operation.result == texts:
        return session
    lost = [turn for turn in session.turns if operation.result.count(turn.text) != 1]
    is_new = session.is_pending and lost == [session.turns[-1]]
    broken = Promise.T2 if is_new else lost[0].blamed if lost else Promise.S6
    message = f"{texts} were acknowledged, yet {operation}"
    also = (Promise.S2,) if lost and broken is not Promise.S2 else ()
    return Refusal(broken, message, (texts,), also=also)


def cancelled(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    """A run is ended, if there was still something to end."""
    is_last = turn is not None and session.run is not None and turn.run == session.run.run
    if not operation.result:
        is_under_way = is_last and session.is_pending and session.is_surely_busy
        return Refusal(Promise.T4, f"it is under way, yet {operation}") if is_under_way else session
    if turn is None or not is_last or session.phase is Phase.IDLE:
        return Refusal(Promise.T3, f"it was over, yet {operation}", also=(Promise.T4,))
    # What is not held may have been saved at that very moment, and only then been cancelled.
    marks = ("cancelled",) if turn.is_held else ("cancelled", *turn.marks)
    after = session.with_turn(replace(turn, marks=marks))
    return replace(after, phase=Phase.SAVED, is_cancelled=True)


def told(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """Whether it is busy, where that is sure, and the run that a client could attach to."""
    busy, active = operation.result["busy"], operation.result["active"]
    if session.hides(active):
        return _offered_wrongly(session, operation)
    if not (session.is_surely_busy or session.is_surely_idle):
        return session
    if busy != session.is_surely_busy:
        promise = Promise.T4 if session.is_cancelled else Promise.T3
        return Refusal(promise, f"busy is {session.is_surely_busy}, yet {operation}")
    return session if active == session.offered else _offered_wrongly(session, operation)


def watched(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """The run that is offered to whoever begins to watch."""
    is_sure = session.is_surely_busy or session.is_surely_idle
    is_right = operation.result == session.offered or not is_sure
    if is_right and not session.hides(operation.result):
        return session
    return _offered_wrongly(session, operation)


def idle(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """It was waited for until nothing is under way."""
    if operation.result:
        if session.is_surely_busy:
            return Refusal(Promise.S13, f"its run is alive, yet {operation}", also=(Promise.T3,))
        return replace(session, phase=Phase.IDLE, is_cancelled=False)
    if session.is_surely_busy or session.owed:
        return session
    return Refusal(Promise.T3, f"the run is over, and never left: {operation}")


def showed(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    """The first that a run shows."""
    if turn is None or session.run is None or turn.run != session.run.run:
        return session
    return session.with_turn(replace(turn, shown=operation.result))


def said(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """All that was said: each message once, in order, marked as its turn came to its end."""
    result = operation.result
    turns = session.turns[:-1] if session.is_pending else session.turns
    if session.is_pending and result["pending"] != session.turns[-1].text:
        message = f"it is alive, and its message is pending no more: {operation}"
        return Refusal(Promise.S13, message, also=(Promise.S2,))
    texts = [text for role, text, _ in result["said"] if role == "user"]
    for turn in turns:
        if texts.count(turn.text) != 1:
            message = f"{turn.text!r} is there {texts.count(turn.text)} times: {operation}"
            also = (Promise.S2,) if turn.was_struck else ()
            return Refusal(turn.blamed, message, also=also)
        if refusal := _ended_otherwise(turn, result["said"], operation):
            return refusal
    if texts != [turn.text for turn in turns]:
        return Refusal(Promise.S6, f"only {[turn.text for turn in turns]} are there: {operation}")
    return _woken_once(session, result["woken"], operation)


def _ended_otherwise(turn: Turn, rows: list[Any], operation: Operation) -> Refusal | None:
    at = next(index for index, (_, text, _) in enumerate(rows) if text == turn.text)
    if rows[at][2] not in turn.marks:
        is_repaired = turn.was_struck or rows[at][2] == "interrupted"
        promise = Promise.S13 if is_repaired else Promise.T4
        return Refusal(promise, f"{turn.text!r} should be marked {turn.marks}: {operation}")
    reply = "".join(text for role, text, _ in rows[at + 1 : at + 2] if role == "assistant")
    if not reply.startswith(turn.shown):
        promise = Promise.S13 if turn.was_struck else Promise.T4
        return Refusal(promise, f"{turn.shown!r} was shown after {turn.text!r}: {operation}")
    return None


def woken(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """The wakeups that were owed."""
    outputs = operation.result
    if missing := [one for one in session.owed if one not in outputs]:
        if session.is_surely_busy:
            return session  # they wait for their turn
        broken = Promise.W3 if session.was_deferred else Promise.W2
        broken = Promise.W4 if session.was_struck and session.was_deferred else broken
        return Refusal(broken, f"{missing} ended, and woke nobody: {operation}")
    done = session
    if session.owed:  # the last of them may still be at work
        every = (*session.woken, *session.owed)
        done = replace(session, phase=Phase.SAVED, run=Turn(ANOTHER, ""), owed=(), woken=every)
    return _woken_once(done, outputs, operation)


def _woken_once(session: Session, outputs: list[str], operation: Operation) -> Session | Refusal:
    for output, times in Counter(outputs).items():
        if times > 1:
            return Refusal(Promise.W1, f"{output} ended once, and woke {times} times: {operation}")
        if output not in (*session.woken, *session.owed):
            return Refusal(Promise.W6, f"{output} is another session's: {operation}")
    if not set(session.woken) <= set(outputs):
        return Refusal(Promise.S2, f"{session.woken} woke it, and are gone: {operation}")
    return session
