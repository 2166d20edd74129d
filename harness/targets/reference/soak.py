"""The *soak* ability: all rooms of a host, lived in by sessions that come and go.

Every function returns when what it caused is over, so that a reading of the host's sizes finds
only what stays. Two clocks are ours: the watcher looks, and abandoned channels are collected, when
the host *rests*. Other processes' noise comes from a child that writes to the same database.

Stand-alone like every adapter that is run in a process of its own: the standard library, and the
package `reference_impl`, found on the path.
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
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PATIENCE_S = 30.0
AGENTS_MAX = 4
SESSIONS_MAX = 8
GRACE_S = 120.0  # after which a channel that nobody reads is collected
FRAMES = 8
SITES_MAX = 20
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
    """What was caused did not come to its end in time."""


class Noise:
    """Another process that makes, uses and deletes sessions in the database of `state`."""

    def __init__(self, state: Path) -> None:
        """Start it when it is first told to."""
        self._state = state
        self._process: subprocess.Popen[str] | None = None

    def make(self, source: str, environment: Mapping[str, str]) -> None:
        """Have it make, use and delete a session of that source. Raises SlowError if it is gone."""
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603  the command is our own
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
            raise SlowError("the other process is gone")

    def close(self) -> None:
        """Let it end, and wait for that."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()


