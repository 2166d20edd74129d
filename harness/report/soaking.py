"""Renders a soak as text: its length and costs, what grows and where, and the fastest slopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.verdict import Anomaly
from harness.report.judgement import anomaly_lines

ROWS_MAX = 10
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
        f"{done} in {totals['seconds']:,.0f} s · {totals['episodes']} episodes",
    ]
    if costs := document["costs"]:
        memory = f"{costs.get('rss_bytes', 0) / MIB:,.1f} MiB at the end"
        cpu = f"{costs.get('cpu_us_an_operation', 0) / 1000:,.2f} ms of processor an operation"
        lines.append(f"{memory} · {cpu}")
    for anomaly in map(Anomaly.from_json, verdict["anomalies"]):
        lines += anomaly_lines(anomaly)
    lines += [f"  {_site(site)}" for site in document["sites"][:SITES_MAX]]
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


def _site(site: Mapping[str, Any]) -> str:
    more = f"{site['blocks']:+,} blocks, {site['evenness']:.0%} as even as the container"
    return f"allocated at {site['file']}:{site['line']} ({more}, in a traced episode)"
