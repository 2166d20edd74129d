"""Model of notifications: each browser tab gets every event of its session once and in order.

The model stands beside the model of the server. The turns that users start are announced in their
order; the end of a background process is announced once, at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.contract import promises
from harness.contract.agent_script import MATCHED, Script
from harness.contract.models.conversation import ANOTHER, CONFLICT
from harness.contract.models.server import ServerModel
from harness.contract.models.server import State as ServerState
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

STARTED, ENDED, SEEN = "turn_started", "bg_task_complete", "process_watch_match"
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
    spared: tuple[str, ...] = ()  # reports that may have come before its connection


@dataclass(frozen=True, slots=True)
class State:
    """The server, and every tab by its name."""

    server: ServerState
    by_name: tuple[tuple[str, Tab], ...] = ()
    spawned: tuple[tuple[str, str, str], ...] = ()  # reports of processes, with session and run

    def put(self, name: str, tab: Tab) -> State:
        """This state with another tab of that name."""
        by_name = {**dict(self.by_name), name: tab}
        return replace(self, by_name=tuple(sorted(by_name.items(), key=lambda item: item[0])))

    def started(self, session: str, run: str, text: str) -> State:
        """This state with one more run to be announced to the tabs of the session."""
        processes = Script.parse(text).processes
        spawned = tuple(
            (report, session, run) for process in processes for report in process.reports
        )
        by_name = [
            (
                name,
                replace(tab, unannounced=(*tab.unannounced, run))
                if tab.session == session
                else tab,
            )
            for name, tab in self.by_name
        ]
        return replace(self, by_name=tuple(by_name), spawned=(*self.spawned, *spawned))


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
            case "open" | "open_again" if operation.outcome is Outcome.OK:
                return self._opened(state, operation)
            case "open" | "open_again" | "hear" | "acknowledge":
                return _of_a_tab(state, operation)
            case "begin":
                if operation.outcome is Outcome.FAIL or operation.result is not None:
                    return Refusal(
                        promises.C3,
                        f"{operation.call} failed, or answers something",
                        (None,),
                        expected="every tab is closed, and every name forgotten",
                    )
                return (self.initial(),)
        step = self._server.step(state.server, operation)
        if isinstance(step, Refusal):
            return step
        if operation.function == "send" and _has_begun(operation):
            argument = operation.argument
            state = state.started(argument["session"], argument["run"], argument["text"])
        return tuple(replace(state, server=server) for server in step)

    def _opened(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """A tab is offered what any new watcher of its session is, or what it has missed."""
        name = operation.argument["tab"]
        known = dict(state.by_name).get(name)
        after = _of_a_tab(state, operation)
        if isinstance(after, Refusal):
            return after
        tab = dict(after[0].by_name).get(name)
        is_back = operation.function == "open_again"
        missed = known.unannounced if known is not None and is_back else ()
        if tab is None or operation.result in (*missed, ANOTHER):
            return after
        watch = replace(operation, function="watch", argument={"session": tab.session})
        step = self._server.step(state.server, watch)
        if isinstance(step, Refusal):
            problem = f"{operation.call} offers another run than a new watcher gets"
            return replace(step, message=problem)
        return tuple(replace(possible, server=server) for possible in after for server in step)


def _has_begun(operation: Operation) -> bool:
    return operation.outcome is Outcome.OK and operation.result["status"] != CONFLICT


def _of_a_tab(state: State, operation: Operation) -> tuple[State] | Refusal:
    if operation.outcome is not Outcome.OK:
        if "KeyError" in operation.error:
            return (state,)
        return Refusal(
            promises.C3,
            f"{operation.call} of a tab failed",
            also=(promises.C7,) if "StillOpenError" in operation.error else (),
            expected="an answer, or KeyError for a tab or session that was never made",
        )
    argument = operation.argument
    match operation.function:
        case "open":
            tab = Tab(argument["session"])
            return (state.put(argument["tab"], replace(tab, spared=_owed(state, tab))),)
        case "open_again":
            return (_reopened(state, argument["tab"]),)
        case "hear":
            return (
                _half_named(operation) or _strange(state, operation) or _announced(state, operation)
            )
    return _acknowledged(state, operation)


def _reopened(state: State, name: str) -> State:
    tab = dict(state.by_name).get(name)
    if tab is None or tab.has_cursor:
        return state
    return state.put(name, replace(tab, unannounced=(), spared=(*tab.spared, *_owed(state, tab))))


def _half_named(operation: Operation) -> Refusal | None:
    """A notice of which a client knows only one name of the process."""
    halves = [event for event in operation.result if event[1] == HALF_NAMED]
    if not halves:
        return None
    return Refusal(
        promises.W11,
        f"{operation.call}: a notice cannot be acknowledged under either name of its process",
        expected="the same `task_id` and `process_id`",
        observed=f"{halves}",
    )


def _strange(state: State, operation: Operation) -> Refusal | None:
    """A notice of nothing that was done, or of a process before that of the turn that began it."""
    tab = dict(state.by_name).get(operation.argument["tab"])
    session = dict(state.server.sessions).get(tab.session) if tab else None
    if tab is None or session is None:
        return None
    own = {report: run for report, owner, run in state.spawned if owner == tab.session}
    lines = {report for report in own if report.startswith(MATCHED)}
    known = {STARTED: {turn.run for turn in session.begun}, SEEN: lines, ENDED: {*own} - lines}
    left = {*tab.unannounced}
    for owner, kind, subject in operation.result:
        if owner != tab.session or kind == BY_SERVER:
            continue
        if subject not in known.get(kind, ()):
            return Refusal(
                promises.C5,
                f"{operation.call}: a notice of what the session did not do",
                also=(promises.W7,),
                expected=f"{STARTED} of {sorted(known[STARTED])}, or a report of {sorted(own)}",
                observed=f"{kind} of {subject}",
            )
        if kind != STARTED and own[subject] in left:
            return Refusal(
                promises.C1,
                f"{operation.call}: a report of a process before the start of its turn",
                expected=f"{STARTED} of {own[subject]} before {kind} of {subject}",
                observed=f"{operation.result}",
            )
        left.discard(subject)
    return None


def _announced(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Judge the events that a tab got up to the one that it waited for."""
    name = operation.argument["tab"]
    tab = dict(state.by_name).get(name)
    if tab is None:
        return (state,)
    ended = [output for _, kind, output in operation.result if kind in (ENDED, SEEN)]
    refusal = (
        _mistaken(operation)
        or _foreign(operation, tab)
        or _wrong_starts(operation, tab)
        or _wrong_reports(state, operation, tab, ended)
        or _unheard(state, operation, tab)
    )
    if refusal:
        return refusal
    after = replace(
        tab,
        has_cursor=tab.has_cursor or bool(operation.result),
        unannounced=tab.unannounced[len(_starts(operation, tab)) :],
        ended=(*tab.ended, *ended),
    )
    return (state.put(name, after),)


