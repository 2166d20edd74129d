"""Checks every answer of concurrent writers by the writes that were acknowledged before it.

For writers that append unique texts, each to any session, at any time, in any number of processes.
A read lies between two bounds: it has what was acknowledged before it began, and nothing that was
called after it ended. What was refused is never seen. What one read has shown, each later read
shows, unless a fault other than a kill came between. Sessions that other writes than `create` and
`append` changed are judged by a model instead, in scenarios whose calls follow one another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.contract import promises
from harness.contract.checkers.state_db.fairness import KILL
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

NO_RESULT = frozenset(
    {
        *(
            "open",
            "close",
            "await",
            "held",
            "pinned",
            "struck",
            "opened_behind",
            "advance",
            "reopen_file",
        ),
        *("create", "append", "replace", "clear", "end", "reopen"),
        *("set_system_prompt", "add_tokens", "set_tokens"),
    }
)
TYPES: Mapping[str, type] = {
    **dict.fromkeys(("list", "messages", "search", "pin", "pin_until"), list),
    **dict.fromkeys(("counters", "inspect", "transaction", "probe"), dict),
    **dict.fromkeys(("hold", "log_bytes", "unscheduled", "drop"), int),
}
SHRINKING = frozenset({"replace", "clear", "delete"})  # of one session; `prune` is of any
TOKENS = ("add_tokens", "set_tokens")

# Of SQLite's log: a header, then frames of a header and a page. A frame is written in two parts.
LOG_HEADER_BYTES, FRAME_HEADER_BYTES, PAGE_BYTES = 32, 24, 4096


def check_answers(history: History) -> Verdict:
    """Judge D1, D2 and D6 by every answer, whenever it came; one anomaly of each kind."""
    found: dict[tuple[str, str], Anomaly] = {}
    for anomaly in _anomalies(history):
        found.setdefault((anomaly.evidence[-1].function, anomaly.name), anomaly)
    return Verdict(tuple(found.values()), unknowns=tuple(_idle_processes(history)))


def _anomalies(history: History) -> Iterator[Anomaly]:
    writes = _Writes(history)
    for op in history.happened:
        if wrong := _wrong_type(op):
            yield _anomaly(promises.D2, (op,), "no-answer", wrong, op.answer)
        elif judge := _JUDGES.get(op.function):
            yield from judge(op, writes)


def _wrong_type(op: Operation) -> str:
    """What type the result must have, if it has another; empty if it is right."""
    if op.function in NO_RESULT:
        return "" if op.result is None else "no result"
    expected = TYPES.get(op.function)
    return "" if expected is None or type(op.result) is expected else f"a {expected.__name__}"


def _anomaly(
    promise: Promise, evidence: tuple[Operation, ...], name: str, expected: str, observed: str
) -> Anomaly:
    op = evidence[-1]
    return Anomaly(
        promise,
        f"{op.call} of process {op.process} answered what the writes around it exclude: {name}",
        evidence,
        name,
        expected=expected,
        observed=observed,
    )


class _Writes:
    """The writes of a history, by session."""

    def __init__(self, history: History) -> None:
        self.creates: defaultdict[str, list[Operation]] = defaultdict(list)
        self.appends: defaultdict[str, dict[str, Operation]] = defaultdict(dict)
        self.others: defaultdict[str, set[str]] = defaultdict(set)
        self.has_deletions = False
        for op in history:
            session: Any = (op.argument or {}).get("session")
            match op.function:
                case "append":
                    self.appends[session][op.argument["text"]] = op
                case "create":
                    self.creates[session].append(op)
                case "prune" | "delete":
                    self.has_deletions = True
            if session is not None:
                self.others[session].add(op.function)
        # By session and text, or session alone: when the first read that showed it ended.
        self._shown: dict[tuple[Any, Any], int] = {}
        if all(fault.name.startswith(KILL) for fault in history.faults):
            self._note_shown(history)

    def _note_shown(self, history: History) -> None:
        for read in history.happened.of("list", "messages"):
            if not isinstance(read.result, list) or read.completed_ns is None:
                continue
            session = read.argument.get("session")
            for row in read.result:
                key = (row, None) if read.function == "list" else (session, row[-1])
                self._shown[key] = min(self._shown.get(key, read.completed_ns), read.completed_ns)

    def was_shown(self, read: Operation, session: str, text: str | None = None) -> bool:
        """Whether an earlier read had shown the session, or the text in it."""
        return self._shown.get((session, text), read.invoked_ns) < read.invoked_ns

    def only_appended(self, session: str) -> bool:
        """Whether only appends changed the session's messages."""
        return not (self.has_deletions or SHRINKING & self.others[session])

    def due(self, read: Operation, session: str) -> dict[str, Operation]:
        """The appends that were acknowledged, or shown, before the read began, by text."""
        return {
            text: op
            for text, op in self.appends[session].items()
            if (op.outcome is Outcome.OK and op.precedes(read))
            or self.was_shown(read, session, text)
        }

    def possible(self, read: Operation, session: str) -> dict[str, Operation]:
        """The appends that the read may show, by text."""
        return {
            text: op
            for text, op in self.appends[session].items()
            if op.outcome is not Outcome.FAIL and not read.precedes(op)
        }

    def sessions(self) -> list[str]:
        """The sessions that a write named."""
        return sorted({*self.creates, *self.appends})


