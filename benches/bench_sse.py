"""What a stream costs, and how late it is: servers of events side by side, and a precise client.

    python benches/bench_sse.py [--streams 1000] [--rate 20] [--feeds 1] [--seconds 5] [--rounds 3]
                                [--server NAME ...] [--plot FILE.html]
    python benches/bench_sse.py wakeups [--count 100]

All send the same events to the same client: to all streams at once, or with `--feeds N` to one Nth
of them after the other, as sessions do that know nothing of each other. Told are processor time of
one core, latency from when an event was *due* to the client's loop (so a publisher that falls
behind hides nothing), and resident memory for each stream. Rounds are interleaved and medians told:
ratios mean something, the figures are only a scale. The client says how late its own loop was;
where that is much, so is everything else.

- `floor`: the least asyncio can do, a write to each transport; no cursor, limit, deadline, comment
- `floor-uvloop`: the same on uvloop
- `reference`: the reference's server
- `sse-starlette`: on uvicorn, a queue a stream
- `threads`: the standard library, one thread and one queue a stream

`wakeups` kills a background process of an idle reference server, again and again, and says how much
later its session's turn started, and how much later an open tab was told.
"""

# A script, not a package, and it speaks to the terminal:
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
from reference_impl.live.event_buffer import Feed, frame  # noqa: E402
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
    """What is sent: some text, and when it was due."""
    return {"at": due_s, "text": TEXT}


Publish = Callable[[int, float], object]  # to which feed, and when it was due


@dataclass(frozen=True, slots=True)
class Pace:
    """Events a second of each feed, the feeds in turn. A late event is not given up."""

    rate: float
    feeds: int

    def keep(self, publish: Publish) -> None:
        """Publish for ever."""
        for feed, due_s in self._due():
            time.sleep(max(0.0, due_s - time.monotonic()))
            publish(feed, due_s)

    async def keep_in_loop(self, publish: Publish) -> None:
        """Do the same in the loop."""
        for feed, due_s in self._due():
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            publish(feed, due_s)

    def _due(self) -> Iterator[tuple[int, float]]:
        due_s = time.monotonic()
        for number in itertools.count():
            due_s += 1 / (self.rate * self.feeds)
            yield number % self.feeds, due_s


def say(address: object) -> None:
    """Tell whoever started us where we listen."""
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()


def allow_files() -> None:
    """Take as many descriptors as we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# The servers


def named(path: str) -> int:
    """Which feed a path asks for: `/3` the fourth."""
    return int(path[1:])


class Feeds:
    """An application with some feeds."""

    def __init__(self, count: int) -> None:
        self.feeds = [Feed("bench") for _ in range(count)]

    def plan(self, request: Request) -> Plan:
        """Everybody gets the feed that the path names."""
        return Plan(partial(self._subscribe, self.feeds[named(request.path)]), is_stream=True)

    def _subscribe(self, feed: Feed, wake: Callable[[], None]) -> Answer | Streaming:
        return Streaming(feed.subscribe(wake), b": keepalive\n\n")

    def collect(self) -> None:
        """Nothing."""

    def shut_down(self, deadline_s: float) -> None:
        """End the feeds."""
        del deadline_s
        for feed in self.feeds:
            feed.end()


async def serve_reference(pace: Pace) -> None:
    """The reference's server, its feeds published from another thread."""
    application = Feeds(pace.feeds)
    server = Server(application)
    say(await server.listen("127.0.0.1", 0))

    def publish(feed: int, due_s: float) -> None:
        application.feeds[feed].publish("token", event(due_s))

    threading.Thread(target=pace.keep, args=(publish,), daemon=True).start()
    await server.serve_until_signalled(2.0)


