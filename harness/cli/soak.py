"""`harness soak`: uses a target for long, and checks that nothing grows."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import (
    Duration,
    RunOptions,
    refuse_beside,
    run_options,
    target_option,
)
from harness.cli.output import print_result, print_table, print_text, progress, table
from harness.core.errors import UsageError
from harness.core.extras import require_extras
from harness.core.verdict import Validity
from harness.report import page, soaking, trends
from harness.runs import simulated_days
from harness.runs.soak import SoakPlan, run_soak

DAYS_LACK = ("seconds", "operations", "over_http", "resume")
RESUME_LACKS = ("seconds", "operations", "over_http", "target", "seed", "reports")


@click.command("soak")
@target_option
@click.option("--for", "seconds", type=Duration(), help="Length in time, such as 30m or 8h.")
@click.option("--ops", "operations", type=click.IntRange(1), help="Length in operations.")
@click.option(
    "--days", type=click.IntRange(1), help="Length in simulated days, which take seconds."
)
@click.option("--http", "over_http", is_flag=True, help="Soak a whole server, over HTTP.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Continue the soak of this run folder, which was killed or interrupted.",
)
@run_options("keep", "seed", "reports", "json")
def soak_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    seconds: float | None,
    operations: int | None,
    days: int | None,
    over_http: bool,
    resume: Path | None,
    options: RunOptions,
) -> int:
    """Use a target for long, and check that nothing grows.

    Ends as soon as something grows, and names the container or file, its slope, and the line of
    the target's source that allocates. With --days virtual time passes only while all threads
    wait, and a control in real time shows whether the result can be trusted.

    \b
    harness soak --for 30m
    harness soak --days 30 --seed 7

    Results go to a new folder REPORTS/runs/..., which REPORTS/runs/latest points to: verdict.json
    and samples.jsonl, and where something grows stacks.txt and flame.svg. REPORTS/soaks.svg draws
    one soak after another.
    """  # noqa: D301  click needs the backslash
    refuse_beside("days", DAYS_LACK, "simulated days have a length and a workload of their own")
    refuse_beside("resume", RESUME_LACKS, "the plan of the run says it")
    require_extras("`harness soak`", "soak")
    reports = options.reports.resolve()
    if days is not None:
        return _simulate(target, days, reports, options)
    if resume is None:
        if seconds is None and operations is None:
            raise UsageError(
                "expected a length: --for 30m, --ops 100000 or --days 30; or --resume RUN"
            )
        run = SoakPlan(target, options.seed, seconds, operations, over_http).begin(reports)
    else:
        run = resume.resolve()
    print_text(f"soak · {run} · to continue after an interruption: harness soak --resume {run}")
    with progress() as step:
        result = run_soak(run, step)
    document = result.to_json()
    trends.remember(run.parents[1], document)
    _finish(document, run, options)
    print_result(soaking.text(document))
    print_table(table(soaking.HEAD, soaking.rows(document)))
    return _print_validity(result.verdict.validity, run)


def _simulate(target: str, days: int, reports: Path, options: RunOptions) -> int:
    result = simulated_days.simulate(target, options.seed, days, reports)
    _finish(result.to_json(), result.run, options)
    print_result(result.text())
    print_table(table(simulated_days.HEAD, result.rows()))
    return _print_validity(result.record.verdict.validity, result.run)


def _finish(document: object, run: Path, options: RunOptions) -> None:
    """Delete the oldest runs, and print the document where it is wanted."""
    page.retain(run.parents[1], options.keep)
    if options.wants_json:
        click.echo(json.dumps(document, indent=2))


def _print_validity(validity: Validity, run: Path) -> int:
    print_result(f" · {run}", str(validity))
    return validity.exit_code
