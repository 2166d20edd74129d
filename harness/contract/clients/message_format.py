"""What servers call the same things: a session's messages, in the words of the reference.

There a wakeup is told by its `source`, and how a turn ended by a mark on the user's message. Others
tell a wakeup by its prompt alone, and how a turn ended by a message of its own, behind what the
turn had shown. Knows no target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Message = Mapping[str, Any]

PROMPT = "[IMPORTANT: Background process"  # how every wakeup begins
CANCELLED = ("**task cancelled", "*task cancelled", "task cancelled")
INTERRUPTED = (
    "**response interrupted",
    "*response interrupted",
    "**previous turn did not complete",
)


def translated(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The messages, each with its source and its mark. Those of the reference stay as they are."""
    rows: list[dict[str, Any]] = []
    for message in messages:
        mark = _mark(message)
        asked = next((row for row in reversed(rows) if row["role"] == "user"), None)
        if mark and asked is not None:
            asked[mark] = True
        elif message["role"] == "user" and is_wakeup(message["content"]):
            rows.append({**message, "source": "process_wakeup"})
        else:
            rows.append({**message})
    return rows


def is_wakeup(text: str | None) -> bool:
    """Whether this is no user's message, but a wakeup's prompt."""
    return text is not None and text.startswith(PROMPT)


def _mark(message: Message) -> str:
    """The mark that this message is, if it is one."""
    if not message.get("_error"):
        return ""
    text = str(message["content"]).lower()
    if message.get("type") == "interrupted" or text.startswith(INTERRUPTED):
        return "interrupted"
    return "cancelled" if text.startswith(CANCELLED) else ""
