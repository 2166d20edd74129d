"""Checks that a sync covers every acknowledged write, and that a failed one is reported.

For writers that log every commit (`committed`, with its texts) and every sync of the write-ahead
log by any process (`synced`, whether it succeeded). What no sync covered is lost when the power
fails; and after a failed sync the system forgets what it could not write, so that a later sync of
the same process succeeds without having written it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.contract import promises
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

LOG = "-wal"


def check_power_loss(history: History) -> Verdict:
    """Judge D12 by every append, and D10 by those that failed without reason."""
    syncs = [op for op in history.happened.of("synced") if op.argument["file"].endswith(LOG)]
    commits = {text: op for op in history.happened.of("committed") for text in op.result}
    if not syncs or not commits:
        return Verdict(unknowns=("no sync or no commit was observed",))
    good = [op for op in syncs if op.result]
    failed = [op for op in syncs if not op.result]
    anomalies: list[Anomaly] = []
    unknowns: list[str] = []
    for op in history.of("append"):
        if op.outcome is Outcome.FAIL:
            anomalies += _without_reason(op, failed)
        elif op.outcome is Outcome.OK and (commit := commits.get(op.argument["text"])):
            anomalies += _uncovered(op, commit, good, failed)
        elif op.outcome is Outcome.OK and any(op.process == other.process for other in syncs):
            unknowns.append(f"no commit of {op.call} was observed")
    return Verdict(tuple(anomalies), unknowns=tuple(unknowns))


def with_doubts(history: History) -> History:
    """The history with each append that failed beside a failed sync as unknown: it may be there."""
    failed = [op for op in history.happened.of("synced") if not op.result]
    operations = (
        replace(op, outcome=Outcome.INFO, completed_ns=None)
        if op.outcome is Outcome.FAIL and any(op.meets(sync) for sync in failed)
        else op
        for op in history
    )
    return replace(history, operations=tuple(operations))


def followers(history: History) -> int:
    """Count the acknowledged appends that another process's sync covered."""
    commits = {text: op for op in history.happened.of("committed") for text in op.result}
    good = [op for op in history.happened.of("synced") if op.result]
    count = 0
    for op in history.happened.of("append"):
        if commit := commits.get(op.argument["text"]):
            covering = _covering(op, commit, good)
            count += bool(covering) and all(sync.process != commit.process for sync in covering)
    return count


def _covering(op: Operation, commit: Operation, syncs: Sequence[Operation]) -> list[Operation]:
    """The syncs that began after the commit and ended before the answer."""
    committed_ns, answered_ns = commit.completed_ns or 0, op.completed_ns or 0
    return [
        sync
        for sync in syncs
        if sync.invoked_ns >= committed_ns and (sync.completed_ns or 0) <= answered_ns
    ]


def _uncovered(
    op: Operation, commit: Operation, good: Sequence[Operation], failed: Sequence[Operation]
) -> Iterator[Anomaly]:
    covering = _covering(op, commit, good)
    if not covering:
        yield Anomaly(
            promises.D12,
            f"{op.call} was acknowledged, and no sync covered its commit",
            (commit, op),
            "not-synced",
            expected="a successful sync of the log between commit and answer",
            observed="none",
        )
        return
    by_itself = any(sync.process == commit.process for sync in covering)
    for sync in _covering(op, commit, failed):
        is_own = sync.process == commit.process
        # Another process's sync that only reports the first one's failure lost nothing more.
        concerns = is_own or (sync.argument["first"] and not by_itself)
        if concerns and all(sync.precedes(later) for later in covering):
            yield Anomaly(
                promises.D12,
                f"{op.call} was acknowledged after the sync that should have covered it failed",
                (commit, sync, covering[0], op),
                "failed-sync-ignored",
                expected="an error: the system may have forgotten what it did not write",
                observed=op.answer,
            )
            return


def _without_reason(op: Operation, failed: Sequence[Operation]) -> Iterator[Anomaly]:
    if any(op.meets(sync) for sync in failed):
        return
    yield Anomaly(
        promises.D10,
        f"{op.call} was refused though no sync failed meanwhile",
        (op,),
        "not-recovered",
        expected="success: the disk works again",
        observed=op.answer,
    )
