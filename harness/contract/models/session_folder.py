"""Exact model of a folder of sessions: every field of every file, row, answer and copy in memory.

Two stores have the folder open, as two processes; `swap` changes which of them is called. Calls
carry the time `at` which the clock shows. Each answers what the store returns, or
`{"refused": the error's type}`:

- `open(cap)`, `restart`: both, or the called one, begin anew; `swap`;
- `found`: as the first call of all, both begin in a folder that does not exist yet, with a `new`;
- `new`, `append`, `change(fields)`, `maintain(fields)`, `rename`, `clear`, `truncate`, `undo`,
  `compress(keep_from)`, `shrink` (a plain save of fewer messages), `save_head`, `copy(slot)`,
  `save_copy(slot, add)`;
- `delete`, `cleanup(live)`, `load`, `head`, `backup_count`, `recover`, `audit`;
- `corrupt(kind)`, `corrupt_backup(kind)`, `damage_index(kind)`, `plant(name)`: the harness damages;
- `busy(function, argument, lock)`: a write, while another process holds the lock of the index, or
  those of all sessions; answers `{"result", "leaked"}`, the latter the files that it left open;
- `during(session, title, rival)`: a `rename`, during which a thread of this process, or the other
  process, does the same and is refused; answers `{"result", "rival"}`;
- `look`: the list, whether clients read the same one, the index on disk, each sidecar and backup,
  all files' names, memory, gauges.

A long text is replaced by its `digest` in answers. `striking` calls a function during a fault
(`DiskFaultsModel` says how); afterwards each file is as before the call or as after it, until a
`look` shows which. A refused answer leaves the predicted state; a refused `look` becomes the state,
since it shows all there is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.contract import promises
from harness.contract.models.folder_calls import as_if_allowed, predicted
from harness.contract.models.folder_files import as_observed, looked, wrong_session
from harness.contract.models.folder_values import State, Value, World, fresh, text_of
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal


class SessionFolderModel:
    """What the session store answers and writes, exactly."""

    name = "session-folder"

    def initial(self) -> State:
        """No session exists."""
        return State(json.dumps(fresh()))

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The state after the operation, or the promise it broke."""
        function, argument, result, was_struck = _asked(operation)
        if function == "look":
            return looked(state, operation, result)
        if operation.outcome is Outcome.INFO:
            return (_struck(state, function, argument, operation),)
        after, expected = predicted(state.world, function, argument)
        if _strike(operation).startswith("power"):
            _begin_anew(after, "power")
        if was_struck and operation.outcome is Outcome.OK and function in _SKIPPING:
            if not state.before and not _may_report(function, result, expected):
                return _wrong_answer(operation, function, result, expected, state.world)
            after["reported"] = result.get("restored", [])
            return (State(text_of(after), state.text),)
        right = [expected]
        done = State(text_of(after))
        if state.before:
            earlier, other = predicted(json.loads(state.before), function, argument)
            done = State(
                text_of(after), text_of(earlier), state.was_killed and function != "recover"
            )
            right = [expected, other]
            is_report = function == "recover" and isinstance(result, dict)
            if is_report and {*result.get("restored", [None])} <= {
                *expected["restored"],
                *other["restored"],
            }:
                right = [{**expected, **{key: result[key] for key in _TRIED}}]
                right.append({**right[0], "scanned": other["scanned"]})
        elif was_struck:
            done = State(text_of(after), text_of(after))
        if operation.outcome is Outcome.OK and result in right:
            return (done,)
        return _wrong_answer(operation, function, result, expected, state.world)

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """What a look shows; after a wrong refusal either; else what should have happened."""
        function, argument, result, was_struck = _asked(operation)
        if function == "look":
            is_seen = isinstance(result, dict) and "disk" in result
            return (State(text_of(as_observed(state.world, result))),) if is_seen else (state,)
        after, expected = predicted(state.world, function, argument)
        answered = result if operation.outcome is Outcome.OK else {"refused": operation.error}
        if _refused(answered) or _refused(expected):
            if _refused(expected):
                after = as_if_allowed(state.world, function, argument)
            return (State(text_of(after), state.before or state.text),)
        return (State(text_of(after), state.before or (state.text if was_struck else "")),)


_SKIPPING = ("recover", "audit")  # they report what they could not read, and go on
_TRIED = ("restored", "findings")
NOT_EXAMINED = "not_examined"
_NO_FINDING = {
    "kind": NOT_EXAMINED,
    "is_repairable": False,
    "live_messages": None,
    "backup_messages": None,
}


def _may_report(function: str, result: Any, expected: Value) -> bool:
    """Whether a call that a fault hit may say this: less than without it, and what it left out."""
    if not isinstance(result, dict) or result.keys() != expected.keys():
        return False
    known, found = expected["findings"], result["findings"]
    others = [finding for finding in found if finding not in known]
    left_out = {finding["session_id"] for finding in others}
    missing = {finding["session_id"] for finding in known if finding not in found}
    reports_all = (
        all(finding == {**_NO_FINDING, "session_id": finding["session_id"]} for finding in others)
        and missing <= left_out
        and _in_order(found) >= _in_order(known)
    )
    if function == "audit":
        repairable = all(finding["is_repairable"] for finding in found)
        status = ("warn" if repairable else "needs_manual_review") if found else "ok"
        return reports_all and bool(result["status"] == status)
    return reports_all and {*result["restored"]} <= {*expected["restored"]}


