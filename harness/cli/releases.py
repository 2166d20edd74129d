"""`harness releases`: a table of which target keeps which promise, from stored runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import as_json
from harness.cli.output import print_table, table
from harness.runs.releases import finding_rows, names, promise_rows, read_releases


@click.command("releases")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@as_json
def releases_command(*, runs: tuple[Path, ...], wants_json: bool) -> int:
    """Print which target keeps which promise; each RUN is the run folder of a gate.

    The first table has a row for each promise that was asked: kept, broken, unknown, or - where no
    scenario asked it. The second one has a row for each finding. Runs of one target are put
    together, so scenarios may be asked one after another.

    \b
    harness releases reports/releases/0.13.0/runs/latest reports/releases/0.19.0/runs/latest
    harness releases reports/releases/*/runs/latest --json

    Results go to standard output; nothing is written. Exit code: 0, whatever the runs say.
    """  # noqa: D301  click needs the backslash
    releases = read_releases(runs)
    head = names(release.target for release in releases)
    promises, findings = promise_rows(releases), finding_rows(releases)
    if wants_json:
        document = {
            "targets": [release.target for release in releases],
            "promises": {row[0]: list(row[1:]) for row in promises},
            "findings": {row[0]: [bool(cell) for cell in row[1:]] for row in findings},
        }
        click.echo(json.dumps(document, indent=2))
    print_table(table(["promise", *head], promises))
    if findings:
        print_table(table(["finding", *head], findings))
    return 0
