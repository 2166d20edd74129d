"""A bad network between clients and a server: a loopback proxy whose links change, as faults.

The proxy knows bytes and no protocol, so that it stands before any TCP server. One thread moves all
bytes. Without a fault they pass as they are. A link delays bytes, limits their rate, passes them in
small pieces, or ends at a number of bytes, which are counted for each connection.
"""

from __future__ import annotations

import random
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

LOOPBACK = "127.0.0.1"
_READ_BYTES = 1 << 16
_HELD_BYTES_MAX = 1 << 18  # in one direction; more waits in the sender's socket
_RATE_STEP_S = 0.005  # a limited rate passes what it allows in this time
_RESET = struct.pack("ii", 1, 0)
_CLOSE_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a link.

    Each byte is late by `latency_s` and up to `jitter_s` more, in order. `bytes_per_s` limits the
    rate, 0 does not. `piece_bytes` is the largest piece that passes at once, and `gap_s` lies
    between two pieces.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    piece_bytes: int = 0
    gap_s: float = 0.0


class Break(StrEnum):
    """What happens to a connection of which enough bytes have passed."""

    RESET = "reset"  # both sides are reset
    CLOSE = "close"  # both sides are closed, where no line ends
    HALF_OPEN = "half-open"  # the client gets no byte any more, neither end is passed on
    STALL = "stall"  # no byte passes any more


@dataclass(frozen=True, slots=True)
class Link:
    """How connections behave; `broken` after `after` bytes of the answer, or of the request.

    What is half-open is reset on both sides when the link changes; what is stalled goes on.
    """

    request: Flow = Flow()
    answer: Flow = Flow()
    broken: Break | None = None
    after: int = 0
    in_request: bool = False


GOOD = Link()


@dataclass(eq=False)
class _Pipe:
    """The bytes from one socket to the other one of a connection."""

    source: socket.socket
    sink: socket.socket
    is_request: bool
    held: deque[tuple[float, bytes]] = field(default_factory=deque)
    held_bytes: int = 0
    passed: int = 0
    free_at: float = 0.0  # when the next piece may pass
    due_at: float = 0.0  # when the last byte is due
    is_ended: bool = False  # the source has ended
    is_shut: bool = False  # the sink knows it
    last: bytes = b""

    def send(self, size: int) -> int:
        """Write `size` bytes of the first ones at most; how many were. Raises OSError."""
        due_at, data = self.held.popleft()
        sent = 0
        try:
            sent = self.sink.send(data[:size])
        finally:
            if sent < len(data):
                self.held.appendleft((due_at, data[sent:]))
        self.last = data[:sent][-1:] or self.last
        self.passed += sent
        self.held_bytes -= sent
        return sent

    def drop(self) -> None:
        """Lose the bytes that have not passed."""
        self.held.clear()
        self.held_bytes = 0


@dataclass(eq=False)
class _Connection:
    client: socket.socket
    server: socket.socket
    pipes: tuple[_Pipe, _Pipe]
    is_half_open: bool = False
    is_struck: bool = False


