"""Scenario of a server with a memory provider: each boundary reaches it, and nothing else does.

A session is left for a new one, cleared, deleted, or its agent is evicted by those of others; the
provider refuses some sessions; at last the server is stopped with work that it cannot commit, and
another one while an agent ignores its cancel.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.memory_boundaries import (
    AMPLE_S,
    CACHE_MAX,
    TIGHT_S,
    MemoryBoundariesModel,
)
from harness.core.history import History, Operation, Outcome
from harness.engine.client import RecordingClient
from harness.engine.context import Context, Workload
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

ENDS = ("fail", "cancel", "aside")  # of turns that no memory is to have
WAYS = ("new", "clear", "delete", "evict")


class BrokenError(Exception):
    """An answer that the model refused; what follows cannot be judged."""


class Client:
    """One client that brings sessions to their boundaries."""

    def __init__(self, client: RecordingClient, rng: random.Random, *, goes_on: bool) -> None:
        self._client = client
        self._goes_on = goes_on
        self._fold = Fold(MemoryBoundariesModel())
        self._rng = rng
        self._numbers = itertools.count(1)

    def ask(self, function: str, **argument: Any) -> Operation:
        """Call a function; raises BrokenError where the model refuses it, and may not go on."""
        operation = self._client.ask(function, argument)
        if self._fold.step(operation) and (self._fold.is_lost or not self._goes_on):
            raise BrokenError
        return operation

    def new(self, previous: str | None = None) -> str:
        """Make a session; returns its name."""
        session = f"s{next(self._numbers)}"
        self.ask("new", session=session, previous=previous)
        return session

    def talk(self, turns: int = 1) -> str:
        """Make a session with completed turns; returns its name."""
        session = self.new()
        for _ in range(turns):
            self.ask("talk", session=session)
        return session

    def leave(self, session: str, way: str) -> None:
        """Bring a session to a boundary in that way, and look at what the provider got."""
        if way == "new":
            self.new(previous=session)
        elif way == "evict":
            for _ in range(CACHE_MAX):
                self.talk()
        else:
            self.ask(way, session=session)
        self.look()

    def look(self) -> None:
        """Ask for the requests that the provider got."""
        (state,) = self._fold.states
        self.ask("requests", expected=len(state.owed))

    def walk(self) -> None:
        """Every way, with a provider that answers and one that refuses; then a shutdown."""
        self.ask("boot", cache_max=CACHE_MAX)
        for way in self._rng.sample(WAYS, len(WAYS)):
            session = self.talk(turns=2)
            self.ask("rename", session=session)
            self.look()  # a turn commits nothing, nor does a change
            self.leave(session, way)
            if way in ("new", "clear"):
                self.leave(session, way)  # nothing is left to commit
        for way in self._rng.sample(("new", "clear", "evict"), 2):
            session = self.talk()
            self.ask("provider", refuses=[session])
            self.leave(session, way)
            self.ask("provider", refuses=[])
            self.leave(session, "new")
        sessions = [self.talk() for _ in range(CACHE_MAX)]
        self.ask("provider", refuses=sessions[:1])
        self.ask("stop")
        self.look()
        self.reopen(sessions)

    def reopen(self, sessions: list[str]) -> None:
        """Boot anew, and continue sessions of the former server: their new turns are committed."""
        self.ask("provider", refuses=[])
        self.ask("boot", cache_max=CACHE_MAX, drain_s=TIGHT_S)
        self.leave(sessions[-1], "new")  # nothing is new since it was committed
        for way in self._rng.sample(("new", "clear", "delete"), 2):
            session = sessions.pop()
            self.ask("talk", session=session)
            self.look()
            self.leave(session, way)
        if self.stop_beside_a_hang():  # as on a slow machine, so it gets more time
            self.ask("boot", cache_max=CACHE_MAX, drain_s=AMPLE_S)
            self.stop_beside_a_hang()

    def stop_beside_a_hang(self) -> bool:
        """Stop with work to commit while another agent hangs; returns whether some was left."""
        self.talk()
        self.ask("hang", session=self.new())
        stop = self.ask("stop")
        self.look()
        return stop.outcome is Outcome.OK and bool(stop.result["left"])


class TurnsClient(Client):
    """One client that also asks which turns the provider got."""

    def talk(self, turns: int = 1) -> str:
        """Make a session with completed turns; returns its name."""
        session = self.new()
        for _ in range(turns):
            self.say(session)
        self.hear()
        return session

    def say(self, session: str, end: str = "done") -> None:
        """Let a turn of the session end in that way."""
        self.ask("talk", session=session, text=f"t{next(self._numbers)}", end=end)

    def hear(self) -> None:
        """Ask for the turns that the provider accepted."""
        (state,) = self._fold.states
        self.ask("turns", expected=len(state.turns))

    def refused(self) -> str:
        """Make a session with a turn of each end that the provider refuses; returns its name."""
        session = self.talk()
        self.ask("provider", refuses=[session])
        for end in ("done", *ENDS):
            self.say(session, end)
        self.ask("refused_turns", expected=1)
        return session

    def accept(self, session: str) -> None:
        """Let the provider accept all at a boundary."""
        self.ask("provider", refuses=[])
        self.leave(session, "new")
        self.hear()

    def walk(self) -> None:
        """Turns of each end, and a provider that refuses some of them; then a shutdown."""
        self.ask("boot", cache_max=CACHE_MAX)
        for end in ENDS:
            session = self.talk()
            self.say(session, end)
            self.leave(session, "new")
            self.hear()
        session = self.refused()
        self.leave(session, "new")
        self.ask("refused_turns", expected=1)  # at the boundary, which therefore extracts nothing
        self.accept(session)
        # A boundary that was refused may not be over; a turn that ends meanwhile is extracted by
        # itself. So the next turn is that of another session.
        session = self.refused()
        self.ask("provider", refuses=[])
        self.say(session)
        self.accept(session)
        self.change_owner()
        self.talk(turns=2)
        self.ask("stop")
        self.look()
        self.hear()

    def change_owner(self) -> None:
        """Let a session's turns have two agents, and commit those of both at one boundary."""
        session = self.talk()
        self.ask("provider", refuses=[session], takes_turns=True)
        self.leave(session, "clear")
        self.say(session)
        self.hear()
        self.ask("provider", refuses=[])
        self.leave(session, "new")


