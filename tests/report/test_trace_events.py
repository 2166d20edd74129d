"""Tests of trace events: each operation is one event, and the proof is marked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import promises
from harness.core.history import FaultInterval, History, Operation
from harness.core.verdict import Anomaly
from harness.report import trace_events
from tests.report.test_timeline import OPERATIONS, append


def events_of(history: History, anomaly: Anomaly) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(trace_events.render(history, anomaly))["traceEvents"]
    return events


@given(st.lists(OPERATIONS, min_size=1), st.data())
def test_each_operation_is_an_event(operations: list[Operation], data: st.DataObject) -> None:
    """In microseconds, none of negative length, on the track of its process."""
    evidence = tuple(data.draw(st.lists(st.sampled_from(operations), min_size=1, max_size=5)))
    events = events_of(History(tuple(operations)), Anomaly(promises.S2, "lost", evidence))

    drawn = [event for event in events if event["ph"] == "X"]
    assert sorted((event["tid"], round(event["ts"] * 1e3)) for event in drawn) == sorted(
        (operation.process, operation.invoked_ns) for operation in operations
    )
    assert all(event["dur"] >= 0 for event in drawn)
    assert {event["cat"] == "proof" for event in drawn if "step" in event["args"]} == {True}


def test_lost_replies_last_to_the_end() -> None:
    lost, read = append(0, "x", 1_000), append(1, "y", 2_000, 9_000)
    history = History((lost, read), (FaultInterval("kill", 4_000, None),))

    events = {e["name"]: e for e in events_of(history, Anomaly(promises.S2, "lost", (read,)))}

    assert (events["kill"]["ts"], events["kill"]["dur"]) == (4.0, 5.0)
    drawn = events_of(history, Anomaly(promises.S2, "lost", (read,)))
    (first, second) = [event for event in drawn if event["name"] == "append"]
    assert (first["ts"], first["dur"], first["cat"]) == (1.0, 8.0, "info")
    assert (second["cat"], second["args"]["step"]) == ("proof", 1)


def test_of_a_long_history_the_nearest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof always."""
    monkeypatch.setattr(trace_events, "OPERATIONS_MAX", 2)
    first, *others = [append(0, "x", at, at + 1) for at in range(0, 100_000, 10_000)]
    anomaly = Anomaly(promises.S2, "lost", (first, others[-1]))

    events = events_of(History((first, *others)), anomaly)

    shown = [event["ts"] for event in events if event["ph"] == "X"]
    assert shown == [0.0, 80.0, 90.0]
