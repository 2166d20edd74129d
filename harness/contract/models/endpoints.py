"""The endpoints of a session server, as its OpenAPI description must state them.

Written from the contract, not from a server: each endpoint with the bounds of its values, the
statuses that it may answer, and the fields that its answer has. Free texts are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ID = "[0-9A-Za-z-][0-9A-Za-z_-]{0,127}"
RUN_ID = "[0-9A-Za-z-]+"
COUNT_MAX = 10**15 - 1
TEXT_MAX, FLAG_MAX, TITLE_MAX, MESSAGE_MAX, TASK_MAX = 1000, 5, 500, 1_000_000, 128
ITEMS_MAX = 100
DISK = (503, 507)
FREE = "a text"  # a free text
STREAM, PAGE, JSON = "text/event-stream", "text/html", "application/json"
REQUIRED = r"\S"  # a required text is not blank

Schema = dict[str, Any]


def _text(most: int = TEXT_MAX) -> Schema:
    return {"type": "string", "maxLength": most}


SESSION: Schema = {**_text(128), "pattern": f"^{ID}$"}
RUN: Schema = {**_text(64), "pattern": f"^{RUN_ID}$"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": COUNT_MAX}


def _needed(most: int) -> Schema:
    return {**_text(most), "minLength": 1, "pattern": REQUIRED}


@dataclass(frozen=True)
class Endpoint:
    """One endpoint. A query or body maps a name to its schema; `needs` lists the required ones."""

    method: str
    path: str
    query: dict[str, Schema] | None = None
    body: dict[str, Schema] | None = None
    needs: tuple[str, ...] = ()
    either: tuple[str, ...] = ()
    refusals: tuple[int, ...] = ()
    gives: tuple[str, ...] = ()
    kind: str = JSON


_FLAG, _SESSION = _text(FLAG_MAX), {"session_id": SESSION}
_AFTER = {"after_event_id": _text()}
_CHANGED = ("ok", "session")
_BEGUN = (
    *("stream_id", "session_id", "pending_started_at", "turn_id", "title"),
    *("effective_model", "effective_model_provider"),
)
_TEXTS: Schema = {
    "type": "array",
    "maxItems": ITEMS_MAX,
    "items": {"type": "string", "maxLength": TEXT_MAX},
}
_KEPT = {
    **{name: _text() for name in ("workspace", "model", "model_provider", "profile")},
    "enabled_toolsets": _TEXTS,
}


def _change(
    path: str,
    body: Schema | None = None,
    *,
    needs: tuple[str, ...] = (),
    gives: tuple[str, ...] = _CHANGED,
) -> Endpoint:
    """A change of a session: `body` and `needs` have the fields besides its id."""
    return Endpoint(
        "POST",
        path,
        body={**_SESSION, **(body or {})},
        needs=("session_id", *needs),
        refusals=(404, 409, *DISK),
        gives=gives,
    )


ENDPOINTS = (
    Endpoint("GET", "/", kind=PAGE),
    Endpoint("GET", "/openapi.json", gives=("openapi", "paths")),
    Endpoint(
        "GET",
        "/health",
        {"deep": _FLAG},
        refusals=(503,),
        gives=("status", "active_runs", "active_streams", "runs", "containers", "recovery"),
    ),
    Endpoint(
        "GET",
        "/api/system/health",
        gives=("cpu", "memory", "disk", "webui_runtime", "containers"),
    ),
    Endpoint(
        "POST",
        "/api/session/new",
        body={**_KEPT, "project_id": _text(), "prev_session_id": SESSION},
        refusals=DISK,
        gives=("session",),
    ),
    Endpoint(
        "GET",
        "/api/session",
        {**_SESSION, "msg_limit": COUNT, "resolve_model": _FLAG},
        needs=("session_id",),
        refusals=(404, *DISK),
        gives=("session",),
    ),
    Endpoint(
        "GET",
        "/api/session/status",
        _SESSION,
        needs=("session_id",),
        refusals=(404, *DISK),
        gives=("session_id", "title", "message_count", "agent_running", "active_stream_id"),
    ),
    Endpoint("GET", "/api/sessions", refusals=DISK, gives=("sessions", "server_time")),
    Endpoint(
        "GET",
        "/api/sessions/search",
        {"q": _needed(TITLE_MAX)},
        needs=("q",),
        refusals=DISK,
        gives=("query", "count", "sessions"),
    ),
    _change("/api/session/rename", {"title": _needed(TITLE_MAX)}, needs=("title",)),
    _change("/api/session/clear"),
    _change("/api/session/truncate", {"keep_count": COUNT}, needs=("keep_count",)),
    _change("/api/session/undo"),
    _change("/api/session/retry", gives=_BEGUN),
    _change("/api/session/compress"),
    _change("/api/session/end", {"reason": _text(100)}),
    _change("/api/session/reopen"),
    Endpoint(
        "GET",
        "/api/session/record",
        _SESSION,
        needs=("session_id",),
        refusals=(404, *DISK),
        gives=("record",),
    ),
    Endpoint(
        "GET",
        "/api/session/processes",
        _SESSION,
        needs=("session_id",),
        refusals=(404, *DISK),
        gives=("running", "finished"),
    ),
    Endpoint(
        "POST",
        "/api/sessions/prune",
        body={
            "older_than_days": {"type": "integer", "minimum": 0, "maximum": 100_000},
            "source": _text(100),
        },
        needs=("older_than_days",),
        refusals=DISK,
        gives=("ok", "pruned"),
    ),
    Endpoint(
        "POST",
        "/api/session/delete",
        body=_SESSION,
        needs=("session_id",),
        refusals=(409, *DISK),
        gives=("ok", "state_db_cleanup_failed"),
    ),
    Endpoint(
        "POST",
        "/api/btw",
        body={**_SESSION, "question": _needed(MESSAGE_MAX)},
        needs=("session_id", "question"),
        refusals=(404, 409, *DISK),
        gives=("stream_id", "session_id", "started_at", "turn_id"),
    ),
    Endpoint(
        "POST",
        "/api/chat/start",
        body={
            **_SESSION,
            "message": _needed(MESSAGE_MAX),
            **_KEPT,
            "attachments": _TEXTS,
        },
        needs=("session_id", "message"),
        refusals=(404, 409, *DISK),
        gives=_BEGUN,
    ),
    Endpoint(
        "GET",
        "/api/chat/cancel",
        {"stream_id": RUN},
        needs=("stream_id",),
        gives=("ok", "cancelled", "stream_id"),
    ),
    Endpoint(
        "GET",
        "/api/chat/stream/status",
        {"stream_id": RUN},
        needs=("stream_id",),
        gives=("active", "stream_id", "replay_available"),
    ),
    Endpoint(
        "GET",
        "/api/chat/stream",
        {"stream_id": RUN, "after_seq": COUNT, **_AFTER, "replay": _FLAG},
        needs=("stream_id",),
        refusals=(404, 503),
        kind=STREAM,
    ),
    Endpoint(
        "GET",
        "/api/session/stream",
        {**_SESSION, "known_count": COUNT, **_AFTER},
        needs=("session_id",),
        refusals=(404, 503),
        kind=STREAM,
    ),
    Endpoint("GET", "/api/sessions/events", refusals=(503,), kind=STREAM),
    Endpoint("GET", "/api/sessions/gateway/stream", {"probe": _FLAG}, refusals=(503,), kind=STREAM),
    Endpoint(
        "GET",
        "/api/sessions/{session_id}/events",
        _AFTER,
        refusals=(404, 503),
        kind=STREAM,
    ),
    Endpoint(
        "POST",
        "/api/bg-task-complete-ack",
        body={**_SESSION, "task_id": _text(TASK_MAX), "process_id": _text(TASK_MAX)},
        needs=("session_id",),
        either=("task_id", "process_id"),
        refusals=(404, 503),
        gives=("ok", "session_id", "task_id", "process_id", "noop"),
    ),
    Endpoint("POST", "/api/process-complete-ack", refusals=(410,)),
    Endpoint(
        "GET",
        "/api/session/recovery/audit",
        refusals=DISK,
        gives=("status", "summary", "items", "recovery"),
    ),
    Endpoint("GET", "/api/models", {"refresh": _FLAG}, gives=("groups", "default_model")),
)
ALWAYS = (400, 401, 403, 413, 500)  # refusals of the server itself


def description() -> dict[str, Any]:
    """The OpenAPI description of a server that keeps the contract, without its free texts."""
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    info = {"title": "A session server for long-running agents", "version": "1"}
    return {"openapi": "3.1.0", "info": {**info, "description": FREE}, "paths": paths}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    if "{session_id}" in endpoint.path:
        named = {"name": "session_id", "in": "path", "required": True}
        parameters.append({**named, "schema": {"type": "string"}})
    parameters += [
        {
            "name": name,
            "in": "query",
            "required": name in endpoint.needs,
            "schema": schema,
            "description": FREE,
        }
        for name, schema in (endpoint.query or {}).items()
    ]
    if endpoint.kind == STREAM:
        last = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}
        parameters.append(last)
    is_gone = 410 in endpoint.refusals  # noqa: PLR2004
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    }
    refused = {"description": FREE, "content": {JSON: {"schema": error}}}
    schema: Schema = (
        {"type": "object", "required": list(endpoint.gives)}
        if endpoint.kind == JSON
        else {"type": "string"}
    )
    done = {"description": FREE, "content": {endpoint.kind: {"schema": schema}}}
    responses = {} if is_gone else {"200": done}
    responses |= {str(status): refused for status in {*ALWAYS, *endpoint.refusals}}
    operation: dict[str, Any] = {
        "operationId": FREE,
        "summary": FREE,
        "parameters": parameters,
        "responses": responses,
    }
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": bool(endpoint.needs),
            "content": {JSON: {"schema": _body(endpoint, endpoint.body)}},
        }
    return {**operation, "deprecated": True} if is_gone else operation


def _body(endpoint: Endpoint, fields: dict[str, Schema]) -> Schema:
    null = {"type": "null"}
    schema: Schema = {
        "type": "object",
        "properties": {
            name: field if name in endpoint.needs else {"anyOf": [field, null]}
            for name, field in fields.items()
        },
        "required": [name for name in fields if name in endpoint.needs],
    }
    if endpoint.either:
        schema["anyOf"] = [
            {"required": [name], "properties": {name: {"not": null}}} for name in endpoint.either
        ]
    return schema
