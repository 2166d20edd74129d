"""`harness compare`: tells whether one target is slower than another."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import Name, RunOptions, budgets_option, checked, run_options
from harness.cli.output import print_result, print_text, progress
from harness.core.extras import require_extras
from harness.runs.budgets import read_budgets
from harness.runs.compare import BLOCKS, Comparison, markdown
from harness.runs.counts import COUNTS
from harness.runs.figures import FIGURES
from harness.runs.profile import BUDGETED
from harness.runs.ratios import MARGIN
from harness.targets.registry import find_target


@click.command("compare")
@click.argument("a", callback=checked(find_target))
@click.argument("b", callback=checked(find_target))
@click.option(
    "--blocks",
    type=click.IntRange(1, 200),
    default=BLOCKS,
    show_default=True,
    help="How often both are booted afresh; more blocks see smaller differences.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 10),
    default=MARGIN,
    show_default=True,
    help="A slow-down up to this share is none; nor is a count that grows by no more.",
)
@click.option(
    "--figure",
    "figures",
    multiple=True,
    type=Name("figure", (*FIGURES, *COUNTS)),
    help="Only this figure or count; repeatable. Fewer figures need fewer blocks.",
)
@budgets_option
@run_options("keep", "seed", "reports", "json")
def compare_command(  # noqa: PLR0913  one parameter an option
    *,
    a: str,
    b: str,
    blocks: int,
    margin: float,
    figures: tuple[str, ...],
    budgets: Path | None,
    options: RunOptions,
) -> int:
    """Tell whether target B is slower than target A.

    Both are booted afresh in each block, on the same core, and asked in interleaved rounds, A B B A
    or B A A B. Each figure gets the ratio B / A with its interval, and one word: slower, faster,
    same, or too noisy. The chance of any false row is at most 1 %, over all figures together.

    What a turn costs in SQL statements, locks, fsyncs and bytes is counted in boots of its own, and
    compared exactly: more, fewer, same; a count that varies is too noisy, and never red. The bound
    of 1 % does not cover counts: what all boots of one side happen to share shows as a difference.

    \b
    harness compare hermes-webui@../released hermes-webui@.
    harness compare reference@../before reference --blocks 20 --budgets budgets.toml

    Results go to a new folder REPORTS/runs/..., which REPORTS/runs/latest points to: summary.md,
    and compare.json with every round.

    Exit codes: 1 only for a figure that is significantly slower, or a count that is greater, by
    more than the margin, and for a broken budget; 2 if a figure is too noisy to say; else 0.
    """  # noqa: D301  click needs the backslash
    require_extras("`harness compare`", "soak")
    limits = () if budgets is None else read_budgets(budgets, (*FIGURES, *COUNTS, *BUDGETED))
    print_text(f"compare · A {a} · B {b} · seed {options.seed} · {blocks} blocks")
    reports = options.reports.resolve()
    comparison = Comparison(
        (a, b), options.seed, reports, blocks, margin, figures, options.keep, limits
    )
    with progress() as step:
        run, result = comparison.run(step)
    if options.wants_json:
        click.echo(json.dumps({"run": str(run), **result}, indent=2))
    print_result(markdown(result))
    print_result(f" · {run}", result["conclusion"])
    return int(result["exit_code"])
