"""The client: asks a target, and writes down what it asked and what came back.

The one place that decides what an exception means: a refusal did not happen, a lost target leaves
nobody the wiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.errors import TargetLostError, UsageError
from harness.core.history import Journal, Operation, Outcome
from harness.engine.target import Instance


class RecordingClient:
    """One logical client of one instance; every call is journalled before and after."""

    def __init__(self, instance: Instance, journal: Journal, process: int = 0) -> None:
        self._instance = instance
        self._journal = journal
        self._process = process

    def ask(self, function: str, argument: Mapping[str, Any]) -> Operation:
        """Ask, and return the operation. Raises UsageError for a function that is not there."""
        number = self._journal.invoke(self._process, function, dict(argument))
        try:
            result = self._instance.call(function, argument)
        except UsageError:
            raise
        except TargetLostError as error:
            return self._journal.complete(number, Outcome.INFO, error=_told(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  a refusal, whatever its type
            return self._journal.complete(number, Outcome.FAIL, error=_told(error))
        return self._journal.complete(number, Outcome.OK, result)


def _told(error: BaseException) -> str:
    """An error as one line, its type first."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
