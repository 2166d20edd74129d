"""The *leaving* ability: readers that leave a stream at any moment and in any way.

After each departure the server is asked for its gauges until they are back at their first values.
The time for that is counted in answered calls too: a server that has answered many calls since the
readers left has had its turn to see it.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from harness.contract.agent_script import Tokens, sleep
from harness.core.sse import Frames
from harness.engine.http import LOOPBACK, PATIENCE_S, Web
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

POLL_S = 0.05
BACK_S, BACK_POLLS = 3.0, 60  # before the first comment of a stream, which would reveal the reader
PIPED = 40  # how often a request is sent again byte by byte, at most
REST_S = 20.0
WATCHED_S = 1.5  # an idle server
WAKEUPS_MAX = 10.0  # of its loop, a second; nothing is due without a client
THREADS_MAX = 24  # that pools may start later: they are bounded
SAME = 6  # equal readings in a row, for gauges that have settled
CALLS = 24  # at once, so that each pool has its threads
HELD = f"{Tokens(3).directive}{sleep(900)}"
LINGER = struct.pack("ii", 1, 0)
PATHS = {
    "run": "/api/chat/stream?stream_id={run}",
    "events": "/api/sessions/{session}/events",
    "notices": "/api/session/stream?session_id={session}&known_count=77",
    "gateway": "/api/sessions/gateway/stream",
    "list": "/api/sessions/events",
}
# Streams that are resumed behind an event at these moments, so that their readers leave a replay.
RESUMED = {"events": ("prepared", "shown"), "run": ("prepared", "head")}
QUIET = ("list", "gateway")  # streams that show nothing until something changes


class LeavingReadersAdapter:
    """One server with a run that lasts, and a reader that stays."""

    back_polls, settle_s = BACK_POLLS, REST_S

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._server = ServerAdapter(folder, launch)
        self._web = Web(0)
        self._ids: dict[str, str] = {}
        self._open = ExitStack()
        self._first: dict[str, int] = {}
        self._quiet: dict[str, int] = {}

    def begin(self) -> None:
        """Boot, use every endpoint once, and note the gauges."""
        booted = self._server.boot(
            HERMES_WEBUI_STREAMS_MAX="64",
            HERMES_WEBUI_CHANNEL_GRACE="0.3",
            HERMES_WEBUI_COLLECT_PERIOD="0.5",
        )
        self._web, self._pid = Web(booted["port"], PATIENCE_S), booted["pid"]
        session = self._web.post("/api/session/new")["session"]["session_id"]
        self._ids["session"] = session
        with ThreadPoolExecutor(CALLS) as pool:  # every file that stays open is open from now on
            list(pool.map(self._web.status, [f"/api/session?session_id={session}"] * CALLS))
        self._quiet = self._settled()
        started = self._web.post("/api/chat/start", session_id=session, message=HELD)
        self._ids["run"] = started["stream_id"]
        with self._web.stream(PATHS["run"].format(**self._ids)) as events:
            for _ in range(3):
                next(events)
        stays = self._open.enter_context(self._web.stream(PATHS["notices"].format(**self._ids)))
        next(stays)
        for endpoint in PATHS:
            self._read_one(endpoint)
        self._first = self._settled()

    def leave(self, endpoint: str, way: str, moment: str, readers: int) -> dict[str, Any]:
        """Open some streams, leave each, and wait for the gauges; what stayed behind since then.

        `way` is close, reset or half (the reader sends no more, but stays). `moment`: the request
        is *sent*, or while it is *prepared* (the server is suspended until the readers have left),
        its *head* came, an event was *shown*, or more was sent than the request, *piped*: at once
        by the first reader, and by the others byte for byte until the head comes, so that bytes
        come while the stream is prepared.
        """
        if moment == "prepared":
            self._server.pause()
        clients = []
        try:
            for number in range(readers):
                clients.append(client := self._connected(endpoint, moment))
                if moment == "piped":
                    self._pipe(client, endpoint, at_once=number == 0)
                if moment in ("head", "piped"):
                    client.recv(1)
                elif moment == "shown" and endpoint not in QUIET:
                    _read_event(client)
                depart(client, way)
        finally:
            if moment == "prepared":
                self._server.resume()
        left = self._left(self._first)
        self._first = {name: size + left.get(name, 0) for name, size in self._first.items()}
        ended = sum(map(has_ended, clients)) if way == "half" else readers
        for client in clients:
            client.close()
        return {"left": left, "ended": ended}

    def rest(self) -> dict[str, Any]:
        """Let the last reader leave, cancel the run, and wait; what is above its first value."""
        self._open.close()
        self._web.get(f"/api/chat/cancel?stream_id={self._ids['run']}")
        # A buffer keeps its last frame, whose size depends on its number.
        kept = {
            name: size
            for name, size in self._quiet.items()
            if name.startswith(_OF_CLIENTS) and not name.endswith("_bytes_kept")
        }
        return {"left": self._left({**kept, "threads": self._quiet["threads"]}, REST_S)}

    def idle(self) -> dict[str, Any]:
        """Watch the server without clients; the wakeups and the cost above what is allowed."""
        before, began_s = _usage(self._pid), time.monotonic()
        time.sleep(WATCHED_S)
        after, seconds = _usage(self._pid), time.monotonic() - began_s
        wakeups, cpu_s = (late - early for late, early in zip(after, before, strict=True))
        return {
            "wakeups_above": max(0, round(wakeups - WAKEUPS_MAX * seconds)),
            "cpu_ms_above": max(0, round(1000 * (cpu_s - 0.1 * seconds))),
        }

    def _connected(self, endpoint: str, moment: str) -> socket.socket:
        client = socket.create_connection((LOOPBACK, self._web.port), PATIENCE_S)
        path = PATHS[endpoint].format(**self._ids)
        if endpoint in RESUMED and moment in RESUMED[endpoint]:
            path += f"{'&' if '?' in path else '?'}after_event_id={self._ids['run']}:1"
        client.sendall(request(path))
        return client

    def _pipe(self, client: socket.socket, endpoint: str, *, at_once: bool) -> None:
        """Send the request again behind itself; byte for byte, until the head comes."""
        again = request(PATHS[endpoint].format(**self._ids))
        if at_once:
            client.sendall(again)
            return
        with suppress(ConnectionError):  # a server may refuse more than it was asked to read
            for at in range(len(again) * PIPED):
                if select.select([client], [], [], 0)[0]:
                    return
                client.sendall(again[at % len(again) :][:1])

    def _read_one(self, endpoint: str) -> None:
        with self._connected(endpoint, "shown") as client:
            client.recv(1)

    def _gauges(self) -> dict[str, int]:
        health = self._web.get("/health")
        process = {name: health["process"][name] for name in ("threads", "fds")}
        return {**health["containers"], "active_runs": health["active_runs"], **process}

    def _settled(self) -> dict[str, int]:
        """The gauges, once they are the same several times."""
        ends_at, same, last = time.monotonic() + self.settle_s, 0, self._gauges()
        while same < SAME and time.monotonic() < ends_at:
            time.sleep(POLL_S)
            now = self._gauges()
            same = same + 1 if now == last else 0
            last = now
        return last

    def _left(self, first: Mapping[str, int], within_s: float = BACK_S) -> dict[str, int]:
        """What is not back at its first value when the time is over: by how much."""
        ends_at, polls = time.monotonic() + within_s, 0
        while left := _off(first, self._gauges()):
            polls += 1
            if time.monotonic() > ends_at and polls >= self.back_polls:
                break
            time.sleep(POLL_S)
        return left

    def close(self) -> None:
        """Close the reader, and kill the server."""
        with suppress(Exception):
            self._open.close()
        self._server.close()


def depart(client: socket.socket, way: str) -> None:
    """Leave by a close, by a reset, or by half: send no more, but stay."""
    if way == "half":
        client.shutdown(socket.SHUT_WR)
        return
    if way == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    client.close()


def request(path: str) -> bytes:
    """The bytes of a request for a stream."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


