"""What the calls that change a session leave of it, and which of them may fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from harness.contract import promises
from harness.contract.models.session_store_values import UNTITLED, Blur, Session, State, is_clear
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal


def judge_write(
    state: State, operation: Operation, argument: Mapping[str, Any]
) -> tuple[State, ...] | Refusal:
    """The states after a call that changes a session, or the promise it broke."""
    name = argument["session"]
    session = state.get(name)
    if operation.outcome is Outcome.FAIL:
        return _failed(state, operation, session)
    is_made_again = operation.function == "new" and operation.outcome is Outcome.OK
    if is_made_again and session is not None and _is_surely_there(session):
        return Refusal(
            promises.S9,
            f"{operation.call} made a session that exists already",
            expected="an error: the session exists",
        )
    if session is None and operation.function not in ("new", "delete"):
        if operation.outcome is Outcome.INFO:
            return (state,)
        return Refusal(
            promises.S6 if name in state.deleted else promises.S11,
            f"{operation.call} succeeded although {name} does not exist",
            expected="an error",
        )
    happened = WRITES[operation.function](state, session or Session(), **argument)
    if operation.outcome is Outcome.OK:
        return happened
    was_made = session is None  # so that it is the newest, if it is there
    crashed = (_crashed(after, name, was_made=was_made) for after in (*happened, state))
    return tuple(dict.fromkeys(crashed))


def _is_surely_there(session: Session) -> bool:
    """Whether a file of the session exists; a restart may move one that cannot be read away."""
    return session.blur is None or session.blur.was_replaced or not session.blur.was_restarted


def _failed(
    state: State, operation: Operation, session: Session | None
) -> tuple[State, ...] | Refusal:
    """Judge a call that failed: one about a session that exists has no reason to."""
    function = operation.function
    if session is None:
        may_fail = function not in ("new", "delete")
    elif session.blur is None:
        may_fail = function == "new" or (function == "undo" and not session.messages)
    else:
        may_be_empty = function == "undo" and not session.blur.tail
        is_readable = session.blur.was_replaced and not may_be_empty
        may_fail = function == "new" or (function != "delete" and not is_readable)
    if may_fail:
        return (state,)
    was_hit = session is not None and not is_clear(session)  # its file may be a mixture then
    return Refusal(
        promises.S11 if function == "new" else promises.S1 if was_hit else promises.S2,
        f"{operation.call} failed without a reason",
        also=(promises.S2,) if was_hit else (),
        expected="null: it happened",
    )


def _crashed(state: State, name: str, *, was_made: bool) -> State:
    session = state.get(name)
    if session is None:
        return state
    crashed = replace(session, was_crashed=True, was_confirmed=False, seen_at=None)
    after = state.put(name, replace(crashed, was_miscounted=False))
    return after if was_made else after.somewhere(name)


def _new(state: State, _: Session, session: str) -> tuple[State, ...]:
    if state.get(session) is not None:
        return (state,)
    fresh = replace(state, deleted=state.deleted - {session})
    return (fresh.put(session, Session(title=UNTITLED)).newest(session),)


def _append(state: State, found: Session, session: str, text: str) -> tuple[State, ...]:
    after = replace(
        _written(found),
        messages=(*found.messages, text),
        whole=None if found.whole is None else (*found.whole, text),
    )
    if after.blur is not None:
        after = replace(after, blur=replace(after.blur, tail=(*after.blur.tail, text)))
    return (state.put(session, after).newest(session),)


def _rename(state: State, found: Session, session: str, title: str) -> tuple[State, ...]:
    return (state.put(session, replace(_written(found), title=title)).somewhere(session),)


def _clear(state: State, found: Session, session: str) -> tuple[State, ...]:
    return (_cut(state, found, session, 0),)


def _truncate(state: State, found: Session, session: str, keep: int) -> tuple[State, ...]:
    if found.blur is not None:
        return _blurred(state, found, session), state  # perhaps there was nothing to remove
    if keep < len(found.messages):
        return (_cut(state, found, session, keep),)
    same = state.put(session, _written(found)).somewhere(session)
    if found.whole is None:
        return (same,)
    # The call removed nothing. Perhaps the user has now accepted an earlier loss, perhaps not.
    return (same, _cut(state, found, session, keep))


def _undo(state: State, found: Session, session: str) -> tuple[State, ...]:
    if found.blur is not None:
        return _blurred(state, found, session), state
    if not found.messages:
        return (state.put(session, _written(found)).somewhere(session),)
    return (_cut(state, found, session, len(found.messages) - 1),)


def _cut(state: State, found: Session, session: str, keep: int) -> State:
    """The user keeps the first messages; those lost before are gone too, as the user saw that."""
    before = found.messages if found.whole is None else found.whole
    left = found.messages[:keep]
    after = replace(_written(found), messages=left, whole=None, spare=(), blur=None)
    if before and found.blur is None:
        after = replace(after, backup=_most(after.backup, len(before)))
    gone = Counter(before) - Counter(left)
    return state.put(session, after).remove(session, gone).somewhere(session)


def _shrink(state: State, found: Session, session: str, keep: int) -> tuple[State, ...]:
    if found.blur is not None:
        return (_blurred(state, replace(found, backup=None), session),)
    after = _written(found)
    if keep < len(found.messages):
        whole = found.messages if found.whole is None else found.whole
        left = found.messages[:keep]
        after = replace(after, messages=left, whole=whole, spare=whole, backup=len(whole))
        taken = Counter(whole) - Counter(left)
        state = replace(state, lost=state.lost.union((session, text) for text in taken))
    return (state.put(session, after).somewhere(session),)


def _delete(state: State, found: Session, session: str) -> tuple[State, ...]:
    if state.get(session) is None:
        return (state,)
    gone = {*found.messages, *(found.whole or ())}
    after = state.drop(session).remove(session, gone)
    return (replace(after, deleted=after.deleted | {session}),)


def _cleanup(state: State, _: Session, session: str) -> tuple[State, ...]:  # noqa: ARG001  (as asked)
    return (state,)


def _corrupt(state: State, found: Session, session: str) -> tuple[State, ...]:
    damaged = replace(found, blur=Blur(), was_confirmed=False, was_miscounted=False)
    return (state.put(session, damaged).somewhere(session),)


def _written(found: Session) -> Session:
    """The session after any save: it replaces a damaged sidecar, and may change `updated_at`."""
    written = replace(found, seen_at=None, was_confirmed=False)
    if found.blur is None:
        return written
    blur = replace(found.blur, was_replaced=True)
    return replace(written, blur=blur, backup=_most(found.backup, -1))


def _blurred(state: State, found: Session, session: str) -> State:
    """Some of the messages were removed; which of them depends on what the damage had left."""
    after = _written(found)
    after = replace(after, spare=(), blur=Blur(was_replaced=True))
    return state.put(session, after).somewhere(session)


def _most(needed: int | None, count: int) -> int:
    return count if needed is None else max(needed, count)


WRITES: Mapping[str, Callable[..., tuple[State, ...]]] = {
    "new": _new,
    "append": _append,
    "rename": _rename,
    "clear": _clear,
    "truncate": _truncate,
    "undo": _undo,
    "shrink": _shrink,
    "delete": _delete,
    "cleanup": _cleanup,
    "corrupt": _corrupt,
}
