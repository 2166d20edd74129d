"""Makes the operations that prove an anomaly few: first by the names in them, then one by one."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.core import history
from harness.core.checker import Checker
from harness.core.errors import HarnessError, UsageError
from harness.core.history import History, Journal, Operation
from harness.core.verdict import Anomaly
from harness.engine.context import Context

LONG = 12  # operations: a proof with more is minimized
NAMING = frozenset(
    {"name", "session", "session_id", "run", "stream", "stream_id", "task", "task_id"}
)
_PLACEHOLDER = re.compile(r"<\w+>")
# Asks some operations of a proof again; the anomaly if the promise still breaks.
Ask = Callable[[Sequence[Operation]], Anomaly | None]


@dataclass(frozen=True)
class WalkMinimizer:
    """Journals an episode with few of the operations of a proof, if they break the promise as well.

    For the proofs of one client that asks one call after another, until `ends_at`, a value of
    `time.monotonic`. A part that breaks more than the `known` signatures counts as none: what it
    lacks may be why.
    """

    context: Context
    checker: Checker
    known: AbstractSet[str]
    ends_at: float

    def minimize(self, anomaly: Anomaly) -> None:
        """Leave out what is about other sessions and runs, then what is not needed.

        A walk that breaks the promise only with all of it stays as it is.
        """
        ask = partial(self._ask, anomaly.signature)
        fewer = (part for part in parts(anomaly.evidence) if len(part) < len(anomaly.evidence))
        found = next(filter(None, map(ask, fewer)), None)
        if found is None:
            return
        self.context.journal.episode()
        for operation in fewest(ask, found, self.ends_at).evidence:
            self.context.journal.record(operation)

    def _ask(self, sought: str, calls: Sequence[Operation]) -> Anomaly | None:
        """Repeat the calls on a fresh instance; the first anomaly with the sought signature."""
        try:
            with unrecorded(self.context) as tries:
                self._perform(tries, calls)
                (episode,) = history.read(tries.journal.path)
            found = next(
                (a for a in self.checker(episode).anomalies if a.signature == sought), None
            )
            if found is None:
                return None
            proof = replace(episode, operations=tuple(found.evidence))
            signatures = {anomaly.signature for anomaly in self.checker(proof).anomalies}
        except (HarnessError, LookupError, TypeError, ValueError):
            return None  # a part that the target or the checker cannot make sense of
        return found if sought in signatures and signatures <= self.known else None

    def _perform(self, tries: Context, calls: Sequence[Operation]) -> None:
        """Repeat the calls on a fresh instance, as far as they are possible, and there is time."""
        with tries.part() as episode, suppress(UsageError):
            for operation in calls:
                if time.monotonic() > self.ends_at:
                    break
                episode.client.ask(operation.function, operation.argument)


def is_walk(anomaly: Anomaly, episode: History) -> bool:
    """Whether the proof is a long one of one client, in an episode that its calls repeat."""
    is_sequential = all(operation.process == 0 for operation in anomaly.evidence)
    return is_sequential and len(anomaly.evidence) > LONG and not episode.notes


def parts(walk: Sequence[Operation]) -> Iterator[tuple[Operation, ...]]:
    """The operations about what the last one is about, or related to it; the fewest first.

    The first part has none that names nothing, but for the very first one, such as a boot; the
    second one has those too.
    """
    *earlier, last = walk
    wanted = set(names(last))
    kept = []
    for operation in reversed(earlier):
        if named := names(operation):
            if not named & wanted:
                continue
            wanted |= named
        kept.append(operation)
    kept.reverse()
    yield (*(op for op in kept if names(op) or op is walk[0]), last)
    yield (*kept, last)


def names(operation: Operation) -> frozenset[str]:
    """The sessions, runs and tasks that an operation's argument names."""
    return frozenset(_names(operation.argument))


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in NAMING and isinstance(item, str) and item:
                yield item
            yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, str):
        yield from _PLACEHOLDER.findall(value)


def fewest(ask: Ask, anomaly: Anomaly, ends_at: float) -> Anomaly:
    """Remove operations, one at a time, while the promise breaks; the anomaly with what remains.

    This is delta debugging with subsets of one (Zeller and Hildebrandt, "Simplifying and Isolating
    Failure-Inducing Input", TSE 2002). Without the removed operation another one may hang, so the
    search ends at `ends_at`, a value of `time.monotonic`.
    """
    smaller: Anomaly | None = anomaly
    while smaller is not None:
        anomaly = smaller
        smaller = _smaller(ask, anomaly, ends_at)
    return anomaly


def _smaller(ask: Ask, anomaly: Anomaly, ends_at: float) -> Anomaly | None:
    """The same anomaly with fewer operations, removed from the end; None if all are needed."""
    smallest, index = anomaly, len(anomaly.evidence) - 1
    while index > 0 and time.monotonic() < ends_at:
        index -= 1
        evidence = smallest.evidence
        found = ask((*evidence[:index], *evidence[index + 1 :]))
        if found is not None:
            smallest, index = found, min(index, len(found.evidence) - 1)
    return None if smallest is anomaly else smallest


@contextmanager
def unrecorded(context: Context) -> Iterator[Context]:
    """The same context with a journal of its own, which is thrown away: tries are no evidence."""
    with (
        tempfile.TemporaryDirectory(prefix="harness-") as folder,
        Journal(Path(folder) / "tries.jsonl", time.monotonic_ns) as journal,
    ):
        yield replace(context, journal=journal)
