"""Tests of soaks: they end when something grows, resume after a kill, and draw trends."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from harness.checkers.idle_cost import idles_within
from harness.contract import promises
from harness.core.errors import TargetLostError, UsageError
from harness.core.history import History, Journal, Operation, Outcome
from harness.core.verdict import Validity
from harness.engine.target import AdapterInstance, Instance
from harness.processes import probe
from harness.report import folder, soaking, trends
from harness.runs import soak
from harness.runs.pytest_run import no_progress
from harness.runs.soak import SoakEpisode, SoakPlan, SoakResult, run_soak

OPERATIONS = 20_000


class Host:
    """A host that keeps its sessions, and with `leak` the deleted ones too."""

    def __init__(self, *, leak: bool, dies: bool = False) -> None:
        self.entries: list[str] = []
        self.leaks = leak
        self.dies_after = OPERATIONS // 2 if dies else OPERATIONS * 2
        self.closed = False

    def __getattr__(self, function: str) -> Callable[..., Any]:
        if function.startswith("_"):
            raise AttributeError(function)
        return self.act

    def act(self, **_: Any) -> None:
        self.dies_after -= 1
        if not self.dies_after:
            raise TargetLostError("killed")

    def new(self, session: str, **_: str) -> None:
        self.entries.append(session)

    def delete(self, session: str) -> None:
        if not self.leaks:
            self.entries.remove(session)

    def sample(self, **_: float) -> dict[str, float]:
        return {"containers/lifecycle_entries": len(self.entries)}

    def pid(self) -> int:
        return os.getpid()

    def sites(self, reading: str) -> list[dict[str, Any]]:
        assert reading == "containers/lifecycle_entries"
        return [{"file": "lifecycle.py", "line": 92, "blocks": 10, "evenness": 0.9}]

    def holders(self, reading: str) -> list[dict[str, Any]]:
        assert reading == "containers/lifecycle_entries"
        return [{"path": "lifecycle.LIFECYCLE.sessions", "entries": 10}]

    def close(self) -> None:
        self.closed = True


class Hosts:
    """A target whose instances are such hosts."""

    name = "toy"
    abilities = frozenset({"soak"})

    def __init__(self, **how: bool) -> None:
        self.how = how
        self.opened: list[Host] = []

    def prepare(self) -> None:
        pass

    def open(self, ability: str, folder: Path) -> Instance:
        assert ability == "soak"
        assert not list(folder.iterdir())
        self.opened.append(Host(**self.how))
        return AdapterInstance(self.opened[-1])

    def standalone(self, ability: str) -> str:
        return ability


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes samples often, and replaces stacks and flame graphs."""
    monkeypatch.setattr(soak, "PERIOD_MIN_S", 0.0002)
    monkeypatch.setattr(probe, "stacks", lambda _pid: "stacks")

    def unavailable(*_: object) -> None:
        raise probe.UnavailableError("no py-spy")

    monkeypatch.setattr(probe, "flame", unavailable)


def soaked(monkeypatch: pytest.MonkeyPatch, reports: Path, **how: bool) -> tuple[Hosts, SoakResult]:
    hosts = Hosts(**how)
    monkeypatch.setattr(soak, "find_target", lambda _name: hosts)
    run = SoakPlan("toy", 7, operations=OPERATIONS).begin(reports)
    return hosts, run_soak(run, no_progress)


def test_a_steady_host_is_soaked_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, done = soaked(monkeypatch, tmp_path, leak=False)

    assert done.verdict.validity is Validity.VALID
    assert done.totals.operations >= OPERATIONS
    assert [host.closed for host in hosts.opened] == [True]
    assert soaking.rows(done.to_json()) == []
    assert "harness_soak_exit_code{" in (done.run / "metrics.txt").read_text(encoding="utf-8")
    assert folder.read_json(done.run / "findings.json")["conclusion"] == "valid"


def test_growth_ends_the_soak_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Container, slope, file and line; an unavailable flame graph is noted."""
    hosts, done = soaked(monkeypatch, tmp_path, leak=True)
    text = soaking.text(done.to_json())

    assert done.verdict.validity is Validity.INVALID
    assert done.totals.operations < OPERATIONS
    slope = re.search(r"containers/lifecycle_entries \+([0-9.]+) \(at least \+([0-9.]+)\)", text)
    assert slope is not None
    estimated, at_least = map(float, slope.groups())
    # One session in ten operations; how many samples there are depends on the machine.
    assert estimated == pytest.approx(0.1, rel=0.5)
    assert 0 < at_least <= estimated
    assert [row[0] for row in soaking.rows(done.to_json())] == ["containers/lifecycle_entries"]
    assert "allocated at lifecycle.py:92" in text
    assert "held by lifecycle.LIFECYCLE.sessions (+10 entries" in text
    assert "a flame graph: unavailable: no py-spy" in text
    assert (done.run / "stacks.txt").read_text() == "stacks"
    assert [host.closed for host in hosts.opened] == [
        True,
        True,
    ]  # of the soak, and of the traced episode


def test_a_killed_soak_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that passed counts; only the sample that the kill has torn is lost."""
    hosts = Hosts(leak=False)
    monkeypatch.setattr(soak, "find_target", lambda _name: hosts)
    run = SoakPlan("toy", 7, operations=OPERATIONS).begin(tmp_path)
    with monkeypatch.context() as now:
        now.setattr(soak, "_run_until_over", _killed_halfway)
        with pytest.raises(KeyboardInterrupt):
            run_soak(run, no_progress)
    samples = run / soak.SCENARIO / soak.SAMPLES
    with samples.open("ab") as journal:
        journal.write(b'{"invoke":{"id":9')

    done = run_soak(run, no_progress)

    assert done.verdict.validity is Validity.VALID
    assert done.totals.episodes == 2
    assert OPERATIONS <= done.totals.operations < 2 * OPERATIONS


