"""Checks every answer of many clients' calls against what each of them did before.

The other checkers of such a history follow messages, streams and wakeups. This one follows the
calls: a refusal and a lost reply have a cause, an acknowledgement says what the run shows, a read
contains what its client was answered, each run has one session in whatever answer names it, and a
server at rest has the sizes that its sessions explain.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from harness.contract import promises
from harness.contract.agent_script import ReplyEnd, Script, WakeupPrompt
from harness.contract.checkers.server.client_calls import (
    ENDED,
    OPEN_NS_MIN,
    RUNS_KEPT,
    Calls,
    malformed_answer,
)
from harness.contract.checkers.server.client_history import (
    CONFLICT,
    OK,
    TERMINAL,
    ClientHistory,
    rows,
    shown,
    texts,
)
from harness.contract.checkers.server.reported_sizes import wrong_containers
from harness.contract.checkers.server.run_answers import (
    busy_at_rest,
    mistaken_runs,
    unlisted_runs,
    wrong_cancels,
)
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly

PORTS = range(1, 65_536)
ROLES = ("user", "assistant", "wakeup")
MARKS = ("", "interrupted", "cancelled")
NOTHING = ("new", "clear", "truncate", "delete", "kill")  # functions that return nothing
TEXTS = ("token", "reasoning", "tool_complete", "apperror", "error", "session_snapshot")
SUBJECTS = (
    "server_turn_started",
    "turn_started",
    "bg_task_complete",
    "process_complete",
    "process_watch_match",
    "session_snapshot",
)
NUMBERED = ("initial", "session-updated", "process_watch_match", *ENDED)  # but the first
Rule = Callable[["Calls"], Iterable[Anomaly]]


def call_anomalies(view: ClientHistory) -> Iterator[Anomaly]:
    """Every anomaly of the answers, causes before their consequences."""
    calls = Calls(view)
    for rule in RULES:
        yield from rule(calls)


def _unexplained(calls: Calls) -> Iterator[Anomaly]:
    """A refusal without a reason in what was asked, or a lost reply while nothing was wrong."""
    for operation in calls.view.history:
        if operation.outcome is Outcome.OK or operation.function in ("boot", "terminate"):
            continue
        if _is_explained(calls, operation):
            continue
        is_lost = operation.outcome is Outcome.INFO or "NotReached" in operation.error
        is_hung = "timed out" in operation.error or operation.is_unanswered
        broken, also = _refused_promises(operation)
        if is_hung:
            broken, also = promises.H6, (promises.C10, promises.C6, promises.T3)
        elif is_lost:
            broken, also = promises.H3, (promises.T3,)
        yield Anomaly(
            broken,
            f"{operation.call} was not answered while the server was well"
            if is_lost
            else f"{operation.call} was refused without a cause",
            (operation,),
            "not-answered" if is_lost else "refused",
            also=also,
            expected="an answer: the server was up, no fault was active, the session exists",
            observed=operation.answer,
        )


def _is_explained(calls: Calls, operation: Operation) -> bool:
    error, argument = operation.error, operation.argument or {}
    if operation.is_unanswered:
        return calls.is_struck(operation)
    if "NotReachedError" in error or operation.outcome is Outcome.INFO or ": 503 " in error:
        return calls.is_struck(operation) or ("busy" in error and ": 503 " in error)
    if not error.startswith("StatusError"):
        return False
    session = argument.get("session")
    if operation.function == "relay":
        sent = calls.view.runs.get(argument["run"])
        session = sent.argument["session"] if sent is not None else None
        if sent is None or _runs_since(calls, sent) >= RUNS_KEPT:
            return True
    deletes = calls.view.deletes.get(session, ()) if session is not None else ()
    if ": 404 " in error:
        return any(not operation.precedes(delete) for delete in deletes) or any(deletes)
    return ": 409 " in error and operation.function in ("clear", "truncate", "delete")


def _runs_since(calls: Calls, sent: Operation) -> int:
    """How many runs may have begun in the session after this one, itself included."""
    session = sent.argument["session"]
    turns = processes = 0
    for op in calls.view.all("send"):
        if op.argument["session"] == session and op.outcome is not Outcome.FAIL:
            turns += op.outcome is Outcome.INFO or op.result["status"] == OK
            processes += 2 * len(Script.parse(op.argument["text"]).processes)
    return turns + processes


def _refused_promises(operation: Operation) -> tuple[Promise, tuple[Promise, ...]]:
    by_function: Mapping[str, tuple[Promise, tuple[Promise, ...]]] = {
        "relay": (promises.C3, (promises.T3,)),
        "watch": (promises.C7, ()),
        "offered": (promises.C7, ()),
        "cancel": (promises.T4, ()),
        "acknowledge": (promises.W11, ()),
        "kept": (promises.S1, (promises.S2,)),
        "copies": (promises.S14, (promises.S1,)),
        "send": (promises.T8, (promises.T1, promises.S2)),
    }
    return by_function.get(operation.function, (promises.S15, (promises.S2, promises.H2)))


def _contentless(calls: Calls) -> Iterator[Anomaly]:
    """An answer of a form that its function does not have."""
    for op in calls.view.done(*NOTHING):
        if op.result is not None:
            yield malformed_answer(op, "no content")
    for op in calls.view.done("send"):
        status, run = op.result["status"], op.result["run"]
        if status not in (OK, CONFLICT) or (status == OK and not run):
            yield malformed_answer(op, f"status {OK} and a run, or status {CONFLICT}")
    before = None
    for op in calls.view.done("boot"):
        if op.result["port"] not in PORTS or op.result["pid"] <= 0:
            yield malformed_answer(op, "a port and a process id")
        if before is not None and op.result["pid"] == before.result["pid"]:
            yield malformed_answer(op, "another process than the one that died")
        before = op


def _stream_shapes(calls: Calls) -> Iterator[Anomaly]:
    """A connection that ended without a cause, or an event that its kind cannot be."""
    for op in calls.view.done("relay", "watch"):
        problem = _relay_problem(calls, op) if op.function == "relay" else _watch_problem(calls, op)
        if problem:
            expected, observed = problem
            yield Anomaly(
                promises.C6 if "end" in observed else promises.C3,
                f"{op.call} returned a stream that cannot be: {observed}",
                (op,),
                "strange-stream",
                also=(promises.C3, promises.C5, promises.W7, promises.T3),
                expected=expected,
                observed=observed,
            )


def _end_problem(calls: Calls, op: Operation, quiet: str) -> tuple[str, str] | None:
    end, took_ns = op.result["end"], (op.completed_ns or 0) - op.invoked_ns
    if end not in ("open", "closed", "lost", "left"):
        return "an end of a connection", f"end {end!r}"
    if end == "lost" and not calls.is_struck(op):
        return "a connection that is not lost while the server lives", f"end {end!r}"
    if end == "open" and quiet == "closed" and took_ns < OPEN_NS_MIN:
        return f"a connection that is open for {OPEN_NS_MIN / 1e9:g} s", f"end {end!r}"
    return None


def _relay_problem(calls: Calls, op: Operation) -> tuple[str, str] | None:
    found, leave = op.result["rows"], op.argument.get("leave")
    problem = _end_problem(calls, op, "closed")
    if problem:
        return problem
    if (op.result["end"] == "left") != (leave is not None and len(found) == leave):
        return f"leave after {leave} events", f"end {op.result['end']!r}, {len(found)} events"
    for _, name, text in found:
        if bool(text) and name not in TEXTS:
            return f"no text in {name}", f"{name} {text!r}"
    sent = calls.view.runs.get(op.argument["run"])
    if sent is None or op.argument["after"] is not None:
        return None
    script, session = Script.parse(sent.argument["text"]), sent.argument["session"]
    if not _may_be_reply(script, session, shown(op), is_whole=False):
        return f"the tokens {script.reply_start!r} and the end of a turn", f"{shown(op)!r}"
    return None


def _watch_problem(calls: Calls, op: Operation) -> tuple[str, str] | None:
    found, end = op.result["rows"], op.result["end"]
    if problem := _end_problem(calls, op, "open"):
        return problem
    session = op.argument["session"]
    if end == "left" or (
        end == "closed" and not calls.is_struck(op) and not calls.view.deletes.get(session)
    ):
        return "an open connection after a silence", f"end {end!r}"
    names = [name for _, name, *_ in found]
    if found and names.count("initial") != 1:
        return "one event `initial`", f"{names}"
    for id_, name, _, subject, at in found:
        if (subject is not None) != (name in SUBJECTS) or (at is not None) != (name in ENDED):
            return f"subject and time of {name}", f"{name} of {subject} at {at}"
        if (id_ == "") != (name == "initial") and name in NUMBERED:
            return f"an id of {name}", f"{id_!r} of {name}"
    return None


def _announced_ends(calls: Calls) -> Iterator[Anomaly]:
    """Two notices of one process's end with different times, or the end of no process."""
    known: dict[tuple[str, str], tuple[float, Operation]] = {}
    for op in calls.view.done("watch"):
        is_whole = op.result["end"] == "open" and calls.has_both_notices
        kinds: dict[str, list[str]] = defaultdict(list)
        for _, name, session, task, at in op.result["rows"]:
            if name not in ENDED:
                continue
            kinds[task].append(name)
            first, other = known.setdefault((session, task), (at, op))
            if first != at:
                yield _misannounced(op, other, f"the time {first} of the end of {task}")
        if is_whole and any(sorted(names) != sorted(ENDED) for names in kinds.values()):
            yield _misannounced(op, op, "both notices of each end")
    for (session, task), (_, op) in known.items():
        read = calls.view.final.get(session)
        if read is None or calls.removed_since(session, op):
            continue
        prompts = (WakeupPrompt.parse(text) for role, text, _ in rows(read) if role == "wakeup")
        if task not in {prompt.process for prompt in prompts if prompt}:
            yield _misannounced(read, op, f"a wakeup by process {task}, whose end was announced")


