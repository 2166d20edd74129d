"""What the users of a load were answered, compared with each other."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from harness.contract import promises
from harness.contract.checkers.server.stream_reader import TERMINAL
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly

OK, CONFLICT = 200, 409


def is_disturbed(history: History, operation: Operation) -> bool:
    """Whether a fault was going on while the operation was."""
    return any(
        (operation.completed_ns is None or fault.began_ns <= operation.completed_ns)
        and (fault.healed_ns is None or fault.healed_ns >= operation.invoked_ns)
        for fault in history.faults
    )


def unanswered_polls(history: History) -> Iterator[Anomaly]:
    """An ordinary call that is refused while every stream is taken (C10)."""
    polls = history.happened.of("poll")
    for hold in history.happened.of("hold"):
        if not hold.result["is_full"]:
            continue
        began_ns, ended_ns = hold.result["full_ns"]
        for poll in polls:
            assert poll.completed_ns is not None
            is_meanwhile = began_ns < poll.invoked_ns and poll.completed_ns < ended_ns
            if is_meanwhile and poll.result["status"] != OK:
                yield Anomaly(
                    promises.C10,
                    f"GET {poll.argument['path']} failed while all streams were taken",
                    (hold, poll),
                    expected=f"status {OK} while {hold.result['held']} streams are open",
                    observed=f"status {poll.result['status']}",
                )


def _unexplained(history: History) -> Iterator[Anomaly]:
    """A call that failed while no fault was active; a run's journal may be gone later (C10)."""
    for op in history:
        is_old = op.function == "read" and ": 404 " in op.error
        if op.outcome is Outcome.OK or is_old or is_disturbed(history, op):
            continue
        yield Anomaly(
            promises.C10,
            f"{op.call} was not answered under load",
            (op,),
            also=(promises.H6, promises.C6),
            expected="an answer: no fault was active",
            observed=op.answer,
        )
    for poll in history.happened.of("poll"):
        if poll.result["status"] != OK and not is_disturbed(history, poll):
            yield Anomaly(
                promises.C10,
                f"GET {poll.argument['path']} failed under load",
                (poll,),
                expected=f"status {OK}",
                observed=f"status {poll.result['status']}",
            )


def _held_streams(history: History) -> Iterator[Anomaly]:
    """A limit on streams that is reached too early or too late (C10)."""
    for hold in history.happened.of("hold"):
        held = hold.result["held"]
        most = hold.argument.get("streams", held)
        began_ns, ended_ns = hold.result["full_ns"]
        is_ordered = hold.invoked_ns <= began_ns <= ended_ns <= (hold.completed_ns or ended_ns)
        # A holder with a limit opens one stream more: without a refusal there was no limit.
        is_limited = "streams" not in hold.argument or hold.result["is_full"]
        if not is_limited or (hold.result["is_full"] and held != most) or not is_ordered:
            yield Anomaly(
                promises.C10,
                "the server refused a stream at another number than its limit",
                (hold,),
                expected=f"{most} streams, and then a refusal",
                observed=f"{held} streams",
            )


def _confused_ids(history: History) -> Iterator[Anomaly]:
    """An id given twice, a status that is none, or a list with a session twice (S11, T1)."""
    for function, field, promise in (
        ("new", "session", promises.S11),
        ("send", "stream", promises.T1),
    ):
        seen: dict[str, Operation] = {}
        for op in history.happened.of(function):
            id_ = op.result[field]
            is_wrong = function == "send" and op.result["status"] not in (OK, CONFLICT)
            is_wrong |= (id_ is None) != (function == "send" and op.result["status"] == CONFLICT)
            first = seen.setdefault(id_, op) if id_ is not None else op
            if is_wrong or first is not op:
                yield Anomaly(
                    promise,
                    f"{op.call} was answered with an id that is no new one",
                    (op,) if first is op else (first, op),
                    expected=f"a {field} of its own",
                    observed=op.answer,
                )
    for listed in history.happened.of("list"):
        if len(set(listed.result)) != len(listed.result):
            yield Anomaly(
                promises.S11,
                "list() returned a session twice",
                (listed,),
                expected="each session once",
                observed=listed.answer,
            )


def _stored_otherwise(history: History) -> Iterator[Anomaly]:
    """Messages that are stored in another order or number than they were sent (S2)."""
    sends: defaultdict[str, list[Operation]] = defaultdict(list)
    reads = history.happened.of("read")
    finished = {op.argument["stream"] for op in reads if op.result["terminal"] == "stream_end"}
    for op in history:
        if op.function == "send" and op.outcome is not Outcome.FAIL:
            sends[op.argument["session"]].append(op)
    for look in history.happened.of("messages"):
        session = look.argument["session"]
        asked = sends[session]
        if any(op.outcome is not Outcome.OK for op in asked):
            continue
        wanted = [op.argument["text"] for op in asked if op.result["status"] == OK]
        begun = [op for op in asked if op.result["status"] == OK]
        started = Counter(output for op in begun for output in op.argument["outputs"])
        owed = Counter(
            output
            for op in begun
            if op.result["stream"] in finished
            for output in op.argument["outputs"]
        )
        woken = Counter(look.result["woken"])
        strange = not owed <= woken <= started
        if look.result["users"] != wanted or strange:
            yield Anomaly(
                promises.W6 if strange else promises.S2,
                f"messages({session!r}) differ from what was sent and started there",
                (look,),
                also=(promises.S2, promises.W1),
                expected=f"{wanted}, and wakeups by {sorted(started)}",
                observed=look.answer[:2000],
            )


