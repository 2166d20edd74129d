"""Tests of the marker and the fixture `schedules`: bodies, failures, replays, progress."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.runs import schedule_tests
from harness.runs.schedule_tests import FailedError, OtherTestError, Schedules
from harness.schedule import Budget, Run
from harness.schedule.again import unpacked

pytest_plugins = ["pytester"]

BANK = """
import threading
import pytest


class Account:
    def __init__(self):
        self.lock = threading.Lock()
        self.balance = 0

    def deposit(self, amount):
        with self.lock:
            before = self.balance
        with self.lock:
            self.balance = before + amount


@pytest.mark.schedules(level="sync")
def test_deposits(run, tmp_path):
    assert tmp_path.is_dir()
    account = Account()
    run.thread(account.deposit, 1)
    run.thread(account.deposit, 2)
    run.join()
    assert account.balance == 3


def test_one_deposit(schedules):
    def body(run):
        account = Account()
        run.thread(account.deposit, 1)
        run.join()
        assert account.balance == 1

    assert schedules(body).exhausted


@pytest.mark.schedules
def test_without_run():
    pass
"""


def test_marked_test_is_a_body(pytester: pytest.Pytester) -> None:
    """It gets a run for each schedule; the failure prints how to execute it again."""
    pytester.makeini("[pytest]\naddopts = --strict-markers\n")
    pytester.makepyfile(test_bank=BANK)
    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(["has the marker schedules, but neither `run` nor `schedules`"])
    result.stdout.fnmatch_lines(["assertion in main: *", "decided at step *", "*>*start*"])
    assert "pytest 'test_bank.py::test_deposits[schedules]' --" in result.stdout.str()
    assert len(list((pytester.path / ".pytest_cache/d/harness-schedules").iterdir())) == 1

    option = re.search(r"--schedules-replay=\S+", result.stdout.str())
    assert option is not None
    replayed = pytester.runpytest_subprocess("-rs", option[0])
    replayed.assert_outcomes(failed=2, skipped=1)
    replayed.stdout.fnmatch_lines(["*is a schedule of test_bank.py::test_deposits[[]schedules[]]"])


class Account:
    """An account that loses deposits, unless it is mended."""

    is_mended = False

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.balance = 0

    def deposit(self, amount: int) -> None:
        if self.is_mended:
            with self.lock:
                self.balance += amount
            return
        with self.lock:
            before = self.balance
        with self.lock:
            self.balance = before + amount


def deposits(run: Run) -> None:
    """Two deposits must both count."""
    account = Account()
    run.thread(account.deposit, 1)
    run.thread(account.deposit, 2)
    run.join()
    assert account.balance == 3


def failure(search: Schedules) -> str:
    """The message with which a search of the deposits fails the test."""
    with pytest.raises(FailedError) as failed:
        search(deposits)
    return str(failed.value)


def test_stored_failure_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any search; it is forgotten when a search finds nothing."""
    first = failure(Schedules("t.py::test_x", {}, folder=tmp_path))
    assert not first.startswith("a failure of an earlier run")
    with monkeypatch.context() as patch:
        patch.setattr(schedule_tests, "explore", lambda *_, **__: pytest.fail("explored"))
        again = failure(Schedules("t.py::test_x", {}, folder=tmp_path))
    assert again.startswith("a failure of an earlier run, asked first\nassertion in main")

    monkeypatch.setattr(Account, "is_mended", True)
    result = Schedules("t.py::test_x", {}, folder=tmp_path)(deposits)
    assert result is not None
    assert result.exhausted
    assert list(tmp_path.iterdir()) == []


def test_damaged_store_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another version stored is ignored."""
    failure(Schedules("t.py::test_x", {}, folder=tmp_path))
    for path in tmp_path.iterdir():
        path.write_text('{"kind": "assertion"}', encoding="utf-8")
    monkeypatch.setattr(Account, "is_mended", True)

    assert Schedules("t.py::test_x", {}, folder=tmp_path)(deposits) is not None


def test_replay_executes_one_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails while the race is there, and belongs to one body of one test."""
    text = failure(Schedules("a/t.py::test_x", {})).rpartition("=")[2]
    monkeypatch.setattr(schedule_tests, "explore", lambda *_, **__: pytest.fail("explored"))

    assert failure(Schedules("t.py::test_x", {}, replay=text)).startswith("assertion in main")
    with pytest.raises(OtherTestError, match=r"a schedule of t\.py::test_x"):
        Schedules("t.py::test_y", {}, replay=text)(deposits)
    monkeypatch.setattr(Account, "is_mended", True)
    assert Schedules("t.py::test_x", {}, replay=text)(deposits) is None


def test_progress_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few seconds, with the number of schedules."""
    lines: list[str] = []
    monkeypatch.setattr(schedule_tests, "PROGRESS_S", 0.0)
    monkeypatch.setattr(Account, "is_mended", True)
    Schedules("t.py::test_x", {"budget": Budget(schedules=20)}, report=lines.append)(deposits)

    assert re.match(r"t\.py::test_x: 1 schedules in \d+ s, none failed", lines[0])


def test_unknown_verdict_can_be_allowed() -> None:
    """No schedule in no time proves nothing."""
    search = Schedules("test_x", {"seconds": 0.0})
    with pytest.raises(FailedError, match="the verdict is unknown: 0 in 1 schedules"):
        search(deposits)

    assert search(deposits, allow_unknown=True) is not None


def test_cut_replay_text_is_usage_error() -> None:
    """As where a terminal broke the line."""
    with pytest.raises(UsageError, match="is no packed schedule, expected all of its text"):
        unpacked("eNo1jtsKgzAMQP8lz2VM")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": "line"}, "unknown setting 'levels', known: allow_unknown, budget, level, "),
        ({"level": "lines"}, "unknown level 'lines', known: sync, line, opcode"),
        ({"budget": "100"}, "budget '100', expected a Budget or a number of schedules"),
    ],
)
def test_wrong_setting_is_usage_error(settings: dict[str, object], message: str) -> None:
    """The message names what is known."""
    with pytest.raises(UsageError, match=message):
        Schedules("test_x", {})(deposits, **settings)


def test_budget_is_number_of_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    """As short as it can be said."""
    monkeypatch.setattr(Account, "is_mended", True)
    result = Schedules("test_x", {"budget": 7})(deposits)

    assert result is not None
    assert result.schedules == 7
