"""A small chat server on the standard library: sessions, messages, and a live stream of each.

| request                              | answer                                                 |
|--------------------------------------|--------------------------------------------------------|
| `POST /sessions/S/messages` `{text}` | `{"id": 1}`; ids count from 1 in each session          |
| `GET /sessions/S/messages`           | `{"messages": [{"id": 1, "text": "hello"}]}`           |
| `GET /sessions/S/events?after=ID`    | `text/event-stream`: older messages, `live`, newer ones|
| `DELETE /sessions/S`                 | `{"deleted": true}`; its streams end                   |
| `GET /gauges`                        | `{"sessions": 1, "streams": 0}`: what is open now      |

`python chat_server.py --port 0` prints its address. It keeps everything in memory.
"""

from __future__ import annotations

import argparse
import json
import queue
import select
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

HEARTBEAT_S = 0.2
Message = dict[str, Any]
Stream = queue.SimpleQueue[Message]
LIVE: Message = {"event": "live"}  # follows the messages that were there before the stream opened
END: Message = {"event": "end"}  # the session was deleted


class Chat:
    """The sessions: messages by session, and the streams that are open on each.

    Every method may be called from any thread; one lock guards both dictionaries.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: dict[str, list[Message]] = {}
        self._streams: dict[str, list[Stream]] = {}

    def post(self, session: str, text: str) -> int:
        """Append a message, send it to every open stream, and return its id."""
        with self._lock:
            messages = self._messages.setdefault(session, [])
            number = len(messages) + 1
            message = {"id": number, "text": text}
            messages.append(message)
            for stream in self._streams.get(session, ()):
                stream.put(message)
        return number

    def history(self, session: str) -> list[Message]:
        """The messages of a session, oldest first; none for an unknown session."""
        with self._lock:
            return list(self._messages.get(session, ()))

    def subscribe(self, session: str, after: int) -> Stream:
        """Open a stream: the messages after this id, `LIVE`, and then each new message."""
        stream: Stream = queue.SimpleQueue()
        with self._lock:
            for message in self._messages.get(session, [])[after:]:
                stream.put(message)
            stream.put(LIVE)
            self._streams.setdefault(session, []).append(stream)
        return stream

    def unsubscribe(self, session: str, stream: Stream) -> None:
        """Close a stream; it may have ended before."""
        with self._lock:
            streams = self._streams.get(session, [])
            if stream in streams:
                streams.remove(stream)
            if not streams:
                self._streams.pop(session, None)

    def delete(self, session: str) -> bool:
        """Delete a session and end its streams; whether it had any message."""
        with self._lock:
            for stream in self._streams.pop(session, ()):
                stream.put(END)
            return self._messages.pop(session, None) is not None

    def gauges(self) -> dict[str, int]:
        """How many sessions and streams there are now."""
        with self._lock:
            streams = sum(len(streams) for streams in self._streams.values())
            return {"sessions": len(self._messages), "streams": streams}


class Handler(BaseHTTPRequestHandler):
    """Serves one connection; the server starts a thread for each."""

    chat: Chat

    def do_GET(self) -> None:
        """Read messages, gauges, or a stream."""
        url = urlsplit(self.path)
        match url.path.split("/")[1:]:
            case ["gauges"]:
                self._answer(self.chat.gauges())
            case ["sessions", session, "messages"]:
                self._answer({"messages": self.chat.history(session)})
            case ["sessions", session, "events"]:
                self._stream(session, int(parse_qs(url.query).get("after", ["0"])[0]))
            case _:
                self.send_error(404)

    def do_POST(self) -> None:
        """Append a message."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match self.path.split("/")[1:]:
            case ["sessions", session, "messages"]:
                self._answer({"id": self.chat.post(session, body["text"])})
            case _:
                self.send_error(404)

    def do_DELETE(self) -> None:
        """Delete a session."""
        match self.path.split("/")[1:]:
            case ["sessions", session]:
                self._answer({"deleted": self.chat.delete(session)})
            case _:
                self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Write no access log."""

    def _answer(self, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, session: str, after: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        stream = self.chat.subscribe(session, after)
        try:
            for frame in _frames(stream):
                if _is_closed(self.connection):
                    break
                self.wfile.write(frame)
        except OSError:
            pass  # the client left while the server wrote
        finally:
            self.chat.unsubscribe(session, stream)


def _frames(stream: Stream) -> Iterator[bytes]:
    """The events of a stream as bytes, with a comment whenever there is none for a while."""
    while True:
        try:
            message = stream.get(timeout=HEARTBEAT_S)
        except queue.Empty:
            yield b": heartbeat\n\n"
            continue
        if message is END:
            return
        if message is LIVE:
            yield b"event: live\ndata: {}\n\n"
        else:
            yield f"id: {message['id']}\ndata: {json.dumps(message)}\n\n".encode()


def _is_closed(connection: socket.socket) -> bool:
    """Whether the client closed the connection: it is readable, and there is nothing to read."""
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable) and not connection.recv(1, socket.MSG_PEEK)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A small chat server.")
    parser.add_argument("--port", type=int, default=8000)
    handler = type("ChatHandler", (Handler,), {"chat": Chat()})
    with ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201  the address
        server.serve_forever()


if __name__ == "__main__":
    main()
