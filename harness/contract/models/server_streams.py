"""What a reader of a stream is sent, predicted from the visible state of a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.contract import promises
from harness.contract.models.answers import TEXT, Difference, Span, Text, difference
from harness.contract.models.server_answers import (
    ABSENT,
    JSON_HEADERS,
    OK,
    STREAM_TYPE,
    narrowed,
    predicted,
    subject_of,
)
from harness.contract.models.server_values import NOTICES, STARTED, Run, Session, State
from harness.core.contract import Promise
from harness.core.history import Operation
from harness.core.model import Refusal


def refusal(operation: Operation, found: Difference, tested: tuple[Promise, ...]) -> Refusal:
    """That an operation was answered otherwise than the state allows, at one place."""
    first, *also = tested
    return Refusal(
        first,
        f"{operation.call}: another answer than the state of the server allows, at {found.path}",
        also=tuple(dict.fromkeys(also)),
        expected=f"{found.expected}",
        observed=f"{found.observed!r}",
    )


def gap(session: str) -> list[Any]:
    """The snapshot that a session's stream begins with, where notices were not sent."""
    stream, id_ = Text(NOTICES), Text(f"{NOTICES}:[0-9]+")
    data = {"session_id": session, "reason": TEXT, "stream_id": stream, "last_event_id": id_}
    return [id_, "session_snapshot", data]


def stream_read(rows: list[Any], operation: Operation, *, is_over: bool) -> dict[str, Any]:
    """What is read of a stream that has these rows, by its limit of events."""
    limit = operation.argument.get("events", 1000)
    until = operation.argument.get("until", "")
    stop = next((at for at, row in enumerate(rows, 1) if row[1] == until), len(rows) + 1)
    shown = rows[: min(limit, stop)]
    is_closed = is_over and len(rows) < min(limit, stop)
    return {"status": OK, "type": STREAM_TYPE, "events": shown, "closed": is_closed}


def greeted(state: State, operation: Operation, session: Session) -> tuple[State] | Refusal:
    """A client that begins to watch a session gets the present run, and the count that it lacks."""
    query = operation.argument["query"]
    rows: list[list[Any]] = [["", "initial", {"session_id": session.name}]]
    if operation.argument.get("cursor"):
        rows.append(gap(session.name))
    run = state.attachable(session)
    if run is not None:
        data = {
            "session_id": session.name,
            "stream_id": run.name,
            "pending_started_at": run.started,
            "source": run.source,
            "recovered": True,
        }
        rows.append(["", "server_turn_started", data])
    known, count = query.get("known_count"), len(session.messages)
    if known is not None and known != count:
        data = {"session_id": session.name, "message_count": count, "known_count": known}
        rows.append(["", "session-updated", {**data, "source": "subscribe"}])
    wanted = stream_read(rows, operation, is_over=False)
    return judged_read(state, operation, wanted, (promises.C7, promises.C5, promises.S15))


def relayed(state: State, operation: Operation, run: Run | None) -> tuple[State] | Refusal:
    """A run's events, from its start or behind a cursor."""
    if run is None:
        absent = {"status": ABSENT, "body": {"error": TEXT}}
        return judged_read(state, operation, absent, (promises.S6, promises.H2, promises.C4))
    session = state.find(run.session)
    assert session is not None, run.session
    if session.run == run.name and not run.end and not run.is_held:
        # It ends while it is read.
        state = state.with_end(run, "error" if run.script.fails else "done", run.started)
        run = state.run(run.name)
        assert run is not None
    query = operation.argument.get("query") or {}
    cursor = operation.argument.get("cursor") or query.get("after_event_id") or ""
    if not cursor and "after_seq" in query:
        cursor = f"{run.name}:{query['after_seq']}"
    rows = run.events
    if cursor:
        stream, _, seq = cursor.rpartition(":")
        if stream == run.name:
            rows = rows[int(seq) :]
        else:
            data = {"session_id": run.session, "reason": TEXT}
            rows = [["", "session_snapshot", data], *rows]
    wanted = stream_read(rows, operation, is_over=bool(run.end))
    start = operation.argument.get("start")
    if start is None:
        return judged_read(state, operation, wanted, _of_stream(operation, run))
    call = {
        "method": "POST",
        "path": "/api/chat/start",
        "body": start,
        "name": operation.argument["name"],
    }
    begun = predicted(state, call)
    answer = {
        "status": begun.status,
        "headers": JSON_HEADERS,
        "whole": True,
        "body": begun.body,
    }
    tested = _of_stream(operation, run)
    if operation.result.get("started", {}).get("status") != begun.status:
        tested = (promises.T8, promises.T3)
    return judged_read(begun.state, operation, {**wanted, "started": answer}, tested)


