"""Cuts long texts in the middle, so that both ends stay and the cut says how much is missing."""

from __future__ import annotations

from collections.abc import Sequence

LINE_CHARS_MAX = 400
"""Of one line of a summary: an operation, an expected or observed value."""


def shortened(text: str, limit: int = LINE_CHARS_MAX) -> str:
    """Return the text with at most `limit` characters, a positive number.

    A cut keeps the beginning and the end, and says how long the text was, where there is room.
    """
    if len(text) <= limit:
        return text
    note = f" ...({len(text):,} characters)... "
    room = limit - len(note)
    if room < len(note):
        return text[:limit]
    head = room - room // 3
    return text[:head] + note + text[len(text) - (room - head) :]


def within(lines: Sequence[str], limit: int, rest: str) -> list[str]:
    """The first lines that fit into `limit` characters, and a last one that says where to look.

    `rest` names the place of the others. All lines are returned if they fit.
    """
    if sum(len(line) + 1 for line in lines) <= limit:
        return list(lines)
    room = limit - len(rest) - 40  # for the sentence below
    kept: list[str] = []
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    return [*kept, f"... {len(lines) - len(kept):,} more lines are in {rest}"]
