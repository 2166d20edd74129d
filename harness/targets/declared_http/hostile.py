"""Bad input for a declared request: its body, its session, its head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from harness.targets.declared_http.declaration import Request

UNKNOWN = "no-such-session-0000"
DEEP = 100_000


@dataclass(frozen=True)
class BadInput:
    """One way in which a request is wrong; `body` makes the bytes from the right body.

    `values` replace placeholders, and `at` says which requests it fits: those that have a *body*,
    those whose path has the *session*, or the *stream*.
    """

    name: str
    at: str
    body: Any = None
    values: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    must_refuse: bool = True

    def fits(self, door: str, request: Request) -> bool:
        """Whether the request can be wrong in this way."""
        if self.at == "stream":
            return door == "stream"
        if self.at == "body":
            return isinstance(request.body, Mapping)
        if self.at == "text":
            return "{text}" in json.dumps(request.body)
        return "{session}" in request.path

    def data(self, body: Any) -> bytes | None:
        """The bytes of the body, None for no body."""
        if self.body is not None:
            made: bytes = self.body(body)
            return made
        return None if body is None else json.dumps(body).encode()

    def changed(self, request: Request) -> Request:
        """The request with the wrong headers."""
        return replace(request, headers={**request.headers, **self.headers})


def _texts_become(value: Any) -> Any:
    """Make the body in which the text of the message is something else."""

    def change(body: Any) -> Any:
        if isinstance(body, Mapping):
            return {key: change(item) for key, item in body.items()}
        if isinstance(body, list):
            return [change(item) for item in body]
        return value if body == "hello" else body

    return lambda body: json.dumps(change(body)).encode()


BAD_INPUTS = (
    BadInput("broken JSON", "body", lambda _: b'{"text": '),
    BadInput("no JSON", "body", lambda _: b"\xff\xfe\x00not json"),
    BadInput("empty body", "body", lambda _: b""),
    BadInput("a list", "body", lambda _: b"[]"),
    BadInput("a number", "body", lambda _: b"7"),
    BadInput("null", "body", lambda _: b"null"),
    BadInput("deeply nested", "body", lambda _: b"[" * DEEP),
    BadInput("lone surrogate", "text", _texts_become("\ud800"), must_refuse=False),
    BadInput("text is a number", "text", _texts_become(7)),
    BadInput("text is null", "text", _texts_become(None)),
    BadInput("text is a list", "text", _texts_become(["x"])),
    BadInput("text is an object", "text", _texts_become({"x": 1})),
    BadInput("text is huge", "text", _texts_become("x" * (4 << 20)), must_refuse=False),
    BadInput("unknown session", "session", values={"session": UNKNOWN}),
    BadInput("session climbs", "session", values={"session": "..%2f..%2fetc%2fpasswd"}),
    BadInput("session with NUL", "session", values={"session": "a%00b"}),
    BadInput("session is long", "session", values={"session": "a" * 4000}),
    BadInput("session is foreign", "session", values={"session": "%F0%9F%90%8D%E2%80%AE"}),
    BadInput("bad cursor", "stream", headers={"Last-Event-ID": "\x7f;;--1"}, must_refuse=False),
)
