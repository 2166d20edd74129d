"""The *stored* ability of a hermes-webui server: it boots on a disk that others have written.

Files of sessions, rows of the agent's database and journals are there before the first boot, in the
combinations that other versions, other programs and kills leave behind. Then each session is read
by every route, as sessions of many shapes are, and changed, restarted and deleted.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.contract.agent_script import ReplyEnd
from harness.core.errors import TargetLostError
from harness.targets.hermes_webui.agreement import (
    COPIED,
    INHERITED,
    WebuiAgreementAdapter,
    unlike,
)
from harness.targets.hermes_webui.routes import Routes
from harness.targets.hermes_webui.scripted_database import SCHEMA
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.stored_cases import (
    KEPT_FIELDS,
    Case,
    Message,
    Messages,
    Talks,
    cases,
    text_of,
)
from harness.targets.server.lifecycle import ServerAdapter
from harness.targets.server.probe import ProbeError, ask_probe
from harness.targets.server.shapes import OK, Shape, difference, pairs, rows_of, said_in

AGE_S = 86_400.0  # of the oldest message
COLUMNS = ("role", "content", "timestamp", "tool_calls", "tool_call_id", "reasoning")
NEWER = ("active", "compacted")  # columns that newer agents have
SERVER = "the server"
LOCK, LOCKED_S = "_get_session_agent_lock", 3.0  # of a session, and for an answer beside it
BOUNDED_S = 14.0  # longer than any bounded wait of a request
STRANGE = "état 状態 #1 100%?"
LEFT_ALONE = ("auth", "password", "redact", "update", "show_", "onboarding", "sync", "key")
OF_SOURCES = ("is_cli_session", "source_tag", "raw_source", "session_source")
OF_CHATS = ("chat_id", "session_key")
OF_RECORDS = ("workspace",)  # columns of sessions that some agents have
FORBIDDEN = 403
FRESH = ("made", "changed")  # rounds in which every view is asked for
SEARCHED = ("file whole, rows whole", "file behind, rows late", "behind its backup", "pinned")
SHOWN_KINDS = ("show_cli", "show_cron", "show_previous", "show_webhook", "show_kanban")
WAYS = ("truncate", "undo", "truncate", "clear", "undo")  # to remove turns
ENDS = {"done": "completed", "stream_end": "completed", "apperror": "errored"}
LAWS = (
    *("row", "short", "window", "beside a lock", "status", "usage", "download", "stored", "asked"),
    *("managed", "exchanged", "recorded", "guarded", "imported again", "heard", "reported"),
)
IMPORTED = ("of cli", "of tui", "of api_server")


class WebuiStoredAdapter(WebuiAgreementAdapter):
    """One server and its folder, which others have written before."""

    shapes = ()
    struck: Mapping[str, str] = {}
    erring = ("cut off", "failed", "many turns", "alike", "strange")
    changes = (
        *("imported again", "guarded", "managed", "drafted", "forks", "copies", "exchanged"),
        *("continued", "given", "recorded", "cut short"),
    )
    kinds: tuple[str, ...] = ("made", "restarted", "changed", "mended", "deleted")
    page = 8
    views = (
        *(
            view
            for view in WebuiAgreementAdapter.views
            if view not in ("former", "ordered", "linked")
        ),
        *("fields", "called", "metadata", "again", "context"),
        *("row", "short", "window", "status", "usage", "download", "stored", "asked", "heard"),
        *("reported", "beside a lock"),
    )

    def __init__(self, folder: Path, launch: WebuiLaunch) -> None:
        """Boot nothing yet."""
        super().__init__(folder, launch)
        self._launch = launch
        self._cases: dict[str, Case] = {}
        self._set: dict[str, Any] = {}  # settings, as they were set
        self._latest_copy = ""
        self._offered: set[str] = set()  # sessions that were listed before all changes
        self._first: dict[str, Messages] = {}  # sessions as they were read first
        self._beside_locks: dict[str, str] = {}  # what reads met beside a held lock
        self._has_waited = False  # whether a read was not answered beside one
        self._projects: dict[str, str] = {}  # titles by id, as they were set

    # Rounds

    def _make_all(self) -> None:
        """Write the disk, and boot."""
        self._folder_of_sessions.mkdir(parents=True)
        index: Messages = []
        with closing(sqlite3.connect(self._folder / "state.db")) as connection, connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(SCHEMA)
            for name in NEWER:
                connection.execute(
                    f"ALTER TABLE messages ADD COLUMN {name} INTEGER NOT NULL"
                    f" DEFAULT {int(name == 'active')}"
                )
            for name in (*OF_CHATS, *OF_RECORDS):
                connection.execute(f"ALTER TABLE sessions ADD COLUMN {name} TEXT")
            for number, case in enumerate(cases(Talks(time.time() - AGE_S))):
                shape = self._shape_of(case, number)
                parent = self._shapes[case.parent].id if case.parent else None
                self._insert(connection, shape.id, case, parent)
                index += self._write_files(shape, case, parent)
                self._cases[case.name], self._shapes[case.name] = case, shape
        _write(self._folder_of_sessions / "_index.json", index)
        for name, case in self._cases.items():
            if case.index or case.index is None:  # its first read has no messages
                shape = self._shapes[name]
                self._age_index(shape)
                status_of = f"/api/session/status?session_id={shape.id}"
                paths = (status_of, self._path(shape, messages=0))
                answers = [self._web.ask("GET", path) for path in paths]
                self._first[name] = [each for status, each in answers if status == OK]
        self._read_locked()
        for shape in self._shapes.values():  # a server repairs some of them as they are read
            self._web.ask("GET", self._path(shape))
        if self._knows("sync_to_insights"):
            self._web.post("/api/settings", sync_to_insights=True)
        self._facts[f"{SERVER}, made: made"] = ""

    def _read_locked(self) -> None:
        """Read sessions whose locks are held, as by a slow call: no read writes their files."""
        self._web.get("/health")  # the probe is there with its server
        for name, case in self._cases.items():
            if not case.is_locked:
                continue
            id_ = self._shapes[name].id
            path = self._folder_of_sessions / f"{id_}.json"
            before, argument = path.read_bytes(), {"module": "api.config", "argument": [id_]}
            try:
                ask_probe(self._server.state, "hold", function=LOCK, **argument)
            except ProbeError:  # older releases have no lock of a session
                continue
            try:
                problem = self._waits_beside_a_lock(id_)
            finally:
                is_same = path.read_bytes() == before
                ask_probe(self._server.state, "release")
            written = "" if is_same else "its file is written: another has its lock"
            self._beside_locks[name] = written or problem

    def _waits_beside_a_lock(self, id_: str) -> str:
        """Whether a read of the session is not answered in any bounded time, asked only once."""
        for place in ("/status?", "?messages=0&", "?", "?msg_limit=2&"):
            path = f"/api/session{place}session_id={id_}"
            try:
                replace(self._web, timeout_s=LOCKED_S).ask("GET", path)
            except (TargetLostError, TimeoutError):
                if self._has_waited:
                    return ""
                self._has_waited = True
                try:
                    replace(self._web, timeout_s=BOUNDED_S).ask("GET", path)
                except (TargetLostError, TimeoutError):
                    return "it waits: another has its lock"
                return ""
        return ""

    def _found(self, shape: Shape) -> dict[str, Any]:
        """The session, read while the index has what another process would leave there."""
        if shape.id not in self._sessions and self._kind == "made":
            self._age_index(shape)
        return super()._found(shape)

    def _age_index(self, shape: Shape) -> None:
        """Give the session the row that its case states, while the server runs."""
        case, path = self._cases[shape.name], self._folder_of_sessions / "_index.json"
        if not path.exists() or not (case.is_indexed or case.index):
            return
        row = {**self._fields(shape.id, case, None), **(case.index or {})}
        rows = json.loads(path.read_bytes())
        _write(path, [row, *(each for each in rows if each.get("session_id") != shape.id)])

    def _strike(self) -> None:
        """Show other kinds of sessions, one kind after another; restart with all of them."""
        problem, kinds = "", self._shown_kinds()
        for name, value in kinds.items():
            before = {*self._listed()}
            self._web.post("/api/settings", **{name: not value})
            at_once = {*self._listed()}
            self._rename_any()
            problem = problem or _unlike(f"a late {name}", {*self._listed()}, at_once)
            self._web.post("/api/settings", **{name: value})
            problem = problem or _unlike(f"a late {name}", before, {*self._listed()})
        self._web.post("/api/settings", **{name: not value for name, value in kinds.items()})
        others = {*self._listed()}
        super()._strike()
        problem = problem or _unlike("another list behind a restart", others, {*self._listed()})
        self._web.post("/api/settings", **kinds)
        self._facts["the list, restarted: shown kinds"] = problem

    def _shown_kinds(self) -> dict[str, bool]:
        """Which kinds of sessions the list shows, by the names of the settings."""
        settings = self._web.get("/api/settings")
        kinds = {name: value for name, value in settings.items() if name.startswith(SHOWN_KINDS)}
        return {name: value for name, value in kinds.items() if isinstance(value, bool)}

    def _rename_any(self) -> None:
        """Give some session the title that it has, so that the server makes its list anew."""
        for shape in self._shapes.values():
            if shape.is_own and shape.title:
                self._rename(shape, shape.title)
                shape.updated_at = None
                return

    def _damage(self) -> None:
        """Lose the index, and write the journals that come late."""
        (self._folder_of_sessions / "_index.json").unlink(missing_ok=True)
        for name, case in self._cases.items():
            if case.is_late and case.journal:
                shape = self._shapes[name]
                self._write_journals(shape.id, case)
                shape.rows += rows_of(case.journal[1:])
                shape.updated_at = None

    def _change_all(self) -> None:
        """Change all sessions right behind a start, while the list shows all kinds of them."""
        self._server.kill()
        kinds = self._shown_kinds()
        self._web.ask("POST", "/api/settings", dict.fromkeys(kinds, True))
        self._offered = {*self._listed()}
        self._note("elsewhere", Shape(SERVER, ""), partial(self._unlisted_elsewhere, kinds))
        super()._change_all()
        self._web.ask("POST", "/api/settings", kinds)
        self._set_all()

    def _unlisted_elsewhere(self, kinds: Iterable[str]) -> str:
        """Which sessions of other programs a server lacks whose folder has a strange name."""
        folder = self._folder / STRANGE
        folder.mkdir()
        place = self._folder / "state.db"
        with (
            closing(sqlite3.connect(place, 10.0)) as source,
            closing(sqlite3.connect(folder / "state.db")) as copy,
        ):
            source.backup(copy)
        server = ServerAdapter(folder, self._launch)
        try:
            web = replace(self._web, port=server.boot()["port"])
            web.ask("POST", "/api/settings", dict.fromkeys(kinds, True))
            listed = {row["session_id"] for row in web.get("/api/sessions")["sessions"]}
        finally:
            server.close()
        others = {shape.id for shape in self._shapes.values() if self._is_of_others(shape)}
        return _unlike("another list", others & self._offered, others & listed)

    def _is_of_others(self, shape: Shape) -> bool:
        """Whether only the database has the session."""
        case = self._cases[shape.name]
        return not shape.is_own and case.messages is None and not case.is_indexed

    def _look_at_all(self) -> None:
        super()._look_at_all()
        server = Shape(SERVER, "")
        self._note("settings", server, self._see_settings)
        self._note("projects", server, self._see_projects)
        self._note("insights", server, self._see_insights)

    def _note(self, view: str, shape: Shape, act: Callable[[], str]) -> None:
        """Of some sessions only some views are asked for; of the laws only what breaks them."""
        case = self._cases.get(shape.name)
        if case is None or not case.views or view in case.views:
            super()._note(view, shape, act)
            name = f"{shape.name}, {self._kind}: {view}"
            if view in LAWS and not self._facts[name]:
                del self._facts[name]

    # The disk

    @property
    def _folder_of_sessions(self) -> Path:
        return self._server.state / "sessions"

    def _shape_of(self, case: Case, number: int) -> Shape:
        is_own = case.source == "webui"
        id_ = f"{number:04x}5704ed01" if is_own else f"20260101_000{number:03d}_{number:04x}ed"
        id_ = case.id or id_
        shape = Shape(case.name, id_, case.shown, is_own=is_own, heard_all=case.heard_all)
        shape.marks = {k: v for k, v in case.marks.items() if self._knows(k)}
        if case.messages is not None and case.index is not None:
            updated_at = self._fields(id_, case, None)["updated_at"]
            is_last = all(row["timestamp"] <= updated_at for row in case.rows)
            shape.updated_at = updated_at if is_last else None
        if case.messages is not None and not case.name.startswith("cut off"):
            shape.title = f"the title of {case.name}"
        return shape

    def _write_files(self, shape: Shape, case: Case, parent: str | None) -> Messages:
        """Write the session's files; its row of the index, if it has one."""
        fields = self._fields(shape.id, case, parent)
        path = self._folder_of_sessions / f"{shape.id}.json"
        if case.backup is not None:
            backup = {**fields, **case.backup_fields, "messages": case.backup}
            _write(path.with_suffix(".json.bak"), backup)
        if case.torn:
            path.write_text(case.torn, encoding="utf-8")
        if case.messages is None:
            return []
        _write(path, {**fields, "messages": case.messages})
        if case.journal is not None and not case.is_late:
            self._write_journals(shape.id, case)
        return [] if case.index is None else [{**fields, **case.index}]

    def _fields(self, id_: str, case: Case, parent: str | None) -> Message:
        """The fields of the session's file, besides its messages."""
        messages = case.messages or case.said
        times = [message["timestamp"] for message in case.said if "timestamp" in message]
        fields = {
            "session_id": id_,
            "title": f"the title of {case.name}",
            "workspace": str(self._workspace),
            "model": "scripted",
            "created_at": times[0],
            "updated_at": times[-1],
            "pinned": False,
            "archived": False,
            "project_id": None,
            "profile": "default",
            "manual_title": True,
            "message_count": len(messages),
            "tool_calls": [],
            **case.fields,
        }
        if "active_stream_id" in case.fields:
            fields["active_stream_id"] = _run_of(id_)
        if parent:
            fields["parent_session_id"] = parent
        return fields

    def _insert(
        self, connection: sqlite3.Connection, id_: str, case: Case, parent: str | None
    ) -> None:
        if not case.rows:
            return
        times = [row["timestamp"] for row in case.rows]
        connection.execute(
            "INSERT INTO sessions (id, source, model, started_at, ended_at, end_reason,"
            " parent_session_id, title, message_count, user_id, chat_id, session_key)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(id_, case.source, "scripted", min(times)),
                *(max(times) if case.end else None, case.end or None),
                parent if case.fields.get("session_source") != "fork" else None,
                *(None if case.source == "webui" else f"outside {case.name}", len(case.rows)),
                *((None if case.source == "webui" else f"someone in {case.source}",) * 3),
            ),
        )
        for name, value in case.record.items():
            update = f"UPDATE sessions SET {name} = ? WHERE id = ?"  # noqa: S608  constants
            connection.execute(update, (value, id_))
        self._insert_rows(connection, id_, case.rows)

    def _insert_rows(self, connection: sqlite3.Connection, id_: str, rows: Messages) -> None:
        names = (*COLUMNS, *NEWER)
        for row in rows:
            calls = row.get("tool_calls")
            values = {
                "active": 1,
                "compacted": 0,
                **row,
                "content": None if row["content"] is None else text_of(row["content"]),
                "tool_calls": None if calls is None else json.dumps(calls),
            }
            connection.execute(
                f"INSERT INTO messages (session_id, {', '.join(names)})"  # noqa: S608  constants
                f" VALUES (?{', ?' * len(names)})",
                (id_, *(values.get(name) for name in names)),
            )

    def _write_journals(self, id_: str, case: Case) -> None:
        """What a run has written down before a kill: its message, and what it has shown."""
        sessions, run = self._folder_of_sessions, _run_of(id_)
        assert case.journal is not None
        message, shown = case.journal
        at = message["timestamp"]
        events: list[tuple[str, Message]] = [
            ("context_status", {"session_id": id_}),
            *(("token", {"text": f"{word} "}) for word in shown["content"].split()),
            *([("done", {}), ("stream_end", {})] if case.has_ended else ()),
            *([("apperror", _failure(id_, message, case.error))] if case.error else ()),
        ]
        lines = [
            {
                "version": 1,
                "event_id": f"{run}:{seq}",
                "seq": seq,
                "run_id": run,
                "session_id": id_,
                "event": name,
                "type": name,
                "created_at": at + seq / 100,
                "terminal": name in ENDS,
                "terminal_state": ENDS.get(name),
                "payload": payload,
            }
            for seq, (name, payload) in enumerate(events, start=1)
        ]
        _write_lines(sessions / "_run_journal" / id_ / f"{run}.jsonl", lines)
        turn = {"version": 1, "session_id": id_, "turn_id": f"20260101T000000Z-{id_}"}
        turn |= {"stream_id": run}
        began = {"event": "submitted", "role": "user", "content": message["content"]}
        began |= {"attachments": [], "workspace": str(self._workspace), "model": "scripted"}
        lines = [
            {**turn, **began, "created_at": at},
            {**turn, "event": "worker_started", "created_at": at + 0.01},
        ]
        _write_lines(sessions / "_turn_journal" / f"{id_}~{os.getpid()}.jsonl", lines)

    # Changes

    def _mend(self) -> None:
        """Ask for a repair of all files; a cleanup would remove what was cleared."""
        self._web.ask("GET", "/api/session/recovery/audit")
        self._web.ask("POST", "/api/session/recovery/repair-safe", {})

    def _try_forks(self, shape: Shape) -> str:
        """Some sessions are forked; the others would tell the same. A fork has its settings."""
        if not self._cases[shape.name].is_forked:
            return ""
        problem = super()._try_forks(shape)
        link = {"parent_session_id": shape.id}
        link |= {"session_source": "fork"} if self._knows("session_source") else {}
        problem = problem or _other(link, self._whole(self._latest_copy))
        problem = problem or self._hears_more(self._latest_copy)
        return problem or self._unlike_origin(shape, self._latest_copy, INHERITED)

    def _try_copies(self, shape: Shape) -> str:
        """Some sessions are copied; a copy has the same settings and the same counts."""
        if not self._cases[shape.name].is_forked:
            return ""
        problem = super()._try_copies(shape)
        problem = problem or self._hears_more(self._latest_copy)
        copied = (*INHERITED, *COPIED)
        return problem or self._unlike_origin(shape, self._latest_copy, copied)

    def _try_managed(self, shape: Shape) -> str:
        """A session of which a record is left alone gets its file by a repair."""
        case = self._cases[shape.name]
        if shape.id not in self._offered:
            return "it is not listed" if case.is_shown and self._rows(shape) else ""
        is_due = not shape.is_own or zlib.crc32(case.name.encode()) % 4 == 0
        is_due = is_due and not case.views and not (shape.is_own and case.record)
        return super()._try_managed(shape) if is_due else ""

    def _try_exchanged(self, shape: Shape) -> str:
        """Some sessions are exported and imported; the others would tell the same."""
        is_due = self._cases[shape.name].is_forked and zlib.crc32(shape.name.encode()) % 3 == 0
        return super()._try_exchanged(shape) if is_due else ""

    def _noted(self, copy: Shape) -> Shape:
        """Remember the id of the copy."""
        self._latest_copy = copy.id
        return super()._noted(copy)

    def _try_continued(self, shape: Shape) -> str:
        """A session of another program may be one that is only shown."""
        case = self._cases[shape.name]
        if not case.is_continued or not (shape.is_own or case.is_claimed):
            return ""
        problem, hears = super()._try_continued(shape), self._cases[shape.name].hears
        self._recorded.add(shape.name)
        replies = [text for role, text in self._raw(shape) if role == "assistant"]
        end = ReplyEnd.parse(replies[-1]) if replies else None
        if hears and end is not None and end.turn not in (hears, hears + 1):  # a summary may count
            problem = problem or f"the agent heard {end.turn - 1} messages, of {hears}"
        return problem

    def _try_imported_again(self, shape: Shape) -> str:
        """A session of another program has all its messages, also those that came afterwards."""
        if shape.name not in IMPORTED:
            return ""
        self._post("import_cli", shape)
        if problem := difference(shape.rows, self._rows(shape)):
            return problem
        at = time.time()
        more: Messages = [
            {"role": "user", "content": f"more-{shape.id[-6:]} of it", "timestamp": at},
            {"role": "assistant", "content": "more replied", "timestamp": at + 0.01},
        ]
        with closing(sqlite3.connect(self._folder / "state.db", 10.0)) as connection, connection:
            self._insert_rows(connection, shape.id, more)
        shape.rows += rows_of(more)
        self._cases[shape.name].said += more
        self._post("import_cli", shape)
        shape.updated_at = None
        return difference(shape.rows, self._rows(shape))

    def _try_guarded(self, shape: Shape) -> str:
        """What another program's session refuses once, it refuses behind other requests too."""
        if shape.is_own or shape.name in IMPORTED or self._cases[shape.name].is_claimed:
            return ""
        body = {"session_id": shape.id, "message": self._text()[0]}
        status, _ = self._web.ask("POST", "/api/chat/start", body)
        if status == OK:
            self._wait_idle(shape.id)
            shape.rows = self._rows(shape)
        if status != FORBIDDEN:
            return ""
        doors = [("pin", {"pinned": False}), ("archive", {"archived": False})]
        if self._cases[shape.name].source == "subagent":  # it is its parent's, and never imported
            doors = [("import_cli", {}), *doors]
        for action, more in doors:
            self._web.ask("POST", f"/api/session/{action}", {"session_id": shape.id, **more})
        if self._web.ask("POST", "/api/chat/start", body)[0] == OK:
            self._wait_idle(shape.id)
            return "a session that refused a turn takes it behind an archive"
        return ""

    def _try_drafted(self, shape: Shape) -> str:
        """A draft is kept with its session, and changes nothing else."""
        if not self._cases[shape.name].is_forked or '"/api/session/draft"' not in self._source:
            return ""
        self._post("draft", shape, text=f"a draft of {shape.name}")
        found = self._web.get(self._path(shape))["session"]
        draft = found.get("composer_draft") or {}
        shape.marks["composer_draft"] = draft
        if draft.get("text") != f"a draft of {shape.name}":
            return f"another draft: {draft}"
        return ""

    def _try_cut_short(self, shape: Shape) -> str:
        """Remove the last turns, each session in one of several ways; it must have a file."""
        if self._cases[shape.name].messages is None or not shape.is_own:
            return ""
        ways = [way for way in WAYS if f'"/api/session/{way}"' in self._source]
        way = ways[zlib.crc32(shape.name.encode()) % len(ways)]
        if way == "undo":
            self._post("undo", shape)
            self._drop(shape, max(i for i, row in enumerate(shape.rows) if row[0] == "user"))
        elif way == "clear":
            self._post("clear", shape)
            self._drop(shape, 0)
            shape.title = ""
        else:
            starts = [i for i, row in enumerate(shape.rows) if row[0] == "user"]
            self._cut(shape, starts[len(starts) // 2])
        return ""

    def _deleted(self, shape: Shape) -> str:
        """Delete some sessions; those of other programs may be ones that are only shown."""
        if shape.is_own:
            return super()._deleted(shape) if self._is_deleted(shape) else ""
        status, _ = self._web.ask("POST", "/api/session/delete", {"session_id": shape.id})
        shape.is_own = status == OK
        return ""

    def _is_deleted(self, shape: Shape) -> bool:
        case = self._cases[shape.name]
        return bool(shape.name in SEARCHED or case.parent or case.end or case.source != "webui")

    def _gone(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """Nothing is left of those that were deleted."""
        if not self._is_deleted(shape) or (shape.name == "a child" and not shape.is_own):
            return ""
        if shape.name not in SEARCHED:
            shape.rows, shape.removed = [], []  # no search for its words
        return super()._gone(shape, listed)

    def _set_all(self) -> None:
        """Change settings and projects of the server itself."""
        status, settings = self._web.ask("GET", "/api/settings")
        if status == OK:
            chosen = {
                name: not value
                for name, value in settings.items()
                if isinstance(value, bool) and not any(part in name for part in LEFT_ALONE)
            }
            self._web.ask("POST", "/api/settings", chosen)
            self._set = {**self._web.get("/api/settings"), **self._set}
            self._facts[f"{SERVER}, changed: set"] = _other(
                {
                    name: value
                    for name, value in settings.items()
                    if isinstance(value, bool) and name not in chosen
                },
                self._set,
            )
        self._facts[f"{SERVER}, changed: doors"] = self._find_open_door()
        routes = Routes(self._web, self._source, self._extra)
        self._facts |= {f"{name}, changed: routed": it for name, it in routes.facts().items()}
        if '"/api/projects/create"' not in self._source:
            return
        for name in ("kept", "renamed", "removed"):
            made = self._web.post("/api/projects/create", name=name)["project"]
            self._projects[made["project_id"]] = name
        for id_, name in [*self._projects.items()]:
            if name == "renamed":
                self._web.post("/api/projects/rename", project_id=id_, name="another name")
                self._projects[id_] = "another name"
            if name == "removed":
                self._web.post("/api/projects/delete", project_id=id_)
                self._projects[id_] = ""

    def _find_open_door(self) -> str:
        """A folder that a session is refused by one route is refused by the others as well."""
        absent, session = str(self._folder / "absent"), self._new()
        self._extra.add(session)
        body = {"session_id": session, "workspace": absent}
        if self._web.ask("POST", "/api/session/update", body)[0] == OK:
            return ""
        said = {"title": "of a door", "messages": [{"role": "user", "content": "a door"}]}
        for path, more in (("/api/session/import", said), ("/api/session/new", {})):
            status, answer = self._web.ask("POST", path, {**more, "workspace": absent})
            made = answer.get("session", {}) if status == OK else {}
            self._extra.add(str(made.get("session_id")))
            if made.get("workspace") == absent:
                return f"{path} takes a folder that an update refuses"
        return ""

    # Views

    def _see_whole(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """What another program has added may be shown late; it stays expected."""
        if shape.name in IMPORTED:
            return difference(shape.rows, rows_of(self._found(shape)["messages"]))
        return super()._see_whole(shape, listed)

    def _see_listed(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """The list has the session, if it must, and then with its title and count.

        It may leave out one that was cleared.
        """
        is_due = self._cases[shape.name].is_listed and shape.rows
        return super()._see_listed(shape, listed) if is_due or shape.id in listed else ""

    def _see_found(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """A search reads all sessions, so only some are searched for."""
        is_due = self._cases[shape.name].is_listed
        if not is_due or shape.name not in SEARCHED:
            return ""
        return super()._see_found(shape, listed)

    def _search(self, word: str) -> set[str]:
        """The sessions that a search finds, without forks and copies, which keep what they have."""
        own = {shape.id for shape in self._shapes.values()}
        return super()._search(word) - (self._extra - own)

    def _see_exported(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """Only a session that has a file can be exported."""
        is_due = self._cases[shape.name].messages is not None and self._kind in FRESH
        return super()._see_exported(shape, listed) if is_due else ""

    def _see_paged(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """Pages are read where they may differ from those of the round before."""
        return super()._see_paged(shape, listed) if self._kind in FRESH else ""

    def _see_metadata(self, shape: Shape, _listed: Any) -> str:
        """The session without its messages has their number, and its title."""
        if self._kind not in FRESH:
            return ""
        found, short = self._found(shape), self._web.get(self._path(shape, messages=0))["session"]
        count = len(found["messages"])
        if found.get("message_count", count) != count:
            return f"another message_count: {found['message_count']}, not {count}"
        for name, value in (("message_count", count), ("title", found["title"])):
            if short.get(name) != value:
                return f"another {name} without messages: {short.get(name)}, not {value}"
        return ""

    def _see_short(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """So it was when it was read first."""
        problem = super()._see_short(shape, listed)
        for answer in self._first.pop(shape.name, ()):
            first = unlike(self._found(shape), answer.get("session", answer))
            problem = problem or first.replace("other", "at first, other", 1)
        return problem

    def _see_again(self, shape: Shape, _listed: Any) -> str:
        """Two reads with nothing between them agree."""
        if self._kind not in FRESH:
            return ""
        again = self._web.get(self._path(shape))["session"]["messages"]
        return difference(pairs(self._found(shape)["messages"]), pairs(again))

    def _see_marked(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """The session has its marks; the list too, if it has the session and a mark."""
        if not shape.is_own and self._kind == "made":
            shape.marks = {k: v for k, v in self._found(shape).items() if k in OF_SOURCES and v}
        if shape.id in listed:
            return super()._see_marked(shape, {shape.id: {**shape.marks, **listed[shape.id]}})
        return super()._see_marked(shape, {shape.id: shape.marks})

    def _see_stored(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """A file that a server has made anew has what the database knew of the session."""
        case = self._cases[shape.name]
        path = self._folder_of_sessions / f"{shape.id}.json"
        if case.torn:
            return ""
        problem, wanted = super()._see_stored(shape, listed), case.record.get("workspace")
        if problem or not wanted or not path.exists():
            return problem
        found = json.loads(path.read_bytes()).get("workspace")
        return "" if found in (wanted, str(self._workspace)) else f"another workspace: {found}"

    def _answer(self, shape: Shape, listed: Mapping[str, Any], place: str) -> str:
        """Other rounds would tell the same."""
        return super()._answer(shape, listed, place) if self._kind in FRESH else ""

    def _see_asked(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """Sessions of other programs are, and some of the server's own."""
        is_due = self._kind == "made" and self._is_looked_into(shape)
        return super()._see_asked(shape, listed) if is_due else ""

    def _is_looked_into(self, shape: Shape) -> bool:
        """Whether all that a page may do with the session is done."""
        case = self._cases[shape.name]
        is_one = not shape.is_own or zlib.crc32(case.name.encode()) % 8 == 0
        return is_one and not case.views and not (shape.is_own and case.record)

    def _see_settings(self) -> str:
        """Each setting is as it was set."""
        return _other(self._set, self._web.get("/api/settings")) if self._set else ""

    def _see_projects(self) -> str:
        """Each project has its name, and none that was removed is there."""
        if not self._projects:
            return ""
        rows = self._web.get("/api/projects")["projects"]
        shown = {row["project_id"]: row["name"] for row in rows}
        return _other(self._projects, {**dict.fromkeys(self._projects, ""), **shown})

    def _see_insights(self) -> str:
        """No session is counted twice."""
        status, counted = self._web.ask("GET", "/api/insights?days=365")
        with closing(sqlite3.connect(self._folder / "state.db", 10.0)) as connection:
            known = {id_ for (id_,) in connection.execute("SELECT id FROM sessions")}
        known |= {path.stem for path in self._folder_of_sessions.glob("[!_]*.json")}
        total = counted.get("total_sessions", 0) if status == OK else 0
        return f"too many sessions: {total}, of {len(known)}" if total > len(known) else ""

    def _see_fields(self, shape: Shape, _listed: Any) -> str:
        """Each message of the file has the fields that it had there; of a chat, not its times."""
        stored = self._cases[shape.name].messages or ()
        names = KEPT_FIELDS[self._cases[shape.name].source == "telegram" :]
        shown: dict[str, list[Message]] = {}
        for message in self._found(shape)["messages"]:
            shown.setdefault(_key(message), []).append(message)
        keys = Counter(map(_key, stored))
        for message in stored:
            if keys[_key(message)] > 1:
                continue
            found = shown.get(_key(message), ())
            for name in names:
                values = [row.get(name) for row in found]
                if message.get(name) and values and message[name] not in values:
                    return f"another {name}: expected {message[name]}; observed {values}"
        return ""

    def _see_context(self, shape: Shape, _listed: Any) -> str:
        """What the file has for the agent is what the session shows, without what was removed."""
        path = self._folder_of_sessions / f"{shape.id}.json"
        if not path.exists() or not self._cases[shape.name].is_listed or shape.name in IMPORTED:
            return ""
        said = rows_of(json.loads(path.read_bytes()).get("context_messages") or ())
        shown = rows_of(self._found(shape)["messages"])
        if more := [row for row in said if row not in shown]:
            return f"the agent hears more: {more[:3]}"
        known = {text.split()[0] for role, text in shown if role == "user"}
        calls = _calls_of(json.loads(path.read_bytes()).get("context_messages") or ())
        if more := [call for call in calls if call[1].rpartition("-")[0] in self._dropped(known)]:
            return f"the agent hears calls of turns that were removed: {more[:3]}"
        lost = [row for row in shown if row not in said]
        if said and lost and shape.heard_all:
            return f"the agent hears less: {lost[:3]}"
        return ""

    def _see_heard(self, shape: Shape, _listed: Any) -> str:
        """What a kill has cut off, and is shown, is in what the file has for the agent."""
        case = self._cases[shape.name]
        path = self._folder_of_sessions / f"{shape.id}.json"
        if case.journal is None or "context_messages" not in case.fields or not path.exists():
            return ""
        said = rows_of(json.loads(path.read_bytes()).get("context_messages") or ())
        shown = rows_of(self._found(shape)["messages"])
        lost = [row for row in rows_of(case.journal) if row in shown and row not in said]
        return f"lost to the agent, and shown: {lost}" if said and lost else ""

    def _see_reported(self, shape: Shape, _listed: Any) -> str:
        """The error that a run has shown as its end is shown behind a kill as well."""
        error = self._cases[shape.name].error
        if self._kind not in ("made", "restarted") or not self._knows("terminal_session_persisted"):
            return ""  # older releases write no message of it; a cut may remove it
        texts = [said_in(message) for message in self._found(shape)["messages"]]
        return "" if not error or any(error in text for text in texts) else f"not reported: {error}"

    def _dropped(self, known: set[str]) -> set[str]:
        """The words of messages that were removed, and are not shown."""
        return {word for shape in self._shapes.values() for word in shape.removed} - known

    def _see_beside_a_lock(self, shape: Shape, _listed: Any) -> str:
        """A session was readable while another had its lock, and its file was left alone."""
        return self._beside_locks.pop(shape.name, "")

    def _see_called(self, shape: Shape, _listed: Any) -> str:
        """Each call of a tool, and each result, is there once, between its message and reply."""
        words = {text.split()[0] for role, text in shape.rows if role == "user"}
        wanted = _calls_of(row for row in self._cases[shape.name].said if not row.get("_error"))
        wanted = [call for call in wanted if call[1].rpartition("-")[0] in words]
        shown = _calls_of(self._found(shape)["messages"])
        known = {text.split()[0] for role, text in rows_of(self._found(shape)["messages"])}
        if more := [call for call in shown if call[1].rpartition("-")[0] in self._dropped(known)]:
            return f"surplus: calls of turns that are not shown: {more[:3]}"
        calls = [call for call in shown if call in wanted]
        if calls == wanted:
            return ""
        lost = [call for call in wanted if call not in calls]
        kind = "calls are lost" if lost else "calls are out of order, or twice"
        return f"{kind}: {(lost or calls)[:3]}"


def _calls_of(messages: Any) -> list[tuple[str, str]]:
    found = []
    for message in messages:
        found += [("call", str(call.get("id"))) for call in message.get("tool_calls") or ()]
        if message.get("tool_call_id"):
            found.append(("result", str(message["tool_call_id"])))
    return found


def _key(message: Mapping[str, Any]) -> str:
    return f"{message.get('role')}: {text_of(message.get('content'))}{_calls_of([message])}"


def _other(expected: Mapping[str, Any], observed: Mapping[str, Any]) -> str:
    for name, value in expected.items():
        if observed.get(name) != value:
            return f"another value of {name}: expected {value}; observed {observed.get(name)}"
    return ""


def _unlike(problem: str, expected: set[str], observed: set[str]) -> str:
    lost, more = sorted(expected - observed), sorted(observed - expected)
    return f"{problem}: it lacks {lost[:3]}, and has {more[:3]}" if lost or more else ""


def _failure(id_: str, message: Message, error: str) -> Message:
    """What a run shows at its end of an error that no file has yet."""
    marked = {"role": "assistant", "content": f"**Error:** {error}", "_error": True}
    payload = {"message": error, "type": "error", "session_id": id_}
    return {
        **payload,
        "terminal_session_persisted": False,
        "session": {"session_id": id_, "messages": [message, marked]},
    }


def _run_of(id_: str) -> str:
    return f"{id_}{'0' * 20}"


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _write_lines(path: Path, rows: Messages) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
