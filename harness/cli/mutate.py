"""`harness mutate`: how many small mistakes does the judge put up with?"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from random import Random

import click

from harness.cli.options import (
    as_json,
    effort_option,
    keep_option,
    reports_option,
    seed_option,
    seed_or_drawn,
    workers_option,
)
from harness.cli.people import people, progress, table, tell
from harness.mutation.mutants import find_mutants
from harness.runs.mutation_score import Ending, Fate, Mutation, score

AT_LEAST = 0.95


@click.command("mutate")
@click.argument("files", nargs=-1)
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="How many mutants, drawn from all there are.",
)
@effort_option(0.25)
@click.option(
    "--at-least",
    type=click.FloatRange(0, 1),
    default=AT_LEAST,
    show_default=True,
    help="The share that must not survive.",
)
@workers_option
@keep_option
@seed_option
@reports_option
@as_json
def mutate_command(  # noqa: PLR0913  one parameter an option
    *,
    files: tuple[str, ...],
    sample: int,
    effort: float,
    at_least: float,
    workers: int,
    keep: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """Make small mistakes in the reference, and see how many the judge puts up with.

    Each mutant is a copy of the reference with one edit: a relation, a connector or a constant is
    another one, a statement or a lock is left out. FILES are the reference's, such as storage/durable_map.py;
    all of them, if none is named. A mutant is killed if a broken promise is proven of it, noticed
    if no verdict can be had of it, and survives if all is valid. Exits 0 if few enough survive.
    """
    first = seed_or_drawn(seed)
    every = find_mutants(files)
    drawn = sorted(Random(first).sample(every, min(sample, len(every))))
    people.print(f"mutate · {len(drawn)} of {len(every)} mutants · seed {first}")
    asked = Mutation(drawn, first, effort, reports.resolve(), workers, keep)
    with progress() as step:
        run, endings = asked.run(step)
    shares = score(endings)
    if wants_json:
        told = [ending.to_json() for ending in endings]
        click.echo(json.dumps({"run": str(run), "score": shares, "mutants": told}, indent=2))
    _show(endings)
    words = " · ".join(f"{share:.0%} {fate}" for fate, share in shares.items())
    people.print(f"[bold]{words}[/bold] · {run}", soft_wrap=True)
    return 0 if 1 - shares[Fate.SURVIVED] >= at_least else 1


def _show(endings: list[Ending]) -> None:
    by_file: defaultdict[str, list[Ending]] = defaultdict(list)
    for ending in endings:
        by_file[ending.mutant.file].append(ending)
    rows = [
        (name, *(str(sum(one.fate is fate for one in here)) for fate in Fate))
        for name, here in by_file.items()
    ]
    tell(table(("file", *map(str, Fate)), rows))
    for ending in endings:
        if ending.fate is not Fate.KILLED:
            people.print(str(ending), markup=False)
