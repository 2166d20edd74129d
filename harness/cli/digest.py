"""`harness digest`: sums up the runs of a night."""

from __future__ import annotations

import json
import time

import click

from harness.cli.options import Duration, RunOptions, run_options
from harness.cli.output import print_result, shown_path
from harness.runs.digest import digest, exit_code, markdown, store


@click.command("digest")
@click.option(
    "--since",
    "since_s",
    type=Duration(),
    default="24h",
    show_default=True,
    help="Runs that began in this time are of the night; older ones are compared with.",
)
@run_options("reports", "json")
def digest_command(*, since_s: float, options: RunOptions) -> int:
    """Sum up the runs of a night: what each found, and what moved since the last night.

    Each run below REPORTS/runs that began within --since is compared with the newest older one of
    the same kind on the same target. Figures that changed by a quarter are listed.

    \b
    harness digest
    harness digest --since 12h --reports reports/nightly

    Results go to REPORTS/digest.html and REPORTS/digest.md.

    Exit codes: 1 for a new finding, 2 where a run came to no conclusion or judged less; else 0.
    """  # noqa: D301  click needs the backslash
    nights = digest(options.reports.resolve(), since_s, time.time())
    page = store(options.reports.resolve(), nights)
    if options.wants_json:
        click.echo(json.dumps([night.to_json() for night in nights], indent=2))
    print_result(markdown(nights))
    print_result(f"page: {shown_path(page)}")
    return exit_code(nights)
