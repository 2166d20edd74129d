"""Checks that runs whose calls meet exclude each other, end once, and leave nothing behind.

For histories that end with a quiet `settle`. Besides the calls they hold what was observed inside
them: `work` (an agent's turn), `token` and `terminal` (events of a run, in order), and `ended` (a
run left the registry).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

OK, CONFLICT, GONE, CLOSING = 200, 409, 404, 503
ENDS = {"done": ["done", "stream_end"], "cancelled": ["cancel"], "error": ["apperror"]}
UNTIL_CANCELLED = ("wait", "chat", "slow", "late", "later", "hang")
UNWINDS_LATE = ("slow", "late", "later", "hang")
LEFT_BEHIND = ("late", "later", "hang")  # by a run that is reclaimed
FAILING = ("fail", "exit")
STARTS = ("start", "follow", "press")
ENDERS = ("cancel", "delete", "shut_down")  # calls that may cancel a run
UNNAMED = "unknown"  # a run that was registered just now, so that no listener knows it yet
REMOVALS = ("clear", "delete")
SILENT = (
    "make",
    "clear",
    "pause",
    "work",
    "token",
    "terminal",
    "ended",
    "cancelling",
)  # return nothing

Rule = Callable[[History], Iterable[Anomaly]]


def check_run_ends(history: History) -> Verdict:
    """Judge a history of calls that meet."""
    for rule in RULES:
        for anomaly in rule(history):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


def _starts(history: History) -> list[Operation]:
    return [op for op in history.happened if op.function in STARTS]


def _accepted(history: History) -> list[Operation]:
    return [op for op in _starts(history) if op.result["status"] == OK]


def _is_true(cancel: Operation) -> bool:
    """Whether a cancel says that its run is cancelled."""
    return cancel.result["cancelled"] is True


def _run(operation: Operation) -> str:
    run: str = operation.argument["run"]
    return run


def _of_run(history: History, function: str, run: str) -> list[Operation]:
    return [op for op in history.of(function) if op.argument["run"] == run]


def wrong(  # noqa: PLR0913, PLR0917 - the parts of an anomaly
    promise: Promise,
    name: str,
    message: str,
    evidence: Iterable[Operation],
    expected: str,
    observed: object,
    *also: Promise,
) -> Anomaly:
    """An anomaly; its fields in the order in which a sentence says them."""
    return Anomaly(
        promise,
        message,
        tuple(evidence),
        name,
        also=also,
        expected=expected,
        observed=f"{observed}",
    )


def _failed(history: History) -> Iterator[Anomaly]:
    """A call that failed in a way of its own."""
    for op in history:
        if op.outcome is Outcome.FAIL:
            yield wrong(
                promises.T3,
                "failed-call",
                f"{op.call} failed",
                (op,),
                "an answer, or a refusal with a status",
                op.answer,
            )


def _unexpected(history: History) -> Iterator[Anomaly]:
    """An answer that no call may have: a start's status, or a value where none is returned."""
    has_late = any(start.argument["script"] in UNWINDS_LATE for start in _accepted(history))
    for op in history.happened:
        if op.function in STARTS:
            statuses = [OK, CONFLICT, *([CLOSING] if history.of("shut_down") else [])]
            statuses += [GONE] if history.of("delete") else []
            is_expected = op.result["status"] in statuses
            is_expected &= op.result["active"] is None or op.result["status"] == CONFLICT
            wanted = f"a status of {statuses}, and an active run with {CONFLICT} only"
        elif op.function in ("shut_down", "delete"):
            is_expected, wanted = op.result is True or has_late, "True: every run unwinds in time"
        else:
            is_expected = op.function not in SILENT or op.result is None
            wanted = "None"
        if not is_expected:
            yield wrong(
                promises.T3,
                "unexpected-answer",
                f"{op.call} gave an answer that nothing explains",
                (op,),
                wanted,
                op.answer,
            )


def _overlapping(history: History) -> Iterator[Anomaly]:
    """Two agents that work for one session at once; one may be left behind."""
    scripts = {_run(start): start.argument["script"] for start in _starts(history)}
    for one, other in combinations(history.of("work"), 2):
        is_left = any(scripts.get(_run(work)) in LEFT_BEHIND for work in (one, other))
        is_same = one.argument["session"] == other.argument["session"]
        if is_same and one.meets(other) and not is_left:
            yield wrong(
                promises.T1,
                "two-runs",
                f"runs {_run(one)} and {_run(other)} of one session were executed at once",
                (one, other),
                "one run at a time",
                "two",
            )


