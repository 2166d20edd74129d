"""What people read: progress on standard error as it goes, and a table at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.report import summary
from harness.runs.gate import Conclusion

LOG_WIDTH = 200  # columns: what goes to a file is not folded as for a terminal
RESULT_WIDTH_MAX = 160


def console(*, stderr: bool) -> Console:
    """Make a console that is as wide as a log needs where nobody looks at a terminal."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = LOG_WIDTH
    return made


people = console(stderr=True)


def show(conclusion: Conclusion, *, wants_json: bool) -> None:
    """Print a gate's conclusion."""
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
    tell(table(summary.HEAD, summary.rows(conclusion.records)))
    people.print(
        f"[bold]{conclusion.word}[/bold] · {conclusion.seconds:.0f} s · seed {conclusion.seed}"
        f" · {escape(str(conclusion.run))}",
        soft_wrap=True,
    )


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


def tell(table: Table) -> None:
    """Print a result as wide as it is, so that it can be pasted; a narrow terminal wraps it."""
    Console(stderr=True, width=RESULT_WIDTH_MAX).print(table)


class progress:  # noqa: N801  reads as a verb where it is used
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
