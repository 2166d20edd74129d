"""Scenario of any sequence of writes by another process against the model of the watcher."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.gateway_watcher import HIDDEN, GatewayWatcherModel
from harness.core.history import History
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

NAMES = ("s1", "s2", "s3")
SESSIONS = st.sampled_from(NAMES)
SOURCES = st.sampled_from(["cli", "telegram", "cron", "cli", "webui"])


class WatcherMachine(Machine):
    """Another process writes three sessions, some of them hidden; the projection fails at times."""

    model = GatewayWatcherModel()

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.lengths: dict[str, int] = {}

    def text(self) -> str:
        """Make a unique text."""
        return f"t{next(self.numbers)}"

    @initialize(sources=st.lists(SOURCES, max_size=3))
    def begin(self, sources: list[str]) -> None:
        for session, source in zip(NAMES, sources, strict=False):
            self.create(session, source, 2)

    @rule(session=SESSIONS, source=SOURCES, length=st.integers(0, 2))
    def create(self, session: str, source: str, length: int) -> None:
        self.ask("create", session=session, source=source)
        self.lengths.setdefault(session, 0)
        for _ in range(length):
            self.append(session)

    @precondition(lambda self: self.lengths)
    @rule(session=SESSIONS)
    def append(self, session: str) -> None:
        if session not in self.lengths:
            return
        self.ask("append", session=session, text=self.text())
        self.lengths[session] += 1

    @precondition(lambda self: self.lengths)
    @rule(session=SESSIONS)
    def rewrite_as_many(self, session: str) -> None:
        if session not in self.lengths:
            return
        self.poll()
        texts = [self.text() for _ in range(self.lengths[session])]
        self.ask("rewrite", session=session, texts=texts)
        self.poll()

    @rule(session=SESSIONS)
    def rename(self, session: str) -> None:
        self.ask("rename", session=session, title=f"about {self.text()}")

    @rule(session=SESSIONS)
    def end(self, session: str) -> None:
        if session in self.lengths:
            self.ask("end", session=session)

    @rule(session=SESSIONS)
    def delete(self, session: str) -> None:
        self.ask("delete", session=session)
        self.lengths.pop(session, None)

    @rule(session=SESSIONS)
    def restore(self, session: str) -> None:
        self.ask("restore", session=session)
        self.lengths.pop(session, None)

    @rule(how=st.sampled_from(["", "raises", "none"]))
    def fail(self, how: str) -> None:
        self.ask("fail", how=how)

    @rule()
    def poll(self) -> None:
        self.ask("poll")

    @precondition(lambda self: self.lengths)
    @rule(session=SESSIONS, function=st.sampled_from(["append", "rename", "end"]))
    def poll_beside_a_write(self, session: str, function: str) -> None:
        """Another process writes while the list of its last change is projected."""
        if session not in self.lengths:
            return
        self.append(session)
        named = {"append": "text", "rename": "title"}
        write = {"function": function, "session": session}
        if function in named:
            write[named[function]] = self.text()
        self.lengths[session] += function == "append"
        self.ask("poll_beside", write=write)
        self.poll()

    @precondition(lambda self: self.lengths)
    @rule(session=SESSIONS, comes_back=st.sampled_from(["as it was", "written", "restored"]))
    def poll_without_the_file(self, session: str, comes_back: str) -> None:
        """The file is away for two polls; then it is there as before, written to, or another."""
        self.poll()
        self.ask("poll_without")
        if comes_back == "written":
            self.append(session)
        elif comes_back == "restored":
            self.restore(session)
        self.poll()

    @rule()
    def look(self) -> None:
        self.ask("shown")

    def finish(self) -> None:
        """Poll with a projection that works, once more without a change, and after rewrites."""
        self.ask("poll")
        self.ask("shown")
        self.ask("fail", how="")
        for _ in range(2):
            self.ask("poll")
        self.ask("shown")
        for session in self.lengths:  # an older session's rewrite is announced as well
            self.rewrite_as_many(session)


def _announced(history: History) -> int:
    polls = history.of("poll")
    return sum(op.result is not None and op.result["announced"] is not None for op in polls)


def _written_meanwhile(history: History) -> int:
    return sum(bool(op.result and op.result["written"]) for op in history.of("poll_beside"))


def _without_a_file(history: History) -> int:
    return len(history.happened.of("poll_without"))


def _failed(history: History) -> int:
    is_failing = count = 0
    for op in history:
        if op.function == "fail":
            is_failing = bool(op.argument["how"])
        elif op.function == "poll":
            count += bool(is_failing and op.result and op.result["projections"])
    return count


def _hidden(history: History) -> int:
    return sum(op.function == "create" and op.argument["source"] in HIDDEN for op in history)


def _rewritten(history: History) -> int:
    done = history.happened.of("rewrite")
    return sum(bool(op.argument["texts"]) for op in done)


WATCHER = Scenario(
    name="watcher-any-sequence",
    mode=Mode.MODEL,
    ability="watcher",
    promises=(promises.G1, promises.G2, promises.G3, promises.D3),
    workload=explore(WatcherMachine),
    checker=conforms(WatcherMachine.model),
    expectations=(
        Expectation("a change was announced", _announced),
        Expectation("a projection failed", _failed),
        Expectation("a hidden session was written", _hidden),
        Expectation("messages were rewritten", _rewritten),
        Expectation("a session was written during a projection", _written_meanwhile),
        Expectation("the database was away during a poll", _without_a_file),
    ),
    examples=64,
)


def test_watcher_announces_every_foreign_change(judge: Judge) -> None:
    """A change is announced within two polls; idle polls are free; a failure keeps the list."""
    assert judge(WATCHER).is_valid
