"""Background processes of turns, and the durable events that report how each one ended.

The registry writes a durable row before a process begins. When the process ends, the registry
replaces that row by its completion in one step, and the completion stays until it is marked as
consumed. So an event that is in the registry and not consumed is still to be delivered, and no
other event ever is. All deliverers share that one marker.

Each process runs below a small shell that writes the exit code to a file. A registry that opens
after a kill reads that file, or waits for a process that still runs, or reports the process as
lost. One watcher thread selects on the pipes of all processes and reaps them.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from reference_impl.agents import identity
from reference_impl.storage import files
from reference_impl.storage.durable_map import DurableMap

RUNNING_MAX = 256
FINISHED_MAX = 64
OUTPUT_CHARS_MAX = 4000
COMMAND_BYTES_MAX = 32_768
WATCH_INTERVAL_S = 15.0
WATCH_EVENTS_MAX = 20  # per process; further matches are suppressed
BIRTH_S = 1.0  # how long to wait until a new process has its arguments

_KERNEL_THREAD = 0x00200000  # a flag in /proc/*/stat
_TAIL_BYTES = 4 * OUTPUT_CHARS_MAX
_LINE_BYTES = 8192
_READ_BYTES = 65_536
_READS_LAST = 16  # after the end: a descendant may write to the pipe without bound
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
    watches: tuple[str, ...] = ()
    pid: int = 0
    is_child: bool = True
    end_fd: int = -1
    output_fd: int = -1
    tail: bytearray = field(default_factory=bytearray)
    line: bytearray = field(default_factory=bytearray)
    matches: int = 0
    matched_at_s: float | None = None
    suppressed: int = 0

    def promise(self) -> dict[str, Any]:
        """The durable row from which the next host adopts the process."""
        return {
            "kind": "running",
            "process_id": self.process_id,
            "owner": self.owner,
            "session_key": self.session_key,
            "command": self.command,
        }

    def output(self) -> str:
        return self.tail.decode(errors="replace")[-OUTPUT_CHARS_MAX:]


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
        self._selector = selectors.DefaultSelector()
        self._wake_pipe = os.pipe()
        self._selector.register(self._wake_pipe[0], selectors.EVENT_READ)
        self._watch: threading.Thread | None = None
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
        `watches` is a text; output lines that contain one are reported too, at a limited rate.
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
            watches=tuple(watches),
        )
        with self._lock:
            if self._is_closed or len(self._running) >= RUNNING_MAX:
                reason = "closed" if self._is_closed else f"at {RUNNING_MAX} processes"
                raise SpawnRefusedError(f"the process registry is {reason}")
            self._running[running.process_id] = running
        try:
            if running.is_promised:
                self._map.put(running.process_id, running.promise())
            self._start(running, cwd or ".")
        except BaseException:
            with self._lock:
                del self._running[running.process_id]
            with suppress(OSError):  # otherwise the next host reports a loss
                self._map.drop(running.process_id)
            raise
        self._listen_to(running)
        return running.process_id

    def _start(self, running: _Running, cwd: str) -> None:
        output_fd, write_fd = os.pipe()
        try:
            running.pid = os.posix_spawn(
                _SHELL,
                [_SHELL, "-c", _WRAPPER, "sh", running.command, self._exit(running), cwd],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, write_fd, 1),
                    (os.POSIX_SPAWN_DUP2, write_fd, 2),
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
        except BaseException:
            os.close(output_fd)
            raise
        finally:
            os.close(write_fd)
        os.set_blocking(output_fd, False)
        running.output_fd = output_fd

    def _listen_to(self, running: _Running) -> None:
        with self._lock:
            for fd in (running.output_fd, running.end_fd):
                if fd >= 0:
                    self._selector.register(fd, selectors.EVENT_READ, running)
            if self._watch is None:
                self._watch = threading.Thread(
                    target=self._watch_processes, name="watch", daemon=True
                )
                self._watch.start()

    def kill(self, process_id: str) -> bool:
        """Kill a process group; returns whether it was running. Its end is reported."""
        with self._lock:
            running = self._running.get(process_id)
            if running is None or not running.pid:
                return False
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            return True

    def running(self) -> tuple[str, ...]:
        """Ids of the processes that are not known to have ended."""
        with self._lock:
            return tuple(self._running)

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
            _close(running)
        for fd in self._wake_pipe:
            os.close(fd)
        self._map.close()

    # Events

    def listen(self, listener: Callable[[], object]) -> None:
        """Call `listener` when a process ends or an event can be taken; it must be quick."""
        self._listener = listener

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

    def _emit(self, event: Event) -> bool:
        """Store and publish an event; returns whether it is durable.

        If not, this host still delivers it. The row of the running process stays, and so does the
        file with its exit code, so the next host reports the same completion.
        """
        is_durable = True
        try:
            self._map.put(event.event_id, asdict(event))
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
            for key, _ in self._selector.select():
                running = key.data
                if running is None:
                    return
                try:
                    if key.fd == running.output_fd:
                        self._read_output(running, 1)
                    elif key.fd == running.end_fd:
                        self._end(running)
                except Exception:
                    log.exception("%s cannot be watched", running.process_id)
                    with suppress(KeyError):
                        self._selector.unregister(key.fd)

    def _read_output(self, running: _Running, reads: int) -> None:
        """Read up to `reads` chunks of the process's output."""
        for _ in range(reads):
            try:
                data = os.read(running.output_fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._selector.unregister(running.output_fd)
                os.close(running.output_fd)
                running.output_fd = -1
                return
            running.tail += data
            del running.tail[:-_TAIL_BYTES]
            if running.watches:
                self._search(running, data)

    def _search(self, running: _Running, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._match(running, bytes(running.line + line))
            running.line.clear()
        running.line += rest[:_LINE_BYTES]
        del running.line[_LINE_BYTES:]

    def _match(self, running: _Running, line: bytes) -> None:
        text = line[:_LINE_BYTES].decode(errors="replace")
        for pattern in running.watches:
            if pattern in text:
                self._emit_match(running, pattern, text)
                return

    def _emit_match(self, running: _Running, pattern: str, text: str) -> None:
        now_s = time.monotonic()
        is_early = (
            running.matched_at_s is not None and now_s - running.matched_at_s < WATCH_INTERVAL_S
        )
        if is_early or running.matches >= WATCH_EVENTS_MAX:
            running.suppressed += 1
            return
        running.matches += 1
        running.matched_at_s = now_s
        suppressed, running.suppressed = running.suppressed, 0
        self._emit(
            self._event(
                running,
                Kind.WATCH_MATCH,
                event_id=f"{running.process_id}#{running.matches}",
                output=text[-OUTPUT_CHARS_MAX:],
                pattern=pattern,
                suppressed=suppressed,
            )
        )

    def _end(self, running: _Running) -> None:
        if running.output_fd >= 0:
            self._read_output(running, _READS_LAST)
        if running.line:
            self._match(running, bytes(running.line))
        with self._lock:  # from here on the system may reuse the pid
            exit_code = self._exit_code(running)
            del self._running[running.process_id]
        for fd in (running.output_fd, running.end_fd):
            if fd >= 0:
                self._selector.unregister(fd)
        _close(running)
        self._conclude(running, exit_code)

    def _exit_code(self, running: _Running) -> int | None:
        if running.is_child:
            return os.waitstatus_to_exitcode(os.waitpid(running.pid, 0)[1])
        return self._left_exit_code(running)

    def _conclude(self, running: _Running, exit_code: int | None) -> None:
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
                    output=running.output(),
                    suppressed=running.suppressed,
                )
            )
        else:
            self._listener()
        if is_reported:
            with suppress(OSError):
                files.remove(self._exit(running))

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
        promised: list[_Running] = []
        leftover: list[Event] = []
        for value in self._map.copy().values():
            if value["kind"] == "running":
                promised.append(_promised(value))
            else:
                leftover.append(Event(**{**value, "kind": Kind(value["kind"])}))
        leftover.sort(key=lambda event: event.number)
        self._numbers = leftover[-1].number if leftover else 0
        self._pending = {event.event_id: event for event in leftover}
        self._completions.extend(leftover)
        pids = _pids({os.fsencode(self._exit(running)) for running in promised})
        for running in promised:
            running.pid = pids.get(os.fsencode(self._exit(running)), 0)
            self._adopt(running)
        self._sweep(promised)

    def _adopt(self, running: _Running) -> None:
        """Watch a process of the previous host, or report how it ended meanwhile."""
        running.is_child = False
        if running.pid:
            with suppress(ProcessLookupError):
                running.end_fd = os.pidfd_open(running.pid)
        if running.end_fd < 0:
            self._conclude(running, self._left_exit_code(running))
        else:
            self._running[running.process_id] = running
            self._listen_to(running)

    def _left_exit_code(self, running: _Running) -> int | None:
        """The exit code that the shell wrote; None if it wrote none."""
        try:
            return int(files.read_whole(self._exit(running)))
        except (OSError, ValueError):
            return None

    def _sweep(self, promised: Iterable[_Running]) -> None:
        """Remove exit files of processes that no row waits for."""
        awaited = {os.path.basename(self._exit(running)) for running in promised}
        for name in files.names(self._folder):
            if name.startswith("proc_") and name.removesuffix(".new") not in awaited:
                files.remove(os.path.join(self._folder, name))

    def _exit(self, running: _Running) -> str:
        return os.path.join(self._folder, f"{running.process_id}.exit")


