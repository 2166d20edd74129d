"""Distinguishes what is wrong with an answer of the server from what is wrong with its adapter.

An adapter takes answers apart as a client does. If an answer lacks a field, or has a value of
another type, that is a finding. The same error about anything else is a defect of the harness.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import NoneType
from typing import Any

from harness.core.errors import AdapterError, TargetLostError
from harness.engine.http import NotReachedError, StatusError

JSON_TYPES = (dict, list, str, int, float, bool, NoneType)
_WRONG_CALL = re.compile(r"[\w.<>]+\(\) (takes|missing|got)")  # a TypeError of Python itself


class StrangeAnswerError(Exception):
    """An answer lacks a field."""


class JsonObject(dict[str, Any]):
    """An object of an answer; reading a field that it lacks raises StrangeAnswerError."""

    def __missing__(self, name: str) -> Any:
        raise StrangeAnswerError(f"it has no field {name!r}")


def problem_of(act: Callable[[], str | None]) -> str:
    """What an act finds; a call that is refused, not answered, or strangely is a finding too.

    Raises AdapterError where the adapter itself failed.
    """
    try:
        return act() or ""
    except StatusError as error:
        path = error.request.partition("?")[0]
        return f"{path} had the status {error.status}: {str(error.response)[:80]}"
    except (TargetLostError, NotReachedError, TimeoutError) as error:
        return f"not answered: {type(error).__name__}"
    except (StrangeAnswerError, TypeError, AttributeError, IndexError, ValueError) as error:
        if not _is_about_an_answer(error):
            raise AdapterError(f"the adapter failed: {error!r}") from error
        return f"a strange answer: {error!r}"
    except LookupError as error:  # of a table of the adapter
        raise AdapterError(f"the adapter failed: {error!r}") from error


def _is_about_an_answer(error: Exception) -> bool:
    """Whether a value of another type, as JSON has them, can have raised the error."""
    if isinstance(error, AttributeError):
        return isinstance(error.obj, JSON_TYPES)
    return not (isinstance(error, TypeError) and _WRONG_CALL.match(str(error)))
