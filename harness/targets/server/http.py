"""The *http* ability: a whole server, asked from outside as any client would ask it.

Whoever asks names the sessions and the runs; the server's own ids stay in here. What takes a while
is waited for, as a fact and not for ever: an answer that says "not yet" is the server's fault.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.contract.clients.message_format import translated
from harness.engine.http import PATIENCE_S, Event, StatusError, Web
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

POLL_S = 0.01
ANOTHER = "another"  # a session or run that was never named, a wakeup's say
FOREIGN = {  # cursors that are no place in the run
    "beyond": "{stream_id}:99999",
    "negative": "{stream_id}:-1",
    "another run": "0123456789abcdef:1",
    "no number": "{stream_id}:1e0",
    "no cursor": "\xe9 %00 ../..",
}
HEADER = "Last-Event-ID"
CURSORS = (HEADER, "after_event_id", "after_seq")  # the ways to say how far one has read
MARKS = ("interrupted", "cancelled", "error")
_UNKNOWN_COUNT = 10**9  # a count of messages that no session has
_OUTPUT = re.compile(r"Output:\n(.*)\]", re.DOTALL)


class UnknownError(StatusError):
    """The server says that it knows no such thing."""


class HttpAdapter:
    """One server and its folder, through all its deaths."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet; the first question does."""
        self._server = ServerAdapter(folder, launch)
        self._sessions: dict[str, str] = {}
        self._streams: dict[str, str] = {}
        self._others: set[str] = set()

    def begin(self) -> None:
        """Forget every name: what there is by now is somebody else's, and none of our business."""
        rows = self._get("/api/sessions")["sessions"]
        self._others = {row["session_id"] for row in rows}
        self._sessions, self._streams = {}, {}

    # Sessions

    def new(self, session: str) -> None:
        """Make a session."""
        told = self._post("/api/session/new")
        self._sessions[session] = told["session"]["session_id"]

    def clear(self, session: str) -> None:
        """Remove the session's messages."""
        self._post("/api/session/clear", session_id=self._sessions[session])

    def rename(self, session: str, title: str) -> None:
        """Give the session a title."""
        self._post("/api/session/rename", session_id=self._sessions[session], title=title)

    def title(self, session: str) -> str:
        """Tell the session's title."""
        told = self._get(f"/api/session/status?session_id={self._sessions[session]}")
        return str(told["title"])

    def titles(self) -> list[list[str]]:
        """The names and titles of all sessions."""
        rows = self._get("/api/sessions")["sessions"]
        ours = [row for row in rows if row["session_id"] not in self._others]
        return sorted(
            [named(self._sessions, row["session_id"]) or "", row["title"]] for row in ours
        )

    def truncate(self, session: str, keep: int) -> None:
        """Keep the session's first turns, and remove the rest of what was said."""
        told = self._get(f"/api/session?session_id={self._sessions[session]}")["session"]
        begins = [at for at, one in enumerate(told["messages"]) if one["role"] == "user"]
        count = (*begins, *[_UNKNOWN_COUNT] * (keep + 1))[keep]
        sid = self._sessions[session]
        self._post("/api/session/truncate", session_id=sid, keep_count=count)

    def undo(self, session: str) -> bool:
        """Remove the last turn that was said; whether there was one."""
        try:
            self._post("/api/session/undo", session_id=self._sessions[session])
        except StatusError as refused:
            if refused.status != http.client.CONFLICT:
                raise
            return False
        return True

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._post("/api/session/delete", session_id=self._sessions[session])

    def sessions(self) -> list[str]:
        """The names of all sessions."""
        rows = self._get("/api/sessions")["sessions"]
        return sorted(named(self._sessions, row["session_id"]) or "" for row in rows)

    def messages(self, session: str) -> dict[str, Any]:
        """What was said: rows of role, text and mark; which outputs woke it; what is pending."""
        told = self._get(f"/api/session?session_id={self._sessions[session]}")["session"]
        messages = translated(told["messages"])
        woken = [one for one in messages if _is_wakeup(one)]
        said = [_row(one) for one in messages if not _is_wakeup(one)]
        for row in said:
            row[1] = row[1].replace(self._sessions[session], session)  # in the agent's replies
        pending = told["pending_user_message"]
        return {"said": said, "woken": [_output(one) for one in woken], "pending": pending}

    def disk(self, session: str) -> list[str]:
        """What users said, by the session's sidecar: the messages, and then the pending one."""
        kept = self._server.kept(self._sessions[session]) or {"messages": [], "pending": None}
        messages = translated(kept["messages"])
        said = [_row(one) for one in messages if not _is_wakeup(one)]
        texts = [text for role, text, _ in said if role == "user"]
        pending = kept["pending"]
        return texts if pending is None else [*texts, pending]

    # Turns

    def send(self, session: str, run: str, text: str) -> dict[str, Any]:
        """Begin a turn, called `run` from now on; or else which run is in its way."""
        body = {"session_id": self._sessions[session], "message": text}
        status, told = self._web().ask("POST", "/api/chat/start", body)
        if status == http.client.CONFLICT:
            return {"status": status, "active": named(self._streams, told["active_stream_id"])}
        if status != http.client.OK:
            raise _refusal(StatusError("POST /api/chat/start", status, told))
        self._streams[run] = told["stream_id"]
        return {"status": status, "active": None}

    def send_watched(self, session: str, run: str, text: str) -> dict[str, Any]:
        """Begin a turn, and wait until those who watch the session hear of a process's end."""
        path = f"/api/session/stream?session_id={self._sessions[session]}"
        with self._stream(path) as events:
            next(events)  # we are subscribed
            sent = self.send(session, run, text)
            heard = any(event.name == "bg_task_complete" for event in events)
        return {**sent, "heard": heard}

    def cancel(self, run: str) -> bool:
        """Cancel the run; whether it was."""
        told = self._get(f"/api/chat/cancel?stream_id={self._streams[run]}")
        return bool(told["cancelled"])

    def status(self, session: str) -> dict[str, Any]:
        """Whether the session is busy, and the run that a client could attach to."""
        told = self._get(f"/api/session/status?session_id={self._sessions[session]}")
        active = named(self._streams, told["active_stream_id"])
        return {"busy": told["agent_running"], "active": active}

    def wait_idle(self, session: str) -> bool:
        """Wait until the session is not busy; whether that came true."""
        return _came_true(lambda: not self.status(session)["busy"])

    def wakeups(self, session: str, outputs: list[str]) -> list[str]:
        """Wait for the wakeups of these outputs; all outputs that have woken the session."""
        _came_true(lambda: set(outputs) <= set(self.messages(session)["woken"]))
        woken: list[str] = self.messages(session)["woken"]
        return woken

    # Streams

    def events(self, run: str, after: int, by: str = HEADER) -> dict[str, Any]:
        """Read the run's relay, after so many events, until the server closes it.

        The cursor is said by that header, or by a query of that name.
        """
        cursor = f"{self._streams[run]}:{after}"
        if not after or by == HEADER:
            return self._relay(run, cursor if after else "")
        return self._relay(run, query=f"&{by}={after if by == 'after_seq' else quote(cursor)}")

    def events_from(self, run: str, cursor: str) -> dict[str, Any]:
        """Read the run's relay from a cursor that is no place in it, of the kind that is named."""
        return self._relay(run, FOREIGN[cursor].format(stream_id=self._streams[run]))

    def _relay(self, run: str, last_event_id: str = "", query: str = "") -> dict[str, Any]:
        stream_id = self._streams[run]
        cursor = {HEADER: last_event_id} if last_event_id else {}
        read: list[Event] = []
        is_closed = True
        with self._stream(f"/api/chat/stream?stream_id={stream_id}{query}", cursor) as events:
            try:
                read.extend(events)
            except TimeoutError:
                is_closed = False
        ids = [_seq(event.id, stream_id) for event in read]
        return {"ids": ids, "names": [event.name for event in read], "closed": is_closed}

    def shown(self, run: str, tokens: int) -> str:
        """What the run shows in its first so many tokens."""
        texts: list[str] = []
        with self._stream(f"/api/chat/stream?stream_id={self._streams[run]}") as events:
            while len(texts) < tokens and (event := next(events, None)):
                if event.name == "token":
                    texts.append(event.data["text"])
        return "".join(texts)

    def watch(self, session: str) -> str | None:
        """Which run is offered to whoever begins to watch the session now."""
        query = f"session_id={self._sessions[session]}&known_count={_UNKNOWN_COUNT}"
        with self._stream(f"/api/session/stream?{query}") as events:
            offered = None
            for event in events:
                if event.name == "server_turn_started":
                    offered = event.data["stream_id"]
                elif event.name == "session-updated":  # the last of the greeting
                    break
        return named(self._streams, offered)

    # The server's lives

    def kill(self) -> None:
        """Kill the server with kill -9, and boot another one on its folder."""
        self._server.boot()
        self._server.kill()
        self._server.boot()

    def terminate(self) -> int | None:
        """End the server by SIGTERM, and boot another one; the exit code, None if it hung."""
        self._server.boot()
        code = self._server.terminate()
        self._server.boot()
        return code

    def close(self) -> None:
        """Kill the server."""
        self._server.close()

    # The wire

    def _web(self) -> Web:
        return Web(self._server.boot()["port"])

    def _get(self, path: str) -> Any:
        with _told_apart():
            return self._web().get(path)

    def _post(self, path: str, **body: Any) -> Any:
        with _told_apart():
            return self._web().post(path, **body)

    @contextmanager
    def _stream(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[Iterator[Event]]:
        with _told_apart(), self._web().stream(path, headers) as events:
            yield events


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except StatusError as refused:
        raise _refusal(refused) from None


def _refusal(refused: StatusError) -> StatusError:
    if refused.status != http.client.NOT_FOUND:
        return refused
    return UnknownError(refused.asked, refused.status, refused.told)


def _came_true(is_so: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > ends_at:
            return False
        time.sleep(POLL_S)
    return True


def named(names: Mapping[str, str], id_: str | None) -> str | None:
    """What we call this id of the server's."""
    if id_ is None:
        return None
    return next((name for name, known in names.items() if known == id_), ANOTHER)


def _seq(id_: str, stream_id: str) -> int | None:
    stream, _, seq = id_.rpartition(":")
    return int(seq) if stream == stream_id and seq.isdigit() else None


def _is_wakeup(message: Mapping[str, Any]) -> bool:
    return message.get("source") == "process_wakeup"


def _output(message: Mapping[str, Any]) -> str:
    match = _OUTPUT.search(message["content"])
    return match[1] if match else str(message["content"])


def _row(message: Mapping[str, Any]) -> list[str]:
    return [message["role"], message["content"], next((m for m in MARKS if message.get(m)), "")]
