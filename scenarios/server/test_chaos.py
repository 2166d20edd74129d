"""Many clients of one server that is killed, stopped, paused and starved under their hands.

An episode has two phases. First the storm: users talk, cancel, forget, start processes and watch,
all at once, while the server dies at moments that they see. Then it is healed and at rest, and
everything is asked once more, before and after one more death. What was acknowledged has to be
there, once; what was removed has to stay so; every process has to have woken its session, once.

Real processes race here. The same seed asks the same questions and strikes after the same moments,
but who comes first is the machine's choice, so a replay is another try.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harness.contract.checkers.server.client_history import TERMINAL
from harness.contract.checkers.server.end_to_end import visitors_are_served
from harness.contract.checkers.server.wakeup_delivery import WAKEUPS_MAX
from harness.contract.clients.session_client import Moment
from harness.contract.workloads.chaos import Guest, ServerGoneError, Storm, Strike
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.engine.context import Replay, Stage, Workload
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.faults.nemesis import AddedBytes, CorruptFile, Fault, TornFile
from scenarios.conftest import Judge

ACCEPTED, REFUSED = 200, 409
HELD = "[tokens=3][sleep=900][tokens=1]"  # until somebody ends it
HUNG = "[tokens=1][hang]"  # until its agent is closed
TALKS = ("[tokens=3]", "[tokens=2][tool]", "[tokens=1][sleep=0.03][tokens=2]", "[tokens=20]")
ACTS_MAX = 400
TRIES_MAX = 200
STRANGER = "0" * 32  # a stream that never was


@dataclass
class User:
    """One of many who use the same sessions at the same time."""

    storm: Storm
    sessions: Sequence[str]
    rng: random.Random
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.guest: Guest = self.storm.visitor()
        self.ask = self.guest.ask
        self.number = self.guest.number
        self.cursors: dict[str, str] = {}

    # What it does

    def live(self, acts: Sequence[Act], least: int) -> None:
        """Do one thing after another, as long as the storm lasts."""
        for done in range(ACTS_MAX):
            if self.storm.is_calm and done >= least:
                return
            self.rng.choice(acts)(self)

    def any(self) -> str:
        """Any session."""
        return self.rng.choice(self.sessions)

    def send(self, session: str, script: str) -> Operation:
        """Say something that nobody said before."""
        return self.ask(
            "send", session=session, text=f"u{self.number}.{next(self.numbers)} {script}"
        )

    def insist(self, session: str, script: str) -> Operation:
        """Say something until one is let in, or nobody knows."""
        text = f"u{self.number}.{next(self.numbers)} {script}"
        for _ in range(TRIES_MAX):
            sent = self.ask("send", session=session, text=text)
            if is_accepted(sent) or sent.outcome is Outcome.INFO:
                break
        return sent

    def relay(self, run: str, after: str | None = None, **how: Any) -> list[list[str]]:
        """Read a run."""
        asked = {"run": run, "after": after, "leave": None, "stall": False, **how}
        told = self.ask("relay", **asked)
        return told.result["rows"] if told.outcome is Outcome.OK else []

    def talk(self) -> None:
        """Say something, and read the answer in one of many ways."""
        sent = self.send(self.any(), self.rng.choice(TALKS))
        if is_accepted(sent):
            self.follow(sent.result["run"])

    def follow(self, run: str) -> None:
        """Read a run: at once, in parts, after a pause, from a foreign cursor, or not at all."""
        match self.rng.randrange(6):
            case 0:
                self.relay(run, stall=True)
            case 1:
                self.relay(run, after=f"{STRANGER}:{self.rng.randint(1, 9)}")
            case 2:
                return
            case 3:
                rows = self.relay(run, leave=self.rng.randint(1, 4))
                self.relay(run, after=last_id(rows))
            case _:
                rows = self.relay(run)
                self.come_back(run, rows)

    def come_back(self, run: str, rows: list[list[str]]) -> None:
        """Look for what one has missed, at once, as everybody does after a restart."""
        session = self.any()
        self.ask("status", session=session)
        if any(name in TERMINAL for _, name, _ in rows):
            self.relay(run, after=self.rng.choice(rows)[0])
        else:
            self.relay(run, after=last_id(rows))
            self.ask("read", session=session)

    def cancel(self) -> None:
        """Begin something, or what would never end, and end it at any moment."""
        sent = self.send(self.any(), self.rng.choice((HELD, HELD, *TALKS)))
        if not is_accepted(sent):
            return
        run = sent.result["run"]
        if shown := self.rng.randrange(3):
            self.relay(run, leave=shown)
        if self.rng.random() < 0.5:
            self.ask("offered", session=sent.argument["session"])
        while True:
            told = self.ask("cancel", run=run)
            if told.outcome is not Outcome.INFO or self.storm.is_calm:
                break
        self.ask("offered", session=sent.argument["session"])
        self.relay(run)

    def forget(self) -> None:
        """Look, and remove some or all of what is there."""
        session = self.any()
        read = self.ask("read", session=session)
        if read.outcome is not Outcome.OK:
            return
        seen = [text if role != "assistant" else "" for role, text, _ in read.result["rows"]]
        if self.rng.random() < 0.5:
            self.ask("clear", session=session, seen=seen)
        else:
            self.ask("truncate", session=session, keep=self.rng.randint(0, len(seen)), seen=seen)

    def look(self) -> None:
        """Ask for whatever a client asks for that comes back."""
        session = self.any()
        match self.rng.randrange(4):
            case 0:
                self.ask("read", session=session)
            case 1:
                self.ask("sessions")
            case 2:
                self.ask("health")
            case _:
                self.ask("status", session=session)

    def watch(self) -> None:
        """Watch a session from where one was, and acknowledge what ended, twice."""
        session = self.any()
        told = self.ask("watch", session=session, after=self.cursors.get(session))
        rows = told.result["rows"] if told.outcome is Outcome.OK else []
        if (last := last_id(rows)) is not None:
            self.cursors[session] = last
        for _, name, _, task, _ in rows:
            if name == "bg_task_complete":
                self.ask("acknowledge", session=session, task=task)
                self.ask("acknowledge", session=session, task=task)

    def spawn(self) -> None:
        """Have processes started that end while the turn goes on, and after it."""
        script = f"{self.processes(2)}[tokens=1]{self.rng.choice(TALKS)}"
        sent = self.insist(self.any(), script)
        if is_accepted(sent):
            self.follow(sent.result["run"])

    def expect(self) -> None:
        """Have a process watched that says a word three times."""
        says = "\n".join([f"hit {self.word()}"] * 3)
        self.insist(self.any(), f"[process=0.02:watch=hit:{says}][tokens=1]")

    def turn_over(self) -> None:
        """Begin another session after one, which commits that one's memory."""
        self.ask("new", session=f"t{self.number}.{next(self.numbers)}", previous=self.any())

    def fatten(self) -> None:
        """Say much, and have a process started that ends a little later."""
        sent = self.insist(self.any(), f"[process=0.2:{self.word()}][tokens=1]{FAT}")
        if is_accepted(sent):
            self.relay(sent.result["run"])

    def start_processes(self) -> None:
        """Have some processes started in each session, and watch some of them."""
        for session in self.sessions:
            sent = self.insist(session, f"{self.processes(PROCESSES)}[tokens=1]")
            if is_accepted(sent):
                self.relay(sent.result["run"])
        self.outlast(self.any())

    def outlast(self, session: str) -> None:
        """Ask to be let in while one wakeup after another comes."""
        storm = "".join(f"[process=0:{{sleep=0.1}}{self.word()}]" for _ in range(2 * WAKEUPS_MAX))
        if is_accepted(self.insist(session, f"{storm}[tokens=1]")):
            self.insist(session, "[tokens=1]")

    def word(self) -> str:
        """A word that nobody says but one process."""
        return f"w{self.number}{next(self.numbers):05}"

    def processes(self, count: int) -> str:
        """Have so many processes started that end sooner or later."""
        ends = (self.rng.choice(("0", "0.02", "0.1", "0.3")) for _ in range(count))
        return "".join(f"[process={seconds}:{self.word()}]" for seconds in ends)

    def come_and_go(self) -> None:
        """Make a session, say something in it, and delete it."""
        session = f"t{self.number}.{next(self.numbers)}"
        if self.ask("new", session=session).outcome is not Outcome.OK:
            return
        sent = self.send(session, self.rng.choice(TALKS))
        while True:
            told = self.ask("delete", session=session)
            if told.outcome is not Outcome.INFO or not is_accepted(sent):
                break
        self.ask("sessions")


