"""Measures concurrent writers on state.db: the reference, the released package, bare policies.

    python benches/bench_state_db.py [--quick] [--minutes 5] [--seconds 1]

All arms write in turn, round after round, on the same disk, each on a fresh file; rounds repeat
until the time is up, and the table shows their medians. Compare the ratios: the absolute numbers
depend on the machine. Every write is one message and one counter, with a full-text index.

The table, the ratios and a plot of all waits go to a folder under `reports/runs`. With slow syncs
each sync takes 4 ms more, and the disk does one at a time; this needs `cc` and `LD_PRELOAD`. The
released package comes from the cache of the harness.
"""

# A script, not a package, which prints:
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
from harness.targets.hermes_agent.target import HermesAgentTarget
from harness.targets.package_cache import cache_folder

RELEASED = "0.19.0"
WORKER = Path(__file__).with_name("state_db_worker.py")
SYNC_MS = 4  # the additional time of a sync on a slow disk

Env = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Cell:
    """A condition: the numbers of processes and threads, and the cost of a commit."""

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
    """The results of one arm in one round."""

    writes_per_s: float
    waits_ms: Sequence[float]
    jain: float
    log_mib: float
    refused: int

    @property
    def p50_ms(self) -> float:
        """The median wait."""
        return quantile(self.waits_ms, 0.5)

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of the waits."""
        return quantile(self.waits_ms, 0.99)

    @property
    def p999_ms(self) -> float:
        """The 99.9th percentile of the waits."""
        return quantile(self.waits_ms, 0.999)

    @property
    def max_ms(self) -> float:
        """The longest wait."""
        return self.waits_ms[-1]


def measure(arm: str, cell: Cell, seconds: float, env: Env) -> Reading:
    """Run all processes of a cell concurrently, and measure them."""
    with (
        database_path() as path,
        started_workers(arm, path, cell, seconds, env) as workers,
        log_lengths(path) as log_bytes,
    ):
        start(workers)
        results = [json.loads(next_line(worker)) for worker in workers]
    by_thread = [waits for result in results for waits in result["waits"]]
    counts = [len(waits) for waits in by_thread]
    return Reading(
        writes_per_s=sum(counts) / seconds,
        waits_ms=sorted(wait_s * 1000 for waits in by_thread for wait_s in waits),
        jain=sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts)),
        log_mib=max(log_bytes) / 2**20,
        refused=sum(result["refused"] for result in results),
    )


def newcomer_waits_ms(arm: str, seconds: float, env: Env) -> list[float]:
    """Start new processes one by one beside 16 writers; measure their first write."""
    waits_ms: list[float] = []
    with database_path() as path, started_workers(arm, path, Cell(16, 1), seconds, env) as workers:
        start(workers)
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            with spawned(["join", arm, path, f"new-{len(waits_ms)}"], env) as newcomer:
                waits_ms.append(float(next_line(newcomer)) * 1000)
    return sorted(waits_ms)


def longest_wait_beside_a_kill_ms(arm: str, seconds: float, env: Env) -> float:
    """Kill four of 12 writers in turn; return the longest wait of the other eight."""
    with database_path() as path, started_workers(arm, path, Cell(12, 1), seconds, env) as workers:
        start(workers)
        for victim in workers[8:]:
            time.sleep(seconds / 6)
            victim.send_signal(signal.SIGKILL)
        results = [json.loads(next_line(worker)) for worker in workers[:8]]
    by_thread = (waits for result in results for waits in result["waits"])
    return 1000 * float(max(wait_s for waits in by_thread for wait_s in waits))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values lies."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


Worker = subprocess.Popen[str]


@contextmanager
def database_path() -> Iterator[Path]:
    """Provide a path in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="bench-state-db-") as folder:
        yield Path(folder) / "state.db"


@contextmanager
def started_workers(
    arm: str, path: Path, cell: Cell, seconds: float, env: Env
) -> Iterator[list[Worker]]:
    """Provide workers that have opened the file and wait for the start."""
    with ExitStack() as stack:
        workers: list[Worker] = []
        for number in range(cell.processes):
            arguments = ["work", arm, path, cell.synchronous, f"w{number}", cell.threads, seconds]
            workers.append(stack.enter_context(spawned(arguments, env)))
            if number == 0:  # one process creates the file: some arms fail if several do
                next_line(workers[0])
        for worker in workers[1:]:
            next_line(worker)
        yield workers


