"""The session store as a sequential specification: what was acknowledged, and what must survive.

Operations, with JSON arguments by name:

- `new`, `append(session, text)`, `rename(session, title)`, `clear`, `truncate(session, keep)`,
  `undo` (the last message), `delete`: what users do; every text is said once;
- `messages` -> the texts, or null for no such session; `list` -> ids, newest activity first;
  `row` -> title, message_count and updated_at, or null; `backup` -> how many messages the backup
  has, -1 for only a copy that cannot be read, null for none;
- `held` -> how many sessions are in memory, by a store that should hold one idle session;
- `shrink(session, keep)`: a plain save of only the first messages, which no user asked for;
- `save_stub`: saves what was loaded without messages; `save_stale(session, text)`: saves a copy to
  which the text was added, and which was loaded before a newer save of the same messages;
  `save_refused`: saves any other thing that must be refused. All three have to fail;
- `cleanup`: maintenance of a session with a stream that nobody runs;
- `corrupt`: the harness damages the sidecar; `restart`: a new process, with start-up recovery;
  `recover`: start-up recovery alone; `hostile(session_id)`: asks about something that is no id;
  `swap`: from now on another process that has the folder open is asked.

An *info* is a crash: the operation happened, or it did not. Which promise is broken:

- S1: a session is neither as it was nor as it should be: unreadable though nobody damaged it, with
  texts that nobody said, said twice, or in another order;
- S2: a text that was acknowledged is missing, or its session;
- S3, S9, S10, S12: what has to fail did not; S9 also where the stale text shows up later;
- S4: the backup has fewer messages than were there before a shrink that nobody asked for, or than
  before any the user asked for since; or no copy was kept of a damaged sidecar that was replaced;
- S5: recovery failed, or what a shrink took away is still missing after it;
- S6: a text, or a session, that the user removed is back;
- S8: `updated_at`, or the order, changed by itself or by maintenance;
- A6: more sessions are in memory than the one, and those that the disk cannot give back;
- S11: a row is missing, doubled, or tells something else than the session; a ghost is listed.

Where the contract is silent the model is lenient: whether anything but `new` and `append` counts as
activity, whether a damaged session can be read, and what a truncation that takes nothing away means
for messages that were lost before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

Texts = tuple[str, ...]
HELD_MAX = 1  # how many idle sessions the store on trial may hold in memory


@dataclass(frozen=True, slots=True)
class Blur:
    """What is left to know of messages once the harness damaged the file that had them.

    Between them and the `tail`, which was said since, stands some part of what was there before,
    and at least the `floor`.
    """

    floor: Texts = ()
    tail: Texts = ()
    was_replaced: bool = False  # by a write since, so that it can be read again
    was_restarted: bool = False  # since then, so that what is read is all there is


@dataclass(frozen=True, slots=True)
class Session:
    """One session, as far as it was acknowledged.

    `whole` is what recovery has to bring back: the messages, and what unasked shrinks took away.
    `spare` is what the backup has to hold after an unasked shrink, `backup` how many messages at
    least; None for no backup, -1 for a copy of whatever it was. `seen_at` is `updated_at` as last
    seen, None if anything may have changed it since.
    """

    messages: Texts = ()
    whole: Texts | None = None
    spare: Texts = ()
    backup: int | None = None
    title: str | None = None
    seen_at: float | None = None
    blur: Blur | None = None
    was_told: bool = False  # its messages were right when last asked for, and nothing came since
    was_crashed: bool = False  # a crash hit an operation on it, and nobody has looked since

    @property
    def readings(self) -> tuple[Texts, ...]:
        """What a reader may be told, if nothing is damaged."""
        return (self.messages,) if self.whole is None else (self.messages, self.whole)


@dataclass(frozen=True, slots=True)
class State:
    """All sessions by id, in order of id; what is known of their order; and what may not return.

    `order` is newest first; the place of the `loose` ones in it is not known. Texts are told apart
    by their session: `removed` by the user, `lost` by unasked shrinks, `stale` in refused saves.
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
        """This state with one session changed, and nothing said about activity."""
        return replace(self, sessions=tuple(sorted({**dict(self.sessions), name: session}.items())))

    def drop(self, name: str) -> State:
        """This state without a session."""
        return replace(
            self,
            sessions=tuple(item for item in self.sessions if item[0] != name),
            order=tuple(each for each in self.order if each != name),
            loose=self.loose - {name},
        )

    def newest(self, name: str) -> State:
        """This session was surely the last to be active."""
        order = (name, *(each for each in self.order if each != name))
        return replace(self, order=order, loose=self.loose - {name})

    def somewhere(self, name: str) -> State:
        """This session may have been active."""
        return replace(self, loose=self.loose | {name})

    def remove(self, name: str, texts: Iterable[str]) -> State:
        """The user removed these texts."""
        return replace(self, removed=self.removed.union((name, text) for text in texts))


