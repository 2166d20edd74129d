"""Checks that users' messages are stored once and in order, with the replies to them.

For histories that end quiet. An acknowledged message is stored unless a client removed it; one of
unknown outcome is stored once or not at all; a refused one is not stored. Each turn is marked by
how it ended, and its reply holds everything that a stream showed of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from harness.contract import promises
from harness.contract.agent_script import ReplyEnd, Script
from harness.contract.checkers.server.client_history import (
    CONFLICT,
    OK,
    ClientHistory,
    positions,
    removed,
    rows,
    shown,
    texts,
)
from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly

Rule = Callable[[ClientHistory], Iterable[Anomaly]]


def transcript_anomalies(view: ClientHistory) -> Iterator[Anomaly]:
    """Every anomaly of the stored messages, causes before their consequences."""
    for rule in RULES:
        yield from rule(view)


def _is_held(send: Operation) -> bool:
    return _is_held_text(send.argument["text"])


@lru_cache(maxsize=4096)
def _is_held_text(text: str) -> bool:
    return Script.parse(text).is_held


def _concurrent_runs(view: ClientHistory) -> Iterator[Anomaly]:
    """A run that was admitted, or reported as active, while another was under way (T1)."""
    for first in view.accepted:
        if not _is_held(first):
            continue
        run, session = first.result["run"], first.argument["session"]
        for later in view.all("send"):
            if later.argument["session"] != session or not first.precedes(later):
                continue
            if later.outcome is not Outcome.OK or _may_be_over(view, first, later):
                continue
            if later.result["status"] == OK:
                yield Anomaly(
                    promises.T1,
                    f"send({session!r}) was admitted while run {run} was under way",
                    (first, later),
                    "two-at-once",
                    expected=f"status {CONFLICT} with run {run}",
                    observed=f"status {OK} with run {later.result['run']}",
                )
            elif later.result["run"] != run:
                yield Anomaly(
                    promises.T1,
                    f"send({session!r}) was refused because of another run than the active one",
                    (first, later),
                    "wrong-active-run",
                    expected=f"status {CONFLICT} with run {run}",
                    observed=f"status {later.result['status']} with run {later.result['run']}",
                )


def _may_be_over(view: ClientHistory, held: Operation, by: Operation) -> bool:
    """Whether something may have ended a held run before `by` was answered."""
    ends = [
        *view.cancels.get(held.result["run"], ()),
        *view.deaths_since(held),
        *view.deletes.get(held.argument["session"], ()),
    ]
    return view.is_refused_since(held) or any(not by.precedes(end) for end in ends)


def _wrongly_offered(view: ClientHistory) -> Iterator[Anomaly]:
    """A run under way that is not offered, or a cancelled one that is (C7)."""
    for look in view.done("offered", "status"):
        session = look.argument["session"]
        run = look.result if look.function == "offered" else look.result["run"]
        for cancel in view.cancels.get(run, ()):
            if cancel.result is True and cancel.precedes(look):
                yield Anomaly(
                    promises.C7,
                    f"{look.function}({session!r}) offers run {run} after its cancel",
                    (cancel, look),
                    "offered-in-vain",
                    also=(promises.T4,),
                    expected=f"another run than {run}, or none",
                    observed=f"run {run}",
                )
        for sent in view.accepted_in.get(session, ()):
            is_under_way = _is_held(sent) and sent.precedes(look)
            if is_under_way and sent.result["run"] != run and not _may_be_over(view, sent, look):
                yield Anomaly(
                    promises.C7,
                    f"{look.function}({session!r}) does not offer the run that is under way",
                    (sent, look),
                    "not-offered",
                    expected=f"run {sent.result['run']}",
                    observed=f"run {run}",
                )


def _same_number(view: ClientHistory) -> Iterator[Anomaly]:
    """Two turns of a session that began with the same history: they ran at once (T1).

    Or one was settled as if it were dead while it was under way (S13).
    """
    for session, read in view.final.items():
        if view.cuts.get(session):
            continue
        ends = (ReplyEnd.parse(text) for _, text, _ in rows(read))
        for number, times in Counter(end.turn for end in ends if end).items():
            if times > 1:
                yield Anomaly(
                    promises.T1,
                    f"read({session!r}) returned {times} replies with the turn number {number}",
                    (read,),
                    "two-at-once",
                    also=(promises.S13,),
                    expected=f"one reply with the number {number}: turns run one after another",
                    observed=f"{times} replies",
                )


def _registered_twice(view: ClientHistory) -> Iterator[Anomaly]:
    """A session with two runs in the server's health report (T1)."""
    for report in view.done("runs"):
        counts = Counter(session for session, _, _ in report.result)
        for session, times in counts.items():
            if times > 1:
                runs = [run for owner, run, _ in report.result if owner == session]
                yield Anomaly(
                    promises.T1,
                    f"runs() lists {times} runs of {session}",
                    (report,),
                    "two-at-once",
                    expected=f"at most one run of {session}",
                    observed=f"runs {runs}",
                )


