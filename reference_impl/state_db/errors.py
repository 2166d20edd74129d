"""Errors of state.db; each message is one sentence that names the file and the evidence.

All but one mean that the write did nothing. Only `NotSyncedError` is about a committed write.
"""

from __future__ import annotations


class StateDbError(Exception):
    """An operation on state.db failed; the message says which, and why."""


class SessionUnknownError(StateDbError):
    """The session of the write does not exist."""


class TitleTakenError(StateDbError):
    """Another session has that title."""


class OutOfPatienceError(StateDbError):
    """The write's patience ended before its turn came. The message names the lock owner."""


class DatabaseFailedError(StateDbError):
    """SQLite or the disk refused: full, read-only, broken, or not a database."""


class ClosedError(StateDbError):
    """The handle was closed."""


class NotSyncedError(StateDbError):
    """The write is committed and visible, but the disk did not confirm its sync.

    Only a power loss can lose it. No store can do better: the pages are in the log, and a log that
    was not synced may be read back after a crash all the same.
    """
