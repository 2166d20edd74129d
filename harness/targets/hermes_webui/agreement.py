"""Laws about all answers that tell of one session of a hermes-webui server.

The same fact is the same in the session, in its row of the list, in its status, in an export, and
in the agent's database. What a page offers for a listed session is done and shown by all of them,
or refused without a trace. A copy has the settings of its origin, and an import what was exported.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from harness.targets.hermes_webui.scripted_database import TOKENS
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.shapes import WebuiShapesAdapter
from harness.targets.server.shapes import OF_MESSAGES, OK, Shape, rows_of

NOT_FOUND, BROKEN = 404, 500
NOTHING = "of-none"  # the id of no project, and the name of no file
UNKNOWN = "ession not found"
WINDOW = 2  # messages of its end
FILTERS = (  # of the list
    *("sidebar_source=webui", "sidebar_source=cli", "include_archived=1", "exclude_hidden=1"),
    *("all_profiles=1", "archived_limit=1"),
)
PARTS = FILTERS[:2]  # each row of the whole list is in one of them
WORDS = 3  # fields that a difference names
TIMES = ("created_at", "updated_at", "last_message_at")  # other views tell of these
ASKED = {"enabled_toolsets": "toolsets"}  # how a request names the field
ASKED_BY_PAGES = (  # of each session that is shown
    *("/api/list", "/api/approval/pending", "/api/clarify/pending"),
    *("/api/background/status", "/api/session/yolo", "/api/file", "/api/folder/download"),
)
UNSTATED = ("source_tag", "raw_source", "session_source", "source_label", "profile")
INHERITED = (
    *("workspace", "model", "model_provider", "profile", "project_id", "personality"),
    *("enabled_toolsets", "context_length", "threshold_tokens", "gateway_routing"),
)
COPIED = (
    *("input_tokens", "output_tokens", "estimated_cost", "cache_read_tokens"),
    *("cache_write_tokens", "composer_draft", "llm_title_generated"),
)
STORED = ("title", "workspace", "pinned", "archived", "project_id", "personality")
EXPORTED = ("title", "workspace", "model")
MESSAGE = ("role", "content", "timestamp", "reasoning", "tool_calls", "tool_call_id", "tool_name")


class WebuiAgreementAdapter(WebuiShapesAdapter):
    """One server, whose answers about each session are compared with each other."""

    def __init__(self, folder: Path, launch: WebuiLaunch) -> None:
        """Boot nothing yet."""
        super().__init__(folder, launch)
        self._project_id = ""
        self._recorded: set[str] = set()  # sessions whose turns the database knows of

    def _whole(self, id_: str) -> dict[str, Any]:
        found: dict[str, Any] = self._web.get(f"/api/session?session_id={id_}")["session"]
        return found

    def _knows(self, field: str) -> bool:
        """Whether this revision has a field of that name."""
        return f"'{field}'" in self._source or f'"{field}"' in self._source

    def _is_looked_into(self, _shape: Shape) -> bool:
        """Whether all that a page may do with the session is done, and not one act only."""
        return True

    # Views

    def _look_at_all(self) -> None:
        super()._look_at_all()
        known = [each for each in FILTERS if self._knows(each.partition("=")[0])]
        whole = self._listed()
        lists = {each: self._filtered(each) for each in known}
        for each, rows in lists.items():
            self._facts[f"the list by {each}, {self._kind}: filtered"] = unlike_rows(whole, rows)
        if all(part in lists for part in PARTS):
            problem = unparted(whole, *(lists[part] for part in PARTS))
            self._facts[f"the list by its parts, {self._kind}: filtered"] = problem

    def _filtered(self, query: str) -> dict[str, Any]:
        """The rows of a filtered list, by session."""
        rows = self._web.get(f"/api/sessions?{query}")["sessions"]
        return {row["session_id"]: row for row in rows}

    def _see_row(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """What the row of the list tells is what the session tells; another view counts."""
        row = listed.get(shape.id)
        return "" if row is None else unlike(_uncounted(self._found(shape)), row)

    def _see_short(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """So it is without its messages."""
        return self._answer(shape, listed, "?messages=0&")

    def _see_window(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """So it is with its last messages only."""
        return self._answer(shape, listed, f"?msg_limit={WINDOW}&")

    def _see_status(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """So it is in its status."""
        return self._answer(shape, listed, "/status?")

    def _see_usage(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """So it is in its usage."""
        return self._answer(shape, listed, "/usage?")

    def _see_download(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """So it is in what an export has besides the messages."""
        return self._answer(shape, listed, "/export?")

    def _see_asked(self, shape: Shape, _listed: Any) -> str:
        """Each route that a page asks about a session that is shown knows it."""
        id_ = self._found(shape)["session_id"]
        for path in ASKED_BY_PAGES:
            if f'"{path}"' in self._source:
                query = f"{path}?session_id={id_}&path={NOTHING}"
                status, answer = self._web.ask("GET", query)
                if status >= BROKEN or (status == NOT_FOUND and UNKNOWN in str(answer)):
                    return f"{path} had the status {status}: {answer}"
        return ""

    def _see_stored(self, shape: Shape, _listed: Any) -> str:
        """So it is in the file of the session, whose count is that of its messages."""
        path = self._server.state / "sessions" / f"{shape.id}.json"
        if not path.exists():
            return ""
        stored = json.loads(path.read_bytes())
        stored = {name: value for name, value in stored.items() if value}
        counted = {"message_count": len(stored.get("messages", ()))}
        shown = {name: self._found(shape).get(name) for name in STORED}
        return unlike({**shown, **counted}, stored)

    def _answer(self, shape: Shape, listed: Mapping[str, Any], place: str) -> str:
        """An answer may be lacking for a session that has no file, or is not listed."""
        route = f"/api/session{place.partition('?')[0]}"
        if f'"{route}"' not in self._source:
            return ""
        status, answer = self._web.ask("GET", f"/api/session{place}session_id={shape.id}")
        has_file = (self._server.state / "sessions" / f"{shape.id}.json").exists()
        if status == NOT_FOUND and not (has_file and shape.id in listed):
            return ""
        if status != OK:
            return f"it had the status {status}: {answer}"
        found = self._found(shape)
        found = _uncounted(found) if place.startswith("?") else found  # another view counts
        return unlike(found, answer.get("session", answer))

    # Changes

    def _acts(self, shape: Shape) -> Iterator[tuple[str, str, Any]]:
        """Routes, fields, and the values that they set; some are for the server's sessions only."""
        yield "rename", "title", f"{shape.name} anew"
        for value in (True, False):
            yield "archive", "archived", value
        yield "update", "workspace", str(self._workspace)
        if '"/api/projects/create"' in self._source:
            yield "move", "project_id", self._project()
        if shape.is_own:
            for value in (True, False):
                yield "pin", "pinned", value
            yield "toolsets", "enabled_toolsets", ["web"]

    def _project(self) -> str:
        """The id of a project, which is made once."""
        if not self._project_id:
            made = self._web.post("/api/projects/create", name="of many")["project"]
            self._project_id = str(made["project_id"])
        return self._project_id

    def _try_managed(self, shape: Shape) -> str:
        """Each act on a session is done and shown, or refused without a trace."""
        path = self._path(shape, messages=0)  # so that the first act meets no messages in memory
        self._web.get(path)
        problem, shown, before = "", {}, None
        acts = [*self._acts(shape)]
        first = zlib.crc32(shape.name.encode()) % len(acts)
        first -= acts[first][2] is False  # a mark is set before it is taken back
        acts = [*acts[first:], *acts[:first], ("move", "project_id", NOTHING)]
        if not self._is_looked_into(shape):
            del acts[2 if acts[0][2] is True else 1 :]
        for route, field, value in acts:
            if f'"/api/session/{route}"' not in self._source:
                continue
            body = {"session_id": shape.id, ASKED.get(field, field): value}
            status, answer = self._web.ask("POST", f"/api/session/{route}", body)
            after = self._whole(shape.id)
            if status == OK:
                shown[field] = value
                shape.marks.pop("is_cli_session", None)  # it is the server's own from then on
                shape.title = value if field == "title" else shape.title
                problem = problem or _unshown("session", {field: value}, after)
            elif status >= BROKEN or (status == NOT_FOUND and value != NOTHING):
                problem = problem or f"{route} had the status {status}: {answer}"
            elif before is not None and unlike(before, after):
                problem = problem or f"a refused {route} leaves a trace"
            before = after
        if problem or not self._is_looked_into(shape):
            return problem
        problem = _unshown("short session", shown, self._web.get(path)["session"])
        return problem or _unshown("list", shown, self._listed().get(shape.id, {}))

    def _try_recorded(self, shape: Shape) -> str:
        """What the server has written into the agent's database behind a turn is what it shows."""
        if shape.name not in self._recorded:
            return ""
        found = self._whole(shape.id)
        with closing(sqlite3.connect(self._folder / "state.db", 10.0)) as connection:
            connection.row_factory = sqlite3.Row
            select = "SELECT * FROM sessions WHERE id = ?"
            row = dict(connection.execute(select, (shape.id,)).fetchone() or ())
        if not row:
            return "the database lacks it"
        written = {"title": found["title"], "message_count": len(found["messages"])}
        written |= {name: found.get(name) for name in TOKENS}
        problem = unlike(written, row)
        return problem or ("" if row["api_call_count"] else "the calls were not counted")

    def _hears_more(self, id_: str) -> str:
        """What the file of a copy or a fork has for the agent, and the session does not show."""
        path = self._server.state / "sessions" / f"{id_}.json"
        said = json.loads(path.read_bytes()).get("context_messages") if path.exists() else ()
        shown = rows_of(self._whole(id_)["messages"])
        more = [row for row in rows_of(said or ()) if row not in shown]
        return f"its agent hears more: {more[:3]}" if more else ""

    def _unlike_origin(self, shape: Shape, copy: str, names: Iterable[str]) -> str:
        """What a copy or a fork does not have of its origin."""
        known = [name for name in names if self._knows(name)]
        origin, made = self._whole(shape.id), self._whole(copy)
        lost = {name: origin[name] for name in known if origin.get(name)}
        return unlike(lost, {**dict.fromkeys(lost), **made})

    def _try_exchanged(self, shape: Shape) -> str:
        """What is imported is what was exported."""
        status, exported = self._web.ask("GET", f"/api/session/export?session_id={shape.id}")
        if status != OK or not shape.is_own:
            return ""
        made = self._web.post("/api/session/import", **exported)["session"]["session_id"]
        self._extra.add(made)
        found = self._whole(made)
        said = [[_kept(row) for row in each["messages"]] for each in (exported, found)]
        problem = unlike({name: exported.get(name) for name in EXPORTED}, found)
        if not problem and said[0] != said[1]:
            pairs = zip(*said, strict=False)
            wrong = next((pair for pair in pairs if pair[0] != pair[1]), ())
            problem = f"other messages: {wrong}, {len(said[1])} of {len(said[0])}"
        self._web.ask("POST", "/api/session/delete", {"session_id": made})
        return problem