def _missing(view: ClientHistory) -> Iterator[Anomaly]:
    """An acknowledged message that is not stored, or stored twice (S2)."""
    for sent in view.accepted:
        session, text = sent.argument["session"], sent.argument["text"]
        read = view.final.get(session)
        times = texts(read).count(text) if read else 1
        if read and (times > 1 or (not times and not view.removers(session, text, sent))):
            deaths = tuple(view.deaths_since(sent)[:1])
            yield Anomaly(
                promises.S2,
                f"send({session!r}, {text!r}) was acknowledged, and is stored {times} times",
                (sent, *deaths, read),
                "doubled-message" if times else "lost-message",
                also=(promises.S13, promises.H3) if deaths else (),
                expected=f"{text!r} once in the last quiet read",
                observed=f"{times} times",
            )


def _vanished(view: ClientHistory) -> Iterator[Anomaly]:
    """A message that a read returned, and the last quiet read does not (S2)."""
    for session, last in view.final.items():
        stored = {text for role, text, _ in rows(last) if role != "assistant"}
        for read in view.reads[session]:
            for role, text, _ in rows(read):
                if role == "assistant" or text in stored or view.removers(session, text, read):
                    continue
                yield Anomaly(
                    promises.S2,
                    f"read({session!r}) returned {text!r}, and the last quiet read lacks it",
                    (read, last),
                    "lost-message",
                    expected=f"{text!r} in the last quiet read",
                    observed=f"{len(rows(last))} rows without it",
                )


def _stray(view: ClientHistory) -> Iterator[Anomaly]:
    """A message that was refused (T1, S10), never sent, or stored twice (S2)."""
    for session, read in view.final.items():
        for text, times in Counter(texts(read)).items():
            sends = [op for op in view.sends.get(text, ()) if op.argument["session"] == session]
            if not sends:
                yield Anomaly(
                    promises.S2,
                    f"read({session!r}) returned {text!r}, which no client sent to it",
                    (read,),
                    "stray-message",
                    also=(promises.C5,) if text in view.sends else (),
                    expected=f"only messages that were sent to {session}",
                    observed=f"{text!r}, {times} times",
                )
            elif all(_is_refused(op) for op in sends):
                yield Anomaly(
                    promises.T1 if sends[-1].outcome is Outcome.OK else promises.S10,
                    f"send({session!r}, {text!r}) was refused, and the message is stored",
                    (sends[-1], read),
                    "refused-message",
                    expected=f"no {text!r} in the last quiet read",
                    observed=f"{text!r}, {times} times",
                )
            elif times > 1:
                yield Anomaly(
                    promises.S2,
                    f"send({session!r}, {text!r}) was called once, and is stored {times} times",
                    (sends[-1], read),
                    "doubled-message",
                    also=(promises.S13,),
                    expected=f"{text!r} at most once in the last quiet read",
                    observed=f"{times} times",
                )


def _is_refused(send: Operation) -> bool:
    if send.outcome is Outcome.OK:
        return bool(send.result["status"] == CONFLICT)
    return send.outcome is Outcome.FAIL


def _disordered(view: ClientHistory) -> Iterator[Anomaly]:
    """Two messages in another order than that of their sends (S2)."""
    for session, read in view.final.items():
        index = positions(texts(read))
        sent = [op for op in view.accepted_in.get(session, ()) if op.argument["text"] in index]
        latest: Operation | None = None
        for later in sent:
            at = index[later.argument["text"]]
            if latest and latest.precedes(later) and index[latest.argument["text"]] > at:
                first, second = latest.argument["text"], later.argument["text"]
                yield Anomaly(
                    promises.S2,
                    f"read({session!r}) returned {second!r} before {first!r}, which was sent first",
                    (latest, later, read),
                    "out-of-order",
                    expected=f"{first!r} before {second!r}",
                    observed=f"{second!r} at {at}, {first!r} at {index[first]}",
                )
            elif latest is None or at > index[latest.argument["text"]]:
                latest = later


