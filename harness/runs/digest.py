"""Sums up the runs of a night on one page: what each found, and what moved since the last night.

A run is compared with the newest older run of the same kind on the same target. Without one, each
finding is new.
"""

from __future__ import annotations

import math
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.report import folder
from harness.report.page import PAGE, template
from harness.runs.differences import UNSETTLED, Difference, Finding, StoredRun, compare, read_run

MOVED = 1.25  # a figure that changed by this factor
MOVED_MAX = 8  # figures that are listed of a run
STAMP = "%Y%m%dT%H%M%S"  # with which the name of a run folder begins
PAGE_NAME, TEXT_NAME = "digest.html", "digest.md"


@dataclass(frozen=True)
class Night:
    """One run of the night, and what changed since the one before."""

    what: str
    path: Path
    run: StoredRun
    since: Difference | None

    @property
    def new(self) -> Sequence[Finding]:
        """The findings that the run before does not have."""
        return list(self.run.findings.values()) if self.since is None else self.since.new

    @property
    def is_settled(self) -> bool:
        """Whether the run came to a conclusion, and nothing that was judged before is missing."""
        lost = self.since is not None and (self.since.not_tried or self.since.unjudged)
        return self.run.conclusion not in UNSETTLED and not lost

    @property
    def moved(self) -> list[str]:
        """The figures that changed most, each in a line."""
        rows = []
        for name, before, after in self.since.figures() if self.since else ():
            if before and after and before > 0 < after:
                rows.append((abs(math.log(after / before)), name, before, after))
        rows.sort(reverse=True)
        found = [row for row in rows if row[0] > math.log(MOVED)][:MOVED_MAX]
        return [f"{name}: {before:,.4g}, now {after:,.4g}" for _, name, before, after in found]

    @property
    def changes(self) -> list[str]:
        """What is new, mended, still broken, and not tried, each in a line."""
        if self.since is None:
            return [f"NEW: {finding}" for finding in self.new]
        return self.since.lines()

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "what": self.what,
            "run": self.path.name,
            "target": self.run.target,
            "conclusion": self.run.conclusion or "no conclusion",
            "since": self.since.earlier.name if self.since else None,
            "new": [finding.to_json() for finding in self.new],
            "changes": self.changes,
            "moved": self.moved,
        }


def digest(reports: Path, since_s: float, now_s: float) -> list[Night]:
    """The runs that began in the last `since_s` seconds, the oldest first.

    Raises UsageError where there is none.
    """
    nights: list[Night] = []
    before: dict[tuple[str, ...], StoredRun] = {}
    for path, began_s in runs_of(reports):
        plan = folder.read_json(path / folder.PLAN)
        if plan.get("what") not in (
            "gate",
            "prove",
            "mutate",
            "load",
            "soak",
            "days",
            "profile",
            "merge",
        ):
            continue
        key = key_of(plan)
        run = read_run(path)
        if began_s >= now_s - since_s:
            earlier = before.get(key)
            since = None if earlier is None else compare(earlier, run)
            nights.append(Night(" ".join(key[:1] + key[2:]), path, run, since))
        if run.conclusion not in UNSETTLED or key not in before:
            before[key] = run
    if not nights:
        raise UsageError(
            f"{reports}: expected a run of the last {since_s / 3600:g} hours; found none"
        )
    return nights


def exit_code(nights: Iterable[Night]) -> int:
    """1 for a new finding, 2 where a run came to no conclusion or judged less, else 0."""
    every = list(nights)
    if any(night.new for night in every):
        return 1
    return 0 if all(night.is_settled for night in every) else 2


def store(
    reports: Path,
    nights: Sequence[Night],
    changed: Sequence[str] = (),
    unfinished: Sequence[str] = (),
) -> Path:
    """Write the page and the text; the path of the page.

    `changed` are the figures whose level changed, and `unfinished` the steps that were cut.
    """
    rows = [{**n.to_json(), "has_page": (n.path / PAGE).exists()} for n in nights]
    new = sum(len(night.new) for night in nights)
    more = {"changed": changed, "unfinished": unfinished}
    text = template(PAGE_NAME).render(nights=rows, new=new, **more)
    folder.write_text(reports / PAGE_NAME, text)
    folder.write_text(reports / TEXT_NAME, markdown(nights, changed, unfinished))
    return reports / PAGE_NAME


def markdown(
    nights: Sequence[Night], changed: Sequence[str] = (), unfinished: Sequence[str] = ()
) -> str:
    """Render the runs as a table, and what changed below it."""
    lines = [
        f"# {sum(len(night.new) for night in nights)} new findings in {len(nights)} runs",
        "",
        "| run | conclusion | new | mended | still broken | no longer tried |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for night in nights:
        since = night.since
        counts = [since.mended, since.still, since.not_tried] if since else [[], [], []]
        cells = [f"{night.what} · {night.path.name}", night.run.conclusion or "no conclusion"]
        cells += [str(len(night.new)), *(str(len(found)) for found in counts)]
        lines.append(f"| {' | '.join(cells)} |")
    for night in nights:
        if night.changes or night.moved:
            lines += ["", f"## {night.what} · {night.path.name}", ""]
            lines += [f"- `{change.replace('`', chr(39))}`" for change in night.changes]
            lines += [f"- moved: {line}" for line in night.moved]
    for title, rows in (("changed levels", changed), ("not finished", unfinished)):
        if rows:
            lines += ["", f"## {title}", "", *(f"- {row}" for row in rows)]
    return "\n".join(lines) + "\n"


def runs_of(reports: Path, known: Container[str] = ()) -> Iterator[tuple[Path, float]]:
    """Run folders with the time at which they began, the oldest first, but those that are known."""
    for plan in sorted(reports.glob(f"runs/*/{folder.PLAN}")):
        if not plan.parent.is_symlink() and plan.parent.name not in known:
            stamp = plan.parent.name.partition("-")[0]
            try:
                yield plan.parent, time.mktime(time.strptime(stamp, STAMP))
            except ValueError:
                continue  # a folder of another origin


def key_of(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two runs comparable."""
    soak = plan.get("soak", {})
    over = ("over HTTP",) if soak.get("over_http") else ()
    return str(plan.get("what", "run")), str(plan.get("target", "")), *over
