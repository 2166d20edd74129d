"""Checks that each end of a process is taken once, in order, and is consumed when it is marked.

For histories of `end`s by one thread and of `deliver`s by others, which take an event and mark it;
they end with a quiet `settle`. A `deliver` whose mark the disk refuses leaves its event to be
delivered, which a `look` sees at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

NOTHING = {"process": None, "before": None, "after": None}


def check_process_events(history: History) -> Verdict:
    """Judge a history of threads that ends quiet."""
    for anomaly in _anomalies(history):
        return Verdict(anomalies=(anomaly,))
    return Verdict()


def _wrong(
    promise: Promise, name: str, evidence: tuple[Operation, ...], expected: object, observed: object
) -> Anomaly:
    return Anomaly(
        promise,
        f"{evidence[0].call} of the process registry answered wrongly ({name})",
        evidence,
        name,
        also=(promises.W12,) if promise is promises.W1 else (),
        expected=f"{expected}",
        observed=f"{observed}",
    )


def _anomalies(history: History) -> Iterator[Anomaly]:
    yield from _plain(history)
    ends = history.of("end")
    delivers = history.of("deliver")
    known = [end.argument["process"] for end in ends]
    for deliver in delivers:
        process = deliver.result["process"]
        if process is None:
            if deliver.result != NOTHING:
                yield _wrong(promises.W1, "no event", (deliver,), NOTHING, deliver.result)
            continue
        begun = [end for end in ends if end.argument["process"] == process]
        if not begun or deliver.precedes(begun[0]):
            yield _wrong(promises.W1, "early", (deliver, *ends), "an end that happened", process)
            continue
        marked = {"before": False, "after": _marks(deliver)}
        if {name: deliver.result[name] for name in marked} != marked:
            is_lost = deliver.result["before"] is not False or _marks(deliver)
            broken = promises.W1 if is_lost else promises.W5
            yield _wrong(broken, "mark", (deliver, *begun), marked, deliver.result)
    taken = [op.result["process"] for op in delivers if op.result["process"] is not None]
    for quiet in history.of("settle"):
        evidence = (quiet, *ends, *delivers)
        found = sorted([*taken, *quiet.result["rest"]])
        if found != sorted(known):
            yield _wrong(promises.W1, "taken", evidence, sorted(known), found)
        yield from _ordered(known, delivers, quiet)
        refused = [op for op in delivers if not _marks(op)]
        kept = [op.result["process"] for op in refused if op.result["process"] is not None]
        owed = len(kept) + len(quiet.result["rest"])
        sizes = {"pending": owed, "ledger": owed, "finished": known, "notified": len(known)}
        if {name: quiet.result[name] for name in sizes} != sizes:
            yield _wrong(promises.W9, "left", evidence, sizes, quiet.result)
        yield from _consumed_early(history, set(kept))


def _marks(deliver: Operation) -> bool:
    """Whether the disk lets this call mark its event."""
    return bool((deliver.argument or {}).get("marks", True))


def _plain(history: History) -> Iterator[Anomaly]:
    for op in history:
        if op.outcome is not Outcome.OK or (op.function == "end" and op.result is not None):
            yield _wrong(promises.W1, "refused", (op,), "the call happens", op.answer)


def _ordered(
    known: list[str], delivers: tuple[Operation, ...], quiet: Operation
) -> Iterator[Anomaly]:
    """An event that was taken after a later one (W3)."""
    events = [op for op in delivers if op.result["process"] is not None]
    for one in events:
        for other in events:
            processes = [one.result["process"], other.result["process"]]
            if one.precedes(other) and known.index(processes[0]) > known.index(processes[1]):
                yield _wrong(promises.W3, "overtaken", (one, other), processes[::-1], processes)
    rest = quiet.result["rest"]
    wanted = [process for process in known if process in rest]
    first = min(map(known.index, wanted), default=len(known))
    late = [op for op in events if known.index(op.result["process"]) > first]
    if rest != wanted or late:
        overtaking = [op.result["process"] for op in late]
        yield _wrong(promises.W3, "rest", (quiet, *late), wanted, f"{rest}, behind {overtaking}")


def _consumed_early(history: History, kept: set[str]) -> Iterator[Anomaly]:
    """A look that finds an event consumed which was never delivered, or open after its mark."""
    for look in history.of("look"):
        process = look.argument["process"]
        marks = [op for op in history.of("deliver") if op.result["process"] == process]
        ends = [op for op in history.of("end") if op.argument["process"] == process]
        is_marked = any(op.precedes(look) for op in marks) and process not in kept
        is_open = any(op.precedes(look) for op in ends) and (
            process in kept or all(look.precedes(op) for op in marks)
        )
        if (is_marked and look.result is not True) or (is_open and look.result is not False):
            yield _wrong(promises.W5, "look", (look, *ends, *marks), is_marked, look.result)
