"""The *server* ability: one server on one folder, through all its lives.

For those who bring their own clients: many at once, a load, a soak. What its files say is told in
the server's own ids, as truth to settle what a client was never told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.processes.server import Launch, ServerProcess


class ServerAdapter:
    """Boots, kills, stops and pauses a server, and reads its sidecars."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self.state = folder / "state"
        self._launch = launch
        self._server: ServerProcess | None = None
        self._settings: dict[str, str] = {}

    def boot(self, **settings: str) -> dict[str, int]:
        """Boot with these settings, those of the last time if none; what serves already stays."""
        if self._server is None:
            self._settings = settings or self._settings
            self._server = ServerProcess(self._launch, self.state, self._settings)
        return {"port": self._server.port, "pid": self._server.pid}

    def kill(self) -> None:
        """Kill it with kill -9."""
        if self._server is not None:
            self._server.kill()
            self._server = None

    def terminate(self) -> int | None:
        """Ask it to go by SIGTERM; the exit code, None if it hung."""
        assert self._server is not None, "it serves"
        code = self._server.terminate()
        self._server = None
        return code

    def pause(self) -> None:
        """Stop it where it is, with SIGSTOP."""
        assert self._server is not None, "it serves"
        self._server.pause()

    def resume(self) -> None:
        """Let it go on."""
        assert self._server is not None, "it serves"
        self._server.resume()

    def kept(self, session_id: str) -> dict[str, Any] | None:
        """What the session's sidecar keeps: messages, and the pending one; None without one."""
        path = self.state / "sessions" / f"{session_id}.json"
        try:
            sidecar = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        return {"messages": sidecar["messages"], "pending": sidecar["pending_user_message"]}

    def close(self) -> None:
        """Kill it."""
        self.kill()
