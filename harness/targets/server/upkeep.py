"""The *upkeep* ability: what a server keeps, holds up and costs while sessions come and go.

Each call reports facts: whether a container grew with the number of sessions, whether a change kept
the messages of a session that was not in memory, whether a request was answered while the lock of
its session was held, whether an idle server was busy, and how many threads a start too many added.
Each boots a server of its own, or uses the last one.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.contract.agent_script import FAIL, TOOL, Process, Tokens, sleep
from harness.core.errors import TargetLostError
from harness.engine.http import PATIENCE_S, Event, NotReachedError, StatusError, Web
from harness.processes.probe import cost_of
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

POLL_S = 0.005
SILENT_S = 0.2  # of a turn; a cancel before its agent has begun may not reach it
SHOWN_S = 5.0  # for the first token
LOOKED_S = 1.0  # of a stream that shows nothing
LOCKED_S = 14.0  # longer than any bounded wait of a request
# Before a reading, for what ends by itself. A time will do: what is late is late in every round,
# and only what each round adds to the one before counts as growth.
SETTLED_S = 0.4
BOOTED_S = 0.5  # for work after the boot
SHARE_MAX = 0.2  # of a core, of an idle server; a busy loop takes one
GROWS = 0.5  # of an entry a session
WARM_ROUNDS = 2
KIND_ROUNDS = 4  # of one kind of use, the first of which is warm already
OTHERS = 4  # sessions that push another one out of a small memory
WOKEN_S = 4.0  # for a wakeup; whether it comes is not asked here
TERMINAL = ("stream_end", "cancel", "apperror", "error")  # the last event of a run
BOUNDED = ("turn_journal",)  # by more turns than these rounds have
CALLERS, TIMES = 8, 6  # of a start too many
READS = ("/api/sessions", "/api/session?session_id={id}", "/api/session/status?session_id={id}")
CHANGES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "rename": ("/api/session/rename", {"title": "renamed"}),
    "draft": ("/api/session/draft", {"text": "a draft"}),
    "pin": ("/api/session/pin", {"pinned": True}),
    "archive": ("/api/session/archive", {"archived": True}),
    "move": ("/api/session/move", {"project_id": None}),
    "truncate": ("/api/session/truncate", {"keep_count": 0}),
    "undo": ("/api/session/undo", {}),
    "retry": ("/api/session/retry", {}),
    "clear": ("/api/session/clear", {}),
    "branch": ("/api/session/branch", {}),
    "duplicate": ("/api/session/duplicate", {}),
    "personality": ("/api/personality/set", {"name": ""}),
    "update": ("/api/session/update", {"workspace": "", "model": "scripted"}),
    "toolsets": ("/api/session/toolsets", {"toolsets": None}),
    "send": ("/api/chat/start", {"message": f"{Tokens(1).directive}"}),
    "delete": ("/api/session/delete", {}),
    "read": ("GET /api/session?session_id={id}", {}),
    "status": ("GET /api/session/status?session_id={id}", {}),
    "list": ("GET /api/sessions", {}),
    "health": ("GET /health", {}),
}


class UpkeepAdapter:
    """One server and its folder, through all its boots."""

    scripts = (f"{Tokens(3).directive}{TOOL}", f"{Tokens(2).directive}{FAIL}")
    reads: tuple[str, ...] = READS
    streams: tuple[str, ...] = ()  # that a reader opens and leaves
    kinds: tuple[str, ...] = ()  # of use, besides the mixed one
    changing: tuple[str, ...] = ("rename",)  # changes that keep the messages
    settings: Mapping[str, str] = {}
    settled_s = SETTLED_S
    calls: tuple[str, ...] = tuple(name for name in CHANGES if name != "send")  # it waits twice

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._server = ServerAdapter(folder, launch)
        self._series: dict[str, list[list[float]]] = {}
        self._changed = ""
        self._rounds = 0
        self._answered: dict[str, bool] = {}
        self._sessions = 1

    # Growth

    def churn(self, rounds: int, sessions: int) -> list[str]:
        """Use and delete this number of sessions in each round; names of what has a size."""
        web = self._booted()
        self._sessions = sessions
        blocks = [self._block(web, "", rounds, WARM_ROUNDS)]
        blocks += [self._block(web, kind, KIND_ROUNDS, 1) for kind in self.kinds]
        names = sorted({name for block in blocks for reading in block for name in reading})
        self._series = {
            name: [[reading.get(name, 0) for reading in block] for block in blocks]
            for name in names
        }
        return [name for name in names if any(map(any, self._series[name]))]

    def grew(self, name: str) -> bool:
        """Whether each round of one kind of use added entries to it, as many as sessions had gone.

        One kind of use at a time, so that what only this kind leaves behind is seen.
        """
        least = GROWS * self._sessions
        return any(
            len(sizes) > 1 and min(late - early for early, late in pairwise(sizes)) >= least
            for sizes in self._series[name]
        )

    def _block(self, web: Web, kind: str, rounds: int, warm: int) -> list[Mapping[str, float]]:
        """The sizes after each round of one kind of use, without the first rounds."""
        return [self._round(web, kind) for _ in range(rounds)][warm:]

    def _round(self, web: Web, kind: str) -> Mapping[str, float]:
        for index in range(self._sessions):
            session = self._new(web)
            with suppress(StatusError, TargetLostError, TimeoutError):
                if kind:
                    getattr(self, f"_use_{kind}")(web, session)
                else:
                    self._use(web, session, index)
            self._wait_idle(web, session)
            web.post("/api/session/delete", session_id=session)
        self._rounds += 1
        self.beside(self._rounds, self._sessions)
        for path in self.reads:
            if "{id}" not in path:
                with suppress(NotReachedError, TargetLostError):
                    web.status(path)
        time.sleep(self.settled_s)
        return self.sizes(web)

    def _use(self, web: Web, session: str, index: int) -> None:
        """Run a turn that ends in one of several ways, read it, and read the session."""
        if index % 3 == 2:  # noqa: PLR2004  each third turn is cancelled
            run = self._held(web, session)
            with suppress(StatusError, TargetLostError):
                web.get(f"/api/chat/cancel?stream_id={run}")
        else:
            self._run(web, session, self.scripts[index % 3])
        self._wait_idle(web, session)
        for path in self.reads:
            with suppress(NotReachedError, TargetLostError):
                web.status(path.format(id=session))

    def _held(self, web: Web, session: str) -> str:
        """Start a turn that goes on, and read its first token, so that a cancel reaches it."""
        run = self._start(web, session, f"{Tokens(2).directive}{sleep(900)}")
        with (
            suppress(StatusError, TargetLostError, TimeoutError),
            Web(web.port, SHOWN_S).stream(f"/api/chat/stream?stream_id={run}") as events,
        ):
            next((event for event in events if event.name == "token"), None)
        return run

    def _run(self, web: Web, session: str, script: str) -> str:
        """Run a turn, and read it to its end; the run."""
        run = self._start(web, session, script)
        with (
            suppress(StatusError, TargetLostError, TimeoutError),
            web.stream(f"/api/chat/stream?stream_id={run}") as events,
        ):
            _read_to_the_end(events)
        return run

    def _use_process(self, web: Web, session: str) -> None:
        """Let a background process wake the session."""
        self._run(web, session, f"{Process(0, 'woken').directive}")
        ends_at = time.monotonic() + WOKEN_S
        path = f"/api/session?session_id={session}"
        while time.monotonic() < ends_at:
            if sum("woken" in str(row) for row in web.get(path)["session"]["messages"]) > 1:
                return
            time.sleep(POLL_S)

    def _use_silence(self, web: Web, session: str) -> None:
        """Cancel a turn before it has shown anything."""
        run = self._start(web, session, f"{sleep(SILENT_S)}")
        web.get(f"/api/chat/cancel?stream_id={run}")

    def _use_failure(self, web: Web, session: str) -> None:
        """Let a turn fail before it has shown anything."""
        self._run(web, session, f"{FAIL}")

    def _use_streams(self, web: Web, session: str) -> None:
        """Open each stream while a turn runs, and leave it; again when the turn is over."""
        run = self._held(web, session)
        self._look_in(web, session, run)
        web.get(f"/api/chat/cancel?stream_id={run}")
        self._wait_idle(web, session)
        self._look_in(web, session, run)

    def _look_in(self, web: Web, session: str, run: str) -> None:
        for path in self.streams:
            reader = Web(web.port, LOOKED_S)
            with (
                suppress(StatusError, TargetLostError, TimeoutError, StopIteration),
                reader.stream(path.format(id=session, run=run)) as events,
            ):
                next(events)

    def _use_changes(self, web: Web, session: str) -> None:
        """Make each change of the session, and delete the copies that were made."""
        self._run(web, session, self.scripts[0])
        for name in self.changing:
            path, body = CHANGES[name]
            _, answer = web.ask("POST", path, {"session_id": session, **body})
            made = answer.get("session", answer) if isinstance(answer, dict) else {}
            copy = made.get("session_id", session) if isinstance(made, dict) else session
            if copy != session:
                web.post("/api/session/delete", session_id=copy)

    def sizes(self, web: Web) -> Mapping[str, float]:
        """The size of everything that may grow with the number of sessions."""
        health = web.get("/health")
        containers = {k: v for k, v in health["containers"].items() if k not in BOUNDED}
        own = {name: health["process"][name] for name in ("threads", "fds")}
        return {**containers, **own}

    def beside(self, number: int, sessions: int) -> None:
        """Let another writer use the database of the server; a server may have none."""

    # Changes of sessions that are not in memory

    def changes(self) -> list[str]:
        """Make a session with two turns; the names of the changes that keep its messages."""
        web = self._booted()
        self._changed = self._new(web)
        for script in self.scripts[:1] * 2:
            self._run(web, self._changed, script)
            self._wait_idle(web, self._changed)
        return list(self.changing)

    def kept(self, change: str) -> dict[str, Any]:
        """Push the session out of memory, show it without its messages, and change it.

        Says whether the change was accepted, whether the session has the same messages afterwards
        and whether a copy has them, if the change makes one.
        """
        web, sid = Web(self._server.boot()["port"], PATIENCE_S), self._changed
        whole = f"/api/session?session_id={sid}"
        before = _texts(web.get(whole))
        for _ in range(OTHERS):
            self._run(web, self._new(web), f"{Tokens(1).directive}")
        for path in ("/api/session/status?session_id={id}", *self.reads):
            with suppress(NotReachedError, TargetLostError):
                web.status(path.format(id=sid))
        path, body = CHANGES[change]
        status, answer = web.ask("POST", path, {"session_id": sid, **body})
        made = answer.get("session", answer) if isinstance(answer, dict) else {}
        copy = made.get("session_id", sid) if isinstance(made, dict) else sid
        is_same = _texts(web.get(whole)) == before
        has_copy = copy == sid or _texts(web.get(f"/api/session?session_id={copy}")) == before
        return {"status": status, "same": is_same, "copied": has_copy}

    # Locks

    def lock(self) -> list[str]:
        """Send several requests while the lock of their session is held; their names."""
        web = self._booted()
        session = self._new(web)
        run = self._start(web, session, f"{Tokens(1).directive}")
        with suppress(StatusError), web.stream(f"/api/chat/stream?stream_id={run}") as events:
            _read_to_the_end(events)
        self._wait_idle(web, session)
        patient = Web(web.port, LOCKED_S)
        with self.holding(session), ThreadPoolExecutor(len(self.calls)) as pool:
            answers = pool.map(lambda name: _is_answered(patient, name, session), self.calls)
            self._answered = dict(zip(self.calls, answers, strict=True))
        return list(self.calls)

    def answered(self, call: str) -> bool:
        """Whether this request was answered while the lock was held."""
        return self._answered[call]

    @contextmanager
    def holding(self, session: str) -> Iterator[None]:  # noqa: ARG002  all sessions
        """Hold the lock of the session, as a slow call would do."""
        with ExitStack() as stack:
            for path in sorted((self._server.state / "sessions" / "_locks").iterdir()):
                file = stack.enter_context(path.open("rb"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # Idle cost, and starts

    def parts(self) -> list[str]:
        """Names of the parts that a server may lack."""
        return [""]

    def idle_without(self, part: str, seconds: float) -> bool:
        """Boot a server without this part, and make no call; whether it is busy all the same."""
        self._server.kill()
        pid = self._server.boot(**self.lacking(part))["pid"]
        time.sleep(BOOTED_S)
        before, began_s = cost_of(pid), time.monotonic()
        time.sleep(seconds)
        used_s = cost_of(pid).cpu_s - before.cpu_s
        return used_s > SHARE_MAX * (time.monotonic() - began_s)

    def lacking(self, part: str) -> Mapping[str, str]:  # noqa: ARG002  it has every part
        """The settings of a server without this part."""
        return {}

    def starters(self) -> list[str]:
        """Names of the functions that start background threads, as far as they can be called."""
        return []

    def started_at_once(self, starter: str) -> int:  # noqa: ARG002  there is none
        """Call it by several threads at once; how many threads were started too many."""
        return 0

    # Helpers

    def _booted(self) -> Web:
        self._server.kill()
        settings = {**self.settings, **self.lacking("")}
        return Web(self._server.boot(**settings)["port"], PATIENCE_S)

    @staticmethod
    def _new(web: Web) -> str:
        return str(web.post("/api/session/new")["session"]["session_id"])

    def _start(self, web: Web, session: str, message: str) -> str:
        started = web.post("/api/chat/start", session_id=session, message=message)
        return str(started["stream_id"])

    @staticmethod
    def _wait_idle(web: Web, session: str) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        path = f"/api/session/status?session_id={session}"
        while web.get(path)["agent_running"] and time.monotonic() < ends_at:
            time.sleep(POLL_S)

    def close(self) -> None:
        """Kill the server."""
        self._server.close()


def _read_to_the_end(events: Iterator[Event]) -> None:
    """Read up to the terminal event; whether the server closes the stream is not asked here."""
    for event in events:
        if event.name in TERMINAL:
            return


def _texts(answer: Any) -> list[tuple[str, str]]:
    """Role and text of each message of a session."""
    messages = answer["session"]["messages"]
    return [(message["role"], str(message["content"])) for message in messages]


def _is_answered(web: Web, name: str, session: str) -> bool:
    """Whether the request gets an answer of any status in time."""
    path, body = CHANGES[name]
    method, _, path = path.rpartition(" ")
    try:
        if method:
            web.ask(method, path.format(id=session))
        else:
            web.ask("POST", path, {"session_id": session, **body})
    except TargetLostError:
        return False
    return True