class NetworkProxy:
    """Listens on a loopback port, and passes every connection on to another one."""

    def __init__(self, port: int, rng: random.Random, host: str = LOOPBACK) -> None:
        """Listen. `rng` draws the jitter and the sizes of pieces. Raises OSError."""
        self._target = host, port
        self._rng = rng
        self._link = GOOD
        self._is_open = True
        self._struck = 0
        self._changed = threading.Condition()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=128)
        self._listener.settimeout(0)
        self.port: int = self._listener.getsockname()[1]
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.settimeout(0)
        self._wake_out.settimeout(0)
        self._connections: list[_Connection] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="network proxy", daemon=True)
        self._thread.start()

    def use(self, link: Link) -> None:
        """Give all connections this link, those that are open too. `struck` begins at zero."""
        with self._changed:
            self._link = link
            self._struck = 0
            for connection in self._connections:
                connection.is_struck = False
        self.wake()

    @property
    def struck(self) -> int:
        """Connections that broke, or that hold back bytes for a stall, since the link changed."""
        return self._struck

    def wake(self) -> None:
        """Let waiters look again."""
        with self._changed:
            self._changed.notify_all()
        with suppress(OSError):
            self._wake_out.send(b"\0")

    def wait_for(self, is_so: Callable[[], bool], within_s: float) -> bool:
        """Wait until this is so, as asked whenever a connection is struck, or after `wake`."""
        with self._changed:
            return self._changed.wait_for(is_so, within_s)

    def close(self) -> None:
        """End every connection, and the thread. Raises what ended the thread before."""
        with self._changed:
            self._is_open = False
        self.wake()
        self._thread.join(_CLOSE_PATIENCE_S)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The thread

    def _run(self) -> None:
        try:
            while self._is_open:
                with self._changed:
                    link = self._link
                for connection in [*self._connections]:
                    self._step(connection, link)
                self._wait(link)
        except BaseException as error:
            self._error = error  # the harness failed, and not the server: `close` raises it
            raise
        finally:
            for connection in [*self._connections]:
                self._end(connection, resets=False)
            for sock in (self._listener, self._wake_in, self._wake_out):
                sock.close()

    def _wait(self, link: Link) -> None:
        """Wait for bytes to read, for room to write them, or until some are due."""
        now, due_at = time.monotonic(), float("inf")
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_in, selectors.EVENT_READ)
            for connection in self._connections:
                events, at = self._wanted(connection, link, now)
                due_at = min(due_at, at)
                for sock, mask in events.items():
                    if mask:
                        selector.register(sock, mask)
            ready = selector.select(None if due_at == float("inf") else max(0.0, due_at - now))
        for key, _ in ready:
            if key.fileobj is self._wake_in:
                with suppress(BlockingIOError):
                    self._wake_in.recv(_READ_BYTES)
            elif key.fileobj is self._listener:
                self._accept()

    def _wanted(
        self, connection: _Connection, link: Link, now: float
    ) -> tuple[dict[socket.socket, int], float]:
        """What to wait for at each socket, and when the next bytes are due that are not yet."""
        events, due_at = {connection.client: 0, connection.server: 0}, float("inf")
        for pipe in connection.pipes:
            if not pipe.is_ended and pipe.held_bytes < _HELD_BYTES_MAX:
                events[pipe.source] |= selectors.EVENT_READ
            if pipe.held and not self._is_stopped(connection, link):
                at = max(pipe.held[0][0], pipe.free_at)
                if at <= now:
                    events[pipe.sink] |= selectors.EVENT_WRITE
                else:
                    due_at = min(due_at, at)
        return events, due_at

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # the client has left
            return
        try:
            server = socket.create_connection(self._target)
        except OSError:
            _reset(client)
            return
        for sock in (client, server):
            sock.settimeout(0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipes = _Pipe(client, server, is_request=True), _Pipe(server, client, is_request=False)
        with self._changed:
            self._connections.append(_Connection(client, server, pipes))

    def _step(self, connection: _Connection, link: Link) -> None:
        """Move what can be moved now."""
        if connection.is_half_open and link.broken is not Break.HALF_OPEN:
            self._end(connection, resets=True)
            return
        try:
            for pipe in connection.pipes:
                self._read(connection, pipe, link)
                if not self._write(connection, pipe, link):
                    return
        except OSError:  # one side is gone, and so is the other
            if not connection.is_half_open:
                self._end(connection, resets=True)
                return
            for pipe in connection.pipes:
                pipe.is_ended = True
                pipe.drop()
            return
        if all(pipe.is_shut for pipe in connection.pipes):
            self._end(connection, resets=False)

    def _read(self, connection: _Connection, pipe: _Pipe, link: Link) -> None:
        flow = link.request if pipe.is_request else link.answer
        while not pipe.is_ended and pipe.held_bytes < _HELD_BYTES_MAX:
            try:
                data = pipe.source.recv(_READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                pipe.is_ended = True
                return
            if self._is_lost(connection, pipe, link):
                continue
            due_at = time.monotonic() + flow.latency_s
            if flow.jitter_s:
                due_at += self._rng.uniform(0, flow.jitter_s)
            pipe.due_at = max(pipe.due_at, due_at)
            pipe.held.append((pipe.due_at, data))
            pipe.held_bytes += len(data)

    def _write(self, connection: _Connection, pipe: _Pipe, link: Link) -> bool:
        """Write what is due; False if the connection ended."""
        flow = link.request if pipe.is_request else link.answer
        breaks = link.broken if pipe.is_request == link.in_request else None
        while pipe.held and pipe.held[0][0] <= (now := time.monotonic()) >= pipe.free_at:
            if self._is_lost(connection, pipe, link):
                pipe.drop()
                break
            if self._is_stopped(connection, link):
                return True
            _, data = pipe.held[0]
            size = self._size(flow, len(data))
            if breaks is not None:
                left = _left(pipe, link, data)
                if left <= 0:
                    return self._strike(connection, breaks)
                size = min(size, left)
            try:
                sent = pipe.send(size)
            except BlockingIOError:
                return True
            rate_s = sent / flow.bytes_per_s if flow.bytes_per_s else 0.0
            pipe.free_at = now + max(rate_s, flow.gap_s)
        self._shut(connection, pipe, link)
        return True

    def _shut(self, connection: _Connection, pipe: _Pipe, link: Link) -> None:
        """Pass the end on, once all bytes before it have passed."""
        is_done = pipe.is_ended and not pipe.held and not pipe.is_shut
        if is_done and not connection.is_half_open and not self._is_stopped(connection, link):
            pipe.is_shut = True
            pipe.sink.shutdown(socket.SHUT_WR)

    def _size(self, flow: Flow, size: int) -> int:
        if flow.piece_bytes:
            size = min(size, self._rng.randint(1, flow.piece_bytes))
        if flow.bytes_per_s:
            size = min(size, max(1, round(flow.bytes_per_s * _RATE_STEP_S)))
        return size

    def _is_lost(self, connection: _Connection, pipe: _Pipe, link: Link) -> bool:
        return connection.is_half_open and pipe.is_request == link.in_request

    def _is_stopped(self, connection: _Connection, link: Link) -> bool:
        return link.broken is Break.STALL and connection.is_struck

    def _strike(self, connection: _Connection, breaks: Break) -> bool:
        """Break a connection; whether it goes on."""
        if not connection.is_struck:
            connection.is_struck = True
            connection.is_half_open |= breaks is Break.HALF_OPEN
            with self._changed:
                self._struck += 1
                self._changed.notify_all()
        if breaks in (Break.HALF_OPEN, Break.STALL):
            return True
        self._end(connection, resets=breaks is Break.RESET)
        return False

    def _end(self, connection: _Connection, *, resets: bool) -> None:
        with self._changed:
            self._connections.remove(connection)
        for sock in (connection.client, connection.server):
            if resets:
                _reset(sock)
            else:
                with suppress(OSError):  # a FIN goes before what a close with unread bytes sends
                    sock.shutdown(socket.SHUT_WR)
                sock.close()


def _left(pipe: _Pipe, link: Link, data: bytes) -> int:
    """How many of these bytes may pass before the link breaks."""
    left = link.after - pipe.passed
    if left > 0 or link.broken is not Break.CLOSE:
        return left
    ends_a_line = pipe.last in (b"\n", b"\r")
    return 1 if ends_a_line and data else 0  # a byte more, so that it ends within a line


def _reset(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


class BadNetwork:
    """A fault: the proxy uses a link, and a good one when the fault is healed."""

    def __init__(self, proxy: NetworkProxy, name: str, link: Link) -> None:
        """`name` says what the link is like."""
        self.name = f"network: {name}"
        self._proxy, self._link = proxy, link

    def available(self) -> bool:
        """Whether it can be injected here: a proxy needs no rights, so always."""
        return True

    def inject(self) -> None:
        """Use the link."""
        self._proxy.use(self._link)

    def heal(self) -> None:
        """Use a good link."""
        self._proxy.use(GOOD)
