"""Tests of the laws about all answers that tell of one session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.targets.hermes_webui.agreement import (
    WebuiAgreementAdapter,
    unlike,
    unlike_rows,
    unparted,
)
from harness.targets.server.shapes import Shape

ROUTES = ("rename", "archive", "update", "pin", "toolsets", "move")
SOURCE = "".join(f'"/api/session/{route}" ' for route in ROUTES)
SOURCE += '"/api/list" "/api/session" "/api/projects/create"'
SHAPE = Shape("one", "a1")


class Server:
    """A server with one session, and some faults."""

    def __init__(self, fault: str = "") -> None:
        self.session: dict[str, Any] = {"session_id": "a1", "title": "t", "message_count": 2}
        self.session |= {"messages": [{}, {}], "archived": False, "project_id": None}
        self.session |= {"workspace": "/old", "pinned": False, "enabled_toolsets": None}
        self.shown = dict(self.session)
        self.fault = fault

    def ask(self, _method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Answer a request."""
        route = path.partition("?")[0].rpartition("/")[2]
        if body is None:
            is_lost = self.fault == f"{route} lost"
            return (404, {"error": "Session not found"}) if is_lost else (200, self.get(path))
        if self.fault == f"{route} lost":
            return 404, {"error": "Session not found"}
        values = {name: value for name, value in body.items() if name != "session_id"}
        if "toolsets" in values:
            values = {"enabled_toolsets": values["toolsets"]}
        if values == {"project_id": "of-none"}:
            self.session |= {"title": "a trace"} if self.fault == "a trace" else {}
            return 404, {"error": "Project not found"}
        if self.fault != f"{route} unshown":
            self.session |= values
        self.shown |= values if self.fault != f"{route} unlisted" else {}
        return 200, {}

    def post(self, _path: str, **_body: Any) -> Any:
        """Make a project."""
        return {"project": {"project_id": "p1"}}

    def get(self, _path: str) -> Any:
        """The session."""
        return {"session": dict(self.session)}


class Adapter(WebuiAgreementAdapter):
    """The laws, asked of that server."""

    def __init__(self, server: Server) -> None:
        self.server, self._source, self._workspace = server, SOURCE, Path("/w")
        self._sessions: dict[str, dict[str, Any]] = {}
        self._project_id = ""

    @property
    def _web(self) -> Any:
        return self.server

    def _listed(self) -> dict[str, Any]:
        return {"a1": dict(self.server.shown)}


def _managed(fault: str) -> str:
    shape = Shape("one", "a1")
    return Adapter(Server(fault))._try_managed(shape)


def test_each_act_is_shown() -> None:
    """A server that does what it says is right."""
    assert _managed("") == ""


@pytest.mark.parametrize("route", ROUTES)
def test_act_that_is_not_shown(route: str) -> None:
    """An act is acknowledged, and the session stays as it was."""
    assert _managed(f"{route} unshown").startswith("the session has another")


def test_act_that_is_not_listed() -> None:
    """The session has another title, and the list has the old one."""
    assert _managed("rename unlisted").startswith("the list has another title")


@pytest.mark.parametrize("route", ROUTES)
def test_listed_session_is_unknown(route: str) -> None:
    """A list offers a session that a route does not know."""
    assert _managed(f"{route} lost").startswith(f"{route} had the status 404")


def test_refused_act_leaves_a_trace() -> None:
    """A refused move changes the session."""
    assert _managed("a trace") == "a refused move leaves a trace"


def test_page_asks_in_vain() -> None:
    """A folder is not shown for a session that is."""
    assert Adapter(Server())._see_asked(SHAPE, {}) == ""
    assert Adapter(Server("list lost"))._see_asked(SHAPE, {}).startswith("/api/list had the status")


def test_rows_differ() -> None:
    """The list has another mark; the count is that of another view."""
    adapter = Adapter(Server())
    row = {"message_count": 1, "title": "u", "updated_at": 5}

    assert adapter._see_row(SHAPE, {"a1": row}) == "other title: ['t and u']"
    assert adapter._see_row(SHAPE, {"a1": {**row, "title": "t"}}) == ""
    assert adapter._see_row(SHAPE, {}) == ""


def test_file_has_another_count(tmp_path: Path) -> None:
    """What a file says of itself must be so."""
    adapter = Adapter(Server())
    adapter._server = type("Process", (), {"state": tmp_path})  # type: ignore[assignment]
    (tmp_path / "sessions").mkdir()
    path = tmp_path / "sessions" / "a1.json"

    path.write_text('{"message_count": 1, "messages": [{}, {}]}')
    assert adapter._see_stored(SHAPE, {}) == "other message_count: ['2 and 1']"
    path.write_text('{"message_count": 2, "messages": [{}, {}], "title": "u"}')
    assert adapter._see_stored(SHAPE, {}) == "other title: ['t and u']"


def test_ways_to_say_nothing() -> None:
    """Zero, null and an empty text say the same; a source may be unstated."""
    assert unlike({"a": 0, "b": None, "_c": 1}, {"a": None, "b": "", "_c": 2}) == ""
    assert unlike({"source_tag": None}, {"source_tag": "webui"}) == ""
    assert unlike({"a": 0}, {"a": 3}) == "other a: ['0 and 3']"


@pytest.mark.parametrize(
    ("whole", "one", "other", "problem"),
    [
        ("ab", "a", "b", ""),
        ("ab", "a", "", "in no part"),
        ("ab", "ab", "b", "in both parts"),
        ("a", "a", "b", ""),
    ],
)
def test_parts_of_a_list_are_the_list(whole: str, one: str, other: str, problem: str) -> None:
    """A part may have sessions that the whole list hides."""
    rows: list[dict[str, Any]] = [{id_: {} for id_ in ids} for ids in (whole, one, other)]

    assert unparted(*rows).partition(":")[0] == problem


def test_row_of_a_filtered_list_agrees() -> None:
    """With that of the whole list, where both have the session."""
    whole = {"a": {"title": "t"}, "b": {"title": "u"}}

    assert unlike_rows(whole, {"a": {"title": "t"}, "c": {"title": "of c"}}) == ""
    assert unlike_rows(whole, {"b": {"title": "other"}}).startswith("other title")
