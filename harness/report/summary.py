"""Renders a gate's conclusion as Markdown, with one row for each family of promises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from harness.core.contract import prefix_of
from harness.core.text import within
from harness.core.verdict import Verdict, merge
from harness.report.judgement import Record

HEAD = (
    *("promises", "tried", "scenarios", "operations", "examples", "expectations met"),
    "verdict",
)
MARKDOWN_CHARS_MAX = 60_000
RECORD_CHARS_MAX = 6_000


def rows(
    records: Iterable[Record], unfinished: Mapping[str, Mapping[str, Any]] | None = None
) -> list[tuple[str, ...]]:
    """One row for each family: promises and scenarios that came to a verdict, counts, verdict.

    `unfinished` are the scenarios without a verdict, each with its `promises` and `families`: what
    only they put on trial is unknown.
    """
    every = list(records)
    missing = unfinished or {}
    table: list[tuple[str, ...]] = []
    for prefix, title in _families([*map(_declared, every), *missing.values()]).items():
        tried = [record for record in every if prefix in map(prefix_of, record.promises)]
        untried = [name for name, plan in missing.items() if prefix in _prefixes(plan)]
        verdict = family_verdict(prefix, every, untried)
        expectations = list(chain.from_iterable(record.verdict.expectations for record in tried))
        met = sum(expectation.is_met for expectation in expectations)
        done = {id_ for record in tried for id_ in record.promises if prefix_of(id_) == prefix}
        wanted = done | {
            id_ for plan in missing.values() for id_ in plan["promises"] if prefix_of(id_) == prefix
        }
        table.append(
            (
                f"{prefix} · {title.partition(':')[0]}" if title else prefix,
                f"{len(done)} of {len(wanted)}",
                f"{len(tried)} of {len(tried) + len(untried)}",
                f"{sum(record.operations for record in tried):,}",
                f"{sum(record.episodes for record in tried):,}",
                f"{met} of {len(expectations)}",
                str(verdict.validity),
            )
        )
    return table


def family_verdict(
    prefix: str, records: Iterable[Record], unfinished: Iterable[str] = ()
) -> Verdict:
    """The verdict on one family: an anomaly counts in the family of each promise that it breaks."""
    verdicts = [Verdict(unknowns=tuple(f"{name}: not finished" for name in unfinished))]
    for record in records:
        anomalies = record.verdict.anomalies
        own = tuple(a for a in anomalies if prefix in {p.prefix for p in a.promises})
        if prefix not in map(prefix_of, record.promises):
            verdicts.append(Verdict(own))
            continue
        foreign = len(anomalies) > len(own)
        reasons = ("ended early by an anomaly of another family",) if foreign and not own else ()
        unknowns = record.verdict.unknowns + reasons
        verdicts.append(Verdict(own, record.verdict.expectations, unknowns))
    return merge(verdicts)


def bought_line(bought: Mapping[str, int]) -> str:
    """What a gate bought, in one line."""
    text = (
        f"asked: {bought['operations']:,} operations in {bought['examples']:,}"
        f" example{'s' * (bought['examples'] != 1)}"
        f" ({bought['schedules']:,} of them schedules)"
        f" · {bought['pairs']:,} of {bought['pairs_possible']:,} pairs of consecutive calls"
    )
    if "blocks" in bought:
        share = bought["blocks_reached"] / bought["blocks"]
        text += f" · {bought['blocks_reached']:,} of {bought['blocks']:,} blocks ({share:.1%})"
    return text


def _declared(record: Record) -> Mapping[str, Any]:
    families = dict(record.families)
    for anomaly in record.verdict.anomalies:
        for promise in anomaly.promises:
            if promise.family:
                families.setdefault(promise.prefix, promise.family)
    broken = [promise.id for a in record.verdict.anomalies for promise in a.promises]
    return {"promises": [*record.promises, *broken], "families": families}


def _prefixes(plan: Mapping[str, Any]) -> set[str]:
    return set(map(prefix_of, plan["promises"]))


def _families(plans: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The title of each family on trial, by prefix, in alphabetical order."""
    families: dict[str, str] = {}
    for plan in plans:
        for prefix in map(prefix_of, plan["promises"]):
            families[prefix] = families.get(prefix) or plan["families"].get(prefix, "")
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
        *(_line(row) for row in rows(records, conclusion.get("untried"))),
        "",
        *([bought_line(conclusion["bought"]), ""] if "bought" in conclusion else []),
    ]
    for record in records:
        if record.verdict.is_valid:
            continue
        text = within(record.summary().splitlines(), RECORD_CHARS_MAX, record.scenario)
        lines += ["```text", *text, "```", ""]
    lines += [f"- skipped {name}: {reason}" for name, reason in conclusion["skipped"].items()]
    lines += [f"- not finished within the budget: {name}" for name in conclusion["unfinished"]]
    lines += [f"- the harness failed in {name}" for name in conclusion["broken"]]
    lines += [f"- canary {name}: {status}" for name, status in conclusion["canaries"].items()]
    return "\n".join(within(lines, MARKDOWN_CHARS_MAX, "verdict.json")) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
