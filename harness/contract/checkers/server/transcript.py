"""Conversed: what users said is there, once and in order, with what was answered to it.

For visits that end quiet. A send that was acknowledged is there unless somebody removed it; one of
which nobody knows is there once, or not at all; one that was refused is not. Each turn is marked
as it came to its end, and holds whatever was shown of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from harness.contract.checkers.server.client_history import (
    CONFLICT,
    FAILS,
    HOLDS,
    OK,
    TOKENS,
    Visits,
    places,
    removed,
    rows,
    shown,
    texts,
)
from harness.core.history import Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly

Rule = Callable[[Visits], Iterable[Anomaly]]
_LAST_WORDS = re.compile(r"That was turn (\d+) of (\S+)\.$")


def messages_are_kept(visits: Visits) -> Iterator[Anomaly]:
    """Whatever is wrong with what was said, the root of it first."""
    for rule in RULES:
        yield from rule(visits)


def _two_at_once(visits: Visits) -> Iterator[Anomaly]:
    """A run that was let in, or told of, while another one surely went on (T1)."""
    for first in visits.accepted:
        if not HOLDS.search(first.argument["text"]):
            continue
        run, session = first.result["run"], first.argument["session"]
        for later in visits.all("send"):
            if later.argument["session"] != session or not first.precedes(later):
                continue
            if later.outcome is not Outcome.OK or _may_be_over(visits, first, later):
                continue
            if later.result["status"] == OK:
                message = f"{run} goes on, and another run was let in"
                yield Anomaly(Promise.T1, message, (first, later), "two-at-once")
            elif later.result["run"] != run:
                message = f"{run} goes on, and {later.result['run']} is told of"
                yield Anomaly(Promise.T1, message, (first, later), "wrong-run-told")


def _may_be_over(visits: Visits, held: Operation, by: Operation) -> bool:
    """Whether something may have ended a held run before `by` was answered."""
    ends = [
        *visits.cancels.get(held.result["run"], ()),
        *visits.deaths_since(held),
        *visits.deletes.get(held.argument["session"], ()),
    ]
    return visits.is_refused_since(held) or any(not by.precedes(end) for end in ends)


def _offered_wrongly(visits: Visits) -> Iterator[Anomaly]:
    """A run that goes on and is not offered, or is cancelled and still offered (C7)."""
    for look in visits.done("offered", "status"):
        session = look.argument["session"]
        run = look.result if look.function == "offered" else look.result["run"]
        for cancel in visits.cancels.get(run, ()):
            if cancel.result is True and cancel.precedes(look):
                message = f"{run} was cancelled, and is offered"
                evidence = (cancel, look)
                yield Anomaly(Promise.C7, message, evidence, "offered-in-vain", also=(Promise.T4,))
        for sent in visits.accepted_in.get(session, ()):
            is_held = HOLDS.search(sent.argument["text"]) and sent.precedes(look)
            if is_held and sent.result["run"] != run and not _may_be_over(visits, sent, look):
                message = f"{sent.result['run']} goes on, and {run} is offered"
                yield Anomaly(Promise.C7, message, (sent, look), "not-offered")


def _same_number(visits: Visits) -> Iterator[Anomaly]:
    """Two turns of a session that began with the same history: they ran at once (T1).

    Or one was settled as if it were dead, while it went on (S13).
    """
    for session, read in visits.final.items():
        if visits.cuts.get(session):
            continue
        said = [match[1] for _, text, _ in rows(read) if (match := _LAST_WORDS.search(text))]
        for number, times in Counter(said).items():
            if times > 1:
                message = f"{times} turns of {session} were number {number}"
                yield Anomaly(Promise.T1, message, (read,), "two-at-once", also=(Promise.S13,))


def _registered_twice(visits: Visits) -> Iterator[Anomaly]:
    """A session with two runs in the server's own account (T1)."""
    for health in visits.done("health"):
        told = Counter(session for session, _, _ in health.result["runs"])
        for session, times in told.items():
            if times > 1:
                message = f"{session} has {times} runs"
                yield Anomaly(Promise.T1, message, (health,), "two-at-once")


def _missing(visits: Visits) -> Iterator[Anomaly]:
    """A message that was acknowledged, or seen, and that is not there (S2), or twice."""
    for sent in visits.accepted:
        session, text = sent.argument["session"], sent.argument["text"]
        read = visits.final.get(session)
        times = texts(read).count(text) if read else 1
        if read and (times > 1 or (not times and not visits.removers(session, text, sent))):
            deaths = tuple(visits.deaths_since(sent)[:1])
            also = (Promise.S13, Promise.H3) if deaths else ()
            name = "doubled-message" if times else "lost-message"
            message = f"{text!r} was acknowledged, and is there {times} times"
            yield Anomaly(Promise.S2, message, (sent, *deaths, read), name, also=also)