def _resurrected(view: ClientHistory) -> Iterator[Anomaly]:
    """A message or a session that was removed, and is observed again (S6)."""
    for session, cuts in view.cuts.items():
        for cut in (cut for cut in cuts if cut.outcome is Outcome.OK):
            gone = set(removed(cut)) - {""}
            for read in view.reads.get(session, ()):
                back = gone.intersection(text for _, text, _ in rows(read))
                if back and cut.precedes(read):
                    yield Anomaly(
                        promises.S6,
                        f"{cut.function}({session!r}) removed {min(back)!r}, and it is back",
                        (cut, read),
                        "resurrected",
                        expected="no removed message in a later read",
                        observed=f"{sorted(back)}",
                    )
    for session, deletes in view.deletes.items():
        for delete in (delete for delete in deletes if delete.outcome is Outcome.OK):
            seen = [*view.reads.get(session, ()), *view.accepted_in.get(session, ())]
            listed = [op for op in view.done("sessions") if session in op.result]
            for look in [look for look in (*seen, *listed) if delete.precedes(look)][:1]:
                yield Anomaly(
                    promises.S6,
                    f"delete({session!r}) succeeded, and {look.function}() finds the session",
                    (delete, look),
                    "resurrected",
                    expected=f"{look.function}() does not find {session}",
                    observed=look.answer,
                )


def _lost_sessions(view: ClientHistory) -> Iterator[Anomaly]:
    """A session that was not deleted, and cannot be found (S2, S11)."""
    made = {op.argument["session"]: op for op in view.done("new")}
    for session, new in made.items():
        if view.deletes.get(session):
            continue
        for read in view.all("read", "status"):
            if read.argument["session"] == session and ": 404 " in read.error:
                yield Anomaly(
                    promises.S2,
                    f"{read.function}({session!r}) does not find a session that was not deleted",
                    (new, read),
                    "lost-session",
                    expected=f"the content of {session}",
                    observed=read.error,
                )
        for listed in view.done("sessions"):
            if new.precedes(listed) and session not in listed.result:
                yield Anomaly(
                    promises.S11,
                    f"sessions() does not list {session}, which was not deleted",
                    (new, listed),
                    "lost-session",
                    expected=f"a list with {session}",
                    observed=f"{listed.result}",
                )


def _differs_on_disk(view: ClientHistory) -> Iterator[Anomaly]:
    """A quiet read that differs from what is on disk (S2, H3)."""
    for kept in view.done("kept"):
        session = kept.argument["session"]
        reads = [op for op in view.reads.get(session, ()) if op.precedes(kept)]
        if reads and view.final and not view.deletes.get(session):
            on_disk = kept.result["rows"] if kept.result else None
            if on_disk != reads[-1].result["rows"]:
                yield Anomaly(
                    promises.S2,
                    f"read({session!r}) returned other rows than the disk holds",
                    (reads[-1], kept),
                    "not-on-disk",
                    also=(promises.H3,),
                    expected=f"rows {reads[-1].result['rows']} on disk",
                    observed=f"rows {on_disk}",
                )


def _pending(view: ClientHistory) -> Iterator[Anomaly]:
    """A message that is still pending when all is quiet (S13, T3)."""
    for session, read in view.final.items():
        if read.result["pending"] is not None:
            yield Anomaly(
                promises.S13,
                f"read({session!r}) returned a pending message although no run is under way",
                (read,),
                "never-settled",
                also=(promises.T3,),
                expected="no pending message when all is quiet",
                observed=f"pending {read.result['pending']!r}",
            )


# How turns ended


def _mismarked(view: ClientHistory) -> Iterator[Anomaly]:
    """A turn whose mark or reply does not match what was done to it."""
    for session, read in view.final.items():
        found = rows(read)
        for index, (role, text, mark) in enumerate(found):
            sends = [op for op in view.sends.get(text, ()) if not _is_refused(op)]
            if role == "user" and sends and sends[-1].argument["session"] == session:
                after = found[index + 1] if index + 1 < len(found) else ("", "", "")
                reply = after if after[0] == "assistant" else ("", "", "")
                if reply[0] or not view.removers(session, "the reply", sends[-1]):
                    yield from _of_turn(view, sends[-1], mark, reply, read)


