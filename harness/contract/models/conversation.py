"""Model of one session of a server: its messages, its present run, and the wakeups it is owed.

A *held* turn goes on until the client ends it, so the state of its run is known. Any other run ends
at an unknown moment: `outlooks` are the states that may hold meanwhile. Wakeups start at any time,
so until the client has waited for those that are owed it is unknown whether the session is busy.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from harness.contract import promises
from harness.contract.agent_script import ReplyEnd, Script
from harness.contract.models.titles import own_title
from harness.core.contract import Promise
from harness.core.history import Operation
from harness.core.model import Refusal

OK, CONFLICT = 200, 409
ANOTHER = "another"  # a run that no client named, such as a wakeup's


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's turn. `marks` are those that its message may have once the turn is over.

    `rows` is the number of events of its run, once a client has read them to their end. `shown` is
    the text of the reply that a client has seen.
    """

    run: str
    text: str
    marks: tuple[str, ...] = ("",)
    shown: str = ""
    was_struck: bool = False
    rows: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether the turn goes on until the client ends it."""
        return Script.parse(self.text).is_held

    @property
    def hangs(self) -> bool:
        """Whether even a cancel does not end the turn."""
        return Script.parse(self.text).hangs

    @property
    def end(self) -> str:
        """How the turn ends, in words."""
        if self.was_struck:
            return "a turn that a kill ended"
        if "cancelled" in self.marks:
            return "a turn that was cancelled"
        return "a turn that fails" if Script.parse(self.text).fails else "a turn"

    @property
    def promise(self) -> Promise:
        """The promise that the message is there, once, and marked."""
        return promises.S13 if self.was_struck else promises.S2


class Phase(Enum):
    """The phase of the last run: it is over; its turn is under way; or only its turn is over."""

    IDLE = auto()
    PENDING = auto()
    SAVED = auto()


@dataclass(frozen=True, slots=True)
class Session:
    """Its turns, the pending one last; its last run; wakeups that are owed, and delivered."""

    named: str | None = None  # by a client
    turns: tuple[Turn, ...] = ()
    phase: Phase = Phase.IDLE
    run: Turn | None = None
    is_cancelled: bool = False
    owed: tuple[str, ...] = ()
    delivered: tuple[str, ...] = ()  # in the order in which they came
    begun: tuple[Turn, ...] = ()  # all turns, also those that were removed
    removed: tuple[tuple[str, str], ...] = ()  # texts, each with the call that removed it
    was_deferred: bool = False
    was_struck: bool = False
    is_unknown: bool = False  # an answer about it was wrong, so that its content is not known

    @property
    def title(self) -> str:
        """The title that a client gave, or the beginning of the first request."""
        request = self.turns[0].text if self.turns else None
        return own_title(request) if self.named is None else self.named

    @property
    def is_pending(self) -> bool:
        """Whether the last turn is under way."""
        return self.phase is Phase.PENDING

    @property
    def offered(self) -> str | None:
        """The run that a client can attach to."""
        return self.run.run if self.is_pending and self.run else None

    def hides(self, run: str | None) -> bool:
        """Whether that run was cancelled, so that no client may be sent to it any more."""
        return self.is_cancelled and self.run is not None and run == self.run.run

    @property
    def is_surely_busy(self) -> bool:
        """Whether the run is under way, and only a call can end it."""
        if self.run is None:
            return False
        return self.run.is_held if self.is_pending else self._hangs

    @property
    def is_surely_idle(self) -> bool:
        """Whether no run is under way or about to start."""
        return self.phase is Phase.IDLE and not self.owed

    @property
    def has_ended(self) -> bool:
        """Whether a client has received the end of the last run, and no call had cancelled it."""
        run = self.run
        is_whole = run is not None and run.rows is not None and not run.is_held
        return is_whole and self.phase is Phase.SAVED and not self.is_cancelled

    @property
    def _hangs(self) -> bool:
        return self.phase is Phase.SAVED and self.run is not None and self.run.hangs

    def outlooks(self) -> tuple[Session, ...]:
        """The states that may hold by now: a turn that is not held may be over."""
        if self.is_pending and not self.is_surely_busy:
            return (replace(self, phase=Phase.SAVED), self)
        return (self,)

    def find(self, run: str | None) -> Turn | None:
        """The turn of that run; None for none that is known."""
        turns = self.turns if self.run is None else (*self.turns, self.run)
        return next((turn for turn in turns if turn.run == run), None)

    def with_turn(self, turn: Turn) -> Session:
        """This session with the turn as it is known now."""
        turns = tuple(turn if other.run == turn.run else other for other in self.turns)
        is_last = self.run is not None and self.run.run == turn.run
        return replace(self, turns=turns, run=turn if is_last else self.run)

    def shortened(self, count: int, call: str) -> Session:
        """This session with its first turns only; a pending turn stays, as it is not saved yet."""
        pending = self.turns[-1:] if self.is_pending else ()
        removed = tuple((turn.text, call) for turn in self.saved[count:])
        return replace(self, turns=self.saved[:count] + pending, removed=(*self.removed, *removed))

    @property
    def saved(self) -> tuple[Turn, ...]:
        """The turns without the pending one."""
        return self.turns[:-1] if self.is_pending else self.turns

    def struck(self, marks: tuple[str, ...]) -> Session:
        """This session after a death of its server, which puts a mark on a turn under way."""
        session = self
        if self.is_pending:
            session = self.with_turn(replace(self.turns[-1], marks=marks, was_struck=True))
        return replace(session, phase=Phase.IDLE, is_cancelled=False, was_struck=True)


def renamed(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """The session has another title."""
    return replace(session, named=operation.argument["title"])


def titled(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """Judge the title: the last one that was given, or that of the first request.

    A target whose titles of its own follow another rule answers none where no client gave one.
    """
    if operation.result == session.title or (operation.result is None and session.named is None):
        return session
    is_own = session.named is None
    source = "that of the first request" if is_own else "the last one that was given"
    return Refusal(
        promises.S2,
        f"{operation.call} answers another title than {source}",
        (session.title,),
        also=(promises.S14, promises.S6) if is_own else (),
        expected=f"{session.title!r}",
    )


def cleared(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """All saved turns are removed."""
    return replace(session.shortened(0, operation.function), delivered=())


def truncated(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """The turns behind the first ones are removed."""
    return session.shortened(operation.argument["keep"], operation.function)


def undone(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """The last saved turn is removed; the answer says whether there was one."""
    count = len(session.saved)
    if operation.result != bool(count):
        return Refusal(
            promises.S6,
            f"{operation.call} of {count} saved turns answers the opposite",
            (bool(count),),
            expected=f"{bool(count)}",
        )
    return session.shortened(count - 1, operation.function) if count else session


def sent(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """A turn begins, or a run under way refuses it."""
    status, active = operation.result["status"], operation.result["active"]
    if status not in (OK, CONFLICT) or (status == OK and active is not None):
        return Refusal(
            promises.H2,
            f"{operation.call} got an answer that no start has",
            expected=f"status {OK} without an active run, or {CONFLICT}",
        )
    if status == CONFLICT:
        return _refused(session, operation, active)
    if operation.function == "send_watched" and operation.result["heard"] is False:
        return Refusal(
            promises.C3,
            f"{operation.call}: a watching client did not hear of the end of the process",
            also=(promises.W7,),
            expected="bg_task_complete on the stream of the session",
        )
    if session.is_surely_busy:
        return Refusal(
            promises.T1,
            f"{operation.call} started a second run beside the one under way",
            expected=f"status {CONFLICT} with the active run {session.offered!r}",
        )
    text = operation.argument["text"]
    turn = Turn(operation.argument["run"], text)
    return replace(
        session,
        turns=(*session.turns, turn),
        begun=(*session.begun, turn),
        phase=Phase.PENDING,
        run=turn,
        is_cancelled=False,
        owed=(*session.owed, *_reports(text)),
        was_deferred=turn.is_held,
    )


def _refused(session: Session, operation: Operation, active: str | None) -> Session | Refusal:
    """A start was refused, because of the active run: there can be one, and it is this one."""
    if session.is_surely_idle:
        return Refusal(
            promises.T3,
            f"{operation.call} was refused although the session is idle",
            also=(promises.T1,),
            expected=f"a started run (status {OK})",
        )
    if session.has_ended and not session.owed:
        return Refusal(
            promises.T8,
            f"{operation.call} was refused although its client has received the end of the run",
            also=(promises.T1,),
            expected=f"a started run (status {OK})",
        )
    if session.owed or active == session.offered:
        return session
    is_leaving = session.phase is Phase.SAVED and not session.is_cancelled
    if is_leaving and session.run and active == session.run.run:
        return session
    return _wrong_run(session, operation, active)


def _reports(text: str) -> tuple[str, ...]:
    """What the processes of a script report to their session."""
    return tuple(report for process in Script.parse(text).processes for report in process.reports)


def _wrong_run(session: Session, operation: Operation, active: str | None) -> Refusal:
    """The refusal of a call that offers another run than the one that a client can attach to."""
    promise = promises.C7 if operation.function == "watch" else promises.T1
    if session.is_cancelled:
        promise = promises.C7
    return Refusal(
        promise,
        f"{operation.call} offers another run than the one that a client can attach to",
        also=(promises.T4,) if session.is_cancelled else (),
        expected=f"run {session.offered!r}",
        observed=f"run {active!r}",
    )


def on_disk(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """Judge the user messages in the session's file."""
    texts = [turn.text for turn in session.turns]
    if operation.result == texts:
        return session
    lost = [turn for turn in session.turns if operation.result.count(turn.text) != 1]
    is_new = session.is_pending and lost == [session.turns[-1]]
    promise = promises.T2 if is_new else lost[0].promise if lost else promises.S6
    return Refusal(
        promise,
        f"{operation.call}: the file has other user messages than the acknowledged ones",
        (texts,),
        also=(promises.S2,) if lost and promise != promises.S2 else (),
        expected=f"{texts}",
    )


