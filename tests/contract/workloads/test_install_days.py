"""Days of an install: what happens in them, and what is caught there that shows only with time."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract.checkers.server.simulated_days import lived_well
from harness.contract.workloads.install_days import HOUR_S, LARGE, QUIET_S, SMALL, Days, Install
from harness.core.errors import UsageError
from harness.core.history import History, Journal, read
from harness.core.promises import Promise
from harness.core.verdict import Verdict
from harness.engine.client import RecordingClient
from harness.engine.discovery import scenarios_folder
from harness.engine.target import Target
from harness.mutation.known_bugs import PACKAGE, find_bugs, plant
from harness.runs import simulated_days as aging
from harness.targets.reference.target import ReferenceTarget
from scenarios.soak import test_days as scenario

SIZES = st.sampled_from([SMALL, LARGE])
REAPER_OFF = (
    "live/channels.py",
    "            for session_id in abandoned:\n",
    "            for session_id in ():\n",
)


def _life(target: Target, folder: Path, hours: int) -> History:
    """So many hours of a small install."""
    journal_path = folder / "history.jsonl"
    place = folder / "days"
    place.mkdir()
    with Journal(journal_path, time.monotonic_ns) as journal, scenario.in_memory(place):
        instance = target.open("days", place)
        with closing(instance):
            client = RecordingClient(instance, journal)
            scenario.live_through(range(8, 8 + hours), Days(SMALL, random.Random(1)), client)
            client.ask("elapsed", {})
    (history,) = read(journal_path)
    return history


def _seen(history: History, what: str) -> list[Any]:
    return [op.result[what] for op in history.happened if op.function == "live"]


# What happens


def _acts(days: Days, hours: int) -> Iterator[dict[str, Any]]:
    for hour in range(hours):
        yield from days.hour(hour)


@given(SIZES, st.integers(0, 1000))
def test_the_population_stays_as_large(install: Install, seed: int) -> None:
    """Who goes is followed by another; nobody is asked who is not there."""
    days = Days(install, random.Random(seed))
    there = {name: source for name, source, _ in days.furnished}
    for act in _acts(days, 30):
        match act:
            case {"act": "delete" | "gateway_drop", "session": name}:
                gone = there.pop(name)
            case {"act": "new" | "gateway_talk", "session": name} if name not in there:
                there[name] = gone
            case {"act": "cron", "session": name, "instead_of": oldest}:
                there[name] = there.pop(oldest)
            case {"session": name}:
                assert name in there

    assert Counter(there.values()) == {
        "webui": install.web + install.archived,
        "telegram": install.gateway,
        "cron": install.cron,
    }


def test_a_large_install_is_as_large_as_it_says() -> None:
    """615 sessions with 40,000 messages."""
    furnished = Days(LARGE, random.Random(1)).furnished

    assert len(furnished) == LARGE.sessions == 615
    assert sum(count for _, _, count in furnished) == pytest.approx(40_000, rel=0.02)


@given(SIZES, st.integers(0, 1000))
def test_an_hour_is_in_order_and_ends_quietly(install: Install, seed: int) -> None:
    """So that all that follows from its acts is seen within it, also if it is hurried."""
    for pace_s in (HOUR_S, 1.0):
        days = Days(install.hurried(pace_s), random.Random(seed))
        times = [act["at"] for act in days.hour(10)]

        assert times == sorted(times)
        assert times[-1] <= (HOUR_S - QUIET_S) * pace_s / HOUR_S


@given(SIZES, st.integers(0, 1000))
def test_the_same_chance_gives_the_same_hours(install: Install, seed: int) -> None:
    """Acts, and the sessions that are there."""
    some, others = (Days(install, random.Random(seed)) for _ in range(2))

    assert some.furnished == others.furnished
    assert list(_acts(some, 5)) == list(_acts(others, 5))
    assert some.operations == others.operations


# What is seen


def test_a_day_and_more_of_the_reference(tmp_path: Path) -> None:
    """The catalog is asked for once a day, every 14 minutes tokens rotate, and nobody is lost."""
    history = _life(ReferenceTarget(), tmp_path, 26)
    ended = [process for hour in _seen(history, "ended") for process, _ in hour]
    woken = [process for hour in _seen(history, "woken") for process in hour]

    assert all(op.outcome.name == "OK" for op in history)
    assert lived_well(history).is_valid
    assert sum(_seen(history, "fetches")) == 2
    assert sum(_seen(history, "rotations")) == 26 * 60 // 14
    assert ended
    assert set(woken) <= set(ended)
    (elapsed,) = (op.result for op in history if op.function == "elapsed")
    assert elapsed["virtual_s"] == pytest.approx(26 * HOUR_S, rel=0.01)


@pytest.mark.parametrize(
    ("name", "promise"),
    [
        ("fingerprint-churns-on-token-refresh", Promise.M3),
        ("watcher-projects-every-poll", Promise.G2),
    ],
)
def test_a_known_bug_that_shows_with_time_shows_in_hours(
    name: str, promise: Promise, tmp_path: Path
) -> None:
    """By its own promise; time passes for it as it does for everybody."""
    planted = plant(find_bugs([name])[name], tmp_path / "planted")
    verdict = lived_well(_life(ReferenceTarget(planted), tmp_path, 4))

    assert [promise in anomaly.promises for anomaly in verdict.anomalies] == [True]


def test_a_reaper_that_is_off_shows_when_the_grace_is_over(tmp_path: Path) -> None:
    """Channels that nobody reads any more stay for ever: by no means before a minute has passed."""
    verdict = lived_well(_life(_spoilt(tmp_path, *REAPER_OFF), tmp_path, 4))

    assert [anomaly.promise for anomaly in verdict.anomalies] == [Promise.C9]


def _spoilt(folder: Path, file: str, old: str, new: str) -> ReferenceTarget:
    """The reference with another line in it."""
    planted = folder / "planted"
    shutil.copytree(scenarios_folder().parent / PACKAGE, planted / PACKAGE)
    path = planted / PACKAGE / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    return ReferenceTarget(planted)


@pytest.mark.parametrize(
    ("name", "promise", "container"),
    [
        ("process-index-never-pruned", Promise.W9, "wakeup_index"),
        ("slow-queue-unbounded", Promise.C8, "channel_frames_kept"),
    ],
)
def test_what_grows_by_little_grows_over_days(
    name: str, promise: Promise, container: str, tmp_path: Path
) -> None:
    """One entry a session or a turn: too little to see in an hour, and its container is named."""
    planted = plant(find_bugs([name])[name], tmp_path / "planted")
    history = _life(ReferenceTarget(planted), tmp_path, 4 * 24)
    verdict: Verdict = scenario.LIVED.grown(history)

    assert lived_well(history).is_valid
    assert [anomaly.promise for anomaly in verdict.anomalies] == [promise]
    assert container in verdict.anomalies[0].message


def test_a_life_tells_how_fast_it_went_and_why_to_believe_it(tmp_path: Path) -> None:
    """More time passed than it took, and the control moved, by both clocks alike."""
    aged = aging.live("reference", 1, 1, tmp_path)
    document = json.loads((aged.run / "verdict.json").read_text(encoding="utf-8"))

    assert aged.record.verdict.is_valid
    assert aged.ratio > 1
    assert document["virtual_s"] == pytest.approx(scenario.DAYS_MIN * 24 * HOUR_S, rel=0.01)
    assert document["ratio"] == pytest.approx(aged.ratio, abs=0.1)
    assert "files/sidecar_bytes" in {reading for reading, *_ in aged.rows()}
    assert {verdict for *_, verdict in aged.rows()} == {""}


def test_who_cannot_live_for_days_is_told_so(tmp_path: Path) -> None:
    """A target without the ability is a wrong question."""
    with pytest.raises(UsageError, match="no ability 'days'"):
        aging.live("hermes-agent==0.19.0", 1, 1, tmp_path)
