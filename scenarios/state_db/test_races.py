"""Scenarios of processes that open and write one database file together, and are killed."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.contract.checkers.state_db.answers import check_answers
from harness.contract.checkers.state_db.append_durability import check_append_durability
from harness.core.history import History, Outcome
from harness.core.verdict import Verdict, merge
from harness.engine.client import RecordingClient
from harness.engine.context import Context, Episode
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.processes.pool import ProcessInstance
from harness.pytest_plugin import Judge

OPENINGS_MAX = 5
RACES = 30  # attempts to reproduce a race


@dataclass(frozen=True)
class Race:
    """The numbers of processes, of threads in each, of messages per thread, and of kills."""

    processes: int
    threads: int
    messages: int
    kills: int = 0

    @property
    def writers(self) -> int:
        """The number of concurrent writers."""
        return self.processes * self.threads

    def write(self, context: Context) -> None:
        """Let all writers open the new file and write at once, then read it in another process."""
        for number in range(context.examples):
            rng = context.rng(f"kills/{number}")
            with context.episode() as episode, ExitStack() as opened:
                instances = [
                    opened.enter_context(closing(_join(context, episode)))
                    for _ in range(self.processes)
                ]
                self._write(instances, context, rng)
                _read_back(episode, self.threads)

    def again(self, context: Context, history: History) -> None:  # noqa: ARG002  a race has no script
        """Run the same race RACES times."""
        self.write(replace(context, examples=RACES))

    def _write(
        self, instances: list[ProcessInstance], context: Context, rng: random.Random
    ) -> None:
        start = threading.Barrier(self.writers)
        kills = Kills(self, instances, context, rng)
        numbers = itertools.count(1)
        with ThreadPoolExecutor(self.writers + 1) as executor:
            killing = executor.submit(kills.run)
            writing = []
            for index, thread in itertools.product(range(self.processes), range(self.threads)):
                writer = Writer(instances[index], context, numbers, f"alpha {index} {thread}")
                work = (f"s{thread + 1}", self.messages, start, kills.count_answer)
                writing.append(executor.submit(writer.write, *work))
            wait(writing)
            kills.end()
        for future in (killing, *writing):
            future.result()


class Writer:
    """One client that appends its messages, and renews itself after each kill."""

    def __init__(
        self, instance: ProcessInstance, context: Context, numbers: Iterator[int], name: str
    ) -> None:
        self._instance = instance
        self._context = context
        self._numbers = numbers
        self._name = name
        self._client = self._renewed()

    def _renewed(self) -> RecordingClient:
        return RecordingClient(self._instance, self._context.journal, next(self._numbers))

    def write(
        self, session: str, messages: int, start: threading.Barrier, answered: Callable[[], None]
    ) -> None:
        """Open together with the others and append; `answered` is called after each result."""
        start.wait()
        self._open()
        for _ in range(OPENINGS_MAX):  # a killed attempt may not have created it
            if not self._is_killed("create", {"session": session, "source": "cli"}):
                break
        for number in range(messages):
            self._is_killed("append", _message(session, f"{self._name} {number}"))
            answered()

    def _is_killed(self, function: str, argument: Mapping[str, Any]) -> bool:
        """Call a function; returns whether its process was killed, then a new one has opened."""
        is_killed = self._client.ask(function, argument).outcome is Outcome.INFO
        if is_killed:
            self._client = self._renewed()
            self._open()
        return is_killed

    def _open(self) -> None:
        for _ in range(OPENINGS_MAX):
            if self._client.ask("list", {}).outcome is Outcome.OK:
                return


class Kills:
    """Kills random processes, each after a number of answers."""

    def __init__(
        self, race: Race, instances: list[ProcessInstance], context: Context, rng: random.Random
    ) -> None:
        self._instances = instances
        self._journal = context.journal
        last = race.writers * race.messages * 3 // 4  # so that writers are left
        moments = sorted(rng.sample(range(1, last), race.kills))
        self._plan = [(moment, rng.randrange(race.processes)) for moment in moments]
        self._answers = 0
        self._is_over = False
        self._counted = threading.Condition()

    def count_answer(self) -> None:
        """Count an answer."""
        with self._counted:
            self._answers += 1
            self._counted.notify_all()

    def end(self) -> None:
        """Let no further kill begin."""
        with self._counted:
            self._is_over = True
            self._counted.notify_all()

    def run(self) -> None:
        """Kill as planned."""
        for moment, index in self._plan:
            if not self._has_come(moment):
                return
            name = f"kill process {index}"
            self._journal.fault(name)
            self._instances[index].kill()
            self._journal.heal(name)

    def _has_come(self, moment: int) -> bool:
        """Wait for this number of answers; returns False if all writers are done before."""
        with self._counted:
            self._counted.wait_for(lambda: self._is_over or self._answers >= moment)
            return self._answers >= moment


def _message(session: str, text: str) -> dict[str, Any]:
    return {"session": session, "role": "assistant", "text": text, "tool_calls": 0}


def _join(context: Context, episode: Episode) -> ProcessInstance:
    """Open one more process on the episode's folder."""
    instance = context.target.open(context.ability, episode.folder)
    assert isinstance(instance, ProcessInstance)
    return instance


def _read_back(episode: Episode, sessions: int) -> None:
    episode.client.ask("list", {})
    episode.client.ask("probe", {})
    for number in range(1, sessions + 1):
        for function in ("counters", "messages"):
            episode.client.ask(function, {"session": f"s{number}"})


def _all_is_well(history: History) -> Verdict:
    """Judge the appends, and every answer."""
    return merge(check(history) for check in (check_append_durability, check_answers))


TOGETHER = Race(processes=8, threads=1, messages=2)
KILLED = Race(processes=2, threads=2, messages=12, kills=3)


def _openings(history: History) -> int:
    """Count the opens that overlap another one."""
    opened = history.of("list")
    return sum(
        not (one.precedes(other) or other.precedes(one))
        for one, other in itertools.pairwise(opened)
    )


STATE_DB_CREATED_TOGETHER = Scenario(
    name="state-db-created-together",
    mode=Mode.CONTENTION,
    ability="state_db_crash",
    promises=(promises.D1, promises.D2, promises.D8),
    workload=TOGETHER.write,
    replay=TOGETHER.again,
    checker=_all_is_well,
    expectations=(Expectation("two processes opened the file at once", _openings, 10),),
    examples=20,
)


def test_processes_create_the_file_at_once(judge: Judge) -> None:
    """Processes that open a missing file together all succeed, and write at once."""
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
    promises=(promises.D1, promises.D2, promises.D3, promises.D5, promises.D8),
    workload=KILLED.write,
    replay=KILLED.again,
    checker=_all_is_well,
    expectations=(
        Expectation("a write was killed", _killed_writes),
        Expectation("an append was acknowledged before a kill", _acknowledged_before_a_kill),
    ),
    examples=12,
)


def test_kill_keeps_acknowledged_appends(judge: Judge) -> None:
    """Concurrent writers are killed at any moment; what was acknowledged is stored."""
    assert judge(STATE_DB_KILLED).is_valid