def _miscounted_presses(history: History) -> Iterator[Anomaly]:
    """A press whose counts differ from its sends (W10)."""
    sends = history.happened.of("send")
    for press in history.happened.of("press"):
        refused = [
            op
            for op in sends
            if op.process == press.process
            and press.invoked_ns <= op.invoked_ns <= (press.completed_ns or 0)
            and op.result["status"] != OK
        ]
        wakeups = len({op.result["active"] for op in refused} - {None})
        counts = {"refusals": len(refused), "wakeups": wakeups}
        if press.result != counts:
            yield Anomaly(
                promises.W10,
                "a press counts other refusals than its sends",
                (press,),
                expected=f"{counts}",
                observed=press.answer,
            )


def _unknown_sessions(history: History) -> Iterator[Anomaly]:
    """A session that no call made, or a list that lacks one (S11)."""
    made = {op.result["session"]: op for op in history.happened.of("new")}
    if not made or any(op.outcome is not Outcome.OK for op in history if op.function == "new"):
        return
    for op in history.happened.of("send"):
        if op.argument["session"] not in made:
            yield Anomaly(
                promises.S11,
                f"{op.call} found a session that no answer named",
                (op,),
                expected="a session of an answer to new()",
                observed=op.argument["session"],
            )
    for listed in history.happened.of("list"):
        known = {id_ for id_, new in made.items() if new.precedes(listed)}
        later = {id_ for id_, new in made.items() if not listed.precedes(new)}
        if not known <= set(listed.result) <= known | later:
            yield Anomaly(
                promises.S11,
                "list() returned other sessions than those that were made",
                (listed,),
                also=(promises.S15,),
                expected=f"{sorted(known)}",
                observed=listed.answer[:2000],
            )


def _strange_ends(history: History) -> Iterator[Anomaly]:
    """A run's stream, or an end of a connection, that cannot be (C6, T1)."""
    sends = history.happened.of("send")
    lengths = {len(op.result["stream"]) for op in sends if op.result["stream"]}
    for op in sends:
        active = op.result["active"]
        if (active is not None and op.result["status"] == OK) or len(lengths) > 1:
            yield Anomaly(
                promises.T1,
                f"{op.call} was answered with a run that cannot be meant",
                (op,),
                expected="one run, with an id like all others",
                observed=op.answer,
            )
    for read in history.happened.of("read"):
        result = read.result
        is_over = bool(result["terminal"]) and result["end"] not in ("closed", "left", "silent")
        is_known = result["end"] in ("closed", "left", "lost", "silent")
        is_end = not result["terminal"] or result["terminal"].encode() in TERMINAL
        is_counted = 0 <= result["tokens"] <= result["events"] and result["comments"] >= 0
        if is_over or not (is_known and is_end and is_counted):
            yield Anomaly(
                promises.C6,
                f"a read of {read.argument['stream'] or read.argument['session']} cannot be",
                (read,),
                also=(promises.T3,),
                expected="an end of a connection, and a terminal event before it",
                observed=read.answer[:2000],
            )
    for stall in history.happened.of("stall"):
        if stall.result["end"] not in ("dropped", "held", "too soon to say"):
            yield Anomaly(
                promises.C8,
                "a stall ended in no way that a stall can end",
                (stall,),
                expected="dropped, held, or too soon to say",
                observed=f"{stall.result['end']}",
            )


def _misnumbered(history: History) -> Iterator[Anomaly]:
    """A connection whose numbers of events do not fit its first and its last one (C3)."""
    for read in history.happened.of("read"):
        if read.result["found"]:
            continue
        judge = _wrong_notices if read.argument["notices"] else _wrong_relay
        if expected := judge(read):
            result = read.result
            yield Anomaly(
                promises.C3,
                f"a read of {read.argument['stream']} has other numbers than its events",
                (read,),
                also=(promises.C2, promises.C4),
                expected=expected,
                observed=f"events {result['first']} to {result['last']}, {result['events']} in all"
                f", {result['snapshots']} snapshots",
            )


