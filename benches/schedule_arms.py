"""Runs one program of `schedule_programs` with one explorer, and prints the result as JSON.

    python benches/schedule_arms.py ARM NAME broken|corrected SECONDS

Run in the environment of that explorer. `found` is whether it reported a failure, `schedules` how
many it ran, `seconds` those of the search, without imports; of a corrected program `per_s` is the
number of schedules in a processor second.
"""

# A script, not a package, which prints; each arm imports what it measures:
# ruff: noqa: INP001, T201, PLC0415, D103

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schedule_programs import MIXED, PROGRAMS, TASKS, THREADS, Program

WARM = 50  # schedules, after which most are not followed
RATE: list[float] = []  # of the explorer that stops where all schedules have run
Found = tuple[bool, int]


def joined(program: Program, thread: Callable[..., Any] = threading.Thread) -> Callable[[], None]:
    """Make a body that runs the workers in threads, and asserts the invariant."""

    def body() -> None:
        assert program.setup is not None
        subject = program.setup()
        workers = [thread(target=worker, args=(subject,)) for worker in program.workers]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert program.holds(subject)

    return body


def ours(program: Program, seconds: float) -> Found:
    import asyncio

    from harness.schedule import Budget, explore

    def body(run: Any) -> None:
        if program.main is not None:
            asyncio.run(program.main())
            return
        assert program.setup is not None
        subject = program.setup()
        for worker in program.workers:
            run.thread(worker, subject)
        run.join()
        assert program.holds(subject)

    result = explore(body, budget=Budget(10**7, seconds))
    if not program.broken:
        times: list[float] = []
        random = Budget(10**7, seconds)
        explore(
            body,
            budget=random,
            strategies=["random"],  # which does not end where others have proven all
            progress=lambda _: times.append(time.process_time()),
        )
        RATE.append((len(times) - 1 - WARM) / (times[-1] - times[WARM]))
    return result.finding is not None, result.schedules


def frontrun(program: Program, seconds: float) -> Found:
    import frontrun

    result = frontrun.explore(
        setup=program.setup,
        workers=list(program.workers),
        invariant=program.holds,
        total_timeout=seconds,
        stop_on_first=True,
        deadlock_timeout=1.0,
        clock="virtual",
    )
    return result.property_holds is False, result.num_explored


def interleave_test(program: Program, seconds: float) -> Found:
    import interleave_test as it

    def spawned(target: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        task = it.spawn(target, *args)
        task.start = lambda: None  # it runs already
        return task

    body, runs, seed, ends = joined(program, spawned), 0, 0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        result = it.explore(body, iterations=20, seed=seed, raise_on_failure=False, timeout=5.0)
        runs += result.schedules_run
        seed += 1
        if not result.ok:
            return True, runs
    return False, runs


def ploom(program: Program, seconds: float) -> Found:  # noqa: ARG001  its name is in the environment
    import ploom
    import schedule_arms

    config = ploom.Config(max_executions=10**6, timeout=seconds, minimize_executions=0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            statistics = ploom.check(schedule_arms.SCENARIO, config=config, trace_dir=Path(folder))
    except ploom.IncompleteExplorationError as error:
        return False, _number(error)
    except ploom.ModelCheckError as error:
        return True, _number(error)
    return False, _number(statistics)


def _number(value: Any) -> int:
    for holder in (value, getattr(value, "statistics", None)):
        for name in ("executions", "schedules"):
            if isinstance(number := getattr(holder, name, None), int):
                return number
    return 0


def detangle(program: Program, seconds: float) -> Found:
    import detangle

    assert program.main is not None
    try:
        stats = detangle.explore(
            program.main, runs=10**7, max_duration=seconds, database=False, shrink=True
        )
    except detangle.BugFound as found:
        return True, found.report.runs
    return False, stats.runs


def simloom(program: Program, seconds: float) -> Found:
    import simloom

    assert program.main is not None
    runs, ends = 0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        result = simloom.explore(
            program.main, runs=20, start_seed=runs, virtual_time=True, seed_randomness=True
        )
        runs += 20
        if result.failures:
            return True, result.failures[0].seed + 1
    return False, runs


def simloop(program: Program, seconds: float) -> Found:
    import simloop

    assert program.main is not None
    runs, ends = 0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        report = simloop.explore(program.main, range(runs, runs + 20))
        runs += 20
        if report is not None:
            return True, report.seed + 1
    return False, runs


def seedloop(program: Program, seconds: float) -> Found:
    import seedloop

    main = program.main
    assert main is not None

    async def scenario(world: Any) -> None:  # noqa: ARG001
        await main()

    runs, ends = 0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        result = seedloop.check(scenario, seeds=range(runs, runs + 20), on_failure="return")
        runs += 20
        if result.failing_seed is not None:
            return True, result.failing_seed + 1
    return False, runs


MODULES = {"hermes-harness": "harness.schedule", "interleave-test": "interleave_test"}
ALL = frozenset({THREADS, TASKS, MIXED})
ARMS: dict[str, tuple[Callable[[Program, float], Found], frozenset[str]]] = {
    "hermes-harness": (ours, ALL),
    "frontrun": (frontrun, frozenset({THREADS})),
    "interleave-test": (interleave_test, frozenset({THREADS})),
    "ploom": (ploom, frozenset({THREADS})),
    "detangle": (detangle, frozenset({TASKS, MIXED})),
    "simloom": (simloom, frozenset({TASKS, MIXED})),
    "simloop": (simloop, frozenset({TASKS, MIXED})),
    "seedloop": (seedloop, frozenset({TASKS})),
}


def SCENARIO() -> None:  # noqa: N802  ploom imports it in a fresh process, by its name
    """Run the program that the environment names."""
    import ploom
    import schedule_programs

    used = {"Lock": ploom.Lock, "Thread": ploom.Thread}
    vars(schedule_programs)["threading"] = type("threading", (), used)
    joined(chosen(os.environ["PROGRAM"], os.environ["VARIANT"]), ploom.Thread)()


def chosen(name: str, variant: str) -> Program:
    """Find a program by its name and variant."""
    return next(p for p in PROGRAMS if p.name == name and p.broken == (variant == "broken"))


def main() -> None:
    """Run one program with one arm."""
    arm, name, variant, seconds = sys.argv[1:5]
    logging.disable()
    program = chosen(name, variant)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    importlib.import_module(MODULES.get(arm, arm))
    began, used = time.perf_counter(), time.process_time()
    try:
        found, schedules = ARMS[arm][0](program, float(seconds))
        row: dict[str, Any] = {"found": found, "schedules": schedules}
    except Exception as error:  # noqa: BLE001  an explorer that does not support the program
        row = {"error": f"{type(error).__name__}: {error}"[:120]}
    if not program.broken and "schedules" in row:
        used = max(time.process_time() - used, 1e-3)
        row["per_s"] = round(RATE[0] if RATE else row["schedules"] / used)
    row["seconds"] = round(time.perf_counter() - began, 4)
    print(json.dumps(row), flush=True)
    os._exit(0)  # whatever threads an explorer left


if __name__ == "__main__":
    main()
