"""A session as a value, and as the text of its sidecar file.

Values are immutable: a change makes a new value, which records whether the user asked for a shrink.
Knows no folder, no lock and no clock.

The text is one JSON object, one key per line, metadata first and then `messages`, one message per
line: a reader of the metadata stops at the line that begins the messages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

Message = Mapping[str, Any]

MESSAGES_MARKER = b'\n  "messages": ['
UNTITLED = "Untitled"
USAGE = (  # of the model, over all turns
    *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "cost_usd"),
)
_LONG = ("pending_notices", "system_prompt")


class SessionError(Exception):
    """A refusal of the session store; the message is one sentence with the evidence."""


class SidecarDamagedError(SessionError):
    """A sidecar exists, but its content is not a session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """A session without its messages. It has none, so it can never be saved.

    `version` counts the saves; 0 was never saved. Times are seconds since the epoch.

    `intentional_shrink_generation` counts the shrinks that the user asked for. A backup of an older
    generation holds messages that the user removed since, so it is never restored over a live file.
    `truncation_watermark`, in a backup, is the number of its messages that the user kept.
    `shrunk_at`, in a live file, is the number of messages that an *unintentional* shrink left:
    messages after it are newer, and in no backup that was taken of an older version.

    `extra` holds any other metadata, by name.
    """

    session_id: str
    version: int = 0
    title: str = UNTITLED
    created_at: float = 0.0
    updated_at: float = 0.0
    active_stream_id: str | None = None
    pending_user_message: str | None = None
    pending_started_at: float | None = None
    intentional_shrink_generation: int = 0
    truncation_watermark: int | None = None
    shrunk_at: int | None = None
    message_count: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_busy(self) -> bool:
        """Whether a turn is running or submitted."""
        return self.active_stream_id is not None or self.pending_user_message is not None

    def row(self) -> dict[str, Any]:
        """The index row: all metadata but the texts, which may be long."""
        row = _plain(self)
        for name in _LONG:
            row.pop(name, None)
        row["has_pending_user_message"] = row.pop("pending_user_message") is not None
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Metadata):
    """A whole session. Its messages are values too, never changed in place."""

    messages: tuple[Message, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "message_count", len(self.messages))

    def metadata(self) -> Metadata:
        """The same without the messages."""
        return Metadata(**{name: getattr(self, name) for name in _KINDS}, extra=self.extra)

    def appended(self, *messages: Message) -> Session:
        """The same with more messages at its end."""
        return replace(self, messages=self.messages + messages)

    def cut(self, keep: int) -> Session:
        """Keep the first `keep` messages, as the user asked; the others are never recovered."""
        return replace(
            self,
            messages=self.messages[:keep],
            intentional_shrink_generation=self.intentional_shrink_generation + 1,
            shrunk_at=None,
        )

    def compressed(self, summary: Message, keep_from: int) -> Session:
        """A summary instead of the messages before an index, as the user asked."""
        return replace(self.cut(0), messages=(summary, *self.messages[keep_from:]))

    def last_request(self) -> int | None:
        """Index of the last message that asks for a turn; None for none."""
        places = reversed(range(len(self.messages)))
        return next((at for at in places if self.messages[at].get("role") == "user"), None)

    def completed(self, backup: Session | None) -> Session:
        """The whole history: the backup's messages, and those after an unintentional shrink.

        Returns `self` if the backup adds nothing, or only messages that the user removed.
        """
        if backup is None or _lineage(backup) != _lineage(self):
            return self
        messages = backup.messages + self.messages[self.unknown_from(backup) :]
        if len(messages) <= len(self.messages):
            return self
        return replace(self, messages=messages, shrunk_at=None)

    def unknown_from(self, backup: Session | None) -> int:
        """Index of the first message that is newer than the backup and the shrink that it undoes.

        A backup of this very version, which a crash left before the shrink, has them all.
        """
        if self.shrunk_at is None or backup is None or backup.version >= self.version:
            return len(self.messages)
        return self.shrunk_at

    def salvaged(self) -> Session:
        """What a backup may restore if the live file is gone: never messages the user removed."""
        if self.truncation_watermark is None:
            return self
        return replace(self.cut(self.truncation_watermark), truncation_watermark=None)


def usage_of(session: Metadata) -> dict[str, Any]:
    """What the session's turns cost: numbers by names of USAGE, and the model."""
    stored = session.extra.get("usage")
    usage = stored if isinstance(stored, dict) else {}
    return {
        name: value
        for name, value in usage.items()
        if (name in USAGE and isinstance(value, int | float))
        or (name == "model" and isinstance(value, str))
    }


