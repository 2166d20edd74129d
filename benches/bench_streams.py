"""What a stream costs: the reference's server beside the least that asyncio can do, in one run.

    python benches/bench_streams.py [streams] [events/s] [seconds]

Both send the same events to the same clients: processor time of one core, latency from `publish`
to the client's loop, and resident memory for each stream. The floor keeps no cursor, no limit, no
deadline and no comment; it writes to whoever is connected.
"""

# A script, not a package:
# ruff: noqa: INP001

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from reference_impl.feed import Feed
from reference_impl.server import Plan, Server, Streaming
from reference_impl.wire import STREAM_HEAD, Answer, Request

ROUNDS = 3
_AT = re.compile(rb'"at":([0-9.]+)')
_CONNECTING = 200


def event() -> dict[str, Any]:
    """What is sent: some text, and when."""
    return {"at": time.monotonic(), "text": "x" * 40}


def pace(rate: float, publish: Callable[[], object]) -> None:
    """Publish for ever, so many times a second."""
    due = time.monotonic()
    while True:
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))
        publish()


class OneFeed:
    """An application with one feed."""

    def __init__(self) -> None:
        self.feed = Feed("bench")

    def plan(self, request: Request) -> Plan:
        """Everybody gets the feed."""
        del request
        return Plan(self._subscribe, is_stream=True)

    def _subscribe(self, wake: Callable[[], None]) -> Answer | Streaming:
        return Streaming(self.feed.subscribe(wake), b": keepalive\n\n")

    def collect(self) -> None:
        """Nothing."""

    def shut_down(self, deadline_s: float) -> None:
        """End the feed."""
        del deadline_s
        self.feed.end()


async def serve_reference(rate: float) -> None:
    """The reference's server, its feed published from another thread."""
    application = OneFeed()
    server = Server(application)
    sys.stdout.write(f"{await server.listen('127.0.0.1', 0)}\n")
    sys.stdout.flush()
    feed = application.feed
    act = lambda: pace(rate, lambda: feed.publish("token", event()))  # noqa: E731 - read once
    threading.Thread(target=act, daemon=True).start()
    await server.serve_until_signalled(2.0)


async def serve_floor(rate: float) -> None:
    """The least: a set of transports, and a write to each."""
    feed = Feed("bench")
    reader = feed.subscribe(lambda: None)
    transports: set[asyncio.Transport] = set()

    class Floor(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(STREAM_HEAD)
            transports.add(transport)
            self._transport = transport

        def connection_lost(self, exc: Exception | None) -> None:
            del exc
            transports.discard(self._transport)

    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    due = time.monotonic()
    while True:
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        feed.publish("token", event())
        for frame in reader.take():
            for transport in list(transports):
                transport.write(frame.encoded)


class Client(asyncio.Protocol):
    """Reads, and notes how late each event is while the clock runs."""

    latencies: list[float] = []  # noqa: RUF012 - one for all
    is_measuring = False

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        transport.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        """Note."""
        if Client.is_measuring:
            now = time.monotonic()
            Client.latencies += [now - float(at[1]) for at in _AT.finditer(data)]


async def measure(kind: str, streams: int, rate: float, seconds: float) -> str:
    """Start one of the two, read it, and sum it up."""
    command = [sys.executable, __file__, kind, str(rate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220, S603 - our own
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rpartition(b":")[2])
        server = psutil.Process(process.pid)
        before = server.memory_info().rss
        loop = asyncio.get_running_loop()
        for _ in range(0, streams, _CONNECTING):
            connecting = [
                loop.create_connection(Client, "127.0.0.1", port) for _ in range(_CONNECTING)
            ]
            transports = [transport for transport, _ in await asyncio.gather(*connecting)]
        await asyncio.sleep(1.0)
        kib = (server.memory_info().rss - before) / 1024 / streams
        spent = sum(server.cpu_times()[:2])
        Client.latencies, Client.is_measuring = [], True
        await asyncio.sleep(seconds)
        Client.is_measuring = False
        cpu = (sum(server.cpu_times()[:2]) - spent) / seconds
        del transports
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    late = sorted(Client.latencies)
    p50, p99 = (late[int(len(late) * share)] * 1e3 for share in (0.5, 0.99))
    return (
        f"{kind:>9}: {len(late) / seconds:7.0f} events/s  {cpu:4.0%} of a core  "
        f"p50 {p50:5.1f} ms  p99 {p99:5.1f} ms  {kib:4.1f} KiB a stream"
    )


def main() -> None:
    """Measure both, some rounds in turn; or be one of the two."""
    match sys.argv[1:]:
        case ["reference", rate]:
            asyncio.run(serve_reference(float(rate)))
        case ["floor", rate]:
            asyncio.run(serve_floor(float(rate)))
        case [*given]:
            asked = [float(text) for text in given]
            streams, per_s, seconds = asked + [1000.0, 20.0, 5.0][len(given) :]
            for _ in range(ROUNDS):
                for kind in ("floor", "reference"):
                    told = asyncio.run(measure(kind, int(streams), per_s, seconds))
                    sys.stdout.write(f"{told}\n")


if __name__ == "__main__":
    main()
