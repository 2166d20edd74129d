"""The episodes of the chaos scenarios: faults, workloads, and what a run must have reached.

Processes race here. A seed makes the same calls and injects faults after the same moments, but the
machine decides which call comes first; so a replay is another attempt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

from harness.contract.agent_script import Process
from harness.contract.clients.session_client import Moment
from harness.contract.workloads.chaos import Chaos, PlannedFault, ServerGoneError
from harness.core.history import History, Outcome
from harness.engine.context import Context, Replay, Workload
from harness.faults.file_faults import AddedBytes, CorruptFile, TornFile
from harness.faults.nemesis import Fault

from .chaos_users import HELD, HUNG, Act, User, is_accepted

MOMENTS = (
    *(Moment.ACKNOWLEDGED, Moment.SHOWN, Moment.REPLY_ENDED, Moment.SAVED, Moment.CANCELLING),
    *(Moment.CUT, Moment.BOUNDARY, Moment.ENDED, Moment.TURN_STARTED, Moment.ANSWERED),
)
EVERYTHING = (
    *(User.talk, User.talk, User.cancel, User.look, User.spawn, User.watch),
    *(User.expect, User.come_and_go, User.turn_over),
)
REMOVING = (User.talk, User.cancel, User.cut, User.look, User.watch)
DEATHS = 12
PAUSE_S = 0.15
MOMENTS_OF_WAKEUPS = (Moment.ACKNOWLEDGED, Moment.SHOWN, Moment.REPLY_ENDED, Moment.SAVED)
REDELIVERED_SHARE = 0.3
REDELIVERED = "wakeups are delivered again"
SESSIONS = 50
USERS = 8
ENDED = b'"kind":"completion"'
REPLAYS = 3
AGENTS_MAX, SESSIONS_MAX = 2, 3
CAPS = {
    "HERMES_WEBUI_AGENT_CACHE_MAX": str(AGENTS_MAX),
    "HERMES_WEBUI_SESSIONS_MAX": str(SESSIONS_MAX),
}
DEFERRED = 2
HALF_A_LINE = b'{"key": "proc_'
REFUSED_BEYOND_BYTES = 48 << 10


def shuffled(rng: random.Random, *acts: Callable[[Chaos], None]) -> list[PlannedFault]:
    """Plan these faults in random order, each after a moment of another kind."""
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(len(acts))]
    rng.shuffle(moments)
    chosen = rng.sample(acts, len(acts))
    return [
        PlannedFault(act, moment, rng.randint(1, 3))
        for act, moment in zip(chosen, moments, strict=True)
    ]


def make_sessions(chaos: Chaos, count: int) -> list[str]:
    """Make a number of sessions; returns their names."""
    client = chaos.client()
    sessions = [f"s{number}" for number in range(count)]
    for session in sessions:
        client.ask("new", session=session)
    return sessions


def users_of(
    chaos: Chaos, rng: random.Random, *parts: tuple[int, Sequence[str], Sequence[Act], int]
) -> list[Callable[[], None]]:
    """Make users from parts: how many, their sessions, their acts, and their fewest acts."""
    users: list[Callable[[], None]] = []
    for count, sessions, acts, least in parts:
        for _ in range(count):
            user = User(chaos, sessions, random.Random(rng.random()))
            users.append(partial(user.run, acts, least))
    return users


def pause(chaos: Chaos) -> None:
    """Stop the server's process for a moment."""
    chaos.pause(PAUSE_S)


def damage(chaos: Chaos) -> None:
    """Tear and corrupt the index, damage a backup, and add half a line to each journal."""
    state = chaos.episode.folder / "state"

    def found() -> Iterator[Fault]:
        for index in state.glob("sessions/_index.json"):
            yield TornFile(index, 70)
            yield CorruptFile(index, 1, b"}{")
        for backup in sorted(state.glob("sessions/*.json.bak"))[:1]:
            yield CorruptFile(backup, 2, b"\0\0\0")
        runs = sorted(state.glob("sessions/_run_journal/*/*.jsonl"), key=_age)[:3]
        for journal in (*runs, *state.glob("sessions/_turn_journal*"), ledger_of(chaos)):
            yield AddedBytes(journal, HALF_A_LINE)

    chaos.damage(found)


def _age(path: Path) -> int:
    return -path.stat().st_mtime_ns


