"""Reads the TOML file that declares a server: how it is started, asked and read.

A wrong file is a usage error that names the file, the table and key, and what was expected there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.contract.promises import SESSION_SERVER
from harness.core.errors import UnknownPromiseError, UsageError
from harness.core.suggestions import unknown
from harness.core.toml_files import read_toml

PLACEHOLDERS = ("session", "text", "seq", "nonce", "port", "state", "python")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_POINTER = re.compile(r"(/[^/]*)*")
ACCEPTED = (200, 201, 202, 204)
ANY_BUT_FAILURE = tuple(range(200, 500))


@dataclass(frozen=True)
class Request:
    """One HTTP request, with placeholders, and the statuses that mean that it was done."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    status: tuple[int, ...] = ACCEPTED
    timeout_s: float = 30.0


@dataclass(frozen=True)
class Server:
    """How the server is started: `port` 0 means a free one, which the harness chooses."""

    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    port_line: str = ""  # a pattern of the line on standard output that states the port
    keeps: bool = False  # whether sessions survive a restart


@dataclass(frozen=True)
class Create:
    """The requests that open a session, and where its id stands."""

    steps: tuple[Request, ...] = ()
    session: str = "client"  # or header:NAME, or a JSON pointer


@dataclass(frozen=True)
class Send:
    """How a message is sent; `answer` is "body", or "stream" where the response is a stream."""

    request: Request
    answer: str = "body"
    error: str = ""  # a pointer: a value there means that the message was refused


@dataclass(frozen=True)
class Listing:
    """A list in an answer: the pointer to it, and to the value in each item.

    `only` restricts it to items that have a given value at a pointer, such as the user's messages.
    """

    request: Request
    items: str = ""
    value: str = ""
    only: tuple[str, Any] | None = None


@dataclass(frozen=True)
class Delete:
    """How a session is deleted, and the statuses that say that it is gone."""

    request: Request
    gone: tuple[int, ...] = (404, 410)


@dataclass(frozen=True)
class Stream:
    """How a session is followed: where ids and texts stand, and how a reader resumes."""

    request: Request
    id: str = "sse"  # "sse", "none" or a pointer
    order: str = "increasing"  # "increasing", "plus-one" or "opaque"
    text: str = ""
    type: str = "sse"
    replays: bool = False  # whether a stream without a cursor begins with the first event
    resume: str = "header"  # "header", "none" or "query:NAME"
    terminal: tuple[str, ...] = ()  # types of events that end a stream
    readers: int = 8  # at once, of one session


@dataclass(frozen=True)
class Turns:
    """What a second message during a turn meets; `slow` is a text whose turn lasts `slow_s`."""

    concurrent: str = "queue"  # "queue", "interleave" or "refuse"
    slow: str = ""
    slow_s: float = 0.0
    refused: tuple[int, ...] = (409,)


@dataclass(frozen=True)
class Declaration:
    """All that the file says."""

    path: Path
    server: Server
    ready: Request
    send: Send
    create: Create = field(default_factory=Create)
    headers: Mapping[str, str] = field(default_factory=dict)
    health: Request | None = None
    history: Listing | None = None
    list: Listing | None = None
    delete: Delete | None = None
    stream: Stream | None = None
    gauges: tuple[Request, Mapping[str, str]] | None = None
    turns: Turns = field(default_factory=Turns)
    accepted_input: tuple[str, ...] = ()  # bad inputs that the server takes by design
    design: Mapping[str, str] = field(default_factory=dict)
    hook: Path | None = None


