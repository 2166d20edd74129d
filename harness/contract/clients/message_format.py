"""Translates a session's messages into the format of the reference.

The reference names a wakeup by its `source`, and the end of a turn by a mark on the user's message.
Other servers show a wakeup by its prompt only, and the end of a turn by a message of its own,
behind what the turn showed. Knows no target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.contract.agent_script import PROMPT_START

Message = Mapping[str, Any]

CANCELLED = ("**task cancelled", "*task cancelled", "task cancelled")
INTERRUPTED = (
    "**response interrupted",
    "*response interrupted",
    "**previous turn did not complete",
)


def translated(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Add source and mark to each message. Messages of the reference stay as they are."""
    rows: list[dict[str, Any]] = []
    for message in messages:
        mark = _mark(message)
        question = next((row for row in reversed(rows) if row["role"] == "user"), None)
        if mark and question is not None:
            question[mark] = True
        elif message["role"] == "user" and is_wakeup(message["content"]):
            rows.append({**message, "source": "process_wakeup"})
        else:
            rows.append({**message})
    return rows


def is_wakeup(text: str | None) -> bool:
    """Whether a message is the prompt of a wakeup rather than a user's."""
    return text is not None and text.startswith(PROMPT_START)


def _mark(message: Message) -> str:
    """The mark that this message stands for; empty for an ordinary message."""
    if not message.get("_error"):
        return ""
    text = str(message["content"]).lower()
    if message.get("type") == "interrupted" or text.startswith(INTERRUPTED):
        return "interrupted"
    return "cancelled" if text.startswith(CANCELLED) else ""