def _in_order(findings: Sequence[Value]) -> bool:
    """Whether they are in the order of their sessions, each once."""
    kinds = [(finding["session_id"], finding["kind"]) for finding in findings]
    sessions = [session for session, _ in kinds]
    return sessions == sorted(sessions) and len({*kinds}) == len(kinds)


def _refused(answer: Any) -> str | None:
    return answer.get("refused") if isinstance(answer, dict) else None


def _asked(operation: Operation) -> tuple[str, dict[str, Any], Any, bool]:
    """The function, its argument, its result, and whether a fault hit it."""
    argument = operation.argument or {}
    if operation.function != "striking":
        return operation.function, argument, operation.result, False
    is_ok = operation.outcome is Outcome.OK and isinstance(operation.result, dict)
    result = operation.result.get("result") if is_ok else None
    struck = bool(is_ok and operation.result.get("struck"))
    return argument["function"], argument["argument"], result, struck


def _struck(state: State, function: str, argument: Value, operation: Operation) -> State:
    """The call happened, did not, or did in part."""
    after, _ = predicted(state.world, function, argument)
    before = json.loads(state.before or state.text)
    strike = _strike(operation)
    was_killed = strike.startswith(("kill", "power"))
    if was_killed:
        for world in (after, before):
            _begin_anew(world, strike)
    if function == "recover":
        after["partial"] = True  # its last step writes the rows
    return State(text_of(after), text_of(before), was_killed)


def _strike(operation: Operation) -> str:
    strike: str = operation.argument["strike"] if operation.function == "striking" else ""
    return strike


def _begin_anew(world: World, strike: str) -> None:
    """Forget what the killed process had in memory; without power, both."""
    for process in (0, 1) if strike.startswith("power") else (0,):
        world["held"][process], world["newest"][process] = [], 0.0
    world["slots"] = {}


_MUST_REFUSE: Mapping[str, Promise] = {
    "MetadataOnlyError": promises.S3,
    "StaleCopyError": promises.S9,
    "SaveRefusedError": promises.S10,
    "InvalidSessionIdError": promises.S12,
    "SidecarDamagedError": promises.S4,
    "TypeError": promises.S10,
    "ValueError": promises.S10,
}
_MAINTENANCE = ("maintain", "cleanup", "recover")


def _wrong_answer(
    operation: Operation, function: str, result: Any, expected: Any, world: World
) -> Refusal:
    session = (operation.argument or {}).get("session", "")
    refused, should = _refused(result), _refused(expected)
    is_ok = operation.outcome is Outcome.OK
    if should and is_ok and not refused:
        unknown = promises.S6 if session in world["gone"] else promises.S11
        promise = _MUST_REFUSE.get(should, unknown)
        problem = "succeeded although it has to be refused"
    elif should and is_ok:
        promise, problem = promises.S10, "was refused for another reason"
    elif refused or not is_ok:
        promise = {
            "new": promises.S11,
            "recover": promises.S5,
            "audit": promises.S5,
            "delete": promises.S6,
            "cleanup": promises.S7,
        }.get(function, promises.S2)
        problem = "failed without a reason"
    else:
        promise, problem = _wrong_value(function, result, expected, world)
    return Refusal(
        promise,
        f"{function}() {problem}",
        (expected,),
        expected=json.dumps(expected),
    )


def _wrong_value(function: str, result: Any, expected: Any, world: World) -> tuple[Promise, str]:
    if function == "recover":
        return _wrong_recovery(result, expected)
    if function == "busy":
        return _wrong_beside_a_lock(result, expected, world)
    if function == "during":
        return promises.S9, "let another one write while it held the lock, or answered wrongly"
    simple = {
        "audit": promises.S16,
        "backup_count": promises.S4,
        "delete": promises.S6,
        "cleanup": promises.S7,
    }
    if function in simple or not isinstance(result, dict) or not isinstance(expected, dict):
        return simple.get(function, promises.S10), "answered something else"
    promise, problem = next(iter(wrong_session(result, expected, world, function)))
    return promise, f"answered a session that {problem}"


def _wrong_beside_a_lock(result: Any, expected: Any, world: World) -> tuple[Promise, str]:
    """A call that met a held lock: it left files open, did not wait, or answered wrongly."""
    if isinstance(result, dict):
        if result.get("leaked"):
            return promises.H8, "left files open after its patience with a lock"
        asked, right = result.get("result"), expected["result"]
        if isinstance(asked, dict) and "refused" not in {*asked, *right}:  # it waited as it had to
            for promise, problem in wrong_session(asked, right, world, "busy"):
                return promise, f"answered a session that {problem}"
    return promises.H6, "neither waited for the lock nor said so, or needs one that it does not"


def _wrong_recovery(result: Any, expected: Any) -> tuple[Promise, str]:
    """A recovery that found or did something else, or that reports it wrongly."""
    try:
        kinds = {(row["session_id"], row["kind"]) for row in result["findings"]}
        restored = {*result["restored"]}
    except (TypeError, KeyError):
        return promises.S16, "does not report what it did"
    extra = kinds - {(row["session_id"], row["kind"]) for row in expected["findings"]}
    if any(kind == "unreadable_live" for _, kind in extra):
        return promises.S1, "found a session unreadable that nothing had damaged"
    examined = [kind for _, kind in extra if kind != NOT_EXAMINED]
    if examined and restored - {*expected["restored"]}:
        return promises.S6, "restored what the user had removed"
    return promises.S16, "does not report what it did"
