"""The client: it calls a target, and records each call and its outcome in the journal.

It is the one place that decides what an exception means: a refused call did not happen, and after
the loss of the target the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.errors import AdapterError, TargetLostError, UsageError
from harness.core.history import Journal, Operation, Outcome
from harness.engine.target import Instance


class RecordingClient:
    """One logical client of one instance; it journals every call before and after."""

    def __init__(self, instance: Instance, journal: Journal, process: int = 0) -> None:
        self._instance = instance
        self._journal = journal
        self._process = process

    def ask(self, function: str, argument: Mapping[str, Any]) -> Operation:
        """Call a function, and return the operation.

        Raises UsageError for an unknown function, AdapterError where the adapter itself failed.
        """
        number = self._journal.invoke(self._process, function, dict(argument))
        try:
            result = self._instance.call(function, argument)
        except (UsageError, AdapterError):
            raise
        except TargetLostError as error:
            return self._journal.complete(number, Outcome.INFO, error=_line(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  any exception is a refusal
            return self._journal.complete(number, Outcome.FAIL, error=_line(error))
        return self._journal.complete(number, Outcome.OK, result)


def _line(error: BaseException) -> str:
    """Render an error as one line, its type first."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
