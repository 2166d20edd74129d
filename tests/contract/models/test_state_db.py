"""Tests that the model of the state database accepts a right one, and names broken promises.

`Plain` is a state database in a dictionary, simple enough to be right. Each culprit below changes
one thing in it.
"""

# The name of a culprit says what it does; it ignores some arguments:
# ruff: noqa: ARG002

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.state_db import StateDbModel
from harness.contract.models.state_db_values import State
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Verdict

Call = tuple[str, dict[str, Any]]

SESSIONS = st.sampled_from(["s", "t", "u"])
TEXTS = st.sampled_from(["red apple", "red pear", "Green, pear!", "Äpfel"])
COUNTS = st.integers(0, 3)
ROWS = st.lists(st.tuples(st.just("user"), TEXTS).map(list), max_size=3)


def call(function: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(function), st.fixed_dictionaries(arguments))


def some(**columns: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these columns."""
    return st.fixed_dictionaries(
        {}, optional={name: st.just(value) for name, value in columns.items()}
    )


ABOUT = some(model="small", model_config={"steps": 3}, user_id="u", parent_session_id="t")
USAGE = some(cache_read_tokens=2, reasoning_tokens=3, cost_usd=0.25, model="large")
MESSAGE_DETAILS = some(tool_name="read", token_count=3, reasoning="so", reasoning_details=["so"])
MORE_ROWS = st.lists(st.tuples(TEXTS, MESSAGE_DETAILS), max_size=3)

CALLS = st.one_of(
    call("create", session=SESSIONS, source=st.sampled_from(["cli", "web"]), about=ABOUT),
    call("end", session=SESSIONS, reason=st.just("done")),
    call("reopen", session=SESSIONS),
    call(
        "set_title", session=SESSIONS, title=st.sampled_from([None, "a", "b", " ", "a\n  b\u200b"])
    ),
    call("set_system_prompt", session=SESSIONS, text=TEXTS),
    call("add_tokens", session=SESSIONS, input=COUNTS, output=COUNTS, more=USAGE),
    call("set_tokens", session=SESSIONS, input=COUNTS, output=COUNTS, more=USAGE),
    call("append", session=SESSIONS, role=st.just("user"), text=TEXTS, tool_calls=COUNTS),
    call(
        "append",
        session=SESSIONS,
        role=st.just("user"),
        text=TEXTS,
        tool_calls=st.just({"id": "call-0"}),
        more=MESSAGE_DETAILS,
    ),
    MORE_ROWS.map(
        lambda rows: (
            "replace",
            {
                "session": "s",
                "messages": [["user", text] for text, _ in rows],
                "more": [more for _, more in rows],
            },
        )
    ),
    call("replace", session=SESSIONS, messages=ROWS),
    call("clear", session=SESSIONS),
    call("get", session=SESSIONS),
    call("details", session=SESSIONS),
    call("columns", session=SESSIONS),
    call("list"),
    call("messages", session=SESSIONS),
    call("search", word=st.sampled_from(["red", "PEAR", "apfel", "absent"])),
    call("delete", session=SESSIONS),
    call("prune", days=st.sampled_from([1, 7]), source=st.sampled_from([None, "web"])),
    call("advance", days=st.sampled_from([1, 5])),
    call("reopen_file"),
    call("reopen_older"),
    call("counters", session=SESSIONS),
)


USED = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_usd")


class RefusedError(Exception):
    """The database refuses a call."""


@dataclass
class Row:
    """One session."""

    source: str
    began_day: int
    ended_day: int | None = None
    title: str | None = None
    count: int = 0
    tool_calls: int = 0
    tokens: tuple[int, int] = (0, 0)
    messages: list[list[str]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    prompt: str | None = None
    about: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    details: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None


class Plain:
    """A state database in a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.index: list[list[str]] = []
        self.day = 0

    def find(self, session: str) -> Row:
        if session not in self.rows:
            raise RefusedError(f"no session {session}")
        return self.rows[session]

    def create(self, session: str, source: str, about: dict[str, Any] | None = None) -> None:
        about = dict(about or {})
        if "parent_session_id" in about:
            self.find(about["parent_session_id"])
        if session not in self.rows:
            prompt = about.pop("system_prompt", None)
            self.rows[session] = Row(source, self.day, prompt=prompt, about=about)

    def end(self, session: str, reason: str) -> None:
        row = self.find(session)
        if row.ended_day is None:
            row.ended_day, row.reason = self.day, reason

    def reopen(self, session: str) -> None:
        self.find(session).ended_day = None
        self.find(session).reason = None

    def set_title(self, session: str, title: str | None) -> bool:
        if session not in self.rows:
            return False
        title = " ".join((title or "").replace("\u200b", "").split()) or None
        for name, row in self.rows.items():
            if title is not None and row.title == title and name != session:
                raise RefusedError(f"{name} is called {title}")
        self.rows[session].title = title
        return True

    def set_system_prompt(self, session: str, text: str) -> None:
        self.find(session).prompt = text

    def add_tokens(
        self,
        session: str,
        input: int,  # noqa: A002
        output: int,
        more: dict[str, Any] | None = None,
    ) -> None:
        row = self.find(session)
        row.tokens = (row.tokens[0] + input, row.tokens[1] + output)
        for name in USED:
            row.usage[name] = row.usage.get(name, 0) + (more or {}).get(name, 0)
        self.note(row, more)

    def set_tokens(
        self,
        session: str,
        input: int,  # noqa: A002
        output: int,
        more: dict[str, Any] | None = None,
    ) -> None:
        row = self.find(session)
        row.tokens = (input, output)
        row.usage.update({name: (more or {}).get(name, 0) for name in USED})
        self.note(row, more)

    def note(self, row: Row, more: dict[str, Any] | None) -> None:
        if more and "model" in more:
            row.about.setdefault("model", more["model"])

    def append(
        self,
        session: str,
        role: str,
        text: str,
        tool_calls: int | dict[str, str] = 0,
        more: dict[str, Any] | None = None,
    ) -> None:
        row = self.find(session)
        tool_calls = tool_calls if isinstance(tool_calls, int) else 1
        row.count += 1
        row.tool_calls += tool_calls
        row.messages.append([role, text])
        row.calls.append(tool_calls)
        row.details.append(dict(more or {}))
        self.index.append([session, text])

    def replace(
        self, session: str, messages: list[list[str]], more: list[dict[str, Any]] | None = None
    ) -> None:
        row = self.find(session)
        row.count, row.tool_calls, row.messages = 0, 0, []
        row.calls, row.details = [], []
        self.index = [entry for entry in self.index if entry[0] != session]
        for (role, text), details in zip(messages, more or [{}] * len(messages), strict=True):
            Plain.append(self, session, role, text, more=details)

    def clear(self, session: str) -> None:
        self.replace(session, [])

    def get(self, session: str) -> dict[str, Any] | None:
        row = self.rows.get(session)
        if row is None:
            return None
        return {
            "source": row.source,
            "title": row.title,
            "ended": row.ended_day is not None,
            "message_count": row.count,
            "tool_call_count": row.tool_calls,
            "input_tokens": row.tokens[0],
            "output_tokens": row.tokens[1],
        }

    def details(self, session: str) -> dict[str, Any] | None:
        row = self.rows.get(session)
        if row is None:
            return None
        return {
            "system_prompt": row.prompt,
            "end_reason": row.reason,
            "tool_calls": row.calls[:],
            "in_order": True,
        }

    def columns(self, session: str) -> dict[str, Any] | None:
        row = self.rows.get(session)
        if row is None:
            return None
        about = ("model", "model_config", "user_id", "parent_session_id", "billing_mode")
        return {
            **{name: row.about.get(name) for name in about},
            **{name: row.usage.get(name, 0) for name in USED},
            "messages": [dict(details) for details in row.details],
        }

    def list(self) -> Any:
        return sorted(self.rows)

    def messages(self, session: str) -> Any:
        return (
            [message[:] for message in self.rows[session].messages] if session in self.rows else []
        )

    def search(self, word: str) -> Any:
        return sorted(entry for entry in self.index if word.lower() in words(entry[1]))

    def delete(self, session: str) -> bool:
        self.index = [entry for entry in self.index if entry[0] != session]
        for row in self.rows.values():
            if row.about.get("parent_session_id") == session:
                row.about["parent_session_id"] = None
        return self.rows.pop(session, None) is not None

    def prune(self, days: int, source: str | None = None) -> int:
        old = [
            name
            for name, row in self.rows.items()
            if row.ended_day is not None
            and self.day - row.began_day > days
            and source in (None, row.source)
        ]
        return sum(self.delete(name) for name in old)

    def advance(self, days: int) -> None:
        self.day += days

    def reopen_file(self) -> None:
        pass

    def reopen_older(self) -> None:
        for row in self.rows.values():
            row.about = {"parent_session_id": row.about.get("parent_session_id")}
            row.usage, row.details = {}, [{} for _ in row.details]

    def counters(self, session: str) -> dict[str, Any]:
        row = self.rows.get(session)
        if row is None:
            return {"message_count": None, "rows": 0}
        return {"message_count": row.count, "rows": len(row.messages)}


def words(text: str) -> list[str]:
    return re.split(r"\W+", text.lower().replace("ä", "a"))


def ask(db: Any, function: str, argument: dict[str, Any], at_ns: int = 0) -> Operation:
    """Make a call, and return the operation."""
    try:
        result = getattr(db, function)(**argument)
    except RefusedError as error:
        outcome, result, text = Outcome.FAIL, None, f"Refused: {error}"
    else:
        outcome, text = Outcome.OK, ""
    return Operation(0, function, argument, outcome, at_ns, at_ns + 1, result, text)


def judge(db: Any, *calls: Call) -> Verdict:
    operations = (ask(db, *asked, at_ns=number * 10) for number, asked in enumerate(calls))
    return conforms(StateDbModel())(History(tuple(operations)))


@settings(max_examples=300, deadline=None)
@given(st.lists(CALLS, max_size=40))
def test_right_database_is_accepted(calls: list[Call]) -> None:
    """For any calls in any order."""
    assert judge(Plain(), *calls).is_valid


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(CALLS, st.booleans(), st.booleans()), max_size=15))
def test_lost_reply_leaves_both_states(
    steps: list[tuple[Call, bool, bool]],
) -> None:
    """A call without a reply happened or did not; the model accepts both."""
    db, fold = Plain(), Fold(StateDbModel())
    for (function, argument), is_lost, happened in steps:
        if not is_lost:
            operation = ask(db, function, argument)
        else:
            if happened:
                ask(db, function, argument)
            operation = Operation(0, function, argument, Outcome.INFO, 0, None, None, "killed")
        assert fold.step(operation) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(CALLS, max_size=20))
