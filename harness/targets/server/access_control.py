"""The *doors* ability: a server that listens here or elsewhere, with a password or without.

*Elsewhere* is an address that the targets do not take for loopback, because they go by the name. It
is loopback all the same, so that nobody else on the network can come in while this is asked.
"""

from __future__ import annotations

import http.client
import json
import socket
from base64 import b64encode
from pathlib import Path
from typing import Any

from harness.engine.http import LOOPBACK, PATIENCE_S
from harness.processes.server import Launch, NotServingError, ServerProcess

ELSEWHERE = "127.0.0.2"
ASKED = (("GET", "/api/sessions"), ("POST", "/api/session/new"), ("GET", "/api/sessions/events"))


class DoorsAdapter:
    """One server after another on a folder."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._state = folder / "state"
        self._launch = launch
        self._server: ServerProcess | None = None
        self._host = LOOPBACK

    def open(self, *, is_loopback: bool, password: str) -> dict[str, bool]:
        """Boot a server there, with this password if it is one; whether it can, and does, serve."""
        self.close()
        self._host = LOOPBACK if is_loopback else ELSEWHERE
        if not _can_listen(self._host):
            return {"can_be_had": False, "serves": False}
        settings = {"HERMES_WEBUI_HOST": self._host, "HERMES_WEBUI_PASSWORD": password}
        try:
            self._server = ServerProcess(self._launch, self._state, settings)
        except NotServingError:
            return {"can_be_had": True, "serves": False}
        return {"can_be_had": True, "serves": True}

    def knock(self, scheme: str, word: str) -> list[int]:
        """Ask for several things, with these credentials if there is a scheme; the statuses."""
        if self._server is None:
            return []
        told = self.credentials(scheme, word) if scheme else {}
        return [self.asked(method, path, told)[0] for method, path in ASKED]

    def credentials(self, scheme: str, word: str) -> dict[str, str]:
        """The headers of somebody who says this word."""
        told = b64encode(f"me:{word}".encode()).decode() if scheme == "Basic" else word
        return {"Authorization": f"{scheme} {told}"}

    def asked(
        self, method: str, path: str, headers: dict[str, str], body: Any = None
    ) -> tuple[int, str]:
        """Ask one thing; the status, and the cookie that comes with it.

        Whoever comes from elsewhere says what he likes, so he says that he asks for localhost.
        """
        assert self._server is not None
        connection = http.client.HTTPConnection(self._host, self._server.port, timeout=PATIENCE_S)
        data = json.dumps(body or {}).encode() if method == "POST" else None
        try:
            connection.request(method, path, data, {"Host": "localhost", **headers})
            with connection.getresponse() as response:
                return response.status, response.headers.get("Set-Cookie", "").partition(";")[0]
        finally:
            connection.close()

    def close(self) -> None:
        """Kill the server."""
        if self._server is not None:
            self._server.kill()
            self._server = None


def _can_listen(host: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
