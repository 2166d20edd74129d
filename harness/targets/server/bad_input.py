"""The *hostile* ability: a server that receives malformed requests and raw bytes.

Callers do not know the server's ids: `<session>` and `<run>` stand for existing ones. Beside the
server's folder lies a bait file, shaped as a session, for paths that lead out of the folder.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from harness.contract.agent_script import Tokens
from harness.contract.models.bad_input import is_cut_short
from harness.engine.http import LOOPBACK, Web
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

SLOW_BYTES, BETWEEN_BYTES_S = 30, 0.001  # of a part behind another one
PATIENCE_S = 20.0
POLL_S = 0.01
SHORT = f"{Tokens(3).directive}"
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_METHOD = re.compile(r"([A-Z]+) /\S* HTTP/1\.[01]\r\n")
_EXPECTS = re.compile(r"^Expect: 100-continue\r\n", re.MULTILINE)
_BODY = re.compile(rb"Content-Length: (\d+)")
_TRACES = ("Traceback (most", 'File "')


class BadInputAdapter:
    """One server with two sessions; callers get the id of one of them only."""

    has_epilogue = True

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot, and create both sessions with a message each."""
        self._server = ServerAdapter(folder, launch, notes_gauges=True)
        self._folder = folder
        self._web = Web(self._server.boot()["port"])
        self._names = dict.fromkeys(("<session>", "<run>"), "")
        for bait in (folder / "bait.json", self._server.state / "bait.json"):
            bait.write_text(json.dumps({"session_id": bait.stem, "messages": []}))
        self._bystander, _ = self._create_session()
        session, run = self._create_session()
        while session.upper() == session:  # no letter, so its case does not differ
            session, run = self._create_session()
        self._names = {
            "<session>": session,
            "<run>": run,
            "<SESSION>": session.upper(),
            "<prefix>": session[:-1],
            "<longer>": f"{session}0",
            "<RUN>": f"{run[:-1]}{'0' if run[-1] != '0' else '1'}",
        }

    def _create_session(self) -> tuple[str, str]:
        """Create a session with one turn; its id, and the run's."""
        sid = self._web.post("/api/session/new")["session"]["session_id"]
        run = self._web.post("/api/chat/start", session_id=sid, message=SHORT)["stream_id"]
        while self._web.get(f"/api/session/status?session_id={sid}")["agent_running"]:
            time.sleep(POLL_S)  # later changes of files must come from bad input
        return sid, run

    def begin(self) -> None:
        """Continue: bad input leaves no state behind."""

    def describe(self) -> Any:
        """The server's OpenAPI description; a free text in it counts as such, whatever it says."""
        return _without_texts(self._web.get("/openapi.json"))

    def ask_badly(  # noqa: PLR0913 - the parts of a request
        self,
        *,
        method: str,
        path: str,
        query: list[list[str]],
        headers: dict[str, str],
        body: Any,
        bad: bool,  # noqa: ARG002 - only the model reads these three
        promise: str,  # noqa: ARG002
        statuses: list[int],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Send a request; a body that is text is sent as it is, any other as JSON."""
        pairs = [f"{_quoted(name)}={_quoted(self._named(value))}" for name, value in query]
        target = _quoted(self._named(path), "/%") + ("?" + "&".join(pairs) if pairs else "")
        connection = http.client.HTTPConnection(LOOPBACK, self._web.port, timeout=PATIENCE_S)
        try:
            connection.request(method, target, self._encoded(body), headers)
            with connection.getresponse() as response:
                is_stream = response.length is None  # it does not end by itself
                return _summary([response.status], b"" if is_stream else response.read())
        finally:
            connection.close()

    def _encoded(self, body: Any) -> bytes | None:
        if body is None:
            return None
        text = body if isinstance(body, str) else json.dumps(body)
        return self._named(text).encode("latin-1", errors="replace")

    def _named(self, text: str) -> str:
        for name, id_ in self._names.items():
            text = text.replace(name, id_)
        return text

    def send_size(  # noqa: PLR0913 - the parts of a request
        self,
        *,
        start: str,
        middle: str,
        count: int,
        end: str,
        times: int,
        bad: bool,
        promise: str,
        statuses: list[int],  # noqa: ARG002 - only the model reads them
    ) -> dict[str, Any]:
        """Send a long request, of which the middle is repeated; the response."""
        data = f"{start}{middle * count}{end}"
        return self.send_bytes(data=data, times=times, bad=bad, promise=promise)

    def send_bytes(
        self,
        *,
        data: str,
        times: int,
        bad: bool,  # noqa: ARG002 - only the model reads these three
        promise: str,  # noqa: ARG002
        statuses: Sequence[int] = (),  # noqa: ARG002
    ) -> dict[str, Any]:
        """Send these bytes, as Latin-1, `times` times; the response.

        The input ends after the answers, because a server may leave a client that ends it before.
        """
        needed = 0 if is_cut_short(data) else times
        with socket.create_connection((LOOPBACK, self._web.port), PATIENCE_S) as client:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before the end
                client.sendall(data.encode("latin-1") * times)
            received = b""
            with suppress(ConnectionResetError, TimeoutError):
                while len(_STATUS.findall(received)) < needed and (chunk := client.recv(1 << 16)):
                    received += chunk
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError, TimeoutError):
                while chunk := client.recv(1 << 16):
                    received += chunk
        answered = [int(status) for status in _STATUS.findall(received)]
        return _summary(answered, received.rpartition(b"\r\n\r\n")[2])

    def converse(
        self,
        *,
        name: str,  # noqa: ARG002 - only the model reads these two
        parts: list[str],
        wanted: list[int],
        closes: bool,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Send several requests on one connection, each part when the one before was sent.

        Behind a part that asks for it, the client waits for `100 Continue`. Reports the statuses in
        order, whether each response was whole, whether `100 Continue` came where it had to, and
        whether the server closed the connection behind the last response that is `wanted`.
        """
        methods = [method for method in _METHOD.findall("".join(parts)) if method]
        conversation = _Conversation(self._web.port, methods)
        with conversation:
            for number, part in enumerate(parts):
                conversation.send(part)
                if _EXPECTS.search(part) and number + 1 < len(parts):
                    conversation.await_continue()
            return conversation.finish(len(wanted))

    def dawdle(self, clients: int, data: str) -> dict[str, int]:
        """Open `clients` connections with incomplete requests; the statuses of other requests."""
        with ExitStack() as stack:
            for _ in range(clients):
                client = socket.create_connection((LOOPBACK, self._web.port), PATIENCE_S)
                stack.enter_context(client).sendall(data.encode("latin-1"))
            health, _ = self._web.ask("GET", "/health")
            sessions, _ = self._web.ask("GET", "/api/sessions")
        return {"health": health, "sessions": sessions}

    def files(self) -> dict[str, dict[str, str]]:
        """Digests of all files, with those of the bystander session apart.

        Locks are left out, as they have no content, and so is the database, whose logs change by
        themselves.
        """
        files: dict[str, str] = {}
        bystanders: dict[str, str] = {}
        for path in sorted(self._folder.rglob("*")):
            name = str(path.relative_to(self._folder))
            if path.is_dir() or "_locks/" in name or "state.db" in name or path.suffix == ".log":
                continue
            digests = bystanders if self._bystander in name else files
            digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"files": files, "bystanders": bystanders}

    def epilogue(self) -> dict[str, Any]:
        """Let all clients leave; what is above its first value after that."""
        return self._server.epilogue()

    def close(self) -> None:
        """Kill the server."""
        self._server.close()


