"""Asks a declared server over HTTP, and reads its streams in threads of their own."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.core.errors import TargetLostError
from harness.core.sse import Frame, Frames
from harness.engine.http import LOOPBACK, NotReachedError
from harness.targets.declared_http.declaration import (
    PYTHON,
    Declaration,
    Request,
    Stream,
    filled,
    pointed,
)

WORD = re.compile(r"w[0-9]{5}w")  # stands in each message, and shows where it went
READ_BYTES = 1 << 16
STREAM_PATIENCE_S = 20.0  # a stream is silent after so long without what is waited for
STREAM_S_MAX = 60.0  # of waiting, however much else comes
TRACE = b"Traceback (most recent call last)"


@dataclass(frozen=True)
class Answer:
    """One response: its body as bytes, and as JSON where it is JSON."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def document(self) -> Any:
        """The body as JSON, None where it is none."""
        try:
            return json.loads(self.data)
        except ValueError:
            return None


class Client:
    """A client of the server at a port. It keeps no connection, so threads may share it."""

    def __init__(self, declaration: Declaration, port: int, state: str) -> None:
        self.declaration = declaration
        self.port = port
        self._fixed = {"port": str(port), "state": state, "python": PYTHON}
        self._numbers = iter(range(1, 1 << 62))

    def values(self, **given: str) -> dict[str, str]:
        """The values of all placeholders; `{seq}` is a fresh number, `{nonce}` a fresh word."""
        number = next(self._numbers)
        return {**self._fixed, "seq": str(number), "nonce": f"n{number}", **given}

    def ask(self, request: Request, **given: str) -> Answer:
        """Send a request. Raises NotReachedError, TargetLostError."""
        values = self.values(**given)
        body = filled(request.body, values)
        data = None if body is None else body.encode() if isinstance(body, str) else encoded(body)
        return self.raw(request, values, data)

    def raw(self, request: Request, values: Mapping[str, str], data: bytes | None) -> Answer:
        """Send a request with these bytes as its body. Raises as `ask` does."""
        connection, response = self._opened(request, values, data, {})
        try:
            return Answer(response.status, dict(_lower(response)), response.read())
        except (OSError, http.client.HTTPException) as error:
            raise TargetLostError(f"{request.method} {request.path}: {error!r}") from error
        finally:
            connection.close()

    def open_stream(
        self,
        request: Request,
        given: Mapping[str, str],
        headers: Mapping[str, str],
        receive_bytes: int = 0,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request with these values whose response is a stream; the caller closes both.

        Raises as `ask` does.
        """
        values = self.values(**given)
        body = filled(request.body, values)
        data = None if body is None else encoded(body)
        accept = {"Accept": "text/event-stream", **headers}
        return self._opened(request, values, data, accept, receive_bytes)

    def _opened(
        self,
        request: Request,
        values: Mapping[str, str],
        data: bytes | None,
        more: Mapping[str, str],
        receive_bytes: int = 0,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        what = f"{request.method} {request.path}"
        headers = {"Content-Type": "application/json"} if data is not None else {}
        for name, text in {**more, **self.declaration.headers, **request.headers}.items():
            if "{session}" not in text or "session" in values:
                headers[name] = filled(text, values)
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=request.timeout_s)
        try:
            connection.sock = _connected(self.port, request.timeout_s, receive_bytes)
        except OSError as error:
            raise NotReachedError(f"{what}: {error!r}") from error
        try:
            connection.request(request.method, filled(request.path, values), data, headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise TargetLostError(f"{what}: {error!r}") from error


def _connected(port: int, timeout_s: float, receive_bytes: int) -> socket.socket:
    sock = socket.socket()
    try:
        sock.settimeout(timeout_s)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.connect((LOOPBACK, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _lower(response: http.client.HTTPResponse) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in response.getheaders()]


def encoded(body: Any) -> bytes:
    """A body as JSON."""
    return json.dumps(body).encode()


def event_of(frame: Frame, stream: Stream) -> dict[str, Any]:
    """What is judged of an event: its id, its type, and the words of messages in it."""
    data = frame.data.decode(errors="replace")
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    id_: Any = None
    if stream.id == "sse":
        id_ = None if frame.id is None else frame.id.decode(errors="replace")
    elif stream.id != "none":
        id_ = pointed(document, stream.id)
    type_ = frame.event.decode() if stream.type == "sse" else str(pointed(document, stream.type))
    text = str(pointed(document, stream.text) or "") if stream.text else data
    return {
        "id": None if id_ is None else str(id_),
        "type": type_,
        "words": WORD.findall(text),
        "text": text if stream.text else "",
    }


def is_last(event: Mapping[str, Any], stream: Stream) -> bool:
    """Whether the file says that an event of this type ends a stream."""
    return event["type"] in stream.terminal


class Reader:
    """One open stream, read by a thread of its own until it ends or is closed."""

    def __init__(
        self,
        stream: Stream,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        self._stream = stream
        self._connection, self._response = connection, response
        self._changed = threading.Condition()
        self._events: list[dict[str, Any]] = []
        self._frames = Frames()
        self._end = "open"
        self._socket = connection.sock or _socket_of(response)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self, words: list[str], patience_s: float = STREAM_PATIENCE_S) -> dict[str, Any]:
        """Wait until all words came, the stream is over, or it was silent for so long."""
        with self._changed:
            ends_at = time.monotonic() + STREAM_S_MAX
            while (missing := self._missing(words)) and not self._is_over:
                if not self._changed.wait(patience_s) or time.monotonic() > ends_at:
                    missing = self._missing(words)
                    break
            events = [{k: v for k, v in e.items() if k != "text"} for e in self._events]
            unread = self._frames.unread
            if not self._events and self._frames.is_torn and self._end == "closed":
                unread = unread or "expected an event; the stream ended within the first one"
            return {"events": events, "missing": missing, "end": self._end, "unread": unread}

    @property
    def _is_over(self) -> bool:
        return self._end != "open" or any(is_last(event, self._stream) for event in self._events)

    def _missing(self, words: list[str]) -> list[str]:
        seen = {word for event in self._events for word in event["words"]}
        if self._stream.text and not seen.issuperset(words):
            seen.update(WORD.findall("".join(event["text"] for event in self._events)))
        return [word for word in words if word not in seen]

    def _read(self) -> None:
        end = "closed"
        try:
            while data := self._response.read1(READ_BYTES):
                frames = self._frames.cut(data)
                events = [event_of(f, self._stream) for f in frames if not f.is_comment]
                with self._changed:
                    self._events += events
                    if events:
                        self._changed.notify_all()
        except TimeoutError:
            end = "silent"
        except (OSError, ValueError, http.client.HTTPException):
            end = "lost"
        with self._changed:
            self._end = "left" if self._end == "left" else end
            self._changed.notify_all()

    def close(self) -> None:
        """Close the connection, as a client that leaves, and wait for the reading thread."""
        with self._changed:
            self._end = "left" if self._end == "open" else self._end
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._response.close()
        self._connection.close()


def _socket_of(response: http.client.HTTPResponse) -> socket.socket | None:
    """The socket of a response that took it over from its connection."""
    raw = getattr(response.fp, "raw", None)
    return getattr(raw, "_sock", None)
