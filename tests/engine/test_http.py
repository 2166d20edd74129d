"""How long a client of event streams waits, and for what."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from harness.core.errors import TargetLostError
from harness.core.sse import UnreadableStreamError
from harness.engine import http
from harness.engine.http import LOOPBACK, PATIENCE_S, StillOpenError, Web

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
FIRST = b"id: 1\nevent: greeting\ndata: {}\n\n"
SILENCE_S = 0.01


@contextmanager
def served(answer: bytes, *, stays: bool) -> Iterator[int]:
    """Answer one request late, then stay silent until the client has left, or close."""
    with socket.create_server((LOOPBACK, 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                threading.Event().wait(10 * SILENCE_S)  # as a busy server does
                connection.sendall(answer)
                if stays:
                    connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def test_late_answer_is_no_lost_connection() -> None:
    """A silence that ends the reading is no bound for the answer."""
    with (
        served(HEAD + FIRST, stays=True) as port,
        Web(port, SILENCE_S).stream("/") as events,
    ):
        assert next(events).name == "greeting"
        with pytest.raises(TimeoutError):
            next(events)


@pytest.mark.parametrize("lasts", [True, False])
def test_stream_that_lasts_is_bounded_by_each_wait(
    monkeypatch: pytest.MonkeyPatch, *, lasts: bool
) -> None:
    """Its client may do other things for long before it reads on."""
    now_s = [0.0]
    monkeypatch.setattr(http, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    with (
        served(HEAD + FIRST + FIRST, stays=True) as port,
        Web(port, PATIENCE_S, lasts=lasts).stream("/") as events,
    ):
        next(events)
        now_s[0] += 2 * PATIENCE_S
        if lasts:
            assert next(events).name == "greeting"
        else:
            with pytest.raises(StillOpenError):
                next(events)


def test_closing_without_an_answer_is_a_lost_connection() -> None:
    """However patient the client is."""
    with (
        served(b"HTTP/1.1 ", stays=False) as port,
        pytest.raises(TargetLostError),
        Web(port, SILENCE_S).stream("/"),
    ):
        pass


@pytest.mark.parametrize(
    ("wire", "expected"),
    [(b"data: 1\r\rdata: 2\r\r", [1, 2]), (b"data: 1\r\n\r\n", [1])],
)
def test_stream_is_read_with_any_line_ends(wire: bytes, expected: list[int]) -> None:
    """An event without a name is a message."""
    with served(HEAD + wire, stays=False) as port, Web(port, PATIENCE_S).stream("/") as events:
        assert [(event.name, event.data) for event in events] == [("message", n) for n in expected]


@pytest.mark.parametrize("stays", [True, False])
def test_bytes_without_an_event_are_unknown(*, stays: bool) -> None:
    """Neither their end nor a silence after them makes them an empty stream."""
    with (
        served(HEAD + b'{"a": 1}\n', stays=stays) as port,
        pytest.raises(UnreadableStreamError),
        Web(port, SILENCE_S).stream("/") as events,
    ):
        list(events)
