"""Tests of the server (H1 to H6, and over HTTP C3, C4, C6 to C8, C10, W2, W11)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_impl.live.event_buffer import EventBuffer, sizes
from reference_impl.web import server as server_module
from reference_impl.web import streams as streams_module
from reference_impl.web.api import ROUTES
from reference_impl.web.http_parser import Request, answer
from reference_impl.web.routes import Kind
from reference_impl.web.server import Plan, Server, Streaming
from tests.report.test_browser import LOW_CONTRAST, SCHEMES
from tests.support.browser import Browser, chromium
from tests.support.server_process import PATIENCE_S, Event, Response, ServerProcess, Sse, call


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        yield server


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def seqs(events: list[Event]) -> list[int]:
    return [int(event.id.rpartition(":")[2]) for event in events if event.id is not None]


# Turns and their streams


def test_turn_is_on_disk_and_fully_readable(
    server: ServerProcess,
) -> None:
    """T2, C1 to C3, C6: `done` ends no stream, `stream_end` does."""
    sid = server.new()
    stream_id = server.start(sid, "hello [tokens=3] [sleep=0.2]")
    sidecar = json.loads((server.folder / "sessions" / f"{sid}.json").read_text(encoding="utf-8"))
    assert "hello" in (sidecar["pending_user_message"] or sidecar["messages"][0]["content"])

    events = server.read(stream_id)

    assert seqs(events) == list(range(1, len(events) + 1))
    assert names(events)[-2:] == ["done", "stream_end"]
    reply = "".join(event.data["text"] for event in events if event.name == "token")
    assert server.messages(sid)[-1]["content"] == reply


def test_second_start_is_refused(server: ServerProcess) -> None:
    """T1: the refusal names the current stream."""
    sid = server.new()
    stream_id = server.start(sid, "[sleep=20]")
    response = server.post("/api/chat/start", {"session_id": sid, "message": "me too"})
    assert (response.status, response.json["active_stream_id"]) == (409, stream_id)
    server.get(f"/api/chat/cancel?stream_id={stream_id}")


def test_cancelled_run_is_not_announced(server: ServerProcess) -> None:
    """C7, T4: its stream ends, and later subscribers get no announcement of it."""
    sid = server.new()
    stream_id = server.start(sid, "[tokens=2] [sleep=20]")
    with Sse(server.port, f"/api/chat/stream?stream_id={stream_id}") as sse:
        response = server.get(f"/api/chat/cancel?stream_id={stream_id}").json
        assert response == {"ok": True, "cancelled": True, "stream_id": stream_id}
        assert names(list(sse.events()))[-1] == "cancel"

    with server.watch(sid, "&known_count=1000") as watch:
        assert names(watch.until("session-updated")) == ["initial", "session-updated"]
    assert server.get(f"/api/chat/stream/status?stream_id={stream_id}").json["active"] is False
    assert server.get("/api/chat/cancel?stream_id=unknown").json["cancelled"] is False


def test_late_watcher_can_attach_to_the_run(server: ServerProcess) -> None:
    """C7: `server_turn_started` with `recovered`, and every earlier event."""
    sid = server.new()
    stream_id = server.start(sid, "[tokens=5] [sleep=1]")

    with server.watch(sid) as watch:
        response = watch.until("server_turn_started")[-1]
    assert (response.data["stream_id"], response.data["recovered"]) == (stream_id, True)
    assert seqs(server.read(stream_id))[0] == 1


@pytest.mark.parametrize("how", ["Last-Event-ID", "after_event_id", "after_seq"])
def test_cursor_continues_exactly_after_it(server: ServerProcess, how: str) -> None:
    """C4: in each of three forms, also after the run."""
    sid = server.new()
    stream_id = server.start(sid, "[tokens=5]")
    whole = server.read(stream_id)
    path = f"/api/chat/stream?stream_id={stream_id}"
    headers = {"Last-Event-ID": f"{stream_id}:2"} if how == "Last-Event-ID" else {}
    path += {"after_event_id": f"&after_event_id={stream_id}:2", "after_seq": "&after_seq=2"}.get(
        how, ""
    )

    with Sse(server.port, path, headers) as sse:
        assert list(sse.events()) == whole[2:]


@pytest.mark.parametrize("cursor", ["of-another:7", "garbage", "a:b:c", ":", "x:-1", "\u20ac" * 40])
def test_foreign_cursor_gets_a_snapshot(server: ServerProcess, cursor: str) -> None:
    """C4, H2: never silence, and never an error."""
    sid = server.new()
    stream_id = server.start(sid, "[tokens=1]")
    server.read(stream_id)
    encoded = "".join(f"%{byte:02x}" for byte in cursor.encode())

    for path in (
        f"/api/chat/stream?stream_id={stream_id}&after_event_id={encoded}",
        f"/api/session/stream?session_id={sid}&after_event_id={encoded}",
        f"/api/sessions/{sid}/events?after_event_id={encoded}",
    ):
        with Sse(server.port, path) as sse:
            assert sse.status == 200
            sse.until("session_snapshot")


def test_session_events_end_with_the_run(server: ServerProcess) -> None:
    """C3, C6: addressed by the session instead of the stream."""
    sid = server.new()
    server.start(sid, "[tokens=3] [sleep=0.3]")
    with Sse(server.port, f"/api/sessions/{sid}/events") as sse:
        assert names(list(sse.events()))[-1] == "stream_end"


def test_wakeup_arrives_in_an_open_stream(server: ServerProcess) -> None:
    """W2, C5: its session sees the process end and the turn begin; another one sees nothing."""
    sid, other = server.new(), server.new()
    with server.watch(sid) as watch, server.watch(other) as other_watch:
        server.read(server.start(sid, "[process=0.1:exit=3:woke]"))
        seen = watch.until("bg_task_complete")
        assert seen[-1].data["session_id"] == sid
        wakeup = watch.until("server_turn_started")[-1]
        assert wakeup.data["source"] == "process_wakeup"
        server.read(wakeup.data["stream_id"])

        server.post("/api/session/delete", {"session_id": other})
        assert names(list(other_watch.events())) == ["initial"]
    assert "woke" in server.messages(sid)[-2]["content"]
    processes = server.get(f"/api/session/processes?session_id={sid}").json
    assert processes["running"] == []
    assert [process["exit_code"] for process in processes["finished"]] == [3]


def test_acknowledgement_changes_nothing(server: ServerProcess) -> None:
    """W11: and the session must exist; the former path names the new one."""
    sid = server.new()
    before = (server.folder / "sessions" / f"{sid}.json").read_bytes()
    path = "/api/bg-task-complete-ack"
    response = server.post(path, {"session_id": sid, "task_id": "p"})
    both = {"task_id": "p", "process_id": "p"}
    assert response.json == {"ok": True, "session_id": sid, **both, "noop": True}
    assert server.post(path, {"session_id": sid, "process_id": "p"}).headers["Deprecation"]
    assert server.post(path, {"session_id": "unknown", "task_id": "p"}).status == 404
    response = server.post("/api/process-complete-ack", {})
    assert (response.status, response.headers["X-Replaced-By"]) == (410, path)
    assert (server.folder / "sessions" / f"{sid}.json").read_bytes() == before


# Sessions


def test_session_changes_show_in_every_view(server: ServerProcess) -> None:
    """S2, S6: each change shows in the session, its status and the list."""
    sid = server.new()
    for number in range(3):
        server.read(server.start(sid, f"number {number}"))
    status = server.get(f"/api/session/status?session_id={sid}").json
    assert (status["message_count"], status["title"]) == (6, "number 0")

    server.post("/api/session/rename", {"session_id": sid, "title": "A name"})
    server.post("/api/session/truncate", {"session_id": sid, "keep_count": 4})
    server.post("/api/session/undo", {"session_id": sid})
    response = server.get(f"/api/session?session_id={sid}&msg_limit=1").json["session"]
    assert (response["title"], response["message_count"], response["_messages_offset"]) == (
        "A name",
        2,
        1,
    )
    assert server.get("/api/sessions").json["sessions"][0]["session_id"] == sid

    server.post("/api/session/clear", {"session_id": sid})
    assert server.messages(sid) == []
    for _ in range(2):
        assert server.post("/api/session/delete", {"session_id": sid}).json["ok"]
    assert server.get(f"/api/session?session_id={sid}").status == 404
    assert sid not in str(server.get("/api/sessions").json)
    assert server.get("/api/session/recovery/audit").json["status"] == "ok"


def test_session_list_stream_announces_changes(server: ServerProcess) -> None:
    """C8: each change is announced, or a later one."""
    with Sse(server.port, "/api/sessions/events") as sse:
        server.new()
        assert sse.until("sessions_changed")[-1].data["type"] == "sessions_changed"


def test_models_are_never_empty(server: ServerProcess) -> None:
    """M1: with and without a query of the providers."""
    for query in ("", "?refresh=1"):
        groups = server.get(f"/api/models{query}").json["groups"]
        assert any(group["models"] for group in groups)


# H1


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example:80"},
        {"Host": ""},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_foreign_host_or_origin_is_refused(server: ServerProcess, headers: dict[str, str]) -> None:
    """H1: a page of another site, or a host name that resolves to this address, gets nothing."""
    for method, path in (("GET", "/health"), ("POST", "/api/session/new"), ("GET", "/nothing")):
        response = call(server.port, method, path, headers=headers)
        assert response.status == 403, response
        assert response.json["error"]


def test_own_origin_and_loopback_names_are_accepted(server: ServerProcess) -> None:
    """H1: requests of a browser on this machine."""
    for host in (f"127.0.0.1:{server.port}", "localhost:1", "LOCALHOST", "[::1]:80"):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert call(server.port, "GET", "/health", headers=headers).status == 200


ELSEWHERE = "127.0.0.2"


def test_server_off_loopback_needs_the_password(tmp_path: Path) -> None:
    """H1: the server does not start without a password, and does not answer without it.

    127.0.0.2 stands for a foreign address; really it is loopback, like all that a test opens.
    """
    command = [sys.executable, "-m", "reference_impl", "--state", str(tmp_path), "--port", "0"]
    refused = subprocess.run(  # noqa: S603 - our own
        [*command, "--host", ELSEWHERE],
        check=False,
        capture_output=True,
    )
    assert refused.returncode == 2
    assert b"HERMES_WEBUI_PASSWORD" in refused.stderr

    basic = base64.b64encode(b"me:secret").decode()
    with ServerProcess(tmp_path, "--host", ELSEWHERE, HERMES_WEBUI_PASSWORD="secret") as server:  # noqa: S106
        for authorization, status in [
            ("", 401),
            ("Bearer wrong", 401),
            ("Bearer", 401),
            ("Basic !", 401),
            (f"Basic {basic[:-4]}", 401),
            ("Bearer secret", 200),
            (f"Basic {basic}", 200),
        ]:
            headers = {"Authorization": authorization, "Host": "my-machine.local"}
            connection = http.client.HTTPConnection(ELSEWHERE, server.port, timeout=PATIENCE_S)
            with contextlib.closing(connection):
                connection.request("GET", "/health", None, headers)
                with connection.getresponse() as response:
                    assert response.status == status, authorization
                    assert ("WWW-Authenticate" in response.headers) == (status == 401)


# H2

hostile = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../../etc/passwd", "a\0b", "x" * 5000, "_index", ".", "", " ", "\ud800"])
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)


@settings(max_examples=150, deadline=None)
@given(route=st.sampled_from(ROUTES), data=st.data())
def test_hostile_input_is_refused_and_changes_nothing(
    server: ServerProcess, route: Any, data: st.DataObject
) -> None:
    """H2: hostile values in the query, the body or the path, on every endpoint."""
    if route.path == "/api/session/new":
        return  # its fields are free, and making a session is a change
    before = server.get("/api/sessions").json["sessions"]
    fields = {each.name: data.draw(hostile) for each in route.body or ()}
    query = "&".join(f"{each.name}={_quoted(str(data.draw(hostile)))}" for each in route.query)
    path = route.path.replace("{session_id}", _quoted(str(data.draw(hostile))) or "%20")

    response = _request(server, route, f"{path}?{query}", fields)

    if response.status >= 400:
        assert response.status not in (500, 501), response
        assert isinstance(response.json["error"], str)
        assert "Traceback" not in response.body.decode()
    assert server.get("/api/sessions").json["sessions"] == before


def _request(server: ServerProcess, route: Any, path: str, fields: dict[str, Any]) -> Response:
    if route.kind is Kind.STREAM:
        with Sse(server.port, path) as sse:
            if sse.status == 200:  # the stream has no end
                return Response(200, {}, b"")
    body = None if route.body is None else json.dumps(fields).encode()
    return call(server.port, route.method, path, body)


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode(errors="replace")[:300])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/session/new", b"{"),
        ("/api/session/new", b'{"prev_session_id": "../x"}'),
        ("/api/session/rename", {"session_id": "unknown"}),
        ("/api/session/truncate", {"session_id": "x", "keep_count": -1}),
        ("/api/session/truncate", {"session_id": "x", "keep_count": True}),
        ("/api/session/truncate", {"session_id": "x", "keep_count": 1.5}),
        ("/api/chat/start", {"session_id": "x", "message": "   "}),
        ("/api/chat/start", {"session_id": "x", "message": "m" * 1_000_001}),
        ("/api/chat/start", {"message": "hello"}),
    ],
)
def test_invalid_body_is_refused(server: ServerProcess, path: str, body: Any) -> None:
    """H2: a missing field, a wrong type, an empty text or one that is too long."""
    assert server.post(path, body).status == 400


def test_large_body_is_refused_before_it_arrives(server: ServerProcess) -> None:
    """H2: the client gets the refusal although it is still sending."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(
            b"POST /api/session/new HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 99999999\r\n\r\n" + b" " * 200_000
        )
        assert client.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/sessions/a/b/events", 404),
        ("POST", "/health", 405),
        ("DELETE", "/api/session", 405),
        ("HEAD", "/api/sessions/events", 405),
        ("HEAD", "/health", 200),
    ],
)
def test_unknown_path_or_method_is_refused(
    server: ServerProcess, method: str, path: str, status: int
) -> None:
    """H2: 404 for an unknown path, 405 with the allowed methods."""
    response = call(server.port, method, path)
    assert response.status == status
    assert ("Allow" in response.headers) == (status == 405)


