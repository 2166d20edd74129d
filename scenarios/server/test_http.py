"""Scenarios of one client of a whole server over HTTP, through kills and terminations.

An episode is one state folder: a few sessions, and every act once, in a random order. Each act
waits for its effects, so no checker judges times. A run that may have ended when its server was
killed may be marked or not; its relay has one terminal event either way.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.agent_script import FAIL, HANG, TOOL, Process, Tokens, linger, sleep
from harness.contract.checkers.server.back_to_zero import resting
from harness.contract.models.conversation import CONFLICT
from harness.contract.models.server import ServerModel
from harness.core.history import History
from harness.engine.client import RecordingClient
from harness.engine.context import Context, Workload
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.targets.server.http import CURSORS
from harness.targets.server.lifecycle import INDEX_DAMAGES
from harness.workloads.stateful import PromiseBrokenError

NAMES = ("s1", "s2", "s3")
TOKENS = 3
TURNLESS = "turnless"
OUTLIVES_S = 1.5  # longer than a kill and a boot
SHOWN = f"{Tokens(TOKENS).directive}"
TALKS = (SHOWN, f"{SHOWN}{TOOL}", f"{Tokens(TOKENS, threads=4).directive}")
HELD = f"{SHOWN}{sleep(900)}"  # until it is cancelled
HUNG = f"{SHOWN}{HANG}"  # until its agent is closed
FAILS = f"{SHOWN}{FAIL}"
LINGERS = f"{SHOWN}{linger(0.4)}"  # for a while after it was cancelled
LINGERS_AND_FAILS = f"{SHOWN}{linger(0.4, fails=True)}"
OUTLASTS = f"{SHOWN}{sleep(0.7)}"  # what lingers
FAILURES = (FAILS, f"{FAIL}")  # after some tokens, or before the first
FAILS_LATE = f"{SHOWN}{sleep(0.3)}{FAIL}"  # usually while it is read
UNDONE_SHARE = 0.5  # of the cancelled turns

READS = ("status", "messages", "disk", "views", "copies")
CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rename", {"title": "plans"}),
    ("rename", {"title": "notes"}),
    ("undo", {}),
    ("truncate", {"keep": 1}),
    ("clear", {}),
)


class User:
    """One client of a server. Every act leaves all sessions idle."""

    def __init__(self, client: RecordingClient, rng: random.Random, *, goes_on: bool) -> None:
        self._client = client
        self._rng = rng
        self._goes_on = goes_on
        self._fold = Fold(ServerModel())
        self._numbers = itertools.count(1)

    def ask(self, function: str, /, **argument: Any) -> Any:
        """Call a function; the result.

        Raises PromiseBrokenError if the model rejects the result, and the user cannot go on.
        """
        operation = self._client.ask(function, argument)
        anomaly = self._fold.step(operation)
        if anomaly and (self._fold.is_lost or not self._goes_on):
            raise PromiseBrokenError(anomaly)
        return operation.result

    def renew(self) -> None:
        """Make each session anew whose content is not known since an anomaly."""
        unknown = {
            name
            for state in self._fold.states
            for name, session in state.sessions
            if session.is_unknown
        }
        for session in sorted(unknown):
            self.ask("delete", session=session)
            self.ask("new", session=session)

    def begin(self, session: str, script: str, function: str = "send") -> str:
        """Begin a turn, and read its message from disk; returns the run's name."""
        run = f"r{next(self._numbers)}"
        self.ask(function, session=session, run=run, text=f"{run} {script}")
        self.ask("disk", session=session)
        return run

    def hold(self, session: str, script: str = HELD) -> str:
        """Begin a turn that does not end by itself, and read its tokens."""
        run = self.begin(session, script)
        self.ask("shown", run=run, tokens=TOKENS)
        return run

    def conclude(self, session: str, run: str) -> None:
        """Read the run to its end, and what it stored."""
        self.ask("events", run=run, after=0)
        self.ask("wait_idle", session=session)
        self.look(session)

    def look(self, *sessions: str) -> None:
        """Read everything back in a random order, as the first read may repair or spoil it."""
        for session in sessions or NAMES:
            for function in self._rng.sample(READS, len(READS)):
                self.ask(function, session=session)

    def any(self) -> str:
        """Choose a session."""
        return self._rng.choice(NAMES)

    # Acts

    def make_sessions(self) -> None:
        for session in NAMES:
            self.ask("new", session=session)

    def talk(self) -> None:
        session = self.any()
        first = self.begin(session, self._rng.choice(TALKS))
        self.ask("events", run=first, after=0)
        run = self.begin(session, self._rng.choice(TALKS))  # at once
        self.conclude(session, run)
        after, by = self._rng.randint(1, TOKENS), self._rng.choice(CURSORS)
        self.ask("events", run=run, after=after, by=by)

    def fail(self) -> None:
        session = self.any()
        self.conclude(session, self.hold(session, FAILS_LATE))
        self.conclude(session, self.begin(session, self._rng.choice(FAILURES)))

    def cancel(self) -> None:
        """Cancel a turn, and change its session before its agent has unwound."""
        session = self.any()
        run = self.hold(session, LINGERS)
        self.attach(session)
        self.look(session)
        self.ask("cancel", run=run)
        self.ask("rename", session=session, title=f"after {run}")
        if self._rng.random() < UNDONE_SHARE:
            self.ask("undo", session=session)
        self.conclude(session, run)

    def replace(self) -> None:
        """Cancel a turn whose agent goes on for a while, and begin another one meanwhile.

        The first agent ends, or fails, while the second turn is under way.
        """
        for session, script in zip(
            self._rng.sample(NAMES, 2), (LINGERS, LINGERS_AND_FAILS), strict=True
        ):
            held = self.hold(session, script)
            self.ask("cancel", run=held)
            self.ask("events", run=held, after=0)
            self.ask("messages", session=session)
            run = f"r{next(self._numbers)}"
            argument = {"session": session, "run": run, "text": f"{run} {OUTLASTS}"}
            sent = self.ask("send", **argument)
            if sent is not None and sent["status"] == CONFLICT:
                self.ask("wait_idle", session=session)
                self.ask("send", **argument)
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
        """Look for the active run in three places."""
        self.ask("status", session=session)
        self.ask("watch", session=session)
        self.ask("send", session=session, run="refused", text="one too many")

    def kill(self) -> None:
        for run in self.end_server("kill"):
            self.ask("events", run=run, after=0)

    def terminate(self) -> None:
        self.end_server("terminate")

    def end_server(self, function: str) -> tuple[str, str]:
        """End the server while one session has a held run, one may have a run, and one has none.

        Returns the held run and the short one.
        """
        held, short, _ = self._rng.sample(NAMES, 3)
        self.conclude(held, self.begin(held, TALKS[0]))  # so that there is something to lose
        runs = (self.hold(held), self.begin(short, TALKS[0]))
        self.ask(function)
        self.look()
        self.ask("sessions")
        return runs

    def wake(self) -> None:
        session = self.any()
        output = f"p{next(self._numbers)}"
        run = self.begin(session, f"{Process(0.3, output).directive}")
        self.ask("events", run=run, after=0)
        self.wait_for_wakeup(session, output)

    def defer(self) -> None:
        session = self.any()
        output = f"p{next(self._numbers)}"
        self.begin(session, f"{Process(0, output).directive}{HELD}", "send_watched")
        self.ask(self._rng.choice(["kill", "terminate"]))
        self.wait_for_wakeup(session, output)

    def outlive(self) -> None:
        """Kill the server while a process runs; the next server wakes its session."""
        session = self.any()
        output = f"p{next(self._numbers)}"
        run = self.begin(session, f"{Process(OUTLIVES_S, output).directive}")
        self.ask("events", run=run, after=0)
        self.ask("wait_idle", session=session)
        self.ask("kill")
        self.wait_for_wakeup(session, output)

    def wait_for_wakeup(self, session: str, output: str) -> None:
        """Wait for a wakeup, and for the end of its turn."""
        self.ask("wakeups", session=session, outputs=[output])
        self.ask("wait_idle", session=session)
        self.look(session)

    def remove(self) -> None:
        cleared, deleted, _ = self._rng.sample(NAMES, 3)
        self.ask("clear", session=cleared)
        self.ask("delete", session=deleted)
        self.ask("sessions")
        self.ask("kill")
        self.ask("sessions")
        self.ask("new", session=deleted)
        self.look()

    def change(self) -> None:
        """Make every change of a session once; each route has just shown what is changed."""
        session = self.any()
        for script in TALKS[:2]:
            self.conclude(session, self.begin(session, script))
        for function, argument in CHANGES:
            self.ask("views", session=session)
            self.ask(function, session=session, **argument)
            self.ask("views", session=session)
            self.ask("copies", session=session)

    def cut(self) -> None:
        """Remove messages of each session in another way, kill the server, and read the rest.

        Two of them go on before the kill: what they say then must not be taken for what was
        removed, nor bring it back. The index is damaged while no server runs, and the database has
        older replies, as many as the sidecars, and older titles, also of a session without turns.
        """
        self.ask("new", session=TURNLESS)
        self.ask("rename", session=TURNLESS, title=f"about {next(self._numbers)}")
        for session in NAMES:
            self.ask("delete", session=session)
            self.ask("new", session=session)
            for _ in range(2):
                self.conclude(session, self.begin(session, SHOWN))
        ways: list[tuple[str, dict[str, Any]]] = [
            ("truncate", {"keep": 1}),
            ("undo", {}),
            ("clear", {}),
        ]
        for session, (function, argument) in zip(NAMES, ways, strict=True):
            self.ask(function, session=session, **argument)
        for session in self._rng.sample(NAMES, 2):
            self.conclude(session, self.begin(session, SHOWN))
        self.ask("kill", index=self._rng.choice([*INDEX_DAMAGES]), lags=True)
        self.ask("sessions")
        self.ask("copies", session=TURNLESS)
        self.ask("delete", session=TURNLESS)
        self.look()


