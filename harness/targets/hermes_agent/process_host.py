"""A host of the process registry of the released package, in a process of its own.

Stand-alone, like every adapter that also runs in a process of its own: it imports the standard
library and the package, found on the path with what its modules import. Processes are started by
the package's own terminal tool, in a turn that is bound as its gateway binds one. Of the package
only the clock of the registry is changed, so that rates of reports pass, and the place of its file.
"""

import contextlib
import contextvars
import importlib
import inspect
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PATIENCE_S = 10.0
POLL_S = 0.002
TRIES = 3
OUTPUT_CHARS_MAX = 4000  # of an event, as the harness reads it
REPORTS_MAX = 20  # of the watched lines of one process
PLATFORM = "webui"
KILLED, TERMINATED = -9, -15  # how the harness and the package say that a process was killed
CUT = "\n...(truncated)"
LOGOUT = "logout\n"  # a login shell says so as it ends
NOISE = ("cannot set terminal process group", "no job control in this shell", "tcsetattr: ")
KINDS = {"completion": "completion", "watch_match": "watch_match"}
SETTINGS = "terminal:\n  daemon_term_grace_seconds: 0.2\n"
# An empty command starts a shell that does nothing, and a long one is accepted up to the system's
# limit: so what is no command is something else here.
NO_COMMANDS = {"empty": None, "nul": "a\0b", "long": ":" + " " * 400_000, "no text": "\ud800"}


