"""Model of the session store: which acknowledged messages and sessions it must answer.

Operations, with JSON arguments by name:

- `new`, `append(session, text)`, `rename(session, title)`, `clear`, `truncate(session, keep)`,
  `undo` (the last message), `delete`: the calls of users; every text is written once;
- `messages` -> the texts, or null for no such session; `list` -> ids, newest activity first;
  `row` -> title, message_count and updated_at, or null; `backup` -> how many messages the backup
  has, -1 for only a copy that cannot be read, null for none;
- `held` -> how many sessions are in memory, by a store that should hold one idle session;
- `shrink(session, keep)`: a plain save of only the first messages, which no user asked for;
- `save_stub`: saves a session that was loaded without messages; `save_stale(session, text)`: saves
  a copy to which the text was added, and which was loaded before a newer save of the same messages;
  `save_refused`: saves any other value that must be refused. All three have to fail;
- `cleanup`: maintenance of a session with a stream that has no run;
- `corrupt`: the harness damages the sidecar; `restart`: a new process, with start-up recovery;
  `recover`: start-up recovery alone; `hostile(session_id)`: asks about an invalid id;
  `swap`: from now on the calls go to another process that has the folder open.

An *info* is a crash: the operation happened, or it did not. Which promise is broken:

- S1: a session is neither as it was nor as it should be: unreadable although the harness did not
  damage it, with texts that no call wrote, doubled texts, or texts in another order;
- S2: an acknowledged text, or its session, is missing;
- S3, S9, S10, S12: a call succeeded that has to fail; S9 also where the stale text shows up later;
- S4: the backup has fewer messages than were there before a shrink that no user asked for, or than
  before any shrink that a user asked for since; or no copy was made of a damaged sidecar that was
  replaced;
- S5: recovery failed, or messages that a shrink removed are still missing after it;
- S6: a text, or a session, that the user removed is back;
- S8: `updated_at`, or the order, changed by itself or by maintenance;
- A6: more sessions are in memory than the one, and those that the disk cannot give back;
- S11: a row is missing, doubled, or differs from the session; the list has a deleted session.

Where the contract is silent the model is lenient: whether anything but `new` and `append` counts as
activity, whether a damaged session can be read, and what a truncation that removes nothing means
for messages that were lost before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

Texts = tuple[str, ...]
UNTITLED = "Untitled"
HELD_MAX = 1  # idle sessions that the store may hold in memory


@dataclass(frozen=True, slots=True)
class Blur:
    """What is still known of a session's messages after the harness damaged its file.

    The messages are some part of those before the damage, at least the `floor`, and then the
    `tail`, which was written since.
    """

    floor: Texts = ()
    tail: Texts = ()
    was_replaced: bool = False  # a write replaced the file, so that it can be read again
    was_restarted: bool = False  # a restart followed, so that a read shows all that is left


@dataclass(frozen=True, slots=True)
class Session:
    """The acknowledged state of one session.

    `whole` is what recovery has to restore: the messages, and those that shrinks without a user's
    request removed. `spare` is what the backup has to hold after such a shrink, `backup` the least
    number of its messages; None for no backup, -1 for a copy of any content. `seen_at` is the last
    known `updated_at`, None if a call may have changed it since. `title` is None behind damage,
    until a row shows it.
    """

    messages: Texts = ()
    whole: Texts | None = None
    spare: Texts = ()
    backup: int | None = None
    longest: int = 0  # the most messages that any version of it had
    title: str | None = None
    was_miscounted: bool = False  # a row had another count; no read of the messages followed
    seen_at: float | None = None
    blur: Blur | None = None
    was_confirmed: bool = False  # its messages were read, and no call changed them since
    was_crashed: bool = False  # a crash hit an operation on it, and no read followed

    @property
    def readings(self) -> tuple[Texts, ...]:
        """The messages that a read may answer if the file is not damaged."""
        return (self.messages,) if self.whole is None else (self.messages, self.whole)


@dataclass(frozen=True, slots=True)
class State:
    """All sessions by id, in order of id; what is known of their order; and what may not return.

    `order` is newest first; the positions of the `loose` sessions in it are unknown. Each text is
    stored with its session: `removed` by the user, `lost` by shrinks without a user's request,
    `stale` in refused saves.
    """

    sessions: tuple[tuple[str, Session], ...] = ()
    order: tuple[str, ...] = ()
    loose: frozenset[str] = frozenset()
    removed: frozenset[tuple[str, str]] = frozenset()
    lost: frozenset[tuple[str, str]] = frozenset()
    stale: frozenset[tuple[str, str]] = frozenset()
    deleted: frozenset[str] = frozenset()

    def get(self, name: str) -> Session | None:
        """The session, if it exists."""
        return dict(self.sessions).get(name)

    def put(self, name: str, session: Session) -> State:
        """This state with one session changed, without activity."""
        counts = (session.longest, len(session.messages), len(session.whole or ()))
        session = replace(session, longest=max(counts))
        return replace(self, sessions=tuple(sorted({**dict(self.sessions), name: session}.items())))

    def drop(self, name: str) -> State:
        """This state without a session."""
        return replace(
            self,
            sessions=tuple(item for item in self.sessions if item[0] != name),
            order=tuple(other for other in self.order if other != name),
            loose=self.loose - {name},
        )

    def newest(self, name: str) -> State:
        """This session is the one with the newest activity."""
        order = (name, *(other for other in self.order if other != name))
        return replace(self, order=order, loose=self.loose - {name})

    def somewhere(self, name: str) -> State:
        """This session may have been active: its position is unknown."""
        return replace(self, loose=self.loose | {name})

    def remove(self, name: str, texts: Iterable[str]) -> State:
        """The user removed these texts."""
        return replace(self, removed=self.removed.union((name, text) for text in texts))


class SessionStoreModel:
    """What the session store may answer to sequential calls."""

    name = "session-store"

    def initial(self) -> State:
        """No session exists."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:  # noqa: PLR0911
        """The states after the operation, or the promise it broke."""
        function, argument = operation.function, operation.argument or {}
        if function in _VOID and operation.outcome is Outcome.OK and operation.result is not None:
            return Refusal(
                promises.S10,
                f"{operation.call} answers something",
                (None,),
                expected="null: it happened",
            )
        if function in _MUST_FAIL:
            return _must_fail(state, operation, argument)
        if function in _READS:
            if operation.outcome is Outcome.INFO:
                return (state,)
            return _READS[function](state, operation, **argument)
        if function in ("restart", "recover"):
            return _recover(state, operation)
        if function == "swap":
            if operation.outcome is Outcome.FAIL:
                return Refusal(promises.S11, f"{operation.call} failed", expected="null")
            return (state,)
        if function not in _WRITES:
            raise UsageError(f"{self.name} has no function {function!r}")
        return _write(state, operation, argument)


