"""Renders a gate's conclusion as Markdown, with one row for each family of promises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from harness.core.contract import prefix_of
from harness.core.verdict import Verdict, merge
from harness.report.judgement import Record

HEAD = ("promises", "operations", "examples", "expectations met", "verdict")


def rows(records: Iterable[Record]) -> list[tuple[str, str, str, str, str]]:
    """One row for each family on trial: operations, examples, expectations, verdict."""
    every = list(records)
    table = []
    for prefix, title in _families(every).items():
        tried = [record for record in every if prefix in map(prefix_of, record.promises)]
        verdict = family_verdict(prefix, tried)
        expectations = list(chain.from_iterable(record.verdict.expectations for record in tried))
        met = sum(expectation.is_met for expectation in expectations)
        table.append(
            (
                f"{prefix} · {title.partition(':')[0]}" if title else prefix,
                f"{sum(record.operations for record in tried):,}",
                f"{sum(record.episodes for record in tried):,}",
                f"{met} of {len(expectations)}",
                str(verdict.validity),
            )
        )
    return table


def family_verdict(prefix: str, records: Iterable[Record]) -> Verdict:
    """The verdict on one family: an anomaly counts in the family of its promise."""
    verdicts = []
    for record in records:
        own = tuple(a for a in record.verdict.anomalies if a.promise.prefix == prefix)
        foreign = len(record.verdict.anomalies) > len(own)
        reasons = ("ended early by an anomaly of another family",) if foreign and not own else ()
        unknowns = record.verdict.unknowns + reasons
        verdicts.append(Verdict(own, record.verdict.expectations, unknowns))
    return merge(verdicts)


def bought_line(bought: Mapping[str, int]) -> str:
    """What a gate bought, in one line."""
    text = (
        f"asked: {bought['operations']:,} operations in {bought['examples']:,} examples"
        f" ({bought['schedules']:,} of them schedules)"
        f" · {bought['pairs']:,} of {bought['pairs_possible']:,} pairs of consecutive calls"
    )
    if "blocks" in bought:
        share = bought["blocks_reached"] / bought["blocks"]
        text += f" · {bought['blocks_reached']:,} of {bought['blocks']:,} blocks ({share:.1%})"
    return text


def _families(records: Iterable[Record]) -> dict[str, str]:
    """The title of each family on trial, by prefix, in alphabetical order."""
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
        *([bought_line(conclusion["bought"]), ""] if "bought" in conclusion else []),
    ]
    for record in records:
        if record.verdict.is_valid:
            continue
        lines += ["```text", record.summary(), "```", ""]
    lines += [f"- skipped {name}: {reason}" for name, reason in conclusion["skipped"].items()]
    lines += [f"- not finished within the budget: {name}" for name in conclusion["unfinished"]]
    lines += [f"- the harness failed in {name}" for name in conclusion["broken"]]
    lines += [f"- canary {name}: {status}" for name, status in conclusion["canaries"].items()]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
