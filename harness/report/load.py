"""Renders a load: latencies, throughput and costs, as tables and as a page with charts.

All figures are computed from the history, so a stored run can be rendered again. Latencies of
several generators are merged as histograms, never as quantiles.
"""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.histogram import Histogram, merged
from harness.core.history import FaultInterval, History, Operation
from harness.report.page import template

US_A_MS = 1000.0
WIDTH, HEIGHT = 900.0, 150.0
TICKS_MAX = 8
LOG_TICKS_MIN = 3  # fewer powers of ten get 2 and 5 between them
ALL_RUNS = {"../../index.html": "All runs"}
NOTICE_NS = 3_000_000_000  # for a reader to notice that its server has ended
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Latency:
    """The latency of one kind of event or call, in milliseconds; `count` of them."""

    name: str
    count: int
    p50: float
    p99: float
    p999: float
    worst: float


@dataclass(frozen=True, slots=True)
class Second:
    """One second of the load, of all generators together. Latencies in microseconds."""

    at_s: float
    ended_ns: int
    users: int
    streams: int
    counts: Mapping[str, float]
    generator_cpu: float  # shares of a core
    target_cpu_s: float
    latencies: Mapping[str, Histogram]


@dataclass(frozen=True, slots=True)
class Account:
    """The figures of a whole load."""

    seconds: Sequence[Second]
    latencies: Sequence[Latency]
    generators: Sequence[Mapping[str, Any]]
    target: Sequence[tuple[float, float, float]]  # at_s, share of a core, MiB
    faults: Sequence[tuple[str, float, float]]  # name, from, to, in seconds
    facts: Mapping[str, float]


def account(history: History) -> Account:
    """Compute the figures of a load from its history."""
    began_ns = min((op.invoked_ns for op in history), default=0)
    target = list(_target(history, began_ns))
    seconds = list(_seconds(history, began_ns, target))
    generators = [op.result for op in history.happened.of("generate")]
    return Account(
        seconds,
        latencies(seconds),
        generators,
        target,
        [
            (
                fault.name,
                _s(fault.began_ns, began_ns),
                _s(fault.healed_ns or fault.began_ns, began_ns),
            )
            for fault in history.faults
        ],
        _facts(history, seconds, generators, target),
    )


def latencies(seconds: Sequence[Second]) -> list[Latency]:
    """The latencies of all these seconds together, by name."""
    names = sorted({name for second in seconds for name in second.latencies})
    return [
        _latency(name, merged(s.latencies[name] for s in seconds if name in s.latencies))
        for name in names
    ]


def together(accounts: Sequence[Account]) -> Account:
    """The figures of several loads as if they had run at the same time.

    Seconds are put together by their number; counts are added, and latencies merged.
    """
    by_number: defaultdict[int, list[Second]] = defaultdict(list)
    targets: defaultdict[int, list[tuple[float, float, float]]] = defaultdict(list)
    for account in accounts:
        for second in account.seconds:
            by_number[round(second.at_s)].append(second)
        for sample in account.target:
            targets[round(sample[0])].append(sample)
    seconds = [_at_once(by_number[number]) for number in sorted(by_number)]
    samples = [
        (float(number), sum(share for _, share, _ in same), sum(mib for _, _, mib in same))
        for number, same in sorted(targets.items())
    ]
    return Account(
        seconds,
        latencies(seconds),
        [generator for account in accounts for generator in account.generators],
        samples,
        [fault for account in accounts for fault in account.faults],
        _added_facts([account.facts for account in accounts]),
    )


def _at_once(seconds: Sequence[Second]) -> Second:
    """The same second of several loads."""
    first = seconds[0]
    names = {name for second in seconds for name in second.counts}
    counts = {name: sum(second.counts.get(name, 0) for second in seconds) for name in names}
    kinds = {name for second in seconds for name in second.latencies}
    return Second(
        first.at_s,
        first.ended_ns,
        sum(second.users for second in seconds),
        sum(second.streams for second in seconds),
        {**counts, "wall_s": max(second.counts["wall_s"] for second in seconds)},
        sum(second.generator_cpu for second in seconds),
        sum(second.target_cpu_s for second in seconds),
        {
            kind: merged(second.latencies[kind] for second in seconds if kind in second.latencies)
            for kind in kinds
        },
    )


