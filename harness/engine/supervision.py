"""The lifeline: a child that lives no longer than its parent, whatever kills the parent.

Parent and child hold the two ends of a socket. The child tells the parent what happens over it,
a JSON line an event; and when its own reads reach the end, the parent is gone, and the child ends
its whole process group. No signal and no clean-up of the parent's is needed, so kill -9 is fine.
A parent that is told to leave, and has threads that wait for children, lets go of all at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

VARIABLE = "HARNESS_LIFELINE"

_living: set[Child] = set()
_leaving = threading.Event()


class Child:
    """A process group of its own at the other end of a lifeline."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], output: IO[bytes], cwd: Path
    ) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  the command is our own
                command,
                env={**environment, VARIABLE: str(theirs.fileno())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        _living.add(self)
        if _leaving.is_set():
            self.end()
            raise InterruptedError("no child begins while its parent leaves")

    def events(self, ends_at: float) -> Iterator[dict[str, Any]]:
        """What the child tells, until it ends. Raises TimeoutError at `ends_at` (monotonic)."""
        with self._ours.makefile("rb") as lines:
            while True:
                self._ours.settimeout(max(0.001, ends_at - time.monotonic()))
                line = lines.readline()
                if not line.endswith(b"\n"):  # the end, which can tear the last line
                    return
                yield json.loads(line)

    def wait(self) -> int:
        """Wait for the child's end; its exit code."""
        return self._process.wait()

    def kill(self) -> None:
        """Kill the child's whole group. Whoever waits for its events or its end waits no longer."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone, or a zombie
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill the child's whole group, and reap the child."""
        self.kill()
        self._process.wait()
        self._ours.close()
        _living.discard(self)


def leave() -> None:
    """Kill every child, and let no other begin: this process is on its way out."""
    _leaving.set()
    for child in tuple(_living):
        child.kill()


class Lifeline:
    """The child's end."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def watch(self) -> None:
        """From now on, end this process group as soon as the parent is gone."""
        threading.Thread(target=self._watch, daemon=True, name="lifeline").start()

    def _watch(self) -> None:
        while self._socket.recv(1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tell the parent; if it is gone there is nobody to tell."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(event).encode() + b"\n")


def inherited_lifeline() -> Lifeline | None:
    """Take hold of the lifeline this process was given, once; None if it was given none."""
    fd = os.environ.pop(VARIABLE, None)
    return None if fd is None else Lifeline(int(fd))