def test_openapi_document_names_every_route(server: ServerProcess) -> None:
    """H2: it is generated from the route table."""
    described = {
        (method.upper(), path)
        for path, methods in server.description["paths"].items()
        for method in methods
    }
    assert described == {(route.method, route.path) for route in ROUTES}


def test_pipelined_requests_are_answered_in_order(server: ServerProcess) -> None:
    """Pipelined requests, and the last one closes the connection."""
    one = b"GET /api/chat/stream/status?stream_id=%d HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(b"".join(one % (n, b"") for n in range(20)))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1500)
        client.sendall(one % (20, b"Connection: close\r\n"))
        answers = client.makefile("rb").read()
    request = re.findall(rb'"stream_id": "(\d+)"', answers)
    assert [int(each) for each in request] == list(range(21))
    assert answers.count(b"HTTP/1.1 200") == 1521


# H3


def test_sigterm_drains_the_server(tmp_path: Path) -> None:
    """H3: a run in progress is marked, its stream gets its terminal event, exit code 0."""
    with ServerProcess(tmp_path, HERMES_WEBUI_DRAIN_DEADLINE="3") as server:
        sid = server.new()
        stream_id = server.start(sid, "please [tokens=3] [sleep=60]")
        with (
            Sse(server.port, f"/api/chat/stream?stream_id={stream_id}") as sse,
            server.watch(sid) as watch,
        ):
            assert server.terminate() == 0
            assert names(list(sse.events()))[-1] == "cancel"
            assert names(list(watch.events()))[-1] == "session-updated"

    with ServerProcess(tmp_path) as server:
        request, reply = server.messages(sid)
        assert "please" in request["content"]
        assert reply["cancelled"]
        assert server.get(f"/api/session/status?session_id={sid}").json["agent_running"] is False


