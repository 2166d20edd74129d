"""Scenario of simulated days of an install: at the end it is as large as after its warm-up.

Time passes only while every thread waits, so days pass in seconds; grace periods, ages, polls and
renewals take their full virtual time. That the virtual clock shows what the real one would is
checked: a control runs the same hours, shortened, by both clocks, and where they disagree the
verdict is unknown.
"""

from __future__ import annotations

import random
import tempfile
from contextlib import closing
from pathlib import Path

from harness.checkers.growth import SAMPLE, Controls, GrowsWithin
from harness.contract import promises
from harness.contract.checkers.server.simulated_days import (
    ELAPSED,
    LAPSED,
    LIFE,
    REAL,
    Bound,
    InstallDaysChecker,
    elapsed,
    of_process,
)
from harness.contract.workloads.install_days import HOUR_S, LARGE, ROTATION_S, SMALL, Days
from harness.contract.workloads.session_churn import CACHE_TURNS
from harness.core.history import History
from harness.engine.client import RecordingClient
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

from .test_growth import ENTRY, LIMITS, in_memory

HOURS = 24  # a day
DAYS_MIN = 5  # a warm-up, and as many samples as a trend needs; 4 were too few in one run of ten
LARGE_FROM = 14  # days; more days show no more in a small install
CONTROL = range(8, 16)  # the hours of the control
CONTROL_PACE_S = 0.25

OPERATIONS_A_TURN = 1.8
WARM_UP = round(1.5 * CACHE_TURNS * OPERATIONS_A_TURN)

# How far the clocks may differ: by runs active at the last sample, and by when SQLite checkpoints.
BOUNDS = (
    Bound("containers/*bytes*", 40.0, 0.1),
    Bound("containers/*", 0.02, 0.1),
    Bound("files/state_db_wal_bytes", 2000.0, 0.25),
    Bound("files/*", 100.0, 0.1),
    Bound("process/blocks", 10.0, 0.15),
    Bound("process/*", 0.02),
)
CHECKER = InstallDaysChecker(
    GrowsWithin(LIMITS, WARM_UP, Controls("sessions", "cached", ENTRY)), BOUNDS
)


def run_days(context: Context) -> None:
    """Run the control by both clocks, and then a day for each example."""
    _run(context, max(DAYS_MIN, context.examples), context.seed)


def run_days_again(context: Context, failed: History) -> None:
    """Run the same days again."""
    _run(context, failed.notes["days"], failed.notes["seed"])


def _run(context: Context, days: int, seed: str) -> None:
    install = SMALL if days < LARGE_FROM else LARGE
    with context.episode(seed=seed, days=days) as episode:
        hurried = SMALL.hurried(CONTROL_PACE_S)
        for process, ability in ((REAL, "days_real"), (LAPSED, "days")):
            folder = Path(tempfile.mkdtemp(dir=episode.folder))
            instance = context.target.open(ability, folder)
            client = RecordingClient(instance, context.journal, process)
            with in_memory(folder), closing(instance):
                run_hours(CONTROL, Days(hurried, random.Random(f"{seed}/control")), client)
        with in_memory(episode.folder):
            days_of_install = Days(install, random.Random(f"{seed}/days"))
            run_hours(range(days * HOURS), days_of_install, episode.client)
            episode.client.ask(ELAPSED, {})


def run_hours(hours: range, days: Days, client: RecordingClient) -> None:
    """Run one hour after another, and sample after each."""
    install = days.install
    caps = {"agents_max": install.agents_max, "sessions_max": install.sessions_max}
    rotation_s = ROTATION_S * install.pace_s / HOUR_S
    client.ask("move_in", {"sessions": days.furnished, "rotation_s": rotation_s, **caps})
    client.ask(SAMPLE, _counts(days))
    for hour in hours:
        client.ask("live", {"seconds": install.pace_s, "acts": days.hour(hour)})
        if hour == hours[-1]:
            client.ask("settle", {})
        client.ask(SAMPLE, _counts(days))


def _counts(days: Days) -> dict[str, int]:
    cached = min(days.turns, CACHE_TURNS)
    return {"operations": days.operations, "sessions": days.made, "cached": cached}


def _observed(field: str) -> Expectation:
    """Expect something in a field of the hours."""

    def count(history: History) -> int:
        hours = of_process(history, LIFE).happened.of("live")
        values = (op.result[field] for op in hours)
        return sum(len(value) if isinstance(value, list) else value for value in values)

    return Expectation(field, count)


def _days(history: History) -> int:
    """Count the days that passed on the virtual clock."""
    return round(elapsed(history).get("virtual_s", 0.0) / HOUR_S / HOURS)


DAYS = Scenario(
    name="days",
    mode=Mode.SOAK,
    ability="days",
    promises=(
        *(
            promises.W1,
            promises.W9,
            promises.G1,
            promises.G2,
            promises.M3,
            promises.C8,
            promises.C9,
        ),
        promises.H4,
    ),
    workload=run_days,
    checker=CHECKER,
    expectations=(
        Expectation("days passed", _days, DAYS_MIN),
        Expectation("there were enough samples", CHECKER.judgeable),
        _observed("woken"),
        _observed("projections"),
        _observed("rotations"),
        _observed("fetches"),
    ),
    examples=DAYS_MIN,
    replay=run_days_again,
    extras=("soak",),
)


def test_install_after_days_is_as_after_warm_up(judge: Judge) -> None:
    """Users, gateways, cron jobs and tokens, for days."""
    assert judge(DAYS).is_valid
