"""`harness reach`: which blocks of the code on trial do the scenarios run?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import (
    as_json,
    effort_option,
    reports_option,
    scenario_option,
    scenarios_option,
    seed_option,
    seed_or_drawn,
    target_option,
    workers_option,
)
from harness.cli.people import people, progress, table, tell
from harness.runs.reach import Reach


@click.command("reach")
@target_option
@scenarios_option
@scenario_option
@click.option(
    "--source",
    type=click.Path(exists=True, path_type=Path),
    help="Top folder of the code on trial; the suite's own source, if not given.",
)
@click.option("--missed", is_flag=True, help="List every block that no scenario reached.")
@click.option(
    "--at-least",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    help="Exit 1 if a smaller share of the blocks is reached.",
)
@effort_option(1.0)
@workers_option
@seed_option
@reports_option
@as_json
def reach_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    scenario: tuple[str, ...],
    source: Path | None,
    missed: bool,
    at_least: float,
    effort: float,
    workers: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """Measure which blocks of the code on trial each scenario reaches.

    Python 3.12 and later measure at next to no cost; 3.11 traces, and is slower.

    \b
    harness reach --missed
    harness reach --target hermes-webui@FOLDER --source FOLDER/api
    """  # noqa: D301  click needs the backslash
    seed = seed_or_drawn(seed)
    asked = Reach(target, seed, effort, reports.resolve(), workers, scenario, source)
    with progress() as step:
        run, reached = asked.run(step)
    if wants_json:
        click.echo(json.dumps({"run": str(run), **reached.to_json()}, indent=2))
    cells = [
        (name, f"{hit:,}", f"{blocks:,}", f"{hit / blocks:.1%}")
        for name, hit, blocks in reached.rooms()
    ]
    tell(table(("room", "reached", "blocks", "share"), cells))
    for block in reached.missed if missed else ():
        people.print(f"missed: {block}", soft_wrap=True, markup=False)
    share = len(reached.reached) / len(reached.blocks)
    people.print(
        f"{len(reached.reached):,} of {len(reached.blocks):,} blocks reached ({share:.1%})"
        f" · seed {seed} · {run}",
        soft_wrap=True,
        markup=False,
    )
    return 1 if share < at_least else 0
