"""`harness gate`: put a target on trial."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from harness.cli.options import (
    Budget,
    as_json,
    keep_option,
    mode_option,
    promise_option,
    reports_option,
    scenario_option,
    scenarios_option,
    seed_option,
    seed_or_drawn,
    target_option,
    workers_option,
)
from harness.cli.people import people, progress, show
from harness.runs.gate import Gate


@click.command("gate")
@target_option
@click.option(
    "--budget", type=Budget(), default="120s", show_default=True, help="Time it may take."
)
@scenarios_option
@scenario_option
@promise_option
@mode_option
@workers_option
@keep_option
@seed_option
@reports_option
@as_json
def gate_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    budget: float,
    scenario: tuple[str, ...],
    promise: tuple[str, ...],
    mode: tuple[str, ...],
    workers: int,
    keep: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """Put a target on trial, and say what holds.

    More budget buys more examples; the same seed and budget ask the same questions. What is not
    finished when the budget ends is unknown, never valid.
    """
    seed = seed_or_drawn(seed)
    people.print(f"gate · target {escape(target)} · seed {seed} · budget {budget:g} s")
    asked = Gate(target, seed, budget, reports.resolve(), workers, scenario, keep, promise, mode)
    with progress() as step:
        conclusion = asked.run(step)
    show(conclusion, wants_json=wants_json)
    return conclusion.exit_code