class _Conversation:
    """One connection, and the responses that came on it."""

    def __init__(self, port: int, methods: list[str]) -> None:
        self._client = socket.create_connection((LOOPBACK, port), PATIENCE_S)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_first = True
        self._methods = iter(methods)
        self._received = b""
        self._statuses: list[int] = []
        self._is_whole = self._has_continued = True
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, part: str) -> None:
        """Send a part; a server that has closed the connection does not read it.

        A later part begins byte by byte, and goes on at once behind an answer: so some of it comes
        while the call before is executed, and the rest later.
        """
        data = part.encode("latin-1")
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while not self._is_first and sent < min(len(data) - 1, SLOW_BYTES):
                self._client.sendall(data[sent : sent + 1])
                sent += 1
                if select.select([self._client], [], [], BETWEEN_BYTES_S)[0]:
                    self._more()
                    break
            self._client.sendall(data[sent:])
        self._is_first = False

    def await_continue(self) -> None:
        """Wait for the permission to send the body; a response is no permission."""
        self._fill(b"\r\n\r\n")
        if self._received.startswith(b"HTTP/1.1 100 "):
            self._received = self._received.partition(b"\r\n\r\n")[2]
        else:
            self._has_continued = False

    def finish(self, count: int) -> dict[str, Any]:
        """Read that many responses, and then whether the connection is closed."""
        while len(self._statuses) < count and self._fill(b"\r\n\r\n"):
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if status == http.client.CONTINUE:
                continue
            self._statuses.append(status)
            length = _BODY.search(head)
            size = int(length[1]) if length else 0
            if next(self._methods, "") != "HEAD":
                while len(self._received) < size and self._more():
                    pass
                body, self._received = self._received[:size], self._received[size:]
                self._is_whole &= len(body) == size and _is_json(body)
            if b"Connection: close" in head:
                while self._more():
                    pass
                break
        return {
            "statuses": self._statuses,
            "whole": self._is_whole and not self._received,
            "continued": self._has_continued,
            "closed": self._is_closed,
        }

    def _fill(self, mark: bytes) -> bool:
        """Receive up to the mark; whether it came."""
        while mark not in self._received:
            if not self._more():
                return False
        return True

    def _more(self) -> bool:
        try:
            data = self._client.recv(1 << 16)
        except TimeoutError:
            return False
        except OSError:  # it was reset
            data = b""
        self._is_closed |= not data
        self._received += data
        return bool(data)


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def _without_texts(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_texts(below, name) for name, below in value.items()}
    if isinstance(value, list):
        return [_without_texts(below) for below in value]
    is_free = key in ("description", "summary", "operationId") and isinstance(value, str)
    return "a text" if is_free else value


def _quoted(text: str, safe: str = "") -> str:
    return quote(text.encode("utf-8", errors="surrogatepass"), safe=safe)


def _summary(statuses: list[int], body: bytes) -> dict[str, Any]:
    """The statuses, the last response's error message, and whether it shows a traceback."""
    text = body.decode(errors="replace")
    error = None
    with suppress(ValueError):
        response = json.loads(text)
        error = response.get("error") if isinstance(response, dict) else None
    return {
        "statuses": statuses,
        "error": error if isinstance(error, str) and error else None,
        "traced": any(trace in text for trace in _TRACES),
    }
