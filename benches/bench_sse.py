"""Measures the cost and the latency of event streams, for several servers and one precise client.

    python benches/bench_sse.py [--streams 1000] [--rate 20] [--buffers 1] [--seconds 5]
                                [--rounds 3] [--server NAME ...] [--plot FILE.html]
    python benches/bench_sse.py wakeups [--count 100]

All servers send the same events to the same client: to all streams at once, or with `--buffers N`
to one Nth of them after the other, as independent sessions do. The table shows processor time of
one core, the latency from the time at which an event was *due* to the client's loop (so a publisher
that falls behind is visible), and resident memory for each stream. Rounds are interleaved, and
medians shown: compare the ratios, since the absolute numbers depend on the machine. The client
reports the delay of its own loop; if that is large, the other numbers are too large.

- `floor`: the minimum for asyncio, a write to each transport; no cursor, limit, deadline, comment
- `floor-uvloop`: the same on uvloop
- `reference`: the reference's server
- `sse-starlette`: on uvicorn, one queue for each stream
- `threads`: the standard library, one thread and one queue for each stream

`wakeups` kills a background process of an idle reference server repeatedly, and reports the delay
until its session's turn started, and until an open tab received the event.
"""

# A script, not a package:
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
import json
import math
import queue
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.core.histogram import Histogram  # noqa: E402  the root has to be on the path
from harness.engine.http import Web  # noqa: E402
from harness.processes.server import ReferenceLaunch, ServerProcess  # noqa: E402
from reference_impl.live.event_buffer import EventBuffer, frame  # noqa: E402
from reference_impl.web.http_parser import STREAM_HEAD, Answer, Request  # noqa: E402
from reference_impl.web.server import Plan, Server, Streaming  # noqa: E402

CONNECTING = 100
CONNECTED_S = 60.0  # at most
SETTLE_S = 1.0
FRESH_US = 500_000
LAG_S = 0.01
TEXT = "x" * 40
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
_AT = re.compile(rb'"at": ?([0-9.]+)')

console = Console()


def event(due_s: float) -> dict[str, Any]:
    """Make an event: a text, and the time at which it is due."""
    return {"at": due_s, "text": TEXT}


Publish = Callable[[int, float], object]  # the number of the buffer, and the due time


@dataclass(frozen=True, slots=True)
class Pace:
    """The events per second of each buffer, in turn. A late event is still sent."""

    rate: float
    buffers: int

    def keep(self, publish: Publish) -> None:
        """Publish until the process ends."""
        for buffer, due_s in self._due():
            time.sleep(max(0.0, due_s - time.monotonic()))
            publish(buffer, due_s)

    async def keep_in_loop(self, publish: Publish) -> None:
        """Publish in the event loop until the process ends."""
        for buffer, due_s in self._due():
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            publish(buffer, due_s)

    def _due(self) -> Iterator[tuple[int, float]]:
        due_s = time.monotonic()
        for number in itertools.count():
            due_s += 1 / (self.rate * self.buffers)
            yield number % self.buffers, due_s


def announce(address: object) -> None:
    """Print the address of the server for the parent."""
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()


def allow_files() -> None:
    """Raise the limit of open files to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# The servers


def buffer_number(path: str) -> int:
    """Return the number of the buffer in a path: 3 for `/3`."""
    return int(path[1:])


class Feeds:
    """An application with some buffers."""

    def __init__(self, count: int) -> None:
        self.buffers = [EventBuffer("bench") for _ in range(count)]

    def plan(self, request: Request) -> Plan:
        """Stream the buffer that the path names."""
        return Plan(
            partial(self._subscribe, self.buffers[buffer_number(request.path)]), is_stream=True
        )

    def _subscribe(self, buffer: EventBuffer, wake: Callable[[], None]) -> Answer | Streaming:
        return Streaming(buffer.subscribe(wake), b": keepalive\n\n")

    def collect(self) -> None:
        """Do nothing."""

    def shut_down(self, deadline_s: float) -> None:
        """End the buffers."""
        del deadline_s
        for buffer in self.buffers:
            buffer.end()


async def serve_reference(pace: Pace) -> None:
    """Run the reference's server, with a publisher in another thread."""
    application = Feeds(pace.buffers)
    server = Server(application)
    announce(await server.listen("127.0.0.1", 0))

    def publish(buffer: int, due_s: float) -> None:
        application.buffers[buffer].publish("token", event(due_s))

    threading.Thread(target=pace.keep, args=(publish,), daemon=True).start()
    await server.serve_until_signalled(2.0)


