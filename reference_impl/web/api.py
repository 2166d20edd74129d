"""The HTTP surface: the routes, what each calls in the app, and how it responds.

Every error of the app becomes a status and one sentence; clients see nothing else. Access is
checked first: on loopback a request needs a loopback host name and no foreign origin, elsewhere it
needs the password.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hmac
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reference_impl.app import App
from reference_impl.live.channels import Cursor
from reference_impl.live.event_buffer import Subscription, frame
from reference_impl.sessions import recovery
from reference_impl.sessions.list import shown
from reference_impl.sessions.session_files import InvalidSessionIdError, UnknownSessionError
from reference_impl.sessions.sidecar import (
    Message,
    Metadata,
    Session,
    SessionError,
    SidecarDamagedError,
)
from reference_impl.state_db.errors import StateDbError
from reference_impl.storage.files import LockBusyError
from reference_impl.turns.turns import KEPT, Run, ShuttingDownError, Source, TurnConflictError
from reference_impl.web.http_parser import Answer, RefusedError, Request, answer
from reference_impl.web.openapi import described
from reference_impl.web.process_stats import ProcessStats
from reference_impl.web.routes import Args, Field, Kind, Route
from reference_impl.web.server import Plan, Streaming, Wake

MESSAGE_CHARS_MAX = 1_000_000
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_PAGE = Path(__file__).with_name("page.html")
_PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; frame-ancestors 'none'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
_HEARTBEAT = b": heartbeat\n\n"
_KEEPALIVE = b": keepalive\n\n"

_ID = "[0-9A-Za-z-][0-9A-Za-z_-]{0,127}"
SESSION_ID = Field("session_id", is_required=True, max_length=128, pattern=_ID)
STREAM_ID = Field("stream_id", is_required=True, max_length=64, pattern="[0-9A-Za-z-]+")
KEPT_FIELDS = (
    *(Field("workspace"), Field("model"), Field("model_provider"), Field("profile")),
    Field("enabled_toolsets", "array"),
)
AFTER_EVENT_ID = Field("after_event_id", about="like header Last-Event-ID: `<stream_id>:<seq>`")


_BEGUN = (
    *("stream_id", "session_id", "pending_started_at", "turn_id", "title"),
    *("effective_model", "effective_model_provider"),
)


class Api:
    """The application behind the server: the app, over HTTP."""

    def __init__(self, app: App, host: str, password: str) -> None:
        """`host` is the listening address; without a password only loopback has access."""
        self._app = app
        self._is_open = host in LOOPBACK and not password
        self._password = os.fsencode(password)  # its bytes in the environment, whatever they are
        self._gauges: Callable[[], Mapping[str, int]] = dict
        self._counters: Callable[[], Mapping[str, Any]] = dict
        self._started_at = time.time()
        self._is_draining = False
        self._process_stats = ProcessStats()

    def measure(
        self, gauges: Callable[[], Mapping[str, int]], counters: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Include the server's sizes and counters in health responses."""
        self._gauges = gauges
        self._counters = counters

    def collect(self) -> None:
        """Drop channels without readers."""
        self._app.channels.collect()

    def shut_down(self, deadline_s: float) -> None:
        """Finish or mark running turns, and end every subscription."""
        self._is_draining = True
        self._app.shut_down(deadline_s)

    # Access and routing

    def plan(self, request: Request) -> Plan:
        """Find the route of a request. Raises RefusedError."""
        self._check_access(request)
        method = "GET" if request.method == "HEAD" else request.method
        route, parts = _matched(method, request.path)
        if route.kind is Kind.STREAM and request.method == "HEAD":
            raise RefusedError(405, "a stream has no HEAD", ("Allow", "GET"))
        return Plan(
            partial(self._carry_out, route, request, parts),
            is_stream=route.kind is Kind.STREAM,
            is_instant=route.kind is Kind.INSTANT,
        )

    def _check_access(self, request: Request) -> None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if self._is_open and _name_of(host) not in LOOPBACK:
            raise RefusedError(403, f"{host[:80]!r} is not this server's name")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise RefusedError(403, f"{origin[:80]!r} is a foreign origin")
        if request.headers.get("sec-fetch-site") == "cross-site":
            raise RefusedError(403, "the request comes from a foreign page")
        if not self._is_open and not self._knows_password(request):
            challenge = ("WWW-Authenticate", 'Basic realm="sessions", charset="UTF-8"')
            raise RefusedError(401, "the password is missing or wrong", challenge)

    def _knows_password(self, request: Request) -> bool:
        kind, _, credentials = request.headers.get("authorization", "").partition(" ")
        given = credentials.encode("latin-1").strip(b" \t")  # as the client sent it
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        return bool(self._password) and hmac.compare_digest(given, self._password)

    def _carry_out(
        self, route: Route, request: Request, parts: Mapping[str, str], wake: Wake
    ) -> Answer | Streaming:
        args = route.args(request, parts)
        try:
            return route.act(self, args, wake)
        except InvalidSessionIdError as error:
            raise RefusedError(400, str(error)) from None
        except UnknownSessionError as error:
            raise RefusedError(404, str(error)) from None
        except TurnConflictError as error:
            raise RefusedError(409, str(error), active_stream_id=error.stream_id) from None
        except (LockBusyError, ShuttingDownError) as error:
            raise RefusedError(503, str(error)) from None
        except SidecarDamagedError as error:
            raise RefusedError(503, str(error)) from None
        except SessionError as error:
            raise RefusedError(409, str(error)) from None
        except StateDbError as error:
            raise RefusedError(503, str(error)) from None
        except OSError as error:
            status = 507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 503
            raise RefusedError(status, f"the disk refuses: {error.strerror}") from None

    # Health

    def health(self, args: Args, _wake: Wake) -> Answer:
        """Whether the server is well, and what it is doing."""
        runs = self._app.turns.runs()
        now = time.time()
        body: dict[str, Any] = {
            "status": "draining" if self._is_draining else "ok",
            "sessions": self._app.store.gauges()["sessions_held"],
            "active_streams": sum(run.is_attachable for run in runs),
            "active_runs": len(runs),
            "runs": [_run(run) for run in runs],
            "last_run_finished_at": self._app.announcer.last_run_finished_at,
            "server_started_at": self._started_at,
            "uptime_seconds": now - self._started_at,
            "accept_loop": self._counters(),
            "containers": self._containers(),
            "process": self._process_stats.now(),
            "recovery": self._app.recovered._asdict(),
        }
        if runs:
            body["oldest_run_age_seconds"] = now - min(run.started_at for run in runs)
        if args.get("deep"):
            body["checks"] = self._checks()
        return answer(body, 503 if self._is_draining else 200)

    def _containers(self) -> dict[str, int]:
        return {**self._app.gauges(), **self._gauges()}

    def _checks(self) -> dict[str, Any]:
        channels = self._app.channels.gauges()
        has_db = os.path.exists(os.path.join(self._app.folder, "state.db"))
        return {
            "stream_runtime": {
                "total_subscribers": channels["channel_subscribers"],
                "total_offline_buffered_events": channels["channel_frames_kept"],
            },
            "sessions": {"status": "ok", **self._app.store.gauges()},
            "state_db": {
                "status": "ok" if has_db else "missing",
                "is_fair": self._app.writes_are_fair(),
            },
        }

    def system_health(self, _args: Args, _wake: Wake) -> Answer:
        """The resources that the server uses, and the size of every long-lived container."""
        containers = self._containers()
        disk = shutil.disk_usage(self._app.folder)
        times = os.times()
        stats = self._process_stats.now()
        return answer(
            {
                "status": "ok",
                "cpu": {
                    "load_average": os.getloadavg(),
                    "process_seconds": times.user + times.system,
                },
                "memory": {"rss_bytes": stats["rss_bytes"]},
                "disk": {"total_bytes": disk.total, "free_bytes": disk.free},
                "process": stats,
                "webui_runtime": {
                    "sessions": {
                        "resident": containers["sessions_held"],
                        "cap": self._app.store.cap,
                    },
                    "streams": {
                        "active": containers["streams"],
                        "agent_instances": containers["agents_cached"],
                        "subscribers": containers["channel_subscribers"],
                        "offline_buffered_events": containers["channel_frames_kept"],
                        "subscribers_dropped": self._counters().get("streams_dropped", 0),
                        "events_skipped": self._app.channels.events_skipped,
                    },
                    "models_cache": {"resident": containers["catalogs_kept"]},
                },
                "containers": containers,
            }
        )

    # Sessions

    def new_session(self, args: Args, _wake: Wake) -> Answer:
        """Make a session; the previous one comes to a boundary."""
        previous = args.get("prev_session_id")
        if previous is not None:
            self._app.leave_session(previous)
        extra = {name: args[name] for name in (*KEPT, "project_id") if name in args}
        session = self._app.store.new(extra=extra)
        self._app.channels.sessions_changed("created", session.session_id)
        return answer({"session": {**self._row(session), "messages": []}})

    def session(self, args: Args, _wake: Wake) -> Answer:
        """A session with its messages, or the last of them."""
        sid = args["session_id"]
        self._settle(sid)
        session = self._app.store.load(sid)
        first = max(0, session.message_count - args.get("msg_limit", session.message_count))
        resolved = self._app.resolve(session.extra) if args.get("resolve_model") else {}
        return answer(
            {
                "session": {
                    **self._row(session),
                    **resolved,
                    "messages": session.messages[first:],
                    "tool_calls": _tool_calls(session.messages[first:], first),
                    "pending_user_message": session.pending_user_message,
                    "_messages_truncated": first > 0,
                    "_messages_offset": first,
                }
            }
        )

    def status(self, args: Args, _wake: Wake) -> Answer:
        """What a session is doing, without its messages."""
        sid = args["session_id"]
        self._settle(sid)
        row = self._row(self._app.store.load_metadata_only(sid))
        return answer(
            {
                **row,
                "agent_running": sid in self._app.turns.live_sessions(),
                "hermes_home": self._app.folder,
            }
        )

    def sessions(self, _args: Args, _wake: Wake) -> Answer:
        """All sessions, the latest activity first."""
        listed = self._app.sessions.now()
        body = {
            "webui_session_count": listed.number,
            "server_time": time.time(),
            "server_tz": time.strftime("%z"),
        }
        return Answer(200, b'{"sessions": ' + listed.rows + b", " + json.dumps(body).encode()[1:])

    def search(self, args: Args, _wake: Wake) -> Answer:
        """Sessions whose title or messages have all these words."""
        found = self._app.search(args["q"])
        return answer({"query": args["q"], "count": len(found), "sessions": found})

    def rename(self, args: Args, _wake: Wake) -> Answer:
        """Give a session a title; one without any visible character removes the given one."""
        return self._changed(self._app.rename(args["session_id"], args["title"]), "renamed")

    def clear(self, args: Args, _wake: Wake) -> Answer:
        """Remove a session's messages."""
        return self._changed(self._app.clear(args["session_id"]), "cleared")

    def truncate(self, args: Args, _wake: Wake) -> Answer:
        """Keep a session's first messages."""
        session = self._app.store.truncate(args["session_id"], args["keep_count"])
        return self._changed(session, "truncated")

    def undo(self, args: Args, _wake: Wake) -> Answer:
        """Remove the user's last message, and what followed."""
        return self._changed(self._app.store.undo(args["session_id"]), "undone")

    def compress(self, args: Args, _wake: Wake) -> Answer:
        """Replace all turns but the last by a summary."""
        return self._changed(self._app.turns.compress(args["session_id"]), "compressed")

    def retry(self, args: Args, _wake: Wake) -> Answer:
        """Remove the reply to the user's last message, and begin its turn again."""
        sid = args["session_id"]
        run = self._app.turns.retry(sid)
        self._app.changed(self._app.store.load(sid), "retried")
        return self._begun(run)

    def _changed(self, session: Session, reason: str) -> Answer:
        self._app.changed(session, reason)
        return answer({"ok": True, "session": self._row(session)})

    def end_session(self, args: Args, _wake: Wake) -> Answer:
        """Note that a session is over."""
        session = self._app.end_session(args["session_id"], args.get("reason", "user"))
        return self._changed(session, "ended")

    def reopen_session(self, args: Args, _wake: Wake) -> Answer:
        """Let an ended session go on."""
        return self._changed(self._app.reopen_session(args["session_id"]), "reopened")

    def prune(self, args: Args, _wake: Wake) -> Answer:
        """Delete ended sessions that started longer ago."""
        number = self._app.prune(args["older_than_days"], args.get("source"))
        return answer({"ok": True, "pruned": number})

    def record(self, args: Args, _wake: Wake) -> Answer:
        """A session's row in state.db."""
        sid = args["session_id"]
        self._app.store.load_metadata_only(sid)
        return answer({"record": self._app.record(sid)})

    def processes(self, args: Args, _wake: Wake) -> Answer:
        """A session's background processes: those that run, and the latest that ended."""
        sid = args["session_id"]
        self._app.store.load_metadata_only(sid)
        found = self._app.processes
        ended = [asdict(process) for process in found.finished() if process.owner == sid]
        return answer({"running": found.running(sid), "finished": ended})

    def delete(self, args: Args, _wake: Wake) -> Answer:
        """Delete a session; a missing one is fine."""
        failed = False
        try:
            self._app.delete(args["session_id"])
        except StateDbError:
            failed = True
        return answer({"ok": True, "state_db_cleanup_failed": failed})

    def _settle(self, session_id: str) -> None:
        """Free a session that is marked as busy by a run that no longer exists."""
        metadata = self._app.store.load_metadata_only(session_id)
        stream_id = metadata.active_stream_id
        if metadata.is_busy and (stream_id is None or not self._app.turns.is_live(stream_id)):
            self._app.turns.repair(session_id)

    def _row(self, metadata: Metadata) -> Mapping[str, Any]:
        return shown(metadata.row(), self._app.turns.attachable_stream(metadata.session_id))

    # Turns

    def start(self, args: Args, _wake: Wake) -> Answer:
        """Begin a turn; the message is on disk when this returns."""
        sid = args["session_id"]
        self._app.store.load_metadata_only(sid)  # before anything is announced
        asked = {name: args[name] for name in (*KEPT, "attachments") if name in args}
        run = self._app.turns.start(sid, args["message"], asked=asked)
        return self._begun(run)

    def ask_aside(self, args: Args, _wake: Wake) -> Answer:
        """Begin a turn that knows the session, and leaves nothing in it."""
        sid = args["session_id"]
        self._app.store.load_metadata_only(sid)  # before anything is announced
        run = self._app.turns.start(sid, args["question"], Source.EPHEMERAL)
        return answer(
            {
                "stream_id": run.stream_id,
                "session_id": run.session_id,
                "started_at": run.started_at,
                "turn_id": run.turn_id,
            }
        )

    def _begun(self, run: Run) -> Answer:
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

    def cancel(self, args: Args, _wake: Wake) -> Answer:
        """End a run now, and save what it produced."""
        stream_id = args["stream_id"]
        cancelled = self._app.cancel(stream_id)
        return answer({"ok": True, "cancelled": cancelled, "stream_id": stream_id})

    def stream_status(self, args: Args, _wake: Wake) -> Answer:
        """Whether a client can attach to a run, or read it from its journal."""
        stream_id = args["stream_id"]
        run = next((run for run in self._app.turns.runs() if run.stream_id == stream_id), None)
        return answer(
            {
                "active": run is not None and run.is_attachable,
                "stream_id": stream_id,
                "replay_available": run is not None or self._app.has_rows(stream_id),
            }
        )

    # Streams

    def chat_stream(self, args: Args, wake: Wake) -> Streaming:
        """Read a run, from its start or after a cursor, until its terminal event."""
        stream_id = args["stream_id"]
        cursor = _cursor(args)
        if cursor is None and "after_seq" in args:
            cursor = Cursor(stream_id, args["after_seq"])
        reader = self._app.channels.subscribe_run(stream_id, wake, cursor)
        if reader is None:
            raise RefusedError(404, "stream not found")
        return Streaming(reader, _HEARTBEAT)

    def session_stream(self, args: Args, wake: Wake) -> Streaming:
        """Watch a session: turns that start, messages that come, processes that end."""
        sid = args["session_id"]
        self._app.store.load_metadata_only(sid)
        reader = self._app.channels.subscribe(sid, wake, _cursor(args))
        self._send_count(sid, args.get("known_count"), reader)
        return Streaming(reader, _KEEPALIVE)

    def _send_count(self, session_id: str, known: int | None, reader: Subscription) -> None:
        """Send the message count to a client with an older one; after it subscribed."""
        if known is None:
            return
        try:
            count = self._app.store.load_metadata_only(session_id).message_count
        except BaseException:
            reader.close()
            raise
        if count != known:
            body = {"session_id": session_id, "message_count": count, "known_count": known}
            reader.prepend([frame("session-updated", {**body, "source": "subscribe"})])

    def session_events(self, args: Args, wake: Wake) -> Streaming:
        """Read a session's run: the current one, or the rest of the one that the cursor names."""
        sid = args["session_id"]
        self._app.store.load_metadata_only(sid)
        reader = self._app.channels.subscribe_events(sid, wake, _cursor(args))
        return Streaming(reader, _KEEPALIVE)

    def sessions_events(self, _args: Args, wake: Wake) -> Streaming:
        """Watch the list of sessions."""
        return Streaming(self._app.channels.subscribe_sessions(wake), _KEEPALIVE)

    def gateway_stream(self, args: Args, wake: Wake) -> Answer | Streaming:
        """Watch changes by other processes in state.db; or probe whether that works."""
        is_running = self._app.watcher.is_running
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
        return Streaming(self._app.watcher.subscribe(wake), _KEEPALIVE)

    # Other endpoints

    def acknowledge(self, args: Args, _wake: Wake) -> Answer:
        """Accept the acknowledgement, which changes nothing."""
        sid = args["session_id"]
        task_id = args["task_id"] if "task_id" in args else args["process_id"]
        self._app.store.load_metadata_only(sid)
        both = {"task_id": task_id, "process_id": task_id}
        body = {"ok": True, "session_id": sid, **both, "noop": True}
        return answer(body) if "task_id" in args else answer(body, 200, ("Deprecation", "true"))

    def acknowledge_as_before(self, _args: Args, _wake: Wake) -> Answer:
        """Refuse with the new path."""
        new = "/api/bg-task-complete-ack"
        raise RefusedError(410, f"it is {new} now", ("X-Replaced-By", new))

    def audit(self, _args: Args, _wake: Wake) -> Answer:
        """Defects of the sessions' files; changes nothing."""
        recovered = {"recovery": self._app.recovered._asdict()}
        return answer({**_audit(recovery.audit(self._app.store)), **recovered})

    def models(self, args: Args, _wake: Wake) -> Answer:
        """The models to choose from: the cached ones, or with `refresh` those of the providers."""
        catalog = self._app.catalog
        return answer(dict(catalog.rebuilt() if args.get("refresh") else catalog.shown()))

    def openapi(self, _args: Args, _wake: Wake) -> Answer:
        """The OpenAPI description."""
        return answer(described(ROUTES))

    def page(self, _args: Args, _wake: Wake) -> Answer:
        """A page to watch the server with."""
        headers = (("Content-Security-Policy", _PAGE_POLICY),)
        return Answer(200, _PAGE.read_bytes(), "text/html; charset=utf-8", headers)


