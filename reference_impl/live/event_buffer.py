"""The feed: what happens in one stream, numbered, for any number of readers at their own pace.

The latest frames are kept once for all readers, encoded once, and a reader is only a position
among them. So a publisher waits for nobody, a reader that never reads costs nothing more, and one
that falls behind what is kept is told so, by a frame, before it goes on with the oldest kept.
Knows no session, no socket and no disk.
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

FRAMES_KEPT = 1024
BYTES_KEPT = 1 << 18
TAKEN_BYTES = 1 << 16
_EARLY_MAX = 64  # frames that may wait for one that another thread is still about to publish


@dataclass(frozen=True, slots=True)
class Frame:
    """One event, as it goes over the wire. `id` is None for what can be had in no other way."""

    id: str | None
    event: str
    encoded: bytes

    @property
    def data(self) -> Any:
        """What the event says, decoded again."""
        return json.loads(self.encoded.rpartition(b"data: ")[2])


def frame(event: str, data: Any, id_: str | None = None) -> Frame:
    """Encode an event. Raises ValueError or TypeError for what is no JSON, or no event's name."""
    if not event.isprintable():
        raise ValueError(f"{event!r} is no name of an event")
    head = "" if id_ is None else f"id: {id_}\n"
    return Frame(id_, event, f"{head}event: {event}\ndata: {_json(data)}\n\n".encode())


_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

# Makes the frame that stands for all up to a sequence number, which a reader was not given.
Behind = Callable[[int], Frame]


