"""What each call does to a folder of session files, file by file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from harness.contract.models.folder_values import (
    DAMAGED,
    FIELDS,
    HEAD_STAYS,
    KINDS,
    NO_NUMBER,
    REMOVED,
    SUMMARY,
    TICK_S,
    RefusedError,
    Value,
    World,
    added,
    check_id,
    completed,
    counted,
    counted_texts,
    cut_to,
    digest,
    generation_of,
    is_busy,
    readable,
    row_of,
    salvaged,
    shown,
    text_of,
    unknown_from,
)


def predicted(world: World, function: str, argument: Mapping[str, Any]) -> tuple[World, Any]:
    """The world after a call, and its answer."""
    if function == "busy":
        answer: Any = {"refused": "LockBusyError"}
        if argument["lock"] == "index":  # the row can wait
            given = {**argument["argument"], "at": argument["at"]}
            world, answer = predicted(world, argument["function"], given)
        return world, {"result": answer, "leaked": 0}
    before = text_of(world)
    call = _Call(world, argument.get("at", 0.0))
    asked = {name: digest(value) for name, value in argument.items() if name != "at"}
    if "session" in argument:
        asked["session"] = argument["session"]
    try:
        check_id(argument.get("session", "s"))
        answer = getattr(call, function)(**asked)
    except RefusedError as error:
        unchanged: World = json.loads(before)
        unchanged["held"] = world["held"]  # what was loaded for the refused save stays in memory
        if call.is_aside:
            unchanged["copies"] = world["copies"]
        return unchanged, {"refused": str(error)}
    return world, answer


def as_if_allowed(world: World, function: str, argument: Mapping[str, Any]) -> World:
    """The world after a call that was not refused although it should have been: not predicted."""
    after, _ = predicted(world, function, argument)
    after["unsure"] = True
    return after


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
        if readable(live) is None:
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
        backup = readable(self.world["bak"][session])
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
        if readable(backup) is not None:
            return len(backup["messages"])
        return -1 if backup is not None or session in self.world["copies"] else None

    # Writes

    def new(self, session: str, fields: Value | None = None) -> Value:
        time = self._now()
        made = {**FIELDS, "session_id": session, "created_at": time, **(fields or {})}
        return self._save({**made, "messages": []})

    def append(self, session: str, messages: list[Any]) -> Value:
        return self._change(session, lambda found: added(found, messages))

    def change(self, session: str, fields: Value) -> Value:
        return self._change(session, lambda found: {**found, **fields})

    def maintain(self, session: str, fields: Value) -> Value:
        return self._maintain(session, lambda found: {**found, **fields})

    def rename(self, session: str, title: str) -> Value:
        return self._change(session, lambda found: {**found, "title": title})

    def during(self, session: str, title: str, rival: str) -> Value:  # noqa: ARG002  (either)
        return {"result": self.rename(session, title), "rival": ["LockBusyError"]}

    def clear(self, session: str) -> Value:
        return self._change(session, lambda found: cut_to(found, 0))

    def truncate(self, session: str, keep: int) -> Value:
        if keep < 0:
            raise RefusedError("ValueError")

        def act(found: Value) -> Value:
            return cut_to(found, keep) if keep < found["message_count"] else found

        return self._change(session, act)

    def undo(self, session: str) -> Value:
        def act(found: Value) -> Value:
            users = [at for at, one in enumerate(found["messages"]) if one.get("role") == "user"]
            if not users:
                raise RefusedError("SaveRefusedError")
            return cut_to(found, users[-1])

        return self._change(session, act)

    def compress(self, session: str, keep_from: int) -> Value:
        def act(found: Value) -> Value:
            left = found["messages"][keep_from:]
            return counted({**cut_to(found, 0), "messages": [SUMMARY, *left]})

        return self._change(session, act)

    def shrink(self, session: str, keep: int) -> Value:
        found = self.load(session)
        return self._save(counted({**found, "messages": found["messages"][:keep]}))

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
        return self._save(counted({**found, **(fields or {}), "messages": messages}))

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
                found = added(found, [message])
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
        whole = readable(backup)
        remedy, count = None, None if backup is None else -1
        if whole is not None:
            count, remedy = len(whole["messages"]), salvaged(whole, row)
        if live is None:
            if count is None:
                return None, None
            kind = "orphan_backup" if remedy else "malformed_orphan_backup"
            return _finding(sid, kind, None, count, is_repairable=remedy is not None), remedy
        if DAMAGED in live:
            right = remedy is not None
            return _finding(sid, "unreadable_live", -1, count, is_repairable=right), remedy
        all_of_it = completed(live, whole)
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
            if surplus > 0 and not is_busy(held["session"]) and (held["proven"] or not is_damaged):
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
        for name, kinds in KINDS.items():
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
            is_asked = generation_of(session) > generation_of(previous)
            is_emptied = previous["messages"] and not session["messages"]
            if is_emptied and not is_asked and (is_busy(session) or is_busy(previous)):
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
        backup = readable(self.world["bak"].get(sid))
        whole = completed(previous, backup)
        if is_asked:
            if backup is not None and len(backup["messages"]) > len(whole["messages"]):
                whole = backup
            pairs = zip(whole["messages"], session["messages"], strict=False)
            shorter = min(len(whole["messages"]), count)
            common = next((at for at, (old, new) in enumerate(pairs) if old != new), shorter)
            self._remove(whole, session["messages"])
            # A summary is in no older version, so its backup is the new one.
            is_cut = session["messages"] == previous["messages"][:count]
            kept = {**whole, "truncation_watermark": common}
            self.world["bak"][sid] = kept if is_cut else session
            return session
        if shrinks:
            self.world["bak"][sid] = {**whole, "truncation_watermark": None}
            return {**session, "shrunk_at": count}
        return {**session, "shrunk_at": unknown_from(previous, backup)}

    def _remove(self, session: Value | None, left: list[Value] | None = None) -> None:
        """Remember the texts that the user removed."""
        if readable(session) is None or session is None:
            return
        texts = counted_texts(session) - Counter(map(str, left or ()))
        self.world["removed"] = sorted({*self.world["removed"], *texts})


def mend_rows(world: World) -> None:
    """Bring the rows of the index to what the files hold."""
    _Call(world, 0.0)._mend_rows()  # noqa: SLF001  (same module)


def touch(world: World) -> None:
    """Note the newest time that the world has seen."""
    _Call(world, 0.0)._touch()  # noqa: SLF001  (same module)


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