def _wrong_relay(read: Operation) -> str:
    """The numbers that a relay of a run should have, or "" if it has them.

    A snapshot replaces events that are not sent, so it never comes with a whole stream.
    """
    result, after = read.result, read.argument["after"] or 0
    first = None if result["events"] == 0 else after + 1
    last = after + result["events"]
    is_whole = result["first"] == first and result["last"] == last
    if result["snapshots"] > 0:
        return "no snapshot, as no event is missing" if is_whole else ""
    if result["snapshots"] < 0 or not is_whole or result["stream"] != read.argument["stream"]:
        return f"events {first} to {last} of {read.argument['stream']}"
    return ""


def _wrong_notices(read: Operation) -> str:
    """The numbers that notices should have, or "" if they have them; some have no number."""
    result, is_resumed = read.result, read.argument["after"] is not None
    first, last, events = result["first"], result["last"], result["events"]
    if result["snapshots"] < 0 or result["tokens"]:
        return "no snapshot, and no token: those are events of a run"
    if is_resumed or result["snapshots"]:
        return ""
    if first is None or result["stream"] is None:
        is_empty = (first, last, result["stream"]) == (None, None, None) and events >= 0
        return "" if is_empty else "no number and no stream"
    is_number = isinstance(first, int) and isinstance(last, int)
    if not is_number or not 1 <= first <= last or events < last - first + 1:
        return f"at least the events {first} to {last}"
    return ""


def _other_notices(history: History) -> Iterator[Anomaly]:
    """Notices of a session from two streams at once, or of two sessions from one (C5).

    A session without a reader may get another stream later.
    """
    owners: dict[str, Operation] = {}
    readers: defaultdict[str, list[Operation]] = defaultdict(list)
    lives_on = not history.faults and not history.of("kill", "terminate", "boot")
    for read in history.happened.of("read") if lives_on else ():
        result, session = read.result, read.argument["session"]
        if not read.argument["notices"] or not result["stream"] or result["snapshots"]:
            continue
        others = [op for op in readers[session] if not (op.precedes(read) or read.precedes(op))]
        first = next((op for op in others if op.result["stream"] != result["stream"]), read)
        readers[session].append(read)
        owner = owners.setdefault(result["stream"], read)
        if first is not read or owner.argument["session"] != session:
            yield Anomaly(
                promises.C5,
                f"the notices of {session} come from another stream than before",
                (owner if owner is not read else first, read),
                also=(promises.W7, promises.C4),
                expected=f"one stream for each session: {first.result['stream']}",
                observed=f"{result['stream']}",
            )


def _uneven_parts(history: History) -> Iterator[Anomaly]:
    """Reads of parts of one run that disagree on how many of its events are tokens (C2, C3)."""
    sends = history.happened.of("send")
    wanted = {op.result["stream"]: op.argument["tokens"] for op in sends}
    parts: defaultdict[str, list[Operation]] = defaultdict(list)
    for read in history.happened.of("read"):
        is_plain = not (read.argument["notices"] or read.result["snapshots"])
        if is_plain and read.result["events"] and not _wrong_relay(read):
            parts[read.argument["stream"]].append(read)
    for stream, reads in parts.items():
        most = wanted.get(stream)
        known = _tokens_up_to(reads)
        for read in reads:
            before, after = read.argument["after"] or 0, read.result["last"]
            tokens = read.result["tokens"]
            is_too_many = most is not None and tokens > most
            is_other = {before, after} <= known.keys() and known[after] - known[before] != tokens
            if is_too_many or is_other or _is_steep(known):
                yield Anomaly(
                    promises.C3,
                    f"reads of parts of {stream} disagree on its tokens",
                    (*(op for op in reads if op is not read), read),
                    also=(promises.C2, promises.C4),
                    expected="as many tokens in an event as in every other read of it",
                    observed=f"{tokens} tokens in the events {before + 1} to {after}",
                )
                break


def _tokens_up_to(reads: Iterable[Operation]) -> dict[int, int]:
    """How many of a run's first n events are tokens, by n, as far as these reads tell."""
    known = {0: 0}
    left = [*reads]
    while left:
        useful = [
            read for read in left if {read.argument["after"] or 0, read.result["last"]} & {*known}
        ]
        if not useful:
            break
        for read in useful:
            before, after = read.argument["after"] or 0, read.result["last"]
            tokens = read.result["tokens"]
            if before in known:
                known.setdefault(after, known[before] + tokens)
            else:
                known[before] = known[after] - tokens
            left.remove(read)
    return known


def _is_steep(known: Mapping[int, int]) -> bool:
    """Whether some events would be less than no token, or more than one each."""
    numbers = itertools.pairwise(sorted(known))
    return any(not 0 <= known[b] - known[a] <= b - a for a, b in numbers)


ANSWERS: tuple[Callable[[History], Iterable[Anomaly]], ...] = (
    *(_confused_ids, _held_streams, _stored_otherwise, _miscounted_presses, _misnumbered),
    *(_uneven_parts, _other_notices),
    *(_unknown_sessions, _strange_ends, _unexplained),
)
