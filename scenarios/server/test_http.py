"""A whole server on trial, over HTTP: what one client was told stays true, through every death.

An episode is one folder's life: a few sessions, and every act once, in an order left to chance.
Each act waits for what it caused, so nothing is judged by how long it took. A run that may have
ended just as its server was killed may be marked or not; its relay comes to one end either way.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from harness.checkers.conformance import Fold, conforms
from harness.contract.models.conversation import CONFLICT
from harness.contract.models.server import ServerModel
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.client import RecordingClient
from harness.engine.context import Stage, Workload
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.targets.server.http import CURSORS
from harness.workloads.stateful import PromiseBrokenError
from scenarios.conftest import Judge

NAMES = ("s1", "s2", "s3")
TOKENS = 3
TALKS = (f"[tokens={TOKENS}]", f"[tokens={TOKENS}][tool]", f"[tokens={TOKENS}x4]")
HELD = f"[tokens={TOKENS}][sleep=900]"  # until somebody ends it
HUNG = f"[tokens={TOKENS}][hang]"  # even after that
FAILS = f"[tokens={TOKENS}][sleep=0.3][fail]"  # while it is read, as a rule


class Life:
    """One client's dealings with a server. Every act leaves all sessions idle."""

    def __init__(self, client: RecordingClient, rng: random.Random) -> None:
        self._client = client
        self._rng = rng
        self._fold = Fold(ServerModel())
        self._numbers = itertools.count(1)

    def ask(self, function: str, /, **argument: Any) -> Any:
        """Ask, and raise PromiseBrokenError if the model refuses the answer."""
        operation = self._client.ask(function, argument)
        if anomaly := self._fold.step(operation):
            raise PromiseBrokenError(anomaly)
        return operation.result

    def begin(self, session: str, script: str, how: str = "send") -> str:
        """Begin a turn, and look for its message on the disk; the run's name."""
        run = f"r{next(self._numbers)}"
        self.ask(how, session=session, run=run, text=f"{run} {script}")
        self.ask("disk", session=session)
        return run

    def hold(self, session: str, script: str = HELD) -> str:
        """Begin a turn that goes on, and see what it shows."""
        run = self.begin(session, script)
        self.ask("shown", run=run, tokens=TOKENS)
        return run

    def conclude(self, session: str, run: str) -> None:
        """Read the run to its end, and what it left."""
        self.ask("events", run=run, after=0)
        self.ask("wait_idle", session=session)
        self.look(session)

    def look(self, *sessions: str) -> None:
        """Read everything back."""
        for session in sessions or NAMES:
            self.ask("status", session=session)
            self.ask("messages", session=session)
            self.ask("disk", session=session)

    def any(self) -> str:
        """Any session."""
        return self._rng.choice(NAMES)

    # Acts

    def found(self) -> None:
        for session in NAMES:
            self.ask("new", session=session)

    def talk(self) -> None:
        session = self.any()
        run = self.begin(session, self._rng.choice(TALKS))
        self.conclude(session, run)
        after, by = self._rng.randint(1, TOKENS), self._rng.choice(CURSORS)
        self.ask("events", run=run, after=after, by=by)

    def fail(self) -> None:
        session = self.any()
        self.conclude(session, self.begin(session, FAILS))

    def cancel(self) -> None:
        session = self.any()
        run = self.hold(session)
        self.attach(session)
        self.look(session)
        self.ask("cancel", run=run)
        self.conclude(session, run)

    def hang(self) -> None:
        session = self.any()
        run = self.hold(session, HUNG)
        self.ask("cancel", run=run)
        self.attach(session)
        self.ask("events", run=run, after=0)
        self.ask("kill")
        self.look()

    def attach(self, session: str) -> None:
        """Look for a run in three places."""
        self.ask("status", session=session)
        self.ask("watch", session=session)
        self.ask("send", session=session, run="refused", text="one too many")

    def kill(self) -> None:
        for run in self.die("kill"):
            self.ask("events", run=run, after=0)

    def terminate(self) -> None:
        self.die("terminate")

    def die(self, how: str) -> tuple[str, str]:
        """End the server while one session is held by a run, one may have a run, and one has none.

        The run that held, and the short one.
        """
        held, short, _ = self._rng.sample(NAMES, 3)
        self.conclude(held, self.begin(held, TALKS[0]))  # so that there is something to lose
        runs = (self.hold(held), self.begin(short, TALKS[0]))
        self.ask(how)
        self.look()
        self.ask("sessions")
        return runs

    def wake(self) -> None:
        session = self.any()
        output = f"p{next(self._numbers)}"
        run = self.begin(session, f"[process=0.3:{output}]")
        self.ask("events", run=run, after=0)
        self.await_wakeup(session, output)

    def defer(self) -> None:
        session = self.any()
        output = f"p{next(self._numbers)}"
        self.begin(session, f"[process=0:{output}]{HELD}", "send_watched")
        self.ask(self._rng.choice(["kill", "terminate"]))
        self.await_wakeup(session, output)

    def await_wakeup(self, session: str, output: str) -> None:
        """Wait for what is owed, and until it is over."""
        self.ask("wakeups", session=session, outputs=[output])
        self.ask("wait_idle", session=session)
        self.look(session)

    def forget(self) -> None:
        cleared, deleted, _ = self._rng.sample(NAMES, 3)
        self.ask("clear", session=cleared)
        self.ask("delete", session=deleted)
        self.ask("sessions")
        self.ask("kill")
        self.ask("sessions")
        self.ask("new", session=deleted)
        self.look()