Act = Callable[[User], None]


def is_accepted(sent: Operation) -> bool:
    """Whether a turn was begun."""
    return sent.outcome is Outcome.OK and sent.result["status"] == ACCEPTED


def last_id(rows: Sequence[Sequence[Any]]) -> str | None:
    """Where a reader has come to."""
    return next((row[0] for row in reversed(rows) if row[0]), None)


# The storms

MOMENTS = (
    *(Moment.ACKNOWLEDGED, Moment.SHOWN, Moment.LAST_WORDS, Moment.SAVED, Moment.CANCELLING),
    *(Moment.CUT, Moment.BOUNDARY, Moment.ENDED, Moment.WOKEN, Moment.ASKED),
)
EVERYTHING = (
    *(User.talk, User.talk, User.cancel, User.look, User.spawn, User.watch),
    *(User.expect, User.come_and_go, User.turn_over),
)
REMOVING = (User.talk, User.cancel, User.forget, User.look, User.watch)
DEATHS = 12
PAUSE_S = 0.15
MOMENTS_OF_WAKING = (Moment.ACKNOWLEDGED, Moment.SHOWN, Moment.LAST_WORDS, Moment.SAVED)
TOLD_AGAIN = 0.3
SESSIONS = 50
HANDS = 8
PROCESSES = 3  # in each session
ENDED = b'"kind":"completion"'
REPLAYS = 3
AGENTS_MAX, SESSIONS_MAX = 2, 3
CAPS = {
    "HERMES_WEBUI_AGENT_CACHE_MAX": str(AGENTS_MAX),
    "HERMES_WEBUI_SESSIONS_MAX": str(SESSIONS_MAX),
}
HALF_A_LINE = b'{"key": "proc_'
REFUSED_BEYOND_BYTES = 48 << 10
FAT = "x" * (64 << 10)


