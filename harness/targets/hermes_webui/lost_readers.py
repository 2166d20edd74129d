"""Readers of every stream of a hermes-webui checkout, whose connections break as it answers them.

The streams come from the source. A reader resets its connection at a moment between its request and
the head of the response, which spreads over the time that a head takes; so some of many readers
meet each step of what the server prepares. All that it holds for them must go.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from harness.core.errors import TargetLostError
from harness.engine.http import LOOPBACK, NotReachedError, Web
from harness.processes.waiting import came_true
from harness.targets.server.leaving_readers import depart, request
from harness.targets.server.probe import ask_probe

STREAMS = {  # by route; the last one needs a terminal
    "/api/session/stream": "?session_id={session}&known_count=0",
    "/api/sessions/events": "",
    "/api/sessions/gateway/stream": "",
    "/api/approval/stream": "?session_id={session}",
    "/api/clarify/stream": "?session_id={session}",
    "/api/terminal/output": "?session_id={session}",
}
TERMINAL, OF_TERMINAL = "/api/terminal/start", "/api/terminal/output"
OK = 200
READERS = 48
SPREAD = 1.25  # of the time that a head takes
FEW = 1  # a part that begins with the first reader
HEAD_S, GONE_S = 5.0, 6.0
HELD = ("queue.Queue",)


def facts(web: Web, state: Any, source: str) -> Mapping[str, str]:
    """What is left of readers whose connections broke, by stream."""
    session = str(web.post("/api/session/new")["session"]["session_id"])
    found: dict[str, str] = {}
    for route, query in STREAMS.items():
        if f'"{route}"' not in source:
            continue
        if route == OF_TERMINAL:
            status, _ = web.ask("POST", TERMINAL, {"session_id": session, "rows": 24, "cols": 80})
            if status != OK:
                continue
        with suppress(TargetLostError, NotReachedError, OSError):
            found[route] = _left(web, state, f"{route}{query.format(session=session)}")
    return found


def _left(web: Web, state: Any, path: str) -> str:
    took_s = _head_s(web, path)  # so that what begins with a first reader has begun
    before = _held(state)
    for number in range(READERS):
        client = socket.create_connection((LOOPBACK, web.port), HEAD_S)
        client.sendall(request(path))
        time.sleep(took_s * SPREAD * number / READERS)  # the moment at which it leaves
        depart(client, "reset")
    left: list[int] = [0]

    def are_gone() -> bool:
        left[0] = _held(state) - before
        return left[0] <= FEW

    return "" if came_true(are_gone, GONE_S) else f"queues stay: {left[0]} of {READERS} readers"


def _held(state: Any) -> int:
    census: dict[str, int] = ask_probe(state, "census", package="api")
    return sum(count for name, count in census.items() if name.endswith(HELD))


def _head_s(web: Web, path: str) -> float:
    """How long the head of a response takes."""
    with socket.create_connection((LOOPBACK, web.port), HEAD_S) as client:
        began = time.monotonic()
        client.sendall(request(path))
        client.recv(1)
        return time.monotonic() - began
