"""Checks that the file holds what was acknowledged, in order, after all writers have left.

For writers that append unique texts, each to any session, one after another. The history ends with
an `inspect`, the `messages` of every session and a `search` by a process that started when all was
quiet. Every checker of concurrent writers includes this one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from harness.contract import promises
from harness.contract.checkers.state_db.append_durability import append_anomalies
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict


def check_database_content(history: History) -> Verdict:
    """Judge D1 and D2 by the last reads and the last inspection."""
    reads = _last_reads(history)
    inspections = history.happened.of("inspect")
    missing = [] if reads and inspections else ["no quiet inspection and reads of the file"]
    found = [*append_anomalies(history, reads), *_out_of_order(history, reads)]
    if inspections:
        found += _unsound(inspections[-1])
    searches = history.happened.of("search")
    if searches:
        found += _index_drift(searches[-1], reads)
    return Verdict(tuple(found), unknowns=tuple(missing))


def _last_reads(history: History) -> dict[str, Operation]:
    reads = history.happened.of("messages")
    return {op.argument["session"]: op for op in reads}


def _out_of_order(history: History, reads: dict[str, Operation]) -> Iterator[Anomaly]:
    """Two appends of one process, the first acknowledged before the second began, swapped (D1)."""
    positions = {
        text: (session, position)
        for session, read in reads.items()
        for position, (_, text) in enumerate(read.result)
    }
    by_writer: defaultdict[tuple[int, str], list[Operation]] = defaultdict(list)
    for op in history:
        if op.function == "append" and op.argument["text"] in positions:
            by_writer[op.process, op.argument["session"]].append(op)
    for (process, session), appends in by_writer.items():
        for one, other in pairwise(appends):
            first, second = one.argument["text"], other.argument["text"]
            if one.outcome is Outcome.OK and positions[first] > positions[second]:
                yield Anomaly(
                    promises.D1,
                    f"messages({session!r}) returned two appends of process {process} swapped",
                    (one, other, reads[session]),
                    "out-of-order",
                    expected=f"{first!r} before {second!r}, as they were appended",
                    observed=f"{second!r} before {first!r}",
                )


def _unsound(inspection: Operation) -> Iterator[Anomaly]:
    found = inspection.result
    if found["integrity"] != "ok":
        yield Anomaly(
            promises.D1,
            "inspect() found a damaged file: SQLite's integrity check failed",
            (inspection,),
            "unsound",
            expected="integrity ok",
            observed=f"{found['integrity']}",
        )
    if found["full_text"] != "ok":
        yield Anomaly(
            promises.D2,
            "inspect() found a full-text index that differs from the messages",
            (inspection,),
            "index-drift",
            expected="full-text check ok",
            observed=f"{found['full_text']}",
        )
    for session, count, rows in found["drift"]:
        yield Anomaly(
            promises.D2,
            f"inspect() found that the message count of {session} differs from its rows",
            (inspection,),
            "drift",
            expected=f"count {rows}",
            observed=f"count {count}",
        )


def _index_drift(search: Operation, reads: dict[str, Operation]) -> Iterator[Anomaly]:
    """A message with the word that is not found, or one that is found and is not there (D2)."""
    word = search.argument["word"]
    stored = {
        (session, text)
        for session, read in reads.items()
        for _, text in read.result
        if word in text.split()
    }
    found = {(session, text) for session, text in search.result}
    if stored != found:
        session, text = min(stored ^ found)
        is_missed = (session, text) in stored
        yield Anomaly(
            promises.D2,
            f"search({word!r}) and messages({session!r}) disagree on {text!r}",
            (reads[session], search),
            "index-drift",
            expected=f"{text!r} {'found: it is stored' if is_missed else 'not found'}",
            observed=f"{text!r} {'not found' if is_missed else 'found: it is not stored'}",
        )
