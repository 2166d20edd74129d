"""Predicts the size of every container of a host whose users act one after another.

For histories with `sample` operations, taken when no act is under way. Each container is explained
by the acts before: sessions, readers and their channels, turns, processes, and caches that drop
what was not used for longest. So one entry that is left behind by one act is noticed at the next
sample, long before it makes a trend. What no act explains must be empty. A long soak keeps its
samples alone: without the acts no size is predicted, and growth is judged by its trend.

A reading of the group `held` is a container that no gauge shows, and that has more entries than any
cache of the host may keep: there must be none.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

SAMPLE = "sample"
TURNS_MAX = 256  # ended turns that the journal of turns keeps
FINISHED_MAX = 64  # ended processes that the registry keeps
NOTICES_MAX = 64  # events that a channel keeps
NOTICES_A_TURN = 2
NOTICES_A_PROCESS = 2
HANDLES_MAX = 8  # of the database, that later work may open

_PROMISES = (
    ("lifecycle_entries", promises.L9),
    ("wakeup_*", promises.W9),
    ("process*", promises.W9),
    ("channels", promises.C9),
    ("channel_*", promises.C8),
    ("agents_*", promises.A1),
    ("sessions_held", promises.A6),
    ("session_index_rows", promises.S11),
    ("run*", promises.T3),
    ("streams", promises.T3),
    ("turn_journal", promises.T6),
    ("projections_unasked", promises.G2),
    ("Wakeups.*", promises.W9),
    ("ProcessRegistry.*", promises.W9),
    ("Channels.*", promises.C9),
    ("AgentCache.*", promises.A1),
    ("Lifecycle.*", promises.L9),
    ("Session*", promises.A6),
    ("*Journal.*", promises.T6),
    ("Turns.*", promises.T3),
)
HELD = "held"
_BYTES = "*_bytes_kept"


class Used:
    """The keys in a cache that drops the one that was not used for longest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def use(self, key: str) -> None:
        """Put a key, or make it the one used last."""
        self._keys[key] = None
        self._keys.move_to_end(key)
        while len(self._keys) > self._most:
            self._keys.popitem(last=False)

    def drop(self, key: str) -> None:
        """Remove a key, if it is there."""
        self._keys.pop(key, None)


@dataclass
class Host:
    """What the acts of a churn leave in a host."""

    agents: Used
    held: Used
    sessions: set[str] = field(default_factory=set)
    indexed: set[str] = field(default_factory=set)  # those that a process belongs to
    channels: Counter[str] = field(default_factory=Counter)
    readers: dict[str, str | None] = field(default_factory=dict)
    turns: int = 0
    processes: int = 0

    def act(self, operation: Operation) -> None:
        """Take note of one act."""
        argument = operation.argument
        session = argument.get("session", "")
        match operation.function:
            case "new":
                self.sessions.add(session)
                self.held.use(session)
            case "chat" | "cancel":
                self._turn(session)
            case "process":
                self._turn(session)
                self._notice(session, NOTICES_A_PROCESS)
                self.processes += 1
                self.indexed.add(session)
                self._turn(session)
            case "reopen":
                self.channels[session] += 0
                self.held.use(session)
            case "clear":
                self.held.use(session)
            case "delete":
                self._delete(session)
            case "open_tab":
                self._open(argument["tab"], argument.get("session"))
            case "close_tab":
                self.readers.pop(argument["tab"], None)
            case "rest":
                self._collect()

    def _open(self, tab: str, session: str | None) -> None:
        self.readers[tab] = session
        if session is not None:
            self.channels[session] += 0

    def _collect(self) -> None:
        watched = set(self.readers.values())
        kept = {name: count for name, count in self.channels.items() if name in watched}
        self.channels = Counter(kept)

    def _turn(self, session: str) -> None:
        self.turns += 1
        self.agents.use(session)
        self.held.use(session)
        self._notice(session, NOTICES_A_TURN)

    def _notice(self, session: str, count: int) -> None:
        if session in self.channels:
            self.channels[session] = min(NOTICES_MAX, self.channels[session] + count)

    def _delete(self, session: str) -> None:
        self.sessions.discard(session)
        self.indexed.discard(session)
        self.agents.drop(session)
        self.held.drop(session)
        self.channels.pop(session, None)
        self.readers = {tab: of for tab, of in self.readers.items() if of != session}

    def sizes(self) -> Mapping[str, Collection[int]]:
        """The right sizes of the containers that are not empty."""
        agents = (len(self.agents),)
        return {
            "agents_cached": agents,
            "agents_kept": agents,
            "lifecycle_entries": agents,
            "sessions_held": (len(self.held),),
            "session_index_rows": (len(self.sessions),),
            "wakeup_index": (len(self.indexed),),
            "channels": (len(self.channels),),
            "channel_subscribers": (len(self.readers),),
            # The list of sessions keeps its last change.
            "channel_frames_kept": (1 + sum(self.channels.values()),),
            "turn_journal": (min(TURNS_MAX, self.turns),),
            "processes_finished": (min(FINISHED_MAX, self.processes),),
        }


def wrong_sizes(
    sample: Operation, sizes: Mapping[str, Collection[int]]
) -> Iterator[tuple[str, str, Promise]]:
    """The containers of a sample with a wrong size: the name, the right size, and the promise."""
    for reading, size in sample.result.items():
        group, _, name = reading.partition("/")
        if group == HELD:
            yield reading, "no more entries than a cache of the host keeps", _promise(name)
        if group not in ("containers", "watcher"):
            continue
        right = sizes.get(name, (0,))
        if fnmatchcase(name, _BYTES):
            if size < 0:
                yield reading, "at least 0", promises.C8
        elif size not in right:
            values = sorted(right)
            wanted = f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"
            yield reading, wanted, _promise(name)


