"""The probe: a look at a process from outside, without its help.

What the system does not let us see is *unavailable*, and said so: stacks and flame graphs need the
right to trace another process, which containers often do not have.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.core.errors import TargetLostError

STACKS_PATIENCE_S = 20.0
SLACK_S = 20.0  # that py-spy may take longer than it was told to look
RATE_MAX_HZ = 100
THREADS_A_SECOND = 2000  # looked at; more slows the process down by itself


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has used so far, and holds now.

    `wakeups` are voluntary context switches: how often one of its threads waited, and was woken.
    """

    cpu_s: float
    wakeups: int
    uss_bytes: int
    rss_bytes: int
    threads: int
    fds: int


class UnavailableError(Exception):
    """The system does not let us see that; the message says why."""


def cost_of(pid: int) -> Cost:
    """What a process costs. Raises TargetLostError where it is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_full_info()
            cpu_s = times.user + times.system
            threads, fds = process.num_threads(), process.num_fds()
        return Cost(cpu_s, wakeups_of(pid), memory.uss, memory.rss, threads, fds)
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError) as error:
        raise TargetLostError(f"process {pid} is gone: {error}") from error


def wakeups_of(pid: int) -> int:
    """Voluntary context switches of all the process's threads that live. Raises OSError."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            status = (task / "status").read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:  # it ended just now
            continue
        count += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return count


def stacks(pid: int) -> str:
    """What each thread of a Python process is doing now. Raises UnavailableError."""
    return _py_spy("dump", "--pid", str(pid), timeout_s=STACKS_PATIENCE_S)


def flame(pid: int, seconds: float, threads: int, path: Path) -> None:
    """Record where a Python process spends its time, meanwhile. Raises UnavailableError.

    A flame graph or, where the file's name ends in `.json`, a profile for speedscope.
    """
    rate_hz = max(1, min(RATE_MAX_HZ, THREADS_A_SECOND // max(1, threads)))
    kind = "speedscope" if path.suffix == ".json" else "flamegraph"
    duration = ("--duration", str(max(1, round(seconds))), "--rate", str(rate_hz))
    how = ("--format", kind, "--output", str(path), "--nonblocking")
    _py_spy("record", "--pid", str(pid), *duration, *how, timeout_s=seconds + SLACK_S)


def _py_spy(*arguments: str, timeout_s: float) -> str:
    command = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if command is None:
        raise UnavailableError("py-spy is not installed")
    try:
        done = subprocess.run(  # noqa: S603  the command is our own
            [command, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"py-spy did not end within {timeout_s:g} s") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise UnavailableError(f"py-spy ended with {done.returncode}, saying: {said[-1]}")
    return done.stdout
