"""`harness replay`: asks the operations of a stored failure again."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import as_json, checked, scenarios_option
from harness.cli.output import print_result
from harness.report.judgement import anomaly_lines, step_lines
from harness.runs.replay import read_failure, run
from harness.targets.registry import find_target


def _named(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Check an installed name now; module:Class may be on the path of the failure's suite only."""
    if value is not None and ":" not in value:
        checked(find_target)(ctx, param, value)
    return value


@click.command("replay")
@scenarios_option
@click.argument("failure", type=click.Path(path_type=Path))
@click.option(
    "--target",
    callback=_named,
    help="Ask this target instead of the one on which the failure was found.",
)
@as_json
def replay_command(*, failure: Path, target: str | None, wants_json: bool) -> int:
    """Ask the operations of a stored failure again, and judge the answers.

    FAILURE is a file failure.json of a run, or the scenario's folder with that file. Exits 1 if the
    promise is still broken.

    \b
    harness replay reports/runs/latest/server-one-client/failure.json
    harness replay reports/runs/latest/server-one-client --target reference@FOLDER

    Results go to the terminal; nothing is written.
    """  # noqa: D301  click needs the backslash
    stored = read_failure(failure)
    replayed = run(stored, target or stored.target)
    if wants_json:
        click.echo(json.dumps(replayed.to_json(), indent=2))
    for line in step_lines(replayed.history, "which --json has"):
        print_result(line)
    for anomaly in replayed.verdict.anomalies:
        print_result("\n".join(anomaly_lines(anomaly)))
    print_result("", str(replayed.verdict.validity))
    return replayed.verdict.validity.exit_code
