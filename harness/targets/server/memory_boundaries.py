"""The *memory* ability: a server with a memory provider, which counts what it gets.

The provider is a small HTTP server of ours. It answers, or refuses with 503; either way the request
is in its ledger. `requests` waits for as many as are expected, so that no test sleeps.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any

from harness.contract.agent_script import FAIL, HANG, ReplyEnd, Tokens, sleep
from harness.contract.models.memory_boundaries import AMPLE_S
from harness.engine.http import LOOPBACK, Web
from harness.processes.server import Launch
from harness.targets.server.http import named
from harness.targets.server.lifecycle import ServerAdapter

PATIENCE_S = 30.0
LACKING_S = 4.0  # once a request did not come, so that others need not wait as long
POLL_S = 0.005
HELD = f"{Tokens(1).directive}{sleep(900)}"
_REQUEST = re.compile(r"/api/v1/sessions/([^/]+)/(commit|messages)")
_LEFT = re.compile(r"stopped with uncommitted sessions: (.*)")
UNAVAILABLE = 503


class Provider:
    """A memory provider on loopback: sessions that it was asked to extract, and turns it got."""

    def __init__(self, *, refuses_turns: bool = False) -> None:
        """Start to listen, and to answer; what it refuses are commits, and maybe turns too.

        A turn is sent at any time after its end, so a refusal may meet one that ended before.
        """
        self.refused: set[str] = set()
        self.refuses_turns = refuses_turns
        self.answers = Event()  # while it is not set, requests wait
        self.answers.set()
        self._asked: list[str] = []
        self._turns: list[tuple[str, Mapping[str, Any]]] = []
        self._refusals = 0  # of turns
        self._patience_s = PATIENCE_S
        self._changed = Condition()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                found = _REQUEST.fullmatch(self.path)
                session, what = (found[1], found[2]) if found else (self.path, "commit")
                is_refused = session in provider.refused and (
                    what == "commit" or provider.refuses_turns
                )
                status = UNAVAILABLE if is_refused else 200
                if what == "commit":
                    provider.note(session)
                    provider.answers.wait(PATIENCE_S)
                elif is_refused:
                    provider.note_refusal()
                else:
                    provider.note_turn(session, json.loads(body))
                with suppress(OSError):  # the client may have closed the connection
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def note(self, session: str) -> None:
        """Write a request into the ledger."""
        with self._changed:
            self._asked.append(session)
            self._changed.notify_all()

    def note_turn(self, session: str, turn: Mapping[str, Any]) -> None:
        """Write a turn that it accepted into the ledger."""
        with self._changed:
            self._turns.append((session, turn))
            self._changed.notify_all()

    def note_refusal(self) -> None:
        """Count a turn that it refused."""
        with self._changed:
            self._refusals += 1
            self._changed.notify_all()

    def refusals(self, count: int) -> int:
        """How often a turn was refused since the last time, once it was so often, or patience."""
        with self._changed:
            self._await(lambda: self._refusals >= count)
            refusals, self._refusals = self._refusals, 0
            return refusals

    def turns(self, count: int) -> list[tuple[str, Mapping[str, Any]]]:
        """The turns since the last time, once there are that many or the patience ends."""
        with self._changed:
            self._await(lambda: len(self._turns) >= count)
            turns, self._turns = self._turns, []
            return turns

    def taken(self, count: int) -> list[str]:
        """The requests since the last time, once there are that many or the patience ends."""
        with self._changed:
            self._await(lambda: len(self._asked) >= count)
            asked, self._asked = self._asked, []
            return asked

    def _await(self, is_there: Callable[[], bool]) -> None:
        """Wait for what must come; the next time not as long, if it does not. Under the lock."""
        if not self._changed.wait_for(is_there, self._patience_s):
            self._patience_s = LACKING_S

    def wait(self, count: int, within_s: float) -> None:
        """Wait until there are that many requests, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._asked) >= count, within_s)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class MemoryBoundariesAdapter:
    """One server that is stopped and booted again, and its memory provider."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._provider = Provider()
        self._server = ServerAdapter(folder, launch)
        self._sessions: dict[str, str] = {}
        self._logged = 0  # characters of the log that were read

    def boot(self, cache_max: int, drain_s: float = AMPLE_S) -> None:
        """Boot the server, with that many agents in its cache, and so long for its shutdown."""
        self._server.boot(
            HERMES_MEMORY_URL=self._provider.url,
            HERMES_WEBUI_AGENT_CACHE_MAX=f"{cache_max}",
            HERMES_WEBUI_DRAIN_DEADLINE=f"{drain_s:g}",
        )

    def provider(self, refuses: list[str]) -> None:
        """Let the provider refuse these sessions from now on, and no other."""
        self._provider.refused = {self._sessions[session] for session in refuses}

    def new(self, session: str, previous: str | None) -> None:
        """Make a session; the client leaves the previous one."""
        body = {} if previous is None else {"prev_session_id": self._sessions[previous]}
        made = self._web.post("/api/session/new", **body)
        self._sessions[session] = made["session"]["session_id"]

    def talk(self, session: str) -> None:
        """Start a turn, and wait until its session is idle."""
        sid = self._sessions[session]
        self._web.post("/api/chat/start", session_id=sid, message=f"hello {Tokens(1).directive}")
        self._wait_until_idle(session)

    def hang(self, session: str) -> None:
        """Start a turn whose agent ignores its cancel, and wait until it is under way."""
        sid = self._sessions[session]
        message = f"hello {Tokens(1).directive}{HANG}"
        self._wait_for_token(self._web.post("/api/chat/start", session_id=sid, message=message))

    def _wait_for_token(self, begun: Mapping[str, Any]) -> None:
        with self._web.stream(f"/api/chat/stream?stream_id={begun['stream_id']}") as events:
            next(events)

    def _wait_until_idle(self, session: str) -> None:
        sid = self._sessions[session]
        ends_at = time.monotonic() + PATIENCE_S
        while self._is_busy(sid):
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{session} is still busy after {PATIENCE_S:g} s")
            time.sleep(POLL_S)

    def _is_busy(self, sid: str) -> bool:
        return bool(self._web.get(f"/api/session/status?session_id={sid}")["agent_running"])

    def clear(self, session: str) -> None:
        """Remove the session's messages."""
        self._web.post("/api/session/clear", session_id=self._sessions[session])

    def rename(self, session: str) -> None:
        """Give the session a title."""
        sid = self._sessions[session]
        self._web.post("/api/session/rename", session_id=sid, title=f"about {session}")

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._web.post("/api/session/delete", session_id=self._sessions[session])

    def stop(self) -> dict[str, Any]:
        """End the server by SIGTERM; the exit code, and the sessions that it left by its log."""
        code = self._server.terminate()
        log = self._server.log()
        lines, self._logged = _LEFT.findall(log[self._logged :]), len(log)
        names = [self._name(sid) for line in lines for sid in line.split(", ")]
        return {"code": code, "left": sorted(names)}

    def requests(self, expected: int) -> list[str]:
        """The sessions that the provider was asked to extract since the last time."""
        return [self._name(sid) for sid in self._provider.taken(expected)]

    def close(self) -> None:
        """Kill the server, and close the provider."""
        self._server.close()
        self._provider.close()

    @property
    def _web(self) -> Web:
        return Web(self._server.boot()["port"])

    def _name(self, sid: str) -> str:
        return named(self._sessions, sid) or sid


