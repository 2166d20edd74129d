"""A chat server on asyncio alone: sessions in one journal file, and a live stream of each.

| request                       | answer                                                    |
|-------------------------------|-----------------------------------------------------------|
| `POST /sessions`              | `{"id": ID}`                                              |
| `POST /sessions/ID/messages`  | `{text}` -> `{"seq": 1}`; numbers count from 1            |
| `GET /sessions/ID/messages`   | `{"messages": [{"seq": 1, "text": "hello"}]}`             |
| `GET /sessions/ID/events`     | a stream: all messages after `Last-Event-ID`, and new ones|
| `DELETE /sessions/ID`         | `{"deleted": true}`; its streams end                      |
| `GET /sessions`, `/health`    | `{"sessions": [ID]}`, `{"status": "ok", "streams": 0}`    |

`python echo_server.py --port 0 --state FOLDER` prints its address.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
from pathlib import Path
from typing import Any

BODY_BYTES_MAX = 1 << 20
HEAD_BYTES_MAX = 1 << 16
Answer = tuple[int, Any]


class WrongRequestError(Exception):
    """The request is wrong: status and sentence."""


class Session:
    """The messages of one session; `changed` is set, and replaced, at each change."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.changed = asyncio.Event()
        self.is_deleted = False

    def notify(self) -> None:
        """Wake every stream."""
        self.changed.set()
        self.changed = asyncio.Event()


class Sessions:
    """All sessions, and the journal that they are read from at the start."""

    def __init__(self, state: Path) -> None:
        self.open: dict[str, Session] = {}
        self.streams = 0
        path = state / "journal.jsonl"
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._apply(json.loads(line))
        self._journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, change: dict[str, Any]) -> None:
        """Write a change to the journal, and make it."""
        os.write(self._journal, json.dumps(change).encode() + b"\n")
        self._apply(change)

    def _apply(self, change: dict[str, Any]) -> None:
        match change:
            case {"create": id_}:
                self.open[id_] = Session()
            case {"delete": id_}:
                session = self.open.pop(id_)
                session.is_deleted = True
                session.notify()
            case {"session": id_, "text": text}:
                session = self.open[id_]
                session.messages.append(text)
                session.notify()


class Server:
    """Serves one connection after another, one request each."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the request of one connection."""
        try:
            method, path, headers, body = await _request(reader)
            match method, path.split("/")[1:]:
                case "GET", ["sessions", id_, "events"]:
                    session, after = self._session(id_), _cursor(headers)
                    await self._stream(session, after, reader, writer)
                case _:
                    _answer(writer, 200, self._answered(method, path, body))
        except WrongRequestError as error:
            status, sentence = error.args
            _answer(writer, status, {"error": sentence})
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()

    def _answered(self, method: str, path: str, body: bytes) -> Any:
        match method, path.split("/")[1:]:
            case "GET", ["health"]:
                return {"status": "ok", "streams": self._sessions.streams}
            case "GET", ["sessions"]:
                return {"sessions": list(self._sessions.open)}
            case "POST", ["sessions"]:
                id_ = secrets.token_hex(8)
                self._sessions.write({"create": id_})
                return {"id": id_}
            case "DELETE", ["sessions", id_]:
                self._session(id_)
                self._sessions.write({"delete": id_})
                return {"deleted": True}
            case "GET", ["sessions", id_, "messages"]:
                texts = enumerate(self._session(id_).messages, start=1)
                return {"messages": [{"seq": seq, "text": text} for seq, text in texts]}
            case "POST", ["sessions", id_, "messages"]:
                session, text = self._session(id_), _text(body)
                self._sessions.write({"session": id_, "text": text})
                return {"seq": len(session.messages)}
        raise WrongRequestError(404, "no such resource")

    def _session(self, id_: str) -> Session:
        if id_ not in self._sessions.open:
            raise WrongRequestError(404, "no such session")
        return self._sessions.open[id_]

    async def _stream(
        self,
        session: Session,
        after: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Send each message after a number, until the session or the client is gone."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Connection: close\r\n\r\n: welcome\n\n")
        gone = asyncio.ensure_future(reader.read())
        self._sessions.streams += 1
        try:
            while not session.is_deleted and not gone.done():
                changed = session.changed
                for text in session.messages[after:]:
                    after += 1
                    data = json.dumps({"seq": after, "text": text})
                    writer.write(f"id: {after}\r\ndata: {data}\r\n\r\n".encode())
                    await _first(asyncio.ensure_future(writer.drain()), gone)
                    if gone.done():
                        return
                await _first(asyncio.ensure_future(changed.wait()), gone)
        finally:
            self._sessions.streams -= 1
            gone.cancel()
            if gone.done() or writer.transport.get_write_buffer_size():
                writer.transport.abort()


async def _first(own: asyncio.Future[Any], gone: asyncio.Future[Any]) -> None:
    """Wait for one of the two; what is not done of the first is cancelled."""
    await asyncio.wait((own, gone), return_when=asyncio.FIRST_COMPLETED)
    own.cancel()


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    """Read one request: method, path, headers with small names, and body."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as error:
        raise WrongRequestError(431, "the head is too long") from error
    first, *lines = head.split("\r\n")
    headers = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    try:
        method, path, _ = first.split(" ")
        length = int(headers.get("content-length", "0"))
    except ValueError as error:
        raise WrongRequestError(400, "no HTTP request") from error
    if length > BODY_BYTES_MAX:
        while length > 0 and (data := await reader.read(min(length, 1 << 16))):
            length -= len(data)
        raise WrongRequestError(413, "the body is too long")
    return method, path, headers, await reader.readexactly(max(0, length))


def _cursor(headers: dict[str, str]) -> int:
    """The number of the last message that a reader has; one that is none begins anew."""
    cursor = headers.get("last-event-id", "")
    return int(cursor) if cursor.isascii() and cursor.isdigit() else 0


def _text(body: bytes) -> str:
    try:
        document = json.loads(body)
        text = document["text"]
        text.encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WrongRequestError(400, "expected a JSON object with a text") from error
    return str(text)


def _answer(writer: asyncio.StreamWriter, status: int, document: Any) -> None:
    data = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A small chat server.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    sessions = Sessions(arguments.state)
    server = await asyncio.start_server(
        Server(sessions).serve, "127.0.0.1", arguments.port, limit=HEAD_BYTES_MAX
    )
    address = server.sockets[0].getsockname()
    print(f"http://127.0.0.1:{address[1]}", flush=True)  # noqa: T201  the address
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
