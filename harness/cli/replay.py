"""`harness replay`: see a failure again."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.markup import escape

from harness.cli.options import as_json, scenarios_option
from harness.cli.people import people
from harness.runs import replay


@click.command("replay")
@scenarios_option
@click.argument("failure", type=click.Path(path_type=Path))
@click.option("--target", help="Ask another target instead of the one it was found on.")
@as_json
def replay_command(*, failure: Path, target: str | None, wants_json: bool) -> int:
    """Ask the very questions of a failure again. Exits 1 if the promise is still broken."""
    told = replay.read(failure)
    replayed = replay.run(told, target or told.target)
    if wants_json:
        click.echo(json.dumps(replayed.to_json(), indent=2))
    for number, operation in enumerate(replayed.history, start=1):
        people.print(escape(f"{number:3}. {operation}"), soft_wrap=True)
    for anomaly in replayed.verdict.anomalies:
        people.print(
            f"[bold]{anomaly.promise.id} broken:[/bold] {escape(anomaly.message)}", soft_wrap=True
        )
    people.print(f"[bold]{replayed.verdict.validity}[/bold]")
    return replayed.verdict.validity.exit_code