def _misannounced(operation: Operation, other: Operation, expected: str) -> Anomaly:
    return Anomaly(
        promises.W1,
        f"{operation.call} contradicts what was announced of a process",
        (other, operation) if other is not operation else (operation,),
        "contradicted-notice",
        also=(promises.W7, promises.C2, promises.W2),
        expected=expected,
        observed=operation.answer,
    )


def _forgetful_reads(calls: Calls) -> Iterator[Anomaly]:
    """A read that lacks what was acknowledged, shown or read before it (S15, S2)."""
    for session, reads in calls.view.reads.items():
        ordered = sorted(reads, key=lambda op: op.invoked_ns)
        sends = calls.view.accepted_in.get(session, ())
        ended = {
            sent.argument["text"]: relay
            for sent in sends
            for relay in calls.view.relays.get(sent.result["run"], ())
            if any(name in TERMINAL for _, name, _ in relay.result["rows"])
        }
        latest: Operation | None = None
        for read in ordered:
            yield from _unread(calls, session, read, sends, ended)
            if latest is not None and latest.precedes(read):
                earlier = rows(latest)
                if rows(read)[: len(earlier)] != earlier and not calls.removed_since(
                    session, latest
                ):
                    yield _forgot(read, (latest,), f"the rows {earlier}, and later ones")
            latest = read
        yield from _strange_pending(calls, session, ordered)


