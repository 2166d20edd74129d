"""The *channels_threads* ability: the channels of a few sessions, used by threads that meet."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any


class ChannelsThreadsAdapter:
    """Readers by name, notices by number, and a reaper that comes when it is told to."""

    def __init__(self, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        self._channels = rooms("live.channels").Channels(_NoJournal())
        self._readers: dict[str, Any] = {}

    def subscribe(self, session: str, reader: str) -> None:
        """Watch the session."""
        self._readers[reader] = self._channels.subscribe(session, _sleep_on)

    def leave(self, reader: str) -> None:
        """Watch no more."""
        self._readers.pop(reader).close()

    def notify(self, session: str, number: int) -> None:
        """Tell those who watch the session."""
        self._channels.notify(session, "notice", {"number": number})

    def begin_run(self, session: str, stream: str) -> None:
        """A run of the session starts."""
        self._channels.open_run(session, stream)

    def collect(self) -> int:
        """Forget what nobody has read for a while."""
        collected: int = self._channels.collect()
        return collected

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def heard(self, reader: str) -> dict[str, Any]:
        """The notices and the runs that the reader was told of, in order."""
        frames = list(itertools.chain.from_iterable(iter(self._readers[reader].take, [])))
        return {
            "notices": [each.data["number"] for each in frames if each.event == "notice"],
            "runs": [each.data["stream_id"] for each in frames if each.event == _STARTED],
        }

    def sizes(self) -> dict[str, int]:
        """How many channels there are, and who reads them."""
        gauges = self._channels.gauges()
        return {"channels": gauges["channels"], "readers": gauges["channel_subscribers"]}

    def close(self) -> None:
        """Nothing is held."""


_STARTED = "server_turn_started"


def _sleep_on() -> None:
    """Nobody waits for a wake here."""


class _NoJournal:
    """A journal that remembers no run."""

    def owner(self, _: str) -> None:
        """Nobody's."""