def _write(
    state: State, operation: Operation, argument: Mapping[str, Any]
) -> tuple[State, ...] | Refusal:
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
    happened = _WRITES[operation.function](state, session or Session(), **argument)
    if operation.outcome is Outcome.OK:
        return happened
    was_made = session is None  # so that it is the newest, if it is there
    crashed = (_crashed(after, name, was_made=was_made) for after in (*happened, state))
    return tuple(dict.fromkeys(crashed))


def _is_surely_there(session: Session) -> bool:
    """Whether a file of the session exists; a restart may move one that cannot be read away."""
    return session.blur is None or session.blur.was_replaced or not session.blur.was_restarted


def _is_clear(session: Session) -> bool:
    """Whether the session exists for sure, and its file is not damaged."""
    return session.blur is None and not session.was_crashed


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
    was_hit = session is not None and not _is_clear(session)  # its file may be a mixture then
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


# Calls that change a session ----------------------------------------------------------------------


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


_VOID = frozenset(
    {"new", "append", "rename", "clear", "truncate", "undo", "shrink", "delete", "cleanup"}
    | {"corrupt", "swap", "restart", "recover"}
)
_WRITES: Mapping[str, Callable[..., tuple[State, ...]]] = {
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


# Calls that have to fail --------------------------------------------------------------------------

_MUST_FAIL: Mapping[str, tuple[Promise, str]] = {
    "save_stub": (promises.S3, "saved a session that was loaded without messages"),
    "save_stale": (promises.S9, "saved a stale copy over a newer version"),
    "save_refused": (promises.S10, "returned as if done, though the save must be refused"),
    "hostile": (promises.S12, "accepted an invalid session id"),
}


def _must_fail(
    state: State, operation: Operation, argument: Mapping[str, Any]
) -> tuple[State] | Refusal:
    if operation.outcome is Outcome.OK:
        broken, problem = _MUST_FAIL[operation.function]
        return Refusal(broken, f"{operation.call} {problem}", expected="an error")
    name: str = argument.get("session", "")
    session = state.get(name)
    if session is None or operation.function == "save_stub":
        return (state,)
    if "text" in argument:
        state = replace(state, stale=state.stale | {(name, argument["text"])})
    # The target saved another value first to make this one refusable; that may count as activity.
    return (state.put(name, replace(session, seen_at=None)).somewhere(name),)


# Recovery -----------------------------------------------------------------------------------------


def _recover(state: State, operation: Operation) -> tuple[State] | Refusal:
    match operation.outcome:
        case Outcome.FAIL:
            return Refusal(
                promises.S5,
                f"{operation.call}: start-up recovery stopped",
                expected="recovery returns, whatever one file holds",
            )
        case Outcome.INFO:
            return (state,)  # a read may answer either state until recovery ends
    for name, session in state.sessions:
        state = state.put(name, _recovered(session, operation))
        if session.blur is not None:
            state = state.somewhere(name)
    return (state,)


def _recovered(session: Session, operation: Operation) -> Session:
    after = replace(session, was_confirmed=False)
    if session.blur is not None:
        floor = () if session.blur.was_replaced else session.spare
        was_restarted = session.blur.was_restarted or operation.function == "restart"
        blur = replace(session.blur, floor=floor, was_restarted=was_restarted)
        return replace(after, blur=blur)
    if session.whole is not None:
        return replace(after, messages=session.whole, whole=None)
    return after


# Calls that only read -----------------------------------------------------------------------------


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
    return session.was_confirmed or was_saved or _is_clear(session)


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


_READS: Mapping[str, Callable[..., tuple[State] | Refusal]] = {
    "messages": _messages,
    "list": _list,
    "row": _row,
    "backup": _backup,
    "held": _held,
}
