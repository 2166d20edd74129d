"""Checks that streams are ordered, unique, gapless, resumable, filtered and alive.

A `StreamReader` judges the events of one connection as they come, at a few microseconds each, and
keeps only its position; so it can run inside the load generator. Its findings become the result of
one operation, and `check_delivery` judges a whole history of connections, chats, wakeups and polls
against each other.

Times are not trusted: a late reader receives late. A silence counts only as far as it exceeds the
time by which the reader's own loop, on the same machine, was delayed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from harness.contract import promises
from harness.contract.promises import SESSION_SERVER
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.sse import Frame, Frames
from harness.core.verdict import Anomaly, Verdict

TERMINAL = frozenset({b"stream_end", b"cancel", b"apperror", b"error"})
SNAPSHOT = b"session_snapshot"
ALIVE_MS = 5000.0
TICK_MS = 1000.0  # the interval at which a server may look for silent connections
LAG_FACTOR = 10.0  # how much longer the server's loop may be delayed than the reader's
FINDINGS_MAX = 8  # of one connection; later ones follow from the first
SKIPPED_MAX = 4096
CPU_SHARE_MAX = 0.9
LAG_MS_MAX = {"p50": 25.0, "p99": 1000.0}  # of the generator's loop, by quantile
OK, CONFLICT = 200, 409
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


# The history: `read` is one connection; the other functions are the clients' calls


def check_delivery(history: History) -> Verdict:
    """Judge the connections, chats, wakeups and polls of a load."""
    anomalies = tuple(anomaly for judge in _JUDGES for anomaly in judge(history))
    if not anomalies:  # else the answers contradict each other for a known reason
        anomalies = tuple(anomaly for judge in _ANSWERS for anomaly in judge(history))[:1]
    return Verdict(anomalies)


def check_load(history: History) -> Verdict:
    """Judge like `check_delivery`; unknown if the load generator was the bottleneck."""
    return Verdict(check_delivery(history).anomalies, unknowns=tuple(_bottlenecks(history)))


def _bottlenecks(history: History) -> Iterator[str]:
    generators = history.happened.of("generate")
    if not generators:
        yield "the generator reported no usage of its own"
    for operation in generators:
        usage, name = operation.result, f"generator {operation.process}"
        if usage["cpu_share"] > CPU_SHARE_MAX:
            yield f"{name} was the bottleneck: it used {usage['cpu_share']:.0%} of a core"
        for quantile, bound_ms in LAG_MS_MAX.items():
            if usage["lag_ms"][quantile] > bound_ms:
                late = f"{usage['lag_ms'][quantile]:.0f} ms late at {quantile}"
                yield f"{name} was the bottleneck: its loop was {late}"
        if usage["unfinished"]:
            yield f"{name} ended while {usage['unfinished']} users were in the middle of an act"


def _found(history: History) -> Iterator[Anomaly]:
    """The findings of the connections themselves."""
    for operation in history.happened.of("read"):
        for found in operation.result["found"]:
            stream = operation.argument["stream"] or f"session {operation.argument['session']}"
            yield Anomaly(
                SESSION_SERVER.promise(found["promise"]),
                f"read of {stream} {found['message']}: {', '.join(found['ids'])}",
                (operation,),
                also=tuple(SESSION_SERVER.promise(id_) for id_ in found["also"]),
                expected=found["expected"],
                observed=found["observed"],
            )


def _incomplete(history: History) -> Iterator[Anomaly]:
    """Readers of one run to its end that disagree on its last event or on its tokens (C2, C3)."""
    sends = {
        op.result["stream"]: op for op in history.happened.of("send") if op.result["status"] == OK
    }
    ends: dict[str, Operation] = {}
    for read in history.happened.of("read"):
        stream, result = read.argument["stream"], read.result
        if not result["terminal"] or read.argument["notices"]:
            continue
        other = ends.setdefault(stream, read)
        if result["last"] != other.result["last"]:
            yield Anomaly(
                promises.C3,
                f"two reads of {stream} ended at different events",
                (other, read),
                expected=f"event {other.result['last']}, as another reader received",
                observed=f"event {result['last']}",
            )
        send = sends.get(stream)
        is_full = read.argument["after"] is None and not result["snapshots"]
        if send is None or not is_full or result["terminal"] != "stream_end":
            continue
        wanted = send.argument["tokens"]
        if wanted is not None and result["tokens"] != wanted:
            yield Anomaly(
                promises.C3 if result["tokens"] < wanted else promises.C2,
                f"a read of {stream} from start to end returned a wrong number of tokens",
                (send, read),
                expected=f"{wanted} tokens",
                observed=f"{result['tokens']} tokens",
            )


def _silent(history: History) -> Iterator[Anomaly]:
    """A stream silent for longer than promised, less the delays of the whole machine (C6)."""
    lag_ms = max(
        (op.result["lag_ms"]["max"] for op in history.happened.of("generate")), default=None
    )
    if lag_ms is None:
        return
    bound_ms = ALIVE_MS + TICK_MS + LAG_FACTOR * lag_ms
    for read in history.happened.of("read"):
        silence_ms = read.result["silence_ms"]
        if (
            silence_ms > bound_ms
            and not read.result["terminal"]
            and not _is_disturbed(history, read)
        ):
            yield Anomaly(
                promises.C6,
                f"a read of {read.argument['stream'] or read.argument['session']} was silent",
                (read,),
                expected=f"an event or a comment each {bound_ms / 1e3:.1f} s",
                observed=f"no byte for {silence_ms / 1e3:.1f} s",
            )


def _is_disturbed(history: History, operation: Operation) -> bool:
    return any(
        (operation.completed_ns is None or fault.began_ns <= operation.completed_ns)
        and (fault.healed_ns is None or fault.healed_ns >= operation.invoked_ns)
        for fault in history.faults
    )


def _wakeups(history: History) -> Iterator[Anomaly]:
    """Each process of a turn that was read to its end wakes its own session, once (W1, W6)."""
    looks = {op.argument["session"]: op for op in history.happened.of("messages")}
    finished = {
        op.argument["stream"]
        for op in history.happened.of("read")
        if op.result["terminal"] == "stream_end"
    }
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for session, look in looks.items():
        for output in look.result["woken"]:
            counts[output][session] += 1
    for send in history.happened.of("send"):
        session = send.argument["session"]
        for output in send.argument["outputs"]:
            for stranger in counts[output].keys() - {session}:
                yield Anomaly(
                    promises.W6,
                    f"the process that prints {output!r} woke another session than its own",
                    (send, looks[stranger]),
                    expected=f"a wakeup of {session}",
                    observed=f"a wakeup of {stranger}",
                )
            times = counts[output][session]
            if times > 1:
                yield Anomaly(
                    promises.W1,
                    f"the process that prints {output!r} woke {session} {times} times",
                    (send, looks[session]),
                    expected="one wakeup",
                    observed=f"{times} wakeups",
                )
            is_owed = send.result["stream"] in finished and session in looks
            if is_owed and not counts[output]:
                yield Anomaly(
                    promises.W1,
                    f"the process that prints {output!r} ended, and woke no session",
                    (send, looks[session]),
                    expected=f"one wakeup of {session}",
                    observed="no wakeup",
                )


def _lost_messages(history: History) -> Iterator[Anomaly]:
    """A message that was acknowledged under load, and is not stored (S2)."""
    looks = {op.argument["session"]: op for op in history.happened.of("messages")}
    for send in history.happened.of("send"):
        session, text = send.argument["session"], send.argument["text"]
        look = looks.get(session)
        if send.result["status"] != OK or look is None:
            continue
        if text not in look.result["users"]:
            yield Anomaly(
                promises.S2,
                f"send({session!r}, {text!r}) was acknowledged, and the message is not stored",
                (send, look),
                expected=f"{text!r} in the messages of {session}",
                observed=f"{len(look.result['users'])} messages without it",
            )


def _stalled_readers(history: History) -> Iterator[Anomaly]:
    """A stalled reader that is not disconnected, or that blocks another reader (C8)."""
    for stall in history.happened.of("stall"):
        result = stall.result
        if result["end"] == "held":
            yield Anomaly(
                promises.C8,
                "a reader that received nothing was not disconnected",
                (stall,),
                expected="the server disconnects it after the write deadline",
                observed=f"still connected after {result['stalled_s']:g} s",
            )
        if not result["fellow"]:
            yield Anomaly(
                promises.C8,
                "while one reader stalled, another reader of the run received nothing",
                (stall,),
                expected="the other reader receives the run to its end",
                observed="silence",
            )


def _starved_users(history: History) -> Iterator[Anomaly]:
    """A user who retries and is refused by more wakeup turns than allowed (W10)."""
    for press in history.happened.of("press"):
        bound, wakeups = press.argument["wakeups_max"], press.result["wakeups"]
        if wakeups > bound:
            yield Anomaly(
                promises.W10,
                f"a user's send was refused {press.result['refusals']} times because of wakeups",
                (press,),
                expected=f"at most {bound} wakeups before the user is admitted",
                observed=f"{wakeups} wakeups",
            )


def _unanswered_polls(history: History) -> Iterator[Anomaly]:
    """An ordinary call that is refused while every stream is taken (C10)."""
    polls = history.happened.of("poll")
    for hold in history.happened.of("hold"):
        if not hold.result["is_full"]:
            continue
        began_ns, ended_ns = hold.result["full_ns"]
        for poll in polls:
            assert poll.completed_ns is not None
            is_meanwhile = began_ns < poll.invoked_ns and poll.completed_ns < ended_ns
            if is_meanwhile and poll.result["status"] != OK:
                yield Anomaly(
                    promises.C10,
                    f"GET {poll.argument['path']} failed while all streams were taken",
                    (hold, poll),
                    expected=f"status {OK} while {hold.result['held']} streams are open",
                    observed=f"status {poll.result['status']}",
                )


def _unexplained(history: History) -> Iterator[Anomaly]:
    """A call that failed while no fault was active; a run's journal may be gone later (C10)."""
    for op in history:
        is_old = op.function == "read" and ": 404 " in op.error
        if op.outcome is Outcome.OK or is_old or _is_disturbed(history, op):
            continue
        yield Anomaly(
            promises.C10,
            f"{op.call} was not answered under load",
            (op,),
            also=(promises.H6, promises.C6),
            expected="an answer: no fault was active",
            observed=op.answer,
        )
    for poll in history.happened.of("poll"):
        if poll.result["status"] != OK and not _is_disturbed(history, poll):
            yield Anomaly(
                promises.C10,
                f"GET {poll.argument['path']} failed under load",
                (poll,),
                expected=f"status {OK}",
                observed=f"status {poll.result['status']}",
            )


