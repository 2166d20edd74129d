"""Prints for people: progress on standard error, and results as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.report import summary
from harness.runs.accepted import Sorted
from harness.runs.gate import Conclusion

LOG_WIDTH = 200  # columns: what goes to a file is not folded as for a terminal
RESULT_WIDTH_MAX = 160


def make_console(*, stderr: bool) -> Console:
    """A console that is as wide as a log needs where it is no terminal."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = LOG_WIDTH
    return made


console = make_console(stderr=True)


def print_text(text: str) -> None:
    """Print text as it is: no markup, and lines are not folded."""
    console.print(escape(text), soft_wrap=True)


def print_conclusion(conclusion: Conclusion, *, wants_json: bool) -> None:
    """Print a gate's conclusion."""
    if wants_json:
        click.echo(json.dumps(conclusion.to_json(), indent=2))
    for record in conclusion.records:
        if not record.verdict.is_valid:
            print_text(record.summary())
    for name, error in conclusion.broken.items():
        print_text(f"the harness failed in {name}: {error.splitlines()[0]}")
    for reason in dict.fromkeys(conclusion.skipped.values()):
        names = [name for name, why in conclusion.skipped.items() if why == reason]
        print_text(f"skipped: {', '.join(names)} ({reason})")
    for name in conclusion.unfinished:
        print_text(f"not finished within the budget: {name}")
    for name, is_detected in conclusion.canaries.items():
        print_text(f"canary {name}: {'detected' if is_detected else 'SURVIVED'}")
    if conclusion.findings is not None:
        _print_findings(conclusion.findings)
    print_table(table(summary.HEAD, summary.rows(conclusion.records)))
    console.print(
        f"[bold]{conclusion.word}[/bold] · {conclusion.seconds:.0f} s · seed {conclusion.seed}"
        f" · {escape(str(conclusion.run))}",
        soft_wrap=True,
    )


def _print_findings(findings: Sorted) -> None:
    """Print the known, the mended and the new findings of a target."""
    for known in findings.known:
        print_text(f"known: {known.signature} ({known.reason})")
    for mended in findings.mended:
        print_text(f"mended: {mended.signature}")
    for anomaly in findings.new:
        print_text(f"NEW: {anomaly.signature}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A table that is Markdown where no cell is wrapped; names in it are never cut."""
    cells = list(rows)
    table = Table(box=box.MARKDOWN, title=title, title_justify="left", title_style="bold")
    for number, name in enumerate(head):
        is_name = number == 0 or not any(" " in row[number] for row in cells)
        table.add_column(name, no_wrap=is_name, overflow="fold")
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    return table


def print_table(table: Table) -> None:
    """Print a result as wide as it is, so that it can be pasted; a narrow terminal wraps it."""
    Console(stderr=True, width=RESULT_WIDTH_MAX).print(table)


class progress:  # noqa: N801  reads as a verb where it is used
    """Shows on standard error the last finished step: one moving line, or in a log one a step."""

    def __init__(self) -> None:
        self._status = console.status("starting")
        self._done = 0

    def __enter__(self) -> Callable[[str], None]:
        self._status.start()
        return self._step

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def _step(self, what: str) -> None:
        self._done += 1
        name = escape(what.rsplit("::", maxsplit=1)[-1])
        if console.is_terminal:
            self._status.update(f"{self._done} done · {name}")
        else:
            console.print(f"{self._done:4} {name}")
