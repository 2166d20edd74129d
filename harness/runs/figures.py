"""Measures what a booted server costs, in short rounds, for a comparison of two of them.

A round takes turns in a new session, lists, opens and searches sessions, and waits for one wakeup.
Each figure of a round is a median, so that one disturbance of the machine is not in it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from statistics import median

import psutil

from harness.contract.agent_script import Process, Tokens
from harness.contract.clients.event_stream import EventStream, StreamRequest
from harness.core.errors import HarnessError
from harness.engine.http import LOOPBACK, Web

TURNS = 8
READS = 8
SESSIONS = 60
PATIENCE_S = 20.0
SCRIPT = f"{Tokens(20).directive}"
CPU_CLOCK = 2  # of the clocks of another process (clock_getcpuclockid, Linux)

START, FIRST, TURN, CPU = "turn start, ms", "first event, ms", "whole turn, ms", "CPU a turn, ms"
LIST, OPEN, SEARCH = "session list, ms", "session, ms", "search, ms"
WAKEUP = "wakeup delay, ms"
BOOT, MEMORY = "start-up, ms", "RSS a session, KiB"
FIGURES = (BOOT, START, FIRST, TURN, CPU, LIST, OPEN, SEARCH, WAKEUP, MEMORY)

Figures = dict[str, float]


@dataclass
class Subject:
    """A booted server, the sessions in it, and whether it can search them."""

    port: int
    pid: int
    start_up_ms: float
    sessions: list[str] = field(default_factory=list)
    can_search: bool = False

    @property
    def web(self) -> Web:
        """A client of the server."""
        return Web(self.port)

    def fill(self) -> Figures:
        """Create sessions, and take what is done once only; the figures of a whole life."""
        web = self.web
        take_turn(web, new_session(web))
        process = psutil.Process(self.pid)
        before = process.memory_info().rss
        self.sessions = [new_session(web) for _ in range(SESSIONS)]
        for session in self.sessions:
            take_turn(web, session)
        grown = process.memory_info().rss - before
        self.can_search = web.status("/api/sessions/search?q=tokens") == 200  # noqa: PLR2004
        self.round()  # what the first round does once is in no figure
        memory = {MEMORY: grown / 1024 / SESSIONS} if grown > 0 else {}
        return {BOOT: self.start_up_ms, **memory}

    def round(self) -> Figures:
        """One short round."""
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
        figures[LIST] = timed(lambda: web.status("/api/sessions"))
        figures[OPEN] = timed(lambda: web.status(f"/api/session?session_id={session}"))
        if self.can_search:
            figures[SEARCH] = timed(lambda: web.status("/api/sessions/search?q=tokens"))
        figures[WAKEUP] = wakeup_delay_ms(web, session)
        return figures


def cpu_s(pid: int) -> float:
    """The processor time of another process, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | CPU_CLOCK)


def new_session(web: Web) -> str:
    """Create a session; its id."""
    return str(web.post("/api/session/new")["session"]["session_id"])


def take_turn(web: Web, session: str, script: str = SCRIPT) -> tuple[float, float, float]:
    """Take a turn: until its start is answered, until its first event, until its end, in ms."""
    ends_at = time.monotonic() + PATIENCE_S
    while True:
        began = time.perf_counter()
        body = {"session_id": session, "message": script}
        status, response = web.ask("POST", "/api/chat/start", body)
        started = time.perf_counter()
        if status == 200:  # noqa: PLR2004  the previous turn has ended
            break
        if time.monotonic() > ends_at:
            raise HarnessError(f"POST /api/chat/start: {status} {response} for {PATIENCE_S:g} s")
    with web.stream(f"/api/chat/stream?stream_id={response['stream_id']}") as stream:
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


def wakeup_delay_ms(web: Web, session: str) -> float:
    """From the end of a background process until a reader sees the turn that it starts."""
    request = StreamRequest(session, is_notices=True)
    with closing(EventStream((LOOPBACK, web.port), request)) as stream:
        watchdog = threading.Timer(PATIENCE_S, stream.leave)
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
    raise HarnessError(f"no wakeup was seen within {PATIENCE_S:g} s")
