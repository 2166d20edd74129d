"""Counts what a turn costs: SQL statements, locks, fsyncs and bytes; for exact comparisons.

Each server is booted afresh several times, alike for both sides, and what runs beside a turn only
adds to its counts: so a boot gives the least of a few rounds. A count is exact where all boots of a
side agree. Nothing is concluded from one that varies; it is stated with its range.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from harness.processes.probe import UnavailableError
from harness.processes.tracing import counted_calls
from harness.runs.figures import Subject, new_session, take_turn

STATEMENTS, LOCKS = "SQL statements a turn", "locks taken a turn"
FSYNCS, WRITES, BYTES = "fsyncs a turn", "writes a turn", "bytes written a turn"
COUNTS = (STATEMENTS, LOCKS, FSYNCS, WRITES, BYTES)
CALLS = {FSYNCS: ("fsync", "fdatasync"), WRITES: ("write", "pwrite64")}  # of the system
BOOTS = 5  # of each side
ROUNDS = 3  # of each boot
TURNS = 8  # of each round
SETTLED_S = 0.2  # between two looks; longer than the call counter's period
ASLEEP, ASLEEP_S = 4, 0.005  # how often in a row a server is seen asleep, and how far apart
PATIENCE_S = 15.0  # for a server to come to rest
# In the environment of the server, so that the order of its sets is the same in every boot.
SETTINGS = {"PYTHONHASHSEED": "0"}

Sample = dict[str, float]
Ask = Callable[[], object]


class Word(StrEnum):
    """What is known about one count of B."""

    MORE = "more"
    FEWER = "fewer"
    SAME = "same"
    TOO_NOISY = "too noisy"


@dataclass(frozen=True, slots=True)
class CountRow:
    """One count: least and most of each side, and whether B is above A by more than the margin."""

    figure: str
    a: tuple[float, float]
    b: tuple[float, float]
    word: Word
    is_beyond: bool

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "figure": self.figure,
            "a": list(self.a),
            "b": list(self.b),
            "word": str(self.word),
            "is_beyond_margin": self.is_beyond,
        }


def judged_counts(
    a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]], margin: float
) -> list[CountRow]:
    """One row for each count that every boot of both sides has."""
    return [
        count_row(name, [sample[name] for sample in a], [sample[name] for sample in b], margin)
        for name in COUNTS
        if a and b and all(name in sample for sample in (*a, *b))
    ]


def count_row(name: str, a: Sequence[float], b: Sequence[float], margin: float) -> CountRow:
    """Compare the counts of all boots: exactly, or not at all where they vary."""
    left, right = (min(a), max(a)), (min(b), max(b))
    if left[0] != left[1] or right[0] != right[1]:
        return CountRow(name, left, right, Word.TOO_NOISY, is_beyond=False)
    before, after = left[0], right[0]
    if after == before:
        return CountRow(name, left, right, Word.SAME, is_beyond=False)
    word = Word.MORE if after > before else Word.FEWER
    return CountRow(name, left, right, word, is_beyond=after > before * (1 + margin))


# Of a booted server


def sample(subject: Subject, counter: Path) -> Sample:
    """The counts of one boot; those that this server or this machine does not give are missing."""
    for _ in range(2):  # takes what is done once
        act(subject)()
    counted: Sample = {}
    with suppress(UnavailableError):  # it does not come to rest
        rounds = [_round(subject, counter) for _ in range(ROUNDS)]
        counted = {name: min(counted_round[name] for counted_round in rounds) for name in rounds[0]}
    return counted | _system_calls(subject)


def act(subject: Subject) -> Ask:
    """What a round does: turns in a new session, each once the server sleeps after the last one.

    So no start is refused, and no commit has the writes of two turns.
    """
    web = subject.web
    session = new_session(web)

    def turns() -> None:
        for _ in range(TURNS):
            await_sleep(subject.pid)
            take_turn(web, session)
        await_sleep(subject.pid)

    return turns


def _round(subject: Subject, counter: Path) -> Sample:
    turns = act(subject)
    before = at_rest(lambda: reading(subject.pid, counter))
    turns()
    after = at_rest(lambda: reading(subject.pid, counter))
    return {name: (after[name] - before[name]) / TURNS for name in after}


def _system_calls(subject: Subject) -> Sample:
    """What no counter inside of the process sees, such as the writes of SQLite."""
    names = [name for calls in CALLS.values() for name in calls]
    try:
        rounds = [counted_calls(subject.pid, names, act(subject)) for _ in range(ROUNDS)]
    except UnavailableError:
        return {}
    return {
        count: min(sum(found[name] for name in calls) for found in rounds) / TURNS
        for count, calls in CALLS.items()
    }


def reading(pid: int, counter: Path) -> dict[str, int]:
    """The totals of a server so far."""
    totals: dict[str, int] = {}
    if counter.exists():
        statements, locks = map(int, counter.read_bytes().split())
        totals |= {STATEMENTS: statements, LOCKS: locks}
    io = psutil.Process(pid).io_counters()
    if hasattr(io, "write_chars"):  # Linux
        totals[BYTES] = io.write_chars
    return totals


def await_sleep(pid: int) -> None:
    """Wait until all threads of a process sleep, as seen several times in a row.

    One that waits for a processor does not sleep. After PATIENCE_S the process counts as it is.
    """
    ends_at, seen = time.monotonic() + PATIENCE_S, 0
    while seen < ASLEEP and time.monotonic() < ends_at:
        time.sleep(ASLEEP_S)
        seen = seen + 1 if _sleeps(pid) else 0


def _sleeps(pid: int) -> bool:
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # the thread has ended
            if task.read_bytes().rpartition(b")")[2].split()[0] != b"S":
                return False
    return True


def at_rest(read: Callable[[], dict[str, int]]) -> dict[str, int]:
    """What is read once it no longer changes. Raises UnavailableError after PATIENCE_S."""
    ends_at = time.monotonic() + PATIENCE_S
    last = read()
    while True:
        time.sleep(SETTLED_S)
        now = read()
        if now == last:
            return now
        if time.monotonic() > ends_at:
            changing = ", ".join(name for name in now if now[name] != last.get(name))
            raise UnavailableError(
                f"a server that is asked nothing for {PATIENCE_S:g} s: {changing}"
            )
        last = now


def markdown(rows: Iterable[Mapping[str, Any]], unavailable: Iterable[str]) -> list[str]:
    """Render the rows as lines of a table."""
    lines = ["| counted | A | B | B has |", "| --- | --- | --- | --- |"]
    for row in rows:
        beyond = ", beyond the margin" if row["is_beyond_margin"] else ""
        cells = (row["figure"], spread(row["a"]), spread(row["b"]), row["word"] + beyond)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, *(f"| {name} | - | - | unavailable |" for name in unavailable)]


def spread(bounds: Sequence[float]) -> str:
    """A count, or its range."""
    low, high = (f"{bound:,.7g}" for bound in bounds)
    return low if low == high else f"{low} to {high}"
