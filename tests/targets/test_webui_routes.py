"""Tests of what every route of a checkout must refuse, and of readers that it loses."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any, Self

import pytest

from harness.core.errors import TargetLostError
from harness.targets.hermes_webui import lost_readers
from harness.targets.hermes_webui.routes import NO_ROUTE, Routes

RENAME = "/api/session/rename"
SOURCE = f'"{RENAME}" "/api/shutdown" body.get("title") body.get("session_id")'


class Server:
    """A server with one route that changes a session, and one fault."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.session: dict[str, Any] = {"session_id": "a1", "title": "walked"}

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Answer a request."""
        route = path.partition("?")[0]
        if route == "/api/session/import":
            return 200, {"session": dict(self.session)}
        if route == "/api/session":
            return 200, {"session": dict(self.session)}
        if (method, route) != ("POST", RENAME):
            return 404, dict(NO_ROUTE)
        return self._rename(body)

    def _rename(self, body: Any) -> tuple[int, Any]:
        if not isinstance(body, dict):
            return (500 if self.fault == "a list" and body == ["x"] else 400), {}
        id_ = body.get("session_id")
        if self.fault == "silence" and id_ is None:
            raise TargetLostError("no answer")
        if not isinstance(id_, str):
            return (500 if self.fault == "an id" and isinstance(id_, list) else 400), {}
        if id_ != "a1":
            return 404, {"error": "Session not found"}
        if self.fault == "a trace":
            self.session["title"] = "changed"
        return (500 if self.fault == "a field" and body["title"] == [5] else 400), {}

    def get(self, _path: str) -> Any:
        """The list."""
        return {"sessions": [{"session_id": "a1"}]}


class Client:
    """A connection whose server answers at once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def sendall(self, _data: bytes) -> None:
        """Take a request."""

    def recv(self, _size: int) -> bytes:
        """The first byte of a head."""
        return b"H"


@pytest.mark.parametrize(
    ("fault", "name", "problem"),
    [
        ("an id", f"{RENAME}, its id", "status 500"),
        ("silence", f"{RENAME}, its id", "not answered"),
        ("a field", f"{RENAME}, its fields", "status 500"),
        ("a trace", f"{RENAME}, refused", "a trace"),
        ("a list", "any route, a list as its body", "status 500"),
    ],
)
def test_route_that_refuses_wrongly_is_named(fault: str, name: str, problem: str) -> None:
    """By its path, and by the kind of request; other answers are no findings."""
    for server, wanted in ((Server(fault), {name: problem}), (Server(), {})):
        routes: Any = Routes(SimpleNamespace(port=1), SOURCE, set())  # type: ignore[arg-type]
        routes._web = server

        found = {key: it.partition(":")[0] for key, it in routes.facts().items() if it}

        assert found == wanted


def test_routes_that_end_a_server_are_left_alone() -> None:
    """The walk asks only those about sessions, for fields that some route reads."""
    routes: Any = Routes(SimpleNamespace(port=1), SOURCE, set())  # type: ignore[arg-type]

    assert (routes._paths, routes._fields) == ([RENAME], ["title"])


@pytest.mark.parametrize(("kept", "problem"), [(1, ""), (7, "queues stay")])
def test_queues_of_lost_readers_are_seen(
    monkeypatch: pytest.MonkeyPatch, kept: int, problem: str
) -> None:
    """One queue may belong to a part that began with the first reader."""
    held = iter([3, *[3 + kept] * 1000])
    monkeypatch.setattr(lost_readers, "_held", lambda _: next(held))
    monkeypatch.setattr(lost_readers, "GONE_S", 0.0)
    monkeypatch.setattr(socket, "create_connection", lambda *_: Client())
    monkeypatch.setattr(lost_readers, "depart", lambda *_: None)
    web: Any = SimpleNamespace(port=1, post=lambda *_: {"session": {"session_id": "s"}})

    found = lost_readers.facts(web, "", '"/api/sessions/events" "/api/session"')

    assert {path: it.partition(":")[0] for path, it in found.items()} == {
        "/api/sessions/events": problem
    }
