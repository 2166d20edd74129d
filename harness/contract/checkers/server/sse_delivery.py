"""Checks that streams are ordered, unique, gapless, resumable, filtered and alive.

A `StreamReader` (`stream_reader.py`) judges the events of one connection as they come, at a few
microseconds each, and keeps only its position; so it can run inside the load generator. Its
findings become the result of one operation, and `check_delivery` judges a whole history of
connections, chats, wakeups and polls against each other.

Times are not trusted: a late reader receives late. A silence counts only as far as it exceeds the
time by which the reader's own loop, on the same machine, was delayed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from harness.contract import promises
from harness.contract.checkers.server.answers_under_load import (
    ANSWERS,
    OK,
    is_disturbed,
    unanswered_polls,
)
from harness.contract.promises import SESSION_SERVER
from harness.core.history import History, Operation
from harness.core.verdict import Anomaly, Verdict

ALIVE_MS = 5000.0
TICK_MS = 1000.0  # the interval at which a server may look for silent connections
LAG_FACTOR = 10.0  # how much longer the server's loop may be delayed than the reader's
CPU_SHARE_MAX = 0.9
LAG_MS_MAX = {"p50": 25.0, "p99": 1000.0}  # of the generator's loop, by quantile


def check_delivery(history: History) -> Verdict:
    """Judge the connections, chats, wakeups and polls of a load."""
    anomalies = tuple(anomaly for judge in _JUDGES for anomaly in judge(history))
    if not anomalies:  # else the answers contradict each other for a known reason
        anomalies = tuple(anomaly for judge in ANSWERS for anomaly in judge(history))[:1]
    return Verdict(anomalies, unknowns=tuple(_unread(history)))


def check_load(history: History) -> Verdict:
    """Judge like `check_delivery`; unknown if the load generator was the bottleneck."""
    delivery = check_delivery(history)
    return Verdict(delivery.anomalies, unknowns=(*delivery.unknowns, *_bottlenecks(history)))


def _unread(history: History) -> Iterator[str]:
    """Streams that sent bytes, but not one event: nothing is known of what they delivered."""
    for read in history.happened.of("read"):
        if reason := read.result.get("unread"):
            stream = read.argument["stream"] or f"session {read.argument['session']}"
            yield f"read of {stream}: {reason}"


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
            and not is_disturbed(history, read)
        ):
            yield Anomaly(
                promises.C6,
                f"a read of {read.argument['stream'] or read.argument['session']} was silent",
                (read,),
                expected=f"an event or a comment each {bound_ms / 1e3:.1f} s",
                observed=f"no byte for {silence_ms / 1e3:.1f} s",
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


_JUDGES: tuple[Callable[[History], Iterable[Anomaly]], ...] = (
    *(_found, _incomplete, _silent, _wakeups, _lost_messages),
    *(_stalled_readers, _starved_users, unanswered_polls),
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
