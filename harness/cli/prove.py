"""`harness prove`: does the judge catch what it must?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import (
    as_json,
    effort_option,
    keep_option,
    reports_option,
    scenarios_option,
    seed_option,
    seed_or_drawn,
    workers_option,
)
from harness.cli.people import people, progress, table, tell
from harness.core.errors import UsageError
from harness.engine.scenario import Mode
from harness.mutation.known_bugs import find_bugs
from harness.runs.bug_detection import Proof


@click.command("prove")
@scenarios_option
@click.argument("bugs", nargs=-1)
@click.option(
    "--by",
    "modes",
    multiple=True,
    type=click.Choice([str(mode) for mode in Mode]),
    help="Only bugs that this mode is to catch; may be repeated.",
)
@click.option(
    "--tries",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Seeds on which each bug is judged.",
)
@effort_option(1.0)
@workers_option
@keep_option
@seed_option
@reports_option
@as_json
def prove_command(  # noqa: PLR0913  one parameter an option
    *,
    bugs: tuple[str, ...],
    modes: tuple[str, ...],
    tries: int,
    effort: float,
    workers: int,
    keep: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """Plant known bugs, and see whether each is caught.

    Exits 0 only if every bug asked for is caught by its own promise in a copy of the reference, and
    the clean reference is valid on the same seeds.
    """
    first = seed_or_drawn(seed)
    chosen = [bug for bug in find_bugs(bugs).values() if not modes or str(bug.mode) in modes]
    if not chosen:
        raise UsageError(f"no known bug is to be caught by {' or '.join(modes)}")
    people.print(f"prove · {len(chosen)} known bugs · seed {first} · tries {tries}")
    seeds = range(first, first + tries)
    asked = Proof(chosen, seeds, effort, reports.resolve(), workers, keep)
    with progress() as step:
        run, kills = asked.run(step)
    rows = [kill.to_json() for kill in kills]
    if wants_json:
        click.echo(json.dumps({"run": str(run), "kills": rows}, indent=2))
    head = ("bug", "promise", "mode", "kills", "by another", "clean", "s to kill")
    cells = [
        (
            kill["bug"],
            kill["promise"],
            kill["mode"],
            f"{kill['kills']}/{kill['tries']}" + ("" if kill["killed"] else " !"),
            " ".join(kill["kills_by_another"]) or "-",
            kill["clean"],
            f"{kill['seconds_to_kill']:.1f}",
        )
        for kill in rows
    ]
    tell(table(head, cells))
    killed = sum(kill.is_killed for kill in kills)
    people.print(f"{killed} of {len(kills)} killed by their own promise")
    return 0 if killed == len(kills) else 1
