"""The *hostile* ability: a server that is asked whatever the wire can carry.

Whoever asks does not know the server's ids: `<session>` and `<run>` stand for one that is there.
Beside its folder lies bait, shaped as a session, for paths that lead out of it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.engine.http import LOOPBACK, Web
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

PATIENCE_S = 20.0
POLL_S = 0.01
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_TRACES = ("Traceback (most", 'File "')


class HostileAdapter:
    """One server with two sessions; only the first one's id is ever told."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot, and let both sessions have something to lose."""
        self._server = ServerAdapter(folder, launch)
        self._folder = folder
        self._web = Web(self._server.boot()["port"])
        self._names = dict.fromkeys(("<session>", "<run>"), "")
        for bait in (folder / "bait.json", self._server.state / "bait.json"):
            bait.write_text(json.dumps({"session_id": bait.stem, "messages": []}))
        for is_told in (False, True):
            self._found(is_told=is_told)

    def _found(self, *, is_told: bool) -> None:
        sid = self._web.post("/api/session/new")["session"]["session_id"]
        run = self._web.post("/api/chat/start", session_id=sid, message="[tokens=3]")["stream_id"]
        while self._web.get(f"/api/session/status?session_id={sid}")["agent_running"]:
            time.sleep(POLL_S)  # what it still writes is nobody's fault
        if is_told:
            self._names = {"<session>": sid, "<run>": run}
        else:
            self._bystander = sid

    def begin(self) -> None:
        """Go on: nothing that is asked here leaves anything behind."""

    def describe(self) -> Any:
        """The server's own description of what it answers."""
        return self._web.get("/openapi.json")

    def ask_badly(  # noqa: PLR0913 - a request has so many parts
        self,
        *,
        method: str,
        path: str,
        query: list[list[str]],
        headers: dict[str, str],
        body: Any,
        bad: bool,  # noqa: ARG002 - these two are for the judge
        promise: str,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Ask; a body that is text goes out as it is, anything else as JSON."""
        pairs = [f"{_quoted(name)}={_quoted(self._named(value))}" for name, value in query]
        target = _quoted(self._named(path), "/%") + ("?" + "&".join(pairs) if pairs else "")
        connection = http.client.HTTPConnection(LOOPBACK, self._web.port, timeout=PATIENCE_S)
        try:
            connection.request(method, target, self._encoded(body), headers)
            with connection.getresponse() as response:
                is_stream = response.length is None  # it does not end by itself
                return _told([response.status], b"" if is_stream else response.read())
        finally:
            connection.close()

    def _encoded(self, body: Any) -> bytes | None:
        if body is None:
            return None
        text = body if isinstance(body, str) else json.dumps(body)
        return self._named(text).encode("latin-1", errors="replace")

    def _named(self, text: str) -> str:
        for name, id_ in self._names.items():
            text = text.replace(name, id_)
        return text

    def send_bytes(
        self,
        *,
        data: str,
        times: int,
        bad: bool,  # noqa: ARG002 - these two are for the judge
        promise: str,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Send these bytes, as Latin-1, so many times over; then nothing more. What comes back."""
        with socket.create_connection((LOOPBACK, self._web.port), PATIENCE_S) as client:
            with suppress(BrokenPipeError, ConnectionResetError):  # it need not hear us out
                client.sendall(data.encode("latin-1") * times)
                client.shutdown(socket.SHUT_WR)
            came = b""
            with suppress(ConnectionResetError):
                while chunk := client.recv(1 << 16):
                    came += chunk
        statuses = [int(status) for status in _STATUS.findall(came)]
        return _told(statuses, came.rpartition(b"\r\n\r\n")[2])

    def dawdle(self, clients: int, data: str) -> dict[str, int]:
        """Let so many clients begin to ask, and never go on; what others are answered meanwhile."""
        with ExitStack() as held:
            for _ in range(clients):
                client = socket.create_connection((LOOPBACK, self._web.port), PATIENCE_S)
                held.enter_context(client).sendall(data.encode("latin-1"))
            health, _ = self._web.ask("GET", "/health")
            sessions, _ = self._web.ask("GET", "/api/sessions")
        return {"health": health, "sessions": sessions}

    def files(self) -> dict[str, dict[str, str]]:
        """Digests of all files, those of the bystander apart.

        Left out are locks, which hold nothing, and the database, whose logs come and go by
        themselves.
        """
        files: dict[str, str] = {}
        bystanders: dict[str, str] = {}
        for path in sorted(self._folder.rglob("*")):
            name = str(path.relative_to(self._folder))
            if path.is_dir() or "_locks/" in name or "state.db" in name or path.suffix == ".log":
                continue
            kept = bystanders if self._bystander in name else files
            kept[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"files": files, "bystanders": bystanders}

    def close(self) -> None:
        """Kill it."""
        self._server.close()


def _quoted(text: str, kept: str = "") -> str:
    return quote(text.encode("utf-8", errors="surrogatepass"), safe=kept)


def _told(statuses: list[int], body: bytes) -> dict[str, Any]:
    """The statuses, the last answer's error if it is one, and whether it tells too much."""
    text = body.decode(errors="replace")
    told = None
    with suppress(ValueError):
        answer = json.loads(text)
        told = answer.get("error") if isinstance(answer, dict) else None
    return {
        "statuses": statuses,
        "told": told if isinstance(told, str) and told else None,
        "traced": any(trace in text for trace in _TRACES),
    }
