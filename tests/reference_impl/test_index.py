"""Tests of the logged session index (S11): no ghost, no duplicate, with several writers."""

from __future__ import annotations

import itertools
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults.read_faults import ReadFaults
from reference_impl.sessions import index_files
from reference_impl.sessions.sidecar import SessionError
from reference_impl.sessions.store import SessionStore
from reference_impl.storage import files

IDS = [f"s{number}" for number in range(4)]
ACTS: dict[str, Callable[[SessionStore, str], object]] = {
    "new": lambda store, sid: store.new(sid),
    "rename": lambda store, sid: store.rename(sid, f"again{store.load(sid).version}"),
    "append": lambda store, sid: store.append(sid, {"role": "user", "content": "x"}),
    "delete": lambda store, sid: store.delete(sid),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "torn": lambda data: data[:-3],
    "no JSON": lambda data: data + b"{\n",
    "no change": lambda data: data + b"7\n",
    "no row": lambda data: data + b'["s1", {"updated_at": 1}]\n',
    "hostile": lambda data: data + b'["../s1", null]\n',
    "binary": lambda data: data + b"\xff\n",
}


@pytest.fixture(autouse=True)
def _treat_every_list_as_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_files, "SHORT_BYTES", 0)
        patch.setattr(index_files, "LOG_SHARE_MAX", 3.0)
        yield


def heads(store: SessionStore) -> list[Any]:
    """The rows that the sidecars' heads give."""
    rows = [store.files.head(sid).row() for sid in store.files.live_ids()]
    return sorted(rows, key=lambda row: (-row["updated_at"], row["session_id"]))


def log_of(store: SessionStore) -> Path:
    """The path of the log of changes."""
    return Path(store.files.folder) / "_index.log"


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(sorted(ACTS)), st.sampled_from(IDS)),
        max_size=30,
    )
)
def test_stores_sharing_a_folder_list_the_sidecars(steps: list[tuple[int, str, str]]) -> None:
    """Two stores take turns, and a third is always new: each lists exactly the sidecars."""
    with tempfile.TemporaryDirectory() as folder:
        stores = [SessionStore(folder), SessionStore(folder)]
        for number, act, sid in steps:
            store = SessionStore(folder) if number == 2 else stores[number]
            try:
                ACTS[act](store, sid)
            except SessionError:
                continue
            for each in (*stores, SessionStore(folder)):
                assert list(each.rows()) == heads(each)


def test_change_of_a_long_list_is_logged(
    tmp_path: Path,
) -> None:
    """The list is valid JSON at any moment; the log never exceeds its share of it."""
    store = SessionStore(tmp_path)
    for sid in IDS:
        store.new(sid)
    replaced = set()
    for number in range(50):
        store.rename("s1", f"t{number}")
        replaced.add((tmp_path / "_index.json").stat().st_ino)
        assert len(json.loads((tmp_path / "_index.json").read_bytes())) == len(IDS)
        if log_of(store).exists():
            list_size = (tmp_path / "_index.json").stat().st_size
            assert log_of(store).stat().st_size <= list_size * index_files.LOG_SHARE_MAX

    assert 1 < len(replaced) < 25


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_log_is_repaired_by_the_next_change(damage: str, tmp_path: Path) -> None:
    """For stores that have read the log, and for new ones; no store continues it."""
    store = SessionStore(tmp_path)
    for sid in IDS:
        store.new(sid)
    store.rename("s1", "renamed")
    store.rename("s2", "renamed")
    log = log_of(store)
    log.write_bytes(DAMAGES[damage](log.read_bytes()))
    other = SessionStore(tmp_path)

    assert list(other.rows()) == list(store.rows()) == heads(store)
    store.rename("s3", "after")
    assert list(other.rows()) == list(store.rows()) == heads(store)
    index_files.IndexFiles(str(tmp_path)).read()  # raises where anything is still damaged


