"""A soak told on one screen: what was lived, what grows and where from, and the fastest slopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROWS_MAX = 10
SITES_MAX = 5
MIB = 2**20
HEAD = ("reading", "promise", "from", "to", "an operation", "at least", "too fast")


def text(document: Mapping[str, Any]) -> str:
    """What a person wants to know first."""
    asked, lived, verdict = document["asked"], document["lived"], document["verdict"]
    how = "over HTTP" if asked["over_http"] else "in a process"
    done = f"{lived['operations']:,} operations with {lived['sessions']:,} sessions"
    lines = [
        f"soak · {asked['target']} {how} · seed {asked['seed']}",
        f"{done} in {lived['seconds']:,.0f} s · {lived['lives']} lives",
    ]
    if costs := document["costs"]:
        memory = f"{costs.get('rss_bytes', 0) / MIB:,.1f} MiB at the end"
        cpu = f"{costs.get('cpu_us_an_operation', 0) / 1000:,.2f} ms of processor an operation"
        lines.append(f"{memory} · {cpu}")
    lines += [f"{one['promise']} broken: {one['message']}" for one in verdict["anomalies"]]
    lines += [f"  {_site(site)}" for site in document["sites"][:SITES_MAX]]
    lines += [f"unknown: {reason}" for reason in verdict["unknowns"]]
    unmet = (one for one in verdict["assumptions"] if one["observed"] < one["needed"])
    lines += [f"assumption not met: {one['name']}" for one in unmet]
    lines += document["notes"]
    return "\n".join(lines)


def rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Whatever rises, what comes closest to growing too fast first."""
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
    return f"allocated at {site['file']}:{site['line']} ({more}, in a second life)"