class SessionModel:
    """What the session store may answer to one client after another."""

    name = "session-store"

    def initial(self) -> State:
        """No session is known."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The states after the operation, or the promise it broke."""
        function, argument = operation.function, operation.argument or {}
        if function in _MUST_FAIL:
            return _must_fail(state, operation, argument)
        if function in _LOOKS:
            if operation.outcome is Outcome.INFO:
                return (state,)
            return _LOOKS[function](state, operation, **argument)
        if function in ("restart", "recover"):
            return _recover(state, operation)
        if function == "swap":
            return (state,)
        if function not in _ACTS:
            raise UsageError(f"{self.name} has no function {function!r}")
        return _act(state, operation, argument)


def _act(
    state: State, operation: Operation, argument: Mapping[str, Any]
) -> tuple[State, ...] | Refusal:
    name = argument["session"]
    session = state.get(name)
    if operation.outcome is Outcome.FAIL:
        return (state,)
    if session is None and operation.function not in ("new", "delete"):
        if operation.outcome is Outcome.INFO:
            return (state,)
        broken = Promise.S6 if name in state.deleted else Promise.S11
        return Refusal(broken, f"there is no such session, yet {operation}")
    happened = _ACTS[operation.function](state, session or Session(), **argument)
    if operation.outcome is Outcome.OK:
        return happened
    return tuple(dict.fromkeys(_crashed(each, name) for each in (*happened, state)))


def _crashed(state: State, name: str) -> State:
    session = state.get(name)
    if session is None:
        return state
    crashed = replace(session, was_crashed=True, was_told=False, seen_at=None)
    return state.put(name, crashed).somewhere(name)


# What changes a session ---------------------------------------------------------------------------


def _new(state: State, _: Session, session: str) -> tuple[State, ...]:
    if state.get(session) is not None:
        return (state,)
    fresh = replace(state, deleted=state.deleted - {session})
    return (fresh.put(session, Session()).newest(session),)


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
        return _blurred(state, found, session), state  # perhaps there was nothing to take away
    if keep < len(found.messages):
        return (_cut(state, found, session, keep),)
    same = state.put(session, _written(found)).somewhere(session)
    if found.whole is None:
        return (same,)
    # Nothing went. Perhaps the user has now agreed to what was lost before, perhaps not.
    return (same, _cut(state, found, session, keep))


def _undo(state: State, found: Session, session: str) -> tuple[State, ...]:
    if found.blur is not None:
        return _blurred(state, found, session), state
    if not found.messages:
        return (state.put(session, _written(found)).somewhere(session),)
    return (_cut(state, found, session, len(found.messages) - 1),)


def _cut(state: State, found: Session, session: str, keep: int) -> State:
    """The user keeps the first ones; what was lost before is gone too, because he saw it gone."""
    before = found.messages if found.whole is None else found.whole
    kept = found.messages[:keep]
    after = replace(_written(found), messages=kept, whole=None, spare=(), blur=None)
    if before and found.blur is None:
        after = replace(after, backup=_most(after.backup, len(before)))
    gone = Counter(before) - Counter(kept)
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
    damaged = replace(found, blur=Blur(), was_told=False)
    return (state.put(session, damaged).somewhere(session),)


def _written(found: Session) -> Session:
    """Something was saved: a damaged sidecar was replaced, and `updated_at` may have moved."""
    written = replace(found, seen_at=None, was_told=False)
    if found.blur is None:
        return written
    blur = replace(found.blur, was_replaced=True)
    return replace(written, blur=blur, backup=_most(found.backup, -1))


def _blurred(state: State, found: Session, session: str) -> State:
    """Some of the messages were removed, and which depends on what the damage had left."""
    after = _written(found)
    after = replace(after, spare=(), blur=Blur(was_replaced=True))
    return state.put(session, after).somewhere(session)


def _most(needed: int | None, count: int) -> int:
    return count if needed is None else max(needed, count)


