"""Tests of the session store and its recovery (S1 to S12, A6)."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults.simulated_disk import (
    Fault,
    Image,
    every_crash_point,
    every_failure,
    fail_from,
    fail_once,
    shorten,
)
from reference_impl.sessions.recovery import Kind, audit, recover_all
from reference_impl.sessions.session_files import InvalidSessionIdError, UnknownSessionError
from reference_impl.sessions.sidecar import (
    Message,
    Session,
    SessionError,
    SidecarDamagedError,
    decode,
    encode,
)
from reference_impl.sessions.store import (
    MetadataOnlyError,
    SaveRefusedError,
    SessionStore,
    StaleCopyError,
)
from reference_impl.sessions.titles import OWN_CHARS, own_title
from reference_impl.storage import files
from reference_impl.storage.files import LockBusyError, SharedLock

FORK = multiprocessing.get_context("fork")


def user_messages(*texts: str) -> tuple[Message, ...]:
    return tuple({"role": "user", "content": text} for text in texts)


def texts(session: Session) -> list[str]:
    return [message["content"] for message in session.messages]


def ids(store: SessionStore) -> list[str]:
    return [row["session_id"] for row in store.rows()]


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path)


def with_messages(store: SessionStore, sid: str, *contents: str) -> Session:
    store.new(sid)
    return store.append(sid, *user_messages(*contents))


def shrink(store: SessionStore, sid: str, keep: int) -> Session:
    """Shrink a session as a buggy writer would: the user did not ask for it."""
    session = store.load(sid)
    return store.save(replace(session, messages=session.messages[:keep]))


def folder_of(store: SessionStore) -> Path:
    return Path(store.files.folder)


def truncate_file(store: SessionStore, sid: str) -> bytes:
    path = folder_of(store) / f"{sid}.json"
    torn = path.read_bytes()[:-10]
    path.write_bytes(torn)
    return torn


# Saved sessions


def test_append_is_on_disk_metadata_first(store: SessionStore) -> None:
    """S2: a second store on the folder reads an acknowledged append; metadata come first."""
    with_messages(store, "s1", "one", "two")

    other = SessionStore(store.files.folder)

    assert texts(other.load("s1")) == ["one", "two"]
    plain = json.loads((folder_of(store) / "s1.json").read_text())
    first, *_, last = plain
    assert (first, last) == ("session_id", "messages")


def test_temporary_file_is_named_by_session_and_thread(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1: `<sid>.tmp.<pid>.<tid>`, and it does not stay."""
    renamed: list[str] = []
    real = os.replace

    def spy(source: str, target: str) -> None:
        renamed.append(Path(source).name)
        real(source, target)

    monkeypatch.setattr(os, "replace", spy)
    store.new("s1")

    assert f"s1.tmp.{os.getpid()}.{threading.get_ident()}" in renamed
    assert not [*folder_of(store).glob("*.tmp.*")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    title=st.text(st.characters(codec=None)),
    messages=st.lists(st.dictionaries(st.text(), JSON), max_size=3),
    extra=st.dictionaries(st.text().map("x-{}".format), JSON, max_size=3),
)
def test_sidecar_round_trip_keeps_the_session(
    title: str, messages: list[Message], extra: dict[str, object]
) -> None:
    """Any JSON goes through a sidecar unchanged, lone surrogates included."""
    session = Session(session_id="s", version=3, title=title, messages=(*messages,), extra=extra)

    assert decode(encode(session), "s") == session


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_torn_sidecar_is_damaged(data: st.DataObject) -> None:
    """S1: a part of a sidecar, of any length, is damaged, not shorter."""
    whole = encode(Session(session_id="s", messages=user_messages("one", "two")))
    torn = whole[: data.draw(st.integers(0, len(whole.rstrip()) - 1))]

    with pytest.raises(SidecarDamagedError):
        decode(torn, "s")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        '"x"',
        "[" * 100_000,
        '{"session_id": "other", "messages": []}',
        '{"session_id": "s1"}',
        '{"session_id": "s1", "messages": {}}',
        '{"session_id": "s1", "messages": ["text"]}',
        '{"session_id": "s1", "version": "3", "messages": []}',
        '{"session_id": "s1", "updated_at": NaN, "messages": []}',
        '{"session_id": "s1", "version": true, "messages": []}',
    ],
)
def test_sidecar_of_another_shape_is_damaged(store: SessionStore, text: str) -> None:
    """A sidecar of another shape is a clear error, and is not changed."""
    (folder_of(store) / "s1.json").write_text(text)

    with pytest.raises(SidecarDamagedError):
        store.load("s1")
    with pytest.raises(SidecarDamagedError):
        store.load_metadata_only("s1")
    with pytest.raises(SidecarDamagedError):
        store.append("s1", *user_messages("x"))
    assert (folder_of(store) / "s1.json").read_text() == text