def _refused(history: History) -> Iterator[Anomaly]:
    """A start that was refused without a reason, or with a wrong run."""
    accepted = _accepted(history)
    for start in _starts(history):
        status, active = start.result["status"], start.result["active"]
        session = start.argument["session"]
        others = [op for op in accepted if op.argument["session"] == session and op is not start]
        if status == CLOSING and not any(not start.precedes(op) for op in history.of("shut_down")):
            yield wrong(
                promises.T3, "refused", f"{start.call} was refused", (start,), "status 200", status
            )
        if status != CONFLICT:
            continue
        possible = [op for op in others if _may_run(history, op, start)]
        names = [*(_run(op) for op in possible), *([UNNAMED] if possible else ())]
        if active is not None and active not in names:
            yield wrong(
                promises.T1,
                "wrong-run",
                f"{start.call} was refused because of a run that is not under way",
                (start, *others),
                f"one of {[_run(op) for op in possible]}",
                active,
            )
        cancels = _cancels_before(history, start)
        if active is not None and active in [_run(op) for op in cancels]:
            yield wrong(
                promises.T4,
                "offered",
                f"{start.call} offers a run that was cancelled",
                (*cancels, start),
                "no run to attach to",
                active,
                promises.T1,
            )
        late = [op for op in possible if op.argument["script"] in UNWINDS_LATE]
        awaited = start.argument["after"] if start.function == "follow" else ""
        if [_run(op) for op in possible] == [awaited] and not late:
            yield wrong(
                promises.T8,
                "refused-next",
                f"{start.call} was refused although its client has the end of run {awaited}",
                (*_of_run(history, "terminal", awaited), start),
                "status 200",
                status,
                promises.T3,
            )
        if not possible:
            yield wrong(
                promises.T3,
                "refused-idle",
                f"{start.call} was refused although no run is under way",
                (*others, start),
                "status 200",
                status,
                promises.T1,
            )


def _cancels_before(history: History, other: Operation) -> list[Operation]:
    """The cancels that were answered, or seen by an agent, before another call."""
    answered = [op for op in history.happened.of("cancel") if _is_true(op)]
    return [op for op in (*answered, *history.of("cancelling")) if op.precedes(other)]


def _may_run(history: History, start: Operation, other: Operation) -> bool:
    """Whether the run of one start may be registered at some moment of another call."""
    over = _of_run(history, "ended", _run(start))
    return not other.precedes(start) and not (over and over[-1].precedes(other))


def _ended(history: History) -> Iterator[Anomaly]:
    """A run without its one end, or with an end that nothing explains."""
    for start in _accepted(history):
        run, script = _run(start), start.argument["script"]
        events = _of_run(history, "terminal", run)
        names = [op.argument["event"] for op in events]
        state = next((state for state, wanted in ENDS.items() if names == wanted), None)
        over = _of_run(history, "ended", run)
        if state is None or len(over) != 1:
            yield wrong(
                promises.T3,
                "ends",
                f"run {run} has the ends {names} and left the registry {len(over)} times",
                (start, *events, *over),
                "one terminal state, and the run leaves once",
                names,
            )
            continue
        may_be_cancelled = any(
            op.function != "cancel" or _run(op) == run for op in history if op.function in ENDERS
        )
        is_deleted = bool(history.of("delete"))
        own = "error" if script in FAILING else "done"
        allowed = {own} if script not in UNTIL_CANCELLED else set()
        allowed |= {"cancelled"} if may_be_cancelled else set()
        allowed |= {"error"} if is_deleted else set()  # its session is gone
        if state not in allowed:
            yield wrong(
                promises.T3,
                "wrong-end",
                f"run {run} ({script}) ended as {state}",
                (start, *events),
                " or ".join(sorted(allowed)),
                state,
                promises.T4,
            )


