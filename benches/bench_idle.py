"""Measures the cost of an idle server: processor time, wakeups, SQL statements, system calls.

`python benches/bench_idle.py [SECONDS]` starts the reference with no tabs and with 50, waits until
it has settled, and sends no request for SECONDS (default 60). SQL statements are counted inside the
server; system calls from outside, by strace where that is permitted.
"""

# ruff: noqa: INP001, T201

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.processes.server import REFERENCE, Process, ReferenceLaunch
from harness.targets.reference.soak_http import SoakHttpAdapter

TABS = (0, 50)
SECONDS = 60.0
SETTLING_S = 6.0  # longer than one period of the watcher
COUNTING = f"""
import mmap, os, sqlite3, struct

memory = mmap.mmap(os.open(os.environ["STATEMENTS"], os.O_RDWR), 8)
connect = sqlite3.connect

def count(_statement):
    struct.pack_into("q", memory, 0, struct.unpack_from("q", memory)[0] + 1)

def counted(*arguments, **options):
    connection = connect(*arguments, **options)
    connection.set_trace_callback(count)
    return connection

sqlite3.connect = counted
{REFERENCE}"""


@dataclass(frozen=True)
class CountingLaunch(ReferenceLaunch):
    """Starts a reference that counts its SQL statements in eight bytes of a file."""

    statements: Path

    def start(self, state: Path, settings: Mapping[str, str], log: int) -> Process:
        """Start the server."""
        self.statements.write_bytes(bytes(8))
        return subprocess.Popen(  # noqa: S603  the command is fixed
            [sys.executable, "-S", "-P", "-c", COUNTING, "--state", str(state), "--port=0"],
            env={
                **settings,
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(self.package_folder),
                "STATEMENTS": str(self.statements),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )

    def count(self) -> int:
        """Return the number of statements so far."""
        with self.statements.open("rb") as file, mmap.mmap(file.fileno(), 8, prot=1) as memory:
            return int(struct.unpack_from("q", memory)[0])


def traced(pid: int, seconds: float) -> dict[str, int] | str:
    """Count the system calls of `seconds` by name; or return why strace is unavailable."""
    strace = shutil.which("strace")
    if strace is None:
        return "unavailable: strace is not installed"
    with tempfile.NamedTemporaryFile("r") as output:
        command = [strace, "-c", "-f", "-qq", "-o", output.name, "-p", str(pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE)  # noqa: S603  the command is fixed
        time.sleep(seconds)
        tracer.send_signal(signal.SIGINT)
        _, errors = tracer.communicate()
        rows = [line.split() for line in output.read().splitlines()]
    if not rows:
        return f"unavailable: {errors.decode().strip()}"
    return {row[-1]: int(row[3]) for row in rows[2:-2] if row[3].isdigit()}


def measure(tabs: int, seconds: float) -> dict[str, object]:
    """Measure an idle server with this number of open tabs, in two windows."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        launch = CountingLaunch(Path(__file__).parents[1], root / "statements")
        host = SoakHttpAdapter(root, launch)
        try:
            host.new("s")
            host.chat("s", "good morning")
            for tab in range(tabs):
                host.open_tab(f"t{tab}", "s")
            host.rest(SETTLING_S)
            before = launch.count()
            used = host.idle(seconds)
            statements = launch.count() - before
            calls = traced(host.pid(), seconds)
        finally:
            host.close()
    return {
        "tabs": tabs,
        "seconds": round(used["seconds"], 2),
        "core_percent": round(100 * used["cpu_s"] / used["seconds"], 3),
        "wakeups_a_second": round(used["wakeups"] / used["seconds"], 2),
        "rss_mib": round(used["rss_bytes"] / 2**20, 1),
        "threads": used["threads"],
        "fds": used["fds"],
        "sql_statements_a_minute": round(60 * statements / used["seconds"], 1),
        "system_calls_traced": calls,
    }


if __name__ == "__main__":
    for tab_count in TABS:
        measured = measure(tab_count, float(sys.argv[1]) if sys.argv[1:] else SECONDS)
        print(json.dumps(measured))
