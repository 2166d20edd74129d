"""Event buffers: the numbered events of one stream, for any number of readers at their own pace.

The latest frames are encoded and held once for all readers, and a reader is only a position among
them. So a publisher never waits, a reader that never reads costs nothing more, and a reader that
falls behind the oldest frame gets a gap frame before it continues with that frame. Knows no
session, no socket and no disk.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

FRAMES_MAX = 1024
BYTES_MAX = 1 << 18
TAKEN_BYTES = 1 << 16
_EARLY_MAX = 64  # frames that may wait for an earlier number that another thread still publishes


@dataclass(frozen=True, slots=True)
class Frame:
    """One encoded event. `id` is None for a frame that cannot be requested again by cursor."""

    id: str | None
    event: str
    encoded: bytes

    @property
    def data(self) -> Any:
        """The event's data, decoded again."""
        return json.loads(self.encoded.rpartition(b"data: ")[2])


def frame(event: str, data: Any, id_: str | None = None) -> Frame:
    """Encode an event. Raises ValueError or TypeError for invalid JSON or an invalid event name."""
    if not event.isprintable():
        raise ValueError(f"invalid event name: {event!r}")
    head = "" if id_ is None else f"id: {id_}\n"
    return Frame(id_, event, f"{head}event: {event}\ndata: {_json(data)}\n\n".encode())


_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

# Makes the frame that replaces all frames up to a sequence number, which a reader did not get.
GapFrame = Callable[[int], Frame]


class Subscription:
    """One reader of a buffer, and its position. One thread at a time takes from it."""

    __slots__ = ("_buffer", "is_awake", "missed", "position", "prefix", "wake")

    def __init__(
        self, buffer: EventBuffer, wake: Callable[[], None], position: int, missed: range
    ) -> None:
        """Start after `position`; `missed` are numbers before it that the buffer dropped."""
        self.missed = missed
        self._buffer = buffer
        self.wake = wake
        self.position = position
        self.prefix: deque[Frame] | tuple[()] = ()
        self.is_awake = False

    def prepend(self, frames: Iterable[Frame]) -> None:
        """Deliver these frames before all others; only before the first `take`."""
        self.prefix = deque((*self.prefix, *frames))

    def take(self, bytes_max: int = TAKEN_BYTES) -> list[Frame]:
        """Return the next frames in order, about `bytes_max` at most; empty if there are none yet.

        `wake` is called once when a frame comes after an empty take. So a subscriber takes at once
        after subscribing, and after a wake until the result is empty or its client is too slow.
        """
        return self._buffer.taken(self, bytes_max)

    @property
    def is_over(self) -> bool:
        """Whether no frame will come any more."""
        return not self.prefix and self._buffer.has_ended_at(self.position)

    def close(self) -> None:
        """Stop reading."""
        self._buffer.leave(self)


@dataclass(slots=True)
class Sizes:
    """Number of readers and frames of some buffers, and the bytes of the frames."""

    readers: int = 0
    frames: int = 0
    bytes: int = 0


def sizes(buffers: Iterable[EventBuffer]) -> Sizes:
    """Total sizes of the buffers."""
    total = Sizes()
    for buffer in buffers:
        buffer.add_to(total)
    return total


