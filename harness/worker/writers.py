"""A crowd on one database: an adapter's process forks members that work by themselves.

`wrap` puts this in the place of an adapter: `fork` makes a *member*, `bury` waits for its end.
Importing a package takes longer than writing a message, so it is done once; a member is a fork that
opens the adapter for itself, does the work it was given without asking anybody, and notes every
call before it goes out and when it came back, each with a single `write`, on the one monotonic
clock of the machine. So a kill at any moment leaves all that it did.

*Work* is a log, a *gate* perhaps (who waits there starts when that file is unlocked), and
*hands*. A hand is a thread with a process number and *rounds*: steps, each a function and its
argument, asked so many times over; `{n}` in a text stands for the time. The functions are the
adapter's, and those of `Member`. `doom` says at which statement a member gets a signal from itself;
one that is `watched` also notes what its connections did, and who opened the file without SQLite.
Of long calls every member notes how long it was `unscheduled`: ready to run, and without a
processor, which is nobody's fault who is on trial.

Stand-alone, to be loaded beside any package. Whoever forks has open no database, and nothing that
a thread may hold is used after it.
"""

import contextlib
import gc
import itertools
import json
import os
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

_connect = sqlite3.connect


class Log:
    """Where a member notes what it asks and is told: one line an event, whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._numbers = itertools.count()

    def invoke(self, process: int, function: str, argument: Any) -> int:
        """Note a call that is about to go out; returns its number."""
        number = next(self._numbers)
        self._write(["?", number, time.monotonic_ns(), process, function, argument])
        return number

    def complete(self, number: int, *, ok: bool, told: Any) -> None:
        """Note what came back: a result, or an error's line."""
        at_ns = time.monotonic_ns()
        self._write(["+" if ok else "-", number, at_ns, told])

    def note(self, process: int, function: str, argument: Any, result: Any, began_ns: int) -> None:
        """Note what was seen to have happened since then."""
        number = next(self._numbers)
        self._write(["?", number, began_ns, process, function, argument])
        self._write(["+", number, time.monotonic_ns(), result])

    def _write(self, row: list[Any]) -> None:
        os.write(self._fd, json.dumps(row, separators=(",", ":")).encode() + b"\n")


# What connections do ------------------------------------------------------------------------------

READS = ("SELECT", "WITH", "EXPLAIN", "PRAGMA", "SAVEPOINT", "RELEASE")
WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER", "REINDEX", "VACUUM")


class Doom:
    """Sends this process a signal at one of its statements, or some time into it."""

    def __init__(self, log: Log, process: int, doom: Work) -> None:
        """Only statements that begin with `match` count, from 1."""
        self._log = log
        self._process = process
        self._left = doom["at"]
        self._signal = doom["signal"]
        self._after_s = doom["after_s"]
        self._match = doom["match"]

    def saw(self, sql: str) -> None:
        """Count the statement; the one that it is meant for does not get past this."""
        if not sql.lstrip().startswith(self._match):
            return
        self._left -= 1
        if self._left == 0:
            if self._after_s:
                threading.Thread(target=self._strike, args=(sql,), daemon=True).start()
            else:
                self._strike(sql)

    def _strike(self, sql: str) -> None:
        # To this very thread: sent to the process, it would let this one go on for a moment.
        time.sleep(self._after_s)
        at = {"signal": self._signal, "statement": _short(sql)}
        self._log.note(self._process, "struck", at, None, time.monotonic_ns())
        signal.pthread_kill(threading.get_ident(), self._signal)


class Watch:
    """Follows one connection's statements, and notes each transaction that wrote."""

    def __init__(self, log: Log, process: int) -> None:
        self._log = log
        self._process = process
        self._begin = ""  # how the transaction under way began, if one is
        self._began_ns = 0
        self._locked_ns = 0  # when the first statement ran that had the lock already
        self._statements: list[str] = []

    def saw(self, sql: str) -> None:
        """Take one more statement; those of triggers belong to the one that fired them."""
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
        seen = {
            "begin": self._begin,
            "statements": self._statements[:20],
            "end": end,
            "held_ns": now_ns - self._locked_ns if self._locked_ns and self._begin else 0,
        }
        self._log.note(self._process, "transaction", None, seen, self._began_ns)
        self._locked_ns = 0


def _short(sql: str) -> str:
    return " ".join(sql.split())[:80]


