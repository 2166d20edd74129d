"""Exceptions of the harness itself, each with the exit code of the command that meets it.

A defect of a target is no exception but a value: an `Anomaly`. The exit codes separate a usage
error (254) from a failure of the harness (255), and both from a broken promise (1).
"""

from __future__ import annotations


class HarnessError(Exception):
    """The harness could not do its work; the message is one sentence with the evidence in it."""

    exit_code = 255


class UsageError(HarnessError):
    """The caller passed an unknown name, a bad value, or a folder that is no run."""

    exit_code = 254


class HistoryDamagedError(UsageError):
    """A stored history cannot be read, at another place than its torn last line."""


class UnknownPromiseError(UsageError):
    """The contract has no promise of this ID."""


class TargetUnavailableError(UsageError):
    """The target is unknown, cannot be installed here, or does not start."""


class AdapterError(HarnessError):
    """An adapter failed at its own work, so nothing is known of the target."""


class TargetLostError(HarnessError):
    """The target's process ended in the middle of a call, though the harness did not kill it."""
