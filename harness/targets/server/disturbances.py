"""The *disturbed* ability: a server whose turns, readers and requests meet something in their way.

A change comes while a turn is under way, two requests come at once, another process holds the
database, a memory provider does not answer, a reader follows an idle session, and the queue of
ended processes holds what is no end. Each call reports facts. One server serves them all; each
situation has sessions of its own. Whether a situation was reached in time changes no right answer.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from threading import Timer
from typing import Any

from harness.contract.agent_script import Process, ReplyEnd, Tokens, WakeupPrompt, sleep
from harness.contract.clients.message_format import is_wakeup
from harness.core.errors import TargetLostError
from harness.engine.http import PATIENCE_S, Event, NotReachedError, StatusError, Web
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter
from harness.targets.server.memory_boundaries import Provider
from harness.targets.server.upkeep import CHANGES, TERMINAL

POLL_S = 0.01
TOKEN = f"{Tokens(1).directive}"
HELD = f"{TOKEN}{sleep(900)}"  # until it is cancelled
GOES_ON = f"{Tokens(2).directive}{sleep(0.4)}{TOKEN}"  # while a change is made
LOCKED_S = 1.2  # far below the patience that any writer states
LEARNS_S = 8.0  # for a reader of an idle session, whose server may look twice a heartbeat
ANSWERED_S = 10.0  # for a request beside a provider that does not answer
COMMITS_S = 4.0  # for the first request to the provider; an older server may send none
INFORMING = ("session_snapshot", "server_turn_started", "session-updated", "token", "done")
UNANSWERED = 0  # in place of a status
OK, NOT_FOUND, CONFLICT = 200, 404, 409


class DisturbancesAdapter:
    """One server, its database and its memory provider."""

    keeping: tuple[str, ...] = ("rename",)  # changes that keep all messages
    cutting: tuple[str, ...] = ("truncate", "undo", "clear")
    beside_lock: tuple[str, ...] = ("read", "status", "list", "health", "rename")
    beside_commit: tuple[str, ...] = ("read", "status", "list", "health", "rename", "send")
    opened: tuple[str, ...] = ("head",)  # when the turn under a reader begins
    noises: tuple[str, ...] = ()  # kinds of events that are no end of a process
    database = Path("state/state.db")
    settings: Mapping[str, str] = {}

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._folder = folder
        self._provider = Provider()
        self._server = ServerAdapter(folder, launch)
        self._locked: dict[str, Any] = {}
        self._committing: dict[str, int] = {}

    # A change while a turn is under way

    def changes(self) -> list[str]:
        """Names of the changes that may come while a turn is under way."""
        return [*self.keeping, *self.cutting]

    def interfere(self, change: str) -> dict[str, Any]:
        """Make the change while the second turn of a session is under way; what is left of both.

        Says how often each message is there, whether the second reply is whole, and whether the
        agent of the second turn lost its database.
        """
        web, session = self._web, self._new()
        self._run(session, f"one {TOKEN}")
        run = self._start(session, f"two {GOES_ON}")
        with self._read(run) as events:
            next((event for event in events if event.name == "token"), None)
            path, body = CHANGES[change]
            status = _status(lambda: web.ask("POST", path, {"session_id": session, **body})[0])
            _to_the_end(events)
        self._wait_idle(session)
        counts, whole = self._turns(session, "one", "two")
        return {
            "status": status,
            "keeps": change in self.keeping,
            "one": counts["one"],
            "two": counts["two"],
            "whole": whole["two"],
            "torn": session in self.torn(),
        }

    def torn(self) -> set[str]:
        """Sessions whose agent lost its database under a turn; a server may not tell."""
        return set()

    # A child that outlives its turn

    def parents(self) -> list[str]:
        """What happens to a session while a child of its turn is at work; none without children."""
        return []

    def outlived(self, by: str) -> bool:
        """Whether the child of a turn that is over could write into the database."""
        raise NotImplementedError(by)

    # Two requests at once

    def raced(self, kind: str) -> dict[str, Any]:
        """Send two messages at once, or cancel a turn that has just begun; then one more message.

        Says how many turns began, whether each of their messages is there once and no other, and
        whether the last reply is whole.
        """
        session = self._new()
        is_cancel = kind == "cancel"
        words, script = (("first",), GOES_ON) if is_cancel else (("first", "second"), HELD)
        with ThreadPoolExecutor(2) as pool:
            answers = pool.map(lambda word: self._begun(session, f"{word} {script}"), words)
            runs = {word: run for word, run in zip(words, answers, strict=True) if run}
        for run in runs.values():
            if not is_cancel:  # a cancel before its agent has begun may not reach it
                with self._read(run) as events:
                    next((event for event in events if event.name == "token"), None)
            self._web.ask("GET", f"/api/chat/cancel?stream_id={run}")
        self._wait_idle(session)
        status = OK
        try:
            self._run(session, f"last {TOKEN}")
        except StatusError as error:
            status = error.status
        counts, whole = self._turns(session, "first", "second", "last")
        wanted = {"first": 0, "second": 0, **dict.fromkeys([*runs, "last"], 1)}
        return {
            "begun": len(runs),
            "status": status,
            "once": counts == wanted,
            "whole": whole["last"],
        }

    # A locked database

    def lock_database(self) -> list[str]:
        """Hold the write lock of the database for a while, and use the server; what was asked.

        Two turns begin meanwhile, one of them the first of its session, and two more afterwards.
        """
        known, new, other = self._new(), self._new(), self._new()
        self._run(known, f"one {TOKEN}")
        has_rows = bool(self._rows(known))
        sessions = {"a later": known, "a first": new}
        with closing(self._connection()) as connection, ThreadPoolExecutor(16) as pool:
            connection.execute("BEGIN IMMEDIATE")
            free = Timer(LOCKED_S, connection.rollback)
            free.start()
            turns = {
                which: pool.submit(self._sent, sid, f"two {TOKEN}")
                for which, sid in sessions.items()
            }
            answers = {
                name: pool.submit(self._asked, name, other, PATIENCE_S) for name in self.beside_lock
            }
            self._locked = {name: {"status": answer.result()} for name, answer in answers.items()}
            statuses = {which: turn.result() for which, turn in turns.items()}
            free.join()
        for which, session in sessions.items():
            self._wait_idle(session)
            self._run(session, f"three {TOKEN}")
            counts, whole = self._turns(session, "two", "three")
            rows = self._rows(session)
            for turn, word, status in (
                ("turn", "two", statuses[which]),
                ("next turn", "three", OK),
            ):
                is_written = not has_rows or sum(row.startswith(word) for row in rows) == 1
                is_kept = counts[word] == 1 and whole[word] and is_written
                name = f"{which} {turn}" if word == "two" else f"the turn behind {which} turn"
                self._locked[name] = {"status": status, "kept": is_kept or status != OK}
        return list(self._locked)

    def beside_locked(self, name: str) -> dict[str, Any]:
        """What this request, or turn, met while the database was locked."""
        found: dict[str, Any] = self._locked[name]
        return found

    # A memory provider that does not answer

    def commit(self) -> list[str]:
        """Leave a session while the memory provider does not answer; what is asked meanwhile."""
        session, other = self._new(), self._new()
        self._run(session, f"one {TOKEN}")
        self._run(other, f"one {TOKEN}")
        self._provider.answers.clear()
        try:
            with ThreadPoolExecutor(len(self.beside_commit) + 1) as pool:
                leave = Web(self._web.port, PATIENCE_S)
                body = {"prev_session_id": session}
                left = pool.submit(_status, lambda: leave.ask("POST", "/api/session/new", body)[0])
                self._provider.wait(1, COMMITS_S)
                answers = {
                    f"{name} of {which}": pool.submit(self._asked, name, sid, ANSWERED_S)
                    for which, sid in (("its session", session), ("another session", other))
                    for name in self.beside_commit
                }
                self._committing = {name: answer.result() for name, answer in answers.items()}
                self._provider.answers.set()
                self._committing["new"] = left.result()
        finally:
            self._provider.answers.set()
        return list(self._committing)

    def beside_committing(self, name: str) -> int:
        """The status of this request while the provider did not answer; 0 for no answer."""
        return self._committing[name]

    # Readers of an idle session

    def readers(self) -> list[str]:
        """What a reader of an idle session has received when a turn begins."""
        return [*self.opened]

    def followed(self, opened: str) -> bool:
        """Run a short turn under a reader of an idle session; whether the reader learns of it.

        The turn begins as soon as the reader has the head of its response, or its first comment.
        A server without this stream cannot be asked.
        """
        session = self._new()
        self._run(session, f"one {TOKEN}")
        web = Web(self._web.port, LEARNS_S)
        has_learnt = False
        try:
            with web.stream(f"/api/sessions/{session}/events", comments=True) as events:
                if opened == "quiet":
                    next((event for event in events if not event.name), None)
                self._start(session, f"two {TOKEN}")
                has_learnt = any(_informs(event) for event in events)
        except StatusError as error:
            return error.status == NOT_FOUND
        except (TargetLostError, TimeoutError):
            return has_learnt
        return has_learnt

    # Events that are no end of a process

    def noise(self) -> list[str]:
        """Names of the kinds of such events."""
        return [*self.noises]

    def woken_beside(self, kind: str) -> list[str]:
        """Queue such an event beside the end of a process; the outputs of all wakeups."""
        session = self._new()
        self._run(session, f"{Process(0, 'before').directive}")
        self._await_woken(session, 1)
        self.make_noise(kind)
        self._run(session, f"{Process(0, 'after').directive}")
        self._await_woken(session, 2)
        return self._woken(session)

    def make_noise(self, kind: str) -> None:
        """Queue an event of this kind."""
        raise NotImplementedError(kind)

    # Helpers

    @property
    def _web(self) -> Web:
        booted = self._server.boot(HERMES_MEMORY_URL=self._provider.url, **self.settings)
        return Web(booted["port"], PATIENCE_S)

    def _new(self) -> str:
        return str(self._web.post("/api/session/new")["session"]["session_id"])

    def _begun(self, session: str, message: str) -> str:
        """Begin a turn; the run, empty where it was refused."""
        body = {"session_id": session, "message": message}
        status, answer = self._web.ask("POST", "/api/chat/start", body)
        return str(answer["stream_id"]) if status == OK else ""

    def _sent(self, session: str, message: str) -> int:
        body = {"session_id": session, "message": message}
        return _status(lambda: self._web.ask("POST", "/api/chat/start", body)[0])

    def _start(self, session: str, message: str) -> str:
        """Begin a turn; the run. Raises StatusError where the session is busy for too long.

        Whether it is admitted at once after a turn that is over, other scenarios ask.
        """
        ends_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                started = self._web.post("/api/chat/start", session_id=session, message=message)
                return str(started["stream_id"])
            except StatusError as error:
                if error.status != CONFLICT or time.monotonic() > ends_at:
                    raise
            time.sleep(POLL_S)

    def _run(self, session: str, message: str) -> None:
        """Run a turn to its end."""
        with self._read(self._start(session, message)) as events:
            _to_the_end(events)
        self._wait_idle(session)

    @contextmanager
    def _read(self, run: str) -> Iterator[Iterator[Event]]:
        """The events of a run; none if its stream is gone or lost."""
        events: Iterator[Event] = iter(())
        with ExitStack() as stack:
            with suppress(StatusError, NotReachedError):
                web = Web(self._web.port, LEARNS_S)
                stream = web.stream(f"/api/chat/stream?stream_id={run}")
                events = stack.enter_context(stream)
            yield _as_far_as_shown(events)

    def _wait_idle(self, session: str) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        path = f"/api/session/status?session_id={session}"
        while self._web.get(path).get("agent_running") and time.monotonic() < ends_at:
            time.sleep(POLL_S)

    def _asked(self, name: str, session: str, within_s: float) -> int:
        path, body = CHANGES[name]
        web = Web(self._web.port, within_s)
        method, _, path = path.rpartition(" ")
        path = path.format(id=session)
        if method:
            return _status(lambda: web.ask(method, path)[0])
        return _status(lambda: web.ask("POST", path, {"session_id": session, **body})[0])

    def _messages(self, session: str) -> list[Mapping[str, Any]]:
        found = self._web.get(f"/api/session?session_id={session}")["session"]["messages"]
        return list(found)

    def _turns(self, session: str, *words: str) -> tuple[dict[str, int], dict[str, bool]]:
        """How often the message that begins with each word is there, and whether its reply ends."""
        counts, whole = dict.fromkeys(words, 0), dict.fromkeys(words, False)
        word = ""
        for message in self._messages(session):
            text = str(message["content"])
            if message["role"] == "user":
                word = text.partition(" ")[0]
                counts[word] = counts.get(word, 0) + 1
            elif message["role"] == "assistant" and ReplyEnd.parse(text) is not None:
                whole[word] = True
        return {name: counts[name] for name in words}, {name: whole[name] for name in words}

    def _woken(self, session: str) -> list[str]:
        texts = [str(row["content"]) for row in self._messages(session) if row["role"] == "user"]
        prompts = [(text, WakeupPrompt.parse(text)) for text in texts if is_wakeup(text)]
        return [text if prompt is None else prompt.output.strip() for text, prompt in prompts]

    def _await_woken(self, session: str, count: int) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while len(self._woken(session)) < count and time.monotonic() < ends_at:
            time.sleep(POLL_S)
        self._wait_idle(session)

    def _connection(self) -> sqlite3.Connection:
        path = self._folder / self.database
        return sqlite3.connect(path, PATIENCE_S, isolation_level=None, check_same_thread=False)

    def _rows(self, session: str) -> list[str]:
        """The texts of the session in the database."""
        if not (self._folder / self.database).exists():
            return []
        with closing(self._connection()) as connection:
            find = "SELECT content FROM messages WHERE session_id = ? ORDER BY id"
            return [str(text) for (text,) in connection.execute(find, (session,))]

    def close(self) -> None:
        """Kill the server, and close the provider."""
        self._provider.answers.set()
        self._server.close()
        self._provider.close()


def _status(ask: Callable[[], int]) -> int:
    try:
        return ask()
    except (TargetLostError, NotReachedError):
        return UNANSWERED


def _as_far_as_shown(events: Iterator[Event]) -> Iterator[Event]:
    """The events until the stream ends in whatever way."""
    with suppress(OSError, HTTPException, ValueError):
        yield from events


def _to_the_end(events: Iterator[Event]) -> None:
    for event in events:
        if event.name in TERMINAL:
            return


def _informs(event: Event) -> bool:
    """Whether an event shows a part of a run, or asks the reader to look again."""
    return event.name in (*TERMINAL, *INFORMING)
