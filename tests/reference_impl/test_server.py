"""The reference's server keeps H1 to H6, and over HTTP C3, C4, C6 to C8, C10, W2 and W11."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import re
import shutil
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

from reference_impl.live.event_buffer import Feed, sizes
from reference_impl.web import server as server_room
from reference_impl.web import streams as streams_room
from reference_impl.web.api import ROUTES
from reference_impl.web.http_parser import Request, answer
from reference_impl.web.routes import Kind
from reference_impl.web.server import Plan, Server, Streaming
from tests.support.browser import Browser
from tests.support.server_process import PATIENCE_S, Event, Served, Sse, Told, call


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served")) as served:
        yield served


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def seqs(events: list[Event]) -> list[int]:
    return [int(event.id.rpartition(":")[2]) for event in events if event.id is not None]


# Turns and their streams


def test_a_turn_is_read_to_its_end_and_is_on_disk_before_it_is_acknowledged(
    served: Served,
) -> None:
    """T2, C1 to C3, C6: `done` ends no stream, `stream_end` does."""
    sid = served.new()
    stream_id = served.start(sid, "hello [tokens=3] [sleep=0.2]")
    sidecar = json.loads((served.folder / "sessions" / f"{sid}.json").read_text(encoding="utf-8"))
    assert "hello" in (sidecar["pending_user_message"] or sidecar["messages"][0]["content"])

    events = served.read(stream_id)

    assert seqs(events) == list(range(1, len(events) + 1))
    assert names(events)[-2:] == ["done", "stream_end"]
    said = "".join(event.data["text"] for event in events if event.name == "token")
    assert served.messages(sid)[-1]["content"] == said


def test_one_run_at_a_time(served: Served) -> None:
    """T1: the refusal names the stream that there is."""
    sid = served.new()
    stream_id = served.start(sid, "[sleep=20]")
    told = served.post("/api/chat/start", {"session_id": sid, "message": "me too"})
    assert (told.status, told.json["active_stream_id"]) == (409, stream_id)
    served.get(f"/api/chat/cancel?stream_id={stream_id}")


def test_a_cancelled_run_is_offered_to_nobody(served: Served) -> None:
    """C7, T4: it ends its relay, and whoever watches afterwards is told of no run."""
    sid = served.new()
    stream_id = served.start(sid, "[tokens=2] [sleep=20]")
    with Sse(served.port, f"/api/chat/stream?stream_id={stream_id}") as sse:
        told = served.get(f"/api/chat/cancel?stream_id={stream_id}").json
        assert told == {"ok": True, "cancelled": True, "stream_id": stream_id}
        assert names(list(sse.events()))[-1] == "cancel"

    with served.watch(sid, "&known_count=1000") as watch:
        assert names(watch.until("session-updated")) == ["initial", "session-updated"]
    assert served.get(f"/api/chat/stream/status?stream_id={stream_id}").json["active"] is False
    assert served.get("/api/chat/cancel?stream_id=unknown").json["cancelled"] is False


def test_a_late_watcher_is_told_of_the_run_and_can_attach(served: Served) -> None:
    """C7: `server_turn_started` with `recovered`, and everything that was shown."""
    sid = served.new()
    stream_id = served.start(sid, "[tokens=5] [sleep=1]")

    with served.watch(sid) as watch:
        told = watch.until("server_turn_started")[-1]
    assert (told.data["stream_id"], told.data["recovered"]) == (stream_id, True)
    assert seqs(served.read(stream_id))[0] == 1


@pytest.mark.parametrize("how", ["Last-Event-ID", "after_event_id", "after_seq"])
def test_a_cursor_continues_exactly_there(served: Served, how: str) -> None:
    """C4: in whichever of three ways it comes, also after the run."""
    sid = served.new()
    stream_id = served.start(sid, "[tokens=5]")
    whole = served.read(stream_id)
    path = f"/api/chat/stream?stream_id={stream_id}"
    headers = {"Last-Event-ID": f"{stream_id}:2"} if how == "Last-Event-ID" else {}
    path += {"after_event_id": f"&after_event_id={stream_id}:2", "after_seq": "&after_seq=2"}.get(
        how, ""
    )

    with Sse(served.port, path, headers) as sse:
        assert list(sse.events()) == whole[2:]


@pytest.mark.parametrize("cursor", ["of-another:7", "garbage", "a:b:c", ":", "x:-1", "\u20ac" * 40])
def test_a_foreign_cursor_gets_a_snapshot(served: Served, cursor: str) -> None:
    """C4, H2: never silence, and never an error."""
    sid = served.new()
    stream_id = served.start(sid, "[tokens=1]")
    served.read(stream_id)
    encoded = "".join(f"%{byte:02x}" for byte in cursor.encode())

    for path in (
        f"/api/chat/stream?stream_id={stream_id}&after_event_id={encoded}",
        f"/api/session/stream?session_id={sid}&after_event_id={encoded}",
        f"/api/sessions/{sid}/events?after_event_id={encoded}",
    ):
        with Sse(served.port, path) as sse:
            assert sse.status == 200
            sse.until("session_snapshot")


def test_a_sessions_events_end_with_its_run(served: Served) -> None:
    """C3, C6: by the session instead of the stream."""
    sid = served.new()
    served.start(sid, "[tokens=3] [sleep=0.3]")
    with Sse(served.port, f"/api/sessions/{sid}/events") as sse:
        assert names(list(sse.events()))[-1] == "stream_end"


def test_a_wakeup_arrives_in_an_open_stream(served: Served) -> None:
    """W2, C5: its session sees the process end and the turn begin; another one sees nothing."""
    sid, other = served.new(), served.new()
    with served.watch(sid) as watch, served.watch(other) as bystander:
        served.read(served.start(sid, "[process=0.1:exit=3:woke]"))
        seen = watch.until("bg_task_complete")
        assert seen[-1].data["session_id"] == sid
        wakeup = watch.until("server_turn_started")[-1]
        assert wakeup.data["source"] == "process_wakeup"
        served.read(wakeup.data["stream_id"])

        served.post("/api/session/delete", {"session_id": other})
        assert names(list(bystander.events())) == ["initial"]
    assert "woke" in served.messages(sid)[-2]["content"]


def test_acknowledging_changes_nothing(served: Served) -> None:
    """W11: and it checks that the session exists; its old name says where it went."""
    sid = served.new()
    before = (served.folder / "sessions" / f"{sid}.json").read_bytes()
    path = "/api/bg-task-complete-ack"
    told = served.post(path, {"session_id": sid, "task_id": "p"})
    assert told.json == {"ok": True, "session_id": sid, "task_id": "p", "noop": True}
    assert served.post(path, {"session_id": sid, "process_id": "p"}).headers["Deprecation"]
    assert served.post(path, {"session_id": "unknown", "task_id": "p"}).status == 404
    told = served.post("/api/process-complete-ack", {})
    assert (told.status, told.headers["X-Replaced-By"]) == (410, path)
    assert (served.folder / "sessions" / f"{sid}.json").read_bytes() == before


# Sessions


def test_a_sessions_life(served: Served) -> None:
    """S2, S6: what was done is seen in the session, its status and the list."""
    sid = served.new()
    for number in range(3):
        served.read(served.start(sid, f"number {number}"))
    assert served.get(f"/api/session/status?session_id={sid}").json["message_count"] == 6

    served.post("/api/session/rename", {"session_id": sid, "title": "A name"})
    served.post("/api/session/truncate", {"session_id": sid, "keep_count": 4})
    served.post("/api/session/undo", {"session_id": sid})
    told = served.get(f"/api/session?session_id={sid}&msg_limit=1").json["session"]
    assert (told["title"], told["message_count"], told["_messages_offset"]) == ("A name", 2, 1)
    assert served.get("/api/sessions").json["sessions"][0]["session_id"] == sid

    served.post("/api/session/clear", {"session_id": sid})
    assert served.messages(sid) == []
    for _ in range(2):
        assert served.post("/api/session/delete", {"session_id": sid}).json["ok"]
    assert served.get(f"/api/session?session_id={sid}").status == 404
    assert sid not in str(served.get("/api/sessions").json)
    assert served.get("/api/session/recovery/audit").json["status"] == "ok"


def test_the_list_is_watched(served: Served) -> None:
    """C8: each change is told, or a later one."""
    with Sse(served.port, "/api/sessions/events") as sse:
        served.new()
        assert sse.until("sessions_changed")[-1].data["type"] == "sessions_changed"


def test_models_are_never_empty(served: Served) -> None:
    """M1: with and without asking the providers."""
    for query in ("", "?refresh=1"):
        groups = served.get(f"/api/models{query}").json["groups"]
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
def test_foreign_hosts_and_origins_are_refused(served: Served, headers: dict[str, str]) -> None:
    """H1: a page of another site, or a name that was bent to point here, gets nothing."""
    for method, path in (("GET", "/health"), ("POST", "/api/session/new"), ("GET", "/nothing")):
        told = call(served.port, method, path, headers=headers)
        assert told.status == 403, told
        assert told.json["error"]


def test_its_own_origin_and_every_loopback_name_are_welcome(served: Served) -> None:
    """H1: what a browser on this machine sends."""
    for host in (f"127.0.0.1:{served.port}", "localhost:1", "LOCALHOST", "[::1]:80"):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert call(served.port, "GET", "/health", headers=headers).status == 200


ELSEWHERE = "127.0.0.2"


def test_off_loopback_nothing_is_served_without_the_password(tmp_path: Path) -> None:
    """H1: it does not start without one, and does not answer without it.

    It takes 127.0.0.2 for a stranger's address; really it is loopback, as all that a test opens.
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
    with Served(tmp_path, "--host", ELSEWHERE, HERMES_WEBUI_PASSWORD="secret") as served:  # noqa: S106
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
            connection = http.client.HTTPConnection(ELSEWHERE, served.port, timeout=PATIENCE_S)
            with contextlib.closing(connection):
                connection.request("GET", "/health", None, headers)
                with connection.getresponse() as told:
                    assert told.status == status, authorization
                    assert ("WWW-Authenticate" in told.headers) == (status == 401)


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
def test_hostile_input_gets_a_sentence_and_changes_nothing(
    served: Served, route: Any, data: st.DataObject
) -> None:
    """H2: whatever is in the query, the body or the path, on every endpoint."""
    if route.path == "/api/session/new":
        return  # its fields are free, and making a session is a change
    before = served.get("/api/sessions").json["sessions"]
    fields = {each.name: data.draw(hostile) for each in route.body or ()}
    query = "&".join(f"{each.name}={_quoted(str(data.draw(hostile)))}" for each in route.query)
    path = route.path.replace("{session_id}", _quoted(str(data.draw(hostile))) or "%20")

    told = _asked(served, route, f"{path}?{query}", fields)

    if told.status >= 400:
        assert told.status not in (500, 501), told
        assert isinstance(told.json["error"], str)
        assert "Traceback" not in told.body.decode()
    assert served.get("/api/sessions").json["sessions"] == before