class ProcessHost:
    """The package's registry, with its files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._clock = _Clock(folder.with_name("clock"))
        self._home = _home(folder)
        self._bundled: dict[str, int] = {}  # lines that were reported with another one
        self._killed: set[str] = set()
        self._reports: Counter[str] = Counter()
        self._module = _module("tools.process_registry")
        self._module.time = self._clock
        self._module.CHECKPOINT_PATH = self._home / "processes.json"
        self._registry = self._module.ProcessRegistry()
        self._module.process_registry = self._registry
        self._registry.recover_from_checkpoint()

    def set_clock(self, now_s: float) -> None:
        """Let it be that time."""
        self._clock.set(now_s)

    def spawn(self, command: str, session: str | None, options: dict[str, Any]) -> str:
        """Start a process in a turn of the session, or outside of turns; returns its id."""
        watches, notify = options["watches"], options["notify_on_complete"]
        started: list[str] = []

        def start() -> None:
            both = notify and watches  # which the tool refuses, and the registry keeps
            started.append(self._started(command, notify, None if both else watches or None))
            if both:
                self._registry.get(started[0]).watch_patterns = list(watches)

        beside = options.get("beside")
        if beside is None:
            _in_a_turn(session, options["session_key"], start)
        else:
            _beside_another(session, beside, start)
        return started[0]

    def spawn_brief(self, command: str, session: str) -> str:
        """Start a process that ends before the call that starts it goes on."""
        spawn_local = self._registry.spawn_local
        started: list[str] = []

        def spawned(*arguments: Any, **options: Any) -> Any:
            process = spawn_local(*arguments, **options)
            self._wait(lambda: process.exited)
            return process

        self._registry.spawn_local = spawned
        try:
            start = lambda: started.append(self._started(command, True, None))  # noqa: E731, FBT003
            _in_a_turn(session, "", start)
        finally:
            del self._registry.spawn_local
        return started[0]

    def _started(self, command: Any, notify: bool, watches: list[str] | None) -> str:  # noqa: FBT001
        """Start a process by the tool. Raises OSError where it refuses."""
        tool = _module("tools.terminal_tool").terminal_tool
        answer = json.loads(
            tool(
                command,
                background=True,
                force=True,
                notify_on_complete=notify,
                watch_patterns=watches,
            )
        )
        if answer.get("error"):
            raise OSError(answer["error"])
        return str(answer["session_id"])

    def refused(self, command: str) -> dict[str, Any]:
        """Try to start a process while the disk refuses every sync, again and again."""
        errors, files = [], []
        for _ in range(TRIES):
            with _refusing_disk():
                errors.append(self._error_of(command))
            self._wait(lambda: not self._running())
            files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
        return {"errors": errors, "files": files[-1] - files[0]}

    def no_command(self, kind: str) -> str:
        """Try to start what is no command; returns the error's type."""
        error = self._error_of(NO_COMMANDS[kind])
        return error if error == "none" else "SpawnRefusedError"

    def _error_of(self, command: Any) -> str:
        try:
            _in_a_turn("s", "", lambda: self._started(command, True, None))  # noqa: FBT003
        except OSError as error:
            return type(error).__name__
        return "none"

    def kill(self, process_id: str) -> bool:
        """Kill the process as one that its caller does not watch; whether it was running."""
        kill = self._registry.kill_process
        known = inspect.signature(kill).parameters
        answer = kill(
            process_id, **({"consume_output": False} if "consume_output" in known else {})
        )
        is_killed = bool(answer["status"] == "killed")
        if is_killed:
            self._killed.add(process_id)
        return is_killed

    def wait_until_printed(self, process_id: str, end: str, patience_s: float = PATIENCE_S) -> bool:
        """Wait until the registry has read all up to that end, if the process has a reader."""

        def is_read() -> bool:
            process = self._registry.get(process_id)
            return process is None or process.detached or process.output_buffer.endswith(end)

        self._wait(is_read, patience_s)
        return bool(is_read())

    def bounded(self, process_id: str, most: int) -> bool:
        """Whether the output takes at most that many bytes."""
        return len(self._registry.get(process_id).output_buffer) <= most

    def wait_until_ended(self, process_id: str) -> None:
        """Wait until the end of the process is an event."""

        def is_ended() -> bool:
            process = self._registry.get(process_id)
            return process is None or process.exited

        self._wait(is_ended)

    def take(self, count: int, running: int) -> list[dict[str, Any]]:
        """Wait for that many events, and one more that must not come; they are consumed.

        No event comes any more once only `running` processes run, and no reader has more to say.
        """
        events: list[Any] = []

        def have_come() -> bool:
            is_quiet = self._running() <= running and not self._is_reading_on()
            events.extend(self._drained())
            return len(events) >= count or is_quiet

        self._wait(have_come)
        return [self._shown(event) for event in events if not self._is_beyond(event)]

    def _is_beyond(self, event: dict[str, Any]) -> bool:
        """Whether it is one watched line more than the harness expects; then it is suppressed.

        The package bounds the rate of such reports, and not their number.
        """
        process_id = event["session_id"]
        self._reports[process_id] += event["type"] == "watch_match"
        is_beyond = event["type"] == "watch_match" and self._reports[process_id] > REPORTS_MAX
        if is_beyond:
            self._bundled[process_id] = self._bundled.get(process_id, 0) + 1
        return is_beyond

    def take_some(self, count: int, running: int) -> dict[str, Any]:
        """Take the first `count` events; an event that is taken is marked, without the disk."""
        events = self._registry.completion_queue

        def have_come() -> bool:
            is_quiet = self._running() <= running and not self._is_reading_on()
            return is_quiet or events.qsize() >= count

        self._wait(have_come)
        taken = [events.get_nowait() for _ in range(min(count, events.qsize()))]
        return {"events": [self._shown(event) for event in taken], "errors": [], "owed": 0}

    def _is_reading_on(self) -> bool:
        """Whether the reader of a process that has ended has not yet reported it."""
        readers = [process._reader_thread for process in self._registry._finished.values()]  # noqa: SLF001
        return any(reader is not None and reader.is_alive() for reader in readers)

    def _drained(self) -> Iterator[Any]:
        """The events that are owed, as the package's own consumers take them."""
        events = self._registry.completion_queue
        while not events.empty():
            event = events.get_nowait()
            is_end = event.get("type") == "completion"
            if not (is_end and self._registry.is_completion_consumed(event["session_id"])):
                yield event

    def _running(self) -> int:
        """The number of processes that run; those that were recovered are looked at."""
        return sum(row["status"] == "running" for row in self._registry.list_sessions())

    def left(self, running: int) -> dict[str, int]:
        """What the registry holds once no more than `running` processes run, and its files."""
        self._wait(lambda: self._running() <= running)
        file = self._home / "processes.json"
        self._wait(lambda: len(_rows(file)) <= running)
        kept = [row for row in _rows(file) if row["notify_on_complete"] or row["watch_patterns"]]
        owed = self._registry.completion_queue.qsize()
        return {
            "running": self._running(),
            "pending": owed,
            "queued": owed,
            "ledger": owed + len(kept),
            "files": len(kept),
        }

    def _wait(self, is_so: Any, patience_s: float = PATIENCE_S) -> None:
        ends_at_s = time.monotonic() + patience_s
        while not is_so() and time.monotonic() < ends_at_s:
            time.sleep(POLL_S)

    def _shown(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event in the words of the harness."""
        process_id = event["session_id"]
        process = self._registry.get(process_id)
        key = event.get("session_key")
        if key is None:  # older releases leave the owner in the registry
            key = "" if process is None else process.session_key
        shown = {
            "kind": KINDS.get(event["type"], event["type"]),
            "key": key,
            "process_id": process_id,
            "command": event["command"],
            "exit_code": event.get("exit_code"),
            "output": event.get("output", ""),
            "pattern": event.get("pattern", ""),
            "suppressed": event.get("suppressed", 0),
        }
        if process is None:
            return shown
        if shown["kind"] == "watch_match":
            lines = shown["output"].split("\n") if not shown["output"].endswith(CUT) else []
            shown["output"] = _line_of(process.output_buffer, lines, shown)
            shown["suppressed"] += self._bundled.pop(process_id, 0)
            self._bundled[process_id] = max(0, len(lines) - 1)
        elif shown["kind"] == "completion":
            shown["output"] = _tail_of(process.output_buffer, shown["output"])
            bundled = self._bundled.pop(process_id, 0)
            shown["suppressed"] = process._watch_suppressed + bundled  # noqa: SLF001
            if process_id in self._killed and shown["exit_code"] == TERMINATED:
                shown["exit_code"] = KILLED
        return shown

    def close(self) -> None:
        """Forget the registry; what runs is ended by the adapter."""


class _Clock(ModuleType):
    """The module `time` as the registry sees it: seconds pass in `set` only."""

    def __init__(self, file: Path) -> None:
        super().__init__("time")
        self._now_s = float(file.read_text()) if file.exists() else 0.0
        self._began_s = time.time() - self._now_s

    def set(self, now_s: float) -> None:
        """Let it be that time."""
        self._now_s = now_s

    def time(self) -> float:
        """Seconds of the epoch."""
        return self._now_s

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _home(folder: Path) -> Path:
    """The package's home in that folder, with settings; the login shell's home is empty."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.yaml").write_text(SETTINGS)
    os.environ["HERMES_HOME"] = str(home)
    (folder / "empty").mkdir(exist_ok=True)
    os.environ["HOME"] = str(folder / "empty")
    return home


