"""Exact model of a folder of sessions: every field of every file, row, answer and copy in memory.

Two stores have the folder open, as two processes; `swap` changes which of them is called. Calls
carry the time `at` which the clock shows. Each answers what the store returns, or
`{"refused": the error's type}`:

- `open(cap)`, `restart`: both, or the called one, begin anew; `swap`;
- `found`: as the first call of all, both begin in a folder that does not exist yet, with a `new`;
- `new`, `append`, `change(fields)`, `maintain(fields)`, `rename`, `clear`, `truncate`, `undo`,
  `shrink` (a plain save of fewer messages), `save_head`, `copy(slot)`, `save_copy(slot, add)`;
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
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

World = dict[str, Any]
Value = dict[str, Any]

SAFE_ID = re.compile(r"[0-9A-Za-z-][0-9A-Za-z_-]{0,127}", re.ASCII)
LONG = 200
TICK_S = 1e-6
CAP = 2
DAMAGED = "damaged"
REMOVED = "removed"
NO_NUMBER = "no number"  # in a backup: other programs write NaN, which is null then
HEAD_STAYS = ("cut tail",)  # damage behind the metadata

FIELDS: Mapping[str, Any] = {
    "session_id": "",
    "version": 0,
    "title": "Untitled",
    "created_at": 0.0,
    "updated_at": 0.0,
    "active_stream_id": None,
    "pending_user_message": None,
    "pending_started_at": None,
    "intentional_shrink_generation": 0,
    "truncation_watermark": None,
    "shrunk_at": None,
    "message_count": 0,
}


def digest(value: Any) -> Any:
    """The value, in which each long text is replaced by its length, beginning and checksum."""
    match value:
        case str() if len(value) > LONG:
            checksum = zlib.crc32(value.encode("utf-8", "surrogatepass"))
            return f"{len(value)}:{value[:8]}:{checksum}"
        case list() | tuple():
            return [digest(item) for item in value]
        case dict():
            return {name: digest(item) for name, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class State:
    """A world as JSON; after a fault, the worlds that each file may be from, `before` first."""

    text: str
    before: str = ""
    was_killed: bool = False

    @property
    def world(self) -> World:
        """A copy of the world."""
        world: World = json.loads(self.text)
        return world


class RefusedError(Exception):
    """The call has to be refused with this error type."""


def _fresh() -> World:
    return {
        "cap": CAP,
        "live": {},
        "bak": {},
        "copies": [],
        "deleted": [],
        "temps": [],
        "strays": [],
        "rows": {},
        "held": [[], []],
        "newest": [0.0, 0.0],
        "slots": {},
        "removed": [],
        "gone": [],
    }


class SessionFolderModel:
    """What the session store answers and writes, exactly."""

    name = "session-folder"

    def initial(self) -> State:
        """No session exists."""
        return State(json.dumps(_fresh()))

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The state after the operation, or the promise it broke."""
        function, argument, result, was_struck = _asked(operation)
        if function == "look":
            return _look(state, operation, result)
        if operation.outcome is Outcome.INFO:
            return (_struck(state, function, argument, operation),)
        after, expected = predicted(state.world, function, argument)
        if _strike(operation).startswith("power"):
            _begin_anew(after, "power")
        if was_struck and operation.outcome is Outcome.OK and function in _SKIPPING:
            return (State(_text(after), state.text),)
        right = [expected]
        done = State(_text(after))
        if state.before:
            earlier, other = predicted(json.loads(state.before), function, argument)
            done = State(_text(after), _text(earlier), state.was_killed and function != "recover")
            right = [expected, other]
            is_report = function == "recover" and isinstance(result, dict)
            if is_report and {*result.get("restored", [None])} <= {
                *expected["restored"],
                *other["restored"],
            }:
                right = [{**expected, **{key: result[key] for key in _TRIED}}]
                right.append({**right[0], "scanned": other["scanned"]})
        elif was_struck:
            done = State(_text(after), _text(after))
        if operation.outcome is Outcome.OK and result in right:
            return (done,)
        return _wrong_answer(operation, function, result, expected, state.world)

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """What a look shows; after a wrong refusal either; else what should have happened."""
        function, argument, result, _ = _asked(operation)
        if function == "look":
            is_seen = isinstance(result, dict) and "disk" in result
            return (State(_text(_observed(state.world, result))),) if is_seen else (state,)
        after, expected = predicted(state.world, function, argument)
        answered = result if operation.outcome is Outcome.OK else {"refused": operation.error}
        if _refused(answered) or _refused(expected):
            if _refused(expected):
                after = _as_if_allowed(state.world, function, argument)
            return (State(_text(after), state.before or state.text),)
        return (State(_text(after), state.before),)