Act = Callable[[Life], None]


def live(*acts: Act) -> Workload:
    """Make the workload that lives so many lives, and stops at a proof."""

    def workload(stage: Stage) -> None:
        rng = stage.rng("lives")
        for _ in range(stage.examples):
            with stage.episode() as episode:
                life = Life(episode.client, rng)
                try:
                    for act in (Life.found, *rng.sample(acts, len(acts))):
                        act(life)
                except PromiseBrokenError:
                    return

    return workload


def _conflicts(history: History) -> int:
    return sum(op.function == "send" and op.result["status"] == CONFLICT for op in history.happened)


def _ended(name: str) -> Callable[[History], int]:
    def count(history: History) -> int:
        relays = (op for op in history.happened if op.function == "events")
        return sum(op.result["names"][-1:] == [name] for op in relays)

    return count


def _count(name: str, function: str) -> Expectation:
    return Expectation(name, lambda history: sum(op.function == function for op in history))


def _interrupted(history: History) -> int:
    read = (op for op in history.happened if op.function == "messages")
    return sum(mark == "interrupted" for op in read for _, _, mark in op.result["said"])


SERVED = Scenario(
    name="server-one-client",
    mode=Mode.HTTP,
    ability="http",
    promises=(
        *(Promise.S2, Promise.S6, Promise.S11, Promise.S13),
        *(Promise.T1, Promise.T2, Promise.T3, Promise.T4, Promise.W1, Promise.W2, Promise.W6),
        *(Promise.C1, Promise.C2, Promise.C3, Promise.C4, Promise.C6, Promise.C7),
    ),
    workload=live(
        *(Life.talk, Life.fail, Life.cancel, Life.hang, Life.kill, Life.wake, Life.forget),
        *(Life.talk, Life.cancel, Life.wake),
    ),
    checker=conforms(ServerModel()),
    expectations=(
        Expectation("a second turn was refused", _conflicts),
        Expectation("a run was done", _ended("stream_end")),
        Expectation("a run was cancelled", _ended("cancel")),
        Expectation("a run failed", _ended("apperror")),
        Expectation("a turn was interrupted", _interrupted),
        _count("a process woke its session", "wakeups"),
        _count("the user removed something", "clear"),
    ),
    examples=2,
)

STRUCK = Scenario(
    name="server-told-to-go",
    mode=Mode.CRASH,
    ability="http",
    promises=(Promise.H3, Promise.W4),
    workload=live(Life.talk, Life.terminate, Life.kill, Life.defer, Life.defer),
    checker=conforms(ServerModel()),
    expectations=(
        _count("the server was told to go", "terminate"),
        _count("the server was killed", "kill"),
        _count("a wakeup waited through a death", "send_watched"),
    ),
    examples=1,
)


def test_what_a_server_told_stays_true_whatever_kills_it(judge: Judge) -> None:
    """Messages, runs, relays and wakeups, as one client sees them from outside."""
    assert judge(SERVED).is_valid


def test_a_server_told_to_go_leaves_in_good_order(judge: Judge) -> None:
    """It exits with 0, loses nothing, and wakes afterwards whom it could not wake before."""
    assert judge(STRUCK).is_valid
