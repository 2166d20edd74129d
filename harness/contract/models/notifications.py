"""Model of notifications: each browser tab gets every event of its session once and in order.

The model stands beside the model of the server. The turns that users start are announced in their
order; the end of a background process is announced once, at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.contract import promises
from harness.contract.models.conversation import ANOTHER, CONFLICT
from harness.contract.models.server import ServerModel
from harness.contract.models.server import State as ServerState
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

STARTED, ENDED = "turn_started", "bg_task_complete"
BY_SERVER = "server_turn_started"  # of a turn that no user started
HALF_NAMED = "a notice without both names of its process"


@dataclass(frozen=True, slots=True)
class Tab:
    """One tab: its session, the runs to be announced to it, and the ends that were announced.

    A tab without an event has no cursor, so a new connection of it begins with later events.
    """

    session: str
    has_cursor: bool = False
    unannounced: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """The server, and every tab by its name."""

    server: ServerState
    by_name: tuple[tuple[str, Tab], ...] = ()

    def put(self, name: str, tab: Tab) -> State:
        """This state with another tab of that name."""
        by_name = {**dict(self.by_name), name: tab}
        return replace(self, by_name=tuple(sorted(by_name.items(), key=lambda item: item[0])))

    def started(self, session: str, run: str) -> State:
        """This state with one more run to be announced to the tabs of the session."""
        by_name = [
            (
                name,
                replace(tab, unannounced=(*tab.unannounced, run))
                if tab.session == session
                else tab,
            )
            for name, tab in self.by_name
        ]
        return replace(self, by_name=tuple(by_name))


class NotificationsModel:
    """Which events tabs may get, and whatever else a server may answer."""

    name = "notifications"

    def __init__(self) -> None:
        self._server = ServerModel()

    def initial(self) -> State:
        """No session, and no tab."""
        return State(self._server.initial())

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The states that may hold after the operation, or the promise it broke."""
        match operation.function:
            case "open" | "open_again" | "hear" | "acknowledge":
                return _of_a_tab(state, operation)
            case "begin":
                if operation.outcome is Outcome.FAIL:
                    return Refusal(
                        promises.C3,
                        f"{operation.call} failed",
                        expected="every tab is closed, and every name forgotten",
                    )
                return (self.initial(),)
        step = self._server.step(state.server, operation)
        if isinstance(step, Refusal):
            return step
        if operation.function == "send" and _has_begun(operation):
            argument = operation.argument
            state = state.started(argument["session"], argument["run"])
        return tuple(replace(state, server=server) for server in step)


def _has_begun(operation: Operation) -> bool:
    return operation.outcome is Outcome.OK and operation.result["status"] != CONFLICT


def _of_a_tab(state: State, operation: Operation) -> tuple[State] | Refusal:
    if operation.outcome is not Outcome.OK:
        if "KeyError" in operation.error:
            return (state,)
        return Refusal(
            promises.C3,
            f"{operation.call} of a tab failed",
            expected="an answer, or KeyError for a tab or session that was never made",
        )
    argument = operation.argument
    match operation.function:
        case "open":
            return (state.put(argument["tab"], Tab(argument["session"])),)
        case "open_again":
            return (_reopened(state, argument["tab"]),)
        case "hear":
            return _half_named(operation) or _announced(state, operation)
    return _acknowledged(state, operation)


def _reopened(state: State, name: str) -> State:
    tab = dict(state.by_name).get(name)
    if tab is None or tab.has_cursor:
        return state
    return state.put(name, replace(tab, unannounced=()))


def _half_named(operation: Operation) -> Refusal | None:
    """A notice of which a client knows only one name of the process."""
    halves = [event for event in operation.result if event[1] == HALF_NAMED]
    if not halves:
        return None
    return Refusal(
        promises.W11,
        f"{operation.call}: a notice cannot be acknowledged under either name of its process",
        expected=f"{ENDED} with the same `task_id` and `process_id`",
        observed=f"{halves}",
    )


def _announced(  # noqa: PLR0911 - one for each way to be wrong
    state: State, operation: Operation
) -> tuple[State] | Refusal:
    """Judge the events that a tab got up to the one that it waited for."""
    name = operation.argument["tab"]
    tab = dict(state.by_name).get(name)
    if tab is None:
        return (state,)
    mistaken = [
        event
        for event in operation.result
        if event[1] == BY_SERVER and event[2] not in (None, ANOTHER)
    ]
    if mistaken:
        return Refusal(
            promises.C7,
            f"{operation.call}: tab {name} was notified of a user's turn as one of the server's",
            expected=f"{STARTED} for a turn that a user started",
            observed=f"{mistaken}",
        )
    foreign = [event for event in operation.result if event[0] != tab.session]
    if foreign:
        return Refusal(
            promises.C5,
            f"{operation.call}: tab {name} got events of another session",
            also=(promises.W7,),
            expected=f"only events of {tab.session}",
            observed=f"{foreign}",
        )
    starts = [
        run for _, kind, run in operation.result if kind == STARTED and run in tab.unannounced
    ]
    if starts != list(tab.unannounced[: len(starts)]):
        is_unique = len(set(starts)) == len(starts)
        return Refusal(
            promises.C1 if is_unique else promises.C2,
            f"{operation.call}: tab {name} got the starts of runs in another order, or twice",
            expected=f"{STARTED} of {', '.join(tab.unannounced)}, in this order, each once",
            observed=f"{STARTED} of {', '.join(starts)}",
        )
    ended = [output for _, kind, output in operation.result if kind == ENDED]
    if len({*ended, *tab.ended}) < len(ended) + len(tab.ended):
        return Refusal(
            promises.C2,
            f"{operation.call}: tab {name} got the end of one process twice",
            expected=f"{ENDED} at most once for each process; before: {list(tab.ended)}",
            observed=f"{ENDED} of {ended}",
        )
    awaited = [tab.session, operation.argument["name"], operation.argument["subject"]]
    if awaited not in operation.result and awaited[2] in (*tab.unannounced, *_owed(state, tab)):
        return Refusal(
            promises.C3,
            f"{operation.call}: tab {name} did not get the event that it waited for",
            expected=f"{awaited} among the events",
        )
    after = replace(
        tab,
        has_cursor=tab.has_cursor or bool(operation.result),
        unannounced=tab.unannounced[len(starts) :],
        ended=(*tab.ended, *ended),
    )
    return (state.put(name, after),)


def _owed(state: State, tab: Tab) -> tuple[str, ...]:
    """The outputs of the processes whose ends must still be announced to the tab."""
    session = dict(state.server.sessions).get(tab.session)
    return () if session is None else session.owed


def _acknowledged(state: State, operation: Operation) -> tuple[State] | Refusal:
    exists = operation.argument["session"] in dict(state.server.sessions)
    right = {"noop": True, "task": operation.argument["task"]} if exists else None
    if operation.result == right:
        return (state,)
    problem = "did more than to confirm" if exists else "accepted a session that does not exist"
    return Refusal(promises.W11, f"{operation.call} {problem}", (right,), expected=f"{right}")
