"""`harness track`: tells which pairs of revisions the judge distinguishes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import Duration, RunOptions, run_options, scenario_option, seeds_option
from harness.cli.output import print_table, print_text, progress, table
from harness.core.errors import UsageError
from harness.core.suggestions import unknown
from harness.runs.revisions import RevisionGates, require_repository
from harness.runs.track_record import HEAD, Track, read_pairs


@click.command("track")
@click.argument("table_file", metavar="TABLE", type=click.Path(path_type=Path))
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    default="hermes-webui",
    show_default=True,
    help="The kind of target that a folder of the repository is: KIND@FOLDER.",
)
@seeds_option
@click.option(
    "--budget", type=Duration(), default="120s", show_default=True, help="Time for each gate."
)
@click.option("--pair", "names", multiple=True, help="Only the pair of this name; repeatable.")
@scenario_option
@run_options("workers", "reports", "json")
def track_command(  # noqa: PLR0913  one parameter an option
    *,
    table_file: Path,
    repository: Path,
    kind: str,
    seeds: list[int],
    budget: float,
    names: tuple[str, ...],
    scenario: tuple[str, ...],
    options: RunOptions,
) -> int:
    """Tell which pairs of revisions, before and after a mend, the judge distinguishes.

    TABLE is a TOML file with a `[[pair]]` for each: name, before, after, promise, and optionally
    scenarios. REPO is a Git repository. For each pair the gates of both revisions are compared: a
    pair is distinguished if an anomaly of its promise is seen before, and not after.

    \b
    harness track reports/track_record/pairs.toml ../hermes-webui --seeds 1,2
    harness track pairs.toml ../hermes-webui --pair relay-never-closes --budget 60s

    Results go to standard output, one row for each pair; each gate writes a run folder below
    REPORTS/runs/.

    Exit codes: 0 all pairs are distinguished, 1 one is not.
    """  # noqa: D301  click needs the backslash
    known = {pair.name: pair for pair in read_pairs(table_file)}
    for name in names:
        if name not in known:
            raise UsageError(f"--pair: {unknown('pair', name, known)}")
    require_repository(repository)
    pairs = [pair for name, pair in known.items() if not names or name in names]
    gates = RevisionGates(repository, kind, budget, options.reports.resolve(), options.workers)
    track = Track(gates, seeds, scenario)
    tracked = []
    with progress() as step:
        for result in track.run(pairs, step):
            tracked.append(result)
            print_text(" | ".join(result.row()))
    if options.wants_json:
        click.echo(json.dumps([result.to_json() for result in tracked], indent=2))
    print_table(table(HEAD, [result.row() for result in tracked]))
    distinguished = sum(result.is_distinguished for result in tracked)
    print_text(f"{distinguished} of {len(tracked)} pairs are distinguished")
    return 0 if distinguished == len(tracked) else 1
