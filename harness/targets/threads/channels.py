"""The *channels_threads* ability: channels of a few sessions, used by concurrent threads."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class ChannelsThreadsAdapter:
    """Readers by name, notices by number, and a reaper that runs when it is called."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._journal = _Journal(modules("turns.journal"))
        self._modules = modules
        self._channels = modules("live.channels").Channels(self._journal)
        self._counts: dict[str, int] = {}  # of messages, by session
        self._counts_lock = threading.Lock()
        self._readers: dict[str, Any] = {}
        self._woken: set[str] = set()

    def subscribe(self, session: str, reader: str) -> None:
        """Subscribe a reader to the session."""
        self._readers[reader] = self._channels.subscribe(session, self._waker(reader))

    def greet(self, session: str, reader: str, known: int) -> None:
        """Subscribe a reader to the session, as a client asks that has this number of messages."""
        store = SimpleNamespace(load_metadata_only=self._counted)
        app = SimpleNamespace(channels=self._channels, store=store)
        service = self._modules("web.service").Service(app)
        endpoints = self._modules("web.endpoints.streams")
        asked = {"session_id": session, "known_count": known}
        streaming = endpoints.session_stream(service, asked, self._waker(reader))
        self._readers[reader] = streaming.subscription

    def _counted(self, session: str) -> Any:
        with self._counts_lock:
            return SimpleNamespace(message_count=self._counts.get(session, 0))

    def count(self, session: str, messages: int) -> None:
        """Save this number of messages of the session, and announce that."""
        with self._counts_lock:
            self._counts[session] = messages
        about = {"session_id": session, "message_count": messages}
        self._channels.notify(session, _COUNTED, about)

    def read_events(self, session: str, reader: str) -> None:
        """Subscribe a reader to the session's run or, without one, to its notices."""
        self._readers[reader] = self._channels.subscribe_events(session, self._waker(reader))

    def watch_list(self, reader: str) -> None:
        """Subscribe a reader to the list of sessions."""
        self._readers[reader] = self._channels.subscribe_sessions(self._waker(reader))

    def change_list(self, reason: str) -> None:
        """Announce a change of the list to its readers."""
        self._channels.sessions_changed(reason)

    def _waker(self, reader: str) -> Callable[[], None]:
        return lambda: self._woken.add(reader)

    def leave(self, reader: str) -> None:
        """Close the reader's subscription."""
        self._readers.pop(reader).close()

    def notify(self, session: str, number: int) -> None:
        """Send a notice to the session's readers."""
        self._channels.notify(session, "notice", {"number": number})

    def begin_run(self, session: str, stream: str) -> None:
        """Start a run of the session."""
        self._channels.open_run(session, stream)

    def emit(self, session: str, stream: str, number: int, event: str) -> bool:
        """Write an event of a run to the journal, and publish it; whether it was accepted."""
        payload = {"number": number}
        self._journal.add(session, stream, number, event, payload)
        return bool(self._channels.emit(stream, number, event, payload))

    def withdraw(self, stream: str) -> None:
        """Offer a run to no new reader, because it is being cancelled."""
        self._channels.withdraw_run(stream)

    def end_run(self, stream: str) -> None:
        """End a run's buffer, after its last event."""
        self._channels.close_run(stream)

    def forget(self, session: str) -> None:
        """End the channel of a session that is deleted."""
        self._channels.forget(session)

    def close_all(self) -> None:
        """End every reader, as a server that shuts down."""
        self._channels.close()

    def read_run(self, stream: str) -> list[int] | None:
        """Read a run to its end; the numbers of its events, None for an unknown run."""
        woken = threading.Event()
        reader = self._channels.subscribe_run(stream, woken.set)
        if reader is None:
            return None
        numbers = []
        while True:
            woken.clear()
            while frames := reader.take():
                numbers += [int(frame.id.rpartition(":")[2]) for frame in frames if frame.id]
            if reader.is_over:
                break
            woken.wait()
        reader.close()
        return numbers

    def relay_run(self, stream: str, clients: int) -> dict[str, Any]:
        """Read a run to its end as a server's loop writes it to clients, which read at once.

        The numbers of the events that each received, whether virtual time had to pass for that, and
        how many timers are set when all have left.
        """
        return asyncio.run(self._relayed(stream, clients))

    async def _relayed(self, stream: str, clients: int) -> dict[str, Any]:
        began_s = time.monotonic()
        module = self._modules("web.streams")
        streams = module.Streams(WRITE_DEADLINE_S)
        found = [_Client() for _ in range(clients)]
        relays = [module.Stream(streams, client) for client in found]
        loop = asyncio.get_running_loop()
        for relay in relays:  # as a thread of the server opens it
            reader = await loop.run_in_executor(
                None, self._channels.subscribe_run, stream, relay.wake
            )
            relay.begin(b"", reader, b": quiet\n\n")
        for client, relay in zip(found, relays, strict=True):
            await client.closed.wait()
            relay.end()
        answer = {
            "numbers": [client.numbers() for client in found],
            "is_late": time.monotonic() > began_s,
        }
        return {**answer, "timers": await _timers_at_rest(loop)}

    def collect(self) -> int:
        """Collect the channels that had no reader for a while; their number."""
        collected: int = self._channels.collect()
        return collected

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def heard(self, reader: str) -> dict[str, Any]:
        """What the reader received, in order, whether it was woken, and whether no more can come.

        Notices by number, runs that were announced, events of runs by id, numbers of messages, and
        versions of the list.
        """
        subscription, is_woken = self._readers[reader], reader in self._woken
        self._woken.discard(reader)
        frames = list(itertools.chain.from_iterable(iter(subscription.take, [])))
        return {
            "notices": [frame.data["number"] for frame in frames if frame.event == "notice"],
            "runs": [frame.data["stream_id"] for frame in frames if frame.event == _STARTED],
            "events": [frame.id for frame in frames if frame.event in _OF_RUNS],
            "counts": [frame.data["message_count"] for frame in frames if frame.event == _COUNTED],
            "versions": [frame.data["version"] for frame in frames if frame.event == _CHANGED],
            "woken": is_woken,
            "ended": subscription.is_over,
        }

    def sizes(self) -> dict[str, int]:
        """The numbers of channels and of their readers."""
        gauges = self._channels.gauges()
        return {"channels": gauges["channels"], "readers": gauges["channel_subscribers"]}

    def close(self) -> None:
        """Do nothing: the channels hold no resource."""


