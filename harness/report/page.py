"""Renders a run as one page for people, and an index of all runs.

`report.html` needs no other file and no network: styles, drawings and texts are in it. Findings are
grouped by promise and signature, since one bug is often seen in several scenarios; the shortest
proof stands for its group.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.text import shortened
from harness.core.verdict import Anomaly
from harness.report import folder, summary
from harness.report.judgement import Record
from harness.report.run_drawings import HEIGHT, WIDTH, drawings
from harness.report.run_history import FILE

PAGE = "report.html"
INDEX = "index.html"
RUNS_MAX = 200
FIGURE_CHARS_MAX = 400_000
_FIGURE = re.compile(r"<figure>.*?</figure>", re.DOTALL)
_PAGES = (PAGE, "load.html", "soak.html")  # of a run, the one that the index links
_MODE_PAGES = ("load.html", "flame.svg")


@dataclass(frozen=True, slots=True)
class Finding:
    """One anomaly as shown: its steps, how to see it again, and the scenarios that saw it."""

    anomaly: Anomaly
    scenario: str
    others: tuple[str, ...]
    replay: str
    test: str
    trace: str
    figure: Markup
    story: str

    @property
    def steps(self) -> list[str]:
        """The numbered operations, long values cut."""
        return [shortened(str(operation)) for operation in self.anomaly.evidence]


@dataclass(frozen=True, slots=True)
class Group:
    """The findings of one promise."""

    promise: Promise
    findings: tuple[Finding, ...]


def render(conclusion: Mapping[str, Any], run: Path) -> str:
    """Render a stored conclusion; proofs, stories and timelines are read from the run folder."""
    records = [Record.from_json(row) for row in conclusion["scenarios"]]
    return template("report.html").render(
        conclusion=conclusion,
        plan=_plan(run),
        bought=summary.bought_line(conclusion["bought"]) if "bought" in conclusion else "",
        groups=_groups(records, run),
        head=summary.HEAD,
        rows=summary.rows(records, conclusion.get("untried")),
        records=sorted(records, key=lambda record: (record.verdict.is_valid, record.scenario)),
        pages=[name for name in _MODE_PAGES if (run / name).exists()],
        shortened=shortened,
    )


def render_index(reports: Path, history: Path | None = None) -> str:
    """Render the list of runs in `reports`/runs, the newest first, and their trends."""
    plans = sorted(
        (plan for plan in reports.glob(f"runs/*/{folder.PLAN}") if not plan.parent.is_symlink()),
        key=lambda plan: plan.parent.name,
        reverse=True,
    )
    return template("index.html").render(
        runs=[_row(plan.parent) for plan in plans[:RUNS_MAX]],
        drawings=drawings(history or reports / FILE),
        width=WIDTH,
        height=HEIGHT,
    )


def retain(reports: Path, keep: int) -> None:
    """Delete the oldest runs, and write the index of those that are left.

    The index is an extra: a run whose verdict is written stands without it.
    """
    folder.retain(reports, keep)
    with suppress(OSError):
        folder.write_text(reports / INDEX, render_index(reports))


def _row(run: Path) -> dict[str, Any]:
    """What the index says of a run; one without a verdict was cut short.

    A damaged folder spoils no other run's row.
    """
    try:
        with folder.whole(run):
            return _row_of(run, _plan(run), _read(run / folder.VERDICT))
    except UsageError:
        return _row_of(run, {}, {"conclusion": "damaged"})


def _row_of(run: Path, plan: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a run by its documents."""
    scenarios = verdict.get("scenarios", [])
    broken = sorted({a["promise"] for row in scenarios for a in row.get("anomalies", [])})
    return {
        "name": run.name,
        "what": plan.get("what", "run"),
        "target": plan.get("target", ""),
        "seed": plan.get("seed", ""),
        "word": verdict.get("conclusion", verdict.get("validity", "no verdict")),
        "seconds": verdict.get("seconds", 0),
        "operations": sum(row.get("operations", 0) for row in scenarios),
        "scenarios": len(scenarios),
        "broken": broken,
        "page": next((name for name in _PAGES if (run / name).exists()), ""),
    }


def _groups(records: Iterable[Record], run: Path) -> list[Group]:
    """Findings by promise and signature; of each signature the shortest proof."""
    by_signature: dict[tuple[str, str], list[Finding]] = {}
    for record in records:
        for number, anomaly in enumerate(record.verdict.anomalies):
            finding = _finding(record, number, anomaly, run)
            by_signature.setdefault((anomaly.promise.id, anomaly.signature), []).append(finding)
    groups: dict[str, list[Finding]] = {}
    promises: dict[str, Promise] = {}
    for (id_, _), findings in sorted(by_signature.items()):
        first, *others = sorted(findings, key=lambda finding: len(finding.anomaly.evidence))
        names = tuple(dict.fromkeys(finding.scenario for finding in others))
        promises[id_] = first.anomaly.promise
        groups.setdefault(id_, []).append(
            Finding(
                *(first.anomaly, first.scenario, names, first.replay, first.test, first.trace),
                *(first.figure, first.story),
            )
        )
    return [Group(promises[id_], tuple(findings)) for id_, findings in groups.items()]


def _finding(record: Record, number: int, anomaly: Anomaly, run: Path) -> Finding:
    scenario = run / record.scenario
    stem = "" if number == 0 else f"-{anomaly.promise.id}"
    name = f"test_{record.scenario.replace('-', '_')}_{anomaly.promise.id.lower()}.py"
    figure = _FIGURE.search(_text(scenario / f"timeline{stem}.html"))
    drawing = figure[0] if figure and len(figure[0]) <= FIGURE_CHARS_MAX else ""
    return Finding(
        anomaly,
        record.scenario,
        (),
        next(iter(record.reproduce[number : number + 1]), ""),
        f"{record.scenario}/{name}" if (scenario / name).exists() else "",
        f"{record.scenario}/trace{stem}.json" if (scenario / f"trace{stem}.json").exists() else "",
        Markup(drawing),  # noqa: S704  our own template escaped it
        _text(scenario / f"story{stem}.txt"),
    )


def _plan(run: Path) -> Mapping[str, Any]:
    return _read(run / folder.PLAN)


def _read(path: Path) -> Mapping[str, Any]:
    return folder.read_json(path) if path.exists() else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


@cache
def _pages() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined)


def template(name: str) -> Template:
    """A page's template; it escapes what it is given, and needs each name."""
    return _pages().get_template(name)
