"""Tests of the watchdog: what outlives its process is killed, and nothing else."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from harness.processes.watchdog import Watchdog

LONG_S = 30.0
SLEEPER = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which ends with the block at the latest."""
    with subprocess.Popen(  # noqa: S603  the command is fixed
        SLEEPER, stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_is_stopped_is_killed_at_the_end() -> None:
    with sleeper() as stopped:
        os.kill(stopped.pid, signal.SIGSTOP)
        watchdog = Watchdog()
        watchdog.guard(stopped.pid)
        watchdog.end()

        assert stopped.wait(LONG_S) == -signal.SIGKILL


def test_what_was_released_is_left_alone() -> None:
    """So is a process that another one guards."""
    with sleeper() as released, sleeper() as guarded, sleeper() as foreign:
        watchdog, other = Watchdog(), Watchdog()
        watchdog.guard(released.pid)
        watchdog.guard(guarded.pid)
        other.guard(foreign.pid)
        watchdog.release(released.pid)
        watchdog.end()

        assert guarded.wait(LONG_S) == -signal.SIGKILL
        assert released.poll() is None
        assert foreign.poll() is None
        other.end()


def test_fork_leaves_its_parents_watchdog_alone() -> None:
    """The end of a fork ends no process of its parent, and a fork that lives on delays nothing."""
    with sleeper() as guarded:
        watchdog = Watchdog()
        watchdog.guard(guarded.pid)
        ready, release = os.pipe()
        child = os.fork()
        if child == 0:
            watchdog.forget()
            os.read(ready, 1)
            os._exit(0)
        assert guarded.poll() is None
        fd = os.pidfd_open(guarded.pid)
        watchdog.end()
        ended, _, _ = select.select([fd], [], [], LONG_S)
        os.write(release, b"x")
        os.waitpid(child, 0)
        for each in (fd, ready, release):
            os.close(each)
        assert ended
