"""Compares the speed of two targets in one run, in interleaved rounds: A B B A.

A block boots both servers afresh, fills them alike, and takes rounds in groups of four: A B B A, or
B A A B, as the seed draws. A drift of the machine inside a group cancels, and what a boot draws at
random (addresses, hashes) is new in each block. So a block is one observation of each figure.
Files are in memory where there is room: the time of a disk is in no figure.
"""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from harness.core.errors import TargetUnavailableError, UsageError
from harness.engine.supervision import Child
from harness.report import folder
from harness.runs import server_host
from harness.runs.figures import FIGURES, Figures, Subject
from harness.runs.ratios import MARGIN, RESAMPLES, Row, blocks_needed, exit_code, judge
from harness.runs.scratch import scratch
from harness.targets.registry import find_target

BOOT_S = 60.0
END_S = 15.0
GROUPS = 4  # of four rounds, in each block
BLOCKS = 14
RESULT = "compare.json"

Sides = tuple[str, str]
Measured = Mapping[str, Sequence[float]]  # the values of one side, by figure


@dataclass(frozen=True)
class Comparison:
    """The targets, the number of blocks, the margin, and the figures; all for none."""

    targets: Sides
    seed: int
    reports: Path
    blocks: int = BLOCKS
    margin: float = MARGIN
    figures: Sequence[str] = ()
    keep: int = 20

    def run(self, progress: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
        """Measure both, and write the run folder: the folder, and the content of the result.

        Raises UsageError for a target without a server, and for too few blocks.
        """
        names = [find_target(name).name for name in self.targets]
        for name, given in zip(names, self.targets, strict=True):
            if server_host.ABILITY not in find_target(given).abilities:
                raise UsageError(f"target {name!r} has no ability {server_host.ABILITY!r}")
        wanted = tuple(self.figures) or FIGURES
        if self.blocks < (needed := blocks_needed(len(wanted))):
            raise UsageError(
                f"--blocks {self.blocks}: {len(wanted)} figures need at least {needed} blocks, else"
                " no difference is significant"
            )
        plan = {"target": " and ".join(names), "blocks": self.blocks, "margin": self.margin}
        run = folder.create(self.reports, "compare", self.seed, plan)
        began = time.monotonic()
        measured = self._measure(progress)
        rows = judged(measured, wanted, self.margin, self.seed)
        code = exit_code(rows)
        result = {
            "conclusion": {0: "not slower", 1: "slower", 2: "too noisy"}[code],
            "exit_code": code,
            "a": names[0],
            "b": names[1],
            "seed": self.seed,
            "blocks": self.blocks,
            "margin": self.margin,
            "seconds": round(time.monotonic() - began, 1),
            "figures": [row.to_json() for row in rows],
            "unavailable": [n for n in wanted if n not in {row.figure for row in rows}],
            "rounds": measured,
        }
        folder.write_json(run / RESULT, result)
        folder.write_text(run / "summary.md", markdown(result))
        folder.retain(self.reports, self.keep)
        return run, result

    def _measure(self, progress: Callable[[str], None]) -> list[dict[str, list[dict[str, float]]]]:
        """For each block the figures of both sides, one row a round, in order."""
        rng = random.Random(f"{self.seed}/order")
        server, client = cores()
        if client:
            os.sched_setaffinity(0, client)
        try:
            blocks = []
            for number in range(self.blocks):
                with scratch() as place:
                    blocks.append(measure_block(self.targets, rng, Path(place), server))
                progress(f"block {number + 1} of {self.blocks}")
        finally:
            if client:
                os.sched_setaffinity(0, {*client, *server})
        return blocks


def cores() -> tuple[list[int], list[int]]:
    """The core of both servers and those of the client; none where there is one only."""
    usable = sorted(os.sched_getaffinity(0))
    return ([usable[-1]], usable[:-1]) if len(usable) > 1 else ([], [])


def measure_block(
    targets: Sides, rng: random.Random, place: Path, core: Sequence[int]
) -> dict[str, list[dict[str, float]]]:
    """Boot both, fill both, and take rounds in turn; the sides are drawn for each group."""
    measured: dict[str, list[dict[str, float]]] = {"a": [], "b": []}
    with ExitStack() as stack:
        subjects = {}
        for side in drawn_order(rng):
            (place / side).mkdir()
            name = targets["ab".index(side)]
            subjects[side] = stack.enter_context(hosted(name, place / side, core))
        for side in drawn_order(rng):
            measured[side].append(subjects[side].fill())
        for _ in range(GROUPS):
            first, second = drawn_order(rng)
            for side in (first, second, second, first):
                measured[side].append(subjects[side].round())
    return measured


def drawn_order(rng: random.Random) -> Sides:
    """Which side comes first."""
    return rng.choice((("a", "b"), ("b", "a")))


@contextmanager
def hosted(target: str, place: Path, core: Sequence[int]) -> Iterator[Subject]:
    """A booted server of a target, in a process of its own. Raises TargetUnavailableError."""
    command = [sys.executable, "-m", server_host.__name__, target, str(place), str(list(core))]
    with (place / "host.log").open("wb") as log:
        child = Child(command, os.environ, log, place)
        reported: Mapping[str, Any] = {}
        try:
            reported = next(child.events(time.monotonic() + BOOT_S), {})
            if "port" not in reported:
                raise TargetUnavailableError(f"{target}: the server does not boot: {reported}")
            yield Subject(reported["port"], reported["pid"], reported["start_up_ms"])
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
        "",
        "| figure | A | B | B / A | 95 % interval | p, corrected | B is |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['figure']} | {row['a']:g} | {row['b']:g} | {row['ratio']:.3f}"
        f" | {row['low']:.3f} to {row['high']:.3f} | {row['p_corrected']:.2g} | {row['word']} |"
        for row in result["figures"]
    ]
    lines += [f"| {name} | - | - | - | - | - | unavailable |" for name in result["unavailable"]]
    return "\n".join(lines) + "\n"