def _asked(served: Served, route: Any, path: str, fields: dict[str, Any]) -> Told:
    if route.kind is Kind.STREAM:
        with Sse(served.port, path) as sse:
            if sse.status == 200:  # what it says has no end
                return Told(200, {}, b"")
    body = None if route.body is None else json.dumps(fields).encode()
    return call(served.port, route.method, path, body)


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
def test_a_bad_body_is_refused(served: Served, path: str, body: Any) -> None:
    """H2: a missing field, a wrong type, an empty or an endless text."""
    assert served.post(path, body).status == 400


def test_a_body_that_is_too_large_is_refused_before_it_comes(served: Served) -> None:
    """H2: the client is told, though it is still sending."""
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as client:
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
def test_paths_and_methods_that_are_not_there(
    served: Served, method: str, path: str, status: int
) -> None:
    """H2: 404 for no such path, 405 with what is allowed."""
    told = call(served.port, method, path)
    assert told.status == status
    assert ("Allow" in told.headers) == (status == 405)


def test_the_description_names_every_route(served: Served) -> None:
    """H2: it is made from the table that serves."""
    described = {
        (method.upper(), path)
        for path, methods in served.description["paths"].items()
        for method in methods
    }
    assert described == {(route.method, route.path) for route in ROUTES}


def test_many_requests_on_one_connection_are_answered_in_order(served: Served) -> None:
    """Pipelined, and the last one says that it is the last."""
    one = b"GET /api/chat/stream/status?stream_id=%d HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as client:
        client.sendall(b"".join(one % (n, b"") for n in range(20)))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1500)
        client.sendall(one % (20, b"Connection: close\r\n"))
        answers = client.makefile("rb").read()
    asked = re.findall(rb'"stream_id": "(\d+)"', answers)
    assert [int(each) for each in asked] == list(range(21))
    assert answers.count(b"HTTP/1.1 200") == 1521


