"""Tests of what the terminals of a checkout show, and leave behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from harness.engine.http import Event, StatusError
from harness.targets.hermes_webui import terminals
from harness.targets.hermes_webui.terminals import ENDINGS, Terminal, Terminals

EXITS, LEFT, TWO = "a shell that exits", "a shell that was left", "two readers of a terminal"
PRINTED = Event("1", "output", {"text": "$ word"})
CLOSED = Event("2", "terminal_closed", {})


@pytest.fixture
def beside() -> Any:
    """The terminals of a server that does not exist."""
    beside: Any = Terminals(SimpleNamespace(port=1), 1, "", lambda: "word")  # type: ignore[arg-type]
    beside._patience_s = 0.0
    return beside


@pytest.mark.parametrize(
    ("kind", "others", "problem"),
    [(EXITS, [], ""), (TWO, [], "lost text, for 1"), (TWO, [PRINTED], "")],
)
def test_each_reader_sees_what_is_typed(
    beside: Any, kind: str, others: list[Event], problem: str
) -> None:
    """If it is one of two, too."""
    terminal = Terminal(kind, "s", "word", [PRINTED], others)

    assert beside._unshown(terminal).partition(":")[0] == problem


@pytest.mark.parametrize(
    ("kind", "events", "is_closed", "problem"),
    [
        (EXITS, [PRINTED, CLOSED], True, ""),
        (EXITS, [PRINTED], True, "no end"),
        (EXITS, [PRINTED, CLOSED], False, "it stays open"),
        (LEFT, [PRINTED], False, ""),
    ],
)
def test_terminal_has_an_end(
    beside: Any, kind: str, events: list[Event], problem: str, *, is_closed: bool
) -> None:
    """For each reader that has not left."""
    terminal = Terminal(kind, "s", "word", events, is_closed=is_closed)

    assert beside._unended(terminal).partition(":")[0] == problem


def test_what_terminals_leave_is_seen(beside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of a kind as there were terminals; less may have begun meanwhile."""
    sizes = {"fds": 3, "threads": 2}
    process = SimpleNamespace(children=lambda **_: [])
    monkeypatch.setattr(terminals, "ask_probe", lambda *_: sizes)
    monkeypatch.setattr(psutil, "Process", lambda _: process)
    before = beside._held()
    assert beside._more_than(before) == ""

    sizes["threads"] += terminals.COUNT - 1
    assert beside._more_than(before) == ""
    sizes["fds"] += terminals.COUNT
    assert beside._more_than(before) == "descriptors stay: every terminal is over"


def test_terminal_that_is_refused_is_seen(beside: Any) -> None:
    """Each kind has its facts."""

    def refuse(kind: str) -> Terminal:
        if kind == TWO:
            raise StatusError("POST /path", 404, {})
        return Terminal(kind, "s", "word", [PRINTED, CLOSED], is_closed=True)

    beside._use, beside._held, beside._more_than = refuse, dict, lambda _: ""
    facts = beside.facts()

    assert {name for name, problem in facts.items() if problem} == {f"{TWO}: shown"}
    assert len(facts) == 3 * len(ENDINGS) - 1
