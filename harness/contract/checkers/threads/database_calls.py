"""Checks the calls of threads on handles of one database, with locks, faults and closed handles.

For histories of the *state_db_threads* ability. `linearizable` judges the answers, and every
refusal too, unless the history itself has its reason: the handle was closed meanwhile, a statement
was made to fail, a sync failed, or the lock was held for longer than the patience. `took` says how
long an append lasted, `committed` and `synced` when what was committed and synced. Durations are of
virtual time, which passes only while no thread can act; a program whose deadlines may pass early
must not be judged by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from harness.checkers.linearizability import linearizable
from harness.contract import promises
from harness.contract.checkers.state_db.power_loss import check_power_loss
from harness.contract.models.state_db import StateDbModel
from harness.core.checker import first_of
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict, merge

SLACK_S = 1.0  # beyond the patience: a write that has begun is finished
PATIENCE_S = 30.0  # unless a program arranged another one
INJECTED = "injected"  # in the text of an error that the harness caused

_OTHERS = (  # no calls of the model
    *("arrange", "take_lock", "free_lock", "fail", "close_handle", "left_open", "wait"),
    *("take_ticket", "free_ticket", "stall"),
    *("arrange_logs", "commit", "close_log", "took", "committed", "synced"),
)
_NO_REFUSAL = (
    *("arrange", "take_lock", "free_lock", "fail", "close_handle", "left_open"),
    *("arrange_logs", "close_log", "take_ticket", "free_ticket", "stall"),
)


def check_database_calls(history: History) -> Verdict:
    """Judge the answers, the refusals, the waits, the syncs and what stays open."""
    rules = first_of(
        *(_refused_arrangements, _refused_commits, _early_refusals, _too_long, _unnamed),
        *(_left_open, _overtaken, _refused_in_vain),
    )
    verdict = rules(history)
    if verdict.anomalies:
        return verdict
    return merge((_blamed_on_rollback(_answers(_modelled(history)), history), _power_loss(history)))


_answers = linearizable(StateDbModel(), promises.D1, counts=lambda _: True)


def _blamed_on_rollback(verdict: Verdict, history: History) -> Verdict:
    """With D9 on each anomaly beside a failed statement: what it left was not rolled back."""
    if not history.of("fail"):
        return verdict
    anomalies = (
        replace(anomaly, also=tuple(dict.fromkeys((*anomaly.also, promises.D9))))
        for anomaly in verdict.anomalies
    )
    return replace(verdict, anomalies=tuple(anomalies))


def _modelled(history: History) -> History:
    """The calls of the model, without refusals that have a reason outside of it."""
    operations = []
    for op in history:
        if op.function in _OTHERS:
            continue
        argument = op.argument
        if isinstance(argument, Mapping) and "handle" in argument:
            argument = {name: value for name, value in argument.items() if name != "handle"}
        reason = _reason(op, history)
        if reason == "in doubt":
            op = replace(op, outcome=Outcome.INFO, completed_ns=None)  # noqa: PLW2901
        elif reason:
            continue
        operations.append(replace(op, argument=argument))
    return replace(history, operations=tuple(operations))


def _reason(op: Operation, history: History) -> str:
    """Why the call was refused, if the history shows a good reason; else empty."""
    if op.outcome is not Outcome.FAIL:
        return ""
    handle = _handle(op)
    if any(_handle(close) == handle for close in history.of("close_handle") if _began(close, op)):
        return "closed"
    if any(not sync.argument["ok"] and sync.meets(op) for sync in history.of("synced")):
        return "in doubt"
    if INJECTED in op.error and any(_began(fail, op) for fail in history.of("fail")):
        return "injected"
    if "Patience" in op.error and any(_began(lock, op) for lock in history.of("take_lock")):
        return "out of patience"
    return ""


def _handle(op: Operation) -> int:
    handle: int = op.argument.get("handle", 0) if isinstance(op.argument, Mapping) else 0
    return handle


def _began(one: Operation, other: Operation) -> bool:
    """Whether one began before the other ended."""
    return other.completed_ns is None or one.invoked_ns < other.completed_ns


def _patience_s(history: History) -> float:
    arranged = history.of("arrange")
    patience_s: float = arranged[-1].argument.get("patience_s", PATIENCE_S) if arranged else 0.0
    return patience_s or PATIENCE_S


def _appends(history: History) -> Iterator[tuple[Operation, float]]:
    """Each append with its duration in seconds."""
    took = {event.argument["text"]: event.argument["seconds"] for event in history.of("took")}
    for op in history.of("append"):
        if op.argument["text"] in took:
            yield op, took[op.argument["text"]]


def _refused_arrangements(history: History) -> Iterator[Anomaly]:
    """An open or a close of a handle that was refused (D8)."""
    for op in history:
        if op.outcome is Outcome.FAIL and op.function in _NO_REFUSAL:
            yield Anomaly(
                promises.D8,
                f"{op.function}() was refused",
                (op,),
                "refused",
                expected="success: a handle opens and closes at any time",
                observed=op.error,
            )


def _refused_commits(history: History) -> Iterator[Anomaly]:
    """A commit of a log that was doubted although no sync failed (D10).

    After a failed sync a log may also doubt commits that began before it learned of the failure,
    but none that is alone.
    """
    failed = [sync for sync in history.of("synced") if not sync.argument["ok"]]
    commits = history.of("commit")
    for op in commits:
        is_alone = not any(other.meets(op) for other in commits if other is not op)
        reasons = [sync for sync in failed if sync.meets(op) or (_began(sync, op) and not is_alone)]
        reasons += [
            close
            for close in history.of("close_log")
            if _handle(close) == _handle(op) and _began(close, op)
        ]
        if op.outcome is Outcome.FAIL and not reasons:
            yield Anomaly(
                promises.D10,
                f"{op.call} was refused although no sync failed",
                (op,),
                "doubted",
                expected="success: the disk works",
                observed=op.error,
            )


def _early_refusals(history: History) -> Iterator[Anomaly]:
    """A write that was refused because of a lock before its patience ended (D3)."""
    patience_s = _patience_s(history)
    for op, took_s in _appends(history):
        if op.outcome is Outcome.FAIL and "Patience" in op.error and took_s < patience_s:
            yield Anomaly(
                promises.D3,
                f"{op.call} was refused before its patience ended",
                (op,),
                "refused-early",
                expected=f"a wait of {patience_s:g} s",
                observed=f"{op.error} after {took_s:g} s",
            )


def _too_long(history: History) -> Iterator[Anomaly]:
    """A write that took longer than its patience (D5)."""
    patience_s = _patience_s(history)
    for op, took_s in _appends(history):
        if took_s > patience_s + SLACK_S:
            yield Anomaly(
                promises.D5,
                f"{op.call} took longer than its patience",
                (op,),
                "waited-too-long",
                also=(promises.D3,),
                expected=f"at most {patience_s:g} s",
                observed=f"{took_s:g} s",
            )


def _unnamed(history: History) -> Iterator[Anomaly]:
    """A refusal that does not name the process that held the lock all the time (D5)."""
    frees = history.of("free_lock")
    for lock in history.happened.of("take_lock"):
        if lock.argument and {"until_s", "yields"} & lock.argument.keys():
            continue  # it is freed by itself
        for op in history.of("append"):
            if not (op.outcome is Outcome.FAIL and "Patience" in op.error and lock.precedes(op)):
                continue
            if not any(_began(free, op) for free in frees) and str(lock.result) not in op.error:
                yield Anomaly(
                    promises.D5,
                    f"{op.call} was refused with an error that does not name the lock's holder",
                    (lock, op),
                    "holder-unnamed",
                    expected=f"the number {lock.result} of the process that held the lock",
                    observed=op.error,
                )


def _left_open(history: History) -> Iterator[Anomaly]:
    """A descriptor of the database's files that no handle needs any more (D8)."""
    for op in history.happened.of("left_open"):
        if op.result:
            yield Anomaly(
                promises.D8,
                "left_open() found descriptors of the database's files after every handle closed",
                (*history.of("close_handle"), op),
                "left-open",
                expected="0",
                observed=str(op.result),
            )


