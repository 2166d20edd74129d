"""`harness audit`: counts how many changed answers the checkers notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from harness.cli.options import (
    RunOptions,
    record_option,
    run_options,
    scenario_option,
    scenarios_option,
    shard_option,
)
from harness.cli.output import print_result, print_table, progress, table
from harness.core.partition import WHOLE
from harness.runs import baselines
from harness.runs.audit import Audit, Row, Score

MISSED_MAX = 40  # rows of missed changes that are printed


@click.command("audit")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@scenarios_option
@scenario_option
@click.option(
    "--per-field",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Changes of each kind that are judged for each field.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=30.0,
    show_default=True,
    help="Time for each scenario, at most.",
)
@click.option(
    "--at-least",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    help="Exit 1 if a scenario notices a smaller share than this.",
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Exit 1 if a scenario is behind its share in this file, by more than chance explains.",
)
@shard_option
@record_option
@click.option("--fields", is_flag=True, help="List every field with missed changes.")
@run_options("workers", "seed", "json")
def audit_command(  # noqa: PLR0913  one parameter an option
    *,
    run: Path,
    scenario: tuple[str, ...],
    per_field: int,
    seconds: float,
    shard: tuple[int, int],
    at_least: float,
    against: Path | None,
    record: Path | None,
    fields: bool,
    options: RunOptions,
) -> int:
    """Change answers of a valid run one at a time, and count how many are noticed.

    RUN is the folder of a gate that was valid. Each change alters one leaf of one stored answer;
    the scenario's checker judges the history again, without a target.

    \b
    harness audit reports/runs/latest --scenario 'wakeups-*' --fields
    harness audit reports/runs/latest --seed 1 --shard 1/4 --record share1.json

    Results go to the terminal; nothing is written but what --record asks for.
    """  # noqa: D301  click needs the backslash
    audit = Audit(run, options.seed, per_field, options.workers, seconds, scenario, shard)
    with progress() as step:
        scores, rows = audit.run(step)
    if options.wants_json:
        document = {
            "seed": options.seed,
            "scores": [score.to_json() for score in scores],
            "rows": [row.to_json() for row in rows],
        }
        click.echo(json.dumps(document, indent=2))
    head = ("scenario", "changed", "noticed", "share", "fields", "unpredictable")
    print_table(table(head, [_cells(score) for score in scores]))
    missed = [row for row in rows if row.noticed < row.changed and not row.excused]
    for row in missed if fields else missed[:MISSED_MAX]:
        print_result(_missed(row))
    total, noticed = sum(s.changed for s in scores), sum(s.noticed for s in scores)
    print_result(f"{noticed} of {total} changes noticed · seed {options.seed}")
    if record is not None:
        rows_of = [score.to_json() for score in sorted(scores, key=lambda s: s.scenario)]
        figures: dict[str, Any] = {"per_field": per_field, "changed": total, "noticed": noticed}
        if shard != WHOLE:
            figures["share"] = list(shard)
        baselines.record(record, options.seed, {**figures, "scenarios": rows_of})
    fallen = [] if against is None else baselines.behind(scores, against)
    for sentence in fallen:
        print_result(f"behind: {sentence}")
    is_low = any(score.changed and score.share < at_least for score in scores)
    return 1 if is_low or fallen else 0


def _cells(score: Score) -> tuple[str, ...]:
    return (
        score.scenario,
        f"{score.changed:,}",
        f"{score.noticed:,}",
        score.unjudged or f"{score.share:.1%}",
        str(score.fields),
        str(score.excused_fields),
    )


def _missed(row: Row) -> str:
    field = f"{row.scenario} {row.function} {row.field}"
    return f"missed: {field}: {row.change}, {row.changed - row.noticed} of {row.changed}"