def _of_stream(operation: Operation, run: Run) -> tuple[Promise, ...]:  # noqa: PLR0911
    """The promises that the wrong events of a run break, by how they differ."""
    result = operation.result
    also = (promises.C3, promises.T5, promises.S14)
    if result["status"] != OK:
        return (promises.C3, promises.T3, promises.C4)
    ids = [row[0] for row in result["events"]]
    numbers = [int(id_.rpartition(":")[2]) for id_ in ids if id_.rpartition(":")[2].isdigit()]
    if len({*numbers}) < len(numbers):
        return (promises.C2, *also)
    if numbers != sorted(numbers):
        return (promises.C1, *also)
    if operation.argument.get("cursor") or operation.argument.get("query", {}).keys() - {
        "stream_id"
    }:
        return (promises.C4, *also)
    if run.end and not result["closed"] and "events" not in operation.argument:
        return (promises.C6, promises.T3, *also)
    ends = {row[1] for row in result["events"]} & {"done", "stream_end", "cancel", "apperror"}
    if run.end and not ends:
        return (promises.T3, promises.C3)
    if _tools_differ(run, result["events"]):
        return (promises.T9, *also)
    return (promises.T3, *also, promises.T4)


def _tools_differ(run: Run, events: list[Any]) -> bool:
    """Whether the run works with something else than its start asked for."""

    def shown(rows: list[Any]) -> list[Any]:
        outputs = (data for _, name, data in rows if name == "tool_complete")
        return [data["output"] for data in outputs if data["name"] == "what_was_asked"]

    wanted, found = shown(run.events), shown(events)
    return len(wanted) == len(found) and wanted != found


def judged_read(
    state: State,
    operation: Operation,
    wanted: Mapping[str, Any],
    tested: tuple[Promise, ...] = (promises.C3, promises.C4, promises.H2),
) -> tuple[State] | Refusal:
    """The state, if a stream answered as expected; else the promises that it breaks."""
    found = difference(wanted, operation.result)
    return (state,) if found is None else refusal(operation, found, tested)


def watched(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    """What a client that watches gets of a call of another client."""
    argument = operation.argument
    call = argument["call"]
    expected = predicted(state, call)
    answer = {
        "status": expected.status,
        "headers": JSON_HEADERS,
        "whole": True,
        "body": expected.body,
    }
    name = argument["query"].get("session_id")
    session = expected.state.find(name)
    rows: list[list[Any]] = []
    if argument["path"] == "/api/sessions/events":
        data = {
            "type": "sessions_changed",
            # The end of the last run may be announced after its session was seen to be idle.
            "version": Span(expected.state.version - 1, expected.state.version),
            "reason": argument["until"],
            "session_id": subject_of(call) or call.get("name"),
        }
        rows.append([Text("sessions:[0-9]+"), "sessions_changed", data])
    elif session is not None:
        run = expected.state.run(session.run)
        rows.append(["", "initial", {"session_id": session.name}])
        if run is not None and call["path"] == "/api/chat/start":
            data = {
                "session_id": session.name,
                "stream_id": run.name,
                "pending_started_at": run.started,
                "source": "user",
            }
            rows.append([Text(f"{NOTICES}:[0-9]+"), "turn_started", data])
    wanted = {"status": OK, "events": rows, "answer": answer}
    observed = operation.result
    late = [row for row in observed["events"] if row[2].get("reason") != "turn_ended"]
    found = difference(wanted, {**observed, "events": late})  # a run's end may be announced late
    if found is None:
        return (narrowed(expected.state, operation.result["answer"]["body"]),)
    tested: tuple[Promise, ...] = (promises.C5, promises.C3, promises.W7, promises.S15)
    if STARTED in [row[1] for row in late]:  # a turn that the client started is none of the server
        tested = (promises.C7, *tested)
    return refusal(operation, found, tested)
