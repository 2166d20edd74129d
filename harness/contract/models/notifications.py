"""Tabs beside a server's model: each hears of its own session all that happened, once, in order.

The turns that users start are told in that order; that a process ended comes when it comes, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.contract.models.conversation import CONFLICT
from harness.contract.models.server import ServerModel
from harness.contract.models.server import State as ServerState
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

STARTED, ENDED = "server_turn_started", "bg_task_complete"


@dataclass(frozen=True, slots=True)
class Tab:
    """What it watches; the runs that it has yet to hear of; the ends that it has heard of.

    One that has heard nothing has no cursor, so a new connection begins with what comes then.
    """

    session: str
    has_cursor: bool = False
    unheard: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """The server, and every tab by its name."""

    server: ServerState
    tabs: tuple[tuple[str, Tab], ...] = ()

    def put(self, name: str, tab: Tab) -> State:
        """This state with another tab of that name."""
        every = {**dict(self.tabs), name: tab}
        return replace(self, tabs=tuple(sorted(every.items(), key=lambda item: item[0])))

    def started(self, session: str, run: str) -> State:
        """This state with one more run that the session's tabs will hear of."""
        tabs = [
            (name, replace(tab, unheard=(*tab.unheard, run)) if tab.session == session else tab)
            for name, tab in self.tabs
        ]
        return replace(self, tabs=tuple(tabs))


class TabsModel:
    """What tabs may hear, and whatever else a server may answer."""

    name = "tabs"

    def __init__(self) -> None:
        self._server = ServerModel()

    def initial(self) -> State:
        """No session, and no tab."""
        return State(self._server.initial())

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """What may hold after the operation, or the promise it broke."""
        match operation.function:
            case "open" | "open_again" | "hear" | "acknowledge":
                return _of_a_tab(state, operation)
            case "begin":
                return (self.initial(),)
        stepped = self._server.step(state.server, operation)
        if isinstance(stepped, Refusal):
            return stepped
        if operation.function == "send" and _has_begun(operation):
            argument = operation.argument
            state = state.started(argument["session"], argument["run"])
        return tuple(replace(state, server=server) for server in stepped)


def _has_begun(operation: Operation) -> bool:
    return operation.outcome is Outcome.OK and operation.result["status"] != CONFLICT


def _of_a_tab(state: State, operation: Operation) -> tuple[State] | Refusal:
    if operation.outcome is not Outcome.OK:
        return (state,) if "KeyError" in operation.error else Refusal(Promise.C3, f"{operation}")
    argument = operation.argument
    match operation.function:
        case "open":
            return (state.put(argument["tab"], Tab(argument["session"])),)
        case "open_again":
            return (_reopened(state, argument["tab"]),)
        case "hear":
            return _heard(state, operation)
    return _acknowledged(state, operation)


def _reopened(state: State, name: str) -> State:
    tab = dict(state.tabs).get(name)
    if tab is None or tab.has_cursor:
        return state
    return state.put(name, replace(tab, unheard=()))


def _heard(state: State, operation: Operation) -> tuple[State] | Refusal:
    name = operation.argument["tab"]
    tab = dict(state.tabs).get(name)
    if tab is None:
        return (state,)
    foreign = [one for one in operation.result if one[0] != tab.session]
    if foreign:
        return Refusal(Promise.C5, f"{foreign} is not of {tab.session}", also=(Promise.W7,))
    starts = [run for _, what, run in operation.result if what == STARTED and run in tab.unheard]
    if starts != list(tab.unheard[: len(starts)]):
        message = f"{tab.unheard} began in that order, yet {operation}"
        return Refusal(Promise.C1 if len(set(starts)) == len(starts) else Promise.C2, message)
    ended = [output for _, what, output in operation.result if what == ENDED]
    if len({*ended, *tab.ended}) < len(ended) + len(tab.ended):
        return Refusal(Promise.C2, f"{tab.ended} was heard of before: {operation}")
    wanted = [tab.session, operation.argument["name"], operation.argument["subject"]]
    if wanted not in operation.result and wanted[2] in (*tab.unheard, *_owned(state, tab)):
        return Refusal(Promise.C3, f"it never came: {operation}")
    after = replace(
        tab,
        has_cursor=tab.has_cursor or bool(operation.result),
        unheard=tab.unheard[len(starts) :],
        ended=(*tab.ended, *ended),
    )
    return (state.put(name, after),)


def _owned(state: State, tab: Tab) -> tuple[str, ...]:
    """The outputs whose ends the tab will surely hear of."""
    session = dict(state.server.sessions).get(tab.session)
    return () if session is None else session.owed


def _acknowledged(state: State, operation: Operation) -> tuple[State] | Refusal:
    is_there = operation.argument["session"] in dict(state.server.sessions)
    right = {"noop": True, "task": operation.argument["task"]} if is_there else None
    if operation.result == right:
        return (state,)
    return Refusal(Promise.W11, f"{right} is the answer, yet {operation}", (right,))
