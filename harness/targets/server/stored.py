"""The *stored* ability: a server boots on files of sessions that it has not written itself.

An earlier version, a kill or a full disk has left them: a file behind its backup, a turn without an
end, an index that lacks a session or has one too many, files that cannot be read. What each session
must show is known from the files, and so is what the server has to say of its recovery. Nothing is
changed afterwards; a kill and one more boot must show the same.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from harness.targets.server.answers import problem_of
from harness.targets.server.shapes import Row, Shape, ShapesAdapter

AGE_S = 86_400.0  # of the first session
SAID_S = 3.0  # between two messages
SHOWN = "what was shown of it"  # before a kill
GHOST = "0" * 12  # the id of a session that has no file
# Ids of two sessions whose files cannot be read; the last one is in the index.
LOST = ("10570000000e", "10570000000f")
KNOWN = ("user", "what only state.db knows")  # of each of them
RESTORED, SETTLED = ("behind its backup",), ("cut off", "cut off, shown")  # by a first boot
Message = dict[str, Any]


class StoredFilesAdapter(ShapesAdapter):
    """One server and its folder, in which files are before it boots."""

    kinds = ("made", "restarted")
    shapes = (
        *("whole", "behind its backup", "cut off", "cut off, shown", "not in the index"),
        "older in the index",
    )
    struck: Mapping[str, str] = {}
    erring = ("cut off",)
    views = tuple(view for view in ShapesAdapter.views if view != "found")  # there are no rows

    def _make_all(self) -> None:
        """Write the files, and boot."""
        sessions = self._server.state / "sessions"
        sessions.mkdir(parents=True)
        index: list[Message] = []
        for number, name in enumerate(self.shapes):
            shape = Shape(name, f"{number:x}5704ed{number:04x}", title=f"the title of {name}")
            self._shapes[name] = shape
            fields = self._write(sessions, shape, time.time() - AGE_S + number)
            shape.updated_at = fields["updated_at"]
            if name == "older in the index":
                index.append({**fields, "title": "older", "message_count": 1})
            elif name != "not in the index":
                index.append(fields)
        index += [{**index[0], "session_id": id_} for id_ in (GHOST, LOST[-1])]
        _write(sessions / "_index.json", index)
        for name in (f"{id_}.json{kind}" for id_ in LOST for kind in ("", ".bak")):
            (sessions / name).write_text("{", encoding="utf-8")
        self._extra.add(LOST[-1])
        self._settle([name for name in self.shapes if name.startswith("cut off")])
        self._facts["the list, made: made"] = ""

    def _look_at_all(self) -> None:
        super()._look_at_all()
        self._facts[f"the server, {self._kind}: recovered"] = problem_of(self._see_recovered)
        if self._kind != "made":
            self._facts[f"the server, {self._kind}: copied"] = problem_of(self._see_copied)

    def _damage(self) -> None:
        """Let state.db have older titles, and a message of each session whose files are lost."""
        with closing(sqlite3.connect(self._server.state / "state.db")) as connection, connection:
            connection.execute("UPDATE sessions SET title = 'older: ' || id")
            for id_ in LOST:
                connection.execute(
                    "INSERT INTO sessions(id, source, started_at, message_count)"
                    " VALUES (?, 'webui', ?, 1)",
                    (id_, time.time()),
                )
                connection.execute(
                    "INSERT INTO messages(session_id, timestamp, role, content)"
                    " VALUES (?, ?, ?, ?)",
                    (id_, time.time(), *KNOWN),
                )

    def _see_copied(self) -> str:
        """A file that cannot be read neither removes its rows, nor keeps others from theirs."""
        for id_ in LOST:
            texts = self._server.database(id_)["database"]["texts"]
            if texts != [[*KNOWN]]:
                return f"lost: the rows of {id_}, whose files cannot be read: {texts}"
        for shape in (self._shapes[name] for name in SETTLED):
            title = self._server.database(shape.id)["database"]["title"]
            if title != shape.title:
                return f"another title of {shape.name}: {title}, expected {shape.title}"
        return ""

    def _see_recovered(self) -> str:
        """Log, health and audit say what was scanned, restored and settled, and what is left."""
        is_first = self._kind == "made"
        expected = {
            "scanned": len(self.shapes) + len(LOST),
            "restored": len(RESTORED) * is_first,
            "settled": len(SETTLED) * is_first,
        }
        audit = self._web.get("/api/session/recovery/audit")
        for where, found in (
            ("log", self._server.recovery_logged()),
            ("health", self._web.get("/health").get("recovery")),
            ("audit", audit.get("recovery")),
        ):
            if found != expected:
                return f"the {where} says another recovery: {found}, expected {expected}"
        left = {item.get("session_id") for item in audit["items"]}
        if (audit["status"], left) != ("needs_manual_review", {*LOST}):
            return f"the audit is {audit['status']} of {left}, expected {LOST} beyond repair"
        return ""

    def _write(self, sessions: Path, shape: Shape, began: float) -> Message:
        """Write the files of a session, and note what it must show; its fields."""
        rows: list[Row] = []
        for number in range(3):
            word = f"{shape.id}x{number}"
            rows += [("user", f"{word} asks"), ("assistant", f"a reply to {word}")]
        times = [began + SAID_S * number for number in range(len(rows))]
        messages: list[Message] = [
            {"role": role, "content": text, "timestamp": at}
            for (role, text), at in zip(rows, times, strict=True)
        ]
        shape.rows = rows
        fields: Message = {"active_stream_id": None, "pending_user_message": None}
        path = sessions / f"{shape.id}.json"
        if shape.name.startswith("cut off"):
            run = f"{shape.id}{'0' * 20}"
            pending = messages[-2]["content"]
            fields = {"active_stream_id": run, "pending_user_message": pending}
            fields["pending_started_at"] = times[-2]
            del messages[-2:], rows[-1]
            if shape.name == "cut off, shown":
                rows.append(("assistant", SHOWN))
                _write_journal(sessions / "_run_journal" / shape.id / f"{run}.jsonl", times[-1])
        fields |= {"session_id": shape.id, "version": 1, "title": shape.title}
        fields |= {"created_at": times[0], "updated_at": times[-1]}
        if shape.name == "behind its backup":
            backup = {**fields, "message_count": len(messages), "messages": [*messages]}
            _write(path.with_suffix(".json.bak"), backup)
            del messages[-2:]
        fields["message_count"] = len(messages)
        _write(path, {**fields, "messages": messages})
        return fields


def _write_journal(path: Path, at: float) -> None:
    """What a run has shown."""
    run, session = path.stem, path.parent.name
    rows = [
        {
            "version": 1,
            "event_id": f"{run}:{seq}",
            "seq": seq,
            "run_id": run,
            "session_id": session,
            "event": "token",
            "type": "token",
            "created_at": at,
            "terminal": False,
            "terminal_state": None,
            "payload": {"text": f"{word} "},
        }
        for seq, word in enumerate(SHOWN.split(), start=1)
    ]
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
