"""The answer of each endpoint, predicted from the visible state of a server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.contract.models.answers import TEXT, AtLeast, OneOf, Span, Text
from harness.contract.models.server_values import KEPT, Message, Run, Session, State
from harness.contract.models.titles import UNTITLED, sanitised
from harness.core.contract import Promise

OK, BAD, ABSENT, CONFLICT = 200, 400, 404, 409
JSON_HEADERS = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}
STREAM_TYPE = "text/event-stream; charset=utf-8"
FOUND_CHARS = 200  # that a search shows of a message
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Expected:
    """The predicted answer of one call, the state behind it, and the promises that it tests."""

    status: int
    body: Any
    state: State
    promises: tuple[Promise, ...]
    headers: Mapping[str, str] | None = None


def subject_of(argument: Mapping[str, Any]) -> Any:
    """The session or run that a call is about."""
    values = {**(argument.get("query") or {}), **(argument.get("body") or {})}
    in_path = argument["path"].split("/")[3] if argument["path"].count("/") == 4 else None  # noqa: PLR2004
    return values.get("session_id") or values.get("stream_id") or in_path


def narrowed(state: State, body: Any) -> State:
    """The state, with the times that an answer has shown."""
    rows = []
    if isinstance(body, Mapping):
        if isinstance(body.get("session"), Mapping):
            rows.append(body["session"])
        if isinstance(body.get("sessions"), list):
            rows += body["sessions"]
        if "hermes_home" in body:
            rows.append(body)
    for row in rows:
        session = state.find(row.get("session_id"))
        if session is None:
            continue
        at = row["updated_at"]
        session = replace(session, updated=Span(at, at))
        offset = row.get("_messages_offset", 0)
        for index, shown in enumerate(row.get("messages", ())):
            seen = Span(shown["timestamp"], shown["timestamp"])
            messages = list(session.messages)
            messages[offset + index] = replace(messages[offset + index], at=seen)
            session = replace(session, messages=tuple(messages))
        state = state.put(session)
    return state


def predicted(state: State, argument: Mapping[str, Any]) -> Expected:
    """The answer of one call."""
    method, path = argument["method"], argument["path"]
    values = {**(argument.get("query") or {}), **(argument.get("body") or {})}
    values = {name: value for name, value in values.items() if value is not None}
    if method == "HEAD":
        got = predicted(state, {**argument, "method": "GET"})
        return replace(got, body=None)
    predict = _ROUTES.get((method, path))
    if predict is None:
        return Expected(ABSENT, {"error": TEXT}, state, (promises.H2,))
    return predict(state, values, argument.get("name", ""))


def _absent(state: State, tested: Promise = promises.H2) -> Expected:
    return Expected(ABSENT, {"error": TEXT}, state, (tested,))


def _session(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    resolved = _resolved(dict(session.extra)) if values.get("resolve_model") else {}
    body = {"session": {**state.whole(session, values.get("msg_limit")), **resolved}}
    return Expected(OK, body, state, (promises.S15, promises.S14, promises.S2))


def _status(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    is_running: Any = session.run is not None
    if session.is_leaving:
        is_running = OneOf((True, False))
    body = {**state.row(session), "agent_running": is_running, "hermes_home": "<home>"}
    tested = (promises.S15, promises.S14, promises.T3, promises.T4)
    return Expected(OK, body, state, tested)


def _sessions(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    order = sorted(state.sessions, key=lambda session: session.updated.last, reverse=True)
    body = {
        "sessions": [state.row(session) for session in order],
        "webui_session_count": len(order),
        "server_time": state.clock,
        "server_tz": Text(r"[+-]\d{4}"),
    }
    return Expected(OK, body, state, (promises.S15, promises.S11, promises.S14, promises.S8))


def _search(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    """Sessions whose title or messages have all these words, the latest activity first."""
    words = values["q"].casefold().split()
    rows = []
    for session in sorted(state.sessions, key=lambda known: known.updated.last, reverse=True):
        texts = [message.content for message in session.messages]
        found = [text for text in texts if {*words} <= {*_WORD.findall(text.casefold())}]
        if all(word in session.title.casefold() for word in words):
            rows.append({**state.row(session), "match_type": "title"})
        elif found:
            about = {"match_type": "content", "text": found[-1][:FOUND_CHARS]}
            rows.append({**state.row(session), **about})
    body = {"query": values["q"], "count": len(rows), "sessions": rows}
    return Expected(OK, body, state, (promises.S14, promises.S15, promises.S6))


def _new(state: State, values: Mapping[str, Any], name: str) -> Expected:
    extra = tuple(_kept(values, "project_id").items())
    now = Span(state.clock, state.clock)
    session = Session(name, state.clock, now, extra=extra)
    after = state.put(session).announced()
    body = {"session": {**after.row(session), "messages": []}}
    return Expected(OK, body, after, (promises.S15, promises.S11))


def _kept(values: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """What the values say of the session's fields, and of these further ones; hashable."""
    found = {field: values[field] for field in (*KEPT, *more) if field in values}
    return {
        field: tuple(value) if isinstance(value, list) else value for field, value in found.items()
    }