_SKIPPING = ("recover", "audit")  # they report what they could not read, and go on
_TRIED = ("restored", "findings")


def _text(world: World) -> str:
    return json.dumps(world)


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
    return State(_text(after), _text(before), was_killed)


def _strike(operation: Operation) -> str:
    strike: str = operation.argument["strike"] if operation.function == "striking" else ""
    return strike


def _begin_anew(world: World, strike: str) -> None:
    """Forget what the killed process had in memory; without power, both."""
    for process in (0, 1) if strike.startswith("power") else (0,):
        world["held"][process], world["newest"][process] = [], 0.0
    world["slots"] = {}


def predicted(world: World, function: str, argument: Mapping[str, Any]) -> tuple[World, Any]:
    """The world after a call, and its answer."""
    if function == "busy":
        answer: Any = {"refused": "LockBusyError"}
        if argument["lock"] == "index":  # the row can wait
            given = {**argument["argument"], "at": argument["at"]}
            world, answer = predicted(world, argument["function"], given)
        return world, {"result": answer, "leaked": 0}
    before = _text(world)
    call = _Call(world, argument.get("at", 0.0))
    asked = {name: digest(value) for name, value in argument.items() if name != "at"}
    if "session" in argument:
        asked["session"] = argument["session"]
    try:
        _check_id(argument.get("session", "s"))
        answer = getattr(call, function)(**asked)
    except RefusedError as error:
        unchanged: World = json.loads(before)
        unchanged["held"] = world["held"]  # what was loaded for the refused save stays in memory
        if call.is_aside:
            unchanged["copies"] = world["copies"]
        return unchanged, {"refused": str(error)}
    return world, answer


def _check_id(session_id: str) -> None:
    if not SAFE_ID.fullmatch(session_id):
        raise RefusedError("InvalidSessionIdError")


def _as_if_allowed(world: World, function: str, argument: Mapping[str, Any]) -> World:
    """The world after a call that was not refused although it should have been: not predicted."""
    after, _ = predicted(world, function, argument)
    after["unsure"] = True
    return after


def shown(session: Value) -> Value:
    """What a call that saves answers: the session without its messages."""
    return {name: value for name, value in session.items() if name != "messages"}


def row_of(session: Value) -> Value:
    """The row of a session in the list."""
    row = shown(session)
    row["has_pending_user_message"] = row.pop("pending_user_message") is not None
    return row


def sorted_rows(rows: Mapping[str, Value]) -> list[Value]:
    """Newest activity first."""
    return sorted(rows.values(), key=lambda row: (-row["updated_at"], row["session_id"]))


def _is_busy(session: Value) -> bool:
    return session["active_stream_id"] is not None or session["pending_user_message"] is not None


def _generation(session: Value) -> int:
    generation: int = session["intentional_shrink_generation"]
    return generation


def _cut(session: Value, keep: int) -> Value:
    left = session["messages"][:keep]
    generation = _generation(session) + 1
    return _counted(
        {
            **session,
            "messages": left,
            "intentional_shrink_generation": generation,
            "shrunk_at": None,
        }
    )


def _counted(session: Value) -> Value:
    return {**session, "message_count": len(session["messages"])}


def _unknown_from(session: Value, backup: Value | None) -> int:
    if session["shrunk_at"] is None or backup is None or backup["version"] >= session["version"]:
        return len(session["messages"])
    at: int = session["shrunk_at"]
    return at


def _completed(session: Value, backup: Value | None) -> Value:
    def lineage(of: Value) -> tuple[float, int]:
        return of["created_at"], _generation(of)

    if backup is None or lineage(backup) != lineage(session):
        return session
    messages = backup["messages"] + session["messages"][_unknown_from(session, backup) :]
    if len(messages) <= len(session["messages"]):
        return session
    return _counted({**session, "messages": messages, "shrunk_at": None})


def _readable(value: Any) -> Value | None:
    return None if value is None or DAMAGED in value else value