def test_sigkill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """H3, S13: the message and each shown token are there, marked, once; the stream is readable."""
    with ServerProcess(tmp_path) as server:
        sid = server.new()
        stream_id = server.start(sid, "please [tokens=3] [sleep=60]")
        with Sse(server.port, f"/api/chat/stream?stream_id={stream_id}") as sse:
            events = sse.events()
            shown = [next(events) for _ in range(3)]
            server.kill()

    for _ in range(2):
        with ServerProcess(tmp_path) as server:
            request, reply = server.messages(sid)
            assert (request["interrupted"], reply["interrupted"]) == (True, True)
            assert reply["content"] == "".join(event.data["text"] for event in shown)
            assert server.read(stream_id)[:3] == shown


def test_second_server_of_a_folder_is_refused(tmp_path: Path) -> None:
    """S13: a second one would treat live runs as dead."""
    with ServerProcess(tmp_path) as server:
        second = subprocess.run(  # noqa: S603 - our own
            [sys.executable, "-m", "reference_impl", "--state", str(tmp_path), "--port", "0"],
            check=False,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        assert second.returncode == 1
        assert b"cannot serve" in second.stderr
        assert server.get("/health").status == 200


# H4


def test_deleted_sessions_grow_no_container(server: ServerProcess) -> None:
    """H4: health reports all sizes, and they return to their values after sessions are deleted."""

    def sizes() -> dict[str, int]:
        containers = server.get("/api/system/health").json["containers"]
        # These have a bound of their own, which twenty sessions do not reach.
        bounded = ("turn_journal", "watcher_bytes_kept")
        return {name: size for name, size in containers.items() if name not in bounded}

    def run_once(_: int) -> None:
        sid = server.new()
        with server.watch(sid) as watch:
            server.read(server.start(sid, "[tokens=2]"))
            watch.until("session-updated")
            server.post("/api/session/delete", {"session_id": sid})
            list(watch.events())

    run_once(0)
    before = sizes()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run_once, range(20)))
    after = sizes()

    grown = {name: (before[name], size) for name, size in after.items() if size > before[name] + 2}
    assert grown == {}
    health = server.get("/health?deep=1").json
    assert {"threads", "fds", "rss_bytes"} <= health["process"].keys()
    assert health["checks"]["state_db"]["status"] == "ok"


