"""A client that checks a stream of server-sent events while it reads it."""

from __future__ import annotations

import json
from typing import Any

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.sse import Frame, Frames

TERMINAL = frozenset({b"stream_end", b"cancel", b"apperror", b"error"})
SNAPSHOT = b"session_snapshot"
FINDINGS_MAX = 8  # of one connection; later ones follow from the first
SKIPPED_MAX = 4096
_SESSION = b'"session_id"'


class StreamReader:
    """The checker of one connection's events.

    A relay streams one run, from its start or after a cursor. Notices are those of a session, from
    now on (no `stream`) or after a cursor; after a restart of the server they continue in another
    stream, which a snapshot announces.
    """

    __slots__ = (
        "_findings",
        "_first",
        "_frames",
        "_is_notices",
        "_is_resumed",
        "_mark",
        "_next",
        "_prefix",
        "_received_ns",
        "_session",
        "_silence_ns",
        "_skipped",
        "comments",
        "events",
        "last",
        "snapshots",
        "stream",
        "terminal",
        "tokens",
    )

    def __init__(
        self, session: str, stream: str | None, after: int | None, *, is_notices: bool
    ) -> None:
        """`after` is the number that the cursor names; None without a cursor."""
        self._session = session
        self._mark = b'"session_id":"' + session.encode() + b'"'
        self._is_notices = is_notices
        self._is_resumed = after is not None
        self._frames = Frames()
        self._findings: list[dict[str, Any]] = []
        self._first: int | None = None
        self._received_ns: int | None = None
        self._silence_ns = 0
        self._skipped: set[int] = set()
        self.stream = stream
        self.last: int | None = None
        self.comments = self.events = self.snapshots = self.tokens = 0
        self.terminal = b""
        self._prefix = self._next = b""
        if stream is not None:
            self._continue(stream, after or 0)

    def listen(self, at_ns: int) -> None:
        """Begin to measure silence."""
        self._received_ns = at_ns

    def _note_bytes(self, at_ns: int) -> None:
        if self._received_ns is not None:
            self._silence_ns = max(self._silence_ns, at_ns - self._received_ns)
        self._received_ns = at_ns

    def take(self, data: bytes, at_ns: int) -> list[Frame]:
        """Check received bytes; returns their frames."""
        self._note_bytes(at_ns)
        frames = self._frames.cut(data)
        for frame in frames:
            if frame.id is not None and frame.id == self._next:
                assert self.last is not None
                self.last += 1
                self._next = b"%s%d" % (self._prefix, self.last + 1)
                if self._first is None:
                    self._first = self.last
            elif frame.is_comment:
                self.comments += 1
                continue
            else:
                self._take_unexpected(frame)
            self._take_event(frame)
        return frames

    def _take_event(self, frame: Frame) -> None:
        self.events += 1
        if frame.event == b"token":
            self.tokens += 1
        if _SESSION in frame.data and self._mark not in frame.data:
            self._check_session(frame)
        if self.terminal:
            self._find(
                promises.C6,
                "returned an event after its terminal event",
                self.terminal,
                frame.event,
                expected=f"no event after {self.terminal.decode(errors='replace')}",
                observed=frame.event.decode(errors="replace") or "an event without a name",
            )
        elif frame.event in TERMINAL and not self._is_notices:
            self.terminal = frame.event

    def _check_session(self, frame: Frame) -> None:
        content = _decoded(frame.data)
        owner = content.get("session_id") if isinstance(content, dict) else None
        if owner is not None and owner != self._session:
            name = frame.event.decode(errors="replace")
            self._find(
                promises.C5,
                "returned an event of another session",
                frame.id or frame.event,
                also=(promises.W7,),
                expected=f"events of session {self._session}",
                observed=f"{name} of session {owner}",
            )

    def _take_unexpected(self, frame: Frame) -> None:
        """Handle an event whose id is not the next number."""
        if frame.event == SNAPSHOT:
            self.snapshots += 1
            self._skipped.clear()
            self._prefix = self._next = b""
        if frame.id is None:
            return
        stream, seq = _cursor(frame.id)
        if seq is None:
            self._find(
                promises.C1,
                "returned an event with a malformed id",
                frame.id,
                expected="an id <stream>:<number>",
                observed=f"{frame.id!r}",
            )
        elif stream != self.stream and self._prefix:
            self._take_foreign(frame.id, stream, seq)
        elif not self._prefix:
            is_same_run = self._is_notices or self.stream in (None, stream)
            if not is_same_run:
                self._take_foreign(frame.id, stream, seq)
            self._continue(stream, seq)
        else:
            self._take_jump(frame.id, seq)

    def _take_foreign(self, id_: bytes, stream: str, seq: int) -> None:
        if self._is_notices and self._first is None:
            self._find(
                promises.C4,
                "continued in another stream without a snapshot",
                id_,
                expected=f"the next event of {self.stream}, or a snapshot",
                observed=f"event {stream}:{seq}",
            )
            self._continue(stream, seq)
        else:
            self._find(
                promises.C5,
                "returned an event of another stream",
                id_,
                also=(promises.W7,),
                expected=f"events of stream {self.stream}",
                observed=f"event {stream}:{seq}",
            )

    def _take_jump(self, id_: bytes, seq: int) -> None:
        assert self.last is not None
        assert self.stream is not None
        expected = self.last + 1
        if self._first is None and self._is_resumed:
            self._find(
                promises.C4,
                "did not resume behind the cursor",
                id_,
                also=(promises.C3,) if seq > expected else (),
                expected=f"event {expected}",
                observed=f"event {seq}",
            )
            self._continue(self.stream, seq)
        elif seq > expected:
            self._skipped.update(range(expected, min(seq, expected + SKIPPED_MAX)))
            self._continue(self.stream, seq)
        elif seq in self._skipped:
            self._skipped.discard(seq)
            self._find(
                promises.C1,
                "returned events out of order",
                id_,
                expected=f"event {seq} before event {self.last}",
                observed=f"event {seq} after event {self.last}",
            )
        else:
            self._find(
                promises.C2,
                "returned an event twice",
                id_,
                expected=f"event {expected}",
                observed=f"event {seq} again",
            )

    def _continue(self, stream: str, seq: int) -> None:
        if self._prefix or self.stream is None:
            self._first = self._first or seq
        self.stream, self.last = stream, seq
        self._prefix = f"{stream}:".encode()
        self._next = b"%s%d" % (self._prefix, seq + 1)

    def end(self, how: str, at_ns: int) -> dict[str, Any]:
        """Finish, and return the result of the read as JSON.

        The connection was *closed* by the server, *left* by the reader, *lost*, or *silent*.
        """
        self._note_bytes(at_ns)
        if self._skipped:
            missing = sorted(self._skipped)
            self._find(
                promises.C3,
                "skipped events",
                *(b"%s%d" % (self._prefix, seq) for seq in missing[:FINDINGS_MAX]),
                expected=f"every event up to {self.last}",
                observed=f"{len(missing)} missing, {missing[0]} to {missing[-1]}",
            )
        if self.terminal and how == "silent":
            self._find(
                promises.C6,
                "stayed open after its terminal event",
                self.terminal,
                expected="the server closes the connection after the terminal event",
                observed="an open connection, and no byte",
            )
        return {
            "stream": self.stream,
            "first": self._first,
            "last": self.last,
            "events": self.events,
            "tokens": self.tokens,
            "comments": self.comments,
            "snapshots": self.snapshots,
            "silence_ms": round(self._silence_ns / 1e6, 1),
            "terminal": self.terminal.decode(),
            "end": how,
            "found": self._findings,
            **({"unread": self._frames.unread} if self._frames.unread else {}),
        }

    def _find(
        self,
        broken: Promise,
        message: str,
        *ids: bytes,
        expected: str,
        observed: str,
        also: tuple[Promise, ...] = (),
    ) -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(
                {
                    "promise": broken.id,
                    "also": [promise.id for promise in also],
                    "message": message,
                    "ids": [id_.decode(errors="replace") for id_ in ids],
                    "expected": expected,
                    "observed": observed,
                }
            )


def _cursor(id_: bytes) -> tuple[str, int | None]:
    stream, _, digits = id_.decode(errors="replace").rpartition(":")
    return stream, int(digits) if stream and digits.isdecimal() else None


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
