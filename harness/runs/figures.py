"""Measures what a booted server costs, in short rounds, for a comparison of two of them.

A round takes turns in a new session, lists, opens and searches sessions, reads events that name the
time when they were due, and waits for one wakeup. Each figure of a round is a median, so that one
disturbance of the machine is not in it. Memory, tails and what an idle server costs need more than
a round; a block has one value of each.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from statistics import median, quantiles

import psutil

from harness.contract.agent_script import HELD_S, Beat, Process, Tokens, beat_due_s, sleep
from harness.contract.clients.event_stream import EventStream, StreamRequest
from harness.core.errors import HarnessError
from harness.engine.http import LOOPBACK, StatusError, Web

TURNS = 8
READS = 8
SESSIONS = 60
READERS = 24
PATIENCE_S = 20.0
WOKEN_S = 5.0  # a server that wakes no session by then does not know wakeups
IDLE_S = 5.0  # a period of the watchers that poll
SCRIPT = f"{Tokens(20).directive}"
BEATS = Beat(40, 0.003)
EVENTS = 400  # of the turn that shows what an event costs
PROBE_S = 0.002  # between two write locks that the client takes
PROBE_PAUSE_S = 0.0001  # between two tries of a lock that is taken
CPU_CLOCK = 2  # of the clocks of another process (clock_getcpuclockid, Linux)

START, FIRST, TURN, CPU = "turn start, ms", "first event, ms", "whole turn, ms", "CPU a turn, ms"
LIST, OPEN, SEARCH = "session list, ms", "session, ms", "search, ms"
EVENT, EVENT_P99 = "event latency p50, ms", "event latency p99, ms"
EVENT_CPU = "CPU an event, µs"
WAKEUP = "wakeup delay, ms"
BOOT, IDLE = "start-up, ms", "idle CPU, % of a core"
MEMORY, STREAM = "RSS a session, KiB", "RSS a stream, KiB"
SQLITE = "SQLite wait p99, ms"
OFTEN = (START, FIRST, TURN, CPU, EVENT, EVENT_CPU, LIST, OPEN, SEARCH, WAKEUP)  # in each round
ONCE = (BOOT, IDLE, MEMORY, STREAM, EVENT_P99, SQLITE)  # in each block
FIGURES = (*OFTEN, *ONCE)
TAILS = (EVENT_P99, SQLITE)  # of few values, so that they may stay noisy
# Below these the noise of a clock is larger than the cost, so that a smaller value counts as them.
FLOORS = {IDLE: 0.1, MEMORY: 1.0, STREAM: 1.0, SQLITE: 0.5}

Figures = dict[str, float]


@dataclass
class Subject:
    """A booted server, the sessions in it, and what it can do beside turns."""

    port: int
    pid: int
    start_up_ms: float
    database: str = ""
    sessions: list[str] = field(default_factory=list)
    can_search: bool = False
    can_wake: bool = False
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def web(self) -> Web:
        """A client of the server."""
        return Web(self.port)

    def fill(self) -> Figures:
        """Create sessions, and take what is done once only; the figures of a whole life."""
        web = self.web
        session = new_session(web)
        take_turn(web, session)
        before = resident_kib(self.pid)
        with lock_waits(self.database) as waits_ms:
            for session in (new_session(web) for _ in range(SESSIONS)):
                self.sessions.append(session)
                take_turn(web, session)
        figures = {BOOT: self.start_up_ms}
        figures[MEMORY] = (resident_kib(self.pid) - before) / SESSIONS
        if waits_ms:
            figures[SQLITE] = quantiles(waits_ms, n=100)[-1]
        self.can_search = web.status("/api/sessions/search?q=tokens") == 200  # noqa: PLR2004
        with suppress(HarnessError, StatusError):
            wakeup_delay_ms(web, session, WOKEN_S)
            self.can_wake = True
        self.round()  # what the first round does once is in no figure
        self.latencies_ms.clear()
        return {name: max(value, FLOORS.get(name, 0.0)) for name, value in figures.items()}

    def round(self) -> Figures:
        """Measure every figure once; a round is short, so that rounds of two targets alternate."""
        web = self.web
        session = new_session(web)
        before = cpu_s(self.pid)
        turns = [take_turn(web, session) for _ in range(TURNS)]
        spent = cpu_s(self.pid) - before
        names = (START, FIRST, TURN)
        figures = {
            name: median(column)
            for name, column in zip(names, zip(*turns, strict=True), strict=True)
        }
        figures[CPU] = 1e3 * spent / TURNS
        before = cpu_s(self.pid)
        take_turn(web, session, f"{Tokens(EVENTS).directive}")
        figures[EVENT_CPU] = 1e6 * (cpu_s(self.pid) - before) / EVENTS
        latencies_ms = event_latencies_ms(web, session)
        figures[EVENT] = median(latencies_ms)
        self.latencies_ms += latencies_ms
        figures[LIST] = timed(lambda: web.status("/api/sessions"))
        figures[OPEN] = timed(lambda: web.status(f"/api/session?session_id={session}"))
        if self.can_search:
            figures[SEARCH] = timed(lambda: web.status("/api/sessions/search?q=tokens"))
        if self.can_wake:
            figures[WAKEUP] = wakeup_delay_ms(web, session)
        return figures

    def finish(self) -> Figures:
        """The figures that need more than one round."""
        figures = {}
        if self.latencies_ms:
            figures[EVENT_P99] = quantiles(self.latencies_ms, n=100)[-1]
        figures[STREAM] = stream_kib(self.web, self.pid, self.sessions[0])
        return {name: max(value, FLOORS.get(name, 0.0)) for name, value in figures.items()}


def idle_shares(pids: Sequence[int], seconds: float = IDLE_S) -> list[float]:
    """The processor time of servers that are asked nothing, in percent of a core."""
    began, before = time.monotonic(), [cpu_s(pid) for pid in pids]
    time.sleep(seconds)
    passed = time.monotonic() - began
    spent = [cpu_s(pid) - at for pid, at in zip(pids, before, strict=True)]
    return [max(100 * used_s / passed, FLOORS[IDLE]) for used_s in spent]


def resident_kib(pid: int) -> float:
    """The resident memory of another process."""
    return float(psutil.Process(pid).memory_info().rss) / 1024


def cpu_s(pid: int) -> float:
    """The processor time of another process, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | CPU_CLOCK)


