"""Starts, stops, pauses and kills a server process that serves one folder on loopback.

No server outlives this process: every launch ties the server to it, and a watchdog kills one that
is stopped. The module knows no HTTP.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.processes.watchdog import WATCHDOG
from harness.worker import call_counter, reach

BOOT_PATIENCE_S = 30.0
EXIT_PATIENCE_S = 30.0  # far more than the drain deadline
DRAIN_S = "4"
LOG_CHARS = 1000
REFERENCE = """
import json, os, resource, runpy, signal, threading

def follow():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=follow, daemon=True).start()
if "HARNESS_FILES_MAX" in os.environ:
    limit = int(os.environ["HARNESS_FILES_MAX"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
if "HARNESS_REACH" in os.environ:
    runpy.run_path(os.environ["HARNESS_REACH_CODE"])["start"]()
if "HARNESS_PROBE" in os.environ:
    probe = runpy.run_path(os.environ["HARNESS_PROBE_CODE"])
    probe["change_constants"](json.loads(os.environ["HARNESS_PROBE_CONSTANTS"]))
    probe["start"](os.environ["HARNESS_PROBE"])
if "HARNESS_CALL_COUNTS" in os.environ:
    runpy.run_path(os.environ["HARNESS_CALL_COUNTER_CODE"])["begin"](os.environ["HARNESS_CALL_COUNTS"])
runpy.run_module("reference_impl", run_name="__main__", alter_sys=True)
"""

Process = subprocess.Popen[bytes]


class NotServingError(Exception):
    """The server did not start to listen."""


class Launch(Protocol):
    """Starts one kind of server."""

    def start(self, state: Path, settings: Mapping[str, str], log: int) -> Process:
        """Start the server on the folder `state`, in its own session, with its output to `log`."""
        ...

    def await_port(self, process: Process, within_s: float) -> int | None:
        """Wait until the server listens; return its port, or None after `within_s`."""
        ...


@dataclass(frozen=True)
class ReferenceLaunch:
    """Starts the reference of a folder, which exits when its standard input ends."""

    package_folder: Path

    def start(self, state: Path, settings: Mapping[str, str], log: int) -> Process:
        """Start the server with the settings in its environment.

        HARNESS_FILES_MAX among them limits the files that it may have open.
        """
        command = [sys.executable, "-S", "-P", "-c", REFERENCE, "--state", str(state), "--port=0"]
        if "HERMES_WEBUI_HOST" in settings:
            command.append(f"--host={settings['HERMES_WEBUI_HOST']}")
        environment = {
            "PATH": os.environ["PATH"],  # for the background processes
            "PYTHONPATH": str(self.package_folder),
            "HERMES_WEBUI_DRAIN_DEADLINE": DRAIN_S,
            "HARNESS_CALL_COUNTER_CODE": call_counter.__file__,
            **{name: os.environ[name] for name in reach.VARIABLES if name in os.environ},
            **settings,
        }
        return subprocess.Popen(  # noqa: S603  the command is fixed
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )

    def await_port(self, process: Process, within_s: float) -> int | None:
        """Read the address that the server prints once it listens."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], within_s)
        address = process.stdout.readline().decode().strip() if ready else ""
        return int(address.rpartition(":")[2]) if address else None


class ServerProcess:
    """One server process, from its start to its end."""

    def __init__(
        self, launch: Launch, state: Path, settings: Mapping[str, str] | None = None
    ) -> None:
        """Start, and wait until it listens. Raises NotServingError with the end of its log."""
        log_path = state.with_suffix(".log")
        with log_path.open("ab") as log:
            self._process = launch.start(state, settings or {}, log.fileno())
        WATCHDOG.guard(self._process.pid)
        try:
            port = launch.await_port(self._process, BOOT_PATIENCE_S)
        except BaseException:
            self.kill()
            raise
        if port is None:
            self.kill()
            logged = log_path.read_text(encoding="utf-8", errors="replace")[-LOG_CHARS:]
            raise NotServingError(f"no port within {BOOT_PATIENCE_S:g} s; log: {logged}")
        self.port = port
        self.listened_at = time.time()  # at the latest, and before any request

    @property
    def pid(self) -> int:
        """The server's pid."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the server with SIGKILL, reap it and close its pipes."""
        self._process.kill()
        WATCHDOG.release(self._process.pid)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def terminate(self) -> int | None:
        """Send SIGTERM; return the exit code, or None if a kill was necessary."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(EXIT_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()

    def pause(self) -> None:
        """Stop the process with SIGSTOP; it keeps its port, its files and its locks."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process."""
        self._process.send_signal(signal.SIGCONT)
