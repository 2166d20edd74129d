"""Checks the order, uniqueness, completeness and ownership of streamed events.

The readers of a history connect, disconnect, stall, and reconnect with cursors of their own or of
other streams. Two readers of a run receive the same events; a run has one terminal event, which is
the same for all readers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harness.contract import promises
from harness.contract.checkers.server.client_history import TERMINAL, ClientHistory, rows
from harness.core.contract import Promise
from harness.core.history import Operation
from harness.core.verdict import Anomaly

Rule = Callable[[ClientHistory], Iterable[Anomaly]]
SNAPSHOT = "session_snapshot"


def stream_anomalies(view: ClientHistory) -> Iterator[Anomaly]:
    """Every anomaly of the streams, causes before their consequences."""
    for rule in RULES:
        yield from rule(view)


def _parsed(id_: str) -> tuple[str, int]:
    stream, _, seq = id_.rpartition(":")
    return stream, int(seq) if seq.isdigit() else 0


def _misnumbered_runs(view: ClientHistory) -> Iterator[Anomaly]:
    """A run's events whose numbers do not continue from the reader's cursor (C1 to C5)."""
    for run, relays in view.relays.items():
        for relay in relays:
            yield from _misnumbered(relay, run)


def _misnumbered(read: Operation, stream: str | None) -> Iterator[Anomaly]:
    """Judge the ids of one connection. Those of a run begin with 1; a session's begin anywhere."""
    name_of_read = f"{read.function}({stream or read.argument.get('session')!r})"
    last = None if stream is None else 0
    is_foreign = False
    if (after := read.argument["after"]) is not None:
        known, seq = _parsed(after)
        is_foreign = stream not in (None, known)
        stream, last = (stream, last) if is_foreign else (known, seq)
    seen: set[int] = set()
    for id_, name, *_ in read.result["rows"]:
        if name == SNAPSHOT:
            is_foreign = False
            stream, last = _parsed(id_) if id_ else (stream, last)
        elif id_:
            its, seq = _parsed(id_)
            if is_foreign or (its != stream and stream is not None):
                broken = promises.C5 if after is None or seen else promises.C4
                yield Anomaly(
                    broken,
                    f"{name_of_read} after cursor {after} returned event {id_} of another stream",
                    (read,),
                    "foreign-event",
                    expected=f"events of stream {stream}, or a snapshot that resets the cursor",
                    observed=f"event {id_}",
                )
                return
            promise, reason = _breach(seq, last, seen)
            if promise is not None:
                yield Anomaly(
                    promise,
                    f"{name_of_read} returned event {id_}: {reason}",
                    (read,),
                    "misnumbered",
                    expected=f"event {its}:{(last or 0) + 1}",
                    observed=f"event {id_}",
                )
                return
            stream, last = its, seq
            seen.add(seq)
    if is_foreign and read.result["end"] == "closed":
        yield Anomaly(
            promises.C4,
            f"{name_of_read} with the foreign cursor {after} was closed without an event",
            (read,),
            "no-snapshot",
            expected="a snapshot that says that the cursor is of another stream",
            observed="no event, then the end of the connection",
        )


def _breach(seq: int, last: int | None, seen: set[int]) -> tuple[Promise | None, str]:
    """The promise that a number breaks, after the last number and all seen numbers."""
    if last is None or seq == last + 1:
        return None, ""
    if seq in seen:
        return promises.C2, "this event was returned before"
    if last and not seen:
        return promises.C4, f"the cursor was at {last}"
    if seq < last:
        return promises.C1, f"the last event was {last}"
    return promises.C3, f"events are missing after {last}"


def _inconsistent(view: ClientHistory) -> Iterator[Anomaly]:
    """An event with different content for two readers (C2)."""
    for run, relays in view.relays.items():
        known: dict[str, tuple[str, str, Operation]] = {}
        for relay in relays:
            for id_, name, text in relay.result["rows"]:
                if not id_ or name == SNAPSHOT:
                    continue
                first_name, first_text, first = known.setdefault(id_, (name, text, relay))
                if (first_name, first_text) != (name, text):
                    yield Anomaly(
                        promises.C2,
                        f"relay({run!r}) returned event {id_} with two different contents",
                        (first, relay),
                        "inconsistent-event",
                        expected=f"{first_name} {first_text!r}, as the first reader received",
                        observed=f"{name} {text!r}",
                    )
                    return


def _endings(view: ClientHistory) -> Iterator[Anomaly]:
    """A run with two terminal events, or with more after one (T3); a stream without one (C6)."""
    for run, relays in view.relays.items():
        ends: dict[str, Operation] = {}
        for relay in relays:
            names = [name for _, name, _ in relay.result["rows"]]
            terminal = [name for name in names if name in TERMINAL]
            ends |= dict.fromkeys(terminal, relay)
            if len(terminal) > 1:
                yield _second_end(run, terminal, (relay,))
            elif terminal and names[-1] not in TERMINAL:
                yield Anomaly(
                    promises.T3,
                    f"relay({run!r}) returned events after the terminal event {terminal[0]}",
                    (relay,),
                    "ended-twice",
                    also=(promises.C6,),
                    expected=f"no event after {terminal[0]}",
                    observed=f"events {names}",
                )
        if len(ends) > 1:
            yield _second_end(run, sorted(ends), tuple(ends.values()))
        yield from _open_or_cut(view, run, relays)


