"""The *doors* ability: a server on loopback or another address, with or without a password.

The other address is one that the targets do not recognise as loopback, because they compare names.
It is loopback all the same, so that no other machine of the network reaches the server.
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
REQUESTS = (("GET", "/api/sessions"), ("POST", "/api/session/new"), ("GET", "/api/sessions/events"))


class AccessControlAdapter:
    """One server after another on a folder."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._state = folder / "state"
        self._launch = launch
        self._server: ServerProcess | None = None
        self._host = LOOPBACK

    def open(self, *, is_loopback: bool, password: str) -> dict[str, bool]:
        """Boot a server at the address, with this password unless it is empty.

        `is_available` says whether this machine has the address, `serves` whether the server
        booted.
        """
        self.close()
        self._host = LOOPBACK if is_loopback else ELSEWHERE
        if not _can_listen(self._host):
            return {"is_available": False, "serves": False}
        settings = {"HERMES_WEBUI_HOST": self._host, "HERMES_WEBUI_PASSWORD": password}
        try:
            self._server = ServerProcess(self._launch, self._state, settings)
        except NotServingError:
            return {"is_available": True, "serves": False}
        return {"is_available": True, "serves": True}

    def knock(self, scheme: str, word: str) -> list[int]:
        """Send several requests, with these credentials if there is a scheme; the statuses."""
        if self._server is None:
            return []
        headers = self.credentials(scheme, word) if scheme else {}
        return [self.request(method, path, headers)[0] for method, path in REQUESTS]

    def credentials(self, scheme: str, word: str) -> dict[str, str]:
        """The headers of a client with this password; *Unencoded* is a malformed *Basic*."""
        text = b64encode(f"me:{word}".encode()).decode() if scheme == "Basic" else word
        if scheme == "Unencoded":
            return {"Authorization": f"Basic {text}"}
        return {"Authorization": f"{scheme} {text}"}

    def request(
        self, method: str, path: str, headers: dict[str, str], body: Any = None
    ) -> tuple[int, str]:
        """Send one request; the status, and the cookie of the response.

        The Host header is localhost in every case: a remote client can claim that as well.
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
