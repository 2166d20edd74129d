"""HTTP/1.1: parses bytes into requests and encodes responses, strictly, without a socket.

A request has a method, a target, headers and a body of a stated length, all of them bounded; every
other input is refused with one sentence, and nothing is guessed. Knows no routes.
"""

from __future__ import annotations

import http
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

HEAD_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 8 * 1024 * 1024
_FIELDS_MAX = 64

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*")
_LENGTH = re.compile(r"[0-9]{1,12}", re.ASCII)


class RefusedError(Exception):
    """A request is refused; the client gets the status and the sentence."""

    def __init__(self, status: int, message: str, *headers: tuple[str, str], **more: Any) -> None:
        """`more` are further fields of the response."""
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.more = more


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    keeps_alive: bool = True

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; a missing body is an empty one. Raises RefusedError."""
        if not self.body:
            return {}
        try:
            value = json.loads(self.body.decode(), parse_constant=_no_number)
            # A JSON escape can express a lone surrogate, which files and databases refuse.
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, f"the body is no JSON: {str(error)[:100]}") from None
        if not isinstance(value, dict):
            raise RefusedError(400, f"the body is a JSON {type(value).__name__}, not an object")
        return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


class Reader:
    """Parses the requests of one connection, one after another."""

    __slots__ = ("_data", "_head", "_length")

    def __init__(self) -> None:
        self._data = bytearray()
        self._head: Request | None = None
        self._length = 0

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body."""
        head = self._head
        return head is not None and head.headers.get("expect", "").lower() == "100-continue"

    def add(self, data: bytes) -> None:
        """Add received bytes."""
        self._data += data

    def next(self) -> Request | None:
        """The next complete request, or None. Raises RefusedError; then parse no more."""
        if self._head is None:
            text, mark, rest = self._data.partition(b"\r\n\r\n")
            if len(text) > HEAD_BYTES_MAX:
                raise RefusedError(431, f"the head is larger than {HEAD_BYTES_MAX} bytes")
            if not mark:
                return None
            self._head = _parsed(bytes(text))
            self._length = _length(self._head.headers)
            self._data = rest
        if len(self._data) < self._length:
            return None
        head, self._head = self._head, None
        body = bytes(self._data[: self._length])
        del self._data[: self._length]
        return Request(head.method, head.path, head.query, head.headers, body, head.keeps_alive)

    def refused_at_end(self) -> RefusedError | None:
        """Why the bytes so far are no request, if no more come; empty lines are fine."""
        try:
            if self.next() is None and (self._head is not None or self._data.strip(b"\r\n")):
                return RefusedError(400, "the request ends before it is complete")
        except RefusedError as error:
            return error
        return None


def _parsed(head: bytes) -> Request:
    first, *rest = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise RefusedError(400, "the request line is not HTTP/1.1")
    headers = _headers(rest)
    if "host" not in headers and line[3] == b"1":
        raise RefusedError(400, "the Host header is missing")
    target = urlsplit("http://host" + line[2].decode())
    try:
        path = unquote(target.path, errors="strict")
        pairs = parse_qsl(
            target.query,
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError:
        raise RefusedError(400, "the target is not in UTF-8, or has too many fields") from None
    query = dict(pairs)
    if len(query) < len(pairs):
        raise RefusedError(400, "a field of the query is given twice")
    closes = "close" in headers.get("connection", "").lower() or line[3] == b"0"
    return Request(line[1].decode(), path, query, headers, keeps_alive=not closes)


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise RefusedError(400, "a header line is not HTTP/1.1")
        name, value = header[1].decode().lower(), header[2].decode("latin-1")
        if name in headers and name in ("host", "origin", "content-length", "authorization"):
            raise RefusedError(400, f"{name} is given twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise RefusedError(411, "a body needs a Content-Length")
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length):
        raise RefusedError(400, f"{length[:20]!r} is no Content-Length")
    if int(length) > BODY_BYTES_MAX:
        raise RefusedError(413, f"the body is larger than {BODY_BYTES_MAX} bytes")
    return int(length)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self, *, keeps_alive: bool, without_body: bool = False) -> bytes:
        """The response as bytes; to a HEAD, without its body."""
        lines = [
            f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            f"Connection: {'keep-alive' if keeps_alive else 'close'}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return head if without_body else head + self.body


def answer(value: Mapping[str, Any], status: int = 200, *headers: tuple[str, str]) -> Answer:
    """Make a JSON response."""
    return Answer(status, json.dumps(value).encode(), headers=headers)


def refusal(error: RefusedError) -> Answer:
    """The response to a refused request."""
    return answer({"error": str(error), **error.more}, error.status, *error.headers)


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-store\r\n"
    b"Connection: close\r\n"
    b"X-Accel-Buffering: no\r\n\r\n"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
