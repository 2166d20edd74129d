"""The *channels* ability: live channels with a scripted journal and a clock that is set.

`take` returns the events that a reader receives: `[name, id, data]`, and `["tokens", stream, first,
last]` for consecutive tokens whose content is what was emitted. A channel is named by its session
and the number of channels that the session had, since its real name is random.
"""

from __future__ import annotations

import errno
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from harness.core.errors import UsageError

TOKEN = "token"  # noqa: S105  an event
STATUSES = {"missing": "CURSOR_RUN_MISSING", "malformed": "MALFORMED"}
ROWS_MAX = 4096
_REAL_ID = re.compile(r"notices-[0-9a-f]+")
_START_S = 1_000.0
FAILED = "failed"


class Clock:
    """Stands in for the module `time`; its time passes only when it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        """Seconds of the monotonic clock."""
        return _START_S + self.now_s

    def time(self) -> float:
        """Seconds of the wall clock."""
        return 2 * _START_S + self.now_s

    def __getattr__(self, name: str) -> Any:
        """Return any other function of the module."""
        return getattr(time, name)


class ChannelsAdapter:
    """Readers by name, runs with a journal in memory, and a clock that `wait` moves."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._module = modules("live.channels")
        self._frame = modules("live.event_buffer").frame
        self._clock = Clock()
        timed = [self._module, modules("live.event_buffer")]
        self._timed = [module for module in timed if hasattr(module, "time")]
        for module in self._timed:
            module.time = self._clock
        self._journal = Journal(modules("turns.journal"))
        self._channels = self._module.Channels(self._journal)
        self._readers: dict[str, Any] = {}
        self._woken: set[str] = set()
        self._bare: dict[tuple[str, int, int], int] = {}  # bytes of an event without padding
        self._rendered: dict[tuple[Any, ...], list[Any]] = {}
        self._names: dict[str, str] = {}  # of channels, by their real name

    # Runs

    def open_run(self, session: str, stream: str) -> None:
        """Start a run."""
        self._journal.open(session, stream)
        self._channels.open_run(session, stream, source="user")

    def withdraw(self, stream: str) -> None:
        """Offer a run to no new reader, because it is being cancelled."""
        self._channels.withdraw_run(stream)

    def emit(self, stream: str, first: int, last: int, event: str, size: int) -> int:
        """Publish events of a run by number, after the journal has their rows; those accepted.

        They go backwards if `first` is higher than `last`. The highest number has the name `event`,
        any new one below it is a token; each new event has `size` bytes on the wire.
        """
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        self._journal.extend(stream, max(first, last), event, lambda *row: self._padded(size, *row))
        accepted = 0
        for number in numbers:
            name, payload = self._journal.row(stream, number) or (event, {"number": number})
            accepted += bool(self._channels.emit(stream, number, name, payload))
        return accepted

    def _padded(self, size: int, event: str, id_: str, number: int) -> dict[str, Any]:
        payload = {"number": number, "pad": ""}
        digits = len(str(number))
        if (event, digits, len(id_)) not in self._bare:
            bare = self._frame(event, payload, id_).encoded
            self._bare[event, digits, len(id_)] = len(bare)
        return {**payload, "pad": "x" * (size - self._bare[event, digits, len(id_)])}

    def close_run(self, stream: str) -> None:
        """End a run."""
        self._channels.close_run(stream)
        self._journal.seal(stream)

    # Notices

    def notify(self, session: str, event: str, size: int, count: int) -> int:
        """Publish notices of `size` bytes each on the session's channel; those accepted."""
        channel = self._channels._notices.get(session)  # noqa: SLF001  its random name
        last, stream = (0, "") if channel is None else (channel.last, channel.stream_id)
        accepted = 0
        for number in range(last + 1, last + count + 1):
            payload = self._padded(size, event, f"{stream}:{number}", number)
            accepted += bool(self._channels.notify(session, event, payload))
        return accepted

    def changed(self, reason: str, session: str | None) -> None:
        """Publish a change of the list of sessions."""
        self._channels.sessions_changed(reason, session)

    # Readers

    def watch(self, session: str, reader: str, cursor: Sequence[Any] | None) -> str:
        """Subscribe a reader to the notices of a session."""
        wake, after = self._waker(reader), self._cursor(cursor)
        return self._joined(reader, self._channels.subscribe(session, wake, after))

    def read_run(self, stream: str, reader: str, cursor: Sequence[Any] | None) -> str:
        """Subscribe a reader to a run; "missing" if it is not known, "failed" by the journal."""
        wake, after = self._waker(reader), self._cursor(cursor)
        try:
            return self._joined(reader, self._channels.subscribe_run(stream, wake, after))
        except OSError:
            return FAILED

    def read_events(self, session: str, reader: str, cursor: Sequence[Any] | None) -> str:
        """Subscribe a reader to a session's run, or to its notices; "failed" by the journal."""
        wake, after = self._waker(reader), self._cursor(cursor)
        try:
            return self._joined(reader, self._channels.subscribe_events(session, wake, after))
        except OSError:
            return FAILED

    def watch_list(self, reader: str) -> str:
        """Subscribe a reader to the list of sessions."""
        return self._joined(reader, self._channels.subscribe_sessions(self._waker(reader)))

    def _waker(self, reader: str) -> Callable[[], None]:
        self._woken.discard(reader)
        return lambda: self._woken.add(reader)

    def _cursor(self, cursor: Sequence[Any] | None) -> Any:
        if cursor is None:
            return None
        real = {name: real for real, name in self._names.items()}
        return self._module.Cursor(real.get(cursor[0], cursor[0]), cursor[1])

    def _joined(self, reader: str, subscription: Any) -> str:
        for session, channel in self._channels._notices.items():  # noqa: SLF001  as above
            if channel.stream_id not in self._names:
                life = sum(name.startswith(f"{session}#") for name in self._names.values()) + 1
                self._names[channel.stream_id] = f"{session}#{life}"
        if subscription is None:
            return "missing"
        self._readers[reader] = subscription
        return "reading"

    def take(self, reader: str, **options: bool) -> dict[str, Any]:
        """Take one event, or with `all` every one; whether it was woken, and is over."""
        subscription, is_woken = self._reader(reader), reader in self._woken
        self._woken.discard(reader)
        taken = iter(subscription.take, []) if options["all"] else [subscription.take(1)]
        frames = itertools.chain.from_iterable(taken)
        events = list(self._joined_tokens(map(self._shown, frames)))
        return {"events": events, "woken": is_woken, "over": subscription.is_over}

    def _joined_tokens(self, events: Iterator[list[Any]]) -> Iterator[list[Any]]:
        tokens: list[Any] = []
        for event in events:
            if tokens and event[0] == "tokens" and event[1:3] == [tokens[1], tokens[3] + 1]:
                tokens[3] = event[3]
                continue
            if tokens:
                yield tokens
                tokens = []
            if event[0] == "tokens":
                tokens = event
            else:
                yield event
        if tokens:
            yield tokens

    def _shown(self, frame: Any) -> list[Any]:
        key = frame.id, frame.event, frame.encoded
        if key not in self._rendered:
            self._rendered[key] = self._render(frame)
        return [*self._rendered[key]]

    def _render(self, frame: Any) -> list[Any]:
        id_, data = self._named(frame.id), dict(frame.data)
        if set(data.pop("pad", "")) > {"x"}:
            data["pad"] = "changed"
        stream, _, number = (id_ or "").rpartition(":")
        if frame.event == TOKEN and number.isdecimal() and data == {"number": int(number)}:
            return ["tokens", stream, int(number), int(number)]
        if frame.event == "session_snapshot" and not data.pop("reason", ""):
            data["reason"] = "missing"
        return [frame.event, id_, {name: self._named(value) for name, value in data.items()}]

    def _named(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return _REAL_ID.sub(lambda found: self._names.get(found[0], found[0]), value)

    def leave(self, reader: str) -> None:
        """Close the reader's subscription."""
        self._reader(reader).close()
        del self._readers[reader]

    def _reader(self, name: str) -> Any:
        if name not in self._readers:
            raise UsageError(f"reader {name!r} has not subscribed")
        return self._readers[name]

    # Time, collection and sizes

    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self._clock.now_s += seconds

    def collect(self) -> int:
        """Collect the channels that had no reader for a while; their number."""
        collected: int = self._channels.collect()
        return collected

    def forget(self, session: str) -> None:
        """End the channel of a deleted session, after its ended runs are removed."""
        self._journal.remove(session)
        self._channels.forget(session)

    def journal(self, mode: str) -> None:
        """Let the journal answer ("ok"), lack every run ("missing", "malformed"), or fail."""
        self._journal.mode = mode

    def gauges(self) -> dict[str, int]:
        """The sizes of all containers."""
        return {**self._channels.gauges(), "skipped": self._channels.events_skipped}

    def close(self) -> None:
        """End every reader, and give the modules their clock back."""
        self.shut()
        for module in self._timed:
            module.time = time

    def shut(self) -> None:
        """End every reader, as a server that stops."""
        self._channels.close()


class Journal:
    """The rows of runs in memory, by session."""

    def __init__(self, module: Any) -> None:
        """`module` is that of the real journal."""
        self.mode = "ok"
        self._module = module
        self._rows: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        self._owners: dict[str, str] = {}
        self._sealed: set[str] = set()

    def open(self, session: str, stream: str) -> None:
        """Begin a run."""
        self._owners[stream] = session
        self._rows[stream] = []

    def extend(
        self, stream: str, last: int, event: str, payload: Callable[[str, str, int], Any]
    ) -> None:
        """Write the rows of an open run up to a number."""
        rows = self._rows.get(stream)
        if rows is None or stream in self._sealed:
            return
        for number in range(len(rows) + 1, last + 1):
            name = event if number == last else TOKEN
            rows.append((name, payload(name, f"{stream}:{number}", number)))

    def row(self, stream: str, number: int) -> tuple[str, Mapping[str, Any]] | None:
        """One row, if it was written."""
        rows = self._rows.get(stream, ())
        return rows[number - 1] if number <= len(rows) else None

    def seal(self, stream: str) -> None:
        """Write no more rows of a run."""
        self._sealed.add(stream)

    def remove(self, session: str) -> None:
        """Remove the ended runs of a session; their owner is still known."""
        for stream, owner in self._owners.items():
            if owner == session and stream in self._sealed:
                self._rows.pop(stream, None)

    def owner(self, stream: str) -> str | None:
        """The session of a run."""
        return self._owners.get(stream)

    def read(self, session: str, cursor: str) -> Any:
        """The rows of a session's run after the row that the cursor names."""
        statuses = self._module.ReplayStatus
        stream, _, after = cursor.rpartition(":")
        if stream not in self._rows or self._owners[stream] != session:
            return self._module.Replay(statuses.CURSOR_RUN_MISSING)
        if self.mode == "failing":
            raise OSError(errno.EIO, "the disk cannot be read")
        if self.mode != "ok":
            return self._module.Replay(statuses[STATUSES[self.mode]])
        if int(after) > len(self._rows[stream]):
            return self._module.Replay(statuses.CURSOR_EVENT_MISSING)
        rows = tuple(
            {"event": event, "payload": payload, "event_id": f"{stream}:{seq}", "seq": seq}
            for seq, (event, payload) in enumerate(self._rows[stream][int(after) :], int(after) + 1)
        )
        if len(rows) > ROWS_MAX:
            return self._module.Replay(statuses.LIMIT_ROWS)
        return self._module.Replay(statuses.OK, rows)
