"""Tests of what lies on the disk of a checkout before its server boots."""

from __future__ import annotations

import pytest

from harness.targets.hermes_webui.stored_cases import FILES, ROWS, Case, Talks, cases
from harness.targets.server.shapes import rows_of

CASES = {case.name: case for case in cases(Talks(0.0))}


def test_names_differ() -> None:
    """A finding is named by its case."""
    assert len(CASES) == len([*cases(Talks(0.0))])
    assert {f"file {file}, rows whole" for file in FILES} <= {*CASES}
    assert {f"file whole, rows {rows}" for rows in ROWS} <= {*CASES}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case_is_kept_in_a_place(case: Case) -> None:
    """What must be shown is in a file, a row, a backup, a journal, or in the text that waits."""
    kept = [*(case.messages or ()), *case.rows, *(case.backup or ()), *(case.journal or ())]
    kept += CASES[case.parent].rows if case.parent else []
    waiting = case.fields.get("pending_user_message")
    places = {text for _, text in rows_of(kept)} | {waiting}

    assert case.shown
    assert {text for _, text in case.shown} <= places


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_times_of_rows_increase(case: Case) -> None:
    """A database has its rows in the order in which they were written."""
    times = [row["timestamp"] for row in case.rows]

    assert times == sorted(times)


def test_parents_come_first() -> None:
    """A case may name only one whose id is known."""
    names = [*CASES]
    for number, case in enumerate(CASES.values()):
        assert not case.parent or case.parent in names[:number]
