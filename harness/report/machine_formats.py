"""Writes what programs read of a run: findings.json, SARIF, CTRF, and the metrics of a soak."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core.history import Operation
from harness.report import ctrf, findings, folder, sarif

METRICS = "metrics.txt"


def write(conclusion: Mapping[str, Any], run: Path, root: Path | None = None) -> None:
    """Write the files of a stored conclusion into its run folder.

    `root` is the top of the code on trial, in which findings get their lines; by default what the
    plan of the run names.
    """
    plan = folder.read_json(run / folder.PLAN)
    named = Path(plan["source"]) if plan.get("source") else None
    top = root or (named if named and named.is_dir() else None)
    document = findings.document(conclusion, plan, run, top)
    folder.write_json(run / findings.FILE, document)
    folder.write_text(run / sarif.FILE, sarif.render(document))
    folder.write_text(run / ctrf.FILE, ctrf.render(document))


def open_metrics(document: Mapping[str, Any], last: Operation | None) -> str:
    """Render a soak as OpenMetrics text: its last sample, its slopes and its verdict.

    `document` is the stored result, and `last` its last sample; None where no sample was taken.
    """
    plan, totals = document["plan"], document["totals"]
    common = {"target": plan["target"], "seed": str(plan["seed"])}
    sizes = [] if last is None else sorted(dict(last.result).items())
    families = {
        "harness_soak_reading": ("what the host held at the last sample", sizes),
        "harness_soak_slope": (
            "growth of a reading with each operation",
            [(row["reading"], row["slope"]) for row in document["slopes"]],
        ),
        "harness_soak_slope_limit": (
            "the slope at which a reading breaks its promise",
            [(row["reading"], row["too_fast"]) for row in document["slopes"]],
        ),
    }
    lines = []
    for name, (sentence, rows) in families.items():
        lines += [f"# TYPE {name} gauge", f"# HELP {name} {sentence}"]
        lines += [_line(name, {**common, "reading": reading}, value) for reading, value in rows]
    for name, sentence, value in (
        ("harness_soak_operations", "operations so far", totals["operations"]),
        ("harness_soak_duration_seconds", "length of the soak", totals["seconds"]),
        ("harness_soak_exit_code", "0 valid, 1 invalid, 2 unknown", document["exit_code"]),
    ):
        lines += [f"# TYPE {name} gauge"]
        lines += ["# UNIT harness_soak_duration_seconds seconds"] if "seconds" in name else []
        lines += [f"# HELP {name} {sentence}", _line(name, common, value)]
    return "\n".join([*lines, "# EOF"]) + "\n"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = ",".join(f"{key}={json.dumps(_plain(text))}" for key, text in labels.items())
    return f"{name}{{{shown}}} {float(value)!r}"


def _plain(text: str) -> str:
    return "".join(_characters(text))


def _characters(text: str) -> Iterator[str]:
    """The printable ones; OpenMetrics knows three escapes, which JSON writes alike."""
    return (letter if letter.isprintable() else " " for letter in text)