def after(rng: random.Random, *acts: Callable[[Storm], None]) -> list[Strike]:
    """These strikes in any order, each after a moment of another kind."""
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(len(acts))]
    rng.shuffle(moments)
    chosen = rng.sample(acts, len(acts))
    return [Strike(act, at, rng.randint(1, 3)) for act, at in zip(chosen, moments, strict=True)]


def found(storm: Storm, count: int) -> list[str]:
    """Make so many sessions."""
    host = storm.visitor()
    sessions = [f"s{number}" for number in range(count)]
    for session in sessions:
        host.ask("new", session=session)
    return sessions


def crowd(
    storm: Storm, rng: random.Random, *parts: tuple[int, Sequence[str], Sequence[Act], int]
) -> list[Callable[[], None]]:
    """So many users each, of these sessions, who do such things, so often at least."""
    visits: list[Callable[[], None]] = []
    for count, sessions, acts, least in parts:
        for _ in range(count):
            user = User(storm, sessions, random.Random(rng.random()))
            visits.append(partial(user.live, acts, least))
    return visits


def pause(storm: Storm) -> None:
    """Stop the server for a moment."""
    storm.pause(PAUSE_S)


def damage(storm: Storm) -> None:
    """Leave the index torn and corrupt, a backup unreadable, and half a line in each journal."""
    state = storm.episode.folder / "state"

    def found() -> Iterator[Fault]:
        for index in state.glob("sessions/_index.json"):
            yield TornFile(index, 70)
            yield CorruptFile(index, 1, b"}{")
        for backup in sorted(state.glob("sessions/*.json.bak"))[:1]:
            yield CorruptFile(backup, 2, b"\0\0\0")
        runs = sorted(state.glob("sessions/_run_journal/*/*.jsonl"), key=_age)[:3]
        for journal in (*runs, *state.glob("sessions/_turn_journal*"), ledger_of(storm)):
            yield AddedBytes(journal, HALF_A_LINE)

    storm.damage(found)


