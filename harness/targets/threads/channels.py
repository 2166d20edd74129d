"""The *channels_threads* ability: channels of a few sessions, used by concurrent threads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any


class ChannelsThreadsAdapter:
    """Readers by name, notices by number, and a reaper that runs when it is called."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._channels = modules("live.channels").Channels(_NoJournal())
        self._readers: dict[str, Any] = {}

    def subscribe(self, session: str, reader: str) -> None:
        """Subscribe a reader to the session."""
        self._readers[reader] = self._channels.subscribe(session, _ignore)

    def leave(self, reader: str) -> None:
        """Close the reader's subscription."""
        self._readers.pop(reader).close()

    def notify(self, session: str, number: int) -> None:
        """Send a notice to the session's readers."""
        self._channels.notify(session, "notice", {"number": number})

    def begin_run(self, session: str, stream: str) -> None:
        """Start a run of the session."""
        self._channels.open_run(session, stream)

    def collect(self) -> int:
        """Collect the channels that had no reader for a while; their number."""
        collected: int = self._channels.collect()
        return collected

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def heard(self, reader: str) -> dict[str, Any]:
        """The notices and the runs that the reader received, in order."""
        frames = list(itertools.chain.from_iterable(iter(self._readers[reader].take, [])))
        return {
            "notices": [frame.data["number"] for frame in frames if frame.event == "notice"],
            "runs": [frame.data["stream_id"] for frame in frames if frame.event == _STARTED],
        }

    def sizes(self) -> dict[str, int]:
        """The numbers of channels and of their readers."""
        gauges = self._channels.gauges()
        return {"channels": gauges["channels"], "readers": gauges["channel_subscribers"]}

    def close(self) -> None:
        """Do nothing: the channels hold no resource."""


_STARTED = "server_turn_started"


def _ignore() -> None:
    """Ignore the signal of new frames, since readers poll here."""


class _NoJournal:
    """A journal without runs."""

    def owner(self, _: str) -> None:
        """Return no owner, for any run."""