Act = Callable[[User], None]


def random_order(*acts: Act) -> Workload:
    """Make the workload that performs these acts in random orders; an anomaly ends its episode."""

    def workload(context: Context) -> None:
        rng = context.rng("orders")
        for _ in range(context.examples):
            with context.episode() as episode:
                user = User(episode.client, rng, goes_on=context.goes_on)
                try:
                    for act in (User.make_sessions, *rng.sample(acts, len(acts))):
                        act(user)
                        user.renew()
                except PromiseBrokenError:
                    if not context.goes_on:
                        return

    return workload


def _conflicts(history: History) -> int:
    return sum(op.function == "send" and op.result["status"] == CONFLICT for op in history.happened)


def _ended(name: str) -> Callable[[History], int]:
    def count(history: History) -> int:
        relays = history.happened.of("events")
        return sum(op.result["names"][-1:] == [name] for op in relays)

    return count


def _count(name: str, function: str) -> Expectation:
    return Expectation(name, lambda history: len(history.happened.of(function)))


def _interrupted(history: History) -> int:
    read = history.happened.of("messages")
    return sum(mark == "interrupted" for op in read for _, _, mark in op.result["said"])


ONE_CLIENT = Scenario(
    name="server-one-client",
    mode=Mode.HTTP,
    ability="http",
    promises=(
        *(promises.S2, promises.S6, promises.S11, promises.S13, promises.S14, promises.S15),
        *(
            promises.T1,
            promises.T2,
            promises.T3,
            promises.T4,
            promises.T8,
            promises.W1,
            promises.W2,
            promises.W6,
        ),
        *(promises.C1, promises.C2, promises.C3, promises.C4, promises.C6, promises.C7),
    ),
    workload=random_order(
        *(User.talk, User.fail, User.cancel, User.hang, User.kill, User.wake, User.remove),
        *(User.talk, User.cancel, User.replace, User.wake, User.change, User.cut),
    ),
    checker=resting(conforms(ServerModel())),
    expectations=(
        Expectation("a second turn was refused", _conflicts),
        Expectation("a run was done", _ended("stream_end")),
        Expectation("a run was cancelled", _ended("cancel")),
        Expectation("a run failed", _ended("apperror")),
        Expectation("a turn was interrupted", _interrupted),
        _count("a process woke its session", "wakeups"),
        _count("messages were removed", "clear"),
        _count("a session was renamed", "rename"),
    ),
    examples=1,
)

TERMINATED = Scenario(
    name="server-terminated",
    mode=Mode.CRASH,
    ability="http",
    promises=(promises.H3, promises.W4, promises.W12),
    workload=random_order(
        *(User.talk, User.terminate, User.kill, User.defer, User.defer, User.outlive)
    ),
    checker=resting(conforms(ServerModel())),
    expectations=(
        _count("the server was terminated", "terminate"),
        _count("the server was killed", "kill"),
        _count("a wakeup was pending during a kill", "send_watched"),
    ),
    examples=1,
)


def test_server_results_hold_through_kills(judge: Judge) -> None:
    """Messages, runs, streams and wakeups, as one client observes them."""
    assert judge(ONE_CLIENT).is_valid


def test_terminated_server_exits_cleanly(judge: Judge) -> None:
    """It exits with 0, loses nothing, and delivers pending wakeups after the next boot."""
    assert judge(TERMINATED).is_valid
