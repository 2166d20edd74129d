"""The *soak* ability: all modules of a host, with sessions that are created, used and deleted.

Every function returns when its effects are over, so that a reading of the host's sizes includes
only what remains. The watcher polls, and abandoned channels are collected, in `rest` only. A child
process that writes to the same database plays the other processes.

Stand-alone, like every adapter that runs in a process of its own: it imports the standard library
and the package `reference_impl`, found on the path.
"""

import gc
import importlib
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PATIENCE_S = 30.0
REST_S = 10.0
POLL_S = 0.002
EMPTYING = (  # containers that a host's own threads empty soon after the last act
    *("runs", "streams", "channel_runs", "run_writers"),
    *("processes_running", "process_events_pending", "process_completion_queue"),
    *("wakeup_events", "wakeup_lines", "wakeup_ready", "wakeup_timers", "wakeup_runs"),
)
AGENTS_MAX = 4
SESSIONS_MAX = 8
GRACE_S = 120.0  # after which a channel without readers is collected
FRAMES = 8
SITES_MAX = 20
CONTAINERS = (dict, list, set, deque)
HELD_MAX = 100  # entries of a container that no gauge shows; this host has fewer sessions at once
HISTORIES = {"TurnJournal": 256, "DurableMap": 256}  # classes that keep the last turns
KIB = 1024
_NOISE = """
import sys
from reference_impl.state_db.state_db import StateDb

db = StateDb(sys.argv[1])
for number, line in enumerate(sys.stdin):
    source, _, process = line.strip().partition(" ")
    session = f"{source}-{process}-{number}"
    db.create_session(session, source)
    db.append_message(session, "user", "every morning")
    db.end_session(session, "done")
    db.delete_session(session)
    print(session, flush=True)
"""


class SlowError(Exception):
    """An effect of a call did not end in time."""


