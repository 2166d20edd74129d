"""`harness judge`: judges stored histories again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from harness.cli.options import as_json, scenarios_option
from harness.cli.output import print_result, print_table, table
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
    """Judge the stored histories of RUN again, without a target.

    RUN is a run folder, or the folder of one scenario in it. A run that was killed can be judged
    too: an anomaly in its history counts, and what it did not finish is unknown.

    \b
    harness judge reports/runs/latest
    harness judge reports/runs/latest/server-one-client --json

    Results go to the terminal; nothing is written.
    """  # noqa: D301  click needs the backslash
    records = rejudge(run)
    validity = max((record.verdict.validity for record in records), default=Validity.UNKNOWN)
    if wants_json:
        rows = [record.to_json() for record in records]
        click.echo(json.dumps({"conclusion": str(validity), "scenarios": rows}, indent=2))
    print_table(table(summary.HEAD, summary.rows(records)))
    for record in records:
        if not record.verdict.is_valid:
            print_result(record.summary())
    print_result("", str(validity))
    return validity.exit_code


def rejudge(run: Path) -> list[Record]:
    """Judge every scenario of a run folder from its history; what is unfinished is unknown.

    Raises UsageError for a folder that holds no run, or a damaged one.
    """
    if not run.is_dir():
        raise UsageError(f"{run}: no such run folder")
    plan = folder.read_json(run / folder.PLAN) if (run / folder.PLAN).exists() else {}
    if plan.get("suites") and not chosen_folders():
        use_folders(map(Path, plan["suites"]))
    try:
        planned = {name: run / name for name in plan.get("scenarios", [])}
    except TypeError as error:
        raise UsageError(f"{run / folder.PLAN}: damaged: {error}") from error
    histories = sorted({*run.glob(runner.HISTORY), *run.glob(f"*/{runner.HISTORY}")})
    folders = planned | {path.parent.resolve().name: path.parent for path in histories}
    if not folders:
        raise UsageError(
            f"{run}: expected {runner.HISTORY} in it or in a folder below; found none. "
            f"{runner.where_histories_are(run)}"
        )
    return [_rejudged(scenario, folders[name]) for name, scenario in choose(folders).items()]


def _rejudged(scenario: Scenario, scenario_folder: Path) -> Record:
    if not (scenario_folder / runner.HISTORY).exists():
        never = Verdict(unknowns=("the run ended before this scenario began",))
        judged = runner.Judgement(scenario, never, 0, 0, "")
    else:
        is_whole = (scenario_folder / folder.VERDICT).exists()
        judged = runner.judge(scenario, scenario_folder, is_whole=is_whole)
        if not is_whole:
            cut_short = Verdict(unknowns=("the run ended before this scenario did",))
            judged = replace(judged, verdict=merge([judged.verdict, cut_short]))
    return judgement.record(judged, 0.0, scenario_folder)
