"""Endpoints of sessions: made, read, listed, changed and deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reference_impl.sessions.list import shown
from reference_impl.sessions.sidecar import Message, Metadata, Session
from reference_impl.state_db.errors import StateDbError
from reference_impl.turns.session_changes import KEPT
from reference_impl.web.endpoints.turns import BEGUN, begun
from reference_impl.web.fields import DISK, ID, KEPT_FIELDS, SESSION_ID
from reference_impl.web.http_parser import Answer, answer
from reference_impl.web.routes import Args, Field, Route
from reference_impl.web.server import Wake
from reference_impl.web.service import Service


def new_session(service: Service, args: Args, _wake: Wake) -> Answer:
    """Make a session; the previous one comes to a boundary."""
    previous = args.get("prev_session_id")
    if previous is not None:
        service.app.leave_session(previous)
    extra = {name: args[name] for name in (*KEPT, "project_id") if name in args}
    session = service.app.store.new(extra=extra)
    service.app.channels.sessions_changed("created", session.session_id)
    return answer({"session": {**_row(service, session), "messages": []}})


def session(service: Service, args: Args, _wake: Wake) -> Answer:
    """A session with its messages, or the last of them."""
    sid = args["session_id"]
    _settle(service, sid)
    session = service.app.store.load(sid)
    first = max(0, session.message_count - args.get("msg_limit", session.message_count))
    resolved = service.app.resolve(session.extra) if args.get("resolve_model") else {}
    return answer(
        {
            "session": {
                **_row(service, session),
                **resolved,
                "messages": session.messages[first:],
                "tool_calls": _tool_calls(session.messages[first:], first),
                "pending_user_message": session.pending_user_message,
                "_messages_truncated": first > 0,
                "_messages_offset": first,
            }
        }
    )


def status(service: Service, args: Args, _wake: Wake) -> Answer:
    """What a session is doing, without its messages."""
    sid = args["session_id"]
    _settle(service, sid)
    row = _row(service, service.app.store.load_metadata_only(sid))
    return answer(
        {
            **row,
            "agent_running": sid in service.app.turns.live_sessions(),
            "hermes_home": service.app.folder,
        }
    )


def sessions(service: Service, _args: Args, _wake: Wake) -> Answer:
    """All sessions, the latest activity first."""
    listed = service.app.sessions.now()
    body = {
        "webui_session_count": listed.number,
        "server_time": time.time(),
        "server_tz": time.strftime("%z"),
    }
    return Answer(200, b'{"sessions": ' + listed.rows + b", " + json.dumps(body).encode()[1:])


def search(service: Service, args: Args, _wake: Wake) -> Answer:
    """Sessions whose title or messages have all these words."""
    found = service.app.search(args["q"])
    return answer({"query": args["q"], "count": len(found), "sessions": found})


def rename(service: Service, args: Args, _wake: Wake) -> Answer:
    """Give a session a title; one without any visible character removes the given one."""
    return _changed(service, service.app.rename(args["session_id"], args["title"]), "renamed")


def clear(service: Service, args: Args, _wake: Wake) -> Answer:
    """Remove a session's messages."""
    return _changed(service, service.app.clear(args["session_id"]), "cleared")


def truncate(service: Service, args: Args, _wake: Wake) -> Answer:
    """Keep a session's first messages."""
    session = service.app.store.truncate(args["session_id"], args["keep_count"])
    return _changed(service, session, "truncated")


def undo(service: Service, args: Args, _wake: Wake) -> Answer:
    """Remove the user's last message, and what followed."""
    return _changed(service, service.app.store.undo(args["session_id"]), "undone")


def retry(service: Service, args: Args, _wake: Wake) -> Answer:
    """Remove the reply to the user's last message, and begin its turn again."""
    sid = args["session_id"]
    run = service.app.turns.retry(sid)
    service.app.changed(service.app.store.load(sid), "retried")
    return begun(run)


def compress(service: Service, args: Args, _wake: Wake) -> Answer:
    """Replace all turns but the last by a summary."""
    return _changed(service, service.app.turns.compress(args["session_id"]), "compressed")


def end_session(service: Service, args: Args, _wake: Wake) -> Answer:
    """Note that a session is over."""
    session = service.app.end_session(args["session_id"], args.get("reason", "user"))
    return _changed(service, session, "ended")


def reopen_session(service: Service, args: Args, _wake: Wake) -> Answer:
    """Let an ended session go on."""
    return _changed(service, service.app.reopen_session(args["session_id"]), "reopened")


def record(service: Service, args: Args, _wake: Wake) -> Answer:
    """A session's row in state.db."""
    sid = args["session_id"]
    service.app.store.load_metadata_only(sid)
    return answer({"record": service.app.record(sid)})


def processes(service: Service, args: Args, _wake: Wake) -> Answer:
    """A session's background processes: those that run, and the latest that ended."""
    sid = args["session_id"]
    service.app.store.load_metadata_only(sid)
    found = service.app.processes
    ended = [asdict(process) for process in found.finished() if process.owner == sid]
    return answer({"running": found.running(sid), "finished": ended})


