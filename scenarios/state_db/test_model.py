"""The database on trial: every write is whole or nothing, and what was acknowledged stays.

Three ways: any sequence of operations against a model; a fault at every SQL statement of every kind
of write; and processes killed while they write side by side.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from harness.checkers.conformance import Fold, conforms
from harness.contract.checkers.state_db.append_durability import acknowledged_appends_stay
from harness.contract.models.fault_outcomes import FaultyModel
from harness.contract.models.state_db import StateDbModel
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.engine.client import RecordingClient
from harness.engine.context import Episode, Stage
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.processes.pool import ProcessInstance
from harness.worker.sql_faults import FAULTS
from harness.workloads.stateful import Machine, PromiseBrokenError, explore
from scenarios.conftest import Judge

Step = tuple[str, Mapping[str, Any]]

# Any sequence of operations -----------------------------------------------------------------------

SESSIONS = st.sampled_from(["s1", "s2", "s3"])
TITLES = st.sampled_from(["plans", "notes", None])
WORDS = st.sampled_from(["alpha", "beta"])
ROLES = st.sampled_from(["user", "assistant", "tool"])
TOKENS = st.integers(0, 1000)


class StateDbMachine(Machine):
    """Three sessions, two titles, two words; sessions grow old by ten days at a time."""

    model = StateDbModel()

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()

    @rule(session=SESSIONS, source=st.sampled_from(["cli", "web"]))
    def create(self, session: str, source: str) -> None:
        self.ask("create", session=session, source=source)

    @rule(session=SESSIONS, role=ROLES, word=WORDS, tool_calls=st.integers(0, 2))
    def append(self, session: str, role: str, word: str, tool_calls: int) -> None:
        text = f"{word} {next(self.numbers)}"
        self.ask("append", session=session, role=role, text=text, tool_calls=tool_calls)

    @rule(session=SESSIONS, words=st.lists(WORDS, max_size=3))
    def replace(self, session: str, words: list[str]) -> None:
        messages = [["user", f"{word} {next(self.numbers)}"] for word in words]
        self.ask("replace", session=session, messages=messages)

    @rule(session=SESSIONS)
    def clear(self, session: str) -> None:
        self.ask("clear", session=session)

    @rule(session=SESSIONS, title=TITLES)
    def set_title(self, session: str, title: str | None) -> None:
        self.ask("set_title", session=session, title=title)

    @rule(title=st.sampled_from(["plans", "notes"]))
    def quarrel(self, title: str) -> None:
        for session in ("s1", "s2"):
            self.create(session, "cli")
            self.set_title(session, title)

    @rule(session=SESSIONS, word=WORDS)
    def set_system_prompt(self, session: str, word: str) -> None:
        self.ask("set_system_prompt", session=session, text=word)

    @rule(session=SESSIONS, given=TOKENS, made=TOKENS)
    def add_tokens(self, session: str, given: int, made: int) -> None:
        self.ask("add_tokens", session=session, input=given, output=made)

    @rule(session=SESSIONS, given=TOKENS, made=TOKENS)
    def set_tokens(self, session: str, given: int, made: int) -> None:
        self.ask("set_tokens", session=session, input=given, output=made)

    @rule(session=SESSIONS, reason=st.sampled_from(["done", "error"]))
    def end(self, session: str, reason: str) -> None:
        self.ask("end", session=session, reason=reason)

    @rule(session=SESSIONS)
    def reopen(self, session: str) -> None:
        self.ask("reopen", session=session)

    @rule(session=SESSIONS)
    def delete(self, session: str) -> None:
        self.ask("delete", session=session)

    @rule()
    def prune(self) -> None:
        self.ask("prune", days=5)

    @rule(session=SESSIONS)
    def outlive(self, session: str) -> None:
        self.create(session, "cli")
        self.end(session, "done")
        self.ask("advance", days=10)
        self.prune()

    @rule()
    def reopen_file(self) -> None:
        self.ask("reopen_file")

    @rule(session=SESSIONS)
    def look(self, session: str) -> None:
        self.ask("get", session=session)
        self.ask("messages", session=session)
        self.ask("counters", session=session)

    @rule(word=WORDS)
    def search(self, word: str) -> None:
        self.ask("search", word=word)

    def finish(self) -> None:
        """Read everything back."""
        self.ask("list")
        for session in ("s1", "s2", "s3"):
            self.look(session)
        self.search("alpha")
        self.search("beta")


def _asked(name: str, function: str, result: Any = None) -> Expectation:
    def count(history: History) -> int:
        return sum(op.function == function and op.result == result for op in history)

    return Expectation(name, count)


def _refused(name: str, function: str) -> Expectation:
    def count(history: History) -> int:
        return sum(op.function == function and op.outcome is Outcome.FAIL for op in history)

    return Expectation(name, count)


def _pruned(history: History) -> int:
    return sum(op.function == "prune" and bool(op.result) for op in history)


STATE_DB_MODEL = Scenario(
    name="state-db-model",
    mode=Mode.MODEL,
    ability="state_db",
    promises=(Promise.D1, Promise.D2),
    workload=explore(StateDbMachine),
    checker=conforms(StateDbMachine.model),
    expectations=(
        _refused("an append to no session was refused", "append"),
        _refused("a title was taken", "set_title"),
        _asked("a session was deleted", "delete", result=True),
        Expectation("an old session was pruned", _pruned),
        _asked("the file was opened again", "reopen_file"),
    ),
    examples=80,
)


def test_the_database_does_what_it_is_told(judge: Judge) -> None:
    """Whatever is asked in whatever order, the answers are those of the model."""
    assert judge(STATE_DB_MODEL).is_valid


# A fault at every statement -----------------------------------------------------------------------

UNDER_FAULTS = FaultyModel(StateDbModel())


class Trial:
    """One episode, asked step by step; it ends at the first broken promise."""

    def __init__(self, episode: Episode) -> None:
        self._client = episode.client
        self._fold = Fold(UNDER_FAULTS)

    def ask(self, step: Step) -> Operation:
        """Ask. Raises PromiseBrokenError where the model refuses the answer."""
        operation = self._client.ask(*step)
        if anomaly := self._fold.step(operation):
            raise PromiseBrokenError(anomaly)
        return operation

    def look_around(self, sessions: Iterable[str]) -> None:
        """Look from outside, write once more, and read everything back."""
        self.ask(("probe", {}))
        self.ask(_append("s1", "alpha and on"))
        for session in sessions:
            for function in ("counters", "get", "messages"):
                self.ask((function, {"session": session}))
        self.ask(("list", {}))
        self.ask(("search", {"word": "alpha"}))


@dataclass(frozen=True)
class Kind:
    """A kind of write: what leads up to its Nth try, and the write itself."""

    write: Callable[[int], Step]
    before: Callable[[int], list[Step]] = lambda _: []


def _create(session: str) -> Step:
    return "create", {"session": session, "source": "cli"}


def _append(session: str, text: str, tool_calls: int = 0) -> Step:
    said = {"session": session, "role": "assistant", "text": text, "tool_calls": tool_calls}
    return "append", said


S1 = {"session": "s1"}
KINDS = (
    Kind(lambda n: _append("s1", f"alpha {n}")),
    Kind(lambda n: _append("s1", f"alpha {n}", tool_calls=2)),
    Kind(lambda n: ("replace", {**S1, "messages": [["user", f"alpha {n}"], ["tool", "beta"]]})),
    Kind(lambda _: ("clear", S1), lambda n: [_append("s1", f"alpha {n}")]),
    Kind(lambda n: _create(f"new {n}")),
    Kind(lambda _: ("end", {**S1, "reason": "done"}), lambda _: [("reopen", S1)]),
    Kind(lambda _: ("reopen", S1), lambda _: [("end", {**S1, "reason": "done"})]),
    Kind(lambda n: ("set_title", {**S1, "title": f"plan {n}"})),
    Kind(lambda n: ("set_system_prompt", {**S1, "text": f"beta {n}"})),
    Kind(lambda _: ("add_tokens", {**S1, "input": 3, "output": 5})),
    Kind(lambda n: ("add_tokens", {"session": f"new {n}", "input": 3, "output": 5})),
    Kind(lambda n: ("set_tokens", {**S1, "input": n, "output": 2 * n})),
    Kind(
        lambda n: ("delete", {"session": f"gone {n}"}),
        lambda n: [_create(f"gone {n}"), _append(f"gone {n}", "alpha")],
    ),
    Kind(
        lambda _: ("prune", {"days": 5}),
        lambda n: [
            _create(f"old {n}"),
            _append(f"old {n}", "alpha"),
            ("end", {"session": f"old {n}", "reason": "done"}),
            ("advance", {"days": 10}),
        ],
    ),
)
EARLIER: tuple[Callable[[random.Random], Step], ...] = (
    lambda rng: _append(rng.choice(["s1", "s2"]), "alpha earlier", rng.randrange(2)),
    lambda rng: ("replace", {"session": "s2", "messages": [["user", "alpha"]] * rng.randrange(3)}),
    lambda rng: ("set_title", {"session": "s2", "title": rng.choice(["plan 1", "plan 2", None])}),
    lambda rng: ("set_tokens", {"session": "s2", "input": rng.randrange(9), "output": 1}),
    lambda _: ("reopen_file", {}),
)
# A kill before statement N + 1 finds what a late kill, after N, has found: one of them is enough.
RAISED_OR_KILLED = tuple(fault for fault in FAULTS if fault != "kill")
STATEMENTS_MAX = 40


def fail_the_nth(stage: Stage) -> None:
    """Every kind of write with every fault, the first round without any past."""
    for number in range(stage.examples):
        turn, which = divmod(number, len(KINDS))
        fault = RAISED_OR_KILLED[(turn + which) % len(RAISED_OR_KILLED)]
        rng = stage.rng(f"earlier/{number}")
        with stage.episode() as episode, suppress(PromiseBrokenError):
            trial = Trial(episode)
            for session in ("s1", "s2"):
                trial.ask(_create(session))
            for _ in range(rng.randrange(6) if turn else 0):
                trial.ask(rng.choice(EARLIER)(rng))
            _hit_every_statement(trial, KINDS[which], fault)


def _hit_every_statement(trial: Trial, kind: Kind, fault: str) -> None:
    for at in range(1, STATEMENTS_MAX):
        before, (function, argument) = kind.before(at), kind.write(at)
        for step in before:
            trial.ask(step)
        inside = {"function": function, "argument": argument}
        hit = trial.ask(("faulty", {**inside, "at": at, "fault": fault}))
        named = [argument, *(argument for _, argument in before)]
        sessions = {asked["session"] for asked in named if "session" in asked}
        trial.look_around(sorted({"s1", "s2"} | sessions))
        if hit.outcome is Outcome.OK and hit.result["completed"]:
            return


def _hits(fault: str) -> Expectation:
    def count(history: History) -> int:
        return sum(
            op.function == "faulty"
            and op.argument["fault"] == fault
            and (op.outcome is not Outcome.OK or not op.result["completed"])
            for op in history
        )

    return Expectation(f"a fault hit a write: {fault}", count)


def _completions(history: History) -> int:
    return sum(
        op.function == "faulty" and op.outcome is Outcome.OK and op.result["completed"]
        for op in history
    )


STATE_DB_FAIL_THE_NTH = Scenario(
    name="state-db-fail-the-nth",
    mode=Mode.CRASH,
    ability="state_db_crash",
    promises=(Promise.D1, Promise.D2, Promise.D5, Promise.D9, Promise.D10),
    workload=fail_the_nth,
    checker=conforms(UNDER_FAULTS),
    expectations=(
        *map(_hits, RAISED_OR_KILLED),
        Expectation("a write went through once all its statements had failed", _completions),
    ),
    examples=len(KINDS) * len(RAISED_OR_KILLED),
)


def test_a_write_that_fails_at_any_statement_did_nothing(judge: Judge) -> None:
    """Full disk, interrupt or kill, at whichever statement: all of the write is there, or none."""
    assert judge(STATE_DB_FAIL_THE_NTH).is_valid


# Beside a writer ----------------------------------------------------------------------------------

READS: tuple[Step, ...] = (
    ("get", S1),
    ("list", {}),
    ("messages", S1),
    ("search", {"word": "alpha"}),
    ("reopen_file", {}),
)


def read_beside_a_writer(stage: Stage) -> None:
    """Ask everything that changes nothing while another connection has the write lock."""
    for _ in range(stage.examples):
        with stage.episode() as episode, suppress(PromiseBrokenError):
            trial = Trial(episode)
            trial.ask(_create("s1"))
            trial.ask(_append("s1", "alpha"))
            for function, argument in READS:
                trial.ask(("beside_a_writer", {"function": function, "argument": argument}))


def _besides(history: History) -> int:
    return sum(op.function == "beside_a_writer" for op in history)


STATE_DB_BESIDE_A_WRITER = Scenario(
    name="state-db-beside-a-writer",
    mode=Mode.CONTENTION,
    ability="state_db_crash",
    promises=(Promise.D8,),
    workload=read_beside_a_writer,
    checker=conforms(UNDER_FAULTS),
    expectations=(Expectation("something was asked beside a writer", _besides, len(READS)),),
    examples=1,
)


def test_reading_and_opening_want_no_write_lock(judge: Judge) -> None:
    """Whoever reads, or opens what is up to date, is not held up by a writer."""
    assert judge(STATE_DB_BESIDE_A_WRITER).is_valid


# Side by side -------------------------------------------------------------------------------------

OPENINGS_MAX = 5
RACES = 30  # to see again what was seen once


@dataclass(frozen=True)
class Crowd:
    """So many processes, threads in each, messages that each thread appends, and kills."""

    processes: int
    threads: int
    messages: int
    kills: int = 0

    @property
    def writers(self) -> int:
        """How many append at the same time."""
        return self.processes * self.threads

    def write(self, stage: Stage) -> None:
        """Have all open the new file and write at once; at last read it in another process."""
        for number in range(stage.examples):
            rng = stage.rng(f"kills/{number}")
            with stage.episode() as episode, ExitStack() as opened:
                instances = [
                    opened.enter_context(closing(_join(stage, episode)))
                    for _ in range(self.processes)
                ]
                self._write(instances, stage, rng)
                _read_at_last(episode, self.threads)

    def again(self, stage: Stage, history: History) -> None:  # noqa: ARG002  a race has no script
        """Run the same race, often enough to see it go wrong again."""
        self.write(replace(stage, examples=RACES))

    def _write(self, instances: list[ProcessInstance], stage: Stage, rng: random.Random) -> None:
        start = threading.Barrier(self.writers)
        kills = Kills(self, instances, stage, rng)
        numbers = itertools.count(1)
        with ThreadPoolExecutor(self.writers + 1) as hands:
            killing = hands.submit(kills.roam)
            writing = []
            for index, thread in itertools.product(range(self.processes), range(self.threads)):
                writer = Writer(instances[index], stage, numbers, f"alpha {index} {thread}")
                work = (f"s{thread + 1}", self.messages, start, kills.told)
                writing.append(hands.submit(writer.write, *work))
            wait(writing)
            kills.end()
        for hand in (killing, *writing):
            hand.result()


class Writer:
    """One client that appends its messages, whatever happens to the process that it asks."""

    def __init__(
        self, instance: ProcessInstance, stage: Stage, numbers: Iterator[int], name: str
    ) -> None:
        self._instance = instance
        self._stage = stage
        self._numbers = numbers
        self._name = name
        self._client = self._reborn()

    def _reborn(self) -> RecordingClient:
        return RecordingClient(self._instance, self._stage.journal, next(self._numbers))

    def write(
        self, session: str, messages: int, start: threading.Barrier, told: Callable[[], None]
    ) -> None:
        """Open with all the others and append; `told` is called after each answer."""
        start.wait()
        self._open()
        for _ in range(OPENINGS_MAX):  # one that was killed meanwhile may not have created it
            if not self._is_killed(*_create(session)):
                break
        for number in range(messages):
            self._is_killed(*_append(session, f"{self._name} {number}"))
            told()

    def _is_killed(self, function: str, argument: Mapping[str, Any]) -> bool:
        """Ask; whether the process was killed meanwhile, and another one has opened since."""
        is_killed = self._client.ask(function, argument).outcome is Outcome.INFO
        if is_killed:
            self._client = self._reborn()
            self._open()
        return is_killed

    def _open(self) -> None:
        for _ in range(OPENINGS_MAX):
            if self._client.ask("list", {}).outcome is Outcome.OK:
                return


class Kills:
    """Kills one process or another, each time after so many answers."""

    def __init__(
        self, crowd: Crowd, instances: list[ProcessInstance], stage: Stage, rng: random.Random
    ) -> None:
        self._instances = instances
        self._journal = stage.journal
        last = crowd.writers * crowd.messages * 3 // 4  # so that somebody still writes
        moments = sorted(rng.sample(range(1, last), crowd.kills))
        self._plan = [(moment, rng.randrange(crowd.processes)) for moment in moments]
        self._answers = 0
        self._is_over = False
        self._counted = threading.Condition()

    def told(self) -> None:
        """Count an answer."""
        with self._counted:
            self._answers += 1
            self._counted.notify_all()

    def end(self) -> None:
        """Kill nobody any more."""
        with self._counted:
            self._is_over = True
            self._counted.notify_all()

    def roam(self) -> None:
        """Kill as planned."""
        for moment, which in self._plan:
            if not self._has_come(moment):
                return
            name = f"kill process {which}"
            self._journal.fault(name)
            self._instances[which].kill()
            self._journal.heal(name)

    def _has_come(self, moment: int) -> bool:
        """Wait for so many answers; False if all is over before."""
        with self._counted:
            self._counted.wait_for(lambda: self._is_over or self._answers >= moment)
            return self._answers >= moment


def _join(stage: Stage, episode: Episode) -> ProcessInstance:
    """One more process on the episode's folder."""
    instance = stage.target.open(stage.ability, episode.folder)
    assert isinstance(instance, ProcessInstance)
    return instance