def _killed_halfway(
    _result: SoakResult, _scenario: object, episode: SoakEpisode, _: object
) -> None:
    while episode.operations < OPERATIONS // 2:
        episode.run_until(episode.elapsed_s + soak.PERIOD_MIN_S)
    raise KeyboardInterrupt


def test_a_lost_host_gives_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, done = soaked(monkeypatch, tmp_path, leak=False, dies=True)

    assert done.verdict.validity is Validity.UNKNOWN
    assert "unknown: the host ended: killed" in soaking.text(done.to_json())


def test_idle_costs_are_added_to_samples(tmp_path: Path) -> None:
    """Later samples contain the processor time and the wakeups of each idle second."""

    class IdleHost(Host):
        def idle(self, seconds: float) -> dict[str, float]:
            return {"seconds": seconds, "cpu_s": seconds / 4, "wakeups": 3 * seconds}

    with Journal(tmp_path / soak.SAMPLES, time.monotonic_ns) as journal:
        episode = SoakEpisode(AdapterInstance(IdleHost(leak=False)), journal, "seed")
        episode.run_until(0.0)
        episode.idle(2.0)
        episode.run_until(0.0)
    before, after = episode.samples

    assert not any(name.startswith("idle/") for name in before.argument)
    assert after.argument["idle/cpu_s"] == 0.25
    assert after.argument["idle/wakeups"] == 3.0


def test_resume_of_another_run_is_a_usage_error(tmp_path: Path) -> None:
    """The error names the plan."""
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"run\.json: expected the plan of a soak"):
        run_soak(tmp_path, no_progress)


# Trends of soaks


def a_soak(target: str, rss_bytes: float) -> dict[str, Any]:
    slope = {"reading": "containers/any", "slope": 0.002, "low": 0.0, "too_fast": 0.01}
    return {
        "plan": {"target": target, "over_http": False},
        "totals": {"seconds": 600.0, "operations": 100_000},
        "conclusion": "valid",
        "costs": {"rss_bytes": rss_bytes, "cpu_us_an_operation": 900.0},
        "slopes": [slope],
    }


def test_trends_draw_one_series_a_target(tmp_path: Path) -> None:
    for number in range(3):
        trends.remember(tmp_path, a_soak("reference", 2**20 * (10 + number)))
    picture = trends.remember(tmp_path, a_soak("<other>", 2**20)).read_text()

    assert picture.count("<polyline") == 2 * len(trends.PANELS)
    assert picture.count("<circle") == 4 * len(trends.PANELS)
    assert "0 to 12 MiB" in picture
    assert "&lt;other&gt;" in picture
    ET.fromstring(picture)  # noqa: S314  our own, and well-formed


def test_trends_delete_the_oldest_soaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "SOAKS_KEPT", 2)
    for number in range(5):
        trends.remember(tmp_path, a_soak("reference", float(number + 1)))
    with closing(sqlite3.connect(tmp_path / trends.FILE)) as db:
        sizes = [rss for (rss,) in db.execute("SELECT rss_bytes FROM soaks ORDER BY id")]
        slopes = db.execute("SELECT count(*) FROM slopes").fetchone()[0]

    assert sizes == [4.0, 5.0]
    assert slopes == 2


# Idle costs


@pytest.mark.parametrize(
    ("cpu_s", "wakeups", "valid"),
    [(0.0, 0, True), (0.02, 99, True), (0.03, 0, False), (0.0, 101, False)],
)
def test_a_busy_idle_process_breaks_h5(cpu_s: float, wakeups: int, *, valid: bool) -> None:
    """More than one percent of a core or fifty wakeups a second, over two seconds."""
    used = {"seconds": 2.0, "tabs": 3, "cpu_s": cpu_s, "wakeups": wakeups}
    operation = Operation(0, "idle", {"seconds": 2.0}, Outcome.OK, 0, 1, used)
    verdict = idles_within(promises.H5, 0.01, 50.0)(History((operation,)))

    assert verdict.is_valid is valid
    assert {anomaly.promise for anomaly in verdict.anomalies} <= {promises.H5}


# The probe of processes


def test_probe_reads_memory_threads_and_files() -> None:
    cost = probe.cost_of(os.getpid())

    assert cost.rss_bytes >= cost.uss_bytes > 1 << 20
    assert cost.threads >= 1
    assert cost.fds >= 3
    assert probe.cost_of(os.getpid()).cpu_s >= cost.cpu_s


def test_probe_of_an_ended_process_is_lost() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    with pytest.raises(TargetLostError):
        probe.cost_of(child.pid)
