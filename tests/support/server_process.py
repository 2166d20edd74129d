"""Helpers for tests of the reference server: a server process, and HTTP and SSE clients."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Response:
    """The response to a call."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Event:
    """One event of a stream."""

    id: str | None
    name: str
    data: Any


class Sse:
    """A client of an event stream."""

    def __init__(self, port: int, path: str, headers: Mapping[str, str] | None = None) -> None:
        """Connect, and read the head of the response."""
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}\r\n"
        self.socket.sendall(request.encode())
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        while self._file.readline() != b"\r\n":
            pass

    def lines(self) -> Iterator[str]:
        """Every line, including comments, until the server closes."""
        for line in self._file:
            yield line.decode().rstrip("\n")

    def events(self) -> Iterator[Event]:
        """Every event, until the server closes."""
        fields: dict[str, str] = {}
        for line in self.lines():
            name, _, value = line.partition(": ")
            if line == "" and "event" in fields:
                yield Event(fields.get("id"), fields["event"], json.loads(fields["data"]))
                fields = {}
            elif name:
                fields[name] = value

    def until(self, name: str) -> list[Event]:
        """The events up to the next one with that name."""
        events = []
        for event in self.events():
            events.append(event)
            if event.name == name:
                return events
        raise AssertionError(f"no {name}, only {[event.name for event in events]}")

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def call(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send a request on a connection of its own. A body that is not bytes is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, data, dict(headers or {}))
        response = connection.getresponse()
        return Response(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


class ServerProcess:
    """A server in a process of its own. Each response is checked against its OpenAPI document."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        """Start it, and wait for its address."""
        self.folder = folder
        command = [sys.executable, "-m", "reference_impl", "--state", str(folder), "--port", "0"]
        self.process = subprocess.Popen(  # noqa: S603 - our own
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
        assert self.process.stdout is not None
        address = self.process.stdout.readline().decode().strip()
        assert address, f"it did not start, and exited with {self.process.wait(PATIENCE_S)}"
        self.address = address
        self.port = int(address.rpartition(":")[2])
        self._description: Any = None

    def get(self, path: str, **headers: str) -> Response:
        """Send a GET request."""
        return self.request("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> Response:
        """Send a POST request."""
        return self.request("POST", path, body, headers)

    def request(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Response:
        """Send a request, and check that the OpenAPI document allows the response."""
        response = call(self.port, method, path, body, headers)
        operation = self.description["paths"].get(path.partition("?")[0], {}).get(method.lower())
        if operation is not None:
            assert str(response.status) in operation["responses"], (method, path, response)
            content = operation["responses"][str(response.status)]["content"]
            if "application/json" in content:
                required = content["application/json"]["schema"]["required"]
                assert set(required) <= response.json.keys()
        elif response.status >= 400:
            assert isinstance(response.json["error"], str)
        return response

    @property
    def description(self) -> Any:
        """Its OpenAPI document."""
        if self._description is None:
            self._description = call(self.port, "GET", "/openapi.json").json
        return self._description

    def new(self) -> str:
        """Make a session."""
        session_id: str = self.post("/api/session/new", {}).json["session"]["session_id"]
        return session_id

    def start(self, session_id: str, message: str) -> str:
        """Begin a turn, and return its stream."""
        response = self.post("/api/chat/start", {"session_id": session_id, "message": message})
        assert response.status == 200, response
        stream_id: str = response.json["stream_id"]
        return stream_id

    def messages(self, session_id: str) -> list[Any]:
        """The messages of a session."""
        messages: list[Any] = self.get(f"/api/session?session_id={session_id}").json["session"][
            "messages"
        ]
        return messages

    def read(self, stream_id: str, **headers: str) -> list[Event]:
        """A run's events, until the server closes."""
        with Sse(self.port, f"/api/chat/stream?stream_id={stream_id}", headers) as sse:
            assert sse.status == 200
            return list(sse.events())

    def watch(self, session_id: str, query: str = "", **headers: str) -> Sse:
        """Watch a session."""
        return Sse(self.port, f"/api/session/stream?session_id={session_id}{query}", headers)

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
