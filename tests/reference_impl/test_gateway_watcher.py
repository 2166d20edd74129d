"""The reference's gateway watcher keeps G1 to G4."""

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
from reference_impl.state_db.state_db import Draft, StateDb

SHOWN = ("cli", "telegram")
HIDDEN = ("cron", "webui")


def sleep_on() -> None:
    """Nobody waits for this reader's wake."""


def lists(reader: Subscription) -> list[Any]:
    """Every list that was announced since."""
    taken = itertools.chain.from_iterable(iter(reader.take, []))
    return [frame.data["sessions"] for frame in taken]


class Projector:
    """Projects as the watcher does, counts how often, and fails when told to."""

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
    """Two sessions of each source; the first of each is the older one."""
    for source in SHOWN + HIDDEN:
        for number in (1, 2):
            state.create_session(f"{source}{number}", source)
            state.replace_messages(f"{source}{number}", [Draft("user", "one"), Draft("user", "2")])


def rewritten(column: str) -> Callable[[StateDb, str], None]:
    """Rewrite messages in place, behind every API: no new ids, the same count."""

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
def test_any_change_of_a_shown_session_is_announced(
    state: StateDb, watcher: GatewayWatcher, change: str, number: int
) -> None:
    """G1: also a rewrite with the same count, and of an older session than the latest."""
    filled(state)
    watcher.look()
    reader = watcher.subscribe(sleep_on)
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
def test_what_is_not_shown_costs_no_projection(
    state: StateDb, watcher: GatewayWatcher, projector: Projector, change: str, source: str
) -> None:
    """G2: sessions of cron and of the web UI itself do not count as change."""
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
def test_after_two_looks_the_last_list_is_the_truth(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, int, bool]]
) -> None:
    """G1: whatever is done, in whatever order and however often somebody looks."""
    path = tmp_path_factory.mktemp("watched") / "state.db"
    watcher = GatewayWatcher(path)
    reader = watcher.subscribe(sleep_on)
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


def test_quiet_costs_nothing(state: StateDb, watcher: GatewayWatcher, projector: Projector) -> None:
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
def test_a_failed_projection_keeps_the_last_list_and_is_tried_again(
    state: StateDb, watcher: GatewayWatcher, projector: Projector, failure: str
) -> None:
    """G3: nothing is announced, least of all an empty list; the change is not forgotten."""
    filled(state)
    watcher.look()
    reader = watcher.subscribe(sleep_on)
    (good,) = lists(reader)
    projector.failure = OSError("disk") if failure == "raises" else None
    projector.has_nothing = failure == "has nothing"
    state.set_title("cli1", "renamed")

    assert not watcher.look()
    assert lists(reader) == []
    assert lists(watcher.subscribe(sleep_on)) == [good]

    projector.failure, projector.has_nothing = None, False
    assert watcher.look()
    assert lists(reader)[0][0]["session_id"] in {"cli1", "telegram2"}


def test_a_file_that_goes_or_breaks_empties_no_list(path: Path, watcher: GatewayWatcher) -> None:
    """G3: missing, garbage and replaced files; the last list stands until there is another."""
    assert not watcher.look()
    with StateDb(path) as state:
        filled(state)
        assert watcher.look()
    reader = watcher.subscribe(sleep_on)
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


def test_stopping_ends_every_subscriber_also_one_that_comes_meanwhile(
    state: StateDb, path: Path
) -> None:
    """G4: nobody waits for a watcher that is gone.

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
            woken = threading.Event()
            readers.append((watcher.subscribe(woken.set), woken))
            if number == 100:
                has_begun.set()

    subscriber = threading.Thread(target=subscribe)
    subscriber.start()
    assert has_begun.wait(30)
    watcher.stop()
    subscriber.join(30)

    assert not watcher.is_running
    for reader, woken in readers:
        while reader.take():
            assert woken is not None
        assert reader.is_over


def test_a_running_watcher_announces_by_itself(state: StateDb, path: Path) -> None:
    """G1: on its own thread, to a subscriber that sleeps until it is woken."""
    watcher = GatewayWatcher(path, poll_s=0.001)
    watcher.start()
    try:
        woken = threading.Event()
        reader = watcher.subscribe(woken.set)
        lists(reader)
        state.create_session("new", "cli")
        while not any(announced for announced in lists(reader)):
            assert woken.wait(30)
            woken.clear()
    finally:
        watcher.stop()
