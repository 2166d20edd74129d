"""Prints for people: progress on standard error, results on standard output.

Where a command prints one JSON document, that alone goes to standard output.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.core.text import shortened
from harness.report import summary
from harness.report.page import PAGE
from harness.runs.accepted import Sorted
from harness.runs.differences import Difference
from harness.runs.gate import Conclusion
from harness.runs.pytest_run import Progress
from harness.runs.reached import Reached

LOG_WIDTH = 200  # columns: what goes to a file is not folded as for a terminal
RESULT_WIDTH_MAX = 160
STATUS_CHARS = 4  # of the moving mark before the line
WANTS_JSON = "harness.wants_json"  # in a command's context: results make way for one document


def make_console(*, stderr: bool) -> Console:
    """A console that is as wide as a log needs where it is no terminal."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = LOG_WIDTH
    return made


console = make_console(stderr=True)


def _results() -> Console:
    """The console of results; looked up anew, since a caller may have replaced the streams."""
    context = click.get_current_context(silent=True)
    return make_console(stderr=bool(context and context.meta.get(WANTS_JSON)))


def print_text(text: str) -> None:
    """Print progress as it is: no markup, and lines are not folded."""
    console.print(escape(text), soft_wrap=True)


def print_result(text: str, word: str = "") -> None:
    """Print a result as it is; `word` stands before it, in bold."""
    emphasis = f"[bold]{escape(word)}[/bold]" if word else ""
    _results().print(emphasis + escape(text), soft_wrap=True)


def print_conclusion(conclusion: Conclusion, *, wants_json: bool) -> None:
    """Print a gate's conclusion, and at the end where to look."""
    if wants_json:
        click.echo(json.dumps(conclusion.to_json(), indent=2))
    for record in conclusion.records:
        if not record.verdict.is_valid:
            print_result(record.summary())
    for name, error in conclusion.broken.items():
        print_result(f"the harness failed in {name}: {error.splitlines()[0]}")
    for reason in dict.fromkeys(conclusion.skipped.values()):
        names = [name for name, why in conclusion.skipped.items() if why == reason]
        print_result(f"skipped: {', '.join(names)} ({reason})")
    for name in conclusion.unfinished:
        print_result(f"not finished within the budget: {name}")
    for name, status in conclusion.canary_words.items():
        print_result(f"canary {name}: {status}")
    _print_findings(conclusion.findings, conclusion.since)
    print_table(table(summary.HEAD, summary.rows(conclusion.records, conclusion.untried)))
    print_result(summary.bought_line(conclusion.bought))
    if conclusion.reached is not None:
        print_reached(conclusion.reached)
    for line in pointers(conclusion):
        print_result(line)
    print_result(f" · {conclusion.seconds:.0f} s · seed {conclusion.seed}", conclusion.word)


def print_reached(reached: Reached, *, lists_missed: bool = False) -> None:
    """Print the share of blocks that were reached in each room, and those that were missed."""
    rows = [
        (name, f"{hit:,}", f"{blocks:,}", f"{hit / blocks:.1%}")
        for name, hit, blocks in reached.rooms()
    ]
    print_table(table(("room", "reached", "blocks", "share"), rows))
    for block in reached.missed if lists_missed else ():
        reason = reached.excuses.get(block, "")
        print_result(f"missed: {block}" + (f" ({reason})" if reason else ""))


def pointers(conclusion: Conclusion) -> list[str]:
    """Where to look: the page, and of the first finding the failure, its test and its replay."""
    page = conclusion.run / PAGE
    lines = [f"page: {shown_path(page)}"] if page.exists() else []  # a full disk may have none
    found = next((record for record in conclusion.records if record.reproduce), None)
    if found is None:
        return lines
    failure = Path(found.reproduce[0].removeprefix("harness replay "))
    tests = sorted(failure.parent.glob("test_*.py"))
    return [
        *lines,
        *(f"test: {shown_path(test)}" for test in tests[:1]),
        f"replay: harness replay {shown_path(failure)}",
    ]


def shown_path(path: Path) -> str:
    """The path, relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _print_findings(findings: Sorted | None, since: Difference | None) -> None:
    """Print the known, the mended and the new findings of a target, where they were sorted."""
    if findings is None:
        return
    if since is not None:
        _print_since(since, findings)
        return
    for known in findings.known:
        print_result(f"known: {known.signature} ({known.reason})")
    for mended in findings.mended:
        print_result(f"mended: {mended.signature}")
    if findings.unseen:
        print_result(
            f"not seen: {len(findings.unseen)} further accepted findings, which scenarios show"
            " that did not come to a verdict here"
        )
    for anomaly in findings.new:
        print_result(f"NEW: {anomaly.signature}")


def _print_since(since: Difference, findings: Sorted) -> None:
    """Print what changed after an earlier run; a new finding that is accepted says so."""
    reasons = {known.signature: known.reason for known in findings.known}
    for line in replace(since, new=()).lines():
        print_result(line)
    for mended in findings.mended:
        print_result(f"mended: {mended.signature}")
    for finding in since.new:
        reason = reasons.get(finding.signature)
        print_result(f"NEW: {finding}" if reason is None else f"known: {finding} ({reason})")


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
    results = _results()
    results.width = max(results.width, RESULT_WIDTH_MAX)
    results.print(table)


class progress:  # noqa: N801  reads as a verb where it is used
    """Shows finished steps on standard error: one moving line, or in a log one line a step.

    A step with a finding gets a line of its own at once, also on a terminal.
    """

    def __init__(self) -> None:
        self._status = console.status("starting")
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        self._status.start()
        return self._step

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def _step(self, step: str, *, finding: str = "") -> None:
        text = f"{time.monotonic() - self._began:5.0f} s  {step}"
        if console.is_terminal:
            text = shortened(text, console.width - STATUS_CHARS)
            self._status.update(escape(text))
        if finding or not console.is_terminal:
            line = f"{text}: {finding}" if finding else text
            console.print(escape(shortened(line, console.width)), soft_wrap=True)
