"""The parser of `text/event-stream`: it cuts the bytes of a stream into frames, one for each event.

It follows the HTML standard: lines end with CR, LF or CRLF, wherever chunks are cut; a byte order
mark at the start is skipped; several `data` lines are one text; an event without a name is a
`message`; a block without `data` is no event, though its id counts; an id with a NUL is ignored.
Beyond the standard it returns comments, because they show that a stream is alive. It is fast where
the fields come in the usual order.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.core.errors import TargetLostError

_USUAL = re.compile(rb"(?:id: ([^\n\0]*)\n)?event: ([^\n]+)\ndata: ([^\n]*)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHOWN_BYTES = 60
_MESSAGE = b"message"
_FIELDS = {b"", b"data", b"event", b"id", b"retry"}  # a comment has an empty name


class Frame(NamedTuple):
    """One event, undecoded. A comment, usually a heartbeat, has neither id nor event nor data.

    `id` is what the event itself states, None without one. The standard keeps an earlier id then:
    see `Frames.last_id`.
    """

    id: bytes | None
    event: bytes
    data: bytes

    @property
    def is_comment(self) -> bool:
        """Whether the frame is a comment."""
        return not self.event and not self.data


COMMENT = Frame(None, b"", b"")


class UnreadableStreamError(TargetLostError):
    """A stream sent bytes, but not one event: what it said is unknown."""


class Frames:
    """The parser of one stream; it keeps the bytes of an incomplete frame.

    `last_id` is what `Last-Event-ID` would say now, `retry_ms` the last `retry`, or None.
    """

    __slots__ = ("_after_cr", "_begun", "_first", "_rest", "events", "last_id", "retry_ms")

    def __init__(self) -> None:
        self._rest = b""
        self._first = b""  # what is no comment, until the first event
        self._begun = False
        self._after_cr = False
        self.events = 0
        self.last_id = b""
        self.retry_ms: int | None = None

    def cut(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        if not self._begun:
            data = self._begin(data)
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = (self._rest + data).split(b"\n\n")
        frames: list[Frame] = []
        for block in blocks:
            usual = _USUAL.fullmatch(block)
            if usual:
                frame = Frame(*usual.groups())
                if frame.id is not None:
                    self.last_id = frame.id
                self.events += 1
                frames.append(frame)
            elif block:
                self._read_slowly(block, frames)
        rest = rest.removeprefix(b"\n")
        while rest.startswith(b":") and b"\n" in rest:  # a comment needs no blank line
            rest = rest.partition(b"\n")[2]
            frames.append(COMMENT)
        self._rest = rest
        return frames

    @property
    def unread(self) -> str:
        """Why nothing is known of a stream that sent something: empty if it sent an event.

        Comments alone are no reason, since a quiet stream sends them, nor is a first event of
        which the end is still to come (`is_torn`).
        """
        sent = self._first or (b"" if self.is_torn else self._rest)
        if self.events or not sent:
            return ""
        return f"expected an event; the stream sent none, but {sent[:_SHOWN_BYTES]!r}"

    @property
    def is_torn(self) -> bool:
        """Whether the bytes so far end within what may become an event."""
        *lines, last = self._rest.split(b"\n")
        names = {line.partition(b":")[0] for line in lines}
        begun, colon, _ = last.partition(b":")
        is_field = begun in _FIELDS if colon else any(f.startswith(begun) for f in _FIELDS)
        return bool(self._rest) and (not self._begun or (is_field and names <= _FIELDS))

    def check(self) -> None:
        """Raise UnreadableStreamError if the stream sent bytes, but not one event."""
        if self.unread:
            raise UnreadableStreamError(self.unread)

    def _begin(self, data: bytes) -> bytes:
        """Skip the byte order mark of the first bytes, as soon as enough came."""
        data = self._rest + data
        self._rest = b""
        if _BYTE_ORDER_MARK.startswith(data):
            self._begun = data == _BYTE_ORDER_MARK
            self._rest = b"" if self._begun else data
            return b""
        self._begun = True
        return data.removeprefix(_BYTE_ORDER_MARK)

    def _read_slowly(self, block: bytes, frames: list[Frame]) -> None:
        """Read fields in any order."""
        id_, event, data = None, b"", list[bytes]()
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if not line:
                continue
            if not name:
                frames.append(COMMENT)
            elif name == b"data":
                data.append(value)
            elif name == b"event":
                event = value
            elif name == b"id" and b"\0" not in value:
                id_ = self.last_id = value
            elif name == b"retry" and value.isdigit():
                self.retry_ms = int(value)
        if data:
            self.events += 1
            frames.append(Frame(id_, event or _MESSAGE, b"\n".join(data)))
        elif not self.events and not self._first and not block.lstrip(b"\n").startswith(b":"):
            self._first = block
