"""Measures how fast races are found: by this explorer, by frontrun, and by free-running threads.

    python benches/bench_schedules.py [--seconds 5] [--seeds 20] [--frontrun PYTHON] [--programs]

The subject is the reference's session lifecycle, with three threads: two commits and a turn that
completes meanwhile. The broken variant differs in one line: a late commit clears up to the current
generation, not the one it captured. The arms run in turn; compare the ratios, since the absolute
numbers depend on the machine.

`--frontrun` names the interpreter of a virtual environment with `pip install frontrun==0.7.0`;
without it that arm is left out.

`--programs` compares explorers instead, on the programs of `schedule_programs.py`: which broken
ones each finds, which corrected ones it accuses, and its schedules in a processor second. Each
other explorer gets an environment of its own below `--peers`; one that does not install is named.
A program counts as found within `--seconds`; a corrected one is searched for a quarter of that.
"""

# A script, not a package, which prints:
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from schedule_arms import ARMS  # noqa: E402
from schedule_programs import PROGRAMS, Program  # noqa: E402

from reference_impl.memory import lifecycle  # noqa: E402

SESSION = "s"
TURNS = 2


class Subject:
    """One lifecycle with a turn to commit, and the turns that its provider received."""

    system_prompt = ""

    def __init__(self) -> None:
        """Complete the first turn."""
        self.lifecycle = lifecycle.Lifecycle()
        self.committed: list[int] = []
        self.lifecycle.mark_turn_completed(SESSION, agent=self)

    def sync_turn(self, turn_id: str, request: str, reply: str) -> None:
        """Do nothing: the agent has no memory."""

    def commit_memory_session(self) -> None:
        """Act as the provider: record the last turn of this commit."""
        self.committed.append(self.lifecycle._entries[SESSION].segments[0].end)  # noqa: SLF001

    def commit(self) -> None:
        """Commit the session."""
        self.lifecycle.commit_session_memory(SESSION)

    def commit_and_wait(self) -> None:
        """Commit the session, and wait for a concurrent commit."""
        self.lifecycle.commit_session_memory(SESSION, wait=True, timeout=5.0)

    def turn(self) -> None:
        """Complete a turn."""
        self.lifecycle.mark_turn_completed(SESSION, agent=self)

    def is_complete(self) -> bool:
        """Commit the rest; return whether the provider received every turn."""
        while self.lifecycle.has_uncommitted_work(SESSION):
            self.lifecycle.commit_session_memory(SESSION)
        return max(self.committed) == TURNS


THREADS: tuple[Callable[[Subject], None], ...] = (
    Subject.commit,
    Subject.turn,
    Subject.commit_and_wait,
)


CorrectEntry = lifecycle.Entry


class BrokenEntry(CorrectEntry):
    """An entry that clears all turns at the end of a commit."""

    __slots__ = ()

    def settle(self, end: int) -> None:  # noqa: ARG002 - the bug
        """Clear too many turns."""
        CorrectEntry.settle(self, self.generation)


@contextmanager
def broken() -> Iterator[None]:
    """Plant the bug for the duration of the block."""
    lifecycle.Entry = BrokenEntry  # type: ignore[misc]
    try:
        yield
    finally:
        lifecycle.Entry = CorrectEntry  # type: ignore[misc]


def measure_explorer(seconds: float, seeds: int) -> None:
    """Measure the rate of every strategy on correct code, then the time to find the bug."""
    from harness.schedule import Budget, Run, explore, reproduced  # noqa: PLC0415

    def body(run: Run) -> None:
        subject = Subject()
        for act in THREADS:
            run.thread(act, subject, name=act.__name__)
        run.join()
        assert subject.is_complete()

    for name in ("random", "sticky", "pct-2", "pct-3", "pos", "bounded", "reduced", "guarded"):
        used_s = time.process_time()
        result = explore(body, budget=Budget(10**9, seconds), strategies=[name])
        used_s = time.process_time() - used_s
        rates = (result.schedules / result.seconds, result.schedules / used_s)
        print(
            f"{name:8} {rates[0]:6.0f} schedules/s {rates[1]:6.0f} per processor second: {result}"
        )
        assert result.finding is None, result.story
    bounded = explore(body, budget=Budget(10**6, seconds * 4), strategies=["bounded-2"])
    print(f"bounded-2: {bounded.schedules} schedules in {bounded.seconds:.2f} s")
    times, counts, replays = [], [], []
    with broken():
        for seed in range(seeds):
            began = time.perf_counter()
            result = explore(body, budget=Budget(10**6, 60.0), seed=seed)
            times.append(time.perf_counter() - began)
            counts.append(result.schedules)
            assert result.finding is not None
            replays.append(reproduced(body, result.finding, times=100))
    print(
        f"portfolio: found in {statistics.median(times) * 1e3:.1f} ms (median of {seeds} seeds,"
        f" shrinking included), {statistics.median(counts)} schedules,"
        f" at most {max(counts)}; replays {min(replays)} of 100"
    )


