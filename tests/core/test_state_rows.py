"""Tests of the rows that show what a model knows: changed parts first, bounded, in few words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from harness.core.state_rows import ABSENT, ROWS_MAX, VALUE_CHARS_MAX, StateRow, state_rows


@dataclass(frozen=True)
class Session:
    name: str
    title: str = "Untitled"
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    sessions: tuple[Session, ...] = ()
    by_id: tuple[tuple[str, int], ...] = ()
    deleted: frozenset[str] = frozenset()
    clock: int = 0


LONG = "a long title of a session, which is taken apart"
TWO = State((Session("a", LONG), Session("b", LONG, ("one",))), clock=4)


def paths(rows: tuple[StateRow, ...]) -> list[str]:
    return [row.path for row in rows]


def test_changed_parts_come_first_by_their_path() -> None:
    """In words that lead to the part; what did not change is short, and empty parts are none."""
    named = replace(TWO.sessions[1], title="Named")
    after = replace(TWO, sessions=(TWO.sessions[0], named), clock=5)

    rows = state_rows(TWO, after, {})

    assert list(map(str, rows)) == [
        f"sessions[b].title: {LONG!r} -> 'Named'",
        "clock: 4 -> 5",
        f"sessions[a]: Session(name='a', title={LONG!r})",
        "sessions[b].name: 'b'",
        "sessions[b].messages: ('one')",
    ]


def test_part_that_the_call_names_is_shown_whole() -> None:
    """Another one is one row."""
    rows = state_rows(TWO, TWO, {"path": "/api/session?session_id=b"})

    assert paths(rows)[:3] == ["sessions[b].name", "sessions[b].title", "sessions[b].messages"]
    assert paths(rows)[3:] == ["sessions[a]", "clock"]
    assert not any(row.is_changed for row in rows)


def test_unknown_answer_leaves_no_state_after() -> None:
    """Nothing is said of what would have been."""
    rows = state_rows(TWO, None, {})

    assert {row.after for row in rows} == {None}


def test_part_that_comes_or_goes_is_absent() -> None:
    """By the key that pairs have."""
    rows = state_rows(State(by_id=(("x", 1),)), State(by_id=(("y", 2),)), {})[:2]

    assert list(map(str, rows)) == [f"by_id[x]: 1 -> {ABSENT}", f"by_id[y]: {ABSENT} -> 2"]


@pytest.mark.parametrize("state", [3, "text", None, (1, 2)])
def test_plain_state_is_one_row(state: object) -> None:
    """Such as that of a register."""
    (row,) = state_rows(state, "other", {})

    assert row == StateRow("state", repr(state), "'other'")


def test_large_state_stays_small() -> None:
    """Few rows with short values, and the change is among them."""
    many = State(tuple(Session(f"s{n}", "x" * 5_000, ("m",) * 500) for n in range(500)))
    after = replace(many, clock=1)

    rows = state_rows(many, after, {"session": "s7"})

    assert len(rows) == ROWS_MAX
    assert all(len(row.before) <= VALUE_CHARS_MAX for row in rows)
    assert rows[0] == StateRow("clock", "0", "1")


def test_row_survives_its_document() -> None:
    """With and without a state after."""
    for row in (StateRow("a", "1", "2"), StateRow("a", "1")):
        assert StateRow.from_json(row.to_json()) == row
