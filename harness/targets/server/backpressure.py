"""The *streams* ability: a server, and clients that read slowly, not at all, or take every stream.

Each call boots a server of its own, with short timeouts as settings, and reports facts: which
requests were answered while other clients stalled, and whether streams and channels were released
in the end. It measures time for the heartbeats only, which the contract bounds in seconds.
"""

from __future__ import annotations

import fcntl
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from harness.contract.agent_script import ASKED, Tokens, sleep
from harness.core.errors import TargetLostError
from harness.core.sse import Frames
from harness.engine.http import LOOPBACK, PATIENCE_S, NotReachedError, StatusError, Web
from harness.processes.server import Launch, NotServingError, ServerProcess
from harness.targets.server.lifecycle import ServerAdapter

POLL_S = 0.02
TINY_BYTES = 2048  # the receive buffer of a stalled reader
SNAPSHOT = "session_snapshot"
HELD = f"{Tokens(3).directive}{sleep(900)}"
DEADLINE_S = 1.0  # for a reader that takes nothing
PAUSES = 3  # tries to read on within half of that
LARGE = f"{ASKED}" * 20 + f"{sleep(900)}"  # shows what its turn has attached
LARGE_EVENTS = 40  # two for each call of a tool
ATTACHED = [f"{number:1000}" for number in range(16)]
QUICK_S = 0.3
QUIET_S = 1.0  # without any stream, after which a server may have stopped its timers
DEFAULTS = {"HERMES_WEBUI_STREAMS_MAX": "64"}
CROWD = 540  # connections, more than a server keeps beside its streams
TALKS = 10  # of a stream that speaks each second
SHORT_PATIENCE_S = 2.0  # for a request
TRICKLE_S = 0.1
FILES_MAX = 800  # open files, of which a server needs most for what is no stream
HOST = "Host: localhost\r\n"
LINGERING = {
    "silent": "",
    "in the head": f"GET /health HTTP/1.1\r\n{HOST}",
    "in the body": f"POST /api/session/undo HTTP/1.1\r\n{HOST}Content-Length: 99\r\n\r\n{{",
    "answered": f"GET /health HTTP/1.1\r\n{HOST}\r\n",
    "trickling": f"GET /health HTTP/1.1\r\n{HOST}X: ",
}


