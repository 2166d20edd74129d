"""The reference server in a process of its own, on one folder, listening on loopback.

No server outlives us: its standard input ends with us, and so does it. Knows no HTTP.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

BOOT_PATIENCE_S = 30.0
EXIT_PATIENCE_S = 30.0  # far more than it has for its drain
DRAIN_S = "4"
LOG_CHARS = 1000
LAUNCH = """
import os, runpy, signal, threading

def follow():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=follow, daemon=True).start()
runpy.run_module("reference_impl", run_name="__main__", alter_sys=True)
"""


class NotServingError(Exception):
    """The server did not come up."""


class ServerProcess:
    """One life of a server, from its boot to its death."""

    def __init__(self, package_folder: Path, state: Path) -> None:
        """Boot, and wait for the address. Raises NotServingError with the last that it logged."""
        self._log = state.with_suffix(".log")
        command = [sys.executable, "-S", "-P", "-c", LAUNCH, "--state", str(state), "--port", "0"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  the command is our own
                command,
                env={
                    "PATH": os.environ["PATH"],  # for the background processes
                    "PYTHONPATH": str(package_folder),
                    "HERMES_WEBUI_DRAIN_DEADLINE": DRAIN_S,
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.port = self._await_port()
        except BaseException:
            self.kill()
            raise

    def _await_port(self) -> int:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], BOOT_PATIENCE_S)
        address = self._process.stdout.readline().decode().strip() if ready else ""
        if not address:
            logged = self._log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARS:]
            raise NotServingError(f"no address within {BOOT_PATIENCE_S:g} s, but: {logged}")
        return int(address.rpartition(":")[2])

    def kill(self) -> None:
        """End it with kill -9, and leave nothing of it behind."""
        self._process.kill()
        self._reap()

    def terminate(self) -> int | None:
        """Ask it to go by SIGTERM; its exit code, None if it had to be killed after all."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(EXIT_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()

    def _reap(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
