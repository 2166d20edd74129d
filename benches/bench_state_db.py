"""How state.db fares when many write at once: the reference, its neighbours, and bare policies.

    python benches/bench_state_db.py [--quick] [--minutes 5] [--seconds 1]

All arms write in turn, round after round, on the same disk, each on a fresh file; rounds go on
while there is time, and their median is told. So the ratios mean something, and the figures are
only a scale. Every write is one message and one counter, with a full-text index in step.

Table, ratios and a picture of all waits go to a folder under `reports/runs`. Where syncs are slow,
each takes 4 ms more, and the disk does one at a time; this needs `cc` and `LD_PRELOAD`. The
released package comes from where the harness keeps it.
"""

# A script, not a package, and it speaks to the terminal:
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ecdf import draw
from state_db_arms import ARMS, ROOT, Synchronous

from harness.core.errors import TargetUnavailableError
from harness.targets.hermes_agent.target import HermesAgentTarget, cache_folder

RELEASED = "0.19.0"
WORKER = Path(__file__).with_name("state_db_worker.py")
SYNC_MS = 4  # how much longer a slow disk's sync takes

Env = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Cell:
    """A circumstance: so many processes with so many threads, and what a commit costs."""

    processes: int
    threads: int
    synchronous: Synchronous = "FULL"
    is_slow: bool = False

    def __str__(self) -> str:
        syncs = f", {SYNC_MS} ms a sync" if self.is_slow else ""
        return f"{self.processes} x {self.threads} {self.synchronous}{syncs}"


SLOW = Cell(8, 4, is_slow=True)
QUICK = (Cell(32, 1), Cell(8, 4), SLOW)
CELLS = (
    *(
        Cell(processes, threads, synchronous)
        for synchronous in ("FULL", "NORMAL")
        for threads in (1, 4)
        for processes in (2, 8, 32)
    ),
    SLOW,
)


# One measurement: many processes -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """What one arm reached in one round."""

    writes_per_s: float
    waits_ms: Sequence[float]
    jain: float
    log_mib: float
    refused: int

    @property
    def p50_ms(self) -> float:
        """The middle wait."""
        return quantile(self.waits_ms, 0.5)

    @property
    def p99_ms(self) -> float:
        """Of a hundred waits the longest but one."""
        return quantile(self.waits_ms, 0.99)

    @property
    def p999_ms(self) -> float:
        """Of a thousand waits the longest but one."""
        return quantile(self.waits_ms, 0.999)

    @property
    def max_ms(self) -> float:
        """The longest wait."""
        return self.waits_ms[-1]


def measure(arm: str, cell: Cell, seconds: float, env: Env) -> Reading:
    """Let them all write at once."""
    with (
        folder_of_a_file() as path,
        crew(arm, path, cell, seconds, env) as workers,
        watched_log(path) as log_bytes,
    ):
        start(workers)
        told = [json.loads(said(worker)) for worker in workers]
    by_thread = [waits for one in told for waits in one["waits"]]
    counts = [len(waits) for waits in by_thread]
    return Reading(
        writes_per_s=sum(counts) / seconds,
        waits_ms=sorted(wait_s * 1000 for waits in by_thread for wait_s in waits),
        jain=sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts)),
        log_mib=max(log_bytes) / 2**20,
        refused=sum(one["refused"] for one in told),
    )


def newcomer_waits_ms(arm: str, seconds: float, env: Env) -> list[float]:
    """While 16 processes write, let one new process after another open and create a session."""
    waits_ms: list[float] = []
    with folder_of_a_file() as path, crew(arm, path, Cell(16, 1), seconds, env) as workers:
        start(workers)
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            with spawned(["come-in", arm, path, f"new-{len(waits_ms)}"], env) as newcomer:
                waits_ms.append(float(said(newcomer)) * 1000)
    return sorted(waits_ms)


def longest_wait_beside_a_kill_ms(arm: str, seconds: float, env: Env) -> float:
    """Of 12 processes that write kill four in turn; the longest wait of the eight that stay."""
    with folder_of_a_file() as path, crew(arm, path, Cell(12, 1), seconds, env) as workers:
        start(workers)
        for victim in workers[8:]:
            time.sleep(seconds / 6)
            victim.send_signal(signal.SIGKILL)
        told = [json.loads(said(worker)) for worker in workers[:8]]
    return 1000 * float(max(wait_s for one in told for waits in one["waits"] for wait_s in waits))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which this share of all lies."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


Worker = subprocess.Popen[str]