def cancelled(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    """A run is ended, if it was still under way."""
    is_last = turn is not None and session.run is not None and turn.run == session.run.run
    if not operation.result:
        if is_last and session.is_pending and session.is_surely_busy:
            return Refusal(
                promises.T4,
                f"{operation.call} did not cancel a run that is under way",
                expected="True (cancelled)",
            )
        return session
    if turn is None or not is_last or session.phase is Phase.IDLE:
        return Refusal(
            promises.T3,
            f"{operation.call} cancelled a run that was over",
            also=(promises.T4,),
            expected="False (no such run is under way)",
        )
    # A turn that is not held may have been saved just before it was cancelled.
    marks = ("cancelled",) if turn.is_held else ("cancelled", *turn.marks)
    after = session.with_turn(replace(turn, marks=marks))
    return replace(after, phase=Phase.SAVED, is_cancelled=True)


def status_read(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """Judge the status: whether the session is busy, where that is sure, and the offered run."""
    busy, active = operation.result["busy"], operation.result["active"]
    if session.hides(active):
        return _wrong_run(session, operation, active)
    if not (session.is_surely_busy or session.is_surely_idle):
        return session
    if busy != session.is_surely_busy:
        present = "a run is under way" if session.is_surely_busy else "no run is under way"
        return Refusal(
            promises.T4 if session.is_cancelled else promises.T3,
            f"{operation.call} reports a wrong status: {present}",
            also=(promises.S13,) if session.was_struck else (),
            expected=f"busy = {session.is_surely_busy}",
        )
    return session if active == session.offered else _wrong_run(session, operation, active)


def run_offered(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """Judge the run that is offered to a client that begins to watch."""
    is_sure = session.is_surely_busy or session.is_surely_idle
    possible = (None, ANOTHER, session.run.run if session.run else None)
    is_right = operation.result == session.offered or (not is_sure and operation.result in possible)
    if is_right and not session.hides(operation.result):
        return session
    return _wrong_run(session, operation, operation.result)


def idle(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """The client waited until no run is under way, or gave up."""
    if operation.result:
        if session.is_surely_busy:
            return Refusal(
                promises.S13,
                f"{operation.call} saw an idle session although its run is alive",
                also=(promises.T3,),
                expected="False (the session stays busy)",
            )
        return replace(session, phase=Phase.IDLE, is_cancelled=False)
    if session.is_surely_busy or session.owed:
        return session
    return Refusal(
        promises.T3,
        f"{operation.call}: the session stayed busy although its run is over",
        expected="True (the session becomes idle)",
    )


def shown_first(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    """The client saw the beginning of a run's reply."""
    if turn is None or session.run is None or turn.run != session.run.run:
        return session
    return session.with_turn(replace(turn, shown=operation.result))


def messages_read(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """Judge all messages: each once, in order, with the mark of its turn's end."""
    result = operation.result
    turns = session.saved
    if session.is_pending and result["pending"] != session.turns[-1].text:
        return Refusal(
            promises.S13,
            f"{operation.call} lacks the pending message of a run that is alive",
            also=(promises.S2,),
            expected=f"pending = {session.turns[-1].text!r}",
            observed=f"pending = {result['pending']!r}",
        )
    texts = [text for role, text, _ in result["said"] if role == "user"]
    for turn in turns:
        if texts.count(turn.text) != 1:
            has_reply = any(text.startswith(turn.shown) for _, text, _ in result["said"])
            lacks = "" if has_reply or not turn.shown else ", and not the reply that was seen"
            if len(turns) > 1 and not texts:  # another finding than the loss of one message
                lacks += ", as all the others"
            count = f"has the message {turn.text!r} of {turn.end} {texts.count(turn.text)} times"
            return Refusal(
                turn.promise,
                f"{operation.call} {count}{lacks}",
                also=(
                    *((promises.S2,) if turn.was_struck else ()),
                    *((promises.T4,) if "reply" in lacks else ()),
                ),
                expected=f"{turn.text!r} once",
            )
        if refusal := _wrong_end(turn, result["said"], operation, is_last=turn is turns[-1]):
            return refusal
    if texts != [turn.text for turn in turns]:
        return Refusal(
            promises.S6,
            f"{operation.call} has {_surplus(session, texts)}",
            expected=f"user messages {[turn.text for turn in turns]}",
            observed=f"user messages {texts}",
        )
    if refusal := _wrong_reply(session, operation) or _shown_removed(session, operation):
        return refusal
    return _wakeups_once(session, result["woken"], operation)


def _surplus(session: Session, texts: list[str]) -> str:
    """What is wrong with these messages: which call had removed some, or their order."""
    calls = sorted({call for text, call in session.removed if text in texts})
    return f"messages that {' and '.join(calls)} removed" if calls else "its messages in disorder"


def _shown_removed(session: Session, operation: Operation) -> Refusal | None:
    """The refusal of a reply whose agent was shown more messages than precede the reply.

    Messages of wakeups may be missing among those that precede it, but not those of users.
    """
    wakeups = len(session.owed) + len(session.delivered)
    for shown, precede in operation.result.get("heard", ()):
        if shown > precede + wakeups:
            return Refusal(
                promises.S6,
                f"{operation.call}: the agent of a reply was shown removed messages, or one twice",
                also=(promises.S14,),
                expected=f"at most {precede + wakeups} messages of users up to the reply",
                observed=f"{shown} messages of users",
            )
    return None


def _wrong_end(
    turn: Turn, rows: list[Any], operation: Operation, *, is_last: bool
) -> Refusal | None:
    """The refusal of a message whose mark or reply does not fit the end of its turn."""
    at = next(index for index, (_, text, _) in enumerate(rows) if text == turn.text)
    mark = rows[at][2]
    is_marked = mark in turn.marks
    of_mark = promises.S13 if turn.was_struck or mark == "interrupted" else promises.T4
    reply = "".join(text for role, text, _ in rows[at + 1 : at + 2] if role == "assistant")
    if not reply.startswith(turn.shown):  # it weighs more than a mark
        promise = promises.S13 if turn.was_struck else promises.T4
        where = "" if is_last else ", an earlier turn,"  # what a later turn did is another finding
        has_failed = "cancelled" not in turn.marks and not turn.was_struck
        which = f"the reply to {turn.text!r}{where}"
        return Refusal(
            promise,
            f"{operation.call}: {which} lacks text that a client has seen",
            also=(
                *((promises.S2,) if has_failed else ()),
                *(() if is_marked or of_mark == promise else (of_mark,)),
            ),
            expected=f"a reply that begins with {turn.shown!r}",
            observed=f"the reply {reply!r}",
        )
    if not is_marked:
        return Refusal(
            of_mark,
            f"{operation.call}: the message {turn.text!r} has a wrong mark",
            expected=f"mark {' or '.join(map(repr, turn.marks))}",
            observed=f"mark {mark!r}",
        )
    return None


def _wrong_reply(session: Session, operation: Operation) -> Refusal | None:
    """The refusal of a completed turn whose reply lacks its end, or belongs to another turn.

    The reply is looked for between the turn's message and the next one of a user.
    """
    if not session.is_surely_idle:
        return None
    rows, before = operation.result["said"], None
    for turn in session.turns:
        script = Script.parse(turn.text)
        at = next(index for index, (_, text, _) in enumerate(rows) if text == turn.text)
        after = itertools.takewhile(lambda row: row[0] != "user", rows[at + 1 :])
        replies = [ReplyEnd.parse(text) for role, text, _ in after if role == "assistant"]
        ends = [end.session for end in replies if end is not None]
        is_complete = turn.marks == ("",) and not (script.fails or script.is_held)
        woken = len(operation.result["woken"])  # their replies are among these
        is_right = ends[:1] == [operation.argument["session"]] and len(ends) <= 1 + woken
        if is_complete and not is_right:
            was_cancelled = before is not None and "cancelled" in before.marks
            what = "several replies" if len(ends) > 1 else "no whole reply"
            behind = " behind one that was cancelled" if was_cancelled else ""
            return Refusal(
                promises.S2,
                f"{operation.call}: {what} to the completed turn {turn.text!r}{behind}",
                also=(promises.T3, promises.S14, *((promises.T4,) if was_cancelled else ())),
                expected="one reply that ends as its agent ended it",
                observed=f"{rows[at : at + 3]}",
            )
        before = turn
    return None


def _lost(session: Session, missing: list[str]) -> bool:
    """Whether one of these is of a process whose session is known by its key only."""
    scripts = [Script.parse(turn.text) for turn in session.begun]
    processes = (process for script in scripts for process in script.processes)
    return any(process.is_lost and process.printed in missing for process in processes)


def wakeups_read(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """Judge the wakeups after the client has waited for those that are owed."""
    outputs = operation.result
    if missing := [output for output in session.owed if output not in outputs]:
        if session.is_surely_busy:
            return session  # they wait for their turn
        promise = promises.W3 if session.was_deferred else promises.W2
        which = "ended processes"
        if session.was_struck:
            promise = promises.W4
            which = which if session.was_deferred else "processes that outlived their server"
        also = (promises.W12,) if session.was_struck and not session.was_deferred else ()
        if _lost(session, missing):
            also = (promises.W6, *also)
        return Refusal(
            promise,
            f"{operation.call}: {which} started no wakeup turn",
            also=also,
            expected=f"one wakeup each of {', '.join(missing)}",
            observed=f"wakeups of {outputs}",
        )
    after = session
    if [*session.delivered] != outputs[: len(session.delivered)]:
        return _wakeups_once(session, outputs, operation)
    if session.owed:  # the last wakeup turn may still be under way
        known = (*session.delivered, *session.owed)
        delivered = tuple(dict.fromkeys(output for output in outputs if output in known))
        after = replace(
            session, phase=Phase.SAVED, run=Turn(ANOTHER, ""), owed=(), delivered=delivered
        )
    return _wakeups_once(after, outputs, operation)


def _wakeups_once(session: Session, outputs: list[str], operation: Operation) -> Session | Refusal:
    for output, count in Counter(outputs).items():
        if count > 1:
            return Refusal(
                promises.W1,
                f"{operation.call}: the end of {output} started {count} wakeup turns",
                expected=f"one wakeup of {output}",
                observed=f"{count} wakeups of {output}",
            )
        if output not in (*session.delivered, *session.owed):
            return Refusal(
                promises.W6,
                f"{operation.call}: the wakeup of {output} belongs to another session",
                expected=f"only wakeups of {[*session.delivered, *session.owed]}",
                observed=f"wakeups of {outputs}",
            )
    if outputs[: len(session.delivered)] != [*session.delivered]:
        return Refusal(
            promises.S2,
            f"{operation.call} lacks wakeup messages that were there before, or has another order",
            expected=f"wakeups of {list(session.delivered)}",
            observed=f"wakeups of {outputs}",
        )
    return session
