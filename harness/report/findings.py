"""Renders a conclusion as one document for programs, `findings.json`, which has a JSON schema.

A finding is one signature: its `id` is the same in every run, on every machine and for every seed,
so a program can follow it. `findings.schema.json` describes each field; a field is added without a
new `format`, and none is changed or removed. SARIF and CTRF are rendered from this document alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.text import shortened
from harness.core.verdict import Anomaly
from harness.report.ci import Sites
from harness.report.judgement import Record
from harness.report.origin import origin

FORMAT = 1
FILE = "findings.json"
STEPS_MAX = 200  # of a finding: the last ones, which break the promise; failure.json has them all
SETTINGS = ("effort", "budget_s", "workers", "share", "suites", "chosen", "load", "soak", "days")
ID_CHARS = 12


def identity(anomaly: Anomaly) -> str:
    """The stable id of a finding: its promise, and a digest of its signature."""
    digest = hashlib.sha256(anomaly.signature.encode(errors="surrogatepass")).hexdigest()
    return f"{anomaly.promise.id}-{digest[:ID_CHARS]}"


def document(
    conclusion: Mapping[str, Any], plan: Mapping[str, Any], run: Path, root: Path | None = None
) -> dict[str, Any]:
    """The document of a stored conclusion; `root` is the top of the code on trial, if known."""
    records = [Record.from_json(row) for row in conclusion["scenarios"]]
    return {
        "format": FORMAT,
        **(plan.get("origin") or origin()),
        "target": conclusion["target"],
        "target_commit": plan.get("target_commit", "unknown"),
        "command": plan.get("what", "gate"),
        "run": run.name,
        "began_s": plan.get("began_s", 0.0),
        "seconds": conclusion["seconds"],
        "seed": conclusion["seed"],
        "settings": {name: plan[name] for name in SETTINGS if name in plan},
        "conclusion": conclusion["conclusion"],
        "exit_code": conclusion["exit_code"],
        "findings": list(_findings(conclusion, records, run, root)),
        "scenarios": [_scenario(record) for record in records],
        "unfinished": list(conclusion["unfinished"]),
        "skipped": dict(conclusion["skipped"]),
        "broken": {name: shortened(error) for name, error in conclusion["broken"].items()},
        "canaries": dict(conclusion["canaries"]),
    }


def _findings(
    conclusion: Mapping[str, Any], records: Iterable[Record], run: Path, root: Path | None
) -> Iterable[dict[str, Any]]:
    """One object for each signature, with the shortest proof and every scenario that shows it."""
    seen: dict[str, list[tuple[Record, int, Anomaly]]] = {}
    for record in records:
        for number, anomaly in enumerate(record.verdict.anomalies):
            seen.setdefault(anomaly.signature, []).append((record, number, anomaly))
    sorted_ = conclusion.get("findings", {"new": list(seen), "known": []})
    reasons = {known["signature"]: known["reason"] for known in sorted_["known"]}
    sites = Sites(root if seen else None)
    for signature, found in sorted(seen.items()):
        record, number, anomaly = min(found, key=lambda triple: len(triple[2].evidence))
        is_new = signature in sorted_["new"]
        site = sites.first(record, anomaly, {record.scenario: _story(run, record, number)})
        yield {
            "id": identity(anomaly),
            "promise": anomaly.promise.id,
            "sentence": anomaly.promise.sentence,
            "also": [promise.id for promise in anomaly.also],
            "signature": signature,
            "kind": anomaly.name,
            "message": shortened(anomaly.message),
            "expected": shortened(anomaly.expected),
            "observed": shortened(anomaly.observed),
            "status": "new" if is_new else "known",
            "reason": "" if is_new else reasons.get(signature, ""),
            "site": None if site is None else {"file": site[0], "line": site[1]},
            "steps": [shortened(str(step)) for step in anomaly.evidence[-STEPS_MAX:]],
            "steps_in_all": len(anomaly.evidence),
            "shown_by": [_proof(*proof, run) for proof in found],
        }


def _proof(record: Record, number: int, anomaly: Anomaly, run: Path) -> dict[str, Any]:
    """A scenario that shows a finding, and its files as paths below the run folder."""
    failure = _failure(record, number)
    scenario = run / record.scenario
    test = f"test_{record.scenario.replace('-', '_')}_{anomaly.promise.id.lower()}.py"
    beside = failure.replace("failure", "{}").removesuffix(".json")
    files = {
        "failure": failure,
        "test": test,
        "story": beside.format("story") + ".txt",
        "timeline": beside.format("timeline") + ".html",
        "trace": beside.format("trace") + ".json",
    }
    return {
        "scenario": record.scenario,
        **{
            kind: f"{record.scenario}/{name}" if name and (scenario / name).is_file() else ""
            for kind, name in files.items()
        },
    }


def _failure(record: Record, number: int) -> str:
    line = next(iter(record.reproduce[number : number + 1]), "")
    return line.rpartition("/")[2]


def _story(run: Path, record: Record, number: int) -> str:
    failure = _failure(record, number)
    path = run / record.scenario / failure.replace("failure", "story").replace(".json", ".txt")
    is_there = failure and path.is_file()
    return path.read_text(encoding="utf-8", errors="replace") if is_there else ""


def _scenario(record: Record) -> dict[str, Any]:
    verdict = record.verdict
    gaps: Sequence[str] = [f"expectation not met: {unmet.name}" for unmet in verdict.unmet]
    return {
        "scenario": record.scenario,
        "mode": record.mode,
        "promises": list(record.promises),
        "verdict": str(verdict.validity),
        "unknowns": [*map(shortened, verdict.unknowns), *gaps],
        "findings": sorted({identity(anomaly) for anomaly in verdict.anomalies}),
        "episodes": record.episodes,
        "operations": record.operations,
        "seconds": record.seconds,
    }
