"""A client for one event stream, with a socket of its own, that checks events as they come.

A library that reads lines or buffers chunks adds its own delay to the server's. This client reads
what the kernel has and hands it to a `StreamReader`. It works on plain threads and on greenlets
whose sockets are patched.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.contract.checkers.server.stream_reader import StreamReader
from harness.core.errors import TargetLostError
from harness.core.sse import Frame
from harness.engine.http import NotReachedError, StatusError

READ_BYTES = 65_536
HEAD_BYTES_MAX = 65_536
PATIENCE_S = 20.0  # without a byte; four times what the contract allows


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A stream and a cursor: a run's relay, or the notices of a session."""

    session: str
    stream: str | None = None
    after: int | None = None
    is_notices: bool = False

    @property
    def path(self) -> str:
        """The path of the request."""
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


class EventStream:
    """One connection to one stream. The caller closes it."""

    def __init__(
        self,
        address: tuple[str, int],
        request: StreamRequest,
        on_data: Callable[[int, int], object] = lambda _events, _bytes: None,
        receive_bytes: int = 0,
    ) -> None:
        """Open the stream. `on_data` is called with the numbers of received events and bytes.

        `receive_bytes` limits the kernel's buffer, so that a reader that stalls soon blocks the
        server. Raises NotReachedError, TargetLostError, StatusError.
        """
        self._on_data = on_data
        self._has_left = False
        self.ending = "left"
        self.ended_ns: int | None = None
        self.bytes = 0
        self._socket = _connected(address, request.path, receive_bytes)
        try:
            self._rest = self._send_request(address, request)
        except BaseException:
            self._socket.close()
            raise
        self.reader = StreamReader(
            request.session, request.stream, request.after, is_notices=request.is_notices
        )

    def _send_request(self, address: tuple[str, int], request: StreamRequest) -> bytes:
        cursor = ""
        if request.after is not None:
            cursor = f"Last-Event-ID: {request.stream}:{request.after}\r\n"
        head = f"GET {request.path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n{cursor}\r\n"
        try:
            self._socket.sendall(head.encode())
            head_bytes = b""
            while b"\r\n\r\n" not in head_bytes and len(head_bytes) < HEAD_BYTES_MAX:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise TargetLostError(f"GET {request.path}: closed after {head_bytes!r}")
                head_bytes += data
        except OSError as error:
            raise TargetLostError(f"GET {request.path}: {error!r}") from error
        line, _, rest = head_bytes.partition(b"\r\n")
        status = int(line.split(b" ")[1])
        if status != 200:  # noqa: PLR2004  the one good answer
            raise StatusError(f"GET {request.path}", status, rest.decode(errors="replace"))
        return head_bytes.partition(b"\r\n\r\n")[2]

    def frames(self, read_bytes: int = READ_BYTES) -> Iterator[Frame]:
        """Read to the end. Then `ending` is *closed*, *left*, *lost*, or *silent*."""
        try:
            yield from self._frames(read_bytes)
        finally:
            self.ended_ns = time.monotonic_ns()

    def _frames(self, read_bytes: int) -> Iterator[Frame]:
        data, self._rest = self._rest, b""
        self.reader.listen(time.monotonic_ns())
        while True:
            if data:
                self.bytes += len(data)
                frames = self.reader.take(data, time.monotonic_ns())
                self._on_data(len(frames), len(data))
                yield from frames
            try:
                data = self._socket.recv(read_bytes)
            except TimeoutError:
                self.ending = "silent"
                return
            except OSError:
                self.ending = "left" if self._has_left else "lost"
                return
            if not data:
                self.ending = "left" if self._has_left else "closed"
                return

    def leave(self) -> None:
        """End the connection, also while another thread reads."""
        self._has_left = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> dict[str, Any]:
        """Close the socket, and return the result of the read."""
        self._socket.close()
        self.ended_ns = self.ended_ns or time.monotonic_ns()
        return self.reader.end(self.ending, self.ended_ns)


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
