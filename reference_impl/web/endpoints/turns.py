"""Endpoints of turns: started, asked aside, cancelled."""

from __future__ import annotations

from reference_impl.turns.run import Run, Source
from reference_impl.turns.session_changes import KEPT
from reference_impl.web.fields import (
    DISK,
    KEPT_FIELDS,
    MESSAGE_CHARS_MAX,
    SESSION_ID,
    STREAM_ID,
)
from reference_impl.web.http_parser import Answer, answer
from reference_impl.web.routes import Args, Field, Route
from reference_impl.web.server import Wake
from reference_impl.web.service import Service

BEGUN = (
    *("stream_id", "session_id", "pending_started_at", "turn_id", "title"),
    *("effective_model", "effective_model_provider"),
)


def start(service: Service, args: Args, _wake: Wake) -> Answer:
    """Begin a turn; the message is on disk when this returns."""
    sid = args["session_id"]
    service.app.store.load_metadata_only(sid)  # before anything is announced
    asked = {name: args[name] for name in (*KEPT, "attachments") if name in args}
    run = service.app.turns.start(sid, args["message"], asked=asked)
    return begun(run)


def ask_aside(service: Service, args: Args, _wake: Wake) -> Answer:
    """Begin a turn that knows the session, and leaves nothing in it."""
    sid = args["session_id"]
    service.app.store.load_metadata_only(sid)  # before anything is announced
    run = service.app.turns.start(sid, args["question"], Source.EPHEMERAL)
    return answer(
        {
            "stream_id": run.stream_id,
            "session_id": run.session_id,
            "started_at": run.started_at,
            "turn_id": run.turn_id,
        }
    )


def begun(run: Run) -> Answer:
    """The answer to a turn that begins: its stream, and what it works with."""
    return answer(
        {
            "stream_id": run.stream_id,
            "session_id": run.session_id,
            "pending_started_at": run.started_at,
            "turn_id": run.turn_id,
            "title": run.title,
            "effective_model": run.asked["effective_model"],
            "effective_model_provider": run.asked["effective_model_provider"],
        }
    )


def cancel(service: Service, args: Args, _wake: Wake) -> Answer:
    """End a run now, and save what it produced."""
    stream_id = args["stream_id"]
    cancelled = service.app.cancel(stream_id)
    return answer({"ok": True, "cancelled": cancelled, "stream_id": stream_id})


def stream_status(service: Service, args: Args, _wake: Wake) -> Answer:
    """Whether a client can attach to a run, or read it from its journal."""
    stream_id = args["stream_id"]
    run = next((run for run in service.app.turns.runs() if run.stream_id == stream_id), None)
    return answer(
        {
            "active": run is not None and run.is_attachable,
            "stream_id": stream_id,
            "replay_available": run is not None or service.app.has_rows(stream_id),
        }
    )


ROUTES = (
    Route(
        "POST",
        "/api/chat/start",
        start,
        "begin a turn",
        body=(
            SESSION_ID,
            Field("message", is_required=True, max_length=MESSAGE_CHARS_MAX),
            *KEPT_FIELDS,
            Field("attachments", "array"),
        ),
        refusals=(404, 409, *DISK),
        gives=BEGUN,
    ),
    Route(
        "POST",
        "/api/btw",
        ask_aside,
        "ask aside: begin a turn that leaves nothing in its session",
        body=(SESSION_ID, Field("question", is_required=True, max_length=MESSAGE_CHARS_MAX)),
        refusals=(404, 409, *DISK),
        gives=("stream_id", "session_id", "started_at", "turn_id"),
    ),
    Route(
        "GET",
        "/api/chat/cancel",
        cancel,
        "end a run now, and keep what it produced",
        query=(STREAM_ID,),
        gives=("ok", "cancelled", "stream_id"),
    ),
    Route(
        "GET",
        "/api/chat/stream/status",
        stream_status,
        "whether a run can be attached to",
        query=(STREAM_ID,),
        gives=("active", "stream_id", "replay_available"),
    ),
)
