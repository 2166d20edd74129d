"""Creates, uses and deletes sessions in all ways, for soak tests.

The population of sessions keeps its size; each session is replaced after a while. Some readers stay
connected and read nothing. Each act is one operation, one after another, so that a seed makes the
same calls on a target of any speed.

Each sample comes with two controls: `sessions` is the number of sessions ever created, which a
container with one entry for each would follow; `cached` is the size of a cache as large as any of
the target.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from harness.contract.agent_script import FAIL, TOOL, Tokens
from harness.core.history import Operation

Ask = Callable[[str, dict[str, Any]], Operation]

POPULATION = 10
CACHE_TURNS = 256
READERS = 3
TALKS = (
    "good morning",
    f"{Tokens(5).directive}",
    f"{Tokens(5).directive}{TOOL}",
    f"{Tokens(3, threads=2).directive}",
    f"{TOOL}{FAIL}",
)
TURNS = {"chat": 1, "process": 2, "cancel": 1}
WEIGHTS = {
    "chat": 48,
    "process": 8,
    "cancel": 4,
    "reopen": 10,
    "clear": 2,
    "turn_over": 12,  # a new session, and an old one is deleted
    "switch_tab": 4,
    "noise": 6,
    "rest": 6,
}


class Churn:
    """The acts of one run, and their counts."""

    def __init__(self, ask: Ask, rng: random.Random) -> None:
        """Create the population."""
        self._ask = ask
        self._rng = rng
        self._names: list[str] = []
        self._readers: list[str] = []
        self.operations = self.sessions = self.turns = 0
        for _ in range(POPULATION):
            self._make()
        self._act("open_tab", tab="all")

    def step(self) -> None:
        """Perform one act, or a few that belong together."""
        act = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        match act:
            case "chat":
                self._act("chat", session=self._any(), text=self._rng.choice(TALKS))
            case "process" | "cancel" | "reopen" | "clear":
                self._act(act, session=self._any())
            case "turn_over":
                self._make(previous=self._any())
                name = self._names.pop(self._rng.randrange(len(self._names) - 1))
                self._act("delete", session=name)
            case "switch_tab":
                self._switch_reader()
            case "noise":
                self._act("noise", source="cron")
            case "rest":
                self._act("rest")

    def sample(self, **more: Any) -> Operation:
        """Sample the sizes; does not count as an operation."""
        cached = min(self.turns, CACHE_TURNS)
        controls = {"sessions": self.sessions, "cached": cached}
        return self._ask("sample", {"operations": self.operations, **controls, **more})

    def _any(self) -> str:
        return self._rng.choice(self._names)

    def _make(self, **more: str) -> None:
        name = f"s{self.sessions}"
        self.sessions += 1
        self._act("new", session=name, **more)
        self._names.append(name)

    def _switch_reader(self) -> None:
        """Open a reader on a session, and close the oldest of too many."""
        tab = f"t{self.operations}"
        self._act("open_tab", tab=tab, session=self._any())
        self._readers.append(tab)
        if len(self._readers) > READERS:
            self._act("close_tab", tab=self._readers.pop(0))

    def _act(self, function: str, **argument: Any) -> Operation:
        self.operations += 1
        self.turns += TURNS.get(function, 0)
        return self._ask(function, argument)