def _matched(method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    """Find the route of a path. Raises RefusedError."""
    if (fixed := _FIXED.get((method, path))) is not None:
        return fixed, {}
    methods = []
    for route in ROUTES:
        if match := route.matcher.fullmatch(path):
            if route.method == method:
                return route, match.groupdict()
            methods.append(route.method)
    if methods:
        allowed = ", ".join(methods)
        raise RefusedError(405, f"{method} is not allowed, only {allowed}", ("Allow", allowed))
    raise RefusedError(404, "not found")


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _tool_calls(messages: Sequence[Message], first: int) -> list[dict[str, Any]]:
    """The tool calls of these messages, with the index of each one's message in its session."""
    return [
        {**call, "message_index": at}
        for at, message in enumerate(messages, first)
        for call in message.get("tool_calls", ())
    ]


def _cursor(args: Args) -> Cursor | None:
    """The client's cursor; one that cannot be parsed counts as foreign, never as missing."""
    id_ = args.get("last_event_id") or args.get("after_event_id")
    if not id_:
        return None
    return Cursor.parsed(id_) or Cursor("", 0)


def _run(run: Run) -> dict[str, Any]:
    return {
        "session_id": run.session_id,
        "stream_id": run.stream_id,
        "source": str(run.source),
        "phase": run.phase,
        "started_at": run.started_at,
    }


def _audit(found: recovery.Audit) -> dict[str, Any]:
    items = [asdict(finding) for finding in found.findings]
    repairable = sum(finding.is_repairable for finding in found.findings)
    summary = {"repairable": repairable, "unsafe_to_repair": len(items) - repairable}
    return {"status": found.status, "summary": summary, "items": items}


_DISK = (503, 507)

ROUTES = (
    Route("GET", "/", Api.page, "a page to watch the server with", content_type="text/html"),
    Route("GET", "/openapi.json", Api.openapi, "this description", gives=("openapi", "paths")),
    Route(
        "GET",
        "/health",
        Api.health,
        "whether the server is well, and what it is doing",
        Kind.INSTANT,
        query=(Field("deep", max_length=5),),
        refusals=(503,),
        gives=("status", "active_runs", "active_streams", "runs", "containers", "recovery"),
    ),
    Route(
        "GET",
        "/api/system/health",
        Api.system_health,
        "the server's resources, and the size of every long-lived container",
        Kind.INSTANT,
        gives=("cpu", "memory", "disk", "webui_runtime", "containers"),
    ),
    Route(
        "POST",
        "/api/session/new",
        Api.new_session,
        "make a session",
        body=(
            *KEPT_FIELDS,
            Field("project_id"),
            Field("prev_session_id", max_length=128, pattern=_ID),
        ),
        refusals=_DISK,
        gives=("session",),
    ),
    Route(
        "GET",
        "/api/session",
        Api.session,
        "a session with its messages",
        query=(SESSION_ID, Field("msg_limit", "integer"), Field("resolve_model", max_length=5)),
        refusals=(404, *_DISK),
        gives=("session",),
    ),
    Route(
        "GET",
        "/api/session/status",
        Api.status,
        "what a session is doing",
        query=(SESSION_ID,),
        refusals=(404, *_DISK),
        gives=("session_id", "title", "message_count", "agent_running", "active_stream_id"),
    ),
    Route(
        "GET",
        "/api/sessions",
        Api.sessions,
        "all sessions, the latest activity first",
        refusals=_DISK,
        gives=("sessions", "server_time"),
    ),
    Route(
        "GET",
        "/api/sessions/search",
        Api.search,
        "sessions whose title or messages have all these words",
        query=(Field("q", is_required=True, max_length=500),),
        refusals=_DISK,
        gives=("query", "count", "sessions"),
    ),
    Route(
        "POST",
        "/api/session/rename",
        Api.rename,
        "give a session a title",
        body=(SESSION_ID, Field("title", is_required=True, max_length=500)),
        refusals=(404, 409, *_DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/clear",
        Api.clear,
        "remove a session's messages",
        body=(SESSION_ID,),
        refusals=(404, 409, *_DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/truncate",
        Api.truncate,
        "keep a session's first messages",
        body=(SESSION_ID, Field("keep_count", "integer", is_required=True)),
        refusals=(404, 409, *_DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/undo",
        Api.undo,
        "remove the user's last message, and what followed",
        body=(SESSION_ID,),
        refusals=(404, 409, *_DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/retry",
        Api.retry,
        "remove the reply to the user's last message, and begin its turn again",
        body=(SESSION_ID,),
        refusals=(404, 409, *_DISK),
        gives=_BEGUN,
    ),
    Route(
        "POST",
        "/api/session/compress",
        Api.compress,
        "replace all turns but the last by a summary",
        body=(SESSION_ID,),
        refusals=(404, 409, *_DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/end",
        Api.end_session,
        "note that a session is over; its next turn reopens it",
        body=(SESSION_ID, Field("reason", max_length=100)),
        refusals=(404, 409, *_DISK),
        gives=("ok", "session"),
    ),
    Route(
        "POST",
        "/api/session/reopen",
        Api.reopen_session,
        "let an ended session go on",
        body=(SESSION_ID,),
        refusals=(404, 409, *_DISK),
        gives=("ok", "session"),
    ),
    Route(
        "GET",
        "/api/session/record",
        Api.record,
        "a session's row in state.db: tokens, system prompt, end",
        query=(SESSION_ID,),
        refusals=(404, *_DISK),
        gives=("record",),
    ),
    Route(
        "GET",
        "/api/session/processes",
        Api.processes,
        "a session's background processes",
        query=(SESSION_ID,),
        refusals=(404, *_DISK),
        gives=("running", "finished"),
    ),
    Route(
        "POST",
        "/api/sessions/prune",
        Api.prune,
        "delete ended sessions that started longer ago, of one source or of all",
        body=(
            Field("older_than_days", "integer", is_required=True, maximum=100_000),
            Field("source", max_length=100),
        ),
        refusals=_DISK,
        gives=("ok", "pruned"),
    ),
    Route(
        "POST",
        "/api/session/delete",
        Api.delete,
        "delete a session; a missing one is fine",
        body=(SESSION_ID,),
        refusals=(409, *_DISK),
        gives=("ok", "state_db_cleanup_failed"),
    ),
    Route(
        "POST",
        "/api/chat/start",
        Api.start,
        "begin a turn",
        body=(
            SESSION_ID,
            Field("message", is_required=True, max_length=MESSAGE_CHARS_MAX),
            *KEPT_FIELDS,
            Field("attachments", "array"),
        ),
        refusals=(404, 409, *_DISK),
        gives=_BEGUN,
    ),
    Route(
        "POST",
        "/api/btw",
        Api.ask_aside,
        "ask aside: begin a turn that leaves nothing in its session",
        body=(SESSION_ID, Field("question", is_required=True, max_length=MESSAGE_CHARS_MAX)),
        refusals=(404, 409, *_DISK),
        gives=("stream_id", "session_id", "started_at", "turn_id"),
    ),
    Route(
        "GET",
        "/api/chat/cancel",
        Api.cancel,
        "end a run now, and keep what it produced",
        query=(STREAM_ID,),
        gives=("ok", "cancelled", "stream_id"),
    ),
    Route(
        "GET",
        "/api/chat/stream/status",
        Api.stream_status,
        "whether a run can be attached to",
        query=(STREAM_ID,),
        gives=("active", "stream_id", "replay_available"),
    ),
    Route(
        "GET",
        "/api/chat/stream",
        Api.chat_stream,
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
        Api.session_stream,
        "watch a session",
        Kind.STREAM,
        query=(SESSION_ID, Field("known_count", "integer"), AFTER_EVENT_ID),
        refusals=(404, 503),
        content_type="text/event-stream",
    ),
    Route(
        "GET",
        "/api/sessions/events",
        Api.sessions_events,
        "watch the list of sessions",
        Kind.STREAM,
        refusals=(503,),
        content_type="text/event-stream",
    ),
    Route(
        "GET",
        "/api/sessions/gateway/stream",
        Api.gateway_stream,
        "watch what other processes do to sessions",
        Kind.STREAM,
        query=(Field("probe", max_length=5),),
        refusals=(503,),
        content_type="text/event-stream",
    ),
    Route(
        "GET",
        "/api/sessions/{session_id}/events",
        Api.session_events,
        "read a session's run",
        Kind.STREAM,
        query=(AFTER_EVENT_ID,),
        refusals=(400, 404, 503),
        content_type="text/event-stream",
    ),
    Route(
        "POST",
        "/api/bg-task-complete-ack",
        Api.acknowledge,
        "acknowledge an ended process, which changes nothing",
        body=(SESSION_ID, Field("task_id", max_length=128), Field("process_id", max_length=128)),
        either=("task_id", "process_id"),
        refusals=(404, 503),
        gives=("ok", "session_id", "task_id", "process_id", "noop"),
    ),
    Route(
        "POST",
        "/api/process-complete-ack",
        Api.acknowledge_as_before,
        "the former path of the endpoint above",
        refusals=(410,),
    ),
    Route(
        "GET",
        "/api/session/recovery/audit",
        Api.audit,
        "defects of the sessions' files",
        refusals=_DISK,
        gives=("status", "summary", "items", "recovery"),
    ),
    Route(
        "GET",
        "/api/models",
        Api.models,
        "the models to choose from",
        query=(Field("refresh", max_length=5),),
        gives=("groups", "default_model"),
    ),
)

_FIXED = {(route.method, route.path): route for route in ROUTES}
