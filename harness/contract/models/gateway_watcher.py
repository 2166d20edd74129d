"""Model of the gateway watcher: which list a poll announces, and when a poll must cost nothing.

Operations are those of the *watcher* ability (`harness.targets`). Sessions of the sources `cron`
and `webui` are not shown, so a write to them is no change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

POLLS = 2  # that the operation `poll` makes
HIDDEN = ("cron", "webui")
Row = tuple[str, str | None, int, bool]  # id, title, messages, whether it has ended


@dataclass(frozen=True, slots=True)
class Session:
    """One session as another process wrote it."""

    source: str
    title: str | None = None
    texts: tuple[str, ...] = ()
    ended: bool = False
    times: tuple[int, int, int] = (0, 0, 0)  # the calls of its start, latest message, and end


@dataclass(frozen=True, slots=True)
class State:
    """The sessions; those that the last good poll saw; the list that it announced.

    `touched` says that a shown session was written since, though perhaps back to what it was.
    """

    sessions: tuple[tuple[str, Session], ...] = ()
    seen: tuple[tuple[str, Session], ...] | None = None
    touched: bool = True
    announced: tuple[Row, ...] | None = None
    failing: bool = False
    calls: int = 0  # of the other process, which are its clock

    def get(self, name: str) -> Session | None:
        """The session, if it exists."""
        return dict(self.sessions).get(name)

    def put(self, name: str, session: Session | None) -> State:
        """This state with one session changed, or removed (None)."""
        sessions = dict(self.sessions)
        before = sessions.pop(name, None)
        if session is not None:
            sessions[name] = session
        shows = any(found is not None and found.source not in HIDDEN for found in (before, session))
        return replace(
            self, sessions=tuple(sorted(sessions.items())), touched=self.touched or shows
        )

    @property
    def shown(self) -> tuple[tuple[str, Session], ...]:
        """The sessions that are shown."""
        return tuple(item for item in self.sessions if item[1].source not in HIDDEN)

    @property
    def untimed(self) -> tuple[tuple[str, Session], ...]:
        """The shown sessions without their times: a list that differs in these may be omitted."""
        return tuple((name, replace(session, times=(0, 0, 0))) for name, session in self.shown)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The list that a poll must announce."""
        return tuple(
            (name, session.title, len(session.texts), session.ended) for name, session in self.shown
        )


