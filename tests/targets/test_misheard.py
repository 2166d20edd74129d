"""Tests of what is said of a history that an agent was handed, beside what its session showed."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract.agent_script import Heard
from harness.targets.hermes_webui.scripted_agent import SUMMARY, AIAgent
from harness.targets.server.shapes import misheard

ROWS = [("user", "one asks"), ("assistant", "first"), ("user", "two asks"), ("assistant", "last")]
SHOWN: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in ROWS]
SUMMARIZED = ("user", str(SUMMARY["content"]))
STEP = [("call", "shown"), ("result", "shown")]
SHOWN[1:1] = [
    {"role": "assistant", "content": "", "tool_calls": [{"id": "shown"}]},
    {"role": "tool", "content": "seen", "tool_call_id": "shown"},
]
CALL, RESULT = ("call", "c1"), ("result", "c1")


@pytest.mark.parametrize(
    ("rows", "is_all", "problem"),
    [
        (ROWS, True, ""),
        ([SUMMARIZED, *ROWS[2:]], False, ""),
        ([*ROWS[:1], CALL, RESULT, *ROWS[1:]], True, ""),
        (ROWS[1:], True, "less than is shown"),
        ([*ROWS, ROWS[1]], False, "twice"),
        ([*ROWS[:3], ("assistant", "another")], False, "more than is shown"),
        ([*ROWS[2:], *ROWS[:2]], False, "another order"),
        ([RESULT, *ROWS], False, "a result without its call"),
        ([*ROWS[:1], *STEP, *ROWS[1:]], True, ""),
        ([*ROWS, *STEP], True, "another order"),
        ([*ROWS[:1], *STEP, *STEP, *ROWS[1:]], False, "twice"),
    ],
)
def test_history_is_compared_with_its_session(
    rows: list[tuple[str, str]],
    is_all: bool,  # noqa: FBT001
    problem: str,
) -> None:
    """It has each message once, in order, and none that is not shown."""
    found = misheard(SHOWN, Heard.of(rows), is_all=is_all)
    assert problem in found
    assert bool(problem) == bool(found)


def test_agent_shows_what_it_was_handed() -> None:
    """Texts without the folder before them, and calls and results by their ids."""
    history: list[dict[str, Any]] = [
        {"role": "user", "content": "[Workspace::v1: /a]\none asks"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1"}]},
        {"role": "tool", "content": "seen", "tool_call_id": "c1"},
        {"role": "assistant", "content": [{"type": "text", "text": "first"}]},
    ]
    answer = AIAgent().run_conversation("[heard]", conversation_history=history)
    heard = Heard.parse(answer["final_response"])
    assert heard == Heard.of([ROWS[0], CALL, RESULT, ROWS[1]])
