"""Checks what clients of a server see through a network whose faults come and go.

The faults are the intervals of the history. Under one that loses connections (`LOSING`) a call may
end in any way, but what came before the loss is judged: an acknowledged message, and each whole
event. A call that meets other faults, or none, must be answered. A lost answer leaves both: the
message may be there, once, or not.

A target that shows exactly what the scripted agent produced returns `rows` beside the messages.
Then each event of a run, and each message, is predicted from the script of its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.contract import promises
from harness.contract.agent_script import ReplyEnd, Script
from harness.contract.models.run_stream import TERMINAL
from harness.contract.models.transcripts import USER, parts
from harness.core.contract import Promise
from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

LOSING = ("network: reset", "network: close", "network: half-open")
STALL, STALLED_S_MAX = "network: stall", 5.0
OK = 200
ACCEPTED = {"status": OK, "active": None}
GONE = "gone"  # the server has no stream of the run: nothing is known of it
ENDS = ("closed", "lost", "open", GONE)
# How the error of a call that was not done begins: of a request that came in part, or not at all.
REFUSED = ("StatusError", "UnknownError", "NotReachedError", "UnreadableStreamError")
# A promise, the kind of violation, the evidence, what was expected, and what was observed.
_Broken = tuple[Promise, str, tuple[Operation, ...], str, str]
_Rule = Callable[[History], Iterator[_Broken]]


def check_bad_network(history: History) -> Verdict:
    """Judge the messages, the reads and the direct calls; of each signature the first is kept."""
    found: dict[str, Anomaly] = {}
    for rule in _RULES:
        for promise, what, evidence, expected, observed in rule(history):
            anomaly = Anomaly(
                promise,
                what,
                evidence,
                also=_ALSO.get(promise.id, ()),
                expected=expected,
                observed=observed,
            )
            found.setdefault(anomaly.signature, anomaly)
    cut = [f"cut short: {op}" for op in history if op.is_unanswered]
    return Verdict(tuple(found.values()), unknowns=tuple(cut))


def loses(fault: FaultInterval) -> bool:
    """Whether connections are lost under this fault; a long stall outlasts a client's patience."""
    lasted_ns = None if fault.healed_ns is None else fault.healed_ns - fault.began_ns
    is_long = lasted_ns is None or lasted_ns > STALLED_S_MAX * 1e9
    return fault.name.startswith(LOSING) or (fault.name.startswith(STALL) and is_long)


def may_be_lost(history: History, operation: Operation) -> bool:
    """Whether a fault that loses connections was active during the call, and lay in its way.

    A lost call has no end in the history; no fault begins while a call is on its way.
    """
    until_ns = operation.completed_ns or operation.invoked_ns
    return bool(operation.argument.get("far")) and any(
        fault.began_ns <= until_ns
        and (fault.healed_ns is None or fault.healed_ns >= operation.invoked_ns)
        for fault in history.faults
        if loses(fault)
    )


def _answers(history: History) -> Iterator[_Broken]:
    """Calls that no fault can have lost, and that were not answered, or refused."""
    for operation in history:
        is_bad = may_be_lost(history, operation)
        if operation.is_unanswered or (is_bad and operation.outcome is Outcome.INFO):
            continue
        name, way = operation.function, "slow" if operation.argument.get("far") else "good"
        way = "bad" if is_bad else way
        if is_bad and operation.error.startswith(REFUSED):
            continue
        if operation.outcome is not Outcome.OK:
            what = f"{name} failed over a {way} network"
            yield _of_calls(operation), what, (operation,), "an answer", operation.error
        elif name == "deliver" and operation.result != ACCEPTED:
            what = f"a fresh session refused a message over a {way} network"
            yield promises.T1, what, (operation,), f"{ACCEPTED}", f"{operation.result}"
        elif name in ("new", "reach") and operation.result is not None:
            what = f"{name} answers something"
            yield promises.H2, what, (operation,), "None", f"{operation.result}"
        elif name == "health" and operation.result != OK:
            what = "health was not well beside a bad network"
            yield promises.C10, what, (operation,), "status 200", f"status {operation.result}"
        elif name == "wait_idle" and not operation.result:
            what = "a session stayed busy after a bad network"
            yield promises.T3, what, (operation,), "an idle session", "a busy one"


def _of_calls(operation: Operation) -> Promise:
    if operation.argument.get("far"):
        return promises.H6
    return promises.C10 if operation.function == "health" else promises.C8


def _messages(history: History) -> Iterator[_Broken]:
    """Acknowledged messages are there once, the others once or not at all."""
    sends = {send.argument["text"]: send for send in history.of("deliver")}
    for read in history.happened.of("messages"):
        session, result = read.argument["session"], read.result
        texts = [text for role, text, *_ in result["said"] if role == "user"]
        texts += [result["pending"]] if result["pending"] else []
        counts = Counter(texts)
        for text, send in sends.items():
            is_here = send.argument["session"] == session
            known = send.outcome is Outcome.OK and send.result["status"] == OK
            if counts[text] and not is_here:
                what = "a message is in another session"
                yield promises.C5, what, (send, read), f"nothing of it in {session}", text
            elif counts[text] > 1:
                what = "a message is there more than once"
                yield promises.S2, what, (send, read), "once", f"{counts[text]} times"
            elif is_here and known and send.precedes(read) and not counts[text]:
                what = "an acknowledged message is missing"
                yield promises.S2, what, (send, read), repr(text), f"{texts}"


