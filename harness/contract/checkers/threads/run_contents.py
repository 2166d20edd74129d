"""Checks that what is stored of a run is what was shown of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from harness.contract import promises
from harness.contract.checkers.threads.run_facts import (
    CHANGES,
    ENDS,
    FAILING,
    OK,
    UNTIL_CANCELLED,
    accepted_starts,
    of_run,
    run_of,
    wrong,
)
from harness.core.history import History, Operation
from harness.core.verdict import Anomaly

REMOVALS = ("clear", "delete")
BETWEEN = ", "  # the requests that a summary names


def journalled(history: History) -> Iterator[Anomaly]:
    """A turn whose state in the journal does not fit the end of its run."""
    for settle in history.happened.of("settle"):
        for start in accepted_starts(history):
            run, script = run_of(start), start.argument["script"]
            events = [op.argument["event"] for op in of_run(history, "terminal", run)]
            allowed = {"completed" if events == ENDS["done"] else "interrupted"}
            if events == ENDS["cancelled"] and script not in (*UNTIL_CANCELLED, *FAILING):
                allowed.add("completed")  # it may have been saved just before it was cancelled
            observed = settle.result["turns"].get(run)
            if observed not in allowed:
                yield wrong(
                    promises.T3,
                    "journal",
                    f"run {run} ended by {events}, and the journal of turns has {observed!r}",
                    (start, *of_run(history, "terminal", run), settle),
                    " or ".join(sorted(allowed)),
                    observed,
                )


def summarized(history: History) -> Iterator[Anomaly]:
    """A summary of what was removed, one that a refused call left, or one that is missing.

    A compress is one step: it happens before or after each other change, or it is refused.
    """
    compresses = history.of("compress")
    for furnished, settle in product(history.of("furnish"), history.happened.of("settle")):
        session, runs = furnished.argument["session"], furnished.argument["runs"]
        rows = settle.result["sessions"].get(session, {"rows": []})["rows"]
        done = [op for op in compresses if op.result == OK]
        removals = [op for op in history if op.function in REMOVALS]
        kept = [f"{run} talk" for run in runs[:-1]]
        found = [row[:2] for row in rows if not {*kept}.isdisjoint(row[1].split(BETWEEN))]
        turns, summary = [["user", text] for text in kept], ["system", BETWEEN.join(kept)]
        wanted = [] if removals else [summary] if done else turns
        if found != wanted:
            yield wrong(
                promises.S6 if removals or done else promises.S10,
                "summary",
                "the turns of a session and their summary fit no order of the calls",
                (*compresses, *removals, settle),
                f"{wanted}",
                rows,
                promises.S2,
                promises.S14,
            )


def unsummarized(history: History) -> Iterator[Anomaly]:
    """A compress that was refused although no other change met it."""
    for compress in history.of("compress"):
        others = [op for op in history if op.function in CHANGES and not compress.precedes(op)]
        if compress.result != OK and not others:
            yield wrong(
                promises.S10,
                "needless-refusal",
                f"{compress.call} was refused without a reason",
                (compress,),
                f"{OK}",
                compress.answer,
                promises.T9,
            )


def wrongly_stored(history: History) -> Iterator[Anomaly]:
    """A turn that is missing, there twice, or marked wrongly; a removed one that is back."""
    removals = [op for op in history if op.function in REMOVALS]
    for settle in history.happened.of("settle"):
        for start in accepted_starts(history):
            run, session = run_of(start), start.argument["session"]
            found = settle.result["sessions"].get(session, {"rows": []})
            text = f"{run} {start.argument['script']}"
            at = [index for index, row in enumerate(found["rows"]) if row[:2] == ["user", text]]
            if not at and _is_summarized(history, start, found["rows"]):
                continue
            own = [op for op in removals if op.argument["session"] == session]
            is_safe = all(op.precedes(start) for op in own)
            over = of_run(history, "ended", run)
            is_removed = any(op.precedes(removal) for op in over for removal in own)
            if (is_safe and len(at) != 1) or len(at) > 1 or (is_removed and at):
                kept = "S6" if is_removed else "S2"
                yield wrong(
                    promises.S6 if is_removed else promises.S2,
                    "messages",
                    f"the message of run {run} is there {len(at)} times",
                    (start, *own, settle),
                    f"{0 if is_removed else 1} times ({kept})",
                    found["rows"],
                    promises.T3,
                )
            elif at:
                yield from _replied(history, start, found["rows"][at[0] :], settle)
            if start.result["stored"] is not True and not own:
                yield wrong(
                    promises.T2,
                    "unsaved",
                    f"{start.call} was acknowledged before its message was stored",
                    (start,),
                    "a stored message",
                    start.result,
                )


def _is_summarized(history: History, start: Operation, rows: list[list[str]]) -> bool:
    """Whether the turn of a start is in a summary, which was made after it began."""
    text = f"{run_of(start)} {start.argument['script']}"
    named = [row for row in rows if row[0] == "system" and text in row[1].split(BETWEEN)]
    done = [op for op in history.of("compress") if op.result == OK and not op.precedes(start)]
    return len(named) == 1 and bool(done)


def _replied(
    history: History, start: Operation, rows: list[list[str]], settle: Operation
) -> Iterator[Anomaly]:
    """Judge the rows of one turn: its message, and at most one reply, which has what was shown."""
    run = run_of(start)
    replies = []
    for row in rows[1:]:
        if row[0] != "assistant":
            break
        replies.append(row)
    events = [op.argument["event"] for op in of_run(history, "terminal", run)]
    shown = "".join(op.argument["text"] for op in of_run(history, "token", run))
    marks = {"cancel": "cancelled", "apperror": "error"}
    mark = marks.get(events[0], "") if events else ""
    possible = {mark}
    if mark == "cancelled" and start.argument["script"] not in UNTIL_CANCELLED:
        # It may have been saved just before it was cancelled.
        possible.add("error" if start.argument["script"] in FAILING else "")
    wanted = []
    for ending in sorted(possible):
        reply = [["assistant", shown, ending]] if shown or ending != "cancelled" else []
        wanted.append([[*rows[0][:2], "cancelled" if ending == "cancelled" else ""], *reply])
    if [rows[0], *replies] not in wanted:
        yield wrong(
            promises.T4 if mark == "cancelled" else promises.T3,
            "reply",
            f"run {run} ended by {events[:1]}, and its turn is stored otherwise",
            (start, *of_run(history, "token", run), settle),
            " or ".join(map(str, wanted)),
            rows,
            promises.T3,
            promises.S2,
            promises.S14,
        )
