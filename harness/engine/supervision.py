"""Child processes that end with their parent, whatever kills the parent.

Parent and child hold the two ends of a socket, the lifeline. The child reports events over it, one
JSON line each; when its own reads reach the end of the stream, the parent is gone, and the child
kills its own process group. That needs no signal and no clean-up by the parent, so it works after
kill -9 too. `leave` lets a parent with threads that wait for children end all of them at once.
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
from typing import IO, Any, Protocol

VARIABLE = "HARNESS_LIFELINE"


class Endable(Protocol):
    """A child process that `leave` ends."""

    def kill(self) -> None:
        """End it at once; may be called from a signal handler."""
        ...


_living: set[Endable] = set()
_leaving = threading.Event()


class Child:
    """A child in a process group of its own, at the other end of a lifeline."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], output: IO[bytes], cwd: Path
    ) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  callers state the command
                command,
                env={**environment, VARIABLE: str(theirs.fileno())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        supervise(self)

    def events(self, ends_at: float) -> Iterator[dict[str, Any]]:
        """The child's events, until it ends. Raises TimeoutError at `ends_at` (monotonic)."""
        with self._ours.makefile("rb") as lines:
            while True:
                self._ours.settimeout(max(0.001, ends_at - time.monotonic()))
                line = lines.readline()
                if not line.endswith(b"\n"):  # the end, after which the last line may be torn
                    return
                yield json.loads(line)

    def wait(self) -> int:
        """Wait for the child's end; its exit code."""
        return self._process.wait()

    def kill(self) -> None:
        """Kill the child's whole group, which ends every `events` and `wait` on it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended, or is a zombie
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill the child's whole group, and reap the child."""
        self.kill()
        self._process.wait()
        self._ours.close()
        release(self)


def supervise(child: Endable) -> None:
    """Let `leave` end this child. Raises InterruptedError, and ends it, where it is too late."""
    _living.add(child)
    if _leaving.is_set():
        child.kill()
        raise InterruptedError("no child may start while the parent process ends")


def release(child: Endable) -> None:
    """The child has ended."""
    _living.discard(child)


def leave() -> None:
    """Kill every child, and let no other start, because this process is about to end."""
    _leaving.set()
    for child in tuple(_living):
        child.kill()


class Lifeline:
    """The child's end of the socket to the process that supervises it."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def watch(self) -> None:
        """Start a thread that kills this process group as soon as the parent is gone."""
        threading.Thread(target=self._watch, daemon=True, name="lifeline").start()

    def _watch(self) -> None:
        while self._socket.recv(1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send an event to the parent, if it still exists."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(event).encode() + b"\n")


def inherited_lifeline() -> Lifeline | None:
    """The lifeline that the environment passes to this process, once; None if it has none."""
    fd = os.environ.pop(VARIABLE, None)
    return None if fd is None else Lifeline(int(fd))
