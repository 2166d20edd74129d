"""Renders the operations around a failure as trace events, which Perfetto and Chrome open.

The format is the JSON object of the Trace Event Format: a complete event ("X") for each operation,
in microseconds, on a track for each process of the history; faults are on tracks of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from harness.core.history import FaultInterval, History, Operation
from harness.core.text import shortened
from harness.core.verdict import Anomaly

OPERATIONS_MAX = 20_000  # those of the proof, and the nearest to it
CLIENTS, FAULTS = 1, 2  # process numbers of the two groups of tracks
NS_PER_US = 1e3


def render(episode: History, anomaly: Anomaly) -> str:
    """Render an episode with an anomaly. The proof has the category "proof" and its step numbers.

    An operation without a reply lasts until the last moment that is known.
    """
    steps = {_key(operation): number for number, operation in enumerate(anomaly.evidence, start=1)}
    shown = _nearest(episode, anomaly)
    moments = [op.completed_ns or op.invoked_ns for op in shown]
    moments += [fault.healed_ns or fault.began_ns for fault in episode.faults]
    ended_ns = max(moments, default=0)
    events = [*_names(shown, episode.faults)]
    events += [_operation(op, steps.get(_key(op)), ended_ns) for op in shown]
    for number, fault in enumerate(episode.faults):
        healed_ns = fault.healed_ns or ended_ns
        events.append(_event(fault.name, FAULTS, number, fault.began_ns, healed_ns))
    document = {
        "displayTimeUnit": "ms",
        "otherData": {
            "promise": anomaly.promise.id,
            "message": shortened(anomaly.message),
            "operations": f"{len(shown)} of {len(episode)}",
        },
        "traceEvents": events,
    }
    return json.dumps(document) + "\n"


def _nearest(episode: History, anomaly: Anomaly) -> list[Operation]:
    """The proof, and the operations that began nearest to its last one."""
    middle_ns = anomaly.evidence[-1].invoked_ns if anomaly.evidence else 0
    every = sorted(episode, key=lambda operation: abs(operation.invoked_ns - middle_ns))
    near = every[:OPERATIONS_MAX]
    keys = {_key(operation) for operation in near}
    missing = [operation for operation in anomaly.evidence if _key(operation) not in keys]
    return sorted([*near, *missing], key=lambda operation: operation.invoked_ns)


def _key(operation: Operation) -> tuple[int, int, str]:
    """What tells operations apart: a process makes one call at a time."""
    return operation.process, operation.invoked_ns, operation.function


def _operation(operation: Operation, step: int | None, ended_ns: int) -> dict[str, Any]:
    completed_ns = operation.completed_ns or ended_ns
    said = {"operation": shortened(str(operation)), "outcome": str(operation.outcome)}
    event = _event(
        operation.function, CLIENTS, operation.process, operation.invoked_ns, completed_ns
    )
    event["cat"] = str(operation.outcome) if step is None else "proof"
    event["args"] = said if step is None else {"step": step, **said}
    return event


def _event(name: str, group: int, track: int, began_ns: int, ended_ns: int) -> dict[str, Any]:
    return {
        "name": name,
        "cat": "fault",
        "ph": "X",
        "pid": group,
        "tid": track,
        "ts": began_ns / NS_PER_US,
        "dur": max(0, ended_ns - began_ns) / NS_PER_US,
        "args": {},
    }


def _names(shown: Iterable[Operation], faults: Iterable[FaultInterval]) -> Iterator[dict[str, Any]]:
    """Metadata events, by which viewers name the tracks."""
    yield _name("process_name", CLIENTS, 0, "operations")
    for process in sorted({operation.process for operation in shown}):
        yield _name("thread_name", CLIENTS, process, f"process {process}")
    if faults:
        yield _name("process_name", FAULTS, 0, "faults")


def _name(kind: str, group: int, track: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": group, "tid": track, "args": {"name": name}}