def test_foreign_sidecar_layout_survives_a_save(store: SessionStore) -> None:
    """Unknown metadata and any white space survive a save."""
    plain = {"session_id": "s1", "title": "old", "model": "m", "messages": [*user_messages("one")]}
    (folder_of(store) / "s1.json").write_text(json.dumps(plain))

    assert store.load_metadata_only("s1").message_count == 1
    store.append("s1", *user_messages("two"))

    saved = json.loads((folder_of(store) / "s1.json").read_text())
    assert (saved["model"], saved["title"], len(saved["messages"])) == ("m", "old", 2)


# Refusals


def test_metadata_only_load_cannot_be_saved(store: SessionStore) -> None:
    """S3: it has no messages, so saving it would remove them."""
    with_messages(store, "s1", "one")

    with pytest.raises(MetadataOnlyError):
        store.save(store.load_metadata_only("s1"))

    assert texts(store.load("s1")) == ["one"]


def test_stale_copy_is_refused(store: SessionStore) -> None:
    """S9: the second of two savers gets an error; so does a saver of a deleted session."""
    stale = with_messages(store, "s1", "one")
    other = SessionStore(store.files.folder)
    other.append("s1", *user_messages("two"))

    with pytest.raises(StaleCopyError):
        store.save(stale.appended(*user_messages("lost")))
    assert texts(store.load("s1")) == ["one", "two"]

    other.delete("s1")
    with pytest.raises(StaleCopyError):
        store.save(stale)
    other.new("s1")
    with pytest.raises(StaleCopyError):
        store.save(replace(stale, version=1))
    with pytest.raises(StaleCopyError):
        store.new("s1")


def backup_count(store: SessionStore) -> int | None:
    """The number of messages in the backup of `s1`; -1 for an unreadable one."""
    backup = store.files.backup("s1")
    if backup is not None:
        return backup.message_count
    return -1 if store.files.has("s1", "json.damaged") else None


@pytest.mark.parametrize(
    "busy", [{"active_stream_id": "r1"}, {"pending_user_message": "hello"}], ids=["run", "pending"]
)
def test_emptying_save_during_a_turn_is_refused(store: SessionStore, busy: dict[str, Any]) -> None:
    """S10: refused with an error, whether the old or the new value is in a turn."""
    session = with_messages(store, "s1", "one")
    with pytest.raises(SaveRefusedError):
        store.save(replace(session, messages=(), **busy))
    session = store.save(replace(session, **busy))
    with pytest.raises(SaveRefusedError):
        store.save(replace(session, messages=(), active_stream_id=None, pending_user_message=None))

    assert texts(store.load("s1")) == ["one"]
    assert backup_count(store) is None


def test_invalid_json_is_refused_before_writing(store: SessionStore) -> None:
    """S10: an error, and the old version stays."""
    with_messages(store, "s1", "one")
    before = (folder_of(store) / "s1.json").read_bytes()

    for content in (object(), float("nan")):
        with pytest.raises((TypeError, ValueError)):
            store.append("s1", {"role": "user", "content": content})
    strange: Any = 7
    acts: list[Callable[[], object]] = [
        lambda: store.rename("s1", strange),
        lambda: store.append("s1", strange),
        lambda: store.change("s1", lambda session: replace(session, active_stream_id=strange)),
    ]
    for act in acts:
        with pytest.raises(TypeError):
            act()
    with pytest.raises(SessionError):
        store.change("s1", lambda session: replace(session, extra={"messages": []}))

    assert (folder_of(store) / "s1.json").read_bytes() == before


HOSTILE = ["", "..", "../x", "a/b", "a\0b", "a.b", "x" * 129, "ä", "_index", "a\n", None, 7, ["a"]]


@pytest.mark.parametrize("sid", HOSTILE, ids=repr)
def test_hostile_id_raises_and_touches_no_file(store: SessionStore, sid: str) -> None:
    """S12: also an id that names a file of the store's own."""
    store.rows()
    before = sorted(folder_of(store).parent.rglob("*"))
    acts: list[Callable[[], object]] = [
        lambda: store.load(sid),
        lambda: store.load_metadata_only(sid),
        lambda: store.save(Session(session_id=sid)),
        lambda: store.append(sid, *user_messages("x")),
        lambda: store.clear(sid),
        lambda: store.delete(sid),
        lambda: store.clean_stale_stream(sid, lambda _: False),
    ]
    for act in acts:
        with pytest.raises(InvalidSessionIdError):
            act()

    assert sorted(folder_of(store).parent.rglob("*")) == before


