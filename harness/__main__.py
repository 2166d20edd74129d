"""The command: `harness gate · prove · load · profile · judge · replay · list`.

People read standard error as it goes and a table at the end; machines ask for `--json` and get one
document on standard output. Exit codes: 0 valid, 1 invalid, 2 unknown, 254 a wrong question, 255
the harness itself broke.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import aging, gate, lifeline, profile, prove, replay, runner, rush, soak
from harness.catalog import choose, find_scenarios, tried_by
from harness.errors import HarnessError, UsageError
from harness.histogram import Histogram
from harness.history import Operation
from harness.known_bugs import find_bugs
from harness.load import CROWD, SHAPES, STORM, Load, crowd, join
from harness.promises import Promise
from harness.report import folder, judgement, soaking, summary, trends
from harness.report import load as report
from harness.report.judgement import Record
from harness.scenario import Mode, Scenario
from harness.targets.catalog import list_targets
from harness.verdict import Validity, Verdict, merge

LOG_WIDTH = 200  # columns: what goes to a file is not folded as for a terminal


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console


people = _console(stderr=True)
WORKERS = max(1, os.cpu_count() or 1)
WORKERS_HELP = "Worker processes; one a core, if not given."
SEED_MAX = 1 << 31
RESULT_WIDTH_MAX = 160


class Budget(click.ParamType[float]):
    """A length of time: 90, 120s, 5m, 1h."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        unit = {"s": 1, "m": 60, "h": 3600}.get(str(value)[-1:])
        number = str(value)[:-1] if unit else str(value)
        try:
            seconds = float(number) * (unit or 1)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= 7 * 24 * 3600:
            self.fail(f"{value!r} is no length of time; say 90s, 5m or 1h", param, ctx)
        return seconds


class Seed(click.IntRange):
    """A whole number in a range."""

    name = "seed"


as_json = click.option("--json", "wants_json", is_flag=True, help="One JSON document on stdout.")
keep_option = click.option(
    "--keep", type=click.IntRange(1), default=20, show_default=True, help="Runs to keep."
)
reports_option = click.option(
    "--reports",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Folder under which runs are written.",
)
seed_option = click.option(
    "--seed",
    type=Seed(0, SEED_MAX),
    help="Where all chance comes from; drawn, and printed, if not given.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hermes-harness")
def cli() -> None:
    """Judge a session server of long-running agents.

    \b
    harness gate                                the reference, in about a minute
    harness gate --target hermes-agent==0.19.0  a released package
    harness load --users 200 --for 60s          many clients, every stream checked
    harness prove                               does the judge catch known bugs?
    harness replay reports/runs/latest/NAME/failure.json
    harness soak --for 30m                      does anything grow?
    harness soak --days 30                      the same over days, which pass in seconds
    harness judge reports/runs/latest           judge stored evidence again
    harness list                                scenarios, promises, targets, bugs

    Exit codes: 0 valid, 1 invalid, 2 unknown, 254 wrong question, 255 harness broke.
    """  # noqa: D301  click wants the very character: it keeps the lines below as they are


@cli.command("gate")
@click.option("--target", default="reference", show_default=True, help="What is on trial.")
@click.option(
    "--budget", type=Budget(), default="120s", show_default=True, help="Time it may take."
)
@click.option("--scenario", multiple=True, help="Only this scenario; may be repeated.")
@click.option("--workers", type=click.IntRange(1, 64), default=WORKERS, help=WORKERS_HELP)
@keep_option
@seed_option
@reports_option
@as_json
def gate_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    budget: float,
    scenario: tuple[str, ...],
    workers: int,
    keep: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """Put a target on trial, and say what holds.

    More budget buys more examples; the same seed and budget ask the same questions. What is not
    finished when the budget ends is unknown, never valid.
    """
    seed = _seed(seed)
    people.print(f"gate · target {escape(target)} · seed {seed} · budget {budget:g} s")
    asked = gate.Gate(target, seed, budget, reports.resolve(), workers, scenario, keep)
    with _progress() as step:
        conclusion = asked.run(step)
    _show(conclusion, wants_json=wants_json)
    return conclusion.exit_code