WRITE_DEADLINE_S = 20.0
REST_S = 10.0  # of virtual time, longer than any silence
_NUMBER = re.compile(rb"^id: [^\n]*:(\d+)$", re.MULTILINE)
_STARTED, _CHANGED = "server_turn_started", "sessions_changed"
_COUNTED = "session-updated"
_OF_RUNS = ("token", "stream_end")


async def _timers_at_rest(loop: Any) -> int:
    """How many timers a loop without clients sets, after the last one that was set before."""
    await loop.run_in_executor(None, time.sleep, REST_S)
    timers: list[float] = []
    set_timer = loop.call_later

    def call_later(delay_s: float, *act: Any, **options: Any) -> Any:
        timers.append(delay_s)
        return set_timer(delay_s, *act, **options)

    loop.call_later = call_later
    await loop.run_in_executor(None, time.sleep, REST_S)
    del loop.call_later
    return len(timers)


class _Client:
    """A transport, whose client reads whatever is written."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._data = bytearray()

    def numbers(self) -> list[int]:
        """The numbers of the events that came."""
        return [int(found[1]) for found in _NUMBER.finditer(bytes(self._data))]

    def write(self, data: bytes) -> None:
        self._data += data

    def close(self) -> None:
        self.closed.set()

    abort = close

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def set_write_buffer_limits(self, high: int) -> None:
        """Accept the limits: nothing is ever left in the buffer."""

    def get_extra_info(self, _name: str) -> _Client:
        """Give the socket, which is the client itself."""
        return self

    def setsockopt(self, *_: object) -> None:
        """Accept the option."""


class _Journal:
    """The rows of runs, in memory."""

    def __init__(self, module: Any) -> None:
        """`module` is that of the real journal."""
        self._module = module
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._owners: dict[str, str] = {}

    def add(self, session: str, stream: str, seq: int, event: str, payload: Any) -> None:
        """Write one more row; a number that has one already keeps it."""
        self._owners[stream] = session
        row = {"event": event, "payload": payload, "event_id": f"{stream}:{seq}", "seq": seq}
        rows = self._rows.setdefault(stream, [])
        if all(other["seq"] != seq for other in rows):
            rows.append(row)

    def owner(self, stream: str) -> str | None:
        """The session of a run."""
        return self._owners.get(stream)

    def read(self, _session: str, cursor: str) -> Any:
        """The rows of a run after a row."""
        stream, _, seq = cursor.rpartition(":")
        rows = tuple(self._rows.get(stream, ())[int(seq) :])
        return self._module.Replay(self._module.ReplayStatus.OK, rows)