def test_equal_histories_lead_to_equal_states(calls: list[Call]) -> None:
    """The same history leads to equal states, with equal hashes."""
    ends: list[State] = []
    for _ in range(2):
        db, model = Plain(), StateDbModel()
        state = model.initial()
        for function, argument in calls:
            step = model.step(state, ask(db, function, argument))
            assert isinstance(step, tuple)
            state = step[0]
        ends.append(state)
    assert ends[0] == ends[1]
    assert hash(ends[0]) == hash(ends[1])


# Culprits ----------------------------------------------------------------------------------------


class LosesAnAppend(Plain):
    def append(
        self, session: str, role: str, text: str, tool_calls: Any = 0, more: Any = None
    ) -> None:
        if text != "red pear":
            super().append(session, role, text, tool_calls)


class CountsInAnotherTransaction(Plain):
    def append(
        self, session: str, role: str, text: str, tool_calls: Any = 0, more: Any = None
    ) -> None:
        super().append(session, role, text, tool_calls)
        self.find(session).count -= 1


class ForgetsToolCalls(Plain):
    def append(
        self, session: str, role: str, text: str, tool_calls: Any = 0, more: Any = None
    ) -> None:
        super().append(session, role, text)


class CountsTwice(Plain):
    def append(
        self, session: str, role: str, text: str, tool_calls: Any = 0, more: Any = None
    ) -> None:
        super().append(session, role, text, tool_calls)
        super().append(session, role, text, tool_calls)


