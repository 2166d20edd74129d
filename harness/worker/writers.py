"""Writer processes on one database: forks of an adapter's process that work independently.

`wrap` replaces an adapter: `fork` starts a *writer process*, `wait_for_exit` waits for its end.
Importing a package takes longer than writing a message, so the parent imports it once. A writer
opens its own adapter, does its work without further requests, and logs every call before and after
it, each with a single `write`, on the monotonic clock of the machine. So a kill at any moment
leaves a complete log.

*Work* is a log, an optional *gate* (the writer starts when that file is unlocked), and *threads*.
A thread has a process number of the history and *rounds*: steps, each a function and its argument,
repeated a number of times; `{n}` in a text stands for the number of the repetition. The functions
are the adapter's, and the `do_` methods of `WriterProcess`. `signal_at` names the statement at
which a writer sends itself a signal. With `syncs` it logs every sync of the database's files that
the package makes itself (`synced`) and the texts of every commit (`committed`); syncs take
`delay_s` longer, and number `fails_at` fails, as does, once, the next one of each other process:
Linux reports a failed write to every open file. A `traced` writer also logs its transactions, and
every open of the file that bypasses SQLite. For long calls every writer logs how long it was
`unscheduled`: ready to run, but without a processor, which is not the fault of the code under test.

The module imports the standard library only, so that it can be loaded beside any package. The
parent has no database open when it forks, and the child uses nothing that a thread may hold.
"""

import contextlib
import errno
import gc
import itertools
import json
import os
import re
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no system that has fork lacks it
    fcntl = None  # type: ignore[assignment]

Work = dict[str, Any]

DESCRIPTORS_MAX = 1024
CHILD = ".child"  # at the end of the name of a log: that of a child with an inherited handle

_connect = sqlite3.connect


class Log:
    """The log of a writer process: one line per event, written with a single `write`."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._numbers = itertools.count()

    def invoke(self, process: int, function: str, argument: Any) -> int:
        """Log a call that is about to be made; returns its number."""
        number = next(self._numbers)
        self._write(["?", number, time.monotonic_ns(), process, function, argument])
        return number

    def complete(self, number: int, *, ok: bool, result: Any) -> None:
        """Log the result of a call, or the line of its error."""
        at_ns = time.monotonic_ns()
        self._write(["+" if ok else "-", number, at_ns, result])

    def note(self, process: int, function: str, argument: Any, result: Any, began_ns: int) -> None:
        """Log an observation that began at `began_ns`."""
        number = next(self._numbers)
        self._write(["?", number, began_ns, process, function, argument])
        self._write(["+", number, time.monotonic_ns(), result])

    def _write(self, row: list[Any]) -> None:
        os.write(self._fd, json.dumps(row, separators=(",", ":")).encode() + b"\n")


# Statements of connections ------------------------------------------------------------------------

READS = ("SELECT", "WITH", "EXPLAIN", "PRAGMA", "SAVEPOINT", "RELEASE")
WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER", "REINDEX", "VACUUM")


class SelfSignal:
    """Sends this process a signal at one of its statements, or some time after it."""

    def __init__(self, log: Log, process: int, signal_at: Work) -> None:
        """Count only statements that begin with `match`, from 1."""
        self._log = log
        self._process = process
        self._remaining = signal_at["at"]
        self._signal = signal_at["signal"]
        self._after_s = signal_at["after_s"]
        self._match = signal_at["match"]

    def observe(self, sql: str) -> None:
        """Count the statement; at the chosen one the signal arrives before it runs."""
        if not sql.lstrip().startswith(self._match):
            return
        self._remaining -= 1
        if self._remaining == 0:
            if self._after_s:
                threading.Thread(target=self._send, args=(sql,), daemon=True).start()
            else:
                self._send(sql)

    def disarm(self) -> None:
        """Send nothing any more: this is a child of the process that is meant."""
        self._remaining = 0

    def _send(self, sql: str) -> None:
        # To this thread: a signal to the process would let this thread run on for a moment.
        time.sleep(self._after_s)
        at = {"signal": self._signal, "statement": _short(sql)}
        self._log.note(self._process, "struck", at, None, time.monotonic_ns())
        signal.pthread_kill(threading.get_ident(), self._signal)


class TransactionTracer:
    """Follows one connection's statements, and logs each transaction that wrote."""

    def __init__(self, log: Log, process: int) -> None:
        self._log = log
        self._process = process
        self._begin = ""  # the first words of the open transaction, if there is one
        self._began_ns = 0
        self._locked_ns = 0  # when the first statement began that ran under the lock
        self._statements: list[str] = []

    def observe(self, sql: str) -> None:
        """Take the next statement; a trigger's statements belong to the one that fired it."""
        words = sql.split(None, 2)
        verb = words[0].upper() if words else ""
        now_ns = time.monotonic_ns()
        if verb == "BEGIN":
            self._begin, self._began_ns, self._locked_ns = " ".join(words[:2]).upper(), now_ns, 0
            self._statements = []
        elif verb in ("COMMIT", "END", "ROLLBACK") and self._begin:
            self._note(verb, now_ns)
            self._begin = ""
        elif verb in READS or verb in WRITES:
            self._locked_ns = self._locked_ns or now_ns
            if self._begin:
                self._statements.append(_short(sql))
            elif verb in WRITES or "wal_checkpoint" in sql:
                self._began_ns, self._statements = now_ns, [_short(sql)]
                self._note("", now_ns)

    def _note(self, end: str, now_ns: int) -> None:
        transaction = {
            "begin": self._begin,
            "statements": self._statements[:20],
            "end": end,
            "held_ns": now_ns - self._locked_ns if self._locked_ns and self._begin else 0,
        }
        self._log.note(self._process, "transaction", None, transaction, self._began_ns)
        self._locked_ns = 0


