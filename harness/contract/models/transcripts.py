"""Predictions of a turn's events and messages from its script, where a target shows them whole.

An adapter whose target shows exactly what the scripted agent produced returns `texts` beside the
names of a run's events, and `rows` beside the messages. Both are then predicted completely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.contract import promises
from harness.contract.agent_script import ReplyEnd, Script
from harness.contract.models.conversation import Session, Turn
from harness.core.history import Operation
from harness.core.model import Refusal

USER, WAKEUP = "user", "process_wakeup"
FIXED = ("tokens", "tool", "sleep", "fail", "exit", "hang", "process")


def is_predictable(script: Script) -> bool:
    """Whether the script says what its turn shows."""
    return all(directive.verb in FIXED for directive in script.directives)


def parts(script: Script) -> list[tuple[str, str]]:
    """The name and text of each event that the agent shows before its last token."""
    shown: list[tuple[str, str]] = []
    tokens = iter(script.tokens)
    for directive in script.directives:
        if directive.verb == "tokens":
            part = next(tokens)
            texts = [f"{number} " for number in range(part.count)] * (part.threads or 1)
            shown += [("token", text) for text in texts]
        elif directive.verb == "tool":
            shown += [("tool", ""), ("tool_complete", "")]
    return shown


def is_reply(script: Script, session: str, text: str, mark: str) -> bool:
    """Whether a turn with this script and this end has that reply."""
    start = "".join(text for name, text in parts(script) if name == "token")
    has_threads = any(tokens.threads for tokens in script.tokens)
    whole, number = text, ReplyEnd.parse(text)
    if number is not None:
        if number.session != session or number.turn < 1:
            return False
        whole = text.removesuffix(str(number))
    is_start = sorted(whole.split()) == sorted(start.split()) if has_threads else whole == start
    if mark in ("cancelled", "interrupted"):
        return has_threads or start.startswith(whole)  # an agent ends early, and may say so
    return is_start and (number is not None) is (mark != "error")


def wrong_events(
    turn: Turn, operation: Operation, rows: list[tuple[str, str]], after: int
) -> Refusal | None:
    """The refusal of a run's events behind a number, read to its end, where they are wrong.

    `rows` are their names and texts. A cursor behind the script's events leaves only an end.
    """
    script = Script.parse(turn.text)
    wanted = parts(script)
    if not operation.result["closed"] or not is_predictable(script) or after > len(wanted):
        return None
    rows = [*wanted[:after], *rows]
    names = [name for name, _ in rows]
    last = names[-1] if names else ""
    body = rows[:-2] if last == "stream_end" else rows[:-1]
    if last == "stream_end":
        is_right = names[-2:] == ["done", "stream_end"] and _is_last_token(body[-1:])
        is_right = is_right and not script.fails and _same(body[:-1], wanted, script)
        also = body[:-1] if is_right else body
    elif script.fails and last == "apperror":
        is_right, also = _same(body, wanted, script) or turn.was_struck, body
    else:
        also = body[:-1] if _is_last_token(body[-1:]) else body
        is_right = _same(also, wanted[: len(also)], script)
    if is_right and all(not text for name, text in rows if name != "token"):
        return None
    return _refused_events(operation, f"{[name for name, _ in wanted]} and an end")


def _is_last_token(row: list[tuple[str, str]]) -> bool:
    return bool(row) and row[0][0] == "token" and ReplyEnd.parse(row[0][1]) is not None


def _same(rows: list[tuple[str, str]], wanted: list[tuple[str, str]], script: Script) -> bool:
    if any(tokens.threads for tokens in script.tokens):
        return [name for name, _ in rows] == [name for name, _ in wanted]
    return rows == wanted


def _refused_events(operation: Operation, expected: str) -> Refusal:
    return Refusal(
        promises.C3,
        f"{operation.call}: other events than those of the turn's script",
        also=(promises.T3, promises.C2),
        expected=expected,
        observed=f"{operation.result['names']}",
    )


def wrong_rows(session: Session, operation: Operation) -> Refusal | None:  # noqa: C901, PLR0911
    """The refusal of messages of which one is no reply of its turn, or has a wrong mark."""
    result = operation.result
    if "rows" not in result:
        return None
    if refusal := _inconsistent(result, operation):
        return refusal
    if not session.is_pending and result["pending"] is not None:
        is_sure = session.is_surely_idle
        return _refused_rows(operation, "no pending message", session) if is_sure else None
    name = operation.argument["session"]
    rows, at = result["rows"], 0
    while at < len(rows):
        role, text, mark, source = rows[at]
        reply = rows[at + 1] if at + 1 < len(rows) and rows[at + 1][0] == "assistant" else None
        at += 1 + (reply is not None)
        if role != "user":
            return _refused_rows(operation, "a message before each reply", session)
        if reply is None:
            if source == WAKEUP and _joins_a_turn(session, rows[at:]):
                continue
            if mark not in ("cancelled", "interrupted"):
                return _refused_rows(operation, f"a reply to {text!r}", session)
            continue
        end = reply[2]
        if mark != ("" if end == "error" else end) or reply[3]:
            return _refused_rows(operation, f"the same mark on {text!r} and its reply", session)
        script = Script.parse(text if source == USER else "")
        if source == USER and is_predictable(script):
            is_right = is_reply(script, name, reply[1], end)
            if not is_right or (end == "error") is not (script.fails and not mark):
                return _refused_rows(operation, f"the reply of the script of {text!r}", session)
    return None


def _joins_a_turn(session: Session, later: Sequence[Any]) -> bool:
    """Whether a wakeup was taken along by a user's turn, which may be removed by now."""
    return later[0][0] == "user" if later else bool(session.removed)


def _inconsistent(result: Any, operation: Operation) -> Refusal | None:
    rows = result["rows"]
    said = [row[:3] for row in rows if row[3] != WAKEUP]
    if said == result["said"] and sum(row[3] == WAKEUP for row in rows) == len(result["woken"]):
        return None
    return Refusal(
        promises.S2, f"{operation.call}: its rows differ", expected="the same rows in all fields"
    )


def _refused_rows(operation: Operation, expected: str, session: Session) -> Refusal:
    struck = any(turn.was_struck for turn in session.turns)
    return Refusal(
        promises.S13 if struck else promises.S2,
        f"{operation.call}: messages that no turn has left so",
        also=(promises.T4, promises.S14, promises.S2),
        expected=expected,
        observed=f"{operation.result['rows']}",
    )
