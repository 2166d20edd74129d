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

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.contract import promises
from harness.contract.models.session_store_reads import READS
from harness.contract.models.session_store_values import Session, State
from harness.contract.models.session_store_writes import WRITES, judge_write
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal


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
        if function in READS:
            if operation.outcome is Outcome.INFO:
                return (state,)
            return READS[function](state, operation, **argument)
        if function in ("restart", "recover"):
            return _recover(state, operation)
        if function == "swap":
            if operation.outcome is Outcome.FAIL:
                return Refusal(promises.S11, f"{operation.call} failed", expected="null")
            return (state,)
        if function not in WRITES:
            raise UsageError(f"{self.name} has no function {function!r}")
        return judge_write(state, operation, argument)


_VOID = frozenset(
    {"new", "append", "rename", "clear", "truncate", "undo", "shrink", "delete", "cleanup"}
    | {"corrupt", "swap", "restart", "recover"}
)
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
