"""Endpoints that stream events: of a run, a session, the list, other processes."""

from __future__ import annotations

from reference_impl.live.channels import Cursor
from reference_impl.live.event_buffer import Subscription, frame
from reference_impl.web.fields import AFTER_EVENT_ID, SESSION_ID, STREAM_ID
from reference_impl.web.http_parser import Answer, RefusedError, answer
from reference_impl.web.routes import Args, Field, Kind, Route
from reference_impl.web.server import Streaming, Wake
from reference_impl.web.service import Service

_HEARTBEAT = b": heartbeat\n\n"
_KEEPALIVE = b": keepalive\n\n"


def chat_stream(service: Service, args: Args, wake: Wake) -> Streaming:
    """Read a run, from its start or after a cursor, until its terminal event."""
    stream_id = args["stream_id"]
    cursor = _cursor(args)
    if cursor is None and "after_seq" in args:
        cursor = Cursor(stream_id, args["after_seq"])
    reader = service.app.channels.subscribe_run(stream_id, wake, cursor)
    if reader is None:
        raise RefusedError(404, "stream not found")
    return Streaming(reader, _HEARTBEAT)


def session_stream(service: Service, args: Args, wake: Wake) -> Streaming:
    """Watch a session: turns that start, messages that come, processes that end."""
    sid = args["session_id"]
    service.app.store.load_metadata_only(sid)
    reader = service.app.channels.subscribe(sid, wake, _cursor(args))
    _send_count(service, sid, args.get("known_count"), reader)
    return Streaming(reader, _KEEPALIVE)


def _send_count(service: Service, session_id: str, known: int | None, reader: Subscription) -> None:
    """Send the message count to a client with an older one; after it subscribed."""
    if known is None:
        return
    try:
        count = service.app.store.load_metadata_only(session_id).message_count
    except BaseException:
        reader.close()
        raise
    if count != known:
        body = {"session_id": session_id, "message_count": count, "known_count": known}
        reader.prepend([frame("session-updated", {**body, "source": "subscribe"})])


def session_events(service: Service, args: Args, wake: Wake) -> Streaming:
    """Read a session's run: the current one, or the rest of the one that the cursor names."""
    sid = args["session_id"]
    service.app.store.load_metadata_only(sid)
    reader = service.app.channels.subscribe_events(sid, wake, _cursor(args))
    return Streaming(reader, _KEEPALIVE)


def sessions_events(service: Service, _args: Args, wake: Wake) -> Streaming:
    """Watch the list of sessions."""
    return Streaming(service.app.channels.subscribe_sessions(wake), _KEEPALIVE)


def gateway_stream(service: Service, args: Args, wake: Wake) -> Answer | Streaming:
    """Watch changes by other processes in state.db; or probe whether that works."""
    is_running = service.app.watcher.is_running
    if args.get("probe"):
        return answer(
            {
                "enabled": True,
                "ok": is_running,
                "watcher_running": is_running,
                "fallback_poll_ms": 30_000,
                "scope": "gateway",
                "session_stream_available": True,
                "session_stream_path": "/api/session/stream",
            }
        )
    if not is_running:
        raise RefusedError(503, "the watcher is down")
    return Streaming(service.app.watcher.subscribe(wake), _KEEPALIVE)


def _cursor(args: Args) -> Cursor | None:
    """The client's cursor; one that cannot be parsed counts as foreign, never as missing."""
    id_ = args.get("last_event_id") or args.get("after_event_id")
    if not id_:
        return None
    return Cursor.parsed(id_) or Cursor("", 0)


ROUTES = (
    Route(
        "GET",
        "/api/chat/stream",
        chat_stream,
        "read a run until its terminal event",
        Kind.STREAM,
        query=(
            STREAM_ID,
            Field("after_seq", "integer"),
            AFTER_EVENT_ID,
            Field("replay", max_length=5),
        ),
        refusals=(404, 503),
        content_type="text/event-stream",
    ),
    Route(
        "GET",
        "/api/session/stream",
        session_stream,
        "watch a session",
        Kind.STREAM,
        query=(SESSION_ID, Field("known_count", "integer"), AFTER_EVENT_ID),
        refusals=(404, 503),
        content_type="text/event-stream",
    ),
    Route(
        "GET",
        "/api/sessions/events",
        sessions_events,
        "watch the list of sessions",
        Kind.STREAM,
        refusals=(503,),
        content_type="text/event-stream",
    ),
    Route(
        "GET",
        "/api/sessions/gateway/stream",
        gateway_stream,
        "watch what other processes do to sessions",
        Kind.STREAM,
        query=(Field("probe", max_length=5),),
        refusals=(503,),
        content_type="text/event-stream",
    ),
    Route(
        "GET",
        "/api/sessions/{session_id}/events",
        session_events,
        "read a session's run",
        Kind.STREAM,
        query=(AFTER_EVENT_ID,),
        refusals=(400, 404, 503),
        content_type="text/event-stream",
    ),
)
