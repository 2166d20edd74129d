"""A parser that cuts the bytes of a `text/event-stream` into frames, one for each event.

It is fast where the fields come in the usual order. It supports only streams whose lines end with
a line feed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_USUAL = re.compile(rb"(?:id: ([^\n]*)\n)?event: ([^\n]*)\ndata: ([^\n]*)")


class Frame(NamedTuple):
    """One event, undecoded. A comment, usually a heartbeat, has neither id nor event nor data."""

    id: bytes | None
    event: bytes
    data: bytes

    @property
    def is_comment(self) -> bool:
        """Whether the frame is a comment."""
        return not self.event and not self.data


COMMENT = Frame(None, b"", b"")


class Frames:
    """The parser of one stream; it keeps the bytes of an incomplete frame."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        return [_read(block) for block in blocks if block]


def _read(block: bytes) -> Frame:
    usual = _USUAL.fullmatch(block)
    return Frame(*usual.groups()) if usual else _read_slowly(block)


def _read_slowly(block: bytes) -> Frame:
    """Read fields in any order; join several lines of data to one text, as the format demands."""
    id_, event, data = None, b"", list[bytes]()
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"id":
            id_ = value
        elif name == b"event":
            event = value
        elif name == b"data":
            data.append(value)
    return Frame(id_, event or (b"message" if data else b""), b"\n".join(data))
