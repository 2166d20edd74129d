"""The *sessions* ability over the session store, on a simulated disk that fails or crashes.

`striking` calls any function while a fault hits the Nth change to the folder. After a crash the
folder holds what a killed process, or a power loss, leaves; a new store opens on it, and whether
the call happened is unknown. After a mere disk error the store goes on, and it is unknown as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from harness.contract.models.session_store_values import HELD_MAX
from harness.core.errors import TargetLostError
from harness.faults.read_faults import ReadFaults
from harness.faults.simulated_disk import STRIKES, Image, SimulatedCrash, SimulatedDisk

LOSSES = 6  # the number of images of a power loss to choose from, the extremes first
HOSTILE_LENGTH = 10_000
UNREADABLE = "unreadable once"  # a read fails, not a change
EPIC_TIMES = 16_500
EPIC = f"epic * {EPIC_TIMES}"  # stands for a title of that length


class UnknownSessionError(Exception):
    """There is no such session."""


class NotRefusableError(Exception):
    """The state in which a save must be refused cannot be set up."""


class SessionsAdapter:
    """One folder of sessions, with the calls of users, of faulty code and of the harness.

    Two stores have it open, as in two processes, and take turns.
    """

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._folder = folder / "sessions"
        self._folder.mkdir(exist_ok=True)
        self._modules = modules
        self._ticks = itertools.count(1_000)
        self._begin()

    def _begin(self) -> None:
        self._store, self._other = self._open(), self._open()

    def _open(self) -> Any:
        store = self._modules("sessions.store").SessionStore
        return store(self._folder, clock=lambda: float(next(self._ticks)), cap=HELD_MAX)

    # Calls of users

    def new(self, session: str) -> None:
        """Create a session."""
        self._store.new(session)

    def append(self, session: str, text: str) -> None:
        """Append a message."""
        self._store.append(session, {"role": "user", "content": text})

    def rename(self, session: str, title: str) -> None:
        """Set the title; an epic title makes the session list as large as hundreds of sessions."""
        self._store.rename(session, "epic" * EPIC_TIMES if title == EPIC else title)

    def clear(self, session: str) -> None:
        """Remove all messages."""
        self._store.clear(session)

    def truncate(self, session: str, keep: int) -> None:
        """Keep the first messages."""
        self._store.truncate(session, keep)

    def undo(self, session: str) -> None:
        """Remove the last message."""
        self._store.undo(session)

    def delete(self, session: str) -> None:
        """Remove the session."""
        self._store.delete(session)

    # Reads

    def messages(self, session: str) -> list[str] | None:
        """The texts, or None for an unknown session."""
        try:
            found = self._store.load(session)
        except self._unknown:
            return None
        return [message["content"] for message in found.messages]

    def list(self) -> list[str]:
        """Ids, newest activity first."""
        return [row["session_id"] for row in self._store.rows()]

    def row(self, session: str) -> dict[str, Any] | None:
        """The session's row in the list."""
        shown = ("title", "message_count", "updated_at")
        rows = [row for row in self._store.rows() if row["session_id"] == session]
        row = {key: rows[0][key] for key in shown} if rows else None
        if row is not None and row["title"] == "epic" * EPIC_TIMES:
            row["title"] = EPIC
        return row

    def backup(self, session: str) -> int | None:
        """The number of messages in the backup."""
        return self._backup_count(session)

    def _backup_count(self, session: str) -> int | None:
        """The number of messages in the backup; -1 for only an unreadable copy, None for none."""
        files = self._store.files
        backup = files.backup(self._modules("sessions.session_files").checked_id(session))
        if backup is not None:
            return int(backup.message_count)
        has_copy = any(files.has(session, kind) for kind in ("json.bak", "json.damaged"))
        return -1 if has_copy else None

    def held(self) -> int:
        """The number of sessions in memory."""
        count: int = self._store.gauges()["sessions_held"]
        return count

    # Calls of faulty code

    def shrink(self, session: str, keep: int) -> None:
        """Save only the first messages, without a request of the user."""
        found = self._store.load(session)
        self._store.save(replace(found, messages=found.messages[:keep]))

    def save_stub(self, session: str) -> None:
        """Save a session that was loaded without its messages."""
        self._store.save(self._store.load_metadata_only(session))

    def save_stale(self, session: str, text: str) -> None:
        """Save a copy that was loaded before a newer save."""
        stale = self._store.load(session)
        self._store.save(stale)
        self._store.save(stale.appended({"role": "user", "content": text}))

    def save_refused(self, session: str) -> None:
        """Save a session, during a turn, without any of its messages."""
        if not self._store.load(session).messages:
            raise NotRefusableError(f"{session} has no messages to lose")
        self._store.maintain(session, lambda found: replace(found, active_stream_id="s"))
        try:
            found = self._store.load(session)
            self._store.save(replace(found, messages=()))
        finally:
            self._store.clean_stale_stream(session, lambda _: False)

    def cleanup(self, session: str) -> None:
        """Clean up a session whose stream has no run any more."""
        self._store.maintain(session, lambda found: replace(found, active_stream_id="s"))
        self._store.clean_stale_stream(session, lambda _: False)

    def hostile(self, session_id: str) -> None:
        """Pass an invalid id to several calls. Raises, unless one of them accepts it."""
        before = Image.of(self._folder)
        long = session_id.replace("LONG", "x" * HOSTILE_LENGTH)
        calls = (self._store.load, self._store.new, self._store.clear, self._store.delete)
        for call in calls:
            try:
                call(long)
            except (ValueError, self._modules("sessions.sidecar").SessionError):
                continue
            return
        if Image.of(self._folder) == before:
            raise UnknownSessionError(f"{session_id!r} was refused, and changed no file")

    # Calls of the harness

    def swap(self) -> None:
        """Continue in the other process that has the folder open."""
        self._store, self._other = self._other, self._store

    def corrupt(self, session: str) -> None:
        """Cut the sidecar in the middle."""
        path = self._folder / f"{session}.json"
        if not path.exists():
            raise UnknownSessionError(f"session {session!r} has no sidecar")
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])

    def restart(self) -> None:
        """Restart both processes; one recovers."""
        self._begin()
        self.recover()

    def recover(self) -> None:
        """Recover as at start-up."""
        self._modules("sessions.recovery").recover_all(self._store)

    def striking(
        self, function: str, argument: Mapping[str, Any], strike: str, at: int, image: int = 0
    ) -> Any:
        """Call while a fault hits change number `at`; of a power loss, keep image number `image`.

        Raises TargetLostError if the fault happened, since the call's outcome is unknown then.
        Where there are fewer changes, the power fails after the last one: what was acknowledged
        must survive it.
        """
        if strike == UNREADABLE:
            return self._unreadable(function, argument, at)
        disk = SimulatedDisk(self._folder, STRIKES[strike](at))
        try:
            with disk:
                result = getattr(self, function)(**argument)
        except SimulatedCrash as crash:
            self._survive(disk, strike, image)
            raise TargetLostError(f"{strike} at {crash}") from None
        except Exception as error:
            if disk.faulted_call is None:
                raise
            raise TargetLostError(f"{strike}: {error}") from error
        if strike.startswith("power"):
            self._survive(disk, strike, image)
        return {"struck": disk.faulted_call is not None, "result": result}

    def _unreadable(self, function: str, argument: Mapping[str, Any], at: int) -> Any:
        """Call while read number `at` of the folder fails."""
        disk = ReadFaults(self._folder, at)
        try:
            with disk:
                result = getattr(self, function)(**argument)
        except Exception as error:
            if disk.faulted_call is None:
                raise
            raise TargetLostError(f"{UNREADABLE} at {disk.faulted_call}: {error}") from error
        return {"struck": disk.faulted_call is not None, "result": result}

    def _survive(self, disk: SimulatedDisk, strike: str, image: int) -> None:
        left = disk.process_crash()
        if strike.startswith("power"):
            losses = list(disk.power_losses(Random(image), LOSSES))
            left = losses[image % len(losses)]
        left.put_into(disk.folder)
        self._begin()

    def close(self) -> None:
        """Do nothing: the store holds no resource."""

    @property
    def _unknown(self) -> type[Exception]:
        unknown: type[Exception] = self._modules("sessions.session_files").UnknownSessionError
        return unknown
