"""`harness bisect`: names the revision that broke a promise, or the one that mended it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import (
    Duration,
    RunOptions,
    checked,
    run_options,
    scenario_option,
    seeds_option,
)
from harness.cli.output import print_result, print_text, progress, shown_path
from harness.engine.suite import choose
from harness.report import folder
from harness.runs.accepted import read_accepted
from harness.runs.bisect import Bisection, Found, line_of, plan_of, read_answers
from harness.runs.revisions import RevisionGates, require_repository
from harness.targets.registry import find_kind

SHOWN_MAX = 20  # revisions of a range


@click.command("bisect")
@click.argument("good", metavar="GOOD")
@click.argument("bad", metavar="BAD")
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
@click.option(
    "--promise",
    required=True,
    metavar="ID",
    callback=checked(lambda name: choose(promises=[name])),
    help="The promise that BAD breaks and GOOD keeps.",
)
@click.option(
    "--signature",
    default="",
    metavar="TEXT",
    help="Only anomalies whose signature contains this text.",
)
@click.option(
    "--accept",
    type=click.Path(path_type=Path),
    help="A TOML file of accepted findings, which do not count.",
)
@click.option(
    "--kind",
    default="hermes-webui",
    show_default=True,
    callback=checked(find_kind),
    help="The kind of target that a folder of the repository is: KIND@FOLDER.",
)
@seeds_option
@click.option(
    "--budget", type=Duration(), default="120s", show_default=True, help="Time for each gate."
)
@click.option(
    "--resume",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="RUN",
    help="Go on with the answers in this run folder of the same search.",
)
@scenario_option
@run_options("workers", "reports", "json")
def bisect_command(  # noqa: PLR0913  one parameter an option
    *,
    good: str,
    bad: str,
    repository: Path,
    promise: str,
    signature: str,
    accept: Path | None,
    kind: str,
    seeds: list[int],
    budget: float,
    resume: Path | None,
    scenario: tuple[str, ...],
    options: RunOptions,
) -> int:
    """Name the revision that broke a promise, or the one that mended it.

    GOOD and BAD are revisions of the Git repository REPO, on one line of first parents. Where BAD
    is the later one, the revision that broke the promise is named; else the one that mended it. A
    gate judges each revision that a binary search asks for: by the scenarios of the promise, or by
    those of --scenario. A revision that cannot be judged is skipped, and the answer may be a range.

    \b
    harness bisect v1.4 HEAD ../hermes-webui --promise S6 --seeds 1,2
    harness bisect 5b0246de6 07118df53 ../hermes-webui --promise S6 --scenario server-one-client

    Results go to standard output. Each answer is recorded in the run folder below REPORTS/runs/ at
    once, and --resume goes on with them.

    Exit codes: 0 one revision is named, 2 a range.
    """  # noqa: D301  click needs the backslash
    require_repository(repository)
    repository = repository.resolve()
    line_of(repository, good, bad)  # wrong ends leave no run folder
    accepted = read_accepted(accept) if accept is not None else []
    gates = RevisionGates(repository, kind, budget, Path(), options.workers)
    plan = plan_of(gates, promise, scenario)
    if resume is None:
        run, answers = folder.create(options.reports.resolve(), "bisect", seeds[0], plan), {}
    else:
        run = resume.resolve()
        answers = read_answers(run, plan)
    print_text(f"bisect · {run} · after an interruption: the same command with --resume {run}")
    gates = RevisionGates(repository, kind, budget, run, options.workers)
    bisection = Bisection(*(gates, promise, seeds, scenario, run, signature, accepted, answers))
    with folder.kept(run), progress() as step:
        found = bisection.find(good, bad, step)
    if options.wants_json:
        commands = bisection.commands(found.bad)
        document = {**found.to_json(), "promise": promise, "run": str(run), "commands": commands}
        click.echo(json.dumps(document, indent=2))
    _print(found, bisection)
    return 0 if found.is_one else 2


def _print(found: Found, bisection: Bisection) -> None:
    """Print the revision or the range, what is seen on its bad side, and how to see it again."""
    did = "mended" if found.is_mend else "broke"
    if found.is_one:
        print_result(f" {did} {bisection.promise}", str(found.candidates[0]))
    else:
        skipped = len(found.candidates) - 1
        print_result(
            f" {did} {bisection.promise}; {skipped} of them cannot be judged",
            f"one of {len(found.candidates)} revisions",
        )
        for revision in found.candidates[:SHOWN_MAX]:
            print_result(f"  {revision}")
        if len(found.candidates) > SHOWN_MAX:
            print_result(f"  ... {len(found.candidates) - SHOWN_MAX} more, which --json has")
    merge = found.candidates[-1]
    if found.is_one and merge.is_merge:
        base = f"$(git merge-base {' '.join(sha[:9] for sha in merge.parents)})"
        ends = (merge.parents[1][:9], base) if found.is_mend else (base, merge.parents[1][:9])
        print_result(f"  it is a merge; within its branch: harness bisect {' '.join(ends)} ...")
    for signature, names in found.bad.seen.items():
        print_result(f"seen: {signature} ({', '.join(names)}, seed {found.bad.seed})")
    print_result(f"seen at: {found.bad.revision}")
    print_result(f"not seen at: {found.good.revision}")
    for judged in found.asked:
        if judged.word == "skipped":
            print_result(f"skipped: {judged.revision}: {judged.reason}")
    print_result("see it again:")
    for command in bisection.commands(found.bad):
        print_result(f"  {command}")
    print_result(f"run: {shown_path(bisection.run)}")
    print_result(
        f"asked {len(found.asked)} revisions, {found.between} are between the ends"
        f" · {found.seconds:.0f} s"
    )
