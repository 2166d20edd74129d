"""Counts the system calls of a process with strace, from outside of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.processes.probe import UnavailableError
from harness.processes.waiting import came_true

PATIENCE_S = 15.0  # for strace to begin, and to end
_COUNTED = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)


def counted_calls(pid: int, names: Sequence[str], act: Callable[[], object]) -> dict[str, int]:
    """How often a process makes each of these system calls during `act`.

    Raises UnavailableError where there is no strace, or it must not trace the process.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise UnavailableError("strace is not installed")
    child = subprocess.Popen(  # noqa: S603  a fixed command
        [strace, "-c", "-f", "-q", "-e", f"trace={','.join(names)}", "-p", str(pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        begins = came_true(lambda: _tracer(pid) != 0 or child.poll() is not None, PATIENCE_S)
        is_traced = begins and child.poll() is None
        if is_traced:
            act()
        child.send_signal(2)
        _, output = child.communicate(timeout=PATIENCE_S)
    finally:
        child.kill()
        child.wait()
    calls = parse_strace(output)
    if not is_traced or not (calls or _is_summary(output)):
        raise UnavailableError(" ".join(output.split())[:200] or "strace did not begin")
    return {name: calls.get(name, 0) for name in names}


def parse_strace(summary: str) -> dict[str, int]:
    """The number of each system call in the output of `strace -c`."""
    found = _COUNTED.findall(summary)
    return {name: int(count) for count, name in found if name != "total"}


def _is_summary(output: str) -> bool:
    """Whether strace counted to the end; there may have been no call."""
    return not output.strip() or "% time" in output


def _tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("TracerPid:")[2].split()[0])