class RefusesButWrites(Plain):
    def set_title(self, session: str, title: str | None) -> bool:
        try:
            return super().set_title(session, title)
        except RefusedError:
            self.rows[session].title = title
            raise


class RefusesButCreates(Plain):
    def append(
        self, session: str, role: str, text: str, tool_calls: Any = 0, more: Any = None
    ) -> None:
        known = session in self.rows
        self.create(session, "cli")
        super().append(session, role, text, tool_calls)
        if not known:
            raise RefusedError("no such session")


class AcceptsAnyTitle(Plain):
    def set_title(self, session: str, title: str | None) -> bool:
        self.find(session).title = title
        return True


class ChecksTitlesTooEarly(Plain):
    """As if another title came between the check and the write."""

    def set_title(self, session: str, title: str | None) -> bool:
        try:
            return super().set_title(session, title)
        except RefusedError:
            raise RefusedError("UNIQUE constraint failed: sessions.title") from None


class IndexIsNotPartOfTheWrite(Plain):
    def delete(self, session: str) -> bool:
        return self.rows.pop(session, None) is not None


class ClearComesUndone(Plain):
    def clear(self, session: str) -> None:
        self.find(session)


class DeleteComesUndone(Plain):
    def delete(self, session: str) -> bool:
        return session in self.rows


