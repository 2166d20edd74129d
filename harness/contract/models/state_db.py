"""Model of the state database: what each call may answer, and the state that follows.

Operations are those of the *state_db* ability (`harness.targets`). Where the contract is silent the
model is lenient: it ignores times; a call about an unknown session may be refused or do nothing
(adding tokens may create it); whether an age that equals the limit is older is open, as is what a
search for other characters than letters and digits finds. A later `create` may fill what the
session lacks, perhaps all but its user, or change nothing; a later model and billing mode may
replace the first, or not.

Which promise is broken:

- D1: an acknowledged message, session, title, count of tokens or end is missing, messages changed
  their order, or a removed item has come back;
- D2: a message or session is there that was never acknowledged, or two sessions have one title; or
  only a part of a write is there: `message_count` or `tool_call_count` drifted, the search index
  differs from the messages;
- D3: a write was refused because of a lock, though no other call writes;
- D8: a read, or opening the file, was refused because of a lock;
- D10: a call was refused for another reason though it should succeed, or its error has no text.
- D13: a system prompt, a tool call, the reason of an end or another column is missing, a title is
  not sanitised, or `prune` went by another age than that of the start.

`harness.contract.models.fault_outcomes` wraps this model, and judges what a fault leaves behind
(D9, and D5 after a kill).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.contract.models.titles import sanitised
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

_LOCKED = r"\block(ed|ing)?\b|\bbusy\b|Patience"  # in an error because of a lock
Message = tuple[str, str]  # role and text

ABOUT = ("model", "model_config", "user_id", "parent_session_id")
USAGE = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_usd")
DETAILS = ("tool_call_id", "tool_name", "token_count", "finish_reason", "reasoning")
NO_DETAILS = "{}"  # of a message: its columns with a value, as JSON


@dataclass(frozen=True, slots=True)
class Session:
    """One session. Days count from the beginning of the episode."""

    source: str
    began_day: float
    ended_day: float | None = None
    title: str | None = None
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    messages: tuple[Message, ...] = ()
    calls: tuple[int, ...] = ()  # tool calls by message
    system_prompt: str | None = None
    end_reason: str | None = None
    about: tuple[str | None, ...] = (None,) * len(ABOUT)  # its configuration as JSON
    usage: tuple[float, ...] = (0,) * len(USAGE)
    billing_mode: str | None = None
    details: tuple[str, ...] = ()  # by message, as JSON
    drift: int = 0  # by which a target was seen to count too many messages


@dataclass(frozen=True, slots=True)
class State:
    """All sessions by id, in order of id; removed items; and the present day.

    The removed items decide which promise a stray item breaks.
    """

    sessions: tuple[tuple[str, Session], ...] = ()
    removed: frozenset[tuple[str, ...]] = frozenset()  # (session,) or (session, role, text)
    day: float = 0.0

    def get(self, name: str) -> Session | None:
        """The session, if it exists."""
        return dict(self.sessions).get(name)

    def put(self, name: str, session: Session) -> State:
        """This state with one session new or changed."""
        before = self.get(name)
        present = Counter(session.messages)
        gone = Counter(before.messages if before else ()) - present
        back = {(name,), *((name, *message) for message in present)}
        removed = self.removed.union((name, *message) for message in gone) - back
        sessions = dict(self.sessions) | {name: session}
        return replace(self, sessions=tuple(sorted(sessions.items())), removed=removed)

    def drop(self, names: Iterable[str]) -> State:
        """This state without some sessions."""
        names = set(names)
        gone = {(name,) for name in names} | {
            (name, *message)
            for name, session in self.sessions
            if name in names
            for message in session.messages
        }
        left = tuple(
            (name, _orphaned(session, names))
            for name, session in self.sessions
            if name not in names
        )
        return replace(self, sessions=left, removed=self.removed | gone)


def _orphaned(session: Session, gone: set[str]) -> Session:
    *about, parent = session.about
    return replace(session, about=(*about, None)) if parent in gone else session


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


@dataclass(frozen=True, slots=True)
class Blame:
    """The promise that a wrong answer broke, the problem, and further promises that it broke."""

    promise: Promise
    problem: str
    also: tuple[Promise, ...] = ()


class StateDbModel:
    """What the state database may answer to sequential calls."""

    name = "state-db"

    def initial(self) -> State:
        """No session exists."""
        return State()

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """Take the observed answer for the truth; none where the content is unknown."""
        answers = _ANSWERS[operation.function](state, **operation.argument or {})
        if operation.outcome is Outcome.FAIL:
            afters = (answer.after for answer in answers.possible)
            return tuple(dict.fromkeys((state, *afters)))
        adopt = _ADOPTS.get(operation.function)
        return (state,) if adopt is None else adopt(state, operation)

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The states after the operation, or the promise it broke."""
        ask = _ANSWERS.get(operation.function)
        if ask is None:
            raise UsageError(f"{self.name} has no function {operation.function!r}")
        answers = ask(state, **operation.argument or {})
        match operation.outcome:
            case Outcome.OK:
                return _judge_result(state, operation, answers)
            case Outcome.FAIL:
                return _judge_error(state, operation, answers)
            case Outcome.INFO:
                afters = (answer.after for answer in answers.possible)
                return tuple(dict.fromkeys((state, *afters)))


