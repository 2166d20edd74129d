"""The *network* ability: a server that clients reach through a bad network, and directly as well.

The workload owns the network: it asks for the server's port, puts a proxy before it, and names the
proxy's port. Functions for which `far` is true go through it. A lost connection is no error of a
read: the answer has the events that came whole, and says how the read ended.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from harness.core.errors import TargetLostError
from harness.engine.http import Event
from harness.processes.server import Launch
from harness.targets.server.http import HEADER, HttpAdapter, seq


class NetworkAdapter(HttpAdapter):
    """One server, its port, and another way to it."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet; the first call boots the server."""
        super().__init__(folder, launch)
        self._far: NetworkAdapter = self
        self._session_of: dict[str, str] = {}  # by run

    def listen(self) -> int:
        """Boot the server; its port."""
        return self._port()

    def reach(self, port: int) -> None:
        """Use this port for far calls from now on; names are shared with all others."""
        self._far = copy.copy(self)
        self._far._through = port  # noqa: SLF001  of the same class

    def deliver(self, session: str, run: str, text: str, far: bool) -> dict[str, Any]:  # noqa: FBT001  journalled by name
        """Begin a turn, named `run` from now on; the status."""
        self._session_of[run] = session
        return (self._far if far else self).send(session, run, text)

    def follow(self, run: str, after: int, far: bool) -> dict[str, Any]:  # noqa: FBT001  journalled by name
        """Read the run's events behind number `after`, until the stream ends in any way.

        It ends *closed* by a FIN, *lost* by a reset, or *open* after a long time. Each event is its
        number, name and text, with the session's name for its id; an event of another stream has no
        number. Raises TargetLostError where the connection was lost before the answer began.
        """
        return (self._far if far else self)._follow(run, after)  # noqa: SLF001  of the same class

    def _follow(self, run: str, after: int) -> dict[str, Any]:
        stream_id, received, end = self._streams[run], list[Event](), ""
        headers = {HEADER: f"{stream_id}:{after}"} if after else {}
        try:
            with self._stream(f"/api/chat/stream?stream_id={stream_id}", headers) as events:
                end = "lost"
                try:
                    received.extend(events)
                    end = "closed"
                except TimeoutError:
                    end = "open"
        except TargetLostError:
            if not end:
                raise
        session = self._session_of[run]
        rows = [shown(event, stream_id) for event in received]
        for row in rows:
            row[2] = row[2].replace(self._sessions[session], session)  # in the last token
        return {"events": rows, "end": end}

    def health(self) -> int:
        """The status of the direct health check."""
        status, _ = self._web().ask("GET", "/health")
        return status


def shown(event: Event, stream_id: str) -> list[Any]:
    """An event as its number, its name, and the text of a token."""
    text = str(event.data.get("text", "")) if event.name == "token" else ""
    return [seq(event.id, stream_id), event.name, text]
