"""Compares the speed of two targets in one run, in interleaved rounds: A B B A.

A block boots both servers afresh, fills them alike, and takes rounds in groups of four: A B B A, or
B A A B, as the seed draws. A drift of the machine inside a group cancels, and what a boot draws at
random (addresses, hashes) is new in each block. So a block is one observation of each figure.
Files are in memory where there is room: the time of a disk is in no figure.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from harness.core.errors import TargetUnavailableError, UsageError
from harness.engine.supervision import Child
from harness.report import folder, page
from harness.report.origin import origin, origin_line
from harness.runs import counts, server_host
from harness.runs.budgets import Budget, Judged, judged_budgets
from harness.runs.budgets import markdown as budget_lines
from harness.runs.figures import (
    EVENT_P99,
    FIGURES,
    IDLE,
    OFTEN,
    TAILS,
    Figures,
    Subject,
    idle_shares,
)
from harness.runs.ratios import MARGIN, RESAMPLES, Row, Word, blocks_needed, exit_code, judge
from harness.runs.scratch import scratch
from harness.targets.registry import find_target
from harness.worker import call_counter

BOOT_S = 60.0
END_S = 15.0
GROUPS = 4  # of four rounds, in each block
BLOCKS = 14
RESULT = "compare.json"
ROUNDS = (*OFTEN, EVENT_P99)  # figures that need rounds

Sides = tuple[str, str]
Measured = Mapping[str, Sequence[float]]  # the values of one side, by figure


@dataclass(frozen=True)
class Comparison:
    """The targets, the number of blocks, the margin, the figures (all for none), the budgets."""

    targets: Sides
    seed: int
    reports: Path
    blocks: int = BLOCKS
    margin: float = MARGIN
    figures: Sequence[str] = ()
    keep: int = 20
    budgets: Sequence[Budget] = ()

    def run(self, progress: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
        """Measure both, and write the run folder: the folder, and the content of the result.

        Raises UsageError for a target without a server, and for too few blocks.
        """
        names = [find_target(name).name for name in self.targets]
        for name, given in zip(names, self.targets, strict=True):
            if server_host.ABILITY not in find_target(given).abilities:
                raise UsageError(f"target {name!r} has no ability {server_host.ABILITY!r}")
        wanted = tuple(f for f in self.figures or FIGURES if f in FIGURES)
        counted = tuple(f for f in self.figures or counts.COUNTS if f in counts.COUNTS)
        if wanted and self.blocks < (needed := blocks_needed(len(wanted))):
            raise UsageError(
                f"--blocks {self.blocks}: {len(wanted)} figures need at least {needed} blocks, else"
                " no difference is significant"
            )
        plan = {"target": " and ".join(names), "blocks": self.blocks, "margin": self.margin}
        run = folder.create(self.reports, "compare", self.seed, plan)
        began = time.monotonic()
        measured = self._measure(progress, wanted) if wanted else []
        samples = self._count(progress) if counted else {"a": [], "b": []}
        rows = judged(measured, wanted, self.margin, self.seed)
        count_rows = [
            row
            for row in counts.judged_counts(samples["a"], samples["b"], self.margin)
            if row.figure in counted
        ]
        budgets = judged_budgets(
            self.budgets, of_side_b(rows, count_rows), (*wanted, *counted), names[1]
        )
        tails = () if self.figures else TAILS
        is_clear = (
            exit_code(rows, tails) == 0
            if wanted
            else all(row.word is not counts.Word.TOO_NOISY for row in count_rows)
            and len(count_rows) == len(counted)
        )
        conclusion, code = concluded(rows, count_rows, budgets, is_clear=is_clear)
        result = {
            "conclusion": conclusion,
            "exit_code": code,
            "origin": origin(),
            "a": names[0],
            "b": names[1],
            "seed": self.seed,
            "blocks": self.blocks,
            "margin": self.margin,
            "seconds": round(time.monotonic() - began, 1),
            "figures": [row.to_json() for row in rows],
            "unavailable": [n for n in wanted if n not in {row.figure for row in rows}],
            "counts": [row.to_json() for row in count_rows],
            "uncounted": [n for n in counted if n not in {row.figure for row in count_rows}],
            "budgets": [budget.to_json() for budget in budgets],
            "rounds": measured,
            "count_rounds": samples,
        }
        folder.write_json(run / RESULT, result)
        folder.write_text(run / "summary.md", markdown(result))
        page.retain(self.reports, self.keep)
        return run, result

    def _measure(
        self, progress: Callable[[str], None], wanted: Sequence[str]
    ) -> list[dict[str, list[dict[str, float]]]]:
        """For each block the figures of both sides, one row a round, in order."""
        rng = random.Random(f"{self.seed}/order")
        server, client = cores()
        if client:
            os.sched_setaffinity(0, client)
        try:
            blocks = []
            with scratch() as templates:
                for number in range(self.blocks):
                    with scratch() as place:
                        host = Host(Path(place), Path(templates), server)
                        blocks.append(measure_block(self.targets, rng, host, wanted))
                    progress(f"block {number + 1} of {self.blocks}")
        finally:
            if client:
                os.sched_setaffinity(0, {*client, *server})
        return blocks

    def _count(self, progress: Callable[[str], None]) -> dict[str, list[counts.Sample]]:
        """For each side the counts of every boot."""
        rng = random.Random(f"{self.seed}/counts")
        samples: dict[str, list[counts.Sample]] = {"a": [], "b": []}
        with scratch() as templates:
            for number in range(counts.BOOTS):
                for side in drawn_order(rng):
                    with scratch() as place:
                        host = Host(Path(place), Path(templates), ()).of(side)
                        samples[side].append(count_boot(self.targets["ab".index(side)], host))
                progress(f"counts of boot {number + 1} of {counts.BOOTS}")
        return samples


def count_boot(target: str, host: Host) -> counts.Sample:
    """Boot a server that counts, and take its counts."""
    counter = host.place / "counts"
    with hosted(target, replace(host, counter=counter)) as subject:
        return counts.sample(subject, counter)


def cores() -> tuple[list[int], list[int]]:
    """The core of both servers and those of the client; none where there is one only."""
    usable = sorted(os.sched_getaffinity(0))
    return ([usable[-1]], usable[:-1]) if len(usable) > 1 else ([], [])


@dataclass(frozen=True, slots=True)
class Host:
    """The folder of a block, that of the databases which each block copies, and the core."""

    place: Path
    templates: Path
    core: Sequence[int]
    counter: Path | None = None  # a file for what the server counts in itself

    def of(self, side: str) -> Host:
        """The same for one side."""
        return Host(self.place / side, self.templates / side, self.core)


def measure_block(
    targets: Sides, rng: random.Random, host: Host, wanted: Sequence[str]
) -> dict[str, list[dict[str, float]]]:
    """Boot both, fill both, and take rounds in turn; the sides are drawn for each group."""
    measured: dict[str, list[dict[str, float]]] = {"a": [], "b": []}
    with ExitStack() as stack:
        subjects = {}
        for side in drawn_order(rng):
            name = targets["ab".index(side)]
            subjects[side] = stack.enter_context(hosted(name, host.of(side)))
        for side in drawn_order(rng):
            measured[side].append(subjects[side].fill())
        for _ in range(GROUPS if any(name in wanted for name in ROUNDS) else 0):
            first, second = drawn_order(rng)
            for side in (first, second, second, first):
                measured[side].append(subjects[side].round())
        for side in drawn_order(rng):
            measured[side][0] |= subjects[side].finish()
        if IDLE in wanted:  # both at once, as neither is asked anything
            shares = idle_shares([subject.pid for subject in subjects.values()])
            for side, share in zip(subjects, shares, strict=True):
                measured[side][0][IDLE] = share
    return measured


def drawn_order(rng: random.Random) -> Sides:
    """Which side comes first."""
    return rng.choice((("a", "b"), ("b", "a")))


@contextmanager
def hosted(target: str, host: Host) -> Iterator[Subject]:
    """A booted server of a target, in a process of its own. Raises TargetUnavailableError."""
    host.place.mkdir(exist_ok=True)
    command = [sys.executable, "-m", server_host.__name__, target, str(host.place)]
    settings = {call_counter.SETTING: str(host.counter), **counts.SETTINGS} if host.counter else {}
    command += [str(list(host.core)), str(host.templates), json.dumps(settings)]
    with (host.place / "host.log").open("wb") as log:
        child = Child(command, os.environ, log, host.place)
        reported: Mapping[str, Any] = {}
        try:
            reported = next(child.events(time.monotonic() + BOOT_S), {})
            if "port" not in reported:
                raise TargetUnavailableError(f"{target}: the server does not boot: {reported}")
            yield Subject(
                reported["port"], reported["pid"], reported["start_up_ms"], reported["database"]
            )
        finally:
            child.end()
            await_end(reported.get("pid"))


def await_end(pid: int | None) -> None:
    """Wait for the end of a server whose host is gone, so that it costs the next one nothing."""
    with suppress(psutil.NoSuchProcess):
        if pid is not None:
            server = psutil.Process(pid)
            try:
                server.wait(END_S)
            except psutil.TimeoutExpired:
                server.kill()


# From rounds to rows


def judged(
    blocks: Sequence[Mapping[str, Sequence[Figures]]],
    wanted: Sequence[str],
    margin: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> list[Row]:
    """One row for each figure that both sides have in every block."""
    logs: dict[str, list[float]] = {}
    medians: dict[str, tuple[float, float]] = {}
    for name in wanted:
        values = [(values_of(block["a"], name), values_of(block["b"], name)) for block in blocks]
        if not values or not all(a and len(a) == len(b) for a, b in values):
            continue
        logs[name] = [log_ratio(a, b) for a, b in values]
        left = [value for a, _ in values for value in a]
        right = [value for _, b in values for value in b]
        medians[name] = median(left), median(right)
    return judge(logs, medians, margin, seed, resamples)


def of_side_b(
    rows: Sequence[Row], count_rows: Sequence[counts.CountRow]
) -> dict[str, tuple[float, float]]:
    """What a budget judges: the median of each figure of B, and the range of each count."""
    medians = {row.figure: (row.b, row.b) for row in rows}
    return medians | {row.figure: row.b for row in count_rows}


def concluded(
    rows: Sequence[Row],
    count_rows: Sequence[counts.CountRow],
    budgets: Sequence[Judged],
    *,
    is_clear: bool,
) -> tuple[str, int]:
    """The conclusion in words, and the exit code: 1 for what is proven, 2 for what is not known.

    Unless all that was asked for `is_clear`, nothing is known. A count that varies proves nothing.
    """
    causes = ["slower"] if any(row.word is Word.SLOWER for row in rows) else []
    causes += ["costs more"] if any(row.is_beyond for row in count_rows) else []
    causes += ["over budget"] if any(budget.is_broken for budget in budgets) else []
    if causes:
        return ", ".join(causes), 1
    if not is_clear:
        return "too noisy", 2
    if any(budget.is_unknown for budget in budgets):
        return "not every budget was judged", 2
    return ("not slower" if rows else "costs no more"), 0


def values_of(rounds: Sequence[Figures], name: str) -> list[float]:
    """The values of a figure on one side of a block, in the order of the rounds."""
    return [figures[name] for figures in rounds if name in figures]


def log_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """The log ratio of one block: of each group the mean of two rounds a side, of these the median.

    A figure that is measured once a block has one value.
    """
    size = 2 if len(a) > 1 else 1
    groups = [
        sum(math.log(b[i + j] / a[i + j]) for j in range(size)) / size
        for i in range(0, len(a), size)
    ]
    return median(groups)


def markdown(result: Mapping[str, Any]) -> str:
    """Render the result as a table that can be pasted."""
    percent = f"{100 * result['margin']:g} %"
    how = f"seed {result['seed']} · {result['blocks']} blocks · margin {percent}"
    lines = [
        f"# {result['conclusion']}: B = {result['b']}, against A = {result['a']}",
        "",
        f"{how} · {result['seconds']} s",
        *([f"Harness {origin_line(result['origin'])}"] if "origin" in result else []),
        "",
    ]
    if result["figures"] or result["unavailable"]:
        lines += [
            "| figure | A | B | B / A | 95 % interval | p, corrected | B is |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
    lines += [
        f"| {row['figure']} | {row['a']:g} | {row['b']:g} | {row['ratio']:.3f}"
        f" | {row['low']:.3f} to {row['high']:.3f} | {row['p_corrected']:.2g} | {row['word']} |"
        for row in result["figures"]
    ]
    lines += [f"| {name} | - | - | - | - | - | unavailable |" for name in result["unavailable"]]
    if result.get("counts") or result.get("uncounted"):
        lines += ["", *counts.markdown(result["counts"], result["uncounted"])]
    if result.get("budgets"):
        lines += ["", *budget_lines(result["budgets"])]
    return "\n".join(lines) + "\n"