class _Call:
    """One call of the first store, in a world that it changes."""

    def __init__(self, world: World, at: float) -> None:
        self.world, self.at = world, at
        self.is_aside = False

    # The harness

    def open(self, cap: int) -> None:
        self.world.update(cap=cap, held=[[], []], newest=[0.0, 0.0], slots={})

    def found(self, session: str) -> Value:
        return self.new(session)

    def restart(self) -> None:
        self.world["held"][0], self.world["newest"][0] = [], 0.0
        self.world["slots"] = {}

    def swap(self) -> None:
        for name in ("held", "newest"):
            self.world[name].reverse()

    def plant(self, name: str) -> None:
        self.world["strays"].append(name)

    def corrupt(self, session: str, kind: str) -> None:
        live = self.world["live"].get(session)
        if _readable(live) is None:
            raise RefusedError("UnknownSessionError")
        if kind == REMOVED:
            del self.world["live"][session]
            return
        head = shown(live) if kind in HEAD_STAYS else None
        self.world["live"][session] = {DAMAGED: kind, "head": head}
        for held in (*self.world["held"][0], *self.world["held"][1]):
            if held["session"]["session_id"] == session:
                held["proven"] = False

    def corrupt_backup(self, session: str, kind: str) -> None:
        if session not in self.world["bak"]:
            raise RefusedError("UnknownSessionError")
        backup = _readable(self.world["bak"][session])
        if kind != NO_NUMBER or backup is None:
            self.world["bak"][session] = {DAMAGED: kind}
            return
        messages = [{**message, "cost": None} for message in backup["messages"]]
        self.world["bak"][session] = {**backup, "messages": messages}

    def damage_index(self, kind: str) -> None:  # noqa: ARG002  (every kind is mended)
        live = self.world["live"]
        rows = {sid: self._row(sid) for sid in live}
        self.world["rows"] = {
            sid: row
            for sid, row in rows.items()
            if row is not None and (DAMAGED not in live[sid] or live[sid]["head"])
        }

    # Reads

    def load(self, session: str) -> Value:
        live = self.world["live"].get(session)
        if live is None:
            raise RefusedError("UnknownSessionError")
        found: Value = live
        if DAMAGED in live:
            held = self._held(session)
            if held is None or live["head"] != shown(held["session"]):
                return self._survivor(session)
            found = held["session"]
        self._hold(found)
        return found

    def head(self, session: str) -> Value:
        live = self.world["live"].get(session)
        if live is None:
            raise RefusedError("UnknownSessionError")
        if DAMAGED not in live:
            return shown(live)
        head: Value | None = live["head"]
        return head or shown(self._survivor(session))

    def backup_count(self, session: str) -> int | None:
        backup = self.world["bak"].get(session)
        if _readable(backup) is not None:
            return len(backup["messages"])
        return -1 if backup is not None or session in self.world["copies"] else None

    # Writes

    def new(self, session: str, fields: Value | None = None) -> Value:
        time = self._now()
        made = {**FIELDS, "session_id": session, "created_at": time, **(fields or {})}
        return self._save({**made, "messages": []})

    def append(self, session: str, messages: list[Any]) -> Value:
        return self._change(session, lambda found: _added(found, messages))

    def change(self, session: str, fields: Value) -> Value:
        return self._change(session, lambda found: {**found, **fields})

    def maintain(self, session: str, fields: Value) -> Value:
        return self._maintain(session, lambda found: {**found, **fields})

    def rename(self, session: str, title: str) -> Value:
        return self._change(session, lambda found: {**found, "title": title})

    def during(self, session: str, title: str, rival: str) -> Value:  # noqa: ARG002  (either)
        return {"result": self.rename(session, title), "rival": ["LockBusyError"]}

    def clear(self, session: str) -> Value:
        return self._change(session, lambda found: _cut(found, 0))

    def truncate(self, session: str, keep: int) -> Value:
        if keep < 0:
            raise RefusedError("ValueError")

        def act(found: Value) -> Value:
            return _cut(found, keep) if keep < found["message_count"] else found

        return self._change(session, act)

    def undo(self, session: str) -> Value:
        def act(found: Value) -> Value:
            users = [at for at, one in enumerate(found["messages"]) if one.get("role") == "user"]
            if not users:
                raise RefusedError("SaveRefusedError")
            return _cut(found, users[-1])

        return self._change(session, act)

    def shrink(self, session: str, keep: int) -> Value:
        found = self.load(session)
        return self._save(_counted({**found, "messages": found["messages"][:keep]}))

    def save_head(self, session: str) -> Value:
        self.head(session)
        raise RefusedError("MetadataOnlyError")

    def copy(self, session: str, slot: str) -> Value:
        found = self.load(session)
        self.world["slots"][slot] = found
        return found

    def save_copy(
        self, slot: str, add: list[Any], keep: int | None = None, fields: Value | None = None
    ) -> Value:
        if slot not in self.world["slots"]:
            raise RefusedError("UnknownSessionError")
        found = self.world["slots"][slot]
        messages = found["messages"][:keep] + add
        return self._save(_counted({**found, **(fields or {}), "messages": messages}))

    def delete(self, session: str) -> bool:
        world = self.world
        existed = False
        for name in ("live", "bak"):
            gone = world[name].pop(session, None)
            existed |= gone is not None
            self._remove(gone)
        for name in ("copies", "deleted"):
            existed |= session in world[name]
            world[name] = [sid for sid in world[name] if sid != session]
        world["held"][0] = [
            held for held in world["held"][0] if held["session"]["session_id"] != session
        ]
        world["rows"].pop(session, None)
        world["gone"] = sorted({*world["gone"], session})
        self._touch()
        return existed

    def cleanup(self, session: str, live: list[str]) -> bool:
        cleaned = False

        def act(found: Value) -> Value:
            nonlocal cleaned
            stream = found["active_stream_id"]
            text = found["pending_user_message"]
            cleaned = (stream is not None or text is not None) and stream not in live
            if not cleaned:
                return found
            if text is not None:
                message = {"role": "user", "content": text, "interrupted": True}
                message["timestamp"] = found["pending_started_at"]
                found = _added(found, [message])
            none = dict.fromkeys(("active_stream_id", "pending_user_message", "pending_started_at"))
            return {**found, **none}

        self._maintain(session, act)
        return cleaned

    # Recovery

    def recover(self) -> Value:
        world = self.world
        self._mend_rows()
        rows = dict(world["rows"])
        own = {sid for sid in world["temps"] if sid != "_index"}
        findings, restored = [], []
        for sid in sorted({*world["bak"], *own, *world["deleted"]}):
            if sid in world["deleted"]:
                world["deleted"].remove(sid)
                world["bak"].pop(sid, None)
                world["copies"] = [other for other in world["copies"] if other != sid]
            finding, remedy = self._diagnose(sid, rows.get(sid))
            if remedy is not None:
                if DAMAGED in (world["live"].get(sid) or {}):
                    world["copies"] = sorted({*world["copies"], sid})
                world["live"][sid] = remedy
                restored.append(sid)
            if finding is not None:
                findings.append(finding)
        world["temps"] = []
        for sid in world["live"]:
            row = self._row(sid)
            if row is not None:
                world["rows"][sid] = row
        self._touch()
        world["restored"] = restored
        return {"scanned": len(world["live"]), "restored": restored, "findings": findings}

    def audit(self) -> Value:
        world = self.world
        names = ({*world["rows"]} - {*world["live"]}, {*world["live"]} - {*world["rows"]})
        kinds = ("index_missing_file", "index_missing_entry")
        findings = [
            _finding(sid, kind, None, None, is_repairable=True)
            for kind, sids in zip(kinds, names, strict=True)
            for sid in sorted(sids)
        ]
        for sid in sorted({*world["live"], *world["bak"]}):
            finding, _ = self._diagnose(sid, None)
            if finding is not None:
                findings.append(finding)
        status = "ok" if not findings else "warn"
        if not all(finding["is_repairable"] for finding in findings):
            status = "needs_manual_review"
        self._touch()
        return {"status": status, "findings": findings}

    def _diagnose(self, sid: str, row: Value | None) -> tuple[Value | None, Value | None]:
        live, backup = self.world["live"].get(sid), self.world["bak"].get(sid)
        whole = _readable(backup)
        remedy, count = None, None if backup is None else -1
        if whole is not None:
            count, remedy = len(whole["messages"]), _salvaged(whole, row)
        if live is None:
            if count is None:
                return None, None
            kind = "orphan_backup" if remedy else "malformed_orphan_backup"
            return _finding(sid, kind, None, count, is_repairable=remedy is not None), remedy
        if DAMAGED in live:
            right = remedy is not None
            return _finding(sid, "unreadable_live", -1, count, is_repairable=right), remedy
        all_of_it = _completed(live, whole)
        if all_of_it is live:
            return None, None
        remedy = {**all_of_it, "version": live["version"] + 1}
        found = _finding(sid, "shrunken_live", live["message_count"], count, is_repairable=True)
        return found, remedy

    # Implementation

    def _now(self) -> float:
        newest: float = self.world["newest"][0] + TICK_S
        return max(self.at, newest)

    def _touch(self) -> None:
        times = [row["updated_at"] for row in self.world["rows"].values()]
        self.world["newest"][0] = max([self.world["newest"][0], *times])

    def _row(self, sid: str) -> Value | None:
        live = self.world["live"][sid]
        if DAMAGED not in live:
            return row_of(live)
        known: Value | None = row_of(live["head"]) if live["head"] else self.world["rows"].get(sid)
        return known

    def _mend_rows(self) -> None:
        """Read the rows of sessions that have none, and forget those without a session."""
        live, rows = self.world["live"], self.world["rows"]
        for sid in {*live} ^ {*rows}:
            row = self._row(sid) if sid in live else None
            if row is None:
                rows.pop(sid, None)
            else:
                rows[sid] = row
        self._touch()

    def _held(self, sid: str) -> Value | None:
        mine = self.world["held"][0]
        return next((held for held in mine if held["session"]["session_id"] == sid), None)

    def _survivor(self, sid: str) -> Value:
        held, row = self._held(sid), self.world["rows"].get(sid)
        self._touch()
        if held is None or row is None or row["version"] != held["session"]["version"]:
            raise RefusedError("SidecarDamagedError")
        session: Value = held["session"]
        return session

    def _hold(self, session: Value) -> None:
        sid, live = session["session_id"], self.world["live"]
        mine = [held for held in self.world["held"][0] if held["session"]["session_id"] != sid]
        mine.append({"session": session, "proven": True})
        surplus = len(mine) - self.world["cap"]
        left = []
        for held in mine:
            is_damaged = DAMAGED in (live.get(held["session"]["session_id"]) or {})
            if surplus > 0 and not _is_busy(held["session"]) and (held["proven"] or not is_damaged):
                surplus -= 1
            else:
                left.append(held)
        self.world["held"][0] = left

    def _previous(self, sid: str) -> Value | None:
        live = self.world["live"].get(sid)
        if live is None or DAMAGED not in live:
            return live
        survivor = self._survivor(sid)
        self.world["copies"] = sorted({*self.world["copies"], sid})
        self.is_aside = True
        return survivor

    def _existing(self, sid: str) -> Value:
        previous = self._previous(sid)
        if previous is None:
            raise RefusedError("UnknownSessionError")
        return previous

    def _change(self, sid: str, act: Callable[[Value], Value]) -> Value:
        previous = self._existing(sid)
        return self._write(previous, {**act(previous), "updated_at": self._now()})

    def _maintain(self, sid: str, act: Callable[[Value], Value]) -> Value:
        previous = self._existing(sid)
        session = {**act(previous), "updated_at": previous["updated_at"]}
        return shown(session) if session == previous else self._write(previous, session)

    def _save(self, session: Value) -> Value:
        previous = self._previous(session["session_id"])
        if previous is None:
            is_stale = session["version"] > 0
        else:
            is_stale = any(session[name] != previous[name] for name in ("version", "created_at"))
        if is_stale:
            raise RefusedError("StaleCopyError")
        return self._write(previous, {**session, "updated_at": self._now()})

    def _write(self, previous: Value | None, session: Value) -> Value:
        sid = session["session_id"]
        for name, kinds in _KINDS.items():
            if isinstance(session[name], bool) or not isinstance(session[name], kinds):
                raise RefusedError("TypeError")
        if not all(isinstance(message, dict) for message in session["messages"]):
            raise RefusedError("TypeError")
        if previous is None:
            if sid in self.world["deleted"]:
                self.world["deleted"].remove(sid)
                self.world["bak"].pop(sid, None)
                self.world["copies"] = [one for one in self.world["copies"] if one != sid]
            saved = {**session, "version": 1}
        else:
            is_asked = _generation(session) > _generation(previous)
            is_emptied = previous["messages"] and not session["messages"]
            if is_emptied and not is_asked and (_is_busy(session) or _is_busy(previous)):
                raise RefusedError("SaveRefusedError")
            if is_asked:
                self._remove(previous, session["messages"])
            session = self._backed_up(previous, session, is_asked=is_asked)
            saved = {**session, "version": previous["version"] + 1}
        self.world["live"][sid] = saved
        self.world["rows"][sid] = row_of(saved)
        self._touch()
        self._hold(saved)
        return shown(saved)

    def _backed_up(self, previous: Value, session: Value, *, is_asked: bool) -> Value:
        sid, count = session["session_id"], len(session["messages"])
        shrinks = count < len(previous["messages"])
        if not is_asked and not shrinks and previous["shrunk_at"] is None:
            return session
        backup = _readable(self.world["bak"].get(sid))
        whole = _completed(previous, backup)
        if is_asked:
            if backup is not None and len(backup["messages"]) > len(whole["messages"]):
                whole = backup
            pairs = zip(whole["messages"], session["messages"], strict=False)
            shorter = min(len(whole["messages"]), count)
            common = next((at for at, (old, new) in enumerate(pairs) if old != new), shorter)
            self._remove(whole, session["messages"])
            self.world["bak"][sid] = {**whole, "truncation_watermark": common}
            return session
        if shrinks:
            self.world["bak"][sid] = {**whole, "truncation_watermark": None}
            return {**session, "shrunk_at": count}
        return {**session, "shrunk_at": _unknown_from(previous, backup)}

    def _remove(self, session: Value | None, left: list[Value] | None = None) -> None:
        """Remember the texts that the user removed."""
        if _readable(session) is None or session is None:
            return
        texts = _texts(session) - Counter(map(str, left or ()))
        self.world["removed"] = sorted({*self.world["removed"], *texts})


