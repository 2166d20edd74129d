"""Tests that events and messages of a turn are predicted from its script."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract.agent_script import Script
from harness.contract.models.conversation import Session, Turn
from harness.contract.models.transcripts import WAKEUP, is_reply, wrong_events, wrong_rows
from harness.core.history import Operation, Outcome

TEXT = "r1 [tokens=2][tool]"
END = "That was turn 1 of s1."
NAMES = ["token", "token", "tool", "tool_complete", "token", "done", "stream_end"]
TEXTS = ["0 ", "1 ", "", "", END, "", ""]
NOTICE = ["user", "[IMPORTANT: Background process p1 completed.]", "", WAKEUP]
ROWS = [["user", TEXT, "", "user"], ["assistant", f"0 1 {END}", "", ""]]


def operation(function: str, result: dict[str, Any]) -> Operation:
    argument = {"session": "s1", "after": 0}
    return Operation(0, function, argument, Outcome.OK, 0, 1, result, "")


def messages(rows: list[list[str]]) -> Operation:
    said = [row[:3] for row in rows if row[3] != WAKEUP]
    woken = ["p1" for row in rows if row[3] == WAKEUP]
    return operation("messages", {"said": said, "woken": woken, "rows": rows, "pending": None})


@pytest.mark.parametrize(
    ("text", "mark", "expected"),
    [
        (f"0 1 {END}", "", True),
        ("0 1 ", "", False),
        ("0 1 That was turn 1 of s2.", "", False),
        ("0 ", "cancelled", True),
        ("1 ", "cancelled", False),
        ("0 1 ", "error", True),
        (f"0 1 {END}", "error", False),
    ],
)
def test_reply_fits_the_script_and_the_end(text: str, mark: str, *, expected: bool) -> None:
    """A completed turn says all; a cancelled one its beginning."""
    assert is_reply(Script.parse(TEXT), "s1", text, mark) is expected


@pytest.mark.parametrize(
    ("names", "texts", "after", "is_right"),
    [
        (NAMES, TEXTS, 0, True),
        (NAMES[1:], TEXTS[1:], 0, False),
        (NAMES[1:], TEXTS[1:], 1, True),
        (NAMES[1:], ["0 ", *TEXTS[2:]], 1, False),
        (NAMES[-1:], TEXTS[-1:], 9, True),
        ([*NAMES[:2], *NAMES[:1], *NAMES[2:]], [*TEXTS[:2], "1 ", *TEXTS[2:]], 0, False),
        (NAMES, ["1 ", "0 ", *TEXTS[2:]], 0, False),
        (["token", "cancel"], ["0 ", ""], 0, True),
        (["token", "cancel"], ["1 ", ""], 0, False),
    ],
)
def test_events_are_those_of_the_script(
    names: list[str], texts: list[str], after: int, *, is_right: bool
) -> None:
    """Each once, in order, to the end; from its start, or from behind a number."""
    read = operation("events", {"names": names, "texts": texts, "closed": True})
    rows = list(zip(names, texts, strict=True))

    assert (wrong_events(Turn("r1", TEXT), read, rows, after) is None) is is_right


@pytest.mark.parametrize(
    ("rows", "is_right"),
    [
        (ROWS, True),
        ([NOTICE, *ROWS], True),
        ([*ROWS, NOTICE], False),
        ([NOTICE, ROWS[1], *ROWS], True),
        (ROWS[:1], False),
        (ROWS[1:], False),
        ([*ROWS, ROWS[1]], False),
        ([ROWS[0], ["assistant", "0 ", "", ""]], False),
        ([ROWS[0], ["assistant", f"0 1 {END}", "cancelled", ""]], False),
    ],
)
def test_rows_are_turns_with_their_replies(rows: list[list[str]], *, is_right: bool) -> None:
    """A reply is missing, alone, doubled, or another one."""
    session = Session(turns=(Turn("r1", TEXT),))

    assert (wrong_rows(session, messages(rows)) is None) is is_right
