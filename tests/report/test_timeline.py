"""The timeline shows what a person needs to see, whatever was said in it."""

from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st

from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.promises import Promise
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
def test_every_step_of_the_evidence_can_be_read(
    operations: list[Operation], data: st.DataObject
) -> None:
    """As it was said, and never as markup."""
    evidence = tuple(data.draw(st.lists(st.sampled_from(operations), min_size=1, max_size=5)))

    page = timeline.render(History(tuple(operations)), Anomaly(Promise.S2, "lost", evidence), LINE)

    for operation in evidence:
        assert str(operation) in html.unescape(page)


def test_a_script_in_a_message_is_only_a_message() -> None:
    """A page about hostile input must not run it."""
    hostile = append(0, "<script>alert(1)</script>", 0, 10)
    anomaly = Anomaly(Promise.S2, "<script>", (hostile,))

    page = timeline.render(History((hostile,)), anomaly, LINE)

    assert "<script>" not in page


def test_a_fault_is_a_band_over_what_it_met_and_only_there() -> None:
    """What was over before the evidence is left out.

    C0:  |-- append --|
    kill:      |---- ...
    pause, long before, is not drawn
    """
    met = append(0, "x", 5_000, 9_000)
    faults = (FaultInterval("pause", 0, 10), FaultInterval("kill", 6_000))

    page = timeline.render(History((met,), faults), Anomaly(Promise.S2, "lost", (met,)), LINE)

    assert "kill" in page
    assert "pause" not in page


def test_a_crowd_is_cut_down_to_what_can_be_looked_at_evidence_first() -> None:
    """The evidence lies at both ends, and a thousand others between."""
    crowd = tuple(append(number % 50, f"{number}", number, number + 1) for number in range(1000))
    ends = (crowd[0], crowd[-1])

    page = timeline.render(History(crowd), Anomaly(Promise.S2, "lost", ends), LINE)

    assert page.count('<rect class="proof"') == len(ends)
    assert f"{timeline.SHOWN_MAX} of 1000" in page


def test_what_one_hand_did_alone_needs_no_picture() -> None:
    """A numbered list says it better; so does a story."""
    alone, other = append(0, "x", 0, 1), append(1, "y", 0, 1)
    lost = Anomaly(Promise.S2, "lost", (alone,))

    assert not timeline.is_worth_it(History((alone,)), lost)
    assert not timeline.is_worth_it(History((alone, other), notes={"story": "..."}), lost)
    assert timeline.is_worth_it(History((alone, other)), lost)
    assert timeline.is_worth_it(History((alone,), (FaultInterval("kill", 0),)), lost)