def _list(read: Operation, writes: _Writes) -> Iterator[Anomaly]:
    """Every created session once, in the order of its id, and no other."""
    seen = read.result
    if writes.has_deletions:
        return
    due = {
        session
        for session, creates in writes.creates.items()
        if any(op.outcome is Outcome.OK and op.precedes(read) for op in creates)
        or writes.was_shown(read, session)
    }
    possible = {
        session
        for session, creates in writes.creates.items()
        if any(op.outcome is not Outcome.FAIL and not read.precedes(op) for op in creates)
    }
    if lost := due - set(seen):
        yield _anomaly(promises.D1, (read,), "lost-session", f"{sorted(lost)} in it", f"{seen}")
    if strays := set(seen) - possible:
        yield _anomaly(promises.D2, (read,), "stray-session", f"no {sorted(strays)}", f"{seen}")
    if seen != sorted(set(seen)):
        expected = "each session once, in order of id"
        yield _anomaly(promises.D2, (read,), "doubled-session", expected, f"{seen}")


def _messages(read: Operation, writes: _Writes) -> Iterator[Anomaly]:
    """Every acknowledged message once, as it was appended, in real-time order."""
    session = read.argument["session"]
    if not writes.only_appended(session):
        return
    possible = writes.possible(read, session)
    texts = [text for _, text in read.result]
    if lost := writes.due(read, session).keys() - set(texts):
        text = min(lost)
        append = writes.appends[session][text]
        observed = f"{len(texts)} messages without it"
        yield _anomaly(promises.D1, (append, read), "lost-write", f"{text!r} once", observed)
    if strays := set(texts) - possible.keys():
        text = min(strays, key=str)
        yield _anomaly(promises.D2, (read,), "phantom", "appended texts only", f"{text!r}")
        return
    text, times = Counter(texts).most_common(1)[0] if texts else ("", 0)
    if times > 1:
        yield _anomaly(promises.D2, (read,), "doubled-write", f"{text!r} once", f"{times} times")
    for role, text in read.result:
        given = possible[text].argument["role"]
        if role != given:
            expected = f"role {given!r} of {text!r}"
            yield _anomaly(promises.D2, (read,), "changed-role", expected, f"role {role!r}")
    yield from _order(read, [possible[text] for text in texts])


def _order(read: Operation, appends: list[Operation]) -> Iterator[Anomaly]:
    """Appends that did not overlap stand in the order in which they were called."""
    latest: Operation | None = None
    for append in appends:
        if latest is not None and append.precedes(latest):
            yield _anomaly(
                promises.D1,
                (append, latest, read),
                "out-of-order",
                f"{append.argument['text']!r} before {latest.argument['text']!r}",
                "the opposite order",
            )
            return
        if latest is None or append.invoked_ns > latest.invoked_ns:
            latest = append


def _search(read: Operation, writes: _Writes) -> Iterator[Anomaly]:
    """Every acknowledged message that has the word, once, and no other."""
    sessions = writes.sessions()
    if not all(map(writes.only_appended, sessions)):
        return
    word = read.argument["word"]
    hits = [(session, text) for session, text in read.result]
    due = _with_word(word, sessions, read, writes.due)
    possible = _with_word(word, sessions, read, writes.possible)
    if lost := due - set(hits):
        yield _anomaly(promises.D2, (read,), "missed-hit", f"{min(lost)} found", "not found")
    if strays := set(hits) - possible:
        yield _anomaly(promises.D2, (read,), "stray-hit", "stored messages only", f"{min(strays)}")
    if hits != sorted(set(hits)):
        expected = "each message once, in order of session and text"
        yield _anomaly(promises.D2, (read,), "doubled-hit", expected, f"{len(hits)} hits")


def _with_word(word: str, sessions: Iterable[str], read: Operation, find: Any) -> set[Any]:
    return {
        (session, text)
        for session in sessions
        for text in find(read, session)
        if word in text.split()
    }


def _get(read: Operation, writes: _Writes) -> Iterator[Anomaly]:
    """The columns of a session, each between its bounds."""
    session, seen = read.argument["session"], read.result
    creates = writes.creates[session]
    if writes.has_deletions:
        return
    if not isinstance(seen, dict):
        if any(op.outcome is Outcome.OK and op.precedes(read) for op in creates):
            yield _anomaly(promises.D1, (read,), "lost-session", "its columns", f"{seen}")
        return
    sources = {op.argument["source"] for op in creates if op.outcome is not Outcome.FAIL}
    expected: dict[str, Any] = {"source": sources, **_never_written(writes.others[session])}
    if writes.only_appended(session):
        due = writes.due(read, session).values()
        possible = writes.possible(read, session).values()
        expected["message_count"] = range(len(due), len(possible) + 1)
        expected["tool_call_count"] = range(_tool_calls(due), _tool_calls(possible) + 1)
    for name, values in expected.items():
        if name not in seen or seen[name] not in values or isinstance(seen[name], float):
            observed = f"{name} = {seen.get(name)!r}"
            yield _anomaly(promises.D2, (read,), f"wrong-{name}", f"{name} in {values}", observed)


