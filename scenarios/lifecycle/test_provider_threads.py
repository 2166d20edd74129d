"""Scenario of turns and boundaries of one session that meet at its memory provider."""

from __future__ import annotations

from harness.contract import promises
from harness.contract.checkers.threads.memory_requests import check_memory_requests
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Mode, Scenario
from harness.pytest_plugin import Judge
from harness.schedule import Call, LockRules
from harness.targets.threads.memory_provider import scripted_provider
from harness.workloads.threads import Interleaving, Program

COMMIT = Call("commit")
REST = Call("rest")
REFUSE = Call("refuse", {"requests": 1})
PAUSE = Call("pause")
SILENT = ("commit", "pause", "refuse", "request", "rest", "sync")


def sync(turn: str) -> Call:
    """The end of a turn."""
    return Call("sync", {"turn": turn})


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Threads that share a session, and a last turn and boundary when all is quiet."""
    last = (REST, sync("last"), REST, COMMIT)
    return Program(name, threads, promises.L15, first, last, held=(promises.L14,))


def turn_met_request(history: History) -> bool:
    """A turn ended while the provider was busy with another one."""
    requests = history.of("request")
    return any(turn.meets(request) for turn in history.of("sync") for request in requests)


def commit_met_turn(history: History) -> bool:
    """A boundary began while a turn was being sent."""
    sent = [op for op in history.of("request") if op.argument["what"] == "messages"]
    return any(commit.meets(op) for commit in history.of("commit") for op in sent)


MEETINGS = Interleaving(
    programs=(
        program("a turn as a request ends", (sync("a"),), (PAUSE, sync("b"), PAUSE, sync("c"))),
        program("two boundaries", (sync("a"),), (COMMIT,), (COMMIT, sync("b"))),
        program("a boundary as a request ends", (sync("a"),), (PAUSE, COMMIT), (PAUSE, sync("b"))),
        program("a refused turn", (REFUSE, sync("a")), (PAUSE, sync("b")), (PAUSE, COMMIT)),
        program("a refused boundary", (), (REFUSE, COMMIT), (sync("a"), COMMIT)),
    ),
    check=with_plain_answers(
        check_memory_requests,
        promises.L15,
        accepted=("pause", "refuse", "request", "rest", "sync"),
        silent=SILENT,
    ),
    rules=LockRules(free_during=(("provider", "*"),)),
    meetings={
        "a turn ended during a request": turn_met_request,
        "a boundary met a turn": commit_met_turn,
    },
)


def explore(context: Context) -> None:
    """Explore the programs with a provider in this process."""
    with scripted_provider():
        MEETINGS.explore(context)


def replay(context: Context, failed: History) -> None:
    """Run the failing schedule again with a provider in this process."""
    with scripted_provider():
        MEETINGS.replay(context, failed)


MEMORY_PROVIDER_THREADS = Scenario(
    name="memory-provider-threads",
    mode=Mode.SCHEDULE,
    ability="memory_provider_threads",
    promises=(promises.L14, promises.L15),
    workload=explore,
    checker=MEETINGS.judge,
    expectations=tuple(MEETINGS.met(meeting) for meeting in MEETINGS.meetings),
    examples=400,
    replay=replay,
)


def test_each_turn_reaches_the_provider_once(judge: Judge) -> None:
    """Under every schedule the provider gets each turn once, in order, before an extraction."""
    assert judge(MEMORY_PROVIDER_THREADS).is_valid
