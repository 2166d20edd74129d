"""How state.db fares when many write at once: the reference, its neighbours, and bare policies.

    python benches/bench_state_db.py [--released DIR] [--rounds 3] [--seconds 3] [--sync-ms 4]

All arms run in turn, round after round, on the same disk, each on a fresh file, and the median of
the rounds is told: the ratios mean something, the figures are only a scale. Every write is one
message and one counter, with a full-text index in step, at synchronous=FULL.

`--released` names a folder with an unpacked hermes-agent package (`pip download --no-deps
hermes-agent==0.19.0`, then unzip). `--sync-ms` makes each sync so much slower, as a laptop's disk
is: it needs `cc` and `LD_PRELOAD`. Knows the reference, and neither imports nor needs the harness.
"""

# A script, not a package, and it speaks to the terminal:
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[1]
TEXT = "the quick brown fox jumps over the lazy dog and then some more of the same " * 3
COOL_DOWN_S = 0.5
SHAPES = ((8, 1), (32, 1), (8, 4))  # processes and threads


# Arms: how to write ------------------------------------------------------------------------------


class Store(Protocol):
    """What an arm writes to; one for all threads of a process."""

    def create(self, session: str) -> None:
        """Make the session."""

    def append(self, session: str, text: str) -> None:
        """Write one message and one counter."""


class Reference:
    """The reference's own."""

    def __init__(self, path: Path) -> None:
        sys.path.insert(0, str(ROOT))
        from reference_impl.state_db import StateDb  # noqa: PLC0415  (only in this arm's process)

        self._db = StateDb(path)

    def create(self, session: str) -> None:
        """Make the session."""
        self._db.create_session(session, "bench")

    def append(self, session: str, text: str) -> None:
        """Write one message and one counter."""
        self._db.append_message(session, "user", text)


class Released:
    """The released hermes-agent package, found in the environment's HERMES_AGENT folder."""

    def __init__(self, path: Path) -> None:
        sys.path.insert(0, os.environ["HERMES_AGENT"])
        os.environ["HERMES_HOME"] = str(path.parent)
        from hermes_state import SessionDB  # type: ignore[import-not-found]  # noqa: PLC0415

        self._db = SessionDB(path)

    def create(self, session: str) -> None:
        """Make the session."""
        self._db.create_session(session, "bench")

    def append(self, session: str, text: str) -> None:
        """Write one message and one counter."""
        self._db.append_message(session, "user", text)


class Bare:
    """One connection for all threads, and a policy for meeting a lock."""

    begin = "BEGIN IMMEDIATE"
    timeout_s = 0.0
    pauses_s: Callable[[], Iterator[float]]
    """How long to pause after each attempt that met a lock, until the arm gives up."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=60.0, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("BEGIN IMMEDIATE")
        for statement in _BARE_SCHEMA:
            self._connection.execute(statement)
        self._connection.execute("COMMIT")
        self._connection.execute(f"PRAGMA busy_timeout = {self.timeout_s * 1000:.0f}")

    def create(self, session: str) -> None:
        """Make the session."""
        self._write(("INSERT INTO sessions(id) VALUES (?)", (session,)))

    def append(self, session: str, text: str) -> None:
        """Write one message and one counter."""
        self._write(
            ("INSERT INTO messages(session_id, content) VALUES (?, ?)", (session, text)),
            ("UPDATE sessions SET message_count = message_count + 1 WHERE id = ?", (session,)),
        )

    def _write(self, *statements: tuple[str, Sequence[object]]) -> None:
        with self._lock:
            for pause_s in self.pauses_s():
                try:
                    self._connection.execute(self.begin)
                    for statement, values in statements:
                        self._connection.execute(statement, values)
                    self._connection.execute("COMMIT")
                except sqlite3.OperationalError:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    time.sleep(pause_s)
                else:
                    return
            raise TimeoutError("database is locked")


class Busy30s(Bare):
    """SQLite's own busy handler, and deferred transactions."""

    begin = "BEGIN"
    timeout_s = 30.0

    def pauses_s(self) -> Iterator[float]:
        """One attempt."""
        yield 0.0


class Jitter15(Bare):
    """A second of patience, fifteen times, with random pauses."""

    timeout_s = 1.0

    def pauses_s(self) -> Iterator[float]:
        """Fifteen attempts."""
        for _ in range(15):
            yield random.uniform(0.020, 0.150)


class Constant1ms(Bare):
    """Ask again every millisecond."""

    def pauses_s(self) -> Iterator[float]:
        """As many attempts as fit in 30 s."""
        deadline_s = time.monotonic() + 30.0
        while time.monotonic() < deadline_s:
            yield 0.001


