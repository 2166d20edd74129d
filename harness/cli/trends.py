"""`harness trends`: tells which figures changed their level over many runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from harness.cli.options import OutputFile, RunOptions, run_options
from harness.cli.output import print_result, print_table, shown_path, table
from harness.core.errors import UsageError
from harness.core.extras import require_extras
from harness.report import folder, page
from harness.report.run_history import FILE
from harness.runs.run_trends import update

HEAD = ("", "series", "figure", "before", "after", "since", "p")


@click.command("trends")
@click.option(
    "--history",
    type=OutputFile(),
    help=f"File with the figures of every run; by default REPORTS/{FILE}.",
)
@run_options("reports", "json")
def trends_command(*, history: Path | None, options: RunOptions) -> int:
    """Tell which figures changed their level, and since which run.

    Adds the runs of REPORTS/runs to the history, which keeps their figures when the folders are
    deleted, and looks for change points in each figure of each kind of run. Without a change, the
    chance that a night reports one is at most 0.2 %, over all figures.

    \b
    harness trends
    harness trends --history nightly.sqlite --reports reports/nightly

    Results go to the history, and REPORTS/index.html draws each changed figure.

    Exit codes: 1 for a change that the runs before the newest one do not show; else 0.
    """  # noqa: D301  click needs the backslash
    require_extras("`harness trends`", "soak")
    reports = options.reports.resolve()
    path = history or reports / FILE
    if not path.exists() and not (reports / "runs").is_dir():
        raise UsageError(f"expected runs in {reports / 'runs'} or a history {path}; found neither")
    trends = update(reports, path)
    if reports.is_dir():
        folder.write_text(reports / page.INDEX, page.render_index(reports, path))
    if options.wants_json:
        rows = [{**asdict(shift), "is_new": shift in trends.new} for shift in trends.shifts]
        click.echo(json.dumps({"series": len(trends.series), "changes": rows}, indent=2))
    if trends.shifts:
        cells = [
            (
                *("NEW" if shift in trends.new else "", shift.series, shift.figure),
                *(f"{shift.before:,.4g}", f"{shift.after:,.4g}", shift.run, f"{shift.p:.1g}"),
            )
            for shift in trends.shifts
        ]
        print_table(table(HEAD, cells))
    runs = max((len(series.runs) for series in trends.series), default=0)
    print_result(
        f"{len(trends.shifts)} changes, {len(trends.new)} of them new, in {len(trends.series)}"
        f" figures of up to {runs} runs · {trends.added} runs added to {shown_path(path)}"
    )
    return 1 if trends.new else 0