def test_log_of_a_replaced_list_is_ignored(tmp_path: Path) -> None:
    """A crash between replacing the list and removing its log leaves an outdated log."""
    store = SessionStore(tmp_path)
    for sid in IDS:
        store.new(sid)
    store.rename("s1", "old")
    old = log_of(store).read_bytes()
    store.index.rebuild()
    store.rename("s1", "new")
    store.index.rebuild()
    log_of(store).write_bytes(old)

    assert list(SessionStore(tmp_path).rows()) == heads(store)
    store.rename("s2", "after")
    assert list(SessionStore(tmp_path).rows()) == list(store.rows()) == heads(store)


def test_torn_log_line_is_replaced_by_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes half a line: the next change replaces the list."""
    store = SessionStore(tmp_path)
    for sid in IDS:
        store.new(sid)
    store.rename("s1", "first")

    def full(path: str, data: bytes) -> None:
        with Path(path).open("ab") as file:
            file.write(data[:9])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "append_unsynced", full)
        store.rename("s2", "second")
    other = SessionStore(tmp_path)
    assert len(other.rows()) == len(IDS)
    store.rename("s3", "third")

    assert list(other.rows()) == list(store.rows()) == heads(store)


def lock_of(folder: Path) -> files.SharedLock:
    """The lock of the index's readers and writers, as another process takes it."""
    return files.SharedLock(str(folder / "_locks" / "index"), 5.0)


def on_disk(folder: Path) -> dict[str, index_files.Row]:
    """The rows that the index's files give to a reader of only them."""
    with lock_of(folder).held():
        news = index_files.IndexFiles(str(folder)).read()
    rows = dict(news.whole or {})
    for sid, row in news.changes:
        rows.pop(sid, None)
        if row is not None:
            rows[sid] = row
    return rows


def test_row_of_a_busy_index_follows_later(tmp_path: Path) -> None:
    """S10, S11: a save is not refused while another one has the index; its row comes later."""
    store = SessionStore(tmp_path, patience_s=0.01)
    store.new("a")
    with lock_of(tmp_path).held():
        store.new("b")
        store.delete("a")
    assert on_disk(tmp_path).keys() == {"a"}

    store.new("c")

    assert on_disk(tmp_path).keys() == {"b", "c"}


def test_concurrent_save_finds_its_row_written(tmp_path: Path) -> None:
    """S11: many threads save at once, and one of them writes the rows of all waiters."""
    stores = [SessionStore(tmp_path), SessionStore(tmp_path)]
    late: list[str] = []

    def save_often(store: SessionStore, sid: str) -> None:
        store.new(sid)
        for number in range(8):
            version = store.rename(sid, f"{number}").version
            if on_disk(tmp_path)[sid]["version"] != version:
                late.append(f"{sid} at {version}")

    threads = [
        threading.Thread(target=save_often, args=(stores[number % 2], f"s{number}"))
        for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert late == []
    assert stores[0].index.differences() == (set(), set())


def test_row_of_an_unreadable_sidecar_follows_later(tmp_path: Path) -> None:
    """S11: whichever read of a save fails, the next look at its row finds the saved session."""
    acknowledged = 0
    for at in itertools.count(1):
        store = SessionStore(tmp_path / str(at))
        store.new("a")
        with ReadFaults(tmp_path / str(at), at) as faults:
            try:
                store.append("a", {"role": "user", "content": "x"})
            except (OSError, SessionError):
                continue
        if faults.faulted_call is None:
            break
        acknowledged += 1
        assert store.index.row("a") == heads(store)[0], faults.faulted_call

    assert acknowledged


def test_older_row_of_an_unreadable_sidecar_is_whole(tmp_path: Path) -> None:
    """A row that no sidecar replaces has every field, or a start that reads it would fail."""
    SessionStore(tmp_path).new("s1")
    (tmp_path / "s1.json").write_text("{")
    older = {"session_id": "s1", "version": 1, "title": "a", "updated_at": 5.0, "message_count": 2}
    (tmp_path / "_index.json").write_text(json.dumps([older]))
    store = SessionStore(tmp_path)
    fields = SessionStore(tmp_path / "other").new("s2").row()

    (row,) = store.rows()

    assert row == {**row, **older}
    assert row.keys() == fields.keys()
