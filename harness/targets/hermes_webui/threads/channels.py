"""The *channels_threads* ability over the channels of a hermes-webui checkout.

On trial are the channels of sessions and their reaper in `api/background_process.py`, the
registries of runs in `api/config.py`, and the list's events in `api/session_events.py`. A reader is
a queue, as in the server's handlers: it subscribes, and then asks for the run that it can attach
to. A run is registered, and then announced, as the server starts one; it starts none beside a run
of the same session, so the next one waits for that to end.

Nothing ends a reader but its own leaving, and streams of runs belong to handlers that need the
whole server: the ability `http` asks those.
"""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

from harness.targets.hermes_webui import checkout
from harness.targets.hermes_webui.threads import modules

_STARTED, _NOTICE = "server_turn_started", "notice"


class _OneRound:
    """Replaces the event that stops the reaper, and stops it after one round."""

    @staticmethod
    def is_set() -> bool:
        """Whether to stop before the round."""
        return False

    @staticmethod
    def wait(_seconds: float) -> bool:
        """Whether to stop after it."""
        return True


class WebuiChannelsThreadsAdapter:
    """Readers by name, notices by number, and a reaper that runs when it is called."""

    LACKS = frozenset(
        {"close_all", "count", "forget", "greet", "read_events", "read_run", "relay_run"}
    )

    def __init__(self, folder: Path) -> None:  # noqa: ARG002  this ability keeps no files
        modules.reset()
        self._module: Any = checkout.module("background_process")
        self._config: Any = checkout.module("config")
        self._list: Any = checkout.module("session_events")
        modules.replace(self._module, "_REAPER_STOP", _OneRound())
        self._readers: dict[str, tuple[Any, queue.Queue[Any]]] = {}
        self._offered: dict[str, list[str]] = {}
        self._ended = threading.Condition()

    def subscribe(self, session: str, reader: str) -> None:
        """Subscribe a reader to the session, and offer it the run that it can attach to."""
        channel, events = self._module.subscribe_to_session_channel(session)
        self._readers[reader] = channel, events
        stream = self._module.active_stream_id_for_session(session)
        self._offered[reader] = [stream] if stream else []

    def watch_list(self, reader: str) -> None:
        """Subscribe a reader to the list of sessions."""
        self._readers[reader] = self._list, self._list.subscribe_session_events()

    def change_list(self, reason: str) -> None:
        """Announce a change of the list to its readers."""
        self._list.publish_session_list_changed(reason)

    def leave(self, reader: str) -> None:
        """End the reader's subscription."""
        channel, events = self._readers.pop(reader)
        channel.unsubscribe(events)

    def notify(self, session: str, number: int) -> None:
        """Send a notice to the session's readers."""
        self._module._emit_to_session_streams(  # noqa: SLF001  what every notice goes through
            session, _NOTICE, {"number": number}
        )

    def begin_run(self, session: str, stream: str) -> None:
        """Start a run of the session."""
        with self._ended:
            self._ended.wait_for(lambda: not self._module._session_has_active_turn(session))  # noqa: SLF001
            self._config.register_active_run(stream, session_id=session)
        channel = self._module.get_session_channel(session)
        if channel is not None:
            channel.emit(_STARTED, {"session_id": session, "stream_id": stream})

    def emit(self, session: str, stream: str, number: int, event: str) -> bool:  # noqa: ARG002
        """Nothing: who reads the events of a run is not asked here."""
        return True

    def withdraw(self, stream: str) -> None:
        """Offer a run to no new reader, because it is being cancelled."""
        self._config.update_active_run(stream, phase="cancelling", cancelled_at=time.time())

    def end_run(self, stream: str) -> None:
        """End a run."""
        with self._ended:
            self._config.unregister_active_run(stream)
            self._ended.notify_all()

    def collect(self) -> int:
        """Collect the channels that had no reader for a while; their number."""
        before = dict(self._module.SESSION_CHANNELS)
        self._module._reaper_loop()  # noqa: SLF001  it has no call for one round
        after = self._module.SESSION_CHANNELS
        return sum(after.get(session) is not channel for session, channel in before.items())

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def heard(self, reader: str) -> dict[str, Any]:
        """What the reader received, in order: notices, offered runs, versions of the list."""
        events: list[Any] = []
        _, waiting = self._readers[reader]
        while True:
            try:
                events.append(waiting.get_nowait())
            except queue.Empty:
                break
        of_session = [event for event in events if isinstance(event, tuple)]
        notices = [about["number"] for name, about in of_session if name == _NOTICE]
        started = [about["stream_id"] for name, about in of_session if name == _STARTED]
        offered = self._offered.pop(reader, [])
        return {
            "notices": notices,
            "runs": [*offered, *(stream for stream in started if stream not in offered)],
            "events": [],
            "counts": [],
            "versions": [event["version"] for event in events if isinstance(event, dict)],
            "woken": bool(events or offered),
            "ended": False,
        }

    def sizes(self) -> dict[str, int]:
        """The numbers of channels and of their readers."""
        channels = list(self._module.SESSION_CHANNELS.values())
        readers = sum(channel.subscriber_count() for channel in channels)
        return {"channels": len(channels), "readers": readers}

    def close(self) -> None:
        """Do nothing: the channels hold no resource."""
