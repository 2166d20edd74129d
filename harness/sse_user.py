"""A locust user that reads an event stream and checks order, gaps, resumption and foreign events.

It reads some events, leaves, and resumes with `Last-Event-ID`, again and again. Every connection is
a request of locust, and everything that is wrong with an event is a failure, by its kind; so locust
ends with exit code 1. Importing this module imports locust, which patches the standard library.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, ClassVar
from urllib.parse import urlsplit

from harness.checkers.event_order import EventOrder, any_event, last_number
from harness.core.extras import require_extras
from harness.core.sse import Frame, Frames

require_extras("harness.sse_user", "load")

import gevent  # noqa: E402  what it needs is known by now
from locust import User, constant, task  # noqa: E402

READ_BYTES = 65_536
OK = 200


class WrongEventError(AssertionError):
    """An event that is out of order, missing, doubled, or not for this reader."""


class SSEUser(User):
    """Reads `path` of the host. Override what your stream does in another way.

    It leaves after `events_per_connection` events, and resumes after the last of them. With
    `gapless` numbers follow one another by one. `patience_s` is how long the stream may be silent,
    comments included. `resumes` is False for a stream that always begins with what is new.
    """

    abstract = True
    wait_time = constant(0)
    path = "/events"
    headers: ClassVar[dict[str, str]] = {}
    events_per_connection = 20
    gapless = True
    resumes = True
    patience_s = 30.0

    def number(self, frame: Frame) -> int | None:
        """The number of an event: by default that at the end of its id."""
        return last_number(frame)

    def is_mine(self, frame: Frame) -> bool:
        """Whether an event belongs to this user."""
        return any_event(frame)

    def is_last(self, frame: Frame) -> bool:  # noqa: ARG002 - for subclasses
        """Whether the stream ends with this event; the next connection begins anew then."""
        return False

    def on_start(self) -> None:
        """Begin at the start of the stream."""
        self._begin()

    def _begin(self) -> None:
        self._order = EventOrder(self.number, self.is_mine, self.gapless)

    @task
    def read(self) -> None:
        """Open the stream, read some events, and leave."""
        began_s = time.monotonic()
        events = size = 0
        error: Exception | None = None
        try:
            for frame in self._frames():
                events += not frame.is_comment
                size += len(frame.data)
                for wrong in self._order.take(frame):
                    self._report(f"{self.path} {wrong.partition(':')[0]}", wrong)
                if self.is_last(frame):
                    self._begin()
                    break
                if events >= self.events_per_connection:
                    break
        except (OSError, http.client.HTTPException) as failed:
            error = failed
            gevent.sleep(0.1)
        self._fire(self.path, (time.monotonic() - began_s) * 1000, size, error)

    def _frames(self) -> Iterator[Frame]:
        """The events of one connection. Raises OSError or HTTPException."""
        url = urlsplit(self.host or "")
        secure = url.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        with closing(kind(url.netloc, timeout=self.patience_s)) as connection:
            headers = {"Accept": "text/event-stream", **self.headers}
            if self.resumes and self._order.last_id:
                headers["Last-Event-ID"] = self._order.last_id
                self._order.resume()
            else:
                self._begin()
            connection.request("GET", url.path.rstrip("/") + self.path, headers=headers)
            response = connection.getresponse()
            if response.status != OK:
                raise http.client.HTTPException(f"GET {self.path}: status {response.status}")
            frames = Frames()
            try:
                while data := response.read1(READ_BYTES):
                    yield from frames.cut(data)
            except TimeoutError:
                _check_read(frames)
                raise
            _check_read(frames)

    def _report(self, name: str, wrong: str) -> None:
        self._fire(name, 0.0, 0, WrongEventError(wrong))

    def _fire(self, name: str, ms: float, size: int, error: Exception | None) -> None:
        facts: dict[str, Any] = {"response_time": ms, "response_length": size, "exception": error}
        self.environment.events.request.fire(
            request_type="SSE", name=name, context={}, response=None, **facts
        )


def _check_read(frames: Frames) -> None:
    """Raise HTTPException if the stream sent bytes, but not one event."""
    if frames.unread:
        raise http.client.HTTPException(frames.unread)
