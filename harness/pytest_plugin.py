"""The pytest plugin: options, markers, and the fixtures `judge`, `schedules`, `grows` and `crowd`.

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
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pytest

if TYPE_CHECKING:
    from harness.core.verdict import Verdict
    from harness.engine.scenario import Scenario
    from harness.engine.supervision import Lifeline
    from harness.engine.target import Target
    from harness.runs.crowding import CrowdReport
    from harness.runs.growing import GrowthReport
    from harness.schedule import Result
    from harness.schedule.program import Body

T = TypeVar("T")
Judge: TypeAlias = "Callable[[Scenario], Verdict]"
"""The type of the fixture `judge`: it runs a scenario on the target and returns its verdict."""

Explore: TypeAlias = "Callable[..., Result | None]"
"""The type of the fixture `schedules`: it explores a body and returns the result."""

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
        help="how much each scenario asks; 1 is as much as a gate of 190 s (default: 1)",
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

    group = parser.getgroup("schedules", "thread schedules explored by hermes-harness")
    group.addoption(
        "--schedules-replay",
        default="",
        metavar="TEXT",
        help="execute only this schedule, as a failed test printed it",
    )
    group.addoption(
        "--schedules-seconds",
        type=float,
        metavar="S",
        help="explore each body for at most this long (default: what the test says, else 10 s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and let the command that started this process supervise it."""
    config.addinivalue_line(
        "markers", "harness: puts a scenario on trial (added to each test that uses `judge`)"
    )
    config.addinivalue_line(
        "markers",
        "schedules(budget, seed, level, modules, rules, ...): explores thread schedules of the test"
        " whose argument is `run`, or settings of the fixture `schedules`",
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


# Schedules


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a marked test an argument `run`, without a fixture of that name for all tests."""
    if "run" in metafunc.fixturenames and _is_marked(metafunc.definition):
        metafunc.parametrize("run", [None], ids=["schedules"])


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Explore a marked test that is a body itself."""
    if not _is_marked(pyfuncitem):
        return None
    if "run" not in pyfuncitem.fixturenames:
        is_own = any(marker.name == "schedules" for marker in pyfuncitem.own_markers)
        if is_own and "schedules" not in pyfuncitem.fixturenames:
            pytest.fail(
                "has the marker schedules, but neither `run` nor `schedules`", pytrace=False
            )
        return None
    from harness.schedule.again import Marked  # noqa: PLC0415  heavy

    names = pyfuncitem._fixtureinfo.argnames  # noqa: SLF001  what pytest itself passes
    arguments = {name: pyfuncitem.funcargs[name] for name in names if name != "run"}
    _schedules_of(pyfuncitem)(Marked(pyfuncitem.obj, arguments))
    return True


@pytest.fixture
def schedules(request: pytest.FixtureRequest) -> Explore:
    """Explore thread schedules: `schedules(body, ...)` fails the test if a schedule fails.

    `body` is called with a fresh `Run` for each schedule. Settings are those of `explore`, and
    `allow_unknown` accepts a search that proves nothing. Failures are stored, and asked first.
    """
    return _schedules_of(request.node)


def _schedules_of(item: pytest.Item) -> Explore:
    from harness.core.errors import UsageError  # noqa: PLC0415  heavy
    from harness.runs.schedule_tests import (  # noqa: PLC0415  heavy
        FailedError,
        OtherTestError,
        Schedules,
    )

    config = item.config
    seconds = config.getoption("--schedules-seconds")
    defaults = {} if seconds is None else {"seconds": seconds}
    for marker in item.iter_markers("schedules"):
        defaults = {**marker.kwargs, **defaults}
    cache = getattr(config, "cache", None)
    search = Schedules(
        item.nodeid,
        defaults,
        folder=None if cache is None else cache.mkdir("harness-schedules"),
        replay=config.getoption("--schedules-replay"),
        report=_reports_to_terminal(config),
    )

    def explore(body: Body, **settings: Any) -> Result | None:
        result, failure, other = None, "", ""
        try:
            result = search(body, **settings)
        except (FailedError, UsageError) as error:
            failure = str(error)
        except OtherTestError as error:
            other = str(error)
        if failure:  # outside of the handler, so that pytest shows it once
            pytest.fail(failure, pytrace=False)
        if other:
            pytest.skip(other)
        sys.stdout.write(f"{result}\n" if result is not None else "the schedule does not fail\n")
        return result

    return explore


def _is_marked(item: pytest.Item) -> bool:
    return item.get_closest_marker("schedules") is not None


def _reports_to_terminal(config: pytest.Config) -> Callable[[str], object]:
    """Write lines of progress, beside the captured output, where there is a terminal."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    return reporter.write_line if reporter is not None else lambda _: None


# Growth and contention


@pytest.fixture
def grows() -> Callable[..., GrowthReport]:
    """Use an act again and again: `grows(act, ...)` fails the test if something is kept.

    Settings are those of `harness.grows`; *unknown* fails the test too.
    """
    from harness.runs import growing  # noqa: PLC0415  heavy

    def check(act: Callable[[], object], **settings: Any) -> GrowthReport:
        report = _used(growing.grows, act, **settings)
        if not report.is_bounded:
            pytest.fail(str(report), pytrace=False)
        return report

    return check


@pytest.fixture
def crowd() -> Callable[..., CrowdReport]:
    """Let processes write into one store: `crowd(open=..., write=...)` fails the test if it errs.

    Settings are those of `harness.crowd`; *unknown* fails the test too.
    """
    from harness.runs import crowding  # noqa: PLC0415  heavy

    def check(**settings: Any) -> CrowdReport:
        report = _used(crowding.crowd, **settings)
        if not report.is_sound:
            pytest.fail(str(report), pytrace=False)
        return report

    return check


def _used(function: Callable[..., T], *arguments: Any, **settings: Any) -> T:
    """Call a function; a UsageError fails the test with its message."""
    from harness.core.errors import UsageError  # noqa: PLC0415  heavy

    try:
        return function(*arguments, **settings)
    except UsageError as error:
        message = str(error)
    pytest.fail(message, pytrace=False)


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
