"""What the calls that only read may answer, and which promise another answer breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any

from harness.contract import promises
from harness.contract.models.session_store_values import HELD_MAX, Session, State, Texts, is_clear
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal


def _messages(  # noqa: PLR0911  one for each answer
    state: State, operation: Operation, session: str
) -> tuple[State] | Refusal:
    found, texts = state.get(session), _texts(operation)
    if found is None:
        if operation.result is None and operation.outcome is Outcome.OK:
            return (state,)
        broken = promises.S11 if texts is not None else promises.S1  # no file to be damaged
        if session in state.deleted:
            broken = promises.S6
        return Refusal(
            broken,
            f"{operation.call} does not say that {session} does not exist",
            (None,),
            expected="null",
        )
    if texts is None:
        return _unreadable(state, found, operation)
    if found.blur is not None:
        return _sharpened(state, operation, found, texts)
    if texts not in found.readings:
        return _wrong_messages(state, operation, texts, found.readings)
    if found.was_miscounted:
        return Refusal(
            promises.S11,
            f"{operation.call} is right, and the row of {session} had another count before",
            expected="the row counts the messages of the session",
        )
    if found.whole is None:  # the lost messages are back
        state = replace(state, lost=state.lost.difference((session, text) for text in texts))
    return (state.put(session, replace(found, was_confirmed=True, was_crashed=False)),)


def _texts(operation: Operation) -> Texts | None:
    """The texts of the answer, or None for an error or any other answer."""
    texts = operation.result
    if operation.outcome is Outcome.OK and isinstance(texts, list):
        return tuple(str(text) for text in texts)
    return None


def _unreadable(state: State, found: Session, operation: Operation) -> tuple[State] | Refusal:
    if found.blur is None:
        is_gone = operation.outcome is Outcome.OK and not found.was_crashed
        broken = [promises.S1, *([promises.S2] if found.messages else [])]
        main, *also = reversed(broken) if is_gone else broken
        return Refusal(
            main,
            f"{operation.call} cannot read a session that the harness did not damage",
            _listed(found.readings),
            tuple(also),
            expected=_either(found.readings),
        )
    if found.blur.floor:
        return Refusal(
            promises.S5,
            f"{operation.call} cannot read a session that recovery has to restore from its backup",
            _listed([found.blur.floor]),
            expected=_either([found.blur.floor]),
        )
    if found.blur.was_replaced:
        return Refusal(
            promises.S1,
            f"{operation.call} cannot read a session that was saved since it was damaged",
            expected=f"the texts written since, {[*found.blur.tail]}, behind any older ones",
        )
    return (state,)


def _sharpened(
    state: State, operation: Operation, found: Session, texts: Texts
) -> tuple[State] | Refusal:
    """Judge the messages of a damaged session, and take them over once they are certain."""
    assert found.blur is not None
    blur = found.blur
    before = found.messages[: len(found.messages) - len(blur.tail)]
    known = before if found.whole is None else found.whole[: len(found.whole) - len(blur.tail)]
    head, tail = texts[: len(texts) - len(blur.tail)], texts[len(texts) - len(blur.tail) :]
    if tail != blur.tail or not _is_part(head, known) or not _is_part(blur.floor, head):
        readings = [(*known, *blur.tail), (*blur.floor, *blur.tail)]
        return _wrong_messages(state, operation, texts, readings)
    if not blur.was_restarted:
        return (state,)  # the answer may come from memory, and recovery may find more
    spare = found.spare if head == known else ()
    clear = replace(found, messages=texts, whole=None, spare=spare, title=None, seen_at=None)
    clear = replace(clear, blur=None, was_confirmed=True, was_crashed=False)
    return (state.put(operation.argument["session"], clear),)


def _is_part(part: Texts, whole: Texts) -> bool:
    """Whether `part` is a subsequence of `whole`."""
    rest = iter(whole)
    return all(text in rest for text in part)


def _wrong_messages(
    state: State, operation: Operation, texts: Texts, readings: Iterable[Texts]
) -> Refusal:
    """The refusal of a read, with the promises that it broke, the most specific first.

    A text that no reading has is stray; a text of the last reading may be missing.
    """
    readings = [*readings]
    name: str = operation.argument["session"]
    most = reduce(or_, map(Counter, readings))
    stray = {(name, text) for text in Counter(texts) - most}
    missing = {(name, text) for text in Counter(readings[-1]) - Counter(texts)}
    found = {
        promises.S9: (stray & state.stale, "has the text of a refused stale save"),
        promises.S6: (stray & state.removed, "has a text that the user removed"),
        promises.S1: (
            stray - state.stale - state.removed,
            "has a text that was never written, or that was written once, twice",
        ),
        promises.S5: (missing & state.lost, "lacks a text that recovery has to restore"),
        promises.S2: (missing - state.lost, "lacks an acknowledged text"),
    }
    broken = [promise for promise, (wrong, _) in found.items() if wrong]
    main, *also = broken or [promises.S1]
    if main is promises.S1 and any(session == name for session, _ in state.lost):
        also.append(promises.S5)  # what recovery restored is twice there, or in another order
    problem = found[main][1] if broken else "has the texts in another order"
    message = f"{operation.call} {problem}"
    return Refusal(main, message, _listed(readings), tuple(also), expected=_either(readings[::-1]))


def _either(readings: Iterable[Texts]) -> str:
    return " or ".join(dict.fromkeys(str([*texts]) for texts in readings))


def _listed(readings: Iterable[Texts]) -> tuple[list[str], ...]:
    return tuple([*texts] for texts in readings)


def _list(state: State, operation: Operation) -> tuple[State] | Refusal:
    listed = operation.result
    names = [name for name, _ in state.sessions]
    if operation.outcome is Outcome.FAIL or not isinstance(listed, list):
        return Refusal(
            promises.S11,
            f"{operation.call} does not list the sessions",
            expected=f"the sessions {names}, newest activity first",
        )
    sure = {name for name, session in state.sessions if _must_be_listed(session)}
    if Counter(listed) - Counter(names) or sure - {*listed}:
        return Refusal(
            promises.S11,
            f"{operation.call} lacks a session, or has one that does not exist, or one twice",
            also=(promises.S6,) if state.deleted & {*listed} else (promises.S2,),
            expected=f"each of the sessions {names} once",
        )
    unlisted = {*names} - {*listed}  # no defect of the index: the session itself may be lost
    loose = state.loose | unlisted
    firm = [name for name in state.order if name not in loose]
    if [name for name in listed if name not in loose] != firm:
        return Refusal(
            promises.S8,
            f"{operation.call} is not in the order of activity",
            expected=f"the order {', '.join(firm)}",
        )
    order = (*listed, *sorted(unlisted))
    return (replace(state, order=order, loose=frozenset(unlisted)),)


def _must_be_listed(session: Session) -> bool:
    """Whether the session has a file that can be read."""
    was_saved = session.blur is not None and session.blur.was_replaced and not session.was_crashed
    return session.was_confirmed or was_saved or is_clear(session)


def _row(state: State, operation: Operation, session: str) -> tuple[State] | Refusal:
    found = state.get(session)
    row = operation.result if operation.outcome is Outcome.OK else None
    if found is None:
        if operation.outcome is Outcome.OK and row is None:
            return (state,)
        return Refusal(
            promises.S11,
            f"{operation.call} has a row, or none can be read, although {session} does not exist",
            (None,),
            (promises.S6,) if session in state.deleted else (),
            expected="null",
        )
    if right := _right_row(row, found):
        return Refusal(promises.S11, f"{operation.call} differs from the session", expected=right)
    if row is None or found.blur is not None:
        return (state,)
    if found.seen_at not in (None, row["updated_at"]):
        return Refusal(
            promises.S8,
            f"{operation.call}: updated_at changed without activity",
            ({**row, "updated_at": found.seen_at},),
            expected=f"updated_at = {found.seen_at}",
        )
    counts = {len(texts) for texts in found.readings}
    is_wrong = not found.was_crashed and row["message_count"] not in counts
    after = replace(found, seen_at=row["updated_at"], title=row["title"])
    return (state.put(session, replace(after, was_miscounted=is_wrong)),)


def _right_row(row: Mapping[str, Any] | None, found: Session) -> str:
    """What a wrong row should have, or "" for a right one.

    The index does not have to count messages that are wrong in the session itself.
    """
    counts = {len(texts) for texts in found.readings}
    if found.blur is not None:
        return ""
    if row is None:
        return "a row" if found.was_confirmed else ""
    if found.was_confirmed and row["message_count"] not in counts:
        return f"message_count = {' or '.join(map(str, sorted(counts)))}"
    return f"title = {found.title!r}" if found.title not in (None, row["title"]) else ""


def _backup(state: State, operation: Operation, session: str) -> tuple[State] | Refusal:
    found, count = state.get(session), operation.result
    needed = None if found is None else found.backup
    available = -2 if operation.outcome is Outcome.FAIL or count is None else int(count)
    is_failed = operation.outcome is Outcome.FAIL
    if found is not None and (is_failed or available > found.longest):
        return Refusal(
            promises.S4,
            f"{operation.call}: no count, or more messages than the session ever had",
            expected=f"at most {found.longest}, or null for no backup",
        )
    if found is None and (is_failed or (count is not None and session not in state.deleted)):
        return Refusal(
            promises.S11,
            f"{operation.call} does not say that {session} does not exist",
            (None,),
            expected="null",
        )
    if needed is None or available >= needed:
        return (state,)
    copy = "a copy of the damaged sidecar" if needed < 0 else "a backup"
    return Refusal(
        promises.S4,
        f"{operation.call}: {copy} is missing or too small",
        expected=f"{needed} (-1: only a copy) or more messages",
    )


def _held(state: State, operation: Operation) -> tuple[State] | Refusal:
    # A call that a fault hit may have left a session that is not known to be on disk.
    damaged = sum(session.blur is not None or session.was_crashed for _, session in state.sessions)
    most = HELD_MAX + damaged  # another process may have deleted one of them
    most = min(most, len(state.sessions) + len(state.deleted))
    if operation.outcome is Outcome.OK and 0 <= operation.result <= most:
        return (state,)
    return Refusal(
        promises.A6,
        f"{operation.call}: too many sessions are in memory",
        expected=f"at most {most}: one idle session, and those that may not be on disk",
    )


READS: Mapping[str, Callable[..., tuple[State] | Refusal]] = {
    "messages": _messages,
    "list": _list,
    "row": _row,
    "backup": _backup,
    "held": _held,
}