class GatewayWatcherModel:
    """What a gateway watcher may announce."""

    name = "watcher"

    def initial(self) -> State:
        """An empty database that was never polled."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        argument = operation.argument
        match operation.function:
            case "fail" if operation.outcome is Outcome.OK and operation.result is None:
                return (replace(state, failing=bool(argument["how"])),)
            case "poll" | "poll_beside" | "poll_without":
                return _polled(state, operation)
            case "shown":
                return _shown(state, operation)
        if refusal := _badly_written(state, operation):
            return refusal
        state = replace(state, calls=state.calls + 1)
        if operation.outcome is not Outcome.OK:
            return (state,)
        return (_written(state, operation.function, **argument),)


def _badly_written(state: State, operation: Operation) -> Refusal | None:
    """The refusal of a write that a watched database must accept, or of its answer.

    A title may be taken, and a session that does not exist may be refused or ignored.
    """
    is_whole = operation.function in ("create", "fail", "restore")
    is_known = is_whole or state.get(operation.argument.get("session", ""))
    may_fail = operation.function == "rename" or not is_known or operation.outcome is Outcome.INFO
    if operation.outcome is Outcome.OK and operation.result is None:
        return None
    if operation.outcome is not Outcome.OK and may_fail:
        return None
    return Refusal(
        promises.D3,
        f"{operation.call} by another process did not succeed while its database is watched",
        (None,),
        expected="the write succeeds, and returns nothing",
    )


def _written(  # noqa: PLR0911  one answer a function
    state: State, function: str, session: str, **argument: Any
) -> State:
    found, now = state.get(session), state.calls
    if function == "create":
        fresh = Session(argument["source"], times=(now, now, 0))
        return state if found else state.put(session, fresh)
    if found is None:
        return state
    started, active, ended = found.times
    match function:
        case "append":
            texts = (*found.texts, argument["text"])
            return state.put(session, replace(found, texts=texts, times=(started, now, ended)))
        case "rewrite":
            texts = tuple(argument["texts"])
            active = now if texts else started
            return state.put(session, replace(found, texts=texts, times=(started, active, ended)))
        case "rename":
            return state.put(session, replace(found, title=argument["title"]))
        case "end":
            times = found.times if found.ended else (started, active, now)
            return state.put(session, replace(found, ended=True, times=times))
        case "delete" | "restore":
            return state.put(session, None)
    raise ValueError(f"the gateway watcher has no function {function!r}")


def _poll(  # noqa: PLR0911  one answer a case
    state: State, operation: Operation
) -> tuple[State] | Refusal:
    if operation.outcome is not Outcome.OK:
        return Refusal(
            promises.G3,
            f"{operation.call} raised",
            expected="the poll returns, also when its projection fails",
        )
    announced = operation.result["announced"]
    nothing = dict.fromkeys(operation.result.keys() & {"announced", "facts"})
    quiet = {**dict.fromkeys(operation.result, 0), **nothing}
    if not state.touched:
        if operation.result != quiet:
            return Refusal(
                promises.G2,
                f"{operation.call} worked although no shown session changed since the last poll",
                (quiet,),
                expected="announced = None, projections = 0",
            )
        return (state,)
    if state.failing:
        if announced is not None:
            return Refusal(
                promises.G3,
                f"{operation.call} announced a list although its projection failed",
                expected="announced = None",
            )
        least = int(state.untimed != state.seen)
        return (state,) if _is_counted(operation, least, POLLS) else _miscounted(operation)
    rows = [list(row) for row in state.rows]
    if announced != rows and not (announced is None and state.untimed == state.seen):
        return Refusal(
            promises.G1,
            f"{operation.call} did not announce the sessions as other processes changed them",
            ({**operation.result, "announced": rows},),
            expected=f"announced = {rows}",
        )
    facts = None if announced is None else _facts(state)
    if operation.result.get("facts", facts) != facts:
        return Refusal(
            promises.G1,
            f"{operation.call} announced the sessions with other fields, or in another order",
            ({**operation.result, "facts": facts},),
            expected=f"facts = {facts}",
        )
    if not _is_counted(operation, int(announced is not None), 1):
        return _miscounted(operation)
    return (replace(state, touched=False, seen=state.untimed, announced=state.rows),)


def _polled(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Judge two polls, also without a database, and those that another process meets with a write.

    It writes during the first projection, if there is one. So the polls announce the list before
    the write or after it, and the next polls must know the write.
    """
    if operation.function == "poll_without":
        return _polled_without(state, operation)
    is_beside = operation.function == "poll_beside" and operation.outcome is Outcome.OK
    is_written = is_beside and operation.result["written"]
    if not is_written or not state.touched or state.failing:
        return _poll(state, operation)
    after = _written(replace(state, calls=state.calls + 1), **operation.argument["write"])
    result = operation.result
    for announced in (state, after):
        rows = [list(row) for row in announced.rows]
        is_whole = result.get("facts", _facts(announced)) == _facts(announced)
        if result["announced"] == rows and is_whole:
            if not 1 <= result.get("projections", 1) <= POLLS:
                return _miscounted(operation)
            return (replace(after, seen=announced.untimed, announced=announced.rows),)
    rows = [list(row) for row in after.rows]
    return Refusal(
        promises.G1,
        f"{operation.call} announced neither the sessions before the write nor those after it",
        ({**result, "announced": rows, **({"facts": _facts(after)} if "facts" in result else {})},),
        expected=f"announced = {rows}",
    )


def _polled_without(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Judge two polls while the database is away: the last list stays, and nothing was seen."""
    if operation.outcome is Outcome.OK and operation.result["announced"] is None:
        return (state,)
    return Refusal(
        promises.G3,
        f"{operation.call} announced a list, or raised, although the database was away",
        expected="announced = None: the last good list stays",
    )


def _facts(state: State) -> list[list[Any]]:
    """Every field of the list, the latest activity first."""
    rows = []
    for name, session in state.shown:
        started, active, ended = session.times
        reason, end = ("done", ended) if session.ended else (None, None)
        rows.append([name, session.source, session.title, reason, started, end, active])
    return sorted(rows, key=lambda row: (-row[-1], row[0]))


def _is_counted(operation: Operation, least: int, most: int) -> bool:
    """Whether there were that many projections, and one announcement for a list.

    A target reports the numbers that it can observe.
    """
    result = operation.result
    announcements = result.get("announcements", int(result["announced"] is not None))
    is_once = announcements == int(result["announced"] is not None)
    projections: int = result.get("projections", least)
    return is_once and least <= projections <= most


def _miscounted(operation: Operation) -> Refusal:
    return Refusal(
        promises.G2,
        f"{operation.call} projected or announced the list another number of times than it changed",
        also=(promises.G1,),
        expected="one projection and announcement of a change; one projection a poll that fails",
    )


def _shown(state: State, operation: Operation) -> tuple[State] | Refusal:
    last = None if state.announced is None else [list(row) for row in state.announced]
    if operation.outcome is Outcome.OK and operation.result == last:
        return (state,)
    return Refusal(
        promises.G3,
        f"{operation.call} does not answer the list of the last good poll",
        (last,),
        expected=f"{last}",
    )
