"""Describes which process has the write lock of a database, for error messages.

For the sentence of an error, never for a decision: the answer may be outdated when it is read.
Opens neither the database nor its `-shm`, where the locks are: closing those would drop our own.
"""

from __future__ import annotations

import os
import time

from reference_impl.state_db.ticket_lock import TicketLock, TicketOwner
from reference_impl.storage.files import read_whole

_WRITE_LOCK_BYTE = 120  # of the -shm, which SQLite locks to write: sqlite.org/walformat.html


def describe_lock_owner(path: str, ticket_lock: TicketLock | None) -> str:
    """Name the process that has the write lock, or else the one that holds the ticket lock."""
    owner = ticket_lock.owner() if ticket_lock else None
    pid = _write_lock_owner(path)
    if owner is not None and owner.pid == pid:
        return _describe_owner(owner)
    if pid is not None:
        return f"process {pid} ({_command(pid)}), which has no ticket, has the write lock"
    if owner is not None and owner.pid != os.getpid():
        return _describe_owner(owner)
    return "the owner of the write lock is not known here"


def _describe_owner(owner: TicketOwner) -> str:
    since = time.strftime("%H:%M:%S", time.localtime(owner.since_s))
    return f"process {owner.pid} ({owner.command}){_state(owner.pid)} has it since {since}"


def _write_lock_owner(path: str) -> int | None:
    """Find SQLite's own lock among the system's, where it shows them (Linux)."""
    try:
        inode = os.stat(f"{path}-shm").st_ino
        locks = read_whole("/proc/locks").decode()
    except OSError:
        return None
    for row in map(str.split, locks.splitlines()):
        match row:
            case [_, "POSIX", _, "WRITE", pid, file, first, last]:
                locked = range(int(first), int(last) + 1) if last != "EOF" else ()
                if _WRITE_LOCK_BYTE in locked and file.endswith(f":{inode}"):
                    return int(pid)
    return None


def _command(pid: int) -> str:
    try:
        words = read_whole(f"/proc/{pid}/cmdline").split(b"\0")
    except OSError:
        return "command unknown"
    return " ".join(b" ".join(words).decode(errors="replace").split())[:200]


def _state(pid: int) -> str:
    try:
        stat = read_whole(f"/proc/{pid}/stat").decode(errors="replace")
    except OSError:
        return ""
    return ", which is stopped," if stat.rpartition(") ")[2].startswith("T") else ""