def _age(path: Path) -> int:
    return -path.stat().st_mtime_ns


def ledger_of(storm: Storm) -> Path:
    """Where the server keeps what it has to tell."""
    return storm.episode.folder / "state" / "processes" / "ledger.jsonl"


class ToldAgain(AddedBytes):
    """Some wakeups are to be told again: as if the server had died right after it told them."""

    def __init__(self, ledger: Path, rng: random.Random) -> None:
        ended = [line for line in ledger.read_bytes().splitlines(keepends=True) if ENDED in line]
        some = rng.sample(ended, round(TOLD_AGAIN * len(ended)))
        super().__init__(ledger, b"".join(some))
        self.name = f"{len(some)} wakeups are told of again"


def tell_again(storm: Storm, rng: random.Random) -> None:
    """Kill the server, and have some wakeups told again."""
    ledger = ledger_of(storm)
    storm.damage(lambda: [ToldAgain(ledger, rng)] if ledger.exists() else [])


def kill_under_traffic(storm: Storm, rng: random.Random, _rounds: int) -> None:
    """Users who do everything, in a few sessions that they share, while the server dies."""
    sessions = found(storm, 4)
    deaths = [Storm.kill] * (DEATHS - 2) + [damage] * 2
    visits = crowd(storm, rng, (5, sessions[:3], EVERYTHING, 4), (2, sessions[3:], REMOVING, 4))
    storm.rage(after(rng, *deaths, pause), visits)
    storm.look_back()


def tell_to_go(storm: Storm, rng: random.Random, _rounds: int) -> None:
    """Users who do everything while the server is told to go, again and again."""
    sessions = found(storm, 4)
    visits = crowd(storm, rng, (4, sessions[:3], EVERYTHING, 4), (2, sessions[3:], REMOVING, 4))
    storm.rage(after(rng, Storm.terminate, Storm.kill, Storm.terminate), visits)
    storm.look_back()


def evict(storm: Storm, rng: random.Random, _rounds: int) -> None:
    """Users of more sessions than the server may hold, while runs go on; one until the end."""
    held, *sessions = found(storm, 11)
    User(storm, [held], rng).insist(held, HUNG)
    acts = (User.talk, User.cancel, User.spawn, User.turn_over, User.look)
    storm.rage(after(rng, pause, pause), crowd(storm, rng, (6, sessions, acts, 12)))
    storm.kill()
    storm.look_back(agents_cached=AGENTS_MAX, sessions_held=SESSIONS_MAX)


def refuse_writes(storm: Storm, rng: random.Random, _rounds: int) -> None:
    """Processes that end while the disk refuses to take what is large, or anything at all."""
    sessions = found(storm, 6)
    hosts = [User(storm, [session], rng) for session in sessions]
    guest = storm.visitor()
    for beyond_bytes in (REFUSED_BEYOND_BYTES, 0):
        for host in hosts:
            host.fatten()
        refuse = partial(
            Storm.refuse_writes, beyond_bytes=beyond_bytes, until=lambda: guest.ask("settled")
        )
        visits = crowd(storm, rng, (2, sessions, (User.talk, User.look, User.cancel), 8))
        storm.rage([Strike(refuse, Moment.ASKED)], visits)
    storm.look_back()


