"""`harness mutate`: measures how many small mistakes in the source the scenarios detect."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from random import Random

import click

from harness.cli.options import (
    Duration,
    OutputFile,
    RunOptions,
    checked,
    effort_option,
    record_option,
    refuse_beside,
    run_options,
    shard_option,
)
from harness.cli.output import print_result, print_table, print_text, progress, table
from harness.core.errors import UsageError
from harness.core.extras import require_extras
from harness.mutation.mutants import find_mutants
from harness.report import folder, page
from harness.runs import baselines, mutation_session
from harness.runs.mutation_score import MutationRun, MutationScore, diff, score, source_digest
from harness.runs.mutation_session import RESULTS, MutationSession, Status, Stored

AT_LEAST = 0.9


@click.command("mutate")
@click.argument("files", nargs=-1, callback=checked(find_mutants))
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Number of mutants, drawn from all (of a share: from the share).",
)
@effort_option(0.25)
@click.option(
    "--deep-effort",
    type=click.FloatRange(0.01, 100),
    default=1.0,
    show_default=True,
    help="How much each scenario asks of mutants in groups.",
)
@click.option(
    "--group",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Mutants that are asked in one copy, once each passed the most telling scenarios alone.",
)
@click.option(
    "--session",
    "session_file",
    type=OutputFile(),
    help="File of the session, to go on with or to share; in the run folder by default.",
)
@shard_option
@click.option("--for", "duration", type=Duration(), help="End after this time; go on by --session.")
@click.option("--survivors", is_flag=True, help="Ask nothing; list the session's survivors.")
@click.option(
    "--at-least",
    type=click.FloatRange(0, 1),
    default=AT_LEAST,
    show_default=True,
    help="Exit 1 if a smaller share of the mutants is detected.",
)
@record_option
@run_options()
def mutate_command(  # noqa: PLR0913  one parameter an option
    *,
    files: tuple[str, ...],
    sample: int,
    effort: float,
    deep_effort: float,
    group: int,
    session_file: Path | None,
    shard: tuple[int, int],
    duration: float | None,
    survivors: bool,
    at_least: float,
    record: Path | None,
    options: RunOptions,
) -> int:
    """Judge copies of the reference that have one small mistake each.

    In each mutant a relation, a connector or a constant is another one, or a statement or a lock is
    left out. FILES are paths below the source, such as storage/durable_map.py; all by default. A
    mutant is detected if a broken promise is proven twice, inconclusive if there is no verdict, and
    survives if all scenarios that reach it are valid.

    \b
    harness mutate storage/durable_map.py turns/turns.py --sample 200 --seed 7
    harness mutate --session mutants.sqlite --sample 3000 --seed 1 --for 1h

    A run that was killed goes on with the same command, if it names a --session. Several commands
    may work on one file; on several machines each has a --shard and a file of its own.

    Results go to verdict.json in a new folder REPORTS/runs/..., which REPORTS/runs/latest points
    to; the terminal lists each mutant that was not detected.
    """  # noqa: D301  click needs the backslash
    if survivors and session_file is None:
        raise UsageError("--survivors needs --session: a new session has no survivors")
    refuse_beside("survivors", ["duration", "workers", "group"], "it asks nothing")
    require_extras("`harness mutate`", "load", "soak")
    reports = options.reports.resolve()
    plan = {"target": "mutants", "effort": effort, "sample": sample, "scenarios": []}
    run = folder.create(reports, "mutate", options.seed, plan)
    session = MutationSession(session_file or run / mutation_session.FILE, share=shard)
    mutants = find_mutants(files)
    Random(options.seed).shuffle(mutants)
    stored_plan = {
        "seed": options.seed,
        "effort": effort,
        "deep_effort": deep_effort,
        "source": source_digest(),
        "files": " ".join(files) or "all",
    }
    session.begin(stored_plan, mutants)
    if not survivors:
        print_text(f"mutate · {sample} of {len(mutants)} mutants · seed {options.seed}")
        ends_at = math.inf if duration is None else time.monotonic() + duration
        mutation = MutationRun(
            session,
            sample,
            options.seed,
            effort,
            deep_effort,
            options.workers,
            group,
            ends_at,
        )
        with progress() as step:
            mutation.run(step)
    results = session.results(sample)
    shares = score(results)
    document = {
        "run": str(run),
        **stored_plan,
        "share": list(shard),
        "all": len(mutants),
        "score": shares.to_json(),
        "mutants": [stored.to_json() for stored in results if stored.status is not Status.OPEN],
    }
    session.close()
    if record is not None:
        figures = {name: document[name] for name in (*stored_plan, "all", "score")}
        figures["survivors"] = [
            diff(stored.mutant, 0) for stored in results if stored.status is Status.SURVIVED
        ]
        baselines.record(record, options.seed, figures)
    folder.write_json(run / folder.VERDICT, document)
    page.retain(reports, options.keep)
    if options.wants_json:
        click.echo(json.dumps(document, indent=2))
    _show(results, shares, with_diff=survivors)
    print_result(f" · {run}", _words(shares))
    return 0 if shares.share >= at_least else 1


def _words(shares: MutationScore) -> str:
    counts = " · ".join(f"{shares.counts[status]} {status}" for status in Status)
    bounds = f"{shares.low:.0%} to {shares.high:.0%}"
    return f"{shares.share:.0%} detected ({bounds}) · {counts} · {shares.seconds_median:.1f} s each"


def _show(results: Sequence[Stored], shares: MutationScore, *, with_diff: bool) -> None:
    by_file: defaultdict[str, list[Stored]] = defaultdict(list)
    for stored in results:
        by_file[stored.mutant.file].append(stored)
    rows = [
        (file, *(str(sum(stored.status is status for stored in group)) for status in RESULTS))
        for file, group in sorted(by_file.items())
    ]
    if shares.asked:
        print_table(table(("file", *map(str, RESULTS)), rows))
    for stored in results:
        if stored.status in (Status.INCONCLUSIVE, Status.SURVIVED):
            print_result(str(stored))
            if with_diff and stored.status is Status.SURVIVED:
                print_result(diff(stored.mutant) + "\n")
