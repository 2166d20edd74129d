"""Scenario of the two paths of wakeups: a turn of their own, or the user's next turn; never both.

The paths are turned on and off by their settings, so a completion waits as long as it is to wait.
"""

from __future__ import annotations

import itertools

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.next_turn import NextTurnModel
from harness.core.history import History
from harness.engine.client import RecordingClient
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge


class BrokenError(Exception):
    """An answer that the model refused; what follows cannot be judged."""


class Client:
    """One client of a server that is killed and booted with other paths."""

    def __init__(self, client: RecordingClient) -> None:
        self._client = client
        self._fold = Fold(NextTurnModel())
        self._numbers = itertools.count(1)

    def ask(self, function: str, **argument: object) -> None:
        """Call a function; raises BrokenError where the model refuses the answer."""
        if self._fold.step(self._client.ask(function, argument)):
            raise BrokenError

    def spawn(self, session: str) -> None:
        """Let a process end that nothing delivers yet."""
        (state,) = self._fold.states
        waiting = {name: len(known.waiting) for name, known in state.sessions}
        joined = waiting[session] if state.joins else 0
        word, count = f"w{next(self._numbers)}", sum(waiting.values()) - joined + 1
        self.ask("spawn", session=session, word=word, waiting=count)

    def talk(self, session: str, *, is_held: bool = False) -> None:
        """Begin a turn of the user."""
        self.ask("talk", session=session, text=f"t{next(self._numbers)}", is_held=is_held)

    def delete_awaiting(self, session: str) -> None:
        """Delete a session in which a completion waits."""
        self.ask("new", session=session)
        self.spawn(session)
        (state,) = self._fold.states
        waiting = sum(len(known.waiting) for name, known in state.sessions if name != session)
        self.ask("delete", session=session, waiting=waiting)

    def look(self) -> None:
        """Read both sessions."""
        for session in ("s1", "s2"):
            self.ask("look", session=session)

    def walk(self) -> None:
        """Deliver by the next turn, by neither path, by a turn that a kill ends, and when idle."""
        self.ask("boot", idle=False, joins=True)
        for session in ("s1", "s2"):
            self.ask("new", session=session)
        for _ in range(2):
            self.spawn("s1")  # the second one takes along what the first one left
        self.spawn("s2")
        self.delete_awaiting("s3")
        self.look()
        for session in ("s1", "s1", "s2"):  # the second turn of a session finds nothing
            self.talk(session)
            self.look()
        self.ask("boot", idle=False, joins=False)
        for session in ("s1", "s1", "s2"):
            self.spawn(session)
            self.talk(session)
        self.delete_awaiting("s4")
        self.look()
        self.ask("boot", idle=False, joins=True)
        self.talk("s1", is_held=True)
        self.ask("boot", idle=True, joins=True)
        self.ask("settle")
        self.look()
        self.talk("s1")
        self.look()


def walk(context: Context) -> None:
    """Walk through all paths."""
    for _ in range(context.examples):
        with context.episode() as episode:
            try:
                Client(episode.client).walk()
            except BrokenError:
                return


def _wakeups(history: History) -> int:
    looks = history.happened.of("look")
    return max((sum(row[0] == "wakeup" for row in op.result) for op in looks), default=0)


NEXT_TURN = Scenario(
    name="server-next-turn",
    mode=Mode.HTTP,
    ability="next_turn",
    promises=(promises.W1, promises.W3, promises.W4, promises.W9, promises.S2),
    workload=walk,
    checker=conforms(NextTurnModel()),
    expectations=(Expectation("a session got all its wakeups", _wakeups, 3),),
    examples=1,
)


def test_one_path_delivers_each_completion(judge: Judge) -> None:
    """A completion is delivered once, by the path that the settings leave it."""
    assert judge(NEXT_TURN).is_valid
