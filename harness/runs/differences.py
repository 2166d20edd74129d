"""Tells what changed between two stored runs: findings, scenarios without a verdict, figures.

A finding is recognised by its promise and signature, as in a file of accepted findings. It is
*mended* only if each scenario that showed it came to a whole verdict in the later run; where one
did not, it is *no longer tried*. The survivors of a proof are findings too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.core.verdict import Anomaly, Verdict
from harness.report import folder
from harness.report.judgement import Record
from harness.runs.pytest_run import collect

PROFILE, COMPARE = "profile.json", "compare.json"
MEASURED = (PROFILE, COMPARE)  # of runs that measure, and judge no promise
UNSETTLED = ("", "unknown", "untrustworthy")  # conclusions that say nothing of what is missing

Key = tuple[str, str]  # the promise's ID and the signature


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong in a run, and the scenarios (of a proof: the bugs) that showed it."""

    promise: str
    signature: str
    scenarios: tuple[str, ...]

    @property
    def key(self) -> Key:
        """What recognises it in another run."""
        return self.promise, self.signature

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "promise": self.promise,
            "signature": self.signature,
            "scenarios": list(self.scenarios),
        }

    def __str__(self) -> str:
        return f"{self.signature} ({', '.join(self.scenarios)})"


@dataclass(frozen=True)
class StoredRun:
    """A run as its folder describes it.

    `judged` gives the verdict of each scenario that came to one, as text; `whole` are those of them
    in which nothing is unknown. `figures` are its numbers by name.
    """

    name: str
    target: str
    conclusion: str
    findings: Mapping[Key, Finding]
    judged: Mapping[str, str]
    whole: frozenset[str]
    figures: Mapping[str, float]

    def knows(self, anomaly: Anomaly) -> bool:
        """Whether the run showed this anomaly too."""
        return (anomaly.promise.id, anomaly.signature) in self.findings


