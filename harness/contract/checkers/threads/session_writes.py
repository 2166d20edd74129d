"""Checks that what threads wrote into one session is stored when all is quiet, and nothing else.

For histories that end with a quiet `messages` and `active`. An acknowledged write is observed; a
refused save is not; one of unknown outcome may be either. No text is written twice. A `clear` or
`delete` removes what was written before it, and may remove what it meets. Each of LISTS counts the
messages of the session as they were at some moment during the call, each `counted` those of the row
in memory likewise, and a quiet `held` has each session that has a run. A quiet `copies` has the
same in the sidecar of a server's session and in its state database.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

from harness.contract import promises
from harness.core.checker import first_of
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

WRITES = ("append", "save_copy")
REMOVALS = ("clear", "delete")
DELETES = ("delete", "copied_delete")
LISTS = ("listed", "listed_elsewhere")
READS = ("messages", "active", "copies", "counted", "held", *LISTS)
_REFUSED_BREAKS = {"new": promises.S11, "cleanup": promises.S7, "delete": promises.S6}


def check_session_writes(history: History) -> Verdict:
    """Judge the last reads against the writes before them."""
    return first_of(_anomalies)(history)


def _anomalies(history: History) -> Iterator[Anomaly]:
    for read in history:
        if read.function in ("messages", "active") and read.outcome is Outcome.FAIL:
            yield Anomaly(
                promises.S1,
                f"{read.call} cannot read the session",
                (read,),
                "unreadable",
                expected="the content of the session",
                observed=read.answer,
            )
        if read.function == "messages" and read.outcome is Outcome.OK:
            yield from _lost_or_stray(history, read)
            yield from _out_of_order(history, read)
        if read.function in LISTS:
            yield from _wrong_list(history, read)
        if read.function == "counted":
            yield from _wrong_count(history, read)
        if read.function == "active" and read.outcome is Outcome.OK:
            yield from _wrong_mark(history, read)
        if read.function == "held":
            yield from _dropped(history, read)
        if read.function == "copies":
            yield from _unlike(history, read)
    yield from _needless_refusals(history)


def _lost_or_stray(history: History, read: Operation) -> Iterator[Anomaly]:
    """A lost write (S9 where a copy was saved over it, else S2), or a stray one (S1, S10)."""
    stored: Counter[str] = Counter(read.result)  # of a deleted session, which is None, nothing
    yield from _kept(history, read)
    for text in stored.keys() - {op.argument["text"] for op in history if op.function in WRITES}:
        yield Anomaly(
            promises.S1,
            f"messages() returned {text!r}, which no thread wrote",
            (read,),
            "stray-write",
            expected="written texts only",
            observed=f"{text!r}",
        )
    copies = history.happened.of("save_copy")
    for write in (op for op in history if op.function in WRITES):
        text = write.argument["text"]
        times = stored[text]
        may_be_gone = any(not op.precedes(write) for op in _removals(history, read))
        if write.outcome is Outcome.OK and write.precedes(read) and not times and not may_be_gone:
            over = [copy for copy in copies if copy is not write and copy.meets(write)]
            yield Anomaly(
                promises.S9 if over else promises.S2,
                f"{write.function}({text!r}) was acknowledged, and messages() lacks it",
                (write, *over, read),
                "lost-write",
                expected=f"{text!r} once",
                observed=f"{read.result}",
                also=(promises.S15,),
            )
        if write.outcome is Outcome.FAIL and times:
            yield Anomaly(
                promises.S10,
                f"{write.function}({text!r}) was refused, and messages() returned it",
                (write, read),
                "refused-write",
                expected=f"no {text!r}",
                observed=f"{read.result}",
            )
        if times > 1:
            yield Anomaly(
                promises.S1,
                f"{write.function}({text!r}) was called once, and is stored {times} times",
                (write, read),
                "doubled-write",
                expected=f"{text!r} once",
                observed=f"{read.result}",
            )


def _needless_refusals(history: History) -> Iterator[Anomaly]:
    """A call that was refused, though no session was removed, and no copy became stale."""
    for op in history:
        if op.outcome is not Outcome.FAIL or op.function in READS:
            continue
        others = [other for other in history.happened if other is not op]
        is_gone = any(one.function in DELETES and not op.precedes(one) for one in others)
        rivals = [one for one in others if one.meets(op) and one.function not in READS]
        if not is_gone and not (op.function == "save_copy" and rivals):
            yield Anomaly(
                _REFUSED_BREAKS.get(op.function, promises.S2),
                f"{op.call} was refused without a reason",
                (op,),
                "needless-refusal",
                expected="the call happens",
                observed=op.answer,
                also=(promises.S10,),
            )


def _out_of_order(history: History, read: Operation) -> Iterator[Anomaly]:
    """Texts that are stored in another order than that of their writes (S1)."""
    places = {text: at for at, text in enumerate(read.result or ())}
    writes = [op for op in history.happened if op.function in WRITES]
    writes = [op for op in writes if op.argument["text"] in places]
    for one, other in itertools.permutations(writes, 2):
        first, second = one.argument["text"], other.argument["text"]
        if one.precedes(other) and places[first] > places[second]:
            yield Anomaly(
                promises.S1,
                f"messages() returned {second!r} before {first!r}, which was written earlier",
                (one, other, read),
                "out-of-order",
                expected=f"{first!r} before {second!r}",
                observed=f"{read.result}",
            )


def _removals(history: History, read: Operation) -> list[Operation]:
    """The removals that may have happened before the read ended."""
    return [op for op in history.happened if op.function in REMOVALS and not read.precedes(op)]


def _kept(history: History, read: Operation) -> Iterator[Anomaly]:
    """A text, or a session, that the user had removed before the read (S6)."""
    made = history.happened.of("new")
    for removal in _removals(history, read):
        if removal.outcome is not Outcome.OK or not removal.precedes(read):
            continue
        written = [op for op in history.happened if op.function in WRITES and op.precedes(removal)]
        back = {op.argument["text"] for op in written} & {*(read.result or ())}
        is_back = removal.function == "delete" and read.result is not None
        if back or (is_back and all(op.precedes(removal) for op in made)):
            yield Anomaly(
                promises.S6,
                f"{removal.call} was acknowledged, and messages() returned {read.result}",
                (removal, read),
                "removed-write",
                expected=f"none of {sorted(back)}" if back else "null",
                observed=f"{read.result}",
                also=(promises.S15,),
            )


def _wrong_list(history: History, read: Operation) -> Iterator[Anomaly]:
    """A list that lacks what was acknowledged before it was asked for (S15), or fails (S11)."""
    if read.outcome is not Outcome.OK:
        yield Anomaly(
            promises.S11,
            f"{read.call} cannot list the sessions",
            (read,),
            "unlisted",
            expected="the sessions",
            observed=read.answer,
        )
        return
    for sid in sorted({op.argument["session"] for op in history.of("new")}):
        yield from _wrong_row(history, read, sid)


def _wrong_row(history: History, read: Operation, sid: str) -> Iterator[Anomaly]:
    """A row with another number of messages than its session had at any moment of the call."""
    removals = [op for op in _removals(history, read) if _session(op) == sid]
    writes = [op for op in history.happened if op.function in WRITES and _session(op) == sid]
    done = [op for op in writes if op.outcome is Outcome.OK and op.precedes(read)]
    least = sum(all(removal.precedes(op) for removal in removals) for op in done)
    surely = [op for op in removals if op.outcome is Outcome.OK and op.precedes(read)]
    begun = [op for op in writes if not read.precedes(op)]
    most = sum(not any(op.precedes(removal) for removal in surely) for op in begun)
    is_gone = any(op.function == "delete" for op in surely)
    may_be_gone = any(op.function == "delete" for op in removals)
    count = read.result.get(sid)
    if count is None and may_be_gone:
        return
    if is_gone or count is None or not least <= count <= most:
        yield Anomaly(
            promises.S15,
            f"{read.call} is older than what was acknowledged before it",
            (*surely, *done, read),
            "old-list",
            expected=f"no {sid}" if is_gone else f"{sid} with {least} to {most} messages",
            observed=f"{read.result}",
            also=(promises.S11, promises.S6) if is_gone else (promises.S11,),
        )


def _session(op: Operation) -> str:
    session: str = op.argument["session"]
    return session


def _wrong_count(history: History, read: Operation) -> Iterator[Anomaly]:
    """A list of the row in memory that is older than its request (S15)."""
    changes = history.of("count_up")
    least = sum(change.precedes(read) for change in changes)
    most = sum(not read.precedes(change) for change in changes)
    if read.outcome is not Outcome.OK or not least <= read.result <= most:
        yield Anomaly(
            promises.S15,
            f"{read.call} is older than what was acknowledged before it",
            (*changes, read),
            "old-list",
            expected=f"{least} to {most} messages",
            observed=read.answer,
            also=(promises.S11,),
        )


def _dropped(history: History, read: Operation) -> Iterator[Anomaly]:
    """A session that has a run, and is not in memory (A6)."""
    for start in history.happened.of("start_run"):
        session = start.argument["session"]
        changes = [*history.of("cleanup"), *history.of("leave_behind"), *_removals(history, read)]
        is_later = all(change.precedes(start) for change in changes)
        is_held = read.outcome is Outcome.OK and session in read.result
        if start.outcome is Outcome.OK and start.precedes(read) and is_later and not is_held:
            yield Anomaly(
                promises.A6,
                f"{start.call} was acknowledged, and its session is no longer in memory",
                (start, read),
                "dropped-run",
                expected=f"{session!r} among those in memory",
                observed=read.answer,
            )


def _unlike(history: History, read: Operation) -> Iterator[Anomaly]:
    """Copies that differ, though every change was acknowledged (S14), or outlive a delete (S6)."""
    changes = [op for op in history.happened if op.function.startswith("copied_")]
    is_deleted = any(op.function == "copied_delete" for op in changes)
    found = read.result if read.outcome is Outcome.OK else {}
    if found and found["sidecar"] == found["database"] and is_deleted == (found["sidecar"] is None):
        return
    yield Anomaly(
        promises.S14,
        f"{read.call} differs between the sidecar and the database",
        (*changes, read),
        "unlike-copies",
        expected="no session" if is_deleted else "the same title and texts",
        observed=read.answer,
        also=(promises.S6,) if is_deleted else (),
    )


def _wrong_mark(history: History, read: Operation) -> Iterator[Anomaly]:
    """A registered run whose mark a cleanup removed, or a stale or foreign mark (S7)."""
    begun = [op for op in history if op.function == "start_run" and not read.precedes(op)]
    starts = [op for op in begun if op.outcome is Outcome.OK and op.precedes(read)]
    runs = [op.argument["stream"] for op in begun if op.outcome is not Outcome.FAIL]
    if starts and read.result not in runs:
        cleanups = history.of("cleanup")
        yield Anomaly(
            promises.S7,
            "active() does not return the run that is under way",
            (*starts, *cleanups, read),
            "clobbered-run",
            expected=f"one of {runs}",
            observed=f"{read.result!r}",
        )
    left = history.of("leave_behind")
    marks = [None, *runs, *(op.argument["stream"] for op in left)]
    if not starts and read.result not in marks:
        yield Anomaly(
            promises.S7,
            "active() returns a stream that no call marked",
            (read,),
            "foreign-mark",
            expected=f"one of {marks}",
            observed=f"{read.result!r}",
        )
    over = [op for op in history.of("cleanup") if op.precedes(read)]
    quiet = [op for op in over if all(mark.precedes(op) for mark in left)]
    if left and quiet and read.result not in (None, *runs):
        yield Anomaly(
            promises.S7,
            "active() returns a run that is not under way, after a cleanup",
            (*left, *quiet, read),
            "left-stale",
            expected=f"None, or one of {runs}",
            observed=f"{read.result!r}",
        )
