"""The *stalled* ability: readers that take nothing from a stream, and then leave it in any way."""

from __future__ import annotations

import socket
import time
from typing import Any

from harness.contract.agent_script import ASKED, sleep
from harness.engine.http import LOOPBACK, PATIENCE_S, Web
from harness.targets.server.leaving_readers import (
    POLL_S,
    REST_S,
    LeavingReadersAdapter,
    depart,
    has_ended,
    request,
)

# More than the kernel buffers for a reader that reads nothing, in few events.
ASKS = 24
FLOOD, BULK = f"{ASKED}" * ASKS + f"{sleep(900)}", ["x" * 150] * 100
TINY_BYTES = 2048  # the receive buffer of such a reader
STREAM = "/api/chat/stream?stream_id={run}"


class StalledReadersAdapter(LeavingReadersAdapter):
    """One server with a run that has shown much, and lasts."""

    def begin(self) -> None:
        """Boot, read the run to the last event that it shows, and note the gauges."""
        booted = self._server.boot()
        self._web, self._pid = Web(booted["port"], PATIENCE_S), booted["pid"]
        session = self._web.post("/api/session/new")["session"]["session_id"]
        self._quiet = self._settled()
        asked = {"session_id": session, "message": FLOOD, "attachments": BULK}
        run = self._ids["run"] = self._web.post("/api/chat/start", **asked)["stream_id"]
        with self._web.stream(STREAM.format(run=run)) as events:
            # A slow reader gets a snapshot instead of some events, and then the last one.
            next(event for event in events if event.id == f"{run}:{2 * ASKS}")
        self._first = self._settled()

    def leave_stalled(self, way: str, readers: int) -> dict[str, Any]:
        """Open some streams, take nothing, and leave; what stayed behind, as of `leave`.

        Before they leave the server is asked how many streams it counts, if it knows that all of
        these have `stalled`.
        """
        clients = [self._stalled_client() for _ in range(readers)]
        stalled, counted = self._stalled(readers)
        for client in clients:
            depart(client, way)
        left = self._left(self._first)
        self._first = {name: size + left.get(name, 0) for name, size in self._first.items()}
        ended = sum(map(has_ended, clients)) if way == "half" else readers
        for client in clients:
            client.close()
        return {"left": left, "ended": ended, "stalled": stalled, "counted": counted}

    def _stalled_client(self) -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY_BYTES)
        client.settimeout(PATIENCE_S)
        client.connect((LOOPBACK, self._web.port))
        client.sendall(request(STREAM.format(**self._ids)))
        return client

    def _stalled(self, readers: int) -> tuple[int, int]:
        """How many more streams the server knows as stalled, and has, than at first."""
        ends_at = time.monotonic() + REST_S
        while True:
            now = self._gauges()
            more = {name: now.get(name, 0) - size for name, size in self._first.items()}
            if more["sse_stalled"] >= readers:
                return more["sse_stalled"], more["sse_streams"]
            if time.monotonic() > ends_at:
                return more["sse_stalled"], readers
            time.sleep(POLL_S)