class ForgetsTheEnd(Plain):
    def end(self, session: str, reason: str) -> None:
        self.find(session)


class AddsWhereItShouldSet(Plain):
    set_tokens = Plain.add_tokens


class PrunesOpenSessions(Plain):
    def prune(self, days: int, source: str | None = None) -> int:
        return sum(self.delete(name) for name in list(self.rows))


class PrunesNothing(Plain):
    def prune(self, days: int, source: str | None = None) -> int:
        return 0


class PrunesByEnd(Plain):
    def prune(self, days: int, source: str | None = None) -> int:
        ended = {name: row.ended_day for name, row in self.rows.items()}
        old = [name for name, day in ended.items() if day is not None and self.day - day > days]
        return sum(self.delete(name) for name in old)


class IgnoresTheSource(Plain):
    def prune(self, days: int, source: str | None = None) -> int:
        return super().prune(days)


class KeepsNoPrompt(Plain):
    def set_system_prompt(self, session: str, text: str) -> None:
        self.find(session)


class KeepsTheReason(Plain):
    def reopen(self, session: str) -> None:
        self.find(session).ended_day = None


class CallsAreShared(Plain):
    def details(self, session: str) -> dict[str, Any] | None:
        row = self.find(session)
        row.calls = [sum(row.calls)] * len(row.calls)
        return super().details(session)


class BlankIsATitle(Plain):
    def set_title(self, session: str, title: str | None) -> bool:
        self.find(session).title = title
        return True


class ReplacesBare(Plain):
    def replace(
        self, session: str, messages: list[list[str]], more: list[dict[str, Any]] | None = None
    ) -> None:
        super().replace(session, messages)


class LeavesReasoning(Plain):
    def set_tokens(
        self,
        session: str,
        input: int,  # noqa: A002
        output: int,
        more: dict[str, Any] | None = None,
    ) -> None:
        kept = self.find(session).usage.get("reasoning_tokens", 0)
        super().set_tokens(session, input, output, more)
        self.find(session).usage["reasoning_tokens"] = kept


class LacksAColumn(Plain):
    def columns(self, session: str) -> dict[str, Any] | None:
        raise RefusedError("no such column: reasoning")


class KeepsGoneParents(Plain):
    def delete(self, session: str) -> bool:
        return self.rows.pop(session, None) is not None


class Reverses(Plain):
    def messages(self, session: str) -> Any:
        return super().messages(session)[::-1]


class IsLocked(Plain):
    def append(
        self, session: str, role: str, text: str, tool_calls: Any = 0, more: Any = None
    ) -> None:
        raise RefusedError("database is locked")


class CannotBeReadBesideAWriter(Plain):
    def messages(self, session: str) -> Any:
        raise RefusedError("database is locked")


class FailsForNoReason(Plain):
    def append(
        self, session: str, role: str, text: str, tool_calls: Any = 0, more: Any = None
    ) -> None:
        raise RefusedError("disk I/O error")


class SaysNothing(Plain):
    def find(self, session: str) -> Row:
        if session not in self.rows:
            raise RefusedError
        return self.rows[session]


