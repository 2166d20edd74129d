"""Model of the visible state of a server: from it the whole answer of every endpoint is predicted.

The state has every session (title, messages, present run, times, saves), every run (its events, its
end), and what the server has announced. Each call of the *endpoints* ability is one step. A run
that ends by itself does so at an unknown moment, so a workload reads it to its end before it asks
for anything else of its session; until the session was seen to be idle it is *leaving*, and only
whether its run still counts is open. Times are numbers of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from harness.contract import promises
from harness.contract.models.answers import TEXT, Difference, OneOf, difference
from harness.contract.models.server_answers import (
    ABSENT,
    BAD,
    CONFLICT,
    JSON_HEADERS,
    OK,
    Expected,
    narrowed,
    predicted,
    subject_of,
)
from harness.contract.models.server_streams import (
    gap,
    greeted,
    judged_read,
    refusal,
    relayed,
    stream_read,
    watched,
)
from harness.contract.models.server_values import FOREIGN, KEPT, Session, State
from harness.contract.models.titles import UNTITLED
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

RUN_JOURNAL = "_run_journal/"


class VisibleStateModel:
    """What every endpoint of a server answers."""

    name = "visible-state"

    def initial(self) -> State:
        """No session, and no server."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The state after the operation, or the promise that its answer breaks."""
        state = replace(state, clock=state.clock + 1)
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.H6,
                f"{operation.call} got no answer",
                also=(promises.H3,) if operation.function in ("boot", "kill") else (),
                expected="an answer within the patience of a client",
            )
        argument = operation.argument or {}
        if operation.function == "boot":
            return _nothing(replace(state, booted=state.clock), operation)
        if operation.function == "kill":
            return _nothing(state.struck().with_left(argument.get("left") or {}), operation)
        if step := _STEPS.get(operation.function):
            return step(state, operation)
        raise ValueError(f"{self.name} has no function {operation.function!r}: {argument}")

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:  # noqa: ARG002
        """What a wrong answer leaves behind is not known: the rest of the history is not judged."""
        return ()


def _nothing(state: State, operation: Operation) -> tuple[State] | Refusal:
    if operation.result is None:
        return (state,)
    return Refusal(promises.H3, f"{operation.call} answers something", (None,), expected="null")