class SoakAdapter:
    """One host, through one life."""

    def __init__(self, folder: Path) -> None:
        os.environ["HERMES_WEBUI_AGENT_CACHE_MAX"] = str(AGENTS_MAX)
        os.environ["HERMES_WEBUI_SESSIONS_MAX"] = str(SESSIONS_MAX)
        self._state = folder / "state"
        self._ahead_s = 0.0
        room("live.event_buffer").time = SimpleNamespace(
            monotonic=lambda: time.monotonic() + self._ahead_s
        )
        self._rooms = room("app").Rooms(self._state)
        self._projections = 0
        self._watch()
        self._rooms.turns.recover()
        self._rooms.wakeups.begin()
        self._names: dict[str, str] = {}
        self._tabs: dict[str, Any] = {}
        self._noise = Noise(self._state)
        self._numbers = itertools.count()
        self._marks: list[tuple[dict[str, float], dict[tuple[str, int], int]]] = []

    def _watch(self) -> None:
        """Watch the database by a watcher of our own, which counts its projections."""
        watcher = room("live.gateway_watcher")

        def project(connection: sqlite3.Connection) -> Any:
            self._projections += 1
            return watcher.project(connection)

        self._rooms.watcher = watcher.GatewayWatcher(self._state / "state.db", project=project)

    # Sessions

    def new(self, session: str, previous: str | None = None) -> None:
        """Make a session; the one before it comes to a boundary."""
        if previous is not None:
            self._rooms.commit_memory(self._names[previous])
        id_ = self._names[session] = self._rooms.store.new().session_id
        self._rooms.wakeups.index(f"key-{id_}", id_)

    def chat(self, session: str, text: str) -> None:
        """Have a turn, and read it to its end as a browser does."""
        run = self._rooms.turns.start(self._names[session], text)
        reader = self._rooms.channels.subscribe_run(run.stream_id, lambda: None)
        self._await_idle(session)
        while reader is not None and reader.take():
            pass
        if reader is not None:
            reader.close()

    def process(self, session: str) -> None:
        """Have a turn that starts a background process, and the turn that its end begins."""
        woken = self._woken(session)
        self.chat(session, f"[process=0:exit={next(self._numbers) % 2}:ready]")
        self._await(lambda: self._woken(session) > woken, "the wakeup")
        self._await_idle(session)

    def cancel(self, session: str) -> None:
        """Have a turn, and cancel it."""
        run = self._rooms.turns.start(self._names[session], "[tokens=3][sleep=900]")
        self._rooms.cancel(run.stream_id)
        self._await_idle(session)

    def reopen(self, session: str) -> None:
        """Open the session in a tab, look at it, and close the tab."""
        id_ = self._names[session]
        reader = self._rooms.channels.subscribe(id_, lambda: None)
        self._rooms.store.load(id_)
        reader.take()
        reader.close()

    def clear(self, session: str) -> None:
        """Remove its messages."""
        self._rooms.store.clear(self._names[session])

    def delete(self, session: str) -> None:
        """Delete it."""
        self._rooms.delete(self._names.pop(session))

    def _woken(self, session: str) -> int:
        said = self._rooms.store.load(self._names[session]).messages
        return sum(message.get("source") == "process_wakeup" for message in said)

    def _await_idle(self, session: str) -> None:
        id_ = self._names[session]
        self._await(lambda: id_ not in self._rooms.turns.live_sessions(), "the turn")

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        if self._rooms.herald.wait(is_so, PATIENCE_S):
            return
        raise SlowError(f"{what} did not end within {PATIENCE_S:g} s")

    # Idle tabs, other processes, and time

    def open_tab(self, tab: str, session: str | None = None) -> None:
        """Open a tab that reads nothing: on a session, or on the list of all."""
        channels = self._rooms.channels
        if session is None:
            self._tabs[tab] = channels.subscribe_sessions(lambda: None)
        else:
            self._tabs[tab] = channels.subscribe(self._names[session], lambda: None)

    def close_tab(self, tab: str) -> None:
        """Close a tab."""
        self._tabs.pop(tab).close()

    def noise(self, source: str) -> None:
        """Have another process make, use and delete a session of that source."""
        self._noise.make(source, os.environ)

    def rest(self) -> None:
        """Let time pass: the watcher looks, and channels that nobody reads are collected."""
        self._rooms.watcher.look()
        self._ahead_s += GRACE_S
        self._rooms.channels.collect()

    # What it costs

    def pid(self) -> int:
        """The host's process id."""
        return os.getpid()

    def sample(self, **_: float) -> dict[str, float]:
        """Read every size; `group/name` to number. What is told with it is for the judge."""
        gc.collect()
        return {
            **{f"containers/{name}": size for name, size in self._rooms.gauges().items()},
            **{f"files/{name}": size for name, size in file_sizes(self._state).items()},
            "watcher/projections_unasked": max(0, self._projections - 1),
            "process/blocks": sys.getallocatedblocks(),
            **{f"process/{name}": size for name, size in memory().items()},
            "process/cpu_s": time.process_time(),
            "process/threads": threading.active_count(),
            "process/fds": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        }

    # Where it comes from

    def trace(self) -> None:
        """Note from now on where memory is allocated, which is slow."""
        tracemalloc.start(FRAMES)

    def mark(self) -> None:
        """Remember all sizes, and how much each site has by now; first when the host is warm."""
        self._marks.append((self.sample(), self._allocated()))

    def sites(self, reading: str) -> list[dict[str, Any]]:
        """Sites that grew from mark to mark as the reading did: so many blocks for each more.

        The most even come first: a leak has as many blocks for an entry at all times.
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
        """Blocks that stay, by the innermost line of the package in the stack that made them."""
        gc.collect()
        package = str(Path(room("app").__file__).parent)
        blocks: dict[tuple[str, int], int] = {}
        for traced in tracemalloc.take_snapshot().statistics("traceback"):
            ours = [frame for frame in traced.traceback if frame.filename.startswith(package)]
            if ours:
                site = (Path(ours[-1].filename).name, ours[-1].lineno)
                blocks[site] = blocks.get(site, 0) + traced.count
        return blocks

    def close(self) -> None:
        """Shut the host down, and give the room its clock back."""
        self._noise.close()
        for tab in self._tabs.values():
            tab.close()
        self._rooms.shut_down(PATIENCE_S)
        room("live.event_buffer").time = time


def room(name: str) -> Any:
    """A module of the reference."""
    return importlib.import_module(f"reference_impl.{name}")


def memory() -> dict[str, int]:
    """What is resident, and what of it would be freed if this process ended: shared by nobody."""
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

    Makes a `Path` of none: Python 3.12 keeps each name in it for ever, and we are in the host.
    """
    kinds = dict.fromkeys(_KINDS.values(), 0)
    for place, _, names in os.walk(state):
        folders = os.path.relpath(place, state).split("/")
        for name in names:
            with suppress(FileNotFoundError):
                kinds[_kind(*folders, name)] += os.stat(f"{place}/{name}").st_size  # noqa: PTH116 - as said
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
    """By its name, or else by the innermost folder that is known."""
    return next(_KINDS[part] for part in (*reversed(parts), "") if part in _KINDS)


open_adapter = SoakAdapter
