"""Stores the results of soaks in one SQLite file, and draws their trends.

One soak shows that nothing grows; a series shows which costs rise from week to week. A series has
the soaks of one target, asked in one way.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

from harness.report import folder

FILE = "soaks.sqlite"
PICTURE = "soaks.svg"
SOAKS_KEPT = 400
SLOPES_KEPT = 10  # a soak, the fastest
SHOWN_MAX = 60  # of a series, the newest
WIDTH, HEIGHT, MARGIN = 640, 90, 24
COLOURS = ("#2f6fb3", "#c0622b", "#3f8a57", "#8256a8")  # of the series, in turn
TABLES = """
CREATE TABLE IF NOT EXISTS soaks (
    id INTEGER PRIMARY KEY, at REAL, row TEXT, verdict TEXT, seconds REAL, operations INTEGER,
    rss_bytes REAL, cpu_us_an_operation REAL, nearest REAL);
CREATE TABLE IF NOT EXISTS slopes (
    soak INTEGER REFERENCES soaks ON DELETE CASCADE,
    reading TEXT, slope REAL, low REAL, too_fast REAL);
CREATE INDEX IF NOT EXISTS slopes_by_soak ON slopes (soak);
"""
PANELS = {
    "rss_bytes": ("memory at its end", "MiB", 2**20),
    "cpu_us_an_operation": ("processor time an operation", "ms", 1000),
    "nearest": ("the slope nearest to its limit", "% of it", 0.01),
}


def remember(reports: Path, document: Mapping[str, Any]) -> Path:
    """Add a soak, delete the oldest, and draw all; returns the picture's path. Raises OSError."""
    reports.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(reports / FILE)) as db:
        db.executescript(f"PRAGMA foreign_keys = ON; {TABLES}")
        with db:
            _add(db, document)
            newest = "SELECT id FROM soaks ORDER BY id DESC LIMIT ?"
            db.execute(f"DELETE FROM soaks WHERE id NOT IN ({newest})", [SOAKS_KEPT])  # noqa: S608
        panels = [_panel(db, number, *panel) for number, panel in enumerate(PANELS.items())]
    picture = reports / PICTURE
    size = f'viewBox="0 0 {WIDTH + 2 * MARGIN} {len(PANELS) * (HEIGHT + 2 * MARGIN)}"'
    style = "<style>text{font:11px sans-serif;fill:#6b7684}</style>"
    body = "\n".join(panels)
    drawn = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}\n{body}\n</svg>\n'
    folder.write_text(picture, drawn)
    return picture


def _add(db: sqlite3.Connection, document: Mapping[str, Any]) -> None:
    plan, totals, costs = document["plan"], document["totals"], document["costs"]
    series = f"{plan['target']}{' over HTTP' if plan['over_http'] else ''}"
    slopes = sorted(document["slopes"], key=_nearness, reverse=True)
    nearest = _nearness(slopes[0]) if slopes else 0.0
    length = (totals["seconds"], totals["operations"])
    cost = (costs.get("rss_bytes"), costs.get("cpu_us_an_operation"), nearest)
    values = (time.time(), series, document["conclusion"], *length, *cost)
    added = db.execute("INSERT INTO soaks VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    db.executemany(
        "INSERT INTO slopes VALUES (?, ?, ?, ?, ?)",
        [
            (added.lastrowid, slope["reading"], slope["slope"], slope["low"], slope["too_fast"])
            for slope in slopes[:SLOPES_KEPT]
        ],
    )


def _nearness(slope: Mapping[str, Any]) -> float:
    return float(slope["slope"]) / float(slope["too_fast"])


def _panel(db: sqlite3.Connection, number: int, column: str, panel: tuple[str, str, float]) -> str:
    title, unit, scale = panel
    wanted = f"SELECT row, {column} FROM soaks WHERE {column} IS NOT NULL ORDER BY id"  # noqa: S608
    rows: dict[str, list[float]] = {}
    for row, value in db.execute(wanted):
        rows.setdefault(row, []).append(value / scale)
    shown = {row: values[-SHOWN_MAX:] for row, values in rows.items()}
    top = max((value for values in shown.values() for value in values), default=0.0) or 1.0
    at = f'<g transform="translate({MARGIN} {MARGIN + number * (HEIGHT + 2 * MARGIN)})">'
    frame = f'<path d="M0 0V{HEIGHT}H{WIDTH}" fill="none" stroke="#c8ced6"/>'
    head = f'<text y="-8">{title} · 0 to {top:,.3g} {unit} · {_key(shown)}</text>'
    drawn = zip(shown.values(), cycle(COLOURS), strict=False)
    lines = "".join(_line(values, top, colour) for values, colour in drawn)
    return f"{at}{frame}{head}{lines}</g>"


def _key(rows: Iterable[str]) -> str:
    return " ".join(
        f'<tspan fill="{colour}">{escape(row)}</tspan>'
        for row, colour in zip(rows, cycle(COLOURS), strict=False)
    )


def _line(values: Sequence[float], top: float, colour: str) -> str:
    step = WIDTH / max(1, SHOWN_MAX - 1)
    points = [
        (round(number * step, 1), round(HEIGHT * (1 - max(value, 0.0) / top), 1))
        for number, value in enumerate(values)
    ]
    drawn = " ".join(f"{x},{y}" for x, y in points)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}"/>' for x, y in points)
    return f'<polyline points="{drawn}" fill="none" stroke="{colour}"/>{dots}'
