"""`harness prove`: plants known bugs, and checks that each is detected."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import click

from harness.cli.options import (
    Name,
    RunOptions,
    checked,
    effort_option,
    record_option,
    refuse_beside,
    run_options,
    scenarios_option,
    shard_option,
)
from harness.cli.output import print_result, print_table, print_text, progress, table
from harness.core.errors import UsageError
from harness.core.extras import require_extras
from harness.engine.scenario import Mode
from harness.mutation.known_bugs import KnownBug, find_bugs
from harness.runs import baselines
from harness.runs.bug_detection import CleanRun, Detection, DetectionRun, read_clean_run, sources_of
from harness.runs.gate import extras_of, shared

HEAD = ("bug", "promise", "mode", "detected", "by another", "clean", "s to detect")


@click.command("prove")
@scenarios_option
@click.argument("bugs", nargs=-1, callback=checked(find_bugs))
@click.option(
    "--by",
    "modes",
    multiple=True,
    type=Name("mode", Mode),
    help="Only bugs that this mode must detect; repeatable.",
)
@click.option(
    "--tries",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Seeds on which each bug is judged.",
)
@click.option(
    "--brief",
    "is_brief",
    is_flag=True,
    help="End a bug's scenarios once one has detected it. What they would say of other promises is "
    "then not listed.",
)
@shard_option
@click.option(
    "--clean",
    "clean_folder",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Take the verdicts on the clean source from this gate of the same sources and seed, and "
    "ask with its effort.",
)
@record_option
@click.option(
    "--resume",
    is_flag=True,
    help="Leave out the bugs that the file of --record has as detected: on the same seed and "
    "sources, with the same effort, --tries and --brief.",
)
@click.option(
    "--order-by",
    "earlier",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --brief: a file that --record wrote. The scenarios that detected a bug there are "
    "asked first, and the others if these do not.",
)
@effort_option(1.0)
@run_options()
def prove_command(  # noqa: PLR0913  one parameter an option
    *,
    bugs: tuple[str, ...],
    modes: tuple[str, ...],
    tries: int,
    shard: tuple[int, int],
    clean_folder: Path | None,
    is_brief: bool,
    record: Path | None,
    resume: bool,
    earlier: Path | None,
    effort: float,
    options: RunOptions,
) -> int:
    """Plant known bugs in copies of the source, and check that each is detected.

    BUGS are names of `harness list bugs`; all by default. Exits 0 only if every bug is detected by
    its own promise, and the clean source is valid on the same seeds.

    \b
    harness prove commit-every-turn double-wakeup --tries 10
    harness gate --seed 1 && harness prove --seed 1 --brief --clean reports/runs/latest
    harness prove --seed 1 --brief --record proof.json --resume

    --record writes each result as soon as it is known, beside the results of other bugs in the
    file, if seed, sources, effort, --tries and --brief are the same. So a proof that was cut short
    can be resumed, and shares can be recorded one after another.

    Results go to a new folder REPORTS/runs/..., which REPORTS/runs/latest points to: verdict.json,
    and a folder for each bug with its failures and histories.
    """  # noqa: D301  click needs the backslash
    refuse_beside("clean_folder", ["effort"], "the effort is that of the gate")
    if resume and record is None:
        raise UsageError("--resume needs --record: it goes on with the results of that file")
    if earlier and not is_brief:
        raise UsageError("--order-by needs --brief: otherwise every scenario is asked anyway")
    chosen = _of_modes(bugs, modes)
    names = shared([bug.name for bug in chosen], shard, "known bugs")
    every = sorted(bug.name for bug in chosen)
    chosen = [bug for bug in chosen if bug.name in names]
    require_extras("`harness prove`", *{extra for bug in chosen for extra in extras_of(bug)})
    clean = _read_clean(clean_folder, chosen, options.seed)
    effort = clean.effort if clean else effort
    conditions = {
        "effort": effort,
        "tries": tries,
        "brief": is_brief,
        "sources": sources_of(chosen[0].suite.target),
    }
    if record is not None and resume:
        done = baselines.proven(record, options.seed, conditions)
        chosen = [bug for bug in chosen if bug.name not in done]
        print_text(f"{len(done)} known bugs are detected in {record}")
        if not chosen:
            return 0
    print_text(f"prove · {len(chosen)} known bugs · seed {options.seed} · tries {tries}")
    seeds, reports = range(options.seed, options.seed + tries), options.reports.resolve()
    proof = DetectionRun(
        *(chosen, seeds, effort, reports, options.workers, options.keep),
        clean=clean.by_seed if clean else {},
        scenario_s=clean.seconds if clean else {},
        is_brief=is_brief,
        every=every,
        detected_in=baselines.detecting_scenarios(earlier) if earlier else {},
        keep_result=_recorder(record, options.seed, conditions),
    )
    with progress() as step:
        run, detections = proof.run(step)
    return _show(run, detections, wants_json=options.wants_json)


def _of_modes(bugs: Sequence[str], modes: Sequence[str]) -> list[KnownBug]:
    """The bugs of these names, and of these modes if any are named."""
    chosen = [bug for bug in find_bugs(bugs).values() if not modes or str(bug.mode) in modes]
    if not chosen:
        named = f"of {', '.join(bugs)} none" if bugs else "no known bug"
        raise UsageError(f"--by {' '.join(modes)}: {named} is to be detected by this mode")
    return chosen


def _show(run: Path, detections: Sequence[Detection], *, wants_json: bool) -> int:
    """Print the results; the exit code."""
    if wants_json:
        rows = [detection.to_json() for detection in detections]
        click.echo(json.dumps({"run": str(run), "bugs": rows}, indent=2))
    print_table(table(HEAD, map(_cells, detections)))
    detected = sum(detection.is_detected for detection in detections)
    print_result(f"{detected} of {len(detections)} detected by their own promise")
    return 0 if detected == len(detections) else 1


def _recorder(
    file: Path | None, seed: int, conditions: Mapping[str, Any]
) -> Callable[[Detection], None]:
    """Put each result into the file, one at a time."""
    writing = Lock()

    def keep(detection: Detection) -> None:
        if file is not None:
            with writing:
                baselines.record_proof(file, seed, conditions, [detection.to_json()])

    return keep


def _read_clean(run: Path | None, bugs: Sequence[KnownBug], seed: int) -> CleanRun | None:
    if run is None:
        return None
    clean = read_clean_run(run, bugs[0].suite.target)
    if clean.seed != seed:
        raise UsageError(f"--clean {run}: that gate has seed {clean.seed}; expected --seed {seed}")
    return clean


def _cells(detection: Detection) -> tuple[str, ...]:
    mark = "" if detection.is_detected else " !"
    return (
        detection.bug.name,
        detection.bug.promise.id,
        str(detection.bug.mode),
        f"{detection.own}/{detection.tries}{mark}",
        " ".join(detection.others) or "-",
        str(detection.clean),
        f"{detection.seconds:.1f}",
    )
