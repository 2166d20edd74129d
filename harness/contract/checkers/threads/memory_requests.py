"""Checks that a memory provider gets each completed turn once, in order, before the extraction.

For histories of threads that complete turns of one session (`sync`) and bring it to boundaries
(`commit`). Each `request` is what the provider got, and whether it accepted that. After `rest` all
requests have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from harness.contract import promises
from harness.core.checker import first_of
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly


def _requests(history: History, what: str) -> list[Operation]:
    """The requests of that kind, in order."""
    found = [op for op in history.of("request") if op.argument["what"] == what]
    return sorted(found, key=lambda op: op.invoked_ns)


def _is_accepted(request: Operation) -> bool:
    accepted: bool = request.argument["accepted"]
    return accepted


def _turn_of(request: Operation) -> Any:
    return request.argument["body"].get("turn_id")


def _sent(turn: str) -> dict[str, Any]:
    """What the provider must get of a turn."""
    request = {"role": "user", "content": f"ask {turn}"}
    reply = {"role": "assistant", "content": f"reply to {turn}"}
    return {"turn_id": turn, "messages": [request, reply]}


def _other_requests(history: History) -> Iterator[Anomaly]:
    """A request that is neither a completed turn nor an extraction."""
    for request in history.of("request"):
        what, body = request.argument["what"], request.argument["body"]
        begun = [op for op in history.of("sync") if not request.precedes(op)]
        allowed = [{}] if what == "commit" else [_sent(op.argument["turn"]) for op in begun]
        if what not in ("commit", "messages") or body not in allowed:
            yield Anomaly(
                promises.L15,
                "the provider got a request that no turn explains",
                (request,),
                "other-request",
                expected="an extraction without a body, or one completed turn",
                observed=f"{what}: {body}",
            )


def _repeats(history: History) -> Iterator[Anomaly]:
    """A turn that the provider accepted twice, two at once, or two in another order."""
    accepted = [op for op in _requests(history, "messages") if _is_accepted(op)]
    completed = {op.argument["turn"]: op for op in history.of("sync")}
    for one, other in combinations(accepted, 2):
        first, then = _turn_of(one), _turn_of(other)
        is_repeated, is_swapped = first == then, completed[then].precedes(completed[first])
        if is_repeated or is_swapped or one.meets(other):
            yield Anomaly(
                promises.L15,
                "the provider did not get each turn once, in order",
                (one, other),
                "turns-disordered",
                expected="one request for each turn, in the order of their ends",
                observed=f"turns {[_turn_of(op) for op in accepted]}",
            )


def _missing(
    history: History, before: Operation, until: int, sent: Sequence[Operation]
) -> list[str]:
    """Turns that completed before that call, and were not accepted until then."""
    got = {_turn_of(op) for op in sent if _is_accepted(op) and _ended(op) < until}
    turns = (op for op in history.of("sync") if op.outcome is Outcome.OK and op.precedes(before))
    return [op.argument["turn"] for op in turns if op.argument["turn"] not in got]


def _ended(operation: Operation) -> int:
    return operation.invoked_ns if operation.completed_ns is None else operation.completed_ns


def _unsent(history: History) -> Iterator[Anomaly]:
    """A turn that waits although the provider accepts what it gets."""
    sent = _requests(history, "messages")
    for rest in history.of("rest"):
        before = [op for op in sent if op.precedes(rest) or op.meets(rest)]
        if before and not _is_accepted(before[-1]):
            continue  # what it refused is sent before the next turn
        if missing := _missing(history, rest, _ended(rest), before):
            yield Anomaly(
                promises.L15,
                "a completed turn did not reach the provider",
                (rest, *before[-1:]),
                "turn-unsent",
                expected="every completed turn, for the provider accepted the last request",
                observed=f"the provider lacks {missing}",
            )


def _extractions(history: History) -> Iterator[Anomaly]:
    """A boundary that did not extract, extracted too early, or failed for no reason."""
    sent, extracted = _requests(history, "messages"), _requests(history, "commit")
    for commit in history.of("commit"):
        inside = [op for op in extracted if op.meets(commit)]
        accepted = [op for op in inside if _is_accepted(op)]
        refused = [op for op in (*sent, *inside) if op.meets(commit) and not _is_accepted(op)]
        if commit.outcome is Outcome.FAIL:
            if not refused:
                yield Anomaly(
                    promises.L15,
                    "a boundary failed, and the provider refused nothing",
                    (commit,),
                    "commit-failed",
                    expected="the extraction",
                    observed=commit.error or "a failure",
                )
            continue
        early = [_missing(history, commit, op.invoked_ns, sent) for op in accepted]
        if not accepted or all(early):
            yield Anomaly(
                promises.L15,
                "a boundary did not extract the whole session",
                (commit, *accepted),
                "extracted-early",
                expected="an extraction when the provider has every completed turn",
                observed=f"the provider lacked {early[0]}" if early else "no extraction",
            )


def _surplus(history: History) -> Iterator[Anomaly]:
    """An extraction that no boundary asked for."""
    extracted, commits = _requests(history, "commit"), history.of("commit")
    strays = [op for op in extracted if not any(op.meets(commit) for commit in commits)]
    if strays or len(extracted) > len(commits):
        yield Anomaly(
            promises.L15,
            "the provider extracted without a boundary",
            tuple(strays or extracted),
            "extraction-without-boundary",
            expected=f"at most one extraction for each of {len(commits)} boundaries, inside it",
            observed=f"{len(extracted)} extractions, {len(strays)} outside",
        )


check_memory_requests = first_of(_other_requests, _repeats, _unsent, _extractions, _surplus)
