"""Terminals of a hermes-webui server: what they show, how they end, and what is left of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from harness.core.errors import TargetLostError
from harness.engine.http import Event, NotReachedError, StatusError, Web
from harness.processes.waiting import came_true
from harness.targets.server.probe import ask_probe
from harness.targets.server.turns import reading

PATH = "/api/terminal/start"
ENDED = ("terminal_closed", "terminal_error")
COUNT = 3  # terminals of each kind; less than that may be a part that began once
PATIENCE_S = 20.0
LACKING_S = 4.0
CLOSING_S = 2.5
ENDINGS = {  # how a terminal ends, by kind: what is typed, and which call is made
    "a shell that exits": ("exit\n", ""),
    "a terminal that is closed": ("", "/api/terminal/close"),
    "a shell that was left": ("exit\n", "leave"),
    "two readers of a terminal": ("", "/api/terminal/close"),
}
BOTH = "two readers"


@dataclass
class Terminal:
    """One terminal, and what its readers saw."""

    kind: str
    session: str
    word: str
    events: list[Event] = field(default_factory=list)
    others: list[Event] = field(default_factory=list)  # what another reader saw
    is_closed: bool = False


class Terminals:
    """The terminals of one server, whose folder has a probe."""

    def __init__(self, web: Web, pid: int, state: Any, word: Callable[[], str]) -> None:
        """Open none yet."""
        self._web = web
        self._pid, self._state, self._word = pid, state, word
        self._patience_s = PATIENCE_S

    def facts(self) -> Mapping[str, str]:
        """Let terminals of each kind end; what differs from what must be, by name."""
        self._use("a terminal that is closed")  # for parts that begin once
        facts: dict[str, str] = {}
        for kind in ENDINGS:
            before = self._held()
            try:
                for _ in range(COUNT):
                    terminal = self._use(kind)
                    facts[f"{kind}: shown"] = self._unshown(terminal)
                    facts[f"{kind}: ends"] = self._unended(terminal)
            except StatusError as error:
                facts[f"{kind}: shown"] = f"status {error.status}: {error.request}"
            facts[f"{kind}: released"] = self._more_than(before)
        return facts

    def _use(self, kind: str) -> Terminal:
        """Start a terminal, read what it prints, and end it; a reader may leave before that."""
        session = self._web.post("/api/session/new")["session"]["session_id"]
        terminal, (typed, call) = Terminal(kind, session, self._word()), ENDINGS[kind]
        self._web.post(PATH, session_id=session, rows=24, cols=80)
        leaves = threading.Event()
        with (
            reading(lambda: self._read(terminal, leaves if call == "leave" else None)),
            reading(lambda: self._read_too(terminal, leaves)),
        ):
            self._type(terminal, f"echo {terminal.word[:2]}''{terminal.word[2:]}\n")
            came_true(lambda: not self._lacking(terminal), self._patience_s)
            leaves.set()
            if not call:
                self._type(terminal, typed)
            elif call != "leave":
                self._web.post(call, session_id=session)
        if call == "leave":
            self._type(terminal, typed)
        return terminal

    def _type(self, terminal: Terminal, text: str) -> None:
        self._web.post("/api/terminal/input", session_id=terminal.session, data=text)

    def _read(self, terminal: Terminal, leaves: threading.Event | None) -> None:
        """Read until the stream closes, or until the reader leaves."""
        web = Web(self._web.port, self._patience_s, last=ENDED, closing_s=CLOSING_S)
        path = f"/api/terminal/output?session_id={terminal.session}"
        with suppress(TimeoutError, TargetLostError, StatusError, NotReachedError):
            with web.stream(path, comments=True) as events:
                for event in events:
                    terminal.events += [event] * bool(event.name)
                    if leaves is not None and leaves.is_set():
                        return
            terminal.is_closed = True

    def _read_too(self, terminal: Terminal, leaves: threading.Event) -> None:
        """Read the same terminal at another place, until the word was shown."""
        if BOTH not in terminal.kind:
            return
        path = f"/api/terminal/output?session_id={terminal.session}"
        with (
            suppress(TimeoutError, TargetLostError, StatusError, NotReachedError),
            Web(self._web.port, self._patience_s).stream(path, comments=True) as events,
        ):
            for event in events:
                terminal.others += [event] * bool(event.name)
                if leaves.is_set() or terminal.word in _text(terminal.others):
                    return

    def _lacking(self, terminal: Terminal) -> int:
        """How many of its readers have not seen its word."""
        reads = [terminal.events, terminal.others][: 1 + (BOTH in terminal.kind)]
        return sum(terminal.word not in _text(events) for events in reads)

    def _unshown(self, terminal: Terminal) -> str:
        lacking = self._lacking(terminal)
        if not lacking:
            return ""
        self._patience_s = LACKING_S
        return f"lost text, for {lacking}: a terminal shows what is typed"

    def _unended(self, terminal: Terminal) -> str:
        if ENDINGS[terminal.kind][1] == "leave":
            return ""
        if not terminal.is_closed:
            self._patience_s = LACKING_S
            return "it stays open: its shell is over"
        return "" if any(event.name in ENDED for event in terminal.events) else "no end: it closed"

    def _held(self) -> dict[str, int]:
        """What the server's process holds."""
        process = ask_probe(self._state, "process")
        children = psutil.Process(self._pid).children(recursive=True)
        return {
            "threads": process["threads"],
            "descriptors": process["fds"],
            "processes": len(children),
        }

    def _more_than(self, before: Mapping[str, int]) -> str:
        """What does not come back to what it was, by as many as there were terminals."""
        more: list[str] = []

        def is_back() -> bool:
            now = self._held()
            more[:] = [name for name, count in now.items() if count - before[name] >= COUNT]
            return not more

        if came_true(is_back, self._patience_s):
            return ""
        self._patience_s = LACKING_S
        return f"{more[0]} stay: every terminal is over"


def _text(events: list[Event]) -> str:
    """All that was printed."""
    return "".join(
        str(event.data.get("text") or event.data.get("data") or "")
        for event in [*events]
        if isinstance(event.data, dict)
    )