def _cancelled(history: History) -> Iterator[Anomaly]:
    """A cancel whose answer does not fit the end of its run."""
    scripts = {_run(start): start for start in _accepted(history)}
    cancels = [op for op in history.happened.of("cancel") if _run(op) in scripts]
    for cancel in cancels:
        run = _run(cancel)
        start = scripts[run]
        events = _of_run(history, "terminal", run)
        is_cancelled = [op.argument["event"] for op in events] == ENDS["cancelled"]
        if _is_true(cancel) and not is_cancelled and not history.of("delete"):
            yield wrong(
                promises.T4,
                "uncancelled",
                f"{cancel.call} says that the run is cancelled, and it ended otherwise",
                (start, cancel, *events),
                "the terminal event cancel",
                [op.argument["event"] for op in events],
                promises.T3,
            )
        is_kept = not any(op.function in REMOVALS for op in history)
        if _is_true(cancel) and is_kept and not cancel.result["saved"]:
            yield wrong(
                promises.T4,
                "unkept",
                f"{cancel.call} returned before the turn was saved",
                (start, cancel),
                "a saved turn",
                cancel.answer,
                promises.S15,
                promises.S2,
            )
        was_over = events and all(op.precedes(cancel) for op in events)
        if _is_true(cancel) and was_over and not is_cancelled:
            yield wrong(
                promises.T3,
                "late",
                f"{cancel.call} cancelled an ended run",
                (cancel,),
                "False",
                cancel.answer,
            )
        others = [op for op in history if op.function in ENDERS and op is not cancel]
        is_alone = all(cancel.precedes(op) for op in others)
        is_held = start.argument["script"] in UNTIL_CANCELLED
        is_sure = is_held and is_alone and start.precedes(cancel)
        if cancel.result["cancelled"] is False and is_sure:
            yield wrong(
                promises.T4,
                "not-cancelled",
                f"{cancel.call} did not cancel a run that is under way",
                (start, cancel),
                "True",
                cancel.answer,
            )


def _denied(history: History) -> Iterator[Anomaly]:
    """A cancel that says false of a run that was cancelled before, and whose agent works on."""
    left_behind = {_run(op) for op in _starts(history) if op.argument["script"] in LEFT_BEHIND}
    for cancel in history.happened.of("cancel"):
        run = _run(cancel)
        works = _of_run(history, "work", run)
        before = [
            op
            for op in history.happened.of("cancel")
            if _run(op) == run and _is_true(op) and op.precedes(cancel)
        ]
        is_here = run not in left_behind and any(_outlasts(op, cancel) for op in works)
        if before and is_here and cancel.result["cancelled"] is not True:
            yield wrong(
                promises.T4,
                "denied",
                f"{cancel.call} denies that the run is cancelled, while its agent unwinds",
                (*before, cancel, *works),
                "True",
                cancel.answer,
            )


def _outlasts(one: Operation, other: Operation) -> bool:
    """Whether an operation ended after another one."""
    ends = (one.completed_ns, other.completed_ns)
    return ends[0] is not None and ends[1] is not None and ends[0] > ends[1]


def _offered(history: History) -> Iterator[Anomaly]:
    """A status that offers a run that was cancelled, or that is not under way."""
    for status in history.happened.of("status"):
        active = status.result["active"]
        cancels = _cancels_before(history, status)
        possible = [op for op in _accepted(history) if _may_run(history, op, status)]
        names = [None, *map(_run, possible), *([UNNAMED] if possible else ())]
        if active in map(_run, cancels):
            yield wrong(
                promises.T4,
                "attachable",
                f"{status.call} offers a cancelled run",
                (*cancels, status),
                "no such run",
                active,
                promises.C7,
            )
        if active not in names or (status.result["busy"] and not possible):
            yield wrong(
                promises.T3,
                "busy",
                f"{status.call} shows a run that is not under way",
                (*_starts(history), status),
                f"one of {names}",
                status.result,
                promises.T1,
            )
        alive = [op for op in possible if _is_alive(history, op, status)]
        if alive and not status.result["busy"]:
            yield wrong(
                promises.T1,
                "idle",
                f"{status.call} says that the session is idle while a run is under way",
                (*alive, status),
                "busy",
                status.result,
                promises.T3,
                promises.T4,
            )


def _is_alive(history: History, start: Operation, other: Operation) -> bool:
    """Whether the run of a start is registered during the whole of another call."""
    over = _of_run(history, "terminal", _run(start))
    return start.precedes(other) and bool(over) and other.precedes(over[0])


def _shut_down(history: History) -> Iterator[Anomaly]:
    """A shutdown that returned although a run goes on, or a start after it."""
    for closing in history.happened.of("shut_down"):
        for start in _accepted(history):
            over = _of_run(history, "terminal", _run(start))
            is_late = any(closing.precedes(op) for op in over)
            if closing.precedes(start) or (closing.result and is_late):
                yield wrong(
                    promises.H3,
                    "after-shutdown",
                    f"run {_run(start)} went on after {closing.call}",
                    (start, closing, *over),
                    "no run after a shutdown",
                    closing.result,
                    promises.T3,
                )


