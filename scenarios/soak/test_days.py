"""Days: an install is lived in for days, and is at the end what it was when it had warmed up.

Time passes only while everybody waits, so days pass in seconds; whatever waits for time (grace
periods, a catalog's age, polls, renewals) has its full time. That the shortened clock shows what
the real one would is not taken for granted: a control lives the same hours, hurried, by both
clocks, and where they disagree nothing is known.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from harness.checkers.growth import SAMPLE, Controls, GrowsWithin
from harness.contract.checkers.server.simulated_days import (
    ELAPSED,
    LAPSED,
    LIFE,
    REAL,
    Bound,
    LivedWell,
    elapsed,
    of_process,
)
from harness.contract.workloads.install_days import HOUR_S, LARGE, ROTATION_S, SMALL, Days
from harness.contract.workloads.session_churn import CACHE_TURNS
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.client import RecordingClient
from harness.engine.context import Stage
from harness.engine.scenario import Expectation, Mode, Scenario
from scenarios.conftest import Judge
from scenarios.soak.test_growth import ENTRY, LIMITS

HOURS = 24  # a day
DAYS_MIN = 5  # a warm-up, and as many samples as a trend needs; with 4, one in ten saw too little
LARGE_FROM = 14  # days: in a small install they would show no more
CONTROL = range(8, 16)  # the hours that the control lives
CONTROL_PACE_S = 0.25
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a disk's time is no part of this

OPERATIONS_A_TURN = 1.8
WARM_UP = round(1.5 * CACHE_TURNS * OPERATIONS_A_TURN)

# Where the clocks may differ: what was under way at the last sample, and what SQLite does when.
BOUNDS = (
    Bound("containers/*bytes*", 40.0, 0.1),
    Bound("containers/*", 0.02, 0.1),
    Bound("files/state_db_wal_bytes", 2000.0, 0.25),
    Bound("files/*", 100.0, 0.1),
    Bound("process/blocks", 10.0, 0.15),
    Bound("process/*", 0.02),
)
LIVED = LivedWell(GrowsWithin(LIMITS, WARM_UP, Controls("sessions", "cached", ENTRY)), BOUNDS)


def live(stage: Stage) -> None:
    """Live a control by both clocks, and then as many days as the stage has examples."""
    _live(stage, max(DAYS_MIN, stage.examples), stage.seed)


def live_again(stage: Stage, failed: History) -> None:
    """Live the same life again."""
    _live(stage, failed.notes["days"], failed.notes["seed"])


def _live(stage: Stage, days: int, seed: str) -> None:
    install = SMALL if days < LARGE_FROM else LARGE
    with stage.episode(seed=seed, days=days) as episode:
        hurried = SMALL.hurried(CONTROL_PACE_S)
        for process, ability in ((REAL, "days_real"), (LAPSED, "days")):
            folder = Path(tempfile.mkdtemp(dir=episode.folder))
            instance = stage.target.open(ability, folder)
            client = RecordingClient(instance, stage.journal, process)
            with in_memory(folder), closing(instance):
                live_through(CONTROL, Days(hurried, random.Random(f"{seed}/control")), client)
        with in_memory(episode.folder):
            life = Days(install, random.Random(f"{seed}/days"))
            live_through(range(days * HOURS), life, episode.client)
            episode.client.ask(ELAPSED, {})


def live_through(hours: range, days: Days, client: RecordingClient) -> None:
    """Ask for one hour after another, and sample after each."""
    install = days.install
    told = {"agents_max": install.agents_max, "sessions_max": install.sessions_max}
    rotation_s = ROTATION_S * install.pace_s / HOUR_S
    client.ask("move_in", {"sessions": days.furnished, "rotation_s": rotation_s, **told})
    client.ask(SAMPLE, _told(days))
    for hour in hours:
        client.ask("live", {"seconds": install.pace_s, "acts": days.hour(hour)})
        if hour == hours[-1]:
            client.ask("settle", {})
        client.ask(SAMPLE, _told(days))


def _told(days: Days) -> dict[str, int]:
    cached = min(days.turns, CACHE_TURNS)
    return {"operations": days.operations, "sessions": days.made, "cached": cached}


@contextmanager
def in_memory(folder: Path) -> Iterator[None]:
    """Keep what lies in the folder's `state` in memory, where the system lets us."""
    memory = IN_MEMORY if IN_MEMORY.is_dir() else None
    place = Path(tempfile.mkdtemp(prefix="harness-", dir=memory))
    (folder / "state").symlink_to(place)
    try:
        yield
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _seen(what: str) -> Expectation:
    """So many of it were seen in a life."""

    def count(history: History) -> int:
        hours = (op for op in of_process(history, LIFE).happened if op.function == "live")
        return sum(len(seen) if isinstance(seen := op.result[what], list) else seen for op in hours)

    return Expectation(what, count)


def _days(history: History) -> int:
    """Days that passed, by the clock of whoever lived them."""
    return round(elapsed(history).get("virtual_s", 0.0) / HOUR_S / HOURS)


DAYS = Scenario(
    name="days",
    mode=Mode.SOAK,
    ability="days",
    promises=(
        *(Promise.W1, Promise.W9, Promise.G1, Promise.G2, Promise.M3, Promise.C8, Promise.C9),
        Promise.H4,
    ),
    workload=live,
    checker=LIVED,
    expectations=(
        Expectation("days passed", _days, DAYS_MIN),
        Expectation("there were samples enough", LIVED.judgeable),
        _seen("woken"),
        _seen("projections"),
        _seen("rotations"),
        _seen("fetches"),
    ),
    examples=DAYS_MIN,
    replay=live_again,
)


def test_an_install_is_after_days_what_it_was_when_warm(judge: Judge) -> None:
    """Users, gateways, cron jobs and tokens, for days."""
    assert judge(DAYS).is_valid