@cli.command("prove")
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
@click.option(
    "--effort",
    type=click.FloatRange(0.01, 100),
    default=1.0,
    show_default=True,
    help="How much is asked; 1 is as much as a gate of two minutes.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=WORKERS, help=WORKERS_HELP)
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
    first = _seed(seed)
    chosen = [bug for bug in find_bugs(bugs).values() if not modes or str(bug.mode) in modes]
    if not chosen:
        raise UsageError(f"no known bug is to be caught by {' or '.join(modes)}")
    people.print(f"prove · {len(chosen)} known bugs · seed {first} · tries {tries}")
    seeds = range(first, first + tries)
    asked = prove.Proof(chosen, seeds, effort, reports.resolve(), workers, keep)
    with _progress() as step:
        run, kills = asked.run(step)
    rows = [kill.to_json() for kill in kills]
    if wants_json:
        click.echo(json.dumps({"run": str(run), "kills": rows}, indent=2))
    head = ("bug", "promise", "mode", "kills", "by another", "clean", "s to kill")
    table = [
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
    _tell(_table(head, table))
    killed = sum(kill.is_killed for kill in kills)
    people.print(f"{killed} of {len(kills)} killed by their own promise")
    return 0 if killed == len(kills) else 1


@cli.command("load")
@click.option("--target", default="reference", show_default=True, help="What is on trial.")
@click.option(
    "--users", type=click.IntRange(10, 100_000), default=100, show_default=True, help="How many."
)
@click.option("--for", "for_s", type=Budget(), default="60s", show_default=True, help="How long.")
@click.option(
    "--shape",
    type=click.Choice(SHAPES),
    default="steady",
    show_default=True,
    help="All at once, more and more, a spike in the middle, or a storm of wakeups.",
)
@click.option("--kill-every", "kill_every_s", type=Budget(), help="Kill the target so often.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Generators here."
)
@click.option("--master", metavar="HOST:PORT", default="", help="Wait there for generators ...")
@click.option(
    "--worker", metavar="HOST[:PORT]", help="... and be one, for the master of this name."
)
@click.option("--deadline", type=float, default=5.0, show_default=True, help="The write deadline.")
@keep_option
@seed_option
@reports_option
@as_json
def load_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    users: int,
    for_s: float,
    shape: str,
    kill_every_s: float | None,
    workers: int,
    master: str,
    worker: str | None,
    deadline: float,
    keep: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """Load a target with many clients, and check every stream meanwhile.

    Some chat, most watch; some leave and come back, are woken, read slowly or not at all. Where the
    generator itself was the bottleneck the verdict is unknown, never valid. With --master the users
    are spread over as many --workers as there are to be, each started elsewhere with --worker.
    """
    if worker is not None:
        return join(rush.locustfile(), worker)
    if master and kill_every_s is not None:
        raise UsageError("generators elsewhere cannot be told where a killed target serves again")
    seed = _seed(seed)
    parts = STORM if shape == "storm" else CROWD
    asked = Load(
        crowd(users, parts),
        for_s=for_s,
        shape=shape,
        workers=workers,
        write_deadline_s=deadline,
        settings={"HERMES_WEBUI_SSE_WRITE_DEADLINE": f"{deadline:g}"},
        kill_every_s=kill_every_s,
        master=master,
    )
    people.print(f"load · target {escape(target)} · seed {seed} · {asked.users} users, {shape}")
    with _progress() as step:
        conclusion = rush.Rush(target, seed, asked, reports.resolve(), keep).run(_tell_second(step))
    _show(conclusion, wants_json=wants_json)
    people.print(escape(report.markdown(rush.account(conclusion.run))), soft_wrap=True)
    return conclusion.exit_code


@cli.command("profile")
@click.option("--target", default="reference", show_default=True, help="What is on trial.")
@click.option(
    "--users", type=click.IntRange(10, 100_000), default=100, show_default=True, help="How many."
)
@click.option(
    "--window", "window_s", type=Budget(), default="10s", show_default=True, help="Of each look."
)
@keep_option
@seed_option
@reports_option
@as_json
def profile_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    users: int,
    window_s: float,
    keep: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """See where a target's time goes under load, and what a turn and a stream cost.

    Each look has a window of its own, so that none disturbs another: memory at rest, counts turn by
    turn, latency under load, and then stacks, as a flame graph and for speedscope.
    """
    seed = _seed(seed)
    people.print(f"profile · target {escape(target)} · seed {seed} · {users} users")
    asked = profile.Profile(target, seed, users, window_s, reports.resolve(), keep)
    with _progress() as step:
        run, told = asked.run(step)
    if wants_json:
        click.echo(json.dumps({"run": str(run), **told}, indent=2))
    people.print(escape(profile.markdown(told)), soft_wrap=True)
    people.print(escape(str(run)), soft_wrap=True)
    return 0


def _tell_second(step: Callable[[str], None]) -> Callable[[Operation], None]:
    """Say how it goes, whenever a generator tells of another second."""

    def heard(operation: Operation) -> None:
        if operation.function == "boot" and operation.result is not None:
            step(f"the target serves at 127.0.0.1:{operation.result['port']}")
        if operation.function != "second" or operation.result is None:
            return
        told = operation.result
        late = told["latencies"].get("event")
        p99_ms = Histogram.from_json(late).quantile(0.99) / 1e3 if late else 0.0
        step(
            f"{told['users']} users · {told['streams']} streams"
            f" · {told['counts'].get('events', 0) / max(told['seconds'], 1e-3):,.0f} events/s"
            f" · late by {p99_ms:.1f} ms at p99"
            f" · generator {100 * told['cpu_s'] / max(told['seconds'], 1e-3):.0f} % of a core"
        )

    return heard


@cli.command("soak")
@click.option("--target", default="reference", show_default=True, help="What is lived in.")
@click.option("--for", "seconds", type=Budget(), help="How long, say 30m or 8h.")
@click.option("--ops", "operations", type=click.IntRange(1), help="Or how many operations.")
@click.option("--days", type=click.IntRange(1), help="Or how many days, which pass in seconds.")
@click.option("--http", "over_http", is_flag=True, help="A whole server, over HTTP.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on with the soak of this run folder, which was killed or interrupted.",
)
@keep_option
@seed_option
@reports_option
@as_json
def soak_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    seconds: float | None,
    operations: int | None,
    days: int | None,
    over_http: bool,
    resume: Path | None,
    keep: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """Live in a target for long, and see whether anything grows.

    Ends as soon as something does, and says which container or file, how fast, and where in the
    target's sources it is allocated. With --days time passes only while everybody waits, and a
    control tells whether to believe what that shows.
    """
    if days is not None:
        return _age(aging.live(target, _seed(seed), days, reports.resolve()), keep, wants_json)
    if resume is None:
        if seconds is None and operations is None:
            raise UsageError("how long? say --for 30m, --ops 100000, or --days 30")
        asked = soak.Asked(target, _seed(seed), seconds, operations, over_http)
        run = asked.begin(reports.resolve())
    else:
        run = resume.resolve()
    people.print(escape(f"soak · {run} · interrupted? harness soak --resume {run}"), soft_wrap=True)
    with _progress() as step:
        soaked = soak.go_on(run, step)
    folder.retain(run.parents[1], keep)
    document = soaked.to_json()
    trends.remember(run.parents[1], document)
    if wants_json:
        click.echo(json.dumps(document, indent=2))
    people.print(escape(soaking.text(document)), soft_wrap=True)
    _tell(_table(soaking.HEAD, soaking.rows(document)))
    people.print(f"[bold]{soaked.verdict.validity}[/bold] · {escape(str(run))}", soft_wrap=True)
    return soaked.verdict.validity.exit_code


def _age(aged: aging.Aged, keep: int, wants_json: bool) -> int:  # noqa: FBT001  an option
    folder.retain(aged.run.parents[1], keep)
    if wants_json:
        click.echo(json.dumps(aged.to_json(), indent=2))
    people.print(escape(aged.text()), soft_wrap=True)
    _tell(_table(aging.HEAD, aged.rows()))
    validity = aged.record.verdict.validity
    people.print(f"[bold]{validity}[/bold] · {escape(str(aged.run))}", soft_wrap=True)
    return validity.exit_code


@cli.command("judge")
@click.argument("run", type=click.Path(path_type=Path))
@as_json
def judge_command(*, run: Path, wants_json: bool) -> int:
    """Judge stored evidence again: a gate's folder, or one scenario's.

    Also a run that was killed on its way: what it had come to still counts.
    """
    rejudged = rejudge(run)
    validity = max((record.verdict.validity for record in rejudged), default=Validity.UNKNOWN)
    if wants_json:
        rows = [record.to_json() for record in rejudged]
        click.echo(json.dumps({"conclusion": str(validity), "scenarios": rows}, indent=2))
    _tell(_table(summary.HEAD, summary.rows(rejudged)))
    for record in rejudged:
        if not record.verdict.is_valid:
            people.print(escape(record.summary()), soft_wrap=True)
    people.print(f"[bold]{validity}[/bold]")
    return validity.exit_code


@cli.command("replay")
@click.argument("failure", type=click.Path(path_type=Path))
@click.option("--target", help="Ask another target instead of the one it was found on.")
@as_json
def replay_command(*, failure: Path, target: str | None, wants_json: bool) -> int:
    """Ask the very questions of a failure again. Exits 1 if the promise is still broken."""
    told = replay.read(failure)
    replayed = replay.run(told, target or told.target)
    if wants_json:
        click.echo(json.dumps(replayed.to_json(), indent=2))
    for number, operation in enumerate(replayed.history, start=1):
        people.print(escape(f"{number:3}. {operation}"), soft_wrap=True)
    for anomaly in replayed.verdict.anomalies:
        people.print(
            f"[bold]{anomaly.promise.name} broken:[/bold] {escape(anomaly.message)}", soft_wrap=True
        )
    people.print(f"[bold]{replayed.verdict.validity}[/bold]")
    return replayed.verdict.validity.exit_code


@cli.command("list")
@click.argument("what", type=click.Choice(["scenarios", "promises", "targets", "bugs"]), nargs=-1)
@as_json
def list_command(*, what: tuple[str, ...], wants_json: bool) -> int:
    """Show scenarios, promises, targets, known bugs.

    A promise is shown with the scenarios that try it; some have none yet.
    """
    listings = {name: _LISTINGS[name]() for name in what or tuple(_LISTINGS)}
    if wants_json:
        click.echo(json.dumps(listings, indent=2))
        return 0
    for name, rows in listings.items():
        cells = [[_cell(value) for value in row.values()] for row in rows]
        _console(stderr=False).print(_table(list(rows[0]) if rows else ["none"], cells, title=name))
    return 0


def rejudge(run: Path) -> list[Record]:
    """Judge every scenario of a run folder from its history; what the run did not finish says so.

    Raises UsageError for a folder that holds no run, or a damaged one.
    """
    if not run.is_dir():
        raise UsageError(f"{run}: there is no such run folder")
    plan = folder.read_json(run / folder.PLAN) if (run / folder.PLAN).exists() else {}
    try:
        planned = {name: run / name for name in plan.get("scenarios", [])}
    except TypeError as error:
        raise UsageError(f"{run / folder.PLAN}: damaged: {error}") from error
    histories = sorted({*run.glob(runner.HISTORY), *run.glob(f"*/{runner.HISTORY}")})
    places = planned | {path.parent.resolve().name: path.parent for path in histories}
    if not places:
        raise UsageError(f"{run}: there is no scenario's {runner.HISTORY} in it")
    return [_rejudged(scenario, places[name]) for name, scenario in choose(places).items()]


def _rejudged(scenario: Scenario, place: Path) -> Record:
    if not (place / runner.HISTORY).exists():
        never = Verdict(unknowns=("the run ended before it began",))
        return judgement.record(runner.Judgement(scenario, never, 0, 0, ""), 0.0, place)
    judged = runner.judge(scenario, place)
    if not (place / folder.VERDICT).exists():
        cut_short = Verdict(unknowns=("the run ended before it did",))
        judged = replace(judged, verdict=merge([judged.verdict, cut_short]))
    return judgement.record(judged, 0.0, place)


def _list_scenarios() -> list[dict[str, Any]]:
    return [
        {
            "scenario": scenario.name,
            "mode": str(scenario.mode),
            "ability": scenario.ability,
            "promises": [promise.name for promise in scenario.promises],
        }
        for scenario in find_scenarios().values()
    ]


def _list_promises() -> list[dict[str, Any]]:
    scenarios = list(choose(()).values())
    return [
        {
            "promise": promise.name,
            "sentence": promise.value,
            "tried by": tried_by(promise, scenarios),
        }
        for promise in Promise
    ]


def _list_targets() -> list[dict[str, Any]]:
    return list_targets()


def _list_bugs() -> list[dict[str, Any]]:
    return [
        {
            "bug": bug.name,
            "promise": bug.promise.name,
            "mode": str(bug.mode),
            "upstream": bug.upstream,
            "story": bug.story,
        }
        for bug in find_bugs().values()
    ]


_LISTINGS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "scenarios": _list_scenarios,
    "promises": _list_promises,
    "targets": _list_targets,
    "bugs": _list_bugs,
}


def _cell(value: Any) -> str:
    return (", ".join(value) or "nothing") if isinstance(value, list) else str(value)


def _show(conclusion: gate.Conclusion, *, wants_json: bool) -> None:
    if wants_json:
        click.echo(json.dumps(conclusion.to_json(), indent=2))
    for record in conclusion.records:
        if not record.verdict.is_valid:
            people.print(escape(record.summary()), soft_wrap=True)
    for name, error in conclusion.broken.items():
        told = error.splitlines()[0]
        people.print(escape(f"the harness broke in {name}: {told}"), soft_wrap=True)
    if conclusion.skipped:
        cannot = ", ".join(conclusion.skipped)
        people.print(escape(f"skipped, {conclusion.target} cannot do it: {cannot}"))
    for name in conclusion.unfinished:
        people.print(f"not finished within the budget: {name}")
    for name, caught in conclusion.canaries.items():
        people.print(f"canary {name}: {'caught' if caught else 'SURVIVED'}")
    _tell(_table(summary.HEAD, summary.rows(conclusion.records)))
    people.print(
        f"[bold]{conclusion.word}[/bold] · {conclusion.seconds:.0f} s · seed {conclusion.seed}"
        f" · {escape(str(conclusion.run))}",
        soft_wrap=True,
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A table that is Markdown where no cell is wrapped; names in it are never cut."""
    cells = list(rows)
    table = Table(box=box.MARKDOWN, title=title, title_justify="left", title_style="bold")
    for number, name in enumerate(head):
        is_name = number == 0 or not any(" " in row[number] for row in cells)
        table.add_column(name, no_wrap=is_name, overflow="fold")
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _tell(table: Table) -> None:
    """Print a result as wide as it is, so that it can be pasted; a narrow terminal wraps it."""
    Console(stderr=True, width=RESULT_WIDTH_MAX).print(table)


class _progress:  # noqa: N801  reads as a verb where it is used
    """Says on standard error what was finished last: a moving line, or one a step in a log."""

    def __init__(self) -> None:
        self._status = people.status("starting")
        self._done = 0

    def __enter__(self) -> Callable[[str], None]:
        self._status.start()
        return self._step

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def _step(self, what: str) -> None:
        self._done += 1
        name = escape(what.rsplit("::", maxsplit=1)[-1])
        if people.is_terminal:
            self._status.update(f"{self._done} done · {name}")
        else:
            people.print(f"{self._done:4} {name}")


def _seed(seed: int | None) -> int:
    return secrets.randbelow(SEED_MAX) if seed is None else seed


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, and exit with the code that its end deserves."""
    logging.getLogger().addHandler(logging.NullHandler())  # what a target logs is not ours to say
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    sys.exit(_run(arguments))


def _leave(*_: object) -> None:
    """Let go of the children first: threads that wait for them would hold us up."""
    lifeline.leave()
    raise KeyboardInterrupt


def _run(arguments: Sequence[str] | None) -> int:  # noqa: PLR0911  one a way to end
    try:
        code = cli.main(arguments, prog_name="harness", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return UsageError.exit_code
    except click.ClickException as error:
        people.print(escape(f"harness: {error.format_message()}"), soft_wrap=True)
        return UsageError.exit_code
    except HarnessError as error:
        people.print(escape(f"harness: {error}"), soft_wrap=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        people.print("harness: interrupted")
        return HarnessError.exit_code
    except OSError as error:
        people.print(escape(f"harness: {error}"), soft_wrap=True)
        return HarnessError.exit_code
    except Exception:  # noqa: BLE001  whatever it is, it is ours, and no verdict
        people.print(escape(f"harness: it broke\n{traceback.format_exc()}"), soft_wrap=True)
        return HarnessError.exit_code
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