def _in_a_turn(session: str | None, key: str, act: Any) -> None:
    """Act in a context of its own, bound to the session as the package's gateway does it."""

    def bound() -> None:
        with _identity(session or "", key or session or ""):
            act()

    contextvars.copy_context().run(bound)


@contextlib.contextmanager
def _identity(session: str, key: str) -> Iterator[None]:
    approval, context = _module("tools.approval"), _module("gateway.session_context")
    known = inspect.signature(context.set_session_vars).parameters
    about = {"session_key": key, "session_id": session, "chat_id": session, "platform": PLATFORM}
    given = {name: value for name, value in about.items() if name in known}
    token = approval.set_current_session_key(key)
    tokens = context.set_session_vars(**given)
    if "session_id" not in known and session and hasattr(context, "set_current_session_id"):
        context.set_current_session_id(session)
    try:
        yield
    finally:
        context.clear_session_vars(tokens)
        approval.reset_current_session_key(token)


def _beside_another(session: str | None, other: str, act: Any) -> None:
    """Act in a turn while a turn of another session, begun after it, goes on."""
    may_begin, has_begun, may_end = threading.Event(), threading.Event(), threading.Event()

    def turn() -> None:
        may_begin.wait(PATIENCE_S)
        has_begun.set()
        may_end.wait(PATIENCE_S)

    thread = threading.Thread(target=_in_a_turn, args=(other, "", turn), daemon=True)

    def both() -> None:
        thread.start()
        may_begin.set()
        has_begun.wait(PATIENCE_S)
        act()

    try:
        _in_a_turn(session, "", both)
    finally:
        may_end.set()
        if thread.is_alive():
            thread.join(PATIENCE_S)


def _rows(file: Path) -> list[dict[str, Any]]:
    """The processes that a killed host leaves to the next one."""
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    return rows


def _tail_of(printed: str, reported: str) -> str:
    """The end of what was printed, if the report is the end of it; else the report."""
    strip_ansi = _module("tools.ansi_strip").strip_ansi
    if not reported or not strip_ansi(printed).endswith(reported):
        return reported
    lines = [line for line in printed.split("\n") if not any(noise in line for noise in NOISE)]
    return "\n".join(lines).removesuffix(LOGOUT)[-OUTPUT_CHARS_MAX:]


def _line_of(printed: str, lines: list[str], event: dict[str, Any]) -> str:
    """The reported line as it was printed; the first one of several."""
    reported = lines[0] if lines else event["output"].removesuffix(CUT)
    for line in printed.split("\n"):
        if event["pattern"] in line and reported in line and (not lines or reported == line):
            return line[-OUTPUT_CHARS_MAX:]
    return reported


@contextlib.contextmanager
def _refusing_disk() -> Iterator[None]:
    """A disk that refuses every sync."""
    sync = os.fsync
    setattr(os, "fsync", _refuse)  # noqa: B010  the package calls it by this name
    try:
        yield
    finally:
        setattr(os, "fsync", sync)  # noqa: B010


def _refuse(_: Any) -> None:
    raise OSError(28, os.strerror(28))


def open_adapter(folder: Path) -> ProcessHost:
    """Open a registry with its files in `folder`."""
    return ProcessHost(folder)