def ledger_of(chaos: Chaos) -> Path:
    """The file in which the server keeps undelivered wakeups."""
    return chaos.episode.folder / "state" / "processes" / "ledger.jsonl"


class Redelivered(AddedBytes):
    """Some delivered wakeups are undelivered again, as if the server had died in between."""

    def __init__(self, ledger: Path, rng: random.Random) -> None:
        ended = [line for line in ledger.read_bytes().splitlines(keepends=True) if ENDED in line]
        some = rng.sample(ended, round(REDELIVERED_SHARE * len(ended)))
        super().__init__(ledger, b"".join(some))
        self.name = f"{len(some)} {REDELIVERED}"


def redeliver(chaos: Chaos, rng: random.Random) -> None:
    """Kill the server, and have some wakeups delivered again."""
    ledger = ledger_of(chaos)
    chaos.damage(lambda: [Redelivered(ledger, rng)] if ledger.exists() else [])


# Episodes


def kill_under_traffic(chaos: Chaos, rng: random.Random, _rounds: int) -> None:
    """Users do everything in a few shared sessions while the server is killed repeatedly."""
    sessions = make_sessions(chaos, 4)
    deaths = [Chaos.kill] * (DEATHS - 2) + [damage] * 2
    users = users_of(chaos, rng, (5, sessions[:3], EVERYTHING, 4), (2, sessions[3:], REMOVING, 4))
    chaos.run(shuffled(rng, *deaths, pause), users)
    chaos.read_back()


def terminate_under_traffic(chaos: Chaos, rng: random.Random, _rounds: int) -> None:
    """Users do everything while the server is terminated repeatedly.

    Before that it ends by each signal while wakeups wait for a run to end.
    """
    sessions = make_sessions(chaos, 4)
    for session, end in zip(sessions, (Chaos.terminate, Chaos.kill), strict=False):
        end_while_deferred(chaos, rng, session, end)
    users = users_of(chaos, rng, (4, sessions[:3], EVERYTHING, 4), (2, sessions[3:], REMOVING, 4))
    chaos.run(shuffled(rng, Chaos.terminate, Chaos.kill, Chaos.terminate), users)
    chaos.read_back()


def end_while_deferred(
    chaos: Chaos, rng: random.Random, session: str, end: Callable[[Chaos], None]
) -> None:
    """End the server while the wakeups of two processes wait for the run that started them."""
    user = User(chaos, [session], rng)
    processes = (Process(0, user.word()) for _ in range(DEFERRED))
    script = "".join(str(process.directive) for process in processes)
    sent = user.insist(session, f"{script}{HELD}")
    if is_accepted(sent):
        user.relay(sent.result["run"], leave=1)
        user.ask("deferred", least=DEFERRED)
    end(chaos)


def evict(chaos: Chaos, rng: random.Random, _rounds: int) -> None:
    """Users of more sessions than the server may hold, while runs are active; one to the end."""
    held, *sessions = make_sessions(chaos, 11)
    User(chaos, [held], rng).insist(held, HUNG)
    acts = (User.talk, User.cancel, User.spawn, User.turn_over, User.look)
    chaos.run(shuffled(rng, pause, pause), users_of(chaos, rng, (6, sessions, acts, 12)))
    chaos.kill()
    chaos.read_back(agents_cached=AGENTS_MAX, sessions_held=SESSIONS_MAX)


def refuse_writes(chaos: Chaos, rng: random.Random, _rounds: int) -> None:
    """Processes end while the disk refuses large files, or every write."""
    sessions = make_sessions(chaos, 6)
    owners = [User(chaos, [session], rng) for session in sessions]
    client = chaos.client()
    for beyond_bytes in (REFUSED_BEYOND_BYTES, 0):
        for owner in owners:
            owner.fatten()
        refuse = partial(
            Chaos.refuse_writes, beyond_bytes=beyond_bytes, until=lambda: client.ask("settled")
        )
        users = users_of(chaos, rng, (2, sessions, (User.talk, User.look, User.cancel), 8))
        chaos.run([PlannedFault(refuse, Moment.ANSWERED)], users)
    chaos.read_back()


