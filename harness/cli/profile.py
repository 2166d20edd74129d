"""`harness profile`: where the time goes under load."""

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
    target_option,
)
from harness.cli.people import people, progress
from harness.runs import profile


@click.command("profile")
@target_option
@click.option(
    "--users", type=click.IntRange(10, 100_000), default=100, show_default=True, help="How many."
)
@click.option(
    "--window", "window_s", type=Budget(), default="10s", show_default=True, help="Of each look."
)
@keep_option
@seed_option
@reports_option
@as_json
def profile_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    users: int,
    window_s: float,
    keep: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """See where a target's time goes under load, and what a turn and a stream cost.

    Each look has a window of its own, so that none disturbs another: memory at rest, counts turn by
    turn, latency under load, and then stacks, as a flame graph and for speedscope.
    """
    seed = seed_or_drawn(seed)
    people.print(f"profile · target {escape(target)} · seed {seed} · {users} users")
    asked = profile.Profile(target, seed, users, window_s, reports.resolve(), keep)
    with progress() as step:
        run, told = asked.run(step)
    if wants_json:
        click.echo(json.dumps({"run": str(run), **told}, indent=2))
    people.print(escape(profile.markdown(told)), soft_wrap=True)
    people.print(escape(str(run)), soft_wrap=True)
    return 0