class BackpressureAdapter:
    """Servers on one folder, one after another."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._server = ServerAdapter(folder, launch)
        self._launch = launch

    def stall(self, readers: int, tokens: int) -> dict[str, Any]:
        """Read a run by some clients that read nothing and one that reads all; wait for the end.

        Another client stays that took nothing for a moment, which was no deadline long. Meanwhile
        another server is started on the same folder, in which a run is live.
        """
        web = self._booted(HERMES_WEBUI_SSE_WRITE_DEADLINE=str(DEADLINE_S))
        sid = _new(web)
        with ExitStack() as stack:
            large = _new(web)
            begun = web.post(
                "/api/chat/start", session_id=large, message=LARGE, attachments=ATTACHED
            )
            paused = _paused(web, begun["stream_id"], stack)
            run = _start(web, sid, f"{sleep(QUICK_S)}{Tokens(tokens).directive}")
            for _ in range(readers):
                stack.enter_context(_stalled(web.port, f"/api/chat/stream?stream_id={run}"))
            with web.stream(f"/api/chat/stream?stream_id={run}") as events:
                received = [(event.id, event.name) for event in events]
            health = web.get("/health")["containers"]
            answered = [web.ask("GET", path)[0] for path in ("/api/sessions", "/api/models")]
            with ThreadPoolExecutor(1) as pool:
                beside = pool.submit(self._boot_beside)
                let_go = _came_true(lambda: _taken(web) <= (paused is not None))
            return {
                "beside": beside.result(),
                "live": _is_untouched(web, large, begun["stream_id"]),
                "goes_on": None if paused is None else not _has_closed(paused, 0.0),
                "whole": is_whole(received),
                "last": received[-1][1],
                "answered": answered,
                "kept_bytes": health["channel_bytes_kept"],
                "let_go": let_go,
                "dropped": _dropped(web),
            }

    def fill(self, streams: int) -> dict[str, Any]:
        """Open every stream, then more, and send other requests; then close one stream."""
        web = self._booted(HERMES_WEBUI_STREAMS_MAX=str(streams))
        sid = _new(web)
        path = f"/api/session/stream?session_id={sid}"
        with ExitStack() as stack:
            last = None
            for _ in range(streams):
                last = stack.enter_context(ExitStack())
                next(last.enter_context(web.stream(path)))
            refused = [_opened(web, path) for _ in range(3)]
            others = ("/health", "/api/system/health", "/api/sessions", f"/api/session?{path[20:]}")
            answered = [web.ask("GET", other)[0] for other in others]
            run = _start(web, sid, f"{Tokens(1).directive}")
            taken = _taken(web)
            assert last is not None, "streams is positive"
            last.close()
            again = _came_true(lambda: _opened(web, path) is None)
            return {
                "refused": refused,
                "answered": answered,
                "started": bool(run),
                "taken": taken,
                "again": again,
                "crowd": self._crowd(web, CROWD),
            }

    def _crowd(self, web: Web, clients: int) -> dict[str, Any]:
        """Open more connections than are kept, and send nothing; which of them are served."""
        with ExitStack() as stack:
            crowd = [
                stack.enter_context(socket.create_connection((LOOPBACK, web.port), PATIENCE_S))
                for _ in range(clients)
            ]
            answered = [web.ask("GET", path)[0] for path in ("/health", "/api/sessions")]
            return {
                "answered": answered,
                "kept": _containers(web)["connections_idle"],
                "oldest": "closed" if _has_closed(crowd[0], PATIENCE_S) else "open",
                "newest": _is_served(crowd[-1]),
            }

    def leave(self) -> dict[str, Any]:
        """Subscribe to two sessions, leave one, and wait until its channel is collected."""
        web = self._booted(
            HERMES_WEBUI_CHANNEL_GRACE=str(QUICK_S), HERMES_WEBUI_COLLECT_PERIOD=str(QUICK_S)
        )
        remaining, left = _new(web), _new(web)
        with web.stream(f"/api/session/stream?session_id={remaining}") as events:
            next(events)
            with web.stream(f"/api/session/stream?session_id={left}") as others:
                next(others)
                both = _containers(web)["channels"]
            collected = _came_true(lambda: _containers(web)["channels"] < both)
            channels = _containers(web)["channels"]
            run = _start(web, remaining, f"{Tokens(1).directive}")
            heard = next(e.data["stream_id"] for e in events if e.name == "turn_started")
        return {"collected": collected, "channels": channels, "heard": heard == run}

    def keep_silent(self) -> dict[str, Any]:
        """Open four idle streams, hold a session lock, and wait for a heartbeat on each stream."""
        web = self._booted(HERMES_WEBUI_REQUEST_PATIENCE=str(SHORT_PATIENCE_S))
        sid = _new(web)
        _opened(web, f"/api/session/stream?session_id={sid}")  # those that come are not the first
        _came_true(lambda: not _taken(web))
        time.sleep(QUIET_S)
        run = _start(web, _new(web), HELD)
        talk = _start(web, _new(web), f"{Tokens(1).directive}{sleep(1)}" * TALKS)
        paths = (
            f"/api/session/stream?session_id={sid}",
            f"/api/chat/stream?stream_id={run}",
            "/api/sessions/events",
            "/api/sessions/gateway/stream",
        )
        statuses: list[int] = []

        def rename() -> None:
            body = {"session_id": sid, "title": "late"}
            statuses.append(web.ask("POST", "/api/session/rename", body)[0])

        with ExitStack() as stack:
            # A stream that speaks is watched first, and must not hide those that are silent.
            stack.enter_context(_connected(web.port, f"/api/chat/stream?stream_id={talk}"))
            streams = [stack.enter_context(_connected(web.port, path)) for path in paths]
            lingering = stack.enter_context(_Lingering(web.port))
            with self._locked():
                renamer = Thread(target=rename)
                renamer.start()
                silences_s = [_silence_s(stream) for stream in streams]
                renamer.join(PATIENCE_S)
            rename()
            return {
                "silences_s": silences_s,
                "locked": statuses[:1],
                "freed": statuses[1:],
                "dropped_early": lingering.early,
                "still_open": lingering.still_open(),
            }

    def stop(self) -> dict[str, Any]:
        """Terminate the server while three streams are open; whether each ended; the exit code.

        The system lets it open few files, and clients take every stream that it grants before.
        """
        web = self._booted(HERMES_WEBUI_STREAMS_MAX="10000", HARNESS_FILES_MAX=str(FILES_MAX))
        path = f"/api/session/stream?session_id={_new(web)}"
        paths = ("/api/sessions/gateway/stream", "/api/sessions/events", path)
        with ExitStack() as stack:
            streams = [stack.enter_context(_connected(web.port, stream)) for stream in paths]
            _came_true(lambda: _taken(web) == len(paths))
            few_files = self._take_all(web, paths[-1], stack, len(paths))
            code = self._server.terminate()
            ended = [_has_ended(stream) for stream in streams]
            return {"ended": ended, "code": code, "few_files": few_files}

    def _take_all(self, web: Web, path: str, stack: ExitStack, taken: int) -> dict[str, Any]:
        """Take streams until one is refused; its status, and what the server answers then."""
        stated = web.get("/health")["accept_loop"]["streams_max"]
        status = HTTPStatus.OK.value
        while status == HTTPStatus.OK and taken < FILES_MAX:
            status = _status(stack.enter_context(_connected(web.port, path)))
            taken += status == HTTPStatus.OK
        answered = [_answered(web, other) for other in ("/health", "/api/sessions", "/api/models")]
        return {"refused": status, "answered": answered, "uncounted": taken - stated}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the locks of all sessions, as another process may do for a while."""
        with ExitStack() as stack:
            for path in sorted((self._server.state / "sessions" / "_locks").iterdir()):
                file = stack.enter_context(path.open("rb"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _boot_beside(self) -> str:
        """Start another server on the folder, as a mistake of an operator does; what it does."""
        try:
            other = ServerProcess(self._launch, self._server.state)
        except NotServingError:
            return "refuses"
        other.kill()
        return "serves"

    def _booted(self, **settings: str) -> Web:
        self._server.kill()
        return Web(self._server.boot(**{**DEFAULTS, **settings})["port"])

    def close(self) -> None:
        """Kill the server."""
        self._server.close()


def _new(web: Web) -> str:
    sid: str = web.post("/api/session/new")["session"]["session_id"]
    return sid


def _start(web: Web, sid: str, message: str) -> str:
    stream_id: str = web.post("/api/chat/start", session_id=sid, message=message)["stream_id"]
    return stream_id


def _containers(web: Web) -> Mapping[str, int]:
    containers: Mapping[str, int] = web.get("/health")["containers"]
    return containers


def _taken(web: Web) -> int:
    return _containers(web)["streams_taken"]


def _dropped(web: Web) -> list[int]:
    """How many readers were dropped, as each of both health endpoints says."""
    streams = web.get("/api/system/health")["webui_runtime"]["streams"]
    accepted = web.get("/health")["accept_loop"]
    return [accepted["streams_dropped"], streams["subscribers_dropped"]]


def is_whole(events: list[tuple[str, str]]) -> bool:
    """Whether event numbers have no gap, except those that a snapshot declares."""
    last = 0
    for id_, name in events:
        _, _, number = id_.rpartition(":")
        if name == SNAPSHOT:
            last = max(last, int(number or 0))
        elif number != str(last + 1):
            return False
        else:
            last += 1
    return True


def _opened(web: Web, path: str) -> int | None:
    """Try to open a stream; the status of a refusal, None if it opened."""
    try:
        with web.stream(path) as events:
            next(events)
    except StatusError as refused:
        return refused.status
    except NotReachedError:
        return 0
    return None


@contextmanager
def _connected(port: int, path: str, receive_bytes: int = 0) -> Iterator[socket.socket]:
    with socket.socket() as client:
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(PATIENCE_S)
        client.connect((LOOPBACK, port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield client


@contextmanager
def _stalled(port: int, path: str) -> Iterator[None]:
    """A client that reads a stream's first byte, and nothing more."""
    with _connected(port, path, TINY_BYTES) as client:
        client.recv(1)
        yield


def _is_untouched(web: Web, sid: str, run: str) -> bool:
    """Whether the session's first turn is under way, and was neither ended nor marked."""
    session = web.get(f"/api/session?session_id={sid}")["session"]
    is_pending = session["pending_user_message"] is not None and not session["messages"]
    return bool(is_pending and session["active_stream_id"] == run)


def _paused(web: Web, run: str, stack: ExitStack) -> socket.socket | None:
    """A client that made its stream wait, and then read all; None if that was never quick."""
    last = f"id: {run}:{LARGE_EVENTS}\n".encode()
    for _ in range(PAUSES):
        with ExitStack() as own:
            began_s = time.monotonic()
            path = f"/api/chat/stream?stream_id={run}"
            client = own.enter_context(_connected(web.port, path, TINY_BYTES))
            if not _came_true(lambda: _containers(web)["sse_stalled"] > 0):
                return None
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            is_whole = _read_until(client, last)
            if is_whole and time.monotonic() - began_s < DEADLINE_S / 2:
                stack.push(own.pop_all())
                return client
    return None


def _read_until(client: socket.socket, mark: bytes) -> bool:
    """Read until the mark comes; whether it did before the stream ended."""
    read = b""
    with suppress(OSError):
        while data := client.recv(1 << 20):
            read = read[-len(mark) :] + data
            if mark in read:
                return True
    return False


class _Lingering:
    """Clients that open a connection and then do not go on; some never finish their request."""

    def __init__(self, port: int) -> None:
        began_s = time.monotonic()
        self._clients: dict[str, socket.socket] = {}
        self._has_left = Event()
        for kind, data in LINGERING.items():
            client = socket.create_connection((LOOPBACK, port), PATIENCE_S)
            self._clients[kind] = client
            client.sendall(data.encode())
            if kind == "answered":
                client.recv(1 << 16)
        closed = [kind for kind, client in self._clients.items() if _has_closed(client, 0.0)]
        is_early = time.monotonic() - began_s < SHORT_PATIENCE_S
        self.early = closed if is_early else []
        self._slow = Thread(target=self._trickle)

    def __enter__(self) -> Self:
        self._slow.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_left.set()
        self._slow.join()
        for client in self._clients.values():
            client.close()

    def _trickle(self) -> None:
        """Send one more byte of an endless request now and then, until it is dropped."""
        with suppress(OSError):
            while not self._has_left.wait(TRICKLE_S):
                self._clients["trickling"].sendall(b"y")

    def still_open(self) -> list[str]:
        """The clients that the server does not drop."""
        ends_s = time.monotonic() + PATIENCE_S
        return [
            kind
            for kind, client in self._clients.items()
            if not _has_closed(client, max(0.0, ends_s - time.monotonic()))
        ]


def _has_closed(client: socket.socket, within_s: float) -> bool:
    """Whether the server closes the connection, by now or in time; what it sends is ignored."""
    ends_s = time.monotonic() + within_s
    try:
        while select.select([client], [], [], max(0.0, ends_s - time.monotonic()))[0]:
            if not client.recv(1 << 16):
                return True
    except OSError:  # it was dropped
        return True
    return False


def _is_served(client: socket.socket) -> bool:
    """Whether a connection that sent nothing yet gets an answer."""
    try:
        client.sendall(f"GET /health HTTP/1.1\r\n{HOST}\r\n".encode())
        return client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def _silence_s(stream: socket.socket) -> float:
    """Wait for a stream's first comment; the seconds since the event before it."""
    began_at = time.monotonic()
    frames = Frames()  # the head of the response has lines, too, and no event
    while data := stream.recv(1 << 16):
        for frame in frames.cut(data):
            if frame.is_comment:
                return time.monotonic() - began_at
            began_at = time.monotonic()
    raise NotReachedError("the stream was closed")


def _status(client: socket.socket) -> int:
    """The status of a response; 0 if none came."""
    head = b""
    with suppress(OSError):
        while b"\r\n" not in head and (data := client.recv(1 << 16)):
            head += data
    return int(head.split()[1]) if b"\r\n" in head else 0


def _answered(web: Web, path: str) -> int:
    """The status of an ordinary call; 0 if it is not answered."""
    try:
        return web.ask("GET", path)[0]
    except (NotReachedError, TargetLostError):
        return 0


def _has_ended(stream: socket.socket) -> bool:
    """Read the rest; whether the server ended the stream properly."""
    try:
        while stream.recv(1 << 16):
            pass
    except OSError:  # dropped, or left open
        return False
    return True


def _came_true(is_so: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > ends_at:
            return False
        time.sleep(POLL_S)
    return True