class Noise:
    """Another process that creates, uses and deletes sessions in the database of `state`."""

    def __init__(self, state: Path) -> None:
        """Start nothing yet; the first `make` starts the process."""
        self._state = state
        self._process: subprocess.Popen[str] | None = None

    def make(self, source: str, environment: Mapping[str, str]) -> None:
        """Let it create, use and delete a session of that source. Raises SlowError if it ended."""
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603  the command is a constant
                [sys.executable, "-S", "-P", "-c", _NOISE, str(self._state / "state.db")],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{source} {os.getpid()}\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise SlowError("the process that writes to the database has ended")

    def close(self) -> None:
        """End the process, and wait for its end."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()


class Rest:
    """Waits until a host has done what its last act left to its own threads.

    A wakeup turn that has ended is not yet marked as delivered. A host that never comes to rest is
    waited for once; its samples show what is left.
    """

    def __init__(self) -> None:
        self._is_awaited = True

    def wait(self, sizes: Callable[[], Mapping[str, float]]) -> None:
        """Wait until the containers that empty by themselves are empty."""
        ends_s = time.monotonic() + REST_S
        while self._is_awaited and any(map(sizes().get, EMPTYING)):
            self._is_awaited = time.monotonic() < ends_s
            time.sleep(POLL_S)


class SoakAdapter:
    """One host, for one run of the soak."""

    def __init__(self, folder: Path) -> None:
        os.environ["HERMES_WEBUI_AGENT_CACHE_MAX"] = str(AGENTS_MAX)
        os.environ["HERMES_WEBUI_SESSIONS_MAX"] = str(SESSIONS_MAX)
        self._state = folder / "state"
        self._ahead_s = 0.0
        module("live.event_buffer").time = SimpleNamespace(
            monotonic=lambda: time.monotonic() + self._ahead_s
        )
        self._app = module("app").App(self._state)
        self._projections = 0
        self._watch()
        self._app.turns.recover()
        self._app.wakeups.begin()
        self._names: dict[str, str] = {}
        self._tabs: dict[str, Any] = {}
        self._noise = Noise(self._state)
        self._numbers = itertools.count()
        self._marks: list[tuple[dict[str, float], dict[tuple[str, int], int]]] = []
        self._rest = Rest()

    def _watch(self) -> None:
        """Watch the database with a watcher that counts its projections."""
        watcher = module("live.gateway_watcher")

        def project(connection: sqlite3.Connection) -> Any:
            self._projections += 1
            return watcher.project(connection)

        self._app.watcher = watcher.GatewayWatcher(self._state / "state.db", project=project)

    # Sessions

    def new(self, session: str, previous: str | None = None) -> None:
        """Create a session, and commit the memory of the previous one."""
        if previous is not None:
            self._app.commit_memory(self._names[previous])
        self._names[session] = self._app.store.new().session_id

    def chat(self, session: str, text: str) -> None:
        """Run a turn, and read its events to the end, as a browser does."""
        run = self._app.turns.start(self._names[session], text)
        reader = self._app.channels.subscribe_run(run.stream_id, lambda: None)
        self._await_idle(session)
        while reader is not None and reader.take():
            pass
        if reader is not None:
            reader.close()

    def process(self, session: str) -> None:
        """Run a turn that starts a background process, and wait for the wakeup turn of its end."""
        wakeups = self._wakeup_count(session)
        self.chat(session, f"[process=0:exit={next(self._numbers) % 2}:ready]")
        self._await(lambda: self._wakeup_count(session) > wakeups, "the wakeup")
        self._await_idle(session)

    def cancel(self, session: str) -> None:
        """Start a turn, and cancel it."""
        run = self._app.turns.start(self._names[session], "[tokens=3][sleep=900]")
        self._app.cancel(run.stream_id)
        self._await_idle(session)

    def reopen(self, session: str) -> None:
        """Open the session in a tab, read it, and close the tab."""
        id_ = self._names[session]
        reader = self._app.channels.subscribe(id_, lambda: None)
        self._app.store.load(id_)
        reader.take()
        reader.close()

    def clear(self, session: str) -> None:
        """Remove the session's messages."""
        self._app.store.clear(self._names[session])

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._app.delete(self._names.pop(session))

    def _wakeup_count(self, session: str) -> int:
        messages = self._app.store.load(self._names[session]).messages
        return sum(message.get("source") == "process_wakeup" for message in messages)

    def _await_idle(self, session: str) -> None:
        id_ = self._names[session]
        self._await(lambda: id_ not in self._app.turns.live_sessions(), "the turn")

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        if self._app.announcer.wait(is_so, PATIENCE_S):
            return
        raise SlowError(f"{what} did not end within {PATIENCE_S:g} s")

    # Idle tabs, other processes, and time

    def open_tab(self, tab: str, session: str | None = None) -> None:
        """Open a tab that reads nothing: on a session, or on the list of all."""
        channels = self._app.channels
        if session is None:
            self._tabs[tab] = channels.subscribe_sessions(lambda: None)
        else:
            self._tabs[tab] = channels.subscribe(self._names[session], lambda: None)

    def close_tab(self, tab: str) -> None:
        """Close a tab."""
        self._tabs.pop(tab).close()

    def noise(self, source: str) -> None:
        """Let another process create, use and delete a session of that source."""
        self._noise.make(source, os.environ)

    def rest(self) -> None:
        """Let time pass: the watcher polls, and channels without readers are collected."""
        self._app.watcher.look()
        self._ahead_s += GRACE_S
        self._app.channels.collect()

    # Costs

    def pid(self) -> int:
        """The host's process id."""
        return os.getpid()

    def sample(self, **_: float) -> dict[str, float]:
        """Read every size at rest, by `group/name`. Only the checker reads the arguments."""
        self._rest.wait(self._app.gauges)
        gc.collect()
        return {
            **{f"containers/{name}": size for name, size in self._app.gauges().items()},
            **{f"held/{name}": size for name, size in oversized(self._app).items()},
            **{f"files/{name}": size for name, size in file_sizes(self._state).items()},
            "watcher/projections_unasked": max(0, self._projections - 1),
            "process/blocks": sys.getallocatedblocks(),
            **{f"process/{name}": size for name, size in memory().items()},
            "process/cpu_s": time.process_time(),
            "process/threads": threading.active_count(),
            "process/fds": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        }

    # Causes of growth

    def trace(self) -> None:
        """Start to record where memory is allocated, which is slow."""
        tracemalloc.start(FRAMES)

    def mark(self) -> None:
        """Record all sizes, and the blocks of each site; call it first when the host is warm."""
        self._marks.append((self.sample(), self._allocated()))

    def sites(self, reading: str) -> list[dict[str, Any]]:
        """The sites whose blocks grew from mark to mark in proportion to the reading.

        Sites with the most even ratio come first: a leak allocates as many blocks for each entry.
        """
        self.mark()
        steps = [
            (after[0][reading] - before[0][reading], before[1], after[1])
            for before, after in pairwise(self._marks)
        ]
        ranked = []
        for site in self._marks[-1][1]:
            rates = [
                (after.get(site, 0) - before.get(site, 0)) / more
                for more, before, after in steps
                if more > 0
            ]
            if rates and min(rates) > 0:
                blocks = self._marks[-1][1][site] - self._marks[0][1].get(site, 0)
                ranked.append((min(rates) / max(rates), blocks, site))
        return [
            {"file": file, "line": line, "blocks": blocks, "evenness": round(evenness, 3)}
            for evenness, blocks, (file, line) in sorted(ranked, reverse=True)[:SITES_MAX]
        ]

    def _allocated(self) -> dict[tuple[str, int], int]:
        """Blocks in use, by the innermost line of the package in the stack that allocated them."""
        gc.collect()
        package = str(Path(module("app").__file__).parent)
        blocks: dict[tuple[str, int], int] = {}
        for traced in tracemalloc.take_snapshot().statistics("traceback"):
            frames = [frame for frame in traced.traceback if frame.filename.startswith(package)]
            if frames:
                site = (Path(frames[-1].filename).name, frames[-1].lineno)
                blocks[site] = blocks.get(site, 0) + traced.count
        return blocks

    def close(self) -> None:
        """Shut the host down, and restore the module's clock."""
        self._noise.close()
        for tab in self._tabs.values():
            tab.close()
        self._app.shut_down(PATIENCE_S)
        module("live.event_buffer").time = time


