"""`harness ci`: reports a stored gate to continuous integration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from harness.cli.options import OutputFile
from harness.core.errors import UsageError
from harness.core.verdict import Validity, merge
from harness.report import ci, folder, machine_formats, summary
from harness.report.page import PAGE
from harness.runs.pytest_run import collect

COMMENT = "comment.md"


@click.command("ci")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--comment",
    type=OutputFile(),
    help=f"File for the text of a comment; by default RUN/{COMMENT}.",
)
@click.option("--link", default="", help="Address of the page, which the comment names.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    show_default="the current folder",
    help="Top folder of the code on trial: annotations stand at its lines.",
)
def ci_command(*, run: Path, comment: Path | None, link: str, root: Path) -> int:
    """Report the gate in the folder RUN to continuous integration.

    Results go to standard output as annotations, which are workflow commands of GitHub Actions: an
    error for each new finding and each failure of the harness, at a line where the finding names
    one; a warning for what was not judged; a notice for a known finding. The summary is appended to
    the file that GITHUB_STEP_SUMMARY names, and `conclusion`, `exit-code`, `run`, `page` and
    `comment` to the one that GITHUB_OUTPUT names. findings.json, findings.sarif and
    ctrf-report.json are written again, with lines of the files below --root. A gate that was killed
    is reported by what it finished.

    \b
    harness ci reports/runs/latest
    harness ci reports/runs/latest --comment comment.md

    Exit codes: 0 when it is reported, whatever the conclusion.
    """  # noqa: D301  click needs the backslash
    with folder.whole(run):
        conclusion = conclusion_of(run)
        names = [row["scenario"] for row in conclusion["scenarios"]]
        texts = {name: _texts(run / name) for name in names}
        lines = list(ci.workflow_commands(conclusion, texts, root))
        machine_formats.write(conclusion, run, root)
        remark, step = ci.comment(conclusion, link), summary.markdown(conclusion)
    for line in lines:
        click.echo(line)
    path = comment or run / COMMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text(path, remark)
    _append("GITHUB_STEP_SUMMARY", step)
    outputs = {
        "conclusion": conclusion["conclusion"],
        "exit-code": conclusion["exit_code"],
        "run": run.resolve(),
        "page": run.resolve() / PAGE,
        "comment": path.resolve(),
    }
    _append("GITHUB_OUTPUT", "".join(f"{name}={value}\n" for name, value in outputs.items()))
    return 0


def conclusion_of(run: Path) -> Mapping[str, Any]:
    """The conclusion that a gate stored; of one that was killed, what is known.

    Raises UsageError for a folder that holds no gate.
    """
    plan = folder.read_json(run / folder.PLAN)
    if plan.get("what", "gate") not in ("gate", "merge"):
        raise UsageError(f"{run}: expected the run of a gate; got one of {plan['what']}")
    if (run / folder.VERDICT).exists():
        return {"untried": {}, **folder.read_json(run / folder.VERDICT)}
    results = collect(plan.get("scenarios", []), run, None)
    records = list(results.records.values())
    is_invalid = merge(record.verdict for record in records).anomalies
    validity = Validity.INVALID if is_invalid else Validity.UNKNOWN
    declared = plan.get("declared", {})
    return {
        "conclusion": str(validity),
        "exit_code": validity.exit_code,
        "target": plan["target"],
        "seed": plan["seed"],
        "seconds": 0,
        "scenarios": [record.to_json() for record in records],
        "skipped": plan.get("skipped", {}),
        "unfinished": results.unfinished,
        "broken": results.broken,
        "canaries": {},
        "untried": {name: declared[name] for name in results.unfinished if name in declared},
    }


def _texts(scenario: Path) -> str:
    stories = sorted(scenario.glob("story*.txt"))
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in stories)


def _append(variable: str, text: str) -> None:
    """Append to the file that a variable of the environment names, if it names one."""
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
