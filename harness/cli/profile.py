"""`harness profile`: measures where a target's time goes under load."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import (
    Duration,
    RunOptions,
    budgets_option,
    run_options,
    target_option,
    users_option,
)
from harness.cli.output import print_result, print_text, progress
from harness.core.extras import require_extras
from harness.runs.budgets import read_budgets
from harness.runs.counts import COUNTS
from harness.runs.figures import FIGURES
from harness.runs.profile import BUDGETED, Profile, markdown


@click.command("profile")
@target_option
@users_option
@click.option(
    "--window",
    "window_s",
    type=Duration(),
    default="10s",
    show_default=True,
    help="Length of each measurement under load.",
)
@budgets_option
@run_options("keep", "seed", "reports", "json")
def profile_command(
    *, target: str, users: int, window_s: float, budgets: Path | None, options: RunOptions
) -> int:
    """Measure where a target's time goes under load, and what a turn and a stream cost.

    Each measurement has a window of its own, so that none disturbs another: memory at rest, counts
    turn by turn, latency under load, and then stacks, as a flame graph and for speedscope.

    \b
    harness profile --users 200
    harness profile --target hermes-agent==0.19.0 --window 30s --json

    Results go to a new folder REPORTS/runs/..., which REPORTS/runs/latest points to: summary.md,
    profile.json, load.html, flame.svg and speedscope.json.

    Exit codes: 1 only for a broken budget; 2 if a budget could not be judged; else 0.
    """  # noqa: D301  click needs the backslash
    require_extras("`harness profile`", "load", "soak")
    limits = () if budgets is None else read_budgets(budgets, (*FIGURES, *COUNTS, *BUDGETED))
    print_text(f"profile · target {target} · seed {options.seed} · {users} users")
    reports = options.reports.resolve()
    profile = Profile(target, options.seed, users, window_s, reports, options.keep, limits)
    with progress() as step:
        run, result = profile.run(step)
    if options.wants_json:
        click.echo(json.dumps({"run": str(run), **result}, indent=2))
    print_result(markdown(result))
    print_result(str(run))
    return int(result["exit_code"])