_OF_CLIENTS = ("streams", "sse", "channel", "connections", "calls", "active", "watcher", "run_w")
_OF_THOSE_THAT_STAY = ("streams_taken",)  # below its first value is as wrong as above


def _off(first: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """By how much gauges are above their first values, or what was given back twice below them."""
    allowed = {"threads": THREADS_MAX}
    over = {name: now.get(name, 0) - size - allowed.get(name, 0) for name, size in first.items()}
    return {
        name: excess
        for name, excess in over.items()
        if excess > 0 or (excess < 0 and name in _OF_THOSE_THAT_STAY)
    }


def _read_event(client: socket.socket) -> None:
    """Read until an event came; the head of the response has lines, too, and no event."""
    frames = Frames()
    while not frames.events and (data := client.recv(1 << 16)):
        frames.cut(data)


def has_ended(client: socket.socket) -> bool:
    """Whether the server has closed its side, by now or within a moment."""
    ends_at = time.monotonic() + BACK_S
    try:
        while True:
            client.settimeout(max(0.001, ends_at - time.monotonic()))
            if not client.recv(1 << 16):
                break
    except TimeoutError:
        return False
    except OSError:  # it was dropped
        return True
    return True


def _usage(pid: int) -> tuple[int, float]:
    """The times that the main thread began to wait, and the processor time of the process."""
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("voluntary_ctxt"))
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(line.split()[1]), (int(fields[11]) + int(fields[12])) / 100