def _resolved(values: Mapping[str, Any]) -> dict[str, Any]:
    """The model and provider of a session, by a catalog that was never rebuilt."""
    provider = values.get("model_provider") or "scripted"
    model = values.get("model") or "scripted-agent"
    return {"effective_model": model, "effective_model_provider": provider}


def _changed(state: State, session: Session, tested: Promise) -> Expected:
    after = state.put(session).announced()
    body = {"ok": True, "session": after.row(after.named(session))}
    return Expected(OK, body, after, (promises.S15, tested, promises.S14))


def _rename(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    title = sanitised(values["title"]) or UNTITLED
    return _changed(state, session.changed(state.clock, title=title), promises.S9)


def _clear(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    return _changed(state, session.cut(0, state.clock), promises.S6)


def _truncate(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    keep = values["keep_count"]
    if keep < len(session.messages):
        return _changed(state, session.cut(keep, state.clock), promises.S6)
    return _changed(state, session.changed(state.clock), promises.S2)


def _undo(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    users = [at for at, message in enumerate(session.messages) if message.role == "user"]
    if not users:
        return Expected(CONFLICT, {"error": TEXT}, state, (promises.S10, promises.S6))
    return _changed(state, session.cut(users[-1], state.clock), promises.S6)


def _compress(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    found = _freed(state, values["session_id"])
    if isinstance(found, Expected):
        return found
    state, session = found
    users = [at for at, message in enumerate(session.messages) if message.role == "user"]
    if len(users) < 2:  # noqa: PLR2004
        return Expected(CONFLICT, {"error": TEXT}, state, (promises.S10, promises.S6))
    old, kept = session.messages[: users[-1]], session.messages[users[-1] :]
    asked = "; ".join(message.content[:40] for message in old if message.role == "user")
    text = f"Summary of {len(old)} messages: {asked}"
    summary = Message("system", text, Span(state.clock, state.clock), "")
    shrunk = session.changed(state.clock, messages=(summary, *kept), shrinks=session.shrinks + 1)
    return _changed(state, shrunk, promises.S6)


def _retry(state: State, values: Mapping[str, Any], name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    if session.run is not None and not session.is_leaving:
        return _busy(state, session)
    users = [at for at, message in enumerate(session.messages) if message.role == "user"]
    if not users:
        return Expected(CONFLICT, {"error": TEXT}, state, (promises.S10, promises.S6))
    state = state.idle(session)
    session = state.find(session.name) or session
    sent = session.messages[users[-1]]
    cut = replace(session, messages=session.messages[: users[-1]], shrinks=session.shrinks + 1)
    begun = _began(state, cut, sent.content, {"attachments": sent.attachments}, name)
    return replace(begun, state=begun.state.announced(), promises=(promises.S6, *begun.promises))


def _busy(state: State, session: Session) -> Expected:
    """A session whose run refuses what is asked."""
    run = state.attachable(session)
    body = {"error": TEXT, "active_stream_id": None if run is None else run.name}
    tested = (promises.T1, promises.T4) if run is None else (promises.T1,)
    return Expected(CONFLICT, body, state, tested)


def _freed(state: State, name: str) -> tuple[State, Session] | Expected:
    """The session when its last run has left; or why it cannot be changed."""
    session = state.find(name)
    if session is None:
        return _absent(state)
    if session.run is not None and not session.is_leaving:
        return _busy(state, session)
    state = state.idle(session)
    return state, state.find(name) or session


def _end(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    if session.is_pending:
        return Expected(CONFLICT, {"error": TEXT}, state, (promises.S10, promises.S2))
    ended = (("ended_at", state.clock), ("end_reason", values.get("reason", "user")))
    return _changed(state, session.changed(state.clock, ended=session.ended or ended), promises.D13)


def _reopen(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    return _changed(state, session.changed(state.clock, ended=()), promises.D13)


def _prune(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    """Ended sessions are deleted that began longer ago: within the walk, or days before it."""
    is_meant = values.get("source", "webui") == "webui"
    old_days = 2
    pruned = [
        session
        for session in state.sessions
        if session.ended
        and is_meant
        and values["older_than_days"] < (old_days if session.is_old else 1)
    ]
    after = state
    for session in pruned:
        after = after.without(session.name).announced()
    is_theirs = values.get("source", "cli") == "cli" and not values["older_than_days"]
    theirs = state.foreign if is_theirs else frozenset()
    names = state.pruned.union(session.name for session in pruned)
    after = replace(after, pruned=names, foreign=state.foreign - theirs)
    body = {"ok": True, "pruned": len(pruned) + len(theirs)}
    # A count that differs may be that of another copy.
    return Expected(OK, body, after, (promises.D13, promises.S6, promises.S2, promises.S14))


def _record(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    tested = (promises.S14, promises.D13, promises.S15)
    return Expected(OK, {"record": state.record(session)}, state, tested)


def _processes(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    """No turn of this model starts a process."""
    if state.find(values["session_id"]) is None:
        return _absent(state)
    body: dict[str, Any] = {"running": [], "finished": []}
    return Expected(OK, body, state, (promises.W9, promises.W6))


def _delete(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    after = state
    if session is not None:
        run = state.run(session.run)
        if run is not None:
            after = replace(after.announced(), ended=Span(run.started, state.clock))
        after = after.without(session.name)
    body = {"ok": True, "state_db_cleanup_failed": False}
    return Expected(OK, body, after.announced(), (promises.S6, promises.S15))


def _start(state: State, values: Mapping[str, Any], name: str) -> Expected:
    found = _freed(state, values["session_id"])
    if isinstance(found, Expected):
        return found
    state, session = found
    return _began(state, session, values["message"], values, name)


def _began(
    state: State, session: Session, text: str, values: Mapping[str, Any], name: str
) -> Expected:
    """A turn that starts in an idle session, and what it works with."""
    number = sum(message.role == "user" for message in session.messages) + 1
    extra = {**dict(session.extra), **_kept(values)}
    resolved = _resolved(extra)
    attachments = _kept({"attachments": (), **values}, "attachments")
    asked = {**_kept(extra), **attachments, **resolved}
    history = len(session.messages)
    run = Run(name, session.name, text, state.clock, number, tuple(asked.items()), history=history)
    begun_session = session.changed(
        state.clock, run=name, is_pending=True, extra=tuple(extra.items()), ended=()
    )
    after = state.put_run(run).put(begun_session)
    begun = {
        "stream_id": name,
        "session_id": session.name,
        "pending_started_at": state.clock,
        "turn_id": run.turn,
        "title": after.named(begun_session).title,
        **resolved,
    }
    return Expected(OK, begun, after.announced(), (promises.T8, promises.T3, promises.T2))


def _aside(state: State, values: Mapping[str, Any], name: str) -> Expected:
    found = _freed(state, values["session_id"])
    if isinstance(found, Expected):
        return found
    state, session = found
    number = sum(message.role == "user" for message in session.messages) + 1
    kept = _kept(dict(session.extra))
    asked = {**kept, "attachments": (), **_resolved(dict(session.extra))}
    run = Run(
        *(name, session.name, values["question"], state.clock, number),
        asked=tuple(asked.items()),
        is_aside=True,
    )
    after = state.put_run(run).put(replace(session, run=name, is_leaving=False))
    begun = {
        "stream_id": name,
        "session_id": session.name,
        "started_at": state.clock,
        "turn_id": run.turn,
    }
    return Expected(OK, begun, after.announced(), (promises.T8, promises.T3))


def _cancel(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    run = state.run(values["stream_id"])
    after, is_cancelled = state, False
    if run is not None:
        session = state.find(run.session)
        is_present = session is not None and session.run == run.name
        if is_present and not run.end:
            after, is_cancelled = state.with_end(run, "cancelled"), True
        elif is_present and run.end == "cancelled":
            # Its agent may have unwound by now, unless it hangs.
            is_cancelled = True if session and not session.is_leaving else OneOf((True, False))  # type: ignore[assignment]
    body = {"ok": True, "cancelled": is_cancelled, "stream_id": values["stream_id"]}
    return Expected(OK, body, after, (promises.T4, promises.T3))


def _stream_status(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    run = state.run(values["stream_id"])
    body = {
        "active": run is not None and not run.end,
        "stream_id": values["stream_id"],
        "replay_available": run is not None,
    }
    tested = (promises.T3, promises.C7, promises.S6)
    if run is not None and run.end == "cancelled":  # it is never offered as one to attach to
        tested = (promises.T4, promises.C7, promises.T3)
    return Expected(OK, body, state, tested)


def _acknowledge(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state, promises.W11)
    is_former = "task_id" not in values
    task = values["process_id" if is_former else "task_id"]
    both = {"task_id": task, "process_id": task}
    body = {"ok": True, "session_id": session.name, **both, "noop": True}
    headers = {**JSON_HEADERS, **({"deprecation": "true"} if is_former else {})}
    return Expected(OK, body, state, (promises.W11,), headers)


def _former(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    headers = {**JSON_HEADERS, "x-replaced-by": "/api/bg-task-complete-ack"}
    return Expected(410, {"error": TEXT}, state, (promises.W11, promises.H2), headers)


def _audit(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    body = {
        "status": "ok",
        "summary": {"repairable": 0, "unsafe_to_repair": 0},
        "items": [],
        "recovery": state.recovery(),
    }
    return Expected(OK, body, state, (promises.S5, promises.S11))


def _models(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    model = {"id": "scripted-agent", "label": "scripted-agent"}
    body = {
        "active_provider": "scripted",
        "default_model": "scripted-agent",
        "groups": [{"provider": "scripted", "models": [model]}],
    }
    return Expected(OK, body, state, (promises.M1,))


def _gateway(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    body = {
        "enabled": True,
        "ok": True,
        "watcher_running": True,
        "fallback_poll_ms": AtLeast(1),
        "scope": "gateway",
        "session_stream_available": True,
        "session_stream_path": "/api/session/stream",
    }
    return Expected(OK, body, state, (promises.G1,))


def _page(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    headers = {**JSON_HEADERS, "content-type": "text/html; charset=utf-8"}
    return Expected(OK, None, state, (promises.H2,), headers)


_SIZES = (  # of containers that the visible state decides
    *("runs", "streams", "run_writers", "channel_runs", "channel_runs_offered"),
    *("processes_running", "process_events_pending", "process_completion_queue"),
    *("runs_abandoned", "wakeup_events", "wakeup_ready", "wakeup_timers", "sse_stalled"),
)
_BUFFERS = (  # of containers whose size at a moment only the server knows
    *("sessions_held", "session_index_rows", "sessions_listed", "turn_journal", "catalogs_kept"),
    *("processes_finished", "process_ledger", "agents_kept", "agents_leaving", "agents_aside"),
    *("agents_claimed", "agents_cached", "lifecycle_entries", "wakeup_lines", "wakeup_homeless"),
    *("wakeup_index", "wakeup_runs", "channels", "channel_subscribers", "channel_frames_kept"),
    *("channel_bytes_kept", "watcher_subscribers", "watcher_bytes_kept", "catalog_flights"),
    *("connections_idle", "connections_leaving", "calls", "streams_taken", "sse_streams"),
    "sse_ready",
)


def _containers(state: State) -> dict[str, Any]:
    runs = state.registered()
    is_unsure = any(session.is_leaving for session in state.sessions)
    sure = {
        **dict.fromkeys(_SIZES, 0),
        **dict.fromkeys(("runs", "streams", "channel_runs"), len(runs)),
        "run_writers": sum(not run.end for run in runs),
        "channel_runs_offered": sum(not run.end for run in runs),
    }
    buffers = {name: AtLeast(0) for name in _BUFFERS}
    return buffers | ({name: AtLeast(0) for name in sure} if is_unsure else sure)


def _checks(state: State) -> dict[str, Any]:
    """What a deep health response says besides."""
    is_synced = any(session.messages for session in state.sessions)
    held = {"sessions_held": AtLeast(0), "session_index_rows": AtLeast(0)}
    return {
        "stream_runtime": {
            "total_subscribers": AtLeast(0),
            "total_offline_buffered_events": AtLeast(0),
        },
        "sessions": {"status": "ok", **held},
        "state_db": {
            "status": "ok" if is_synced else OneOf(("ok", "missing")),
            "is_fair": OneOf((None, True, False)),  # whether it was opened, and this system's locks
        },
    }


def _health(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    runs = sorted(state.registered(), key=lambda run: run.started)
    ended: Any = state.ended if state.ended is not None else None
    body: dict[str, Any] = {
        "status": "ok",
        "sessions": AtLeast(0),
        "active_streams": sum(not run.end for run in runs),
        "active_runs": len(runs),
        "runs": [
            {
                "session_id": run.session,
                "stream_id": run.name,
                "source": run.source,
                "phase": state.phase(run),
                "started_at": run.started,
            }
            for run in runs
        ],
        "last_run_finished_at": ended,
        "server_started_at": Span(state.booted, state.booted),
        "uptime_seconds": state.clock,
        "accept_loop": {
            "requests_total": 0,
            "last_request_at": state.clock,
            "streams_dropped": 0,
            "streams_max": AtLeast(1),
        },
        "containers": _containers(state),
        "process": {"threads": AtLeast(1), "fds": AtLeast(1), "rss_bytes": AtLeast(1 << 20)},
        "recovery": state.recovery(),
    }
    if runs:
        body["oldest_run_age_seconds"] = runs[0].started
    if values.get("deep"):
        body["checks"] = _checks(state)
    return Expected(OK, body, state, (promises.T3, promises.H4, promises.H8))


def _system_health(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    running = _containers(state)
    body: dict[str, Any] = {
        "status": "ok",
        "cpu": {"load_average": [AtLeast(0)] * 3, "process_seconds": AtLeast(0)},
        "memory": {"rss_bytes": AtLeast(1 << 20)},
        "disk": {"total_bytes": AtLeast(1), "free_bytes": AtLeast(0)},
        "process": {"threads": AtLeast(1), "fds": AtLeast(1), "rss_bytes": AtLeast(1 << 20)},
        "webui_runtime": {
            "sessions": {"resident": AtLeast(0), "cap": 100},
            "streams": {
                "active": running["streams"],
                "agent_instances": AtLeast(0),
                "subscribers": AtLeast(0),
                "offline_buffered_events": AtLeast(0),
                "subscribers_dropped": 0,
                "events_skipped": 0,
            },
            "models_cache": {"resident": OneOf((0, 1))},
        },
        "containers": running,
    }
    return Expected(OK, body, state, (promises.H4, promises.H8))


_ROUTES = {
    ("GET", "/"): _page,
    ("GET", "/health"): _health,
    ("GET", "/api/system/health"): _system_health,
    ("GET", "/api/session"): _session,
    ("GET", "/api/session/status"): _status,
    ("GET", "/api/sessions"): _sessions,
    ("GET", "/api/sessions/search"): _search,
    ("POST", "/api/session/new"): _new,
    ("POST", "/api/session/rename"): _rename,
    ("POST", "/api/session/clear"): _clear,
    ("POST", "/api/session/truncate"): _truncate,
    ("POST", "/api/session/undo"): _undo,
    ("POST", "/api/session/retry"): _retry,
    ("POST", "/api/session/compress"): _compress,
    ("POST", "/api/session/end"): _end,
    ("POST", "/api/session/reopen"): _reopen,
    ("GET", "/api/session/record"): _record,
    ("POST", "/api/sessions/prune"): _prune,
    ("GET", "/api/session/processes"): _processes,
    ("POST", "/api/session/delete"): _delete,
    ("POST", "/api/chat/start"): _start,
    ("POST", "/api/btw"): _aside,
    ("GET", "/api/chat/cancel"): _cancel,
    ("GET", "/api/chat/stream/status"): _stream_status,
    ("POST", "/api/bg-task-complete-ack"): _acknowledge,
    ("POST", "/api/process-complete-ack"): _former,
    ("GET", "/api/session/recovery/audit"): _audit,
    ("GET", "/api/models"): _models,
    ("GET", "/api/sessions/gateway/stream"): _gateway,
}