def module(name: str) -> Any:
    """Import a module of the reference implementation."""
    return importlib.import_module(f"reference_impl.{name}")


def oversized(app: Any) -> dict[str, int]:
    """Containers with more entries than any cache of this host keeps, by class and attribute.

    Every object of the package is looked at, so that also a container without a gauge is found.
    """
    found: dict[str, int] = {}
    for owner, name, size in containers(app):
        most = HISTORIES.get(owner, HELD_MAX)
        if size > most:
            found[f"{owner}.{name}"] = max(size, found.get(f"{owner}.{name}", 0))
    return found


def containers(app: Any) -> Iterator[tuple[str, str, int]]:
    """Class, attribute and size of each container that an object of the package has.

    From the application, and from what is global in the package, along attributes and members.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith("reference_impl.")]
    waiting = [app]
    for module_ in modules:
        for name, value in list(vars(module_).items()):
            if isinstance(value, CONTAINERS) and not name.startswith("__"):
                yield module_.__name__.rpartition(".")[2], name, len(value)
            waiting.append(value)
    seen: set[int] = set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (*CONTAINERS, tuple)):
            waiting += item.values() if isinstance(item, dict) else item
        elif type(item).__module__.startswith("reference_impl."):
            for name, value in _attributes(item):
                if isinstance(value, CONTAINERS):
                    yield type(item).__name__, name, len(value)
                waiting.append(value)


def _attributes(item: Any) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(item, "__dict__", {}).items())
    for kind in type(item).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(item, name):
                yield name, getattr(item, name)


def memory() -> dict[str, int]:
    """Resident bytes, and those of them that no other process shares."""
    sizes = {"rss_bytes": 0, "uss_bytes": 0}
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, *size = line.split()
        if name == "Rss:":
            sizes["rss_bytes"] = int(size[0]) * KIB
        elif name.startswith("Private_"):
            sizes["uss_bytes"] += int(size[0]) * KIB
    return sizes


def file_sizes(state: Path) -> dict[str, int]:
    """Bytes of all files below `state`, by kind.

    It makes no `Path`: Python 3.12 interns each name in one, which would grow the host's memory.
    """
    kinds = dict.fromkeys(_KINDS.values(), 0)
    for directory, _, names in os.walk(state):
        folders = os.path.relpath(directory, state).split("/")
        for name in names:
            with suppress(FileNotFoundError):
                kinds[_kind(*folders, name)] += os.stat(f"{directory}/{name}").st_size  # noqa: PTH116 - see above
    return kinds


_KINDS = {
    "state.db": "state_db_bytes",
    "state.db-wal": "state_db_wal_bytes",
    "_turn_journal.jsonl": "turn_journal_bytes",
    "_run_journal": "run_journal_bytes",
    "ledger.jsonl": "process_ledger_bytes",
    "sessions": "sidecar_bytes",
    "": "other_bytes",
}


def _kind(*parts: str) -> str:
    """The kind of a file, by its name, else by its innermost known folder."""
    return next(_KINDS[part] for part in (*reversed(parts), "") if part in _KINDS)


open_adapter = SoakAdapter