def _reads(history: History) -> Iterator[_Broken]:
    """Each read by itself: behind its cursor, in order, without a gap, to one end."""
    reads = history.happened.of("follow")
    last = {(r.argument["run"], id_) for r in reads for id_, name in _named(r) if name in TERMINAL}
    for read in reads:
        after, events = read.argument["after"], read.result["events"]
        if read.result["end"] not in ENDS:
            what, observed = "a stream has no end", f"{read.result['end']!r}"
            yield promises.C6, what, (read,), f"one of {', '.join(ENDS)}", observed
        ids, names = [id_ for id_, *_ in events], [name for _, name, _ in events]
        if broken := _out_of_order(after, ids):
            yield *broken, (read,), f"{after + 1}, {after + 2} and so on", f"{ids}"
            continue
        ends = [name for name in names if name in TERMINAL]
        if ends[:1] != names[-1:] and ends:
            what = "a stream went on after its end"
            yield promises.C6, what, (read,), f"{ends[0]} as the last event", f"{names}"
            continue
        if read.result["end"] == GONE:
            continue
        if may_be_lost(history, read) or (read.argument["run"], after) in last:
            continue  # nothing follows the end
        if read.result["end"] != "closed" or not ends:
            what = "a stream that was resumed lacks its end" if after else "a stream lacks its end"
            observed = f"{read.result['end']} behind {names[-1:] or 'nothing'}"
            promise = promises.C4 if after else promises.C3
            yield promise, what, (read,), f"closed behind one of {', '.join(TERMINAL)}", observed


def _named(read: Operation) -> Iterator[tuple[int | None, str]]:
    return ((id_, name) for id_, name, _ in read.result["events"])


def _out_of_order(after: int, ids: list[int | None]) -> tuple[Promise, str] | None:
    numbers = [number for number in ids if number is not None]
    if len(numbers) < len(ids):
        return promises.C5, "a stream has an event of another stream"
    if numbers == [*range(after + 1, after + 1 + len(numbers))]:
        return None
    if len(set(numbers)) < len(numbers):
        return promises.C2, "a stream has an event twice"
    if numbers != sorted(numbers):
        return promises.C1, "a stream is out of order"
    if after and numbers[0] != after + 1:
        return promises.C4, "a stream was not resumed behind the cursor"
    return promises.C3, "a stream has a gap"


def _contents(history: History) -> Iterator[_Broken]:
    """All reads of a run show the same events, and end at the same one."""
    seen: dict[tuple[str, int], tuple[list[Any], Operation]] = {}
    for read in history.happened.of("follow"):
        for event in read.result["events"]:
            if event[0] is None:
                continue
            first, by = seen.setdefault((read.argument["run"], event[0]), (event, read))
            if first != event:
                what = "an event is another one when it is read again"
                yield promises.C4, what, (by, read), f"{first}", f"{event}"


def _scripted(history: History) -> Iterator[_Broken]:
    """Each event and each message is what the script of its turn says."""
    sends = {send.argument["session"]: send for send in history.of("deliver")}
    reads = history.happened.of("messages")
    if not any("rows" in read.result for read in reads):
        return
    for read in history.happened.of("follow"):
        if (send := sends.get(read.argument["run"])) is None:
            continue
        wanted = _events(send.argument)
        for number, *event in read.result["events"]:
            if number is not None and event not in wanted[number - 1 : number]:
                what = "an event is not that of the turn's script"
                yield promises.C3, what, (read,), f"{wanted[number - 1 : number]}", f"{event}"
        after = read.argument["after"]
        is_whole = read.result["end"] == "closed" and not may_be_lost(history, read)
        if is_whole and len(read.result["events"]) != len(wanted[after:]):
            what, observed = "a stream has other events than its run", f"{read.result['events']}"
            yield promises.C3, what, (read,), f"{wanted[after:]}", observed
    for read in reads:
        send = sends.get(read.argument["session"])
        if send is None or send.invoked_ns > read.invoked_ns:
            continue
        allowed = list(_transcripts(send))
        if read.result not in allowed:
            what = "the messages are not those of the turn"
            yield promises.S2, what, (send, read), f"one of {allowed}", f"{read.result}"


def _events(argument: Mapping[str, Any]) -> list[list[str]]:
    """The name and text of each event of a completed turn, the first of its session."""
    body = parts(Script.parse(argument["text"]))
    last = str(ReplyEnd(1, argument["session"]))
    return [*map(list, body), ["token", last], ["done", ""], ["stream_end", ""]]


def _transcripts(send: Operation) -> Iterator[dict[str, Any]]:
    """What the session may show behind the end of the turn; one that was lost may be missing."""
    text = send.argument["text"]
    reply = "".join(shown for name, shown in _events(send.argument) if name == "token")
    said = [[USER, text, ""], ["assistant", reply, ""]]
    rows = [[*said[0], USER], [*said[1], ""]]
    yield {"said": said, "woken": [], "rows": rows, "pending": None}
    if send.outcome is not Outcome.OK:
        for pending in (None, text):
            yield {"said": [], "woken": [], "rows": [], "pending": pending}


_ALSO = {
    "C8": (promises.C10,),
    "H6": (promises.C10, promises.C6),
    "T1": (promises.T8,),
    "C6": (promises.C3,),
    "C4": (promises.C3,),
    "S2": (promises.S14,),
}
_RULES: tuple[_Rule, ...] = (_answers, _messages, _reads, _contents, _scripted)