def test_unknown_session_raises(store: SessionStore) -> None:
    """Reading or changing an unknown session does not create it."""
    for act in (store.load, store.load_metadata_only, store.clear, store.undo):
        with pytest.raises(UnknownSessionError):
            act("unknown")
    assert store.delete("unknown") is False
    assert store.rows() == ()


# Shrinking, backups and recovery


def test_unintentional_shrink_is_undone_with_later_messages(
    store: SessionStore,
) -> None:
    """S4, S5, S2: recovery restores the lost messages, and keeps those after the loss."""
    with_messages(store, "s1", *"abcdefgh")
    shrink(store, "s1", 4)
    store.append("s1", *user_messages("x"))
    shrink(store, "s1", 1)
    assert backup_count(store) == 9
    store.append("s1", *user_messages("y"))
    store.rename("s1", "newer")

    recovery = recover_all(store)

    assert recovery.restored == ("s1",)
    assert texts(store.load("s1")) == [*"abcdefgh", "x", "y"]
    assert store.load("s1").title == "newer"
    assert recover_all(store).restored == ()


def test_session_longer_than_its_loss_is_restored(store: SessionStore) -> None:
    """S5: the number of messages does not matter, only whether some were lost."""
    with_messages(store, "s1", *"abc")
    shrink(store, "s1", 1)
    store.append("s1", *user_messages(*"uvwxyz"))

    recover_all(store)

    assert texts(store.load("s1")) == [*"abcuvwxyz"]


def test_files_without_shrink_marks_are_recovered_by_count(
    store: SessionStore,
) -> None:
    """S5: fewer messages than the backup, and no mark of the user: the backup wins."""
    for name, contents in (("s1.json", "ab"), ("s1.json.bak", "abcde")):
        plain = {"session_id": "s1", "messages": [*user_messages(*contents)]}
        (folder_of(store) / name).write_text(json.dumps(plain))

    assert recover_all(store).restored == ("s1",)
    assert texts(store.load("s1")) == [*"abcde"]


@pytest.mark.parametrize("act", ["clear", "truncate", "undo"])
@pytest.mark.parametrize("lost", [0, 3], ids=["whole", "after a loss"])
@pytest.mark.parametrize("then", ["sound", "damaged"])
def test_messages_removed_by_the_user_stay_removed(
    store: SessionStore, act: str, lost: int, then: str
) -> None:
    """S6: also if messages were lost before, and if the sidecar is damaged after."""
    with_messages(store, "s1", *"abcdefgh")
    if lost:
        shrink(store, "s1", 8 - lost)
    match act:
        case "clear":
            after = store.clear("s1")
        case "truncate":
            after = store.truncate("s1", 2)
        case "undo":
            after = store.undo("s1")
    assert backup_count(store) == 8
    restored: list[tuple[str, ...]] = [(), ()]
    if then == "damaged":
        truncate_file(store, "s1")
        restored[0] = ("s1",)

    for expected in restored:
        restarted = SessionStore(store.files.folder)
        assert recover_all(restarted).restored == expected
        assert texts(restarted.load("s1")) == texts(after)


def test_clear_after_a_loss_is_final(store: SessionStore) -> None:
    """S6: the loss is not undone, because the user saw and confirmed an empty session."""
    with_messages(store, "s1", "one")
    shrink(store, "s1", 0)
    store.clear("s1")

    assert recover_all(store).restored == ()
    assert texts(store.load("s1")) == []


def test_truncate_beyond_the_end_removes_nothing(store: SessionStore) -> None:
    """No message is removed, so recovery may still restore messages that were lost before."""
    with_messages(store, "s1", *"abc")
    shrink(store, "s1", 1)
    store.truncate("s1", 2)

    assert recover_all(store).restored == ("s1",)
    with pytest.raises(ValueError, match="-1"):
        store.truncate("s1", -1)


def test_undo_removes_the_last_user_message(store: SessionStore) -> None:
    """And raises if there is none."""
    with_messages(store, "s1", "a", "b")
    store.append("s1", {"role": "assistant", "content": "c"})

    assert texts(store.undo("s1")) == ["a"]
    assert texts(store.undo("s1")) == []
    with pytest.raises(SaveRefusedError):
        store.undo("s1")


def test_unintentional_shrink_after_truncate_is_undone(
    store: SessionStore,
) -> None:
    """S4 to S6: the backup follows the user's shrink."""
    with_messages(store, "s1", *"abcdefgh")
    store.truncate("s1", 4)
    store.append("s1", *user_messages("x"))
    shrink(store, "s1", 2)

    assert backup_count(store) == 5
    recover_all(store)
    assert texts(store.load("s1")) == [*"abcd", "x"]