@contextmanager
def folder_of_a_file() -> Iterator[Path]:
    """Lend a path in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-state-db-") as folder:
        yield Path(folder) / "state.db"


@contextmanager
def crew(arm: str, path: Path, cell: Cell, seconds: float, env: Env) -> Iterator[list[Worker]]:
    """Lend workers that have opened the file and wait for the start."""
    with ExitStack() as stack:
        workers: list[Worker] = []
        for number in range(cell.processes):
            words = ["work", arm, path, cell.synchronous, f"w{number}", cell.threads, seconds]
            workers.append(stack.enter_context(spawned(words, env)))
            if number == 0:  # alone: not every arm survives being created by many at once
                said(workers[0])
        for worker in workers[1:]:
            said(worker)
        yield workers


@contextmanager
def spawned(words: Sequence[object], env: Env) -> Iterator[Worker]:
    """Lend a worker, and end it."""
    command = [sys.executable, str(WORKER), *map(str, words)]
    worker = subprocess.Popen(  # noqa: S603  (our own program)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.communicate()


def start(workers: Sequence[Worker]) -> None:
    """Let all begin."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()


def said(worker: Worker) -> str:
    """Read a worker's next line."""
    assert worker.stdout is not None
    return worker.stdout.readline()


@contextmanager
def watched_log(path: Path) -> Iterator[list[int]]:
    """Look at the length of the write-ahead log every few milliseconds, without opening it."""
    log, over, lengths = path.with_name(path.name + "-wal"), threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.005):
            lengths.append(log.stat().st_size if log.exists() else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lengths
    finally:
        over.set()
        watcher.join()


@contextmanager
def slow_disk() -> Iterator[Env | None]:
    """Lend an environment whose syncs are slow, and one at a time; None where there is no `cc`."""
    compiler = shutil.which("cc")
    if compiler is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "slow_syncs.so"
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
        subprocess.run(command, input=_SLOW_SYNCS, text=True, check=True)  # noqa: S603  (likewise)
        disk = str(Path(folder) / "disk")
        yield {"LD_PRELOAD": str(library), "SYNC_US": str(SYNC_MS * 1000), "SYNC_DISK": disk}


_SLOW_SYNCS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>
static int slow(const char *name, int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    int disk = open(getenv("SYNC_DISK"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    flock(disk, LOCK_EX);
    usleep(atoi(getenv("SYNC_US")));
    int result = real(fd);
    close(disk);
    return result;
}
int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
"""


# The bench: arms in turn -------------------------------------------------------------------------


class Bench:
    """Everything that was measured, and what it says."""

    def __init__(self, arms: Sequence[str], env: Env) -> None:
        self._arms = arms
        self._env = env
        self._readings: dict[Cell, dict[str, list[Reading]]] = {}
        self._newcomers_ms: dict[str, list[float]] = defaultdict(list)
        self._killed_ms: dict[str, list[float]] = defaultdict(list)

    def measure(self, cells: Sequence[Cell], seconds: float, minutes: float) -> None:
        """Do rounds of all cells and arms until the next would take too long."""
        began_s, rounds = time.monotonic(), 0
        with slow_disk() as slow:
            while rounds == 0 or (time.monotonic() - began_s) * (1 + 1 / rounds) < minutes * 60:
                rounds += 1
                for cell in cells:
                    if not cell.is_slow:
                        self._measure(cell, rounds, seconds, self._env)
                    elif slow is not None:
                        self._measure(cell, rounds, seconds, {**self._env, **slow})
                for arm in self._in_turn(rounds):
                    waits_ms = newcomer_waits_ms(arm, 2 * seconds, self._env)
                    self._newcomers_ms[arm] = sorted(self._newcomers_ms[arm] + waits_ms)
                    killed_ms = longest_wait_beside_a_kill_ms(arm, 2 * seconds, self._env)
                    self._killed_ms[arm].append(killed_ms)
        self.condition = (
            f"{rounds} round{'s' * (rounds > 1)} of {seconds:g} s, {os.cpu_count()} processors,"
            f" load {os.getloadavg()[0]:.0f} at the end, of which we are some"
        )

    def _measure(self, cell: Cell, number: int, seconds: float, env: Env) -> None:
        readings = self._readings.setdefault(cell, {arm: [] for arm in self._arms})
        for arm in self._in_turn(number):
            readings[arm].append(measure(arm, cell, seconds, env))
        print(f"{number}  {cell}", file=sys.stderr, flush=True)

    def _in_turn(self, number: int) -> Sequence[str]:
        """Turn the order round every other time: whoever comes after a loud one is at a loss."""
        return self._arms if number % 2 else self._arms[::-1]

    def table(self) -> str:
        """Tell the medians, in Markdown."""
        rows = [
            "| at once | arm | writes/s | p50 | p99 | p99.9 | max, ms | Jain | log MiB | refused |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for cell, readings in self._readings.items():
            for arm, some in readings.items():
                rows.append(
                    f"| {cell} | {arm} | {of(some, 'writes_per_s'):.0f} | {of(some, 'p50_ms'):.1f}"
                    f" | {of(some, 'p99_ms'):.1f} | {of(some, 'p999_ms'):.1f}"
                    f" | {of(some, 'max_ms'):.1f} | {of(some, 'jain'):.2f}"
                    f" | {of(some, 'log_mib'):.1f} | {of(some, 'refused'):.0f} |"
                )
        rows += [
            "",
            "| beside others | newcomer p50 ms | newcomer p90 ms | longest beside a kill, ms |",
            "|---|--:|--:|--:|",
        ]
        for arm in self._arms:
            waits_ms = self._newcomers_ms[arm]
            rows.append(
                f"| {arm} | {quantile(waits_ms, 0.5):.1f} | {quantile(waits_ms, 0.9):.1f}"
                f" | {statistics.median(self._killed_ms[arm]):.1f} |"
            )
        return "\n".join(rows)

    def goals(self) -> str:
        """Tell how the reference does beside the released package, and what it is meant to do."""
        rows = ["| the reference | reached | wanted |", "|---|--:|--:|"]
        for cell, name, wanted in _RATIOS:
            if cell in self._readings and "released" in self._arms:
                ours = of(self._readings[cell]["reference"], name)
                theirs = of(self._readings[cell]["released"], name)
                ratio = ours / theirs if name == "writes_per_s" else theirs / ours
                said = _RATIO_NAMES[name]
                rows.append(f"| {cell}: {said} | {ratio:.1f} times | {wanted:g} times |")
        all_of = [some for one in self._readings.values() for some in one["reference"]]
        newcomer_ms = quantile(self._newcomers_ms["reference"], 0.9)
        killed_ms = statistics.median(self._killed_ms["reference"])
        rows += [
            f"| a newcomer's first write, p90 | {newcomer_ms:.1f} ms | at most 20 ms |",
            f"| the longest wait beside a kill | {killed_ms:.1f} ms | at most 50 ms |",
            f"| the worst Jain index | {min(one.jain for one in all_of):.3f} | at least 0.99 |",
            f"| the longest log | {max(one.log_mib for one in all_of):.1f} MiB | at most 16 MiB |",
            f"| refused | {sum(one.refused for one in all_of)} | none |",
        ]
        return "\n".join(rows)

    def picture(self) -> str:
        """Draw all waits."""
        panels = {
            str(cell): {
                arm: sorted(wait_ms for one in some for wait_ms in one.waits_ms)
                for arm, some in readings.items()
            }
            for cell, readings in self._readings.items()
        }
        title = "How long a write to state.db waits"
        subtitle = f"processes x threads; the share of waits no longer than that · {self.condition}"
        return draw(title, subtitle, panels)


_RATIO_NAMES = {
    "writes_per_s": "writes/s over the released package's",
    "p999_ms": "p99.9 below it",
    "max_ms": "longest wait below it",
}
_RATIOS = (
    (Cell(32, 1), "writes_per_s", 0.9),
    (Cell(32, 1), "p999_ms", 20),
    (Cell(32, 1), "max_ms", 20),
    (Cell(8, 4), "writes_per_s", 2.5),
    (Cell(8, 4), "p999_ms", 20),
    (SLOW, "writes_per_s", 8),
)


def of(readings: Sequence[Reading], name: str) -> float:
    """The median."""
    return float(statistics.median(getattr(reading, name) for reading in readings))


def released() -> str | None:
    """Find the folder of the released package; None where it is not to be had, and say why."""
    target = HermesAgentTarget(RELEASED)
    try:
        target.prepare()
    except TargetUnavailableError as error:
        print(f"left out: {error}", file=sys.stderr)
        return None
    return str(cache_folder() / target.name)


def bench(words: Sequence[str]) -> None:
    """Measure, and leave what was found in a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(map(str, QUICK))}")
    parser.add_argument("--minutes", type=float, default=5.0, help="go on for about so long")
    parser.add_argument("--seconds", type=float, default=1.0, help="for one arm in one round")
    asked = parser.parse_args(words)
    agent = released()
    arms = [arm for arm in ARMS if arm != "released" or agent]
    found = Bench(arms, {"HERMES_AGENT": agent} if agent else {})
    found.measure(QUICK if asked.quick else CELLS, asked.seconds, asked.minutes)
    folder = (
        ROOT / "reports" / "runs" / time.strftime("%Y%m%dT%H%M%S-bench-state-db", time.gmtime())
    )
    folder.mkdir(parents=True)
    told = f"{found.condition}\n\n{found.table()}\n\n{found.goals()}\n"
    (folder / "table.md").write_text(told, encoding="utf-8")
    (folder / "waits.svg").write_text(found.picture(), encoding="utf-8")
    print(f"{told}\n{folder}")


if __name__ == "__main__":
    bench(sys.argv[1:])
