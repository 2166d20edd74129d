"""Puts several runs together as if they had been one: shards of a run, or runs with other seeds.

Verdicts are merged and counts added; a scenario that several runs judged is one record. Latencies
of loads are merged as histograms, and reach as lines. What no run judged is unfinished, and so the
merged run is unknown: a share whose run is missing is noticed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from harness.core import history
from harness.core.errors import UsageError
from harness.core.extent import Extent
from harness.core.verdict import Validity, Verdict, merge
from harness.engine import runner
from harness.report import folder, page
from harness.report import load as load_report
from harness.report.judgement import Record
from harness.runs.accepted import Accepted, Sorted
from harness.runs.gate import REACH, Conclusion, store
from harness.runs.load import PAGE, PAGES, SCENARIO
from harness.runs.reached import Reached, blocks_in, excuses_for, hit, source_of
from harness.targets.registry import find_target
from harness.worker import reach as recorder

_COMMON = ("target", "effort", "suites", "load", "origin", "target_commit", "source", "budget_s")
KINDS = ("gate", "load", "prove", "merge")


@dataclass(frozen=True, slots=True)
class Part:
    """One of the runs: its folder, its plan and what it concluded."""

    folder: Path
    plan: Mapping[str, Any]
    conclusion: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.resolve().name

    @property
    def seeds(self) -> set[int]:
        """Every seed that it asked."""
        return set(self.plan.get("seeds", [self.plan["seed"]]))

    @property
    def is_proof(self) -> bool:
        """Whether it planted known bugs."""
        return "bugs" in self.conclusion

    @property
    def judged(self) -> set[str]:
        """The scenarios, or the bugs, that came to a verdict."""
        rows, name = ("bugs", "bug") if self.is_proof else ("scenarios", "scenario")
        return {row[name] for row in self.conclusion[rows]}

    @property
    def records(self) -> list[Record]:
        """The records of a run that is no proof."""
        return [Record.from_json(row) for row in self.conclusion["scenarios"]]


def read_parts(runs: Sequence[Path]) -> list[Part]:
    """Read the runs. Raises UsageError where they cannot be one run, naming two that differ."""
    parts = [_part(run) for run in runs]
    first = parts[0]
    for part in parts[1:]:
        for what in ("target", "effort"):
            if part.plan.get(what) != first.plan.get(what):
                raise UsageError(
                    f"{part.folder}: {what} {part.plan.get(what)!r}; expected"
                    f" {first.plan.get(what)!r}, as in {first.folder}"
                )
        if part.is_proof != first.is_proof:
            raise UsageError(f"{part.folder}: a proof merges with proofs only")
    for left, right in combinations(parts, 2):
        both = left.judged & right.judged
        seeds = left.seeds & right.seeds
        if both and seeds:
            raise UsageError(
                f"{left.folder} and {right.folder}: both judged {min(both)} with seed"
                f" {min(seeds)}, and would count twice"
            )
    return parts


def merge_gates(parts: Sequence[Part], reports: Path, keep: int) -> Conclusion:
    """Write a run folder with the conclusion of all parts, which are no proofs."""
    judged = {name for part in parts for name in part.judged}
    skipped = {
        n: why for p in parts for n, why in p.conclusion["skipped"].items() if n not in judged
    }
    broken = {name: why for part in parts for name, why in part.conclusion["broken"].items()}
    missing = [name for name in _chosen(parts) if name not in {*judged, *skipped, *broken}]
    unfinished = {name for part in parts for name in part.conclusion["unfinished"]}
    names = sorted(unfinished | set(missing))
    declared = {n: d for p in parts for n, d in p.plan.get("declared", {}).items()}
    run = folder.create(reports, "merge", parts[0].plan["seed"], _plan(parts, declared))
    records = [_joined(group) for group in _copied(parts, run)]
    conclusion = Conclusion(
        parts[0].conclusion["target"],
        parts[0].plan["seed"],
        run,
        max(part.conclusion["seconds"] for part in parts),
        records,
        skipped,
        names,
        broken,
        _canaries(parts),
        {name: declared[name] for name in (*names, *sorted(broken)) if name in declared},
        reached=_reached(parts),
        findings=_findings(parts, records),
    )
    store(conclusion)
    if SCENARIO in judged and all((p.folder / SCENARIO / runner.HISTORY).exists() for p in parts):
        _add_load_report(conclusion, parts)
    page.retain(reports, keep)
    return conclusion


def merge_proofs(parts: Sequence[Part], reports: Path, keep: int) -> dict[str, Any]:
    """Write a run folder with the detections of all parts; `missing` are bugs of no part."""
    rows: dict[str, dict[str, Any]] = {}
    for part in parts:
        for row in part.conclusion["bugs"]:
            rows[row["bug"]] = _added(rows[row["bug"]], row) if row["bug"] in rows else dict(row)
    missing = [name for name in _chosen(parts) if name not in rows]
    run = folder.create(reports, "merge", parts[0].plan["seed"], _plan(parts, {}))
    document = {"bugs": [rows[name] for name in sorted(rows)], "missing": missing}
    folder.write_json(run / folder.VERDICT, document)
    page.retain(reports, keep)
    return {"run": str(run), **document}


def _part(run: Path) -> Part:
    plan = folder.read_json(run / folder.PLAN)
    if plan.get("what") not in KINDS:
        raise UsageError(
            f"{run}: expected a run of {', '.join(KINDS)}; got one of {plan.get('what')!r}"
        )
    conclusion = folder.read_json(run / folder.VERDICT)
    if not {"bugs", "scenarios"} & conclusion.keys():
        raise UsageError(f"{run / folder.VERDICT}: expected bugs or scenarios; found neither")
    return Part(run, plan, conclusion)


def _plan(parts: Sequence[Part], declared: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of the merged run: what all parts were asked."""
    first = parts[0].plan
    common = {name: first[name] for name in _COMMON if name in first}
    listed = "bugs" if parts[0].is_proof else "scenarios"
    return {
        **common,
        listed: sorted({name for part in parts for name in part.plan.get(listed, [])}),
        "chosen": _chosen(parts),
        "declared": dict(declared),
        "began_s": min(part.plan.get("began_s", 0.0) for part in parts),
        "seeds": sorted({seed for part in parts for seed in part.seeds}),
        "parts": [part.name for part in parts],
    }