async def _count(value: list[int]) -> None:
    """Add one three times, each over an await."""
    for _ in range(3):
        seen = value[0]
        await asyncio.sleep(0)
        value[0] = seen + 1


async def _counter() -> None:
    value = [0]
    await asyncio.gather(*(_count(value) for _ in range(3)))


async def _pipeline() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def produce() -> None:
        for number in range(4):
            await queue.put(number)
            await asyncio.sleep(0.1)

    async def consume() -> None:
        for _ in range(4):
            await queue.get()
            await asyncio.sleep(0.1)

    await asyncio.gather(produce(), consume())


async def _worker() -> None:
    items: list[int] = []
    jobs = (asyncio.to_thread(items.append, number) for number in range(2))
    await asyncio.gather(*jobs, asyncio.sleep(0))


def measure_tasks(seconds: float) -> None:
    """Measure the rate of asyncio programs in each order of their event loop."""
    from harness.schedule import Budget, LoopOrder, explore  # noqa: PLC0415

    for main in (_counter, _pipeline, _worker):
        for order in LoopOrder:
            used_s = time.process_time()
            result = explore(
                lambda _run, main=main: asyncio.run(main()),  # type: ignore[misc]
                budget=Budget(10**9, seconds),
                strategies=["random"],
                order=order,
            )
            used_s = time.process_time() - used_s
            assert result.finding is None, result.story
            rate = result.schedules / used_s
            print(f"tasks, {main.__name__[1:]}, {order}: {rate:.0f} per processor second")


def measure_free_threads(seconds: float) -> None:
    """Run plain threads on the broken code."""
    runs = lost = 0
    ends = time.perf_counter() + seconds
    with broken():
        while time.perf_counter() < ends:
            subject = Subject()
            threads = [threading.Thread(target=act, args=(subject,)) for act in THREADS]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            runs += 1
            lost += not subject.is_complete()
    print(f"free-running: {runs / seconds:.0f} runs/s, found {lost} in {runs}")