# H3


def test_sigterm_drains(tmp_path: Path) -> None:
    """H3: a run under way is marked, its stream ends with its terminal event; it exits with 0."""
    with Served(tmp_path, HERMES_WEBUI_DRAIN_DEADLINE="3") as served:
        sid = served.new()
        stream_id = served.start(sid, "please [tokens=3] [sleep=60]")
        with (
            Sse(served.port, f"/api/chat/stream?stream_id={stream_id}") as sse,
            served.watch(sid) as watch,
        ):
            assert served.terminate() == 0
            assert names(list(sse.events()))[-1] == "cancel"
            assert names(list(watch.events()))[-1] == "session-updated"

    with Served(tmp_path) as served:
        asked, said = served.messages(sid)
        assert "please" in asked["content"]
        assert said["cancelled"]
        assert served.get(f"/api/session/status?session_id={sid}").json["agent_running"] is False


def test_sigkill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """H3, S13: the message and each shown token are there, marked, once; its stream can be read."""
    with Served(tmp_path) as served:
        sid = served.new()
        stream_id = served.start(sid, "please [tokens=3] [sleep=60]")
        with Sse(served.port, f"/api/chat/stream?stream_id={stream_id}") as sse:
            events = sse.events()
            shown = [next(events) for _ in range(3)]
            served.kill()

    for _ in range(2):
        with Served(tmp_path) as served:
            asked, said = served.messages(sid)
            assert (asked["interrupted"], said["interrupted"]) == (True, True)
            assert said["content"] == "".join(event.data["text"] for event in shown)
            assert served.read(stream_id)[:3] == shown


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    """S13: a second one would take live runs for dead ones."""
    with Served(tmp_path) as served:
        second = subprocess.run(  # noqa: S603 - our own
            [sys.executable, "-m", "reference_impl", "--state", str(tmp_path), "--port", "0"],
            check=False,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        assert second.returncode == 1
        assert b"cannot serve" in second.stderr
        assert served.get("/health").status == 200


# H4


def test_no_container_grows_with_sessions_that_are_gone(served: Served) -> None:
    """H4: health tells all sizes, and after sessions came and went they are what they were."""

    def sizes() -> dict[str, int]:
        containers = served.get("/api/system/health").json["containers"]
        # These have a bound of their own, which twenty sessions do not reach.
        bounded = ("turn_journal", "watcher_bytes_kept")
        return {name: size for name, size in containers.items() if name not in bounded}

    def live_once(_: int) -> None:
        sid = served.new()
        with served.watch(sid) as watch:
            served.read(served.start(sid, "[tokens=2]"))
            watch.until("session-updated")
            served.post("/api/session/delete", {"session_id": sid})
            list(watch.events())

    live_once(0)
    before = sizes()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(live_once, range(20)))
    after = sizes()

    grown = {name: (before[name], size) for name, size in after.items() if size > before[name] + 2}
    assert grown == {}
    health = served.get("/health?deep=1").json
    assert {"threads", "fds", "rss_bytes"} <= health["process"].keys()
    assert health["checks"]["state_db"]["status"] == "ok"


