"""Names: whatever is made under a name of its own, and is gone again, leaves nothing of it behind.

A host makes a name for each session, run, process and temporary file, for months. On Python 3.12
what is interned stays for ever, and `pathlib` interns each part of a path: where the rooms named
their files by it, a session left 4 blocks there, and a run 2. On 3.11 and 3.13 interned strings go
when nobody uses them, so that there these tests find only what the rooms keep themselves.
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
from reference_impl.app import Rooms
from reference_impl.sessions.store import SessionStore
from reference_impl.storage import files
from reference_impl.turns.journal import RunJournal
from tests.support.assembled_app import LONG_S

STRETCHES = 4
BLOCKS_MAX = 0.2  # a name; what stays with each name is 1 at least

Act = Callable[[str], object]

_numbers = itertools.count()  # a name that was interned once costs nothing again


def left_a_name(act: Act, names: int, reading: Callable[[], int] = sys.getallocatedblocks) -> float:
    """How much stays for each new name, in the thriftiest stretch of several; allocated blocks.

    What fills once, or grows by leaps, is in one stretch; what stays with each name is in all.
    """
    sizes: list[int] = []
    for _ in range(1 + STRETCHES):
        for _ in range(names):
            act(f"name-{next(_numbers)}")
        gc.collect()
        sizes.append(reading())
    return min(after - before for before, after in itertools.pairwise(sizes)) / names


def test_what_stays_with_a_name_is_seen() -> None:
    """One who remembers every name is found, and one who remembers the last ones is not."""
    every, last = [""], [""] * 100

    def remember_the_last(name: str) -> None:
        last.append(name)
        last.pop(0)

    assert left_a_name(every.append, 500) >= 1
    assert left_a_name(remember_the_last, 500) < BLOCKS_MAX


def test_a_temporary_file_leaves_nothing(tmp_path: Path) -> None:
    """H4: files are written beside themselves, renamed and removed."""

    def act(name: str) -> None:
        path, other = f"{tmp_path}/{name}", f"{tmp_path}/{name}.bak"
        files.put(path, b"1")
        files.put_lightly(path, b"2")
        files.rename(path, other)
        files.remove(other)

    assert left_a_name(act, 400) < BLOCKS_MAX


def test_a_session_leaves_nothing(tmp_path: Path) -> None:
    """H4: sessions are made, written to, listed and deleted."""
    store = SessionStore(tmp_path)

    def act(name: str) -> None:
        store.new(name)
        store.append(name, {"role": "user", "content": "hello"})
        store.rows()
        store.delete(name)

    assert left_a_name(act, 200) < BLOCKS_MAX


def test_a_run_leaves_nothing(tmp_path: Path) -> None:
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

    assert left_a_name(act, 200) < BLOCKS_MAX


def test_a_process_leaves_nothing(tmp_path: Path) -> None:
    """H4: processes start and end, and their ends are consumed."""
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
        assert left_a_name(act, 60) < BLOCKS_MAX
    finally:
        registry.close()


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rooms]:
    """All rooms, whose caches are full soon."""
    monkeypatch.setenv("HERMES_WEBUI_AGENT_CACHE_MAX", "4")
    monkeypatch.setenv("HERMES_WEBUI_SESSIONS_MAX", "8")
    rooms = Rooms(tmp_path)
    rooms.begin()
    yield rooms
    rooms.shut_down(LONG_S)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="nobody counts interned strings there")
def test_a_turn_interns_nothing(rooms: Rooms) -> None:
    """H4: a session has a turn that is looked at, and is deleted: all rooms together.

    Blocks would be no measure: `sqlite3` lets go of old cursors by the hundred.
    """

    def act(name: str) -> None:
        rooms.store.new(name)
        run = rooms.turns.start(name, "hello")
        assert rooms.herald.wait(lambda: name not in rooms.turns.live_sessions(), LONG_S)
        rooms.read(name, f"{run.stream_id}:0")
        rooms.delete(name)

    if sys.version_info >= (3, 12):
        assert left_a_name(act, 40, sys.getunicodeinternedsize) == 0