def watch_connections(make: Callable[[], list[Callable[[str], None]]]) -> None:
    """Have every connection opened from now on tell its statements to what `make` makes for it."""

    class Watched(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            told = make()

            def tell(sql: str) -> None:
                if not sql.startswith("--"):
                    for one in told:
                        one(sql)

            self.set_trace_callback(tell)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = _connect(*arguments, **{"factory": Watched, **options})
        return connection

    sqlite3.connect = connect  # type: ignore[assignment]  # takes whatever it took


def watch_opens(path: Path, log: Log, process: int) -> None:
    """Note whenever this process opens the database, or its shared memory, other than by SQLite."""
    guarded = {os.path.realpath(path), os.path.realpath(f"{path}-shm")}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            opened = os.path.realpath(os.fsdecode(arguments[0]))
            if opened in guarded:
                name = os.path.basename(opened)  # noqa: PTH119  no path object inside a hook
                log.note(process, "opened_behind", {"file": name}, None, time.monotonic_ns())

    sys.addaudithook(hook)


# The processor ------------------------------------------------------------------------------------

LONG_NS = 5_000_000  # of shorter calls nobody asks what they waited for
STALE_NS = 1_000_000


class Processor:
    """How long this process was ready to run and another had the processor (Linux)."""

    def __init__(self) -> None:
        self._waited_ns = 0
        self._looked_at_ns = 0

    def look(self) -> None:
        """Take the reading that a call is measured from, unless there is a fresh one."""
        if time.monotonic_ns() - self._looked_at_ns > STALE_NS:
            self._waited_ns = self._read()

    def waited_ns(self) -> int:
        """How long it was since then, for all threads together."""
        before = self._waited_ns
        self._waited_ns = self._read()
        return max(0, self._waited_ns - before)

    def _read(self) -> int:
        self._looked_at_ns = time.monotonic_ns()
        waited_ns = 0
        with contextlib.suppress(OSError):  # a thread that ends, or a system that does not tell
            for thread in os.listdir("/proc/self/task"):  # noqa: PTH208  names are enough
                fd = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)
                try:
                    waited_ns += int(os.read(fd, 100).split()[1])
                finally:
                    os.close(fd)
        return waited_ns


# A member -----------------------------------------------------------------------------------------


