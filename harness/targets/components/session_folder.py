"""The *session_folder* ability: all that the session store answers, writes and holds in memory.

Two stores have the folder open, as in two processes; the first is called until they `swap`. After a
kill only the first one begins anew: the other lives on. The clock shows what each call says.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any
from weakref import WeakKeyDictionary

from harness.contract.models.folder_values import (
    CAP,
    DAMAGED,
    FIELDS,
    NO_NUMBER,
    REMOVED,
    SUMMARY,
    digest,
)
from harness.core.errors import TargetLostError
from harness.faults.simulated_disk import SimulatedDisk
from harness.targets.components.session_store import LOSSES, SessionsAdapter, UnknownSessionError

PATIENCE_S = 0.01  # with a lock that only `busy` holds
SHOWN_ALWAYS = ("model", "profile", "workspace", "personality")  # fields of every listed row
OPEN_FILES = "/dev/fd"
OWN = ("_locks", "_index.json", "_index.log")  # files that belong to no session
INDEX, LOG = OWN[1:]

_DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut head": lambda data: data[:20],
    "cut tail": lambda data: data[:-5],
    "text": lambda _: b"not JSON",
    "list": lambda _: b"[]",
    "null": lambda _: b"null",
    "other id": lambda data: data.replace(b'"session_id": "', b'"session_id": "other', 1),
    "no messages": lambda _: b'{"session_id": "s1"}\n',
    "wrong version": lambda data: data.replace(b'"version": ', b'"version": "x', 1),
    "text for version": lambda data: re.sub(rb'("version": )(\d+)', rb'\1"\2"', data, count=1),
    "strange messages": lambda data: data.replace(b'"messages": [', b'"messages": [1, ', 1),
    "nul": lambda data: b"\0" * len(data),
    NO_NUMBER: lambda data: data.replace(b'    {"role": ', b'    {"cost": NaN, "role": '),
    REMOVED: lambda data: data,
}
_INDEX_DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[: len(data) // 2],
    "object": lambda _: b"{}",
    "twice": lambda data: json.dumps([*json.loads(data), *json.loads(data)[:1]]).encode(),
    "numbers": lambda _: b"[1, 2]",
    "no id": lambda _: b'[{"updated_at": 1.0}]',
    "no title": lambda data: _without(data, "title"),
    "other title": lambda data: _with(data, title=5),
    "other version": lambda data: _with(data, version="1"),
    "other time": lambda data: _with(data, updated_at=True),
    "nul": lambda data: b"\0" * len(data),
}
_LOG_DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "log cut": lambda data: data[:-2],
    "log strange": lambda data: data + b"[1]\n",
}


class SessionFolderAdapter(SessionsAdapter):
    """One folder of sessions, two stores, and a clock that is set by each call."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._at, self._cap = 0.0, CAP
        self._slots: dict[str, Any] = {}
        self._strays: list[str] = []
        self._lists: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        super().__init__(folder, modules)

    def _open(self) -> Any:
        store = self._modules("sessions.store").SessionStore
        settings = {"clock": lambda: self._at, "cap": self._cap, "patience_s": PATIENCE_S}
        return store(self._folder, **settings)

    def __getattribute__(self, name: str) -> Any:
        """Let public calls answer refusals as values."""
        found = super().__getattribute__(name)
        if name.startswith("_") or name in ("busy", "striking", "close", "look"):
            return found
        return lambda **argument: self._answered(found, argument)

    def _answered(self, call: Callable[..., Any], argument: dict[str, Any]) -> Any:
        self._at = argument.pop("at", 0.0)
        refusals = (self._modules("sessions.sidecar").SessionError, ValueError, TypeError)
        try:
            return digest(call(**argument))
        except (*refusals, UnknownSessionError) as error:
            kinds = ("ValueError", "TypeError")
            mro = [kind.__name__ for kind in type(error).__mro__]
            return {"refused": next((kind for kind in kinds if kind in mro), mro[0])}

    # The harness

    def open(self, cap: int) -> None:
        """Open both stores with a cap on idle sessions in memory."""
        self._cap = cap
        self._slots.clear()
        self._begin()

    def found(self, session: str) -> dict[str, Any]:
        """Open both stores in a new folder below this one, and create a session there."""
        self._folder = self._folder / "state" / "sessions"
        self._begin()
        return _plain(self._store.new(session))

    def restart(self) -> None:
        """Open the first store anew, without recovery."""
        self._slots.clear()
        self._store = self._open()

    def plant(self, name: str) -> None:
        """Put a file into the folder that belongs to no session."""
        self._strays.append(name)
        (self._folder / name).write_bytes(b"[1]")

    def corrupt(self, session: str, kind: str = "cut tail") -> None:
        """Damage or remove a sidecar that was whole."""
        if self._raw(f"{session}.json") == DAMAGED:
            raise UnknownSessionError(f"{session} has no whole sidecar")
        self._damage(f"{session}.json", _DAMAGES[kind])
        if kind == REMOVED:
            (self._folder / f"{session}.json").unlink()

    def corrupt_backup(self, session: str, kind: str) -> None:
        """Damage the backup."""
        self._damage(f"{session}.json.bak", _DAMAGES[kind])

    def damage_index(self, kind: str) -> None:
        """Damage or remove the list of the index, or damage its log, if there is one."""
        if kind in _LOG_DAMAGES:
            if (self._folder / LOG).exists():
                self._damage(LOG, _LOG_DAMAGES[kind])
        elif kind == "missing":
            (self._folder / INDEX).unlink(missing_ok=True)
        elif (self._folder / INDEX).exists():
            self._damage(INDEX, _INDEX_DAMAGES[kind])

    def _damage(self, name: str, damage: Callable[[bytes], bytes]) -> None:
        path = self._folder / name
        if not path.exists():
            raise UnknownSessionError(f"there is no file {name}")
        path.write_bytes(damage(path.read_bytes()))

    def look(self) -> dict[str, Any]:
        """Everything that there is, read without changing what is in memory."""
        rows = digest([dict(row) for row in self._store.rows()])
        index = digest(self._index())
        names = [path.name for path in self._folder.iterdir() if path.name not in OWN]
        files = [name if name in self._strays else _without_writer(name) for name in names]
        read = {
            kind: {
                name.removesuffix(f".{kind}"): digest(self._raw(name))
                for name in names
                if name.endswith(f".{kind}") and name not in self._strays
            }
            for kind in ("json", "json.bak")
        }
        return {
            "rows": rows,
            "listed": self._clients_see(rows),
            "index": index,
            "disk": read["json"],
            "bak": read["json.bak"],
            "files": sorted(files),
            "held": [[*store._held] for store in (self._store, self._other)],  # noqa: SLF001
            "gauges": self._store.gauges(),
        }

    def _clients_see(self, rows: list[Any]) -> bool:
        """Whether the list that clients read has these rows."""
        lists = self._lists
        if self._store not in lists:
            lists[self._store] = self._modules("sessions.list").SessionList(
                self._store.rows, lambda _: None
            )
        listed = lists[self._store].now()
        own = [dict.fromkeys(SHOWN_ALWAYS) | row | {"active_stream_id": None} for row in rows]
        return bool(listed.number == len(own) and digest(json.loads(listed.rows)) == own)

    def _raw(self, name: str) -> Any:
        """A sidecar as any JSON program reads it."""
        try:
            text = (self._folder / name).read_bytes()
            plain = json.loads(text, parse_constant=lambda _: None)
            is_session = {*FIELDS, "messages"} <= plain.keys() and isinstance(plain["version"], int)
            is_own = is_session and plain["session_id"] == name.partition(".")[0]
            is_own = is_own and all(isinstance(row, dict) for row in plain["messages"])
        except (OSError, ValueError, AttributeError):
            is_own = False
        return plain if is_own else DAMAGED

    def _index(self) -> Any:
        """The rows on disk: the list, and the log if it continues this list."""
        path, log = self._folder / INDEX, self._folder / LOG
        try:
            rows = {row["session_id"]: row for row in json.loads(path.read_bytes())}
            status = path.stat()
            lines = log.read_bytes().splitlines() if log.exists() else []
            if lines and json.loads(lines[0]) == [
                *(status.st_ino, status.st_size, status.st_mtime_ns)
            ]:
                for sid, row in map(json.loads, lines[1:]):
                    rows.pop(sid, None)
                    if row is not None:
                        rows[sid] = row
        except (OSError, ValueError, TypeError, KeyError) as error:
            return type(error).__name__
        return sorted(rows.values(), key=lambda row: (-row["updated_at"], row["session_id"]))

    # Reads

    def load(self, session: str) -> dict[str, Any]:
        """The whole session."""
        return _whole(self._store.load(session))

    def head(self, session: str) -> dict[str, Any]:
        """The session's metadata, without its messages."""
        return _plain(self._store.load_metadata_only(session))

    def backup_count(self, session: str) -> int | None:
        """The number of messages in the backup."""
        return self._backup_count(session)

    # Writes

    def new(self, session: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:  # type: ignore[override]
        """Create a session."""
        return _plain(self._store.new(session, **_known(fields)))

    def append(self, session: str, messages: list[Any]) -> dict[str, Any]:  # type: ignore[override]
        """Add messages."""
        return _plain(self._store.append(session, *messages))

    def change(self, session: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Change metadata."""
        act = self._changed(fields)
        return _plain(self._store.change(session, act))

    def maintain(self, session: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Change metadata without activity."""
        act = self._changed(fields)
        return _plain(self._store.maintain(session, act))

    def _changed(self, fields: dict[str, Any]) -> Callable[[Any], Any]:
        def act(found: Any) -> Any:
            new = _known(fields)
            extra = {**found.extra, **new.pop("extra", {})}
            return replace(found, **new, extra=extra)

        return act

    def rename(self, session: str, title: str) -> dict[str, Any]:  # type: ignore[override]
        """Set the title."""
        return _plain(self._store.rename(session, title))

    def clear(self, session: str) -> dict[str, Any]:  # type: ignore[override]
        """Remove all messages."""
        return _plain(self._store.clear(session))

    def truncate(self, session: str, keep: int) -> dict[str, Any]:  # type: ignore[override]
        """Keep the first messages."""
        return _plain(self._store.truncate(session, keep))

    def undo(self, session: str) -> dict[str, Any]:  # type: ignore[override]
        """Remove the user's last message and those after it."""
        return _plain(self._store.undo(session))

    def compress(self, session: str, keep_from: int) -> dict[str, Any]:
        """Put a summary in the place of the messages before an index, as the user asked."""
        compressed = self._store.change(session, lambda f: f.compressed(SUMMARY, keep_from))
        return _plain(compressed)

    def delete(self, session: str) -> bool:  # type: ignore[override]
        """Remove the session."""
        existed: bool = self._store.delete(session)
        return existed

    def cleanup(self, session: str, live: list[str]) -> bool:  # type: ignore[override]
        """Clean up a session whose stream may have a run."""
        cleaned: bool = self._store.clean_stale_stream(session, live.__contains__)
        return cleaned

    def shrink(self, session: str, keep: int) -> dict[str, Any]:  # type: ignore[override]
        """Save only the first messages, without a request of the user."""
        found = self._store.load(session)
        return _plain(self._store.save(replace(found, messages=found.messages[:keep])))

    def save_head(self, session: str) -> dict[str, Any]:
        """Save a session that was loaded without its messages."""
        return _plain(self._store.save(self._store.load_metadata_only(session)))

    def copy(self, session: str, slot: str) -> dict[str, Any]:
        """Load a copy, for a later save."""
        self._slots[slot] = self._store.load(session)
        return _whole(self._slots[slot])

    def save_copy(
        self,
        slot: str,
        add: list[Any],
        keep: int | None = None,
        fields: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Save a copy that was loaded earlier, with these changes."""
        if slot not in self._slots:
            raise UnknownSessionError(f"nothing was loaded as {slot}")
        found = self._slots[slot]
        changed = self._changed(fields or {})(found)
        changed = replace(changed, messages=(*found.messages[:keep], *add))
        return _plain(self._store.save(changed))

    # Recovery

    def recover(self) -> dict[str, Any]:  # type: ignore[override]
        """Recover as at start-up."""
        found = self._modules("sessions.recovery").recover_all(self._store)
        findings = [_finding(finding) for finding in found.findings]
        return {"scanned": found.scanned, "restored": [*found.restored], "findings": findings}

    def audit(self) -> dict[str, Any]:
        """Examine every session."""
        found = self._modules("sessions.recovery").audit(self._store)
        return {
            "status": found.status,
            "findings": [_finding(finding) for finding in found.findings],
        }

    # Faults

    def busy(
        self, function: str, argument: Mapping[str, Any], lock: str, at: float
    ) -> dict[str, Any]:
        """Call while another process holds a lock of the folder for longer than the patience.

        `leaked` counts the files that the call left open.
        """
        before = _count(OPEN_FILES)
        with self._taken(lock):
            try:
                result = getattr(self, function)(**argument, at=at)
            except self._modules("storage.files").LockBusyError:
                result = {"refused": "LockBusyError"}
        leaked = _count(OPEN_FILES) - before
        return {"result": result, "leaked": max(0, leaked)}

    def during(self, session: str, title: str, rival: str) -> dict[str, Any]:
        """Rename, and meanwhile let another thread or process do the same; how that one ended."""
        store = self._store if rival == "thread" else self._other
        ended: list[str] = []

        def rename() -> None:
            try:
                store.rename(session, "rival")
                ended.append("renamed")
            except self._modules("storage.files").LockBusyError:
                ended.append("LockBusyError")

        def act(found: Any) -> Any:
            thread = Thread(target=rename)
            thread.start()
            thread.join()
            return replace(found, title=title)

        saved = self._store.change(session, act)
        return {"result": _plain(saved), "rival": ended}

    @contextmanager
    def _taken(self, lock: str) -> Iterator[None]:
        """Hold the index's lock, or those of all sessions, as another process would."""
        folder = self._folder / "_locks"
        paths = [path for path in folder.iterdir() if (path.name == "index") == (lock == "index")]
        taken = [os.open(path, os.O_RDWR) for path in paths]
        try:
            for file in taken:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            for file in taken:
                os.close(file)

    def striking(
        self, function: str, argument: Mapping[str, Any], strike: str, at: int, image: int = 0
    ) -> Any:
        """Call while a fault hits; a refusal that a fault caused leaves the outcome unknown."""
        answer = super().striking(function, dict(argument), strike, at, image)
        result = answer["result"]
        if answer["struck"] and isinstance(result, dict) and "refused" in result:
            raise TargetLostError(f"{strike}: {result['refused']}")
        return answer

    def _survive(self, disk: SimulatedDisk, strike: str, image: int) -> None:
        left = disk.process_crash()
        if strike.startswith("power"):
            losses = list(disk.power_losses(Random(image), LOSSES))
            left = losses[image % len(losses)]
        left.put_into(disk.folder)
        self._slots.clear()
        if strike.startswith("power"):
            self._begin()
        else:
            self._store = self._open()


def _count(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def _without(data: bytes, name: str) -> bytes:
    """The list, whose rows lack a field."""
    rows = [{key: row[key] for key in row if key != name} for row in json.loads(data)]
    return json.dumps(rows).encode()


def _with(data: bytes, **fields: Any) -> bytes:
    """The list, whose rows have other values."""
    return json.dumps([{**row, **fields} for row in json.loads(data)]).encode()


def _plain(metadata: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(metadata, name) for name in FIELDS}
    return {**fields, **metadata.extra}


def _whole(session: Any) -> dict[str, Any]:
    return {**_plain(session), "messages": [*session.messages]}


def _known(fields: dict[str, Any] | None) -> dict[str, Any]:
    """Split other metadata off as `extra`."""
    known = {name: value for name, value in (fields or {}).items() if name in FIELDS}
    extra = {name: value for name, value in (fields or {}).items() if name not in FIELDS}
    return {**known, "extra": extra} if extra else known


def _finding(finding: Any) -> dict[str, Any]:
    plain = asdict(finding)
    plain.pop("error")
    return {**plain, "kind": str(plain["kind"])}


def _without_writer(name: str) -> str:
    """A temporary file's name without its process and thread."""
    stem, mark, _ = name.partition(".tmp.")
    return f"{stem}.tmp" if mark else name
