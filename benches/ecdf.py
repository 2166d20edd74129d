"""Draws waiting times as cumulative distributions, in one self-contained SVG.

One panel for each condition, one line for each policy. The x axis is the wait, logarithmic; the y
axis is the share of waits that were not longer, in nines, because the longest of a thousand waits
are the ones that users notice. Knows nothing of the measured system.
"""

# Part of a script, not of a package:
# ruff: noqa: INP001

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLUMNS = 3
COLOURS = ("#0b6bcb", "#d1495b", "#e0912f", "#3f9c6b", "#8a63b8")

_WIDTH, _HEIGHT = 380, 250  # of a panel
_LEFT, _TOP, _RIGHT, _BOTTOM = 58, 34, 20, 44  # around its axes
_HEAD = 96  # above all panels
_FROM_MS, _TO_MS = 0.01, 10_000.0
_SECOND_MS = 1000.0
_NINES = 4.0  # the share of 99.99 %
_STEPS = 160
_STYLE = """
    svg { --paper: #ffffff; --ink: #1c2430; --faint: #5b6675; --rule: #e3e7ec; }
    @media (prefers-color-scheme: dark) {
      svg { --paper: #14181e; --ink: #e6eaf0; --faint: #98a3b3; --rule: #2a313b; }
    }
    .paper { fill: var(--paper); }
    text { fill: var(--ink); font: 12px system-ui, sans-serif; }
    .faint { fill: var(--faint); font-size: 11px; }
    .title { font-size: 19px; font-weight: 650; }
    .panel { font-weight: 650; font-size: 13px; }
    .rule { stroke: var(--rule); stroke-width: 1; }
    .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
    .first { stroke-width: 3; }
"""

Panel = Mapping[str, Sequence[float]]
"""Sorted waits in milliseconds, by policy."""


def draw(title: str, subtitle: str, panels: Mapping[str, Panel]) -> str:
    """Draw a panel for each condition; the first policy is emphasized."""
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    columns = min(COLUMNS, len(panels))
    width = columns * _WIDTH
    height = _HEAD + math.ceil(len(panels) / columns) * _HEIGHT
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
        f'<text class="title" x="16" y="32">{escape(title)}</text>',
        f'<text class="faint" x="16" y="52">{escape(subtitle)}</text>',
        *_legend(names),
    ]
    for index, (condition, panel) in enumerate(panels.items()):
        row, column = divmod(index, columns)
        drawn.append(f'<g transform="translate({column * _WIDTH} {_HEAD + row * _HEIGHT})">')
        drawn += _axes(condition)
        # The first policy is drawn last, above the others.
        drawn += [_line(name, names.index(name), panel[name]) for name in reversed(list(panel))]
        drawn.append("</g>")
    return "\n".join([*drawn, "</svg>\n"])


def _legend(names: Sequence[str]) -> list[str]:
    drawn, x = [], 16
    for index, name in enumerate(names):
        kind = "line first" if index == 0 else "line"
        drawn.append(
            f'<path class="{kind}" stroke="{_colour(index)}" d="M{x} 74h22"/>'
            f'<text x="{x + 28}" y="78">{escape(name)}</text>'
        )
        x += 48 + 8 * len(name)
    return drawn


def _axes(condition: str) -> list[str]:
    drawn = [f'<text class="panel" x="{_LEFT}" y="{_TOP - 12}">{escape(condition)}</text>']
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for exponent in range(round(math.log10(_FROM_MS)), round(math.log10(_TO_MS)) + 1):
        x = _x(10**exponent)
        drawn.append(
            f'<path class="rule" d="M{x:.1f} {_TOP}V{bottom}"/>'
            f'<text class="faint" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">'
            f"{_wait(10**exponent)}</text>"
        )
    for share, label in ((0.0, "0"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")):
        y = _y(share)
        drawn.append(
            f'<path class="rule" d="M{_LEFT} {y:.1f}H{right}"/>'
            f'<text class="faint" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{label} %</text>"
        )
    return drawn


def _line(name: str, index: int, waits_ms: Sequence[float]) -> str:
    points = []
    # A line ends at the share that the number of waits supports: 1000 waits do not show 99.99 %.
    nines = min(_NINES, math.log10(max(len(waits_ms), 1)))
    for step in range(_STEPS + 1):
        share = 1 - 10 ** (-nines * step / _STEPS)
        wait_ms = waits_ms[min(int(share * len(waits_ms)), len(waits_ms) - 1)]
        points.append(f"{_x(wait_ms):.1f} {_y(share):.1f}")
    kind = "line first" if index == 0 else "line"
    return (
        f'<path class="{kind}" stroke="{_colour(index)}" d="M{" L".join(points)}">'
        f"<title>{escape(name)}</title></path>"
    )


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _x(wait_ms: float) -> float:
    span = math.log10(_TO_MS / _FROM_MS)
    share = math.log10(min(max(wait_ms, _FROM_MS), _TO_MS) / _FROM_MS) / span
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    nines = min(-math.log10(1 - share), _NINES)
    return (_HEIGHT - _BOTTOM) - nines / _NINES * (_HEIGHT - _TOP - _BOTTOM)


def _wait(ms: float) -> str:
    return f"{ms:g} ms" if ms < _SECOND_MS else f"{ms / _SECOND_MS:g} s"