def wake_many(chaos: Chaos, rng: random.Random, rounds: int) -> None:
    """Processes end in many sessions, some wakeups are delivered twice, and the server is killed.

    Some users retry their sends in a session with one wakeup after another.
    """
    sessions = make_sessions(chaos, SESSIONS)
    for _ in range(rounds):
        users = [
            User(chaos, sessions[number::USERS], random.Random(rng.random()))
            for number in range(USERS)
        ]
        again = partial(redeliver, rng=rng)
        acts = (again, again, Chaos.terminate, again)
        plan = [
            PlannedFault(act, rng.choice(MOMENTS_OF_WAKEUPS), rng.randint(2, 8)) for act in acts
        ]
        chaos.run(plan, [user.start_processes for user in users])
    chaos.read_back()


EpisodeBody = Callable[[Chaos, random.Random, int], None]


def one_episode_each(body: EpisodeBody, **settings: str) -> Workload:
    """Make a workload with one server for each example."""

    def workload(context: Context) -> None:
        for number in range(context.examples):
            _run(context, body, settings, f"{context.seed}/{number}", 1)

    return workload


def one_long_episode(body: EpisodeBody, **settings: str) -> Workload:
    """Make a workload with one server, and a round for each example."""

    def workload(context: Context) -> None:
        _run(context, body, settings, context.seed, context.examples)

    return workload


def retried(body: EpisodeBody, **settings: str) -> Replay:
    """Make a replay that tries an episode again: a race may have another winner each time."""

    def replay(context: Context, failed: History) -> None:
        for _ in range(REPLAYS):
            _run(context, body, settings, failed.notes["chance"], failed.notes["rounds"])

    return replay


def _run(
    context: Context, body: EpisodeBody, settings: Mapping[str, str], chance: str, rounds: int
) -> None:
    """Run one episode. Where the server does not boot again, its history says so."""
    with context.episode(chance=chance, rounds=rounds) as episode:
        chaos = Chaos(context, episode, settings)
        with suppress(ServerGoneError):
            chaos.boot()
            body(chaos, random.Random(chance), rounds)


# What a run must have reached


def count_of(*functions: str) -> Callable[[History], int]:
    """Count the operations of these functions."""
    return lambda history: sum(op.function in functions for op in history.happened)


def accepted_sends(history: History) -> int:
    """Count the turns that began."""
    return sum(op.function == "send" and is_accepted(op) for op in history)


def refused_sends(history: History) -> int:
    """Count the sends that were refused because of an active run."""
    return sum(op.function == "send" and not is_accepted(op) for op in history.happened)


def ends_while_deferred(how: str) -> Callable[[History], int]:
    """Count the ends of the server of this kind right after it reported deferred wakeups."""

    def count(history: History) -> int:
        calls = [op for op in history if op.function in ("deferred", "terminate", "kill")]
        return sum(
            end.function == how and waiting.function == "deferred" and (waiting.result or 0) > 0
            for waiting, end in pairwise(calls)
        )

    return count


def lost_replies(history: History) -> int:
    """Count the operations of unknown outcome."""
    return sum(op.outcome is Outcome.INFO for op in history)


def faults_with(words: str) -> Callable[[History], int]:
    """Count the faults with these words in their names."""
    return lambda history: sum(words in fault.name for fault in history.faults)


def redelivered_wakeups(history: History) -> int:
    """Count the wakeups that were delivered again."""
    names = (fault.name for fault in history.faults if REDELIVERED in fault.name)
    return sum(int(name.split()[0]) for name in names)


def cancelled_runs(history: History) -> int:
    """Count the runs that were cancelled."""
    return sum(op.function == "cancel" and op.result is True for op in history.happened)


def resumed_reads(history: History) -> int:
    """Count the reads of runs with a cursor."""
    return sum(op.function == "relay" and op.argument["after"] is not None for op in history)


def _last_rows(history: History) -> Iterator[list[str]]:
    last = {op.argument["session"]: op for op in history.happened.of("read")}
    return (row for op in last.values() for row in op.result["rows"])


def marked_turns(mark: str) -> Callable[[History], int]:
    """Count the turns with a mark in the last reads."""
    return lambda history: sum(
        role == "user" and its == mark for role, _, its in _last_rows(history)
    )


def wakeups(history: History) -> int:
    """Count the wakeups in the last reads."""
    return sum(role == "wakeup" for role, _, _ in _last_rows(history))
