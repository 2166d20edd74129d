"""Churn: sessions that come, are used in all ways, and go, for as long as somebody counts.

A population of sessions stays about as large; each is replaced after a while. Some tabs stay open
and read nothing. Each act is one operation, asked one after another, so the same chance asks the
same questions, however fast the target is.

With each sample two controls are told: `sessions` is how many there ever were, as a container with
one entry for each would grow; `cached` is the size of a cache that is as large as any on trial.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from harness.core.history import Operation

Ask = Callable[[str, dict[str, Any]], Operation]

POPULATION = 10
CACHE_TURNS = 256
TABS = 3
TALKS = ("good morning", "[tokens=5]", "[tokens=5][tool]", "[tokens=3x2]", "[tool][fail]")
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
    """One life of a target: acts, and how many there were."""

    def __init__(self, ask: Ask, rng: random.Random) -> None:
        """Make a population."""
        self._ask = ask
        self._rng = rng
        self._names: list[str] = []
        self._tabs: list[str] = []
        self.operations = self.sessions = self.turns = 0
        for _ in range(POPULATION):
            self._make()
        self._act("open_tab", tab="all")

    def step(self) -> None:
        """One act, or a few that belong together."""
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
                self._switch_tab()
            case "noise":
                self._act("noise", source="cron")
            case "rest":
                self._act("rest")

    def sample(self, **told: Any) -> Operation:
        """Read the sizes; no operation of its own."""
        cached = min(self.turns, CACHE_TURNS)
        controls = {"sessions": self.sessions, "cached": cached}
        return self._ask("sample", {"operations": self.operations, **controls, **told})

    def _any(self) -> str:
        return self._rng.choice(self._names)

    def _make(self, **told: str) -> None:
        name = f"s{self.sessions}"
        self.sessions += 1
        self._act("new", session=name, **told)
        self._names.append(name)

    def _switch_tab(self) -> None:
        """Open a tab on a session; the oldest is closed."""
        tab = f"t{self.operations}"
        self._act("open_tab", tab=tab, session=self._any())
        self._tabs.append(tab)
        if len(self._tabs) > TABS:
            self._act("close_tab", tab=self._tabs.pop(0))

    def _act(self, function: str, **argument: Any) -> Operation:
        self.operations += 1
        self.turns += TURNS.get(function, 0)
        return self._ask(function, argument)