def _chosen(parts: Sequence[Part]) -> list[str]:
    """What the parts were to judge together; each knows all shares of its run."""
    return sorted({name for part in parts for name in part.plan.get("chosen", part.judged)})


def _copied(parts: Iterable[Part], run: Path) -> list[list[Record]]:
    """The records of each scenario, whose folders are copied into the merged run.

    The folder with the first failure is that of the scenario; further ones lie below the name of
    their part. Each record names its failures at their new place.
    """
    groups: dict[str, list[tuple[Part, Record]]] = {}
    for part in parts:
        for record in part.records:
            groups.setdefault(record.scenario, []).append((part, record))
    return [
        [
            _moved(record, part, run if number == 0 else run / f"{number}-{part.name}")
            for number, (part, record) in enumerate(sorted(group, key=_is_without_failure))
        ]
        for _, group in sorted(groups.items())
    ]


def _is_without_failure(found: tuple[Part, Record]) -> bool:
    return not found[1].verdict.anomalies


def _moved(record: Record, part: Part, place: Path) -> Record:
    source, copy = part.folder / record.scenario, place / record.scenario
    if not source.is_dir():
        return record
    shutil.copytree(source, copy)
    names = [line.rpartition("/")[2] for line in record.reproduce]
    return replace(record, reproduce=tuple(f"harness replay {copy / name}" for name in names))


def _joined(records: Sequence[Record]) -> Record:
    """One record of the same scenario in several runs: of each signature the first anomaly.

    Which pairs of calls were different is not stored, so their number is that of the best run.
    """
    first, *others = records
    if not others:
        return first
    whole = merge(record.verdict for record in records)
    seen = {anomaly.signature: anomaly for anomaly in reversed(whole.anomalies)}
    anomalies = tuple(a for a in whole.anomalies if seen[a.signature] is a)
    lines = {
        anomaly.signature: line
        for record in reversed(records)
        for anomaly, line in zip(record.verdict.anomalies, record.reproduce, strict=False)
    }
    extents = [record.extent for record in records]
    return replace(
        first,
        verdict=Verdict(anomalies, whole.expectations, whole.unknowns),
        episodes=sum(record.episodes for record in records),
        operations=sum(record.operations for record in records),
        seconds=round(sum(record.seconds for record in records), 3),
        digest="+".join(record.digest for record in records),
        reproduce=tuple(lines[a.signature] for a in anomalies if a.signature in lines),
        extent=Extent(
            max(extent.functions for extent in extents),
            max(extent.pairs for extent in extents),
            sum(extent.schedules for extent in extents),
            tuple(line for extent in extents for line in extent.programs),
        ),
    )