def _lineage(session: Session) -> tuple[float, int]:
    """Equal for two versions of a session if the user removed nothing between them."""
    return session.created_at, session.intentional_shrink_generation


_KINDS: Mapping[str, tuple[type, ...]] = {
    "session_id": (str,),
    "version": (int,),
    "title": (str,),
    "created_at": (int, float),
    "updated_at": (int, float),
    "active_stream_id": (str, type(None)),
    "pending_user_message": (str, type(None)),
    "pending_started_at": (int, float, type(None)),
    "intentional_shrink_generation": (int,),
    "truncation_watermark": (int, type(None)),
    "shrunk_at": (int, type(None)),
    "message_count": (int,),
}

assert [*_KINDS, "extra"] == [field.name for field in fields(Metadata)]


def _plain(metadata: Metadata) -> dict[str, Any]:
    clash = metadata.extra.keys() & {*_KINDS, "messages"}
    if clash:
        raise SessionError(f"{sorted(clash)} are metadata fields of the store, not extra ones")
    return {**{name: getattr(metadata, name) for name in _KINDS}, **metadata.extra}


def encode(session: Session) -> bytes:
    """Encode a session as its sidecar's text.

    Raises TypeError or ValueError for values that are not JSON or that `decode` would refuse.
    """
    if strange := [name for name in _KINDS if not _fits(name, getattr(session, name))]:
        raise TypeError(f"{session.session_id}: {strange[0]} is {getattr(session, strange[0])!r}")
    if not all(isinstance(message, dict) for message in session.messages):
        raise TypeError(f"{session.session_id}: a message is not an object")
    head = ",\n".join(f"  {_json(name)}: {_json(value)}" for name, value in _plain(session).items())
    messages = ",\n".join(f"    {_json(message)}" for message in session.messages)
    return f'{{\n{head},\n  "messages": [\n{messages}\n  ]\n}}\n'.encode()


_json = json.JSONEncoder(allow_nan=False).encode


def decode(data: bytes, session_id: str) -> Session:
    """Decode a sidecar's text. Raises SidecarDamagedError, also for another session's text."""
    plain = _object(data, session_id)
    messages = plain.pop("messages", None)
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise SidecarDamagedError(f"{session_id}: its messages are not a list of objects")
    return Session(**_known(plain, session_id), messages=tuple(messages))


def decode_head(head: bytes, session_id: str) -> Metadata:
    """Decode the text before the messages. Raises SidecarDamagedError."""
    plain = _object(head.rstrip(b", \n") + b"}", session_id)
    if "message_count" not in plain:
        raise SidecarDamagedError(f"{session_id}: its metadata lacks message_count")
    return Metadata(**_known(plain, session_id))


def _object(data: bytes, session_id: str) -> dict[str, Any]:
    try:
        plain = json.loads(data, parse_constant=_null)
    except (ValueError, RecursionError) as error:
        raise SidecarDamagedError(f"{session_id}: {error}") from error
    if not isinstance(plain, dict):
        raise SidecarDamagedError(f"{session_id}: a {type(plain).__name__}, not an object")
    if plain.get("session_id") != session_id:
        raise SidecarDamagedError(f"{session_id}: its session_id is {plain.get('session_id')!r}")
    return plain


def _null(_constant: str) -> None:
    """The value of NaN and Infinity, which are not JSON, but which other programs write."""


def _known(plain: dict[str, Any], session_id: str) -> dict[str, Any]:
    """Split the object's keys into known fields and `extra`."""
    known = {name: plain.pop(name) for name in _KINDS if name in plain}
    known.setdefault("version", 1)  # saved by a program that does not count versions
    for name, value in known.items():
        if not _fits(name, value):
            raise SidecarDamagedError(f"{session_id}: {name} is {value!r}")
    return {**known, "extra": plain}


def has_fields(row: Mapping[str, Any], *names: str) -> bool:
    """Whether a row that was read from a file has these fields, each with a possible value."""
    return all(name in row and _fits(name, row[name]) for name in names)


def _fits(name: str, value: Any) -> bool:
    """Whether the field may have this value."""
    if isinstance(value, bool) or not isinstance(value, _KINDS[name]):
        return False
    return not isinstance(value, float) or math.isfinite(value)