def wake_many(storm: Storm, rng: random.Random, rounds: int) -> None:
    """Rounds of processes in many sessions, some told of twice, while the server dies.

    Some users come to a session that is being woken all the time, and have to be let in.
    """
    sessions = found(storm, SESSIONS)
    for _ in range(rounds):
        users = [
            User(storm, sessions[hand::HANDS], random.Random(rng.random())) for hand in range(HANDS)
        ]
        again = partial(tell_again, rng=rng)
        acts = (again, again, Storm.terminate, again)
        plan = [Strike(act, rng.choice(MOMENTS_OF_WAKING), rng.randint(2, 8)) for act in acts]
        storm.rage(plan, [user.start_processes for user in users])
    storm.look_back()


Life = Callable[[Storm, random.Random, int], None]


def many(life: Life, **settings: str) -> Workload:
    """Lives of so many servers, one after another."""

    def workload(stage: Stage) -> None:
        for number in range(stage.examples):
            _live(stage, life, settings, f"{stage.seed}/{number}", 1)

    return workload


def long(life: Life, **settings: str) -> Workload:
    """The life of one server, of so many rounds."""

    def workload(stage: Stage) -> None:
        _live(stage, life, settings, stage.seed, stage.examples)

    return workload


def again(life: Life, **settings: str) -> Replay:
    """Try the same life a few times: a race may have another winner each time."""

    def replay(stage: Stage, failed: History) -> None:
        for _ in range(REPLAYS):
            _live(stage, life, settings, failed.notes["chance"], failed.notes["rounds"])

    return replay


def _live(stage: Stage, life: Life, settings: Mapping[str, str], chance: str, rounds: int) -> None:
    """Live one life; where the server does not come back from a death, its history says so."""
    with stage.episode(chance=chance, rounds=rounds) as episode:
        storm = Storm(stage, episode, settings)
        with suppress(ServerGoneError):
            storm.boot()
            life(storm, random.Random(chance), rounds)


# What a run must have met


def _count(*functions: str) -> Callable[[History], int]:
    return lambda history: sum(op.function in functions for op in history.happened)


def _accepted(history: History) -> int:
    return sum(op.function == "send" and is_accepted(op) for op in history)


def _refused(history: History) -> int:
    return sum(op.function == "send" and not is_accepted(op) for op in history.happened)


def _lost(history: History) -> int:
    return sum(op.outcome is Outcome.INFO for op in history)


def _faults(words: str) -> Callable[[History], int]:
    return lambda history: sum(words in fault.name for fault in history.faults)


def _told_again(history: History) -> int:
    told = (fault.name for fault in history.faults if "told of again" in fault.name)
    return sum(int(name.split()[0]) for name in told)


def _cancelled_runs(history: History) -> int:
    return sum(op.function == "cancel" and op.result is True for op in history.happened)


def _resumed(history: History) -> int:
    return sum(op.function == "relay" and op.argument["after"] is not None for op in history)


def _last_reads(history: History) -> Iterator[list[str]]:
    """The rows of the last read of each session."""
    last = {op.argument["session"]: op for op in history.happened if op.function == "read"}
    return (row for op in last.values() for row in op.result["rows"])


def _marked(mark: str) -> Callable[[History], int]:
    return lambda history: sum(
        role == "user" and its == mark for role, _, its in _last_reads(history)
    )


def _wakeups(history: History) -> int:
    return sum(role == "wakeup" for role, _, _ in _last_reads(history))


def _matches(history: History) -> int:
    return sum(role == "wakeup" and " printed " in text for role, text, _ in _last_reads(history))


def _expect(name: str, count: Callable[[History], int], needed: int = 1) -> Expectation:
    return Expectation(name, count, needed)


# The scenarios

