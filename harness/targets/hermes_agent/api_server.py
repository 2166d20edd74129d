"""Declares the HTTP server of the released package, as a file declares anybody's server.

Its sessions (from 0.15 on) take messages and keep them. Its runs are streams: each is a turn of an
agent, so a run that goes on stands for a session, and a message to it is a run that hands a text to
the agent of the first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from harness.targets.declared_http.declaration import (
    Create,
    Declaration,
    Delete,
    Listing,
    Request,
    Send,
    Server,
    Stream,
    Turns,
)
from harness.targets.hermes_agent import api_server_host

SERVER = Path("gateway/platforms/api_server.py")
HOST = Path(api_server_host.__file__)
KEY = "a-key-of-the-harness-for-this-server-alone"
ENDS = ("run.completed", "run.failed", "run.cancelled")
SESSIONS = ("http_messages", "http_kills", "http_growth")
RUNS = ("http_streams",)
BOTH = ("http_hostile",)

_SESSIONS = "/api/sessions"
_RUN = Request("POST", "/v1/runs", body={"input": "[open]"}, status=(202,))
_HANDED = Request("POST", "/v1/runs", body={"input": "[to {session}] {text}"}, status=(202,))
_SAID = Request("POST", "/v1/runs", body={"input": "{text}"}, status=(202,))
_OPENED = Request("POST", _SESSIONS, body={"title": "{nonce}"}, status=(201,))
_CHAT = Request("POST", f"{_SESSIONS}/{{session}}/chat", body={"message": "{text}"}, status=(200,))
_MESSAGES = Listing(
    Request("GET", f"{_SESSIONS}/{{session}}/messages"), "/data", "/content", ("/role", "user")
)
_LISTED = Listing(Request("GET", f"{_SESSIONS}?limit=200"), "/data", "/id")
_DELETED = Delete(Request("DELETE", f"{_SESSIONS}/{{session}}"))
_EVENTS = Stream(
    Request("GET", "/v1/runs/{session}/events"),
    id="none",
    text="/delta",
    type="/event",
    replays=True,
    resume="none",
    terminal=ENDS,
    readers=2,  # each waits for a second behind the first that left
)


def offered(package: Path) -> frozenset[str]:
    """The abilities that the version's server has; older ones have no sessions."""
    server = package / SERVER
    if not server.is_file():
        return frozenset()
    has_sessions = _SESSIONS in server.read_text(encoding="utf-8")
    return frozenset((*RUNS, *BOTH, *(SESSIONS if has_sessions else ())))


def declaration(ability: str, package: Path, packages: Path) -> Declaration:
    """What is asked of a version for an ability."""
    server = _server(package, packages)
    ready = health = Request("GET", "/health", status=(200,))
    headers = {"Authorization": f"Bearer {KEY}"}
    has_sessions = bool(offered(package) & set(SESSIONS))
    if ability in SESSIONS or (ability in BOTH and has_sessions):
        steps, send = [_OPENED], Send(_CHAT)
        stream = None
        if ability in BOTH:
            steps, stream = [_OPENED, _SAID], _EVENTS
        return Declaration(
            *(HOST, server, ready, send, Create(tuple(steps), "/session/id"), headers, health),
            *(_MESSAGES, _LISTED, _DELETED, stream),
            turns=Turns("interleave", "[slow] {nonce}", api_server_host.SLOW_S),
        )
    return Declaration(
        *(HOST, server, ready, Send(_HANDED if ability in RUNS else _SAID)),
        *(Create((_RUN if ability in RUNS else _SAID,), "/run_id"), headers, health),
        stream=_EVENTS,
    )


def _server(package: Path, packages: Path) -> Server:
    environment: Mapping[str, str] = {
        "PYTHONPATH": os.pathsep.join((str(package), str(packages))),
        "API_SERVER_KEY": KEY,
        "PYTHONUNBUFFERED": "1",
    }
    command = (sys.executable, "-S", "-P", str(HOST), "{port}", "{state}")
    return Server(command, HOST.parent, environment, keeps=True)
