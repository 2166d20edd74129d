"""Renders a soak as text and as a page: its costs, what grows and where, and the slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from harness.core.history import Operation
from harness.core.verdict import Anomaly
from harness.report.judgement import anomaly_lines
from harness.report.page import template

PAGE = "soak.html"
ROWS_MAX = 10
DRAWINGS_MAX = 12
POINTS_MAX = 400  # of a drawing
WIDTH, HEIGHT = 900.0, 150.0
SITES_MAX = 5
MIB = 2**20
HEAD = ("reading", "promise", "from", "to", "an operation", "at least", "too fast")


def text(document: Mapping[str, Any]) -> str:
    """Render the stored result of a soak, without its slopes."""
    plan, totals, verdict = document["plan"], document["totals"], document["verdict"]
    how = "over HTTP" if plan["over_http"] else "in a process"
    done = f"{totals['operations']:,} operations with {totals['sessions']:,} sessions"
    lines = [
        f"soak · {plan['target']} {how} · seed {plan['seed']}",
        f"{done} in {totals['seconds']:,.0f} s · {totals['episodes']} lives of the host",
    ]
    if costs := document["costs"]:
        memory = f"{costs.get('rss_bytes', 0) / MIB:,.1f} MiB at the end"
        cpu = f"{costs.get('cpu_us_an_operation', 0) / 1000:,.2f} ms of processor an operation"
        lines.append(f"{memory} · {cpu}")
    for anomaly in map(Anomaly.from_json, verdict["anomalies"]):
        lines += anomaly_lines(anomaly)
    lines += [f"  {_site(site)}" for site in document["sites"][:SITES_MAX]]
    lines += [
        f"  held by {holder['path']} ({holder['entries']:+,} entries, in a traced episode)"
        for holder in document.get("holders", ())
    ]
    lines += [f"unknown: {reason}" for reason in verdict["unknowns"]]
    unmet = (row for row in verdict["expectations"] if row["observed"] < row["needed"])
    lines += [f"expectation not met: {row['name']}" for row in unmet]
    lines += document["notes"]
    return "\n".join(lines)


def rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The readings that rise, those nearest to their limit first."""
    rising = (row for row in document["slopes"] if row["slope"] > 0)
    slopes = sorted(rising, key=lambda row: row["low"] / row["too_fast"], reverse=True)
    return [
        (
            row["reading"],
            row["promise"],
            f"{row['first']:,.0f}",
            f"{row['last']:,.0f}",
            f"{row['slope']:+.3g}",
            f"{row['low']:+.3g}",
            f"{row['too_fast']:.3g}",
        )
        for row in slopes[:ROWS_MAX]
    ]


def page(document: Mapping[str, Any], samples: Sequence[Operation]) -> str:
    """Render a soak as one HTML file; `samples` are those of its last life, warm."""
    plan = document["plan"]
    how = "over HTTP" if plan["over_http"] else "in a process"
    slopes = sorted(document["slopes"], key=lambda row: row["low"] / row["too_fast"], reverse=True)[
        :DRAWINGS_MAX
    ]
    return template("soak.html").render(
        title=f"Soak of {plan['target']} {how}, seed {plan['seed']}",
        verdict=document["conclusion"],
        text=text(document),
        drawings=[_drawing(row, samples) for row in slopes] if samples else [],
        width=WIDTH,
        height=HEIGHT,
    )


def _drawing(row: Mapping[str, Any], samples: Sequence[Operation]) -> dict[str, Any]:
    """The samples of one reading over operations, with its slope and its limit.

    Both lines go through the middle of the readings, so that their angles can be compared.
    """
    step = max(1, -(-len(samples) // POINTS_MAX))
    shown = samples[::step]
    operations = [float(sample.argument["operations"]) for sample in shown]
    readings = [float({**s.argument, **s.result}.get(row["reading"], 0.0)) for s in shown]
    first, last = operations[0], max(operations[-1], operations[0] + 1)
    half = (last - first) / 2
    middle = median(readings)
    ends = {
        name: (middle - slope * half, middle + slope * half)
        for name, slope in (("slope", row["slope"]), ("limit", row["too_fast"]))
    }
    values = [*readings, *ends["slope"], *ends["limit"]]
    low, high = min(values), max(values)
    high = high if high > low else low + 1

    def x(done: float) -> float:
        return round(WIDTH * (done - first) / (last - first), 1)

    def y(value: float) -> float:
        return round(HEIGHT * float(1 - (value - low) / (high - low)), 1)

    places = [first + share * (last - first) for share in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "reading": row["reading"],
        "promise": row["promise"],
        "slope": f"{row['slope']:+.3g}",
        "low": f"{row['low']:+.3g}",
        "too_fast": f"{row['too_fast']:.3g}",
        "is_growing": row["low"] > row["too_fast"],
        "path": " ".join(f"{x(a)},{y(b)}" for a, b in zip(operations, readings, strict=True)),
        "lines": {name: (y(left), y(right)) for name, (left, right) in ends.items()},
        "ticks": [(y(value), _short(value)) for value in (low, (low + high) / 2, high)],
        "places": [(x(done), f"{done:,.0f} operations") for done in places],
    }


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004


def _site(site: Mapping[str, Any]) -> str:
    more = f"{site['blocks']:+,} blocks, {site['evenness']:.0%} as even as the container"
    return f"allocated at {site['file']}:{site['line']} ({more}, in a traced episode)"