CREATE: Call = ("create", {"session": "s", "source": "cli"})
CREATE_T: Call = ("create", {"session": "t", "source": "cli"})
APPLE: Call = ("append", {"session": "s", "role": "user", "text": "red apple", "tool_calls": 2})
PEAR: Call = ("append", {"session": "s", "role": "user", "text": "red pear"})
MESSAGES: Call = ("messages", {"session": "s"})
COUNTERS: Call = ("counters", {"session": "s"})
GET: Call = ("get", {"session": "s"})
TITLE: Call = ("set_title", {"session": "s", "title": "a"})
TITLE_T: Call = ("set_title", {"session": "t", "title": "a"})
TOKENS: Call = ("set_tokens", {"session": "s", "input": 2, "output": 2})
END: Call = ("end", {"session": "s", "reason": "done"})
LATER: Call = ("advance", {"days": 30})
PRUNE: Call = ("prune", {"days": 7})
CLEAR: Call = ("clear", {"session": "s"})
DELETE: Call = ("delete", {"session": "s"})
RED: Call = ("search", {"word": "red"})
LIST: Call = ("list", {})
PROMPT: Call = ("set_system_prompt", {"session": "s", "text": "be brief"})
REOPEN: Call = ("reopen", {"session": "s"})
DETAILS: Call = ("details", {"session": "s"})

CHILD: Call = (
    "create",
    {"session": "s", "source": "cli", "about": {"parent_session_id": "t", "model": "small"}},
)
THOUGHT: Call = (
    "replace",
    {"session": "s", "messages": [["user", "red"]], "more": [{"reasoning": "so"}]},
)
SPENT: Call = (
    "set_tokens",
    {"session": "s", "input": 2, "output": 2, "more": {"reasoning_tokens": 3}},
)
COLUMNS: Call = ("columns", {"session": "s"})
DELETE_T: Call = ("delete", {"session": "t"})

CULPRITS: list[tuple[type[Plain], Promise, list[Call]]] = [
    (LosesAnAppend, promises.D1, [CREATE, APPLE, PEAR, MESSAGES]),
    (ReplacesBare, promises.D13, [CREATE, THOUGHT, COLUMNS]),
    (LeavesReasoning, promises.D13, [CREATE, SPENT, COLUMNS]),
    (LacksAColumn, promises.D13, [CREATE, COLUMNS]),
    (KeepsGoneParents, promises.D13, [CREATE_T, CHILD, DELETE_T, COLUMNS]),
    (LosesAnAppend, promises.D1, [CREATE, PEAR, COUNTERS]),
    (CountsInAnotherTransaction, promises.D2, [CREATE, APPLE, COUNTERS]),
    (CountsInAnotherTransaction, promises.D2, [CREATE, APPLE, GET]),
    (ForgetsToolCalls, promises.D2, [CREATE, APPLE, GET]),
    (CountsTwice, promises.D2, [CREATE, APPLE, MESSAGES]),
    (CountsTwice, promises.D2, [CREATE, APPLE, COUNTERS]),
    (RefusesButWrites, promises.D2, [CREATE, CREATE_T, TITLE_T, TITLE, GET]),
    (RefusesButCreates, promises.D2, [APPLE, LIST]),
    (RefusesButCreates, promises.D2, [APPLE, GET]),
    (RefusesButCreates, promises.D2, [APPLE, COUNTERS]),
    (RefusesButCreates, promises.D2, [APPLE, MESSAGES]),
    (AcceptsAnyTitle, promises.D2, [CREATE, CREATE_T, TITLE_T, TITLE]),
    (ChecksTitlesTooEarly, promises.D13, [CREATE, CREATE_T, TITLE_T, TITLE]),
    (IndexIsNotPartOfTheWrite, promises.D2, [CREATE, APPLE, DELETE, RED]),
    (LosesAnAppend, promises.D2, [CREATE, PEAR, RED]),
    (ClearComesUndone, promises.D1, [CREATE, APPLE, CLEAR, MESSAGES]),
    (DeleteComesUndone, promises.D1, [CREATE, DELETE, LIST]),
    (DeleteComesUndone, promises.D1, [CREATE, DELETE, GET]),
    (ForgetsTheEnd, promises.D1, [CREATE, END, GET]),
    (AddsWhereItShouldSet, promises.D1, [CREATE, TOKENS, TOKENS, GET]),
    (PrunesOpenSessions, promises.D13, [CREATE, LATER, PRUNE]),
    (PrunesNothing, promises.D13, [CREATE, END, LATER, PRUNE]),
    (PrunesByEnd, promises.D13, [CREATE, LATER, END, PRUNE]),
    (IgnoresTheSource, promises.D13, [CREATE, END, LATER, ("prune", {"days": 7, "source": "web"})]),
    (KeepsNoPrompt, promises.D13, [CREATE, PROMPT, DETAILS]),
    (KeepsTheReason, promises.D13, [CREATE, END, REOPEN, DETAILS]),
    (CallsAreShared, promises.D13, [CREATE, APPLE, PEAR, DETAILS]),
    (BlankIsATitle, promises.D1, [CREATE, ("set_title", {"session": "s", "title": " "}), GET]),
    (Reverses, promises.D1, [CREATE, APPLE, PEAR, MESSAGES]),
    (IsLocked, promises.D3, [CREATE, APPLE]),
    (CannotBeReadBesideAWriter, promises.D8, [CREATE, MESSAGES]),
    (FailsForNoReason, promises.D10, [CREATE, APPLE]),
    (SaysNothing, promises.D10, [APPLE]),
]


