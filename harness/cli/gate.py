"""`harness gate`: judges a target by all scenarios within a budget of time."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import click

from harness.cli.options import (
    Duration,
    OutputFile,
    RunOptions,
    mode_option,
    promise_option,
    run_options,
    scenario_option,
    scenarios_option,
    shard_option,
    target_option,
)
from harness.cli.output import print_conclusion, print_text, progress
from harness.core.errors import UsageError
from harness.runs.accepted import proposed, read_accepted
from harness.runs.differences import read_run
from harness.runs.gate import Gate


@click.command("gate")
@target_option
@click.option(
    "--budget",
    type=Duration(),
    default="120s",
    show_default=True,
    help="Time for the scenarios; a slow machine may take twice as long.",
)
@scenarios_option
@scenario_option
@promise_option
@mode_option
@click.option(
    "--fail-fast", "fails_fast", is_flag=True, help="End the run at the first broken promise."
)
@click.option(
    "--no-canary",
    "asks_canaries",
    flag_value=False,
    default=True,
    help="Do not check that the checkers work; the verdict says so.",
)
@click.option(
    "--reach", is_flag=True, help="Measure which blocks of the code on trial the gate runs."
)
@click.option(
    "--source",
    type=click.Path(exists=True, path_type=Path),
    help="Top folder of the code that --reach measures; the target's own by default.",
)
@click.option(
    "--accept",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A TOML file of accepted findings: they are listed, and do not make the gate red.",
)
@click.option(
    "--since",
    type=click.Path(file_okay=False, path_type=Path),
    help="An earlier run folder: only findings that it does not have make the gate red.",
)
@click.option(
    "--write-accepted",
    type=OutputFile(),
    help="Write a file that accepts every finding of this gate, for --accept.",
)
@click.option(
    "--ledger",
    type=OutputFile(),
    help="A file of failing seeds, as JSON lines: they are asked first, in a quarter of the budget "
    "on top of it, and those of this gate are added.",
)
@shard_option
@run_options()
def gate_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    budget: float,
    scenario: tuple[str, ...],
    promise: tuple[str, ...],
    mode: tuple[str, ...],
    fails_fast: bool,
    asks_canaries: bool,
    reach: bool,
    source: Path | None,
    accept: Path | None,
    since: Path | None,
    write_accepted: Path | None,
    ledger: Path | None,
    shard: tuple[int, int],
    options: RunOptions,
) -> int:
    """Judge a target by all scenarios, within a budget of time.

    A larger budget asks more, by the same code; the same seed and budget ask the same. The last
    lines say what was bought: operations, examples, schedules, pairs of consecutive calls, and with
    --reach the blocks of the code on trial that ran. A slow or busy machine may take twice as long;
    what is not finished then is unknown, never valid. In each mode a known bug, the canary, must be
    detected, else the run is untrustworthy; REPORTS/canaries.json remembers that for a week.

    \b
    harness gate --budget 15m --reach
    harness gate --target hermes-agent==0.19.0 --scenario 'state-db-*' --seed 7

    Results go to a new folder REPORTS/runs/..., which REPORTS/runs/latest points to: report.html,
    summary.md, verdict.json and junit.xml, and a folder for each scenario with its history and
    failures. REPORTS/index.html lists all runs.
    """  # noqa: D301  click needs the backslash
    if source is not None and not reach:
        raise UsageError("--source needs --reach: it names the code whose blocks that measures")
    accepted = None if accept is None else tuple(read_accepted(accept))
    earlier = None if since is None else read_run(since)
    print_text(f"gate · target {target} · seed {options.seed} · budget {budget:g} s")
    gate = Gate(
        target,
        options.seed,
        budget,
        options.reports.resolve(),
        options.workers,
        scenario,
        options.keep,
        promise,
        mode,
        fails_fast,
        asks_canaries,
        reach,
        source,
        accepted,
        earlier,
        shard,
        ledger,
    )
    with progress() as step:
        conclusion = gate.run(step)
    print_conclusion(conclusion, wants_json=options.wants_json)
    if write_accepted is not None:
        today = date.today()  # noqa: DTZ011  a day of this machine's calendar
        text = proposed(conclusion.records, accepted or (), conclusion.target, today)
        write_accepted.parent.mkdir(parents=True, exist_ok=True)
        write_accepted.write_text(text, encoding="utf-8")
        print_text(f"accepted findings are proposed in {write_accepted}")
    return conclusion.exit_code
