"""Background processes of turns, and the durable events that report how each one ended.

The registry writes a durable row before a process begins. When the process ends, the registry
replaces that row by its completion in one step, and the completion stays until it is marked as
consumed. So an event that is in the registry and not consumed is still to be delivered, and no
other event ever is. All deliverers share that one marker.

Each process runs below a small shell that writes the exit code to a file, and prints into another
file, so it outlives its host. A registry that opens after a kill reads those files, or waits for a
process that still runs, or reports the process as lost. One watcher thread waits for the ends of
all processes, reaps them, and looks from time to time at what they printed.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from reference_impl.agents import identity, output_file, process_table
from reference_impl.agents.output_file import OutputFile
from reference_impl.agents.watches import Match, Watches
from reference_impl.storage import files
from reference_impl.storage.durable_map import DurableMap

RUNNING_MAX = 256
FINISHED_MAX = 64
OUTPUT_CHARS_MAX = 4000
COMMAND_BYTES_MAX = 32_768
LOOK_FIRST_S = 0.02  # between two looks at watched output; it doubles while nothing is new
LOOK_LAST_S = 0.5
LOOK_UNWATCHED_S = 1.0  # nothing is searched, but the disk is given back
PLATFORM = "webui"

_ENVIRONMENT = "HERMES_SESSION_"
_SHELL = "/bin/sh"
_WRAPPER = """cd -- "$3" || exit 126
/bin/sh -c "$1"
code=$?
echo "$code" > "$2.new" && mv -- "$2.new" "$2"
exit "$code"
"""

log = logging.getLogger(__name__)


class SpawnRefusedError(Exception):
    """The process cannot be started now; nothing was started."""


class Kind(StrEnum):
    """What an event reports."""

    COMPLETION = "completion"
    WATCH_MATCH = "watch_match"


@dataclass(frozen=True, slots=True)
class Event:
    """One report about a process, to be delivered once.

    `owner` is the session whose turn started it, if a turn did; `session_key` is another key that
    the caller gave to find the session. A completion without an exit code is a loss: the host was
    killed and the process is gone. `suppressed` counts matches that were not reported.
    """

    number: int
    event_id: str
    kind: Kind
    process_id: str
    owner: str | None
    session_key: str
    command: str
    at: float
    exit_code: int | None = None
    output: str = ""
    pattern: str = ""
    suppressed: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended."""

    process_id: str
    owner: str | None
    command: str
    exit_code: int | None
    ended_at: float


@dataclass(eq=False, slots=True)
class _Running:
    """A process that is not known to have ended."""

    process_id: str
    owner: str | None
    session_key: str
    command: str
    is_promised: bool
    watches: Watches
    pid: int = 0
    is_child: bool = True
    is_killed: bool = False  # by this host
    end_fd: int = -1
    output: OutputFile | None = None

    def row(self) -> dict[str, Any]:
        """The durable row from which the next host adopts the process."""
        return {
            "kind": "running",
            "process_id": self.process_id,
            "owner": self.owner,
            "session_key": self.session_key,
            "command": self.command,
            "is_promised": self.is_promised,
            **self.watches.row(),
        }

    @property
    def is_kept(self) -> bool:
        """Whether anything of it is reported, so that its row and files outlive the host."""
        return self.is_promised or bool(self.watches.patterns)