_KINDS: Mapping[str, tuple[type, ...]] = {
    "title": (str,),
    "active_stream_id": (str, type(None)),
    "pending_user_message": (str, type(None)),
    "pending_started_at": (int, float, type(None)),
}


def _added(session: Value, messages: list[Any]) -> Value:
    return _counted({**session, "messages": session["messages"] + messages})


def _texts(session: Value) -> Counter[str]:
    return Counter(map(str, session["messages"]))


def _salvaged(backup: Value, row: Value | None) -> Value:
    session = backup
    if backup["truncation_watermark"] is not None:
        session = {**_cut(backup, backup["truncation_watermark"]), "truncation_watermark": None}
    version = session["version"]
    if row is not None:
        session = {**session, "title": row["title"], "updated_at": row["updated_at"]}
        version = max(version, row["version"])
    return {**session, "version": version + 1}


def _finding(
    sid: str, kind: str, live: int | None, backup: int | None, *, is_repairable: bool
) -> Value:
    return {
        "session_id": sid,
        "kind": kind,
        "is_repairable": is_repairable,
        "live_messages": live,
        "backup_messages": backup,
    }


# What an answer broke -----------------------------------------------------------------------------

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
_FIELDS_BROKEN: Mapping[str, Promise] = {
    "version": promises.S9,
    "created_at": promises.S9,
    "updated_at": promises.S8,
    "title": promises.S15,
    "intentional_shrink_generation": promises.S6,
    "shrunk_at": promises.S5,
    "truncation_watermark": promises.S6,
}


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
    promise, problem = next(iter(_wrong_session(result, expected, world, function)))
    return promise, f"answered a session that {problem}"


