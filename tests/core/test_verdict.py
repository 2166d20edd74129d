"""A verdict has three values, the worst wins, and it survives being written down."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UnknownPromiseError
from harness.core.history import Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import VALID, Anomaly, Assumption, Validity, Verdict, merge

RESULTS = st.none() | st.integers() | st.text(max_size=3)
OPERATIONS = st.builds(
    Operation,
    process=st.integers(0, 2),
    function=st.sampled_from(["append", "read"]),
    argument=RESULTS,
    outcome=st.sampled_from(Outcome),
    invoked_ns=st.integers(0, 9),
    completed_ns=st.none() | st.integers(0, 9),
    result=RESULTS,
    error=st.text(max_size=3),
)
ANOMALIES = st.builds(
    Anomaly,
    promise=st.sampled_from(Promise),
    message=st.text(max_size=5),
    evidence=st.lists(OPERATIONS, max_size=2).map(tuple),
    name=st.sampled_from(["", "lost-write"]),
    accepted=st.lists(RESULTS, max_size=2).map(tuple),
    also=st.lists(st.sampled_from(Promise), max_size=2).map(tuple),
)
ASSUMPTIONS = st.builds(
    Assumption,
    name=st.sampled_from(["writes", "evictions", "kills"]),
    observed=st.integers(0, 3),
    needed=st.integers(0, 4),
)
VERDICTS = st.builds(
    Verdict,
    anomalies=st.lists(ANOMALIES, max_size=1).map(tuple),
    assumptions=st.lists(ASSUMPTIONS, max_size=2, unique_by=lambda met: met.name).map(tuple),
    unknowns=st.lists(st.text(max_size=3), max_size=1).map(tuple),
)

UNMET = Assumption("kills", observed=0)
ANOMALY = Anomaly(Promise.D1, "gone", evidence=(), name="lost-write")


@pytest.mark.parametrize(
    ("verdict", "validity"),
    [
        (VALID, Validity.VALID),
        (Verdict(assumptions=(Assumption("kills", 1),)), Validity.VALID),
        (Verdict(assumptions=(UNMET,)), Validity.UNKNOWN),
        (Verdict(unknowns=("out of memory",)), Validity.UNKNOWN),
        (Verdict(anomalies=(ANOMALY,)), Validity.INVALID),
        (Verdict((ANOMALY,), (UNMET,), ("out of memory",)), Validity.INVALID),
    ],
)
def test_a_proof_is_invalid_and_a_gap_unknown(verdict: Verdict, validity: Validity) -> None:
    """An anomaly is a proof, whatever else is missing; without one a gap is unknown."""
    assert verdict.validity is validity
    assert verdict.is_valid == (validity is Validity.VALID)


def test_exit_codes_tell_the_three_apart() -> None:
    """0 valid, 1 invalid, 2 unknown."""
    codes = {str(validity): validity.exit_code for validity in Validity}

    assert codes == {"valid": 0, "invalid": 1, "unknown": 2}


@given(st.lists(VERDICTS, max_size=4))
def test_nothing_is_lost_by_merging(verdicts: Sequence[Verdict]) -> None:
    """The parts' anomalies and unknowns are the whole's, in order."""
    merged = merge(verdicts)

    chain = itertools.chain.from_iterable
    assert merged.anomalies == tuple(chain(verdict.anomalies for verdict in verdicts))
    assert merged.unknowns == tuple(chain(verdict.unknowns for verdict in verdicts))


@given(VERDICTS, VERDICTS, VERDICTS)
def test_merging_is_associative(first: Verdict, second: Verdict, third: Verdict) -> None:
    """However the work was split, it comes to the same verdict."""
    assert merge([merge([first, second]), third]) == merge([first, merge([second, third])])
    assert merge([first, second, third]) == merge([first, merge([second, third])])


@given(VERDICTS)
def test_merging_with_nothing_changes_nothing(verdict: Verdict) -> None:
    """The empty merge is valid and neutral."""
    assert merge([]) == VALID
    assert merge([verdict, VALID]) == merge([VALID, verdict]) == verdict


@given(st.lists(VERDICTS, max_size=4))
def test_the_worst_wins(verdicts: Sequence[Verdict]) -> None:
    """A proof anywhere is a proof. What one part did not meet, another may have."""
    merged = merge(verdicts).validity
    worst = max((verdict.validity for verdict in verdicts), default=Validity.VALID)

    assert (merged is Validity.INVALID) == (worst is Validity.INVALID)
    if any(verdict.unknowns for verdict in verdicts):
        assert merged is not Validity.VALID
    if all(verdict.assumptions == () for verdict in verdicts):
        assert merged is worst


@given(st.lists(ASSUMPTIONS, min_size=1, max_size=5))
def test_assumptions_of_one_name_add_up(assumptions: Sequence[Assumption]) -> None:
    """What happened is counted over all parts; what is needed is the most that any part needs."""
    merged = merge(Verdict(assumptions=(assumption,)) for assumption in assumptions)

    for name in {assumption.name for assumption in assumptions}:
        same = [assumption for assumption in assumptions if assumption.name == name]
        observed = sum(assumption.observed for assumption in same)
        needed = max(assumption.needed for assumption in same)
        assert Assumption(name, observed, needed) in merged.assumptions
    assert len(merged.assumptions) == len({assumption.name for assumption in assumptions})


@given(VERDICTS)
def test_a_verdict_survives_json(verdict: Verdict) -> None:
    """What is stored is what was found."""
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_an_anomaly_of_an_unknown_promise_is_not_read() -> None:
    """A stored verdict that names no promise of ours is a wrong question, not a verdict."""
    stored = {**ANOMALY.to_json(), "promise": "L99"}

    with pytest.raises(UnknownPromiseError, match="L99"):
        Anomaly.from_json(stored)


def test_an_anomaly_breaks_every_promise_that_it_names() -> None:
    """The one it is about, and those that the same evidence breaks."""
    anomaly = Anomaly(Promise.L4, "stolen", also=(Promise.L3,))

    assert anomaly.promises == {Promise.L3, Promise.L4}
