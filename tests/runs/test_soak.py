"""The soak: it ends by itself when something grows, and goes on where it was killed."""

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
from harness.core.errors import TargetLostError, UsageError
from harness.core.history import History, Journal, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Validity
from harness.engine.target import AdapterInstance, Instance
from harness.processes import probe
from harness.report import soaking, trends
from harness.runs import soak
from harness.runs.soak import Asked, Soaked

OPERATIONS = 20_000


class Host:
    """Does nothing, and remembers some of it."""

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
            raise TargetLostError("killed by a passer-by")

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

    def close(self) -> None:
        self.closed = True


class Hosts:
    """A target whose every life is such a host."""

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
    """Samples are taken as often as there is something to see, and nobody looks on."""
    monkeypatch.setattr(soak, "EVERY_MIN_S", 0.0002)
    monkeypatch.setattr(probe, "stacks", lambda _pid: "stacks")

    def unavailable(*_: object) -> None:
        raise probe.UnavailableError("it is dark")

    monkeypatch.setattr(probe, "flame", unavailable)


def soaked(monkeypatch: pytest.MonkeyPatch, reports: Path, **how: bool) -> tuple[Hosts, Soaked]:
    hosts = Hosts(**how)
    monkeypatch.setattr(soak, "find_target", lambda _name: hosts)
    run = Asked("toy", 7, operations=OPERATIONS).begin(reports)
    return hosts, soak.go_on(run, lambda _: None)


def test_a_host_that_does_not_grow_is_lived_in_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, done = soaked(monkeypatch, tmp_path, leak=False)

    assert done.verdict.validity is Validity.VALID
    assert done.lived.operations >= OPERATIONS
    assert [host.closed for host in hosts.opened] == [True]
    assert soaking.rows(done.to_json()) == []


def test_what_grows_ends_the_soak_and_is_named_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Container, slope, file and line; and what could not be looked at is said to be so."""
    hosts, done = soaked(monkeypatch, tmp_path, leak=True)
    told = soaking.text(done.to_json())

    assert done.verdict.validity is Validity.INVALID
    assert done.lived.operations < OPERATIONS
    slope = re.search(r"L9 broken: containers/lifecycle_entries \+([0-9.]+)", told)
    assert slope is not None
    assert float(slope[1]) == pytest.approx(0.1, rel=0.2)  # one session in ten operations
    assert [row[0] for row in soaking.rows(done.to_json())] == ["containers/lifecycle_entries"]
    assert "allocated at lifecycle.py:92" in told
    assert "a flame graph: unavailable: it is dark" in told
    assert (done.run / "stacks.txt").read_text() == "stacks"
    assert [host.closed for host in hosts.opened] == [True, True]  # the soak, and the second look


def test_a_soak_that_was_killed_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lived counts; a sample that the kill has torn is lost, and nothing else."""
    hosts = Hosts(leak=False)
    monkeypatch.setattr(soak, "find_target", lambda _name: hosts)
    run = Asked("toy", 7, operations=OPERATIONS).begin(tmp_path)
    with monkeypatch.context() as now:
        now.setattr(soak, "_until_over", _killed_halfway)
        with pytest.raises(KeyboardInterrupt):
            soak.go_on(run, lambda _: None)
    samples = run / soak.SCENARIO / soak.SAMPLES
    with samples.open("ab") as journal:
        journal.write(b'{"invoke":{"id":9')

    done = soak.go_on(run, lambda _: None)

    assert done.verdict.validity is Validity.VALID
    assert done.lived.lives == 2
    assert OPERATIONS <= done.lived.operations < 2 * OPERATIONS


def _killed_halfway(_soaked: Soaked, _scenario: object, life: soak.Life, _: object) -> None:
    while life.operations < OPERATIONS // 2:
        life.go_on(life.lived_s + soak.EVERY_MIN_S)
    raise KeyboardInterrupt


def test_a_host_that_goes_away_leaves_the_question_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, done = soaked(monkeypatch, tmp_path, leak=False, dies=True)

    assert done.verdict.validity is Validity.UNKNOWN
    assert "killed by a passer-by" in soaking.text(done.to_json())