def _mistaken(operation: Operation) -> Refusal | None:
    """Events that name a turn of a user as one of the server's."""
    mistaken = [
        event
        for event in operation.result
        if event[1] == BY_SERVER and event[2] not in (None, ANOTHER)
    ]
    if not mistaken:
        return None
    name = operation.argument["tab"]
    return Refusal(
        promises.C7,
        f"{operation.call}: tab {name} was notified of a user's turn as one of the server's",
        expected=f"{STARTED} for a turn that a user started",
        observed=f"{mistaken}",
    )


def _foreign(operation: Operation, tab: Tab) -> Refusal | None:
    """Events of another session than the tab's."""
    foreign = [event for event in operation.result if event[0] != tab.session]
    if not foreign:
        return None
    return Refusal(
        promises.C5,
        f"{operation.call}: tab {operation.argument['tab']} got events of another session",
        also=(promises.W7,),
        expected=f"only events of {tab.session}",
        observed=f"{foreign}",
    )


def _starts(operation: Operation, tab: Tab) -> list[str]:
    """The runs that were announced, and that the tab did not know of before."""
    return [run for _, kind, run in operation.result if kind == STARTED and run in tab.unannounced]


def _wrong_starts(operation: Operation, tab: Tab) -> Refusal | None:
    """Starts of runs in another order, or twice."""
    starts = _starts(operation, tab)
    if starts == list(tab.unannounced[: len(starts)]):
        return None
    name, is_unique = operation.argument["tab"], len(set(starts)) == len(starts)
    return Refusal(
        promises.C1 if is_unique else promises.C2,
        f"{operation.call}: tab {name} got the starts of runs in another order, or twice",
        expected=f"{STARTED} of {', '.join(tab.unannounced)}, in this order, each once",
        observed=f"{STARTED} of {', '.join(starts)}",
    )


def _unheard(state: State, operation: Operation, tab: Tab) -> Refusal | None:
    """The event that the tab waited for did not come, although it was due."""
    awaited = [tab.session, operation.argument["name"], operation.argument["subject"]]
    if awaited in operation.result or awaited[2] not in (*tab.unannounced, *_owed(state, tab)):
        return None
    name = operation.argument["tab"]
    return Refusal(
        promises.C3,
        f"{operation.call}: tab {name} did not get the event that it waited for",
        expected=f"{awaited} among the events",
    )


def _wrong_reports(
    state: State, operation: Operation, tab: Tab, ended: list[str]
) -> Refusal | None:
    """A report of a process that came twice, or whose watched line did not come before its end."""
    name = operation.argument["tab"]
    if len({*ended, *tab.ended}) < len(ended) + len(tab.ended):
        return Refusal(
            promises.C2,
            f"{operation.call}: tab {name} got the end or the line of one process twice",
            also=(promises.W13,) if any(output.startswith(MATCHED) for output in ended) else (),
            expected=f"each report of a process at most once; before: {list(tab.ended)}",
            observed=f"reports of {ended}",
        )
    if unseen := _unseen(state, tab, ended):
        return Refusal(
            promises.W13,
            f"{operation.call}: tab {name} did not get a watched line before its process's end",
            also=(promises.C3,),
            expected=f"{SEEN} of {unseen} before {ENDED}",
            observed=f"reports of {[*tab.ended, *ended]}",
        )
    return None


def _unseen(state: State, tab: Tab, ended: list[str]) -> list[str]:
    """The watched lines of processes that ended, which the tab had to get before their ends."""
    owed = {*_owed(state, tab)} - {*tab.spared}
    reports = [*tab.ended, *ended]
    lines = [(at, f"{MATCHED} {report}") for at, report in enumerate(reports)]
    return [line for at, line in lines if line in reports[at:] or line in owed - {*reports[:at]}]


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
