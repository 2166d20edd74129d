"""The server: connects sockets to an application, in one event loop.

It implements just enough HTTP/1.1 on a bare `asyncio.Protocol`. Frameworks were measured: their
streams cost several times the memory and processor time of these, and none drops a client that
stopped reading, which a server of streams must be able to do.

Calls into the application may wait for a disk or a lock, so they run on a few threads, and wait for
a free thread for a bounded time. Streams run in the loop. Both have separate limits: when all
streams are taken, calls are still answered, and idle connections are closed first.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from reference_impl.config import env_int, env_seconds
from reference_impl.live.event_buffer import Subscription
from reference_impl.web.http_parser import (
    CONTINUE,
    STREAM_HEAD,
    Answer,
    Reader,
    RefusedError,
    Request,
    refusal,
)
from reference_impl.web.streams import Due, Stream, Streams

log = logging.getLogger(__name__)

WRITE_DEADLINE_S = 20.0
STREAMS_MAX = 10_000
CONNECTIONS_MAX = 512  # connections that are not streams
REQUEST_PATIENCE_S = 30.0  # for a whole request, and for the client to read its response
CALL_THREADS = 16
OPEN_THREADS = 4  # threads that open streams
CALL_PATIENCE_S = 5.0  # until a thread takes the call
DRAIN_S = 20.0
COLLECT_S = 60.0
_CLOSE_TIMEOUT_S = 2.0
_FDS_SPARE = 256
_TICK_S = 1.0
_BACKLOG = 4096

Wake = Callable[[], None]


class Streaming(NamedTuple):
    """The result of a call that begins a stream. `comment` is sent after a silence."""

    subscription: Subscription
    comment: bytes


class Plan(NamedTuple):
    """How to execute a request."""

    call: Callable[[Wake], Answer | Streaming]
    is_stream: bool = False
    is_instant: bool = False  # it never waits, so the loop executes it itself


class Application(Protocol):
    """The application that the server runs."""

    def plan(self, request: Request) -> Plan:
        """Find the plan of a request. Raises RefusedError; must not wait."""
        ...

    def collect(self) -> object:
        """Periodic work, every minute; may wait."""
        ...

    def shut_down(self, deadline_s: float) -> None:
        """Finish or mark running work, and end every subscription, within the deadline."""
        ...


class Connection(asyncio.Protocol):
    """One client's connection: sequential requests, the last of which may be a stream."""

    __slots__ = ("_is_busy", "_is_paused", "_reader", "_server", "_stream", "_transport")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reader: Reader | None = Reader()  # None once no request is expected any more
        self._stream: Stream | None = None
        self._is_busy = False
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for a request."""
        self._transport = cast("asyncio.Transport", transport)
        self._server.await_request(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the stream and release its slot."""
        del exc
        self._reader = None
        if self._stream is not None:
            self._stream.end()
            self._stream = None
            self._server.stream_count -= 1
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; a client with a stream has nothing more to send."""
        if self._reader is None:
            return
        self._reader.add(data)
        if self._is_busy:
            self._transport.pause_reading()  # further requests wait in the socket
        self._read()

    def eof_received(self) -> bool:
        """The client sends no more: refuse a request that lacks its end, and close."""
        if self._stream is not None and self._is_paused:
            self._transport.abort()  # a close would wait until it reads, and it has left
        if self._reader is not None and not self._is_busy:
            refused = self._reader.refused_at_end()
            if refused is not None:
                self._transport.write(refusal(refused).encoded(keeps_alive=False))
        return False

    def pause_writing(self) -> None:
        """The client does not read what we write."""
        self._is_paused = True
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        """The client has read everything."""
        self._is_paused = False
        if self._stream is not None:
            self._stream.resume()
        else:
            self._read()

    def close(self) -> None:
        """Close the connection after the client has read the written bytes."""
        self._transport.close()

    def abort(self) -> None:
        """Drop the client."""
        self._transport.abort()

    def _read(self) -> None:
        """Execute the next request, if it is complete and the previous one is done."""
        if self._reader is None or self._is_busy or self._is_paused:
            return
        try:
            request = self._reader.next()
            if request is None:
                if self._reader.expects_continue:
                    self._transport.write(CONTINUE)
                return
        except RefusedError as error:
            self._write(refusal(error), None)
            return
        self._is_busy = True
        self._server.forget(self)
        try:
            self._carry_out(request)
        except RefusedError as error:
            self._finish(request, refusal(error))

    def _carry_out(self, request: Request) -> None:
        plan = self._server.plan(request)
        done = partial(self._finish, request)
        if plan.is_instant:
            done(_carried_out(plan, _ignore_wake))
        elif plan.is_stream:
            self._server.reserve_stream()
            self._stream = Stream(self._server.streams, self._transport)
            self._server.submit(plan, self._stream.wake, done)
        else:
            self._server.submit(plan, _ignore_wake, done)

    def _finish(self, request: Request, outcome: Answer | Streaming) -> None:
        self._is_busy = False
        if isinstance(outcome, Streaming):
            self._begin_stream(outcome)
            return
        if self._stream is not None:  # the stream was refused
            self._stream = None
            self._server.stream_count -= 1
        if self._reader is not None:
            self._server.await_request(self)
            self._write(outcome, request)

    def _begin_stream(self, streaming: Streaming) -> None:
        if self._stream is None:  # the client disconnected while the stream was prepared
            streaming.subscription.close()
            return
        self._reader = None
        self._transport.resume_reading()  # otherwise a disconnect would not be noticed
        self._stream.begin(STREAM_HEAD, streaming.subscription, streaming.comment)

    def _write(self, answer: Answer, request: Request | None) -> None:
        """Write a response, and then read on or, if the connection ends, close it."""
        keeps_alive = request is not None and request.keeps_alive and self._server.is_open
        is_head = request is not None and request.method == "HEAD"
        self._transport.write(answer.encoded(keeps_alive=keeps_alive, without_body=is_head))
        self._transport.resume_reading()
        if keeps_alive:
            self._server.soon(self._read)  # not at once: a client may have sent many requests
            return
        # Bytes that the client still sends are received and ignored: closing at once would reset
        # the connection, and the response could be lost.
        self._reader = None
        self._transport.write_eof()
        self._server.await_close(self)


def _ignore_wake() -> None:
    """Ignore a wake: the result is not a stream."""


def _carried_out(plan: Plan, wake: Wake) -> Answer | Streaming:
    try:
        return plan.call(wake)
    except RefusedError as error:
        return refusal(error)
    except Exception:
        log.exception("a call failed")
        return refusal(RefusedError(500, "internal error"))


class Server:
    """A listening socket, its connections, and the threads that execute their calls."""

    def __init__(self, application: Application) -> None:
        """Limits are read from the environment; see `docs/reference/settings.md`."""
        self._loop = asyncio.get_running_loop()
        self._application = application
        # Two pools, so that a burst of reconnecting streams delays no ordinary call.
        self._callers = ThreadPoolExecutor(CALL_THREADS, "call")
        self._openers = ThreadPoolExecutor(OPEN_THREADS, "open")
        self._calls = 0
        self._listener: asyncio.Server | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._left = asyncio.Event()  # a connection or call ended; for `_all_left`
        deadline_s = env_seconds("HERMES_SSE_WRITE_DEADLINE", WRITE_DEADLINE_S)
        self.streams = Streams(env_seconds("HERMES_WEBUI_SSE_WRITE_DEADLINE", deadline_s))
        self.streams_max = _streams_max()
        self.stream_count = 0
        self.requests = 0
        self.last_request_at: float | None = None
        self.is_open = True
        self._collect_s = env_seconds("HERMES_WEBUI_COLLECT_PERIOD", COLLECT_S)
        patience_s = env_seconds("HERMES_WEBUI_REQUEST_PATIENCE", REQUEST_PATIENCE_S)
        self._idle: Due[Connection] = Due(patience_s)
        self._closing: Due[Connection] = Due(_CLOSE_TIMEOUT_S)

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {
            "connections_idle": len(self._idle),
            "connections_leaving": len(self._closing),
            "calls": self._calls,
            "streams_taken": self.stream_count,
            **self.streams.gauges(),
        }

    def counters(self) -> dict[str, Any]:
        """Counts since the start, and the limit on streams."""
        return {
            "requests_total": self.requests,
            "last_request_at": self.last_request_at,
            "streams_dropped": self.streams.dropped,
            "streams_max": self.streams_max,
        }

    # Listening and draining

    async def listen(self, host: str, port: int) -> str:
        """Accept connections; returns the address. Raises OSError."""
        self._listener = await self._loop.create_server(
            partial(Connection, self), host, port, backlog=_BACKLOG
        )
        self._collecting = self._loop.call_later(self._collect_s, self._collect)
        name, bound_port = self._listener.sockets[0].getsockname()[:2]
        return f"http://{f'[{name}]' if ':' in name else name}:{bound_port}"

    async def serve_until_signalled(self, deadline_s: float) -> None:
        """Serve until SIGTERM or SIGINT, and then drain, within the deadline."""
        signalled = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, signalled.set)
        await signalled.wait()
        await self.drain(deadline_s)

    async def drain(self, deadline_s: float) -> None:
        """Accept nothing any more, let the application finish, and close every connection."""
        log.info("draining, for %s s at most", deadline_s)
        self.is_open = False
        self._collecting.cancel()
        assert self._listener is not None
        self._listener.close()
        await self._shut_down(max(0.0, deadline_s - _CLOSE_TIMEOUT_S))
        for connection in self._idle:
            connection.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_left(), _CLOSE_TIMEOUT_S)
        self.streams.abort()

    async def _shut_down(self, patience_s: float) -> None:
        """Let the application finish, on a thread that blocks nothing if it does not."""
        finished = asyncio.Event()

        def shut_down() -> None:
            try:
                self._application.shut_down(patience_s)
            except Exception:
                log.exception("the application did not shut down well")
            finally:
                self._loop.call_soon_threadsafe(finished.set)

        threading.Thread(target=shut_down, name="shut down", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(finished.wait(), patience_s)

    async def _all_left(self) -> None:
        while self.stream_count or self._calls or self._idle or self._closing:
            self._left.clear()
            await self._left.wait()

    def _collect(self) -> None:
        self._loop.run_in_executor(self._callers, self._application.collect)
        self._collecting = self._loop.call_later(self._collect_s, self._collect)

    def soon(self, act: Callable[[], None]) -> None:
        """Call `act` after the callbacks that are ready in the loop now."""
        self._loop.call_soon(act)

    # Connections that are not streams

    def await_request(self, connection: Connection) -> None:
        """Wait for the connection's next request; above the limit, abort the oldest idle one.

        Free stream slots count as room: most of a burst of connections become streams.
        """
        self._idle.add(connection)
        held = len(self._idle) + len(self._closing) + self._calls + self.stream_count
        if held > CONNECTIONS_MAX + self.streams_max:
            oldest = self._idle.first()
            self._idle.remove(oldest)
            oldest.abort()
        self._tick_soon()

    def await_close(self, connection: Connection) -> None:
        """Wait for the client to read its response and disconnect."""
        self._idle.remove(connection)
        self._closing.add(connection)
        self._tick_soon()

    def forget(self, connection: Connection) -> None:
        """Stop waiting for the connection: it is busy, or gone."""
        self._idle.remove(connection)
        self._closing.remove(connection)
        self._left.set()

    def _tick_soon(self) -> None:
        if self._ticking is None:
            self._ticking = self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        for connection in (*self._idle.now(), *self._closing.now()):
            connection.abort()
        if self._idle or self._closing:
            self._tick_soon()

    # Calls

    def plan(self, request: Request) -> Plan:
        """Find the plan of a request. Raises RefusedError."""
        self.requests += 1
        self.last_request_at = time.time()
        plan = self._application.plan(request)
        if not self.is_open and not plan.is_instant:
            raise RefusedError(503, "the server is shutting down")
        return plan

    def reserve_stream(self) -> None:
        """Reserve a slot for a stream. Raises RefusedError if all are taken."""
        if self.stream_count >= self.streams_max:
            raise RefusedError(503, f"all {self.streams_max} streams are taken")
        self.stream_count += 1

    def submit(self, plan: Plan, wake: Wake, done: Callable[[Answer | Streaming], None]) -> None:
        """Execute a plan on a thread, and pass its result to `done` in the loop."""
        is_call = not plan.is_stream
        self._calls += is_call
        submitted_at = time.monotonic()

        def carry_out() -> None:
            is_late = time.monotonic() - submitted_at > CALL_PATIENCE_S
            outcome = _BUSY if is_late else _carried_out(plan, wake)
            with suppress(RuntimeError):  # the loop is closed, so the result is not needed
                self._loop.call_soon_threadsafe(finish, outcome)

        def finish(outcome: Answer | Streaming) -> None:
            self._calls -= is_call
            self._left.set()
            done(outcome)

        (self._callers if is_call else self._openers).submit(carry_out)


_BUSY = refusal(RefusedError(503, "the server is busy, try again", ("Retry-After", "1")))


def _streams_max() -> int:
    """The number of streams that the limit of open files allows, with room for calls."""
    wanted = env_int("HERMES_WEBUI_STREAMS_MAX", STREAMS_MAX)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + CONNECTIONS_MAX + _FDS_SPARE
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(wanted, soft - CONNECTIONS_MAX - _FDS_SPARE))
