"""Tests of what is seen of sessions that others have written, and of files that come with them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.targets.hermes_webui import stored_sessions
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.shapes import WebuiShapesAdapter, upload
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
