"""Renders findings in the Common Test Report Format (CTRF): one test for each scenario."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

FILE = "ctrf-report.json"
SPECIFICATION = "1.0.0"
STATUSES = ("passed", "failed", "skipped", "pending", "other")
_STATUS = {"valid": "passed", "invalid": "failed", "unknown": "other"}


def render(findings: Mapping[str, Any]) -> str:
    """Render the document of `findings.json`.

    Invalid is failed. Unknown, unfinished and broken are *other*, since they are no pass.
    """
    tests = list(_tests(findings))
    counts = Counter(test["status"] for test in tests)
    start = round(1000 * findings["began_s"])
    results = {
        "tool": {"name": "hermes-harness", "version": findings["version"]},
        "summary": {
            "tests": len(tests),
            **{status: counts[status] for status in STATUSES},
            "start": start,
            "stop": start + round(1000 * findings["seconds"]),
            "extra": {"conclusion": findings["conclusion"]},
        },
        "tests": tests,
        "environment": {
            "appName": findings["target"],
            "commit": findings["target_commit"],
            "osPlatform": findings["machine"]["system"].lower(),
            "extra": {
                **{name: findings[name] for name in ("seed", "python", "settings", "machine")},
                "harness_commit": findings["commit"],
            },
        },
    }
    document = {
        "reportFormat": "CTRF",
        "specVersion": SPECIFICATION,
        "generatedBy": "hermes-harness",
        "results": results,
    }
    return json.dumps(document, indent=2) + "\n"


def _tests(findings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    by_id = {row["id"]: row for row in findings["findings"]}
    for row in findings["scenarios"]:
        found = [by_id[id_] for id_ in row["findings"] if id_ in by_id]
        yield _test(
            row["scenario"],
            _STATUS[row["verdict"]],
            row["verdict"],
            "; ".join([f"{f['promise']}: {f['message']}" for f in found] or row["unknowns"]),
            duration=round(1000 * row["seconds"]),
            tags=row["promises"],
            suite=[row["mode"]],
            extra={"findings": row["findings"], "operations": row["operations"]},
        )
    for name in findings["unfinished"]:
        yield _test(name, "other", "unfinished", "not finished")
    for name, error in findings["broken"].items():
        yield _test(name, "other", "broken", error)
    for name, reason in findings["skipped"].items():
        yield _test(name, "skipped", "skipped", reason)


def _test(name: str, status: str, raw: str, message: str, **more: Any) -> dict[str, Any]:
    said = {"message": message} if message else {}
    return {"name": name, "status": status, "rawStatus": raw, "duration": 0, **said, **more}
