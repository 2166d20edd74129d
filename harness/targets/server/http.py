"""The *http* ability: a whole server, called over HTTP as any client calls it.

Callers name sessions and runs; the adapter maps these names to the server's ids. It waits for facts
with a timeout: if a fact does not become true in time, the answer says so, which the model blames
on the server.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.contract.agent_script import MATCHED, WakeupPrompt
from harness.contract.clients.message_format import translated
from harness.engine.http import PATIENCE_S, Event, StatusError, Web
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

POLL_S = 0.01
ANOTHER = "another"  # a session or run without a name, such as a wakeup's run
FOREIGN = {  # invalid cursors of a run
    "beyond": "{stream_id}:99999",
    "negative": "{stream_id}:-1",
    "another run": "0123456789abcdef:1",
    "no number": "{stream_id}:1e0",
    "no cursor": "\xe9 %00 ../..",
}
HEADER = "Last-Event-ID"
CURSORS = (HEADER, "after_event_id", "after_seq")  # the ways to pass a cursor
MARKS = ("interrupted", "cancelled", "error")
_UNKNOWN_COUNT = 10**9  # a count of messages above that of every session


class UnknownError(StatusError):
    """The server answered with status 404."""


class HttpAdapter:
    """One server and its folder, through all its restarts."""

    has_epilogue = True

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet; the first call boots the server."""
        self._server = ServerAdapter(folder, launch, notes_gauges=self.has_epilogue)
        self._sessions: dict[str, str] = {}
        self._streams: dict[str, str] = {}
        self._others: set[str] = set()
        self._through: int | None = None

    def begin(self) -> None:
        """Forget every name; sessions that exist by now belong to earlier examples."""
        rows = self._get("/api/sessions")["sessions"]
        self._others = {row["session_id"] for row in rows}
        self._sessions, self._streams = {}, {}

    # Sessions

    def new(self, session: str) -> None:
        """Create a session."""
        response = self._post("/api/session/new")
        self._sessions[session] = response["session"]["session_id"]

    def clear(self, session: str) -> None:
        """Remove the session's messages."""
        self._post("/api/session/clear", session_id=self._sessions[session])

    def rename(self, session: str, title: str) -> None:
        """Set the session's title."""
        self._post("/api/session/rename", session_id=self._sessions[session], title=title)

    def title(self, session: str) -> str | None:
        """The session's title."""
        response = self._get(f"/api/session/status?session_id={self._sessions[session]}")
        return str(response["title"])

    def titles(self) -> list[list[str | None]]:
        """The names and titles of all sessions."""
        rows = self._get("/api/sessions")["sessions"]
        return sorted(
            [named(self._sessions, row["session_id"]) or "", row["title"]]
            for row in rows
            if row["session_id"] not in self._others
        )

    def truncate(self, session: str, keep: int) -> None:
        """Keep the session's first turns, and remove the messages after them."""
        found = self._get(f"/api/session?session_id={self._sessions[session]}")["session"]
        begins = [at for at, row in enumerate(found["messages"]) if row["role"] == "user"]
        count = (*begins, *[_UNKNOWN_COUNT] * (keep + 1))[keep]
        sid = self._sessions[session]
        self._post("/api/session/truncate", session_id=sid, keep_count=count)

    def undo(self, session: str) -> bool:
        """Remove the last turn; whether there was one."""
        try:
            response = self._post("/api/session/undo", session_id=self._sessions[session])
        except StatusError as refused:
            if refused.status != http.client.CONFLICT:
                raise
            return False
        return "error" not in response  # hermes-webui reports an empty session in a 200

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._post("/api/session/delete", session_id=self._sessions[session])

    def sessions(self) -> list[str]:
        """The names of all sessions."""
        rows = self._get("/api/sessions")["sessions"]
        return sorted(named(self._sessions, row["session_id"]) or "" for row in rows)

    def messages(self, session: str) -> dict[str, Any]:
        """The messages as rows of role, text and mark; the outputs of wakeups; the pending text.

        `rows` are all messages in their order, with their source too.
        """
        found = self._get(f"/api/session?session_id={self._sessions[session]}")["session"]
        messages = translated(found["messages"])
        wakeups = [_output(message) for message in messages if _is_wakeup(message)]
        rows = [_row(message) for message in messages if not _is_wakeup(message)]
        for row in rows:
            row[1] = row[1].replace(self._sessions[session], session)  # in the agent's replies
        whole = [[*_row(message), str(message.get("source", ""))] for message in messages]
        for row in whole:
            row[1] = row[1].replace(self._sessions[session], session)
        pending = self._pending(found)
        return {"said": rows, "woken": wakeups, "rows": whole, "pending": pending}

    def _pending(self, found: Mapping[str, Any]) -> str | None:
        """The text of the turn that is not saved yet."""
        pending: str | None = found["pending_user_message"]
        return pending

    def disk(self, session: str) -> list[str]:
        """The users' texts in the session's sidecar: those of messages, then the pending one."""
        sidecar = self._server.kept(self._sessions[session]) or {"messages": [], "pending": None}
        messages = translated(sidecar["messages"])
        rows = [_row(message) for message in messages if not _is_wakeup(message)]
        texts = [text for role, text, _ in rows if role == "user"]
        pending = sidecar["pending"]
        return texts if pending is None else [*texts, pending]

    def views(self, session: str) -> dict[str, Any]:
        """The session's title and count of messages, by each route that shows them."""
        sid = self._sessions[session]
        found = self._get(f"/api/session?session_id={sid}")["session"]
        last = self._get(f"/api/session?session_id={sid}&msg_limit=1")["session"]
        status = self._get(f"/api/session/status?session_id={sid}")
        rows = self._get("/api/sessions")["sessions"]
        listed = [row for row in rows if row["session_id"] == sid]
        return {
            "titles": [row["title"] for row in (found, last, status, *listed)],
            "counts": [row["message_count"] for row in (found, last, status, *listed)],
            "listed": len(listed),
            "last": last["messages"] == found["messages"][-1:],
            "messages": len(found["messages"]),
            "busy": status["agent_running"],
        }

    def copies(self, session: str) -> dict[str, Any]:
        """What each copy of the session has: title and texts, each with its role.

        The texts of the full-text search are those of the rows that it finds; `runs` are the texts
        of the runs in the journal, by the names of the runs.
        """
        sid = self._sessions[session]
        found = self._get(f"/api/session?session_id={sid}")["session"]
        sidecar = self._server.sidecar(sid)
        copies = {"http": _copy(found), "sidecar": _copy(sidecar), **self._server.database(sid)}
        index = self._server.index_row(sid)
        runs = self._server.journal(sid)
        named_runs = {run: runs[stream] for run, stream in self._streams.items() if stream in runs}
        replies = {run: text.replace(sid, session) for run, text in named_runs.items()}
        for copy in copies.values():
            copy["texts"] = [[role, text.replace(sid, session)] for role, text in copy["texts"]]
        return {
            "copies": copies,
            "index": None if index is None else [index["title"], index["message_count"]],
            "runs": replies,
            "pending": found["pending_user_message"],
        }

    # Turns

    def send(self, session: str, run: str, text: str) -> dict[str, Any]:
        """Begin a turn, named `run` from now on; if the session is busy, the active run."""
        body = {"session_id": self._sessions[session], "message": text}
        status, response = self._web().ask("POST", "/api/chat/start", body)
        if status == http.client.CONFLICT:
            return {"status": status, "active": named(self._streams, response["active_stream_id"])}
        if status != http.client.OK:
            raise _refusal(StatusError("POST /api/chat/start", status, response))
        self._streams[run] = response["stream_id"]
        return {"status": status, "active": None}

    def send_watched(self, session: str, run: str, text: str) -> dict[str, Any]:
        """Subscribe to the session, begin a turn, and wait for the event of a process's end."""
        path = f"/api/session/stream?session_id={self._sessions[session]}"
        with self._stream(path) as events:
            next(events)  # the subscription is established
            sent = self.send(session, run, text)
            heard = any(event.name == "bg_task_complete" for event in events)
        return {**sent, "heard": heard}

    def cancel(self, run: str) -> bool:
        """Cancel the run; whether the server cancelled it."""
        response = self._get(f"/api/chat/cancel?stream_id={self._streams[run]}")
        return bool(response["cancelled"])

    def status(self, session: str) -> dict[str, Any]:
        """Whether the session is busy, and the run that a client can attach to."""
        response = self._get(f"/api/session/status?session_id={self._sessions[session]}")
        active = named(self._streams, response["active_stream_id"])
        return {"busy": response["agent_running"], "active": active}

    def wait_idle(self, session: str) -> bool:
        """Wait until the session is idle; False after the timeout."""
        return _came_true(lambda: not self.status(session)["busy"])

    def wakeups(self, session: str, outputs: list[str]) -> list[str]:
        """Wait for the wakeups of these outputs; the outputs of all wakeups of the session."""
        _came_true(lambda: set(outputs) <= set(self.messages(session)["woken"]))
        woken: list[str] = self.messages(session)["woken"]
        return woken

    # Streams

    def events(self, run: str, after: int, by: str = HEADER) -> dict[str, Any]:
        """Read the run's events after number `after`, until the server closes the stream.

        `by` names the header, or the query parameter, that passes the cursor.
        """
        cursor = f"{self._streams[run]}:{after}"
        if not after or by == HEADER:
            return self._relay(run, cursor if after else "")
        return self._relay(run, query=f"&{by}={after if by == 'after_seq' else quote(cursor)}")

    def events_from(self, run: str, cursor: str) -> dict[str, Any]:
        """Read the run's events from an invalid cursor; `cursor` names one of `FOREIGN`."""
        return self._relay(run, FOREIGN[cursor].format(stream_id=self._streams[run]))

    def _relay(self, run: str, last_event_id: str = "", query: str = "") -> dict[str, Any]:
        stream_id = self._streams[run]
        cursor = {HEADER: last_event_id} if last_event_id else {}
        received: list[Event] = []
        is_closed = True
        with self._stream(f"/api/chat/stream?stream_id={stream_id}{query}", cursor) as events:
            try:
                received.extend(events)
            except TimeoutError:
                is_closed = False
        ids = [seq(event.id, stream_id) for event in received]
        texts = [event.data.get("text", "") if event.name == "token" else "" for event in received]
        names = [event.name for event in received]
        return {"ids": ids, "names": names, "texts": texts, "closed": is_closed}

    def shown(self, run: str, tokens: int) -> str:
        """The text of the run's first `tokens` tokens."""
        texts: list[str] = []
        with self._stream(f"/api/chat/stream?stream_id={self._streams[run]}") as events:
            while len(texts) < tokens and (event := next(events, None)):
                if event.name == "token":
                    texts.append(event.data["text"])
        return "".join(texts)

    def watch(self, session: str) -> str | None:
        """The run that a new subscriber of the session is offered."""
        query = f"session_id={self._sessions[session]}&known_count={_UNKNOWN_COUNT}"
        with self._stream(f"/api/session/stream?{query}") as events:
            offered = None
            for event in events:
                if event.name == "server_turn_started":
                    offered = event.data["stream_id"]
                elif event.name == "session-updated":  # the last of the first events
                    break
        return named(self._streams, offered)

    # Restarts

    def kill(self, index: str = "", lags: bool = False) -> None:  # noqa: FBT001, FBT002  journalled by name
        """Kill the server with kill -9, and boot another one on its folder.

        `index` names what happens to the index of the sessions in between, if anything. A database
        that `lags` has older replies, or titles, as if the kill came before they were synced.
        """
        self._server.boot()
        self._server.kill()
        if index:
            self._server.damage_index(index)
        if lags:
            self._server.age_database()
        self._server.boot()

    def terminate(self) -> int | None:
        """End the server by SIGTERM, and boot another one; the exit code, None if it hung."""
        self._server.boot()
        code = self._server.terminate()
        self._server.boot()
        return code

    def epilogue(self) -> dict[str, Any]:
        """Let all clients leave; what is above its first value after that."""
        return self._server.epilogue()

    def close(self) -> None:
        """Kill the server."""
        self._server.close()

    # HTTP

    def _port(self) -> int:
        """The port of the server, or the one through which it is reached."""
        return self._server.boot()["port"] if self._through is None else self._through

    def _web(self) -> Web:
        return Web(self._port())

    def _get(self, path: str) -> Any:
        with unknown_as_error():
            return self._web().get(path)

    def _post(self, path: str, **body: Any) -> Any:
        with unknown_as_error():
            return self._web().post(path, **body)

    @contextmanager
    def _stream(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[Iterator[Event]]:
        with unknown_as_error(), self._web().stream(path, headers) as events:
            yield events


@contextmanager
def unknown_as_error() -> Iterator[None]:
    """Turn a 404 into an error of its own."""
    try:
        yield
    except StatusError as refused:
        raise _refusal(refused) from None


def _refusal(refused: StatusError) -> StatusError:
    if refused.status != http.client.NOT_FOUND:
        return refused
    return UnknownError(refused.request, refused.status, refused.response)


def _came_true(is_so: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > ends_at:
            return False
        time.sleep(POLL_S)
    return True


def named(names: Mapping[str, str], id_: str | None) -> str | None:
    """The name of a server's id; `ANOTHER` if it has none."""
    if id_ is None:
        return None
    return next((name for name, known in names.items() if known == id_), ANOTHER)


def seq(id_: str, stream_id: str) -> int | None:
    """The number in an event's id; None for the id of another stream."""
    stream, _, number = id_.rpartition(":")
    return int(number) if stream == stream_id and number.isdigit() else None


def _copy(session: Mapping[str, Any]) -> dict[str, Any]:
    messages = translated(session["messages"])
    texts = [[message["role"], message["content"]] for message in messages]
    return {"title": session["title"], "count": session["message_count"], "texts": texts}


def _is_wakeup(message: Mapping[str, Any]) -> bool:
    return message.get("source") == "process_wakeup"


def _output(message: Mapping[str, Any]) -> str:
    content = str(message["content"])
    prompt = WakeupPrompt.parse(content)
    if prompt is None:
        return content
    if prompt.is_match:
        return f"{MATCHED} {prompt.output}"
    return prompt.announced if "exit_code=-" in prompt.cause else prompt.output  # killed by a turn


def _row(message: Mapping[str, Any]) -> list[str]:
    return [message["role"], message["content"], next((m for m in MARKS if message.get(m)), "")]
