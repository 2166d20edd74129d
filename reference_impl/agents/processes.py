"""Background processes: whoever started one is told how it ended, whatever becomes of the host.

A promise to tell is a durable row, written before the process begins. When the process ends, that
row becomes its completion in one step, and stays until somebody marks it as consumed. So an event
that is known here and not consumed has yet to be delivered; anything else never has. That is the
one marker which all who deliver share.

Each process runs below a small shell that leaves the exit code in a file, so a host that starts
after a kill learns it, or waits for a process that is still running, or reports the loss. One
thread, the *watch*, listens to all processes, and reaps them.
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
from reference_impl.storage.durable_map import Ledger

RUNNING_MAX = 256
FINISHED_MAX = 64
OUTPUT_CHARS_MAX = 4000
COMMAND_BYTES_MAX = 32_768
WATCH_INTERVAL_S = 15.0
WATCH_EVENTS_MAX = 20  # a process; then its output is watched no more
BIRTH_S = 1.0  # how long we wait for a process to have arguments

_KERNEL_THREAD = 0x00200000  # a flag in /proc/*/stat
_TAIL_BYTES = 4 * OUTPUT_CHARS_MAX
_LINE_BYTES = 8192
_READ_BYTES = 65_536
_READS_LAST = 16  # after the end: what others still write into the pipe has no end
_SHELL = "/bin/sh"
_WRAPPER = """cd -- "$3" || exit 126
/bin/sh -c "$1"
code=$?
echo "$code" > "$2.new" && mv -- "$2.new" "$2"
exit "$code"
"""

log = logging.getLogger(__name__)


class SpawnRefusedError(Exception):
    """The process cannot be started here and now; nothing was."""


class Kind(StrEnum):
    """What an event tells."""

    COMPLETION = "completion"
    WATCH_MATCH = "watch_match"


@dataclass(frozen=True, slots=True)
class Event:
    """What is to be told of a process, once.

    `owner` is the session whose turn started it, where there was a turn; `session_key` is what
    else was given for finding the session. A completion without an exit code is a loss: the host
    was killed, and the process is gone. `suppressed` counts matches that were not told.
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
    told: int = 0
    told_at_s: float | None = None
    suppressed: int = 0

    def promise(self) -> dict[str, Any]:
        """What the next host must know of it."""
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
    """The background processes of one host, and what is still to be told of them."""

    def __init__(self, folder: files.StrPath, *, clock: Callable[[], float] = time.time) -> None:
        """Open the folder, or make it; what the last host left is adopted, or reported.

        Raises OSError.
        """
        self._folder = files.absolute(folder)
        files.make_folder(self._folder)
        self._clock = clock
        self._ledger = Ledger(os.path.join(self._folder, "ledger.jsonl"))
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._finished: deque[Finished] = deque(maxlen=FINISHED_MAX)
        self._pending: dict[str, Event] = {}
        self._completions: deque[Event] = deque()
        self._numbers = 0
        self._listener: Callable[[], object] = lambda: None
        self._selector = selectors.DefaultSelector()
        self._bell = os.pipe()
        self._selector.register(self._bell[0], selectors.EVENT_READ)
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
            "process_ledger": len(self._ledger),
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
        """Start a shell command for the present turn's session, and return the process's id.

        With `notify_on_complete` its end will be told, also if this host is killed right now. Each
        of `watches` is a text; a line of output that contains one is told too, now and then.
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
                self._ledger.put(running.process_id, running.promise())
            self._start(running, cwd or ".")
        except BaseException:
            with self._lock:
                del self._running[running.process_id]
            with suppress(OSError):  # else the next host reports a loss
                self._ledger.drop(running.process_id)
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
                self._watch = threading.Thread(target=self._keep_watch, name="watch", daemon=True)
                self._watch.start()

    def kill(self, process_id: str) -> bool:
        """Kill a process with all that it started; whether it was running. Its end is told."""
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
        """The last processes that ended, the latest last."""
        with self._lock:
            return tuple(self._finished)

    def close(self) -> None:
        """Stop watching. What runs goes on, and the next host will tell how it ended."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            watch = self._watch
        os.write(self._bell[1], b".")
        if watch is not None:
            watch.join()
        self._selector.close()
        for running in self._running.values():
            _close(running)
        for fd in self._bell:
            os.close(fd)
        self._ledger.close()

    # What is told

    def listen(self, listener: Callable[[], object]) -> None:
        """Call this when a process ended, and when there is something to `take`; must be quick."""
        self._listener = listener

    def take(self) -> Event | None:
        """The next event that nobody took yet, in the order of their happening.

        Taking is not consuming: after a restart, whatever was not consumed can be taken again.
        """
        with suppress(IndexError):
            return self._completions.popleft()
        return None

    def is_consumed(self, event_id: str) -> bool:
        """Whether the event must not be delivered: it was already, or there never was one."""
        return event_id not in self._pending

    def mark_consumed(self, event_id: str) -> None:
        """Note, durably, that the event was delivered. Raises OSError; then it counts as not."""
        self._ledger.drop(event_id)
        with self._lock:
            self._pending.pop(event_id, None)

    def _tell(self, event: Event) -> None:
        try:
            self._ledger.put(event.event_id, asdict(event))
        except OSError as error:
            # This host still tells it. The promise stays, so the next one will report at least it.
            log.error("%s is kept in memory only: %s", event.event_id, error)  # noqa: TRY400 - known
        with self._lock:
            self._pending[event.event_id] = event
            self._completions.append(event)
        self._listener()

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # The watch

    def _keep_watch(self) -> None:
        while not self._is_closed:
            for key, _ in self._selector.select():
                running = key.data
                if running is None:
                    return
                try:
                    if key.fd == running.output_fd:
                        self._hear(running, 1)
                    elif key.fd == running.end_fd:
                        self._end(running)
                except Exception:
                    log.exception("%s cannot be watched", running.process_id)
                    with suppress(KeyError):
                        self._selector.unregister(key.fd)

    def _hear(self, running: _Running, reads: int) -> None:
        """Read what the process has written by now."""
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
                self._tell_match(running, pattern, text)
                return

    def _tell_match(self, running: _Running, pattern: str, text: str) -> None:
        now_s = time.monotonic()
        is_early = running.told_at_s is not None and now_s - running.told_at_s < WATCH_INTERVAL_S
        if is_early or running.told >= WATCH_EVENTS_MAX:
            running.suppressed += 1
            return
        running.told += 1
        running.told_at_s = now_s
        suppressed, running.suppressed = running.suppressed, 0
        self._tell(
            self._event(
                running,
                Kind.WATCH_MATCH,
                event_id=f"{running.process_id}#{running.told}",
                output=text[-OUTPUT_CHARS_MAX:],
                pattern=pattern,
                suppressed=suppressed,
            )
        )

    def _end(self, running: _Running) -> None:
        if running.output_fd >= 0:
            self._hear(running, _READS_LAST)
        if running.line:
            self._match(running, bytes(running.line))
        with self._lock:  # from here on the system may give the pid to another
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
        if running.is_promised:
            self._tell(
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
        left: list[Event] = []
        for value in self._ledger.copy().values():
            if value["kind"] == "running":
                promised.append(_promised(value))
            else:
                left.append(Event(**{**value, "kind": Kind(value["kind"])}))
        left.sort(key=lambda event: event.number)
        self._numbers = left[-1].number if left else 0
        self._pending = {event.event_id: event for event in left}
        self._completions.extend(left)
        pids = _pids({os.fsencode(self._exit(running)) for running in promised})
        for running in promised:
            running.pid = pids.get(os.fsencode(self._exit(running)), 0)
            self._adopt(running)
        self._sweep(promised)

    def _adopt(self, running: _Running) -> None:
        """Go on watching a process of the last host, or tell how it ended meanwhile."""
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
        """What the shell left; None if it did not come so far."""
        try:
            return int(files.read_whole(self._exit(running)))
        except (OSError, ValueError):
            return None

    def _sweep(self, promised: Iterable[_Running]) -> None:
        """Remove what processes left that had no promise, or were told of as lost."""
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
        raise SpawnRefusedError(f"{command[:40]!r} is no command")


def _promised(value: Mapping[str, Any]) -> _Running:
    names = ("process_id", "owner", "session_key", "command")
    return _Running(**{name: value[name] for name in names}, is_promised=True)


def _pids(exits: set[bytes]) -> dict[bytes, int]:
    """Who of all processes is one of our shells: its arguments name the file for its exit code.

    A process has no arguments yet for a moment after it was spawned, and we may come that soon.
    """
    ends_at_s = time.monotonic() + BIRTH_S
    while True:
        found, unborn = _look_for(exits)
        if not unborn or len(found) == len(exits) or time.monotonic() > ends_at_s:
            return found
        time.sleep(BIRTH_S / 100)


def _look_for(exits: set[bytes]) -> tuple[dict[bytes, int], int]:
    """Find them, and count the processes that cannot be told yet."""
    found: dict[bytes, int] = {}
    unborn = 0
    for name in files.names("/proc") if exits else ():
        if not name.isdecimal():
            continue
        with suppress(OSError):
            arguments = files.read_whole(f"/proc/{name}/cmdline").split(b"\0")
            if arguments == [b""]:
                unborn += _may_have_arguments(name)
            elif set(arguments[5:6]) & exits and _leads_a_session(name):
                found[arguments[5]] = int(name)
    return found, unborn


def _may_have_arguments(pid: str) -> bool:
    """Whether it is neither dead nor a thread of the kernel; those never have any."""
    state, *numbers = _status(pid)
    return state not in b"ZX" and not int(numbers[5]) & _KERNEL_THREAD


def _leads_a_session(pid: str) -> bool:
    """Our shells do; a child of one that has not yet become its command has the same arguments."""
    return _status(pid)[3] == pid.encode()


def _status(pid: str) -> list[bytes]:
    """State, parent, group, session, ... of a process: what follows its name. Raises OSError."""
    return files.read_whole(f"/proc/{pid}/stat").rpartition(b") ")[2].split()


def _close(running: _Running) -> None:
    for fd in (running.output_fd, running.end_fd):
        if fd >= 0:
            os.close(fd)
    running.output_fd = running.end_fd = -1  # the system gives the numbers to others
