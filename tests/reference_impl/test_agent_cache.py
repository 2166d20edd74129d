"""Tests of the agent cache where two evictions of one agent overlap (A5)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reference_impl.memory.agent_cache import AgentCache
from reference_impl.memory.lifecycle import Lifecycle


class Agent:
    """An agent that counts how often it is closed."""

    closed = 0

    def commit_memory_session(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Count the call."""
        self.closed += 1


class CacheWithIntervention:
    """A cache; at one of its reads of the live sessions, another run intervenes."""

    def __init__(self, at: int) -> None:
        """`at` is the number of the read."""
        self.agent = Agent()
        self.cache = AgentCache(Lifecycle(), self._live, cap=1)
        self._looks: Iterator[int] = iter(range(1, 100))
        self._at = at

    def _live(self) -> frozenset[str]:
        if next(self._looks) == self._at:
            self.meanwhile()
        return frozenset()

    def meanwhile(self) -> None:
        """Put the agent back, as a run does that had got it before, and evict it again."""
        self.cache.put("s", self.agent)
        self.cache.evict("s")


@pytest.mark.parametrize("at", [2, 3])
def test_agent_put_back_during_eviction_is_closed_once(at: int) -> None:
    """A5: the first eviction finds that its claim is void.

    evict:  |-- claim -- commit --              -- close? --|
    run:                            put, evict
    """
    intervention = CacheWithIntervention(at)
    intervention.cache.put("s", intervention.agent)

    intervention.cache.evict("s")
    intervention.cache.evict("s")

    assert intervention.agent.closed == 1
    assert set(intervention.cache.gauges().values()) == {0}
