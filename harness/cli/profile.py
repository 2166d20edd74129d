"""`harness profile`: measures where a target's time goes under load."""

from __future__ import annotations

import json

import click

from harness.cli.options import Duration, RunOptions, run_options, target_option
from harness.cli.output import print_result, print_text, progress
from harness.core.extras import require_extras
from harness.runs.profile import Profile, markdown


@click.command("profile")
@target_option
@click.option(
    "--users",
    type=click.IntRange(10, 100_000),
    default=100,
    show_default=True,
    help="Number of users.",
)
@click.option(
    "--window",
    "window_s",
    type=Duration(),
    default="10s",
    show_default=True,
    help="Length of each measurement under load.",
)
@run_options("keep", "seed", "reports", "json")
def profile_command(*, target: str, users: int, window_s: float, options: RunOptions) -> int:
    """Measure where a target's time goes under load, and what a turn and a stream cost.

    Each measurement has a window of its own, so that none disturbs another: memory at rest, counts
    turn by turn, latency under load, and then stacks, as a flame graph and for speedscope.

    \b
    harness profile --users 200
    harness profile --target hermes-agent==0.19.0 --window 30s --json

    Results go to a new folder REPORTS/runs/..., which REPORTS/runs/latest points to: summary.md,
    profile.json, load.html, flame.svg and speedscope.json.
    """  # noqa: D301  click needs the backslash
    require_extras("`harness profile`", "load", "soak")
    print_text(f"profile · target {target} · seed {options.seed} · {users} users")
    reports = options.reports.resolve()
    profile = Profile(target, options.seed, users, window_s, reports, options.keep)
    with progress() as step:
        run, result = profile.run(step)
    if options.wants_json:
        click.echo(json.dumps({"run": str(run), **result}, indent=2))
    print_result(markdown(result))
    print_result(str(run))
    return 0
