"""`harness judge`: judge stored evidence again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
from rich.markup import escape

from harness.cli.options import as_json, scenarios_option
from harness.cli.people import people, table, tell
from harness.core.errors import UsageError
from harness.core.verdict import Validity, Verdict, merge
from harness.engine import runner
from harness.engine.scenario import Scenario
from harness.engine.suite import choose, chosen_folders, use_folders
from harness.report import folder, judgement, summary
from harness.report.judgement import Record


@click.command("judge")
@scenarios_option
@click.argument("run", type=click.Path(path_type=Path))
@as_json
def judge_command(*, run: Path, wants_json: bool) -> int:
    """Judge stored evidence again: a gate's folder, or one scenario's.

    Also a run that was killed on its way: what it had come to still counts.
    """
    rejudged = rejudge(run)
    validity = max((record.verdict.validity for record in rejudged), default=Validity.UNKNOWN)
    if wants_json:
        rows = [record.to_json() for record in rejudged]
        click.echo(json.dumps({"conclusion": str(validity), "scenarios": rows}, indent=2))
    tell(table(summary.HEAD, summary.rows(rejudged)))
    for record in rejudged:
        if not record.verdict.is_valid:
            people.print(escape(record.summary()), soft_wrap=True)
    people.print(f"[bold]{validity}[/bold]")
    return validity.exit_code


def rejudge(run: Path) -> list[Record]:
    """Judge every scenario of a run folder from its history; what the run did not finish says so.

    Raises UsageError for a folder that holds no run, or a damaged one.
    """
    if not run.is_dir():
        raise UsageError(f"{run}: there is no such run folder")
    plan = folder.read_json(run / folder.PLAN) if (run / folder.PLAN).exists() else {}
    if plan.get("suites") and not chosen_folders():
        use_folders(map(Path, plan["suites"]))
    try:
        planned = {name: run / name for name in plan.get("scenarios", [])}
    except TypeError as error:
        raise UsageError(f"{run / folder.PLAN}: damaged: {error}") from error
    histories = sorted({*run.glob(runner.HISTORY), *run.glob(f"*/{runner.HISTORY}")})
    places = planned | {path.parent.resolve().name: path.parent for path in histories}
    if not places:
        raise UsageError(f"{run}: there is no scenario's {runner.HISTORY} in it")
    return [_rejudged(scenario, places[name]) for name, scenario in choose(places).items()]


def _rejudged(scenario: Scenario, place: Path) -> Record:
    if not (place / runner.HISTORY).exists():
        never = Verdict(unknowns=("the run ended before it began",))
        return judgement.record(runner.Judgement(scenario, never, 0, 0, ""), 0.0, place)
    judged = runner.judge(scenario, place)
    if not (place / folder.VERDICT).exists():
        cut_short = Verdict(unknowns=("the run ended before it did",))
        judged = replace(judged, verdict=merge([judged.verdict, cut_short]))
    return judgement.record(judged, 0.0, place)