def unlike_rows(whole: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    """What the row of a session in a filtered list has otherwise than in the whole one."""
    for id_ in whole.keys() & rows.keys():
        if problem := unlike(whole[id_], rows[id_]):
            return problem
    return ""


def unparted(whole: Mapping[str, Any], one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Which sessions are in no part of the list, in both, or in a part only."""
    for problem, ids in (
        ("in both parts", one.keys() & other.keys()),
        ("in no part", whole.keys() - one.keys() - other.keys()),
    ):
        if ids:
            return f"{problem}: {sorted(ids)[:WORDS]}"
    return ""


def _unshown(place: str, values: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Which change that was acknowledged is not shown there."""
    for name, value in values.items():
        if name in row and not alike(row[name], value):
            return f"the {place} has another {name}: {row[name]}, not {value}"
    return ""


def _uncounted(session: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in session.items() if name != "message_count"}


def _kept(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: message[name] for name in MESSAGE if message.get(name)}


def alike(one: Any, other: Any) -> bool:
    """Whether two values say the same; nothing may be said in several ways."""
    return one == other or not (one or other)


def unlike(session: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Which fields both have, with different values; empty if there is none."""
    names = [
        name
        for name in sorted(session.keys() & other.keys())
        if name not in (*OF_MESSAGES, *TIMES, "is_cli_session") and not name.startswith("_")
        if name not in UNSTATED or (session[name] and other[name])
        if not alike(session[name], other[name])
    ]
    if not names:
        return ""
    values = [f"{session[name]} and {other[name]}"[:80] for name in names[:WORDS]]
    return f"other {' and '.join(names[:WORDS])}: {values}"
