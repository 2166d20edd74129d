"""Finds what an act keeps: uses it again and again, and names what grows, its holder and its lines.

After a warm-up, a *survey* looks at every container and at the living objects of each class, and
takes those that grew in both of its halves as further gauges. Then all gauges are sampled while the
act is used on, and judged by their trend (`checkers/growth.py`), so that a cache that fills, or
garbage, is no growth. Of what grows, a last and traced part finds the lines that allocate, and the
path by which a module, a class or a running function holds it.
"""

from __future__ import annotations

import gc
import linecache
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkers.growth import SAMPLE, Controls, GrowsWithin, Growth, Limit
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.extras import require_extras
from harness.core.history import History, Operation, Outcome
from harness.core.trend import READINGS_MIN
from harness.worker.holders import name_of, path_to

Gauge = Callable[[], int | float | Sized]
KEEPS_NOTHING = Promise("GROWTH", "No use leaves anything behind.")
OPERATIONS = 960
SAMPLES = 2 * READINGS_MIN
PER_OPERATION = 0.02  # one use in fifty
TRACED = 200
FRAMES = 12
LINES_SHOWN = 3
_CONTAINERS = (dict, list, set, deque)
_OURS = str(Path(__file__).resolve().parents[1])
_GAUGE = "gauge: "
_GROWN, _STEADY = "control: one an operation", "control: steady"


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing that grows: how much an operation, who holds it, and the lines that allocate."""

    gauge: str
    per_operation: float
    first: float
    last: float
    holder: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        rows = [f"{self.gauge}: {self.per_operation:+.3g} an operation"]
        rows[0] += f", from {self.first:,g} to {self.last:,g}"
        if self.holder:
            rows.append(f"    held by {self.holder}")
        return "\n".join([*rows, *(f"    allocated at {line}" for line in self.lines)])


@dataclass(frozen=True, slots=True)
class GrowthReport:
    """What an act keeps. `unknowns` say why nothing is proven."""

    operations: int
    kept: tuple[Kept, ...] = ()
    unknowns: tuple[str, ...] = ()

    @property
    def is_bounded(self) -> bool:
        """Whether it is proven that nothing of what was looked at grows."""
        return not self.kept and not self.unknowns

    def __str__(self) -> str:
        if self.kept:
            return "\n".join([f"{self.operations:,} operations keep", *map(str, self.kept)])
        if self.unknowns:
            return f"unknown: {'; '.join(self.unknowns)}"
        return f"{self.operations:,} operations keep nothing"


def grows(
    act: Callable[[], object],
    *,
    gauges: Mapping[str, Gauge] | None = None,
    operations: int = OPERATIONS,
    warm_up: int | None = None,
    per_operation: float = PER_OPERATION,
) -> GrowthReport:
    """Use `act` again and again, and report what grows with each use.

    `gauges` are functions that return a number or a container, by name; without them the containers
    and objects of this process are looked at alone. The `warm_up`, a quarter of the operations by
    default, fills caches. What grows by less than `per_operation` is no growth. Needs the extra
    `soak`. Raises UsageError for too few operations, and what `act` raises.
    """
    require_extras("grows", "soak")
    if operations < SAMPLES:
        raise UsageError(f"grows: {operations} operations are too few, expected {SAMPLES} or more")
    for _ in range(operations // 4 if warm_up is None else warm_up):
        act()
    survey = _Survey(act, operations // 4, per_operation)
    asked = dict(gauges or {})
    try:
        survey.begin()
        survey.use()
        own = [gauge() for gauge in asked.values()]
        asked |= survey.found(own)
        history = History(tuple(_sampled(act, asked, operations)))
    finally:
        gc.unfreeze()
    limit = Limit(f"{_GAUGE}*", KEEPS_NOTHING, per_operation)
    check = GrowsWithin([limit], 0, Controls(_GROWN, _STEADY, per_operation))
    growing = [growth for growth in check.growths(check.warm(history)) if growth.is_growing]
    if growing:
        return GrowthReport(operations, tuple(_explained(act, growing, asked)))
    return GrowthReport(operations, unknowns=check(history).unknowns)


def _sampled(
    act: Callable[[], object], gauges: Mapping[str, Gauge], operations: int
) -> Iterable[Operation]:
    every = operations // SAMPLES
    for done in range(1, operations + 1):
        act()
        if done % every == 0:
            gc.collect()
            argument = {"operations": done, _GROWN: done, _STEADY: 0}
            readings = {_GAUGE + name: _size(gauge()) for name, gauge in gauges.items()}
            yield Operation(0, SAMPLE, argument, Outcome.OK, done, done, readings)


def _size(reading: float | Sized) -> float:
    return len(reading) if isinstance(reading, Sized) else reading


class _Survey:
    """Looks for containers and classes that grow, among all of this process.

    What exists before is frozen, so that a collection is quick; it is in no list of objects then.
    """

    def __init__(self, act: Callable[[], object], operations: int, per_operation: float) -> None:
        self._act = act
        self._half = max(2, operations // 2)
        self._least = max(1.0, self._half * per_operation)
        self._containers: list[Any] = []
        self._sizes: list[list[int]] = []
        self._classes: list[Counter[type]] = []

    def begin(self) -> None:
        """List the containers that there are."""
        gc.collect()
        self._containers = [item for item in gc.get_objects() if isinstance(item, _CONTAINERS)]
        gc.freeze()
        self._look()

    def use(self) -> None:
        """Use the act, in two halves."""
        for _ in range(2):
            for _ in range(self._half):
                self._act()
            gc.collect()
            self._look()

    def _look(self) -> None:
        self._sizes.append([len(item) for item in self._containers])
        self._classes.append(Counter(type(item) for item in gc.get_objects()))

    def found(self, known: Iterable[object]) -> dict[str, Gauge]:
        """Gauges of what grew in both halves, by name, apart from containers that are known."""
        gauges: dict[str, Gauge] = {}
        apart = {id(item) for item in known}
        ours = (self._containers, self._sizes, self._classes)
        apart |= {id(item) for item in (*ours, *self._sizes, *self._classes)}
        sizes = zip(*self._sizes, strict=True)
        grown = [
            item
            for item, lengths in zip(self._containers, sizes, strict=True)
            if self._has_grown(*lengths) and id(item) not in apart
        ]
        gc.unfreeze()  # no referrer is found among what is frozen
        for item in grown:
            if path := path_to(item, (*ours, grown)):
                gauges[f"len({path})"] = _Items(item)
        gc.freeze()
        first, middle, last = self._classes
        for kind, count in last.items():
            if self._has_grown(first[kind], middle[kind], count) and not _is_ours(kind):
                gauges[f"living {name_of(kind)}"] = _Living(kind)
        return gauges

    def _has_grown(self, first: int, middle: int, last: int) -> bool:
        return middle - first >= self._least and last - middle >= self._least


@dataclass(frozen=True)
class _Items:
    """The gauge of one container."""

    container: Sized

    def __call__(self) -> Sized:
        return self.container


@dataclass(frozen=True)
class _Living:
    """The gauge of the living objects of one class."""

    kind: type

    def __call__(self) -> int:
        return sum(type(item) is self.kind for item in gc.get_objects())


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith(("harness.", "_pytest")) or kind.__module__ == "builtins"


# Lines and holders


def _explained(
    act: Callable[[], object], growing: Iterable[Growth], gauges: Mapping[str, Gauge]
) -> Iterable[Kept]:
    """Use the act on while allocations are traced."""
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start(FRAMES)
    before = _allocated()
    for _ in range(TRACED):
        act()
    after = _allocated()
    for growth in growing:
        name = growth.reading.removeprefix(_GAUGE)
        gauge = gauges[name]
        holder, own = _held(gauge)
        yield Kept(
            name,
            growth.trend.slope,
            growth.first,
            growth.last,
            holder,
            (own,) if own else _lines(before, after, growth.trend.slope * TRACED),
        )
    if not was_tracing:
        tracemalloc.stop()


def _allocated() -> Counter[tuple[str, int]]:
    """The blocks in use, by the line of code under test that allocated them."""
    gc.collect()
    blocks: Counter[tuple[str, int]] = Counter()
    for traced in tracemalloc.take_snapshot().statistics("traceback"):
        place = _place(traced.traceback)
        if place is not None:
            blocks[place] += traced.count
    return blocks


def _place(trace: tracemalloc.Traceback) -> tuple[str, int] | None:
    """The innermost line that is neither CPython's nor the harness's."""
    library = str(Path(linecache.__file__).parent)
    for frame in reversed(trace):
        installed = "site-packages" in frame.filename
        is_library = frame.filename.startswith(library) and not installed
        if not is_library and not frame.filename.startswith((_OURS, "<")):
            return frame.filename, frame.lineno
    return None


def _lines(
    before: Counter[tuple[str, int]], after: Counter[tuple[str, int]], grown: float
) -> tuple[str, ...]:
    """The lines that allocated most of what is still there, if it is half of what has grown."""
    more = (after - before).most_common(LINES_SHOWN)
    return tuple(_shown(place) for place, blocks in more if blocks >= grown / 2)


def _shown(place: tuple[str, int]) -> str:
    file, line = place
    return f"{Path(file).name}:{line} {linecache.getline(file, line).strip()}"


def _held(gauge: Gauge) -> tuple[str, str]:
    """The path to what a gauge counts, and the line that allocated the newest of it."""
    living: list[Any] = []
    if isinstance(gauge, _Living):
        living = [item for item in gc.get_objects() if type(item) is gauge.kind]
        held = newest = living[-1] if living else None
    else:
        held = gauge()
        newest = _newest(held)
    path = (
        path_to(held, (living,) if isinstance(gauge, _Living) else ())
        if gc.is_tracked(held)
        else ""
    )
    trace = None if newest is None else tracemalloc.get_object_traceback(newest)
    place = None if trace is None else _place(trace)
    return path, "" if place is None else _shown(place)


def _newest(container: Any) -> Any:
    """The last item of a container that was allocated while traced; None if it is not known."""
    if isinstance(container, dict):
        container = list(container.values())
    if not isinstance(container, list | set | deque):
        return None
    traced = [item for item in container if tracemalloc.get_object_traceback(item) is not None]
    return traced[-1] if traced else None
