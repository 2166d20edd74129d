"""`harness night`: judges a target for some hours, and sums up what was found."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from harness.cli.options import Duration, OutputFile, RunOptions, checked, run_options
from harness.cli.output import print_result, print_text, shown_path
from harness.core.errors import UsageError
from harness.core.extras import require_extras
from harness.report import folder, page
from harness.report.run_history import FILE
from harness.runs.digest import digest, exit_code, markdown, store
from harness.runs.night import Night
from harness.runs.run_trends import update
from harness.targets.registry import find_target

GIB = 2**30
EARLIER_S = 1.0  # names of run folders have whole seconds


@click.command("night")
@click.option(
    "--budget",
    "budget_s",
    type=Duration(),
    default="4h",
    show_default=True,
    help="Time for all steps; each has a share of it.",
)
@click.option(
    "--disk",
    "disk_gib",
    type=click.FloatRange(0.01),
    default=4.0,
    show_default=True,
    help="GiB that REPORTS may have; a step that exceeds it is cut.",
)
@click.option(
    "--target",
    default="reference",
    show_default=True,
    callback=checked(find_target),
    help="The system under test: `harness list targets`.",
)
@click.option(
    "--history",
    type=OutputFile(),
    help=f"File with the figures of every night; by default REPORTS/{FILE}.",
)
@run_options("seed", "reports", "json")
def night_command(
    *, budget_s: float, disk_gib: float, target: str, history: Path | None, options: RunOptions
) -> int:
    """Judge a target for some hours, and sum up on one page what was found.

    Takes a gate with depth, the known bugs, soaks in process and over HTTP, simulated days, load
    with kills, and a sample of mutants. After a kill the same command goes on where it was; a step
    that uses up its time or the disk is cut.

    \b
    harness night --budget 4h --reports reports/nightly
    harness night --budget 10m --seed 7 --reports reports/nightly

    Results go to REPORTS/digest.html: what this night found, what moved, which figures changed
    their level, and what was not finished. REPORTS/steps has what each step printed.

    Exit codes: 1 for a new finding or a changed level, 2 for what was not finished; else 0.
    """  # noqa: D301  click needs the backslash
    require_extras("`harness night`", "soak", "load")
    reports = options.reports.resolve()
    night = Night.begun(reports, time.time())
    if night is None:
        began_s = time.time() - EARLIER_S
        disk_bytes = round(disk_gib * GIB)
        night = Night(reports, target, options.seed, budget_s, disk_bytes, began_s)
        print_text(f"night · {target} · seed {night.seed} · {budget_s:,.0f} s")
    else:
        print_text(f"night · {night.target} · seed {night.seed} · goes on after a kill")
    folder.make_reports(reports)
    night.run(print_text)
    return _sum_up(night, history or reports / FILE, options)


def _sum_up(night: Night, history: Path, options: RunOptions) -> int:
    """Write the digest, the trends and the index; the exit code."""
    reports, now_s = night.reports, time.time()
    trends = update(reports, history)
    folder.write_text(reports / page.INDEX, page.render_index(reports, history))
    try:
        runs = digest(reports, now_s - night.began_s, now_s)
    except UsageError:
        runs = []  # every step was cut before it made a folder
    changed = [f"{'NEW: ' if s in trends.new else ''}{s}" for s in trends.shifts]
    path = store(reports, runs, changed, night.unfinished)
    if options.wants_json:
        document = {"runs": [run.to_json() for run in runs], "changed": changed}
        click.echo(json.dumps({**document, "not_finished": night.unfinished}, indent=2))
    print_result(markdown(runs, changed, night.unfinished))
    print_result(f"page: {shown_path(path)}")
    if trends.new:
        return 1
    return max(exit_code(runs), 0) or (2 if night.unfinished else 0)
