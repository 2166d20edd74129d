"""Tests of what is seen of sessions that others have written, and of files that come with them."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from contextlib import closing
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.errors import TargetLostError
from harness.targets.hermes_webui import stored_sessions
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.shapes import WebuiShapesAdapter, packed, ungiven, upload
from harness.targets.hermes_webui.stored_cases import Talks, cases
from harness.targets.hermes_webui.stored_sessions import WebuiStoredAdapter
from harness.targets.server.shapes import Shape, ShapesAdapter

CASES = {case.name: case for case in cases(Talks(0.0))}
CONTENT = b"the notes"


@pytest.fixture
def adapter(unbooted: WebuiLaunch, tmp_path: Path) -> Any:
    """A disk of sessions, whose server is never booted."""
    adapter: Any = WebuiStoredAdapter(tmp_path / "folder", unbooted)
    adapter._folder_of_sessions.mkdir(parents=True)
    return adapter


def write(adapter: Any, name: str, context: Any, shown: Any) -> Shape:
    """Store a session that has this for its agent, and shows that."""
    case = adapter._cases[name] = CASES[name]
    shape = Shape(name, "a1", heard_all=case.heard_all)
    adapter._shapes[name] = shape
    path = adapter._folder_of_sessions / "a1.json"
    path.write_text(json.dumps({"context_messages": context}))
    adapter._found = lambda _: {"messages": shown}
    return shape


def test_recovered_text_is_heard(adapter: Any) -> None:
    """What is shown behind a kill is known to the agent too."""
    case = CASES["cut off, shown, with a context"]
    shape = write(adapter, case.name, case.said, case.said)
    assert adapter._see_heard(shape, {}) == ""

    write(adapter, case.name, case.said[:-1], case.said)
    assert adapter._see_heard(shape, {}).startswith("lost to the agent, and shown")


def test_error_behind_a_kill_is_reported(adapter: Any) -> None:
    """By servers that write one, until a message is removed."""
    case = CASES["cut off, its error noted"]
    adapter._source, adapter._kind = '"terminal_session_persisted"', "made"
    marked = {"role": "assistant", "content": f"**Error:** {case.error}", "_error": True}
    shape = write(adapter, case.name, case.said, [*case.said, marked])
    assert adapter._see_reported(shape, {}) == ""

    write(adapter, case.name, case.said, case.said)
    assert adapter._see_reported(shape, {}) == f"not reported: {case.error}"
    adapter._kind = "changed"
    assert adapter._see_reported(shape, {}) == ""


def test_calls_of_removed_turns_are_heard(adapter: Any) -> None:
    """A cut removes them from what the agent has in mind, even where nothing shows them."""
    case = CASES["steps in mind alone"]
    context, shown = case.fields["context_messages"], case.said[:4]
    first, second = (
        [number for number, row in enumerate(context) if row["role"] == "user"][at] for at in (2, 3)
    )
    shape = write(adapter, case.name, context[:first], shown)
    words = {text.split()[0] for role, text in case.shown[4:] if role == "user"}
    shape.removed = sorted(words)
    assert adapter._see_context(shape, {}) == ""

    left = [row for row in context[first:second] if "tool_calls" in row or row["role"] == "tool"]
    write(adapter, case.name, [*context[:first], *left], shown).removed = shape.removed
    assert "calls of turns that were removed" in adapter._see_context(shape, {})


@pytest.mark.parametrize(("listed", "problem"), [(["a1"], ""), ([], "another list: it lacks")])
def test_other_programs_are_listed_elsewhere(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, listed: list[str], problem: str
) -> None:
    """A strange name of the folder does not change the list."""
    with closing(sqlite3.connect(adapter._folder / "state.db")) as connection, connection:
        connection.execute("CREATE TABLE sessions (id)")
        connection.execute("INSERT INTO sessions VALUES ('a1')")
    copied: list[Any] = []

    def start(folder: Path, _launch: Any) -> Any:
        with closing(sqlite3.connect(folder / "state.db")) as connection:
            copied.extend(connection.execute("SELECT id FROM sessions"))
        return SimpleNamespace(boot=lambda: {"port": 1}, close=lambda: None)

    rows = [{"session_id": id_} for id_ in listed]
    web = SimpleNamespace(ask=lambda *_: (200, {}), get=lambda _: {"sessions": rows})
    monkeypatch.setattr(WebuiStoredAdapter, "_web", web)
    monkeypatch.setattr(stored_sessions, "ServerAdapter", start)
    monkeypatch.setattr(stored_sessions, "replace", lambda web, **_: web)
    adapter._cases["of cli"] = CASES["of cli"]
    adapter._shapes["of cli"] = Shape("of cli", "a1", is_own=False)
    adapter._offered = {"a1"}

    found = adapter._unlisted_elsewhere(["show_cli_sessions"])

    assert found.startswith(problem)
    assert bool(found) == bool(problem)
    assert copied == [("a1",)]


def test_uploaded_file_that_stays_is_seen(
    unbooted: WebuiLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deleted session leaves no file of it, by whatever name."""
    adapter: Any = WebuiShapesAdapter(tmp_path / "folder", unbooted)
    monkeypatch.setattr(ShapesAdapter, "_gone", lambda *_: "")
    adapter._uploaded["a1"] = CONTENT
    place = tmp_path / "folder" / "state" / "attachments" / "a1" / "notes-1.txt"
    place.parent.mkdir(parents=True)
    assert adapter._gone(Shape("attached", "a1"), {}) == ""

    place.write_bytes(CONTENT)
    found = adapter._gone(Shape("attached", "a1"), {})
    adapter.close()
    assert found == "a file of it is left: state/attachments/a1/notes-1.txt"


