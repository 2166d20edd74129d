"""How scenarios are run under pytest: the options, and the judge that each test asks.

`pytest scenarios` works by itself; the `harness` command adds a run folder, workers and a
lifeline, so that no test outlives the command that asked for it.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.core.verdict import Verdict
from harness.engine import supervision as lifeline
from harness.engine.runner import run
from harness.engine.scenario import Scenario
from harness.engine.target import Target
from harness.report import judgement
from harness.report.folder import BROKEN
from harness.targets.registry import find_target

Judge = Callable[[Scenario], Verdict]

ROUNDS = 2  # for a scenario that did not meet what it needs

# What a target logs is not ours to say, and costs time where it is said for nobody.
logging.getLogger().addHandler(logging.NullHandler())

_line = lifeline.grasp()
if _line is not None:
    _line.watch()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of a trial."""
    group = parser.getgroup("harness", "scenarios on trial")
    group.addoption("--target", default="reference", help="what is on trial (default: reference)")
    group.addoption("--seed", type=int, default=1, help="where all chance comes from (default: 1)")
    group.addoption("--effort", type=float, default=1.0, help="1 is about a minute's gate")
    group.addoption("--scenario", action="append", default=[], help="only this one; repeatable")
    group.addoption("--run-folder", type=Path, help="where the evidence goes (default: temporary)")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell the command at the other end of the lifeline how each test went."""
    if _line is not None and (report.when == "call" or report.failed or report.skipped):
        error = report.longreprtext if report.failed else ""
        _line.tell({"test": report.nodeid, "outcome": report.outcome, "error": error})


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Leave a note of what broke the harness, where a verdict would have been."""
    try:
        yield
    except BaseException as error:
        folder.mkdir(parents=True, exist_ok=True)
        told = f"{type(error).__name__}: {error} (more in {folder / BROKEN})"
        (folder / BROKEN).write_text(f"{told}\n\n{traceback.format_exc()}", encoding="utf-8")
        raise


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    """The target on trial, ready to open."""
    found = find_target(request.config.getoption("--target"))
    found.prepare()
    return found


@pytest.fixture
def judge(request: pytest.FixtureRequest, target: Target, tmp_path: Path) -> Judge:
    """Ask for a verdict on one scenario; its evidence goes into the run folder."""
    option = request.config.getoption

    def ask(scenario: Scenario) -> Verdict:
        if option("--scenario") and scenario.name not in option("--scenario"):
            pytest.skip("not asked for")
        if scenario.ability not in target.abilities:
            pytest.skip(f"{target.name} has no ability {scenario.ability!r}")
        folder = (option("--run-folder") or tmp_path) / scenario.name
        began = time.monotonic()
        with explained(folder):
            asked = (scenario, target, option("--seed"), option("--effort"), folder)
            judged = run(*asked, rounds=ROUNDS)
            seconds = time.monotonic() - began
            record = judgement.store(judged, target, option("--seed"), seconds, folder)
        sys.stdout.write(record.summary() + "\n")
        return judged.verdict

    return ask