def test_what_idling_costs_is_told_with_the_samples(tmp_path: Path) -> None:
    """Of a whole server, now and then; an operation more costs nothing then."""

    class Served(Host):
        def idle(self, seconds: float) -> dict[str, float]:
            return {"seconds": seconds, "cpu_s": seconds / 4, "wakeups": 3 * seconds}

    with Journal(tmp_path / soak.SAMPLES, time.monotonic_ns) as journal:
        life = soak.Life(AdapterInstance(Served(leak=False)), journal, "seed")
        life.go_on(0.0)
        life.idle(2.0)
        life.go_on(0.0)
    before, after = life.samples

    assert not any(name.startswith("idle/") for name in before.argument)
    assert after.argument["idle/cpu_s"] == 0.25
    assert after.argument["idle/wakeups"] == 3.0


def test_a_folder_that_is_no_soak_is_a_wrong_question(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        soak.go_on(tmp_path, lambda _: None)


# One soak after another


def a_soak(target: str, rss_bytes: float) -> dict[str, Any]:
    slope = {"reading": "containers/any", "slope": 0.002, "low": 0.0, "too_fast": 0.01}
    return {
        "asked": {"target": target, "over_http": False},
        "lived": {"seconds": 600.0, "operations": 100_000},
        "conclusion": "valid",
        "costs": {"rss_bytes": rss_bytes, "cpu_us_an_operation": 900.0},
        "slopes": [slope],
    }


def test_soaks_are_remembered_in_a_row_and_drawn(tmp_path: Path) -> None:
    for number in range(3):
        trends.remember(tmp_path, a_soak("reference", 2**20 * (10 + number)))
    picture = trends.remember(tmp_path, a_soak("<other>", 2**20)).read_text()

    assert picture.count("<polyline") == 2 * len(trends.PANELS)
    assert picture.count("<circle") == 4 * len(trends.PANELS)
    assert "0 to 12 MiB" in picture
    assert "&lt;other&gt;" in picture
    ET.fromstring(picture)  # noqa: S314  our own, and well-formed


def test_only_so_many_soaks_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "SOAKS_KEPT", 2)
    for number in range(5):
        trends.remember(tmp_path, a_soak("reference", float(number + 1)))
    with closing(sqlite3.connect(tmp_path / trends.FILE)) as db:
        kept = [rss for (rss,) in db.execute("SELECT rss_bytes FROM soaks ORDER BY id")]
        slopes = db.execute("SELECT count(*) FROM slopes").fetchone()[0]

    assert kept == [4.0, 5.0]
    assert slopes == 2


# What idling costs


@pytest.mark.parametrize(
    ("cpu_s", "wakeups", "valid"),
    [(0.0, 0, True), (0.02, 99, True), (0.03, 0, False), (0.0, 101, False)],
)
def test_whoever_is_busy_while_nothing_is_asked_is_told(
    cpu_s: float, wakeups: int, *, valid: bool
) -> None:
    """One percent of a core, and fifty wakeups a second, over two seconds."""
    used = {"seconds": 2.0, "tabs": 3, "cpu_s": cpu_s, "wakeups": wakeups}
    operation = Operation(0, "idle", {"seconds": 2.0}, Outcome.OK, 0, 1, used)
    verdict = idles_within(0.01, 50.0)(History((operation,)))

    assert verdict.is_valid is valid
    assert {anomaly.promise for anomaly in verdict.anomalies} <= {Promise.H5}


# The probe


def test_a_process_is_seen_from_outside() -> None:
    cost = probe.cost_of(os.getpid())

    assert cost.rss_bytes >= cost.uss_bytes > 1 << 20
    assert cost.threads >= 1
    assert cost.fds >= 3
    assert probe.cost_of(os.getpid()).cpu_s >= cost.cpu_s


def test_a_process_that_is_gone_is_lost() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    with pytest.raises(TargetLostError):
        probe.cost_of(child.pid)