def _unread(
    calls: Calls,
    session: str,
    read: Operation,
    sends: Iterable[Operation],
    ended: Mapping[str, Operation],
) -> Iterator[Anomaly]:
    stored, pending = set(texts(read)), read.result["pending"]
    for sent in sends:
        text = sent.argument["text"]
        if text in stored or not sent.precedes(read) or calls.view.removers(session, text, sent):
            continue
        relay = ended.get(text)
        if pending != text:
            yield _forgot(read, (sent,), f"{text!r} as pending or stored")
        elif relay is not None and relay.precedes(read) and not calls.view.is_refused_since(sent):
            yield _forgot(read, (sent, relay), f"{text!r} stored, with its reply")


def _strange_pending(calls: Calls, session: str, reads: Iterable[Operation]) -> Iterator[Anomaly]:
    sent = {
        op.argument["text"] for op in calls.view.all("send") if op.argument["session"] == session
    }
    final = calls.view.final.get(session)
    stored = {text for role, text, _ in rows(final) if role == "wakeup"} if final else set()
    for read in reads:
        pending = read.result["pending"]
        if pending is None or pending in sent or pending in stored:
            continue
        is_wakeup = WakeupPrompt.parse(pending) is not None and pending.endswith("]")
        if not is_wakeup or (final is not None and not calls.removed_since(session, read)):
            yield _forgot(read, (), "a pending message that was sent or is stored later")


