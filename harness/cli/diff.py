"""`harness diff`: tells what changed between two stored runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import as_json
from harness.cli.output import print_result, print_table, table
from harness.report import folder
from harness.runs.differences import Difference, compare, read_run


@click.command("diff")
@click.argument("earlier", metavar="EARLIER", type=click.Path(path_type=Path))
@click.argument("later", metavar="LATER", type=click.Path(path_type=Path))
@as_json
def diff_command(*, earlier: Path, later: Path, wants_json: bool) -> int:
    """Tell what changed from the run EARLIER to the run LATER; both are run folders.

    A finding is new, mended, still broken, or no longer tried: it counts as mended only if each
    scenario that showed it came to a whole verdict again. Figures stand side by side.

    \b
    harness diff reports/runs/20261128T052437-gate-2 reports/runs/latest
    harness diff baseline reports/runs/latest --json

    Results go to the terminal; nothing is written.

    Exit codes: 1 for a new finding only; 2 where LATER did not try or judge something that EARLIER
    did, or came to no conclusion; else 0.
    """  # noqa: D301  click needs the backslash
    with folder.whole(earlier, later):
        difference = compare(read_run(earlier), read_run(later))
        if wants_json:
            click.echo(json.dumps(difference.to_json(), indent=2))
        print_difference(difference)
    return difference.exit_code


def print_difference(difference: Difference) -> None:
    """Print the figures side by side, and each change in a line."""
    rows = [
        (name, _number(before), _number(after), _ratio(before, after))
        for name, before, after in difference.figures()
    ]
    head = ("figure", difference.earlier.name, difference.later.name, "ratio")
    print_table(table(head, rows))
    for line in difference.lines():
        print_result(line)
    counts = {
        "new": difference.new,
        "mended": difference.mended,
        "still broken": difference.still,
        "no longer tried": difference.not_tried,
    }
    parts = [f"{len(findings)} {kind}" for kind, findings in counts.items()]
    if difference.unjudged:
        parts.append(f"{len(difference.unjudged)} scenarios no longer judged")
    text = ", ".join(parts)
    print_result(f" since {difference.earlier.name}", text)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.2f}"


def _ratio(before: float | None, after: float | None) -> str:
    return f"{after / before:.2f}" if before and after is not None else "-"
