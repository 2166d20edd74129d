"""Renders findings as SARIF 2.1.0, which code-scanning services read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FILE = "findings.sarif"
SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
FINGERPRINT = "harnessSignature/v1"
UNJUDGED = "not-judged"
HARNESS_FAILED = "harness-failed"


def render(findings: Mapping[str, Any]) -> str:
    """Render the document of `findings.json`: a rule for each promise, a result for each finding.

    A result stands at the line of the target that the finding names, or else at its failure file.
    An accepted finding is suppressed, with its reason. What was not judged, and what failed in the
    harness, are notifications, since they prove nothing about the target.
    """
    rules = {row["promise"]: row["sentence"] for row in findings["findings"]}
    numbers = {promise: number for number, promise in enumerate(sorted(rules))}
    driver = {
        "name": "hermes-harness",
        "semanticVersion": _semantic(findings["version"]),
        "rules": [_rule(promise, rules[promise]) for promise in sorted(rules)],
        "notifications": [{"id": UNJUDGED}, {"id": HARNESS_FAILED}],
    }
    if driver["semanticVersion"] is None:
        del driver["semanticVersion"]
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"{findings['command']}/{findings['target']}/"},
        "invocations": [
            {
                "executionSuccessful": findings["conclusion"] != "untrustworthy",
                "exitCode": findings["exit_code"],
                "toolExecutionNotifications": _notifications(findings),
            }
        ],
        "results": [_result(row, numbers) for row in findings["findings"]],
        "properties": {
            name: findings[name]
            for name in ("conclusion", "seed", "settings", "commit", "target_commit", "python")
        },
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2) + "\n"


def _semantic(version: str) -> str | None:
    return version if version[:1].isdigit() else None


def _rule(promise: str, sentence: str) -> dict[str, Any]:
    return {
        "id": promise,
        "shortDescription": {"text": sentence or promise},
        "defaultConfiguration": {"level": "error"},
    }


def _result(row: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    site, first = row["site"], row["shown_by"][0]
    evidence = first["failure"] or f"{first['scenario']}/verdict.json"
    said = [row["message"]]
    said += [f"expected: {row['expected']}"] if row["expected"] else []
    said += [f"observed: {row['observed']}"] if row["observed"] else []
    said.append(f"seen in: {', '.join(shown['scenario'] for shown in row['shown_by'])}")
    is_known = row["status"] == "known"
    suppression = {"kind": "external", "justification": row["reason"]}
    return {
        "ruleId": row["promise"],
        "ruleIndex": numbers[row["promise"]],
        "level": "note" if is_known else "error",
        "message": {"text": "\n".join(said)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": site["file"] if site else evidence},
                    "region": {"startLine": site["line"] if site else 1},
                }
            }
        ],
        "partialFingerprints": {FINGERPRINT: row["id"]},
        "baselineState": "unchanged" if is_known else "new",
        "suppressions": [suppression] if is_known else [],
        "properties": {"signature": row["signature"], "also": row["also"]},
    }


def _notifications(findings: Mapping[str, Any]) -> list[dict[str, Any]]:
    said = [
        (UNJUDGED, f"{row['scenario']}: {reason}")
        for row in findings["scenarios"]
        for reason in row["unknowns"]
    ]
    said += [(UNJUDGED, f"{name}: not finished") for name in findings["unfinished"]]
    said += [(HARNESS_FAILED, f"{name}: {error}") for name, error in findings["broken"].items()]
    said += [
        (HARNESS_FAILED, f"canary {name}: {word}")
        for name, word in findings["canaries"].items()
        if word == "SURVIVED"
    ]
    return [
        {
            "descriptor": {"id": kind},
            "level": "error" if kind == HARNESS_FAILED else "warning",
            "message": {"text": text},
        }
        for kind, text in said
    ]