def _read_at_last(episode: Episode, sessions: int) -> None:
    episode.client.ask("list", {})
    episode.client.ask("probe", {})
    for number in range(1, sessions + 1):
        for function in ("counters", "messages"):
            episode.client.ask(function, {"session": f"s{number}"})


TOGETHER = Crowd(processes=8, threads=1, messages=2)
KILLED = Crowd(processes=2, threads=2, messages=12, kills=3)


def _openings(history: History) -> int:
    """Openings that were under way while another began."""
    opened = [op for op in history if op.function == "list"]
    return sum(
        not (one.precedes(other) or other.precedes(one))
        for one, other in itertools.pairwise(opened)
    )


STATE_DB_CREATED_TOGETHER = Scenario(
    name="state-db-created-together",
    mode=Mode.CONTENTION,
    ability="state_db_crash",
    promises=(Promise.D1, Promise.D2, Promise.D8),
    workload=TOGETHER.write,
    replay=TOGETHER.again,
    checker=acknowledged_appends_stay,
    expectations=(Expectation("the file was opened by two at the same time", _openings, 10),),
    examples=20,
)


def test_many_processes_create_the_file_at_once(judge: Judge) -> None:
    """Processes that open a file which is not there yet all succeed, and write at once."""
    assert judge(STATE_DB_CREATED_TOGETHER).is_valid


def _killed_writes(history: History) -> int:
    return sum(op.function == "append" and op.outcome is Outcome.INFO for op in history)


def _acknowledged_before_a_kill(history: History) -> int:
    last_ns = max((fault.began_ns for fault in history.faults), default=0)
    return sum(
        op.function == "append" and op.outcome is Outcome.OK and (op.completed_ns or 0) < last_ns
        for op in history
    )


STATE_DB_KILLED = Scenario(
    name="state-db-killed",
    mode=Mode.CRASH,
    ability="state_db_crash",
    promises=(Promise.D1, Promise.D2, Promise.D3, Promise.D5, Promise.D8),
    workload=KILLED.write,
    replay=KILLED.again,
    checker=acknowledged_appends_stay,
    expectations=(
        Expectation("a write was killed", _killed_writes),
        Expectation("an append was acknowledged before a kill", _acknowledged_before_a_kill),
    ),
    examples=12,
)


def test_a_kill_loses_nothing_acknowledged(judge: Judge) -> None:
    """Processes that write side by side are killed at any moment; what they were told stays."""
    assert judge(STATE_DB_KILLED).is_valid
