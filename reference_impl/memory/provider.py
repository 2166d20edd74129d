"""The memory provider over HTTP: it gets each completed turn, and extracts at boundaries.

HERMES_MEMORY_URL is its address. It may be slow, refuse or hang: it is called without a lock, what
it refuses of turns is sent again before the next one, and the lifecycle keeps what it refuses to
extract for the next boundary. A session is extracted only when the provider has all of its turns.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

PATIENCE_S = 30.0
TURNS_MAX = 1000  # that wait for a provider; of more the oldest are given up

log = logging.getLogger(__name__)


class SessionMemory:
    """What the provider knows of one session; nothing is sent where no provider is set.

    Turns are sent one at a time, in order, by a thread that ends when none is left.
    """

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._unsent: deque[Mapping[str, Any]] = deque(maxlen=TURNS_MAX)
        self._changed = threading.Condition(threading.Lock())
        self._is_sending = False

    def sync_turn(self, turn_id: str, request: str, reply: str) -> None:
        """Send a completed turn, without extraction; returns at once, and never raises."""
        if not _url():
            return
        messages = [{"role": "user", "content": request}, {"role": "assistant", "content": reply}]
        with self._changed:
            self._unsent.append({"turn_id": turn_id, "messages": messages})
            if self._is_sending:
                return
            self._is_sending = True
        threading.Thread(target=self._send_quietly, name="memory", daemon=True).start()

    def commit(self) -> None:
        """Let the provider extract the session, when it has all turns. Raises OSError."""
        if not _url():
            return
        with self._changed:
            if not self._changed.wait_for(lambda: not self._is_sending, PATIENCE_S):
                raise TimeoutError(f"{self._session_id}: its turns are still being sent")
            self._is_sending = True
        self._send()
        self._post("commit", {})

    def _send_quietly(self) -> None:
        try:
            self._send()
        except Exception as error:  # noqa: BLE001 - the provider may do anything
            log.warning("session %s: its turns are sent later: %r", self._session_id, error)

    def _send(self) -> None:
        """Send every turn that waits. The caller has claimed that."""
        is_sending = True
        try:
            while is_sending:
                with self._changed:
                    turn = self._unsent[0] if self._unsent else None
                    if turn is None:
                        is_sending = self._end_claim()
                if turn is not None:
                    self._post("messages", turn)
                    with self._changed:
                        if self._unsent and self._unsent[0] is turn:
                            self._unsent.popleft()
        finally:
            if is_sending:
                with self._changed:
                    self._end_claim()

    def _end_claim(self) -> bool:
        self._is_sending = False
        self._changed.notify_all()
        return False

    def _post(self, what: str, body: Mapping[str, Any]) -> None:
        from urllib.request import Request, urlopen  # noqa: PLC0415 - slow to import, rarely needed

        place = f"{_url()}/api/v1/sessions/{quote(self._session_id)}/{what}"
        with urlopen(Request(place, json.dumps(body).encode()), timeout=PATIENCE_S):  # noqa: S310 - the operator chose it
            pass


def _url() -> str:
    return os.environ.get("HERMES_MEMORY_URL", "").rstrip("/")
