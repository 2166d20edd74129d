"""Tests that the exact model of a folder accepts the reference, and names broken promises."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from harness.checkers.conformance import Fold
from harness.contract.models.folder_values import digest
from harness.contract.models.session_folder import SessionFolderModel
from harness.core.history import Operation, Outcome
from harness.targets.components.session_folder import SessionFolderAdapter

CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("new", {"session": "s1"}),
    *(("append", {"session": "s1", "messages": [{"role": "user", "content": t}]}) for t in "abc"),
    ("new", {"session": "s2"}),
    ("maintain", {"session": "s1", "fields": {"active_stream_id": "r"}}),
    ("cleanup", {"session": "s1", "live": []}),
    ("copy", {"session": "s1", "slot": "old"}),
    ("rename", {"session": "s1", "title": "plans"}),
    ("save_copy", {"slot": "old", "add": []}),
    ("undo", {"session": "s1"}),
    ("shrink", {"session": "s1", "keep": 1}),
    ("recover", {}),
    ("load", {"session": "s1"}),
    ("delete", {"session": "s1"}),
    ("head", {"session": "s1"}),
    ("new", {"session": "../s1"}),
)

LOADED_IN_VAIN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("new", {"session": "s1", "fields": {"active_stream_id": "r"}}),
    ("append", {"session": "s1", "messages": [{"role": "user", "content": "a"}]}),
    ("new", {"session": "s2"}),
    ("shrink", {"session": "s1", "keep": 0}),
)

COMPRESSED: tuple[tuple[str, dict[str, Any]], ...] = (
    *CALLS[:4],
    ("compress", {"session": "s1", "keep_from": 2}),
    ("restart", {}),
    ("corrupt", {"session": "s1", "kind": "removed"}),
    ("recover", {}),
    ("load", {"session": "s1"}),
)

Change = Callable[[str, Any], Any]


def judged(
    folder: Path,
    change: Change = lambda _, result: result,
    calls: tuple[tuple[str, dict[str, Any]], ...] = CALLS,
) -> set[str]:
    """The promises that the reference breaks where `change` falsifies answers."""
    adapter = SessionFolderAdapter(
        folder, lambda name: importlib.import_module(f"reference_impl.{name}")
    )
    fold = Fold(SessionFolderModel())
    broken: set[str] = set()
    for at, (function, argument) in enumerate(calls):
        for name, given in ((function, {"at": 1_000.0 + at, **argument}), ("look", {})):
            result = change(name, getattr(adapter, name)(**given))
            anomaly = fold.step(Operation(0, name, given, Outcome.OK, 1, 2, result))
            if anomaly is not None:
                broken |= {promise.id for promise in (anomaly.promise, *anomaly.also)}
    return broken


def in_looks(act: Callable[[dict[str, Any]], None]) -> Change:
    """Falsify what every look shows, where `act` finds what it changes."""

    def change(function: str, result: Any) -> Any:
        if function == "look":
            act(result)
        return result

    return change


def reversed_rows(seen: dict[str, Any]) -> None:
    if len(seen["rows"]) > 1:
        seen["rows"].reverse()
        seen["index"].reverse()


def without_last_message(seen: dict[str, Any]) -> None:
    session = seen["disk"].get("s1")
    if session and session["version"] == 4:
        session["messages"].pop()


def with_removed_message(seen: dict[str, Any]) -> None:
    session = seen["disk"].get("s1")
    if session and session["version"] == 8:
        session["messages"].append({"role": "user", "content": "c"})


def with_old_backup(seen: dict[str, Any]) -> None:
    if "s1" in seen["bak"]:
        seen["bak"]["s1"]["messages"] = []


def with_temporary_file(seen: dict[str, Any]) -> None:
    seen["files"] = sorted([*seen["files"], "s1.tmp"])


def with_unfinished_removal(seen: dict[str, Any]) -> None:
    seen["files"] = sorted([*seen["files"], "s9.json.deleted"])


def with_damage_of_a_deleted_session(seen: dict[str, Any]) -> None:
    if "s1" not in seen["disk"] and "s2" in seen["disk"]:
        seen["files"] = sorted([*seen["files"], "s1.json.damaged"])


def with_removal_that_was_none(seen: dict[str, Any]) -> None:
    session = seen["disk"].get("s1")
    if session and session["version"] == 3:
        session["intentional_shrink_generation"] += 1


def with_other_list(seen: dict[str, Any]) -> None:
    seen["listed"] = False


def with_crowded_memory(seen: dict[str, Any]) -> None:
    seen["held"][1] = ["s1", "s2", "s3"]


def with_older_row(seen: dict[str, Any]) -> None:
    for row in (*seen["rows"], *seen["index"]):
        row["title"] = "Untitled"


def with_doubled_message(seen: dict[str, Any]) -> None:
    session = seen["disk"].get("s1")
    if session and session["version"] == 10:  # as recovery restored it
        session["messages"] += session["messages"][-1:]


def with_nothing_of_a_summary(seen: dict[str, Any]) -> None:
    session = seen["disk"].get("s1")
    if session and session["version"] == 5:  # as recovery restored it
        session["messages"] = []


def with_ghost(seen: dict[str, Any]) -> None:
    if not seen["disk"].get("s1") and len(seen["rows"]) == 1:
        seen["rows"].append({**seen["rows"][0], "session_id": "s1", "updated_at": 1.0})


def test_reference_conforms_to_the_folder_model(tmp_path: Path) -> None:
    assert judged(tmp_path) == set()


def test_summary_is_restored_with_what_it_kept(tmp_path: Path) -> None:
    """The backup of a compressed session is as new as itself, since no older one has a summary."""
    folders = [tmp_path / name for name in ("right", "wrong")]
    for folder in folders:
        folder.mkdir()
    assert judged(folders[0], calls=COMPRESSED) == set()
    wrong = judged(folders[1], in_looks(with_nothing_of_a_summary), COMPRESSED)
    assert wrong >= {"S2", "S5"}


def test_missing_index_is_not_damaged(tmp_path: Path) -> None:
    """A walk may draw that damage first of all, or twice in a row."""
    calls = (
        ("damage_index", {"kind": "other time"}),
        ("new", {"session": "s1"}),
        ("damage_index", {"kind": "missing"}),
        ("damage_index", {"kind": "cut"}),
    )
    assert judged(tmp_path, calls=calls) == set()


def test_refused_save_leaves_what_it_loaded_in_memory(tmp_path: Path) -> None:
    """It is then the last one that was used, so another is dropped first."""
    order: list[list[str]] = []
    in_order = in_looks(lambda seen: order.append(seen["held"][0]))
    assert judged(tmp_path, in_order, LOADED_IN_VAIN) == set()
    assert order[-2:] == [["s1", "s2"], ["s2", "s1"]]


@pytest.mark.parametrize(
    ("act", "promise"),
    [
        (reversed_rows, "S8"),
        (without_last_message, "S2"),
        (with_removed_message, "S6"),
        (with_old_backup, "S4"),
        (with_temporary_file, "S1"),
        (with_unfinished_removal, "S14"),
        (with_damage_of_a_deleted_session, "S14"),
        (with_removal_that_was_none, "S5"),
        (with_other_list, "S15"),
        (with_crowded_memory, "A6"),
        (with_older_row, "S11"),
        (with_older_row, "S15"),
        (with_doubled_message, "S5"),
        (with_ghost, "S11"),
    ],
)
def test_wrong_folder_is_named_by_its_promise(
    tmp_path: Path, act: Callable[[dict[str, Any]], None], promise: str
) -> None:
    assert promise in judged(tmp_path, in_looks(act))


@pytest.mark.parametrize(
    ("function", "wrong", "promise"),
    [
        ("save_copy", {"session_id": "s1"}, "S9"),
        ("recover", {"scanned": 2, "restored": [], "findings": []}, "S16"),
        ("delete", False, "S6"),
        ("cleanup", False, "S7"),
        ("head", {"session_id": "s1"}, "S6"),
        ("undo", {"refused": "ValueError"}, "S2"),
    ],
)
def test_wrong_answer_breaks_only_its_promise(
    tmp_path: Path, function: str, wrong: Any, promise: str
) -> None:
    assert judged(tmp_path, lambda name, result: wrong if name == function else result) == {promise}


@pytest.mark.parametrize("lock", ["sessions", "index"])
@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (lambda answer: {**answer, "leaked": 1}, {"H8"}),
        (lambda answer: {**answer, "result": None}, {"H6"}),
        (lambda answer: answer, set()),
    ],
)
def test_call_on_a_busy_lock_is_judged(
    tmp_path: Path, lock: str, change: Callable[[Any], Any], promise: set[str]
) -> None:
    """It is refused, or needs no lock of the index, and leaves no file open."""
    busy = {"function": "rename", "argument": {"session": "s1", "title": "t"}, "lock": lock}
    calls = (("new", {"session": "s1"}), ("busy", busy))
    answers = lambda name, result: change(result) if name == "busy" else result  # noqa: E731
    assert judged(tmp_path, answers, calls) == promise


def test_wrong_field_beside_a_lock_is_named(tmp_path: Path) -> None:
    """The call waited as it had to; what it answered is judged as always."""
    busy = {"function": "rename", "argument": {"session": "s1", "title": "t"}, "lock": "index"}
    calls = (("new", {"session": "s1"}), ("busy", busy))

    def change(name: str, result: Any) -> Any:
        if name != "busy":
            return result
        return {**result, "result": {**result["result"], "updated_at": 9.5}}

    assert judged(tmp_path, change, calls) == {"S8"}


def test_write_during_another_one_breaks_s9(tmp_path: Path) -> None:
    calls = (
        ("new", {"session": "s1"}),
        ("during", {"session": "s1", "title": "t", "rival": "thread"}),
        ("during", {"session": "s1", "title": "u", "rival": "process"}),
    )

    def change(name: str, result: Any) -> Any:
        return {**result, "rival": ["renamed"]} if name == "during" else result

    assert judged(tmp_path, calls=calls) == set()
    (tmp_path / "other").mkdir()
    assert judged(tmp_path / "other", change, calls) == {"S9"}


def wrong_stories() -> Iterator[list[Operation]]:
    """Histories that the model refuses: a wrong answer, a look that fails, a wrong look."""
    head = {"at": 1_000.0, "session": "s1"}
    yield [Operation(0, "head", head, Outcome.OK, 1, 2, {"session_id": "s1"})]
    yield [Operation(0, "look", {}, Outcome.FAIL, 1, 2, error="OSError: Input/output error")]
    with TemporaryDirectory() as folder:
        adapter = SessionFolderAdapter(
            Path(folder), lambda name: importlib.import_module(f"reference_impl.{name}")
        )
        seen = adapter.look()
    yield [Operation(0, "look", {}, Outcome.OK, 1, 2, {**seen, "files": ["s1.tmp"]})]


def test_digest_replaces_long_texts_only() -> None:
    assert digest({"a": ["x" * 200]}) == {"a": ["x" * 200]}
    assert digest("x" * 201) != digest("x" * 202)
    assert len(digest("\ud800" * 5_000)) < 40


@pytest.mark.parametrize(
    ("finding", "promise"), [("unreadable_live", "S1"), ("shrunken_live", "S6")]
)
def test_recovery_of_a_sound_session_is_named(tmp_path: Path, finding: str, promise: str) -> None:
    """It is no wrong report: the session was unreadable, or the user had shrunk it."""

    def change(function: str, result: Any) -> Any:
        if function != "recover":
            return result
        row = {"session_id": "s2", "kind": finding}
        return {**result, "restored": ["s2"], "findings": [row]}

    assert judged(tmp_path, change) == {promise}


STRUCK_RECOVERY: tuple[tuple[str, dict[str, Any]], ...] = (
    *CALLS[:4],
    ("shrink", {"session": "s1", "keep": 1}),
    (
        "striking",
        {"function": "recover", "argument": {"at": 2_000.0}, "strike": "full once", "at": 1},
    ),
)


def without_findings(report: dict[str, Any]) -> None:
    report["findings"] = []


def with_restored(report: dict[str, Any]) -> None:
    report["restored"] = ["s1"]


def with_another(report: dict[str, Any]) -> None:
    report["restored"] = ["s2"]


@pytest.mark.parametrize("act", [without_findings, with_restored, with_another])
def test_wrong_report_of_a_struck_recovery_is_named(
    tmp_path: Path, act: Callable[[dict[str, Any]], None]
) -> None:
    """It forgets what the disk refused, or reports that as restored."""

    def change(function: str, answer: Any) -> Any:
        if function == "striking":
            assert (answer["struck"], answer["result"]["restored"]) == (True, [])
            act(answer["result"])
        return answer

    with TemporaryDirectory() as folder:
        assert judged(Path(folder), calls=STRUCK_RECOVERY) == set()
    assert "S16" in judged(tmp_path, change, STRUCK_RECOVERY)


STRUCK_AUDIT: tuple[tuple[str, dict[str, Any]], ...] = (
    *STRUCK_RECOVERY[:-1],
    (
        "striking",
        {"function": "audit", "argument": {"at": 2_000.0}, "strike": "unreadable once", "at": 6},
    ),
)


def without_left_out(report: dict[str, Any]) -> None:
    report["findings"].pop()


def with_one_twice(report: dict[str, Any]) -> None:
    report["findings"].append(report["findings"][-1])


def with_a_count(report: dict[str, Any]) -> None:
    report["findings"][-1]["live_messages"] = 0


@pytest.mark.parametrize("act", [without_left_out, with_one_twice, with_a_count])
def test_wrong_report_of_a_struck_audit_is_named(
    tmp_path: Path, act: Callable[[dict[str, Any]], None]
) -> None:
    """It leaves out what it could not read, or knows something of it."""

    def change(function: str, answer: Any) -> Any:
        if function == "striking":
            assert answer["struck"]
            assert [row["kind"] for row in answer["result"]["findings"]] == ["not_examined"]
            act(answer["result"])
        return answer

    with TemporaryDirectory() as folder:
        assert judged(Path(folder), calls=STRUCK_AUDIT) == set()
    assert "S16" in judged(tmp_path, change, STRUCK_AUDIT)
