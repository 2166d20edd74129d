"""The tap: one event stream on a socket of its own, checked as it comes, by as little as possible.

A library that reads lines or buffers chunks reports its own delay as the server's, and one that
thinks for each event measures itself. This reads what the kernel has and hands it to a `Reading`.
It works alike on plain threads and on greenlets whose sockets are patched.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.contract.checkers.server.sse_delivery import Reading
from harness.core.errors import TargetLostError
from harness.core.sse import Frame
from harness.engine.http import NotReachedError, StatusError

READ_BYTES = 65_536
HEAD_BYTES_MAX = 65_536
PATIENCE_S = 20.0  # without a byte; four times what the contract allows


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which stream, and from where: a run's relay, or without one the notices of a session."""

    session: str
    stream: str | None = None
    after: int | None = None
    is_notices: bool = False

    @property
    def path(self) -> str:
        """What to ask for."""
        if self.is_notices:
            return f"/api/session/stream?session_id={self.session}"
        return f"/api/chat/stream?stream_id={self.stream}"

    def to_json(self) -> dict[str, Any]:
        """Render as the argument of an operation."""
        return {
            "session": self.session,
            "stream": self.stream,
            "after": self.after,
            "notices": self.is_notices,
        }


class Tap:
    """One connection to one stream; whoever opens it also closes it."""

    def __init__(
        self,
        address: tuple[str, int],
        wanted: Wanted,
        heard: Callable[[int, int], object] = lambda _events, _bytes: None,
        receive_bytes: int = 0,
    ) -> None:
        """Open the stream. `heard` is told of events and bytes as they come.

        `receive_bytes` asks the kernel to buffer no more than that, so that a server soon feels a
        reader that stalls. Raises NotReachedError, TargetLostError, StatusError.
        """
        self._heard = heard
        self._has_left = False
        self.how = "left"
        self.ended_ns: int | None = None
        self.bytes = 0
        self._socket = _connected(address, wanted.path, receive_bytes)
        try:
            self._rest = self._ask(address, wanted)
        except BaseException:
            self._socket.close()
            raise
        self.reading = Reading(
            wanted.session, wanted.stream, wanted.after, is_notices=wanted.is_notices
        )

    def _ask(self, address: tuple[str, int], wanted: Wanted) -> bytes:
        cursor = ""
        if wanted.after is not None:
            cursor = f"Last-Event-ID: {wanted.stream}:{wanted.after}\r\n"
        head = f"GET {wanted.path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n{cursor}\r\n"
        try:
            self._socket.sendall(head.encode())
            told = b""
            while b"\r\n\r\n" not in told and len(told) < HEAD_BYTES_MAX:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise TargetLostError(f"GET {wanted.path}: closed after {told!r}")
                told += data
        except OSError as error:
            raise TargetLostError(f"GET {wanted.path}: {error!r}") from error
        line, _, rest = told.partition(b"\r\n")
        status = int(line.split(b" ")[1])
        if status != 200:  # noqa: PLR2004  the one good answer
            raise StatusError(f"GET {wanted.path}", status, rest.decode(errors="replace"))
        return told.partition(b"\r\n\r\n")[2]

    def frames(self, read_bytes: int = READ_BYTES) -> Iterator[Frame]:
        """Read until it is over. `how` tells the way: closed, left, lost, or silent."""
        try:
            yield from self._frames(read_bytes)
        finally:
            self.ended_ns = time.monotonic_ns()

    def _frames(self, read_bytes: int) -> Iterator[Frame]:
        data, self._rest = self._rest, b""
        self.reading.listen(time.monotonic_ns())
        while True:
            if data:
                self.bytes += len(data)
                frames = self.reading.take(data, time.monotonic_ns())
                self._heard(len(frames), len(data))
                yield from frames
            try:
                data = self._socket.recv(read_bytes)
            except TimeoutError:
                self.how = "silent"
                return
            except OSError:
                self.how = "left" if self._has_left else "lost"
                return
            if not data:
                self.how = "left" if self._has_left else "closed"
                return

    def leave(self) -> None:
        """End it, also while another reads."""
        self._has_left = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> dict[str, Any]:
        """Let go of the socket; what the connection came to."""
        self._socket.close()
        self.ended_ns = self.ended_ns or time.monotonic_ns()
        return self.reading.end(self.how, self.ended_ns)


def _connected(address: tuple[str, int], path: str, receive_bytes: int) -> socket.socket:
    sock = socket.socket()
    try:
        sock.settimeout(PATIENCE_S)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(address)
    except OSError as error:
        sock.close()
        raise NotReachedError(f"GET {path}: {error!r}") from error
    return sock
