"""Scenario of any sequence of runs, notices and readers against the model of the channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.channel_values import (
    GRACE_S,
    SNAPSHOT,
    STARTED,
    TERMINAL,
    TOKEN,
    TTL_S,
)
from harness.contract.models.channels import ChannelsModel
from harness.core.history import History, Operation
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

from .walks import every_walk

NAMES = ("s", "S", "s1", "s-1")  # they differ in case only, or share a prefix
RUNS = ("r", "R", "r1", "r11", "R1", "rr")
SESSIONS = st.sampled_from(NAMES)
READERS = st.sampled_from(["a", "A", "b", "c", "d"])
SIZE = 200
KINDS = st.sampled_from(["run", "run", "events", "events", "notices", "notices", "list"])
SUBJECTS = st.sampled_from(["own", "own", "own", "earlier", "other", "none", "stray"])
NUMBERS = st.sampled_from(["start", "first", "last", "last", "before", "beyond", "far"])


class ChannelsMachine(Machine):
    """Sessions with runs and notices; readers of every kind subscribe, read and leave."""

    model = ChannelsModel()

    def __init__(self) -> None:
        super().__init__()
        self.current: dict[str, str] = {}  # the open run by session
        self.runs: dict[str, list[str]] = {}  # all runs by session
        self.rows: dict[str, int] = {}
        self.lives: dict[str, int] = {}
        self.readers: dict[str, tuple[str, str]] = {}  # how, and of what
        self.seen: dict[str, str] = {}  # the last id of a reader
        self.count = 0

    @initialize(session=SESSIONS, kinds=st.lists(KINDS, min_size=1, max_size=3))
    def begin(self, session: str, kinds: list[str]) -> None:
        self.open_run(session)
        for reader, kind in zip("abc", kinds, strict=False):
            self.subscribe(kind, session, reader, None)

    # Runs

    def open_run(self, session: str) -> None:
        """Start the next run of a session."""
        stream = RUNS[self.count] if self.count < len(RUNS) else f"r{self.count}"
        self.count += 1
        self.ask("open_run", session=session, stream=stream)
        self.current[session] = stream
        self.runs.setdefault(session, []).append(stream)
        self.rows[stream] = 0

    @rule(session=SESSIONS)
    def start(self, session: str) -> None:
        if session not in self.current:
            self.open_run(session)

    @rule(session=SESSIONS, count=st.integers(1, 4), backwards=st.booleans())
    def emit(self, session: str, count: int, *, backwards: bool) -> None:
        if stream := self.current.get(session):
            first = self.rows[stream] + 1
            numbers = range(first, first + count)
            self.put(stream, [*(reversed(numbers) if backwards else numbers)])

    def put(self, stream: str, numbers: list[int], event: str = TOKEN, size: int = SIZE) -> None:
        """Emit these events of a run."""
        self.rows[stream] = max(self.rows.get(stream, 0), numbers[0], numbers[-1])
        first, last = numbers[0], numbers[-1]
        self.ask("emit", stream=stream, first=first, last=last, event=event, size=size)

    @rule(session=SESSIONS, count=st.integers(1, 3))
    def skip(self, session: str, count: int) -> None:
        """Emit events before an earlier one."""
        if stream := self.current.get(session):
            first = self.rows[stream] + 1
            self.put(stream, [*range(first + 1, first + 1 + count)])

    @rule(session=SESSIONS)
    def emit_again(self, session: str) -> None:
        """Emit an event that was emitted, of a run that may be over."""
        for stream in [*self.runs.get(session, ())][-1:]:
            if self.rows[stream]:
                self.put(stream, [self.rows[stream]])

    @rule()
    def emit_without_owner(self) -> None:
        self.ask("emit", stream="stray", first=1, last=1, event=TOKEN, size=SIZE)

    @rule(session=SESSIONS)
    def withdraw(self, session: str) -> None:
        if stream := self.current.get(session):
            self.ask("withdraw", stream=stream)

    @rule(session=SESSIONS, end=st.sampled_from(["", "done", *TERMINAL]), closes=st.booleans())
    def end(self, session: str, end: str, *, closes: bool) -> None:
        """End a run in each way; readers may meet it between its last event and its close."""
        if stream := self.current.get(session):
            self.last_event(stream, end)
            if closes:
                self.close_run(session)

    def last_event(self, stream: str, end: str) -> None:
        """Emit the last event of a run."""
        if end:
            self.put(stream, [self.rows[stream] + 1], end)

    def close_run(self, session: str) -> None:
        """Close the current run of a session."""
        self.ask("close_run", stream=self.current.pop(session))

    # Notices

    @rule(session=SESSIONS, count=st.integers(1, 3))
    def notify(self, session: str, count: int) -> None:
        self.ask("notify", session=session, event="process_complete", size=SIZE, count=count)

    @rule(session=st.none() | SESSIONS)
    def change(self, session: str | None) -> None:
        self.ask("changed", reason="renamed", session=session)

    # Readers

    @rule(kind=KINDS, session=SESSIONS, reader=READERS, cursor=st.none())
    def subscribe(self, kind: str, session: str, reader: str, cursor: list[Any] | None) -> None:
        if reader in self.readers:
            self.unsubscribe(reader)
        match kind:
            case "list":
                answer = self.ask("watch_list", reader=reader)
            case "run":
                stream = [*self.runs.get(session, ()), "stray"][0 if cursor else -2 :][0]
                answer = self._read_run(stream, reader, cursor)
            case _:
                function = "watch" if kind == "notices" else "read_events"
                answer = self.ask(function, session=session, reader=reader, cursor=cursor)
        if answer.result == "reading":
            self.readers[reader] = kind, session
            self.seen.pop(reader, None)
            self.take(reader)

    def _read_run(self, stream: str, reader: str, cursor: list[Any] | None) -> Operation:
        return self.ask("read_run", stream=stream, reader=reader, cursor=cursor)

    @rule(kind=KINDS, session=SESSIONS, reader=READERS, subject=SUBJECTS, number=NUMBERS)
    def resume(self, kind: str, session: str, reader: str, subject: str, number: str) -> None:
        """Subscribe with a cursor of any kind."""
        self.subscribe(kind, session, reader, self.cursor(kind, session, subject, number))

    def cursor(self, kind: str, session: str, subject: str, number: str) -> list[Any]:
        """A cursor of the session, another one, an earlier stream, or of none."""
        other = NAMES[(NAMES.index(session) + 1) % len(NAMES)]
        owner = other if subject == "other" else session
        if kind == "notices":
            stream = f"{owner}#{2 if subject == 'own' else 1}"
            last = 2
        else:
            runs = self.runs.get(owner, ["stray"])
            stream = runs[0] if subject == "earlier" else runs[-1]
            last = self.rows.get(stream, 0)
        stream = {"none": "", "stray": "stray"}.get(subject, stream)
        numbers = {"start": 0, "first": 1, "last": last, "before": max(0, last - 1)}
        return [stream, numbers.get(number, last + (1 if number == "beyond" else 10**6))]

    @precondition(lambda self: self.readers)
    @rule(reader=READERS)
    def reconnect(self, reader: str) -> None:
        """Leave, and subscribe again after the last event received."""
        if reader in self.readers and (id_ := self.seen.get(reader)):
            kind, session = self.readers[reader]
            stream, _, number = id_.rpartition(":")
            self.unsubscribe(reader)
            if kind == "run":
                answer = self._read_run(stream, reader, [stream, int(number)])
                if answer.result == "reading":
                    self.readers[reader] = kind, session
                    self.take(reader)
            elif kind != "list":
                self.subscribe(kind, session, reader, [stream, int(number)])

    @precondition(lambda self: self.readers)
    @rule(reader=READERS)
    def take(self, reader: str) -> None:
        self._take(reader, takes_all=True)

    @precondition(lambda self: self.readers)
    @rule(reader=READERS, count=st.integers(1, 3))
    def take_slowly(self, reader: str, count: int) -> None:
        for _ in range(count):
            self._take(reader, takes_all=False)

    def _take(self, reader: str, *, takes_all: bool) -> None:
        if reader not in self.readers:
            return
        answer = self.ask("take", reader=reader, all=takes_all)
        for event in (answer.result or {"events": []})["events"]:
            if event[0] == "tokens":
                self.seen[reader] = f"{event[1]}:{event[3]}"
            elif event[1]:
                self.seen[reader] = event[1]

    @precondition(lambda self: self.readers)
    @rule(reader=READERS)
    def unsubscribe(self, reader: str) -> None:
        if self.readers.pop(reader, None):
            self.ask("leave", reader=reader)

    # Time, collection and sizes

    @rule(seconds=st.sampled_from([1, GRACE_S - 1, GRACE_S, TTL_S - 1, TTL_S]))
    def wait(self, seconds: int) -> None:
        self.ask("wait", seconds=seconds)

    @rule()
    def collect(self) -> None:
        self.ask("collect")
        self.ask("gauges")

    @rule()
    def measure(self) -> None:
        self.ask("gauges")

    @rule(session=SESSIONS)
    def delete(self, session: str) -> None:
        """Delete a session, as the server does: its run is cancelled first."""
        if stream := self.current.get(session):
            self.ask("withdraw", stream=stream)
            self.last_event(stream, "cancel")
            self.close_run(session)
        self.ask("forget", session=session)
        self.ask("changed", reason="deleted", session=session)

    @rule(mode=st.sampled_from(["ok", "ok", "ok", "missing", "malformed", "failing"]))
    def lose_journal(self, mode: str) -> None:
        self.ask("journal", mode=mode)

    @rule(session=SESSIONS, later=st.booleans())
    def collected_to_the_second(self, session: str, *, later: bool) -> None:
        """A channel is collected after its grace, and not before."""
        self.subscribe("notices", session, "z", None)
        self.unsubscribe("z")
        self.ask("wait", seconds=GRACE_S - 1)
        self.ask("collect")
        if later:
            self.ask("wait", seconds=1)
            self.ask("collect")
        self.subscribe("notices", session, "z", [f"{session}#1", 0])
        self.unsubscribe("z")

    def finish(self) -> None:
        """Let every reader take and leave; shut down; then nothing is left."""
        for reader in [*self.readers]:
            self.take(reader)
        self.ask("gauges")
        self.ask("shut")
        for reader in [*self.readers]:
            self.take(reader)
            self.unsubscribe(reader)
        self.subscribe("notices", NAMES[0], "a", None)
        self.unsubscribe("a")
        self.ask("wait", seconds=GRACE_S)
        self.ask("collect")
        self.ask("gauges")


def walk_and_explore(context: Context) -> None:
    """Take every walk, then let Hypothesis draw sequences."""
    for walk in every_walk():
        with context.episode() as episode:
            fold = Fold(ChannelsMachine.model)
            reading: set[str] = set()
            for function, argument in walk:
                reader = argument.get("reader", "")
                if function in ("take", "leave") and reader not in reading:
                    continue  # its run is not known
                answer = episode.client.ask(function, argument)
                if answer.result == "reading":
                    reading.add(reader)
                elif function != "take":
                    reading.discard(reader)
                fold.step(answer)
                if fold.is_lost:
                    break
    explore(ChannelsMachine)(context)


def _event(*names: str, recovered: bool = False) -> Callable[[History], int]:
    def count(history: History) -> int:
        taken = (event for op in history.happened.of("take") for event in op.result["events"])
        found = [event for event in taken if event[0] in names]
        return sum(bool(event[2].get("recovered")) >= recovered for event in found)

    return count


def _answered(function: str, answer: object) -> Callable[[History], int]:
    def count(history: History) -> int:
        return sum(op.result == answer for op in history.happened.of(function))

    return count


CHANNELS = Scenario(
    name="channels-any-sequence",
    mode=Mode.MODEL,
    ability="channels",
    promises=(
        *(promises.C1, promises.C2, promises.C3, promises.C4, promises.C5, promises.C6),
        *(promises.C7, promises.C8, promises.C9, promises.C11, promises.W7, promises.H4),
    ),
    workload=walk_and_explore,
    checker=conforms(ChannelsMachine.model),
    expectations=(
        Expectation("a reader received a snapshot", _event(SNAPSHOT)),
        Expectation("a late reader received the current run", _event(STARTED, recovered=True)),
        Expectation("a channel was collected", _answered("collect", 1)),
        Expectation("a collection found nothing", _answered("collect", 0)),
        Expectation("an unknown run was refused", _answered("read_run", "missing")),
        Expectation("an event was not accepted", _answered("emit", 0)),
        Expectation("a reader received the end of a run", _event(*TERMINAL)),
    ),
    examples=40,
)


def test_channels_deliver_every_event_to_its_readers(judge: Judge) -> None:
    """Readers with any cursor and pace receive their session's events, or a snapshot."""
    assert judge(CHANNELS).is_valid
