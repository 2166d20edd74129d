"""`harness reach`: measures which blocks of the code on trial the scenarios run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import (
    RunOptions,
    effort_option,
    record_option,
    run_options,
    scenario_option,
    scenarios_option,
    target_option,
)
from harness.cli.output import print_reached, print_result, progress
from harness.runs import baselines
from harness.runs.reach import Reach


@click.command("reach")
@target_option
@scenarios_option
@scenario_option
@click.option(
    "--source",
    type=click.Path(exists=True, path_type=Path),
    help="Top folder of the code on trial; the suite's own source by default.",
)
@click.option("--missed", is_flag=True, help="List every block that no scenario reached.")
@click.option(
    "--at-least",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    help="Exit 1 if a smaller share of the blocks is reached.",
)
@record_option
@effort_option(1.0)
@run_options()
def reach_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    scenario: tuple[str, ...],
    source: Path | None,
    missed: bool,
    at_least: float,
    record: Path | None,
    effort: float,
    options: RunOptions,
) -> int:
    """Measure which blocks of the code on trial each scenario reaches, one scenario at a time.

    `harness gate --reach` measures a whole gate at once. A block may be excused with a reason in
    the suite's file unreached.json. Python 3.12 and later measure at next to no cost; 3.11
    traces, and is slower.

    \b
    harness reach --missed
    harness reach --target hermes-webui@FOLDER --source FOLDER/api

    Results go to verdict.json in a new folder REPORTS/runs/..., which REPORTS/runs/latest points
    to.
    """  # noqa: D301  click needs the backslash
    reports = options.reports.resolve()
    reach = Reach(
        target, options.seed, effort, reports, options.workers, scenario, source, keep=options.keep
    )
    with progress() as step:
        run, reached = reach.run(step)
    if options.wants_json:
        click.echo(json.dumps({"run": str(run), **reached.to_json()}, indent=2))
    if record is not None:
        baselines.record(record, options.seed, {"effort": effort, **reached.to_json()})
    print_reached(reached, lists_missed=missed)
    print_result(
        f"{len(reached.reached):,} of {len(reached.blocks):,} blocks reached ({reached.share:.1%})"
        f", {len(reached.unexplained)} of the others without a reason"
        f" · seed {options.seed} · {run}"
    )
    return 1 if reached.share < at_least else 0