def _second_end(run: str, terminal: list[str], evidence: tuple[Operation, ...]) -> Anomaly:
    return Anomaly(
        promises.T3,
        f"relay({run!r}) returned {len(terminal)} terminal events",
        evidence,
        "ended-twice",
        expected="one terminal event, the same for all readers",
        observed=f"terminal events {terminal}",
    )


def _open_or_cut(view: ClientHistory, run: str, relays: list[Operation]) -> Iterator[Anomaly]:
    """A stream closed before its terminal event without a fault, or left open after it (C6)."""
    for relay in relays:
        names = [name for _, name, _ in relay.result["rows"]]
        is_ended = any(name in TERMINAL for name in names)
        if is_ended and relay.result["end"] == "open":
            yield Anomaly(
                promises.C6,
                f"relay({run!r}) stayed open after its terminal event",
                (relay,),
                "never-closed",
                expected="the server closes the connection after the terminal event",
                observed=f"events {names}, then an open connection",
            )
        elif relay.result["end"] == "closed" and not is_ended:
            sent = view.runs.get(run)
            deaths = [op for op in view.deaths_since(relay) if not relay.precedes(op)]
            is_disturbed = deaths or view.is_refused_since(sent or relay)
            if not is_disturbed and not _was_at_end(relays, relay):
                yield Anomaly(
                    promises.C6,
                    f"relay({run!r}) was closed before its terminal event",
                    (relay,),
                    "closed-too-soon",
                    also=(promises.T3,),
                    expected="a terminal event before the connection is closed",
                    observed=f"events {names}, then the end of the connection",
                )


def _was_at_end(relays: list[Operation], relay: Operation) -> bool:
    """Whether the reader's cursor was at the terminal event already."""
    after = relay.argument["after"]
    ends = {id_ for read in relays for id_, name, _ in read.result["rows"] if name in TERMINAL}
    return after in ends


def _contradicted_ends(view: ClientHistory) -> Iterator[Anomaly]:
    """A run that streamed one end, while its stored turn is marked with another (T3)."""
    for run, relays in view.relays.items():
        sent = view.runs.get(run)
        read = view.final.get(sent.argument["session"]) if sent else None
        if sent is None or read is None:
            continue
        for relay in relays:
            names = {name for _, name, _ in relay.result["rows"]}
            marks = {mark for _, text, mark in rows(read) if text == sent.argument["text"]} - {""}
            if "stream_end" in names and marks:
                yield Anomaly(
                    promises.T3,
                    f"relay({run!r}) ended as done, and its turn is stored as {min(marks)}",
                    (sent, relay, read),
                    "two-ends",
                    also=(promises.S13,),
                    expected="no mark on a turn whose stream ended with stream_end",
                    observed=f"marks {sorted(marks)}",
                )


def _wrong_identities(view: ClientHistory) -> Iterator[Anomaly]:
    """A tool call that observed another session as its own (T7)."""
    for run, relays in view.relays.items():
        sent = view.runs.get(run)
        for relay in relays:
            for _, name, text in relay.result["rows"]:
                if sent and name == "tool_complete" and text != sent.argument["session"]:
                    session = sent.argument["session"]
                    yield Anomaly(
                        promises.T7,
                        f"a tool call in a turn of {session} ran as session {text}",
                        (sent, relay),
                        "mistaken-identity",
                        expected=f"the tool's answer names {session}",
                        observed=f"the tool's answer names {text}",
                    )


def _misnumbered_notices(view: ClientHistory) -> Iterator[Anomaly]:
    """A session's notices whose numbers do not continue from the cursor (C1 to C4)."""
    for watch in view.done("watch"):
        yield from _misnumbered(watch, None)


def _foreign_notices(view: ClientHistory) -> Iterator[Anomaly]:
    """A notice of another session (C5, W7)."""
    for watch in view.done("watch"):
        session = watch.argument["session"]
        for _, name, owner, content, _ in watch.result["rows"]:
            if owner != session:
                yield Anomaly(
                    promises.C5,
                    f"watch({session!r}) returned a notice of session {owner}",
                    (watch,),
                    "foreign-notice",
                    also=(promises.W7,),
                    expected=f"notices of {session} only",
                    observed=f"{name} {content!r} of {owner}",
                )


RULES: tuple[Rule, ...] = (
    _foreign_notices,
    _misnumbered_runs,
    _misnumbered_notices,
    _inconsistent,
    _endings,
    _contradicted_ends,
    _wrong_identities,
)
