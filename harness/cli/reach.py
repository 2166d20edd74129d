"""`harness reach`: measures which blocks of the code on trial the scenarios run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import (
    RunOptions,
    effort_option,
    run_options,
    scenario_option,
    scenarios_option,
    target_option,
)
from harness.cli.output import print_result, print_table, progress, table
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
@effort_option(1.0)
@run_options()
def reach_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    scenario: tuple[str, ...],
    source: Path | None,
    missed: bool,
    at_least: float,
    effort: float,
    options: RunOptions,
) -> int:
    """Measure which blocks of the code on trial each scenario reaches.

    Python 3.12 and later measure at next to no cost; 3.11 traces, and is slower.

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
    cells = [
        (name, f"{hit:,}", f"{blocks:,}", f"{hit / blocks:.1%}")
        for name, hit, blocks in reached.rooms()
    ]
    print_table(table(("room", "reached", "blocks", "share"), cells))
    for block in reached.missed if missed else ():
        print_result(f"missed: {block}")
    share = len(reached.reached) / len(reached.blocks)
    print_result(
        f"{len(reached.reached):,} of {len(reached.blocks):,} blocks reached ({share:.1%})"
        f" · seed {options.seed} · {run}"
    )
    return 1 if share < at_least else 0