# Syncs --------------------------------------------------------------------------------------------

_TEXTS = re.compile(r"'(alpha [^']*)'")


class CommitTracer:
    """Follows one connection's statements, and logs the texts that each transaction added."""

    def __init__(self, log: Log, process: int) -> None:
        self._log = log
        self._process = process
        self._texts: list[str] = []

    def observe(self, sql: str) -> None:
        """Take the next statement, with its values."""
        verb = sql.split(None, 1)[0].upper() if sql.strip() else ""
        if verb in ("BEGIN", "ROLLBACK"):
            self._texts = []
        elif verb == "INSERT":
            self._texts += _TEXTS.findall(sql)

    def committed(self, began_ns: int) -> None:
        """Log the commit that just ended."""
        if self._texts:
            texts = list(dict.fromkeys(self._texts))  # a trigger inserts them once more
            self._log.note(self._process, "committed", None, texts, began_ns)
        self._texts = []


class SyncTracer:
    """Logs, delays and fails the syncs of the database's files by this process."""

    def __init__(self, log: Log, process: int, path: Path, work: Work) -> None:
        self._log = log
        self._process = process
        self._path = str(path.resolve())
        self._delay_s = work["syncs"]["delay_s"]
        self._fails_at = work["syncs"]["fails_at"]
        self._failed = Path(work["log"]).with_name("a sync failed")
        self._has_failed = False
        self._numbers = itertools.count(1)

    def around(self, sync: Callable[[int], None], fd: int) -> None:
        """Sync the file, or fail as a broken disk does."""
        name = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115  a path object costs more
        if not name.startswith(self._path):
            return sync(fd)
        began_ns = time.monotonic_ns()
        fails = self._fails()
        if self._delay_s:
            time.sleep(self._delay_s)
        if not fails:
            sync(fd)
        argument = {"file": os.path.basename(name), "first": fails == "first"}  # noqa: PTH119
        self._log.note(self._process, "synced", argument, not fails, began_ns)
        if fails:
            raise OSError(errno.EIO, "Input/output error")
        return None

    def _fails(self) -> str:
        """Whether this sync is the `first` to fail, or `reports` another one's; else empty."""
        is_first = next(self._numbers) == self._fails_at
        if is_first:
            self._failed.touch()
        if self._has_failed or not (is_first or self._failed.exists()):
            return ""
        self._has_failed = True
        return "first" if is_first else "reports"


_syncs: SyncTracer | None = None  # of this writer process


def _observed(sync: Callable[[int], None]) -> Callable[[int], None]:
    def observed(fd: int) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        return sync(fd) if _syncs is None else _syncs.around(sync, number)

    return observed


def _short(sql: str) -> str:
    return " ".join(sql.split())[:80]