def _refused_in_vain(history: History) -> Iterator[Anomaly]:
    """A write that was refused for its patience, and was committed all the same (D2)."""
    commits = {text: commit for commit in history.of("committed") for text in _texts(commit)}
    for op in history.of("append"):
        commit = commits.get(op.argument["text"])
        if commit is not None and op.outcome is Outcome.FAIL and "Patience" in op.error:
            yield Anomaly(
                promises.D2,
                f"{op.call} was refused, and was committed all the same",
                (op, commit),
                "refused-and-committed",
                expected="no commit of a write that was refused",
                observed=f"{op.error}, and a commit",
            )


def _overtaken(history: History) -> Iterator[Anomaly]:
    """A write that was passed by a later one, when no stopped process had the turn any more (D4).

    Virtual time passes only while no thread can act. So a write that began before another thread
    ended a wait has its ticket, and that thread's next write draws a later one.
    """
    freed = history.happened.of("free_ticket")
    appends = [op for op in history.happened.of("append") if freed and freed[-1].precedes(op)]
    commits = history.of("committed")
    turns = {text: at for at, commit in enumerate(commits) for text in _texts(commit)}
    for later in appends:
        waits = [wait for wait in history.of("wait") if wait.process == later.process]
        for earlier in appends:
            is_behind = any(_began(earlier, wait) and wait.precedes(later) for wait in waits)
            texts = earlier.argument["text"], later.argument["text"]
            if is_behind and turns.keys() >= {*texts} and turns[texts[0]] > turns[texts[1]]:
                yield Anomaly(
                    promises.D4,
                    f"{later.call} was committed before {earlier.call}, which waited longer",
                    (earlier, later),
                    "overtaken",
                    expected=f"{texts[0]!r} is committed first",
                    observed=f"{texts[1]!r} was",
                )