KILLED = Scenario(
    name="chaos-killed-under-traffic",
    mode=Mode.HTTP,
    ability="server",
    promises=(
        *(Promise.S2, Promise.S6, Promise.S7, Promise.S11, Promise.S13, Promise.T1, Promise.T3),
        *(Promise.T4, Promise.T7, Promise.C1, Promise.C2, Promise.C3, Promise.C4, Promise.C5),
        *(
            Promise.C6,
            Promise.C7,
            Promise.W4,
            Promise.W7,
            Promise.W11,
            Promise.W12,
            Promise.W13,
            Promise.H3,
        ),
    ),
    workload=many(kill_under_traffic),
    replay=again(kill_under_traffic),
    checker=visitors_are_served,
    expectations=(
        _expect("a turn was begun", _accepted, 20),
        _expect("a second turn was refused", _refused),
        _expect("an answer was lost", _lost, DEATHS),
        _expect("the server was killed", _count("kill"), DEATHS),
        _expect("the server stood still", _faults("pause")),
        _expect("its index was damaged", _faults("_index.json")),
        _expect("a run was cancelled", _cancelled_runs),
        _expect("a reader came back with a cursor", _resumed),
        _expect("a turn was interrupted", _marked("interrupted")),
        _expect("a process woke its session", _wakeups, 4),
        _expect("a session was deleted", _count("delete")),
    ),
    examples=2,
)

GOING = Scenario(
    name="chaos-told-to-go",
    mode=Mode.CRASH,
    ability="server",
    promises=(Promise.S13, Promise.T3, Promise.W4, Promise.H3),
    workload=many(tell_to_go),
    replay=again(tell_to_go),
    checker=visitors_are_served,
    expectations=(
        _expect("a turn was begun", _accepted, 10),
        _expect("the server was told to go", _count("terminate"), 2),
    ),
    examples=2,
)

EVICTED = Scenario(
    name="chaos-evicted",
    mode=Mode.HTTP,
    ability="server",
    promises=(Promise.A1, Promise.A2, Promise.A6, Promise.T1, Promise.T7, Promise.W3),
    workload=many(evict, **CAPS),
    replay=again(evict, **CAPS),
    checker=visitors_are_served,
    expectations=(
        _expect("a turn was begun", _accepted, 10),
        _expect("a run was cancelled", _cancelled_runs),
        _expect("a process woke its session", _wakeups),
    ),
    examples=1,
)

REFUSED_DISK = Scenario(
    name="chaos-disk-refuses",
    mode=Mode.HTTP,
    ability="server",
    promises=(Promise.W5, Promise.T3),
    workload=many(refuse_writes),
    replay=again(refuse_writes),
    checker=visitors_are_served,
    expectations=(
        _expect("the disk refused", _faults("writes no file"), 2),
        _expect("an answer was lost", _lost),
        _expect("a process woke its session", _wakeups, 6),
    ),
    examples=1,
)

WOKEN = Scenario(
    name="chaos-woken-in-many-sessions",
    mode=Mode.HTTP,
    ability="server",
    promises=(Promise.W1, Promise.W3, Promise.W4, Promise.W6, Promise.W10, Promise.W12),
    workload=long(wake_many),
    replay=again(wake_many),
    checker=visitors_are_served,
    expectations=(
        _expect("a process woke its session", _wakeups, 100),
        _expect("a wakeup was told of again", _told_again),
        _expect("the server was killed", _count("kill"), 2),
    ),
    examples=1,
)


def test_a_server_that_is_killed_under_traffic_loses_and_doubles_nothing(judge: Judge) -> None:
    """Whatever was acknowledged is there once, and what was removed is not."""
    assert judge(KILLED).is_valid


def test_a_server_that_is_told_to_go_under_traffic_leaves_in_good_order(judge: Judge) -> None:
    """It exits with 0 each time, and nothing is lost."""
    assert judge(GOING).is_valid


def test_a_server_that_may_hold_little_closes_nobody_at_work(judge: Judge) -> None:
    """Agents and sessions are let go while others run, and never those that run."""
    assert judge(EVICTED).is_valid


def test_a_server_whose_disk_refuses_forgets_no_wakeup(judge: Judge) -> None:
    """A wakeup that cannot be started is tried again, and a turn that cannot be saved is kept."""
    assert judge(REFUSED_DISK).is_valid


def test_many_sessions_are_woken_once_each_time_whatever_dies(judge: Judge) -> None:
    """Each completion wakes its own session, though some are told twice and the server dies."""
    assert judge(WOKEN).is_valid
