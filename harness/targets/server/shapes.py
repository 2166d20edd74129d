"""The *shapes* ability: sessions of many shapes, each seen through every route that shows it.

A session has turns of several kinds behind it: cut, undone, failed, cancelled, copied. Each round
changes all of them, or kills the server, and reads each one by every route. The adapter knows what
must be there, because it has sent all of it. A fact is named by a view and a shape; it is empty, or
it says what differs.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.contract.agent_script import FAIL, HEARD, Heard, ReplyEnd, Tokens, sleep
from harness.core.errors import TargetLostError
from harness.engine.http import StatusError, Web
from harness.processes.server import Launch
from harness.processes.waiting import came_true
from harness.targets.server.answers import JsonObject, problem_of
from harness.targets.server.lifecycle import ServerAdapter

PATIENCE_S = 20.0
LACKING_S = 2.0  # once a session stayed busy, so that others need not wait as long
POLL_S = 0.01
SETTLED_S = 6.0  # at most, for what a server does behind an answer
SHOWN_S = 5.0  # for the end of a stream, which other scenarios ask for
OK, GONE, CONFLICT = 200, 404, 409
WAITING = "pending_"  # how fields begin that tell of a message that waits for its turn
TERMINAL = ("stream_end", "cancel", "apperror", "error")
PAGE = 4  # messages of a page
ASIDE, WITH_ASIDES = (
    ("asked aside", "worked aside", "questions"),
    ("plain", "cut"),
)  # changes, and shapes
SUMMARY_START = "[CONTEXT COMPACTION"  # of a message that stands for older ones
SUMMARIZED = Heard.of([("user", SUMMARY_START)]).messages[0][1]  # the first word of such a one
FOLDER = re.compile(r"\A\[Workspace(?:::v1)?: [^\]\n]*\]\n")  # before what a user has said
SPEAKERS = ("user", "assistant")
OF_MESSAGES = ("messages", "tool_calls")  # fields of a session that its messages tell
Row = tuple[str, str]  # role and text


@dataclass
class Shape:
    """One session, and what it must show."""

    name: str
    id: str
    rows: list[Row] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)  # words that must be found nowhere
    former: str = ""  # the id that it had before its agent went on in another one
    former_rows: list[Row] = field(default_factory=list)
    marks: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    heard_all: bool = True  # whether its agent sees the whole conversation
    is_own: bool = True  # whether it is a session of the server itself
    updated_at: float | None = None


class ShapesAdapter:
    """One server and its folder, through all its restarts."""

    kinds: tuple[str, ...] = ("made", "restarted", "changed", "deleted")  # of rounds
    shapes: tuple[str, ...] = (
        *("plain", "undone", "cut", "cleared", "failed", "cancelled", "retried", "left", "struck"),
    )
    struck: Mapping[str, str] = {"struck": ""}  # shapes that a kill strikes, and what comes first
    erring: tuple[str, ...] = ("failed", "cancelled", "struck")  # shapes with turns that fail
    views: tuple[str, ...] = ("whole", "tail", "listed", "found", "unchanged", "idle", "sound")
    changes: tuple[str, ...] = ("asked aside", "continued", "cut short")
    only_seen: tuple[str, ...] = ()  # shapes that are not changed
    settings: Mapping[str, str] = {}
    page = PAGE

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._folder = folder
        self._server = ServerAdapter(folder, launch)
        self._shapes: dict[str, Shape] = {}
        self._facts: dict[str, str] = {}
        self._extra: set[str] = set()  # sessions that belong to one of the shapes
        self._asides: list[str] = []  # words of what left no trace
        self._turns = 0
        self._kind = ""
        self._sessions: dict[str, dict[str, Any]] = {}  # as this round has read them
        self._patience_s = PATIENCE_S

    # Calls

    def rounds(self) -> list[str]:
        """The rounds that this server is asked for, in their order."""
        return [*self.kinds]

    def round(self, kind: str) -> list[str]:
        """Do what the round is named after, and read all sessions; the names of the facts."""
        self._facts, self._kind = {}, kind
        match kind:
            case "made":
                self._make_all()
            case "restarted":
                self._strike()
            case "changed":
                self._change_all()
            case "deleted":
                self._delete_all()
            case "mended":
                self._mend()
                self._server.kill()
            case _:
                self._server.kill()
        if kind in ("deleted", "restarted at last"):
            self._look_for_deleted()
        else:
            self._look_at_all()
        return [*self._facts]

    def fact(self, name: str) -> str:
        """What differs from what must be, in this view of this shape; empty if nothing does."""
        return self._facts[name]

    def close(self) -> None:
        """Kill the server."""
        self._server.close()

    # Rounds

    def _make_all(self) -> None:
        for name in self.shapes:
            shape = Shape(name, self._new())
            self._shapes[name] = shape
            self._note("made", shape, partial(self._made, shape))

    def _made(self, shape: Shape) -> str:
        getattr(self, f"_make_{shape.name.replace(' ', '_')}")(shape)
        return ""

    def _strike(self) -> None:
        """Kill the server while a turn of each struck shape has shown something."""
        for name, script in self.struck.items():
            shape = self._shapes[name]
            text, reply = self._text(f"{script}{sleep(900)}", 1)
            self._read(self._start(shape, text), until="token")
            self._add(shape, text, reply)
            shape.updated_at = None
        self._server.kill()
        self._damage()
        self._settle(self.struck)

    def _damage(self) -> None:
        """Damage files while no server runs, and let the next one mend them."""

    def _settle(self, names: Iterable[str]) -> None:
        """Boot, and then wait until none of these sessions shows a run that a kill has ended."""
        self._server.boot()
        came_true(lambda: not any(map(self._is_waiting, names)), SETTLED_S)

    def _is_waiting(self, name: str) -> bool:
        """Whether the session still shows a run that a kill has ended."""
        found = self._web.get(self._path(self._shapes[name]))["session"]
        return bool(found.get("active_stream_id"))

    def _change_all(self) -> None:
        for shape in self._shapes.values():
            for change in self.changes:
                if change in ASIDE and shape.name not in WITH_ASIDES:
                    continue
                if shape.name in self.only_seen:
                    continue
                method = getattr(self, f"_try_{change.replace(' ', '_')}")
                self._note(change, shape, partial(method, shape))

    def _delete_all(self) -> None:
        for shape in self._shapes.values():
            self._note("deleted", shape, partial(self._deleted, shape))

    def _mend(self) -> None:
        """Ask the server for a repair of its files; this one needs none."""

    def _look_at_all(self) -> None:
        self._sessions.clear()
        listed = self._listed()
        others = {*listed} - {shape.id for shape in self._shapes.values()} - self._extra
        self._facts[f"the list, {self._kind}: no others"] = _surplus(
            [listed[id_] for id_ in others]
        )
        for shape in self._shapes.values():
            for view in self.views:
                name = f"_see_{view.replace(' ', '_')}"
                method: Callable[[Shape, Any], str] = getattr(self, name)
                self._note(view, shape, partial(method, shape, listed))

    def _look_for_deleted(self) -> None:
        listed = self._listed()
        for shape in self._shapes.values():
            self._note("gone", shape, partial(self._gone, shape, listed))

    def _note(self, view: str, shape: Shape, act: Callable[[], str]) -> None:
        """Record a fact; a call that is refused or not answered is one too."""
        self._facts[f"{shape.name}, {self._kind}: {view}"] = problem_of(act)

    # Shapes

    def _make_plain(self, shape: Shape) -> None:
        self._talk(shape, 3)
        self._rename(shape, "Größe 尺寸 of it")

    def _make_left(self, shape: Shape) -> None:
        """Two turns, none of which has a reader."""
        for _ in range(2):
            text, reply = self._text()
            self._start(shape, text)
            self._wait_idle(shape.id)
            self._add(shape, text, reply)

    def _make_undone(self, shape: Shape) -> None:
        self._talk(shape, 3)
        self._post("undo", shape)
        self._drop(shape, -2)
        self._talk(shape, 1)

    def _make_cut(self, shape: Shape) -> None:
        self._talk(shape, 3)
        self._cut(shape, 2)
        self._talk(shape, 1)

    def _make_cleared(self, shape: Shape) -> None:
        self._talk(shape, 1)
        self._post("clear", shape)
        self._drop(shape, 0)
        self._talk(shape, 1)

    def _make_failed(self, shape: Shape) -> None:
        self._talk(shape, 1)
        text, _ = self._text(f"{FAIL}")
        self._read(self._start(shape, text))
        self._wait_idle(shape.id)
        self._add(shape, text, "")
        self._talk(shape, 1)
        shape.heard_all = False  # a server may hide a message without a reply from the agent

    def _make_cancelled(self, shape: Shape, first: str = "") -> None:
        """A turn that is cancelled when it has shown something; `first` comes before."""
        self._talk(shape, 1)
        text, reply = self._text(f"{first}{sleep(900)}", 1)
        run = self._start(shape, text)
        self._read(run, until="token")
        self._web.get(f"/api/chat/cancel?stream_id={run}")
        self._wait_idle(shape.id)
        self._add(shape, text, reply)
        self._talk(shape, 1)

    def _make_struck(self, shape: Shape) -> None:
        """A session whose next turn is struck by a kill."""
        self._talk(shape, 2)
        shape.heard_all = False

    def _make_retried(self, shape: Shape) -> None:
        self._talk(shape, 2)
        answer = self._post("retry", shape)
        run = answer.get("stream_id") or self._start(shape, answer["last_user_text"])
        self._read(str(run))
        self._wait_idle(shape.id)

    # Changes

    def _try_continued(self, shape: Shape) -> str:
        """One more turn, whose agent must see what the session shows."""
        users = sum(role == "user" for role, _ in shape.rows)
        shown = self._messages(shape)
        self._talk(shape, 1, f"{HEARD}")
        replies = [text for role, text in self._raw(shape) if role == "assistant"]
        heard = Heard.parse(replies[-1]) if replies else None
        if heard is not None:
            shape.rows[-1] = ("assistant", f"{shape.rows[-1][1]}{heard}")
        if problem := _adopted(shape, self._rows(shape)):
            return problem
        end = ReplyEnd.parse(replies[-1]) if replies else None
        if end is None or heard is None:
            return "the reply of the next turn is not whole"
        if problem := misheard(shown, heard, is_all=shape.heard_all):
            return problem
        if shape.heard_all and end.turn != users + 1:
            return f"the agent saw another conversation: {end.turn} of {users + 1} messages"
        return ""

    def _try_asked_aside(self, shape: Shape) -> str:
        """A question that is asked aside leaves no trace."""
        text, _ = self._text()
        body = {"session_id": shape.id, "question": text}
        self._read(str(self._web.post("/api/btw", **body)["stream_id"]), until="done")
        self._wait_idle(shape.id)
        self._asides.append(text.split()[0])
        return ""

    def _try_cut_short(self, shape: Shape) -> str:
        """Remove the last turn by its number of messages."""
        if shape.is_own:
            self._cut(shape, len(shape.rows) - 2)
        return ""

    def _deleted(self, shape: Shape) -> str:
        self._post("delete", shape)
        return ""

    def _gone(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """No route knows the session, and no search finds it."""
        if not shape.is_own:
            return ""
        if shape.id in listed:
            return "it is listed"
        status, _ = self._web.ask("GET", self._path(shape))
        if status != GONE:
            return f"its messages are shown: status {status}"
        for word in [*shape.removed[-1:], *_words(shape.rows)[:1]]:
            if shape.id in self._search(word):
                return f"a search finds it: {word}"
        return ""

    # Views

    def _found(self, shape: Shape) -> dict[str, Any]:
        """The session as its own route shows it, read once a round."""
        if shape.id not in self._sessions:
            self._sessions[shape.id] = self._web.get(self._path(shape))["session"]
        return self._sessions[shape.id]

    def _see_whole(self, shape: Shape, _listed: Any) -> str:
        """All messages, in their order, each once."""
        return _adopted(shape, rows_of(self._found(shape)["messages"]))

    def _see_tail(self, shape: Shape, _listed: Any) -> str:
        """The last messages are the end of all messages, and all else is the same with them."""
        found = self._found(shape)
        page = self._web.get(self._path(shape, msg_limit=self.page))["session"]
        whole, tail = pairs(found["messages"]), pairs(page["messages"])
        if len(tail) < min(self.page, len(whole)) or tail != whole[len(whole) - len(tail) :]:
            return f"not the end: expected that of {whole[-4:]}; observed {tail}"
        for name in sorted(found.keys() & page.keys() - {*OF_MESSAGES}):
            if not name.startswith("_") and found[name] != page[name]:
                return f"another {name} with its end: expected {found[name]}; observed {page[name]}"
        return ""

    def _see_listed(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """The list has the session once, with its title and its number of messages."""
        row = listed.get(shape.id)
        if row is None:
            return "it is not listed"
        found = self._found(shape)
        if row["title"] != found["title"]:
            return f"two titles: {row['title']!r} in the list; {found['title']!r}"
        if shape.title and found["title"] != shape.title:
            return f"another title: expected {shape.title!r}; observed {found['title']!r}"
        if row["message_count"] != len(found["messages"]):
            count = row["message_count"]
            return f"two counts: {count} in the list, of {len(found['messages'])} messages"
        return ""

    def _see_found(self, shape: Shape, _listed: Any) -> str:
        """A search finds its first message, and nothing that was removed."""
        for word in _words(shape.rows)[:1]:
            if shape.id not in self._search(word):
                return f"a search lacks it: {word}"
        for word in shape.removed[-1:]:
            if found := self._search(word):
                return f"a search finds what was removed: {word} in {len(found)} sessions"
        return ""

    def _see_unchanged(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """Nothing that was read, and no restart, gives the session another time of change."""
        row = listed.get(shape.id)
        before, shape.updated_at = shape.updated_at, None if row is None else row["updated_at"]
        if None in (before, shape.updated_at) or self._kind == "changed":
            return ""
        if shape.updated_at == before:
            return ""
        return f"another time: expected {before}; observed {shape.updated_at}"

    def _see_sound(self, shape: Shape, _listed: Any) -> str:
        """No turn that ended well is shown as a failure."""
        if any(name in shape.name for name in self.erring):
            return ""
        shown = self._found(shape)["messages"]
        errors = [str(row["content"])[:40] for row in shown if row.get("_error")]
        return f"an error is shown: {errors}" if errors else ""

    def _see_idle(self, shape: Shape, listed: Mapping[str, Any]) -> str:
        """No route shows a run, or a message that waits for one."""
        found = self._found(shape)
        for place, row in (("session", found), ("list", listed.get(shape.id, {}))):
            names = [name for name in row if name.startswith(WAITING)]
            for name in ("active_stream_id", *sorted(names)):
                if row.get(name):
                    return f"the {place} has {name}, although no turn runs"
        return ""

    # Requests

    @property
    def _web(self) -> Web:
        return Web(self._server.boot(**self.settings)["port"], PATIENCE_S, objects=JsonObject)

    def _new(self) -> str:
        return str(self._web.post("/api/session/new")["session"]["session_id"])

    def _post(self, action: str, shape: Shape, **body: Any) -> Any:
        return self._web.post(f"/api/session/{action}", session_id=shape.id, **body)

    def _rename(self, shape: Shape, title: str) -> None:
        self._post("rename", shape, title=title)
        shape.title = title

    def _text(self, script: object = "", count: int = 0) -> tuple[str, str]:
        """The next message, with a word of its own, and what its reply shows.

        The script comes behind the tokens.
        """
        self._turns += 1
        tokens = Tokens(count or 1 + self._turns % 7)
        first = "" if str(script) == f"{FAIL}" else f"{tokens.directive}"
        return f"word{self._turns}x says {first}{script}", tokens.text

    def _talk(self, shape: Shape, turns: int, script: str = "") -> None:
        """Run turns to their ends."""
        for _ in range(turns):
            text, reply = self._text(script)
            self._read(self._start(shape, text))
            self._wait_idle(shape.id)
            self._add(shape, text, reply)

    def _add(self, shape: Shape, text: str, reply: str) -> None:
        shape.rows += [("user", text)]
        shape.rows += [("assistant", reply)] if reply else []

    def _drop(self, shape: Shape, keep: int) -> None:
        """Note that the rows from this one on were removed."""
        shape.removed += _words(shape.rows[keep:])
        del shape.rows[keep:]

    def _cut(self, shape: Shape, keep: int) -> None:
        """Keep this number of rows of the session, and remove the others."""
        self._post("truncate", shape, keep_count=self._place(shape, keep))
        self._drop(shape, keep)

    def _place(self, shape: Shape, keep: int) -> int:
        """How many messages, as the server counts them, hold this number of rows."""
        shown = self._web.get(self._path(shape))["session"]["messages"]
        places = [index for index, message in enumerate(shown) if _row(message) is not None]
        return places[keep] if keep < len(places) else len(shown)

    def _start(self, shape: Shape, message: str) -> str:
        """Begin a turn; the run. A session that is busy for a moment is asked again."""
        ends_at = time.monotonic() + self._patience_s
        while True:
            try:
                body = {"session_id": shape.id, "message": message}
                return str(self._web.post("/api/chat/start", **body)["stream_id"])
            except StatusError as error:
                if error.status != CONFLICT:
                    raise
                if time.monotonic() > ends_at:
                    self._patience_s = LACKING_S
                    raise
            time.sleep(POLL_S)

    def _read(self, run: str, until: str = "") -> dict[str, Any]:
        """Read a run up to its end, or to the first event of this name; the last event's data."""
        try:
            reader = replace(self._web, timeout_s=PATIENCE_S if until else SHOWN_S)
            with reader.stream(f"/api/chat/stream?stream_id={run}") as events:
                last: dict[str, Any] = {}
                for event in events:
                    if event.name == "done" and isinstance(event.data, dict):
                        last = event.data
                    if event.name in TERMINAL or event.name == until:
                        break
                return last
        except (StatusError, TargetLostError, TimeoutError):
            return {}  # whether a run can be read, other scenarios ask

    def _wait_idle(self, session: str) -> None:
        ends_at = time.monotonic() + self._patience_s
        path = f"/api/session/status?session_id={session}"
        while time.monotonic() < ends_at:
            status, answer = self._web.ask("GET", path)
            if status != OK or not answer.get("agent_running"):
                return
            time.sleep(POLL_S)
        self._patience_s = LACKING_S

    def _path(self, shape: Shape, **query: int) -> str:
        more = "".join(f"&{name}={value}" for name, value in query.items())
        return f"/api/session?session_id={shape.id}{more}"

    def _messages(self, shape: Shape) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._web.get(self._path(shape))["session"]["messages"]
        return found

    def _raw(self, shape: Shape) -> list[Row]:
        return pairs(self._messages(shape))

    def _rows(self, shape: Shape) -> list[Row]:
        return rows_of(self._messages(shape))

    def _listed(self) -> dict[str, Any]:
        return {row["session_id"]: row for row in self._web.get("/api/sessions")["sessions"]}

    def _search(self, word: str) -> set[str]:
        found = self._web.get(f"/api/sessions/search?q={word}")["sessions"]
        return {row["session_id"] for row in found}


