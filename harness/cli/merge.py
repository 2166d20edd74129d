"""`harness merge`: puts several runs together as if they had been one."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import RunOptions, run_options
from harness.cli.output import print_conclusion, print_result, print_table, table
from harness.runs.merging import merge_gates, merge_proofs, read_parts

HEAD = ("bug", "promise", "detected", "by another", "clean")


@click.command("merge")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@run_options("keep", "reports", "json")
def merge_command(*, runs: tuple[Path, ...], options: RunOptions) -> int:
    """Put the runs of several machines together as if they had been one.

    RUN... are run folders of gates, of loads or of proofs: all shares of `--shard k/n`, or runs
    with different seeds. Verdicts, counts, histograms of latencies and, with --reach, the lines
    that ran are put together. What no run judged is unknown: a share that is missing is noticed.

    \b
    harness merge one/runs/latest two/runs/latest
    harness merge harness-*-run --reports merged

    Results go to a new folder REPORTS/runs/..., which REPORTS/runs/latest points to, with the files
    of one run; the folders of scenarios are copied into it.
    """  # noqa: D301  click needs the backslash
    parts = read_parts(runs)
    reports = options.reports.resolve()
    if not parts[0].is_proof:
        conclusion = merge_gates(parts, reports, options.keep)
        print_conclusion(conclusion, wants_json=options.wants_json)
        return conclusion.exit_code
    document = merge_proofs(parts, reports, options.keep)
    if options.wants_json:
        click.echo(json.dumps(document, indent=2))
    rows = [
        (
            row["bug"],
            row["promise"],
            f"{row['detections']}/{row['tries']}{'' if row['detected'] else ' !'}",
            " ".join(row["detections_by_another"]) or "-",
            row["clean"],
        )
        for row in document["bugs"]
    ]
    print_table(table(HEAD, rows))
    for name in document["missing"]:
        print_result(f"not tried: {name}")
    detected = sum(row["detected"] for row in document["bugs"])
    print_result(f"{detected} of {len(rows)} detected by their own promise")
    if detected < len(rows):
        return 1
    return 2 if document["missing"] else 0