_BARE_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, message_count INTEGER DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, session_id TEXT, content TEXT)",
    "CREATE INDEX IF NOT EXISTS messages_of_a_session ON messages(session_id)",
    """CREATE VIRTUAL TABLE IF NOT EXISTS words
        USING fts5(content, content='messages', content_rowid='id')""",
    """CREATE TRIGGER IF NOT EXISTS words_come AFTER INSERT ON messages BEGIN
        INSERT INTO words(rowid, content) VALUES (new.id, new.content);
    END""",
)
ARMS: Mapping[str, Callable[[Path], Store]] = {
    "reference": Reference,
    "released": Released,
    "busy-30s": Busy30s,
    "jitter-15": Jitter15,
    "constant-1ms": Constant1ms,
}


# A worker: one process that writes ---------------------------------------------------------------


def work(arm: str, path: Path, name: str, threads: int, seconds: float) -> None:
    """Write with each thread for so long; print a list of waits in seconds for each thread.

    They go on writing for a while that does not count: a process that ends needs the processors as
    much as one that writes, and those who write last would pay for it.
    """
    store = ARMS[arm](path)
    sessions = [f"{name}-{number}" for number in range(threads)]
    for session in sessions:
        store.create(session)
    print("ready", flush=True)
    sys.stdin.readline()
    waits: list[list[float]] = [[] for _ in sessions]
    refused = [0 for _ in sessions]
    deadline_s = time.monotonic() + seconds

    def write(number: int) -> None:
        while (began_s := time.monotonic()) < deadline_s + COOL_DOWN_S:
            is_refused = False
            try:
                store.append(sessions[number], f"{TEXT}{len(waits[number])}")
            except Exception:  # noqa: BLE001  (each arm has its own way of refusing)
                is_refused = True
            if began_s < deadline_s:
                waits[number].append(time.monotonic() - began_s)
                refused[number] += is_refused

    crew = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    print(json.dumps({"waits": waits, "refused": sum(refused)}), flush=True)


def come_in(arm: str, path: Path, name: str) -> None:
    """Open the file as a newcomer, create a session, and print how long that took."""
    importing = ARMS[arm](path.with_name("warm-up.db"))  # imports are not what is measured
    importing.create(name)
    began_s = time.monotonic()
    ARMS[arm](path).create(name)
    print(time.monotonic() - began_s, flush=True)


# The bench: many processes -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """What one arm reached in one round."""

    writes_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    jain: float
    log_mib: float
    refused: int


def measure(arm: str, shape: tuple[int, int], seconds: float, env: Mapping[str, str]) -> Reading:
    """Let so many processes with so many threads write at once."""
    with (
        folder_of_a_file() as path,
        crew(arm, path, shape, seconds, env) as workers,
        watched_log(path) as log_bytes,
    ):
        start(workers)
        told = [json.loads(said(worker)) for worker in workers]
    by_thread = [waits for one in told for waits in one["waits"]]
    waits_ms = sorted(wait_s * 1000 for waits in by_thread for wait_s in waits)
    counts = [len(waits) for waits in by_thread]
    return Reading(
        writes_per_s=len(waits_ms) / seconds,
        p50_ms=quantile(waits_ms, 0.5),
        p99_ms=quantile(waits_ms, 0.99),
        p999_ms=quantile(waits_ms, 0.999),
        max_ms=waits_ms[-1],
        jain=sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts)),
        log_mib=max(log_bytes) / 2**20,
        refused=sum(one["refused"] for one in told),
    )


def newcomer_waits_ms(arm: str, seconds: float, env: Mapping[str, str]) -> list[float]:
    """While 16 processes write, let one new process after another open and create a session."""
    waits_ms: list[float] = []
    with folder_of_a_file() as path, crew(arm, path, (16, 1), seconds, env) as workers:
        start(workers)
        deadline_s = time.monotonic() + seconds - 1.0
        while time.monotonic() < deadline_s:
            with spawned(["come-in", arm, path, f"new-{len(waits_ms)}"], env) as newcomer:
                waits_ms.append(float(said(newcomer)) * 1000)
    return sorted(waits_ms)


def longest_wait_beside_a_kill_ms(arm: str, seconds: float, env: Mapping[str, str]) -> float:
    """Of 12 processes that write kill four in turn; the longest wait of the eight that stay."""
    with folder_of_a_file() as path, crew(arm, path, (12, 1), seconds, env) as workers:
        start(workers)
        for victim in workers[8:]:
            time.sleep(seconds / 6)
            victim.send_signal(signal.SIGKILL)
        told = [json.loads(said(worker)) for worker in workers[:8]]
    return 1000 * float(max(wait_s for one in told for waits in one["waits"] for wait_s in waits))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which this share of all lies."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


Worker = subprocess.Popen[str]