@pytest.mark.parametrize(
    ("culprit", "broken", "calls"),
    CULPRITS,
    ids=[f"{row[0].__name__}-{row[2][-1][0]}" for row in CULPRITS],
)
def test_culprit_breaks_its_promise(
    culprit: type[Plain], broken: Promise, calls: list[Call]
) -> None:
    """The last call is refused, and no earlier one."""
    assert judge(culprit(), *calls[:-1]).is_valid
    (anomaly,) = judge(culprit(), *calls).anomalies
    assert anomaly.promise is broken


def test_anomaly_has_the_accepted_results() -> None:
    (anomaly,) = judge(LosesAnAppend(), CREATE, PEAR, MESSAGES).anomalies
    assert anomaly.accepted == ([["user", "red pear"]],)


@pytest.mark.parametrize(
    ("culprit", "calls"),
    [
        (ForgetsToolCalls, [CREATE, APPLE, GET, GET, MESSAGES, COUNTERS, LIST]),
        (CountsInAnotherTransaction, [CREATE, APPLE, COUNTERS, COUNTERS, GET, MESSAGES]),
        (KeepsNoPrompt, [CREATE, PROMPT, DETAILS, DETAILS, GET]),
        (ForgetsTheEnd, [CREATE, END, GET, LATER, PRUNE, GET, LIST]),
        (DeleteComesUndone, [CREATE, DELETE, LIST, GET]),
        (PrunesNothing, [CREATE, END, LATER, PRUNE, GET, LIST]),
        (AcceptsAnyTitle, [CREATE, CREATE_T, TITLE_T, TITLE, GET, LIST]),
        (FailsForNoReason, [CREATE, APPLE, MESSAGES, COUNTERS, GET]),
        (AddsWhereItShouldSet, [CREATE, TOKENS, TOKENS, GET, TOKENS, LIST]),
        (Reverses, [CREATE, APPLE, PEAR, MESSAGES, MESSAGES, COUNTERS]),
    ],
)
def test_one_broken_promise_is_accused_once(culprit: type[Plain], calls: list[Call]) -> None:
    """After an anomaly the model goes on from what was observed, and accuses of nothing more."""
    assert len(judge(culprit(), *calls).anomalies) == 1


def test_tokens_of_an_unknown_session_may_create_it() -> None:
    class Creates(Plain):
        def set_tokens(self, session: str, *counts: Any, **more: Any) -> None:
            self.create(session, "unknown")
            super().set_tokens(session, *counts, **more)

    assert judge(Creates(), TOKENS, GET).is_valid


def test_unknown_function_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="state-db has no function 'vacuum'"):
        StateDbModel().step(State(), Operation(0, "vacuum", {}, Outcome.OK, 0, 1))