def _strange_rows(calls: Calls) -> Iterator[Anomaly]:
    """A row of any read that no turn of its session explains (S2)."""
    for session, reads in calls.view.reads.items():
        sends = {
            op.argument["text"]: op
            for op in calls.view.all("send")
            if op.argument["session"] == session
        }
        for read in reads:
            for expected, observed in _row_problems(sends, session, read):
                yield Anomaly(
                    promises.S2,
                    f"{read.call} returned a row that no turn of {session} explains",
                    (read,),
                    "strange-row",
                    also=(promises.S13, promises.S15, promises.C5),
                    expected=expected,
                    observed=observed,
                )
                break


def _row_problems(
    sends: Mapping[str, Operation], session: str, read: Operation
) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    script: Script | None = None
    before = ""
    for role, text, mark in rows(read):
        if role not in ROLES or (mark not in MARKS and not mark.startswith("error")):
            yield f"a role of {ROLES}, a mark of {MARKS}", f"{role!r}, {mark!r}"
        if role == "assistant":
            if before in ("", "assistant"):
                yield "one message before each reply", f"{text!r} after {before!r}"
            if script is not None and not _may_be_reply(script, session, text, is_whole=not mark):
                yield f"a reply that begins {script.reply_start!r}", f"{text!r}"
        elif text in seen:
            yield "each message once", f"{text!r} again"
        elif role == "user" and text not in sends:
            yield f"messages that were sent to {session}", f"{text!r}"
        elif role == "wakeup" and (WakeupPrompt.parse(text) is None or not text.endswith("]")):
            yield "the prompt of a wakeup", f"{text!r}"
        if role != "assistant":
            script = Script.parse(text) if role == "user" else None
        seen.add(text)
        before = role


def _may_be_reply(script: Script, session: str, text: str, *, is_whole: bool) -> bool:
    """Whether a script shows this reply, or a beginning of it where the turn was ended."""
    if any(tokens.threads for tokens in script.tokens) or script.has("beat"):
        return True
    end = ReplyEnd.parse(text)
    start = text.removesuffix(str(end)) if end is not None else text
    if is_whole:
        return end is not None and end.session == session and start == script.reply_start
    # A cancelled agent may leave out tokens and still say its last one.
    return script.reply_start.startswith(start) and (end is None or end.session == session)


def _forgot(read: Operation, others: tuple[Operation, ...], expected: str) -> Anomaly:
    return Anomaly(
        promises.S15,
        f"{read.call} contradicts what was acknowledged before",
        (*others, read),
        "forgetful-read",
        also=(promises.S2, promises.T2, promises.S13),
        expected=expected,
        observed=read.answer[:2000],
    )


def _kept_pending(calls: Calls) -> Iterator[Anomaly]:
    """A disk whose content differs from the last read: a pending message, or a deleted session."""
    for kept in calls.view.done("kept"):
        session = kept.argument["session"]
        reads = [op for op in calls.view.all("read") if op.argument["session"] == session]
        before = [op for op in reads if op.precedes(kept)]
        if not before or not calls.is_at_rest(kept):
            continue
        last = before[-1]
        if last.outcome is Outcome.FAIL and ": 404 " in last.error and kept.result is not None:
            expected, observed = "no file of a deleted session", f"{kept.result}"
        elif last.outcome is Outcome.OK and kept.result is None:
            expected, observed = "the file of the session", "none"
        elif kept.result is not None and kept.result["pending"] is not None:
            expected, observed = "no pending message", f"{kept.result['pending']!r}"
        else:
            continue
        yield Anomaly(
            promises.S14,
            f"{kept.call} differs from what the server answered",
            (last, kept),
            "not-on-disk",
            also=(promises.S6, promises.S2, promises.S13),
            expected=expected,
            observed=observed,
        )


