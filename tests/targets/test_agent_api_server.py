"""Tests of hermes-agent's HTTP server as a target, with a small package of its interface."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.targets.declared_http.adapter import DeclaredAdapter
from harness.targets.hermes_agent import api_server
from harness.targets.hermes_agent.api_server_host import ScriptedAgent
from harness.targets.hermes_agent.target import HermesAgentTarget

CONFIG = """
class PlatformConfig:
    def __init__(self, enabled, extra):
        self.extra = extra
"""
SERVER = """
import itertools, json, queue, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class APIServerAdapter:
    def __init__(self, config):
        self.extra = config.extra
        self.runs, self.numbers = {}, itertools.count(1)

    def _ensure_session_db(self):
        return None

    async def connect(self):
        adapter = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self, status, document):
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self):
                if self.headers["Authorization"] != f"Bearer {adapter.extra['key']}":
                    return self.answer(401, {})
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                run, events = f"run{next(adapter.numbers)}", queue.Queue()
                adapter.runs[run] = events
                agent = adapter._create_agent(session_id=run, stream_delta_callback=events.put)
                given = {"user_message": body["input"]}
                threading.Thread(target=agent.run_conversation, kwargs=given, daemon=True).start()
                self.answer(202, {"run_id": run})

            def do_GET(self):
                if self.path == "/health":
                    return self.answer(200, {})
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                events = adapter.runs[self.path.split("/")[3]]
                while True:
                    event = {"event": "message.delta", "delta": events.get()}
                    self.wfile.write(f"data: {json.dumps(event)}\\n\\n".encode())
                    self.wfile.flush()

        server = ThreadingHTTPServer((self.extra["host"], self.extra["port"]), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return True
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of a package whose server has runs, and no sessions."""
    folder = tmp_path / "package"
    (folder / "gateway" / "platforms").mkdir(parents=True)
    (folder / "gateway" / "config.py").write_text(CONFIG)
    (folder / api_server.SERVER).write_text(SERVER)
    return folder


def with_sessions(package: Path) -> None:
    (package / api_server.SERVER).write_text('"/api/sessions"')


def test_messages_of_a_run_reach_its_reader(package: Path, tmp_path: Path) -> None:
    """The host boots the package's server, and a run hands texts to the agent of another one."""
    declared = api_server.declaration("http_streams", package, tmp_path)
    adapter = DeclaredAdapter(tmp_path, declared)
    try:
        assert adapter.create("s1")["done"]
        assert adapter.follow("reader", "s1") == {"status": 200}
        assert adapter.send("s1", "w00001w")["done"]
        read = adapter.followed("reader", ["w00001w"])
    finally:
        adapter.close()
    assert [event["words"] for event in read["events"]] == [["w00001w"]]


def test_version_offers_what_its_server_has(package: Path, tmp_path: Path) -> None:
    assert api_server.offered(tmp_path) == frozenset()
    assert api_server.offered(package) == {"http_streams", "http_hostile"}
    with_sessions(package)
    assert api_server.offered(package) >= {"http_messages", "http_kills", "http_growth"}


def test_bad_input_meets_every_route(package: Path, tmp_path: Path) -> None:
    """With sessions their routes are asked besides runs; without, runs alone."""
    adapter = DeclaredAdapter(tmp_path, api_server.declaration("http_hostile", package, tmp_path))
    assert {bad["bad"].split()[0] for bad in adapter.bad_inputs()} == {"create0", "send", "stream"}
    with_sessions(package)
    adapter = DeclaredAdapter(tmp_path, api_server.declaration("http_hostile", package, tmp_path))
    asked = {bad["bad"].split()[0] for bad in adapter.bad_inputs()}
    assert asked == {"create0", "create1", "send", "history", "delete", "stream"}


def test_version_without_files_offers_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    target = HermesAgentTarget("0.1")
    (tmp_path / target.name).mkdir()
    (tmp_path / target.name / "hermes_state.py").write_text("")
    target.prepare()
    assert target.abilities == {"state_db", "state_db_crash", "state_db_crowd"}


class Database:
    """Notes what an agent stores."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []

    def create_session(self, *given: str) -> None:
        self.rows.append(given)

    append_message = create_session


def test_scripted_agent_stores_both_messages() -> None:
    """The user's message is stored before the answer is shown."""
    database = Database()
    shown: queue.SimpleQueue[int] = queue.SimpleQueue()
    given = {"session_id": "s", "stream_delta_callback": lambda _: shown.put(len(database.rows))}
    answer = ScriptedAgent(database, given).run_conversation("hello")
    assert database.rows[1:] == [("s", "user", "hello"), ("s", "assistant", "heard")]
    assert (shown.get(), answer["final_response"]) == (2, "heard")


def test_open_turn_ends_when_interrupted() -> None:
    agent = ScriptedAgent(Database(), {"session_id": "s"})
    turn = threading.Thread(target=agent.run_conversation, args=("[open]",))
    turn.start()
    agent.interrupt()
    turn.join()
    assert not turn.is_alive()