def _repaired(history: History) -> Iterator[Anomaly]:
    """A repair of a run that is alive; none is dead, because no host dies."""
    for repair in history.happened.of("repair"):
        if repair.result is not False:
            yield wrong(
                promises.S13,
                "repaired-alive",
                f"{repair.call} settled a turn whose run is alive",
                (*_accepted(history), repair),
                "False",
                repair.answer,
                promises.S7,
                promises.S2,
                promises.T3,
            )


def _journalled(history: History) -> Iterator[Anomaly]:
    """A turn whose state in the journal does not fit the end of its run."""
    for settle in history.happened.of("settle"):
        for start in _accepted(history):
            run, script = _run(start), start.argument["script"]
            events = [op.argument["event"] for op in _of_run(history, "terminal", run)]
            allowed = {"completed" if events == ENDS["done"] else "interrupted"}
            if events == ENDS["cancelled"] and script not in (*UNTIL_CANCELLED, *FAILING):
                allowed.add("completed")  # it may have been saved just before it was cancelled
            observed = settle.result["turns"].get(run)
            if observed not in allowed:
                yield wrong(
                    promises.T3,
                    "journal",
                    f"run {run} ended by {events}, and the journal of turns has {observed!r}",
                    (start, *_of_run(history, "terminal", run), settle),
                    " or ".join(sorted(allowed)),
                    observed,
                )


def _left(history: History) -> Iterator[Anomaly]:
    """What is left of runs once all is quiet."""
    for settle in history.happened.of("settle"):
        busy = [name for name, found in settle.result["sessions"].items() if found["busy"]]
        if settle.result["left"] or busy:
            yield wrong(
                promises.T3,
                "left",
                f"runs that are over are still registered, or mark their sessions: {busy}",
                (settle,),
                "empty registries, and idle sessions",
                settle.result["left"],
                promises.T4,
            )


def _stored(history: History) -> Iterator[Anomaly]:
    """A turn that is missing, there twice, or marked wrongly; a removed one that is back."""
    removals = [op for op in history if op.function in REMOVALS]
    for settle in history.happened.of("settle"):
        for start in _accepted(history):
            run, session = _run(start), start.argument["session"]
            found = settle.result["sessions"].get(session, {"rows": []})
            text = f"{run} {start.argument['script']}"
            at = [index for index, row in enumerate(found["rows"]) if row[1] == text]
            own = [op for op in removals if op.argument["session"] == session]
            is_safe = all(op.precedes(start) for op in own)
            over = _of_run(history, "ended", run)
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


def _replied(
    history: History, start: Operation, rows: list[list[str]], settle: Operation
) -> Iterator[Anomaly]:
    """Judge the rows of one turn: its message, and at most one reply, which has what was shown."""
    run = _run(start)
    replies = []
    for row in rows[1:]:
        if row[0] != "assistant":
            break
        replies.append(row)
    events = [op.argument["event"] for op in _of_run(history, "terminal", run)]
    shown = "".join(op.argument["text"] for op in _of_run(history, "token", run))
    marks = {"cancel": "cancelled", "apperror": "error"}
    mark = marks.get(events[0], "") if events else ""
    possible = {mark}
    if mark == "cancelled" and start.argument["script"] not in UNTIL_CANCELLED:
        # It may have been saved just before it was cancelled.
        possible.add("error" if start.argument["script"] in FAILING else "")
    wanted = []
    for each in sorted(possible):
        reply = [["assistant", shown, each]] if shown or each != "cancelled" else []
        wanted.append([[*rows[0][:2], "cancelled" if each == "cancelled" else ""], *reply])
    if [rows[0], *replies] not in wanted:
        yield wrong(
            promises.T4 if mark == "cancelled" else promises.T3,
            "reply",
            f"run {run} ended by {events[:1]}, and its turn is stored otherwise",
            (start, *_of_run(history, "token", run), settle),
            " or ".join(map(str, wanted)),
            rows,
            promises.T3,
            promises.S2,
            promises.S14,
        )


RULES: tuple[Rule, ...] = (
    *(_failed, _unexpected, _repaired, _overlapping, _refused, _ended),
    *(_cancelled, _denied, _offered, _shut_down, _journalled, _left, _stored),
)