def _vanished(visits: Visits) -> Iterator[Anomaly]:
    """A message that somebody saw, and that is there no more (S2)."""
    for session, last in visits.final.items():
        there = {text for role, text, _ in rows(last) if role != "assistant"}
        for read in visits.reads[session]:
            for role, text, _ in rows(read):
                if role == "assistant" or text in there or visits.removers(session, text, read):
                    continue
                message = f"{text!r} was there, and is gone"
                yield Anomaly(Promise.S2, message, (read, last), "lost-message")


def _stray(visits: Visits) -> Iterator[Anomaly]:
    """A message that was refused (T1, S10), or that nobody sent, or a doubled one (S2)."""
    for session, read in visits.final.items():
        for text, times in Counter(texts(read)).items():
            sends = [op for op in visits.sends.get(text, ()) if op.argument["session"] == session]
            if not sends:
                message = f"nobody sent {text!r} to {session}"
                also = (Promise.C5,) if text in visits.sends else ()
                yield Anomaly(Promise.S2, message, (read,), "stray-message", also=also)
            elif all(_is_refused(op) for op in sends):
                broken = Promise.T1 if sends[-1].outcome is Outcome.OK else Promise.S10
                message = f"{text!r} was refused, and is there"
                yield Anomaly(broken, message, (sends[-1], read), "refused-message")
            elif times > 1:
                message = f"{text!r} was sent once, and is there {times} times"
                yield Anomaly(
                    Promise.S2, message, (sends[-1], read), "doubled-message", also=(Promise.S13,)
                )


def _is_refused(send: Operation) -> bool:
    if send.outcome is Outcome.OK:
        return bool(send.result["status"] == CONFLICT)
    return send.outcome is Outcome.FAIL


def _disordered(visits: Visits) -> Iterator[Anomaly]:
    """Two messages in another order than that in which they were sent (S2)."""
    for session, read in visits.final.items():
        place = places(texts(read))
        sent = [op for op in visits.accepted_in.get(session, ()) if op.argument["text"] in place]
        latest: Operation | None = None
        for later in sent:
            at = place[later.argument["text"]]
            if latest and latest.precedes(later) and place[latest.argument["text"]] > at:
                message = f"{later.argument['text']!r} is there before one that was sent earlier"
                yield Anomaly(Promise.S2, message, (latest, later, read), "out-of-order")
            elif latest is None or at > place[latest.argument["text"]]:
                latest = later


def _resurrected(visits: Visits) -> Iterator[Anomaly]:
    """A message that was removed, and is there again (S6); or a session."""
    for session, cuts in visits.cuts.items():
        for cut in (cut for cut in cuts if cut.outcome is Outcome.OK):
            gone = set(removed(cut)) - {""}
            for read in visits.reads.get(session, ()):
                back = gone.intersection(text for _, text, _ in rows(read))
                if back and cut.precedes(read):
                    message = f"{min(back)!r} was removed, and is there again"
                    yield Anomaly(Promise.S6, message, (cut, read), "resurrected")
    for session, deletes in visits.deletes.items():
        for delete in (delete for delete in deletes if delete.outcome is Outcome.OK):
            seen = [*visits.reads.get(session, ()), *visits.accepted_in.get(session, ())]
            listed = [op for op in visits.done("sessions") if session in op.result]
            for look in [look for look in (*seen, *listed) if delete.precedes(look)][:1]:
                message = f"{session} was deleted, and is there again"
                yield Anomaly(Promise.S6, message, (delete, look), "resurrected")


def _gone(visits: Visits) -> Iterator[Anomaly]:
    """A session that nobody deleted, and that is not there (S2)."""
    made = {op.argument["session"]: op for op in visits.done("new")}
    for session, new in made.items():
        if visits.deletes.get(session):
            continue
        for read in visits.all("read", "status"):
            if read.argument["session"] == session and ": 404 " in read.error:
                yield Anomaly(Promise.S2, f"{session} is gone", (new, read), "lost-session")
        for listed in visits.done("sessions"):
            if new.precedes(listed) and session not in listed.result:
                message = f"{session} is not listed"
                yield Anomaly(Promise.S11, message, (new, listed), "lost-session")


def _differs_on_disk(visits: Visits) -> Iterator[Anomaly]:
    """What the server said when all was quiet, and the disk says otherwise (S2, H3)."""
    for kept in visits.done("kept"):
        session = kept.argument["session"]
        said = [op for op in visits.reads.get(session, ()) if op.precedes(kept)]
        if said and visits.final and not visits.deletes.get(session):
            there = kept.result["rows"] if kept.result else None
            if there != said[-1].result["rows"]:
                message = f"{session} was read, and the disk says otherwise"
                also = (Promise.H3,)
                yield Anomaly(Promise.S2, message, (said[-1], kept), "not-on-disk", also=also)


def _pending(visits: Visits) -> Iterator[Anomaly]:
    """A message that is still pending when all is quiet (S13, T3)."""
    for read in visits.final.values():
        if read.result["pending"] is not None:
            message = f"{read.result['pending']!r} is pending, and nobody works on it"
            yield Anomaly(Promise.S13, message, (read,), "never-settled", also=(Promise.T3,))


