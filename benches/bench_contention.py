"""Measures how long concurrent writers wait on one state.db, for several targets.

    python benches/bench_contention.py [TARGET...] [--rounds 3] [--messages 100]

All targets run in turn, round after round, each on a fresh file; the table shows medians over the
rounds. Compare the ratios: the absolute numbers depend on the machine. `harness list targets` names
the targets; the default is the reference and the bare policies. Waits, shares and overtaking are
those of `harness.contract.checkers.state_db.wait_times`; a separate run derives the time that the
lock is held from the traced statements.
"""

# A script, not a package, which prints:
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.contract.checkers.state_db.lock_discipline import held_ms
from harness.contract.checkers.state_db.wait_times import Waits, measure, writes_of
from harness.contract.checkers.state_db.wal_size import wal_high_water_bytes
from harness.contract.workloads.database_writers import (
    ABILITY,
    Round,
    Step,
    WriterPool,
    writer_pool,
)
from harness.core.history import History, Journal, read
from harness.engine.context import Context
from harness.engine.target import Target
from harness.targets.registry import find_target
from harness.targets.sqlite.target import POLICIES

SHAPES = ((8, 1), (32, 1), (8, 4))  # writers, and threads of each
TEXT = "the quick brown fox jumps over the lazy dog and then some more of the same " * 3
HEAD = (
    "writes/s     p50     p99   p99.9     max  overtaken  Jain  convoy  log/MiB  held/ms  refused"
)

Play = Callable[[WriterPool], None]


def write_concurrently(writers: int, threads: int, messages: int) -> Play:
    """Make a workload: all threads start together after a first write, and write without pauses."""

    def play(pool: WriterPool) -> None:
        pool.ask()  # one process creates the file: some targets fail if several do
        started = []
        for index in range(writers):
            sessions = [f"s{index}-{number}" for number in range(threads)]
            create: list[Step] = [
                ("create", {"session": session, "source": "cli"}) for session in sessions
            ]
            begin = Round([*create, ("await", {"name": "all"})])
            started.append(pool.fork(*([begin, *_work(session, messages)] for session in sessions)))
        for writer in started:
            pool.wait_for(writer, "create", threads * threads)
        pool.release("all")
        pool.wait_for_all()

    return play


def _work(session: str, messages: int) -> list[Round]:
    append: Step = ("append", {"session": session, "role": "user", "text": f"{TEXT} {{n}}"})
    return [Round([append, append, append, append, ("log_bytes", {})], messages // 4)]


def trace_writers(pool: WriterPool) -> None:
    """Run four writers with traced statements."""
    pool.ask(*[("create", {"session": f"s{n}", "source": "cli"}) for n in range(4)])
    with pool.starting_together():
        for number in range(4):
            pool.fork(_work(f"s{number}", 40), traced=True)
    pool.wait_for_all()


def run_workload(target: Target, play: Play) -> History:
    """Run the workload on the target, and return its history."""
    with tempfile.TemporaryDirectory(prefix="bench-contention-") as folder:
        path = Path(folder) / "history.jsonl"
        with (
            Journal(path, time.monotonic_ns) as journal,
            writer_pool(Context(target, ABILITY, "bench", 1, journal)) as pool,
        ):
            play(pool)
        (history,) = read(path)
        return history


def row(histories: Sequence[History], held: float) -> str:
    """Format one line of the table: medians over the rounds."""
    waits = [measure(writes_of(history, ("append",))) for history in histories]

    def median_of(number: Callable[[Waits], float | None]) -> float:
        values = (number(measured) for measured in waits)
        return statistics.median(value for value in values if value is not None)

    wal_mib = statistics.median(wal_high_water_bytes(history) for history in histories) / 2**20
    cells = (
        f"{median_of(lambda w: w.per_s):8.0f}",
        f"{median_of(lambda w: w.p50_ms):8.1f}",
        f"{median_of(lambda w: w.p99_ms):8.1f}",
        f"{median_of(lambda w: w.p999_ms):8.1f}",
        f"{median_of(lambda w: w.max_ms):8.1f}",
        f"{median_of(lambda w: w.overtaken_max):11.0f}",
        f"{median_of(lambda w: w.jain or 0.0):6.2f}",
        f"{median_of(lambda w: w.convoy):8.1f}",
        f"{wal_mib:9.1f}{held:9.2f}",
        f"{median_of(lambda w: w.refused):9.0f}",
    )
    return "".join(cells)


def main() -> None:
    """Measure, and print a table for each shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=100, help="per thread")
    options = parser.parse_args()
    names = options.targets or ["reference", *(f"sqlite@{policy}" for policy in POLICIES)]
    targets = [find_target(name) for name in names]
    for target in targets:
        target.prepare()
    held = {
        target.name: statistics.median(held_ms(run_workload(target, trace_writers)))
        for target in targets
    }
    width = max(map(len, names)) + 2
    for writers, threads in SHAPES:
        by_target: dict[str, list[History]] = {target.name: [] for target in targets}
        for _ in range(options.rounds):
            for target in targets:
                play = write_concurrently(writers, threads, options.messages)
                by_target[target.name].append(run_workload(target, play))
        print(f"\n{writers} processes x {threads} threads; waits in ms\n{'':{width}}{HEAD}")
        for name, histories in by_target.items():
            print(f"{name:{width}}{row(histories, held[name])}", flush=True)


if __name__ == "__main__":
    main()
