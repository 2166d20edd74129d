"""What a turn must show and keep, derived from its steps, and what differs from that.

A turn is a sequence of steps; each shows a text, reasoning, or a call of a tool, with a word that
no other step has. So whatever shows a turn can be compared with the same steps: its events, a
replay of them, and the messages that are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from harness.engine.http import Event

Step = tuple[str, str]
Shown = list[tuple[str, str]]  # by channel: texts, reasoning, calls, and answers of tools

TEXT, REASONING, CALLED, RETURNED = "text", "reasoning", "call", "result"
ENDS = ("done", "cancel", "apperror", "error")
BEHIND = ("stream_end", *ENDS[1:])  # events after which a stream closes
CALLING = ("call", "run", "edit")  # verbs that call a tool
_SHOWING = {"say": TEXT, "think": REASONING}
_CHANNELS = {"token": TEXT, "reasoning": REASONING}


def shown_by(steps: Iterable[Step]) -> Shown:
    """What a stream shows of these steps; texts of one channel that follow each other are one."""
    shown: Shown = []
    for verb, value in steps:
        if verb in _SHOWING:
            _add(shown, _SHOWING[verb], value)
        elif verb in CALLING:
            arguments = value.replace("+", " ")
            shown += [(CALLED, arguments), (RETURNED, arguments)]
    return shown


def without_last_thought(shown: Shown) -> Shown:
    """The same as far as it shows more than reasoning, whose end a server may still hold back."""
    return shown[:-1] if shown[-1:] and shown[-1][0] == REASONING else shown


def shown_in(events: Iterable[Event]) -> Shown:
    """What these events show."""
    shown: Shown = []
    for event in events:
        if event.name in _CHANNELS:
            _add(shown, _CHANNELS[event.name], str(event.data.get("text", "")))
        elif event.name in ("tool", "tool_complete"):
            channel = CALLED if event.name == "tool" else RETURNED
            arguments = event.data.get("args") or {}
            shown.append((channel, " ".join(str(value) for value in arguments.values())))
    return shown


def _add(shown: Shown, channel: str, text: str) -> None:
    if shown and shown[-1][0] == channel:
        text = shown.pop()[1] + text
    if text:
        shown.append((channel, text))


def unlike(expected: Shown, observed: Shown) -> str:
    """The first difference: what is lost, surplus, or in another order; empty if there is none."""
    if expected == observed:
        return ""
    for channel in (TEXT, REASONING, CALLED, RETURNED):
        wanted, found = _of(expected, channel), _of(observed, channel)
        if wanted == found:
            continue
        lost = [word for word in wanted if word not in found]
        surplus = [word for word in found if word not in wanted]
        if lost:
            return f"lost {channel}: {' '.join(lost)}"
        if surplus:
            return f"surplus {channel}: {' '.join(surplus)}"
        return f"{channel} twice, or in another order: {' '.join(found)}"
    return f"another order: {observed}"


def _of(shown: Shown, channel: str) -> list[str]:
    return [word for kind, text in shown if kind == channel for word in text.split()]


def wrong_end(events: Sequence[Event], allowed: Sequence[str], *, is_closed: bool) -> str:
    """What is wrong with how a stream ends: with one end of its run, and closed."""
    ends = [event.name for event in events if event.name in ENDS]
    if len(ends) != 1:
        kind = " and ".join(ends) if ends else "no end"
        return f"{kind}: the last event is {_last(events)}"
    if ends[0] not in allowed:
        return f"another end, {ends[0]}: one of {[*allowed]}"
    return "" if is_closed else "it stays open: its run is over"


def _last(events: Sequence[Event]) -> str:
    return events[-1].name if events else "none"


def number_of(event: Event) -> int | None:
    """The number in an event's id; None without one."""
    number = event.id.rpartition(":")[2]
    return int(number) if number.isdigit() else None


def misnumbered(events: Iterable[Event]) -> str:
    """Which number does not follow the one before it; events of older servers have none."""
    before = None
    for event in events:
        number = number_of(event)
        if number is None:
            continue
        if before is not None and number != before + 1:
            kind = "a gap" if number > before else "twice, or back"
            return f"{kind}, {event.name}: {number} behind {before}"
        before = number
    return ""


def foreign(events: Iterable[Event], session: str, run: str) -> str:
    """Which event names another session or run than its own."""
    for event in events:
        if not isinstance(event.data, dict):
            continue
        inner = event.data.get("session")
        named = {
            "session": event.data.get("session_id"),
            "run": event.data.get("stream_id"),
            "session of its copy": inner.get("session_id") if isinstance(inner, dict) else None,
        }
        for kind, id_ in named.items():
            if id_ not in (None, "", run if kind == "run" else session):
                return f"{event.name} names another {kind}: {id_}"
    return ""


def lacking(session: Any, steps: Iterable[Step], text: str) -> str:
    """What the kept session lacks, or has twice, of a turn with this message."""
    messages = session["messages"]
    users = sum(m["role"] == "user" and text in content_of(m) for m in messages)
    if users != 1:
        return f"the user's message is there {users} times: {text[:40]}"
    rows = [m for m in messages if m["role"] == "assistant" and not m.get("_error")]
    said = "".join(f" {' '.join(content_of(row).split())} " for row in rows)
    whole = json.dumps([messages, session.get("tool_calls")])
    for verb, value in steps:
        word = value.split(":")[0].strip()
        if verb in ("say", "quiet", "limit"):
            times = said.count(f" {word} ")
            if times != 1:
                return f"lost {TEXT}: {word}" if not times else f"{TEXT} twice: {word}"
        elif verb in ("think", *CALLING) and not all(
            _outside(whole, part, text) for part in word.split("+")
        ):
            return f"lost {'reasoning' if verb == 'think' else CALLED}: {word}"
        elif verb in CALLING and _is_cut(session.get("tool_calls"), value):
            return f"an argument of a {CALLED} is cut: {word}"
    return _disordered(messages, steps)


def _is_cut(calls: Any, value: str) -> bool:
    """Whether the call with these arguments is listed with others that begin with the same word."""
    first = value.split(maxsplit=1)[0]
    args = [call.get("args") for call in calls or () if isinstance(call, dict)]
    listed = [" ".join(map(str, each.values())) for each in args if isinstance(each, dict)]
    whole = value.replace("+", " ").strip()
    return any(text.startswith(first) and text.strip() != whole for text in listed)


def _disordered(messages: Sequence[Any], steps: Iterable[Step]) -> str:
    """Which step is in a message before one that has an earlier step."""
    rows = [json.dumps(message) if message["role"] != "user" else "" for message in messages]
    before, latest = "", -1
    for verb, value in steps:
        word = value.partition("+")[0].strip()
        if verb not in ("say", "think", *CALLING):
            continue
        at = next((number for number, row in enumerate(rows) if word in row), None)
        if at is None:
            continue
        if at < latest:
            return f"{verb} behind a later step: {before} before {word}"
        before, latest = word, at
    return ""


def _outside(whole: str, word: str, text: str) -> int:
    """How often a word is there besides the message that asks for it."""
    return whole.count(word) - whole.count(json.dumps(text)[1:-1]) * text.count(word)


def content_of(message: Any) -> str:
    """The text of a message."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        return " ".join(str(part.get("text") or part.get("output_text") or "") for part in parts)
    return str(content or "")
