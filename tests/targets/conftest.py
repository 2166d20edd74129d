"""Fixtures: a toy checkout of a hermes-webui server, its launch and its cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.targets.hermes_webui import packages
from harness.targets.hermes_webui.scripted_agent import place_agent
from harness.targets.hermes_webui.server import WebuiLaunch

SERVER = """
import http.server, json, os, signal, sys, urllib.parse

SESSIONS = {}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        session = SESSIONS.get(query.get("session_id"))
        match url.path:
            case "/health":
                self.reply(200, {"environment": dict(os.environ), "folder": os.getcwd()})
            case "/api/sessions":
                self.reply(200, {"sessions": [s for s in SESSIONS.values() if s["messages"]]})
            case "/api/session/status" if session:
                self.reply(200, {"agent_running": False})
            case "/api/session" if session:
                self.reply(200, {"session": session})
            case "/api/chat/stream" if query["stream_id"] == "open":
                self.send_response(200)
                self.end_headers()
                for name in ("token", "stream_end"):
                    self.wfile.write(f"event: {name}\\ndata: {{}}\\n\\n".encode())
                self.connection.recv(1)
            case _:
                self.reply(404, {"error": "not found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.path == "/api/session/new":
            id_ = f"{os.getpid()}x{len(SESSIONS)}"
            SESSIONS[id_] = {
                "session_id": id_, "messages": [], "active_stream_id": None,
                "pending_user_message": None,
            }
            return self.reply(200, {"session": SESSIONS[id_]})
        session = SESSIONS.get(body["session_id"])
        if session is None:
            return self.reply(404, {"error": "not found"})
        session["messages"].append({"role": "user", "content": body["message"]})
        self.reply(200, {"stream_id": "open" if body["message"] == "stay open" else "0123"})

    def reply(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
port = int(os.environ["HERMES_WEBUI_PORT"])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The folder of the toy checkout."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "server.py").write_text(SERVER, encoding="utf-8")
    return folder


@pytest.fixture
def launch(checkout: Path, tmp_path: Path) -> WebuiLaunch:
    """The launch of the toy's server."""
    place_agent(tmp_path / "agent")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    folders = tmp_path / "none", tmp_path / "agent", tmp_path / "bytecode", workspace
    return WebuiLaunch(checkout, *folders)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that contains the package already."""
    folder = tmp_path / "cache"
    (folder / packages.YAML).mkdir(parents=True)
    monkeypatch.setenv("HARNESS_CACHE", str(folder))
    return folder


@pytest.fixture
def unbooted(tmp_path: Path) -> WebuiLaunch:
    """A checkout that is never booted: its source names no route."""
    (tmp_path / "api").mkdir()
    (tmp_path / "server.py").write_text("")
    return WebuiLaunch(tmp_path, tmp_path, tmp_path, tmp_path, tmp_path)