def measure_frontrun(seconds: float) -> None:
    """Run frontrun on the correct code for its rate, and on the broken code."""
    import frontrun  # noqa: PLC0415

    def explore(**options: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        result = frontrun.explore(
            setup=Subject,
            workers=list(THREADS),
            invariant=Subject.is_complete,
            total_timeout=seconds,
            **options,
        )
        return result, time.perf_counter() - began

    verdicts = {True: "holds", False: "refuted", None: "inconclusive"}
    for name, options in (
        ("dpor", {"strategy": "dpor"}),
        ("random", {"strategy": "random", "max_attempts": 10**6}),
    ):
        for subject, planted in (("correct", nullcontext), ("broken", broken)):
            with planted():
                result, spent = explore(clock="virtual", **options)
            print(
                f"frontrun {name}: the {subject} code {verdicts[result.property_holds]} after"
                f" {result.num_explored} schedules, {spent:.1f} s,"
                f" {result.num_explored / spent:.0f} schedules/s"
            )


# Programs


def _environment(arm: str, peers: Path, python: str) -> str:
    """Return the interpreter of an explorer, installed if need be; empty if it does not install."""
    if arm == "hermes-harness":
        return sys.executable
    interpreter = peers / arm / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([python, "-m", "venv", str(peers / arm)], check=True)  # noqa: S603
    install = [str(interpreter), "-m", "pip", "install", "-q", arm]
    done = subprocess.run(install, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        print(f"{arm}: not installed: {done.stderr.strip().splitlines()[-1]}")
        return ""
    return str(interpreter)


def _row(arm: str, interpreter: str, program: Program, seconds: float) -> dict[str, Any]:
    """Run one program with one explorer, in a process of its own."""
    variant = "broken" if program.broken else "corrected"
    limit = seconds if program.broken else seconds / 4
    command = [interpreter, str(Path(__file__).with_name("schedule_arms.py"))]
    if arm == "frontrun":  # it runs only below its own command
        command.insert(0, str(Path(interpreter).with_name("frontrun")))
    environment = {**os.environ, "PROGRAM": program.name, "VARIANT": variant}
    environment["PYTHONPATH"] = str(ROOT / "benches")
    if arm == "hermes-harness":  # this copy, whatever is installed
        environment["PYTHONPATH"] += f"{os.pathsep}{ROOT}"
    try:
        done = subprocess.run(  # noqa: S603
            [*command, arm, program.name, variant, str(limit)],
            capture_output=True,
            text=True,
            check=False,
            timeout=10 + 4 * limit,
            env=environment,
        )
        row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        row = {"error": "no end"}
    except (ValueError, IndexError):
        row = {"error": "no result"}
    return {"arm": arm, "program": program.name, "kind": program.kind, "variant": variant, **row}


def compare_programs(seconds: float, peers: Path, python: str, file: Path | None) -> None:
    """Run every program with every explorer, and print a table by kind of program."""
    pythons = {arm: _environment(arm, peers, python) for arm in ARMS}
    rows = [
        _row(arm, pythons[arm], program, seconds)
        for program in PROGRAMS
        for arm, (_, kinds) in ARMS.items()
        if program.kind in kinds and pythons[arm]
    ]
    print(
        f"{'explorer':<16} {'kind':<8} {'found':>7} {'accused':>8} {'not run':>8}"
        f" {'schedules/s':>12} {'seconds to find':>16}"
    )
    for arm in ARMS:
        for kind in ("threads", "tasks", "mixed"):
            own = [row for row in rows if (row["arm"], row["kind"]) == (arm, kind)]
            if own:
                print(f"{arm:<16} {kind:<8} {_summary(own)}")
    for row in rows:
        if "error" in row or row["found"] is not (row["variant"] == "broken"):
            why = row.get("error", "missed" if row["variant"] == "broken" else "accused")
            print(f"{row['arm']}: {row['program']}, {row['variant']}: {why}")
    if file is not None:
        data = {"programs": len(PROGRAMS), "python": platform.python_version(), "rows": rows}
        file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    broken = [row for row in rows if row["variant"] == "broken"]
    corrected = [row for row in rows if row["variant"] == "corrected" and "error" not in row]
    found = [row for row in broken if row.get("found")]
    rates = [row["per_s"] for row in corrected]
    rate = f"{statistics.median(rates):.0f}" if rates else "-"
    spent = f"{statistics.median(row['seconds'] for row in found):.3f}" if found else "-"
    accused = sum(row["found"] for row in corrected)
    errors = sum("error" in row for row in rows)
    return (
        f"{f'{len(found)}/{len(broken)}':>7} {f'{accused}/{len(corrected)}':>8} {errors:>8}"
        f" {rate:>12} {spent:>16}"
    )


def main() -> None:
    """Run the arms in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--frontrun", type=Path)
    parser.add_argument("--arm", choices=["frontrun"])
    parser.add_argument("--programs", action="store_true")
    parser.add_argument("--peers", type=Path, default=ROOT / ".nox" / "explorers")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable()
    if options.programs:
        compare_programs(options.seconds, options.peers, options.python, options.json)
        return
    if options.arm:
        measure_frontrun(options.seconds)
        return
    measure_explorer(options.seconds, options.seeds)
    measure_tasks(options.seconds)
    measure_free_threads(options.seconds)
    if options.frontrun is None:
        print("frontrun: skipped, no --frontrun PYTHON")
        return
    wrapper = options.frontrun.parent / "frontrun"
    arm = [options.frontrun, __file__, "--arm", "frontrun", "--seconds", str(options.seconds)]
    subprocess.run([wrapper, *arm], check=False, cwd=ROOT)  # noqa: S603 - the user's interpreter


if __name__ == "__main__":
    main()
