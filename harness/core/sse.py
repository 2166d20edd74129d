"""Frames: the events of a `text/event-stream`, cut out of its bytes as they come.

Pure, and quick where the fields come in the usual order. Lines end with a line feed; a stream that
ends them otherwise is none of those that we judge.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_USUAL = re.compile(rb"(?:id: ([^\n]*)\n)?event: ([^\n]*)\ndata: ([^\n]*)")


class Frame(NamedTuple):
    """One event, undecoded. A comment, a heartbeat as a rule, has neither id nor event nor data."""

    id: bytes | None
    event: bytes
    data: bytes

    @property
    def is_comment(self) -> bool:
        """Whether it says only that somebody is there."""
        return not self.event and not self.data


COMMENT = Frame(None, b"", b"")


class Frames:
    """Cuts one stream."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete; what is left waits for more."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        return [_read(block) for block in blocks if block]


def _read(block: bytes) -> Frame:
    usual = _USUAL.fullmatch(block)
    return Frame(*usual.groups()) if usual else _read_slowly(block)


def _read_slowly(block: bytes) -> Frame:
    """Read fields in any order; several lines of data are one text, as the format has it."""
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