def _wrong_beside_a_lock(result: Any, expected: Any, world: World) -> tuple[Promise, str]:
    """A call that met a held lock: it left files open, did not wait, or answered wrongly."""
    if isinstance(result, dict):
        if result.get("leaked"):
            return promises.H8, "left files open after its patience with a lock"
        asked, right = result.get("result"), expected["result"]
        if isinstance(asked, dict) and "refused" not in {*asked, *right}:  # it waited as it had to
            for promise, problem in _wrong_session(asked, right, world, "busy"):
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
    if extra and restored - {*expected["restored"]}:
        return promises.S6, "restored what the user had removed"
    return promises.S16, "does not report what it did"


def _wrong_session(
    observed: Value, expected: Value, world: World, function: str
) -> Iterator[tuple[Promise, str]]:
    """Each promise that the differences of two sessions break."""
    if observed.get("messages") != expected.get("messages"):
        seen = Counter(map(str, observed.get("messages") or ()))
        right = Counter(map(str, expected.get("messages") or ()))
        stray, missing = seen - right, right - seen
        if stray and {*stray} <= {*world["removed"]}:
            yield promises.S6, "has a message that the user removed"
        elif stray or not missing:
            yield promises.S1, "has a message that was not written, twice, or in another order"
        if missing:
            promise = promises.S5 if function == "recover" else promises.S2
            yield promise, "lacks a message"
    names = [name for name in expected if observed.get(name) != expected[name]]
    names += [name for name in observed if name not in expected]
    if _counts_more(observed, expected, "intentional_shrink_generation"):
        yield promises.S5, "counts a removal that was none, so nothing lost before it is restored"
    for name in names:
        if name not in ("messages", "message_count"):
            yield _FIELDS_BROKEN.get(name, promises.S2), f"has a wrong {name}"
    if names == ["message_count"]:
        yield promises.S14, "counts its messages wrongly"


