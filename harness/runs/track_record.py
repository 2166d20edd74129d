"""Runs pairs of revisions, before and after a mend, and tells which the judge distinguishes.

A pair is distinguished if a gate of the earlier revision shows an anomaly of its promise that no
gate of the later one shows. The table is a TOML file with a table `[[pair]]` for each: `name`,
`before`, `after`, `promise`, and optionally `scenarios` (names or globs; else those that put the
promise on trial). Revisions are read from a Git repository, and never written to. Where the earlier
one shows no such anomaly, the later one is not run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError, UsageError
from harness.core.toml_files import read_tables
from harness.runs.gate import Conclusion
from harness.runs.pytest_run import Progress
from harness.runs.revisions import RevisionGates

HEAD = ("pair", "promise", "seen before by", "gone after", "seeds", "seconds")
FIELDS = ("name", "before", "after", "promise")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two revisions, and the promise that only the first one breaks."""

    name: str
    before: str
    after: str
    promise: str
    scenarios: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tracked:
    """What the gates of a pair showed: for each seed, the signatures before and after."""

    pair: Pair
    before: Mapping[int, frozenset[str]]
    after: Mapping[int, frozenset[str]]
    seconds: float
    errors: Sequence[str] = ()

    @property
    def seen(self) -> dict[str, int]:
        """The signatures that only the earlier revision has, and at how many seeds."""
        gone = frozenset().union(*self.after.values())
        found = frozenset().union(*self.before.values()) - gone
        return {name: sum(name in seen for seen in self.before.values()) for name in sorted(found)}

    @property
    def is_distinguished(self) -> bool:
        """Whether an anomaly of the promise is gone after the mend."""
        return bool(self.seen) and not self.errors

    def row(self) -> tuple[str, ...]:
        """One row of the table."""
        names = "; ".join(self.seen) or ("; ".join(self.errors) or "-")
        is_gone = "yes" if self.is_distinguished else "no"
        seeds = f"{max(self.seen.values(), default=0)} of {len(self.before)}"
        return (
            f"{self.pair.name} ({self.pair.before[:9]}, {self.pair.after[:9]})",
            self.pair.promise,
            names,
            is_gone,
            seeds,
            f"{self.seconds:.0f}",
        )

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "name": self.pair.name,
            "before": self.pair.before,
            "after": self.pair.after,
            "promise": self.pair.promise,
            "distinguished": self.is_distinguished,
            "seen": self.seen,
            "also_after": sorted(frozenset().union(*self.after.values())),
            "seeds": list(self.before),
            "seconds": round(self.seconds, 1),
            "errors": list(self.errors),
        }


def read_pairs(path: Path) -> list[Pair]:
    """Read a table of pairs. Raises UsageError with the pair and what it lacks."""
    pairs = []
    for where, entry in read_tables(path, str(path), "pair"):
        for name in FIELDS:
            if not isinstance(entry.get(name), str):
                raise UsageError(f"{where}: {name} = {entry.get(name)!r}; not a text")
        texts = {name: entry[name] for name in FIELDS}
        scenarios = entry.get("scenarios", [])
        if not isinstance(scenarios, list) or not all(isinstance(s, str) for s in scenarios):
            raise UsageError(f"{where}: scenarios = {scenarios!r}; expected a list of names")
        pairs.append(Pair(**texts, scenarios=tuple(scenarios)))
    if not pairs:
        raise UsageError(f"{path}: expected at least one [[pair]]; found none")
    return pairs


@dataclass(frozen=True)
class Track:
    """The gates of revisions, their seeds, and the scenarios in place of those of each pair."""

    gates: RevisionGates
    seeds: Sequence[int]
    scenarios: tuple[str, ...] = ()

    def run(self, pairs: Sequence[Pair], progress: Progress) -> Iterator[Tracked]:
        """Run each pair, one after another."""
        for pair in pairs:
            yield self._run(pair, progress)

    def _run(self, pair: Pair, progress: Progress) -> Tracked:
        began = time.monotonic()
        found: dict[str, dict[int, frozenset[str]]] = {pair.before: {}, pair.after: {}}
        errors = []
        chosen = self.scenarios or pair.scenarios
        for revision, by_seed in found.items():
            if revision == pair.after and not any(found[pair.before].values()):
                break  # nothing was seen before, so nothing can be gone
            try:
                with self.gates.checkout(revision) as folder:
                    for seed in self.seeds:
                        progress(f"{pair.name}: {revision} at seed {seed}")
                        conclusion = self.gates.gate(folder, seed, pair.promise, chosen)
                        by_seed[seed] = signatures_of(conclusion, pair.promise)
                        errors += [f"{revision}: {text}" for text in conclusion.broken.values()]
            except HarnessError as error:
                errors.append(f"{revision}: {error}")
        seconds = time.monotonic() - began
        return Tracked(pair, found[pair.before], found[pair.after], seconds, errors)


def signatures_of(conclusion: Conclusion, promise: str) -> frozenset[str]:
    """The signatures of all anomalies of a promise."""
    return frozenset(
        anomaly.signature
        for record in conclusion.records
        for anomaly in record.verdict.anomalies
        if promise in {broken.id for broken in anomaly.promises}
    )
