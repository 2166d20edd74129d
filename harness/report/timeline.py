"""Lays out the timeline of a failure: one lane for each process, faults as bands.

`timeline.html` is the template of the page. The operations of a single process get no timeline,
because the numbered list shows them better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from harness.core.history import FaultInterval, History, Operation
from harness.core.verdict import Anomaly

WIDTH = 1000.0  # of the drawing, in its own units
SHOWN_MAX = 400  # operations; evidence first, then those nearest to it
LEAST_WIDTH = 3.0
MARGIN = 0.08  # of the evidence's duration, before it and after it
NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Bar:
    """One operation as drawn; `step` is its number in the evidence."""

    x: float
    width: float
    outcome: str
    text: str
    step: int | None


@dataclass(frozen=True, slots=True)
class Lane:
    """The operations of one process."""

    process: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """A fault as drawn, from its begin to its heal."""

    x: float
    width: float
    name: str


class _Scale:
    """Maps times to positions in the drawing."""

    def __init__(self, began_ns: int, ended_ns: int) -> None:
        margin = max(1.0, (ended_ns - began_ns) * MARGIN)
        self.began_ns = began_ns - margin
        self.ended_ns = ended_ns + margin
        self._per_ns = WIDTH / (self.ended_ns - self.began_ns)

    def x(self, at_ns: float) -> float:
        return (min(max(at_ns, self.began_ns), self.ended_ns) - self.began_ns) * self._per_ns

    def span(self, began_ns: int, ended_ns: int | None) -> tuple[float, float]:
        """The left edge and the width; an interval without end reaches the right edge."""
        left = self.x(began_ns)
        right = WIDTH if ended_ns is None else self.x(ended_ns)
        return left, max(right - left, LEAST_WIDTH)

    def shows(self, began_ns: int, ended_ns: int | None) -> bool:
        is_past = ended_ns is not None and ended_ns < self.began_ns
        return not is_past and began_ns <= self.ended_ns

    def ticks(self) -> list[tuple[float, str]]:
        """Ten marks, in milliseconds since the left edge."""
        length_ms = (self.ended_ns - self.began_ns) / NS_PER_MS
        return [(WIDTH * tenth / 10, f"{length_ms * tenth / 10:,.1f}") for tenth in range(11)]


def is_useful(episode: History, anomaly: Anomaly) -> bool:
    """Whether there are several processes or a fault, and no schedule that shows the failure."""
    processes = {operation.process for operation in episode}
    is_busy = len(processes) > 1 or bool(episode.faults)
    return is_busy and bool(anomaly.evidence) and "story" not in episode.notes


def render(episode: History, anomaly: Anomaly, reproduce: str) -> str:
    """Render the page. `reproduce` is the command that replays the failure."""
    evidence = anomaly.evidence
    ends = [op.completed_ns or op.invoked_ns for op in evidence]
    scale = _Scale(min(op.invoked_ns for op in evidence), max(ends))
    shown = _shown(episode, evidence, scale)
    return _template().render(
        anomaly=anomaly,
        lanes=list(_lanes(shown, evidence, scale)),
        bands=list(_bands(episode.faults, scale)),
        ticks=scale.ticks(),
        width=WIDTH,
        shown=len(shown),
        total=len(episode),
        reproduce=reproduce,
    )


def _shown(episode: History, evidence: Sequence[Operation], scale: _Scale) -> list[Operation]:
    """The evidence, and the nearest other operations up to `SHOWN_MAX`."""
    middle_ns = (scale.began_ns + scale.ended_ns) / 2
    around = (
        operation
        for operation in episode
        if operation not in evidence and scale.shows(operation.invoked_ns, operation.completed_ns)
    )
    nearest = sorted(around, key=lambda operation: abs(operation.invoked_ns - middle_ns))
    room = max(0, SHOWN_MAX - len(evidence))
    return sorted([*evidence, *nearest[:room]], key=lambda operation: operation.invoked_ns)


def _lanes(
    shown: Iterable[Operation], evidence: Sequence[Operation], scale: _Scale
) -> Iterable[Lane]:
    bars: dict[int, list[Bar]] = {}
    for operation in shown:
        left, width = scale.span(operation.invoked_ns, operation.completed_ns)
        step = evidence.index(operation) + 1 if operation in evidence else None
        bar = Bar(left, width, str(operation.outcome), str(operation), step)
        bars.setdefault(operation.process, []).append(bar)
    return (Lane(process, tuple(bars[process])) for process in sorted(bars))


def _bands(faults: Iterable[FaultInterval], scale: _Scale) -> Iterable[Band]:
    for fault in faults:
        if scale.shows(fault.began_ns, fault.healed_ns):
            yield Band(*scale.span(fault.began_ns, fault.healed_ns), fault.name)


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return pages.get_template("timeline.html")
