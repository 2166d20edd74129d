"""Checks what a server that is only declared promised: messages, streams, bad input, and rest.

The first operation of an episode is `boot`: its result says what the server's file declares, such
as the promises that it does not make by design. Words are unique, so each one shows by itself
where its message went. A call is *lost* if no answer came, though the server was not killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from harness.checkers.event_order import last_number
from harness.checkers.growth import Controls, GrowsWithin, Limit
from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.sse import Frame
from harness.core.verdict import Anomaly, Verdict

FAILED, REFUSED, OK = 500, 400, 200
CPU_SHARE_MAX = 0.1
WAKEUPS_MAX = 250  # a second, of a server without clients: a loop that polls each 4 ms
MEMORY_BYTES = 2048.0  # a session that is deleted may keep so much, and all of them the slack
MEMORY_SLACK_BYTES = 400_000.0
ORDINARY = ("create", "send", "recall", "listing", "delete", "visit", "answers", "use", "follow")
GROWTH = GrowsWithin(
    limits=(
        Limit("gauge *", promises.L9, 0.02),
        Limit("threads", promises.H8, 0.02),
        Limit("descriptors", promises.H8, 0.02),
        Limit("children", promises.H8, 0.02),
        Limit("memory_bytes", promises.L9, MEMORY_BYTES, MEMORY_SLACK_BYTES),
    ),
    warm_up=100,
    controls=Controls("control_grows", "control_steady", MEMORY_BYTES),
)

_Broken = tuple[Promise, str, tuple[Operation, ...], str, str]
Rule = Callable[[History, Mapping[str, Any]], Iterator[_Broken]]
_ALSO = {  # what the same evidence breaks besides
    promises.S15: (promises.S2,),
    promises.C11: (promises.H8,),
    promises.C10: (promises.H4,),
    promises.S6: (promises.S15,),
}


def check_any_server(history: History) -> Verdict:
    """Judge one episode by every rule, but for what the file declares as design."""
    boots = history.happened.of("boot")
    if not boots:
        return Verdict(unknowns=("the server did not boot",))
    declared = boots[0].result
    anomalies: dict[str, Anomaly] = {}
    for rule in _RULES:
        for promise, message, evidence, expected, observed in rule(history, declared):
            if promise.id not in declared["design"]:
                also = tuple(p for p in _ALSO.get(promise, ()) if p.id not in declared["design"])
                anomaly = Anomaly(
                    promise, message, evidence, also=also, expected=expected, observed=observed
                )
                anomalies.setdefault(anomaly.signature, anomaly)
    return Verdict(tuple(anomalies.values()), unknowns=tuple(_unread(history)))


def check_any_growth(history: History) -> Verdict:
    """Judge the episode, and what deleted sessions left."""
    judged, growth = check_any_server(history), GROWTH(history)
    boots = history.happened.of("boot")
    design = boots[0].result["design"] if boots else ()
    grown = tuple(
        replace(a, also=(promises.H4,)) for a in growth.anomalies if a.promise.id not in design
    )
    return Verdict((*judged.anomalies, *grown), unknowns=(*judged.unknowns, *growth.unknowns))


def _unread(history: History) -> Iterator[str]:
    """Streams of which nothing is known, and calls that the harness could not make."""
    for read in history.happened.of("followed"):
        if read.result["unread"]:
            yield f"{read.call}: {read.result['unread']}"
    for operation in history:
        if operation.outcome is Outcome.FAIL and not _is_down(operation):
            yield f"the harness failed: {operation}"


def _is_down(operation: Operation) -> bool:
    return operation.error.startswith("NotReachedError")


def _lost(history: History, _: Mapping[str, Any]) -> Iterator[_Broken]:
    """Ordinary calls without an answer, or with a failure of the server."""
    kills = history.of("kill")
    for operation in history.of(*ORDINARY):
        if any(operation.meets(kill) for kill in kills) or operation.is_unanswered:
            continue
        name = operation.function
        if operation.outcome is Outcome.INFO or _is_down(operation):
            what = f"{name} was not answered"
            yield promises.H2, what, (operation,), "an answer", operation.error
        elif operation.outcome is Outcome.OK and isinstance(operation.result, Mapping):
            statuses = [operation.result.get("status", OK)]
            statuses += operation.result.get("statuses", {}).values()
            if max(statuses) >= FAILED:
                what = f"{name} failed"
                yield promises.H2, what, (operation,), "no status 5xx", f"status {max(statuses)}"


def _bad_input(history: History, declared: Mapping[str, Any]) -> Iterator[_Broken]:
    for operation in history.happened.of("offend"):
        bad, status = operation.argument["bad"], operation.result["status"]
        if bad in declared["accepted"] or bad.partition(" ")[2] in declared["accepted"]:
            continue
        if status == 0:
            yield promises.H2, f"{bad}: no answer", (operation,), "a status 4xx", "no answer"
        elif status >= FAILED or operation.result["trace"]:
            observed = f"status {status}" + ", a stack trace" * operation.result["trace"]
            yield promises.H2, f"{bad}: the server failed", (operation,), "a status 4xx", observed
        elif status < REFUSED and operation.argument["refuse"]:
            what = f"{bad}: was accepted"
            yield promises.H2, what, (operation,), "a status 4xx", f"status {status}"


def _sends(history: History) -> Iterator[Operation]:
    """The sends that were acknowledged."""
    return (send for send in history.happened.of("send") if send.result["done"])


def _owner(history: History) -> dict[str, str]:
    return {send.argument["word"]: send.argument["session"] for send in history.of("send")}


def _messages(history: History, declared: Mapping[str, Any]) -> Iterator[_Broken]:
    """What a session recalls: every acknowledged message, once, and nothing else."""
    owner = _owner(history)
    kills = history.of("kill")
    for recall in history.happened.of("recall"):
        session, words = recall.argument["session"], Counter(recall.result["words"])
        if any(d.argument["session"] == session for d in history.of("delete")):
            continue
        before = [
            s for s in _sends(history) if s.argument["session"] == session and s.precedes(recall)
        ]
        if recall.result["status"] >= REFUSED:
            if recall.result["status"] < FAILED:
                what = "a session that was opened is refused"
                observed = f"status {recall.result['status']}"
                yield promises.S15, what, (*before[-1:], recall), "its messages", observed
            continue
        for send in before:
            word = send.argument["word"]
            if words[word]:
                continue
            killed = any(send.precedes(kill) and kill.precedes(recall) for kill in kills)
            promise = promises.S2 if killed and declared["keeps"] else promises.S15
            what = "an acknowledged message is missing" + " after a kill" * killed
            yield promise, what, (send, recall), f"{word} among them", f"{len(words)} messages"
        for word, count in words.items():
            if owner.get(word, session) != session:
                what = "a message of another session is there"
                yield promises.C5, what, (recall,), f"messages of {session}", word
            elif count > 1 and "history" in declared["has"]:
                what = "a message is there more than once"
                yield promises.S2, what, (recall,), f"{word} once", f"{count} times"


def _refusals(history: History, declared: Mapping[str, Any]) -> Iterator[_Broken]:
    """Messages that were refused though nothing was wrong with them, or taken all the same."""
    sends = history.happened.of("send")
    deleted = {op.argument["session"] for op in history.of("delete")}
    for send in sends:
        session, word = send.argument["session"], send.argument["word"]
        if send.result["done"] or send.result["status"] >= FAILED:
            continue
        for recall in history.happened.of("recall"):
            if word in recall.result["words"] and send.precedes(recall):
                what = "a message that was refused is there"
                yield promises.H2, what, (send, recall), f"no {word}", f"{word} among the messages"
        others = [o for o in sends if o is not send and o.argument["session"] == session]
        beside = [other for other in others if other.meets(send)]
        is_slow = any(other.argument.get("slow") for other in others)
        may_refuse = is_slow or any(other.result["done"] for other in beside)
        if session in deleted:
            continue
        if declared["concurrent"] == "refuse" and may_refuse:
            continue
        promise = promises.T1 if beside else promises.S15
        what = "a send beside another was refused" if beside else "a send was refused"
        yield promise, what, (*beside[:1], send), "it is taken", send.answer


def _openings(history: History, _: Mapping[str, Any]) -> Iterator[_Broken]:
    """Sessions that could not be opened."""
    for use in history.happened.of("use"):
        if use.result["done"] < use.argument["sessions"]:
            yield promises.H2, "sessions were refused", (use,), "all of them", use.answer
    for create in history.happened.of("create"):
        if not create.result["done"] and create.result["status"] < FAILED:
            what = "a session was not opened"
            yield promises.H2, what, (create,), "a session with an id", create.answer


def _turns(history: History, declared: Mapping[str, Any]) -> Iterator[_Broken]:
    """A second turn that began while the first one was still at work."""
    if declared["concurrent"] != "refuse":
        return
    for first in _sends(history):
        if not first.argument.get("slow"):
            continue
        until_ns = first.invoked_ns + declared["slow_s"] * 1e9
        for second in _sends(history):
            is_same = second.argument["session"] == first.argument["session"]
            if is_same and first.precedes(second) and (second.completed_ns or until_ns) < until_ns:
                what = "a second turn began during the first"
                yield promises.T1, what, (first, second), "it is refused", second.answer


def _listings(history: History, _: Mapping[str, Any]) -> Iterator[_Broken]:
    """The list shows what was opened, and not what was deleted."""
    for listing in history.happened.of("listing"):
        shown = set(listing.result["sessions"])
        deleted = {
            op.argument["session"]: op for op in history.happened.of("delete") if op.result["done"]
        }
        for create in history.happened.of("create"):
            name = create.argument["session"]
            tried = any(op.argument["session"] == name for op in history.of("delete"))
            is_made = create.result["done"] and create.precedes(listing)
            if is_made and not tried and name not in shown and listing.result["status"] < REFUSED:
                what = "a session that was opened is not listed"
                yield promises.S15, what, (create, listing), name, listing.answer
        for name, delete in deleted.items():
            if delete.precedes(listing) and name in shown:
                what = "a session that was deleted is listed"
                yield promises.S6, what, (delete, listing), f"no {name}", listing.answer
    for visit in history.happened.of("visit"):
        if not visit.result["gone"] and visit.result["status"] < FAILED:
            what = "a session that was deleted is still there"
            yield promises.S6, what, (visit,), "it is gone", visit.answer


def _readers(history: History) -> Iterator[tuple[Operation, Operation]]:
    """Each reader: how it was opened, and what it saw at last."""
    last = {read.argument["reader"]: read for read in history.happened.of("followed")}
    for opened in history.happened.of("follow"):
        if opened.result["status"] == OK and opened.argument["reader"] in last:
            yield opened, last[opened.argument["reader"]]


def _ids(read: Operation) -> list[str]:
    return [event["id"] for event in read.result["events"] if event["id"] is not None]


def _streams(history: History, declared: Mapping[str, Any]) -> Iterator[_Broken]:
    """Each reader by itself: order, doubles, gaps, and events of others."""
    owner = _owner(history)
    for opened, read in _readers(history):
        yield from _of_ids(_ids(read), declared["order"], (opened, read))
        session = opened.argument["session"]
        yield from _foreign(read.result["events"], session, owner, (opened, read))
        if read.result["missing"] and not read.result["unread"]:
            promise, what = promises.C3, "a reader missed acknowledged messages"
            if read.argument.get("beside") == "stalled":
                promise, what = promises.C8, "a reader beside a stalled one missed messages"
            elif opened.argument.get("after") is not None:
                promise, what = promises.C4, "a reader that resumed missed messages"
            without = f"without {read.result['missing'][0]}"
            yield promise, what, (opened, read), "all of them", without
    for send in _sends(history):
        ids = [event["id"] for event in send.result["events"] if event["id"] is not None]
        yield from _of_ids(ids, declared["order"], (send,))
        session = send.argument["session"]
        yield from _foreign(send.result["events"], session, owner, (send,))


def _foreign(
    events: list[dict[str, Any]],
    session: str,
    owner: Mapping[str, str],
    evidence: tuple[Operation, ...],
) -> Iterator[_Broken]:
    """Events that carry a message of another session."""
    for event in events:
        for word in event["words"]:
            if owner.get(word, session) != session:
                what = "a stream has a message of another session"
                yield promises.C5, what, evidence, f"events of {session}", word


def _of_ids(ids: list[str], order: str, evidence: tuple[Operation, ...]) -> Iterator[_Broken]:
    if not order:
        return
    if twice := [id_ for id_, count in Counter(ids).items() if count > 1]:
        what = "a stream has an event twice"
        yield promises.C2, what, evidence, "each id once", f"{twice[0]} {ids.count(twice[0])} times"
        return
    numbers = [last_number(Frame(id_.encode(), b"", b"")) for id_ in ids]
    if order == "opaque" or None in numbers:
        return
    for before, after in pairwise(number for number in numbers if number is not None):
        if after < before:
            what = "a stream is out of order"
            yield promises.C1, what, evidence, f"an id above {before}", str(after)
        elif order == "plus-one" and after != before + 1:
            what = "a stream skips an event"
            yield promises.C3, what, evidence, str(before + 1), str(after)


def _resumed(history: History, declared: Mapping[str, Any]) -> Iterator[_Broken]:
    """A reader that resumes gets what one who was there from the start got after that id."""
    if not declared["order"]:
        return
    readers = list(_readers(history))
    whole = {o.argument["session"]: (o, r) for o, r in readers if o.argument.get("after") is None}
    for opened, read in readers:
        after, session = opened.argument.get("after"), opened.argument["session"]
        ids = _ids(whole[session][1]) if session in whole else []
        if after is None or after not in ids:
            continue
        expected, got = ids[ids.index(after) + 1 :], _ids(read)
        for wanted, seen in zip(expected, got, strict=False):
            if wanted != seen:
                what = "a stream did not resume behind the cursor"
                evidence = (*whole[session], opened, read)
                yield promises.C4, what, evidence, f"event {wanted}", f"event {seen}"
                break


def _rest(history: History, _: Mapping[str, Any]) -> Iterator[_Broken]:
    """What held, stalled and gone readers cost the server and others."""
    for answers in history.happened.of("answers"):
        for name, status in answers.result["statuses"].items():
            if REFUSED <= status < FAILED:
                what = f"{name} was refused while streams were held"
                yield promises.C10, what, (answers,), "status 200", f"status {status}"
    for settle in history.happened.of("settle"):
        left = settle.result["left"]
        for name in sorted(left):
            if left[name] >= settle.argument.get("readers", 1):
                what = f"readers left, but their {name} stayed"
                expected = f"at most {settle.argument['first'][name]}"
                yield promises.C11, what, (settle,), expected, f"{left[name]} more"
    for idle in history.happened.of("idle"):
        if idle.result["cpu_share"] > CPU_SHARE_MAX:
            what = "the idle server used the processor"
            observed = f"{idle.result['cpu_share']:.0%} of a core"
            yield promises.H5, what, (idle,), f"at most {CPU_SHARE_MAX:.0%}", observed
        elif not idle.argument["held"] and idle.result["wakeups_per_s"] > WAKEUPS_MAX:
            what = "the idle server woke up again and again"
            observed = f"{idle.result['wakeups_per_s']} a second"
            yield promises.H5, what, (idle,), f"at most {WAKEUPS_MAX} a second", observed


_RULES: tuple[Rule, ...] = (
    *(_lost, _bad_input, _openings, _messages, _refusals, _turns, _listings),
    *(_streams, _resumed, _rest),
)