class _Table:
    """One table of the file; it notes which keys were read, and refuses the others."""

    def __init__(self, path: Path, name: str, data: Any) -> None:
        self.path, self.name = path, name
        if not isinstance(data, Mapping):
            raise UsageError(f"{path}: {name}: expected a table; got {data!r}")
        self.data = data
        self.known: list[str] = []

    def wrong(self, key: str, expected: str) -> UsageError:
        """The error for a key: what was expected, and what stands there."""
        got = f"got {self.data[key]!r}" if key in self.data else "it is missing"
        return UsageError(f"{self.path}: {self.name} {key}: expected {expected}; {got}")

    def has(self, key: str) -> bool:
        """Whether the key is there; it is known from now on."""
        self.known.append(key)
        return key in self.data

    def typed(self, key: str, kind: Any, expected: str, default: Any = None) -> Any:
        """A value of a type; without a default it must be there."""
        if not self.has(key) and default is not None:
            return default
        value = self.data.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(key, expected)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text whose placeholders are known."""
        value: str = self.typed(key, str, "a text", default)
        self.check_placeholders(key, value)
        return value

    def check_placeholders(self, key: str, value: Any) -> None:
        """Raise UsageError for an unknown placeholder in any text of a value."""
        match value:
            case str():
                for name in _PLACEHOLDER.findall(value):
                    if name not in PLACEHOLDERS:
                        known = ", ".join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS)
                        raise self.wrong(key, f"placeholders among {known}")
            case Mapping():
                for part in value.values():
                    self.check_placeholders(key, part)
            case list():
                for part in value:
                    self.check_placeholders(key, part)

    def pointer(self, key: str, default: str | None = None, *words: str) -> str:
        """A JSON pointer, or one of these words."""
        value = self.text(key, default)
        longer = tuple(word for word in words if word.endswith(":"))
        if value in words or (longer and value.startswith(longer)) or _POINTER.fullmatch(value):
            return value
        others = "".join(f", or {word}" for word in words)
        raise self.wrong(key, f"a JSON pointer such as /id{others}")

    def choice(self, key: str, default: str, words: Sequence[str]) -> str:
        """One of some words; one that ends with a colon may be continued."""
        value = self.text(key, default)
        longer = tuple(word for word in words if word.endswith(":"))
        if value not in words and not (longer and value.startswith(longer)):
            raise self.wrong(key, f"one of {', '.join(words)}")
        return value

    def texts(self, key: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """A list of texts."""
        value = self.typed(key, (list, tuple), "a list of texts", default)
        if not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of texts")
        self.check_placeholders(key, list(value))
        return tuple(value)

    def mapping(self, key: str) -> dict[str, str]:
        """A table of texts; none by default."""
        value = self.typed(key, Mapping, "a table of texts", {})
        if not all(isinstance(item, str) for item in value.values()):
            raise self.wrong(key, "a table of texts")
        self.check_placeholders(key, value)
        return dict(value)

    def statuses(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A status, or a list of them."""
        if not self.has(key):
            return default
        value = self.data[key]
        every = value if isinstance(value, list) else [value]
        if not all(isinstance(status, int) and 100 <= status < 600 for status in every):  # noqa: PLR2004
            raise self.wrong(key, "a status such as 200, or a list of them")
        return tuple(every)

    def request(self, method: str, status: tuple[int, ...] = ACCEPTED) -> Request:
        """The request that the table describes."""
        path = self.text("path")
        if not path.startswith("/"):
            raise self.wrong("path", "a path that begins with /")
        body = self.data.get("body") if self.has("body") else None
        self.check_placeholders("body", body)
        seconds = self.typed("timeout_s", (int, float), "a number of seconds", 30.0)
        return Request(
            *(self.text("method", method), path, self.mapping("headers"), body),
            *(self.statuses("status", status), float(seconds)),
        )

    def only(self, key: str) -> tuple[str, Any] | None:
        """A pointer and the value that must stand there."""
        if not self.has(key):
            return None
        value = self.data[key]
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):  # noqa: PLR2004
            raise self.wrong(key, 'a pointer and a value, such as ["/role", "user"]')
        return value[0], value[1]

    def finish(self) -> None:
        """Raise UsageError for a key that nothing read."""
        for key in self.data:
            if key not in self.known:
                raise UsageError(f"{self.path}: {self.name}: {unknown('key', key, self.known)}")


def read_declaration(path: Path) -> Declaration:
    """Read a file. Raises UsageError with the file, the key and what was expected."""
    data = read_toml(path, str(path))
    whole = _Table(path, "the file", data)
    found: dict[str, Any] = {}
    for name, read in _TABLES.items():
        if whole.has(name):
            rows = data[name] if name == "create" and isinstance(data[name], list) else [data[name]]
            tables = [_Table(path, f"[{name}]", row) for row in rows]
            found[name] = read(tables if name == "create" else tables[0])
            for table in tables:
                table.finish()
        elif name in ("server", "ready", "send"):
            raise UsageError(f"{path}: expected a table [{name}]; there is none")
    if whole.has("hook"):
        found["hook"] = path.parent / whole.text("hook")
        if not found["hook"].is_file():
            raise whole.wrong("hook", "a Python file beside this one")
    whole.finish()
    return Declaration(path, **found)


