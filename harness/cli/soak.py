"""`harness soak`: does anything grow?"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.markup import escape

from harness.cli.options import (
    Budget,
    as_json,
    keep_option,
    reports_option,
    seed_option,
    seed_or_drawn,
)
from harness.cli.people import people, progress, table, tell
from harness.core.errors import UsageError
from harness.report import folder, soaking, trends
from harness.runs import simulated_days as aging
from harness.runs import soak


@click.command("soak")
@click.option("--target", default="reference", show_default=True, help="What is lived in.")
@click.option("--for", "seconds", type=Budget(), help="How long, say 30m or 8h.")
@click.option("--ops", "operations", type=click.IntRange(1), help="Or how many operations.")
@click.option("--days", type=click.IntRange(1), help="Or how many days, which pass in seconds.")
@click.option("--http", "over_http", is_flag=True, help="A whole server, over HTTP.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on with the soak of this run folder, which was killed or interrupted.",
)
@keep_option
@seed_option
@reports_option
@as_json
def soak_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    seconds: float | None,
    operations: int | None,
    days: int | None,
    over_http: bool,
    resume: Path | None,
    keep: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """Live in a target for long, and see whether anything grows.

    Ends as soon as something does, and says which container or file, how fast, and where in the
    target's sources it is allocated. With --days time passes only while everybody waits, and a
    control tells whether to believe what that shows.
    """
    if days is not None:
        return _age(
            aging.live(target, seed_or_drawn(seed), days, reports.resolve()), keep, wants_json
        )
    if resume is None:
        if seconds is None and operations is None:
            raise UsageError("how long? say --for 30m, --ops 100000, or --days 30")
        asked = soak.Asked(target, seed_or_drawn(seed), seconds, operations, over_http)
        run = asked.begin(reports.resolve())
    else:
        run = resume.resolve()
    people.print(escape(f"soak · {run} · interrupted? harness soak --resume {run}"), soft_wrap=True)
    with progress() as step:
        soaked = soak.go_on(run, step)
    folder.retain(run.parents[1], keep)
    document = soaked.to_json()
    trends.remember(run.parents[1], document)
    if wants_json:
        click.echo(json.dumps(document, indent=2))
    people.print(escape(soaking.text(document)), soft_wrap=True)
    tell(table(soaking.HEAD, soaking.rows(document)))
    people.print(f"[bold]{soaked.verdict.validity}[/bold] · {escape(str(run))}", soft_wrap=True)
    return soaked.verdict.validity.exit_code


def _age(aged: aging.Aged, keep: int, wants_json: bool) -> int:  # noqa: FBT001  an option
    folder.retain(aged.run.parents[1], keep)
    if wants_json:
        click.echo(json.dumps(aged.to_json(), indent=2))
    people.print(escape(aged.text()), soft_wrap=True)
    tell(table(aging.HEAD, aged.rows()))
    validity = aged.record.verdict.validity
    people.print(f"[bold]{validity}[/bold] · {escape(str(aged.run))}", soft_wrap=True)
    return validity.exit_code
