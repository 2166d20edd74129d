"""A folder of session files, as values: what is stored of each, and in what order."""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

World = dict[str, Any]
Value = dict[str, Any]
SAFE_ID = re.compile(r"[0-9A-Za-z-][0-9A-Za-z_-]{0,127}", re.ASCII)
LONG = 200
TICK_S = 1e-6
CAP = 2
DAMAGED = "damaged"
REMOVED = "removed"
SUMMARY = {"role": "system", "content": "what was before"}  # that a compress leaves
NO_NUMBER = "no number"  # in a backup: other programs write NaN, which is null then
HEAD_STAYS = ("cut tail", "strange messages")  # damage behind the metadata
FIELDS: Mapping[str, Any] = {
    "session_id": "",
    "version": 0,
    "title": "Untitled",
    "created_at": 0.0,
    "updated_at": 0.0,
    "active_stream_id": None,
    "pending_user_message": None,
    "pending_started_at": None,
    "intentional_shrink_generation": 0,
    "truncation_watermark": None,
    "shrunk_at": None,
    "message_count": 0,
}


def digest(value: Any) -> Any:
    """The value, in which each long text is replaced by its length, beginning and checksum."""
    match value:
        case str() if len(value) > LONG:
            checksum = zlib.crc32(value.encode("utf-8", "surrogatepass"))
            return f"{len(value)}:{value[:8]}:{checksum}"
        case list() | tuple():
            return [digest(item) for item in value]
        case dict():
            return {name: digest(item) for name, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class State:
    """A world as JSON; after a fault, the worlds that each file may be from, `before` first."""

    text: str
    before: str = ""
    was_killed: bool = False

    @property
    def world(self) -> World:
        """A copy of the world."""
        world: World = json.loads(self.text)
        return world


class RefusedError(Exception):
    """The call has to be refused with this error type."""


def fresh() -> World:
    """A folder without sessions, and a store that holds none."""
    return {
        "cap": CAP,
        "live": {},
        "bak": {},
        "copies": [],
        "deleted": [],
        "temps": [],
        "strays": [],
        "rows": {},
        "held": [[], []],
        "newest": [0.0, 0.0],
        "slots": {},
        "removed": [],
        "gone": [],
    }


def text_of(world: World) -> str:
    """The world as text: equal texts are equal worlds."""
    return json.dumps(world)


def check_id(session_id: str) -> None:
    """Refuse an id that may not name a file."""
    if not SAFE_ID.fullmatch(session_id):
        raise RefusedError("InvalidSessionIdError")


def shown(session: Value) -> Value:
    """What a call that saves answers: the session without its messages."""
    return {name: value for name, value in session.items() if name != "messages"}


def row_of(session: Value) -> Value:
    """The row of a session in the list."""
    row = shown(session)
    row["has_pending_user_message"] = row.pop("pending_user_message") is not None
    return row


def sorted_rows(rows: Mapping[str, Value]) -> list[Value]:
    """The rows of a list, that with the newest activity first."""
    return sorted(rows.values(), key=lambda row: (-row["updated_at"], row["session_id"]))


def is_busy(session: Value) -> bool:
    """Whether a run of the session is going on."""
    return session["active_stream_id"] is not None or session["pending_user_message"] is not None


def generation_of(session: Value) -> int:
    """How often the session was cut short on purpose."""
    generation: int = session["intentional_shrink_generation"]
    return generation


def cut_to(session: Value, keep: int) -> Value:
    """The session with the first `keep` messages only."""
    left = session["messages"][:keep]
    generation = generation_of(session) + 1
    return counted(
        {
            **session,
            "messages": left,
            "intentional_shrink_generation": generation,
            "shrunk_at": None,
        }
    )


def counted(session: Value) -> Value:
    """The session with its count of messages."""
    return {**session, "message_count": len(session["messages"])}


def unknown_from(session: Value, backup: Value | None) -> int:
    """The first message of the session that its backup does not prove."""
    if session["shrunk_at"] is None or backup is None or backup["version"] >= session["version"]:
        return len(session["messages"])
    at: int = session["shrunk_at"]
    return at


def completed(session: Value, backup: Value | None) -> Value:
    """The session, or its backup where that holds more of the same lineage."""

    def lineage(of: Value) -> tuple[float, int]:
        return of["created_at"], generation_of(of)

    if backup is None or lineage(backup) != lineage(session):
        return session
    messages = backup["messages"] + session["messages"][unknown_from(session, backup) :]
    if len(messages) <= len(session["messages"]):
        return session
    return counted({**session, "messages": messages, "shrunk_at": None})


def readable(value: Any) -> Value | None:
    """The session, if a file of this content can be read."""
    return None if value is None or DAMAGED in value else value


KINDS: Mapping[str, tuple[type, ...]] = {
    "title": (str,),
    "active_stream_id": (str, type(None)),
    "pending_user_message": (str, type(None)),
    "pending_started_at": (int, float, type(None)),
}


def added(session: Value, messages: list[Any]) -> Value:
    """The session with these messages behind its own."""
    return counted({**session, "messages": session["messages"] + messages})


def counted_texts(session: Value) -> Counter[str]:
    """How often the session says each text."""
    return Counter(map(str, session["messages"]))


def salvaged(backup: Value, row: Value | None) -> Value:
    """What a backup gives back for a session whose file is gone."""
    session = backup
    if backup["truncation_watermark"] is not None:
        session = {**cut_to(backup, backup["truncation_watermark"]), "truncation_watermark": None}
    version = session["version"]
    if row is not None:
        session = {**session, "title": row["title"], "updated_at": row["updated_at"]}
        version = max(version, row["version"])
    return {**session, "version": version + 1}


def plain(value: Any) -> Any:
    """The value without what only this model knows of it."""
    return DAMAGED if value is not None and DAMAGED in value else value


def file_names(world: World) -> Counter[str]:
    """The files that the folder holds, and how many of each."""
    kinds = {"json": "live", "json.bak": "bak", "json.damaged": "copies", "json.deleted": "deleted"}
    names = [f"{sid}.{kind}" for kind, where in kinds.items() for sid in world[where]]
    return Counter([*names, *(f"{sid}.tmp" for sid in world["temps"]), *world["strays"]])
