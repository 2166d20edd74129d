"""Tests of simulated days of an install: their acts, and bugs that only time reveals."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import promises
from harness.contract.checkers.server.simulated_days import check_install_days
from harness.contract.workloads.install_days import HOUR_S, LARGE, QUIET_S, SMALL, Days, Install
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import History, Journal, read
from harness.core.verdict import Verdict
from harness.engine.client import RecordingClient
from harness.engine.suite import suite_with_source
from harness.engine.target import Target
from harness.mutation.known_bugs import copy_source, find_bugs, plant
from harness.runs import simulated_days
from harness.targets.reference.target import ReferenceTarget
from scenarios.soak import test_days as scenario
from scenarios.soak.test_growth import in_memory

SIZES = st.sampled_from([SMALL, LARGE])
REAPER_OFF = (
    "live/channels.py",
    "            for session_id in abandoned:\n",
    "            for session_id in ():\n",
)


def _history(target: Target, folder: Path, hours: int) -> History:
    """Run a number of hours of a small install; returns their history."""
    journal_path = folder / "history.jsonl"
    state = folder / "days"
    state.mkdir()
    with Journal(journal_path, time.monotonic_ns) as journal, in_memory(state):
        instance = target.open("days", state)
        with closing(instance):
            client = RecordingClient(instance, journal)
            scenario.run_hours(range(8, 8 + hours), Days(SMALL, random.Random(1)), client)
            client.ask("elapsed", {})
    (history,) = read(journal_path)
    return history


def _results(history: History, field: str) -> list[Any]:
    return [op.result[field] for op in history.happened.of("live")]


# Acts


def _acts(days: Days, hours: int) -> Iterator[dict[str, Any]]:
    for hour in range(hours):
        yield from days.hour(hour)


@given(SIZES, st.integers(0, 1000))
def test_population_keeps_its_size(install: Install, seed: int) -> None:
    """Another session replaces each one that goes; no act names a missing session."""
    days = Days(install, random.Random(seed))
    population = {name: source for name, source, _ in days.furnished}
    for act in _acts(days, 30):
        match act:
            case {"act": "delete" | "gateway_drop", "session": name}:
                gone = population.pop(name)
            case {"act": "new" | "gateway_talk", "session": name} if name not in population:
                population[name] = gone
            case {"act": "cron", "session": name, "instead_of": oldest}:
                population[name] = population.pop(oldest)
            case {"session": name}:
                assert name in population

    assert Counter(population.values()) == {
        "webui": install.web + install.archived,
        "telegram": install.gateway,
        "cron": install.cron,
    }


def test_large_install_has_its_stated_size() -> None:
    """615 sessions with 40,000 messages."""
    furnished = Days(LARGE, random.Random(1)).furnished

    assert len(furnished) == LARGE.sessions == 615
    assert sum(count for _, _, count in furnished) == pytest.approx(40_000, rel=0.02)


@given(SIZES, st.integers(0, 1000))
def test_hour_is_ordered_and_ends_quiet(install: Install, seed: int) -> None:
    """The effects of an act are observed in its hour, in a shortened one too."""
    for pace_s in (HOUR_S, 1.0):
        days = Days(install.hurried(pace_s), random.Random(seed))
        times = [act["at"] for act in days.hour(10)]

        assert times == sorted(times)
        assert times[-1] <= (HOUR_S - QUIET_S) * pace_s / HOUR_S


@given(SIZES, st.integers(0, 1000))
def test_same_seed_gives_same_hours(install: Install, seed: int) -> None:
    """The same acts, and the same sessions at the beginning."""
    one, other = (Days(install, random.Random(seed)) for _ in range(2))

    assert one.furnished == other.furnished
    assert list(_acts(one, 5)) == list(_acts(other, 5))
    assert one.operations == other.operations


# Observations


def test_reference_day_breaks_no_promise(tmp_path: Path) -> None:
    """The catalog is fetched once a day, tokens rotate every 14 minutes, wakeups arrive."""
    history = _history(ReferenceTarget(), tmp_path, 26)
    ended = [process for hour in _results(history, "ended") for process, _ in hour]
    woken = [process for hour in _results(history, "woken") for process in hour]

    assert all(op.outcome.name == "OK" for op in history)
    assert check_install_days(history).is_valid
    assert sum(_results(history, "fetches")) == 2
    assert sum(_results(history, "rotations")) == 26 * 60 // 14
    assert ended
    assert set(woken) <= set(ended)
    (elapsed,) = (op.result for op in history.of("elapsed"))
    assert elapsed["virtual_s"] == pytest.approx(26 * HOUR_S, rel=0.01)


@pytest.mark.parametrize(
    ("name", "promise"),
    [
        ("fingerprint-churns-on-token-refresh", promises.M3),
        ("watcher-projects-every-poll", promises.G2),
    ],
)
def test_bug_over_time_is_found_within_hours(name: str, promise: Promise, tmp_path: Path) -> None:
    """It is found by its own promise, on the virtual clock."""
    planted = plant(find_bugs([name])[name], tmp_path / "planted")
    verdict = check_install_days(_history(ReferenceTarget(planted), tmp_path, 4))

    assert [promise in anomaly.promises for anomaly in verdict.anomalies] == [True]


def test_disabled_collector_is_found_after_grace(tmp_path: Path) -> None:
    """Channels without readers stay: no violation before a minute has passed."""
    verdict = check_install_days(_history(_patched(tmp_path, *REAPER_OFF), tmp_path, 4))

    assert [anomaly.promise for anomaly in verdict.anomalies] == [promises.C9]


def _patched(folder: Path, file: str, old: str, new: str) -> ReferenceTarget:
    """The reference with one line replaced."""
    planted = folder / "planted"
    copy_source(suite_with_source(), planted)
    path = planted / "reference_impl" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    return ReferenceTarget(planted)


@pytest.mark.parametrize(
    ("name", "promise", "container"),
    [
        ("process-index-never-pruned", promises.W9, "wakeup_index"),
        ("slow-queue-unbounded", promises.C8, "channel_frames_kept"),
    ],
)
def test_slow_leak_is_found_over_days(
    name: str, promise: Promise, container: str, tmp_path: Path
) -> None:
    """One entry for each session or turn is too little for an hour; the container is named."""
    planted = plant(find_bugs([name])[name], tmp_path / "planted")
    history = _history(ReferenceTarget(planted), tmp_path, 4 * 24)
    verdict: Verdict = scenario.CHECKER.grown(history)

    assert check_install_days(history).is_valid
    assert [anomaly.promise for anomaly in verdict.anomalies] == [promise]
    assert container in verdict.anomalies[0].message


def test_run_reports_speed_and_control(tmp_path: Path) -> None:
    """More virtual time passed than real time, and the control agrees on both clocks."""
    run = simulated_days.simulate("reference", 1, scenario.DAYS_MIN, tmp_path)
    document = json.loads((run.run / "verdict.json").read_text(encoding="utf-8"))

    assert run.record.verdict.is_valid
    assert run.ratio > 1
    assert document["virtual_s"] == pytest.approx(scenario.DAYS_MIN * 24 * HOUR_S, rel=0.01)
    assert document["ratio"] == pytest.approx(run.ratio, abs=0.1)
    assert "files/sidecar_bytes" in {reading for reading, *_ in run.rows()}
    assert {verdict for *_, verdict in run.rows()} == {""}


def test_target_without_ability_is_a_usage_error(tmp_path: Path) -> None:
    """The error names the ability."""
    with pytest.raises(UsageError, match="no ability 'days'"):
        simulated_days.simulate("hermes-agent==0.19.0", 1, 1, tmp_path)
