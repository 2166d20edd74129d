"""The command: `harness gate · prove · judge · replay · list`.

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
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import gate, prove, replay, runner
from harness.catalog import choose, find_scenarios, tried_by
from harness.errors import HarnessError, UsageError
from harness.known_bugs import find_bugs
from harness.promises import Promise
from harness.report import judgement, summary
from harness.report.judgement import Record
from harness.scenario import Mode
from harness.targets.catalog import list_targets
from harness.verdict import Validity

people = Console(stderr=True, highlight=False)
WORKERS = max(1, os.cpu_count() or 1)
SEED_MAX = 1 << 31


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


as_json = click.option("--json", "wants_json", is_flag=True, help="One JSON document on stdout.")
reports_option = click.option(
    "--reports",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Folder under which runs are written.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, SEED_MAX),
    help="Where all chance comes from; drawn, and printed, if not given.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hermes-harness")
def cli() -> None:
    r"""Judge a session server of long-running agents.

    \b
    harness gate                                the reference, in about a minute
    harness gate --target hermes-agent==0.19.0  a released package
    harness prove                               does the judge catch known bugs?
    harness replay reports/runs/latest/NAME/failure.json
    harness judge reports/runs/latest           judge stored evidence again
    harness list                                scenarios, promises, targets, bugs

    Exit codes: 0 valid, 1 invalid, 2 unknown, 254 wrong question, 255 harness broke.
    """


@cli.command("gate")
@click.option("--target", default="reference", show_default=True, help="What is on trial.")
@click.option(
    "--budget", type=Budget(), default="120s", show_default=True, help="Time it may take."
)
@click.option("--scenario", multiple=True, help="Only this scenario; may be repeated.")
@click.option("--workers", type=click.IntRange(1, 64), default=WORKERS, help="Worker processes.")
@click.option("--keep", type=click.IntRange(1), default=20, show_default=True, help="Runs to keep.")
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
@click.option("--by", "modes", multiple=True, type=click.Choice([str(mode) for mode in Mode]))
@click.option("--tries", type=click.IntRange(1, 1000), default=1, show_default=True, help="Seeds.")
@click.option("--effort", type=click.FloatRange(0.01, 100), default=1.0, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=WORKERS, help="Worker processes.")
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
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """Plant known bugs in the reference, and see whether each is caught by its own promise.

    Exits 0 only if every bug asked for is, and the clean reference is valid on the same seeds.
    """
    first = _seed(seed)
    chosen = [bug for bug in find_bugs(bugs).values() if not modes or str(bug.mode) in modes]
    if not chosen:
        raise UsageError(f"no known bug is to be caught by {' or '.join(modes)}")
    people.print(f"prove · {len(chosen)} known bugs · seed {first} · {tries} tries each")
    seeds = range(first, first + tries)
    asked = prove.Proof(chosen, seeds, effort, reports.resolve(), workers)
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
    people.print(_table(head, table))
    killed = sum(kill.is_killed for kill in kills)
    people.print(f"{killed} of {len(kills)} killed by their own promise")
    return 0 if killed == len(kills) else 1


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
    people.print(_table(summary.HEAD, summary.rows(rejudged)))
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
    """Show scenarios, promises (and who tries each), targets, known bugs."""
    listings = {name: _LISTINGS[name]() for name in what or tuple(_LISTINGS)}
    if wants_json:
        click.echo(json.dumps(listings, indent=2))
        return 0
    for name, rows in listings.items():
        cells = [[_cell(value) for value in row.values()] for row in rows]
        print_table = Console(highlight=False)
        print_table.print(_table(list(rows[0]) if rows else ["none"], cells, title=name))
    return 0


def rejudge(run: Path) -> list[Record]:
    """Judge every scenario of a run folder from its history."""
    if not run.is_dir():
        raise UsageError(f"{run}: there is no such run folder")
    histories = sorted({*run.glob(runner.HISTORY), *run.glob(f"*/{runner.HISTORY}")})
    if not histories:
        raise UsageError(f"{run}: there is no {runner.HISTORY} in it")
    scenarios = find_scenarios()
    records = []
    for path in histories:
        scenario = scenarios.get(path.parent.resolve().name)
        if scenario is None:
            raise UsageError(f"{path}: no scenario is called {path.parent.resolve().name!r}")
        judged = runner.judge(scenario, path.parent)
        records.append(judgement.record(judged, 0.0))
    return records


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
            "tried by": tried_by(promise, scenarios) or ["nothing tries it"],
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
    return ", ".join(value) if isinstance(value, list) else str(value)


def _show(conclusion: gate.Conclusion, *, wants_json: bool) -> None:
    if wants_json:
        click.echo(json.dumps(conclusion.to_json(), indent=2))
    for record in conclusion.records:
        if not record.verdict.is_valid:
            people.print(escape(record.summary()), soft_wrap=True)
    for name, error in conclusion.broken.items():
        told = error.splitlines()[0]
        people.print(escape(f"the harness broke in {name}: {told}"), soft_wrap=True)
    for name in conclusion.skipped:
        people.print(f"skipped: {escape(conclusion.target)} cannot do {name}")
    for name in conclusion.unfinished:
        people.print(f"not finished within the budget: {name}")
    for name, caught in conclusion.canaries.items():
        people.print(f"canary {name}: {'caught' if caught else 'SURVIVED'}")
    people.print(_table(summary.HEAD, summary.rows(conclusion.records)))
    people.print(
        f"[bold]{conclusion.word}[/bold] · {conclusion.seconds:.0f} s · seed {conclusion.seed}"
        f" · {escape(str(conclusion.run))}",
        soft_wrap=True,
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    table = Table(*head, title=title, title_justify="left", title_style="bold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(HarnessError.exit_code))
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:  # noqa: PLR0911  one a way to end
    try:
        code = cli.main(arguments, prog_name="harness", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
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
