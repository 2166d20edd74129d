"""Kills the child processes that outlive this process, those that are stopped too.

A process that SIGSTOP stopped cannot notice that its parent is gone, so another process has to: it
reads pids from a pipe, and at the pipe's end, which comes with the end of this process whatever
killed it, it kills those that are left. A pid that was given to another process in the meantime is
recognised by its start time.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading

WATCH = """
import os, signal, sys

def began(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[19]
    except OSError:
        return None

living = {}
for line in sys.stdin:
    pid = int(line[1:])
    if line[0] == "+":
        living[pid] = began(pid)
    else:
        living.pop(pid, None)
for pid, moment in living.items():
    if moment is not None and began(pid) == moment:
        for kill in (os.killpg, os.kill):
            try:
                kill(pid, signal.SIGKILL)
            except OSError:
                pass
"""


class Watchdog:
    """The process that watches for this one; it is started with the first pid, once a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def guard(self, pid: int) -> None:
        """Kill this process, which leads a group of its own, if it outlives the present one."""
        self._tell(f"+{pid}\n")

    def release(self, pid: int) -> None:
        """The process has ended, or is about to."""
        self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(  # noqa: S603  the command is fixed
                    [sys.executable, "-I", "-S", "-c", WATCH],
                    bufsize=0,  # no lock that a fork could find held
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode())

    def end(self) -> None:
        """Kill what is left, and end."""
        with self._lock:
            ended, self._process = self._process, None
        if ended is not None:
            ended.communicate()

    def forget(self) -> None:
        """Begin anew after a fork: the parent's watchdog stays with the parent."""
        inherited, self._process = self._process, None
        self._lock = threading.Lock()
        if inherited is not None and inherited.stdin is not None:
            inherited.stdin.close()
            inherited.returncode = 0  # the parent reaps it


WATCHDOG = Watchdog()
os.register_at_fork(after_in_child=WATCHDOG.forget)
atexit.register(WATCHDOG.end)
