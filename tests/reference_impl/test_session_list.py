"""Tests of the session list: always current, and computed as rarely as possible."""

from __future__ import annotations

import json
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reference_impl.sessions.list import SessionList, shown

IDS = st.sampled_from("abcd")
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("title"), IDS, st.text(max_size=3)),
        st.tuples(st.just("stream"), IDS, st.none() | st.text("0123456789abcdef", min_size=1)),
        st.tuples(st.just("gone"), IDS, st.none()),
    ),
    max_size=12,
)


@given(CHANGES)
def test_list_equals_the_rows_after_changes(changes: list[tuple[str, str, Any]]) -> None:
    """S11: after any change the list has each session once, in order, with its current row."""
    rows: dict[str, dict[str, Any]] = {}
    streams: dict[str, str | None] = {}
    listed = SessionList(lambda: list(rows.values()), streams.get)
    for what, sid, value in changes:
        if what == "title":
            rows[sid] = {"session_id": sid, "title": value}
        elif what == "stream":
            streams[sid] = value
        else:
            rows.pop(sid, None)
        now = listed.now()
        assert json.loads(now.rows) == [shown(row, streams.get(sid)) for sid, row in rows.items()]
        assert now.number == len(listed) == len(rows)


def test_concurrent_requests_share_a_later_list() -> None:
    """S11: no response is older than its request, and all waiters share one list.

    making   |--- first ---|--- second ---|
    change       x
    callers        |||| ------------------> all from the second
    """
    rows: list[dict[str, Any]] = []
    begun: list[int] = []
    is_begun, may_end = threading.Event(), threading.Event()

    def slow_rows() -> list[dict[str, Any]]:
        begun.append(len(rows))
        now = list(rows)
        if len(begun) == 1:
            is_begun.set()
            may_end.wait()
        return now

    listed = SessionList(slow_rows, lambda _: None)
    numbers: list[int] = []

    def request() -> None:
        numbers.append(listed.now().number)

    first = threading.Thread(target=request)
    first.start()
    is_begun.wait()
    rows.append({"session_id": "new"})
    others = [threading.Thread(target=request) for _ in range(8)]
    for thread in others:
        thread.start()
    may_end.set()
    for thread in [first, *others]:
        thread.join()
    assert sorted(numbers) == [0] + [1] * 8
    assert len(begun) >= 2, "expected a second list, which has the change"
