"""What goes wrong with state.db: each error is one sentence that names the file and the evidence.

All but one mean that the write did nothing. Only `NotSyncedError` is about a write that stands.
"""

from __future__ import annotations


class StateDbError(Exception):
    """Something could not be done with state.db; the message says what, and why."""


class SessionUnknownError(StateDbError):
    """The session that the write is about does not exist."""


class TitleTakenError(StateDbError):
    """Another session has that title."""


class OutOfPatienceError(StateDbError):
    """The writer's patience ended before its turn came. The message names who had it."""


class DatabaseFailedError(StateDbError):
    """SQLite or the disk refused: full, read-only, broken, or no database at all."""


class ClosedError(StateDbError):
    """The handle was closed."""


class NotSyncedError(StateDbError):
    """The write is committed and everybody sees it, but the disk would not confirm it.

    It can be lost only if the power fails. No store can do better: the pages are in the log, and
    a log that was not synced may be read back after a crash all the same.
    """
