"""An HTTP client for JSON calls and event streams.

It knows no server in particular. It distinguishes a call that never reached the server (it did not
happen) from one that was sent and not answered (its outcome is unknown).
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.core.errors import TargetLostError
from harness.core.sse import Frame, Frames

LOOPBACK = "127.0.0.1"
PATIENCE_S = 20.0
_CHUNK_BYTES = 1 << 18


class NotReachedError(Exception):
    """The connection failed, so the call was not sent and did not happen."""


class StillOpenError(TimeoutError):
    """The stream was still open after the timeout; the connection is not lost."""


class StatusError(Exception):
    """The server answered with a status other than 200."""

    def __init__(self, request: str, status: int, response: Any) -> None:
        super().__init__(f"{request}: {status} {response}")
        self.request = request
        self.status = status
        self.response = response


class Event(NamedTuple):
    """One event of a stream; `name` is empty for a comment, such as a heartbeat."""

    id: str
    name: str
    data: Any


@dataclass(frozen=True)
class Web:
    """A client of the server at a port. It keeps no connection, so threads may share it."""

    port: int
    timeout_s: float = PATIENCE_S
    host: str = LOOPBACK
    last: tuple[str, ...] = ()  # names of events behind which a stream closes within `closing_s`
    closing_s: float = PATIENCE_S
    objects: Callable[[dict[str, Any]], Any] | None = None  # makes what an answer's objects become
    lasts: bool = False  # each wait for an event has `timeout_s`: for streams kept over many calls

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; the status and the JSON. Raises NotReachedError, TargetLostError."""
        data = None if body is None else json.dumps(body).encode()
        with self._exchange(method, path, data, {}) as response:
            return response.status, json.loads(response.read(), object_hook=self.objects)

    def status(self, path: str) -> int:
        """Read a whole response, and return its status only. Raises as `ask` does."""
        with self._exchange("GET", path, None, {}) as response:
            while response.read(_CHUNK_BYTES):
                pass
            return response.status

    def get(self, path: str) -> Any:
        """Send a GET request; the JSON. Raises StatusError for a status other than 200."""
        return _accepted(f"GET {path}", *self.ask("GET", path))

    def post(self, path: str, **body: Any) -> Any:
        """Send a POST request; the JSON. Raises StatusError for a status other than 200."""
        return _accepted(f"POST {path}", *self.ask("POST", path, body))

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str] | None = None, *, comments: bool = False
    ) -> Iterator[Iterator[Event]]:
        """Read a stream's events, and its comments if asked for, until the server closes it.

        Reading raises StillOpenError when the stream (or, if it `lasts`, one wait for an event)
        takes longer than `timeout_s`, and TimeoutError when no byte comes for as long. The block
        raises TargetLostError when the connection is lost. Opening raises StatusError for a status
        other than 200; a busy server has at least PATIENCE_S to answer, however short a silence
        ends the reading. Reading raises UnreadableStreamError for bytes without a single event.
        """
        opening_s = max(self.timeout_s, PATIENCE_S)
        with self._exchange("GET", path, None, headers or {}, opening_s) as response:
            _set_timeout(response, self.timeout_s)
            if response.status != http.client.OK:
                body = response.read().decode(errors="replace")
                raise StatusError(f"GET {path}", response.status, body)
            events = self._events(response)
            yield events if comments else (event for event in events if event.name)

    def _events(self, response: http.client.HTTPResponse) -> Iterator[Event]:
        """Read events; behind a last one, only as long as the stream may take to close."""
        patience_s, ends_at = self.timeout_s, time.monotonic() + self.timeout_s
        frames = Frames()
        try:
            while data := response.read1(_CHUNK_BYTES):
                _check_open(patience_s, ends_at)  # heartbeats bring a comment now and then
                for frame in frames.cut(data):
                    _check_open(patience_s, ends_at)
                    event = _decoded(frame, self.objects)
                    if event.name in self.last:
                        patience_s, ends_at = self.closing_s, time.monotonic() + self.closing_s
                        _set_timeout(response, patience_s)
                    yield event
                    if self.lasts and event.name:
                        ends_at = time.monotonic() + patience_s
        except TimeoutError:
            frames.check()
            raise
        frames.check()

    @contextmanager
    def _exchange(
        self,
        method: str,
        path: str,
        data: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise NotReachedError(f"{method} {path}: {error!r}") from error
        try:
            connection.request(method, path, data, dict(headers))
            with connection.getresponse() as response:
                yield response
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            if isinstance(error, StillOpenError):
                raise
            raise TargetLostError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()


def _check_open(patience_s: float, ends_at: float) -> None:
    if time.monotonic() > ends_at:
        raise StillOpenError(f"expected the stream to close within {patience_s:g} s")


def _decoded(frame: Frame, objects: Callable[[dict[str, Any]], Any] | None) -> Event:
    """The event of a frame; its data is JSON."""
    if frame.is_comment:
        return Event("", "", None)
    id_, name, data = (field.decode(errors="replace") for field in (frame.id or b"", *frame[1:]))
    return Event(id_, name, json.loads(data, object_hook=objects))


def _set_timeout(response: http.client.HTTPResponse, seconds: float) -> None:
    """Let each further read of an open response wait this long; an empty one has no socket."""
    if response.fp is not None:
        response.fp.raw._sock.settimeout(seconds)  # type: ignore[attr-defined]  # noqa: SLF001


def _accepted(request: str, status: int, response: Any) -> Any:
    if status != http.client.OK:
        raise StatusError(request, status, response)
    return response