def walked(make: type[Client]) -> Workload:
    """The workload in which such a client walks through all ways, in a random order."""

    def walk(context: Context) -> None:
        rng = context.rng("ways")
        for _ in range(context.examples):
            with context.episode() as episode:
                try:
                    make(episode.client, rng, goes_on=context.goes_on).walk()
                except BrokenError:
                    return

    return walk


def _requests(history: History) -> int:
    return sum(len(op.result) for op in history.happened.of("requests"))


def _turns(history: History) -> int:
    return sum(len(op.result) for op in history.happened.of("turns"))


def _owners(history: History) -> int:
    """The boundaries that committed the turns of several agents of one session."""
    asked = history.happened.of("requests")
    return sum(len(op.result) > len(set(op.result)) for op in asked)


def _left(history: History) -> int:
    return sum(len(op.result["left"]) for op in history.happened.of("stop"))


def _hangs(history: History) -> int:
    return len(history.happened.of("hang"))


MEMORY_BOUNDARIES = Scenario(
    name="server-memory-boundaries",
    mode=Mode.HTTP,
    ability="memory",
    promises=(promises.L6, promises.L7, promises.L11, promises.L12, promises.L15),
    workload=walked(Client),
    checker=conforms(MemoryBoundariesModel()),
    expectations=(
        Expectation("the provider got a request", _requests, len(WAYS)),
        Expectation("a shutdown left a session uncommitted", _left),
        Expectation("an agent ignored its cancel during a shutdown", _hangs),
    ),
    examples=1,
)


MEMORY_TURNS = Scenario(
    name="server-memory-turns",
    mode=Mode.HTTP,
    ability="memory_turns",
    promises=(promises.L12, promises.L15),
    workload=walked(TurnsClient),
    checker=conforms(MemoryBoundariesModel()),
    expectations=(
        Expectation("the provider got a request", _requests, len(ENDS)),
        Expectation("the provider got a turn", _turns, 2 * len(ENDS)),
        Expectation("a boundary committed turns of two agents", _owners),
    ),
    examples=1,
)


def test_each_boundary_reaches_the_provider(judge: Judge) -> None:
    """Each session with new turns is extracted once at its boundary, and at no other moment."""
    assert judge(MEMORY_BOUNDARIES).is_valid


def test_each_completed_turn_reaches_the_provider(judge: Judge) -> None:
    """Once, in order, before its session is extracted; none that was cancelled, failed or aside."""
    assert judge(MEMORY_TURNS).is_valid