def test_damaged_sidecar_is_copied_before_its_replacement(store: SessionStore) -> None:
    """S4, S2: memory has its content, so nothing is lost, and the torn bytes are kept."""
    with_messages(store, "s1", "one", "two")
    torn = truncate_file(store, "s1")

    assert texts(store.load("s1")) == ["one", "two"]
    assert store.load_metadata_only("s1").message_count == 2
    store.append("s1", *user_messages("three"))

    assert texts(SessionStore(store.files.folder).load("s1")) == ["one", "two", "three"]
    assert backup_count(store) == -1
    assert (folder_of(store) / "s1.json.damaged").read_bytes() == torn


def test_older_memory_never_replaces_a_damaged_sidecar(
    store: SessionStore,
) -> None:
    """S9: the other process's version is unreadable now, but it was newer."""
    stale = with_messages(store, "s1", "one")
    SessionStore(store.files.folder).append("s1", *user_messages("two"))
    torn = truncate_file(store, "s1")

    acts: list[Callable[[], object]] = [
        lambda: store.load("s1"),
        lambda: store.save(stale),
        lambda: store.undo("s1"),
    ]
    for act in acts:
        with pytest.raises(SidecarDamagedError):
            act()
    assert (folder_of(store) / "s1.json").read_bytes() == torn


def test_damaged_sidecar_is_restored_from_a_backup(store: SessionStore) -> None:
    """S4, S5, S8: its torn bytes are kept; title, time and order come from the index."""
    with_messages(store, "s1", *"abc")
    shrink(store, "s1", 1)
    store.rename("s1", "newer")
    with_messages(store, "s2", "x")
    torn = truncate_file(store, "s1")
    before = store.rows()

    restarted = SessionStore(store.files.folder)
    recovery = recover_all(restarted)

    assert [finding.kind for finding in recovery.findings] == [Kind.UNREADABLE_LIVE]
    assert texts(restarted.load("s1")) == [*"abc"]
    assert restarted.load("s1").title == "newer"
    assert (folder_of(store) / "s1.json.damaged").read_bytes() == torn
    for key in ("session_id", "updated_at"):
        assert [row[key] for row in restarted.rows()] == [row[key] for row in before]


@pytest.mark.parametrize(
    "row",
    [
        {"updated_at": 1.0},
        {"updated_at": 1.0, "title": 5, "version": 1},
        {"updated_at": True, "title": "T", "version": 1},
        {"updated_at": 1.0, "title": "T", "version": "1"},
    ],
)
def test_foreign_row_never_stops_recovery(store: SessionStore, row: dict[str, Any]) -> None:
    """S5: a row that lacks a field, or has one of another type, beside a damaged session."""
    with_messages(store, "s1", *"abc")
    shrink(store, "s1", 1)
    (folder_of(store) / "s1.json").write_text("{")
    (folder_of(store) / "_index.json").write_text(json.dumps([{"session_id": "s1", **row}]))

    restarted = SessionStore(folder_of(store))
    assert recover_all(restarted).restored == ("s1",)
    assert texts(restarted.load("s1")) == [*"abc"]


@pytest.mark.parametrize(("number", "restored"), [("NaN", ("s1",)), ("1e999", ())])
def test_backup_with_no_number_never_stops_recovery(
    store: SessionStore, number: str, restored: tuple[str, ...]
) -> None:
    """S5: NaN is null; a number that JSON cannot hold is left to a person."""
    with_messages(store, "s1", *"abc")
    shrink(store, "s1", 1)
    backup = folder_of(store) / "s1.json.bak"
    backup.write_text(backup.read_text().replace('{"role"', f'{{"cost": {number}, "role"'))

    recovery = recover_all(store)

    assert recovery.restored == restored
    kinds = [finding.kind for finding in recovery.findings]
    assert kinds == [Kind.SHRUNKEN_LIVE if restored else Kind.NOT_EXAMINED]