@contextmanager
def folder_of_a_file() -> Iterator[Path]:
    """Lend a path in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-state-db-") as folder:
        yield Path(folder) / "state.db"


@contextmanager
def crew(
    arm: str, path: Path, shape: tuple[int, int], seconds: float, env: Mapping[str, str]
) -> Iterator[list[Worker]]:
    """Lend workers that have opened the file and wait for the start."""
    processes, threads = shape
    with ExitStack() as stack:
        workers: list[Worker] = []
        for number in range(processes):
            words = ["work", arm, path, f"w{number}", threads, seconds]
            workers.append(stack.enter_context(spawned(words, env)))
            if number == 0:  # alone: not every arm survives being created by many at once
                said(workers[0])
        for worker in workers[1:]:
            said(worker)
        yield workers


@contextmanager
def spawned(words: Sequence[object], env: Mapping[str, str]) -> Iterator[Worker]:
    """Lend a process of this file, and end it."""
    command = [sys.executable, __file__, *map(str, words)]
    worker = subprocess.Popen(  # noqa: S603  (this very file)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.communicate()


def start(workers: Sequence[Worker]) -> None:
    """Let all begin."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()


def said(worker: Worker) -> str:
    """Read a worker's next line."""
    assert worker.stdout is not None
    return worker.stdout.readline()


@contextmanager
def watched_log(path: Path) -> Iterator[list[int]]:
    """Look at the length of the write-ahead log every few milliseconds, without opening it."""
    log, over, lengths = path.with_name(path.name + "-wal"), threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.005):
            lengths.append(log.stat().st_size if log.exists() else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lengths
    finally:
        over.set()
        watcher.join()


@contextmanager
def slow_syncs(sync_ms: float) -> Iterator[dict[str, str]]:
    """Lend an environment in which each sync takes so much longer. Needs `cc`."""
    if sync_ms == 0:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "slow_syncs.so"
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
        subprocess.run(command, input=_SLOW_SYNCS, text=True, check=True)  # noqa: S603  (likewise)
        yield {"LD_PRELOAD": str(library), "SYNC_US": str(int(sync_ms * 1000))}


_SLOW_SYNCS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static int slow(const char *name, int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    usleep(atoi(getenv("SYNC_US")));
    return real(fd);
}
int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
"""


def bench(arms: Sequence[str], rounds: int, seconds: float, env: Mapping[str, str]) -> None:
    """Measure all arms in turn and print the medians."""
    head = f"{'writes/s':>9}{'p50':>8}{'p99':>9}{'p99.9':>9}{'max':>9}  Jain  log/MiB  refused"
    for shape in SHAPES:
        readings: dict[str, list[Reading]] = {arm: [] for arm in arms}
        for _ in range(rounds):
            for arm in arms:
                readings[arm].append(measure(arm, shape, seconds, env))
        print(f"\n{shape[0]} processes x {shape[1]} threads; waits in ms\n{'':13}{head}")
        for arm in arms:
            print(f"{arm:13}{median(readings[arm])}")
    print(
        "\nbeside 16 that write, a newcomer's wait p50 / p90; beside a kill, the longest wait; ms"
    )
    for arm in arms:
        waits_ms = newcomer_waits_ms(arm, seconds + 1.0, env)
        killed_ms = longest_wait_beside_a_kill_ms(arm, seconds, env)
        p50_ms, p90_ms = quantile(waits_ms, 0.5), quantile(waits_ms, 0.9)
        print(f"{arm:13}{p50_ms:9.1f}{p90_ms:9.1f}{killed_ms:9.1f}", flush=True)


def median(readings: Sequence[Reading]) -> str:
    """One line of the table."""

    def of(name: str) -> float:
        return float(statistics.median(getattr(reading, name) for reading in readings))

    return (
        f"{of('writes_per_s'):9.0f}{of('p50_ms'):8.1f}{of('p99_ms'):9.1f}{of('p999_ms'):9.1f}"
        f"{of('max_ms'):9.1f}{of('jain'):6.3f}{of('log_mib'):9.1f}{of('refused'):9.0f}"
    )


def main() -> None:
    """Be the bench, or one of its workers."""
    match sys.argv[1:]:
        case ["work", arm, path, name, threads, seconds]:
            work(arm, Path(path), name, int(threads), float(seconds))
        case ["come-in", arm, path, name]:
            come_in(arm, Path(path), name)
        case words:
            parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
            parser.add_argument("--released", metavar="DIR", help="an unpacked hermes-agent")
            parser.add_argument("--rounds", type=int, default=3)
            parser.add_argument("--seconds", type=float, default=3.0)
            parser.add_argument("--sync-ms", type=float, default=0.0)
            asked = parser.parse_args(words)
            arms = [arm for arm in ARMS if arm != "released" or asked.released]
            with slow_syncs(asked.sync_ms) as env:
                agent = (
                    {"HERMES_AGENT": str(Path(asked.released).resolve())} if asked.released else {}
                )
                bench(arms, asked.rounds, asked.seconds, env | agent)


if __name__ == "__main__":
    main()
