"""Draws what each thread or task calls, so that Hypothesis searches and shrinks programs of calls.

The explorer searches the schedules of one program; Hypothesis searches programs, and shrinks the
calls of one that fails. Both repeat themselves, so a failure is replayed by running the test again.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from harness.schedule import Call

Calls = tuple[tuple[Call, ...], ...]


def conversations(
    calls: st.SearchStrategy[Call] | Sequence[Call], *, processes: int = 3, length: int = 2
) -> st.SearchStrategy[Calls]:
    """Draw the calls of two to `processes` threads or tasks, each of at most `length` calls.

    `calls` draws one call, or lists them all. The result is for `Operations(threads=...)`.
    """
    call = calls if isinstance(calls, st.SearchStrategy) else st.sampled_from(list(calls))
    sequence = st.lists(call, min_size=1, max_size=length).map(tuple)
    return st.lists(sequence, min_size=2, max_size=processes).map(tuple)