def _held_streams(history: History) -> Iterator[Anomaly]:
    """A limit on streams that is reached too early or too late (C10)."""
    for hold in history.happened.of("hold"):
        held = hold.result["held"]
        most = hold.argument.get("streams", held)
        began_ns, ended_ns = hold.result["full_ns"]
        is_ordered = hold.invoked_ns <= began_ns <= ended_ns <= (hold.completed_ns or ended_ns)
        # A holder with a limit opens one stream more: without a refusal there was no limit.
        is_limited = "streams" not in hold.argument or hold.result["is_full"]
        if not is_limited or (hold.result["is_full"] and held != most) or not is_ordered:
            yield Anomaly(
                promises.C10,
                "the server refused a stream at another number than its limit",
                (hold,),
                expected=f"{most} streams, and then a refusal",
                observed=f"{held} streams",
            )


def _confused_ids(history: History) -> Iterator[Anomaly]:
    """An id given twice, a status that is none, or a list with a session twice (S11, T1)."""
    for function, field, promise in (
        ("new", "session", promises.S11),
        ("send", "stream", promises.T1),
    ):
        seen: dict[str, Operation] = {}
        for op in history.happened.of(function):
            id_ = op.result[field]
            is_wrong = function == "send" and op.result["status"] not in (OK, CONFLICT)
            is_wrong |= (id_ is None) != (function == "send" and op.result["status"] == CONFLICT)
            first = seen.setdefault(id_, op) if id_ is not None else op
            if is_wrong or first is not op:
                yield Anomaly(
                    promise,
                    f"{op.call} was answered with an id that is no new one",
                    (op,) if first is op else (first, op),
                    expected=f"a {field} of its own",
                    observed=op.answer,
                )
    for listed in history.happened.of("list"):
        if len(set(listed.result)) != len(listed.result):
            yield Anomaly(
                promises.S11,
                "list() returned a session twice",
                (listed,),
                expected="each session once",
                observed=listed.answer,
            )


