"""The holder: which process keeps the others from writing to a database, as far as can be known.

For the sentence of an error, never for a decision: what it says may be over when it is read. Opens
neither the database nor its `-shm`, where the locks are: closing those would drop our own.
"""

from __future__ import annotations

import os
import time

from reference_impl.state_db.ticket_lock import Stander, WriteLine
from reference_impl.storage.files import read_whole

_WRITE_LOCK_BYTE = 120  # of the -shm, which SQLite locks to write: sqlite.org/walformat.html


def describe_holder(path: str, line: WriteLine | None) -> str:
    """Name the process that has the write lock, or else the one that keeps the line waiting."""
    stander = line.first() if line else None
    pid = _lock_holder(path)
    if stander is not None and stander.pid == pid:
        return _describe_stander(stander)
    if pid is not None:
        return f"process {pid} ({_command(pid)}), which does not stand in line, has the write lock"
    if stander is not None and stander.pid != os.getpid():
        return _describe_stander(stander)
    return "who has the write lock cannot be known here"


def _describe_stander(stander: Stander) -> str:
    since = time.strftime("%H:%M:%S", time.localtime(stander.since_s))
    return f"process {stander.pid} ({stander.command}){_state(stander.pid)} has it since {since}"


def _lock_holder(path: str) -> int | None:
    """Look SQLite's own lock up among the system's, where it shows them (Linux)."""
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