def new_session(web: Web) -> str:
    """Create a session; its id."""
    return str(web.post("/api/session/new")["session"]["session_id"])


def start_turn(web: Web, session: str, script: str) -> tuple[str, float, float]:
    """Start a turn once the previous one has ended; its stream, and when that was asked and said.

    A refused call is no start, so that the clock is that of the one that is not refused.
    """
    ends_at = time.monotonic() + PATIENCE_S
    while True:
        began = time.perf_counter()
        body = {"session_id": session, "message": script}
        status, response = web.ask("POST", "/api/chat/start", body)
        started = time.perf_counter()
        if status == 200:  # noqa: PLR2004  the previous turn has ended
            return str(response["stream_id"]), began, started
        if time.monotonic() > ends_at:
            raise HarnessError(f"POST /api/chat/start: {status} {response} for {PATIENCE_S:g} s")


def take_turn(web: Web, session: str, script: str = SCRIPT) -> tuple[float, float, float]:
    """Take a turn: until its start is answered, until its first event, until its end, in ms."""
    name, began, started = start_turn(web, session, script)
    with web.stream(f"/api/chat/stream?stream_id={name}") as stream:
        next(stream, None)
        first = time.perf_counter()
        for _ in stream:
            pass
    return tuple(1e3 * (at - began) for at in (started, first, time.perf_counter()))  # type: ignore[return-value]


def timed(ask: Callable[[], object]) -> float:
    """The median time of a request, in ms."""
    spent = []
    for _ in range(READS):
        began = time.perf_counter()
        ask()
        spent.append(time.perf_counter() - began)
    return 1e3 * median(spent)


def event_latencies_ms(web: Web, session: str) -> list[float]:
    """Take a turn whose events name the time when each was due; how late each arrived."""
    stream, *_ = start_turn(web, session, f"{BEATS.directive}")
    latencies_ms = []
    with closing(EventStream((LOOPBACK, web.port), StreamRequest(session, stream))) as reader:
        for frame in reader.frames():
            due_s = beat_due_s(frame.data)
            if due_s is not None:
                latencies_ms.append(max(1e3 * (time.time() - due_s), 1e-3))
    if not latencies_ms:
        raise HarnessError(f"no event of {BEATS.count} arrived")
    return latencies_ms


def stream_kib(web: Web, pid: int, session: str) -> float:
    """How much a server grows for each reader of one run."""
    stream, *_ = start_turn(web, session, f"{sleep(HELD_S)}")
    try:
        with ExitStack() as readers:
            before = 0.0
            for number in range(READERS + 1):
                request = StreamRequest(session, stream)
                readers.enter_context(closing(EventStream((LOOPBACK, web.port), request)))
                before = before if number else resident_kib(pid)  # the first one costs more
            return (resident_kib(pid) - before) / READERS
    finally:
        web.status(f"/api/chat/cancel?stream_id={stream}")


@contextmanager
def lock_waits(database: str) -> Iterator[list[float]]:
    """Take the write lock of a database again and again meanwhile; how long each took, in ms.

    Nothing is written. The waits are empty where there is no database.
    """
    waits_ms: list[float] = []
    stop = threading.Event()

    def probe() -> None:
        with closing(
            sqlite3.connect(f"file:{database}?mode=rw", timeout=0, uri=True)
        ) as connection:
            connection.isolation_level = None
            while not stop.wait(PROBE_S):
                began = time.perf_counter()
                while not stop.is_set():
                    with suppress(sqlite3.OperationalError):
                        connection.execute("BEGIN IMMEDIATE")
                        waits_ms.append(1e3 * (time.perf_counter() - began))
                        connection.execute("ROLLBACK")
                        break
                    time.sleep(PROBE_PAUSE_S)

    def probe_what_there_is() -> None:
        with suppress(sqlite3.OperationalError):  # no database there
            probe()

    prober = threading.Thread(target=probe_what_there_is)
    prober.start()
    try:
        yield waits_ms
    finally:
        stop.set()
        prober.join()


def wakeup_delay_ms(web: Web, session: str, patience_s: float = PATIENCE_S) -> float:
    """From the end of a background process until a reader sees the turn that it starts."""
    request = StreamRequest(session, is_notices=True)
    with closing(EventStream((LOOPBACK, web.port), request)) as stream:
        watchdog = threading.Timer(patience_s, stream.leave)
        watchdog.start()
        try:
            take_turn(web, session, f"{Process(0.02, 'done').directive}")
            ended_at = 0.0
            for frame in stream.frames():
                if frame.event == b"bg_task_complete":
                    ended_at = float(json.loads(frame.data)["completed_at"])
                is_start = frame.event == b"server_turn_started" and b"process_wakeup" in frame.data
                if ended_at and is_start:
                    return max(1e3 * (time.time() - ended_at), 1e-3)
        finally:
            watchdog.cancel()
    raise HarnessError(f"no wakeup was seen within {patience_s:g} s")
