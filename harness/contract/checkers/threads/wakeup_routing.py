"""Checks that each completion wakes the session that it belongs to, once and in order.

For histories of threads that end with a `settle`, after which no wakeup is pending. `complete` is
the end of a process. Besides the calls these histories hold what was observed inside them: `wake`
(a wakeup turn that started), `refused` (a user, because of a run), `over` (a run that ended, before
the wakeups know), and `spawn` (a turn of a session that started a process, which ended at once, and
the `owner` that was recorded for it). Their `at_s` is in virtual time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from harness.contract import promises
from harness.contract.agent_script import WakeupPrompt
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

_CONFLICT = "TurnConflictError"
HOLD_MIN_S = 0.5  # for which a session is left free for a user that a wakeup refused

Rule = Callable[[History], Iterable[Anomaly]]


def check_wakeup_routing(history: History) -> Verdict:
    """Judge a history of threads that ends quiet."""
    for rule in RULES:
        for anomaly in rule(history):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


def check_wakeup_restarts(history: History) -> Verdict:
    """Judge a history of killed hosts, by the wakeups of each session when all is quiet.

    `leave` is a process that ended while its host was dead, `settle` returns all wakeups. A read
    that failed may hide an exit code; a write that failed may move a wakeup behind later ones.
    """
    strikes = [op.argument["strike"] for op in history.of("struck")]
    for rule in (_refused_call, _wrong_strike):
        for anomaly in rule(history):
            return Verdict((anomaly,))
    for quiet in history.happened.of("settle")[-1:]:
        for anomaly in _wrong_wakeups(history, quiet, strikes):
            return Verdict((anomaly,))
    return Verdict()


def _refused_call(history: History) -> Iterator[Anomaly]:
    """A call without a fault that failed, or answered something."""
    for op in history:
        if op.function == "struck" or op.outcome is Outcome.INFO:
            continue
        answers = op.function == "settle"
        if op.outcome is Outcome.FAIL or (op.result is None) is answers:
            yield Anomaly(
                promises.W4,
                f"{op.call} failed: a wakeup stayed pending" if answers else f"{op.call} failed",
                tuple(history),
                "unsettled" if answers else "refused",
                expected="the call succeeds" if answers else "the call returns nothing",
                observed=op.answer,
            )


_ERRORS = {"full once": "OSError: [Errno 28]", "broken once": "OSError: [Errno 5]"}
_READ = "read once"


def _wrong_strike(history: History) -> Iterator[Anomaly]:
    """A struck call that failed otherwise than by its fault, or whose fault is another one."""
    for op in history.of("struck"):
        strike, at = op.argument["strike"], op.argument["at"]
        if op.outcome is Outcome.OK and op.result["struck"] in (at, -1):
            continue
        error = _ERRORS.get(strike, _ERRORS["broken once"] if strike == _READ else "killed")
        if op.outcome is Outcome.FAIL and op.error.startswith(error):
            continue
        if op.outcome is not Outcome.INFO:
            yield Anomaly(
                promises.W4,
                f"{op.call} failed by another error than its fault",
                tuple(history),
                "refused",
                expected=f"struck at {at} or not at all, or {error}",
                observed=op.answer,
            )


def _wrong_wakeups(history: History, quiet: Operation, strikes: list[str]) -> Iterator[Anomaly]:
    """Wakeups that are lost, repeated, misrouted, reordered, or say something else (W1 to W6)."""
    woken: dict[str, list[list[str]]] = quiet.result["woken"]
    evidence = (*history.happened.of("leave"), *history.of("struck", "restart"), quiet)
    found = itertools.chain(
        _miscounted(evidence, woken),
        _overtaken(evidence, woken, may_move=any(s in (*_ERRORS, _READ) for s in strikes)),
        _misworded(evidence, woken, may_be_unread=_READ in strikes),
    )
    yield from found
    if quiet.result["owed"]:
        yield Anomaly(
            promises.W9,
            f"{quiet.result['owed']} delivered wakeups are still owed",
            evidence,
            "still-owed",
            expected="0",
            observed=f"{quiet.result['owed']}",
        )


Woken = Mapping[str, Sequence[Sequence[str]]]


def _left(evidence: Iterable[Operation]) -> dict[str, Operation]:
    return {op.argument["process"]: op for op in evidence if op.function == "leave"}


def _miscounted(evidence: tuple[Operation, ...], woken: Woken) -> Iterator[Anomaly]:
    """A process that woke no session, another session, or more than once."""
    processes = {process for had in woken.values() for process, _ in had}
    left = _left(evidence)
    for process in (*left, *sorted(processes - set(left))):
        wanted = [_session(left[process])] if process in left else []
        sessions = [owner for owner, had in woken.items() for cause, _ in had if cause == process]
        if sessions == wanted:
            continue
        broken, name = promises.W6, "misrouted"
        if not sessions:
            broken, name = promises.W4, "lost-wakeup"
        elif set(sessions) == set(wanted) or not wanted:
            broken, name = promises.W1, "double-wakeup"
        yield Anomaly(
            broken,
            f"the end of process {process!r} while its host was dead woke {len(sessions)} sessions",
            evidence,
            name,
            expected=f"wakeups of {wanted}",
            observed=f"wakeups of {sessions}",
        )


def _overtaken(
    evidence: tuple[Operation, ...], woken: Woken, *, may_move: bool
) -> Iterator[Anomaly]:
    """A session that was woken in another order than its processes were started."""
    for session, had in woken.items():
        wanted = [name for name, op in _left(evidence).items() if _session(op) == session]
        processes = [process for process, _ in had]
        if processes != wanted and not may_move:
            yield Anomaly(
                promises.W3,
                f"{session!r} was woken in another order than its processes were started",
                evidence,
                "overtaken",
                expected=f"{wanted}",
                observed=f"{processes}",
            )


def _misworded(
    evidence: tuple[Operation, ...], woken: Woken, *, may_be_unread: bool
) -> Iterator[Anomaly]:
    """A wakeup whose message is not about its process, its command and its exit code."""
    left = _left(evidence)
    for process, text in (wakeup for had in woken.values() for wakeup in had):
        allowed = [_prompt(process, left[process].argument.get("exit_code"))]
        if may_be_unread:
            allowed.append(_prompt(process, None))
        if text not in allowed:
            yield Anomaly(
                promises.W12,
                f"the wakeup for {process!r} says something else",
                evidence,
                "wrong-prompt",
                expected=" or ".join(allowed),
                observed=text,
            )


def _prompt(process: str, code: int | None) -> str:
    """The message of the wakeup for a process that printed nothing."""
    cause = (
        "was lost when its host was killed (exit_code=unknown)"
        if code is None
        else f"completed (exit_code={code})"
    )
    return str(WakeupPrompt(process, cause, "true", ""))


def _unsettled(history: History) -> Iterator[Anomaly]:
    """A `settle` that failed: a wakeup is still pending (W3)."""
    for op in history:
        if op.function == "settle" and op.outcome is Outcome.FAIL:
            yield Anomaly(
                promises.W3,
                "settle() failed: a wakeup stayed pending",
                (op,),
                "unsettled",
                expected="no pending wakeup once all runs have ended",
                observed=op.answer,
            )


def _left_over(history: History) -> Iterator[Anomaly]:
    """Wakeups that wait (W3), or bookkeeping that is left (W9), although all is quiet."""
    for op in history.happened.of("settle"):
        if op.result is not None and any(op.result.values()):
            yield Anomaly(
                promises.W3 if op.result.get("kept") else promises.W9,
                "the bookkeeping holds wakeups or runs when all is quiet",
                (*history.happened.of("complete", "delete"), op),
                "left-over",
                expected=f"{dict.fromkeys(op.result, 0)}",
                observed=op.answer,
                # An event that is in no queue of its session is not pending, but forgotten.
                also=(promises.W9,)
                if op.result.get("kept") and not op.result.get("lines", 1)
                else (),
            )


def _misattributed(history: History) -> Iterator[Anomaly]:
    """A process that one session's turn started, and that is recorded as another's (T7, W6)."""
    for spawn in history.happened.of("spawn"):
        session, owner = spawn.argument["session"], spawn.argument["owner"]
        if owner != session:
            yield Anomaly(
                promises.T7,
                f"a process that a turn of {session!r} started is recorded for another session",
                tuple(op for op in history.happened.of("spawn") if op.meets(spawn)),
                "misattributed",
                also=(promises.W6,),
                expected=f"owner {session!r}",
                observed=f"owner {owner!r}",
            )


def _unfounded(history: History) -> Iterator[Anomaly]:
    """A turn of the user that was refused without another run of its session (T3)."""
    for turn in history.of("turn"):
        if turn.outcome is not Outcome.FAIL:
            continue
        others = [
            op
            for op in history.happened.of("turn", "wake")
            if _session(op) == _session(turn) and not turn.precedes(op)
        ]
        if not others or not turn.error.startswith(_CONFLICT):
            yield Anomaly(
                promises.T3,
                f"{turn.call} was refused",
                (turn, *others),
                "refused-idle",
                expected="a turn that begins, unless the session has another one",
                observed=turn.answer,
            )


def _miscounted_refusals(history: History) -> Iterator[Anomaly]:
    """Users who were refused, other than those whom a run refused (W10)."""
    calls = history.of("begin_run")
    failed = [op for op in calls if op.outcome is Outcome.FAIL]
    refusals = history.happened.of("refused")
    known = [op for op in failed if op.error.startswith(_CONFLICT)]
    if len(refusals) != len(failed) or len(known) != len(failed):
        yield Anomaly(
            promises.W10,
            f"{len(failed)} users were refused, and runs refused {len(refusals)}",
            (*calls, *refusals),
            "refused-idle",
            expected=f"{len(refusals)} refused with {_CONFLICT}",
            observed="; ".join(op.answer for op in failed) or "no refusal",
        )


def _doubled(history: History) -> Iterator[Anomaly]:
    """A process whose end woke more than once (W1)."""
    for complete in _completions(history):
        wakes = _wakes_of(history, complete)
        if len(wakes) > 1:
            yield Anomaly(
                promises.W1,
                f"the end of process {complete.argument['process']!r} woke more than once",
                (complete, *wakes),
                "double-wakeup",
                expected="one wakeup",
                observed=f"wakeups of {[_session(wake) for wake in wakes]}",
            )


def _misrouted(history: History) -> Iterator[Anomaly]:
    """A wakeup in a session that does not own the process (W6)."""
    for complete in _completions(history):
        for wake in _wakes_of(history, complete):
            if _session(wake) != _session(complete):
                yield Anomaly(
                    promises.W6,
                    f"the end of process {complete.argument['process']!r} woke another session",
                    (complete, wake),
                    "misrouted",
                    expected=f"a wakeup of {_session(complete)!r}",
                    observed=f"a wakeup of {_session(wake)!r}",
                )


def _reordered(history: History) -> Iterator[Anomaly]:
    """Two wakeups of a session in another order than that of the completions (W3)."""
    for first in _completions(history):
        for second in _completions(history):
            if _session(first) != _session(second) or not first.precedes(second):
                continue
            for late in _wakes_of(history, first):
                for early in _wakes_of(history, second):
                    if early.precedes(late):
                        processes = [op.argument["process"] for op in (first, second)]
                        yield Anomaly(
                            promises.W3,
                            f"process {processes[1]!r} ended after {processes[0]!r}, and woke"
                            f" {_session(first)!r} before it",
                            (early, late),
                            "overtaken",
                            expected=f"wakeups in the order {processes}",
                            observed=f"wakeups in the order {processes[::-1]}",
                        )


def _starving(history: History) -> Iterator[Anomaly]:
    """A wakeup that starts at once behind one that refused a user, and none was admitted (W10)."""
    wakes = history.happened.of("wake")
    admitted = history.happened.of("begin_run")
    for refused in history.of("refused"):
        for over in history.of("over"):
            run = over.argument["run"]
            if refused.argument["run"] != run or not refused.precedes(over):
                continue
            if all(wake.argument["run"] != run for wake in wakes):
                continue  # that was not a wakeup
            if _is_deleted(history, over) or any(not op.precedes(refused) for op in admitted):
                continue
            for wake in wakes:
                is_next = _session(wake) == _session(over) and over.precedes(wake)
                held_s = wake.argument["at_s"] - over.argument["at_s"]
                if is_next and held_s < HOLD_MIN_S:
                    yield Anomaly(
                        promises.W10,
                        f"a wakeup of {_session(wake)!r} started at once behind one that refused a"
                        " user",
                        (refused, over, wake),
                        "starving",
                        expected=f"the session is free for {HOLD_MIN_S} s",
                        observed=f"a wakeup after {held_s:.3f} s",
                    )


def _is_deleted(history: History, over: Operation) -> bool:
    return any(_session(op) == _session(over) for op in history.of("delete"))


def _lost(history: History) -> Iterator[Anomaly]:
    """A completion that woke no session: W3 if a run of the session delayed it, else W2."""
    settled = history.happened.of("settle")
    deleted = {_session(op) for op in history.of("delete")}
    for complete in _completions(history):
        if not settled or _wakes_of(history, complete) or _session(complete) in deleted:
            continue
        runs = [
            op
            for op in history.happened
            if op.function in ("begin_run", "turn", "wake") and _session(op) == _session(complete)
        ]
        yield Anomaly(
            promises.W3 if runs else promises.W2,
            f"the end of process {complete.argument['process']!r} woke no session",
            (complete, *runs, settled[-1]),
            "lost-wakeup",
            expected=f"one wakeup of {_session(complete)!r}",
            observed="no wakeup when all is quiet",
        )


def _completions(history: History) -> tuple[Operation, ...]:
    """The ends of processes; the one of a turn's own process is the call that started it."""
    return history.happened.of("complete", "spawn")


def _wakes_of(history: History, complete: Operation) -> list[Operation]:
    process = complete.argument["process"]
    return [op for op in history.happened.of("wake") if op.argument["process"] == process]


def _session(operation: Operation) -> str:
    session: str = operation.argument["session"]
    return session


RULES: tuple[Rule, ...] = (
    *(_unsettled, _unfounded, _misattributed, _doubled, _misrouted, _reordered),
    *(_starving, _lost, _left_over, _miscounted_refusals),
)
