"""The *shapes* ability of a hermes-webui server, with its copies and another writer."""

from __future__ import annotations

import json
import sqlite3
import time
import urllib.request
import zipfile
from collections.abc import Mapping
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.contract.agent_script import FAIL
from harness.engine.http import Web
from harness.processes.waiting import came_true
from harness.targets.hermes_webui.gateway import Gateway
from harness.targets.hermes_webui.scripted_agent import GIVEN, RETURNS, steps_of
from harness.targets.hermes_webui.scripted_database import SCHEMA
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.server.shapes import (
    SETTLED_S,
    Row,
    Shape,
    ShapesAdapter,
    difference,
    pairs,
    rows_of,
)

GATEWAY_URL = "HERMES_WEBUI_GATEWAY_BASE_URL"
STEPS, COMPACTS, PLAIN = "[steps=2]", "[compact]", "[plain]"
LACKING, REPORTING, UNKEPT = "[lacking]", "[reporting]", "[unkept]"
TWICE = "[twice]"
OUTSIDE = "outside"
UPLOAD, ARCHIVE, BOUNDARY = "/api/upload", "/api/upload/extract", "5704ed-boundary"
RETURNING = "returning "  # the name of a shape whose agent returns another conversation
ERRS = ("empty", "none", "absent", "only the history", "without its request")  # of these
GATEWAY_SHAPES = ("through a gateway", "failed in a gateway", "cancelled in a gateway")
_NEEDS = (  # a route, and the shape, and the change or view, that need it
    ("session/duplicate", "copied", "copies"),
    ("session/branch", "forked", "forks"),
    ("session/branch", "forked and compacted", ""),
    ("session/import", "imported", ""),
    ("session/import_cli", "messaging", ""),
    ("session/export", "imported", "exported"),
    ("session/undo", "undone", ""),
    ("session/retry", "retried", ""),
    ("session/clear", "cleared", ""),
    ("session/truncate", "cut", "cut short"),
    ("session/truncate", "cut and written outside", ""),
    ("chat", "asked in one call", ""),
    ("btw", "", "asked aside"),
    ("background", "", "worked aside"),
    ("projects/create", "marked", "marked"),
    ("session/pin", "marked", "marked"),
    ("clarify/inject_test", "", "questions"),
)


