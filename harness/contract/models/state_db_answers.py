"""What each call of the state database may answer, and the state that follows."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.contract.models.state_db_values import (
    ABOUT,
    NO_DETAILS,
    USAGE,
    Session,
    State,
    as_json,
    owner_of,
)
from harness.contract.models.titles import sanitised


@dataclass(frozen=True, slots=True)
class Answer:
    """One result that a call may have, and the state that follows."""

    result: Any
    after: State


@dataclass(frozen=True, slots=True)
class Answers:
    """All results that a call may have, and whether it may fail instead.

    An error has to contain one of the texts `because`, if there are any.
    """

    possible: tuple[Answer, ...]
    may_fail: bool = False
    because: tuple[str, ...] = ()


def _create(
    state: State, session: str, source: str, about: Mapping[str, Any] | None = None
) -> Answers:
    about = about or {}
    given = tuple(about.get(name) for name in ABOUT)
    config = about.get("model_config")
    given = (given[0], None if config is None else as_json(config), *given[2:])
    prompt = about.get("system_prompt")
    found = state.get(session)
    parent = about.get("parent_session_id")
    refuses = parent is not None and state.get(parent) is None
    if found is None:
        new = Session(source, state.day, system_prompt=prompt, about=given)
        return Answers((), may_fail=True) if refuses else _answer(state.put(session, new))
    filled = replace(
        found,
        about=tuple(
            has if has is not None else new for has, new in zip(found.about, given, strict=True)
        ),
        system_prompt=prompt if found.system_prompt is None else found.system_prompt,
    )
    model, config, _, parent = filled.about
    same_user = replace(filled, about=(model, config, found.about[2], parent))
    readings = (found,) if refuses else (found, filled, same_user)
    afters = (state.put(session, reading) for reading in readings)
    return Answers(tuple(Answer(None, after) for after in afters), may_fail=refuses)


def _end(state: State, session: str, reason: str) -> Answers:
    def first_stays(found: Session) -> Session:
        return found if found.ended_day is not None else last_wins(found)

    def last_wins(found: Session) -> Session:
        return replace(found, ended_day=state.day, end_reason=reason)

    return _change(state, session, first_stays, last_wins)


def _reopen(state: State, session: str) -> Answers:
    return _change(state, session, lambda found: replace(found, ended_day=None, end_reason=None))


def _set_title(state: State, session: str, title: str | None) -> Answers:
    found = state.get(session)
    if found is None:
        return _answer(state, result=False, may_fail=True)
    title = sanitised(title)
    owner = owner_of(state, title) if title else None
    if title and owner not in (None, session):
        return Answers((), may_fail=True, because=(title, f"{owner}"))
    return _answer(state.put(session, replace(found, title=title)), result=True)


def _set_system_prompt(state: State, session: str, text: str) -> Answers:
    return _change(state, session, lambda found: replace(found, system_prompt=text))


def _add_tokens(
    state: State,
    session: str,
    input: int,  # noqa: A002  (likewise)
    output: int,
    more: Mapping[str, Any] | None = None,
) -> Answers:
    added = _usage(more)

    def add(found: Session) -> Session:
        return replace(
            found,
            input_tokens=found.input_tokens + input,
            output_tokens=found.output_tokens + output,
            usage=tuple(had + new for had, new in zip(found.usage, added, strict=True)),
        )

    return _count(state, session, *_named(add, more))


def _set_tokens(
    state: State,
    session: str,
    input: int,  # noqa: A002  (likewise)
    output: int,
    more: Mapping[str, Any] | None = None,
) -> Answers:
    def put(found: Session) -> Session:
        return replace(found, input_tokens=input, output_tokens=output, usage=_usage(more))

    return _count(state, session, *_named(put, more))


def _usage(more: Mapping[str, Any] | None) -> tuple[float, ...]:
    return tuple((more or {}).get(name, 0) for name in USAGE)


def _named(
    change: Callable[[Session], Session], more: Mapping[str, Any] | None
) -> Iterable[Callable[[Session], Session]]:
    """The change, after which the first model and billing mode stay, or the last ones do."""
    model, mode = ((more or {}).get(name) for name in ("model", "billing_mode"))

    def first_stays(found: Session) -> Session:
        has, *about = found.about
        return replace(
            change(found),
            about=(model if has is None else has, *about),
            billing_mode=mode if found.billing_mode is None else found.billing_mode,
        )

    def last_wins(found: Session) -> Session:
        has, *about = found.about
        return replace(
            change(found),
            about=(has if model is None else model, *about),
            billing_mode=found.billing_mode if mode is None else mode,
        )

    return first_stays, last_wins


def _append(  # noqa: PLR0913, PLR0917  (likewise)
    state: State,
    session: str,
    role: str,
    text: str,
    tool_calls: int | Mapping[str, str] = 0,
    more: Mapping[str, Any] | None = None,
) -> Answers:
    """Append a message with a number of tool calls, or with one that is given without a list."""
    found = state.get(session)
    if found is None:
        return Answers((), may_fail=True)
    tool_calls = tool_calls if isinstance(tool_calls, int) else 1
    after = replace(
        found,
        messages=(*found.messages, (role, text)),
        calls=(*found.calls, tool_calls),
        details=(*found.details, as_json(more or {})),
        tool_calls=found.tool_calls + tool_calls,
    )
    return _answer(state.put(session, after))


def _replace(
    state: State,
    session: str,
    messages: list[list[str]],
    more: list[Mapping[str, Any]] | None = None,
) -> Answers:
    found = state.get(session)
    if found is None and messages:
        return Answers((), may_fail=True)
    rows = tuple((role, text) for role, text in messages)
    details = tuple(map(as_json, more)) if more else (NO_DETAILS,) * len(rows)

    def replaced(found: Session) -> Session:
        none = (0,) * len(rows)
        return replace(found, messages=rows, calls=none, details=details, tool_calls=0, drift=0)

    return _change(state, session, replaced)


def _clear(state: State, session: str) -> Answers:
    return _replace(state, session, [])


def _get(state: State, session: str) -> Answers:
    found = state.get(session)
    if found is None:
        return _answer(state)
    row = {
        "source": found.source,
        "title": found.title,
        "ended": found.ended_day is not None,
        "message_count": len(found.messages) + found.drift,
        "tool_call_count": found.tool_calls,
        "input_tokens": found.input_tokens,
        "output_tokens": found.output_tokens,
    }
    return _answer(state, result=row)


def _details(state: State, session: str) -> Answers:
    found = state.get(session)
    if found is None:
        return _answer(state)
    row = {
        "system_prompt": found.system_prompt,
        "end_reason": found.end_reason,
        "tool_calls": list(found.calls),
        "in_order": True,
    }
    return _answer(state, result=row)


def _columns(state: State, session: str) -> Answers:
    found = state.get(session)
    if found is None:
        return _answer(state)
    model, config, *others = found.about
    about = (model, None if config is None else json.loads(config), *others)
    row = {
        **dict(zip(ABOUT, about, strict=True)),
        **dict(zip(USAGE, found.usage, strict=True)),
        "billing_mode": found.billing_mode,
        "messages": [json.loads(details) for details in found.details],
    }
    return _answer(state, result=row)


def _list(state: State) -> Answers:
    return _answer(state, result=[name for name, _ in state.sessions])


def _messages(state: State, session: str) -> Answers:
    found = state.get(session)
    return _answer(state, result=[list(message) for message in found.messages] if found else [])


def _search(state: State, word: str) -> Answers:
    """Find a word. With other characters in it a target may also find nothing, or take it as is."""
    stored = [
        (name, text, _words(text))
        for name, session in state.sessions
        for _, text in session.messages
    ]
    wanted = _words(word)
    found = sorted([name, text] for name, text, words in stored if wanted and wanted <= words)
    if wanted == {_fold(word)}:
        return _answer(state, result=found)
    as_is = sorted([name, text] for name, text, _ in stored if word in text)
    return Answers(tuple(Answer(result, state) for result in (found, as_is, [])))


def _delete(state: State, session: str) -> Answers:
    return _answer(state.drop([session]), result=state.get(session) is not None)


def _prune(state: State, days: float, source: str | None = None) -> Answers:
    ages = {
        name: state.day - session.began_day
        for name, session in state.sessions
        if session.ended_day is not None and source in (None, session.source)
    }
    readings = [
        [name for name, age in ages.items() if age > days or (age == days and equal_is_older)]
        for equal_is_older in (False, True)
    ]
    return Answers(tuple(Answer(len(names), state.drop(names)) for names in readings))


def _advance(state: State, days: float) -> Answers:
    return _answer(replace(state, day=state.day + days))


def _reopen_file(state: State) -> Answers:
    return _answer(state)


def _reopen_older(state: State) -> Answers:
    """Take the newer columns out of the file, and open it, which adds them without values."""
    sessions = tuple(
        (
            name,
            replace(
                found,
                about=(None, None, None, found.about[-1]),
                usage=(0,) * len(USAGE),
                billing_mode=None,
                details=(NO_DETAILS,) * len(found.messages),
            ),
        )
        for name, found in state.sessions
    )
    return _answer(replace(state, sessions=sessions))


def _counters(state: State, session: str) -> Answers:
    found = state.get(session)
    if found is None:
        return _answer(state, result={"message_count": None, "rows": 0})
    rows = len(found.messages)
    return _answer(state, result={"message_count": rows + found.drift, "rows": rows})


ANSWERS: Mapping[str, Callable[..., Answers]] = {
    "create": _create,
    "end": _end,
    "reopen": _reopen,
    "set_title": _set_title,
    "set_system_prompt": _set_system_prompt,
    "add_tokens": _add_tokens,
    "set_tokens": _set_tokens,
    "append": _append,
    "replace": _replace,
    "clear": _clear,
    "get": _get,
    "details": _details,
    "columns": _columns,
    "list": _list,
    "messages": _messages,
    "search": _search,
    "delete": _delete,
    "prune": _prune,
    "advance": _advance,
    "reopen_file": _reopen_file,
    "reopen_older": _reopen_older,
    "counters": _counters,
}
TAKE_NO_LOCK = (
    *("get", "details", "columns", "list", "messages", "search", "counters"),
    *("reopen_file", "reopen_older"),
)


def _answer(after: State, *, result: Any = None, may_fail: bool = False) -> Answers:
    return Answers((Answer(result, after),), may_fail)


def _change(state: State, name: str, *changes: Callable[[Session], Session]) -> Answers:
    """Change a session in one of these ways; for an unknown one fail, or do nothing."""
    found = state.get(name)
    if found is None:
        return _answer(state, may_fail=True)
    return Answers(tuple(Answer(None, state.put(name, change(found))) for change in changes))


def _count(state: State, name: str, *changes: Callable[[Session], Session]) -> Answers:
    """Count tokens; for an unknown session fail, do nothing, or create it."""
    answers = _change(state, name, *changes)
    if state.get(name) is not None:
        return answers
    created = state.put(name, changes[0](Session("unknown", state.day)))
    return replace(answers, possible=(*answers.possible, Answer(None, created)))


def _words(text: str) -> set[str]:
    return set(filter(None, re.split(r"[\W_]+", _fold(text))))


def _fold(text: str) -> str:
    """Remove the case and accents, which full-text search ignores."""
    letters = unicodedata.normalize("NFD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