def _counts_more(observed: Value, expected: Value, name: str) -> bool:
    """Whether a number is larger than it should be."""
    found, right = observed.get(name), expected[name]
    return isinstance(found, int) and isinstance(right, int) and found > right


# What a look shows --------------------------------------------------------------------------------


def _look(state: State, operation: Operation, seen: Any) -> tuple[State, ...] | Refusal:
    world = state.world
    if operation.outcome is not Outcome.OK or not isinstance(seen, dict) or "disk" not in seen:
        return Refusal(promises.S11, "look() cannot read the folder", expected="its content")
    _Call(world, 0.0)._mend_rows()  # noqa: SLF001  (same module)
    if world.pop("unsure", False):
        return (State(_text(_observed(world, seen))),)
    worlds = [world, *([json.loads(state.before)] if state.before else [])]
    found = [*_differences(worlds, seen, is_killed=state.was_killed)]
    if not found:
        return (State(_text(_observed(world, seen))),)
    promise, message, expected, observed = found[0]
    also = tuple(dict.fromkeys(other for other, *_ in found[1:] if other is not promise))
    return Refusal(
        promise,
        f"look(): {message}",
        also=also,
        expected=json.dumps(expected),
        observed=json.dumps(observed),
    )


Difference = tuple[Promise, str, Any, Any]