_ACTS: Mapping[str, Callable[..., tuple[State, ...]]] = {
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


# What has to fail ---------------------------------------------------------------------------------

_MUST_FAIL: Mapping[str, tuple[Promise, str]] = {
    "save_stub": (Promise.S3, "what was loaded without messages was saved"),
    "save_stale": (Promise.S9, "a stale copy was saved over a newer version"),
    "save_refused": (Promise.S10, "a save that must be refused returned as if done"),
    "hostile": (Promise.S12, "what is no session id was taken for one"),
}


def _must_fail(
    state: State, operation: Operation, argument: Mapping[str, Any]
) -> tuple[State] | Refusal:
    if operation.outcome is Outcome.OK:
        broken, story = _MUST_FAIL[operation.function]
        return Refusal(broken, f"{story}: {operation}")
    name: str = argument.get("session", "")
    session = state.get(name)
    if session is None or operation.function == "save_stub":
        return (state,)
    if "text" in argument:
        state = replace(state, stale=state.stale | {(name, argument["text"])})
    # To make it refusable something else had to be saved before, which may count as activity.
    return (state.put(name, replace(session, seen_at=None)).somewhere(name),)


# Recovery -----------------------------------------------------------------------------------------


def _recover(state: State, operation: Operation) -> tuple[State] | Refusal:
    match operation.outcome:
        case Outcome.FAIL:
            return Refusal(Promise.S5, f"recovery stopped: {operation}")
        case Outcome.INFO:
            return (state,)  # a reader may be told either, until recovery comes to its end
    for name, session in state.sessions:
        state = state.put(name, _recovered(session, operation))
        if session.blur is not None:
            state = state.somewhere(name)
    return (state,)


def _recovered(session: Session, operation: Operation) -> Session:
    after = replace(session, was_told=False)
    if session.blur is not None:
        floor = () if session.blur.was_replaced else session.spare
        was_restarted = session.blur.was_restarted or operation.function == "restart"
        blur = replace(session.blur, floor=floor, was_restarted=was_restarted)
        return replace(after, blur=blur)
    if session.whole is not None:
        return replace(after, messages=session.whole, whole=None)
    return after


# What only looks ----------------------------------------------------------------------------------


def _messages(state: State, operation: Operation, session: str) -> tuple[State] | Refusal:
    found, told = state.get(session), _told(operation)
    if found is None:
        if told is None and operation.outcome is Outcome.OK:
            return (state,)
        broken = Promise.S11 if told is not None else Promise.S1  # no session cannot be damaged
        if session in state.deleted:
            broken = Promise.S6
        return Refusal(broken, f"there is no such session, yet {operation}", (None,))
    if told is None:
        return _unreadable(state, found, operation)
    if found.blur is not None:
        return _sharpened(state, session, found, told)
    if told not in found.readings:
        return _blame(state, session, told, found.readings)
    if found.whole is None:  # what was lost is back
        state = replace(state, lost=state.lost.difference((session, text) for text in told))
    return (state.put(session, replace(found, was_told=True, was_crashed=False)),)


def _told(operation: Operation) -> Texts | None:
    """The texts, if the answer is any."""
    texts = operation.result
    if operation.outcome is Outcome.OK and isinstance(texts, list):
        return tuple(str(text) for text in texts)
    return None


def _unreadable(state: State, found: Session, operation: Operation) -> tuple[State] | Refusal:
    if found.blur is None:
        is_gone = operation.outcome is Outcome.OK and not found.was_crashed
        broken = [Promise.S1, *([Promise.S2] if found.messages else [])]
        main, *also = reversed(broken) if is_gone else broken
        message = f"nobody damaged it, yet {operation}"
        return Refusal(main, message, _listed(found.readings), tuple(also))
    if found.blur.floor:
        message = f"a good backup was there to recover from, yet {operation}"
        return Refusal(Promise.S5, message, _listed([found.blur.floor]))
    if found.blur.was_replaced:
        return Refusal(Promise.S1, f"it was saved since it was damaged, yet {operation}")
    return (state,)


def _sharpened(state: State, name: str, found: Session, told: Texts) -> tuple[State] | Refusal:
    """What a damaged session turned out to be."""
    assert found.blur is not None
    blur = found.blur
    before = found.messages[: len(found.messages) - len(blur.tail)]
    known = before if found.whole is None else found.whole[: len(found.whole) - len(blur.tail)]
    head, tail = told[: len(told) - len(blur.tail)], told[len(told) - len(blur.tail) :]
    if tail != blur.tail or not _is_part(head, known) or not _is_part(blur.floor, head):
        return _blame(state, name, told, [(*known, *blur.tail), (*blur.floor, *blur.tail)])
    if not blur.was_restarted:
        return (state,)  # whoever told it may know it by heart, and recovery may know more
    spare = found.spare if head == known else ()
    clear = replace(found, messages=told, whole=None, spare=spare, title=None, seen_at=None)
    return (state.put(name, replace(clear, blur=None, was_told=True, was_crashed=False)),)


def _is_part(part: Texts, whole: Texts) -> bool:
    """Whether these texts are in those, in the same order."""
    rest = iter(whole)
    return all(text in rest for text in part)


def _blame(state: State, name: str, told: Texts, readings: Iterable[Texts]) -> Refusal:
    """Whose promises it broke that these messages were told, the most telling first.

    What no reading has is stray, and what the last one has is missing.
    """
    readings = [*readings]
    most = reduce(or_, map(Counter, readings))
    stray = {(name, text) for text in Counter(told) - most}
    missing = {(name, text) for text in Counter(readings[-1]) - Counter(told)}
    stories = {
        Promise.S9: (stray & state.stale, "what a stale copy said is there"),
        Promise.S6: (stray & state.removed, "what the user removed is back"),
        Promise.S1: (
            stray - state.stale - state.removed,
            "what nobody said, or only once, is there",
        ),
        Promise.S5: (missing & state.lost, "what nobody removed was not recovered"),
        Promise.S2: (missing - state.lost, "what was acknowledged is gone"),
    }
    broken = [promise for promise, (texts, _) in stories.items() if texts]
    main, *also = broken or [Promise.S1]
    story = stories[main][1] if broken else "its messages changed places"
    message = f"{story}: {name} has {[*told]}, and should have {[*readings[-1]]}"
    return Refusal(main, message, _listed(readings), tuple(also))


def _listed(readings: Iterable[Texts]) -> tuple[list[str], ...]:
    return tuple([*texts] for texts in readings)


def _list(state: State, operation: Operation) -> tuple[State] | Refusal:
    told = operation.result
    if operation.outcome is Outcome.FAIL or not isinstance(told, list):
        return Refusal(Promise.S11, f"nobody can list the sessions: {operation}")
    names = [name for name, _ in state.sessions]
    sure = {name for name, session in state.sessions if session.was_told}
    if Counter(told) - Counter(names) or sure - {*told}:
        also = (Promise.S6,) if state.deleted & {*told} else ()
        return Refusal(Promise.S11, f"the sessions are {names}, yet {operation}", also=also)
    unlisted = {*names} - {*told}  # not yet for the index to answer for: messages may be gone
    loose = state.loose | unlisted
    firm = [name for name in state.order if name not in loose]
    if [name for name in told if name not in loose] != firm:
        return Refusal(Promise.S8, f"the order of activity is {firm}, yet {operation}")
    order = (*told, *sorted(unlisted))
    return (replace(state, order=order, loose=frozenset(unlisted)),)


def _row(state: State, operation: Operation, session: str) -> tuple[State] | Refusal:
    found = state.get(session)
    row = operation.result if operation.outcome is Outcome.OK else None
    if found is None:
        if row is None:
            return (state,)
        message = f"a ghost: there is no such session, yet {operation}"
        also = (Promise.S6,) if session in state.deleted else ()
        return Refusal(Promise.S11, message, (None,), also)
    if wrong := _wrong_in(row, found):
        return Refusal(Promise.S11, f"the session {wrong}, yet {operation}")
    if row is None or found.blur is not None:
        return (state,)
    if found.seen_at not in (None, row["updated_at"]):
        message = f"nothing was done since updated_at was {found.seen_at}, yet {operation}"
        return Refusal(Promise.S8, message, ({**row, "updated_at": found.seen_at},))
    return (state.put(session, replace(found, seen_at=row["updated_at"])),)


def _wrong_in(row: Mapping[str, Any] | None, found: Session) -> str:
    """What the row should say. It answers for no message that is wrong in the session itself."""
    counts = {len(texts) for texts in found.readings}
    if found.blur is not None:
        return ""
    if row is None:
        return "has a row" if found.was_told else ""
    if found.was_told and row["message_count"] not in counts:
        return f"has {len(found.messages)} messages"
    return f"is called {found.title!r}" if found.title not in (None, row["title"]) else ""


def _backup(state: State, operation: Operation, session: str) -> tuple[State] | Refusal:
    found, count = state.get(session), operation.result
    needed = None if found is None else found.backup
    has = -2 if operation.outcome is Outcome.FAIL or count is None else int(count)
    if needed is None or has >= needed:
        return (state,)
    copy = "a copy of the damaged sidecar" if needed < 0 else f"a backup of {needed} messages"
    return Refusal(Promise.S4, f"there should be {copy}, yet {operation}")


def _held(state: State, operation: Operation) -> tuple[State] | Refusal:
    damaged = sum(session.blur is not None for _, session in state.sessions)
    if operation.outcome is Outcome.OK and operation.result <= HELD_MAX + damaged:
        return (state,)
    return Refusal(Promise.A6, f"{damaged} sessions are not surely on disk, yet {operation}")


_LOOKS: Mapping[str, Callable[..., tuple[State] | Refusal]] = {
    "messages": _messages,
    "list": _list,
    "row": _row,
    "backup": _backup,
    "held": _held,
}