# The server without the rooms: limits and deadlines


class Bench:
    """An application that serves one feed, a call that waits, and a word."""

    def __init__(self) -> None:
        self.feed = Feed("bench")
        self.may_return = threading.Event()

    def plan(self, request: Request) -> Plan:
        """`/stream`, `/wait`, `/instant`, and anything else."""
        if request.path == "/stream":
            return Plan(
                lambda wake: Streaming(self.feed.subscribe(wake), b": keepalive\n\n"),
                is_stream=True,
            )
        if request.path == "/wait":
            return Plan(lambda _: answer({"waited": self.may_return.wait(PATIENCE_S)}))
        return Plan(lambda _: answer({"ok": True}), is_instant=request.path == "/instant")

    def collect(self) -> None:
        """Nothing."""

    def shut_down(self, deadline_s: float) -> None:
        """End the feed."""
        del deadline_s
        self.may_return.set()
        self.feed.end()


class Running:
    """A server in a thread of this process."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.loop = asyncio.new_event_loop()
        self.server = self._do(self._begin)
        address = self._do(lambda: self.server.listen("127.0.0.1", 0))
        self.port = int(address.rpartition(":")[2])

    def _do(self, act: Callable[[], Any]) -> Any:
        return self.loop.run_until_complete(act())

    async def _begin(self) -> Server:
        return Server(self.bench)

    def begin(self) -> None:
        """Serve, in a thread."""
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def end(self) -> None:
        """Drain."""
        drain = self.server.drain(3.0)
        asyncio.run_coroutine_threadsafe(drain, self.loop).result(PATIENCE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()

    def get(self, path: str) -> Told:
        """Ask."""
        return call(self.port, "GET", path)

    def stream(self) -> Sse:
        """Read the feed."""
        return Sse(self.port, "/stream")

    def wait_for(self, is_true: Callable[[dict[str, int]], bool]) -> None:
        """Wait until the gauges say so, looking in the loop, after whatever it does."""

        async def look() -> bool:
            return is_true(self.server.gauges())

        seen = threading.Event()
        for _ in range(30_000):
            if asyncio.run_coroutine_threadsafe(look(), self.loop).result(PATIENCE_S):
                return
            seen.wait(0.001)
        raise AssertionError(f"never came true: {self.server.gauges()}")


def is_dropped(client: socket.socket) -> bool:
    """Wait for what the server does: whether it lets the client go, without a word."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@contextlib.contextmanager