async def serve_floor(pace: Pace) -> None:
    """Run the minimal server: sets of transports, and a write to each."""
    transports: list[dict[Any, None]] = [{} for _ in range(pace.buffers)]

    class Floor(asyncio.Protocol):
        buffer: int | None = None

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            if self.buffer is None:
                self.buffer = buffer_number(data.split()[1].decode())
                self.transport.write(STREAM_HEAD)
                transports[self.buffer][self.transport] = None

        def connection_lost(self, exc: Exception | None) -> None:
            del exc
            if self.buffer is not None:
                transports[self.buffer].pop(self.transport, None)

    def publish(buffer: int, due_s: float) -> None:
        encoded = frame("token", event(due_s), "bench:1").encoded
        for transport in tuple(transports[buffer]):
            transport.write(encoded)

    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", 0, backlog=4096)
    announce(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await pace.keep_in_loop(publish)


def serve_threads(pace: Pace) -> None:
    """Run a server with one thread for each stream, which waits for its own queue."""
    queues: list[dict[queue.Queue[bytes], None]] = [{} for _ in range(pace.buffers)]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(HEAD.encode())
            own_queue: queue.Queue[bytes] = queue.Queue(64)
            buffer = buffer_number(self.path)
            queues[buffer][own_queue] = None
            try:
                while True:
                    self.wfile.write(own_queue.get())
            except OSError:
                queues[buffer].pop(own_queue, None)

        def log_message(self, *_: object) -> None:
            """Do nothing."""

    class Listening(ThreadingHTTPServer):
        request_queue_size = 4096
        daemon_threads = True

    def publish(buffer: int, due_s: float) -> None:
        encoded = frame("token", event(due_s), "bench:1").encoded
        for subscriber in tuple(queues[buffer]):
            try:
                subscriber.put_nowait(encoded)
            except queue.Full:
                continue

    server = Listening(("127.0.0.1", 0), Handler)
    announce(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=pace.keep, args=(publish,), daemon=True).start()
    server.serve_forever()


def serve_starlette(pace: Pace) -> None:
    """Run sse-starlette on uvicorn: a queue and a generator for each stream."""
    import uvicorn  # noqa: PLC0415  needed here only
    from sse_starlette import EventSourceResponse  # noqa: PLC0415

    queues: list[dict[asyncio.Queue[dict[str, Any]], None]] = [{} for _ in range(pace.buffers)]

    async def events(buffer: int) -> Any:
        own_queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        queues[buffer][own_queue] = None
        try:
            while True:
                yield await own_queue.get()
        finally:
            queues[buffer].pop(own_queue, None)

    def publish(buffer: int, due_s: float) -> None:
        message = {"id": "bench:1", "event": "token", "data": json.dumps(event(due_s))}
        for subscriber in tuple(queues[buffer]):
            subscriber.put_nowait(message)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await EventSourceResponse(events(buffer_number(scope["path"])))(scope, receive, send)

    async def serve() -> None:
        settings = uvicorn.Config(
            application, port=0, log_level="warning", lifespan="off", backlog=4096
        )
        server = uvicorn.Server(settings)
        pacing = asyncio.create_task(pace.keep_in_loop(publish))
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)
        announce(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
        await serving
        pacing.cancel()

    asyncio.run(serve())


def serve_on_uvloop(pace: Pace) -> None:
    """Run the minimal server on uvloop."""
    import uvloop  # noqa: PLC0415  needed here only

    uvloop.run(serve_floor(pace))


SERVERS: dict[str, Callable[[Pace], object]] = {
    "floor": lambda pace: asyncio.run(serve_floor(pace)),
    "floor-uvloop": serve_on_uvloop,
    "reference": lambda pace: asyncio.run(serve_reference(pace)),
    "sse-starlette": serve_starlette,
    "threads": serve_threads,
}
NEEDS = {"floor-uvloop": "uvloop", "sse-starlette": "sse_starlette"}


# The client


class Client(asyncio.Protocol):
    """Reads a stream, and records the latency of each event while `is_measuring`."""

    latency = Histogram()
    is_measuring = False
    streaming = 0

    def __init__(self, buffer: int) -> None:
        self._buffer = buffer
        self._streams = False

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        transport.write(f"GET /{self._buffer} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Record the latencies; all events of one read arrived now."""
        if not self._streams and _AT.search(data):
            self._streams = True
            Client.streaming += 1
        if Client.is_measuring:
            now_s = time.monotonic()
            for at in _AT.finditer(data):
                Client.latency.record(round((now_s - float(at[1])) * 1e6))


async def measure_loop(lags: Histogram) -> None:
    """Measure the delay of the client's own loop."""
    while True:
        due_s = time.monotonic() + LAG_S
        await asyncio.sleep(LAG_S)
        lags.record(round((time.monotonic() - due_s) * 1e6))


@dataclass(frozen=True, slots=True)
class Measure:
    """One server in one round. `delivered` is the share of the due events."""

    delivered: float
    cpu: float
    p50_ms: float
    p99_ms: float
    kib: float
    client_p99_ms: float


async def all_streaming(streams: int) -> None:
    """Wait until each stream has received an event; some servers start many streams slowly."""
    ends_at = time.monotonic() + CONNECTED_S
    while Client.streaming < streams and time.monotonic() < ends_at:  # noqa: ASYNC110  clients only count
        await asyncio.sleep(LAG_S)


async def drain_backlog() -> None:
    """Wait, up to a limit, until the events that queued up during the connecting are read."""
    ends_at = time.monotonic() + CONNECTED_S / 3
    Client.is_measuring = True
    while True:
        Client.latency = Histogram()
        await asyncio.sleep(SETTLE_S)
        is_drained = Client.latency.quantile(0.9) < FRESH_US
        if is_drained or time.monotonic() > ends_at:
            break
    Client.is_measuring = False


async def measure(name: str, streams: int, pace: Pace, seconds: float) -> Measure:
    """Start a server, connect, and read it for a while."""
    command = [sys.executable, __file__, "serve", name, str(pace.rate), str(pace.buffers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220, S603 - fixed
    assert process.stdout is not None
    transports: list[asyncio.Transport] = []
    try:
        port = int(process.stdout.readline().rpartition(b":")[2])
        server = psutil.Process(process.pid)
        before = server.memory_info().rss
        loop = asyncio.get_running_loop()
        Client.streaming = 0
        for begun in range(0, streams, CONNECTING):
            connecting = [
                loop.create_connection(partial(Client, number % pace.buffers), "127.0.0.1", port)
                for number in range(begun, min(begun + CONNECTING, streams))
            ]
            transports += [transport for transport, _ in await asyncio.gather(*connecting)]
        await all_streaming(streams)
        await drain_backlog()
        kib = (server.memory_info().rss - before) / 1024 / streams
        lags = Histogram()
        measuring = asyncio.create_task(measure_loop(lags))
        spent_s, began_s = sum(server.cpu_times()[:2]), time.monotonic()
        Client.latency, Client.is_measuring = Histogram(), True
        await asyncio.sleep(seconds)
        Client.is_measuring = False
        lasted_s = time.monotonic() - began_s
        cpu = (sum(server.cpu_times()[:2]) - spent_s) / lasted_s
        measuring.cancel()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)
    latency = Client.latency
    p50_ms, p99_ms = (latency.quantile(share) / 1e3 for share in (0.5, 0.99))
    delivered = latency.count / (streams * pace.rate * lasted_s)
    return Measure(delivered, cpu, p50_ms, p99_ms, kib, lags.quantile(0.99) / 1e3)


def compare(names: Iterable[str], options: argparse.Namespace) -> dict[str, Measure]:
    """Measure the servers in turn, for a number of rounds; return medians."""
    rounds: defaultdict[str, list[Measure]] = defaultdict(list)
    pace = Pace(options.rate, options.buffers)
    for number in range(options.rounds):
        for name in names:
            console.print(f"round {number + 1}: {name}", style="dim")
            result = asyncio.run(measure(name, options.streams, pace, options.seconds))
            rounds[name].append(result)
    fields = Measure.__slots__
    return {
        name: Measure(*(median(getattr(result, field) for result in results) for field in fields))
        for name, results in rounds.items()
    }


def described(options: argparse.Namespace) -> str:
    """Describe the condition."""
    buffers = "" if options.buffers == 1 else f", {options.buffers} buffers in turn"
    return f"{options.streams} streams, {options.rate:g} events/s each{buffers}"


def show(measured: dict[str, Measure], options: argparse.Namespace) -> None:
    """Print the table."""
    title = f"{described(options)}, {options.seconds:g} s"
    head = ("server", "delivered", "of a core", "p50 ms", "p99 ms", "KiB a stream", "client p99 ms")
    table = Table(*head, title=title, title_justify="left")
    for name, result in measured.items():
        table.add_row(
            name,
            f"{result.delivered:.0%}",
            f"{result.cpu:.0%}",
            f"{result.p50_ms:.1f}",
            f"{result.p99_ms:.1f}",
            f"{result.kib:.1f}",
            f"{result.client_p99_ms:.1f}",
        )
    console.print(table)


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
  :root {{ color-scheme: light dark; --ink: light-dark(#1c2430, #e6e9ee); --soft: light-dark(#6b7684, #97a3b3);
    --paper: light-dark(#fff, #14181f); --bar: light-dark(#a9bdd6, #45597a); --highlight: light-dark(#2f6fb3, #6ba4e0); }}
  body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 52rem; padding: 0 1rem; }}
  h1 {{ font-size: 1.2rem; }} h2 {{ font-size: 1rem; margin: 1.4rem 0 .3rem; }}
  svg {{ width: 100%; display: block; }} text {{ font: 12px system-ui, sans-serif; fill: var(--ink); }}
  rect {{ fill: var(--bar); }} rect.highlight {{ fill: var(--highlight); }}
</style>
<h1>{title}</h1>
{charts}
</html>
"""  # noqa: E501  a page, not code


def page(measured: dict[str, Measure], title: str) -> str:
    """Render a page with bar charts; latencies on a logarithmic scale."""
    latency = {name: result.p99_ms for name, result in measured.items()}
    charts = [
        bars("Latency at p99, ms; bars logarithmic", latency, lambda ms: math.log10(1 + 10 * ms)),
        bars("Processor, % of a core", {n: 100 * result.cpu for n, result in measured.items()}),
        bars("Resident memory a stream, KiB", {n: result.kib for n, result in measured.items()}),
    ]
    return PAGE.format(title=escape(title), charts="\n".join(charts))


def bars(title: str, values: dict[str, float], scale: Callable[[float], float] = float) -> str:
    """Render a chart with one bar for each server, with lengths by `scale`."""
    lengths = {name: scale(max(value, 0.0)) for name, value in values.items()}
    unit = 600 / (max(lengths.values()) or 1.0)
    rows = [
        f'<text x="112" y="{24 * row + 16}" text-anchor="end">{escape(name)}</text>'
        f'<rect class="{"highlight" if name == "reference" else ""}" x="120" y="{24 * row + 3}" '
        f'width="{unit * lengths[name]:.1f}" height="18"/>'
        f'<text x="{126 + unit * lengths[name]:.1f}" y="{24 * row + 16}">{values[name]:,.1f}</text>'
        for row, name in enumerate(values)
    ]
    height = 24 * len(values) + 6
    return f'<h2>{escape(title)}</h2><svg viewBox="0 0 800 {height}">{"".join(rows)}</svg>'


# Wakeups


def measure_wakeups(count: int) -> None:
    """Kill a session's background process `count` times; measure the delays of its wakeups."""
    started, delivered = Histogram(), Histogram()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = ServerProcess(ReferenceLaunch(ROOT), Path(folder) / "state")
        try:
            web = Web(server.port, 60.0 + count)
            session = web.post("/api/session/new")["session"]["session_id"]
            with web.stream(f"/api/session/stream?session_id={session}") as events:
                next(events)
                for number in range(count):
                    killed_s = wake(web, server, session, number)
                    for received in events:
                        is_wakeup = received.data.get("source") == "process_wakeup"
                        if received.name == "server_turn_started" and is_wakeup:
                            delivered.record(round((time.time() - killed_s) * 1e6))
                            begun_s = received.data["pending_started_at"]
                            started.record(round((begun_s - killed_s) * 1e6))
                        if received.name == "session-updated" and is_wakeup:
                            break  # the turn has ended
        finally:
            server.kill()
    table = Table("from the end of a process to", "p50 ms", "p99 ms", "worst ms")
    for name, latency in (
        ("the start of its turn", started),
        ("the event at an open tab", delivered),
    ):
        shown = [latency.quantile(0.5), latency.quantile(0.99), latency.maximum]
        table.add_row(name, *(f"{us / 1e3:.1f}" for us in shown))
    console.print(f"{count} wakeups of an idle server")
    console.print(table)


def wake(web: Web, server: ServerProcess, session: str, number: int) -> float:
    """Start a sleeping process, wait until the server is idle, kill it; return the time."""
    while True:
        body = {"session_id": session, "message": f"[process=900:exit=0:p{number}]"}
        if web.ask("POST", "/api/chat/start", body)[0] == 200:  # noqa: PLR2004  accepted
            break
        time.sleep(0.01)
    host = psutil.Process(server.pid)
    while web.get("/health")["active_runs"]:
        time.sleep(0.01)
    time.sleep(0.05)
    while not (
        asleep := [child for child in host.children(recursive=True) if child.name() == "sleep"]
    ):
        time.sleep(0.01)
    killed_s = time.time()
    asleep[0].kill()
    return killed_s


def main() -> None:
    """Compare servers, measure wakeups, or run one of the servers."""
    allow_files()
    match sys.argv[1:]:
        case ["serve", name, rate, buffers]:
            SERVERS[name](Pace(float(rate), int(buffers)))
            return
        case ["wakeups", *rest]:
            parser = argparse.ArgumentParser(prog="bench_sse.py wakeups")
            parser.add_argument("--count", type=int, default=100)
            measure_wakeups(parser.parse_args(rest).count)
            return
    parser = argparse.ArgumentParser(description="compare servers of event streams")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20.0, help="events a second, of each stream")
    parser.add_argument("--buffers", type=int, default=1, help="the streams' buffers, in turn")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", action="append", choices=list(SERVERS), default=[])
    parser.add_argument("--plot", type=Path, help="a page to write")
    options = parser.parse_args()
    wanted = options.server or list(SERVERS)
    able = [n for n in wanted if n not in NEEDS or importlib.util.find_spec(NEEDS[n])]
    measured = compare(able, options)
    show(measured, options)
    if options.plot:
        options.plot.write_text(page(measured, described(options)), encoding="utf-8")


if __name__ == "__main__":
    main()