def _canaries(parts: Sequence[Part]) -> dict[str, bool]:
    """Each canary counts as detected if it was in each part that asked it."""
    canaries: dict[str, bool] = {}
    for part in parts:
        for name, word in part.conclusion["canaries"].items():
            canaries[name] = canaries.get(name, True) and word != "SURVIVED"
    return canaries


def _findings(parts: Sequence[Part], records: Sequence[Record]) -> Sorted | None:
    """Known and new findings, where each part sorted its own; new in one part is new."""
    sorted_ = [part.conclusion.get("findings") for part in parts]
    if not all(sorted_):
        return None
    rows = [findings for findings in sorted_ if findings is not None]
    new = {signature for row in rows for signature in row["new"]}
    reasons = {k["signature"]: k["reason"] for row in rows for k in row["known"]}
    unseen = _unseen_in_all(rows, new | reasons.keys())
    gone = {signature for row in rows for signature in row["mended"]} - new - reasons.keys()
    gone |= {signature for signature, scenarios in unseen.items() if not scenarios}

    def entry(signature: str, reason: str) -> Accepted:
        target, promise = parts[0].conclusion["target"], signature.partition(" ")[0]
        return Accepted(target, promise, signature, reason)

    anomalies = {a.signature: a for record in records for a in record.verdict.anomalies}
    return Sorted(
        [entry(*known) for known in sorted(reasons.items()) if known[0] not in new],
        [anomalies[signature] for signature in anomalies if signature in new],
        [entry(signature, "") for signature in sorted(gone)],
        {name: scenarios for name, scenarios in unseen.items() if name not in gone},
    )


def _unseen_in_all(
    rows: Sequence[Mapping[str, Any]], seen: Collection[str]
) -> dict[str, list[str]]:
    """Accepted findings that no part saw, with the scenarios that came to a verdict in none."""
    unseen: dict[str, list[str]] = {}
    for row in rows:
        for signature, scenarios in row.get("unseen", {}).items():
            if signature not in seen:
                left = unseen.get(signature, scenarios)
                unseen[signature] = [name for name in left if name in scenarios]
    return unseen


def _reached(parts: Sequence[Part]) -> Reached | None:
    """The blocks that any part ran, where each part recorded its lines."""
    if not all((part.folder / REACH).is_dir() for part in parts):
        return None
    source = source_of(find_target(parts[0].conclusion["target"]))
    blocks = blocks_in(source)
    lines = {line for part in parts for line in recorder.lines_in(part.folder / REACH)}
    ran = frozenset(hit(blocks, lines))
    return Reached(blocks, {"gate": ran}, {}, excuses_for(source, blocks))


def _add_load_report(conclusion: Conclusion, parts: Sequence[Part]) -> None:
    """Add the figures of all loads together to the summary, and the page with charts."""
    histories = [history.read(part.folder / SCENARIO / runner.HISTORY)[0] for part in parts]
    figures = load_report.together([load_report.account(episode) for episode in histories])
    path = conclusion.run / "summary.md"
    text = path.read_text(encoding="utf-8") + load_report.markdown(figures)
    folder.write_text(path, text)
    title = f"{conclusion.target} under {len(parts)} loads"
    folder.write_text(
        conclusion.run / PAGE, load_report.page(figures, title, conclusion.word, PAGES)
    )


def _added(left: dict[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Two rows of the same bug, judged with different seeds."""
    others = {
        name: left["detections_by_another"].get(name, 0)
        + right["detections_by_another"].get(name, 0)
        for name in {**left["detections_by_another"], **right["detections_by_another"]}
    }
    tries = left["tries"] + right["tries"]
    spent = sum(row["seconds_to_detect"] * row["tries"] for row in (left, right))
    worst: Callable[[Mapping[str, Any]], Validity] = lambda row: Validity[row["clean"].upper()]  # noqa: E731
    return {
        **left,
        "tries": tries,
        "detections": left["detections"] + right["detections"],
        "detections_by_another": others,
        "clean": str(max(worst(left), worst(right))),
        "seconds_to_detect": round(spent / tries, 2),
        "detected": left["detected"] and right["detected"],
    }
