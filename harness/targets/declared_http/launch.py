"""Starts a declared server, in a session of its own, and waits until it answers."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import TargetLostError
from harness.engine.http import LOOPBACK, NotReachedError
from harness.processes.server import Process
from harness.targets.declared_http.client import READ_BYTES, Client
from harness.targets.declared_http.declaration import PYTHON, Declaration, filled

POLL_S = 0.02


def free_port() -> int:
    """A port at which no process listens now."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@dataclass(frozen=True)
class DeclaredLaunch:
    """Starts the server of a declaration; `port` is what `{port}` stands for."""

    declaration: Declaration
    port: int

    def start(self, state: Path, settings: Mapping[str, str], log: int) -> Process:
        """Start it on its folder. It writes to the log, but for a line that states its port."""
        server = self.declaration.server
        state.mkdir(exist_ok=True)
        values = {"port": str(self.port), "state": str(state), "python": PYTHON}
        return subprocess.Popen(  # noqa: S603  the command is the file's, which the user wrote
            filled(list(server.command), values),
            cwd=server.folder,
            env={**os.environ, **filled(server.environment, values), **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if server.port_line else log,
            stderr=log,
            start_new_session=True,
        )

    def await_port(self, process: Process, within_s: float) -> int | None:
        """Wait until the server answers as `[ready]` says; its port, None after `within_s`."""
        ends_at = time.monotonic() + within_s
        port = self.port
        if self.declaration.server.port_line:
            port = self._stated_port(process, ends_at)
        client, ready = Client(self.declaration, port, ""), self.declaration.ready
        while port and process.poll() is None and time.monotonic() < ends_at:
            with suppress(NotReachedError, TargetLostError):
                if client.ask(ready).status in ready.status:
                    return port
            time.sleep(POLL_S)
        return None

    def _stated_port(self, process: Process, ends_at: float) -> int:
        """The port that a line of the output states, 0 for none; what follows is drained."""
        assert process.stdout is not None, "the file says `port_line`"
        pattern, fd, text = (
            re.compile(self.declaration.server.port_line),
            process.stdout.fileno(),
            "",
        )
        while select.select([fd], [], [], max(0.0, ends_at - time.monotonic()))[0]:
            data = os.read(fd, READ_BYTES)
            if not data:
                break
            text += data.decode(errors="replace")
            if found := next(filter(None, map(pattern.search, text.splitlines())), None):
                threading.Thread(target=_drain, args=(fd,), daemon=True).start()
                return int(found[1])
        return 0


def _drain(fd: int) -> None:
    """Read what the server prints, so that it never waits for a full pipe."""
    with suppress(OSError):
        while os.read(fd, READ_BYTES):
            pass