def _differences(worlds: list[World], seen: Value, *, is_killed: bool) -> Iterator[Difference]:
    """Each difference between what was seen, and what any of the worlds has."""
    yield from _wrong_sidecars(worlds, seen)
    yield from _wrong_backups(worlds, seen)
    yield from _wrong_files(worlds, seen, is_killed=is_killed)
    is_partial = is_killed or worlds[0].pop("partial", False)
    yield from _wrong_rows(worlds, seen, is_partial=is_partial)
    if not seen["listed"]:
        yield promises.S15, "the list that clients read has other rows", True, False
    yield from _wrong_memory(worlds, seen)


def _wrong_sidecars(worlds: list[World], seen: Value) -> Iterator[Difference]:
    world, disk = worlds[0], seen["disk"]
    for sid in sorted({*disk, *(sid for one in worlds for sid in one["live"])}):
        right = [_plain(one["live"].get(sid)) for one in worlds]
        observed = disk.get(sid)
        if observed in right:
            continue
        if observed is None:
            yield promises.S2, f"session {sid} is gone", right[0], None
        elif right == [None] * len(right):
            is_old = sid in world["gone"]
            promise = promises.S6 if is_old else promises.S12
            yield promise, f"there is a session {sid}", None, observed
        elif DAMAGED in (observed, right[0]):
            promise = promises.S1 if observed == DAMAGED else promises.S4
            yield promise, f"session {sid} is damaged, or not any more", right[0], observed
        else:
            expected = next(one for one in right if one is not None)
            for promise, problem in _wrong_session(observed, expected, world, ""):
                yield promise, f"session {sid} {problem}", expected, observed
            if sid in world.get("restored", ()) and observed["messages"] != expected["messages"]:
                yield promises.S5, f"session {sid} is restored wrongly", expected, observed


def _wrong_backups(worlds: list[World], seen: Value) -> Iterator[Difference]:
    world, disk, baks = worlds[0], seen["disk"], seen["bak"]
    for sid in sorted({*baks, *(sid for one in worlds for sid in one["bak"])}):
        right = [_plain(one["bak"].get(sid)) for one in worlds]
        observed = baks.get(sid)
        is_done = len(worlds) > 1 and disk.get(sid) == _plain(world["live"].get(sid)) != _plain(
            worlds[1]["live"].get(sid)
        )
        if observed in right[: 1 if is_done and observed is None else 2]:
            continue
        if observed == DAMAGED:
            yield promises.S1, f"the backup of {sid} is no whole version", right[0], observed
        promise = promises.S6 if sid in world["gone"] and right[0] is None else promises.S4
        yield promise, f"the backup of {sid} is wrong", right[0], observed


def _plain(value: Any) -> Any:
    return DAMAGED if value is not None and DAMAGED in value else value


def _names(world: World) -> Counter[str]:
    kinds = {"json": "live", "json.bak": "bak", "json.damaged": "copies", "json.deleted": "deleted"}
    names = [f"{sid}.{kind}" for kind, where in kinds.items() for sid in world[where]]
    return Counter([*names, *(f"{sid}.tmp" for sid in world["temps"]), *world["strays"]])


def _wrong_files(worlds: list[World], seen: Value, *, is_killed: bool) -> Iterator[Difference]:
    names: Counter[str] = Counter(seen["files"])
    least, most = _names(worlds[0]), _names(worlds[0])
    for world in worlds[1:]:
        least, most = least & _names(world), most | _names(world)
    for name in sorted((least - names) + (names - most)):
        if name.endswith((".json", ".json.bak")) and name in {*least, *most}:
            continue  # judged with its content
        if name.endswith(".tmp") and (is_killed or names[name] < least[name]):
            continue  # a process with the same number may have used it again
        if len(worlds) > 1 and name.endswith(".json.deleted"):
            continue
        kind = name.partition(".")[2]
        promise = {
            "tmp": promises.S1,
            "json.damaged": promises.S4,
            "json.deleted": promises.S6,
        }.get(kind, promises.S12)
        was = "is missing" if names[name] < least[name] else "is left over"
        yield promise, f"file {name} {was}", least[name], names[name]
        if kind == "json.deleted":
            yield promises.S14, f"what was removed is found in {name}", least[name], names[name]
    for sid in seen["bak"]:
        was_deleted = sid not in seen["disk"] and all(sid in one["bak"] for one in worlds[1:])
        is_half = len(worlds) > 1 and sid not in worlds[0]["bak"] and was_deleted
        if is_half and f"{sid}.json.deleted" not in names:
            yield promises.S6, f"the backup of {sid} outlives its session", None, seen["bak"][sid]


_ROW_BROKEN = (promises.S11, promises.S14, promises.S15)


