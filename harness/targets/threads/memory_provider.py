"""The *memory_provider_threads* ability: one session's memory, and a scripted provider."""

from __future__ import annotations

import io
import itertools
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.error import URLError
from weakref import WeakValueDictionary

from harness.schedule import calling

ANSWER_S = 1.0
REST_S = 3_600.0  # by then each request has ended, and each thread that sends has
See = Callable[[str, Mapping[str, Any], int], None]

_ADDRESS = "http://memory.invalid"
_VARIABLE = "HERMES_MEMORY_URL"
_numbers = itertools.count()  # one session for each schedule
_providers: WeakValueDictionary[str, MemoryProviderThreadsAdapter] = WeakValueDictionary()


def _take_time(seconds: float) -> None:
    time.sleep(seconds)


# Lock rules name this call: while it runs, the target may hold no lock.
_ask_provider = calling("provider", _take_time)


@contextmanager
def scripted_provider() -> Iterator[None]:
    """Answer requests to the memory provider in this process, without a socket."""
    with (
        mock.patch.object(urllib.request, "urlopen", _answered),
        mock.patch.dict(os.environ, {_VARIABLE: _ADDRESS}),
    ):
        yield


def _answered(request: urllib.request.Request, timeout: float) -> io.BytesIO:
    del timeout  # no answer takes that long
    session, what = request.full_url.split("/")[-2:]
    assert isinstance(request.data, bytes), "a body in one piece"
    _providers[session].answer(what, json.loads(request.data))
    return io.BytesIO(b"{}")


class MemoryProviderThreadsAdapter:
    """The memory of one session, whose provider refuses some requests."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        session = f"s{next(_numbers)}"
        _providers[session] = self
        self._memory = modules("memory.provider").SessionMemory(session)
        self._refusals = 0

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """Report requests to `see`, with times of the clock `tick`."""
        self._tick, self._see = tick, see

    def refuse(self, requests: int) -> None:
        """Let the provider refuse the next requests."""
        self._refusals = requests

    def sync(self, turn: str) -> None:
        """Let the memory know of a completed turn."""
        self._memory.sync_turn(turn, f"ask {turn}", f"reply to {turn}")

    def commit(self) -> None:
        """Let the provider extract the session. Raises OSError."""
        self._memory.commit()

    def pause(self) -> None:
        """Wait for as long as a request takes: what follows meets the end of one."""
        time.sleep(ANSWER_S)

    def rest(self) -> None:
        """Let all requests end."""
        time.sleep(REST_S)

    def close(self) -> None:
        """Do nothing: its threads end when nothing is left to send."""

    def answer(self, what: str, body: Mapping[str, Any]) -> None:
        """Answer a request after a second. Raises URLError for a refusal."""
        begun, is_refused = self._tick(), self._refusals > 0
        self._refusals -= is_refused
        _ask_provider(ANSWER_S)
        self._see("request", {"what": what, "body": body, "accepted": not is_refused}, begun)
        if is_refused:
            raise URLError("the provider refuses")
