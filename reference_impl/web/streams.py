"""The streams: writes thousands of subscriptions to their clients in one event loop.

Publishers on any thread only note that a subscription has frames; the loop is woken once for all of
them, and writes. Frames that a client does not read stay in the shared buffer: a client that leaves
one byte unread is *stalled*, holds one batch at most, and is dropped after the deadline. A comment
is sent after a silence. Knows no HTTP beyond the frames.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from reference_impl.live.event_buffer import Subscription

T = TypeVar("T", bound=Hashable)

TICK_S = 0.5
SILENCE_S = 4.0  # then a comment is due: with a tick's delay that is still less than 5 s
_SOCKET_BYTES = 64 * 1024  # the kernel would buffer megabytes for a client that reads nothing
_BATCH = 256  # streams written at once; then other callbacks of the loop run


class Due(Generic[T]):
    """Items that become due after a time without an event; the time is the same for all."""

    def __init__(self, after_s: float) -> None:
        """Each item is due `after_s` seconds after it was last added."""
        self._after_s = after_s
        self._due_at: OrderedDict[T, float] = OrderedDict()  # ordered by time

    def __len__(self) -> int:
        return len(self._due_at)

    def __iter__(self) -> Iterator[T]:
        """Iterate in the order in which they become due."""
        return iter(tuple(self._due_at))

    def first(self) -> T:
        """The item that is due first."""
        return next(iter(self._due_at))

    def add(self, item: T) -> None:
        """Start the item's time now."""
        self._due_at[item] = time.monotonic() + self._after_s
        self._due_at.move_to_end(item)

    def remove(self, item: T) -> None:
        """Forget the item."""
        self._due_at.pop(item, None)

    def now(self) -> list[T]:
        """The items that are due."""
        now = time.monotonic()
        due = []
        for item, due_at in self._due_at.items():
            if due_at > now:
                break
            due.append(item)
        return due


class Stream:
    """One subscription, and the transport that it is written to."""

    __slots__ = ("_comment", "_is_paused", "_streams", "_subscription", "_transport")

    def __init__(self, streams: Streams, transport: asyncio.Transport) -> None:
        """Do not write yet."""
        self._streams = streams
        self._transport = transport
        self._comment = b""
        self._subscription: Subscription | None = None
        self._is_paused = False

    def wake(self) -> None:
        """Frames are available. For any thread."""
        self._streams.note(self)

    def begin(self, head: bytes, subscription: Subscription, comment: bytes) -> None:
        """Write `head`, and then the subscription's frames; `comment` is sent after a silence."""
        # An unsent byte pauses us, so a client that reads nothing holds one batch, not a buffer.
        self._transport.set_write_buffer_limits(high=0)
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._comment = comment
        self._subscription = subscription
        self._streams.add(self)
        self._write(head)

    def write(self) -> None:
        """Write the available frames, as far as the client reads them."""
        self._write(b"")

    def break_silence(self) -> None:
        """Write frames, or else a comment."""
        self._write(self._comment)

    def _write(self, data: bytes) -> None:
        subscription = self._subscription
        if subscription is None or self._transport.is_closing():
            return
        while not self._is_paused:
            data += b"".join([frame.encoded for frame in subscription.take()])
            if not data:
                break
            self._streams.spoke(self)
            self._transport.write(data)  # this may pause us
            data = b""
        if subscription.is_over and not self._is_paused:
            self._transport.close()

    def pause(self) -> None:
        """The client does not read what we write."""
        self._is_paused = True
        self._streams.stalled(self)

    def resume(self) -> None:
        """The client has read everything."""
        self._is_paused = False
        self._streams.spoke(self)
        self.write()

    def abort(self) -> None:
        """Drop the client and all bytes that it has not read."""
        self._transport.abort()

    def end(self) -> None:
        """Close the subscription: the transport is gone."""
        self._streams.remove(self)
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None


class Streams:
    """All streams of one event loop."""

    def __init__(self, write_deadline_s: float) -> None:
        """Drop a client that reads nothing for `write_deadline_s`."""
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Stream] = deque()
        self._is_woken = False
        self._silent: Due[Stream] = Due(SILENCE_S)
        self._stalled: Due[Stream] = Due(write_deadline_s)
        self._ticking: asyncio.TimerHandle | None = None
        self.dropped = 0  # clients dropped because they read nothing

    def __len__(self) -> int:
        return len(self._silent) + len(self._stalled)

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {
            "sse_streams": len(self),
            "sse_stalled": len(self._stalled),
            "sse_ready": len(self._ready),
        }

    def note(self, stream: Stream) -> None:
        """A stream has frames. For any thread; wakes the loop once for many."""
        self._ready.append(stream)
        if not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):  # the loop is closed, and the streams with it
                self._loop.call_soon_threadsafe(self._write_ready)

    def _write_ready(self) -> None:
        self._is_woken = False  # before looking: a later note wakes the loop again
        for _ in range(min(len(self._ready), _BATCH)):
            self._ready.popleft().write()
        if self._ready and not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._write_ready)

    def add(self, stream: Stream) -> None:
        """Watch a stream; there is no tick without streams."""
        self._silent.add(stream)
        if self._ticking is None:
            self._ticking = self._loop.call_later(TICK_S, self._tick)

    def spoke(self, stream: Stream) -> None:
        """The stream wrote something, and its client has read it as far as we know."""
        self._stalled.remove(stream)
        self._silent.add(stream)

    def stalled(self, stream: Stream) -> None:
        """The stream's client reads nothing."""
        self._silent.remove(stream)
        self._stalled.add(stream)

    def remove(self, stream: Stream) -> None:
        """Forget a stream."""
        self._silent.remove(stream)
        self._stalled.remove(stream)

    def _tick(self) -> None:
        for stream in self._stalled.now():
            self.dropped += 1
            self._stalled.remove(stream)
            stream.abort()
        for stream in self._silent.now():
            stream.break_silence()
        self._ticking = self._loop.call_later(TICK_S, self._tick) if len(self) else None

    def abort(self) -> None:
        """Drop all clients."""
        for stream in (*self._silent, *self._stalled):
            stream.abort()