def _promise(name: str) -> Promise:
    found = (promise for pattern, promise in _PROMISES if fnmatchcase(name, pattern))
    return next(found, promises.H4)


def wrong_size(
    sample: Operation, reading: str, wanted: str, promise: Promise, last_acts: Sequence[Operation]
) -> Anomaly:
    """Report a container whose size the acts do not explain."""
    return Anomaly(
        promise,
        f"{reading} has another size than the acts before it explain",
        (*last_acts, sample),
        "unexplained-size",
        also=(promises.H4, promises.H8),
        expected=f"{reading}: {wanted}" if reading.startswith(HELD) else f"{reading} = {wanted}",
        observed=f"{reading} = {sample.result[reading]:g}",
    )


@dataclass(frozen=True, slots=True)
class SizesOf:
    """The checker of a host with caches of these sizes."""

    agents_max: int
    sessions_max: int

    def __call__(self, history: History) -> Verdict:
        """Judge a history; only the first wrong sample is reported."""
        host = Host(Used(self.agents_max), Used(self.sessions_max))
        acts: list[Operation] = []
        for operation in history:
            if operation.outcome is not Outcome.OK:
                return Verdict(anomalies=(unanswered(operation),))
            if operation.function != SAMPLE:
                if operation.result is not None:
                    return Verdict(anomalies=(unanswered(operation),))
                host.act(operation)
                acts.append(operation)
                continue
            is_explained = bool(acts) or not operation.argument.get("operations", 0)
            wrong = [
                wrong_size(operation, *row, acts[-1:])
                for row in wrong_sizes(operation, host.sizes())
                if is_explained or row[0].startswith(HELD)
            ]
            wrong += [wrong_size(operation, *row, acts[-1:]) for row in _negative_costs(operation)]
            if wrong:
                return Verdict(anomalies=tuple(wrong[:1]))
        return Verdict()


def _negative_costs(sample: Operation) -> Iterator[tuple[str, str, Promise]]:
    for reading, size in sample.result.items():
        if size < 0 and reading.partition("/")[0] in ("files", "process"):
            yield reading, "at least 0", promises.H4


def unanswered(operation: Operation) -> Anomaly:
    """Report an act that failed, or that returned something: an effect that never came (T3)."""
    by_function = {"process": promises.W2, "noise": promises.D3, "delete": promises.S6}
    return Anomaly(
        by_function.get(operation.function, promises.T3),
        f"{operation.call} did not end as it should",
        (operation,),
        "not-answered",
        also=(promises.T3, promises.H6, promises.H4),
        expected="no failure, and nothing returned",
        observed=operation.answer,
    )


def check_idle_sizes(history: History) -> Verdict:
    """Judge what an idle host holds: its open readers, and nothing of those that left (H8)."""
    tabs = 0
    watched: Operation | None = None
    for operation in history:
        if operation.outcome is not Outcome.OK:
            return Verdict(anomalies=(unanswered(operation),))
        tabs += {"open_tab": 1, "close_tab": -1}.get(operation.function, 0)
        if operation.function != "idle":
            if operation.result is not None:
                return Verdict(anomalies=(unanswered(operation),))
            continue
        problem = _idle_problem(operation, tabs, watched)
        if problem:
            return Verdict(anomalies=(problem,))
        watched = operation if tabs else watched
    return Verdict()


def _idle_problem(idle: Operation, tabs: int, watched: Operation | None) -> Anomaly | None:
    result, asked_s = idle.result, idle.argument["seconds"]
    took_s = ((idle.completed_ns or 0) - idle.invoked_ns) / 1e9
    most = result["fds"]
    if watched is not None:
        most = watched.result["fds"] - watched.result["tabs"] + tabs + HANDLES_MAX
    for name, is_right, wanted in (
        ("tabs", result["tabs"] == tabs, f"{tabs}"),
        ("seconds", asked_s <= result["seconds"] <= took_s, f"{asked_s:g} to {took_s:g}"),
        ("cpu_s", 0 <= result["cpu_s"] <= result["seconds"], f"0 to {result['seconds']:g}"),
        ("fds", tabs < result["fds"] <= most, f"above {tabs}, at most {most:g}"),
    ):
        if not is_right:
            return Anomaly(
                promises.H8,
                f"an idle host with {tabs} readers has other {name} than these explain",
                (idle,) if watched is None else (watched, idle),
                "unexplained-idle",
                also=(promises.H5, promises.H4, promises.C11),
                expected=f"{name}: {wanted}",
                observed=f"{name}: {result[name]:g}",
            )
    return None


@dataclass(frozen=True)
class AllOf:
    """The checker that reports the first verdict of its checkers that is not valid."""

    checkers: tuple[Callable[[History], Verdict], ...]

    def __call__(self, history: History) -> Verdict:
        """Judge by one checker after another, up to the first that is not valid."""
        verdict = Verdict()
        for checker in self.checkers:
            verdict = checker(history)
            if not verdict.is_valid:
                break
        return verdict


def all_of(*checkers: Callable[[History], Verdict]) -> AllOf:
    """The checker that reports the first of these that is not valid."""
    return AllOf(checkers)