def running() -> Iterator[Running]:
    run = Running()
    run.begin()
    try:
        yield run
    finally:
        run.end()


def test_silence_is_broken_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    """C6: who is told nothing is told that."""
    monkeypatch.setattr(streams_room, "SILENCE_S", 0.02)
    monkeypatch.setattr(streams_room, "TICK_S", 0.01)
    with running() as run, run.stream() as sse:
        lines = sse.lines()
        assert [next(lines), next(lines), next(lines)] == [": keepalive", "", ": keepalive"]


def test_a_stalled_reader_is_dropped_and_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """C8: another reader of the same feed sees all of it meanwhile, and what is kept is bounded."""
    monkeypatch.setenv("HERMES_WEBUI_SSE_WRITE_DEADLINE", "0.1")
    monkeypatch.setattr(streams_room, "TICK_S", 0.01)
    with running() as run, run.stream() as stalled, run.stream() as reader:
        run.wait_for(lambda gauges: gauges["sse_streams"] == 2)
        events = reader.events()
        seen = 0
        while run.server.streams.dropped == 0:
            for _ in range(20):
                run.bench.feed.publish("token", {"text": "x" * 8000})
            for _ in range(20):
                assert next(events).id == f"bench:{seen + 1}"
                seen += 1
            assert sizes([run.bench.feed]).bytes <= 300_000
        run.wait_for(lambda gauges: gauges["streams_taken"] == 1)
        assert len(run.bench.feed) == 1
        stalled.close()