def _server(table: _Table) -> Server:
    command = table.texts("command")
    if not command:
        raise table.wrong("command", "a list with the program first")
    port = table.typed("port", int, "a port, or 0 for a free one", 0)
    line = table.text("port_line", "")
    if line:
        try:
            groups = re.compile(line).groups
        except re.error as error:
            raise table.wrong("port_line", f"a regular expression ({error})") from error
        if groups != 1:
            raise table.wrong("port_line", "a regular expression with one group, the port")
    elif not port and "{port}" not in repr((command, table.mapping("env"))):
        raise table.wrong("command", "{port} in it, or a `port`, or a `port_line`")
    folder = table.path.parent / table.text("cwd", ".")
    if not folder.is_dir():
        raise table.wrong("cwd", "a folder, beside this file")
    keeps = table.typed("restart_keeps", bool, "true or false", default=False)
    return Server(command, folder.resolve(), table.mapping("env"), port, line, keeps)


def _create(tables: list[_Table]) -> Create:
    session = "client"
    steps = []
    for table in tables:
        if table.has("session"):
            session = table.pointer("session", None, "client", "header:")
        steps.append(table.request("POST"))
    return Create(tuple(steps), session)


def _send(table: _Table) -> Send:
    answer = table.choice("answer", "body", ("body", "stream"))
    send = Send(table.request("POST"), answer, table.pointer("error", ""))
    if "{text}" not in repr(send.request):
        raise table.wrong("body", "{text} in it: where the message stands")
    return send


def _listing(table: _Table) -> Listing:
    items, value = table.pointer("items", ""), table.pointer("value", "")
    return Listing(table.request("GET"), items, value, table.only("only"))


def _stream(table: _Table) -> Stream:
    readers = table.typed("readers", int, "a number of readers", 8)
    return Stream(
        table.request("GET"),
        table.pointer("id", "sse", "sse", "none"),
        table.choice("order", "increasing", ("increasing", "plus-one", "opaque")),
        table.pointer("text", ""),
        table.pointer("type", "sse", "sse"),
        table.typed("replays", bool, "true or false", default=False),
        table.choice("resume", "header", ("header", "none", "query:")),
        table.texts("terminal", ()),
        readers,
    )


def _turns(table: _Table) -> Turns:
    words = ("queue", "interleave", "refuse")
    seconds = table.typed("slow_s", (int, float), "a number of seconds", 0)
    return Turns(
        *(table.choice("concurrent", "queue", words), table.text("slow", ""), float(seconds)),
        table.statuses("refused", (409,)),
    )


def _design(table: _Table) -> dict[str, str]:
    for id_ in table.data:
        reason = table.text(id_)
        if not reason.strip():
            raise table.wrong(id_, "the reason, in words")
        try:
            SESSION_SERVER.promise(id_)
        except UnknownPromiseError as error:
            raise UsageError(f"{table.path}: {table.name}: {error}") from error
    return dict(table.data)


_TABLES: dict[str, Any] = {
    "server": _server,
    "ready": lambda table: table.request("GET", ANY_BUT_FAILURE),
    "health": lambda table: table.request("GET", (200,)),
    "headers": lambda table: {key: table.text(key) for key in table.data},
    "create": _create,
    "send": _send,
    "history": _listing,
    "list": _listing,
    "delete": lambda table: Delete(table.request("DELETE"), table.statuses("gone", (404, 410))),
    "stream": _stream,
    "gauges": lambda table: (table.request("GET"), table.mapping("values")),
    "turns": _turns,
    "accepted_input": lambda table: tuple(key for key in table.data if table.text(key)),
    "design": _design,
}


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """Replace the placeholders in every text of a value; a lone {seq} becomes a number."""
    if isinstance(value, str):
        if value == "{seq}":
            return int(values["seq"])
        return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), value)
    if isinstance(value, Mapping):
        return {key: filled(part, values) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, values) for part in value]
    return value


def pointed(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901), None where there is none."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, Mapping):
            document = document.get(key)
        elif isinstance(document, list) and key.isdigit() and int(key) < len(document):
            document = document[int(key)]
        else:
            return None
    return document


PYTHON = sys.executable
