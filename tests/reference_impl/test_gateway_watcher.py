"""Tests of the gateway watcher (G1 to G4)."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_impl.live.event_buffer import Subscription
from reference_impl.live.gateway_watcher import GatewayWatcher, Shown, project
from reference_impl.state_db.records import Draft
from reference_impl.state_db.state_db import StateDb

SHOWN = ("cli", "telegram")
HIDDEN = ("cron", "webui")


def ignore_wake() -> None:
    """Ignore the wake: the test takes by itself."""


def lists(reader: Subscription) -> list[Any]:
    """Every list that was announced since the last call."""
    taken = itertools.chain.from_iterable(iter(reader.take, []))
    return [frame.data["sessions"] for frame in taken]


class Projector:
    """Projects as the watcher does, counts its calls, and fails on demand."""

    def __init__(self) -> None:
        self.calls = 0
        self.failure: BaseException | None = None
        self.has_nothing = False

    def __call__(self, connection: sqlite3.Connection) -> Shown | None:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return None if self.has_nothing else project(connection)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def state(path: Path) -> Iterator[StateDb]:
    with StateDb(path, synchronous="NORMAL") as state:
        yield state


@pytest.fixture
def projector() -> Projector:
    return Projector()


@pytest.fixture
def watcher(path: Path, projector: Projector) -> Iterator[GatewayWatcher]:
    watcher = GatewayWatcher(path, project=projector)
    yield watcher
    watcher.stop()


def filled(state: StateDb) -> None:
    """Make two sessions of each source; the first of each is the older one."""
    for source in SHOWN + HIDDEN:
        for number in (1, 2):
            state.create_session(f"{source}{number}", source)
            state.replace_messages(f"{source}{number}", [Draft("user", "one"), Draft("user", "2")])


def rewritten(column: str) -> Callable[[StateDb, str], None]:
    """Rewrite messages in place, behind every API: same ids, same count."""

    def rewrite(state: StateDb, session: str) -> None:
        with sqlite3.connect(state._path) as connection:
            connection.execute(
                f"UPDATE messages SET {column} WHERE session_id = ?",  # noqa: S608 - our own
                (session,),
            )
        connection.close()

    return rewrite


CHANGES: dict[str, Callable[[StateDb, str], object]] = {
    "renamed": lambda state, session: state.set_title(session, f"title of {session}"),
    "ended": lambda state, session: state.end_session(session, "done"),
    "message added": lambda state, session: state.append_message(session, "user", "more"),
    "rewritten": lambda state, session: state.replace_messages(
        session, [Draft("user", "one"), Draft("user", "2")]
    ),
    "new timestamps": rewritten("timestamp = timestamp + 1"),
    "new content": rewritten("content = content || '!'"),
    "deleted": lambda state, session: state.delete_session(session),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("number", [1, 2])
def test_change_of_a_listed_session_is_announced(
    state: StateDb, watcher: GatewayWatcher, change: str, number: int
) -> None:
    """G1: also a rewrite with the same count, and of an older session than the latest."""
    filled(state)
    watcher.look()
    reader = watcher.subscribe(ignore_wake)
    lists(reader)

    CHANGES[change](state, f"cli{number}")
    watcher.look()
    watcher.look()

    announced = lists(reader)
    assert len(announced) == 1
    with sqlite3.connect(state._path) as connection:
        assert announced[0] == project(connection)
    connection.close()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("source", HIDDEN)
def test_change_of_a_hidden_session_costs_no_projection(
    state: StateDb, watcher: GatewayWatcher, projector: Projector, change: str, source: str
) -> None:
    """G2: changes of cron and web UI sessions do not count."""
    filled(state)
    watcher.look()
    before = projector.calls

    CHANGES[change](state, f"{source}1")
    state.create_session("another", source)

    assert not watcher.look()
    assert projector.calls == before


@settings(max_examples=40, deadline=None)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(sorted(CHANGES)),
            st.sampled_from(SHOWN + HIDDEN),
            st.integers(1, 2),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_last_list_after_two_looks_is_current(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, int, bool]]
) -> None:
    """G1: any changes, in any order, with any number of looks between."""
    path = tmp_path_factory.mktemp("watched") / "state.db"
    watcher = GatewayWatcher(path)
    reader = watcher.subscribe(ignore_wake)
    with StateDb(path, synchronous="NORMAL") as state:
        filled(state)
        for change, source, number, looks in changes:
            if state.get_session(f"{source}{number}") is not None:
                CHANGES[change](state, f"{source}{number}")
            if looks:
                watcher.look()
        watcher.look()
        watcher.look()
        announced = lists(reader)
        with sqlite3.connect(path) as connection:
            assert announced[-1] == project(connection)
        connection.close()
    watcher.stop()


def test_look_without_a_commit_reads_no_marks(
    state: StateDb, watcher: GatewayWatcher, projector: Projector
) -> None:
    """G2: without a commit, not even the marks are read."""
    filled(state)
    assert watcher.look()
    statements: list[str] = []
    assert watcher._connection is not None
    watcher._connection.set_trace_callback(statements.append)

    assert not any(watcher.look() for _ in range(100))

    assert projector.calls == 1
    assert set(statements) == {"PRAGMA data_version"}


@pytest.mark.parametrize("failure", ["raises", "has nothing"])
def test_failed_projection_keeps_the_list_and_is_retried(
    state: StateDb, watcher: GatewayWatcher, projector: Projector, failure: str
) -> None:
    """G3: nothing is announced, least of all an empty list; the change is announced later."""
    filled(state)
    watcher.look()
    reader = watcher.subscribe(ignore_wake)
    (good,) = lists(reader)
    projector.failure = OSError("disk") if failure == "raises" else None
    projector.has_nothing = failure == "has nothing"
    state.set_title("cli1", "renamed")

    assert not watcher.look()
    assert lists(reader) == []
    assert lists(watcher.subscribe(ignore_wake)) == [good]

    projector.failure, projector.has_nothing = None, False
    assert watcher.look()
    assert lists(reader)[0][0]["session_id"] in {"cli1", "telegram2"}


def test_missing_or_broken_file_keeps_the_list(path: Path, watcher: GatewayWatcher) -> None:
    """G3: missing, garbage and replaced files; the last list stays valid until the next one."""
    assert not watcher.look()
    with StateDb(path) as state:
        filled(state)
        assert watcher.look()
    reader = watcher.subscribe(ignore_wake)
    assert len(lists(reader)[0]) == 4

    for leftover in path.parent.glob("state.db*"):
        leftover.unlink()
    assert not watcher.look()
    path.write_bytes(b"garbage" * 1000)
    assert not watcher.look()
    path.unlink()
    with StateDb(path) as state:
        state.create_session("new", "cli")
        assert watcher.look()

    assert [row["session_id"] for row in lists(reader)[0]] == ["new"]


def test_stop_ends_present_and_concurrent_subscribers(state: StateDb, path: Path) -> None:
    """G4: no subscriber waits for a stopped watcher.

    subscriber: |- subscribe -| ... |- subscribe -| ... |- subscribe -|
    watcher:                     |----- stop -----|
    """
    filled(state)
    watcher = GatewayWatcher(path, poll_s=0.001)
    watcher.start()
    readers: list[tuple[Subscription, threading.Event]] = []
    has_begun = threading.Event()

    def subscribe() -> None:
        for number in range(400):
            wake = threading.Event()
            readers.append((watcher.subscribe(wake.set), wake))
            if number == 100:
                has_begun.set()

    subscriber = threading.Thread(target=subscribe)
    subscriber.start()
    assert has_begun.wait(30)
    watcher.stop()
    subscriber.join(30)

    assert not watcher.is_running
    for reader, wake in readers:
        while reader.take():
            assert wake is not None
        assert reader.is_over


def test_running_watcher_announces_changes_by_itself(state: StateDb, path: Path) -> None:
    """G1: on its own thread, to a subscriber that sleeps until it is wake."""
    watcher = GatewayWatcher(path, poll_s=0.001)
    watcher.start()
    try:
        wake = threading.Event()
        reader = watcher.subscribe(wake.set)
        lists(reader)
        state.create_session("new", "cli")
        while not any(announced for announced in lists(reader)):
            assert wake.wait(30)
            wake.clear()
    finally:
        watcher.stop()
