"""The *server* ability: one server on one folder, through all its restarts.

It serves workloads with clients of their own: concurrent clients, a load, a soak. It reads the
session files under the server's own ids, to settle calls whose reply was lost.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.processes.server import Launch, ServerProcess


class ServerAdapter:
    """Boots, kills, terminates and pauses a server, and reads its sidecars."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self.state = folder / "state"
        self._launch = launch
        self._server: ServerProcess | None = None
        self._settings: dict[str, str] = {}

    def boot(self, **settings: str) -> dict[str, int]:
        """Boot with these settings, or the last ones if none; a running server keeps running."""
        if self._server is None:
            self._settings = settings or self._settings
            self._server = ServerProcess(self._launch, self.state, self._settings)
        return {"port": self._server.port, "pid": self._server.pid}

    def kill(self) -> None:
        """Kill the server with kill -9."""
        if self._server is not None:
            self._server.kill()
            self._server = None

    def terminate(self) -> int | None:
        """End the server by SIGTERM; the exit code, None if it hung."""
        assert self._server is not None, "the server runs"
        code = self._server.terminate()
        self._server = None
        return code

    def pause(self) -> None:
        """Suspend the server with SIGSTOP."""
        assert self._server is not None, "the server runs"
        self._server.pause()

    def resume(self) -> None:
        """Resume the server."""
        assert self._server is not None, "the server runs"
        self._server.resume()

    def kept(self, session_id: str) -> dict[str, Any] | None:
        """The messages and the pending text in the session's sidecar; None if there is no file."""
        path = self.state / "sessions" / f"{session_id}.json"
        try:
            sidecar = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        return {"messages": sidecar["messages"], "pending": sidecar["pending_user_message"]}

    def close(self) -> None:
        """Kill the server."""
        self.kill()