def _added_facts(facts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums, but the longest time, and rates anew from what was added."""
    added = {name: sum(fact.get(name, 0) for fact in facts) for name in facts[0]}
    events, generator_s = added["events checked"], added["generator CPU seconds"]
    return {
        **{name: round(value, 2) for name, value in added.items()},
        "seconds": max(fact["seconds"] for fact in facts),
        "events checked per second of generator CPU": round(events / max(generator_s, 1e-3)),
        "target CPU per 1000 events, ms": round(
            1e6 * added["target CPU seconds"] / max(events, 1), 1
        ),
    }


def _facts(
    history: History,
    seconds: Sequence[Second],
    generators: Sequence[Mapping[str, Any]],
    target: Sequence[tuple[float, float, float]],
) -> dict[str, float]:
    reads = [op.result for op in history.happened.of("read")]
    wall_s = sum(second.counts.get("wall_s", 0.0) for second in seconds)
    generator_s = sum(generator["cpu_s"] for generator in generators)
    events = sum(generator["events"] for generator in generators)
    target_s = sum(share for _, share, _ in target)  # one sample a second
    calls = sum(second.counts.get("calls", 0) for second in seconds)
    return {
        "seconds": round(wall_s, 1),
        "users at most": max((second.users for second in seconds), default=0),
        "streams at most": max((second.streams for second in seconds), default=0),
        "connections checked": len(reads),
        "events checked": events,
        "events checked per second of generator CPU": round(events / max(generator_s, 1e-3)),
        "reconnects with a cursor": sum(
            op.argument["after"] is not None for op in history.happened.of("read")
        ),
        "connections cut while nothing was broken": len(list(_cut(history))),
        "snapshots": sum(read["snapshots"] for read in reads),
        "comments": sum(read["comments"] for read in reads),
        "calls": calls,
        "wakeups": sum(len(op.result["woken"]) for op in history.happened.of("messages")),
        "faults": len(history.faults),
        "target CPU seconds": round(target_s, 2),
        "target CPU per 1000 events, ms": round(1e6 * target_s / max(events, 1), 1),
        "target MiB at most": round(max((mib for _, _, mib in target), default=0.0), 1),
        "generator CPU seconds": round(generator_s, 2),
    }


def _cut(history: History) -> Iterator[Operation]:
    """Connections that ended before their stream did, without a fault or a stall of the reader."""
    stalled = {op.argument["stream"] for op in history.of("stall")}
    for read in history.happened.of("read"):
        is_cut = read.result["end"] in ("closed", "lost") and not read.result["terminal"]
        is_stall = read.argument["stream"] in stalled
        if is_cut and not is_stall and not any(_ended(fault, read) for fault in history.faults):
            yield read


def _ended(fault: FaultInterval, read: Operation) -> bool:
    """Whether the connection ended during the fault, or while it noticed the fault."""
    assert read.completed_ns is not None
    healed_ns = read.completed_ns if fault.healed_ns is None else fault.healed_ns
    began_ns = fault.began_ns - NOTICE_NS
    return began_ns <= read.completed_ns <= healed_ns + NOTICE_NS


def _seconds(
    history: History, began_ns: int, target: Sequence[tuple[float, float, float]]
) -> Iterator[Second]:
    """The seconds of all generators, the n-th of each generator together."""
    by_number: defaultdict[int, list[Operation]] = defaultdict(list)
    for operation in history.happened.of("second"):
        by_number[round(_s(operation.completed_ns or 0, began_ns))].append(operation)
    for _, together in sorted(by_number.items()):
        parts = [op.result for op in together]
        names = {name for part in parts for name in part["latencies"]}
        lasted_s = max(1e-3, *(part["seconds"] for part in parts))
        counts = {
            name: sum(part["counts"].get(name, 0) for part in parts)
            for name in {name for part in parts for name in part["counts"]}
        }
        yield Second(
            _s(together[0].completed_ns or 0, began_ns),
            together[0].completed_ns or 0,
            sum(part["users"] for part in parts),
            sum(part["streams"] for part in parts),
            {**counts, "wall_s": lasted_s},
            sum(part["cpu_s"] for part in parts) / lasted_s,
            lasted_s * _share_at(target, _s(together[0].completed_ns or 0, began_ns)),
            {
                name: merged(
                    Histogram.from_json(part["latencies"][name])
                    for part in parts
                    if name in part["latencies"]
                )
                for name in names
            },
        )


def _share_at(target: Sequence[tuple[float, float, float]], at_s: float) -> float:
    """The target's share of a core at its last sample."""
    return next((share for sampled_s, share, _ in reversed(target) if sampled_s <= at_s), 0.0)


def _target(history: History, began_ns: int) -> Iterator[tuple[float, float, float]]:
    """The target's share of a core between two samples, and its memory."""
    last: Operation | None = None
    for sample in history.happened.of("cost"):
        is_same = last is not None and last.result["pid"] == sample.result["pid"]
        if last is not None and is_same:
            spent_s = sample.result["cpu_s"] - last.result["cpu_s"]
            share = spent_s / max(_s(sample.invoked_ns, last.invoked_ns), 1e-3)
            yield _s(sample.invoked_ns, began_ns), share, sample.result["rss"] / 2**20
        last = sample


def _latency(name: str, histogram: Histogram) -> Latency:
    p50, p99, p999 = (histogram.quantile(share) / US_A_MS for share in (0.5, 0.99, 0.999))
    return Latency(name, histogram.count, p50, p99, p999, histogram.maximum / US_A_MS)


def _s(at_ns: int, began_ns: int) -> float:
    return (at_ns - began_ns) / 1e9


# As text


def markdown(account: Account) -> str:
    """Render the figures as tables that can be pasted."""
    lines = ["", "| latency of | count | p50 ms | p99 ms | p99.9 ms | worst ms |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for row in account.latencies:
        quantiles = " | ".join(f"{ms:,.1f}" for ms in (row.p50, row.p99, row.p999, row.worst))
        lines.append(f"| {row.name} | {row.count:,} | {quantiles} |")
    lines += ["", "| figure | value |", "| --- | --- |"]
    lines += [f"| {name} | {value:,} |" for name, value in account.facts.items()]
    lines += [
        f"| generator {number} | {100 * generator['cpu_share']:.0f} % of a core, its loop late by "
        f"{generator['lag_ms']['p50']:.1f} ms at p50, {generator['lag_ms']['p99']:.1f} ms at p99 |"
        for number, generator in enumerate(account.generators)
    ]
    return "\n".join(lines) + "\n"


# As a page


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a chart."""

    name: str
    points: Points


@dataclass(frozen=True, slots=True)
class Chart:
    """Series over the same seconds; `is_log` where they span several powers of ten."""

    title: str
    unit: str
    lines: Sequence[Line]
    is_log: bool = False

    def drawn(self, ends_s: float) -> dict[str, Any]:
        """The paths, and the ticks on both axes, for the template."""
        values = [value for line in self.lines for _, value in line.points if value > 0]
        top = max(values, default=1.0)
        bottom = min(values, default=0.1) if self.is_log else 0.0

        def x(at_s: float) -> float:
            return round(WIDTH * at_s / max(ends_s, 1e-9), 1)

        def y(value: float) -> float:
            if not self.is_log:
                return round(HEIGHT * (1 - value / top), 1)
            span = math.log10(top / bottom) or 1.0
            return round(HEIGHT * (1 - math.log10(max(value, bottom) / bottom) / span), 1)

        return {
            "title": self.title,
            "unit": self.unit,
            "lines": [
                {
                    "name": line.name,
                    "path": " ".join(f"{x(at_s)},{y(value)}" for at_s, value in line.points),
                    "is_dot": len(line.points) == 1,
                }
                for line in self.lines
            ],
            "ticks": [
                (y(value), f"{value:,.10g}") for value in _ticks(bottom, top, is_log=self.is_log)
            ],
            "seconds": [(x(at_s), f"{at_s:g} s") for at_s in _round_steps(ends_s)],
        }


def _ticks(bottom: float, top: float, *, is_log: bool) -> list[float]:
    if not is_log:
        return _round_steps(top)
    powers = range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)
    every = [10.0**power * factor for power in powers for factor in (1, 2, 5)]
    within = [value for value in every if bottom <= value <= top]
    whole = [value for value in within if math.log10(value).is_integer()]
    return whole if len(whole) >= LOG_TICKS_MIN else within


def _round_steps(end: float) -> list[float]:
    """Zero, and some round numbers up to the end."""
    rough = max(end, 1e-9) / TICKS_MAX
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * number for number in range(int(end / step) + 1)]


def charts(account: Account) -> list[Chart]:
    """Latency, throughput, and the costs of both sides."""
    named = ["event", "send", "wakeup is seen", "/health"]
    latency = [
        Line(f"{name} p99", [*_quantiles(account.seconds, name, 0.99)])
        for name in named
        if any(name in second.latencies for second in account.seconds)
    ]
    median = [Line("event p50", [*_quantiles(account.seconds, "event", 0.5)])]
    rate = [
        (second.at_s, second.counts.get("events", 0) / second.counts["wall_s"])
        for second in account.seconds
    ]
    streams = Line("streams", [(second.at_s, second.streams) for second in account.seconds])
    users = Line("users", [(second.at_s, second.users) for second in account.seconds])
    generator = [(second.at_s, 100 * second.generator_cpu) for second in account.seconds]
    target = [(at_s, 100 * share) for at_s, share, _ in account.target]
    memory = [(at_s, mib) for at_s, _, mib in account.target]
    return [
        Chart("Latency", "ms", [line for line in (*latency, *median) if line.points], is_log=True),
        Chart("Events", "a second", [Line("events checked", rate)]),
        Chart("Connections", "", [streams, users]),
        Chart("Processor", "% of a core", [Line("target", target), Line("generators", generator)]),
        Chart("Target's memory", "MiB", [Line("resident", memory)]),
    ]


def _quantiles(seconds: Iterable[Second], name: str, share: float) -> Iterator[tuple[float, float]]:
    for second in seconds:
        if name in second.latencies:
            yield second.at_s, second.latencies[name].quantile(share) / US_A_MS


def distribution(seconds: Sequence[Second]) -> dict[str, Any]:
    """The empirical distribution of each latency, over the logarithm of the time."""
    names = sorted({name for second in seconds for name in second.latencies})
    every = {
        name: merged(s.latencies[name] for s in seconds if name in s.latencies) for name in names
    }
    waits = {name: histogram for name, histogram in every.items() if histogram.count}
    low = min((h.quantile(0.001) for h in waits.values()), default=1) / US_A_MS
    high = max((h.maximum for h in waits.values()), default=1) / US_A_MS
    bottom = 10.0 ** math.floor(math.log10(max(low, 0.01)))
    top = max(10 * bottom, 10.0 ** math.ceil(math.log10(max(high, 0.01))))
    span = math.log10(top / bottom)

    def x(ms: float) -> float:
        return round(WIDTH * math.log10(max(ms, bottom) / bottom) / span, 1)

    shares = [number / 100 for number in range(101)] + [0.995, 0.999, 0.9999, 1.0]
    return {
        "lines": [
            {
                "name": f"{name} ({histogram.count:,})",
                "path": " ".join(
                    f"{x(histogram.quantile(share) / US_A_MS)},{round(HEIGHT * (1 - share), 1)}"
                    for share in sorted(shares)
                ),
            }
            for name, histogram in waits.items()
        ],
        "shares": [
            (round(HEIGHT * (1 - share), 1), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)
        ],
        "times": [(x(ms), f"{ms:,.10g} ms") for ms in _ticks(bottom, top, is_log=True)],
    }


def page(
    account: Account,
    title: str,
    verdict: str,
    pages: Mapping[str, str] | None = None,
    flame: bytes = b"",
) -> str:
    """Render the figures as one HTML file without further files.

    `pages` are further ones of the run, by address; `flame` is a flame graph, which is embedded.
    """
    ends_s = max(
        [1.0, *(second.at_s for second in account.seconds), *(at for at, _, _ in account.target)]
    )
    scale = WIDTH / max(ends_s, 1e-9)
    return template("load.html").render(
        title=title,
        verdict=verdict,
        pages={**(pages or {}), **ALL_RUNS},
        flame=base64.b64encode(flame).decode(),
        waits=distribution(account.seconds),
        charts=[chart.drawn(ends_s) for chart in charts(account)],
        faults=[
            {"name": name, "x": round(scale * since, 1), "width": max(2.0, scale * (to - since))}
            for name, since, to in account.faults
        ],
        latencies=account.latencies,
        facts=account.facts,
        generators=account.generators,
        width=WIDTH,
        height=HEIGHT,
    )