class Subscription:
    """One reader of a feed, and its position. One thread at a time takes from it."""

    __slots__ = ("_feed", "greeting", "is_awake", "missed", "position", "wake")

    def __init__(self, feed: Feed, wake: Callable[[], None], position: int, missed: range) -> None:
        """It has been given all up to `position`, but for those `missed` that are kept no more."""
        self.missed = missed
        self._feed = feed
        self.wake = wake
        self.position = position
        self.greeting: deque[Frame] | tuple[()] = ()
        self.is_awake = False

    def greet(self, frames: Iterable[Frame]) -> None:
        """Give it these frames before all others; only before it first takes."""
        self.greeting = deque((*self.greeting, *frames))

    def take(self, bytes_max: int = TAKEN_BYTES) -> list[Frame]:
        """What is next, in order, about `bytes_max` at most; empty where there is nothing yet.

        `wake` is called once when something comes after an empty take. So whoever subscribes takes
        at once, and whoever is woken takes until it is empty, or its reader is too slow for more.
        """
        return self._feed.taken(self, bytes_max)

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more."""
        return not self.greeting and self._feed.has_ended_at(self.position)

    def close(self) -> None:
        """Read no more."""
        self._feed.leave(self)


@dataclass(slots=True)
class Sizes:
    """How many readers some feeds have, how many frames they keep, and the bytes of those."""

    readers: int = 0
    frames: int = 0
    bytes: int = 0


def sizes(feeds: Iterable[Feed]) -> Sizes:
    """How large they are together."""
    total = Sizes()
    for feed in feeds:
        feed.add_to(total)
    return total


class Feed:
    """One stream's frames, of which the latest are kept. Safe for threads.

    Ids are `<stream_id>:<seq>`, from 1 on. Whoever publishes may number the frames, in any order
    of arrival: a feed lets no number pass before its predecessor.
    """

    def __init__(
        self,
        stream_id: str,
        behind: Behind | None = None,
        *,
        last_events: AbstractSet[str] = frozenset(),
        frames_kept: int = FRAMES_KEPT,
        bytes_kept: int = BYTES_KEPT,
    ) -> None:
        """`behind` tells a reader what it lost; without it a later frame makes up for earlier ones.

        The feed ends by itself after a frame of `last_events`.
        """
        self.stream_id = stream_id
        self._behind = behind
        self._last_events = last_events
        self._frames_kept = frames_kept
        self._bytes_kept = bytes_kept
        self._lock = threading.Lock()
        self._kept: deque[Frame] = deque()
        self._kept_size = 0
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
        """Count it in; quick, because health is asked for often, and of thousands of feeds."""
        sizes.readers += len(self._readers)
        sizes.frames += len(self._kept) + len(self._early)
        sizes.bytes += self._kept_size

    # Publishing

    def publish(self, event: str, data: Any) -> int:
        """Number the event and show it to all readers; its number, or 0 once the feed has ended."""
        with self._lock:
            if self._has_ended:
                return 0
            seq = self._last + 1
            self._append(frame(event, data, self._id(seq)))
            woken = self._woken()
        _wake(woken)
        return seq

    def put(self, seq: int, event: str, data: Any) -> bool:
        """Show an event that has a number; False if it was there already, or the feed has ended.

        An event whose predecessor is still on its way waits for it. Should that never come, the
        readers are told that they missed something.
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
            woken = self._woken()
        _wake(woken)
        return True

    def end(self) -> None:
        """Nothing comes after this, also for readers that are yet to subscribe."""
        with self._lock:
            self._has_ended = True
            self._early.clear()
            woken = self._woken()
        _wake(woken)

    def _append(self, shown: Frame) -> None:
        self._last += 1
        self._touched_at = time.monotonic()
        self._kept.append(shown)
        self._kept_size += len(shown.encoded)
        while len(self._kept) > self._frames_kept or (
            self._kept_size > self._bytes_kept and len(self._kept) > 1
        ):
            self._kept_size -= len(self._kept.popleft().encoded)
        self._has_ended = shown.event in self._last_events

    def _skip_to(self, seq: int) -> None:
        """Give up what should come before; nobody's position is kept any more, so all are told."""
        self._kept.clear()
        self._kept_size = 0
        self._last = seq - 1

    def _woken(self) -> list[Subscription]:
        asleep = [reader for reader in self._readers if not reader.is_awake]
        for reader in asleep:
            reader.is_awake = True
        return asleep

    # Reading

    def subscribe(self, wake: Callable[[], None], after: int | None = None) -> Subscription:
        """Read on after a number, or from now on. `wake` must neither block nor call back.

        What follows the number and is kept no more is the subscription's `missed`: its caller
        either has it from elsewhere and greets the reader with it, or calls `tell_behind`. After
        a number that was never given the reader is told so, and reads from now on.
        """
        with self._lock:
            first = self._first_kept()
            wanted = self._last if after is None else after
            position = min(max(wanted, first - 1), self._last)
            reader = Subscription(self, wake, position, range(wanted + 1, first))
            self._readers[reader] = None
            self._touched_at = time.monotonic()
        if wanted > position:
            self.tell_behind(reader)
        return reader

    def tell_behind(self, reader: Subscription) -> None:
        """Tell a reader that it does not get what is before its position."""
        if self._behind is not None:
            reader.greet([self._behind(reader.position)])

    def taken(self, reader: Subscription, bytes_max: int) -> list[Frame]:
        """See `Subscription.take`."""
        with self._lock:
            first = self._first_kept()
            if reader.position < first - 1:
                reader.position = first - 1
                self.tell_behind(reader)
            frames: list[Frame] = []
            size = 0
            while size < bytes_max and (shown := self._next(reader)):
                frames.append(shown)
                size += len(shown.encoded)
            if not frames:
                reader.is_awake = False
            return frames

    def _next(self, reader: Subscription) -> Frame | None:
        if reader.greeting:
            return reader.greeting.popleft()
        if reader.position == self._last:
            return None
        reader.position += 1
        return self._kept[reader.position - self._last - 1]  # quick: nearly always near the end

    def has_ended_at(self, position: int) -> bool:
        """Whether there is nothing after the position, and never will be."""
        return self._has_ended and position >= self._last

    def leave(self, reader: Subscription) -> None:
        """See `Subscription.close`."""
        with self._lock:
            self._readers.pop(reader, None)
            if not self._readers:
                self._left_at = time.monotonic()

    def is_abandoned(self, grace_s: float, idle_ttl_s: float) -> bool:
        """Whether nobody reads, and has not for `grace_s` or was told nothing for `idle_ttl_s`."""
        with self._lock:
            now = time.monotonic()
            is_late = now - self._left_at >= grace_s or now - self._touched_at >= idle_ttl_s
            return is_late and not self._readers

    def _first_kept(self) -> int:
        return self._last - len(self._kept) + 1

    def _id(self, seq: int) -> str:
        return f"{self.stream_id}:{seq}"


def _wake(readers: list[Subscription]) -> None:
    """Wake them outside the lock: a reader may look at once."""
    for reader in readers:
        reader.wake()