# How turns ended


def _mismarked(visits: Visits) -> Iterator[Anomaly]:
    """A turn that is marked as what never befell it."""
    for session, read in visits.final.items():
        there = rows(read)
        for place, (role, text, mark) in enumerate(there):
            sends = [op for op in visits.sends.get(text, ()) if not _is_refused(op)]
            if role == "user" and sends and sends[-1].argument["session"] == session:
                after = there[place + 1] if place + 1 < len(there) else ("", "", "")
                reply = after if after[0] == "assistant" else ("", "", "")
                if reply[0] or not visits.removers(session, "the reply", sends[-1]):
                    yield from _of_turn(visits, sends[-1], mark, reply, read)


def _of_turn(
    visits: Visits, sent: Operation, mark: str, reply: tuple[str, str, str], read: Operation
) -> Iterator[Anomaly]:
    text = sent.argument["text"]
    deaths = visits.deaths_since(sent)
    is_refused = visits.is_refused_since(sent)
    run = sent.result["run"] if sent.outcome is Outcome.OK else None
    cancels = [] if run is None else visits.cancels.get(run, [])
    was_told_to_go = any(death.function == "terminate" for death in deaths)
    may_be_cancelled = bool(cancels) or run is None or was_told_to_go or is_refused
    may_be_cancelled = may_be_cancelled or bool(visits.deletes.get(sent.argument["session"]))
    evidence = (sent, *cancels[:1], *deaths[:1], read)
    if mark == "interrupted" and not deaths and not is_refused:
        message = f"nothing befell the turn of {text!r}, and it is marked as interrupted"
        yield Anomaly(Promise.S13, message, evidence, "live-run-repaired", also=(Promise.S7,))
    elif mark == "cancelled" and not may_be_cancelled:
        message = f"nobody cancelled the turn of {text!r}, and it is marked so"
        yield Anomaly(Promise.T4, message, evidence, "cancelled-by-nobody")
    elif not mark and HOLDS.search(text) and not reply[2]:
        # An agent that hangs is let go by nothing but its being closed.
        broken = Promise.A2 if "[hang]" in text else Promise.T3
        message = f"the turn of {text!r} goes on for ever, and is said to be done"
        yield Anomaly(broken, message, evidence, "done-too-soon", also=(Promise.T4,))
    error = reply[2].removeprefix("error: ") if reply[2].startswith("error") else ""
    is_full = "SpawnRefusedError" in error  # so many processes, and no more, is a promise too
    if error and not FAILS.search(text) and not is_refused and not is_full:
        broken = Promise.A2 if "was closed" in error else Promise.T3
        message = f"the turn of {text!r} had no reason to fail: {error}"
        yield Anomaly(broken, message, evidence, "failed")
    yield from _of_reply(visits, sent, mark or reply[2], reply[1], evidence)


def _of_reply(
    visits: Visits, sent: Operation, mark: str, said: str, evidence: tuple[Operation, ...]
) -> Iterator[Anomaly]:
    """A reply that is not whole, not of this session, or without what was shown (S13, T4, T7)."""
    text, session = sent.argument["text"], sent.argument["session"]
    counts = map(int, TOKENS.findall(text))
    tokens = "".join(f"{number} " for count in counts for number in range(count))
    last = _LAST_WORDS.search(said)
    if last and last[2] != session:
        message = f"{session} was answered as {last[2]}"
        yield Anomaly(Promise.T7, message, evidence, "mistaken-identity", also=(Promise.W6,))
        return
    start = said.removesuffix(last[0]) if last else said
    is_whole = last is not None and start == tokens
    if not (is_whole if not mark else tokens.startswith(start)):
        message = f"{text!r} was answered with {said!r}"
        yield Anomaly(Promise.S2, message, evidence, "lost-reply", also=(Promise.S13, Promise.T4))
        return
    run = sent.result["run"] if sent.outcome is Outcome.OK else ""
    for relay in visits.relays.get(run, ()):
        was_seen = said.startswith if relay.argument["after"] is None else said.__contains__
        if not was_seen(shown(relay)):
            broken = Promise.T4 if mark == "cancelled" else Promise.S13
            message = f"{shown(relay)!r} was shown of {text!r}, and {said!r} is there"
            yield Anomaly(broken, message, (*evidence[:-1], relay, evidence[-1]), "lost-tokens")


def _orphaned(visits: Visits) -> Iterator[Anomaly]:
    """A reply that answers nothing: somebody answered twice, or to what is lost (S13)."""
    for session, read in visits.final.items():
        if visits.cuts.get(session):
            continue
        before = ""
        for role, text, _ in rows(read):
            if role == "assistant" and before in ("", "assistant"):
                message = f"{text!r} answers nothing"
                yield Anomaly(Promise.S13, message, (read,), "orphaned-reply", also=(Promise.T3,))
            before = role


RULES: tuple[Rule, ...] = (
    _two_at_once,
    _registered_twice,
    _offered_wrongly,
    _resurrected,
    _gone,
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