def _power_loss(history: History) -> Verdict:
    """Judge by the syncs of each handle what was acknowledged (D12)."""
    history = _with_commits_as_appends(history)
    handles = {op.argument["text"]: _handle(op) for op in history.of("append")}
    acknowledged = history.happened.of("append")
    own = {text for op in history.of("committed") if op.argument["synced"] for text in _texts(op)}
    operations = [op for op in acknowledged if op.argument["text"] not in own]
    commits = [op for op in history.of("committed") if handles.keys() & set(_texts(op))]
    if not operations or not commits:
        return Verdict()
    for op in commits:  # one commit has writes of one handle only
        handle = next(handles[text] for text in _texts(op) if text in handles)
        operations.append(_of_handle(op, handle, None, _texts(op)))
    for op in history.of("synced"):
        argument = {"file": op.argument["file"], "first": op.argument["first"]}
        operations.append(_of_handle(op, op.argument["handle"], argument, op.argument["ok"]))
    if not history.of("synced"):
        return Verdict((_never_synced(commits[0], acknowledged[0]),))
    return check_power_loss(replace(history, operations=tuple(operations)))


def _with_commits_as_appends(history: History) -> History:
    """The history with each commit of a log as an append."""
    return replace(
        history,
        operations=tuple(
            replace(op, function="append") if op.function == "commit" else op for op in history
        ),
    )


def _never_synced(commit: Operation, op: Operation) -> Anomaly:
    return Anomaly(
        promises.D12,
        f"{op.call} was acknowledged, and nothing was ever synced",
        (commit, op),
        "never-synced",
        expected="a successful sync of the log between commit and answer",
        observed="none",
    )


def _texts(commit: Operation) -> list[str]:
    texts: list[str] = commit.argument["texts"]
    return texts


def _of_handle(op: Operation, handle: int, argument: Any, result: Any) -> Operation:
    return replace(op, process=-1 - handle, argument=argument, result=result)
