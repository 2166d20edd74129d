"""The *settings* ability: one server after another, with settings and texts of every kind.

Its state folder has a name of many scripts, with characters that URIs and shells treat specially.
"""

from __future__ import annotations

import http.client
import json
import re
from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import Any

from harness.engine.http import LOOPBACK, PATIENCE_S
from harness.processes.server import Launch, NotServingError, ServerProcess

FOLDER = "état שלום 状態 🎈 #1 100%?&'"
BASIC = "Basic"
_WARNING = re.compile(r" (?:WARNING|ERROR|CRITICAL) .*?\b(HERMES_[A-Z_]+)")


class SettingsAdapter:
    """One server after another on a folder."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._state = folder / FOLDER
        self._launch = launch
        self._server: ServerProcess | None = None

    def boot(self, settings: dict[str, str], password: str) -> dict[str, Any]:
        """Boot a server with these settings, and this password unless it is empty.

        `serves` says whether it booted, `warnings` counts those in the log by setting, and
        `limits` are what the server says of itself.
        """
        self.close()
        log = self._state.with_suffix(".log")
        logged = log.stat().st_size if log.exists() else 0
        environment = {**settings, **({"HERMES_WEBUI_PASSWORD": password} if password else {})}
        try:
            self._server = ServerProcess(self._launch, self._state, environment)
        except NotServingError:
            return {"serves": False, "warnings": {}, "limits": {}}
        limits = {}
        status, health = self._ask("/health", BASIC, password)
        if status == http.client.OK:
            _, system = self._ask("/api/system/health", BASIC, password)
            sessions = system["webui_runtime"]["sessions"]["cap"]
            limits = {"streams": health["accept_loop"]["streams_max"], "sessions": sessions}
        lines = log.read_bytes()[logged:].decode(errors="replace").splitlines()
        warnings = Counter(found[1] for line in lines if (found := _WARNING.search(line)))
        return {"serves": True, "warnings": dict(warnings), "limits": limits}

    def knock(self, scheme: str, word: str) -> int:
        """Ask for the list of sessions with this password; the status."""
        return self._ask("/api/sessions", scheme, word)[0]

    def _ask(self, path: str, scheme: str, word: str) -> tuple[int, Any]:
        """Send a request with the password in UTF-8; the status, and the JSON of the response."""
        assert self._server is not None, "the server runs"
        data = word.encode()
        sent = b64encode(b"me:" + data) if scheme == BASIC else data
        headers = {"Authorization": scheme.encode() + b" " + sent} if word else {}
        connection = http.client.HTTPConnection(LOOPBACK, self._server.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", path, headers=headers)
            with connection.getresponse() as response:
                return response.status, json.loads(response.read())
        finally:
            connection.close()

    def close(self) -> None:
        """Kill the server."""
        if self._server is not None:
            self._server.kill()
            self._server = None