@dataclass(frozen=True)
class Difference:
    """What changed between an earlier and a later run.

    `not_tried` are findings of the earlier run that the later one did not look for, and `unjudged`
    the scenarios that had a verdict and have none, or one with less in it: before and after.
    """

    earlier: StoredRun
    later: StoredRun
    new: Sequence[Finding]
    mended: Sequence[Finding]
    still: Sequence[Finding]
    not_tried: Sequence[Finding]
    unjudged: Mapping[str, tuple[str, str]]

    @property
    def exit_code(self) -> int:
        """1 for a new finding, 2 where something was not tried or not judged again, else 0."""
        if self.new:
            return 1
        is_settled = self.later.conclusion not in UNSETTLED
        return 0 if is_settled and not self.not_tried and not self.unjudged else 2

    def figures(self) -> list[tuple[str, float | None, float | None]]:
        """Each figure with its value before and after; None where a run lacks it."""
        names = dict.fromkeys((*self.earlier.figures, *self.later.figures))
        return [
            (name, self.earlier.figures.get(name), self.later.figures.get(name)) for name in names
        ]

    def lines(self) -> list[str]:
        """The changes as text, the new findings first."""
        kinds = {
            "NEW": self.new,
            "mended": self.mended,
            "still broken": self.still,
            "no longer tried": self.not_tried,
        }
        lines = [f"{kind}: {finding}" for kind, findings in kinds.items() for finding in findings]
        changes = sorted(self.unjudged.items())
        lines += [f"no longer judged: {name} ({a}, now {b})" for name, (a, b) in changes]
        if self.earlier.target != self.later.target:
            lines.append(f"another target: {self.earlier.target}, now {self.later.target}")
        if self.later.conclusion in UNSETTLED:
            word = self.later.conclusion or "it did not end"
            lines.append(f"no conclusion: {self.later.name} ({word})")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Render as one JSON document."""
        return {
            "exit_code": self.exit_code,
            "earlier": self.earlier.name,
            "later": self.later.name,
            "new": [finding.to_json() for finding in self.new],
            "mended": [finding.to_json() for finding in self.mended],
            "still_broken": [finding.to_json() for finding in self.still],
            "no_longer_tried": [finding.to_json() for finding in self.not_tried],
            "no_longer_judged": {name: list(pair) for name, pair in self.unjudged.items()},
            "figures": [
                {"figure": name, "earlier": before, "later": after}
                for name, before, after in self.figures()
            ],
        }


def read_run(run: Path) -> StoredRun:
    """Read a run folder; one that was killed has the verdicts of what it finished.

    Raises UsageError for a folder without a run, or a damaged one.
    """
    if not (run / folder.PLAN).exists():
        raise UsageError(f"{run}: expected a run folder with {folder.PLAN} in it; found none")
    plan = folder.read_json(run / folder.PLAN)
    conclusion = folder.read_json(run / folder.VERDICT) if (run / folder.VERDICT).exists() else {}
    name = run.resolve().name
    with folder.whole(run):
        if "bugs" in conclusion:
            return _proof(name, conclusion)
        records = _records(run, plan, conclusion)
        judged = {} if _measures(run) else figures_of(conclusion, records)
        figures = {**judged, **_more_figures(run, conclusion)}
        word = _word(run, conclusion)
    return stored(name, str(plan.get("target", "")), word, records, figures)


def stored(
    name: str, target: str, conclusion: str, records: Iterable[Record], figures: Mapping[str, float]
) -> StoredRun:
    """Describe a run by its records."""
    every = list(records)
    seen: dict[Key, Finding] = {}
    for record in every:
        for anomaly in record.verdict.anomalies:
            key = anomaly.promise.id, anomaly.signature
            names = (*(seen[key].scenarios if key in seen else ()), record.scenario)
            seen[key] = Finding(*key, tuple(dict.fromkeys(names)))
    judged = {record.scenario: str(record.verdict.validity) for record in every}
    verdicts = {record.scenario: record.verdict for record in every}
    whole = frozenset(n for n, verdict in verdicts.items() if not verdict.unknowns + verdict.unmet)
    return StoredRun(name, target, conclusion, seen, judged, whole, figures)


def compare(earlier: StoredRun, later: StoredRun) -> Difference:
    """Sort the findings of both runs. Raises UsageError for runs of different kinds."""
    if bool(set(earlier.figures) & {"bugs"}) != bool(set(later.figures) & {"bugs"}):
        raise UsageError(f"{earlier.name} and {later.name}: a proof compares with a proof only")
    gone = [finding for key, finding in earlier.findings.items() if key not in later.findings]
    mended = [finding for finding in gone if later.whole.issuperset(finding.scenarios)]
    words = {
        name: (word, later.judged.get(name, "not tried")) for name, word in earlier.judged.items()
    }
    return Difference(
        earlier,
        later,
        [finding for key, finding in later.findings.items() if key not in earlier.findings],
        mended,
        [finding for key, finding in later.findings.items() if key in earlier.findings],
        [finding for finding in gone if finding not in mended],
        {
            name: pair
            for name, pair in words.items()
            if pair[1] == "not tried"
            or (pair[1] == "unknown" and name in earlier.whole and name not in later.whole)
        },
    )


def _records(run: Path, plan: Mapping[str, Any], conclusion: Mapping[str, Any]) -> list[Record]:
    """The records of any kind of run; of one that was killed, those that finished."""
    if "scenarios" in conclusion:
        return [Record.from_json(row) for row in conclusion["scenarios"]]
    if "validity" in conclusion:  # simulated days
        return [Record.from_json(dict(conclusion))]
    if "verdict" in conclusion:  # a soak
        verdict, (name,) = Verdict.from_json(conclusion["verdict"]), plan["scenarios"]
        operations = conclusion["totals"]["operations"]
        return [Record(name, "soak", (), verdict, 1, operations, "", 0.0)]
    return list(collect(plan.get("scenarios", []), run, None).records.values())


def _word(run: Path, conclusion: Mapping[str, Any]) -> str:
    """The conclusion; of a run that only measures, that it came to its end."""
    if "conclusion" in conclusion or "validity" in conclusion:
        return str(conclusion.get("conclusion", conclusion.get("validity")))
    return "measured" if "score" in conclusion or _measures(run) else ""


def _measures(run: Path) -> bool:
    return any((run / name).exists() for name in MEASURED)


def _proof(name: str, document: Mapping[str, Any]) -> StoredRun:
    """A proof, in which each bug that is not detected is a finding."""
    rows: Sequence[Mapping[str, Any]] = document["bugs"]
    conclusion = "unknown" if document.get("missing") else "proof"
    survivors = [row for row in rows if not row["detected"]]
    found = [Finding(r["promise"], f"{r['bug']} is not detected", (r["bug"],)) for r in survivors]
    figures = {
        "bugs": float(len(rows)),
        "detected": float(len(rows) - len(survivors)),
        "seconds to detect": float(sum(row["seconds_to_detect"] for row in rows)),
    }
    judged = {row["bug"]: "detected" if row["detected"] else "survived" for row in rows}
    by_key = {finding.key: finding for finding in found}
    return StoredRun(name, "known bugs", conclusion, by_key, judged, frozenset(judged), figures)


def figures_of(conclusion: Mapping[str, Any], records: Iterable[Record]) -> dict[str, float]:
    """What a run cost and bought, and how many scenarios came to which verdict."""
    every = list(records)
    words = [str(record.verdict.validity) for record in every]
    counts = {f"{word} scenarios": words.count(word) for word in ("valid", "unknown", "invalid")}
    bought = conclusion.get("bought", {})
    operations = sum(record.operations for record in every)
    figures = {
        "seconds": conclusion.get("seconds", 0),
        **counts,
        "operations": operations,
        **bought,
    }
    return dict(_numbers(figures))


def _more_figures(run: Path, conclusion: Mapping[str, Any]) -> dict[str, float]:
    """The figures of what is no gate, by the names of its tables."""
    tables = {name: conclusion[name] for name in ("totals", "costs", "score") if name in conclusion}
    if (run / PROFILE).exists():
        result = folder.read_json(run / PROFILE)
        tables |= {name: result.get(name, {}) for name in ("memory", "per turn", "processor")}
        tables["latency"] = {
            f"{row['name']} {key}": row[key]
            for row in result.get("latency", [])
            for key in ("p50", "p99", "worst")
        }
    if (run / COMPARE).exists():
        result = folder.read_json(run / COMPARE)
        for row in result.get("figures", []):
            tables[row["figure"]] = {"A": row["a"], "B": row["b"]}
        for row in result.get("counts", []):  # the least of each side
            tables[row["figure"]] = {"A": row["a"][0], "B": row["b"][0]}
    return dict(_numbers(tables))


def _numbers(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested objects, by its path."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)