class MemoryTurnsAdapter(MemoryBoundariesAdapter):
    """A server that also synchronises each completed turn with its memory provider."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        super().__init__(folder, launch)
        self._provider.close()
        self._provider = Provider(refuses_turns=True)

    def provider(self, refuses: list[str], *, takes_turns: bool = False) -> None:
        """Let the provider refuse these sessions from now on; maybe not their turns."""
        self._provider.refuses_turns = not takes_turns
        super().provider(refuses)

    def talk(self, session: str, text: str, end: str = "done") -> None:  # type: ignore[override]
        """Start a turn with that text and end, and wait until its session is idle."""
        sid = self._sessions[session]
        script = {"fail": FAIL, "cancel": HELD}.get(end, Tokens(1).directive)
        path, field = ("/api/btw", "question") if end == "aside" else ("/api/chat/start", "message")
        begun = self._web.post(path, **{"session_id": sid, field: f"{text} {script}"})
        if end == "cancel":
            self._wait_for_token(begun)
            self._web.get(f"/api/chat/cancel?stream_id={begun['stream_id']}")
        self._wait_until_idle(session)

    def turns(self, expected: int) -> list[list[str]]:
        """The turns that the provider accepted since the last time: session, text and reply.

        The reply is "whole" if it is that of a completed turn of the session.
        """
        rows = []
        for sid, turn in self._provider.turns(expected):
            request, reply = (message["content"] for message in turn["messages"])
            end = ReplyEnd.parse(reply)
            is_whole = end is not None and end.session == sid and reply == f"0 {end}"
            shown = "whole" if is_whole else reply
            rows.append([self._name(sid), request.partition(" ")[0], shown])
        return rows

    def refused_turns(self, expected: int) -> int:
        """How often the provider refused a turn since the last time."""
        return self._provider.refusals(expected)