def _of_turn(
    view: ClientHistory, sent: Operation, mark: str, reply: tuple[str, str, str], read: Operation
) -> Iterator[Anomaly]:
    text = sent.argument["text"]
    script = Script.parse(text)
    deaths = view.deaths_since(sent)
    is_refused = view.is_refused_since(sent)
    run = sent.result["run"] if sent.outcome is Outcome.OK else None
    cancels = [] if run is None else view.cancels.get(run, [])
    was_terminated = any(death.function == "terminate" for death in deaths)
    may_be_cancelled = bool(cancels) or run is None or was_terminated or is_refused
    may_be_cancelled = may_be_cancelled or bool(view.deletes.get(sent.argument["session"]))
    evidence = (sent, *cancels[:1], *deaths[:1], read)
    if mark == "interrupted" and not deaths and not is_refused:
        yield Anomaly(
            promises.S13,
            f"the turn of {text!r} is marked as interrupted, and the server never died",
            evidence,
            "live-run-repaired",
            also=(promises.S7,),
            expected="no mark, or one that a call explains",
            observed="the mark 'interrupted'",
        )
    elif mark == "cancelled" and not may_be_cancelled:
        yield Anomaly(
            promises.T4,
            f"the turn of {text!r} is marked as cancelled, and no client cancelled it",
            evidence,
            "unrequested-cancel",
            expected="no mark, or one that a call explains",
            observed="the mark 'cancelled'",
        )
    elif not mark and script.is_held and not reply[2]:
        # Only the close of its agent ends a script that hangs.
        yield Anomaly(
            promises.A2 if script.hangs else promises.T3,
            f"the turn of {text!r} never ends by itself, and is marked as done",
            evidence,
            "done-too-soon",
            also=(promises.T4,),
            expected="a mark that says what ended the turn",
            observed=f"no mark, and the reply {reply[1]!r}",
        )
    error = reply[2].removeprefix("error: ") if reply[2].startswith("error") else ""
    is_full = "SpawnRefusedError" in error  # the bound on processes is a promise too
    if error and not script.fails and not is_refused and not is_full:
        yield Anomaly(
            promises.A2 if "was closed" in error else promises.T3,
            f"the turn of {text!r} failed without a cause in its script",
            evidence,
            "failed",
            expected="a completed turn: its script raises no error",
            observed=f"the error {error!r}",
        )
    yield from _of_reply(view, sent, mark or reply[2], reply[1], evidence)


def _of_reply(
    view: ClientHistory, sent: Operation, mark: str, reply: str, evidence: tuple[Operation, ...]
) -> Iterator[Anomaly]:
    """A reply that is incomplete, of another session, or lacks shown tokens (S13, T4, T7)."""
    text, session = sent.argument["text"], sent.argument["session"]
    tokens = Script.parse(text).reply_start
    end = ReplyEnd.parse(reply)
    if end and end.session != session:
        yield Anomaly(
            promises.T7,
            f"the turn of {text!r} was answered in the name of another session",
            evidence,
            "mistaken-identity",
            also=(promises.W6,),
            expected=f"a reply that names {session}",
            observed=f"a reply that names {end.session}",
        )
        return
    start = reply.removesuffix(str(end)) if end else reply
    is_whole = end is not None and start == tokens
    if not (is_whole if not mark else tokens.startswith(start)):
        yield Anomaly(
            promises.S2,
            f"the turn of {text!r} has another reply than its script shows",
            evidence,
            "lost-reply",
            also=(promises.S13, promises.T4),
            expected=f"a prefix of {tokens!r}" if mark else f"{tokens!r} and the end of a turn",
            observed=f"{reply!r}",
        )
        return
    run = sent.result["run"] if sent.outcome is Outcome.OK else ""
    for relay in view.relays.get(run, ()):
        holds = reply.startswith if relay.argument["after"] is None else reply.__contains__
        if not holds(shown(relay)):
            yield Anomaly(
                promises.T4 if mark == "cancelled" else promises.S13,
                f"the stored reply to {text!r} lacks tokens that relay({run!r}) showed",
                (*evidence[:-1], relay, evidence[-1]),
                "lost-tokens",
                expected=f"a reply with {shown(relay)!r}",
                observed=f"{reply!r}",
            )


def _orphaned(view: ClientHistory) -> Iterator[Anomaly]:
    """A reply without a message before it: a second reply, or one to a lost message (S13)."""
    for session, read in view.final.items():
        if view.cuts.get(session):
            continue
        before = ""
        for role, text, _ in rows(read):
            if role == "assistant" and before in ("", "assistant"):
                yield Anomaly(
                    promises.S13,
                    f"read({session!r}) returned the reply {text!r} without a message before it",
                    (read,),
                    "orphaned-reply",
                    also=(promises.T3,),
                    expected="one message before each reply",
                    observed=f"a reply after {before or 'the start of the session'}",
                )
            before = role


RULES: tuple[Rule, ...] = (
    _concurrent_runs,
    _registered_twice,
    _wrongly_offered,
    _resurrected,
    _lost_sessions,
    _missing,
    _vanished,
    _stray,
    _disordered,
    _differs_on_disk,
    _pending,
    _mismarked,
    _same_number,
    _orphaned,
)