def _lists(calls: Calls) -> Iterator[Anomaly]:
    """A list with a session twice, with one that was never made, or in another order (S11)."""
    made = {op.argument["session"] for op in calls.view.all("new")}
    quiet: Operation | None = None
    for listed in calls.view.done("sessions"):
        names = listed.result
        lost = sum(
            op.outcome is not Outcome.OK or not op.precedes(listed) for op in calls.view.all("new")
        )
        unknown = [name for name in names if name not in made]
        problem = ""
        if len(set(names)) != len(names):
            problem = "each session once"
        elif len(unknown) > lost or any(not re.fullmatch(r"\w{12,}", name) for name in unknown):
            problem = "only sessions that were made"
        elif calls.is_at_rest(listed):
            if quiet is not None and quiet.result != names:
                problem = f"the order before the restart: {quiet.result}"
            quiet = listed
        if problem:
            is_reordered = quiet is listed
            yield Anomaly(
                promises.S8 if is_reordered and problem.startswith("the order") else promises.S11,
                f"{listed.call} returned a list that its sessions do not explain",
                (listed,),
                "strange-list",
                also=(promises.S11, promises.S14),
                expected=problem,
                observed=listed.answer,
            )


def _copies(calls: Calls) -> Iterator[Anomaly]:
    """A copy at rest that differs from what the server answers (S14)."""
    for copies in calls.view.done("copies"):
        session = copies.argument["session"]
        reads = [op for op in calls.view.reads.get(session, ()) if op.precedes(copies)]
        if not copies.result or not reads:
            continue
        read = reads[-1]
        wanted = [[role, text] for role, text, _ in rows(read)]
        for name, copy in copies.result.items():
            expected = wanted if name in ("sidecar", "database", "search") else len(wanted)
            if copy != expected:
                yield Anomaly(
                    promises.S14,
                    f"{copies.call}: {name} differs from what the server answers",
                    (read, copies),
                    "copies-differ",
                    also=(promises.S11, promises.S2),
                    expected=f"{name} = {expected!r}"[:2000],
                    observed=f"{name} = {copy!r}"[:2000],
                )


def _unsettled(calls: Calls) -> Iterator[Anomaly]:
    """Processes that did not end, or wakeups that were not tried, in far more than their time."""
    for op in calls.view.done("settled"):
        if op.result is not True:
            yield Anomaly(
                promises.W5,
                "settled() timed out: a process did not end, or its wakeup was not tried",
                (op,),
                "not-settled",
                also=(promises.W12, promises.W2),
                expected="-> true",
                observed=op.answer,
            )


def _deferred(calls: Calls) -> Iterator[Anomaly]:
    """Deferred wakeups that are fewer than the processes that ended, or more (W3)."""
    for op in calls.view.done("deferred"):
        sends = [sent for sent in calls.view.all("send") if sent.invoked_ns < op.invoked_ns]
        started = sum(
            2 * len(process.printed.splitlines()) if process.watch else 1
            for sent in sends
            for process in Script.parse(sent.argument["text"]).processes
        )
        least = op.argument["least"]
        if not least <= op.result <= started:
            yield Anomaly(
                promises.W3 if op.result < least else promises.W9,
                f"{op.call} counts other wakeups than those of the processes that ended",
                (op,),
                "wrong-deferred-wakeups",
                also=(promises.W1, promises.W12, promises.W2),
                expected=f"{least} to {started}",
                observed=op.answer,
            )


RULES: tuple[Rule, ...] = (
    _contentless,
    mistaken_runs,
    _strange_rows,
    _forgetful_reads,
    _stream_shapes,
    _announced_ends,
    wrong_cancels,
    unlisted_runs,
    _kept_pending,
    _lists,
    busy_at_rest,
    _deferred,
    _unsettled,
    _copies,
    wrong_containers,
    _unexplained,
)
