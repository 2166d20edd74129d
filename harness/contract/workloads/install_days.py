"""Generates the acts in an install, hour by hour: users by day, cron jobs and gateways always.

The population keeps its size: a session that was used up is left and deleted, and another replaces
it. So growth of a container is a leak. An hour is a list of acts, each at its second; a seed gives
the same hours. Knows no target and no clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from harness.contract.agent_script import Process, Tokens, sleep

HOUR_S = 3600.0
QUIET_S = 120.0  # at an hour's end, so that the effects of an act are observed in its hour
ROTATION_S = 14 * 60.0
# The share of a day's use that falls into each hour.
RHYTHM = (1, 0, 0, 0, 0, 1, 2, 4, 6, 8, 8, 6, 4, 6, 8, 8, 8, 6, 4, 4, 6, 6, 4, 2)
CRON_SAYS = 10
GATEWAY_SAYS = 6

Act = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Install:
    """The size of an install, and its use per day. `pace_s` is the length of its hour."""

    web: int  # sessions in use, of up to `turns_max` turns
    archived: int  # sessions that are only read, of `archived_says` messages
    gateway: int  # sessions of up to `gateway_max` messages
    cron: int  # sessions, of which the next one replaces the oldest
    turns_max: int
    archived_says: int
    gateway_max: int
    agents_max: int
    sessions_max: int
    chats: int
    processes: int
    clears: int
    tabs: int
    gateway_talks: int
    pace_s: float = HOUR_S

    def hurried(self, pace_s: float) -> Install:
        """The same install and use, with shorter hours."""
        return replace(self, pace_s=pace_s)

    @property
    def sessions(self) -> int:
        """The number of sessions at any time."""
        return self.web + self.archived + self.gateway + self.cron


SMALL = Install(
    web=12,
    archived=4,
    gateway=4,
    cron=12,
    turns_max=12,
    archived_says=60,
    gateway_max=24,
    agents_max=4,
    sessions_max=8,
    chats=200,
    processes=24,
    clears=8,
    tabs=36,
    gateway_talks=36,
)
LARGE = Install(
    web=85,
    archived=35,
    gateway=30,
    cron=465,
    turns_max=12,
    archived_says=940,
    gateway_max=90,
    agents_max=25,
    sessions_max=100,
    chats=90,
    processes=24,
    clears=4,
    tabs=48,
    gateway_talks=48,
)
"""615 sessions with 40,000 messages; thirty thousand more come and go in 30 days."""


class Days:
    """The acts of one install, with counts of operations, created sessions and turns so far."""

    def __init__(self, install: Install, rng: random.Random) -> None:
        self.install = install
        self._rng = rng
        self.made = 0
        self.turns = 0
        self.operations = 0
        self.furnished: list[tuple[str, str, int]] = []
        """Every session at the beginning: name, source, number of messages."""
        self._turns: dict[str, int] = {}
        for _ in range(install.web):
            turns = rng.randrange(install.turns_max)
            self._furnish(self._new(turns), "webui", 2 * turns)
        self._archived = [f"a{number}" for number in range(install.archived)]
        for name in self._archived:
            self._furnish(name, "webui", install.archived_says)
        self._gateway: dict[str, int] = {}
        for number in range(install.gateway):
            self._gateway[f"g{number}"] = rng.randrange(6, install.gateway_max, GATEWAY_SAYS)
            self._furnish(f"g{number}", "telegram", self._gateway[f"g{number}"])
        self._cron = [f"c{number}" for number in range(install.cron)]
        for name in self._cron:
            self._furnish(name, "cron", CRON_SAYS)
        self._crons = len(self._cron)
        self._readers: list[str] = []
        self._readers_made = 0

    def _furnish(self, name: str, source: str, count: int) -> None:
        self.furnished.append((name, source, count))

    def _new(self, turns: int = 0) -> str:
        name = f"w{self.made}"
        self.made += 1
        self._turns[name] = turns
        return name

    # Hours

    def hour(self, number: int) -> list[Act]:
        """The acts of an hour, in order."""
        acts = [act for moment in self._moments(number) for act in moment]
        self.operations += len(acts)
        return acts

    def _moments(self, number: int) -> Iterator[list[Act]]:
        """Groups of acts, in order of their times."""
        install = self.install
        share = RHYTHM[number % len(RHYTHM)] / sum(RHYTHM)
        kinds = (
            *[self._chat] * self._count(install.chats * share),
            *[self._process] * self._count(install.processes * share),
            *[self._clear] * self._count(install.clears * share),
            *[self._open_reader] * self._count(install.tabs * share),
            *[self._talk] * self._count(install.gateway_talks / len(RHYTHM)),
            *[self._run_cron] * 2,
        )
        times = sorted(self._rng.uniform(0.0, HOUR_S - QUIET_S) for _ in kinds)
        for at, act in zip(times, self._rng.sample(kinds, len(kinds)), strict=True):
            yield [{"at": self._paced(at), **fields} for fields in act()]

    def _count(self, expected: float) -> int:
        """A random whole number with the mean `expected`."""
        return int(expected + self._rng.random())

    def _paced(self, seconds: float) -> float:
        return round(seconds * self.install.pace_s / HOUR_S, 6)

    # Acts

    def _chat(self) -> Iterator[Act]:
        pause_s = self._paced(self._rng.uniform(2.0, 40.0))
        yield from self._ask(f"{Tokens(3).directive}{sleep(pause_s)}")

    def _process(self) -> Iterator[Act]:
        pause_s = self._paced(self._rng.uniform(5.0, 900.0))
        process = Process(pause_s, "ready", exit_code=self._rng.randrange(2))
        yield from self._ask(f"{process.directive}")

    def _ask(self, text: str) -> Iterator[Act]:
        """Run a turn in a session; another session replaces one that is used up."""
        name = self._rng.choice(list(self._turns))
        if self._turns[name] >= self.install.turns_max:
            del self._turns[name]
            yield {"act": "leave", "session": name}
            yield {"act": "delete", "session": name}
            name = self._new()
            yield {"act": "new", "session": name}
        self._turns[name] += 1
        self.turns += 1
        yield {"act": "chat", "session": name, "text": text}

    def _clear(self) -> Iterator[Act]:
        yield {"act": "clear", "session": self._rng.choice(list(self._turns))}

    def _open_reader(self) -> Iterator[Act]:
        """Open a reader, and close the oldest of too many."""
        name = self._rng.choice([*self._turns, *self._archived])
        tab = f"t{self._readers_made}"
        self._readers_made += 1
        self._readers.append(tab)
        yield {"act": "open_tab", "tab": tab, "session": name}
        if len(self._readers) > self.install.agents_max:
            yield {"act": "close_tab", "tab": self._readers.pop(0)}

    def _talk(self) -> Iterator[Act]:
        name = self._rng.choice(list(self._gateway))
        if self._gateway[name] >= self.install.gateway_max:
            self._gateway[name] = 0
            yield {"act": "gateway_drop", "session": name}
        self._gateway[name] += GATEWAY_SAYS
        yield {"act": "gateway_talk", "session": name, "count": GATEWAY_SAYS}

    def _run_cron(self) -> Iterator[Act]:
        name = f"c{self._crons}"
        self._crons += 1
        self._cron.append(name)
        oldest = self._cron.pop(0)
        yield {"act": "cron", "session": name, "count": CRON_SAYS, "instead_of": oldest}
