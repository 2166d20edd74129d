"""Streamed: what readers were shown of runs and sessions is in order, once, without a gap, theirs.

For visits whose readers come, go, stall, and come back with cursors of their own or of others. Two
readers of a run must have been shown the same; a run ends once, and for everybody in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harness.contract.checkers.server.client_history import TERMINAL, Visits, rows
from harness.core.history import Operation
from harness.core.promises import Promise
from harness.core.verdict import Anomaly

Rule = Callable[[Visits], Iterable[Anomaly]]
SNAPSHOT = "session_snapshot"


def streams_are_true(visits: Visits) -> Iterator[Anomaly]:
    """Whatever is wrong with what was shown, the root of it first."""
    for rule in RULES:
        yield from rule(visits)


def _numbered(id_: str) -> tuple[str, int]:
    stream, _, seq = id_.rpartition(":")
    return stream, int(seq) if seq.isdigit() else 0


def _misnumbered_runs(visits: Visits) -> Iterator[Anomaly]:
    """A run's events that are not numbered on from where the reader was (C1 to C5)."""
    for run, relays in visits.relays.items():
        for relay in relays:
            yield from _misnumbered(relay, run)


def _misnumbered(read: Operation, stream: str | None) -> Iterator[Anomaly]:
    """Judge one reader's ids. A run's begin with 1; a session's notices, wherever they begin."""
    last = None if stream is None else 0
    is_foreign = False
    if (after := read.argument["after"]) is not None:
        known, seq = _numbered(after)
        is_foreign = stream not in (None, known)
        stream, last = (stream, last) if is_foreign else (known, seq)
    seen: set[int] = set()
    for id_, name, *_ in read.result["rows"]:
        if name == SNAPSHOT:
            is_foreign = False
            stream, last = _numbered(id_) if id_ else (stream, last)
        elif id_:
            its, seq = _numbered(id_)
            if is_foreign or (its != stream and stream is not None):
                broken = Promise.C5 if after is None or seen else Promise.C4
                message = f"{id_} came to a reader of {stream} after {after}"
                yield Anomaly(broken, message, (read,), "foreign-event")
                return
            promise, message = _breach(seq, last, seen)
            if promise is not None:
                yield Anomaly(promise, f"{message}: {id_}", (read,), "misnumbered")
                return
            stream, last = its, seq
            seen.add(seq)
    if is_foreign and read.result["end"] == "closed":
        message = f"{after} is another's cursor, and was answered with silence"
        yield Anomaly(Promise.C4, message, (read,), "no-snapshot")


def _breach(seq: int, last: int | None, seen: set[int]) -> tuple[Promise | None, str]:
    """Which promise a number breaks, after the last one and those seen before."""
    if last is None or seq == last + 1:
        return None, ""
    if seq in seen:
        return Promise.C2, "an event came twice"
    if last and not seen:
        return Promise.C4, f"the cursor was at {last}"
    if seq < last:
        return Promise.C1, f"the last one was {last}"
    return Promise.C3, f"there is a gap after {last}"


def _told_differently(visits: Visits) -> Iterator[Anomaly]:
    """An event that two readers were shown in two ways (C2)."""
    for relays in visits.relays.values():
        told: dict[str, tuple[str, str, Operation]] = {}
        for relay in relays:
            for id_, name, text in relay.result["rows"]:
                if not id_ or name == SNAPSHOT:
                    continue
                one, other, before = told.setdefault(id_, (name, text, relay))
                if (one, other) != (name, text):
                    message = f"{id_} is {one} {other!r} to one, and {name} {text!r} to another"
                    yield Anomaly(Promise.C2, message, (before, relay), "told-differently")
                    return


