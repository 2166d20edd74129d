"""`harness mutate`: measures how many small mistakes in the source the scenarios detect."""

from __future__ import annotations

import json
from collections import defaultdict
from random import Random

import click

from harness.cli.options import RunOptions, checked, effort_option, run_options
from harness.cli.output import print_result, print_table, print_text, progress, table
from harness.core.extras import require_extras
from harness.mutation.mutants import find_mutants
from harness.runs.mutation_score import MutantResult, MutationRun, Status, score

AT_LEAST = 0.95


@click.command("mutate")
@click.argument("files", nargs=-1, callback=checked(find_mutants))
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Number of mutants, drawn from all.",
)
@effort_option(0.25)
@click.option(
    "--at-least",
    type=click.FloatRange(0, 1),
    default=AT_LEAST,
    show_default=True,
    help="Exit 1 if a smaller share of the mutants does not survive.",
)
@run_options()
def mutate_command(
    *,
    files: tuple[str, ...],
    sample: int,
    effort: float,
    at_least: float,
    options: RunOptions,
) -> int:
    """Judge copies of the reference that have one small mistake each.

    In each mutant a relation, a connector or a constant is another one, or a statement or a lock is
    left out. FILES are paths below the source, such as storage/durable_map.py; all by default. A
    mutant is detected if a broken promise is proven, inconclusive if there is no verdict, and
    survives if all scenarios are valid.

    \b
    harness mutate --sample 50
    harness mutate storage/durable_map.py turns/turns.py --sample 200 --seed 7

    Results go to verdict.json in a new folder REPORTS/runs/..., which REPORTS/runs/latest points
    to; the terminal lists each mutant that was not detected.
    """  # noqa: D301  click needs the backslash
    require_extras("`harness mutate`", "load", "soak")
    every = find_mutants(files)
    drawn = sorted(Random(options.seed).sample(every, min(sample, len(every))))
    print_text(f"mutate · {len(drawn)} of {len(every)} mutants · seed {options.seed}")
    reports = options.reports.resolve()
    mutation = MutationRun(drawn, options.seed, effort, reports, options.workers, options.keep)
    with progress() as step:
        run, results = mutation.run(step)
    shares = score(results)
    if options.wants_json:
        rows = [result.to_json() for result in results]
        click.echo(json.dumps({"run": str(run), "score": shares, "mutants": rows}, indent=2))
    _show(results)
    words = " · ".join(f"{share:.0%} {status}" for status, share in shares.items())
    print_result(f" · {run}", words)
    return 0 if 1 - shares[Status.SURVIVED] >= at_least else 1


def _show(results: list[MutantResult]) -> None:
    by_file: defaultdict[str, list[MutantResult]] = defaultdict(list)
    for result in results:
        by_file[result.mutant.file].append(result)
    rows = [
        (file, *(str(sum(result.status is status for result in group)) for status in Status))
        for file, group in by_file.items()
    ]
    print_table(table(("file", *map(str, Status)), rows))
    for result in results:
        if result.status is not Status.DETECTED:
            print_result(str(result))