def prune(service: Service, args: Args, _wake: Wake) -> Answer:
    """Delete ended sessions that started longer ago."""
    number = service.app.prune(args["older_than_days"], args.get("source"))
    return answer({"ok": True, "pruned": number})


def delete(service: Service, args: Args, _wake: Wake) -> Answer:
    """Delete a session; a missing one is fine."""
    failed = False
    try:
        service.app.delete(args["session_id"])
    except StateDbError:
        failed = True
    return answer({"ok": True, "state_db_cleanup_failed": failed})


def _changed(service: Service, session: Session, reason: str) -> Answer:
    service.app.changed(session, reason)
    return answer({"ok": True, "session": _row(service, session)})


def _settle(service: Service, session_id: str) -> None:
    """Free a session that is marked as busy by a run that no longer exists."""
    metadata = service.app.store.load_metadata_only(session_id)
    stream_id = metadata.active_stream_id
    if metadata.is_busy and (stream_id is None or not service.app.turns.is_live(stream_id)):
        service.app.turns.repair(session_id)


def _row(service: Service, metadata: Metadata) -> Mapping[str, Any]:
    return shown(metadata.row(), service.app.turns.attachable_stream(metadata.session_id))


def _tool_calls(messages: Sequence[Message], first: int) -> list[dict[str, Any]]:
    """The tool calls of these messages, with the index of each one's message in its session."""
    return [
        {**call, "message_index": at}
        for at, message in enumerate(messages, first)
        for call in message.get("tool_calls", ())
    ]


ROUTES = (
    Route(
        "POST",
        "/api/session/new",
        new_session,
        "make a session",
        body=(
            *KEPT_FIELDS,
            Field("project_id"),
            Field("prev_session_id", max_length=128, pattern=ID),
        ),
        refusals=DISK,
        gives=("session",),
    ),
    Route(
        "GET",
        "/api/session",
        session,
        "a session with its messages",
        query=(SESSION_ID, Field("msg_limit", "integer"), Field("resolve_model", max_length=5)),
        refusals=(404, *DISK),
        gives=("session",),
    ),
    Route(
        "GET",
        "/api/session/status",
        status,
        "what a session is doing",
        query=(SESSION_ID,),
        refusals=(404, *DISK),
        gives=("session_id", "title", "message_count", "agent_running", "active_stream_id"),
    ),
    Route(
        "GET",
        "/api/sessions",
        sessions,
        "all sessions, the latest activity first",
        refusals=DISK,
        gives=("sessions", "server_time"),
    ),
    Route(
        "GET",
        "/api/sessions/search",
        search,
        "sessions whose title or messages have all these words",
        query=(Field("q", is_required=True, max_length=500),),
        refusals=DISK,
        gives=("query", "count", "sessions"),
    ),
    Route(
        "POST",
        "/api/session/rename",
        rename,
        "give a session a title",
        body=(SESSION_ID, Field("title", is_required=True, max_length=500)),
        refusals=(404, 409, *DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/clear",
        clear,
        "remove a session's messages",
        body=(SESSION_ID,),
        refusals=(404, 409, *DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/truncate",
        truncate,
        "keep a session's first messages",
        body=(SESSION_ID, Field("keep_count", "integer", is_required=True)),
        refusals=(404, 409, *DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/undo",
        undo,
        "remove the user's last message, and what followed",
        body=(SESSION_ID,),
        refusals=(404, 409, *DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/retry",
        retry,
        "remove the reply to the user's last message, and begin its turn again",
        body=(SESSION_ID,),
        refusals=(404, 409, *DISK),
        gives=BEGUN,
    ),
    Route(
        "POST",
        "/api/session/compress",
        compress,
        "replace all turns but the last by a summary",
        body=(SESSION_ID,),
        refusals=(404, 409, *DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/end",
        end_session,
        "note that a session is over; its next turn reopens it",
        body=(SESSION_ID, Field("reason", max_length=100)),
        refusals=(404, 409, *DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/reopen",
        reopen_session,
        "let an ended session go on",
        body=(SESSION_ID,),
        refusals=(404, 409, *DISK),
        gives=("ok", "session"),
    ),
    Route(
        "GET",
        "/api/session/record",
        record,
        "a session's row in state.db: tokens, system prompt, end",
        query=(SESSION_ID,),
        refusals=(404, *DISK),
        gives=("record",),
    ),
    Route(
        "GET",
        "/api/session/processes",
        processes,
        "a session's background processes",
        query=(SESSION_ID,),
        refusals=(404, *DISK),
        gives=("running", "finished"),
    ),
    Route(
        "POST",
        "/api/sessions/prune",
        prune,
        "delete ended sessions that started longer ago, of one source or of all",
        body=(
            Field("older_than_days", "integer", is_required=True, maximum=100_000),
            Field("source", max_length=100),
        ),
        refusals=DISK,
        gives=("ok", "pruned"),
    ),
    Route(
        "POST",
        "/api/session/delete",
        delete,
        "delete a session; a missing one is fine",
        body=(SESSION_ID,),
        refusals=(409, *DISK),
        gives=("ok", "state_db_cleanup_failed"),
    ),
)