# The server without the app: limits and deadlines


class FakeApplication:
    """A fake application: one event buffer, a call that waits, and a quick call."""

    def __init__(self) -> None:
        self.buffer = EventBuffer("application")
        self.may_return = threading.Event()

    def plan(self, request: Request) -> Plan:
        """`/stream`, `/wait`, `/instant`, and any other path."""
        if request.path == "/stream":
            return Plan(
                lambda wake: Streaming(self.buffer.subscribe(wake), b": keepalive\n\n"),
                is_stream=True,
            )
        if request.path == "/wait":
            return Plan(lambda _: answer({"waited": self.may_return.wait(PATIENCE_S)}))
        return Plan(lambda _: answer({"ok": True}), is_instant=request.path == "/instant")

    def collect(self) -> None:
        """Do nothing."""

    def shut_down(self, deadline_s: float) -> None:
        """End the buffer."""
        del deadline_s
        self.may_return.set()
        self.buffer.end()


class InProcessServer:
    """A server in a thread of this process."""

    def __init__(self) -> None:
        self.application = FakeApplication()
        self.loop = asyncio.new_event_loop()
        self.server = self._do(self._begin)
        address = self._do(lambda: self.server.listen("127.0.0.1", 0))
        self.port = int(address.rpartition(":")[2])

    def _do(self, act: Callable[[], Any]) -> Any:
        return self.loop.run_until_complete(act())

    async def _begin(self) -> Server:
        return Server(self.application)

    def begin(self) -> None:
        """Start the loop, in a thread."""
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def end(self) -> None:
        """Drain, and stop the loop."""
        drain = self.server.drain(3.0)
        asyncio.run_coroutine_threadsafe(drain, self.loop).result(PATIENCE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()

    def get(self, path: str) -> Response:
        """Send a GET request."""
        return call(self.port, "GET", path)

    def stream(self) -> Sse:
        """Read the buffer's stream."""
        return Sse(self.port, "/stream")

    def wait_for(self, condition: Callable[[dict[str, int]], bool]) -> None:
        """Wait until the gauges fulfil a condition, checked in the loop."""

        async def look() -> bool:
            return condition(self.server.gauges())

        seen = threading.Event()
        for _ in range(30_000):
            if asyncio.run_coroutine_threadsafe(look(), self.loop).result(PATIENCE_S):
                return
            seen.wait(0.001)
        raise AssertionError(f"gauges never matched, last: {self.server.gauges()}")


def is_dropped(client: socket.socket) -> bool:
    """Wait for the server; returns whether it closes the connection without a response."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@contextlib.contextmanager
def running() -> Iterator[InProcessServer]:
    run = InProcessServer()
    run.begin()
    try:
        yield run
    finally:
        run.end()


def test_silent_stream_gets_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    """C6: a stream without events gets comments."""
    monkeypatch.setattr(streams_module, "SILENCE_S", 0.02)
    monkeypatch.setattr(streams_module, "TICK_S", 0.01)
    with running() as run, run.stream() as sse:
        lines = sse.lines()
        assert [next(lines), next(lines), next(lines)] == [": keepalive", "", ": keepalive"]


def test_stalled_reader_is_dropped_without_delaying_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """C8: another reader of the same buffer gets all events, and the buffer's size is bounded."""
    monkeypatch.setenv("HERMES_WEBUI_SSE_WRITE_DEADLINE", "0.1")
    monkeypatch.setattr(streams_module, "TICK_S", 0.01)
    with running() as run, run.stream() as stalled, run.stream() as reader:
        run.wait_for(lambda gauges: gauges["sse_streams"] == 2)
        events = reader.events()
        seen = 0
        while run.server.streams.dropped == 0:
            for _ in range(20):
                run.application.buffer.publish("token", {"text": "x" * 8000})
            for _ in range(20):
                assert next(events).id == f"application:{seen + 1}"
                seen += 1
            assert sizes([run.application.buffer]).bytes <= 300_000
        run.wait_for(lambda gauges: gauges["streams_taken"] == 1)
        assert len(run.application.buffer) == 1
        stalled.close()


def test_calls_are_answered_when_streams_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C10: with every stream taken, health, calls and refusals are answered."""
    monkeypatch.setenv("HERMES_WEBUI_STREAMS_MAX", "3")
    with running() as run, contextlib.ExitStack() as held:
        streams = [held.enter_context(run.stream()) for _ in range(3)]
        assert [stream.status for stream in streams] == [200, 200, 200]
        assert run.get("/stream").status == 503
        assert run.get("/instant").status == run.get("/call").status == 200

        streams[0].close()
        run.wait_for(lambda gauges: gauges["streams_taken"] == 2)
        assert held.enter_context(run.stream()).status == 200


def test_waiting_calls_delay_no_health_or_stream() -> None:
    """H6, C10: with every thread waiting, requests without a thread are answered."""
    with running() as run, ThreadPoolExecutor(server_module.CALL_THREADS) as pool:
        waiting = [pool.submit(run.get, "/wait") for _ in range(server_module.CALL_THREADS)]
        run.wait_for(lambda gauges: gauges["calls"] == server_module.CALL_THREADS)
        assert run.get("/instant").status == 200
        with run.stream() as sse:
            assert sse.status == 200
        run.application.may_return.set()
        assert [each.result(PATIENCE_S).status for each in waiting] == [200] * len(waiting)


def test_call_that_waited_too_long_gets_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """H6: it is not executed any more, and its client gets a response."""
    monkeypatch.setattr(server_module, "CALL_PATIENCE_S", -1.0)
    with running() as run:
        response = run.get("/call")
        assert (response.status, response.headers["Retry-After"]) == (503, "1")


def test_idle_connections_block_no_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """C10: the connection that is idle longest is closed."""
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 7)
    monkeypatch.setenv("HERMES_WEBUI_STREAMS_MAX", "1")
    with running() as run, contextlib.ExitStack() as held:
        idle = [
            held.enter_context(socket.create_connection(("127.0.0.1", run.port), PATIENCE_S))
            for _ in range(30)
        ]
        assert run.get("/call").status == 200
        assert is_dropped(idle[0])
        run.wait_for(lambda gauges: gauges["connections_idle"] <= 8)


@pytest.mark.parametrize("sent", [b"", b"GET /call HT", b"POST / HTTP/1.1\r\nHost: a\r\n"])
def test_incomplete_request_times_out(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """H2: neither for a silent client nor for one that sends a byte now and then."""
    monkeypatch.setattr(server_module, "REQUEST_PATIENCE_S", 0.05)
    monkeypatch.setattr(server_module, "_TICK_S", 0.01)
    with running() as run, socket.create_connection(("127.0.0.1", run.port), PATIENCE_S) as client:
        client.sendall(sent)
        assert is_dropped(client)


def test_server_without_clients_has_no_ticks() -> None:
    """H5: without a client, the loop wakes only once a minute."""
    with running() as run:
        with run.stream() as sse:
            assert sse.status == 200
        run.get("/call")
        run.wait_for(lambda gauges: not gauges["streams_taken"] and not gauges["connections_idle"])
        run.wait_for(lambda _: run.server._ticking is None)
        run.wait_for(lambda _: run.server.streams._ticking is None)


def test_routes_have_the_expected_kinds() -> None:
    """H5: health never waits, streams run in the loop, and the others on threads."""
    kinds = {route.path: route.kind for route in ROUTES}
    assert kinds["/health"] is Kind.INSTANT
    assert kinds["/api/chat/start"] is Kind.CALL
    assert all(
        (kind is Kind.STREAM) == (path.endswith(("/stream", "/events")))
        for path, kind in kinds.items()
    )


# The page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


IS_IDLE = """(() => {
    const ask = new XMLHttpRequest();
    ask.open("GET", `/api/session/status?session_id=${location.hash.slice(1)}`, false);
    ask.send();
    return !JSON.parse(ask.responseText).agent_running;
})()"""


def say(browser: Browser, text: str, shown: str) -> None:
    """Send a message, and wait until a text of its turn is shown, and no turn is under way."""
    browser.run(f"document.getElementById('text').value = {text!r}")
    browser.run("document.getElementById('say').requestSubmit()")
    browser.until(f"{is_shown(shown)} && !sending && document.getElementById('cancel').disabled")
    browser.until(IS_IDLE)


def press(browser: Browser, button: str, until: str) -> None:
    """Click a button, and wait for a condition."""
    browser.run(f"document.getElementById({button!r}).click()")
    browser.until(until)


def is_shown(text: str) -> str:
    return f"document.getElementById('talk').innerText.includes({text!r})"


has_browser = pytest.mark.skipif(
    chromium() is None and os.environ.get("HARNESS_BROWSER") != "required",
    reason="no chromium here, and HARNESS_BROWSER does not require one",
)


NOTICES = "[...document.getElementById('wakeups').children].map((line) => line.innerText)"


@has_browser
def test_browser_tabs_show_wakeups_through_a_kill(tmp_path: Path, browser: Browser) -> None:
    """C7, C2, C3, W2, W13: two open tabs, without a reload; each notice once, no message lost."""
    with ServerProcess(tmp_path) as server:
        browser.open(server.address)
        browser.until("document.getElementById('linked').innerText === 'live'")
        press(browser, "new", "!document.getElementById('say').hidden")
        browser.other_tab(browser.run("location.href"))
        browser.until("document.getElementById('linked').innerText === 'live'")
        say(browser, "count [tokens=3] [process=0.3:watch=good:good morning]", "turn 3")
        for _ in range(2):
            browser.until("document.querySelectorAll('article.process_wakeup').length === 2")
            browser.until(f"{is_shown('turn 3')}")
            notices = browser.run(NOTICES)
            assert ["printed" in notice for notice in notices] == [False, True]  # the latest first
            assert "good morning" in browser.run("document.getElementById('talk').innerText")
            browser.switch()
        port, sid = server.port, browser.run("location.hash.slice(1)")
        server.start(sid, "hold [tokens=3] [sleep=900]")
        for _ in range(2):
            browser.until(is_shown("0 1 2"))
            browser.switch()
        server.kill()
    with ServerProcess(tmp_path, "--port", str(port)) as server:
        for _ in range(2):
            browser.until(
                f"{is_shown('interrupted')} && document.getElementById('cancel').disabled"
            )
            browser.switch()
        server.start(sid, "after [tokens=2]")
        for _ in range(2):
            browser.until(f"{is_shown('turn 5')} && {is_shown('after')}")
            shown = browser.run("document.getElementById('talk').innerText")
            assert (shown.count("0 1 2"), shown.count("after")) == (2, 1)
            assert len(browser.run(NOTICES)) == 2
            browser.switch()


@has_browser
def test_browser_page_changes_sessions_on_a_phone(server: ServerProcess, browser: Browser) -> None:
    """S15: search, rename, retry, undo, compress, clear and delete, on 390 px."""
    listed = "document.querySelectorAll('#sessions li').length"
    is_listed = "document.getElementById('sessions').innerText.includes('plans')"
    browser.resize(390, 800)
    server.new()
    browser.open(server.address)
    browser.until("document.getElementById('linked').innerText === 'live'")
    browser.run("window.confirm = () => true; window.prompt = () => 'plans'")
    press(browser, "new", "!document.getElementById('say').hidden")
    say(browser, "quince [tokens=2]", "turn 1")
    say(browser, "walnut [tokens=2]", "turn 2")
    # A late word of their start changes nothing.
    browser.run("[...over].forEach((stream) => attach(stream, 'user'))")
    assert browser.run("[live, document.getElementById('cancel').disabled]") == [None, True]
    assert browser.run("document.documentElement.scrollWidth") == 390
    send = browser.run("document.querySelector('button.main').getBoundingClientRect().right")
    assert 0 < send <= 390

    press(browser, "rename", "document.getElementById('title').innerText === 'plans'")
    browser.run("document.getElementById('find').value = 'walnut'")
    browser.run("document.getElementById('find').oninput()")
    browser.until(f"{listed} === 1 && {is_listed}")

    ends = "(document.getElementById('events').textContent.match(/stream_end/g) ?? []).length"
    press(browser, "retry", f"{ends} === 3")
    browser.until(IS_IDLE)
    press(browser, "compress", is_shown("Summary of 2 messages"))
    press(browser, "undo", f"!{is_shown('walnut')}")
    press(browser, "undo", "document.getElementById('says').innerText !== ''")  # no message is left
    press(browser, "clear", is_shown("Nothing was said yet"))
    browser.run("document.getElementById('find').value = ''")
    browser.run("document.getElementById('find').oninput()")
    browser.until(is_listed)
    press(browser, "delete", "document.getElementById('say').hidden")
    browser.until(f"!{is_listed}")

    sent = "JSON.parse(window.sent.body).prev_session_id"  # L15: leaving a session is a boundary
    browser.run("window.plain = fetch")
    browser.run("""window.fetch = (path, about) => {
        if (path.endsWith("/new")) window.sent = about;
        return plain(path, about);
    }""")
    press(browser, "new", "!document.getElementById('say').hidden")
    left = browser.run("location.hash.slice(1)")
    press(browser, "new", f"location.hash.slice(1) !== {left!r}")
    browser.run("window.fetch = window.plain")
    assert browser.run(sent) == left


@has_browser
def test_browser_tabs_cancel_while_both_follow_a_run(tmp_path: Path, browser: Browser) -> None:
    """The streams of two tabs leave one of a browser's six connections for requests."""
    with ServerProcess(tmp_path) as server:
        sid = server.new()
        browser.open(f"{server.address}#{sid}")
        browser.other_tab(f"{server.address}#{sid}")
        for _ in range(2):
            browser.until("document.getElementById('linked').innerText === 'live'")
            browser.switch()
        server.start(sid, "hold [tokens=3] [sleep=900]")
        for _ in range(2):
            browser.until(is_shown("0 1 2"))
            browser.switch()
        server.new()  # one tab hears it from the other
        for _ in range(2):
            browser.until("document.querySelectorAll('#sessions li').length === 2")
            browser.switch()
        press(browser, "cancel", is_shown("cancelled"))
        browser.switch()
        browser.until(is_shown("cancelled"))


@has_browser
def test_browser_page_leaves_a_deleted_session(server: ServerProcess, browser: Browser) -> None:
    """A link to none, one that another client deletes, and a link that is followed in the page."""
    is_left = "document.getElementById('say').hidden"
    says = "document.getElementById('says').innerText"
    sid, other = server.new(), server.new()
    browser.open(f"{server.address}#absent")
    browser.until(f"{is_left} && {says}.includes('absent')")
    browser.run(f"location.hash = {sid!r}")
    browser.until(f"document.title === {sid!r}")
    browser.run(f"location.hash = {other!r}")
    browser.until(f"document.title === {other!r} && {says} === ''")
    server.post("/api/session/delete", {"session_id": other})
    browser.until(f"{is_left} && {says}.includes({other!r})")


@has_browser
def test_browser_page_leaves_a_person_where_they_are(
    server: ServerProcess, browser: Browser
) -> None:
    """Scrolled up, in the list by keyboard, in another session, or typing on."""
    from_end = "((talk) => talk.scrollHeight - talk.clientHeight - talk.scrollTop)(window.talk)"
    sid, other = server.new(), server.new()
    browser.resize(390, 800)
    browser.open(f"{server.address}#{sid}")
    browser.until(f"document.title === {sid!r}")
    say(browser, "long [tokens=900]", "turn 1")
    browser.until(f"{from_end} < 2")
    server.start(sid, "hold [beat=2000:0.01]")
    browser.until(f"live?.innerText.includes('@') && {from_end} < 2")
    browser.run("window.talk.scrollTop = 0")
    browser.run(f"document.querySelector(`[data-session={other!r}]`).focus()")
    browser.run("window.was = live.innerText.length")
    listed = browser.run("listNumber")
    server.post("/api/session/rename", {"session_id": other, "title": "plans"})
    browser.until("document.getElementById('sessions').innerText.includes('plans')")
    browser.until(f"live.innerText.length > window.was && listNumber > {listed}")
    assert browser.run("window.talk.scrollTop") == 0
    assert browser.run("document.activeElement.dataset.session") == other

    browser.run("window.text.value = 'me too'; window.say.requestSubmit()")
    browser.until("window.says.innerText.includes('active')")
    press(browser, "cancel", is_shown("cancelled"))
    browser.until(IS_IDLE)
    browser.run("window.say.requestSubmit(); window.text.value = 'typed since'")
    browser.run(f"choose({other!r})")
    browser.until("document.title === 'plans'")
    browser.until(IS_IDLE)
    assert browser.run("[live, window.text.value, window.says.innerText]") == [
        *(None, "typed since", "")
    ]


@has_browser
@pytest.mark.parametrize("scheme", SCHEMES)
def test_browser_page_has_contrast(server: ServerProcess, browser: Browser, scheme: str) -> None:
    """Each text of a session with a wakeup and an error can be read, by day and by night."""
    browser.resize(1280, 800)
    sid = server.new()
    browser.open(f"{server.address}#{sid}")
    browser.run(f"document.documentElement.style.colorScheme = {scheme!r}")
    browser.until(f"document.title === {sid!r}")
    say(browser, "[tokens=2] [process=0.1:hello]", "turn 2")
    browser.run("window.text.value = '[fail]'; window.say.requestSubmit()")
    browser.until(is_shown("ScriptedError"))
    assert browser.run(f"({LOW_CONTRAST.strip()})()") == []
