"""The *soak_served* ability: the calls of the *soak* ability, on a whole server over HTTP.

Background work needs no call: the server's own watcher polls, and its own reaper collects channels.
"""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from harness.contract.agent_script import Process, Tokens, sleep
from harness.engine.http import LOOPBACK, Web
from harness.processes.probe import cost_of
from harness.processes.server import ReferenceLaunch, ServerProcess
from harness.targets.reference.soak import (
    AGENTS_MAX,
    PATIENCE_S,
    POLL_S,
    SESSIONS_MAX,
    Noise,
    Rest,
    SlowError,
    file_sizes,
)

SETTINGS = {
    "HERMES_WEBUI_AGENT_CACHE_MAX": str(AGENTS_MAX),
    "HERMES_WEBUI_SESSIONS_MAX": str(SESSIONS_MAX),
}


class SoakHttpAdapter:
    """One server, for one run of the soak."""

    def __init__(self, folder: Path, launch: ReferenceLaunch) -> None:
        self._state = folder / "state"
        self._launch = launch
        self._server = ServerProcess(launch, self._state, SETTINGS)
        self._web = Web(self._server.port, PATIENCE_S)
        self._names: dict[str, str] = {}
        self._tabs: dict[str, http.client.HTTPResponse] = {}
        self._noise = Noise(self._state)
        self._numbers = itertools.count()
        self._rest = Rest()

    # Sessions

    def new(self, session: str, previous: str | None = None) -> None:
        """Create a session, and commit the memory of the previous one."""
        body = {} if previous is None else {"prev_session_id": self._names[previous]}
        response = self._web.post("/api/session/new", **body)
        self._names[session] = response["session"]["session_id"]

    def chat(self, session: str, text: str) -> None:
        """Run a turn, and read its events to the end, as a browser does."""
        stream_id = self._start(session, text)
        with self._web.stream(f"/api/chat/stream?stream_id={stream_id}") as events:
            for _ in events:
                pass
        self._await_idle(session)

    def process(self, session: str) -> None:
        """Run a turn that starts a background process, and wait for the wakeup turn of its end."""
        wakeups = self._wakeup_count(session)
        self.chat(session, f"{Process(0, 'ready', next(self._numbers) % 2).directive}")
        self._await(lambda: self._wakeup_count(session) > wakeups, "the wakeup")
        self._await_idle(session)

    def cancel(self, session: str) -> None:
        """Start a turn, and cancel it."""
        stream_id = self._start(session, f"{Tokens(3).directive}{sleep(900)}")
        self._web.get(f"/api/chat/cancel?stream_id={stream_id}")
        self._await_idle(session)

    def reopen(self, session: str) -> None:
        """Open the session in a tab, read it, and close the tab."""
        id_ = self._names[session]
        with self._web.stream(f"/api/session/stream?session_id={id_}") as events:
            next(events)
            self._web.get(f"/api/session?session_id={id_}")

    def clear(self, session: str) -> None:
        """Remove the session's messages."""
        self._web.post("/api/session/clear", session_id=self._names[session])

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._web.post("/api/session/delete", session_id=self._names.pop(session))

    def _start(self, session: str, text: str) -> str:
        body = {"session_id": self._names[session], "message": text}
        return str(self._web.post("/api/chat/start", **body)["stream_id"])

    def _wakeup_count(self, session: str) -> int:
        found = self._web.get(f"/api/session?session_id={self._names[session]}")["session"]
        return sum(message.get("source") == "process_wakeup" for message in found["messages"])

    def _await_idle(self, session: str) -> None:
        path = f"/api/session/status?session_id={self._names[session]}"
        self._await(lambda: not self._web.get(path)["agent_running"], "the turn")

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while not is_so():
            if time.monotonic() > ends_at:
                raise SlowError(f"{what} did not end within {PATIENCE_S:g} s")
            time.sleep(POLL_S)

    # Idle tabs, other processes, and time

    def open_tab(self, tab: str, session: str | None = None) -> None:
        """Open a tab that reads nothing: on a session, or on the list of all."""
        path = "/api/sessions/events"
        if session is not None:
            path = f"/api/session/stream?session_id={self._names[session]}"
        connection = http.client.HTTPConnection(LOOPBACK, self._server.port)
        connection.request("GET", path)
        self._tabs[tab] = connection.getresponse()  # which owns the connection

    def close_tab(self, tab: str) -> None:
        """Close a tab."""
        self._tabs.pop(tab).close()

    def noise(self, source: str) -> None:
        """Let another process create, use and delete a session of that source."""
        self._noise.make(source, {"PYTHONPATH": str(self._launch.package_folder)})

    def rest(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        time.sleep(seconds)

    # Costs

    def pid(self) -> int:
        """The server's process id."""
        return self._server.pid

    def sample(self, **_: float) -> dict[str, float]:
        """Read every size at rest, by `group/name`. Only the checker reads the arguments."""
        self._rest.wait(self._containers)
        containers = self._containers()
        cost = asdict(cost_of(self._server.pid))
        return {
            **{f"containers/{name}": size for name, size in containers.items()},
            **{f"files/{name}": size for name, size in file_sizes(self._state).items()},
            **{f"process/{name}": value for name, value in cost.items()},
        }

    def _containers(self) -> dict[str, float]:
        sizes: dict[str, float] = self._web.get("/api/system/health")["containers"]
        return sizes

    def idle(self, seconds: float) -> dict[str, float]:
        """Send no request for `seconds`; the resources used meanwhile, and the open tabs."""
        before, began = cost_of(self._server.pid), time.monotonic()
        time.sleep(seconds)
        after, ended = cost_of(self._server.pid), time.monotonic()
        return {
            "seconds": ended - began,
            "tabs": len(self._tabs),
            "cpu_s": after.cpu_s - before.cpu_s,
            "wakeups": after.wakeups - before.wakeups,
            **{name: getattr(after, name) for name in ("rss_bytes", "threads", "fds")},
        }

    def close(self) -> None:
        """Kill the server."""
        for tab in self._tabs.values():
            tab.close()
        self._noise.close()
        self._server.kill()
