"""Tests that recorded histories of other projects get their known verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.checkers.linearizability import linearizable
from harness.contract import promises
from harness.core.verdict import Validity
from harness.models.key_value import KeyValue, key
from harness.models.register import Register
from tests.support import recorded_histories as recorded
from tests.support.simulated_histories import in_order

REGISTER = linearizable(Register(promises.D1), promises.D1)
STORE = linearizable(KeyValue(promises.D1), promises.D1)
STORE_BY_KEY = linearizable(KeyValue(promises.D1), promises.D1, partition=key)


@pytest.fixture
def histories() -> Path:
    """The folder with the recorded histories."""
    if recorded.FOLDER is None:
        pytest.skip(f"no recorded histories: {recorded.VARIABLE} is not set to a folder")
    return recorded.FOLDER


def expected(is_linearizable: bool) -> Validity:  # noqa: FBT001 - it is what the folder says
    return Validity.VALID if is_linearizable else Validity.INVALID


def test_etcd_logs_get_their_known_verdicts(histories: Path) -> None:
    logs = dict(recorded.etcd_logs(histories))

    verdicts = {path: REGISTER(recorded.etcd(path)).validity for path in logs}

    assert logs
    assert verdicts == {path: expected(known) for path, known in logs.items()}


def test_evidence_of_etcd_is_short_and_sufficient(histories: Path) -> None:
    """At most fifteen of eighty operations, which are invalid by themselves."""
    for path, _ in recorded.etcd_logs(histories):
        for anomaly in REGISTER(recorded.etcd(path)).anomalies:
            assert len(anomaly.evidence) <= 15
            assert REGISTER(in_order(anomaly.evidence)).validity is Validity.INVALID


def test_store_logs_get_their_known_verdicts(
    histories: Path,
) -> None:
    """By key and as a whole; histories of fifty clients only by key."""
    logs = dict(recorded.key_value_logs(histories))
    fewer = [path for path in logs if not path.stem.startswith("c50")]

    by_key = {path: STORE_BY_KEY(recorded.key_value(path)).validity for path in logs}
    whole = {path: STORE(recorded.key_value(path)).validity for path in fewer}

    assert logs
    assert by_key == {path: expected(known) for path, known in logs.items()}
    assert whole == {path: expected(logs[path]) for path in fewer}
