"""Tests that a name which was used and deleted leaves no memory behind (H4).

A host makes a name for each session, run, process and temporary file, for months. On Python 3.12
interned strings are never freed, and `pathlib` interns each part of a path: when components built
paths with it, each session left 4 blocks, and each run 2. On 3.11 and 3.13 unused interned strings
are freed, so there these tests detect only what the components themselves retain.
"""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reference_impl.agents.processes import ProcessRegistry
from reference_impl.app import App
from reference_impl.sessions.store import SessionStore
from reference_impl.storage import files
from reference_impl.turns.journal import RunJournal
from tests.support.assembled_app import LONG_S

STRETCHES = 4
BLOCKS_MAX = 0.2  # per name; a leak per name is 1 at least

Act = Callable[[str], object]

_numbers = itertools.count()  # never repeat a name: interning it again would cost nothing


def blocks_per_name(
    act: Act, names: int, reading: Callable[[], int] = sys.getallocatedblocks
) -> float:
    """The allocated blocks that stay per new name, in the best of several stretches.

    What fills once, or grows in steps, is in one stretch; a leak per name is in all of them.
    """
    sizes: list[int] = []
    for _ in range(1 + STRETCHES):
        for _ in range(names):
            act(f"name-{next(_numbers)}")
        gc.collect()
        sizes.append(reading())
    return min(after - before for before, after in itertools.pairwise(sizes)) / names


def test_leak_per_name_is_detected() -> None:
    """A function that keeps every name is detected, and one that keeps the last ones is not."""
    every, last = [""], [""] * 100

    def keep_the_last(name: str) -> None:
        last.append(name)
        last.pop(0)

    assert blocks_per_name(every.append, 500) >= 1
    assert blocks_per_name(keep_the_last, 500) < BLOCKS_MAX


def test_temporary_file_leaves_no_memory(tmp_path: Path) -> None:
    """H4: files are written, renamed and removed."""

    def act(name: str) -> None:
        path, other = f"{tmp_path}/{name}", f"{tmp_path}/{name}.bak"
        files.put(path, b"1")
        files.put_unsynced(path, b"2")
        files.rename(path, other)
        files.remove(other)

    assert blocks_per_name(act, 400) < BLOCKS_MAX


def test_session_leaves_no_memory(tmp_path: Path) -> None:
    """H4: sessions are made, written to, listed and deleted."""
    store = SessionStore(tmp_path)

    def act(name: str) -> None:
        store.new(name)
        store.append(name, {"role": "user", "content": "hello"})
        store.rows()
        store.delete(name)

    assert blocks_per_name(act, 200) < BLOCKS_MAX


def test_run_leaves_no_memory(tmp_path: Path) -> None:
    """H4: runs are written, read and retired, of one session or of one that is deleted."""
    runs = RunJournal(tmp_path)

    def show(session_id: str, stream_id: str) -> None:
        writer = runs.begin(session_id, stream_id, lambda _: None)
        writer.emit("token", {"text": "a"})
        writer.finish("done", [("stream_end", {})])
        runs.read(session_id, f"{stream_id}:1")

    def act(name: str) -> None:
        show("always", name)
        show(name, name)
        runs.remove_session(name)

    assert blocks_per_name(act, 200) < BLOCKS_MAX


def test_process_leaves_no_memory(tmp_path: Path) -> None:
    """H4: processes start and end, and their events are consumed."""
    registry = ProcessRegistry(tmp_path)
    ended = threading.Semaphore(0)
    registry.listen(ended.release)

    def act(_: str) -> None:
        registry.spawn("true")
        assert ended.acquire(timeout=LONG_S)
        event = registry.take()
        assert event is not None
        registry.mark_consumed(event.event_id)

    try:
        assert blocks_per_name(act, 60) < BLOCKS_MAX
    finally:
        registry.close()


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """The whole app, with small caches."""
    monkeypatch.setenv("HERMES_WEBUI_AGENT_CACHE_MAX", "4")
    monkeypatch.setenv("HERMES_WEBUI_SESSIONS_MAX", "8")
    app = App(tmp_path)
    app.begin()
    yield app
    app.shut_down(LONG_S)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="interned strings are not counted there")
def test_turn_interns_no_string(app: App) -> None:
    """H4: a session has a turn that is read, and is deleted: all components together.

    Blocks would be no measure: `sqlite3` frees old cursors by the hundred.
    """

    def act(name: str) -> None:
        app.store.new(name)
        run = app.turns.start(name, "hello")
        assert app.announcer.wait(lambda: name not in app.turns.live_sessions(), LONG_S)
        app.read(name, f"{run.stream_id}:0")
        app.delete(name)

    if sys.version_info >= (3, 12):
        assert blocks_per_name(act, 40, sys.getunicodeinternedsize) == 0