def _wrong_rows(worlds: list[World], seen: Value, *, is_partial: bool) -> Iterator[Difference]:
    rows, expected = seen["rows"], sorted_rows(worlds[0]["rows"])
    by_id = {row.get("session_id"): row for row in rows}
    if len(by_id) < len(rows):
        yield promises.S11, "the list has a session twice", len(by_id), len(rows)
    known: dict[str, list[Value | None]] = {}
    for sid in {*by_id, *(sid for world in worlds for sid in world["rows"])}:
        known[sid] = [world["rows"].get(sid) for world in worlds]
        observed = by_id.get(sid)
        if observed not in known[sid]:
            right = known[sid][0]
            if observed is None or right is None:
                was = "lacks" if observed is None else "has"
                is_old = right is None and sid in worlds[0]["gone"]
                promise = promises.S11
                yield promise, f"the list {was} session {sid}", right, observed
                if is_old:
                    yield promises.S6, "the list has a deleted session", right, observed
                continue
            names = [name for name in {*right, *observed} if right.get(name) != observed.get(name)]
            for promise in _ROW_BROKEN if {*names} - {"updated_at"} else (promises.S8,):
                message = f"the row of {sid} has a wrong {', '.join(sorted(names))}"
                yield promise, message, right, observed
        elif (
            len(worlds) > 1
            and not is_partial
            and _readable(seen["disk"].get(sid))
            and (observed != row_of(seen["disk"][sid]) if seen["disk"][sid] != DAMAGED else False)
        ):
            yield (
                promises.S11,
                f"the row of {sid} is not the session's",
                seen["disk"][sid],
                observed,
            )
    if rows != sorted_rows(by_id):
        order = [row["session_id"] for row in expected]
        yield promises.S8, "the list is not in order", order, [*by_id]
    if seen["index"] != rows:
        yield promises.S11, "the index on disk is not the list", rows, seen["index"]


def _wrong_memory(worlds: list[World], seen: Value) -> Iterator[Difference]:
    # One whose sidecar was damaged may stay in memory, whose copy may be the only good one.
    doubtful = {sid for sid, session in seen["disk"].items() if session == DAMAGED}
    doubtful |= {name.partition(".")[0] for name in seen["files"] if name.endswith(".damaged")}
    right = [
        [sid for held in mine if (sid := held["session"]["session_id"]) not in doubtful]
        for mine in worlds[0]["held"]
    ]
    observed = [[sid for sid in mine if sid not in doubtful] for mine in seen["held"]]
    if len(worlds) == 1 and observed != right:
        yield promises.A6, "other sessions are in memory", right, observed
    if len(worlds) > 1:
        for mine, world in zip(
            seen["held"], zip(*(one["held"] for one in worlds), strict=True), strict=True
        ):
            busy = [
                {held["session"]["session_id"] for held in one if _is_busy(held["session"])}
                for one in world
            ]
            if not busy[0] & busy[-1] <= {*mine}:
                yield promises.A6, "a busy session is not in memory", sorted(busy[0]), mine
    gauges = {"sessions_held": len(seen["held"][0]), "session_index_rows": len(seen["rows"])}
    if seen["gauges"] != gauges:
        yield promises.A6, "the gauges differ from what is in memory", gauges, seen["gauges"]


def _observed(world: World, seen: Value) -> World:
    """The world as a look shows it."""
    after = dict(world)
    after.pop("unsure", None)
    after.pop("partial", None)
    after.pop("restored", None)

    def value(of: str, sid: str, found: Any) -> Any:
        is_known = found == DAMAGED and _plain(world[of].get(sid)) == DAMAGED
        if is_known:
            return world[of][sid]
        return {DAMAGED: "", "head": None} if found == DAMAGED else found

    after["live"] = {sid: value("live", sid, found) for sid, found in seen["disk"].items()}
    after["bak"] = {sid: value("bak", sid, found) for sid, found in seen["bak"].items()}
    kinds = {"json.damaged": "copies", "json.deleted": "deleted", "tmp": "temps"}
    split = [name.partition(".") for name in seen["files"]]
    for kind, where in kinds.items():
        after[where] = sorted(sid for sid, _, ending in split if ending == kind)
    strays, files = Counter[str](world["strays"]), Counter[str](seen["files"])
    after["strays"] = sorted((files & strays).elements())
    after["rows"] = {row["session_id"]: row for row in seen["rows"]}
    after["held"] = [
        [_as_held(sid, mine, after) for sid in sids]
        for sids, mine in zip(seen["held"], world["held"], strict=True)
    ]
    call = _Call(after, 0.0)
    call._touch()  # noqa: SLF001  (same module)
    return after


def _as_held(sid: str, mine: list[Value], world: World) -> Value:
    for held in mine:
        if held["session"]["session_id"] == sid:
            return held
    live = _readable(world["live"].get(sid)) or {**FIELDS, "session_id": sid, "messages": []}
    return {"session": live, "proven": True}
