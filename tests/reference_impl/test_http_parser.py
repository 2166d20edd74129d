"""Tests of the HTTP parser: strict, bounded, and independent of how the bytes are split."""

from __future__ import annotations

import contextlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.web.http_parser import (
    BODY_BYTES_MAX,
    HEAD_BYTES_MAX,
    Answer,
    Reader,
    RefusedError,
    Request,
)

HEAD = b"POST /a%20b?x=1&y=%C3%A9 HTTP/1.1\r\nHost: localhost\r\nX-One:  two \r\n"


def read(data: bytes) -> list[Request]:
    """Parse every request in data that arrives in one piece."""
    reader = Reader()
    reader.add(data)
    return list(iter(reader.next, None))


@given(
    bodies=st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 400)),
)
def test_requests_are_parsed_for_any_split(bodies: list[bytes], cuts: list[int]) -> None:
    """Each request is whole; the bytes after a body are the next request."""
    data = b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % len(each) + each for each in bodies)
    reader = Reader()
    requests: list[Request] = []
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(edges):
        reader.add(data[start:end])
        requests += iter(reader.next, None)

    assert [request.body for request in requests] == bodies
    assert requests[0].path == "/a b"
    assert requests[0].query == {"x": "1", "y": "é"}
    assert requests[0].headers["x-one"] == "two"


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_incomplete(data: bytes) -> None:
    """H2: no bytes make the parser raise any other error."""
    for prefix in (b"", b"GET ", b"GET / HTTP/1.1\r\n", HEAD):
        with contextlib.suppress(RefusedError):
            read(prefix + data + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: a", 400),
        (b"GET http://other/ HTTP/1.1\r\nHost: a", 400),
        (b"GET /", 400),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded: b", 400),
        (b"GET / HTTP/1.1\r\nHost : a", 400),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b", 400),
        (b"GET / HTTP/1.1\r\nHost: a\x00b", 400),
        (b"GET /%ff HTTP/1.1\r\nHost: a", 400),
        (b"GET /?a=%ff HTTP/1.1\r\nHost: a", 400),
        (b"GET /?a=1&a=2 HTTP/1.1\r\nHost: a", 400),
        (b"GET /?" + b"a&" * 100 + b" HTTP/1.1\r\nHost: a", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked", 411),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d" % (BODY_BYTES_MAX + 1), 413),
        (b"GET /" + b"a" * HEAD_BYTES_MAX + b" HTTP/1.1\r\nHost: a", 431),
    ],
)
def test_invalid_http_is_refused(head: bytes, status: int) -> None:
    """H2: nothing is guessed, so no two parsers can read different requests."""
    with pytest.raises(RefusedError) as refused:
        read(head + b"\r\n\r\n")
    assert refused.value.status == status


def test_endless_head_is_refused_at_its_limit() -> None:
    """H2: memory is bounded while a request arrives."""
    reader = Reader()
    reader.add(b"GET /" + b"a" * HEAD_BYTES_MAX)
    with pytest.raises(RefusedError):
        reader.next()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"1",
        b'"text"',
        b"null",
        b"\xff",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
def test_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    """H2: also what a JSON parser accepts, and no file or database does."""
    with pytest.raises(RefusedError) as refused:
        Request("POST", "/", {}, {}, body).json()
    assert refused.value.status == 400


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
def test_json_object_is_parsed(value: dict[str, object]) -> None:
    """Any JSON object; a missing body is an empty object."""
    assert Request("POST", "/", {}, {}, json.dumps(value).encode()).json() == value
    assert Request("POST", "/", {}, {}).json() == {}


def test_head_response_has_length_without_body() -> None:
    """RFC 9110, 9.3.2."""
    answer = Answer(200, b"hello", headers=(("X-Replaced-By", "/b"),))
    whole = answer.encoded(keeps_alive=True)
    head = answer.encoded(keeps_alive=True, without_body=True)
    assert whole == head + b"hello"
    assert b"\r\nContent-Length: 5\r\n" in head
    assert b"\r\nX-Replaced-By: /b\r\n" in head