# Possible answers --------------------------------------------------------------------------------


def _create(
    state: State, session: str, source: str, about: Mapping[str, Any] | None = None
) -> Answers:
    about = about or {}
    given = tuple(about.get(name) for name in ABOUT)
    config = about.get("model_config")
    given = (given[0], None if config is None else _json(config), *given[2:])
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
    owner = _owner(state, title) if title else None
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
        details=(*found.details, _json(more or {})),
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
    details = tuple(map(_json, more)) if more else (NO_DETAILS,) * len(rows)

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


_ANSWERS: Mapping[str, Callable[..., Answers]] = {
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
_TAKE_NO_LOCK = (
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


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _owner(state: State, title: str) -> str | None:
    return next((name for name, session in state.sessions if session.title == title), None)


def _words(text: str) -> set[str]:
    return set(filter(None, re.split(r"[\W_]+", _fold(text))))


def _fold(text: str) -> str:
    """Remove the case and accents, which full-text search ignores."""
    letters = unicodedata.normalize("NFD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


# Adopted answers ---------------------------------------------------------------------------------


def _adopt_get(state: State, operation: Operation) -> tuple[State, ...]:
    name, seen = operation.argument["session"], operation.result
    found = state.get(name)
    if seen is None:
        return (state.drop([name]),)
    if found is None:
        return ()
    ended_day = (found.ended_day or state.day) if seen["ended"] else None
    after = replace(
        found,
        source=seen["source"],
        title=seen["title"],
        ended_day=ended_day,
        tool_calls=seen["tool_call_count"],
        input_tokens=seen["input_tokens"],
        output_tokens=seen["output_tokens"],
        drift=seen["message_count"] - len(found.messages),
    )
    return (state.put(name, after),)


def _adopt_details(state: State, operation: Operation) -> tuple[State, ...]:
    name, seen = operation.argument["session"], operation.result
    found = state.get(name)
    if seen is None:
        return (state.drop([name]),)
    if found is None or not seen["in_order"]:
        return ()
    after = replace(
        found,
        system_prompt=seen["system_prompt"],
        end_reason=seen["end_reason"],
        calls=tuple(seen["tool_calls"]),
    )
    return (state.put(name, after),)


def _adopt_columns(state: State, operation: Operation) -> tuple[State, ...]:
    name, seen = operation.argument["session"], operation.result
    found = state.get(name)
    if seen is None:
        return (state.drop([name]),)
    if found is None or len(seen["messages"]) != len(found.messages):
        return ()
    config = seen["model_config"]
    after = replace(
        found,
        about=(
            seen["model"],
            None if config is None else _json(config),
            *(seen[name] for name in ABOUT[2:]),
        ),
        usage=tuple(seen[name] for name in USAGE),
        billing_mode=seen["billing_mode"],
        details=tuple(map(_json, seen["messages"])),
    )
    return (state.put(name, after),)


def _adopt_messages(state: State, operation: Operation) -> tuple[State, ...]:
    """Other messages; the count may be that of before, or that of the rows; as may tool calls."""
    name = operation.argument["session"]
    found = state.get(name)
    rows = tuple((role, text) for role, text in operation.result)
    if found is None or len(rows) != len(found.messages):
        return ()  # it is unknown which calls of tools remain
    return (state.put(name, replace(found, messages=rows)),)


def _adopt_list(state: State, operation: Operation) -> tuple[State, ...]:
    names = {name for name, _ in state.sessions}
    if set(operation.result) - names:
        return ()
    return (state.drop(names - set(operation.result)),)


def _adopt_counters(state: State, operation: Operation) -> tuple[State, ...]:
    name, seen = operation.argument["session"], operation.result
    found = state.get(name)
    if found is None or seen["message_count"] is None or seen["rows"] != len(found.messages):
        return ()
    drift = seen["message_count"] - seen["rows"]
    return (state.put(name, replace(found, drift=drift)),)


def _adopt_title(state: State, operation: Operation) -> tuple[State, ...]:
    name, title = operation.argument["session"], operation.argument["title"]
    found = state.get(name)
    return () if found is None else (state, state.put(name, replace(found, title=title)))


def _adopt_delete(state: State, operation: Operation) -> tuple[State, ...]:
    return state, state.drop([operation.argument["session"]])


def _adopt_prune(state: State, operation: Operation) -> tuple[State, ...]:
    """It is unknown which sessions are gone, except where there are none."""
    return (state,) if operation.result == 0 else ()


_ADOPTS: Mapping[str, Callable[[State, Operation], tuple[State, ...]]] = {
    "get": _adopt_get,
    "details": _adopt_details,
    "columns": _adopt_columns,
    "messages": _adopt_messages,
    "list": _adopt_list,
    "counters": _adopt_counters,
    "set_title": _adopt_title,
    "delete": _adopt_delete,
    "prune": _adopt_prune,
}


# Broken promises ---------------------------------------------------------------------------------


def _judge_result(
    state: State, operation: Operation, answers: Answers
) -> tuple[State, ...] | Refusal:
    afters = [answer.after for answer in answers.possible if answer.result == operation.result]
    if afters:
        return tuple(dict.fromkeys(afters))
    accepted = tuple(answer.result for answer in answers.possible)
    if not accepted:
        return Refusal(
            promises.D2,
            f"{operation.call} succeeded although it has to be refused",
            also=(promises.D13,) if operation.function == "create" else (),  # of a parent
            expected="an error",
        )
    blame = _BLAMES.get(operation.function, _blame_answer)(state, operation, accepted[0])
    message = f"{operation.call}: {blame.problem}"
    return Refusal(blame.promise, message, accepted, blame.also, expected=_either(accepted))


def _either(accepted: Iterable[Any]) -> str:
    return " or ".join(dict.fromkeys(map(repr, accepted))) or "an error that says why"


def _naming(text: str) -> Callable[[str], bool]:
    """Whether the text has a name as a word of its own."""
    return lambda name: re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _judge_error(
    state: State, operation: Operation, answers: Answers
) -> tuple[State, ...] | Refusal:
    accepted = tuple(answer.result for answer in answers.possible)
    if answers.may_fail:
        _, _, text = operation.error.partition(":")
        if not text.strip():
            return Refusal(
                promises.D10,
                f"{operation.call} failed with an error that has no text",
                accepted,
                expected="an error whose text says why, or a result",
            )
        is_waiting = re.search(_LOCKED, text) is not None
        if answers.because and not is_waiting and not any(map(_naming(text), answers.because)):
            return Refusal(
                promises.D13,
                f"{operation.call} failed with an error that does not say who has the title",
                accepted,
                also=(promises.D10,),
                expected=f"an error that names {' or '.join(map(repr, answers.because))}",
            )
        return (state,)
    if re.search("no such column|has no column", operation.error):
        return Refusal(
            promises.D13,
            f"{operation.call} found a column missing",
            accepted,
            expected=_either(accepted),
        )
    if not re.search(_LOCKED, operation.error):
        return Refusal(
            promises.D10,
            f"{operation.call} failed although it has to succeed",
            accepted,
            also=(promises.D13,) if "constraint" in operation.error else (),
            expected=_either(accepted),
        )
    return Refusal(
        promises.D8 if operation.function in _TAKE_NO_LOCK else promises.D3,
        f"{operation.call} was refused because of a lock although no other call writes",
        accepted,
        expected=_either(accepted),
    )


def _blame_answer(state: State, operation: Operation, expected: Any) -> Blame:  # noqa: ARG001  (one shape)
    return Blame(promises.D1, "an acknowledged write is lost")


def _blame_existence(state: State, operation: Operation, expected: Any) -> Blame:
    """Blame a wrong answer about whether a session exists."""
    if expected:
        return Blame(promises.D1, "a session is lost")
    return _blame_stray(state, (operation.argument["session"],))


def _blame_stray(state: State, stray: tuple[str, ...]) -> Blame:
    if stray in state.removed:
        return Blame(promises.D1, f"{stray} was removed, and is back")
    return Blame(promises.D2, f"{stray} is there, and was never acknowledged")


def _blame_get(state: State, operation: Operation, expected: Any) -> Blame:
    seen = operation.result
    if expected is None or seen is None:
        return _blame_existence(state, operation, expected)
    wrong = {name for name in expected if seen.get(name) != expected[name]}
    for counter in ("message_count", "tool_call_count"):
        if counter in wrong:
            lost = (promises.D1,) if (seen.get(counter) or 0) < expected[counter] else ()
            return Blame(promises.D2, f"{counter} drifted", lost)
    title = seen.get("title")
    if "title" in wrong and title is not None and sanitised(title) != title:
        return Blame(promises.D1, f"the title {title!r} is not sanitised", (promises.D13,))
    if "title" in wrong and title and _owner(state, title) is not None:
        return Blame(promises.D2, f"two sessions have the title {title!r}")
    return Blame(promises.D1, f"acknowledged values are lost: {', '.join(sorted(wrong))}")


def _blame_list(state: State, operation: Operation, expected: list[str]) -> Blame:
    lost = sorted(set(expected) - set(operation.result))
    if lost:
        return Blame(promises.D1, f"sessions are lost: {lost}")
    strays = Counter(operation.result) - Counter(expected)
    if strays:
        return _blame_stray(state, (min(strays),))
    return Blame(promises.D1, "sessions are out of order")


def _blame_messages(state: State, operation: Operation, expected: list[list[str]]) -> Blame:
    due, seen = Counter(map(tuple, expected)), Counter(map(tuple, operation.result))
    if lost := due - seen:
        return Blame(promises.D1, f"messages are lost: {sorted(lost)}")
    if strays := seen - due:
        return _blame_stray(state, (operation.argument["session"], *min(strays)))
    return Blame(promises.D1, "messages changed their order")


def _blame_search(state: State, operation: Operation, expected: list[list[str]]) -> Blame:  # noqa: ARG001  (one shape)
    due, seen = Counter(map(tuple, expected)), Counter(map(tuple, operation.result))
    lost = (promises.D1,) if due - seen else ()
    return Blame(promises.D2, "the search index differs from the messages", lost)


def _blame_prune(state: State, operation: Operation, expected: int) -> Blame:  # noqa: ARG001  (one shape)
    if operation.result > expected:
        lost = (promises.D1,)
        return Blame(promises.D13, "sessions were pruned that have to stay", lost)
    return Blame(promises.D13, "sessions stayed that have to be pruned", (promises.D2,))


def _blame_details(state: State, operation: Operation, expected: Any) -> Blame:
    seen = operation.result
    if expected is None or seen is None:
        return _blame_existence(state, operation, expected)
    wrong = sorted(name for name in expected if seen.get(name) != expected[name])
    return Blame(promises.D13, f"acknowledged values are lost: {', '.join(wrong)}", (promises.D1,))


def _blame_counters(state: State, operation: Operation, expected: dict[str, Any]) -> Blame:
    count, rows = operation.result["message_count"], operation.result["rows"]
    if (count is None) != (expected["message_count"] is None):
        return _blame_existence(state, operation, expected["message_count"] is not None)
    if (count or 0) != rows:
        return Blame(promises.D2, "message_count is not the number of rows")
    if rows < expected["rows"]:
        return Blame(promises.D1, "messages are lost")
    return Blame(promises.D2, "there are messages that were never acknowledged")


_BLAMES: Mapping[str, Callable[[State, Operation, Any], Blame]] = {
    "set_title": _blame_existence,
    "delete": _blame_existence,
    "get": _blame_get,
    "details": _blame_details,
    "columns": _blame_details,
    "list": _blame_list,
    "messages": _blame_messages,
    "search": _blame_search,
    "prune": _blame_prune,
    "counters": _blame_counters,
}
