"""The gateway watcher as a sequential specification: every change is announced, and quiet is free.

Operations are those of the *watcher* ability (`harness.targets`). Sessions of `cron` and `webui`
are not shown, and what happens to them is no change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

HIDDEN = ("cron", "webui")
Row = tuple[str, str | None, int, bool]  # id, title, messages, whether it has ended


@dataclass(frozen=True, slots=True)
class Session:
    """What another process made of one session."""

    source: str
    title: str | None = None
    texts: tuple[str, ...] = ()
    ended: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """The sessions; those that were shown at the last good look; what was announced then.

    `touched` says that a shown one was written since, though perhaps back to what it was.
    """

    sessions: tuple[tuple[str, Session], ...] = ()
    seen: tuple[tuple[str, Session], ...] | None = None
    touched: bool = True
    announced: tuple[Row, ...] | None = None
    failing: bool = False

    def get(self, name: str) -> Session | None:
        """The session, if there is one."""
        return dict(self.sessions).get(name)

    def put(self, name: str, session: Session | None) -> State:
        """This state with one session changed, or gone."""
        sessions = dict(self.sessions)
        before = sessions.pop(name, None)
        if session is not None:
            sessions[name] = session
        shows = any(one is not None and one.source not in HIDDEN for one in (before, session))
        return replace(
            self, sessions=tuple(sorted(sessions.items())), touched=self.touched or shows
        )

    @property
    def shown(self) -> tuple[tuple[str, Session], ...]:
        """The sessions that are shown."""
        return tuple(item for item in self.sessions if item[1].source not in HIDDEN)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The list as it should be."""
        return tuple(
            (name, session.title, len(session.texts), session.ended) for name, session in self.shown
        )


class WatcherModel:
    """What a watcher may announce."""

    name = "watcher"

    def initial(self) -> State:
        """An empty database that nobody has looked at."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        argument = operation.argument
        match operation.function:
            case "fail":
                return (replace(state, failing=bool(argument["how"])),)
            case "poll":
                return _poll(state, operation)
            case "shown":
                return _shown(state, operation)
        if operation.outcome is not Outcome.OK:
            return (state,)
        return (_written(state, operation.function, **argument),)


def _written(  # noqa: PLR0911  one answer a function
    state: State, function: str, session: str, **argument: Any
) -> State:
    found = state.get(session)
    if function == "create":
        return state if found else state.put(session, Session(argument["source"]))
    if found is None:
        return state
    match function:
        case "append":
            return state.put(session, replace(found, texts=(*found.texts, argument["text"])))
        case "rewrite":
            return state.put(session, replace(found, texts=tuple(argument["texts"])))
        case "rename":
            return state.put(session, replace(found, title=argument["title"]))
        case "end":
            return state.put(session, replace(found, ended=True))
        case "delete":
            return state.put(session, None)
    raise ValueError(f"the watcher has no operation {function!r}")


def _poll(  # noqa: PLR0911  one answer a case
    state: State, operation: Operation
) -> tuple[State] | Refusal:
    if operation.outcome is not Outcome.OK:
        return Refusal(Promise.G3, f"a look raised: {operation}")
    announced = operation.result["announced"]
    quiet = {"announced": None, "projections": 0}
    if not state.touched:
        if operation.result != quiet:
            return Refusal(Promise.G2, f"nothing that is shown changed, yet {operation}", (quiet,))
        return (state,)
    if state.failing:
        if announced is not None:
            return Refusal(Promise.G3, f"there was no list to announce, yet {operation}")
        return (state,)
    expected = [list(row) for row in state.rows]
    if announced != expected and not (announced is None and state.shown == state.seen):
        told = {**operation.result, "announced": expected}
        return Refusal(Promise.G1, f"the list is {expected}, yet {operation}", (told,))
    return (replace(state, touched=False, seen=state.shown, announced=state.rows),)


def _shown(state: State, operation: Operation) -> tuple[State] | Refusal:
    expected = None if state.announced is None else [list(row) for row in state.announced]
    if operation.outcome is Outcome.OK and operation.result == expected:
        return (state,)
    message = f"the last good list is {expected}, yet {operation}"
    return Refusal(Promise.G3, message, (expected,))
