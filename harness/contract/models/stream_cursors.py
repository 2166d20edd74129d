"""Model of stream endpoints: what each of them answers to each kind of cursor.

A stream is read from its start without a cursor, exactly after a cursor of its own, and with a
snapshot first after any other one. The model predicts every event of every read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.contract import promises
from harness.contract.agent_script import REPLY_END
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.model import Refusal
from harness.core.verdict import Anomaly, Verdict

OK, BAD, MISSING, FAILED = 200, 400, 404, 500
STARTED_BY_CLIENT = "turn_started"
SNAPSHOT, STARTED, TOKEN = "session_snapshot", "server_turn_started", "token"
SESSION_OF = {
    "earlier": "own",
    "killed": "own",
    "previous": "own",
    "current": "own",
    "rested": "idle",
    "gone": "deleted",
    "others": "other",
}
TURNS = {"earlier": 1, "previous": 3, "rested": 1, "gone": 1}  # of its session; runs that ended
CURRENT = {"own": "current", "other": "others"}
SESSIONS = ("own", "other", "idle", "deleted")
DELETED = "deleted"
REPLAYED_MAX = 4096  # rows that a server reads from disk for one reader
BUFFERED = 1024  # events of a run that a server keeps in memory for its readers
HEADER = "header"


def event(name: str, id_: str = "", session: str = "", stream: str = "", *rest: str) -> str:
    """An event as the target reports it; `rest` are whether it was recovered, and its text."""
    recovered, text = (*rest, "", "")[:2]
    return " ".join(fact or "-" for fact in (name, id_, session, stream, recovered, text))


def run_events(run: str, tokens: int) -> list[str]:
    """All events of a run by now."""
    texts = [f"{number}" for number in range(tokens)]
    if run in TURNS:
        texts.append(f"{REPLY_END} {TURNS[run]} of {SESSION_OF[run]}.")
    rows = [event(TOKEN, f"{run}:{seq}", "", "", "", text) for seq, text in enumerate(texts, 1)]
    ends = ("done", "stream_end") if run in TURNS else ("apperror",) if run == "killed" else ()
    return rows + [event(end, f"{run}:{seq}") for seq, end in enumerate(ends, len(rows) + 1)]


@dataclass(frozen=True, slots=True)
class Expected:
    """What one read must return."""

    status: int
    events: tuple[str, ...] = ()
    closed: bool = True

    def to_json(self) -> dict[str, Any]:
        """Render as the target reports it."""
        return {"status": self.status, "events": list(self.events), "closed": self.closed}


@dataclass(frozen=True, slots=True)
class State:
    """The tokens of each run, once all are made."""

    tokens: int = 0

    def answer(self, endpoint: str, subject: str, text: str | None, by: str) -> Expected:
        """What a read of the endpoint must return."""
        if endpoint == "run" and by == "after_seq":
            if not str(text).isdecimal():
                return Expected(BAD)
            text = f"{subject}:{text}"
        has_cursor, cursor = bool(text), _parsed(text or "")
        match endpoint:
            case "run":
                return self._run(subject, cursor, has_cursor=has_cursor)
            case "events":
                return self._events(subject, cursor, has_cursor=has_cursor)
            case "notices":
                return self._notices(subject, cursor, has_cursor=has_cursor)
            case "gateway":  # it tells each new reader that the list has changed
                return Expected(OK, (event("sessions_changed", "gateway:1"),), closed=False)
        return Expected(OK, closed=False)

    def _run(self, run: str, cursor: tuple[str, int] | None, *, has_cursor: bool) -> Expected:
        session = SESSION_OF.get(run)
        if session is None or session == DELETED:
            return Expected(MISSING)
        rows, closed = run_events(run, self.tokens), run not in CURRENT.values()
        if cursor is None or cursor[0] != run:
            first = [event(SNAPSHOT, "", session)] if has_cursor else []
            return Expected(OK, (*first, *rows), closed=closed)
        if cursor[1] <= len(rows):
            return Expected(OK, tuple(rows[cursor[1] :]), closed=closed)
        last = cursor[1] if closed else len(rows)  # a reader of a live run goes on after its last
        return Expected(OK, (event(SNAPSHOT, f"{run}:{last}", session, run),), closed=closed)

    def _events(
        self, session: str, cursor: tuple[str, int] | None, *, has_cursor: bool
    ) -> Expected:
        if session == DELETED:
            return Expected(MISSING)
        current = CURRENT.get(session)
        if cursor is not None and SESSION_OF.get(cursor[0]) == session and cursor[0] != current:
            rest = run_events(cursor[0], self.tokens)[cursor[1] :]
            if rest:
                return Expected(OK, tuple(rest))
        if current is not None:
            return self._run(current, cursor, has_cursor=has_cursor)
        return self._notices(session, cursor or ("", 0), has_cursor=True)

    @staticmethod
    def _notices(session: str, cursor: tuple[str, int] | None, *, has_cursor: bool) -> Expected:
        if session == DELETED:
            return Expected(MISSING)
        stream, current = f"notices-{session}", CURRENT.get(session)
        last = 0 if current is None else 1  # the start of the current run was announced
        shown = [event("initial", "", session)]
        if cursor is not None and cursor[0] == stream and cursor[1] < last:
            return Expected(
                OK,
                (*shown, event(STARTED_BY_CLIENT, f"{stream}:1", session, current or "")),
                closed=False,
            )
        if has_cursor and cursor != (stream, last):
            shown.append(event(SNAPSHOT, f"{stream}:{last}", session, stream))
        if current is not None:
            shown.append(event(STARTED, "", session, current, "recovered"))
        return Expected(OK, tuple(shown), closed=False)


def _parsed(text: str) -> tuple[str, int] | None:
    stream, _, digits = text.rpartition(":")
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= len("999999999999999")
    return (stream, int(digits)) if stream and is_number else None


def check_cursors(history: History) -> Verdict:
    """Judge every read; of each promise and endpoint, report the first that broke it."""
    state = State()
    found: dict[str, Anomaly] = {}
    for operation in history:
        if operation.is_unanswered:
            return Verdict(tuple(found.values()), unknowns=(f"cut short: {operation}",))
        if operation.function == "prepare" and operation.outcome is Outcome.OK:
            state = State(operation.argument["tokens"])
        refusal = judged(state, operation)
        if refusal is not None:
            name = f"{operation.function}-{operation.argument.get('endpoint', 'run')}"
            anomaly = Anomaly(
                refusal.promise,
                refusal.message,
                (operation,),
                name,
                also=refusal.also,
                expected=refusal.expected,
                observed=refusal.observed,
            )
            found.setdefault(f"{refusal.promise} {name}", anomaly)
    return Verdict(tuple(found.values()))


def judged(state: State, operation: Operation) -> Refusal | None:
    """Judge one answer."""
    if operation.outcome is not Outcome.OK:
        return Refusal(
            promises.C4 if operation.function == "read" else promises.C3,
            f"{operation.function}: a client got no answer",
            expected="an answer to each read",
            observed=operation.error,
        )
    match operation.function:
        case "prepare":
            return _prepared(operation)
        case "grow":
            return _grown(operation)
    return _read(state, operation)


def _prepared(operation: Operation) -> Refusal | None:
    tokens = operation.argument["tokens"]
    for run, names in operation.result.items():
        wanted = [shown.split()[0] for shown in run_events(run, tokens)]
        wanted = wanted[:tokens] if run == "killed" else wanted
        if names != wanted:
            return Refusal(
                promises.C3,
                f"prepare: the reader of run {run} got other events than it has",
                expected=f"{wanted}",
                observed=f"{names}",
            )
    if set(operation.result) != set(SESSION_OF):
        return Refusal(promises.T1, "prepare: other runs were made", expected=f"{[*SESSION_OF]}")
    return None


def _read(state: State, operation: Operation) -> Refusal | None:
    endpoint, subject = operation.argument["endpoint"], operation.argument["subject"]
    cases = operation.argument["cases"]
    if len(cases) != len(operation.result):
        return Refusal(promises.C4, "read: not every read was answered", expected=f"{len(cases)}")
    for (cursor, by, *_), observed in zip(cases, operation.result, strict=True):
        expected = state.answer(endpoint, subject, cursor, by)
        if observed != expected.to_json():
            first, *also = dict.fromkeys(
                _broken(expected, observed, cursor, _sessions(endpoint, subject))
            )
            return Refusal(
                first,
                f"read: {endpoint} of {subject} after the cursor {cursor} ({by})"
                " was answered by something else",
                also=tuple(also),
                expected=f"{expected.to_json()}",
                observed=f"{observed}",
            )
    return None


def _sessions(endpoint: str, subject: str) -> set[str]:
    """The session whose events the read may return."""
    return {SESSION_OF.get(subject, subject) if endpoint == "run" else subject}


def _broken(
    expected: Expected, observed: Mapping[str, Any], cursor: str | None, own: set[str]
) -> Iterator[Promise]:
    """The promises that a wrong answer breaks, the first one first."""
    facts = [shown.split(" ", 5) for shown in observed["events"]]
    ids = [fact[1] for fact in facts if fact[1] != "-"]
    names = {fact[0] for fact in facts}
    streams = {id_.rpartition(":")[0] for id_ in ids}
    owners = {SESSION_OF.get(stream, stream.removeprefix("notices-")) for stream in streams}
    sessions = {fact[2] for fact in facts if fact[2] != "-"} | (owners & set(SESSIONS))
    if sessions - own:
        yield promises.C5
    if len(set(ids)) < len(ids):
        yield promises.C2
    numbers = [int(id_.rpartition(":")[2] or 0) for id_ in ids]
    if numbers != sorted(numbers):
        yield promises.C1
    starts = {
        name
        for name in (STARTED, STARTED_BY_CLIENT)
        for shown in expected.events
        if shown.startswith(name)
    }
    if not starts <= {*names}:
        yield promises.C7
    if observed["status"] != expected.status:
        is_input = BAD in (expected.status, observed["status"]) or observed["status"] == FAILED
        yield promises.H2 if is_input else promises.C4
    if cursor:
        yield promises.C4
    if len(facts) < len(expected.events):
        yield promises.C3
    if observed["closed"] != expected.closed and not cursor:
        yield promises.C6
    yield promises.C3


def _grown(operation: Operation) -> Refusal | None:
    """A run of many events is read whole after each cursor, or as much of it as is replayed."""
    tokens, result = operation.argument["tokens"], operation.result
    cursors: Sequence[int | None] = operation.argument["cursors"]
    if {len(result["live"]), len(result["ended"])} != {len(cursors)}:
        return Refusal(
            promises.C3,
            "grow: not every read was answered",
            expected=f"{len(cursors)} reads of the live run, and as many of the ended one",
            observed=f"{len(result['live'])} and {len(result['ended'])}",
        )
    reads: list[tuple[str, int | None, Any, bool]] = []
    if not _is_followed(result["first"], tokens):
        reads.append(("its first reader", None, result["first"], False))
    for has_ended, which in ((False, "live"), (True, "ended")):
        for cursor, observed in zip(cursors, result[which], strict=True):
            reads.append(
                (f"a reader of the {which} run after {cursor}", cursor, observed, has_ended)
            )
    # A cancelled agent may show one token more, such as the rest of its reply.
    last = next((r[-1][2] for r in result["ended"] if r and r[-1][0] == "cancel"), tokens + 1)
    extra = min(max(last - tokens - 1, 0), 1)
    for reader, cursor, observed, has_ended in reads:
        after, is_longer = cursor or 0, bool(has_ended and extra)
        shown = tokens + is_longer
        wanted = [[TOKEN, after + 1, shown, not is_longer]] if after < shown else []
        end = [["cancel", shown + 1, shown + 1, True]] if has_ended else []
        is_long = tokens + has_ended - after > REPLAYED_MAX
        if is_long and _is_declared(observed, tokens, end):
            continue
        if observed != wanted + end:
            return Refusal(
                promises.C4 if cursor else promises.C3,
                f"grow: {reader}, of a run of {tokens} tokens, got other events",
                also=(promises.C3,) if cursor else (),
                expected=f"{wanted + end}",
                observed=f"{observed}",
            )
    return None


def _is_followed(observed: Sequence[Sequence[Any]], tokens: int) -> bool:
    """Whether the reader of a growing run got each token, or a snapshot in place of a gap.

    A reader that falls behind by more than the server keeps in memory gets a snapshot with the
    number of the last token that it missed, and the next one follows.
    """
    following = 1
    for name, first, last, is_right in observed:
        is_gap = name == SNAPSHOT and first >= following and tokens > BUFFERED
        is_next = name == TOKEN and first == following and is_right
        if not (is_gap or is_next):
            return False
        following = last + 1
    return following == tokens + 1


def _is_declared(observed: Sequence[Sequence[Any]], tokens: int, end: Sequence[Any]) -> bool:
    """Whether a snapshot says what is missing, and the rest follows it without a gap."""
    first, *rest = observed or [[""]]
    if first[0] != SNAPSHOT:
        return False
    return not rest or rest == [[TOKEN, first[2] + 1, tokens, True], *end]