def _stored_otherwise(history: History) -> Iterator[Anomaly]:
    """Messages that are stored in another order or number than they were sent (S2)."""
    sends: defaultdict[str, list[Operation]] = defaultdict(list)
    reads = history.happened.of("read")
    finished = {op.argument["stream"] for op in reads if op.result["terminal"] == "stream_end"}
    for op in history:
        if op.function == "send" and op.outcome is not Outcome.FAIL:
            sends[op.argument["session"]].append(op)
    for look in history.happened.of("messages"):
        session = look.argument["session"]
        asked = sends[session]
        if any(op.outcome is not Outcome.OK for op in asked):
            continue
        wanted = [op.argument["text"] for op in asked if op.result["status"] == OK]
        begun = [op for op in asked if op.result["status"] == OK]
        started = Counter(output for op in begun for output in op.argument["outputs"])
        owed = Counter(
            output
            for op in begun
            if op.result["stream"] in finished
            for output in op.argument["outputs"]
        )
        woken = Counter(look.result["woken"])
        strange = not owed <= woken <= started
        if look.result["users"] != wanted or strange:
            yield Anomaly(
                promises.W6 if strange else promises.S2,
                f"messages({session!r}) differ from what was sent and started there",
                (look,),
                also=(promises.S2, promises.W1),
                expected=f"{wanted}, and wakeups by {sorted(started)}",
                observed=look.answer[:2000],
            )