def _never_written(functions: set[str]) -> dict[str, Any]:
    """The columns that no write changed, with their first values."""
    first: dict[str, Any] = {}
    if "set_title" not in functions:
        first["title"] = (None,)
    if "end" not in functions:
        first["ended"] = (False,)
    if not functions & set(TOKENS):
        first |= {"input_tokens": (0,), "output_tokens": (0,)}
    return first


def _tool_calls(appends: Iterable[Operation]) -> int:
    return sum(op.argument.get("tool_calls", 0) for op in appends)


def _counters(read: Operation, writes: _Writes) -> Iterator[Anomaly]:
    """The count of messages and the number of rows, each between its bounds."""
    session = read.argument["session"]
    if not writes.only_appended(session):
        return
    due, possible = len(writes.due(read, session)), len(writes.possible(read, session))
    for name in ("message_count", "rows"):
        count = read.result[name]
        if count is None and not due:
            continue  # the session may not exist yet
        if count is None or not due <= count <= possible:
            lost = (count or 0) < due
            promise = promises.D1 if lost else promises.D2
            expected = f"{name} from {due} to {possible}"
            yield _anomaly(promise, (read,), "wrong-count", expected, f"{count}")


def _pin(read: Operation, writes: _Writes) -> Iterator[Anomaly]:
    """Two equal counts of all messages: a snapshot does not change."""
    sessions = writes.sessions()
    if len(set(read.result)) != 1 or len(read.result) != len(("first", "last")):
        expected = "the same count, twice"
        yield _anomaly(promises.D2, (read,), "changed-snapshot", expected, f"{read.result}")
    elif all(map(writes.only_appended, sessions)):
        due = sum(len(writes.due(read, session)) for session in sessions)
        possible = sum(len(writes.possible(read, session)) for session in sessions)
        if not due <= read.result[0] <= possible:
            expected = f"a count from {due} to {possible}"
            yield _anomaly(promises.D1, (read,), "wrong-snapshot", expected, f"{read.result}")


def _hold(op: Operation, writes: _Writes) -> Iterator[Anomaly]:  # noqa: ARG001  one shape
    if op.result != op.argument["strokes"]:
        expected = f"{op.argument['strokes']} strokes"
        yield _anomaly(promises.D2, (op,), "other-strokes", expected, f"{op.result}")


def _log_bytes(op: Operation, writes: _Writes) -> Iterator[Anomaly]:  # noqa: ARG001  one shape
    """A length that a log can have: whole frames, or what SQLite cut it to."""
    length = op.result
    frames, rest = divmod(length - LOG_HEADER_BYTES, FRAME_HEADER_BYTES + PAGE_BYTES)
    is_whole = frames >= 0 and rest in (0, FRAME_HEADER_BYTES)
    if length and not is_whole and (length < 0 or length % PAGE_BYTES):
        expected = f"a header and frames of {FRAME_HEADER_BYTES + PAGE_BYTES} bytes"
        yield _anomaly(promises.D6, (op,), "torn-log", expected, f"{length} bytes")


def _transaction(op: Operation, writes: _Writes) -> Iterator[Anomaly]:  # noqa: ARG001  one shape
    """It took time within its own, and ended as the statement that ended it says."""
    lasted_ns = (op.completed_ns or 0) - op.invoked_ns
    transaction = op.result
    ends = ("COMMIT", "END", "ROLLBACK") if transaction["begin"] else ("",)
    if transaction["end"] not in ends or not 0 <= transaction["held_ns"] <= lasted_ns:
        expected = f"an end in {ends}, and at most {lasted_ns} ns under the lock"
        yield _anomaly(promises.D7, (op,), "odd-transaction", expected, f"{transaction}")


_JUDGES = {
    "list": _list,
    "messages": _messages,
    "search": _search,
    "get": _get,
    "counters": _counters,
    "pin": _pin,
    "pin_until": _pin,
    "hold": _hold,
    "log_bytes": _log_bytes,
    "transaction": _transaction,
}


def _idle_processes(history: History) -> Iterator[str]:
    """Processes that opened the file and did nothing more, though they were not killed."""
    if any(fault.name.startswith(KILL) for fault in history.faults):
        return
    active = {op.process for op in history if op.function not in ("open", "unscheduled")}
    for op in history.happened.of("open"):
        if op.process not in active:
            yield f"process {op.process} opened the file, and did nothing more"