class _ObservedConnection(sqlite3.Connection):
    """Passes its statements, and the ends of its commits, to its observers."""

    make_observers: Callable[[], list[Callable[[str], None]]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.observers = self.make_observers()

        def trace(sql: str) -> None:
            if not sql.startswith("--"):
                for observe in self.observers:
                    observe(sql)

        self.set_trace_callback(trace)

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        began_ns = time.monotonic_ns()
        cursor = super().execute(sql, *parameters)
        if sql in ("COMMIT", "END"):
            self._note_commit(began_ns)
        return cursor

    def commit(self) -> None:
        began_ns = time.monotonic_ns()
        super().commit()
        self._note_commit(began_ns)

    def _note_commit(self, began_ns: int) -> None:
        for observe in self.observers:
            tracer = getattr(observe, "__self__", None)
            if isinstance(tracer, CommitTracer):
                tracer.committed(began_ns)


def trace_connections(make: Callable[[], list[Callable[[str], None]]]) -> None:
    """Pass the statements of every later connection to the observers that `make` returns for it."""

    class TracedConnection(_ObservedConnection):
        make_observers = staticmethod(make)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = _connect(
            *arguments, **{"factory": TracedConnection, **options}
        )
        return connection

    sqlite3.connect = connect  # type: ignore[assignment]  # same signature


def trace_opens(path: Path, log: Log, process: int) -> None:
    """Log every open of the database or its shared memory by this process that bypasses SQLite."""
    guarded = {os.path.realpath(path), os.path.realpath(f"{path}-shm")}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            opened = os.path.realpath(os.fsdecode(arguments[0]))
            if opened in guarded:
                name = os.path.basename(opened)  # noqa: PTH119  no path object inside a hook
                log.note(process, "opened_behind", {"file": name}, None, time.monotonic_ns())

    sys.addaudithook(hook)


# The processor ------------------------------------------------------------------------------------

LONG_NS = 5_000_000  # waits of shorter calls are not measured
STALE_NS = 1_000_000


class Processor:
    """Measures how long this process was ready to run without a processor (Linux)."""

    def __init__(self) -> None:
        self._waited_ns = 0
        self._read_at_ns = 0

    def start(self) -> None:
        """Take the reading from which a call is measured, unless there is a fresh one."""
        if time.monotonic_ns() - self._read_at_ns > STALE_NS:
            self._waited_ns = self._read()

    def waited_ns(self) -> int:
        """Return the wait since the last reading, summed over all threads."""
        before = self._waited_ns
        self._waited_ns = self._read()
        return max(0, self._waited_ns - before)

    def _read(self) -> int:
        self._read_at_ns = time.monotonic_ns()
        waited_ns = 0
        with contextlib.suppress(OSError):  # a thread that ended, or an unsupported system
            for thread in os.listdir("/proc/self/task"):  # noqa: PTH208  names are enough
                fd = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)
                try:
                    waited_ns += int(os.read(fd, 100).split()[1])
                finally:
                    os.close(fd)
        return waited_ns


# A writer process ---------------------------------------------------------------------------------


