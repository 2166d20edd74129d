"""A server in a process of its own, on one folder, listening on loopback; its lives and deaths.

No server outlives us: whatever launches it has it end with us. Knows no HTTP.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.worker import call_counter as tally

BOOT_PATIENCE_S = 30.0
EXIT_PATIENCE_S = 30.0  # far more than it has for its drain
DRAIN_S = "4"
LOG_CHARS = 1000
REFERENCE = """
import os, runpy, signal, threading

def follow():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=follow, daemon=True).start()
if "HARNESS_TALLY" in os.environ:
    runpy.run_path(os.environ["HARNESS_TALLY_CODE"])["begin"](os.environ["HARNESS_TALLY"])
runpy.run_module("reference_impl", run_name="__main__", alter_sys=True)
"""

Process = subprocess.Popen[bytes]


class NotServingError(Exception):
    """The server did not come up."""


class Launch(Protocol):
    """How one kind of server is brought up."""

    def start(self, state: Path, settings: Mapping[str, str], log: int) -> Process:
        """Start it on the folder `state`, in a session of its own, what it says going to `log`."""
        ...

    def await_port(self, process: Process, within_s: float) -> int | None:
        """Wait until it serves; the port, or None if it does not."""
        ...


@dataclass(frozen=True)
class ReferenceLaunch:
    """Starts the reference of a folder; its standard input ends with us, and so does it."""

    package_folder: Path

    def start(self, state: Path, settings: Mapping[str, str], log: int) -> Process:
        """Start it. The settings go to its environment."""
        command = [sys.executable, "-S", "-P", "-c", REFERENCE, "--state", str(state), "--port=0"]
        if "HERMES_WEBUI_HOST" in settings:
            command.append(f"--host={settings['HERMES_WEBUI_HOST']}")
        environment = {
            "PATH": os.environ["PATH"],  # for the background processes
            "PYTHONPATH": str(self.package_folder),
            "HERMES_WEBUI_DRAIN_DEADLINE": DRAIN_S,
            "HARNESS_TALLY_CODE": tally.__file__,
            **settings,
        }
        return subprocess.Popen(  # noqa: S603  the command is our own
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )

    def await_port(self, process: Process, within_s: float) -> int | None:
        """Read the address that it prints once it listens."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], within_s)
        address = process.stdout.readline().decode().strip() if ready else ""
        return int(address.rpartition(":")[2]) if address else None


class ServerProcess:
    """One life of a server, from its boot to its death."""

    def __init__(
        self, launch: Launch, state: Path, settings: Mapping[str, str] | None = None
    ) -> None:
        """Boot, and wait until it serves. Raises NotServingError with the last that it logged."""
        log_path = state.with_suffix(".log")
        with log_path.open("ab") as log:
            self._process = launch.start(state, settings or {}, log.fileno())
        try:
            port = launch.await_port(self._process, BOOT_PATIENCE_S)
        except BaseException:
            self.kill()
            raise
        if port is None:
            self.kill()
            logged = log_path.read_text(encoding="utf-8", errors="replace")[-LOG_CHARS:]
            raise NotServingError(f"not serving within {BOOT_PATIENCE_S:g} s, but: {logged}")
        self.port = port

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """End it with kill -9, and leave nothing of it behind."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def terminate(self) -> int | None:
        """Ask it to go by SIGTERM; its exit code, None if it had to be killed after all."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(EXIT_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()

    def pause(self) -> None:
        """Stop it where it is; it keeps its port, its files and its locks."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)