def _miscounted_presses(history: History) -> Iterator[Anomaly]:
    """A press whose counts differ from its sends (W10)."""
    sends = history.happened.of("send")
    for press in history.happened.of("press"):
        refused = [
            op
            for op in sends
            if op.process == press.process
            and press.invoked_ns <= op.invoked_ns <= (press.completed_ns or 0)
            and op.result["status"] != OK
        ]
        wakeups = len({op.result["active"] for op in refused} - {None})
        counts = {"refusals": len(refused), "wakeups": wakeups}
        if press.result != counts:
            yield Anomaly(
                promises.W10,
                "a press counts other refusals than its sends",
                (press,),
                expected=f"{counts}",
                observed=press.answer,
            )


def _unknown_sessions(history: History) -> Iterator[Anomaly]:
    """A session that no call made, or a list that lacks one (S11)."""
    made = {op.result["session"]: op for op in history.happened.of("new")}
    if not made or any(op.outcome is not Outcome.OK for op in history if op.function == "new"):
        return
    for op in history.happened.of("send"):
        if op.argument["session"] not in made:
            yield Anomaly(
                promises.S11,
                f"{op.call} found a session that no answer named",
                (op,),
                expected="a session of an answer to new()",
                observed=op.argument["session"],
            )
    for listed in history.happened.of("list"):
        known = {id_ for id_, new in made.items() if new.precedes(listed)}
        later = {id_ for id_, new in made.items() if not listed.precedes(new)}
        if not known <= set(listed.result) <= known | later:
            yield Anomaly(
                promises.S11,
                "list() returned other sessions than those that were made",
                (listed,),
                also=(promises.S15,),
                expected=f"{sorted(known)}",
                observed=listed.answer[:2000],
            )


def _strange_ends(history: History) -> Iterator[Anomaly]:
    """A run's stream, or an end of a connection, that cannot be (C6, T1)."""
    sends = history.happened.of("send")
    lengths = {len(op.result["stream"]) for op in sends if op.result["stream"]}
    for op in sends:
        active = op.result["active"]
        if (active is not None and op.result["status"] == OK) or len(lengths) > 1:
            yield Anomaly(
                promises.T1,
                f"{op.call} was answered with a run that cannot be meant",
                (op,),
                expected="one run, with an id like all others",
                observed=op.answer,
            )
    for read in history.happened.of("read"):
        result = read.result
        is_over = bool(result["terminal"]) and result["end"] not in ("closed", "left", "silent")
        is_known = result["end"] in ("closed", "left", "lost", "silent")
        is_end = not result["terminal"] or result["terminal"].encode() in TERMINAL
        is_counted = 0 <= result["tokens"] <= result["events"] and result["comments"] >= 0
        if is_over or not (is_known and is_end and is_counted):
            yield Anomaly(
                promises.C6,
                f"a read of {read.argument['stream'] or read.argument['session']} cannot be",
                (read,),
                also=(promises.T3,),
                expected="an end of a connection, and a terminal event before it",
                observed=read.answer[:2000],
            )
    for stall in history.happened.of("stall"):
        if stall.result["end"] not in ("dropped", "held", "too soon to say"):
            yield Anomaly(
                promises.C8,
                "a stall ended in no way that a stall can end",
                (stall,),
                expected="dropped, held, or too soon to say",
                observed=f"{stall.result['end']}",
            )


def _misnumbered(history: History) -> Iterator[Anomaly]:
    """A connection whose numbers of events do not fit its first and its last one (C3)."""
    for read in history.happened.of("read"):
        result, after = read.result, read.argument["after"]
        if read.argument["notices"] or result["snapshots"] or result["found"]:
            continue
        first = None if result["events"] == 0 else (after or 0) + 1
        last = (after or 0) + result["events"]
        is_whole = result["first"] == first and result["last"] == last
        if not is_whole or result["stream"] != read.argument["stream"]:
            yield Anomaly(
                promises.C3,
                f"a read of {read.argument['stream']} has other numbers than its events",
                (read,),
                also=(promises.C2, promises.C4),
                expected=f"events {first} to {last}",
                observed=f"events {result['first']} to {result['last']}, {result['events']} in all",
            )


_JUDGES: tuple[Callable[[History], Iterable[Anomaly]], ...] = (
    *(_found, _incomplete, _silent, _wakeups, _lost_messages),
    *(_stalled_readers, _starved_users, _unanswered_polls),
)


_ANSWERS: tuple[Callable[[History], Iterable[Anomaly]], ...] = (
    *(_confused_ids, _held_streams, _stored_otherwise, _miscounted_presses, _misnumbered),
    *(_unknown_sessions, _strange_ends, _unexplained),
)


def counted(function: str, what: str) -> Callable[[History], int]:
    """Make an expectation's measure: a sum over the operations of a function."""
    return lambda history: sum(
        int(_MEASURES[function, what](op)) for op in history.happened.of(function)
    )


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
