"""Types of the route table: the fields of a request, and the checks before a route is called.

A route states everything about it that is known without running it, so that one table serves the
requests and describes them (`openapi`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from reference_impl.web.http_parser import Answer, RefusedError, Request
from reference_impl.web.server import Streaming, Wake
from reference_impl.web.service import Service

_INTEGER = re.compile(r"-?[0-9]{1,15}", re.ASCII)
_PYTHON = {"string": str, "integer": int, "array": list, "object": dict}


@dataclass(frozen=True, slots=True)
class Field:
    """One named value of a request, with the bounds that JSON Schema can express.

    An array is a list of at most `max_items` texts.
    """

    name: str
    kind: str = "string"
    is_required: bool = False
    max_length: int = 1000
    pattern: str = ""
    minimum: int = 0
    maximum: int = 10**15 - 1
    max_items: int = 100
    about: str = ""

    def checked(self, value: Any) -> Any:
        """Return the value if it is valid. Raises RefusedError."""
        if self.kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON has one kind of number
        if not isinstance(value, _PYTHON[self.kind]) or isinstance(value, bool):
            raise RefusedError(400, f"{self.name} is not of type {self.kind}")
        if isinstance(value, str):
            if len(value) > self.max_length:
                raise RefusedError(400, f"{self.name} has more than {self.max_length} characters")
            if self.pattern and not re.fullmatch(self.pattern, value, re.ASCII):
                raise RefusedError(400, f"{self.name} does not match {self.pattern}")
            if self.is_required and not value.strip():
                raise RefusedError(400, f"{self.name} is empty")
        if isinstance(value, list):
            self._check_items(value)
        if isinstance(value, int) and not self.minimum <= value <= self.maximum:
            bounds = f"{self.minimum} to {self.maximum}"
            raise RefusedError(400, f"{self.name} is not in {bounds}")
        return value

    def _check_items(self, items: list[Any]) -> None:
        if len(items) > self.max_items:
            raise RefusedError(400, f"{self.name} has more than {self.max_items} items")
        if not all(isinstance(item, str) and len(item) <= self.max_length for item in items):
            most = f"at most {self.max_length} characters"
            raise RefusedError(400, f"{self.name} has an item that is no text of {most}")

    def parsed(self, text: str) -> Any:
        """Parse the value from the text of a query. Raises RefusedError."""
        if self.kind != "integer":
            return self.checked(text)
        if not _INTEGER.fullmatch(text):
            raise RefusedError(400, f"{self.name} is not of type integer")
        return self.checked(int(text))


class Kind(Enum):
    """How a route is executed."""

    CALL = auto()
    INSTANT = auto()  # never waits
    STREAM = auto()


Args = Mapping[str, Any]
Act = Callable[[Service, Args, Wake], Answer | Streaming]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint.

    `refusals` are the error statuses of its own, `gives` the fields that its response always has,
    and at least one of the fields in `either` is required.
    """

    method: str
    path: str
    act: Act
    about: str
    kind: Kind = Kind.CALL
    query: tuple[Field, ...] = ()
    body: tuple[Field, ...] | None = None
    either: tuple[str, ...] = ()
    refusals: tuple[int, ...] = ()
    gives: tuple[str, ...] = ()
    content_type: str = "application/json"
    matcher: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.path))
        object.__setattr__(self, "matcher", re.compile(pattern))

    @property
    def path_fields(self) -> tuple[str, ...]:
        """Names of the variable parts of the path."""
        return tuple(self.matcher.groupindex)

    @property
    def is_gone(self) -> bool:
        """Whether it only refuses with its new path."""
        return HTTPStatus.GONE in self.refusals

    def args(self, request: Request, parts: Mapping[str, str]) -> Args:
        """All values of a request, checked. Raises RefusedError."""
        given: dict[str, Any] = dict(parts)
        for declared in self.query:
            if declared.name in request.query:
                given[declared.name] = declared.parsed(request.query[declared.name])
        if self.body is not None:
            body = request.json()
            for declared in self.body:
                if body.get(declared.name) is not None:
                    given[declared.name] = declared.checked(body[declared.name])
        for declared in (*self.query, *(self.body or ())):
            if declared.is_required and declared.name not in given:
                raise RefusedError(400, f"{declared.name} is missing")
        if self.either and not given.keys() & set(self.either):
            raise RefusedError(400, f"{self.either[0]} is missing")
        given["last_event_id"] = request.headers.get("last-event-id")
        return given