class WebuiShapesAdapter(ShapesAdapter):
    """One server and its folder, its agent's database, and another writer of that."""

    only_seen = ("file lost",)  # it has lost its workspace, too
    kinds: tuple[str, ...] = (
        "made",
        "restarted",
        "changed",
        "mended",
        "deleted",
        "restarted at last",
    )
    shapes = (
        *ShapesAdapter.shapes,
        *(
            "steps",
            "steps on both sides",
            "written outside",
            "cut and written outside",
            "compacted",
            "copied",
        ),
        *("forked", "imported", "messaging", "asked in one call", "unindexed", "file lost"),
        *("pruned", "repeated", "silent", "lacking", "reporting", "returned twice"),
        *("attached", "marked", "struck behind steps"),
        *("failed behind steps", "cancelled behind steps", "compacted without rows"),
        "forked and compacted",
        *(f"{RETURNING}{kind}" for kind in RETURNS),
        *GATEWAY_SHAPES,
    )
    views = (
        *(view for view in ShapesAdapter.views if view != "tail"),
        "paged",
        "exported",
        "ordered",
        "marked",
        *("former", "linked"),
    )
    struck: Mapping[str, str] = {**ShapesAdapter.struck, "struck behind steps": STEPS}
    erring = (
        *(*ShapesAdapter.erring, "silent", "lacking", "reporting"),
        *(f"{RETURNING}{kind}" for kind in ERRS),
    )
    changes = (
        *("questions", "worked aside", "forks", "copies", *ShapesAdapter.changes[:-1]),
        *("given", *ShapesAdapter.changes[-1:]),
    )

    def __init__(self, folder: Path, launch: WebuiLaunch) -> None:
        """Boot nothing yet. Only routes that the checkout has are asked."""
        super().__init__(folder, launch)
        source = self._source = launch.source()
        for needed, shape, other in _NEEDS:
            if f'"/api/{needed}"' not in source:
                self.shapes = tuple(name for name in self.shapes if name != shape)
                self.changes = tuple(name for name in self.changes if name != other)
                self.views = tuple(name for name in self.views if name != other)
        if "HERMES_WEBUI_CHAT_BACKEND" not in source:
            self.shapes = tuple(name for name in self.shapes if name not in GATEWAY_SHAPES)
        if "msg_before" not in source:
            self.views = tuple(name for name in self.views if name not in ("tail", "paged"))

        self._workspace = launch.workspace
        self._gateway = Gateway()
        self._uploaded: dict[str, bytes] = {}  # the content of a file, by session
        self._links: dict[str, str] = {}  # what a session comes from, by its id
        self._unpacked: dict[str, bytes] = {}  # the same, of a file in an archive

    def close(self) -> None:
        """Kill the server, and close the gateway."""
        super().close()
        self._gateway.close()

    def _make_all(self) -> None:
        """Make the shapes whose turns go through a gateway by a server of another setting."""
        shapes = self.shapes
        through = {"HERMES_WEBUI_CHAT_BACKEND": "gateway", GATEWAY_URL: self._gateway.url}
        for settings, is_there in ((through, True), ({GATEWAY_URL: self._gateway.url}, False)):
            self.settings = settings
            self.shapes = tuple(name for name in shapes if (name in GATEWAY_SHAPES) is is_there)
            super()._make_all()
            if is_there:
                self._server.kill()
        self.shapes = shapes

    def _damage(self) -> None:
        """Remove the file of a session, whose rows stay in the agent's database."""
        if "file lost" in self._shapes:
            lost = self._shapes["file lost"]
            (self._server.state / "sessions" / f"{lost.id}.json").unlink(missing_ok=True)
            lost.updated_at = None
            self._mend()

    def _mend(self) -> None:
        """Ask for a repair of all files."""
        for path in ("cleanup", "cleanup_zero_message"):
            self._web.ask("POST", f"/api/sessions/{path}", {})
        self._web.ask("GET", "/api/session/recovery/audit")
        self._web.ask("POST", "/api/session/recovery/repair-safe", {})

    # Shapes

    def _made(self, shape: Shape) -> str:
        if shape.name.startswith(RETURNING):
            self._make_returning(shape)
            return ""
        return super()._made(shape)

    def _make_returning(self, shape: Shape) -> None:
        """The agent returns another conversation than the one that it has shown."""
        self._talk(shape, 2)
        self._talk(shape, 1, f"[returns={shape.name.removeprefix(RETURNING)}]")
        shape.heard_all = False
        self._talk(shape, 1)

    def _make_through_a_gateway(self, shape: Shape) -> None:
        self._talk(shape, 3)
        shape.heard_all = False  # the gateway has a memory of its own

    def _make_failed_in_a_gateway(self, shape: Shape) -> None:
        self._make_failed(shape)

    def _make_cancelled_in_a_gateway(self, shape: Shape) -> None:
        self._make_cancelled(shape)
        shape.heard_all = False

    def _make_asked_in_one_call(self, shape: Shape) -> None:
        """Turns whose request is answered at their end."""
        for _ in range(2):
            text, reply = self._text()
            self._web.post("/api/chat", session_id=shape.id, message=text)
            self._add(shape, text, reply)

    def _make_file_lost(self, shape: Shape) -> None:
        """A session whose file is gone at the next start, and whose rows are not."""
        self._talk(shape, 2)

    def _make_steps(self, shape: Shape) -> None:
        self._talk(shape, 3, STEPS)

    def _make_written_outside(self, shape: Shape) -> None:
        self._talk(shape, 2)
        self._write_outside(shape, "webui")

    def _make_steps_on_both_sides(self, shape: Shape) -> None:
        """Another program's turn, with calls of tools, lies between two of those."""
        self._talk(shape, 1, STEPS)
        self._write_outside(shape, "webui", script=STEPS)
        shape.heard_all = False
        self._talk(shape, 1, STEPS)

    def _make_cut_and_written_outside(self, shape: Shape) -> None:
        self._talk(shape, 2)
        self._cut(shape, 2)
        self._talk(shape, 1)
        self._write_outside(shape, "webui")

    def _make_compacted_without_rows(self, shape: Shape) -> None:
        """The same, with an agent that writes no rows."""
        self._make_compacted(shape, UNKEPT)

    def _make_forked_and_compacted(self, shape: Shape) -> None:
        """A fork, whose agent goes on in a session of another id."""
        self._talk(shape, 1)
        origin = shape.id
        shape.id = self._made_by("branch", shape)
        self._links[shape.id] = origin
        self._make_compacted(shape)

    def _make_compacted(self, shape: Shape, script: str = "") -> None:
        """The agent goes on in a session of another id, with a summary of what was said."""
        self._talk(shape, 2, script)
        shape.former, shape.former_rows = shape.id, [*shape.rows]
        self._extra.add(shape.id)
        text, reply = self._text(f"{COMPACTS}{script}")
        done = self._read(self._start(shape, text), until="done")
        self._wait_idle(shape.id)
        session = done.get("session")
        shape.id = session["session_id"] if isinstance(session, dict) else shape.id
        if shape.id != shape.former:
            self._links[shape.id] = shape.former
        self._add(shape, text, reply)
        shape.heard_all = False
        self._talk(shape, 1)

    def _make_struck_behind_steps(self, shape: Shape) -> None:
        """A session whose next turn is struck by a kill, when it has called tools."""
        self._make_struck(shape)

    def _make_failed_behind_steps(self, shape: Shape) -> None:
        """A turn that fails when it has called tools and shown something."""
        self._talk(shape, 1)
        text, reply = self._text(f"{FAIL}{STEPS}", 1)
        self._say(shape, text, reply)
        shape.heard_all = False
        self._talk(shape, 1)

    def _make_cancelled_behind_steps(self, shape: Shape) -> None:
        """A turn that is cancelled when it has called tools and shown something."""
        self._make_cancelled(shape, STEPS)

    def _make_pruned(self, shape: Shape) -> None:
        """The agent replaces its history by a summary; what the session shows stays."""
        self._talk(shape, 2)
        self._talk(shape, 1, "[prune]")
        shape.heard_all = False
        self._talk(shape, 1)

    def _make_repeated(self, shape: Shape) -> None:
        """Turns that are alike, with replies that are alike."""
        text, reply = self._text(PLAIN, 2)
        for _ in range(3):
            self._say(shape, text, reply)
        self._talk(shape, 1)

    def _make_silent(self, shape: Shape) -> None:
        """A turn whose agent says nothing."""
        self._talk(shape, 1)
        self._say(shape, f"{self._text()[0].split()[0]} {PLAIN}", "")
        shape.heard_all = False
        self._talk(shape, 1)

    def _make_lacking(self, shape: Shape) -> None:
        """The agent shows a reply, and does not return it."""
        self._talk(shape, 1)
        self._talk(shape, 1, LACKING)
        shape.heard_all = False
        self._talk(shape, 1)

    def _make_returned_twice(self, shape: Shape) -> None:
        """The agent's conversation has the reply twice, one behind the other."""
        self._talk(shape, 1)
        self._talk(shape, 1, TWICE)
        shape.heard_all = False
        self._talk(shape, 1)

    def _make_reporting(self, shape: Shape) -> None:
        """The agent shows a reply, and returns an error instead."""
        self._talk(shape, 1)
        self._talk(shape, 1, REPORTING)
        shape.heard_all = False
        self._talk(shape, 1)

    def _make_attached(self, shape: Shape) -> None:
        """A message with a file, which is uploaded where the server has a route for that."""
        self._talk(shape, 1)
        text, reply = self._text()
        attached: Any = "notes.txt"
        if f'"{UPLOAD}"' in self._source:
            attached = upload(self._web, shape.id, "notes.txt", f"the notes of {text}".encode())
            self._uploaded[shape.id] = f"the notes of {text}".encode()
        if f'"{ARCHIVE}"' in self._source:
            self._unpacked[shape.id] = f"packed with {text}".encode()
            archive = packed("packed.txt", self._unpacked[shape.id])
            upload(self._web, shape.id, f"{shape.id}.zip", archive, ARCHIVE)
        body = {"session_id": shape.id, "message": text, "attachments": [attached]}
        self._read(str(self._web.post("/api/chat/start", **body)["stream_id"]))
        self._wait_idle(shape.id)
        self._add(shape, text, reply)

    def _make_marked(self, shape: Shape) -> None:
        """A session that is pinned, lies in a project, and has a draft."""
        self._talk(shape, 1)
        project = self._web.post("/api/projects/create", name=f"of {shape.id}")["project"]
        self._post("pin", shape, pinned=True)
        self._post("move", shape, project_id=project["project_id"])
        self._rename(shape, "marked")
        shape.marks = {"pinned": True, "project_id": project["project_id"]}

    def _say(self, shape: Shape, text: str, reply: str) -> None:
        self._read(self._start(shape, text))
        self._wait_idle(shape.id)
        self._add(shape, text, reply)

    def _make_copied(self, shape: Shape) -> None:
        self._talk(shape, 2)
        shape.id = self._made_by("duplicate", shape)

    def _make_forked(self, shape: Shape) -> None:
        self._talk(shape, 3)
        shape.id = self._made_by("branch", shape, keep_count=self._place(shape, 4))
        del shape.rows[4:]

    def _make_imported(self, shape: Shape) -> None:
        self._talk(shape, 2)
        exported = self._web.get(f"/api/session/export?session_id={shape.id}")
        body = {"title": "imported", "messages": exported["messages"]}
        answer = self._web.post("/api/session/import", **body)
        self._extra.add(shape.id)
        shape.id, shape.title = answer["session"]["session_id"], "imported"

    def _make_messaging(self, shape: Shape) -> None:
        """Another program's session, of which the server makes one of its own."""
        shape.id = f"20260101_000000_{shape.id[:6]}"
        shape.is_own = False
        self._write_outside(shape, "telegram")
        self._web.post("/api/session/import_cli", session_id=shape.id)
        self._write_outside(shape, "telegram")

    def _make_unindexed(self, shape: Shape) -> None:
        """A session that the index has lost."""
        self._talk(shape, 1)
        path = self._server.state / "sessions" / "_index.json"
        rows = json.loads(path.read_bytes())
        kept = [row for row in rows if row.get("session_id") != shape.id]
        path.write_text(json.dumps(kept), encoding="utf-8")

    def _made_by(self, action: str, shape: Shape, **body: Any) -> str:
        self._extra.add(shape.id)
        answer = self._post(action, shape, **body)
        return str(answer.get("session", answer)["session_id"])

    def _write_outside(self, shape: Shape, source: str, script: str = "") -> None:
        """Let another program continue the session in the agent's database."""
        text, reply = self._text(script)
        now = time.time()
        with closing(sqlite3.connect(self._folder / "state.db", 10.0)) as connection, connection:
            connection.executescript(SCHEMA)
            connection.execute(
                "INSERT OR IGNORE INTO sessions (id, source, started_at, title, model)"
                " VALUES (?, ?, ?, ?, ?)",
                (shape.id, source, now, f"{OUTSIDE} {shape.name}", "scripted"),
            )
            said = ({"role": "user", "content": text}, *steps_of(text))
            for index, row in enumerate((*said, {"role": "assistant", "content": reply})):
                calls = json.dumps(row["tool_calls"]) if "tool_calls" in row else None
                connection.execute(
                    "INSERT INTO messages"
                    " (session_id, timestamp, tool_calls, role, content, tool_call_id)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        *(shape.id, now + index / 1000, calls),
                        *(row["role"], row["content"], row.get("tool_call_id")),
                    ),
                )
            connection.execute(
                "UPDATE sessions SET message_count ="
                " (SELECT count(*) FROM messages WHERE session_id = id) WHERE id = ?",
                (shape.id,),
            )
        self._add(shape, text, reply)

    # Changes

    def _try_worked_aside(self, shape: Shape) -> str:
        """A task in the background leaves its session as it is, and reports its result once."""
        text, reply = self._text()
        body = {"session_id": shape.id, "prompt": text}
        self._web.post("/api/background", **body)
        path = f"/api/background/status?session_id={shape.id}"
        results: list[Any] = []

        def is_reported() -> bool:
            results[:] = self._web.get(path)["results"]
            return bool(results)

        if not came_true(is_reported, SETTLED_S):
            return "a task in the background reports no result"
        is_right = len(results) == 1 and str(results[0]["answer"]).startswith(reply)
        return "" if is_right else f"another result: expected {reply}; observed {results}"

    def _try_given(self, shape: Shape) -> str:
        """The last turn was given what its session shows as its settings."""
        path = self._folder / "spool" / GIVEN
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        notes = [note for note in map(json.loads, lines) if note["session_id"] == shape.id]
        return ungiven(notes[-1], self._web.get(self._path(shape))["session"]) if notes else ""

    def _try_forks(self, shape: Shape) -> str:
        """A fork has the first messages that the session shows."""
        keep = max(1, len(shape.rows) - 1)
        fork = Shape("", self._made_by("branch", shape, keep_count=self._place(shape, keep)))
        return difference(shape.rows[:keep], self._rows(self._noted(fork)))

    def _try_copies(self, shape: Shape) -> str:
        """A copy has all messages."""
        copy = Shape("", self._made_by("duplicate", shape))
        return difference(shape.rows, self._rows(self._noted(copy)))

    def _noted(self, copy: Shape) -> Shape:
        """The copy, as a session that the list may have."""
        self._extra.add(copy.id)
        return copy

    def _try_questions(self, shape: Shape) -> str:
        """Questions to the user wait in their own session, in order, until each is answered.

        A server whose agent has no such questions keeps none, and is not asked further.
        """
        (other,) = (known for known in self._shapes.values() if known.name == "left")
        for room, choice in (("clarify", "response"), ("approval", "choice")):
            for number in (1, 2):
                query = f"session_id={shape.id}&question=q{number}&command=q{number}"
                self._web.ask("GET", f"/api/{room}/inject_test?{query}")
            waiting = [self._question(room, shape)]
            if not waiting[0]:
                continue
            if self._question(room, other):
                return f"a question of another session is shown: {room}"
            for _ in range(2):
                id_ = {f"{room}_id": waiting[-1].get(f"{room}_id", "")}
                body = {"session_id": shape.id, choice: "deny", **id_}
                self._web.ask("POST", f"/api/{room}/respond", body)
                waiting.append(self._question(room, shape))
            texts = [question.get("question") or question.get("command") for question in waiting]
            if texts != ["q1", "q2", None]:
                return f"questions do not wait in their order until they are answered: {texts}"
        return ""

    def _question(self, room: str, shape: Shape) -> dict[str, Any]:
        """The question that waits first in a session; empty if none does."""
        _, answer = self._web.ask("GET", f"/api/{room}/pending?session_id={shape.id}")
        return answer.get("pending") or {}

    def _gone(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """A file that came with a message is gone as well."""
        problem = super()._gone(shape, listed)
        for content in (self._uploaded.get(shape.id), self._unpacked.get(shape.id)):
            if problem or content is None:
                continue
            folders = (self._folder, self._workspace)
            left = [path for folder in folders for path in folder.rglob("*") if _has(path, content)]
            for path in left:
                is_below = path.is_relative_to(self._folder)
                name = path.relative_to(self._folder) if is_below else path.name
                problem = f"a file of it is left: {name}"
                if not is_below:  # others use this folder too
                    path.unlink(missing_ok=True)
        return problem

    # Views

    def _see_former(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """What was said before a summary is still shown by the id that the session had then."""
        if not shape.former:
            return ""
        if shape.former in listed and shape.id in listed:
            return "it is listed twice: with its summary, and as it was before"
        former = Shape("", shape.former)
        rows = self._rows(former)
        problem = difference(shape.former_rows, rows[: len(shape.former_rows)])
        return problem or self._see_idle(former, {})

    def _see_linked(self, shape: Shape, _listed: Any) -> str:
        """A session names the one that it comes from, and so does what it was before."""
        for id_ in (shape.id, shape.former):
            if id_ not in self._links:
                continue
            found = self._web.get(f"/api/session?session_id={id_}&messages=0")["session"]
            parent = found.get("parent_session_id", self._links[id_])
            if parent != self._links[id_]:
                return f"another parent: {parent}, not {self._links[id_]}"
        return ""

    def _see_marked(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """The list and the session have each mark that was set."""
        found = self._found(shape)
        for name, value in shape.marks.items():
            for place, row in (("session", found), ("list", listed.get(shape.id, {}))):
                if row.get(name) != value:
                    return f"the {place} has another {name}: {row.get(name)}, not {value}"
        return ""

    def _see_paged(self, shape: Shape, _listed: Any) -> str:
        """The pages before the last one have all the other messages, and something to show.

        Where results of tools alone fill a page of the end, they may be left out.
        """
        whole = pairs(self._found(shape)["messages"])
        pages: list[Row] = []
        query = {"msg_limit": self.page}
        for _ in whole:
            found = self._web.get(self._path(shape, **query))["session"]
            pages = [*pairs(found["messages"]), *pages]
            if found["messages"] and all(row["role"] == "tool" for row in found["messages"]):
                return "a page has nothing to show"
            offset = found.get("_messages_offset") or 0
            if not offset:
                break
            query = {"msg_limit": self.page, "msg_before": offset}
        last = 1 + max((n for n, (role, _) in enumerate(whole) if role != "tool"), default=0)
        if len(whole) - last >= self.page and pages and pages[-1] == whole[last - 1]:
            del whole[last:]
        return difference(whole, pages)

    def _see_exported(self, shape: Shape, _listed: Any) -> str:
        """An export has all messages that the server keeps."""
        exported = self._web.get(f"/api/session/export?session_id={shape.id}")
        return difference(shape.rows, rows_of(exported["messages"]))

    def _see_ordered(self, shape: Shape, _listed: Any) -> str:
        """Calls of tools lie between the message and the reply of their turn."""
        word, is_answered = "", False
        for message in self._found(shape)["messages"]:
            text = str(message.get("content") or "")
            calls = [call.get("id") or "" for call in message.get("tool_calls") or ()]
            calls += [message.get("tool_call_id") or ""]
            for call in filter(None, calls):
                if not call.startswith(f"{word}-"):
                    return f"a call in another turn: {call} in that of {word}"
                if is_answered:
                    return f"a call behind the reply: {call}"
            if message["role"] == "user":
                word, is_answered = text.partition(" ")[0], False
            elif message["role"] == "assistant" and text.strip():
                is_answered = True
        return ""

    def _search(self, word: str) -> set[str]:
        found = self._web.get(f"/api/sessions/search?q={quote(word)}&content=1&depth=50")
        return {row["session_id"] for row in found["sessions"]}


def ungiven(note: Mapping[str, Any], session: Mapping[str, Any]) -> str:
    """Which setting of a session its turn was not given.

    A model that names its provider too, and a list of tools that no client chose, may be resolved.
    """
    model, tools = str(session.get("model") or ""), session.get("enabled_toolsets")
    wanted: dict[str, Any] = {
        "model": None if "/" in model or model.startswith("@") else model or None
    }
    wanted |= {"toolsets": sorted(tools) if tools else None, "folder": session.get("workspace")}
    given = {**note, "toolsets": sorted(note["toolsets"] or ())}
    for name, value in wanted.items():
        if value is not None and given[name] is not None and given[name] != value:
            return f"another {name}: {given[name]}, not {value}"
    return ""


def _has(path: Path, content: bytes) -> bool:
    """Whether a file has this content, and nothing else."""
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def packed(name: str, content: bytes) -> bytes:
    """An archive of one file."""
    whole = BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(name, content)
    return whole.getvalue()


def upload(web: Web, session: str, name: str, content: bytes, path: str = UPLOAD) -> Any:
    """Upload a file as a page does; what the server says of it."""
    fields = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="session_id"\r\n\r\n{session}\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: text/plain\r\n\r\n"
    )
    body = fields.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    url = f"http://{web.host}:{web.port}{path}"
    head = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    request = urllib.request.Request(url, body, head)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=web.timeout_s) as answer:
        found = json.loads(answer.read())
    names = ("filename", "path", "mime", "size", "is_image")
    return {"name" if each == "filename" else each: found[each] for each in names if each in found}