@contextmanager
def spawned(arguments: Sequence[object], env: Env) -> Iterator[Worker]:
    """Start a worker, and end it after the block."""
    command = [sys.executable, str(WORKER), *map(str, arguments)]
    worker = subprocess.Popen(  # noqa: S603  the command is fixed
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.communicate()


def start(workers: Sequence[Worker]) -> None:
    """Let all workers begin."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()


def next_line(worker: Worker) -> str:
    """Read a worker's next line."""
    assert worker.stdout is not None
    return worker.stdout.readline()


@contextmanager
def log_lengths(path: Path) -> Iterator[list[int]]:
    """Sample the length of the write-ahead log every 5 ms, without opening it."""
    log, over, lengths = path.with_name(path.name + "-wal"), threading.Event(), [0]

    def sample() -> None:
        while not over.wait(0.005):
            lengths.append(log.stat().st_size if log.exists() else 0)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield lengths
    finally:
        over.set()
        sampler.join()


@contextmanager
def slow_disk() -> Iterator[Env | None]:
    """Provide an environment with slow, serialized syncs; None without `cc`."""
    compiler = shutil.which("cc")
    if compiler is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "slow_syncs.so"
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
        subprocess.run(command, input=_SLOW_SYNCS, text=True, check=True)  # noqa: S603  the command is fixed
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
    """Runs the arms, and reports the results."""

    def __init__(self, arms: Sequence[str], env: Env) -> None:
        self._arms = arms
        self._env = env
        self._readings: dict[Cell, dict[str, list[Reading]]] = {}
        self._newcomers_ms: dict[str, list[float]] = defaultdict(list)
        self._killed_ms: dict[str, list[float]] = defaultdict(list)

    def measure(self, cells: Sequence[Cell], seconds: float, minutes: float) -> None:
        """Run rounds of all cells and arms until the next one would exceed the time."""
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
            f" load {os.getloadavg()[0]:.0f} at the end, this bench included"
        )

    def _measure(self, cell: Cell, number: int, seconds: float, env: Env) -> None:
        readings = self._readings.setdefault(cell, {arm: [] for arm in self._arms})
        for arm in self._in_turn(number):
            readings[arm].append(measure(arm, cell, seconds, env))
        print(f"{number}  {cell}", file=sys.stderr, flush=True)

    def _in_turn(self, number: int) -> Sequence[str]:
        """Reverse the order every other round: an arm may slow down the one after it."""
        return self._arms if number % 2 else self._arms[::-1]

    def table(self) -> str:
        """Format the medians as Markdown."""
        rows = [
            "| at once | arm | writes/s | p50 | p99 | p99.9 | max, ms | Jain | log MiB | refused |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for cell, readings in self._readings.items():
            for arm, measured in readings.items():
                cells = (
                    f"{median_of(measured, 'writes_per_s'):.0f}",
                    f"{median_of(measured, 'p50_ms'):.1f}",
                    f"{median_of(measured, 'p99_ms'):.1f}",
                    f"{median_of(measured, 'p999_ms'):.1f}",
                    f"{median_of(measured, 'max_ms'):.1f}",
                    f"{median_of(measured, 'jain'):.2f}",
                    f"{median_of(measured, 'log_mib'):.1f}",
                    f"{median_of(measured, 'refused'):.0f}",
                )
                rows.append(f"| {cell} | {arm} | {' | '.join(cells)} |")
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
        """Format the reference's results beside the released package's, and its goals."""
        rows = ["| the reference | reached | wanted |", "|---|--:|--:|"]
        for cell, name, wanted in _RATIOS:
            if cell in self._readings and "released" in self._arms:
                reference = median_of(self._readings[cell]["reference"], name)
                released = median_of(self._readings[cell]["released"], name)
                ratio = reference / released
                ratio = ratio if name == "writes_per_s" else 1 / ratio
                rows.append(
                    f"| {cell}: {_RATIO_NAMES[name]} | {ratio:.1f} times | {wanted:g} times |"
                )
        readings = [
            reading for by_arm in self._readings.values() for reading in by_arm["reference"]
        ]
        newcomer_ms = quantile(self._newcomers_ms["reference"], 0.9)
        killed_ms = statistics.median(self._killed_ms["reference"])
        rows += [
            f"| a newcomer's first write, p90 | {newcomer_ms:.1f} ms | at most 20 ms |",
            f"| the longest wait beside a kill | {killed_ms:.1f} ms | at most 50 ms |",
            f"| the worst Jain index | {min(r.jain for r in readings):.3f} | at least 0.99 |",
            f"| the longest log | {max(r.log_mib for r in readings):.1f} MiB | at most 16 MiB |",
            f"| refused | {sum(r.refused for r in readings)} | none |",
        ]
        return "\n".join(rows)

    def picture(self) -> str:
        """Plot all waits."""
        panels = {
            str(cell): {
                arm: sorted(wait_ms for reading in measured for wait_ms in reading.waits_ms)
                for arm, measured in readings.items()
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


def median_of(readings: Sequence[Reading], name: str) -> float:
    """Return the median of one number of the readings."""
    return float(statistics.median(getattr(reading, name) for reading in readings))


def released() -> str | None:
    """Find the folder of the released package; print why, and return None, if it is unavailable."""
    target = HermesAgentTarget(RELEASED)
    try:
        target.prepare()
    except TargetUnavailableError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return None
    return str(cache_folder() / target.name)


def bench(arguments: Sequence[str]) -> None:
    """Measure, and write the results to a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(map(str, QUICK))}")
    parser.add_argument("--minutes", type=float, default=5.0, help="total time, about")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one arm in one round")
    options = parser.parse_args(arguments)
    agent = released()
    arms = [arm for arm in ARMS if arm != "released" or agent]
    results = Bench(arms, {"HERMES_AGENT": agent} if agent else {})
    results.measure(QUICK if options.quick else CELLS, options.seconds, options.minutes)
    folder = (
        ROOT / "reports" / "runs" / time.strftime("%Y%m%dT%H%M%S-bench-state-db", time.gmtime())
    )
    folder.mkdir(parents=True)
    report = f"{results.condition}\n\n{results.table()}\n\n{results.goals()}\n"
    (folder / "table.md").write_text(report, encoding="utf-8")
    (folder / "waits.svg").write_text(results.picture(), encoding="utf-8")
    print(f"{report}\n{folder}")


if __name__ == "__main__":
    bench(sys.argv[1:])
