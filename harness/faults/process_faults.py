"""Faults of processes: kill, pause, and a limit on the length of files."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

import psutil

from harness.core.errors import HarnessError

STOP_PATIENCE_S = 30.0  # a process needs processor time before it can stop


class Kill:
    """Kills a process with SIGKILL. The process's parent reaps it."""

    def __init__(self, pid: int) -> None:
        self.name = f"kill process {pid}"
        self._pid = pid

    def available(self) -> bool:
        """Return True: the fault is available everywhere."""
        return True

    def inject(self) -> None:
        """Send the signal; a dead process is no error."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def heal(self) -> None:
        """Do nothing: a killed process does not come back."""


class Pause:
    """Stops a process with SIGSTOP, whatever locks it holds, and continues it with SIGCONT."""

    def __init__(self, pid: int) -> None:
        self.name = f"pause process {pid}"
        self._pid = pid

    def available(self) -> bool:
        """Return whether the system has SIGSTOP."""
        return hasattr(signal, "SIGSTOP")

    def inject(self) -> None:
        """Send the signal, and wait until the process has stopped."""
        os.kill(self._pid, signal.SIGSTOP)
        wait_until_stopped(self._pid)

    def heal(self) -> None:
        """Continue the process; a dead process is no error."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)


def wait_until_stopped(pid: int) -> None:
    """Wait until a process has stopped. Raises HarnessError after STOP_PATIENCE_S."""
    process = psutil.Process(pid)
    ends_at = time.monotonic() + STOP_PATIENCE_S
    while process.status() != psutil.STATUS_STOPPED:
        if time.monotonic() > ends_at:
            expected = f"expected status stopped within {STOP_PATIENCE_S:g} s"
            raise HarnessError(f"process {pid}: {expected}; observed {process.status()}")
        time.sleep(0.0005)


class ShortFiles:
    """Limits the length of a process's files: writes beyond it fail with EFBIG."""

    def __init__(self, pid: int, length_bytes: int) -> None:
        self.name = f"process {pid} writes no file beyond {length_bytes} bytes"
        self._pid = pid
        self._length_bytes = length_bytes
        self._before = (0, 0)

    def available(self) -> bool:
        """Return whether one process can limit another (Linux)."""
        return sys.platform == "linux"

    def inject(self) -> None:
        """Set the limit. Python ignores SIGXFSZ; other programs may die of it."""
        if sys.platform == "linux":
            import resource  # noqa: PLC0415  absent on some systems

            self._before = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)
            limits = (self._length_bytes, self._before[1])
            resource.prlimit(self._pid, resource.RLIMIT_FSIZE, limits)

    def heal(self) -> None:
        """Restore the limit; a dead process is no error."""
        if sys.platform == "linux":
            import resource  # noqa: PLC0415  absent on some systems

            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._before)