def test_bad_files_never_stop_recovery(store: SessionStore, tmp_path: Path) -> None:
    """S5: lists in `_*` files, folders, garbage and leftovers beside one real loss."""
    with_messages(store, "s5", *"abc")
    shrink(store, "s5", 1)
    (tmp_path / "_index.json").write_text('["not", {"a": "row"}]')
    (tmp_path / "_index.json.bak").write_text("[]")
    (tmp_path / "_other.json").mkdir()
    (tmp_path / "_other.json.bak").write_bytes(b"\xff\0")
    (tmp_path / "s1.json.bak").mkdir()
    (tmp_path / "s2.json").mkdir()
    (tmp_path / "s3.json").write_bytes(b"\xff")
    (tmp_path / "s3.json.bak").write_text("[1, 2]")
    (tmp_path / "s4.json.bak").write_text("{")
    (tmp_path / "s6.json.bak").write_bytes(
        encode(Session(session_id="s6", messages=user_messages("x")))
    )
    (tmp_path / "s6.tmp.1.2").write_text("half a fi")
    (tmp_path / "s7.tmp.1.2").write_text("half a fi")
    (tmp_path / "_index.tmp.1.2").write_text("half a fi")

    assert audit(store).status == "needs_manual_review"
    recovery = recover_all(store)

    assert recovery.restored == ("s5", "s6")
    assert {finding.session_id: finding.kind for finding in recovery.findings} == {
        "s1": Kind.NOT_EXAMINED,
        "s3": Kind.UNREADABLE_LIVE,
        "s4": Kind.MALFORMED_ORPHAN_BACKUP,
        "s5": Kind.SHRUNKEN_LIVE,
        "s6": Kind.ORPHAN_BACKUP,
    }
    assert sorted(ids(store)) == ["s5", "s6"]
    assert not [*tmp_path.glob("*.tmp.*")]


def test_audit_reports_defects_and_changes_nothing(store: SessionStore) -> None:
    """Status ok, warn, ok."""
    with_messages(store, "s1", *"abc")
    assert audit(store).status == "ok"
    shrink(store, "s1", 1)
    (folder_of(store) / "_index.json").write_text("[]")
    before = {path: path.read_bytes() for path in folder_of(store).glob("[!_]*") if path.is_file()}

    found = audit(store)

    assert found.status == "warn"
    assert [finding.kind for finding in found.findings] == [
        Kind.INDEX_MISSING_ENTRY,
        Kind.SHRUNKEN_LIVE,
    ]
    assert before == {path: path.read_bytes() for path in before}
    recover_all(store)
    assert audit(store).status == "ok"


def test_deleted_session_leaves_nothing(store: SessionStore) -> None:
    """S6: no backup outlives the session, so nothing can restore it."""
    with_messages(store, "s1", *"abc")
    shrink(store, "s1", 1)
    truncate_file(store, "s1")
    store.append("s1", *user_messages("x"))

    assert store.delete("s1") is True

    assert recover_all(store).restored == ()
    assert not [*folder_of(store).glob("s1.*")]
    assert store.rows() == ()
    with pytest.raises(UnknownSessionError):
        store.load("s1")


# Maintenance


def test_maintenance_is_not_activity(store: SessionStore) -> None:
    """S8: cleanup and recovery change neither `updated_at` nor the order."""
    with_messages(store, "s1", *"abc")
    store.maintain("s1", lambda session: replace(session, active_stream_id="r1"))
    with_messages(store, "s2", *"abc")
    shrink(store, "s2", 1)
    store.new("s3")
    before = [(row["session_id"], row["updated_at"]) for row in store.rows()]

    assert store.clean_stale_stream("s1", lambda _: False)
    assert recover_all(store).restored == ("s2",)

    assert [(row["session_id"], row["updated_at"]) for row in store.rows()] == before
    assert ids(store) == ["s3", "s2", "s1"]


def test_cleanup_spares_live_streams_and_pending_messages(store: SessionStore) -> None:
    """S7, S13: the user's message joins the messages, marked, and only once."""
    with_messages(store, "s1", "one")
    busy: dict[str, Any] = {
        "active_stream_id": "r1",
        "pending_user_message": "two",
        "pending_started_at": 5.0,
    }
    store.maintain("s1", lambda session: replace(session, **busy))

    assert not store.clean_stale_stream("s1", lambda stream: stream == "r1")
    assert store.load("s1").is_busy
    assert store.clean_stale_stream("s1", lambda _: False)
    assert not store.clean_stale_stream("s1", lambda _: False)

    session = store.load("s1")
    assert texts(session) == ["one", "two"]
    assert session.messages[1]["interrupted"] is True
    assert not session.is_busy


def test_cleanup_checks_the_stream_under_the_lock(
    store: SessionStore,
) -> None:
    """S7: a run that registered while cleanup waited for the lock is left alone.

    new run:  |--- holds the lock --- r1 becomes r2 ---|
    cleanup:       |--- waits ------------------------- asks about r2: alive ---|
    """
    with_messages(store, "s1", "one")
    store.maintain("s1", lambda session: replace(session, active_stream_id="r1"))
    other = SessionStore(store.files.folder)
    checked_streams: list[str] = []
    holds, registers = threading.Event(), threading.Event()

    def register(session: Session) -> Session:
        holds.set()
        registers.wait()
        return replace(session, active_stream_id="r2")

    run = threading.Thread(target=lambda: other.change("s1", register))
    run.start()
    holds.wait()

    def is_live(stream: str) -> bool:
        checked_streams.append(stream)
        return stream == "r2"

    cleanup = threading.Thread(target=lambda: store.clean_stale_stream("s1", is_live))
    cleanup.start()
    registers.set()
    run.join()
    cleanup.join()

    assert checked_streams == ["r2"]
    assert store.load("s1").active_stream_id == "r2"