def test_streams_are_limited_and_calls_are_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C10: every stream is taken, and health, calls and the refusal come at once."""
    monkeypatch.setenv("HERMES_WEBUI_STREAMS_MAX", "3")
    with running() as run, contextlib.ExitStack() as held:
        streams = [held.enter_context(run.stream()) for _ in range(3)]
        assert [stream.status for stream in streams] == [200, 200, 200]
        assert run.get("/stream").status == 503
        assert run.get("/instant").status == run.get("/call").status == 200

        streams[0].close()
        run.wait_for(lambda gauges: gauges["streams_taken"] == 2)
        assert held.enter_context(run.stream()).status == 200


def test_calls_that_wait_hold_up_no_health_and_no_stream() -> None:
    """H6, C10: every thread waits, and whoever needs none of them is served."""
    with running() as run, ThreadPoolExecutor(server_room.CALL_THREADS) as pool:
        waiting = [pool.submit(run.get, "/wait") for _ in range(server_room.CALL_THREADS)]
        run.wait_for(lambda gauges: gauges["calls"] == server_room.CALL_THREADS)
        assert run.get("/instant").status == 200
        with run.stream() as sse:
            assert sse.status == 200
        run.bench.may_return.set()
        assert [each.result(PATIENCE_S).status for each in waiting] == [200] * len(waiting)


def test_a_call_that_is_taken_up_too_late_gets_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """H6: it is not carried out any more, and its client is not left to hang."""
    monkeypatch.setattr(server_room, "CALL_PATIENCE_S", -1.0)
    with running() as run:
        told = run.get("/call")
        assert (told.status, told.headers["Retry-After"]) == (503, "1")


def test_who_only_holds_connections_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """C10: the one that has waited longest goes."""
    monkeypatch.setattr(server_room, "CONNECTIONS_MAX", 7)
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
def test_a_request_that_never_comes_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """H2: neither a silent client nor one that sends a byte now and then."""
    monkeypatch.setattr(server_room, "REQUEST_PATIENCE_S", 0.05)
    monkeypatch.setattr(server_room, "_TICK_S", 0.01)
    with running() as run, socket.create_connection(("127.0.0.1", run.port), PATIENCE_S) as client:
        client.sendall(sent)
        assert is_dropped(client)


def test_nothing_ticks_where_nobody_is_connected() -> None:
    """H5: with no client, the loop has nothing to wake up for but the minute."""
    with running() as run:
        with run.stream() as sse:
            assert sse.status == 200
        run.get("/call")
        run.wait_for(lambda gauges: not gauges["streams_taken"] and not gauges["connections_idle"])
        run.wait_for(lambda _: run.server._ticking is None)
        run.wait_for(lambda _: run.server.streams._ticking is None)


def test_every_kind_of_route_is_there() -> None:
    """H5: health waits for nothing, streams live in the loop, and the rest runs on threads."""
    kinds = {route.path: route.kind for route in ROUTES}
    assert kinds["/health"] is Kind.INSTANT
    assert kinds["/api/chat/start"] is Kind.CALL
    assert all(
        (kind is Kind.STREAM) == (path.endswith(("/stream", "/events")))
        for path, kind in kinds.items()
    )


# The page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here")
def test_a_person_watches_a_wakeup_arrive(served: Served, tmp_path: Path) -> None:
    """C7, W2: in an open tab, without a reload."""
    with Browser(tmp_path) as browser:
        browser.open(served.address)
        browser.until("document.getElementById('linked').innerText === 'live'")
        browser.run("document.getElementById('new').click()")
        browser.until("!document.getElementById('say').hidden")
        browser.run("""
            document.getElementById('text').value = 'count [tokens=3] [process=0.3:good morning]';
            document.getElementById('say').requestSubmit();
        """)
        browser.until("document.querySelector('article.process_wakeup small') !== null")
        browser.until("document.getElementById('talk').innerText.includes('turn 2')")
        assert "good morning" in browser.run("document.getElementById('talk').innerText")
