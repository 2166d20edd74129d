"""Reads the costs, stacks and profile of a process from outside, without its cooperation.

What the system does not permit raises UnavailableError: stacks and flame graphs need the right to
trace another process, which containers often lack.
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
SLACK_S = 20.0  # that py-spy may take beyond the requested duration
RATE_MAX_HZ = 100
THREADS_A_SECOND = 2000  # samples of threads; more slow the process down


@dataclass(frozen=True, slots=True)
class Cost:
    """The resources that a process has used so far, and holds now.

    `wakeups` are voluntary context switches: the number of completed waits of its threads.
    """

    cpu_s: float
    wakeups: int
    uss_bytes: int
    rss_bytes: int
    threads: int
    fds: int


class UnavailableError(Exception):
    """The system does not provide this; the message says why."""


def cost_of(pid: int) -> Cost:
    """Read the resources of a process. Raises TargetLostError if it has ended."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_full_info()
            cpu_s = times.user + times.system
            threads, fds = process.num_threads(), process.num_fds()
        return Cost(cpu_s, wakeups_of(pid), memory.uss, memory.rss, threads, fds)
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError) as error:
        raise TargetLostError(f"process {pid} has ended: {error}") from error


def wakeups_of(pid: int) -> int:
    """Sum the voluntary context switches of the process's live threads. Raises OSError."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            status = (task / "status").read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:  # the thread ended meanwhile
            continue
        count += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return count


def stacks(pid: int) -> str:
    """Return the present stack of each thread of a Python process. Raises UnavailableError."""
    return _py_spy("dump", "--pid", str(pid), timeout_s=STACKS_PATIENCE_S)


def flame(pid: int, seconds: float, threads: int, path: Path) -> None:
    """Record where a Python process spends its time for `seconds`. Raises UnavailableError.

    Writes a flame graph or, if the path ends in `.json`, a profile for speedscope.
    """
    rate_hz = max(1, min(RATE_MAX_HZ, THREADS_A_SECOND // max(1, threads)))
    kind = "speedscope" if path.suffix == ".json" else "flamegraph"
    duration = ("--duration", str(max(1, round(seconds))), "--rate", str(rate_hz))
    output = ("--format", kind, "--output", str(path), "--nonblocking")
    _py_spy("record", "--pid", str(pid), *duration, *output, timeout_s=seconds + SLACK_S)


def _py_spy(*arguments: str, timeout_s: float) -> str:
    command = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if command is None:
        raise UnavailableError("py-spy is not installed; run `pip install py-spy`")
    try:
        completed = subprocess.run(  # noqa: S603  the command is fixed
            [command, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"py-spy did not end within {timeout_s:g} s") from error
    if completed.returncode != 0:
        errors = completed.stderr.strip().splitlines() or ["no message"]
        raise UnavailableError(f"py-spy exited with {completed.returncode}: {errors[-1]}")
    return completed.stdout
