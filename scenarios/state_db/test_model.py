"""Scenario of any sequence of database calls against the model of the database."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.state_db import StateDbModel
from harness.core.history import History, Outcome
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

NAMES = ("s1", "s2", "s3", "S1", "s10")  # ids that differ in case only, or share a prefix
SESSIONS = st.sampled_from(["s1", "s1", "s2", *NAMES])  # most calls meet in two of them
TITLES = st.sampled_from(["plans", "notes", None, "Plans", "计划", "", " \t ", " a\n \u200bplan "])
TEXTS = ("alpha", "beta", "计划", "ёлка", "naïve", "100%", "a_b", "it's")
WORDS = st.sampled_from(TEXTS)
QUERIES = st.sampled_from([*TEXTS, "%", "_", "al%", "*", '"', "a*b", "NAIVE", "alph", ""])
DAYS = st.sampled_from([5, 9.9, 10.1, 19.9, 20.1, 1000])
ROLES = st.sampled_from(["user", "assistant", "tool"])
TOKENS = st.integers(0, 1000)


def some(**columns: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any] | None]:
    """Some of these columns, or none."""
    return st.one_of(st.none(), st.fixed_dictionaries({}, optional=columns))


MODELS = st.sampled_from(["small", "large"])
ABOUT = some(
    model=MODELS,
    model_config=st.sampled_from([{"steps": 3}, {"effort": "高", "tools": ["a"]}]),
    system_prompt=st.sampled_from(["be brief", "be exact"]),
    user_id=st.sampled_from(["u1", "u2"]),
    parent_session_id=st.just("s2"),
)
USAGE = some(
    **{f"{name}_tokens": TOKENS for name in ("cache_read", "cache_write", "reasoning")},
    cost_usd=st.integers(0, 8).map(lambda quarters: quarters / 4),
    model=MODELS,
    billing_mode=st.sampled_from(["api", "plan"]),
)
DETAILS = some(
    tool_call_id=st.just("call-0"),
    tool_name=st.sampled_from(["search", "read"]),
    token_count=st.integers(1, 1000),
    finish_reason=st.sampled_from(["stop", "length"]),
    reasoning=st.sampled_from(["so it is", "因此"]),
    reasoning_details=st.just([{"type": "text", "text": "so"}]),
)


class StateDbMachine(Machine):
    """Few sessions, titles and words of any script; sessions grow older by ten days at a time."""

    model = StateDbModel()

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()

    @rule(session=SESSIONS, source=st.sampled_from(["cli", "web"]), about=ABOUT)
    def create(self, session: str, source: str, about: dict[str, Any] | None = None) -> None:
        self.ask("create", session=session, source=source, about=about)

    @rule(
        session=SESSIONS,
        role=ROLES,
        word=WORDS,
        tool_calls=st.sampled_from([0, 1, 2, {"id": "call-0"}]),
        more=DETAILS,
    )
    def append(
        self,
        session: str,
        role: str,
        word: str,
        tool_calls: int | dict[str, str],
        more: dict[str, Any] | None,
    ) -> None:
        text = f"{word} {next(self.numbers)}"
        self.ask("append", session=session, role=role, text=text, tool_calls=tool_calls, more=more)

    @rule(session=SESSIONS, words=st.lists(st.tuples(WORDS, DETAILS), max_size=3))
    def replace(self, session: str, words: list[tuple[str, dict[str, Any] | None]]) -> None:
        messages = [["assistant", f"{word} {next(self.numbers)}"] for word, _ in words]
        more = [columns or {} for _, columns in words]
        self.ask("replace", session=session, messages=messages, more=more)

    @rule(session=SESSIONS)
    def clear(self, session: str) -> None:
        self.ask("clear", session=session)

    @rule(session=SESSIONS, title=TITLES)
    def set_title(self, session: str, title: str | None) -> None:
        self.ask("set_title", session=session, title=title)

    @rule(title=st.sampled_from(["plans", "notes"]))
    def share_title(self, title: str) -> None:
        for session in ("s1", "s2"):
            self.create(session, "cli")
            self.set_title(session, title)

    @rule(session=SESSIONS, word=WORDS)
    def set_system_prompt(self, session: str, word: str) -> None:
        self.ask("set_system_prompt", session=session, text=word)

    @rule(session=SESSIONS, given=TOKENS, made=TOKENS, more=USAGE)
    def add_tokens(self, session: str, given: int, made: int, more: dict[str, Any] | None) -> None:
        self.ask("add_tokens", session=session, input=given + 1, output=made, more=more)

    @rule(session=SESSIONS, given=TOKENS, made=TOKENS, more=USAGE)
    def set_tokens(self, session: str, given: int, made: int, more: dict[str, Any] | None) -> None:
        self.ask("set_tokens", session=session, input=given + 1, output=made, more=more)

    @rule(session=SESSIONS, reason=st.sampled_from(["done", "error"]))
    def end(self, session: str, reason: str) -> None:
        self.ask("end", session=session, reason=reason)

    @rule(session=SESSIONS)
    def reopen(self, session: str) -> None:
        self.ask("reopen", session=session)

    @rule(session=SESSIONS)
    def delete(self, session: str) -> None:
        self.ask("delete", session=session)

    @rule(days=DAYS, source=st.sampled_from([None, None, "cli", "web"]))
    def prune(self, days: float, source: str | None) -> None:
        self.ask("prune", days=days, source=source)

    @rule(session=SESSIONS, days=DAYS)
    def prune_just_ended(self, session: str, days: float) -> None:
        self.create(session, "cli")
        self.ask("advance", days=10)
        self.end(session, "done")
        self.prune(days, None)

    @rule(session=SESSIONS)
    def prune_ended(self, session: str) -> None:
        self.create(session, "cli")
        self.end(session, "done")
        self.ask("advance", days=10)
        self.prune(5, None)

    @rule()
    def reopen_file(self) -> None:
        self.ask("reopen_file")

    @rule(session=SESSIONS)
    def look(self, session: str) -> None:
        self.ask("get", session=session)
        self.ask("messages", session=session)
        self.ask("counters", session=session)
        self.ask("details", session=session)
        self.ask("columns", session=session)

    @rule(word=QUERIES)
    def search(self, word: str) -> None:
        self.ask("search", word=word)

    def finish(self) -> None:
        """Read everything back."""
        self.ask("list")
        for session in NAMES:
            self.look(session)
        for word in TEXTS:
            self.search(word)


def _called(name: str, function: str, result: Any = None) -> Expectation:
    def count(history: History) -> int:
        return sum(op.function == function and op.result == result for op in history)

    return Expectation(name, count)


def _refused(name: str, function: str) -> Expectation:
    def count(history: History) -> int:
        return sum(op.function == function and op.outcome is Outcome.FAIL for op in history)

    return Expectation(name, count)


def _pruned(history: History) -> int:
    return sum(op.function == "prune" and bool(op.result) for op in history)


STATE_DB_MODEL = Scenario(
    name="state-db-model",
    mode=Mode.MODEL,
    ability="state_db",
    promises=(promises.D1, promises.D2, promises.D13),
    workload=explore(StateDbMachine),
    checker=conforms(StateDbMachine.model),
    expectations=(
        _refused("an append to a missing session was refused", "append"),
        _refused("a title in use was refused", "set_title"),
        _called("a session was deleted", "delete", result=True),
        Expectation("an old session was pruned", _pruned),
        _called("the file was opened again", "reopen_file"),
    ),
    examples=80,
)


def test_database_conforms_to_its_model(judge: Judge) -> None:
    """Calls in any order return what the model predicts."""
    assert judge(STATE_DB_MODEL).is_valid
