"""The summary: one table that a person can paste into a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.core.contract import prefix_of
from harness.core.verdict import Verdict, merge
from harness.report.judgement import Record

HEAD = ("promises", "operations", "examples", "assumptions met", "verdict")


def rows(records: Iterable[Record]) -> list[tuple[str, str, str, str, str]]:
    """One row a promise family that was tried: operations, examples, assumptions, verdict."""
    every = list(records)
    table = []
    for prefix, title in _families(every).items():
        tried = [record for record in every if prefix in map(prefix_of, record.promises)]
        verdict = family_verdict(prefix, tried)
        assumptions = [met for record in tried for met in record.verdict.assumptions]
        met = sum(assumption.is_met for assumption in assumptions)
        table.append(
            (
                f"{prefix} · {title.partition(':')[0]}" if title else prefix,
                f"{sum(record.operations for record in tried):,}",
                f"{sum(record.episodes for record in tried):,}",
                f"{met} of {len(assumptions)}",
                str(verdict.validity),
            )
        )
    return table


def family_verdict(prefix: str, records: Iterable[Record]) -> Verdict:
    """What the records say of one family: an anomaly counts where its promise belongs."""
    verdicts = []
    for record in records:
        own = tuple(a for a in record.verdict.anomalies if a.promise.prefix == prefix)
        foreign = len(record.verdict.anomalies) > len(own)
        reasons = ("cut short by another family's anomaly",) if foreign and not own else ()
        unknowns = record.verdict.unknowns + reasons
        verdicts.append(Verdict(own, record.verdict.assumptions, unknowns))
    return merge(verdicts)


def _families(records: Iterable[Record]) -> dict[str, str]:
    """The title of each family that was tried, in alphabetical order."""
    families: dict[str, str] = {}
    for record in records:
        for prefix in map(prefix_of, record.promises):
            families[prefix] = families.get(prefix) or record.families.get(prefix, "")
    return dict(sorted(families.items()))


def markdown(conclusion: Mapping[str, Any]) -> str:
    """Render a gate's conclusion."""
    records = [Record.from_json(row) for row in conclusion["scenarios"]]
    lines = [
        f"# {conclusion['conclusion']}: {conclusion['target']}",
        "",
        f"seed {conclusion['seed']} · {conclusion['seconds']} s",
        "",
        _line(HEAD),
        _line("---" for _ in HEAD),
        *(_line(row) for row in rows(records)),
        "",
    ]
    for record in records:
        if record.verdict.is_valid:
            continue
        lines += ["```text", record.summary(), "```", ""]
    lines += [f"- skipped, the target cannot do it: {name}" for name in conclusion["skipped"]]
    lines += [f"- not finished within the budget: {name}" for name in conclusion["unfinished"]]
    lines += [f"- the harness broke in {name}" for name in conclusion["broken"]]
    lines += [f"- canary {name}: {fate}" for name, fate in conclusion["canaries"].items()]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
