"""Tests of the model of sessions of many shapes: each kind of difference breaks its promise."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.shapes import SHAPE_FACTS
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.targets.server.shapes import difference, rows_of

FACTS = [
    ("plain, made: whole", "lost: a message", promises.S2),
    ("plain, made: whole", "surplus: a message", promises.S6),
    ("plain, made: whole", "out of order, or twice: all", promises.S14),
    ("plain, made: listed", "it is not listed", promises.S11),
    ("plain, made: listed", "two counts: 1 in the list", promises.S14),
    ("plain, made: unchanged", "another time: 1", promises.S8),
    ("plain, made: idle", "the list has a run", promises.T3),
    ("the list, made: no others", "it has more: x", promises.S11),
    ("cut, changed: found", "a search finds what was removed: x", promises.S6),
    ("cut, deleted: gone", "it is listed", promises.S6),
    ("pinned, made: fields", "another timestamp: 1", promises.S14),
    ("pinned, made: called", "calls are lost: 1", promises.S14),
    ("pinned, made: context", "the agent hears more: 1", promises.S14),
    ("pinned, made: metadata", "another count: 1", promises.S14),
    ("pinned, made: again", "lost: a message", promises.S2),
    ("of cli, changed: imported again", "lost: a message", promises.S2),
    ("of cli, changed: guarded", "a session that refused", promises.S14),
    ("pinned, changed: drafted", "another draft: 1", promises.S15),
    ("the server, changed: set", "another value of a: 1", promises.S15),
    ("the server, mended: settings", "another value of a: 1", promises.S15),
    ("the server, mended: projects", "another value of a: 1", promises.S15),
    ("the server, made: recovered", "the log says another recovery: {}", promises.S16),
    ("the server, restarted: copied", "another title of cut off: older", promises.S14),
    ("the server, restarted: copied", "lost: the rows of 1", promises.S2),
    ("cut, changed: continued", "not answered: TimeoutError", promises.H2),
]


def judged(function: str, argument: Any, result: Any, outcome: Outcome = Outcome.OK) -> list[Any]:
    operation = Operation(0, function, argument, outcome, 0, 0, result, "")
    return [each.promise for each in conforms(SHAPE_FACTS)(History((operation,))).anomalies]


@pytest.mark.parametrize(("name", "problem", "promise"), FACTS)
def test_difference_breaks_its_promise(name: str, problem: str, promise: Promise) -> None:
    """No difference breaks none."""
    assert not judged("fact", {"name": name}, "")
    assert judged("fact", {"name": name}, problem) == [promise]


def test_proof_has_no_other_fact() -> None:
    """But what named the facts, so that it can be asked again; and it breaks the same promise."""
    names = ["plain, made: whole", "plain, made: listed", "plain, made: idle"]
    asked: list[tuple[str, Any, Any]] = [
        ("rounds", {}, ["made"]),
        ("round", {"kind": "made"}, names),
        *(("fact", {"name": name}, "lost: a message" * (name == names[-1])) for name in names),
    ]
    history = History(
        tuple(Operation(0, *each[:2], Outcome.OK, 0, 0, each[2], "") for each in asked)
    )
    (anomaly,) = conforms(SHAPE_FACTS)(history).anomalies

    assert [each.function for each in anomaly.evidence] == ["rounds", "round", "fact"]
    (again,) = conforms(SHAPE_FACTS)(History(anomaly.evidence)).anomalies
    assert again.signature == anomaly.signature


def test_call_without_an_answer_is_refused() -> None:
    """A fact that is unknown is no right one."""
    assert judged("fact", {"name": "plain, made: whole"}, None, Outcome.FAIL) == [promises.H2]
    assert judged("round", {"kind": "made"}, [1]) == [promises.H2]


@pytest.mark.parametrize(
    ("observed", "kind"),
    [
        ([("user", "a"), ("assistant", "b")], ""),
        ([("user", "a")], "lost"),
        ([("user", "a"), ("assistant", "b"), ("user", "c")], "surplus"),
        ([("assistant", "b"), ("user", "a")], "out of order, or twice"),
        ([("user", "a"), ("assistant", "b"), ("assistant", "b")], "out of order, or twice"),
    ],
)
def test_rows_that_differ_are_of_a_kind(observed: list[tuple[str, str]], kind: str) -> None:
    """Lost and surplus rows are named before rows in another order."""
    found = difference([("user", "a"), ("assistant", "b ")], observed)

    assert found.partition(":")[0] == kind


@pytest.mark.parametrize(
    "content",
    ["a", "[Workspace::v1: /b]\na", [{"type": "text", "text": "a"}, {"type": "image_url"}]],
)
def test_text_is_found_in_each_form(content: Any) -> None:
    """A content may have parts, or the folder before it."""
    assert rows_of([{"role": "user", "content": content}]) == [("user", "a")]


def test_rows_leave_out_what_no_one_said() -> None:
    """Calls of tools, errors of the server and summaries are not messages of a conversation."""
    said = {"role": "assistant", "content": "0 That was turn 1 of s1."}
    others: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "seen"},
        {"role": "assistant", "content": "failed", "_error": True},
        {"role": "user", "content": "[CONTEXT COMPACTION] of it"},
    ]

    assert rows_of([*others, said]) == [("assistant", "0")]