class ProcessRegistry:
    """The background processes of one host, and their events that are not consumed."""

    def __init__(self, folder: files.StrPath, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create the folder; adopt or report the processes of the previous host.

        Raises OSError.
        """
        self._folder = files.absolute(folder)
        files.make_folder(self._folder)
        self._clock = clock
        self._map = DurableMap(os.path.join(self._folder, "ledger.jsonl"))
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._finished: deque[Finished] = deque(maxlen=FINISHED_MAX)
        self._pending: dict[str, Event] = {}
        self._completions: deque[Event] = deque()
        self._numbers = 0
        self._listener: Callable[[], object] = lambda: None
        self._index: Callable[[str, str], object] = lambda _key, _session: None
        self._selector = selectors.DefaultSelector()
        self._wake_pipe = os.pipe()
        self._selector.register(self._wake_pipe[0], selectors.EVENT_READ)
        self._watch: threading.Thread | None = None
        self._outputs: dict[str, _Running] = {}  # those that print into a file
        self._look_s = LOOK_FIRST_S
        self._is_closed = False
        self._recover()

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {
            "processes_running": len(self._running),
            "processes_finished": len(self._finished),
            "process_events_pending": len(self._pending),
            "process_completion_queue": len(self._completions),
            "process_ledger": len(self._map),
        }

    # Starting and ending

    def spawn(
        self,
        command: str,
        *,
        notify_on_complete: bool = True,
        watches: Sequence[str] = (),
        session_key: str = "",
        cwd: str | None = None,
    ) -> str:
        """Start a shell command for the current turn's session and return the process id.

        With `notify_on_complete` its end is reported even if this host is killed right now. Each of
        `watches` is a text; output lines that contain one are reported too, at a limited rate. The
        process finds its session in its environment (HERMES_SESSION_ID, _KEY, _PLATFORM, _CHAT_ID).
        Raises SpawnRefusedError, or OSError where the disk or the system refuses.
        """
        _check_is_command(command)
        turn = identity.current()
        running = _Running(
            process_id=f"proc_{uuid.uuid4().hex[:12]}",
            owner=turn.session_id if turn is not None else None,
            session_key=session_key,
            command=command,
            is_promised=notify_on_complete,
            watches=Watches(tuple(watches)),
        )
        with self._lock:
            if self._is_closed or len(self._running) >= RUNNING_MAX:
                reason = "closed" if self._is_closed else f"at {RUNNING_MAX} processes"
                raise SpawnRefusedError(f"the process registry is {reason}")
            self._running[running.process_id] = running
        try:
            if running.is_kept:
                running.output = OutputFile(self._output(running))
                self._map.put(running.process_id, running.row())
            self._bind(running)
            self._start(running, cwd or ".")
        except BaseException:
            with self._lock:
                del self._running[running.process_id]
            with suppress(OSError):  # otherwise the next host reports a loss
                self._map.drop(running.process_id)
            _close(running)
            output_file.remove(self._output(running))
            raise
        self._listen_to(running)
        return running.process_id

    def _start(self, running: _Running, cwd: str) -> None:
        output = self._output(running) if running.is_kept else os.devnull
        running.pid = os.posix_spawn(
            _SHELL,
            [_SHELL, "-c", _WRAPPER, "sh", running.command, self._exit(running), cwd],
            _environment(running),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE],
        )
        try:
            running.end_fd = os.pidfd_open(running.pid)
        except OSError:
            os.killpg(running.pid, signal.SIGKILL)
            os.waitpid(running.pid, 0)
            raise

    def _bind(self, running: _Running) -> None:
        """Let processes that lost their turn find its session by its key."""
        if running.owner is not None and running.session_key:
            self._index(running.session_key, running.owner)

    def _listen_to(self, running: _Running) -> None:
        with self._lock:
            self._selector.register(running.end_fd, selectors.EVENT_READ, running)
            if running.output is not None:
                self._outputs[running.process_id] = running
                self._look_s = LOOK_FIRST_S
            if self._watch is None:
                self._watch = threading.Thread(
                    target=self._watch_processes, name="watch", daemon=True
                )
                self._watch.start()
            else:
                os.write(self._wake_pipe[1], b".")  # it may look at longer intervals

    def kill(self, process_id: str) -> bool:
        """Kill a process group; returns whether it was running. Its end is reported."""
        with self._lock:
            running = self._running.get(process_id)
            if running is None or not running.pid:
                return False
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
                running.is_killed = True
            return True

    def running(self, owner: str | None = None) -> tuple[str, ...]:
        """Ids of the processes, or of a session's, that are not known to have ended."""
        with self._lock:
            return tuple(
                running.process_id
                for running in self._running.values()
                if owner is None or owner in (running.owner, running.session_key)
            )

    def finished(self) -> tuple[Finished, ...]:
        """The latest processes that ended, oldest first."""
        with self._lock:
            return tuple(self._finished)

    def close(self) -> None:
        """Stop watching. Processes keep running, and the next host reports how they end."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            watch = self._watch
        os.write(self._wake_pipe[1], b".")
        if watch is not None:
            watch.join()
        self._selector.close()
        for running in self._running.values():
            if running.watches.patterns:
                with suppress(OSError):  # then the next host reads again what was read
                    self._map.put(running.process_id, running.row())
            _close(running)
        for fd in self._wake_pipe:
            os.close(fd)
        self._map.close()

    # Events

    def listen(self, listener: Callable[[], object]) -> None:
        """Call `listener` when a process ends or an event can be taken; it must be quick."""
        self._listener = listener

    def bind(self, index: Callable[[str, str], object]) -> None:
        """Call `index` with the session key and the session of each process that a turn starts.

        Processes of the previous host are bound at once. It must be quick.
        """
        self._index = index
        with self._lock:
            known = tuple(self._running.values())
        for running in known:
            self._bind(running)

    def take(self) -> Event | None:
        """Return the next event that was not taken yet, in order of occurrence; None if none.

        Taking is not consuming: after a restart, events that were not consumed can be taken again.
        """
        with suppress(IndexError):
            return self._completions.popleft()
        return None

    def is_consumed(self, event_id: str) -> bool:
        """Whether the event must not be delivered: it was delivered, or never existed."""
        return event_id not in self._pending

    def mark_consumed(self, event_id: str) -> None:
        """Mark the event durably as delivered. Raises OSError; then it is still to be delivered."""
        self._map.drop(event_id)
        with self._lock:
            self._pending.pop(event_id, None)

    def _emit(self, event: Event, row: Mapping[str, Any] | None = None) -> bool:
        """Store and publish an event, and the process's new row; returns whether it is durable.

        If not, this host still delivers it. The row of the running process stays, and so do the
        files with its exit code and output, so the next host reports the same completion.
        """
        is_durable = True
        values = {event.event_id: asdict(event)}
        try:
            self._map.change(values if row is None else {**values, event.process_id: row})
        except OSError as error:
            is_durable = False
            log.error("%s is in memory only: %s", event.event_id, error)  # noqa: TRY400 - known
        with self._lock:
            self._pending[event.event_id] = event
            self._completions.append(event)
        self._listener()
        return is_durable

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # The watcher thread

    def _watch_processes(self) -> None:
        while not self._is_closed:
            for key, _ in self._selector.select(self._pause_s()):
                if key.data is None:
                    os.read(self._wake_pipe[0], 4096)
                else:
                    self._guarded(self._end, key.data, key.fd)
            self._look()

    def _guarded(self, act: Callable[[_Running], object], running: _Running, fd: int) -> None:
        try:
            act(running)
        except Exception:
            log.exception("%s cannot be watched", running.process_id)
            with suppress(KeyError):
                self._selector.unregister(fd)

    def _pause_s(self) -> float | None:
        """How long to wait until the outputs are looked at; None if there are none."""
        with self._lock:
            if not self._outputs:
                return None
            is_watched = any(running.watches.patterns for running in self._outputs.values())
            return self._look_s if is_watched else LOOK_UNWATCHED_S

    def _look(self) -> None:
        """Search what was printed since the last look, and give back the disk."""
        with self._lock:
            outputs = tuple(self._outputs.values())
        is_new = False
        for running in outputs:
            try:
                is_new |= self._search_new(running)
            except OSError:
                log.exception("%s: its output cannot be read", running.process_id)
                self._outputs.pop(running.process_id, None)
        self._look_s = LOOK_FIRST_S if is_new else min(2 * self._look_s, LOOK_LAST_S)

    def _search_new(self, running: _Running) -> bool:
        """Search a part of the new output; returns whether there was any."""
        output = running.output
        assert output is not None
        if not running.watches.patterns:
            output.free(output.size())
            return False
        position = output.position
        data = output.read_new()
        for match in running.watches.search(data, position, self._clock()):
            self._emit_match(running, match)
        return bool(data)

    def _emit_match(self, running: _Running, match: Match) -> None:
        event = self._event(
            running,
            Kind.WATCH_MATCH,
            event_id=f"{running.process_id}#{match.number}",
            output=match.line[-OUTPUT_CHARS_MAX:],
            pattern=match.pattern,
            suppressed=match.suppressed,
        )
        self._emit(event, running.row())

    def _end(self, running: _Running) -> None:
        output = self._last_output(running)
        with self._lock:  # from here on the system may reuse the pid
            exit_code = self._exit_code(running)
            del self._running[running.process_id]
            self._outputs.pop(running.process_id, None)
        self._selector.unregister(running.end_fd)
        _close(running)
        self._conclude(running, exit_code, output)

    def _last_output(self, running: _Running) -> str:
        """Search the rest; returns the end of the output. A descendant may print on."""
        if running.output is None:
            return ""
        try:
            size = running.output.size()
            while running.output.position < size and self._search_new(running):
                pass
            for match in running.watches.finish(self._clock()):
                self._emit_match(running, match)
            return running.output.tail().decode(errors="replace")[-OUTPUT_CHARS_MAX:]
        except OSError:
            log.exception("%s: its output cannot be read", running.process_id)
            return ""

    def _exit_code(self, running: _Running) -> int | None:
        if running.is_child:
            return os.waitstatus_to_exitcode(os.waitpid(running.pid, 0)[1])
        code = self._left_exit_code(running)
        return -signal.SIGKILL if code is None and running.is_killed else code

    def _conclude(self, running: _Running, exit_code: int | None, output: str) -> None:
        with self._lock:
            self._finished.append(
                Finished(
                    running.process_id, running.owner, running.command, exit_code, self._clock()
                )
            )
        is_reported = True
        if running.is_promised:
            is_reported = self._emit(
                self._event(
                    running,
                    Kind.COMPLETION,
                    event_id=running.process_id,
                    exit_code=exit_code,
                    output=output,
                    suppressed=running.watches.suppressed,
                )
            )
        else:
            with suppress(OSError):  # then the next host finds it ended, and drops the row
                self._map.drop(running.process_id)
            self._listener()
        if is_reported:
            with suppress(OSError):
                files.remove(self._exit(running))
                files.remove(self._output(running))

    def _event(self, running: _Running, kind: Kind, **what: Any) -> Event:
        return Event(
            number=self._number(),
            kind=kind,
            process_id=running.process_id,
            owner=running.owner,
            session_key=running.session_key,
            command=running.command,
            at=self._clock(),
            **what,
        )

    # After a restart

    def _recover(self) -> None:
        found: dict[str, _Running] = {}
        leftover: list[Event] = []
        for value in self._map.copy().values():
            if value["kind"] == "running":
                found[value["process_id"]] = _from_row(value)
            else:
                leftover.append(Event(**{**value, "kind": Kind(value["kind"])}))
        leftover.sort(key=lambda event: event.number)
        self._numbers = leftover[-1].number if leftover else 0
        self._pending = {event.event_id: event for event in leftover}
        self._completions.extend(leftover)
        for event in leftover:
            if event.kind is Kind.WATCH_MATCH and (running := found.get(event.process_id)):
                running.watches.was_reported(int(event.event_id.rpartition("#")[2]), event.at)
        pids = process_table.pids({os.fsencode(self._exit(running)) for running in found.values()})
        for running in found.values():
            running.pid = pids.get(os.fsencode(self._exit(running)), 0)
            self._adopt(running)
        self._sweep(found)

    def _adopt(self, running: _Running) -> None:
        """Watch a process of the previous host, or report how it ended meanwhile."""
        running.is_child = False
        running.output = OutputFile(self._output(running), running.watches.line_at)
        if running.pid:
            with suppress(ProcessLookupError):
                running.end_fd = os.pidfd_open(running.pid)
        if running.end_fd < 0:
            output = self._last_output(running)
            _close(running)
            self._conclude(running, self._left_exit_code(running), output)
        else:
            self._running[running.process_id] = running
            self._listen_to(running)
            log.info("process %s: adopted from the previous host", running.process_id)

    def _left_exit_code(self, running: _Running) -> int | None:
        """The exit code that the shell wrote; None if it wrote none."""
        try:
            return int(files.read_whole(self._exit(running)))
        except (OSError, ValueError):
            return None

    def _sweep(self, awaited: Collection[str]) -> None:
        """Remove exit and output files of processes that no row waits for."""
        for name in files.names(self._folder):
            if name.startswith("proc_") and name.partition(".")[0] not in awaited:
                files.remove(os.path.join(self._folder, name))

    def _exit(self, running: _Running) -> str:
        return os.path.join(self._folder, f"{running.process_id}.exit")

    def _output(self, running: _Running) -> str:
        return os.path.join(self._folder, f"{running.process_id}.out")


def _environment(running: _Running) -> dict[str, str]:
    """The host's environment, and the session of the process; none of another session."""
    names = {
        "ID": running.owner,
        "KEY": running.session_key or running.owner,
        "PLATFORM": PLATFORM,
        "CHAT_ID": running.owner,
    }
    others = {
        name: value for name, value in os.environ.items() if not name.startswith(_ENVIRONMENT)
    }
    own = {f"{_ENVIRONMENT}{name}": value for name, value in names.items() if value}
    return {**others, **own}


def _check_is_command(command: str) -> None:
    try:
        encoded = os.fsencode(command)
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or b"\0" in encoded or len(encoded) > COMMAND_BYTES_MAX:
        raise SpawnRefusedError(f"{command[:40]!r} is no command: empty, too long, or has a NUL")


def _from_row(row: Mapping[str, Any]) -> _Running:
    names = ("process_id", "owner", "session_key", "command")
    return _Running(
        **{name: row[name] for name in names},
        is_promised=row.get("is_promised", True),
        watches=Watches.from_row(row),
    )


def _close(running: _Running) -> None:
    if running.end_fd >= 0:
        os.close(running.end_fd)
    running.end_fd = -1  # the system reuses the number
    if running.output is not None:
        running.output.close()