def test_upload_has_the_form_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session, its name and its content; what a turn names of it comes back."""
    sent: list[Any] = []

    class Opener:
        def open(self, request: Any, timeout: float) -> Any:
            sent.append((request, timeout))
            return self

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing is open."""

        def read(self) -> bytes:
            return json.dumps({"filename": "notes.txt", "path": "/p", "other": 1}).encode()

    monkeypatch.setattr("urllib.request.build_opener", lambda *_: Opener())
    web: Any = SimpleNamespace(host="127.0.0.1", port=1, timeout_s=2.0)

    assert upload(web, "a1", "notes.txt", CONTENT) == {"name": "notes.txt", "path": "/p"}
    parts = sent[0][0].data.split(b"--5704ed-boundary")
    assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:3]] == [
        b"a1\r\n",
        CONTENT + b"\r\n",
    ]
    assert b'filename="notes.txt"' in parts[2]
    assert parts[3] == b"--\r\n"


@pytest.mark.parametrize(
    ("fault", "problem"),
    [("", ""), ("writes", "its file is written"), ("waits", "it waits")],
)
def test_read_beside_a_lock_changes_nothing(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, fault: str, problem: str
) -> None:
    """It is answered, too, while another has the lock of the session."""
    name = "cut off, its reply, beside a lock"
    shape = write(adapter, name, [], [])
    asked: list[str] = []

    def ask(_method: str, path: str) -> tuple[int, Any]:
        asked.append(path)
        if fault == "writes":
            (adapter._folder_of_sessions / "a1.json").write_text("{}")
        if fault == "waits":
            raise TargetLostError("no answer")
        return 200, {}

    probe: list[str] = []
    web = SimpleNamespace(ask=ask, get=lambda _: {})
    monkeypatch.setattr(WebuiStoredAdapter, "_web", web)
    monkeypatch.setattr(stored_sessions, "replace", lambda kept, **_: kept)
    monkeypatch.setattr(stored_sessions, "ask_probe", lambda _, call, **__: probe.append(call))

    adapter._read_locked()

    assert (probe, bool(asked)) == (["hold", "release"], True)
    assert adapter._see_beside_a_lock(shape, {}).partition(":")[0] == problem


