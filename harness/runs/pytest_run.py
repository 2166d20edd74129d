"""Runs scenarios in a pytest process with workers, and collects their records.

Gates, known bugs, mutants and reach use it. All results are read from the run folder, so a worker
that dies, or a budget that ends, costs only the scenarios that were running.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from harness.engine.suite import find_suites
from harness.engine.supervision import Child
from harness.report import folder
from harness.report.judgement import Record
from harness.runs.scratch import scratch

LOG = "pytest.log"
# An own settings file, so that those of the project in the current folder do not count.
SETTINGS = "[pytest]\nconsole_output_style = classic\n"
FOREIGN_VARIABLES = {"PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"}
NO_REASON = "the reason could not be written; the disk may be full"
TESTS_FAILED, INTERRUPTED = 1, 2  # exit codes of pytest; with several workers the first ends all


class Progress(Protocol):
    """Shows a finished step."""

    def __call__(self, step: str, *, finding: str = "") -> None:
        """`finding` is one line about what is wrong, if anything is."""
        ...


def no_progress(step: str, *, finding: str = "") -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class Session:
    """The scenarios to run, on which target, with which seed and effort.

    With `stops_early` the session ends once a scenario is not valid; the others are unfinished.
    With `goes_on` a scenario asks on after its first anomaly, and makes its failures small;
    without, it ends with the first as it was found. The session ends once a scenario shows that the
    promise of the ID `enough` is broken.
    """

    scenarios: Sequence[str]
    target: str
    seed: int
    effort: float
    workers: int = 1
    stops_early: bool = False
    goes_on: bool = True
    enough: str = ""


@dataclass
class Results:
    """Records by scenario, and the scenarios without a verdict.

    In those that are `broken` the harness failed, with this error; the `unfinished` lacked time.
    """

    records: dict[str, Record] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)


def run_session(
    session: Session,
    run: Path,
    budget_s: float,
    progress: Progress = no_progress,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Results:
    """Run the scenarios for at most `budget_s` seconds, and read their records.

    `settings` are added to the environment of the pytest process.
    """
    folder.write_text(run / "pytest.ini", SETTINGS)
    ends_at = time.monotonic() + budget_s
    with (run / LOG).open("wb") as log, scratch() as temporary:
        environment = {**_environment(run, temporary), **settings}
        child = Child(_command(session, run), environment, log, run)
        try:
            exit_code = _follow(child, ends_at, session, run, progress)
        except TimeoutError:
            exit_code = None  # the budget is over; what is unfinished says so in the results
        finally:
            child.end()
    return collect(session.scenarios, run, exit_code)


def _follow(
    child: Child, ends_at: float, session: Session, run: Path, progress: Progress
) -> int | None:
    """Show the events of a session; its exit code, or None where it ended early as requested."""
    done = 0
    for event in child.events(ends_at):
        if event["outcome"] != "skipped":
            done += 1
            _show(event, done, len(session.scenarios), progress)
        if session.enough and breaks(run / event.get("scenario", ""), session.enough):
            return None
    exit_code = child.wait()
    ended_early = session.stops_early and exit_code in (TESTS_FAILED, INTERRUPTED)
    return None if ended_early else exit_code


def breaks(scenario_folder: Path, promise: str) -> bool:
    """Whether a scenario's verdict says that the promise of this ID is broken."""
    if not (scenario_folder / folder.VERDICT).exists():
        return False
    record = Record.from_json(folder.read_json(scenario_folder / folder.VERDICT))
    return any(
        promise == broken.id for anomaly in record.verdict.anomalies for broken in anomaly.promises
    )


def _show(event: Mapping[str, Any], done: int, total: int, progress: Progress) -> None:
    """Name the scenario as `--scenario` takes it; without a verdict, the test."""
    name = event.get("scenario") or event["test"].rsplit("::", maxsplit=1)[-1]
    finding = event.get("finding", "")
    if event["outcome"] == "failed" and not finding:
        finding = "the harness failed" if "scenario" not in event else event["verdict"]
    progress(f"{done} of {total} · {name}", finding=finding)


def collect(scenarios: Iterable[str], run: Path, exit_code: int | None) -> Results:
    """Read the records in a run folder; no exit code means that the session was cut short.

    If pytest ended by itself without a verdict on every scenario, pytest itself failed.
    """
    results = Results()
    for name in scenarios:
        verdict, broken = run / name / folder.VERDICT, run / name / folder.BROKEN
        if verdict.exists():
            results.records[name] = Record.from_json(folder.read_json(verdict))
        elif broken.exists():
            results.broken[name] = broken.read_text(encoding="utf-8") or NO_REASON
        else:
            results.unfinished.append(name)
    if exit_code is not None and (results.unfinished or exit_code not in (0, 1)):
        missing, results.unfinished = ", ".join(results.unfinished) or "none", []
        log = (run / LOG).read_text(encoding="utf-8", errors="replace")[-2000:]
        reason = f"exit code {exit_code}, no verdict on: {missing} (more in {run / LOG})"
        results.broken["pytest"] = f"{reason}\n\n{log}"
    return results


def _command(session: Session, run: Path) -> list[str]:
    # A worker without a scenario would import all the same; even a single one has a controller,
    # which replaces it after a crash.
    number = min(session.workers, max(1, len(session.scenarios)))
    workers = ["-n", str(number), "--dist", "worksteal"] if session.workers > 1 else []
    chosen = [f"--harness-scenario={name}" for name in session.scenarios]
    files = {
        str(suite.files[name]): None
        for suite in find_suites()
        for name in session.scenarios
        if name in suite.files
    }
    return [
        *(sys.executable, "-m", "pytest", "-c", str(run / "pytest.ini")),
        # Asserts are not rewritten: each worker would do so with all modules of the harness.
        *("-p", "no:cacheprovider", "-p", "no:logging", "--assert=plain", "-q", *workers),
        *(f"--harness-target={session.target}", f"--harness-seed={session.seed}"),
        *(["--maxfail=1"] if session.stops_early else []),
        *([] if session.goes_on else ["--harness-first-only"]),
        *(f"--harness-effort={session.effort}", f"--harness-run-folder={run}", *chosen, *files),
    ]


def _environment(run: Path, scratch: str) -> Mapping[str, str]:
    """The caller's environment without its settings of pytest; temporary files go to `scratch`."""
    inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    return {
        **inherited,
        "HYPOTHESIS_STORAGE_DIRECTORY": str(run / ".hypothesis"),
        "TMPDIR": scratch,
    }
