"""Watched texts in a process's output: which lines are reported, and how often.

A match is reported at once, and then not again before an interval has passed; the others are
counted, and the next report says how many they were. The state fits into a durable row, so the
next host searches on: from the last line that was read, or after a kill from the last reported one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

WATCH_INTERVAL_S = 15.0
WATCH_EVENTS_MAX = 20  # per process; further matches are suppressed
LINE_BYTES_MAX = 8192  # of a line; the text beyond is not searched


@dataclass(frozen=True, slots=True)
class Match:
    """A line to report; `suppressed` lines matched before it and were not reported."""

    number: int
    pattern: str
    line: str
    suppressed: int


@dataclass(eq=False, slots=True)
class Watches:
    """The search of one process's output. Times are seconds of one clock."""

    patterns: tuple[str, ...]
    line_at: int = 0  # where the line after the last one searched begins
    matches: int = 0
    matched_at: float | None = None
    suppressed: int = 0
    repeats: int = 0  # matches that the previous host reported behind its last durable row
    rest: bytearray = field(default_factory=bytearray)  # of the line that has no end yet

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Watches:
        """Continue the search of the previous host."""
        return cls(
            tuple(row.get("watches", ())),
            row.get("line_at", 0),
            row.get("matches", 0),
            row.get("matched_at"),
            row.get("suppressed", 0),
        )

    def row(self) -> dict[str, Any]:
        """The durable part."""
        return {
            "watches": list(self.patterns),
            "line_at": self.line_at,
            "matches": self.matches,
            "matched_at": self.matched_at,
            "suppressed": self.suppressed,
        }

    def was_reported(self, number: int, at: float) -> None:
        """Count a match that became durable just before a kill, without the process's new row."""
        if number > self.matches:
            self.repeats += number - self.matches
            self.matches, self.matched_at = number, at

    def search(self, data: bytes, position: int, now: float) -> Iterator[Match]:
        """The matches in new output; `position` is that of its first byte."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            text = bytes(self.rest + line)
            self.rest.clear()
            position += len(line) + 1
            self.line_at = position
            yield from self._match(text, now)
        self.rest += rest[:LINE_BYTES_MAX]
        del self.rest[LINE_BYTES_MAX:]

    def finish(self, now: float) -> Iterator[Match]:
        """The match in a last line that has no end."""
        if self.rest:
            yield from self._match(bytes(self.rest), now)

    def _match(self, line: bytes, now: float) -> Iterator[Match]:
        text = line[:LINE_BYTES_MAX].decode(errors="replace")
        pattern = next((pattern for pattern in self.patterns if pattern in text), None)
        if pattern is None:
            return
        if self.repeats:
            self.repeats -= 1
            return
        is_early = self.matched_at is not None and 0 <= now - self.matched_at < WATCH_INTERVAL_S
        if is_early or self.matches >= WATCH_EVENTS_MAX:
            self.suppressed += 1
            return
        self.matches += 1
        self.matched_at = now
        suppressed, self.suppressed = self.suppressed, 0
        yield Match(self.matches, pattern, text, suppressed)
