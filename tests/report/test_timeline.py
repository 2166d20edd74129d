"""Tests of the timeline: it shows the evidence, for any text in it."""

from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st

from harness.contract import promises
from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.verdict import Anomaly
from harness.report import timeline

LINE = "harness replay failure.json"


def append(process: int, text: str, began_ns: int, ended_ns: int | None = None) -> Operation:
    outcome = Outcome.INFO if ended_ns is None else Outcome.OK
    return Operation(process, "append", {"text": text}, outcome, began_ns, ended_ns)


TIMES = st.integers(0, 10**12)
OPERATIONS = st.builds(
    lambda process, text, began, lasted: append(
        process, text, began, None if lasted is None else began + lasted
    ),
    st.integers(0, 9),
    st.text(),
    TIMES,
    st.none() | TIMES,
)


@given(st.lists(OPERATIONS, min_size=1), st.data())
def test_the_page_shows_every_step_of_evidence(
    operations: list[Operation], data: st.DataObject
) -> None:
    """As text, never as markup."""
    evidence = tuple(data.draw(st.lists(st.sampled_from(operations), min_size=1, max_size=5)))

    page = timeline.render(History(tuple(operations)), Anomaly(promises.S2, "lost", evidence), LINE)

    for operation in evidence:
        assert str(operation) in html.unescape(page)


def test_the_page_names_expected_and_observed() -> None:
    """Below the promise's sentence."""
    read = append(0, "x", 0, 10)
    anomaly = Anomaly(promises.S2, "lost", (read,), expected="3 messages", observed="2 < 3")

    page = html.unescape(timeline.render(History((read,)), anomaly, LINE))

    assert promises.S2.sentence in page
    assert "expected: <code>3 messages</code>" in page
    assert "observed: <code>2 < 3</code>" in page


def test_a_script_in_a_message_is_text() -> None:
    """A page about hostile input does not run it."""
    hostile = append(0, "<script>alert(1)</script>", 0, 10)
    anomaly = Anomaly(promises.S2, "<script>", (hostile,))

    page = timeline.render(History((hostile,)), anomaly, LINE)

    assert "<script>" not in page


def test_a_fault_is_drawn_near_the_evidence() -> None:
    """A fault that was healed before the evidence is left out.

    C0:  |-- append --|
    kill:      |---- ...
    pause, long before, is not drawn
    """
    met = append(0, "x", 5_000, 9_000)
    faults = (FaultInterval("pause", 0, 10), FaultInterval("kill", 6_000))

    page = timeline.render(History((met,), faults), Anomaly(promises.S2, "lost", (met,)), LINE)

    assert "kill" in page
    assert "pause" not in page


def test_a_long_history_is_cut_to_the_nearest() -> None:
    """The evidence comes first; here it lies at both ends of a thousand operations."""
    operations = tuple(
        append(number % 50, f"{number}", number, number + 1) for number in range(1000)
    )
    ends = (operations[0], operations[-1])

    page = timeline.render(History(operations), Anomaly(promises.S2, "lost", ends), LINE)

    assert page.count('<rect class="proof"') == len(ends)
    assert f"{timeline.SHOWN_MAX} of 1000" in page


def test_one_process_without_fault_has_no_timeline() -> None:
    """The numbered list shows it better; so does the story of a schedule."""
    alone, other = append(0, "x", 0, 1), append(1, "y", 0, 1)
    lost = Anomaly(promises.S2, "lost", (alone,))

    assert not timeline.is_useful(History((alone,)), lost)
    assert not timeline.is_useful(History((alone, other), notes={"story": "..."}), lost)
    assert timeline.is_useful(History((alone, other)), lost)
    assert timeline.is_useful(History((alone,), (FaultInterval("kill", 0),)), lost)
