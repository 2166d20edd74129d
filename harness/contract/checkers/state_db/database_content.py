"""Kept: after a crowd has gone, the file holds what was acknowledged, in order, and is sound.

For writers that append unique texts, each to any session, one after another. The history ends with
`inspect`, the `messages` of every session and a `search`, by one who came when all was quiet. Every
checker of crowds that write includes this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from harness.contract.checkers.state_db.append_durability import appends_are_there
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict


def all_is_kept(history: History) -> Verdict:
    """Judge D1 and D2 by the last reads and the last inspection."""
    reads = _last_reads(history)
    inspections = [op for op in history.happened if op.function == "inspect"]
    missing = [] if reads and inspections else ["nobody looked at the file at last"]
    found = [*appends_are_there(history, reads), *_out_of_order(history, reads)]
    if inspections:
        found += _unsound(inspections[-1])
    searches = [op for op in history.happened if op.function == "search"]
    if searches:
        found += _unfound(searches[-1], reads)
    return Verdict(tuple(found), unknowns=tuple(missing))


def _last_reads(history: History) -> dict[str, Operation]:
    reads = (op for op in history.happened if op.function == "messages")
    return {op.argument["session"]: op for op in reads}


def _out_of_order(history: History, reads: dict[str, Operation]) -> Iterator[Anomaly]:
    """Two appends of one process, the first acknowledged before the second began, swapped (D1)."""
    places = {
        text: (session, place)
        for session, read in reads.items()
        for place, (_, text) in enumerate(read.result)
    }
    by_writer: defaultdict[tuple[int, str], list[Operation]] = defaultdict(list)
    for op in history:
        if op.function == "append" and op.argument["text"] in places:
            by_writer[op.process, op.argument["session"]].append(op)
    for (_, session), appends in by_writer.items():
        for one, other in pairwise(appends):
            there = places[one.argument["text"]], places[other.argument["text"]]
            if one.outcome is Outcome.OK and there[0] > there[1]:
                message = f"{session} has two messages of one process in the wrong order"
                yield Anomaly(Promise.D1, message, (one, other, reads[session]), "out-of-order")


def _unsound(inspection: Operation) -> Iterator[Anomaly]:
    found = inspection.result
    if found["integrity"] != "ok":
        message = f"SQLite's own check of the file says: {found['integrity']}"
        yield Anomaly(Promise.D1, message, (inspection,), "unsound")
    if found["full_text"] != "ok":
        message = f"the full-text index is not that of the messages: {found['full_text']}"
        yield Anomaly(Promise.D2, message, (inspection,), "index-drift")
    for session, count, rows in found["drift"]:
        message = f"{session} is said to have {count} messages, and has {rows}"
        yield Anomaly(Promise.D2, message, (inspection,), "drift")


def _unfound(search: Operation, reads: dict[str, Operation]) -> Iterator[Anomaly]:
    """A message with the word that is not found, or one that is found and is not there (D2)."""
    word = search.argument["word"]
    there = {
        (session, text)
        for session, read in reads.items()
        for _, text in read.result
        if word in text.split()
    }
    found = {(session, text) for session, text in search.result}
    if there != found:
        session, text = min(there ^ found)
        fault = "is there and not found" if (session, text) in there else "is found and not there"
        message = f"{text!r} of {session} {fault} when {word!r} is searched for"
        yield Anomaly(Promise.D2, message, (reads[session], search), "index-drift")
