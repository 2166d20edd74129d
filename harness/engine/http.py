"""The web, as one client sees it: JSON calls, and event streams read as they come.

Knows no server in particular. Says apart what never reached the server (it did not happen) from
what was sent and never answered (nobody knows).
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.core.errors import TargetLostError

LOOPBACK = "127.0.0.1"
PATIENCE_S = 20.0
_CHUNK_BYTES = 1 << 18


class NotReachedError(Exception):
    """Nothing of the call was sent, so it did not happen."""


class StillOpenError(TimeoutError):
    """The stream was still open when patience ended; it is not lost."""


class StatusError(Exception):
    """The server answered, with another status than was called for."""

    def __init__(self, asked: str, status: int, told: Any) -> None:
        super().__init__(f"{asked}: {status} {told}")
        self.asked = asked
        self.status = status
        self.told = told


class Event(NamedTuple):
    """One event of a stream; `name` is empty for a comment, a heartbeat as a rule."""

    id: str
    name: str
    data: Any


@dataclass(frozen=True)
class Web:
    """A client of the server at a port of loopback. Safe for threads: nothing is kept."""

    port: int
    timeout_s: float = PATIENCE_S
    host: str = LOOPBACK

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask, and return the status and the JSON. Raises NotReachedError, TargetLostError."""
        data = None if body is None else json.dumps(body).encode()
        with self._exchange(method, path, data, {}) as response:
            return response.status, json.loads(response.read())

    def status(self, path: str) -> int:
        """Read all of an answer, however long, and only its status. Raises as `ask` does."""
        with self._exchange("GET", path, None, {}) as response:
            while response.read(_CHUNK_BYTES):
                pass
            return response.status

    def get(self, path: str) -> Any:
        """Read. Raises StatusError for any other status than 200."""
        return _accepted(f"GET {path}", *self.ask("GET", path))

    def post(self, path: str, **body: Any) -> Any:
        """Write. Raises StatusError for any other status than 200."""
        return _accepted(f"POST {path}", *self.ask("POST", path, body))

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[Iterator[Event]]:
        """Read a stream's events until the server closes it.

        Reading raises StillOpenError once it has lasted for `timeout_s`, TimeoutError where nothing
        at all comes for as long, and the block TargetLostError where the server goes away. Opening
        raises StatusError for any other status than 200.
        """
        with self._exchange("GET", path, None, headers or {}) as response:
            if response.status != http.client.OK:
                told = response.read().decode(errors="replace")
                raise StatusError(f"GET {path}", response.status, told)
            yield (event for event in _events(response, self.timeout_s) if event.name)

    @contextmanager
    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise NotReachedError(f"{method} {path}: {error!r}") from error
        try:
            connection.request(method, path, data, dict(headers))
            with connection.getresponse() as response:
                yield response
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            if isinstance(error, StillOpenError):
                raise
            raise TargetLostError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()


def _accepted(asked: str, status: int, told: Any) -> Any:
    if status != http.client.OK:
        raise StatusError(asked, status, told)
    return told


def _events(response: http.client.HTTPResponse, patience_s: float) -> Iterator[Event]:
    ends_at = time.monotonic() + patience_s
    fields: dict[str, str] = {}
    for line in response:  # comments keep these coming
        if time.monotonic() > ends_at:
            raise StillOpenError(f"not closed within {patience_s:g} s")
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if line.startswith(b":"):
            yield Event("", "", None)
        elif name:
            fields[name] = value
        elif "event" in fields:
            yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            fields = {}