def _endings(visits: Visits) -> Iterator[Anomaly]:
    """A run with two ends, or with more after its end (T3); a relay without one (C6)."""
    for run, relays in visits.relays.items():
        ends: dict[str, Operation] = {}
        for relay in relays:
            names = [name for _, name, _ in relay.result["rows"]]
            terminal = [name for name in names if name in TERMINAL]
            ends |= dict.fromkeys(terminal, relay)
            if len(terminal) > 1:
                message = f"{run} ended with {terminal}"
                yield Anomaly(Promise.T3, message, (relay,), "ended-twice")
            elif terminal and names[-1] not in TERMINAL:
                message = f"{run} went on after its end: {names}"
                yield Anomaly(Promise.T3, message, (relay,), "ended-twice", also=(Promise.C6,))
        if len(ends) > 1:
            message = f"{run} ended with {sorted(ends)}"
            yield Anomaly(Promise.T3, message, tuple(ends.values()), "ended-twice")
        yield from _endless(visits, run, relays)


def _endless(visits: Visits, run: str, relays: list[Operation]) -> Iterator[Anomaly]:
    """A relay that was closed before the end, or not even after it, though nothing befell it."""
    for relay in relays:
        names = [name for _, name, _ in relay.result["rows"]]
        is_ended = any(name in TERMINAL for name in names)
        if is_ended and relay.result["end"] == "open":
            message = f"the relay of {run} stays open after its end"
            yield Anomaly(Promise.C6, message, (relay,), "never-closed")
        elif relay.result["end"] == "closed" and not is_ended:
            sent = visits.runs.get(run)
            deaths = [op for op in visits.deaths_since(relay) if not relay.precedes(op)]
            is_struck = deaths or visits.is_refused_since(sent or relay)
            if not is_struck and not _was_at_end(relays, relay):
                message = f"the relay of {run} was closed before its end"
                yield Anomaly(Promise.C6, message, (relay,), "closed-too-soon", also=(Promise.T3,))


def _was_at_end(relays: list[Operation], relay: Operation) -> bool:
    """Whether the reader had seen the end before, and came back after it."""
    after = relay.argument["after"]
    ends = {id_ for each in relays for id_, name, _ in each.result["rows"] if name in TERMINAL}
    return after in ends


def _ended_otherwise(visits: Visits) -> Iterator[Anomaly]:
    """A run that showed one end, and whose turn is marked with another (T3)."""
    for run, relays in visits.relays.items():
        sent = visits.runs.get(run)
        read = visits.final.get(sent.argument["session"]) if sent else None
        if sent is None or read is None:
            continue
        for relay in relays:
            names = {name for _, name, _ in relay.result["rows"]}
            marks = {mark for _, text, mark in rows(read) if text == sent.argument["text"]} - {""}
            if "stream_end" in names and marks:
                message = f"{run} was done, and its turn is marked as {min(marks)}"
                evidence = (sent, relay, read)
                yield Anomaly(Promise.T3, message, evidence, "two-ends", also=(Promise.S13,))


def _mistaken(visits: Visits) -> Iterator[Anomaly]:
    """A tool that took its turn for another session's (T7)."""
    for run, relays in visits.relays.items():
        sent = visits.runs.get(run)
        for relay in relays:
            for _, name, text in relay.result["rows"]:
                if sent and name == "tool_complete" and text != sent.argument["session"]:
                    message = f"a turn of {sent.argument['session']} took itself for {text}'s"
                    evidence = (sent, relay)
                    yield Anomaly(Promise.T7, message, evidence, "mistaken-identity")


def _misnumbered_notices(visits: Visits) -> Iterator[Anomaly]:
    """A session's notices that are not numbered on from where the watcher was (C1 to C4)."""
    for watch in visits.done("watch"):
        yield from _misnumbered(watch, None)


def _foreign_notices(visits: Visits) -> Iterator[Anomaly]:
    """A notice of another session (C5, W7)."""
    for watch in visits.done("watch"):
        session = watch.argument["session"]
        for _, name, its, what, _ in watch.result["rows"]:
            if its != session:
                message = f"who watches {session} was told of {its}: {name} {what}"
                yield Anomaly(Promise.C5, message, (watch,), "foreign-notice", also=(Promise.W7,))


RULES: tuple[Rule, ...] = (
    _foreign_notices,
    _misnumbered_runs,
    _misnumbered_notices,
    _told_differently,
    _endings,
    _ended_otherwise,
    _mistaken,
)