def test_order_of_activity_survives_clock_jumps(tmp_path: Path) -> None:
    """A clock that stands still or jumps back does not disturb the order."""
    times = iter([5.0, 5.0, 5.0, 5.0, 1.0, 1.0])
    store = SessionStore(tmp_path, clock=lambda: next(times))
    store.new("a")
    store.new("b")
    store.append("a", *user_messages("x"))
    assert ids(store) == ["a", "b"]
    store.append("b", *user_messages("x"))
    assert ids(store) == ["b", "a"]


# The index


def test_damaged_index_is_rebuilt_from_the_sidecars(store: SessionStore) -> None:
    """S11: torn, of another shape, with ghosts, with duplicates, or missing."""
    store.new("s1")
    store.new("s2")
    path = folder_of(store) / "_index.json"
    rows = json.loads(path.read_text())
    ghost = {**rows[0], "session_id": "ghost"}
    for text in (
        "[", "{}", "[1]", '[{"session_id": "s1"}]', json.dumps([*rows, ghost]),
        json.dumps([*rows, rows[0]]), json.dumps([{**rows[0], "session_id": "../x"}]), "[]", None,
    ):  # fmt: skip
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        assert ids(store) == ["s2", "s1"]
        assert ids(SessionStore(store.files.folder)) == ["s2", "s1"]
        assert [row["session_id"] for row in json.loads(path.read_text())] == ["s2", "s1"]


def test_listing_parses_no_sidecar(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing reads the index and the names; a first one reads heads, never messages."""
    for number in range(5):
        with_messages(store, f"s{number}", *"abc")
    read: list[str] = []
    whole, until = files.read_whole, files.read_until

    def read_whole(path: str) -> bytes:
        read.append(Path(path).name)
        return whole(path)

    def read_until(path: str, marker: bytes) -> bytes:
        read.append(f"head of {Path(path).name}")
        return until(path, marker)

    monkeypatch.setattr(files, "read_whole", read_whole)
    monkeypatch.setattr(files, "read_until", read_until)

    assert len(store.rows()) == 5
    assert read == []
    assert len(SessionStore(store.files.folder).rows()) == 5
    assert read == ["_index.json"]
    (folder_of(store) / "_index.json").unlink()
    read.clear()
    store.rows()
    assert sorted(read) == [f"head of s{number}.json" for number in range(5)]


def test_unwritten_row_is_written_with_the_next(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S11, S10: the session is safe, so the save succeeds, and its row follows later."""
    store.new("s1")
    store.new("s2")

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path), len(data))

    with monkeypatch.context() as patch:
        patch.setattr(files, "put_unsynced", full)
        store.rename("s1", "renamed")
        store.delete("s2")
        assert [(row["session_id"], row["title"]) for row in store.rows()] == [("s1", "renamed")]
    store.new("s3")

    rows = json.loads((folder_of(store) / "_index.json").read_text())
    assert [(row["session_id"], row["title"]) for row in rows] == [
        ("s3", "Untitled"),
        ("s1", "renamed"),
    ]


WOKEN: Message = {"role": "user", "content": "woken", "source": "process_wakeup"}


@pytest.mark.parametrize(
    ("session", "title"),
    [
        ({}, "Untitled"),
        ({"messages": user_messages("one", "two")}, "one"),
        ({"messages": (WOKEN, *user_messages("one"))}, "one"),
        ({"messages": (WOKEN,), "pending_user_message": "two"}, "two"),
        (
            {"pending_user_message": "woken", "extra": {"pending_user_source": "process_wakeup"}},
            "Untitled",
        ),
        ({"messages": user_messages(" \u200b\n a \n b ")}, "a b"),
        ({"messages": user_messages("\u200b")}, "Untitled"),
        ({"messages": ({"role": "user", "content": [1]},)}, "Untitled"),
        ({"messages": user_messages("x" * 10_000)}, "x" * OWN_CHARS),
        ({"messages": user_messages("x" * (OWN_CHARS - 1) + " y")}, "x" * (OWN_CHARS - 1)),
    ],
)
def test_own_title_is_the_first_request(session: dict[str, Any], title: str) -> None:
    """S14: a wakeup's prompt is none, and a request that waits is one."""
    assert own_title(Session(session_id="s1", **session)) == title


