"""What goes wrong with the harness itself. What is wrong with a target is a value: an `Anomaly`.

Each class carries the exit code of the command that meets it, so that a caller can tell a bad
question (254) from a broken judge (255), and neither from a broken promise (1).
"""

from __future__ import annotations


class HarnessError(Exception):
    """The harness could not do its work; the message is one sentence with the evidence in it."""

    exit_code = 255


class UsageError(HarnessError):
    """The question was wrong: an unknown name, a bad value, a folder that is no run."""

    exit_code = 254


class HistoryDamagedError(UsageError):
    """A stored history cannot be read, somewhere other than in its torn last line."""


class UnknownPromiseError(UsageError):
    """Somebody named a promise that the contract does not make."""


class TargetUnavailableError(UsageError):
    """The target cannot be had here: unknown, not installable, or it does not start."""


class TargetLostError(HarnessError):
    """The target's process went away in the middle of a call that nobody meant to kill."""
