"""The users of the chaos scenarios: what each client does, by its own random choices."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.contract.agent_script import HANG, TOOL, Process, Tokens, braced, sleep
from harness.contract.checkers.server.client_history import TERMINAL
from harness.contract.checkers.server.wakeup_delivery import WAKEUPS_MAX
from harness.contract.workloads.chaos import Chaos
from harness.core.history import Operation, Outcome

ACCEPTED = 200
TOKEN = f"{Tokens(1).directive}"
HELD = f"{Tokens(3).directive}{sleep(900)}{TOKEN}"  # until it is cancelled
HUNG = f"{TOKEN}{HANG}"  # until its agent is closed
TALKS = (
    f"{Tokens(3).directive}",
    f"{Tokens(2).directive}{TOOL}",
    f"{TOKEN}{sleep(0.03)}{Tokens(2).directive}",
    f"{Tokens(20).directive}",
)
ACTS_MAX = 400
TRIES_MAX = 200
UNKNOWN_STREAM = "0" * 32
PROCESSES = 3  # in each session
FAT = "x" * (64 << 10)


@dataclass
class User:
    """One of several users that share sessions."""

    chaos: Chaos
    sessions: Sequence[str]
    rng: random.Random
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        client = self.chaos.client()
        self.ask = client.ask
        self.number = client.number
        self.cursors: dict[str, str] = {}

    # Acts

    def run(self, acts: Sequence[Act], least: int) -> None:
        """Perform random acts until the faults are over, `least` acts at least."""
        for done in range(ACTS_MAX):
            if self.chaos.faults_are_over and done >= least:
                return
            self.rng.choice(acts)(self)

    def any(self) -> str:
        """Choose a session."""
        return self.rng.choice(self.sessions)

    def send(self, session: str, script: str) -> Operation:
        """Send a unique message."""
        return self.ask(
            "send", session=session, text=f"u{self.number}.{next(self.numbers)} {script}"
        )

    def insist(self, session: str, script: str) -> Operation:
        """Send a unique message until it is admitted, or its outcome is unknown."""
        text = f"u{self.number}.{next(self.numbers)} {script}"
        for _ in range(TRIES_MAX):
            sent = self.ask("send", session=session, text=text)
            if is_accepted(sent) or sent.outcome is Outcome.INFO:
                break
        return sent

    def relay(self, run: str, after: str | None = None, **options: Any) -> list[list[str]]:
        """Read a run's stream; returns its rows."""
        argument = {"run": run, "after": after, "leave": None, "stall": False, **options}
        relay = self.ask("relay", **argument)
        return relay.result["rows"] if relay.outcome is Outcome.OK else []

    def talk(self) -> None:
        """Send a message, and read the reply in one of several ways."""
        sent = self.send(self.any(), self.rng.choice(TALKS))
        if is_accepted(sent):
            self.follow(sent.result["run"])

    def follow(self, run: str) -> None:
        """Read a run: at once, in parts, after a stall, from a foreign cursor, or not at all."""
        match self.rng.randrange(6):
            case 0:
                self.relay(run, stall=True)
            case 1:
                self.relay(run, after=f"{UNKNOWN_STREAM}:{self.rng.randint(1, 9)}")
            case 2:
                return
            case 3:
                rows = self.relay(run, leave=self.rng.randint(1, 4))
                self.relay(run, after=last_id(rows))
            case _:
                rows = self.relay(run)
                self.reconnect(run, rows)

    def reconnect(self, run: str, rows: list[list[str]]) -> None:
        """Read what was missed, at once, as every page does after a restart."""
        session = self.any()
        self.ask("status", session=session)
        if any(name in TERMINAL for _, name, _ in rows):
            self.relay(run, after=self.rng.choice(rows)[0])
        else:
            self.relay(run, after=last_id(rows))
            self.ask("read", session=session)

    def cancel(self) -> None:
        """Begin a turn, perhaps one that never ends by itself, and cancel it at any moment."""
        sent = self.send(self.any(), self.rng.choice((HELD, HELD, *TALKS)))
        if not is_accepted(sent):
            return
        run = sent.result["run"]
        if shown := self.rng.randrange(3):
            self.relay(run, leave=shown)
        if self.rng.random() < 0.5:
            self.ask("offered", session=sent.argument["session"])
        while True:
            cancel = self.ask("cancel", run=run)
            if cancel.outcome is not Outcome.INFO or self.chaos.faults_are_over:
                break
        self.ask("offered", session=sent.argument["session"])
        self.relay(run)

    def cut(self) -> None:
        """Read a session, and remove some or all of its messages."""
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
        """Make one of the calls that a page makes when it reconnects."""
        session = self.any()
        match self.rng.randrange(4):
            case 0:
                self.ask("read", session=session)
            case 1:
                self.ask("sessions")
            case 2:
                self.ask("runs")
            case _:
                self.ask("status", session=session)

    def watch(self) -> None:
        """Read a session's notices from the last cursor, and acknowledge each end twice."""
        session = self.any()
        watch = self.ask("watch", session=session, after=self.cursors.get(session))
        rows = watch.result["rows"] if watch.outcome is Outcome.OK else []
        if (last := last_id(rows)) is not None:
            self.cursors[session] = last
        for _, name, _, task, _ in rows:
            if name == "bg_task_complete":
                self.ask("acknowledge", session=session, task=task)
                self.ask("acknowledge", session=session, task=task)

    def spawn(self) -> None:
        """Start processes that end during the turn, and after it."""
        script = f"{self.processes(2)}{TOKEN}{self.rng.choice(TALKS)}"
        sent = self.insist(self.any(), script)
        if is_accepted(sent):
            self.follow(sent.result["run"])

    def expect(self) -> None:
        """Start a watched process that prints a line three times."""
        lines = "\n".join([f"hit {self.word()}"] * 3)
        process = Process(0.02, lines, watch="hit")
        self.insist(self.any(), f"{process.directive}{TOKEN}")

    def turn_over(self) -> None:
        """Begin a new session after another one, which commits that one's memory."""
        self.ask("new", session=f"t{self.number}.{next(self.numbers)}", previous=self.any())

    def fatten(self) -> None:
        """Send a large message that starts a process which ends a little later."""
        process = Process(0.2, self.word())
        sent = self.insist(self.any(), f"{process.directive}{TOKEN}{FAT}")
        if is_accepted(sent):
            self.relay(sent.result["run"])

    def start_processes(self) -> None:
        """Start some processes in each session, and wait behind many wakeups in one of them."""
        for session in self.sessions:
            sent = self.insist(session, f"{self.processes(PROCESSES)}{TOKEN}")
            if is_accepted(sent):
                self.relay(sent.result["run"])
        self.outlast(self.any())

    def outlast(self, session: str) -> None:
        """Retry a send while one wakeup after another begins."""
        pause = braced(str(sleep(0.1)))
        many = (Process(0, f"{pause}{self.word()}") for _ in range(2 * WAKEUPS_MAX))
        script = "".join(str(process.directive) for process in many)
        if is_accepted(self.insist(session, f"{script}{TOKEN}")):
            self.insist(session, TOKEN)

    def word(self) -> str:
        """Make a word that only one process prints."""
        return f"w{self.number}{next(self.numbers):05}"

    def processes(self, count: int) -> str:
        """Make directives that start processes which end sooner or later."""
        delays_s = (self.rng.choice((0, 0.02, 0.1, 0.3)) for _ in range(count))
        return "".join(str(Process(delay_s, self.word()).directive) for delay_s in delays_s)

    def come_and_go(self) -> None:
        """Make a session, send a message to it, and delete it."""
        session = f"t{self.number}.{next(self.numbers)}"
        if self.ask("new", session=session).outcome is not Outcome.OK:
            return
        sent = self.send(session, self.rng.choice(TALKS))
        while True:
            delete = self.ask("delete", session=session)
            if delete.outcome is not Outcome.INFO or not is_accepted(sent):
                break
        self.ask("sessions")


Act = Callable[[User], None]


def is_accepted(sent: Operation) -> bool:
    """Whether a send began a turn."""
    return sent.outcome is Outcome.OK and sent.result["status"] == ACCEPTED


def last_id(rows: Sequence[Sequence[Any]]) -> str | None:
    """The last id in a stream's rows: the cursor at which to resume."""
    return next((row[0] for row in reversed(rows) if row[0]), None)
