"""Model of the two paths of wakeups: a turn of their own, or the user's next turn; never both.

Operations are those of the *next_turn* ability. A completion waits. With the idle path it starts a
turn of its own when its session is idle. Without it, the user's next turn takes along all that wait
in its session, right before the user's message; with neither it goes on waiting, also through a
kill. What was delivered by one path is delivered by no other, and not again after a restart. What
waits in a session goes with it.

A reply has the number of the messages, of the user or of wakeups, that its agent was shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

Row = tuple[str, str | int, str]


@dataclass(frozen=True, slots=True)
class Session:
    """Its messages, the completions that wait, and the turn that lasts, with what it took along."""

    rows: tuple[Row, ...] = ()
    waiting: tuple[str, ...] = ()
    held: str = ""
    joined: tuple[str, ...] = ()

    @property
    def asked(self) -> int:
        """How many of its messages ask for something."""
        return sum(row[0] != "reply" for row in self.rows)

    def said(self, joined: Sequence[str], text: str, mark: str = "") -> Session:
        """This session after a turn that took these wakeups along."""
        rows = [*self.rows, *(("wakeup", word, mark) for word in joined), ("user", text, mark)]
        number = 0 if mark else sum(row[0] != "reply" for row in rows)
        rest = tuple(word for word in self.waiting if word not in joined)
        return replace(self, rows=(*rows, ("reply", number, mark)), waiting=rest)

    def woken(self) -> Session:
        """This session after a turn for each completion that waits."""
        after = replace(self, waiting=())
        for word in self.waiting:
            rows = (*after.rows, ("wakeup", word, ""))
            after = replace(after, rows=(*rows, ("reply", after.asked + 1, "")))
        return after


@dataclass(frozen=True, slots=True)
class State:
    """Every session by its name, and the paths of the present server."""

    sessions: tuple[tuple[str, Session], ...] = ()
    idle: bool = True
    joins: bool = True

    def put(self, name: str, session: Session) -> State:
        """This state with another session of that name."""
        return replace(self, sessions=tuple({**dict(self.sessions), name: session}.items()))


class NextTurnModel:
    """What each session holds, whichever path delivers."""

    name = "next-turn"

    def initial(self) -> State:
        """No session."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:  # noqa: PLR0911
        """The state after the operation, or the promise that it breaks."""
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.W3,
                f"{operation.call} failed: a turn or a process does not end",
                also=(promises.T3, promises.W1),
                expected="an answer",
            )
        argument = operation.argument
        if operation.function not in ("settle", "look", "delete") and operation.result is not None:
            return Refusal(
                promises.T3,
                f"{operation.call} returned a value",
                also=(promises.W1,),
                expected="nothing",
            )
        match operation.function:
            case "boot":
                return (_booted(state, idle=argument["idle"], joins=argument["joins"]),)
            case "new":
                return (state.put(argument["session"], Session()),)
            case "delete":
                return _deleted(state, operation)
            case "settle":
                return _settled(state, operation)
            case "look":
                return _looked(state, operation)
        name = argument["session"]
        session = dict(state.sessions)[name]
        joined = session.waiting if state.joins else ()
        if argument.get("is_held"):
            held = replace(session, held=argument["text"], joined=joined)
            return (state.put(name, held),)
        text = argument.get("text") or argument["word"]
        after = session.said(joined, text)
        if operation.function == "spawn":
            after = replace(after, waiting=(*after.waiting, argument["word"]))
        return (state.put(name, after),)

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:  # noqa: ARG002
        """What a wrong answer leaves behind is not known: the rest of the history is not judged."""
        return ()


def _booted(state: State, *, idle: bool, joins: bool) -> State:
    """The state after a kill and another boot, which settles what lasted."""
    after = replace(state, idle=idle, joins=joins)
    for name, session in state.sessions:
        if session.held:
            ended = session.said(session.joined, session.held, "interrupted")
            after = after.put(name, replace(ended, held="", joined=()))
    return after


def _settled(state: State, operation: Operation) -> tuple[State] | Refusal:
    if operation.result != 0:
        return Refusal(
            promises.W3,
            f"{operation.call}: completions wait although nothing runs",
            also=(promises.W1, promises.W5),
            expected="0",
            observed=f"{operation.result}",
        )
    for name, session in state.sessions:
        state = state.put(name, session.woken())
    return (state,)


def _deleted(state: State, operation: Operation) -> tuple[State] | Refusal:
    rest = tuple(known for known in state.sessions if known[0] != operation.argument["session"])
    waiting = sum(len(session.waiting) for _, session in rest)
    if operation.result != waiting:
        return Refusal(
            promises.W9,
            f"{operation.call}: completions of a deleted session wait, or others do not",
            also=(promises.W5,),
            expected=f"{waiting}",
            observed=f"{operation.result}",
        )
    return (replace(state, sessions=rest),)


def _looked(state: State, operation: Operation) -> tuple[State] | Refusal:
    session = dict(state.sessions)[operation.argument["session"]]
    found: tuple[Row, ...] = tuple(map(tuple, operation.result))
    if found == session.rows:
        return (state,)
    wanted, seen = _wakeups(session.rows), _wakeups(found)
    tested = (promises.W1, promises.S2)
    if seen == wanted:
        is_said = [row for row in found if row[0] != "reply"] == [
            row for row in session.rows if row[0] != "reply"
        ]
        tested = (promises.W1, promises.S2) if is_said else (promises.S2, promises.W1)
    elif sorted(seen) == sorted(wanted):
        tested = (promises.W3, promises.W1)
    elif any(row[2] for row in session.rows):
        tested = (promises.W1, promises.W4)
    return Refusal(
        tested[0],
        f"{operation.call}: other messages than each completion once, by one path",
        also=tested[1:],
        expected=f"{[*session.rows]}",
        observed=f"{[*found]}",
    )


def _wakeups(rows: Sequence[Row]) -> list[str | int]:
    return [row[1] for row in rows if row[0] == "wakeup"]