async def serve_floor(pace: Pace) -> None:
    """The least: sets of transports, and a write to each."""
    transports: list[dict[Any, None]] = [{} for _ in range(pace.feeds)]

    class Floor(asyncio.Protocol):
        feed: int | None = None

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            if self.feed is None:
                self.feed = named(data.split()[1].decode())
                self.transport.write(STREAM_HEAD)
                transports[self.feed][self.transport] = None

        def connection_lost(self, exc: Exception | None) -> None:
            del exc
            if self.feed is not None:
                transports[self.feed].pop(self.transport, None)

    def publish(feed: int, due_s: float) -> None:
        encoded = frame("token", event(due_s), "bench:1").encoded
        for transport in tuple(transports[feed]):
            transport.write(encoded)

    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", 0, backlog=4096)
    say(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await pace.keep_in_loop(publish)


def serve_threads(pace: Pace) -> None:
    """One thread a stream, which waits for its own queue."""
    queues: list[dict[queue.Queue[bytes], None]] = [{} for _ in range(pace.feeds)]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(HEAD.encode())
            mine: queue.Queue[bytes] = queue.Queue(64)
            feed = named(self.path)
            queues[feed][mine] = None
            try:
                while True:
                    self.wfile.write(mine.get())
            except OSError:
                queues[feed].pop(mine, None)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    class Listening(ThreadingHTTPServer):
        request_queue_size = 4096
        daemon_threads = True

    def publish(feed: int, due_s: float) -> None:
        encoded = frame("token", event(due_s), "bench:1").encoded
        for each in tuple(queues[feed]):
            try:
                each.put_nowait(encoded)
            except queue.Full:
                continue

    server = Listening(("127.0.0.1", 0), Handler)
    say(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=pace.keep, args=(publish,), daemon=True).start()
    server.serve_forever()


def serve_starlette(pace: Pace) -> None:
    """sse-starlette on uvicorn: a queue and a generator a stream."""
    import uvicorn  # noqa: PLC0415  only this one needs it
    from sse_starlette import EventSourceResponse  # noqa: PLC0415

    queues: list[dict[asyncio.Queue[dict[str, Any]], None]] = [{} for _ in range(pace.feeds)]

    async def events(feed: int) -> Any:
        mine: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        queues[feed][mine] = None
        try:
            while True:
                yield await mine.get()
        finally:
            queues[feed].pop(mine, None)

    def publish(feed: int, due_s: float) -> None:
        told = {"id": "bench:1", "event": "token", "data": json.dumps(event(due_s))}
        for each in tuple(queues[feed]):
            each.put_nowait(told)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await EventSourceResponse(events(named(scope["path"])))(scope, receive, send)

    async def serve() -> None:
        settings = uvicorn.Config(
            application, port=0, log_level="warning", lifespan="off", backlog=4096
        )
        server = uvicorn.Server(settings)
        pacing = asyncio.create_task(pace.keep_in_loop(publish))
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110  it tells in no other way
            await asyncio.sleep(0.01)
        say(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
        await serving
        pacing.cancel()

    asyncio.run(serve())


def serve_on_uvloop(pace: Pace) -> None:
    """The floor, on uvloop."""
    import uvloop  # noqa: PLC0415  only this one needs it

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
    """Reads, and notes how late each event is while the clock runs."""

    late = Histogram()
    is_measuring = False
    streaming = 0

    def __init__(self, feed: int) -> None:
        self._feed = feed
        self._streams = False

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        transport.write(f"GET /{self._feed} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Note. One read can hold many events, and all of them came now."""
        if not self._streams and _AT.search(data):
            self._streams = True
            Client.streaming += 1
        if Client.is_measuring:
            now_s = time.monotonic()
            for at in _AT.finditer(data):
                Client.late.record(round((now_s - float(at[1])) * 1e6))


async def watch_loop(lags: Histogram) -> None:
    """Measure how late our own loop is."""
    while True:
        due_s = time.monotonic() + LAG_S
        await asyncio.sleep(LAG_S)
        lags.record(round((time.monotonic() - due_s) * 1e6))


@dataclass(frozen=True, slots=True)
class Measure:
    """One server in one round. `delivered` is a share of what was due."""

    delivered: float
    cpu: float
    p50_ms: float
    p99_ms: float
    kib: float
    client_p99_ms: float


async def all_streaming(streams: int) -> None:
    """Wait until each stream has shown an event: some servers take long to begin so many."""
    ends_at = time.monotonic() + CONNECTED_S
    while Client.streaming < streams and time.monotonic() < ends_at:  # noqa: ASYNC110  they count
        await asyncio.sleep(LAG_S)


async def through_with_the_past() -> None:
    """Wait until what piled up while so many connected has been read, for a bounded time."""
    ends_at = time.monotonic() + CONNECTED_S / 3
    Client.is_measuring = True
    while True:
        Client.late = Histogram()
        await asyncio.sleep(SETTLE_S)
        is_through = Client.late.quantile(0.9) < FRESH_US
        if is_through or time.monotonic() > ends_at:
            break
    Client.is_measuring = False


async def measure(name: str, streams: int, pace: Pace, seconds: float) -> Measure:
    """Start a server, connect, and read it for a while."""
    command = [sys.executable, __file__, "serve", name, str(pace.rate), str(pace.feeds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220, S603 - our own
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
                loop.create_connection(partial(Client, number % pace.feeds), "127.0.0.1", port)
                for number in range(begun, min(begun + CONNECTING, streams))
            ]
            transports += [transport for transport, _ in await asyncio.gather(*connecting)]
        await all_streaming(streams)
        await through_with_the_past()
        kib = (server.memory_info().rss - before) / 1024 / streams
        lags = Histogram()
        watching = asyncio.create_task(watch_loop(lags))
        spent_s, began_s = sum(server.cpu_times()[:2]), time.monotonic()
        Client.late, Client.is_measuring = Histogram(), True
        await asyncio.sleep(seconds)
        Client.is_measuring = False
        lasted_s = time.monotonic() - began_s
        cpu = (sum(server.cpu_times()[:2]) - spent_s) / lasted_s
        watching.cancel()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)
    late = Client.late
    quantiles = [late.quantile(share) / 1e3 for share in (0.5, 0.99)]
    delivered = late.count / (streams * pace.rate * lasted_s)
    return Measure(delivered, cpu, *quantiles, kib, lags.quantile(0.99) / 1e3)


def compare(names: Iterable[str], options: argparse.Namespace) -> dict[str, Measure]:
    """Measure all of them, some rounds in turn; medians."""
    rounds: defaultdict[str, list[Measure]] = defaultdict(list)
    pace = Pace(options.rate, options.feeds)
    for number in range(options.rounds):
        for name in names:
            console.print(f"round {number + 1}: {name}", style="dim")
            one = asyncio.run(measure(name, options.streams, pace, options.seconds))
            rounds[name].append(one)
    fields = Measure.__slots__
    return {
        name: Measure(*(median(getattr(one, each) for one in measured) for each in fields))
        for name, measured in rounds.items()
    }


def described(options: argparse.Namespace) -> str:
    """What is measured, in words."""
    feeds = "" if options.feeds == 1 else f", {options.feeds} feeds in turn"
    return f"{options.streams} streams, {options.rate:g} events/s each{feeds}"


def show(measured: dict[str, Measure], options: argparse.Namespace) -> None:
    """Print the table."""
    title = f"{described(options)}, {options.seconds:g} s"
    head = ("server", "delivered", "of a core", "p50 ms", "p99 ms", "KiB a stream", "client p99 ms")
    table = Table(*head, title=title, title_justify="left")
    for name, one in measured.items():
        table.add_row(
            name,
            f"{one.delivered:.0%}",
            f"{one.cpu:.0%}",
            f"{one.p50_ms:.1f}",
            f"{one.p99_ms:.1f}",
            f"{one.kib:.1f}",
            f"{one.client_p99_ms:.1f}",
        )
    console.print(table)


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
  :root {{ color-scheme: light dark; --ink: light-dark(#1c2430, #e6e9ee); --soft: light-dark(#6b7684, #97a3b3);
    --paper: light-dark(#fff, #14181f); --bar: light-dark(#a9bdd6, #45597a); --ours: light-dark(#2f6fb3, #6ba4e0); }}
  body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 52rem; padding: 0 1rem; }}
  h1 {{ font-size: 1.2rem; }} h2 {{ font-size: 1rem; margin: 1.4rem 0 .3rem; }}
  svg {{ width: 100%; display: block; }} text {{ font: 12px system-ui, sans-serif; fill: var(--ink); }}
  rect {{ fill: var(--bar); }} rect.ours {{ fill: var(--ours); }}
</style>
<h1>{title}</h1>
{charts}
</html>
"""  # noqa: E501  a page, not code


def page(measured: dict[str, Measure], title: str) -> str:
    """Bars that need nothing else; those that span powers of ten are drawn by their logarithm."""
    late = {name: one.p99_ms for name, one in measured.items()}
    charts = [
        bars("Latency at p99, ms; bars logarithmic", late, lambda ms: math.log10(1 + 10 * ms)),
        bars("Processor, % of a core", {n: 100 * one.cpu for n, one in measured.items()}),
        bars("Resident memory a stream, KiB", {n: one.kib for n, one in measured.items()}),
    ]
    return PAGE.format(title=escape(title), charts="\n".join(charts))


def bars(title: str, values: dict[str, float], scale: Callable[[float], float] = float) -> str:
    """One bar a server, as long as `scale` has it."""
    lengths = {name: scale(max(value, 0.0)) for name, value in values.items()}
    unit = 600 / (max(lengths.values()) or 1.0)
    rows = [
        f'<text x="112" y="{24 * row + 16}" text-anchor="end">{escape(name)}</text>'
        f'<rect class="{"ours" if name == "reference" else ""}" x="120" y="{24 * row + 3}" '
        f'width="{unit * lengths[name]:.1f}" height="18"/>'
        f'<text x="{126 + unit * lengths[name]:.1f}" y="{24 * row + 16}">{values[name]:,.1f}</text>'
        for row, name in enumerate(values)
    ]
    height = 24 * len(values) + 6
    return f'<h2>{escape(title)}</h2><svg viewBox="0 0 800 {height}">{"".join(rows)}</svg>'


# Wakeups


def measure_wakeups(count: int) -> None:
    """Kill a session's background process, so many times, and see when it is woken."""
    started, told = Histogram(), Histogram()
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        server = ServerProcess(ReferenceLaunch(ROOT), Path(place) / "state")
        try:
            web = Web(server.port, 60.0 + count)
            session = web.post("/api/session/new")["session"]["session_id"]
            with web.stream(f"/api/session/stream?session_id={session}") as events:
                next(events)
                for number in range(count):
                    killed_s = wake(web, server, session, number)
                    for each in events:
                        is_wakeup = each.data.get("source") == "process_wakeup"
                        if each.name == "server_turn_started" and is_wakeup:
                            told.record(round((time.time() - killed_s) * 1e6))
                            begun_s = each.data["pending_started_at"]
                            started.record(round((begun_s - killed_s) * 1e6))
                        if each.name == "session-updated" and is_wakeup:
                            break  # that turn is over
        finally:
            server.kill()
    table = Table("from the end of a process to", "p50 ms", "p99 ms", "worst ms")
    for name, late in (("the start of its turn", started), ("the news at an open tab", told)):
        shown = [late.quantile(0.5), late.quantile(0.99), late.maximum]
        table.add_row(name, *(f"{us / 1e3:.1f}" for us in shown))
    console.print(f"{count} wakeups of an idle server")
    console.print(table)


def wake(web: Web, server: ServerProcess, session: str, number: int) -> float:
    """Start a process that sleeps, wait until the server is idle, and end its sleep; when."""
    while True:
        body = {"session_id": session, "message": f"[process=900:exit=0:p{number}]"}
        if web.ask("POST", "/api/chat/start", body)[0] == 200:  # noqa: PLR2004  not busy any more
            break
        time.sleep(0.01)
    host = psutil.Process(server.pid)
    while web.get("/health")["active_runs"]:
        time.sleep(0.01)
    time.sleep(0.05)
    while not (asleep := [one for one in host.children(recursive=True) if one.name() == "sleep"]):
        time.sleep(0.01)
    killed_s = time.time()
    asleep[0].kill()
    return killed_s


def main() -> None:
    """Compare servers, measure wakeups, or be one of the servers."""
    allow_files()
    match sys.argv[1:]:
        case ["serve", name, rate, feeds]:
            SERVERS[name](Pace(float(rate), int(feeds)))
            return
        case ["wakeups", *rest]:
            parser = argparse.ArgumentParser(prog="bench_sse.py wakeups")
            parser.add_argument("--count", type=int, default=100)
            measure_wakeups(parser.parse_args(rest).count)
            return
    parser = argparse.ArgumentParser(description="servers of events, side by side")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20.0, help="events a second, of each stream")
    parser.add_argument("--feeds", type=int, default=1, help="the streams' feeds, told in turn")
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
