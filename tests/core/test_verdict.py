"""Tests of verdicts: three values, of which the worst wins a merge, and their JSON form."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import promises
from harness.contract.promises import SESSION_SERVER
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.verdict import VALID, Anomaly, ExpectationCount, Validity, Verdict, merge

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
    promise=st.sampled_from(SESSION_SERVER.promises),
    message=st.text(max_size=5),
    evidence=st.lists(OPERATIONS, max_size=2).map(tuple),
    name=st.sampled_from(["", "lost-write"]),
    accepted=st.lists(RESULTS, max_size=2).map(tuple),
    also=st.lists(st.sampled_from(SESSION_SERVER.promises), max_size=2).map(tuple),
)
EXPECTATIONS = st.builds(
    ExpectationCount,
    name=st.sampled_from(["writes", "evictions", "kills"]),
    observed=st.integers(0, 3),
    needed=st.integers(0, 4),
)
VERDICTS = st.builds(
    Verdict,
    anomalies=st.lists(ANOMALIES, max_size=1).map(tuple),
    expectations=st.lists(EXPECTATIONS, max_size=2, unique_by=lambda met: met.name).map(tuple),
    unknowns=st.lists(st.text(max_size=3), max_size=1).map(tuple),
)

UNMET = ExpectationCount("kills", observed=0)
ANOMALY = Anomaly(promises.D1, "gone", evidence=(), name="lost-write")


@pytest.mark.parametrize(
    ("verdict", "validity"),
    [
        (VALID, Validity.VALID),
        (Verdict(expectations=(ExpectationCount("kills", 1),)), Validity.VALID),
        (Verdict(expectations=(UNMET,)), Validity.UNKNOWN),
        (Verdict(unknowns=("out of memory",)), Validity.UNKNOWN),
        (Verdict(anomalies=(ANOMALY,)), Validity.INVALID),
        (Verdict((ANOMALY,), (UNMET,), ("out of memory",)), Validity.INVALID),
    ],
)
def test_anomaly_is_invalid_and_gap_is_unknown(verdict: Verdict, validity: Validity) -> None:
    """An anomaly is a proof, also beside a gap; without one a gap is unknown."""
    assert verdict.validity is validity
    assert verdict.is_valid == (validity is Validity.VALID)


def test_each_validity_has_its_exit_code() -> None:
    """0 valid, 1 invalid, 2 unknown."""
    codes = {str(validity): validity.exit_code for validity in Validity}

    assert codes == {"valid": 0, "invalid": 1, "unknown": 2}


@given(st.lists(VERDICTS, max_size=4))
def test_merge_keeps_anomalies_and_unknowns(verdicts: Sequence[Verdict]) -> None:
    """The merged verdict has the anomalies and unknowns of all parts, in order."""
    merged = merge(verdicts)

    chain = itertools.chain.from_iterable
    assert merged.anomalies == tuple(chain(verdict.anomalies for verdict in verdicts))
    assert merged.unknowns == tuple(chain(verdict.unknowns for verdict in verdicts))


@given(VERDICTS, VERDICTS, VERDICTS)
def test_merge_is_associative(first: Verdict, second: Verdict, third: Verdict) -> None:
    """Every split of the work gives the same verdict."""
    assert merge([merge([first, second]), third]) == merge([first, merge([second, third])])
    assert merge([first, second, third]) == merge([first, merge([second, third])])


@given(VERDICTS)
def test_merge_with_valid_changes_nothing(verdict: Verdict) -> None:
    """The empty merge is valid and neutral."""
    assert merge([]) == VALID
    assert merge([verdict, VALID]) == merge([VALID, verdict]) == verdict


@given(st.lists(VERDICTS, max_size=4))
def test_merge_has_the_worst_validity(verdicts: Sequence[Verdict]) -> None:
    """An anomaly of any part is invalid; one part may meet the assumption of another."""
    merged = merge(verdicts).validity
    worst = max((verdict.validity for verdict in verdicts), default=Validity.VALID)

    assert (merged is Validity.INVALID) == (worst is Validity.INVALID)
    if any(verdict.unknowns for verdict in verdicts):
        assert merged is not Validity.VALID
    if all(verdict.expectations == () for verdict in verdicts):
        assert merged is worst


@given(st.lists(EXPECTATIONS, min_size=1, max_size=5))
def test_expectations_of_one_name_add_up(expectations: Sequence[ExpectationCount]) -> None:
    """The counts add up; the need is the largest of any part."""
    merged = merge(Verdict(expectations=(expectation,)) for expectation in expectations)

    for name in {expectation.name for expectation in expectations}:
        same = [expectation for expectation in expectations if expectation.name == name]
        observed = sum(expectation.observed for expectation in same)
        needed = max(expectation.needed for expectation in same)
        assert ExpectationCount(name, observed, needed) in merged.expectations
    assert len(merged.expectations) == len({expectation.name for expectation in expectations})


@given(VERDICTS)
def test_verdict_equals_its_json_round_trip(verdict: Verdict) -> None:
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_stored_anomaly_keeps_the_promise_of_another_contract() -> None:
    """A stored verdict is read without its contract, with the sentence that it stores."""
    foreign = Promise("X99", "A sentence of another contract.", "another family")
    stored = replace(ANOMALY, promise=foreign).to_json()

    read = Anomaly.from_json(stored).promise
    assert (read.id, read.sentence, read.family) == (foreign.id, foreign.sentence, foreign.family)


def test_anomaly_breaks_all_promises_that_it_names() -> None:
    """Its own promise, and those in `also`."""
    anomaly = Anomaly(promises.L4, "stolen", also=(promises.L3,))

    assert anomaly.promises == {promises.L3, promises.L4}