class EventBuffer:
    """The latest frames of one stream. Thread-safe.

    Ids are `<stream_id>:<seq>`, starting at 1. Publishers may number the frames themselves and put
    them in any order: a buffer shows no number before its predecessor.
    """

    def __init__(
        self,
        stream_id: str,
        gap_frame: GapFrame | None = None,
        *,
        last_events: AbstractSet[str] = frozenset(),
        frames_max: int = FRAMES_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """`gap_frame` makes the frame for a gap; without it a later frame replaces earlier ones.

        The buffer ends by itself after a frame of `last_events`.
        """
        self.stream_id = stream_id
        self._gap_frame = gap_frame
        self._last_events = last_events
        self._frames_max = frames_max
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._frames: deque[Frame] = deque()
        self._frames_bytes = 0
        self._early: dict[int, Frame] = {}
        self._last = 0
        self._has_ended = False
        self._readers: dict[Subscription, None] = {}
        self._touched_at = self._left_at = time.monotonic()

    def __len__(self) -> int:
        """Number of readers."""
        return len(self._readers)

    @property
    def last(self) -> int:
        """The number of the latest frame; 0 before the first."""
        return self._last

    def add_to(self, sizes: Sizes) -> None:
        """Add this buffer's sizes; quick, because health is read often, with many buffers."""
        sizes.readers += len(self._readers)
        sizes.frames += len(self._frames) + len(self._early)
        sizes.bytes += self._frames_bytes

    # Publishing

    def publish(self, event: str, data: Any) -> int:
        """Number an event and show it to all readers; returns the number, 0 after the end."""
        with self._lock:
            if self._has_ended:
                return 0
            seq = self._last + 1
            self._append(frame(event, data, self._id(seq)))
            sleeping = self._take_sleeping()
        _wake(sleeping)
        return seq

    def put(self, seq: int, event: str, data: Any) -> bool:
        """Show an event that has a number; False for a duplicate, or after the end.

        An event whose predecessor has not arrived waits for it. If the predecessor never comes, the
        readers get a gap frame.
        """
        shown = frame(event, data, self._id(seq))
        with self._lock:
            if self._has_ended or seq <= self._last or seq in self._early:
                return False
            self._early[seq] = shown
            if len(self._early) > _EARLY_MAX:
                self._skip_to(min(self._early))
            while not self._has_ended and (next_ := self._early.pop(self._last + 1, None)):
                self._append(next_)
            sleeping = self._take_sleeping()
        _wake(sleeping)
        return True

    def end(self) -> None:
        """Accept no more events, and end all readers, including later subscribers."""
        with self._lock:
            self._has_ended = True
            self._early.clear()
            sleeping = self._take_sleeping()
        _wake(sleeping)

    def _append(self, shown: Frame) -> None:
        self._last += 1
        self._touched_at = time.monotonic()
        self._frames.append(shown)
        self._frames_bytes += len(shown.encoded)
        while len(self._frames) > self._frames_max or (
            self._frames_bytes > self._bytes_max and len(self._frames) > 1
        ):
            self._frames_bytes -= len(self._frames.popleft().encoded)
        self._has_ended = shown.event in self._last_events

    def _skip_to(self, seq: int) -> None:
        """Give up the missing numbers before `seq`; every reader gets a gap frame."""
        self._frames.clear()
        self._frames_bytes = 0
        self._last = seq - 1

    def _take_sleeping(self) -> list[Subscription]:
        sleeping = [reader for reader in self._readers if not reader.is_awake]
        for reader in sleeping:
            reader.is_awake = True
        return sleeping

    # Reading

    def subscribe(self, wake: Callable[[], None], after: int | None = None) -> Subscription:
        """Read on after a number, or from now on. `wake` must neither block nor call back.

        Numbers after `after` that the buffer dropped are the subscription's `missed`: the caller
        either prepends them from elsewhere, or calls `prepend_gap`. A number that was never given
        gives a gap frame, and reads from now on.
        """
        with self._lock:
            first = self._first_seq()
            wanted = self._last if after is None else after
            position = min(max(wanted, first - 1), self._last)
            reader = Subscription(self, wake, position, range(wanted + 1, first))
            self._readers[reader] = None
            self._touched_at = time.monotonic()
        if wanted > position:
            self.prepend_gap(reader)
        return reader

    def prepend_gap(self, reader: Subscription) -> None:
        """Prepend the frame for the gap before the reader's position."""
        if self._gap_frame is not None:
            reader.prepend([self._gap_frame(reader.position)])

    def taken(self, reader: Subscription, bytes_max: int) -> list[Frame]:
        """See `Subscription.take`."""
        with self._lock:
            first = self._first_seq()
            if reader.position < first - 1:
                reader.position = first - 1
                self.prepend_gap(reader)
            frames: list[Frame] = []
            size = 0
            while size < bytes_max and (shown := self._next(reader)):
                frames.append(shown)
                size += len(shown.encoded)
            if not frames:
                reader.is_awake = False
            return frames

    def _next(self, reader: Subscription) -> Frame | None:
        if reader.prefix:
            return reader.prefix.popleft()
        if reader.position == self._last:
            return None
        reader.position += 1
        return self._frames[reader.position - self._last - 1]  # fast: nearly always near the end

    def has_ended_at(self, position: int) -> bool:
        """Whether no frame is after the position, and none will be."""
        return self._has_ended and position >= self._last

    def leave(self, reader: Subscription) -> None:
        """See `Subscription.close`."""
        with self._lock:
            self._readers.pop(reader, None)
            if not self._readers:
                self._left_at = time.monotonic()

    def is_abandoned(self, grace_s: float, idle_ttl_s: float) -> bool:
        """Whether it has no reader, since `grace_s` or with no event since `idle_ttl_s`."""
        with self._lock:
            now = time.monotonic()
            is_late = now - self._left_at >= grace_s or now - self._touched_at >= idle_ttl_s
            return is_late and not self._readers

    def _first_seq(self) -> int:
        return self._last - len(self._frames) + 1

    def _id(self, seq: int) -> str:
        return f"{self.stream_id}:{seq}"


def _wake(readers: list[Subscription]) -> None:
    """Wake readers outside the lock: a reader may take at once."""
    for reader in readers:
        reader.wake()