def _called(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    argument = operation.argument
    expected = predicted(state, argument)
    answer = {
        "status": expected.status,
        "headers": expected.headers if expected.headers is not None else JSON_HEADERS,
        "whole": True,
        "body": expected.body,
    }
    found = difference(answer, operation.result)
    found = found or _disagreement(argument["path"], operation.result["body"])
    if found is None:
        return (narrowed(expected.state, operation.result["body"]),)
    tested = _promises(state, argument, expected, found, operation.result)
    return replace(refusal(operation, found, tested), after=expected.state)


_AGREEING = {  # fields that say the same in one answer, by path of the request
    "/health": (("checks.stream_runtime.total_subscribers", "containers.channel_subscribers"),),
    "/api/system/health": (
        ("webui_runtime.sessions.resident", "containers.sessions_held"),
        ("webui_runtime.streams.agent_instances", "containers.agents_cached"),
        ("webui_runtime.streams.subscribers", "containers.channel_subscribers"),
        ("webui_runtime.streams.offline_buffered_events", "containers.channel_frames_kept"),
        ("webui_runtime.models_cache.resident", "containers.catalogs_kept"),
        ("memory.rss_bytes", "process.rss_bytes"),
    ),
}


def _disagreement(path: str, body: Any) -> Difference | None:
    """The first field of an answer that contradicts another one of the same answer."""
    for field, other in _AGREEING.get(path, ()):
        value, wanted = _at(body, field), _at(body, other)
        if value is not None and value != wanted:
            return Difference(f".body.{field}", wanted, value)
    return None


def _at(body: Any, path: str) -> Any:
    for name in path.split("."):
        body = body.get(name) if isinstance(body, Mapping) else None
    return body


def _promises(  # noqa: PLR0911 - one for each kind of difference
    state: State, argument: Mapping[str, Any], expected: Expected, found: Difference, result: Any
) -> tuple[Promise, ...]:
    """The promises that this difference breaks, the plainest first."""
    also = (*expected.promises, *_of_returned(state, result["body"]))
    if result["status"] >= 500:  # noqa: PLR2004
        return (promises.H6 if expected.status != BAD else promises.H2, promises.H2, *also)
    if expected.status == ABSENT:
        subject = subject_of(argument)
        if subject in state.deleted:
            back = (promises.S6, promises.S15, promises.H2)
            return (*back, promises.D13) if subject in state.pruned else back
        return (promises.H2, *also)
    if expected.status == BAD or found.path == ".headers" or found.path.startswith(".headers"):
        return (promises.H2, *also)
    if "agent_running" in found.path:
        return (promises.T3, promises.T4, promises.S13, promises.S15)
    if "active_stream_id" in found.path and expected.status == OK:
        return (promises.C7, promises.T4, promises.T3, promises.S15)
    for names, tested in _FIELDS.items():
        if any(name in found.path for name in names):
            return (*tested, *_of_ends(state, subject_of(argument), found.path))
    if "messages" in found.path:
        return (*_of_messages(state, argument), promises.S15, *also)
    tested = _of_title(state, argument) if "title" in found.path else ()
    return tuple(dict.fromkeys((*tested, *also)))


def _of_returned(state: State, body: Any) -> tuple[Promise, ...]:
    """The promises of deleted sessions that a list shows."""
    rows = body.get("sessions") if isinstance(body, Mapping) else None
    if not isinstance(rows, list):
        return ()
    back = state.deleted & {row.get("session_id") for row in rows if isinstance(row, Mapping)}
    return (promises.S6, *((promises.D13,) if back & state.pruned else ())) if back else ()


_FIELDS: Mapping[tuple[str, ...], tuple[Promise, ...]] = {
    ("recovery",): (promises.S16,),
    ("oldest_run_age", "uptime", ".checks", "webui_runtime"): (promises.H4,),
    ("effective_model",): (promises.M4, promises.T9),
    ("usage", "prompt", "ended_at", "end_reason", "reasoning", "token_count"): (
        *(promises.D13, promises.S14, promises.S15),
    ),
    (*KEPT, "attachments", "project_id"): (promises.T9, promises.S15, promises.S14),
    ("shrink", "shrunk", "watermark"): (promises.S6, promises.S15, promises.S5),
    ("updated_at",): (promises.S8, promises.S15, promises.S14),
}


def _of_title(state: State, argument: Mapping[str, Any]) -> tuple[Promise, ...]:
    """The promises of another title: it may be an older one, or that of a removed request."""
    session = state.find(subject_of(argument))
    is_cut = session is not None and session.shrinks
    return (promises.S15, promises.S14, *((promises.S6,) if is_cut else ()))


def _of_messages(state: State, argument: Mapping[str, Any]) -> tuple[Promise, ...]:
    """The promises of messages that differ: of the last end of a run of that session."""
    session = state.find(subject_of(argument))
    tried = (promises.S2, promises.S14, *_of_ends(state, subject_of(argument), "messages"))
    return (promises.S6, *tried) if session is not None and session.shrinks else tried


def _of_ends(state: State, name: str, path: str) -> tuple[Promise, ...]:
    """The promises of what a turn that was cut short leaves, if the difference is in messages."""
    session = state.find(name)
    if session is None or not any(field in path for field in _OF_MESSAGES):
        return ()
    turns = {message.turn for message in session.messages}
    ends = {run.end for run in state.runs if run.turn in turns}
    kept = {"interrupted": promises.S13, "cancelled": promises.T4}
    return tuple(promise for end, promise in kept.items() if end in ends)


_OF_MESSAGES = ("messages", "tool_calls", "details", "copies")  # fields that show messages


def _together(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    """Of several starts at the same moment one is accepted; the others name its run."""
    argument = operation.argument
    results = operation.result
    first = results[0]
    body = {**argument["body"], "message": f"{first['name']} {argument['body']['message']}"}
    start = {"method": "POST", "path": "/api/chat/start", "body": body, "name": first["name"]}
    expected = predicted(state, start)
    rows = [{"name": first["name"], "status": expected.status, "body": expected.body}]
    is_begun = expected.status == OK
    refused = {"error": TEXT, "active_stream_id": first["name"]}
    names = sorted({*argument["names"]} - {first["name"]})
    rows += [
        {
            "name": name,
            "status": CONFLICT if is_begun else expected.status,
            "body": refused if is_begun else expected.body,
        }
        for name in names
    ]
    observed = [first, *sorted(results[1:], key=lambda row: str(row["name"]))]
    found = difference(rows, observed)
    if found is None:
        return (expected.state,)
    return refusal(operation, found, (promises.T1, promises.T3))


def _read(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    argument = operation.argument
    path, query = argument["path"], argument.get("query") or {}
    if path == "/api/chat/stream":
        return relayed(state, operation, state.run(query["stream_id"]))
    name = query.get("session_id") or path.split("/")[3]
    session = state.find(name)
    if session is None:
        return judged_read(state, operation, {"status": ABSENT, "body": {"error": TEXT}})
    run = state.run(session.run)
    if path == "/api/session/stream":
        return greeted(state, operation, session)
    if run is not None:
        return relayed(state, operation, run)
    rows = [["", "initial", {"session_id": session.name}], gap(session.name)]
    return judged_read(state, operation, stream_read(rows, operation, is_over=False))


def _concluded(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    session = state.find(operation.argument["session"])
    is_stuck = session is not None and session.run is not None and not session.is_leaving
    run = state.run(session.run) if session is not None else None
    ends = run is not None and not run.end and not run.is_held
    wanted = not is_stuck or ends
    if operation.result is not wanted:
        return Refusal(
            promises.T3,
            f"{operation.call}: the session does not become idle, or does with a run",
            (wanted,),
            also=(promises.S13,),
            expected=f"{wanted}",
        )
    return (state.idle(session) if session is not None and wanted else state,)


def _logged(state: State, operation: Operation) -> tuple[State] | Refusal:
    """The log of the start says what recovery did."""
    found = difference(state.recovery(), operation.result)
    return (state,) if found is None else refusal(operation, found, (promises.S16,))


def _stored(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    """Every copy on disk of a session that is at rest; nothing of one that was deleted."""
    name = operation.argument["session"]
    session = state.find(name)
    found = difference(_copies(state, name, session, operation.result), operation.result)
    if found is None:
        return (state,)
    tested: tuple[Promise, ...] = (promises.S14,)
    if name in state.foreign:
        tested = (promises.D1, promises.S2)
    elif session is None:
        tested = (promises.S6, promises.S14)
    else:
        tested = (promises.S14, *_of_ends(state, name, found.path))
    if name in state.pruned:
        tested = (*tested, promises.D13)
    if session is None and any(file.startswith(RUN_JOURNAL) for file in operation.result["files"]):
        tested = (*tested, promises.T6)
    return refusal(operation, found, tested)


def _copies(state: State, name: str, session: Session | None, observed: Any) -> dict[str, Any]:
    empty = {"title": UNTITLED, "count": 0, "texts": []}
    if name in state.foreign:
        empty = {**empty, "title": FOREIGN}
    if session is None:
        copies: dict[str, Any] = {"database": empty, "search": empty}
        gone = {"count": 0, "calls": []}
        rest: dict[str, Any] = {"runs": {}, "tool_calls": gone, "details": []}
        return {"files": [], "index": None, "copies": copies, **rest}
    texts = [[message.role, message.content] for message in session.messages]
    copy = {"title": session.title, "count": len(texts), "texts": texts}
    calls = [message.tool_calls for message in session.messages]
    details = [
        [message.finish_reason, message.thoughts or None, message.tokens or None]
        for message in session.messages
    ]
    # A title that another session has is not in the database, where titles are unique.
    others = {other.title for other in state.sessions if other.name != name}
    title: Any = OneOf((session.title, UNTITLED)) if session.title in others else session.title
    runs = [run for run in state.runs if run.session == name]
    optional = [file for file in observed["files"] if file.endswith(".json.bak")]
    journals = [f"{RUN_JOURNAL}{name}/{run.name}.jsonl" for run in runs]
    is_synced = bool(runs) or session.version > 1
    database = {**copy, "title": title} if is_synced else empty
    return {
        "files": sorted([f"{name}.json", *journals, *(optional if session.shrinks else ())]),
        "index": [session.title, len(texts)],
        "copies": {"database": database, "search": database, "sidecar": copy},
        "runs": {run.name: "".join(run.tokens) for run in runs},
        "tool_calls": {"count": sum(map(len, calls)), "calls": [*filter(None, calls)]},
        "details": details if is_synced else [],
    }


_STEPS: Mapping[str, Callable[[State, Operation], tuple[State, ...] | Refusal]] = {
    "call": _called,
    "together": _together,
    "read": _read,
    "watch": watched,
    "conclude": _concluded,
    "stored": _stored,
    "logged": _logged,
}