def _check_is_command(command: str) -> None:
    try:
        encoded = os.fsencode(command)
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or b"\0" in encoded or len(encoded) > COMMAND_BYTES_MAX:
        raise SpawnRefusedError(f"{command[:40]!r} is no command: empty, too long, or has a NUL")


def _promised(value: Mapping[str, Any]) -> _Running:
    names = ("process_id", "owner", "session_key", "command")
    return _Running(**{name: value[name] for name in names}, is_promised=True)


def _pids(exits: set[bytes]) -> dict[bytes, int]:
    """Find the pids of our shells: the arguments of each name the file for its exit code.

    A process has no arguments for a moment after it was spawned, and this may run that early.
    """
    ends_at_s = time.monotonic() + BIRTH_S
    while True:
        found, starting = _scan(exits)
        if not starting or len(found) == len(exits) or time.monotonic() > ends_at_s:
            return found
        time.sleep(BIRTH_S / 100)


def _scan(exits: set[bytes]) -> tuple[dict[bytes, int], int]:
    """Find them, and count the processes that cannot be identified yet."""
    found: dict[bytes, int] = {}
    starting = 0
    for name in files.names("/proc") if exits else ():
        if not name.isdecimal():
            continue
        with suppress(OSError):
            arguments = files.read_whole(f"/proc/{name}/cmdline").split(b"\0")
            if arguments == [b""]:
                starting += _may_have_arguments(name)
            elif set(arguments[5:6]) & exits and _leads_a_session(name):
                found[arguments[5]] = int(name)
    return found, starting


def _may_have_arguments(pid: str) -> bool:
    """Whether it is neither dead nor a kernel thread; those never have arguments."""
    state, *numbers = _status(pid)
    return state not in b"ZX" and not int(numbers[5]) & _KERNEL_THREAD


def _leads_a_session(pid: str) -> bool:
    """Our shells do; a child of one that has not called exec yet has the same arguments."""
    return _status(pid)[3] == pid.encode()


def _status(pid: str) -> list[bytes]:
    """State, parent, group, session, ... of a process: fields after its name. Raises OSError."""
    return files.read_whole(f"/proc/{pid}/stat").rpartition(b") ")[2].split()


def _close(running: _Running) -> None:
    for fd in (running.output_fd, running.end_fd):
        if fd >= 0:
            os.close(fd)
    running.output_fd = running.end_fd = -1  # the system reuses the numbers
