"""The parser of event streams against the standard, and against httpx-sse on any bytes."""

from __future__ import annotations

import pytest
from httpx_sse._decoders import SSEDecoder
from hypothesis import given
from hypothesis import strategies as st

from harness.core.sse import COMMENT, Frame, Frames, UnreadableStreamError

NEWLINES = (b"\n", b"\r", b"\r\n")
TEXT = st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=6).map(
    str.encode
)
FIELDS = st.sampled_from([b"id", b"event", b"data", b"data", b"data", b"retry", b"other", b""])
LINES = st.builds(
    lambda name, colon, value: name + colon + value if colon else name,
    FIELDS,
    st.sampled_from([b":", b": ", b":  ", b""]),
    TEXT,
)
USUAL = st.builds(lambda id_, data: [b"id: " + id_, b"event: token", b"data: " + data], TEXT, TEXT)
BLOCKS = st.one_of(USUAL, st.lists(LINES, max_size=4))


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """The chunks of one stream: blocks of lines with any ends, cut anywhere, none torn."""
    lines = [line for block in draw(st.lists(BLOCKS, max_size=5)) for line in (*block, b"")]
    ends = st.sampled_from(NEWLINES)
    wire = b"".join(line + draw(ends) for line in lines) + b"\n\n"
    wire = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + wire
    cuts = sorted(draw(st.sets(st.integers(0, len(wire)), max_size=8)))
    return [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


def cut(*chunks: bytes) -> list[Frame]:
    frames = Frames()
    return [frame for chunk in chunks for frame in frames.cut(chunk)]


@given(streams())
def test_any_chunks_give_the_events_of_httpx_sse(chunks: list[bytes]) -> None:
    """That decoder takes lines, and returns a blank event for a block that has an id only."""
    frames, peer = Frames(), SSEDecoder()
    got = [frame for chunk in chunks for frame in frames.cut(chunk)]
    text = b"".join(chunks).decode().removeprefix("\ufeff")
    *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert not rest
    events = [event for line in lines if (event := peer.decode(line)) and event.data]
    assert [(frame.event.decode(), frame.data.decode()) for frame in got if frame.data] == [
        (event.event, event.data) for event in events
    ]
    assert frames.last_id.decode() == peer._last_event_id


@given(streams())
def test_frames_do_not_depend_on_chunks(chunks: list[bytes]) -> None:
    """Not even comments do."""
    whole = b"".join(chunks)
    assert cut(*chunks) == cut(whole) == cut(*(bytes([byte]) for byte in whole))


@pytest.mark.parametrize("end", NEWLINES)
def test_blank_line_ends_an_event_at_once(end: bytes) -> None:
    """A CR is a whole line end: what follows it may be far away."""
    frames = Frames()
    wire = b"id: 1\nevent: a\ndata: x\n\n".replace(b"\n", end)
    end_at = len(wire) - (end == b"\r\n")
    assert frames.cut(wire[:end_at]) == [Frame(b"1", b"a", b"x")]
    assert frames.cut(wire[end_at:] + b"data" + end + end) == [Frame(None, b"message", b"")]


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"data:a\ndata: b\n\n", [Frame(None, b"message", b"a\nb")]),
        (b"data: x\n", []),
        (b"event: x\n\n", []),
        (b"id: 7\n\n", []),
        (b"id: a\0b\nevent: x\ndata: y\n\n", [Frame(None, b"x", b"y")]),
        (b"event: \ndata: y\n\n", [Frame(None, b"message", b"y")]),
        (b": one\n: two\n", [COMMENT, COMMENT]),
        (b": one\ndata: x\n\n", [COMMENT, Frame(None, b"message", b"x")]),
        (b"\xef\xbb\xbfdata: x\n\n", [Frame(None, b"message", b"x")]),
        (b"data: \xef\xbb\xbfx\n\n", [Frame(None, b"message", b"\xef\xbb\xbfx")]),
    ],
)
def test_rules_of_the_standard_are_kept(wire: bytes, expected: list[Frame]) -> None:
    assert cut(wire) == expected


def test_id_and_retry_last_over_events() -> None:
    frames = Frames()
    frames.cut(b"id: 7\n\nretry: 30\nretry: x\n\ndata: x\n\n")
    assert (frames.last_id, frames.retry_ms) == (b"7", 30)


@pytest.mark.parametrize(
    "wire", [b'{"a": 1}', b'{"a": 1}\n{"a": 2}\n', b"event: x\n\n", b"HTTP/1.1 500\n\n"]
)
def test_bytes_without_an_event_are_unread(wire: bytes) -> None:
    frames = Frames()
    frames.cut(wire)
    with pytest.raises(UnreadableStreamError, match="expected an event"):
        frames.check()


@pytest.mark.parametrize(
    "wire", [b"", b": hello\n\n", b": he", b"id: 1\ndat", b"\xef", b"event: x\n\ndata: y\n\n"]
)
def test_quiet_or_torn_stream_is_not_unread(wire: bytes) -> None:
    frames = Frames()
    frames.cut(wire)
    frames.check()
