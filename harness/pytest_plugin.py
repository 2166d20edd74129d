"""The pytest plugin: options, a marker, and the fixtures `judge` and `harness_target`.

pytest loads it wherever hermes-harness is installed, so it imports nothing heavy before a test
asks for a fixture. The `harness` command starts pytest with a run folder, workers and a supervising
socket, so that no test outlives the command.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:
    from harness.core.verdict import Verdict
    from harness.engine.scenario import Scenario
    from harness.engine.supervision import Lifeline
    from harness.engine.target import Target

Judge: TypeAlias = "Callable[[Scenario], Verdict]"
"""The type of the fixture `judge`: it runs a scenario on the target and returns its verdict."""

DEFAULT_TARGET = "reference"
ROUNDS = 2  # of questions, for a scenario that did not reach its expectations
_SHOWN = ("scenario", "verdict", "finding")  # of a report, by the supervising command
_TARGETS = pytest.StashKey[dict[str, "Target"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of a run."""
    group = parser.getgroup("harness", "scenarios judged by hermes-harness")
    group.addoption(
        "--harness-target",
        metavar="TARGET",
        help="the target on trial, as `harness gate --target` takes it (default: the suite's)",
    )
    group.addoption(
        "--harness-seed", type=int, default=1, help="seed of all random choices (default: 1)"
    )
    group.addoption(
        "--harness-effort",
        type=float,
        default=1.0,
        help="how much each scenario asks; 1 is as much as a gate of 180 s (default: 1)",
    )
    group.addoption(
        "--harness-first-only",
        action="store_true",
        help="end each scenario with its first anomaly as it was found: do not ask on, nor make it "
        "small",
    )
    group.addoption(
        "--harness-scenario",
        action="append",
        default=[],
        metavar="NAME",
        help="judge only this scenario; may be repeated",
    )
    group.addoption("--harness-run-folder", type=Path, help="where results go (default: temporary)")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and let the command that started this process supervise it."""
    config.addinivalue_line(
        "markers", "harness: puts a scenario on trial (added to each test that uses `judge`)"
    )
    config.stash[_TARGETS] = {}
    if "HARNESS_REACH" in os.environ:
        from harness.worker import reach  # noqa: PLC0415  only where reach is measured

        reach.start()
    if "HARNESS_LIFELINE" in os.environ:
        from harness.engine import supervision  # noqa: PLC0415  only where a command supervises

        lifeline = supervision.inherited_lifeline()
        if lifeline is not None:
            lifeline.watch()
            config.pluginmanager.register(_Reporter(lifeline))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that put a scenario on trial, so that `-m "not harness"` leaves them out."""
    for item in items:
        if "judge" in getattr(item, "fixturenames", ()):
            item.add_marker("harness")


@pytest.fixture
def harness_target(request: pytest.FixtureRequest) -> Target:
    """The target on trial, ready to open; prepared once for all tests of this process."""
    from harness.targets.registry import find_target  # noqa: PLC0415  heavy

    spec = request.config.getoption("--harness-target") or _target_of_suite(request.path)
    targets = request.config.stash[_TARGETS]
    if spec not in targets:
        target = find_target(spec)
        target.prepare()
        targets[spec] = target
    return targets[spec]


@pytest.fixture
def judge(request: pytest.FixtureRequest, harness_target: Target, tmp_path: Path) -> Judge:
    """Judge one scenario on the target; its results go into the run folder.

    Skips a scenario that `--harness-scenario` does not name, whose ability the target does not
    offer, or that needs an optional package which is not installed.
    """
    from harness.core.extras import missing_extra  # noqa: PLC0415  heavy
    from harness.engine.runner import run  # noqa: PLC0415  heavy
    from harness.report import judgement  # noqa: PLC0415  heavy

    option = request.config.getoption
    # What a target logs is not part of the report, and formatting it costs time.
    logging.getLogger().addHandler(logging.NullHandler())

    def judge_scenario(scenario: Scenario) -> Verdict:
        if option("--harness-scenario") and scenario.name not in option("--harness-scenario"):
            pytest.skip("not selected by --harness-scenario")
        if scenario.ability not in harness_target.abilities:
            pytest.skip(f"target {harness_target.name!r} has no ability {scenario.ability!r}")
        if (missing := missing_extra(scenario.extras)) is not None:
            pytest.skip(missing)
        folder = (option("--harness-run-folder") or tmp_path) / scenario.name
        seed, effort = option("--harness-seed"), option("--harness-effort")
        began = time.monotonic()
        with _explained(folder):
            judged = run(
                scenario,
                harness_target,
                seed,
                effort,
                folder,
                rounds=ROUNDS,
                goes_on=not option("--harness-first-only"),
                minimizes=not option("--harness-first-only"),
            )
            seconds = time.monotonic() - began
            record = judgement.store(judged, harness_target, seed, seconds, folder)
        sys.stdout.write(record.summary() + "\n")
        anomalies = judged.verdict.anomalies
        request.node.user_properties += [
            ("scenario", scenario.name),
            ("verdict", str(judged.verdict.validity)),
            ("finding", judgement.headline(anomalies[0]) if anomalies else ""),
        ]
        return judged.verdict

    return judge_scenario


class _Reporter:
    """Reports each finished test to the command that supervises this process."""

    def __init__(self, lifeline: Lifeline) -> None:
        self._lifeline = lifeline

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed or report.skipped:
            error = report.longreprtext if report.failed else ""
            known = {name: value for name, value in report.user_properties if name in _SHOWN}
            event = {"test": report.nodeid, "outcome": report.outcome, "error": error, **known}
            self._lifeline.tell(event)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Write the error of a failure of the harness into the folder, in place of a verdict."""
    from harness.report.folder import BROKEN  # noqa: PLC0415  heavy

    try:
        yield
    except BaseException as error:
        folder.mkdir(parents=True, exist_ok=True)
        reason = f"{type(error).__name__}: {error} (more in {folder / BROKEN})"
        (folder / BROKEN).write_text(f"{reason}\n\n{traceback.format_exc()}", encoding="utf-8")
        raise


def _target_of_suite(path: Path) -> str:
    """The target that the nearest `suite.py` above a test file names."""
    from harness.engine.suite import declared_in  # noqa: PLC0415  heavy

    for folder in path.parents:
        if (folder / "suite.py").is_file():
            return declared_in(folder).target or DEFAULT_TARGET
        if not (folder / "__init__.py").is_file():
            break
    return DEFAULT_TARGET
