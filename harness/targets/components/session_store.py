"""The *sessions* ability over the reference's session store, with a disk below that fails or dies.

`striking` asks any function while the Nth change to the folder is struck. After a crash the folder
is what a killed process, or a power loss, leaves; a new store opens on it, and nobody knows whether
the call happened. A disk that merely fails leaves the store alive, and nobody the wiser either.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from harness.contract.models.session_store import HELD_MAX
from harness.core.errors import TargetLostError
from harness.faults.simulated_disk import (
    Fault,
    Image,
    SimulatedCrash,
    SimulatedDisk,
    crash_before,
    fail_from,
    fail_once,
    shorten,
    tear,
)

LOSSES = 6  # images of a power loss to choose from, the extremes first
HOSTILE_LENGTH = 10_000
EPIC, EPIC_TIMES = "epic", 16_500

STRIKES: Mapping[str, Callable[[int], Fault]] = {
    "kill": crash_before,
    "kill torn": tear,
    "power": crash_before,
    "power torn": tear,
    "full": fail_from(errno.ENOSPC),
    "full once": fail_once(errno.ENOSPC),
    "broken once": fail_once(errno.EIO),
    "short write": shorten,
}


class UnknownSessionError(Exception):
    """There is no such session."""


class NotRefusableError(Exception):
    """The save that should be refused cannot even be set up here."""


class SessionsAdapter:
    """One folder of sessions, and what users, clumsy programmers and the harness do to it.

    Two stores are open on it, as in two processes, and take turns.
    """

    def __init__(self, folder: Path, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        self._folder = folder / "sessions"
        self._folder.mkdir(exist_ok=True)
        self._rooms = rooms
        self._ticks = itertools.count(1_000)
        self._begin()

    def _begin(self) -> None:
        self._store, self._other = self._open(), self._open()

    def _open(self) -> Any:
        store = self._rooms("sessions.store").SessionStore
        return store(self._folder, clock=lambda: float(next(self._ticks)), cap=HELD_MAX)

    # What users do

    def new(self, session: str) -> None:
        """Make a session."""
        self._store.new(session)

    def append(self, session: str, text: str) -> None:
        """Say something."""
        self._store.append(session, {"role": "user", "content": text})

    def rename(self, session: str, title: str) -> None:
        """Give it a title; an epic one makes the list of sessions as long as hundreds would."""
        self._store.rename(session, title * EPIC_TIMES if title == EPIC else title)

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

    # What anybody may look at

    def messages(self, session: str) -> list[str] | None:
        """The texts, or None for no such session."""
        try:
            found = self._store.load(session)
        except self._unknown:
            return None
        return [message["content"] for message in found.messages]

    def list(self) -> list[str]:
        """Ids, newest activity first."""
        return [row["session_id"] for row in self._store.rows()]

    def row(self, session: str) -> dict[str, Any] | None:
        """What the list says of the session."""
        shown = ("title", "message_count", "updated_at")
        rows = [row for row in self._store.rows() if row["session_id"] == session]
        told = {key: rows[0][key] for key in shown} if rows else None
        if told is not None and told["title"] == EPIC * EPIC_TIMES:
            told["title"] = EPIC
        return told

    def backup(self, session: str) -> int | None:
        """How many messages the backup has."""
        count: int | None = self._store.backup_count(session)
        return count

    def held(self) -> int:
        """How many sessions are in memory."""
        count: int = self._store.gauges()["sessions_held"]
        return count

    # What clumsy programmers do

    def shrink(self, session: str, keep: int) -> None:
        """Save only the first messages, though no user asked for it."""
        found = self._store.load(session)
        self._store.save(replace(found, messages=found.messages[:keep]))

    def save_stub(self, session: str) -> None:
        """Save what was loaded without messages."""
        self._store.save(self._store.load_metadata_only(session))

    def save_stale(self, session: str, text: str) -> None:
        """Save a copy that was loaded before a newer save."""
        stale = self._store.load(session)
        self._store.save(stale)
        self._store.save(stale.appended({"role": "user", "content": text}))

    def save_refused(self, session: str) -> None:
        """Save a session in the midst of a turn without any of its messages."""
        if not self._store.load(session).messages:
            raise NotRefusableError(f"{session} has no messages to lose")
        self._store.maintain(session, lambda found: replace(found, active_stream_id="s"))
        try:
            found = self._store.load(session)
            self._store.save(replace(found, messages=()))
        finally:
            self._store.clean_stale_stream(session, lambda _: False)

    def cleanup(self, session: str) -> None:
        """Maintain a session whose stream nobody runs any more."""
        self._store.maintain(session, lambda found: replace(found, active_stream_id="s"))
        self._store.clean_stale_stream(session, lambda _: False)

    def hostile(self, session_id: str) -> None:
        """Ask about something that is no id. Raises, unless any of it was taken for one."""
        before = Image.of(self._folder)
        long = session_id.replace("LONG", "x" * HOSTILE_LENGTH)
        asked = (self._store.load, self._store.new, self._store.clear, self._store.delete)
        for ask in asked:
            try:
                ask(long)
            except (ValueError, self._rooms("sessions.sidecar").SessionError):
                continue
            return
        if Image.of(self._folder) == before:
            raise UnknownSessionError(f"{session_id!r} is no id, and touched nothing")

    # What the harness does

    def swap(self) -> None:
        """Go on in the other process that has the folder open."""
        self._store, self._other = self._other, self._store

    def corrupt(self, session: str) -> None:
        """Cut the sidecar in the middle."""
        path = self._folder / f"{session}.json"
        if not path.exists():
            raise UnknownSessionError(f"there is no sidecar of {session}")
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])

    def restart(self) -> None:
        """Start both processes anew; one recovers."""
        self._begin()
        self.recover()

    def recover(self) -> None:
        """Recover as at start-up."""
        self._rooms("sessions.recovery").recover_all(self._store)

    def striking(
        self, function: str, argument: Mapping[str, Any], strike: str, at: int, image: int = 0
    ) -> Any:
        """Ask while change number `at` is struck; of a power loss, keep image number `image`.

        Raises TargetLostError if it was struck, since nobody knows then whether it happened. Where
        there are fewer changes, the power goes after the last: what was answered must survive it.
        """
        disk = SimulatedDisk(self._folder, STRIKES[strike](at))
        try:
            with disk:
                result = getattr(self, function)(**argument)
        except SimulatedCrash as crash:
            self._survive(disk, strike, image)
            raise TargetLostError(f"{strike} at {crash}") from None
        except Exception as error:
            if disk.struck is None:
                raise
            raise TargetLostError(f"{strike}: {error}") from error
        if strike.startswith("power"):
            self._survive(disk, strike, image)
        return {"struck": disk.struck is not None, "result": result}

    def _survive(self, disk: SimulatedDisk, strike: str, image: int) -> None:
        left = disk.process_crash()
        if strike.startswith("power"):
            losses = list(disk.power_losses(Random(image), LOSSES))
            left = losses[image % len(losses)]
        left.put_into(self._folder)
        self._begin()

    def close(self) -> None:
        """Nothing is held."""

    @property
    def _unknown(self) -> type[Exception]:
        unknown: type[Exception] = self._rooms("sessions.session_files").UnknownSessionError
        return unknown