class WriterProcess:
    """One writer process, and the functions that it adds to its adapter's."""

    def __init__(self, folder: Path, work: Work, open_adapter: Callable[[Path], Any]) -> None:
        self._folder = folder
        self._path = self._folder / "state.db"
        self._work = work
        self._open_adapter = open_adapter
        self._log = Log(Path(work["log"]))
        self._adapter: Any = None
        self._self_signal: SelfSignal | None = None
        self._threads = work["threads"]
        self._process = self._threads[0]["process"]
        self._processors = {thread["process"]: Processor() for thread in self._threads}

    def run(self) -> None:
        """Open the file, do the work, and close the file."""
        self._install_observers()
        self._wait_at_gate()
        if self._call(self._process, "open", {}):
            threads = [
                threading.Thread(target=self._run_rounds, args=(thread,))
                for thread in self._threads[1:]
            ]
            for thread in threads:
                thread.start()
            self._run_rounds(self._threads[0])
            for thread in threads:
                thread.join()
            self._call(self._process, "close", {})

    def _install_observers(self) -> None:
        if patience_s := self._work.get("patience_s"):
            os.environ["HARNESS_PATIENCE_S"] = str(patience_s)
        shared: list[Callable[[str], None]] = []
        if (signal_at := self._work.get("signal_at")) is not None:
            self._self_signal = SelfSignal(self._log, self._process, signal_at)
            shared.append(self._self_signal.observe)
        if self._work.get("syncs") is not None:
            global _syncs  # noqa: PLW0603  applies to all files of the process
            _syncs = SyncTracer(self._log, self._process, self._path, self._work)
            trace_connections(lambda: [*shared, CommitTracer(self._log, self._process).observe])
            return
        if not self._work.get("traced", False):
            if shared:
                trace_connections(lambda: shared)
            return
        trace_opens(self._path, self._log, self._process)
        trace_connections(lambda: [*shared, TransactionTracer(self._log, self._process).observe])

    def _wait_at_gate(self) -> None:
        if gate := self._work.get("gate"):
            with Path(gate).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)

    def _run_rounds(self, thread: Work) -> None:
        for repeated in thread["rounds"]:
            for number in range(repeated["times"]):
                for function, argument in repeated["steps"]:
                    filled = {
                        name: value.replace("{n}", str(number)) if isinstance(value, str) else value
                        for name, value in argument.items()
                    }
                    self._call(thread["process"], function, filled)
                if think_s := repeated.get("think_s"):
                    time.sleep(think_s)

    def _call(self, process: int, function: str, argument: dict[str, Any]) -> bool:
        processor = self._processors[process]
        processor.start()
        began_ns = time.monotonic_ns()
        is_ok = self._logged_call(process, function, argument)
        if time.monotonic_ns() - began_ns > LONG_NS:
            self._log.note(process, "unscheduled", None, processor.waited_ns(), began_ns)
        return is_ok

    def _logged_call(self, process: int, function: str, argument: dict[str, Any]) -> bool:
        number = self._log.invoke(process, function, argument)
        own = getattr(self, f"do_{function}", None)
        try:
            result = (own or getattr(self._adapter, function))(**argument)
        except BaseException as error:  # noqa: BLE001  the exception is the result
            line = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._log.complete(number, ok=False, result=line)
            return False
        self._log.complete(number, ok=True, result=result)
        return True

    def do_open(self) -> None:
        """Open the file through the adapter."""
        self._adapter = self._open_adapter(self._folder)

    def do_close(self) -> None:
        """Close the adapter."""
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()

    def do_drop(self) -> int:
        """Drop the adapter without closing it; return how many descriptors of the file remain."""
        self._adapter = None
        gc.collect()
        return _descriptors_of(self._path)

    def do_await(self, name: str) -> None:
        """Wait until a file of this name exists beside the log."""
        while not Path(self._work["log"]).with_name(name).exists():
            time.sleep(0.001)

    def do_fork(self, process: int, name: str, steps: list[list[Any]]) -> int:
        """Fork with an open handle; the child runs these steps over it when it may go on.

        The child outlives this process, waits as `await` does, and ends when its log's folder is
        gone. It logs into a file of its own, as a process with this number. Returns its id.
        """
        pid = os.fork()
        if pid:
            return pid
        log = Path(f"{self._work['log']}{CHILD}")
        self._log = Log(log)
        self._processors = {process: Processor()}
        if self._self_signal is not None:
            self._self_signal.disarm()
        go_on = log.with_name(name)
        while not go_on.exists():
            if not log.exists():
                os._exit(0)
            time.sleep(0.001)
        for function, argument in steps:
            self._call(process, function, argument)
        self._call(process, "close", {})
        log.with_name(f"{name} is over").touch()
        os._exit(0)

    def do_log_bytes(self) -> int:
        """Return the length of the write-ahead log in bytes."""
        try:
            return self._path.with_name(f"{self._path.name}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def do_hold(self, strokes: int, pause_s: float) -> int:
        """Hold the write lock for `strokes` updates, as a large transaction does."""
        with _raw(self._path) as connection:
            began_ns = time.monotonic_ns()
            connection.execute("BEGIN IMMEDIATE")
            self._log.note(self._process, "held", None, None, began_ns)
            for _ in range(strokes):
                connection.execute("UPDATE sessions SET source = source")
                time.sleep(pause_s)
            connection.execute("COMMIT")
        return strokes

    def do_pin(self, pause_s: float) -> list[int]:
        """Hold a snapshot for `pause_s`; return its first and its last count of messages."""
        with _raw(self._path) as connection:
            connection.execute("BEGIN")
            (first,) = connection.execute("SELECT count(*) FROM messages").fetchone()
            time.sleep(pause_s)
            (last,) = connection.execute("SELECT count(*) FROM messages").fetchone()
            connection.execute("ROLLBACK")
        return [first, last]

    def do_pin_until(self, grown: str, over: str) -> list[int]:
        """Hold a snapshot until the file `grown` exists, and the connection until `over` does."""
        with _raw(self._path) as connection:
            connection.execute("BEGIN")
            (first,) = connection.execute("SELECT count(*) FROM messages").fetchone()
            self._log.note(self._process, "pinned", None, None, time.monotonic_ns())
            self.do_await(grown)
            (last,) = connection.execute("SELECT count(*) FROM messages").fetchone()
            connection.execute("ROLLBACK")
            self.do_await(over)
        return [first, last]

    def do_inspect(self) -> dict[str, Any]:
        """Return SQLite's integrity check, that of each full-text index, and wrong counters."""
        with _raw(self._path) as connection:
            return {
                "integrity": connection.execute("PRAGMA integrity_check").fetchone()[0],
                "full_text": _full_text(connection),
                "drift": connection.execute(_DRIFT).fetchall(),
            }


_DRIFT = """SELECT id, message_count, (SELECT count(*) FROM messages WHERE session_id = sessions.id)
    AS rows FROM sessions WHERE message_count <> rows ORDER BY id"""


@contextlib.contextmanager
def _raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection of the writer process itself, which is not traced."""
    with contextlib.closing(_connect(path, isolation_level=None, timeout=60.0)) as connection:
        yield connection


def _full_text(connection: sqlite3.Connection) -> str:
    """Check each full-text index of the file against its table."""
    tables = "SELECT name FROM sqlite_master WHERE sql LIKE '%USING fts5%' ORDER BY name"
    for (name,) in connection.execute(tables).fetchall():
        try:
            connection.execute(f'INSERT INTO "{name}"("{name}", rank) VALUES(?, 1)', (_CHECK,))
        except sqlite3.Error as error:
            return f"{name}: {error}"
    return "ok"


_CHECK = "integrity-check"


def _descriptors_of(path: Path) -> int:
    """Return the number of this process's open descriptors of the database's files."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return 0
    count = 0
    for name in os.listdir(folder):  # noqa: PTH208  the listing's own descriptor does not count
        with contextlib.suppress(OSError):
            count += os.readlink(folder / name).startswith(str(path.resolve()))  # noqa: PTH115
    return count


# The parent ---------------------------------------------------------------------------------------


class WriterParent:
    """Forks writer processes, and waits for their exit."""

    def __init__(self, folder: Path, open_adapter: Callable[[Path], Any]) -> None:
        self._folder = folder
        self._open_adapter = open_adapter

    def fork(self, work: Work) -> int:
        """Start a writer process; return its pid, which stays valid until `wait_for_exit`."""
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # fork with threads: see the module's docstring
            pid = os.fork()
        if pid:
            return pid
        try:
            self._run_child(work)
        except BaseException as error:  # noqa: BLE001  no code of the parent runs on in the child
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)

    def _run_child(self, work: Work) -> None:
        """Close the parent's descriptors, and do the work."""
        die_with_parent()
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.closerange(3, DESCRIPTORS_MAX)
        WriterProcess(self._folder, work, self._open_adapter).run()

    def wait_for_exit(self, pid: int) -> int:
        """Wait for a writer's exit; return its exit code, negative if a signal ended it."""
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Do nothing: the parent has nothing open."""


def die_with_parent() -> None:
    """Have Linux kill this process when its parent thread ends, even while it is stopped."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  absent on some systems

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def wrap(open_adapter: Callable[[Path], Any]) -> Callable[[Path], WriterParent]:
    """Replace the adapter by a parent of writer processes.

    The adapter is opened once in a temporary folder, so that its imports precede the first fork.
    """
    for name in ("fsync", "fdatasync"):  # before the package binds them
        setattr(os, name, _observed(getattr(os, name)))
    with tempfile.TemporaryDirectory() as folder:
        open_adapter(Path(folder)).close()
    return lambda path: WriterParent(path, open_adapter)
