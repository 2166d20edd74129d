"""The reference's agent cache where two evictions of one agent meet: A5."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reference_impl.memory.agent_cache import AgentCache
from reference_impl.memory.lifecycle import Lifecycle


class Agent:
    """Counts how often it is closed."""

    closed = 0

    def commit_memory_session(self) -> None:
        """Learn nothing."""

    def close(self) -> None:
        """Count."""
        self.closed += 1


class Interrupted:
    """A cache; at one of its looks at who is live, something else happens."""

    def __init__(self, at: int) -> None:
        """`at` counts looks."""
        self.agent = Agent()
        self.cache = AgentCache(Lifecycle(), self._live, cap=1)
        self._looks: Iterator[int] = iter(range(1, 100))
        self._at = at

    def _live(self) -> frozenset[str]:
        if next(self._looks) == self._at:
            self.meanwhile()
        return frozenset()

    def meanwhile(self) -> None:
        """A run that had got the agent before puts it back; and it is evicted once more."""
        self.cache.put("s", self.agent)
        self.cache.evict("s")


@pytest.mark.parametrize("at", [2, 3])
def test_an_agent_that_comes_back_and_goes_again_is_closed_once(at: int) -> None:
    """A5: whoever took it out first finds that it is another's by now.

    evict:  |-- take out -- commit --            -- close? --|
    run:                            put, evict
    """
    interrupted = Interrupted(at)
    interrupted.cache.put("s", interrupted.agent)

    interrupted.cache.evict("s")
    interrupted.cache.evict("s")

    assert interrupted.agent.closed == 1
    assert set(interrupted.cache.gauges().values()) == {0}