class Member:
    """One process of the crowd, and the functions that it has besides its adapter's."""

    def __init__(self, folder: Path, work: Work, open_adapter: Callable[[Path], Any]) -> None:
        self._folder = folder
        self._path = self._folder / "state.db"
        self._work = work
        self._open_adapter = open_adapter
        self._log = Log(Path(work["log"]))
        self._adapter: Any = None
        self._hands = work["hands"]
        self._process = self._hands[0]["process"]
        self._processors = {hand["process"]: Processor() for hand in self._hands}

    def run(self) -> None:
        """Do the work, from the opening of the file to its closing."""
        self._arm()
        self._pass_the_gate()
        if self._ask(self._process, "open", {}):
            crew = [threading.Thread(target=self._lend, args=(hand,)) for hand in self._hands[1:]]
            for thread in crew:
                thread.start()
            self._lend(self._hands[0])
            for thread in crew:
                thread.join()
            self._ask(self._process, "close", {})

    def _arm(self) -> None:
        if patience_s := self._work.get("patience_s"):
            os.environ["HARNESS_PATIENCE_S"] = str(patience_s)
        doom = self._work.get("doom")
        ears: list[Callable[[str], None]] = (
            [] if doom is None else [Doom(self._log, self._process, doom).saw]
        )
        watched = self._work.get("watched", False)
        if watched:
            watch_opens(self._path, self._log, self._process)
        if watched or ears:
            watch_connections(
                lambda: [*ears, *([Watch(self._log, self._process).saw] if watched else [])]
            )

    def _pass_the_gate(self) -> None:
        if gate := self._work.get("gate"):
            with Path(gate).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)

    def _lend(self, hand: Work) -> None:
        for each in hand["rounds"]:
            for number in range(each["times"]):
                for function, argument in each["steps"]:
                    filled = {
                        name: value.replace("{n}", str(number)) if isinstance(value, str) else value
                        for name, value in argument.items()
                    }
                    self._ask(hand["process"], function, filled)
                if think_s := each.get("think_s"):
                    time.sleep(think_s)

    def _ask(self, process: int, function: str, argument: dict[str, Any]) -> bool:
        processor = self._processors[process]
        processor.look()
        began_ns = time.monotonic_ns()
        is_answered = self._answered(process, function, argument)
        if time.monotonic_ns() - began_ns > LONG_NS:
            self._log.note(process, "unscheduled", None, processor.waited_ns(), began_ns)
        return is_answered

    def _answered(self, process: int, function: str, argument: dict[str, Any]) -> bool:
        number = self._log.invoke(process, function, argument)
        own = getattr(self, f"do_{function}", None)
        try:
            result = (own or getattr(self._adapter, function))(**argument)
        except BaseException as error:  # noqa: BLE001  whatever it raises is its answer
            line = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._log.complete(number, ok=False, told=line)
            return False
        self._log.complete(number, ok=True, told=result)
        return True

    def do_open(self) -> None:
        """Open the file through the adapter."""
        self._adapter = self._open_adapter(self._folder)

    def do_close(self) -> None:
        """Close it."""
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()

    def do_drop(self) -> int:
        """Let go of the open file without closing it; how many descriptors of it are left."""
        self._adapter = None
        gc.collect()
        return _descriptors_of(self._path)

    def do_await(self, name: str) -> None:
        """Wait until there is a file of this name beside the log."""
        while not Path(self._work["log"]).with_name(name).exists():
            time.sleep(0.001)

    def do_log_bytes(self) -> int:
        """How long the write-ahead log is."""
        try:
            return self._path.with_name(f"{self._path.name}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def do_hold(self, strokes: int, pause_s: float) -> int:
        """Hold the write lock and make progress, as a large transaction does; how often."""
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
        """Hold a snapshot for so long; how many messages it showed at first and at last."""
        with _raw(self._path) as connection:
            connection.execute("BEGIN")
            (first,) = connection.execute("SELECT count(*) FROM messages").fetchone()
            time.sleep(pause_s)
            (last,) = connection.execute("SELECT count(*) FROM messages").fetchone()
            connection.execute("ROLLBACK")
        return [first, last]

    def do_inspect(self) -> dict[str, Any]:
        """What SQLite finds in the file: its own check, that of each full-text index, counters."""
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
    """A connection that is the crowd's own, seen by nobody."""
    with contextlib.closing(_connect(path, isolation_level=None, timeout=60.0)) as connection:
        yield connection


def _full_text(connection: sqlite3.Connection) -> str:
    """Have each index of the file check itself against what it is an index of."""
    tables = "SELECT name FROM sqlite_master WHERE sql LIKE '%USING fts5%' ORDER BY name"
    for (name,) in connection.execute(tables).fetchall():
        try:
            connection.execute(f'INSERT INTO "{name}"("{name}", rank) VALUES(?, 1)', (_CHECK,))
        except sqlite3.Error as error:
            return f"{name}: {error}"
    return "ok"


_CHECK = "integrity-check"


def _descriptors_of(path: Path) -> int:
    """How many open descriptors this process has of the database or its companions."""
    place = Path("/proc/self/fd")
    if not place.is_dir():
        return 0
    found = 0
    for name in os.listdir(place):  # noqa: PTH208  the listing itself is one of them
        with contextlib.suppress(OSError):
            found += os.readlink(place / name).startswith(str(path.resolve()))  # noqa: PTH115
    return found


# The crowd ----------------------------------------------------------------------------------------


class Crowd:
    """Forks members, and tells what became of them."""

    def __init__(self, folder: Path, open_adapter: Callable[[Path], Any]) -> None:
        self._folder = folder
        self._open_adapter = open_adapter

    def fork(self, work: Work) -> int:
        """Make a member; its process id, which stays its own until it is buried."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads and forks: see above
            pid = os.fork()
        if pid:
            return pid
        try:
            self._live(work)
        except BaseException as error:  # noqa: BLE001  nothing of the parent's goes on in here
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)

    def _live(self, work: Work) -> None:
        """Let go of what is the parent's, and do the work."""
        die_with_parent()
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.closerange(3, DESCRIPTORS_MAX)
        Member(self._folder, work, self._open_adapter).run()

    def bury(self, pid: int) -> int:
        """Wait for a member's end: its exit code, negative if a signal ended it."""
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Nothing is open here."""


def die_with_parent() -> None:
    """Ask Linux to kill us with the thread that forked us, even while we are stopped."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  elsewhere there may be none, and no need of it

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def wrap(open_adapter: Callable[[Path], Any]) -> Callable[[Path], Crowd]:
    """Put a crowd in the place of one adapter.

    It is opened once, far from everybody, so that what it imports is there before the first fork.
    """
    with tempfile.TemporaryDirectory() as place:
        open_adapter(Path(place)).close()
    return lambda folder: Crowd(folder, open_adapter)
