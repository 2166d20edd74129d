"""Delivery: is every stream ordered, unique, gapless, resumable, filtered and alive?

One connection is a `Reading`. It judges its events as they come, at a few microseconds each, and
keeps only where it is; so it can stand in the load generator itself. What it found becomes the
result of one operation, and `delivered` judges a whole history of such, where connections, chats,
wakeups and polls meet: what one was told must agree with what the others were.

Time is not trusted: who reads late hears late. A silence counts only as far as it is longer than
what the reader's own loop, on the same machine, was held up meanwhile.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise, promise
from harness.core.sse import Frame, Frames
from harness.core.verdict import Anomaly, Verdict

TERMINAL = frozenset({b"stream_end", b"cancel", b"apperror", b"error"})
SNAPSHOT = b"session_snapshot"
ALIVE_MS = 5000.0
TICK_MS = 1000.0  # a server that looks for the silent once a second keeps its word
LAG_FACTOR = 10.0  # a loop that shares the machine may have been held up so much longer than ours
FINDINGS_MAX = 8  # a connection; the first ones tell the story
SKIPPED_MAX = 4096
CPU_SHARE_MAX = 0.9
LAG_MS_MAX = {"p50": 25.0, "p99": 1000.0}  # of its loop; half of all, or a few for long
OK = 200
_SESSION = b'"session_id"'


class Reading:
    """One connection's events, checked as they come.

    A relay shows one run's stream, from its start or after a cursor. Notices are those of a
    session, from now on (no `stream`) or after a cursor; their stream may be another one after a
    restart, and then a snapshot says so.
    """

    __slots__ = (
        "_findings",
        "_first",
        "_frames",
        "_heard_ns",
        "_is_notices",
        "_is_resumed",
        "_mark",
        "_next",
        "_prefix",
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
        self._heard_ns: int | None = None
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
        """From now on we listen, and so know what silence is."""
        self._heard_ns = at_ns

    def _hear(self, at_ns: int) -> None:
        if self._heard_ns is not None:
            self._silence_ns = max(self._silence_ns, at_ns - self._heard_ns)
        self._heard_ns = at_ns

    def take(self, data: bytes, at_ns: int) -> list[Frame]:
        """Check what came in; the frames, for whoever wants to know what they say."""
        self._hear(at_ns)
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
            self._find(Promise.C6, "goes on after its terminal event", self.terminal, frame.event)
        elif frame.event in TERMINAL and not self._is_notices:
            self.terminal = frame.event

    def _check_session(self, frame: Frame) -> None:
        told = _decoded(frame.data)
        owner = told.get("session_id") if isinstance(told, dict) else None
        if owner is not None and owner != self._session:
            message = f"shows an event of {owner}, {frame.event.decode(errors='replace')}"
            self._find(Promise.C5, message, frame.id or frame.event, also=(Promise.W7,))

    def _take_unexpected(self, frame: Frame) -> None:
        """An event that is not simply the next one."""
        if frame.event == SNAPSHOT:
            self.snapshots += 1
            self._skipped.clear()
            self._prefix = self._next = b""
        if frame.id is None:
            return
        stream, seq = _cursor(frame.id)
        if seq is None:
            self._find(Promise.C1, "has an id that is no <stream>:<number>", frame.id)
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
            message = f"goes on in another stream than {self.stream}, and no snapshot says so"
            self._find(Promise.C4, message, id_)
            self._continue(stream, seq)
        else:
            self._find(Promise.C5, "shows an event of another stream", id_, also=(Promise.W7,))

    def _take_jump(self, id_: bytes, seq: int) -> None:
        assert self.last is not None
        assert self.stream is not None
        expected = self.last + 1
        if self._first is None and self._is_resumed:
            message = f"goes on at {seq} instead of {expected}, after the cursor"
            self._find(Promise.C4, message, id_, also=(Promise.C3,) if seq > expected else ())
            self._continue(self.stream, seq)
        elif seq > expected:
            self._skipped.update(range(expected, min(seq, expected + SKIPPED_MAX)))
            self._continue(self.stream, seq)
        elif seq in self._skipped:
            self._skipped.discard(seq)
            self._find(Promise.C1, f"shows {seq} only after {self.last}", id_)
        else:
            self._find(Promise.C2, f"shows {seq} twice", id_)

    def _continue(self, stream: str, seq: int) -> None:
        if self._prefix or self.stream is None:
            self._first = self._first or seq
        self.stream, self.last = stream, seq
        self._prefix = f"{stream}:".encode()
        self._next = b"%s%d" % (self._prefix, seq + 1)

    def end(self, how: str, at_ns: int) -> dict[str, Any]:
        """The connection is over: *closed* by the server, *left* by us, *lost*, or *silent*.

        What it came to, as JSON; a judge needs no more of it.
        """
        self._hear(at_ns)
        if self._skipped:
            missing = sorted(self._skipped)
            self._find(
                Promise.C3,
                f"never shows {missing[0]}" + (f" to {missing[-1]}" if missing[1:] else ""),
                *(b"%s%d" % (self._prefix, seq) for seq in missing[:FINDINGS_MAX]),
            )
        if self.terminal and how == "silent":
            self._find(Promise.C6, "stays open after its terminal event", self.terminal)
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
        }

    def _find(
        self, broken: Promise, message: str, *ids: bytes, also: tuple[Promise, ...] = ()
    ) -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(
                {
                    "promise": broken.name,
                    "also": [each.name for each in also],
                    "message": message,
                    "ids": [id_.decode(errors="replace") for id_ in ids],
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


# The history. `read` is one connection; the others are what clients did besides


def delivered(history: History) -> Verdict:
    """Judge what all connections, chats, wakeups and polls of a load came to."""
    return Verdict(tuple(anomaly for judge in _JUDGES for anomaly in judge(history)))


def under_load(history: History) -> Verdict:
    """Judge like `delivered`; unknown if whoever made the load was its bottleneck."""
    return Verdict(delivered(history).anomalies, unknowns=tuple(_bottlenecks(history)))


def _bottlenecks(history: History) -> Iterator[str]:
    generators = list(_of(history, "generate"))
    if not generators:
        yield "the generator left no account of itself"
    for operation in generators:
        told, name = operation.result, f"generator {operation.process}"
        if told["cpu_share"] > CPU_SHARE_MAX:
            yield f"{name} was the bottleneck: it used {told['cpu_share']:.0%} of a core"
        for quantile, bound_ms in LAG_MS_MAX.items():
            if told["lag_ms"][quantile] > bound_ms:
                late = f"{told['lag_ms'][quantile]:.0f} ms late at {quantile}"
                yield f"{name} was the bottleneck: its loop was {late}"
        if told["unfinished"]:
            yield f"{name} left with {told['unfinished']} users in the middle of something"


def _found(history: History) -> Iterator[Anomaly]:
    """What the connections found themselves."""
    for operation in _of(history, "read"):
        for found in operation.result["found"]:
            where = operation.argument["stream"] or f"session {operation.argument['session']}"
            yield Anomaly(
                promise(found["promise"]),
                f"{where} {found['message']}: {', '.join(found['ids'])}",
                (operation,),
                also=tuple(promise(name) for name in found["also"]),
            )


def _whole(history: History) -> Iterator[Anomaly]:
    """Readers of one run who read it to its end agree on that, and on all its tokens."""
    asked = {op.result["stream"]: op for op in _of(history, "send") if op.result["status"] == OK}
    ends: dict[str, Operation] = {}
    for read in _of(history, "read"):
        stream, told = read.argument["stream"], read.result
        if not told["terminal"] or read.argument["notices"]:
            continue
        other = ends.setdefault(stream, read)
        if told["last"] != other.result["last"]:
            message = (
                f"{stream} ends at {other.result['last']} for one and {told['last']} for another"
            )
            yield Anomaly(Promise.C3, message, (other, read))
        send = asked.get(stream)
        is_full = read.argument["after"] is None and not told["snapshots"]
        if send is None or not is_full or told["terminal"] != "stream_end":
            continue
        wanted = send.argument["tokens"]
        if wanted is not None and told["tokens"] != wanted:
            which = Promise.C3 if told["tokens"] < wanted else Promise.C2
            message = f"{stream} shows {told['tokens']} of {wanted} tokens, from start to end"
            yield Anomaly(which, message, (send, read))


def _alive(history: History) -> Iterator[Anomaly]:
    """No stream is silent for longer than promised, but for what holds up the whole machine."""
    lag_ms = max((op.result["lag_ms"]["max"] for op in _of(history, "generate")), default=None)
    if lag_ms is None:
        return
    bound_ms = ALIVE_MS + TICK_MS + LAG_FACTOR * lag_ms
    for read in _of(history, "read"):
        silence_ms = read.result["silence_ms"]
        if (
            silence_ms > bound_ms
            and not read.result["terminal"]
            and not _is_disturbed(history, read)
        ):
            yield Anomaly(Promise.C6, f"nothing was heard for {silence_ms / 1e3:.1f} s", (read,))


def _is_disturbed(history: History, operation: Operation) -> bool:
    return any(
        (operation.completed_ns is None or fault.began_ns <= operation.completed_ns)
        and (fault.healed_ns is None or fault.healed_ns >= operation.invoked_ns)
        for fault in history.faults
    )


def _woken(history: History) -> Iterator[Anomaly]:
    """Each process of a turn that was read to its end wakes its own session, once."""
    looks = {op.argument["session"]: op for op in _of(history, "messages")}
    finished = {
        op.argument["stream"]
        for op in _of(history, "read")
        if op.result["terminal"] == "stream_end"
    }
    woken: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for session, look in looks.items():
        for output in look.result["woken"]:
            woken[output][session] += 1
    for send in _of(history, "send"):
        session = send.argument["session"]
        for output in send.argument["outputs"]:
            for stranger in woken[output].keys() - {session}:
                message = f"the wakeup of {output} reached {stranger} instead of {session}"
                yield Anomaly(Promise.W6, message, (send, looks[stranger]))
            times = woken[output][session]
            if times > 1:
                message = f"{output} woke {session} {times} times"
                yield Anomaly(Promise.W1, message, (send, looks[session]))
            is_owed = send.result["stream"] in finished and session in looks
            if is_owed and not woken[output]:
                message = f"{output} ended, and {session} was never woken"
                yield Anomaly(Promise.W1, message, (send, looks[session]))


def _kept(history: History) -> Iterator[Anomaly]:
    """What was accepted is in the session, however heavy the load was."""
    looks = {op.argument["session"]: op for op in _of(history, "messages")}
    for send in _of(history, "send"):
        look = looks.get(send.argument["session"])
        if send.result["status"] != OK or look is None:
            continue
        if send.argument["text"] not in look.result["users"]:
            message = f"{send.argument['text']!r} was acknowledged, then gone"
            yield Anomaly(Promise.S2, message, (send, look))


def _dropped(history: History) -> Iterator[Anomaly]:
    """A reader that stalls is dropped, and its fellows read on."""
    for stall in _of(history, "stall"):
        told = stall.result
        if told["end"] == "held":
            message = f"a reader that took nothing for {told['stalled_s']:g} s was not dropped"
            yield Anomaly(Promise.C8, message, (stall,))
        if not told["fellow"]:
            message = "while one reader stalled, another could not read on"
            yield Anomaly(Promise.C8, message, (stall,))


def _admitted(history: History) -> Iterator[Anomaly]:
    """A user who insists is admitted within a bounded number of wakeup turns."""
    for press in _of(history, "press"):
        told = press.result
        if told["wakeups"] > press.argument["wakeups_max"]:
            message = f"a user was refused {told['refusals']} times, by {told['wakeups']} wakeups"
            yield Anomaly(Promise.W10, message, (press,))


def _answered(history: History) -> Iterator[Anomaly]:
    """While every stream is taken, ordinary calls are answered."""
    polls = list(_of(history, "poll"))
    for hold in _of(history, "hold"):
        if not hold.result["is_full"]:
            continue
        began_ns, ended_ns = hold.result["full_ns"]
        for poll in polls:
            assert poll.completed_ns is not None
            is_meanwhile = began_ns < poll.invoked_ns and poll.completed_ns < ended_ns
            if is_meanwhile and poll.result["status"] != OK:
                told, path = poll.result["status"], poll.argument["path"]
                message = f"{path} answered {told} while {hold.result['held']} streams were held"
                yield Anomaly(Promise.C10, message, (hold, poll))


_JUDGES: tuple[Callable[[History], Iterable[Anomaly]], ...] = (
    *(_found, _whole, _alive, _woken, _kept, _dropped, _admitted, _answered),
)


def _of(history: History, function: str) -> Iterator[Operation]:
    """The operations of a function that are known to have happened."""
    return (op for op in history if op.function == function and op.outcome is Outcome.OK)


def counted(function: str, what: str) -> Callable[[History], int]:
    """Add up what the operations of a function came to; an expectation's measure."""
    return lambda history: sum(int(_MEASURES[function, what](op)) for op in _of(history, function))


_MEASURES: Mapping[tuple[str, str], Callable[[Operation], int]] = {
    ("read", "events"): lambda op: op.result["events"],
    ("read", "is_resumed"): lambda op: op.argument["after"] is not None,
    ("read", "comments"): lambda op: op.result["comments"],
    ("stall", "is_dropped"): lambda op: op.result["end"] == "dropped",
    ("press", "refusals"): lambda op: op.result["refusals"],
    ("messages", "wakeups"): lambda op: len(op.result["woken"]),
    ("poll", "is_answered"): lambda op: op.result["status"] == OK,
    ("hold", "is_full"): lambda op: op.result["is_full"],
}
