"""`harness merge`: puts several runs together as if they had been one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from harness.cli.options import RunOptions, run_options
from harness.cli.output import print_conclusion, print_result, print_table, table
from harness.report import folder
from harness.runs.merging import merge_gates, merge_proofs, read_parts
from harness.runs.merging_counts import is_mutation, merge_audits, merge_mutants
from harness.runs.mutation_session import Status

AT_LEAST = 0.9  # of the mutants, as for `harness mutate`
HEAD = ("bug", "promise", "detected", "by another", "clean")


@click.command("merge")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@run_options("keep", "reports", "json")
def merge_command(*, runs: tuple[Path, ...], options: RunOptions) -> int:
    """Put the runs of several machines together as if they had been one.

    RUN... are run folders of gates, of loads, of proofs or of mutation scores: all shares of
    `--shard k/n`, or runs with different seeds; or the files of `harness audit --record`. Verdicts,
    counts, histograms of latencies and, with --reach, the lines that ran are put together. What no
    run judged is unknown: a share that is missing is noticed.

    \b
    harness merge harness-*-run --reports merged
    harness merge share1.json share2.json

    Results go to a new folder REPORTS/runs/..., which REPORTS/runs/latest points to, with the files
    of one run; the folders of scenarios are copied into it.
    """  # noqa: D301  click needs the backslash
    with folder.whole(*runs):
        return _merge(runs, options)


def _merge(runs: Sequence[Path], options: RunOptions) -> int:
    reports = options.reports.resolve()
    if runs[0].is_file():
        return _merge_audits(runs, wants_json=options.wants_json)
    if is_mutation(runs[0]):
        return _merge_mutants(runs, reports, options)
    parts = read_parts(runs)
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


def _merge_mutants(runs: Sequence[Path], reports: Path, options: RunOptions) -> int:
    document, run = merge_mutants(runs, reports, options.keep)
    if options.wants_json:
        click.echo(json.dumps({"run": str(run), **document}, indent=2))
    shares = document["score"]
    counts = " · ".join(f"{shares[str(status)]} {status}" for status in Status)
    _print_missing(document)
    print_result(f" · {counts} · {run}", f"{shares['share']:.0%} detected")
    return _code(document, is_low=shares["share"] < AT_LEAST)


def _merge_audits(files: Sequence[Path], *, wants_json: bool) -> int:
    document = merge_audits(files)
    if wants_json:
        click.echo(json.dumps(document, indent=2))
    rows = [
        (row["scenario"], str(row["changed"]), str(row["noticed"]), f"{row['share']:.1%}")
        for row in sorted(document["scenarios"], key=lambda row: float(row["share"]))
    ]
    print_table(table(("scenario", "changed", "noticed", "share"), rows))
    _print_missing(document)
    print_result(f"{document['noticed']} of {document['changed']} changes noticed")
    return _code(document, is_low=False)


def _print_missing(document: Mapping[str, Any]) -> None:
    for share in document["missing"]:
        print_result(f"missing: share {share}")


def _code(document: Mapping[str, Any], *, is_low: bool) -> int:
    """1 for a low score, 2 where a share is missing; else 0."""
    if is_low:
        return 1
    return 2 if document["missing"] else 0