@pytest.mark.parametrize("place", ["state", "workspace"])
def test_unpacked_file_goes_with_its_session(
    adapter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Wherever the server has put it."""
    monkeypatch.setattr(ShapesAdapter, "_gone", lambda *_: "")
    adapter._folder, adapter._workspace = tmp_path / "state", tmp_path / "workspace"
    shape = Shape("attached", "a1")
    adapter._unpacked["a1"] = CONTENT
    for name in ("state", "workspace"):
        (tmp_path / name).mkdir(exist_ok=True)
    assert WebuiShapesAdapter._gone(adapter, shape, {}) == ""

    (tmp_path / place / "packed.txt").write_bytes(CONTENT)

    adapter._folder = tmp_path / "state"
    assert WebuiShapesAdapter._gone(adapter, shape, {}) == "a file of it is left: packed.txt"


def test_packed_file_is_in_its_archive() -> None:
    """As a server unpacks it."""
    with zipfile.ZipFile(BytesIO(packed("a.txt", CONTENT))) as archive:
        assert archive.read("a.txt") == CONTENT


def test_session_listed_beside_its_former_self_is_seen(adapter: Any) -> None:
    """One of the two rows is enough, whichever it is."""
    shape = Shape("compacted", "b2", former="a1")
    adapter._rows, adapter._see_idle = lambda _: [], lambda *_: ""

    listed: tuple[dict[str, Any], ...] = ({"a1": {}}, {"b2": {}}, {"a1": {}, "b2": {}})
    found = [adapter._see_former(shape, rows) for rows in listed]

    assert found[:2] == ["", ""]
    assert found[2].startswith("it is listed twice")


@pytest.mark.parametrize(
    ("session", "problem"),
    [
        ({"model": "m", "enabled_toolsets": ["b", "a"], "workspace": "/w"}, ""),
        ({"model": "another"}, "another model"),
        ({"model": "of/a-provider"}, ""),
        ({"enabled_toolsets": ["a"]}, "another toolsets"),
        ({"enabled_toolsets": None}, ""),
        ({"workspace": "/elsewhere"}, "another folder"),
    ],
)
def test_turn_is_given_what_its_session_shows(session: dict[str, Any], problem: str) -> None:
    """Its model, tools and folder, if a client could choose them."""
    note = {"model": "m", "toolsets": ["a", "b"], "folder": "/w"}

    assert ungiven(note, session).partition(":")[0] == problem


@pytest.mark.parametrize(("parent", "problem"), [("a1", ""), (None, "another parent")])
def test_session_that_lost_its_origin_is_seen(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, parent: Any, problem: str
) -> None:
    """Older releases do not show one."""
    shown: dict[str, Any] = {"parent_session_id": parent}
    web = SimpleNamespace(get=lambda _: {"session": shown})
    monkeypatch.setattr(WebuiStoredAdapter, "_web", web)
    adapter._links = {"b2": "a1"}
    shape = Shape("compacted", "b2", former="a1")

    assert adapter._see_linked(shape, {}).partition(":")[0] == problem
    shown.clear()
    assert adapter._see_linked(shape, {}) == ""


@pytest.mark.parametrize("name", ["active_stream_id", "pending_user_source", "pending_started_at"])
def test_idle_session_that_waits_is_seen(adapter: Any, name: str) -> None:
    """By each field that tells of a message that waits, wherever it is shown."""
    shape = Shape("plain", "a1")
    for found, row in (({name: "x"}, {}), ({}, {name: "x"})):
        adapter._sessions = {"a1": found}
        adapter._kind = "restarted"
        assert name in adapter._see_idle(shape, {"a1": row})
    adapter._sessions = {"a1": {name: None}}
    assert adapter._see_idle(shape, {}) == ""


@pytest.mark.parametrize(("count", "problem"), [(2, ""), (1, "another message_count")])
def test_page_that_counts_itself_is_seen(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, count: int, problem: str
) -> None:
    """All but the messages is the same with the last of them."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    page = {"messages": said[1:], "message_count": count, "_messages_offset": 1}
    web = SimpleNamespace(get=lambda _: {"session": page})
    monkeypatch.setattr(WebuiStoredAdapter, "_web", web)
    adapter.page = 1
    adapter._found = lambda _: {"messages": said, "message_count": 2, "_messages_offset": 0}

    found = ShapesAdapter._see_tail(adapter, Shape("plain", "a1"), {})

    assert found.partition(" with")[0] == problem