def test_own_title_follows_the_messages(tmp_path: Path) -> None:
    """S6, S14: nothing of removed text stays, not in a backup's title, and a given title does."""
    store = SessionStore(tmp_path, own_title=own_title)
    store.new("s1")
    assert store.append("s1", *user_messages("one", "two")).title == "one"
    assert store.truncate("s1", 1).title == "one"
    assert store.clear("s1").title == "Untitled"
    (tmp_path / "s1.json").unlink()
    (tmp_path / "_index.json").unlink()
    store = SessionStore(tmp_path, own_title=own_title)
    recover_all(store)
    assert store.load("s1").title == "Untitled"

    assert store.append("s1", *user_messages("three")).title == "three"
    assert store.rename("s1", "given").title == "given"
    assert store.clear("s1").title == "given"
    assert store.append("s1", *user_messages("four")).title == "given"
    assert store.rename("s1", "Untitled").title == "four"


def append_many(folder: Path, name: str, count: int) -> None:
    store = SessionStore(folder)
    for number in range(count):
        store.append("shared", *user_messages(f"{name}{number}"))
        store.new(f"{name}{number}")
        if number % 3 == 0:
            store.delete(f"{name}{number}")


def test_two_processes_share_a_folder(store: SessionStore) -> None:
    """S11, S2, S9: every append of both is there; the index has each session once, no ghost."""
    store.new("shared")
    folder = folder_of(store)
    writers = [FORK.Process(target=append_many, args=(folder, name, 30)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert [writer.exitcode for writer in writers] == [0, 0]
    names = [f"{name}{number}" for name in "ab" for number in range(30)]
    assert sorted(texts(store.load("shared"))) == sorted(names)
    left = {name for name in names if int(name[1:]) % 3}
    on_file = [row["session_id"] for row in json.loads((folder / "_index.json").read_text())]
    assert sorted(on_file) == sorted(left | {"shared"})
    assert ids(store) == on_file


def test_threads_share_a_store(store: SessionStore) -> None:
    """S2: no append is lost among threads."""
    store.new("s1")

    def append(name: str) -> None:
        for number in range(10):
            store.append("s1", *user_messages(f"{name}{number}"))

    threads = [threading.Thread(target=append, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    expected = sorted(f"{name}{number}" for name in "abcd" for number in range(10))
    assert sorted(texts(store.load("s1"))) == expected


# Memory


def test_sessions_in_memory_are_bounded_to_the_cap(tmp_path: Path) -> None:
    """A6: least recently used goes first, unless it is streaming, pending, or damaged on disk."""
    store = SessionStore(tmp_path, cap=3)
    with_messages(store, "run", "x")
    store.maintain("run", lambda session: replace(session, active_stream_id="r1"))
    with_messages(store, "pending", "x")
    store.maintain("pending", lambda session: replace(session, pending_user_message="y"))
    with_messages(store, "torn", "x")
    truncate_file(store, "torn")
    for number in range(20):
        with_messages(store, f"s{number}", "x")

    assert {*store._held} == {"run", "pending", "torn"}
    assert texts(store.load("torn")) == ["x"]
    store.clean_stale_stream("run", lambda _: False)
    store.maintain("pending", lambda session: replace(session, pending_user_message=None))
    store.append("torn", *user_messages("y"))
    for number in range(3):
        store.load(f"s{number}")
    assert {*store._held} == {"s0", "s1", "s2"}
    assert store.gauges() == {"sessions_held": 3, "session_index_rows": 23}


@pytest.mark.parametrize(
    ("value", "cap"), [("7", 7), ("", 100), ("many", 100), ("0", 100), ("-3", 100)]
)
def test_invalid_cap_in_environment_gives_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, cap: int
) -> None:
    """A6: HERMES_WEBUI_SESSIONS_MAX, if it is a positive number."""
    monkeypatch.setenv("HERMES_WEBUI_SESSIONS_MAX", value)

    assert SessionStore(tmp_path).cap == cap


def test_load_returns_the_newer_version_on_disk(store: SessionStore) -> None:
    """S9: a load returns what another process saved."""
    with_messages(store, "s1", "one")
    SessionStore(store.files.folder).append("s1", *user_messages("two"))

    assert texts(store.load("s1")) == ["one", "two"]


# Locks


@pytest.mark.parametrize("holding", ["a thread", "another process"])
def test_lock_that_stays_held_raises_in_time(tmp_path: Path, holding: str) -> None:
    """H6: no wait is unbounded; and the lock is free once its holder is gone."""
    holder = SharedLock(str(tmp_path / "lock"), patience_s=0.0)
    waiter = holder if holding == "a thread" else SharedLock(str(tmp_path / "lock"), patience_s=0.0)

    with holder.held(), pytest.raises(LockBusyError, match="lock"), waiter.held():
        pass

    with waiter.held():
        pass


def test_busy_lock_changes_nothing(tmp_path: Path) -> None:
    """H6, S10: the save did not happen, and raises."""
    store = SessionStore(tmp_path, patience_s=0.0)
    with_messages(store, "s1", "one")

    with store.files.locked("s1"), pytest.raises(LockBusyError):
        store.append("s1", *user_messages("two"))
    with store.files.index_lock.held():
        store.append("s1", *user_messages("two"))

    assert texts(store.load("s1")) == ["one", "two"]
    assert store.rows()[0]["message_count"] == 2


# The disk


def lose_twice(store: SessionStore) -> None:
    shrink(store, "s1", 2)
    store.append("s1", *user_messages("x"))
    shrink(store, "s1", 1)


ACTS: dict[str, Callable[[SessionStore], object]] = {
    "new": lambda store: with_messages(store, "s2"),
    "append": lambda store: store.append("s1", *user_messages("x")),
    "rename": lambda store: store.rename("s1", "newer"),
    "clear": lambda store: store.clear("s1"),
    "truncate": lambda store: store.truncate("s1", 2),
    "shrink": lambda store: shrink(store, "s1", 1),
    "delete": lambda store: store.delete("s1"),
    "recover": recover_all,
}
View = dict[str, tuple[str, list[str]]]


def view(folder: Path) -> View:
    """The sessions as a user sees them after a restart."""
    store = SessionStore(folder)
    recover_all(store)
    rows = store.rows()
    sessions = [store.load(row["session_id"]) for row in rows]
    assert [row["message_count"] for row in rows] == [len(each.messages) for each in sessions]
    assert not [*folder.glob("*.tmp.*"), *folder.glob("*.deleted")]
    return {each.session_id: (each.title, texts(each)) for each in sessions}


@pytest.fixture(params=["whole", "shrunk"])
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with one session, which may have lost messages already."""
    folder = tmp_path / "sessions"
    store = SessionStore(folder)
    with_messages(store, "s1", *"abcd")
    if request.param == "shrunk":
        shrink(store, "s1", 2)
        store.append("s1", *user_messages("e"))
    return folder


@pytest.mark.parametrize("act", ACTS)
def test_crash_at_any_call_leaves_old_or_new(act: str, started: Path) -> None:
    """S1, S2, S5, S6: a kill or power loss at every call, then recovery: whole or absent."""
    copy = started.with_name("copy")
    start = Image.of(started)
    start.put_into(copy)
    old = view(copy)
    start.put_into(copy)
    ACTS[act](SessionStore(copy))
    new = view(copy)

    for crash in every_crash_point(started, lambda: ACTS[act](SessionStore(started))):
        accepted = [new] if crash.call is None else [old, new]
        for image in crash.images(Random(1), 16):
            image.put_into(copy)
            assert view(copy) in accepted, f"{crash.call}: {sorted(image.files)}"


def test_crash_among_several_shrinks_loses_nothing(started: Path) -> None:
    """S2, S5: a backup without its shrink and a shrink with a newer backup are distinguished."""
    copy = started.with_name("copy")
    Image.of(started).put_into(copy)
    old = view(copy)["s1"][1]

    for crash in every_crash_point(started, lambda: lose_twice(SessionStore(started))):
        for image in crash.images(Random(1), 4):
            image.put_into(copy)
            assert view(copy)["s1"][1] in (
                [[*old, "x"]] if crash.call is None else [old, [*old, "x"]]
            )


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    "fault_at",
    [
        fail_once(errno.ENOSPC),
        fail_from(errno.ENOSPC),
        fail_once(errno.EIO),
        fail_from(errno.EIO),
        shorten,
    ],
    ids=["once full", "full", "once broken", "broken", "short"],
)
def test_failure_at_any_call_raises_or_is_harmless(
    act: str, fault_at: Callable[[int], Fault], started: Path
) -> None:
    """S1, S2, S10: a failed call left the old or the new; a successful one the new."""
    copy = started.with_name("copy")
    start = Image.of(started)
    start.put_into(copy)
    old = view(copy)
    start.put_into(copy)
    ACTS[act](SessionStore(copy))
    new = view(copy)
    stores: list[SessionStore] = []

    def operation() -> None:
        stores.append(SessionStore(started))
        ACTS[act](stores[-1])

    for failure in every_failure(started, operation, fault_at):
        healed = stores[-1]
        rows = [(row["session_id"], row["title"], row["message_count"]) for row in healed.rows()]
        loaded = {sid: healed.load(sid) for sid, _, _ in rows}
        assert rows == [(sid, each.title, each.message_count) for sid, each in loaded.items()]
        for image in (Image.of(started), *failure.disk.power_losses(Random(1), 4)):
            image.put_into(copy)
            assert view(copy) in ([new] if failure.raised is None else [old, new]), failure.call