def rows_of(messages: Iterable[Mapping[str, Any]]) -> list[Row]:
    """What users and agents said, without tools, marks, summaries and the ends of replies."""
    return [row for row in map(_row, messages) if row is not None]


def _row(message: Mapping[str, Any]) -> Row | None:
    role, text = message["role"], said_in(message)
    if role not in SPEAKERS or message.get("_error") or not text.strip():
        return None
    if text.startswith(SUMMARY_START):
        return None
    end = ReplyEnd.parse(text) if role == "assistant" else None
    return role, (text.replace(str(end), "") if end else text).strip()


def said_in(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content may have parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return FOLDER.sub("", str(content))


def misheard(shown: Iterable[Mapping[str, Any]], heard: Heard, *, is_all: bool) -> str:
    """How the history that an agent was handed differs from what its session showed before.

    Without `is_all` it may lack messages; it has none twice, none that is not shown, no other
    order, and no result without its call.
    """
    wanted = Heard.of(_shown_by(shown)).messages
    known = {*wanted}
    said = [row for row in heard.messages if row[0] in SPEAKERS and row[1]]
    said = [row for row in said if not row[1].startswith(SUMMARIZED)]
    if more := [row for row in said if row not in known]:
        return f"the agent heard more than is shown: {more[:3]}"
    found = [row for row in heard.messages if row in known]
    if more := [*(Counter(found) - Counter(wanted))]:
        return f"the agent heard it twice: {more[:3]}"
    lost = [row for row in wanted if row[0] in SPEAKERS and row not in said]
    if is_all and lost:
        return f"the agent heard less than is shown: {lost[:3]}"
    rest = iter(wanted)
    if wrong := [row for row in found if row not in rest]:
        return f"the agent heard another order: {wrong[:3]}"
    called: set[str] = set()
    for role, _, id_ in heard.messages:
        if role == "call":
            called.add(id_)
        elif role == "result" and id_ not in called:
            return f"the agent heard a result without its call: {id_}"
    return ""


def _shown_by(messages: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """What messages say, and calls of tools and their results by their ids."""
    for message in messages:
        if message["role"] == "tool":
            yield "result", str(message.get("tool_call_id"))
        elif _row(message) is not None:
            yield message["role"], said_in(message)
        for call in message.get("tool_calls") or ():
            yield "call", str(call.get("id"))


def _surplus(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"it has more: {[row.get('title') for row in rows]}" if rows else ""


def pairs(messages: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Role and text of each message, as it is."""
    return [(message["role"], str(message.get("content") or "")) for message in messages]


def _adopted(shape: Shape, shown: list[Row]) -> str:
    """How what is shown differs from what must be; it is what must be from then on.

    So a finding has no consequences among the findings of later rounds.
    """
    problem = difference(shape.rows, shown)
    if problem:
        shape.rows = shown
    return problem


def _words(rows: Sequence[Row]) -> list[str]:
    """The words of its own that each message of a user has."""
    return [text.split()[0] for role, text in rows if role == "user"]


def difference(expected: Sequence[Row], observed: Sequence[Row]) -> str:
    """How the rows differ, and in which; empty if they do not."""
    wanted, observed = (
        [(role, text.strip()) for role, text in rows] for rows in (expected, observed)
    )
    if observed == wanted:
        return ""
    lost = [row for row in wanted if row not in observed]
    more = [row for row in observed if row not in wanted]
    kind = "lost" if lost else "surplus" if more else "out of order, or twice"
    return f"{kind}: {(lost or more or observed)[:3]}"
