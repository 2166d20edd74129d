"""Interrupts each command by each signal at several moments, and looks at what it leaves.

    nox -s bench -- interrupts [COMMAND...]

A try is kept if the command ends within `END_S`, with 128 + the number of the signal, leaves no
process, and, once its run folder exists, names it. A signal that comes before the interpreter has
begun ends it by itself, which a shell says in the same way. Exits 1 if any try is not kept.
"""

# A script, not a package, which prints:
# ruff: noqa: INP001, T201

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

TOP = Path(__file__).resolve().parents[1]
END_S = 30.0
SCENARIO = ("--scenario", "lifecycle-threads", "--scenario", "server-one-client", "--workers", "1")
COMMANDS = {
    "gate": ("gate", "--seed", "1", *SCENARIO),
    "prove": ("prove", "commit-every-turn", "--seed", "1", "--workers", "1"),
    "load": ("load", "--users", "20", "--for", "20s"),
    "soak": ("soak", "--for", "30s"),
    "mutate": ("mutate", "--sample", "4", "--seed", "1", "--workers", "1"),
    "reach": ("reach", *SCENARIO),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
IMPORTS_S = 0.25  # a moment at which the command still imports
MARK = "HARNESS_INTERRUPT_TRY"


def main() -> int:
    """Print one row a command and moment."""
    names = sys.argv[1:] or list(COMMANDS)
    print("| command | moment | " + " | ".join(s.name for s in SIGNALS) + " |")
    print("| --- | --- | " + " | ".join("---" for _ in SIGNALS) + " |")
    is_kept = True
    for name in names:
        for moment in ("imports", "runs"):
            words = [tried(COMMANDS[name], moment, number) for number in SIGNALS]
            is_kept &= all(word.startswith("kept") for word in words)
            print(f"| `{name}` | {moment} | {' | '.join(words)} |", flush=True)
    return 0 if is_kept else 1


def tried(arguments: tuple[str, ...], moment: str, number: signal.Signals) -> str:
    """Run one command, interrupt it, and say what came of it."""
    with tempfile.TemporaryDirectory(prefix="interrupt-") as folder:
        reports = Path(folder) / "reports"
        environment = {**os.environ, MARK: folder, "PYTHONPATH": str(TOP)}
        command = [sys.executable, "-m", "harness", *arguments, "--reports", str(reports)]
        with (Path(folder) / "output").open("w+", encoding="utf-8") as output:
            process = subprocess.Popen(  # noqa: S603  a command of this list
                command, cwd=TOP, env=environment, stdout=output, stderr=output
            )
            wait(process, moment, reports)
            process.send_signal(number)
            began_s = time.monotonic()
            try:
                code = process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return "no end"
            spent_s = time.monotonic() - began_s
            output.seek(0)
            said = output.read()
        left = survivors(folder)
        starts = moment == "imports"  # the interpreter itself may not have begun
        if code != 128 + number and not (starts and code == -number):
            return f"code {code}"
        if left:
            return f"{left} processes left"
        if moment == "runs" and not re.search(r"reports/\S+", said):
            return "names no folder"
        return f"kept, {spent_s:.1f} s"


def wait(process: subprocess.Popen[bytes], moment: str, reports: Path) -> None:
    """Wait for the moment: a short while, or that the run has something in its folder."""
    if moment == "imports":
        time.sleep(IMPORTS_S)
        return
    ends_s = time.monotonic() + END_S
    while process.poll() is None and time.monotonic() < ends_s:
        if any(reports.glob("**/history.jsonl")) or any(reports.glob("**/samples.jsonl")):
            return
        time.sleep(0.05)


def survivors(folder: str) -> int:
    """Count processes of the try that are left, and end them."""
    ends_s = time.monotonic() + 5.0
    while True:
        left = [each for each in psutil.process_iter() if marked(each) == folder]
        if not left or time.monotonic() > ends_s:
            break
        time.sleep(0.1)
    for each in left:
        each.kill()
    return len(left)


def marked(process: psutil.Process) -> str | None:
    """The try to which a process belongs."""
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None


if __name__ == "__main__":
    sys.exit(main())
