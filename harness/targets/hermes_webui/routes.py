"""Asks every route of a hermes-webui checkout about sessions for what it must refuse.

The routes, and the names of the fields that they read, come from the source, so a route that no
other scenario calls is asked as well. Each gets a session of its own, and requests that name no
session, another kind of value, or the session with fields of a wrong type. An answer is a refusal
or a success, but no failure of the server, and where all were refused the session is as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from harness.core.errors import TargetLostError
from harness.engine.http import NotReachedError, Web

OK, NOT_FOUND, BROKEN = 200, 404, 500
LACKING = (501, 503)
NO_ROUTE = {"error": "not found"}  # the answer to an unknown path
ROUTE = re.compile(r'"(/api/[a-z][a-z_/-]+[a-z])"')
FIELD = re.compile(r"""\bbody\.get\(\s*["']([a-z_]+)["']""")
TOPICS = re.compile(
    r"/(session|sessions|chat|approval|clarify|background|btw|goal|upload|share|projects|list"
    r"|prompts|insights|personality|bg-task-complete-ack|process-complete-ack|terminal)(/|$)"
)
# What starts programs, asks the network, or is a stream, which does not end.
LEFT_ALONE = re.compile(
    r"stream$|events$|/output$|inject_test$|reveal|open-vscode|terminal/start|worktree|handoff"
    r"|cleanup|repair-safe|title/regenerate|conversation-rounds|/api/personalities"
)
NO_SESSION = {"session_id": "0" * 12}
IDS: tuple[Any, ...] = (None, ["x"], "../../x")
# Bodies that any route may be sent: of those one answer is noted.
EVERYWHERE: dict[str, Any] = {
    "a long id": {"session_id": "x" * 300},
    "a zero byte in its id": {"session_id": "a\0b"},
    "a list as its body": ["x"],
    "a text as its body": "x",
}
VALUES: tuple[Any, ...] = (None, [5], "x" * 2000)
NUMBERS = ("x", "9" * 30)
QUERY = ("msg_limit", "msg_before", "known_count", "limit", "offset", "depth", "days", "messages")
PATIENCE_S = 10.0
VOLATILE = ("updated_at", "last_message_at", "composer_draft", "last_viewed_at")


class Routes:
    """The routes of one server, as its source has them."""

    def __init__(self, web: Web, source: str, made: set[str]) -> None:
        """`made` gets the ids of the sessions that are made for this."""
        self._web = Web(web.port, PATIENCE_S)
        self._made = made
        self._paths = sorted(
            path
            for path in {*ROUTE.findall(source)}
            if TOPICS.search(path) and not LEFT_ALONE.search(path)
        )
        self._methods: dict[str, list[str]] = {}  # that a route has
        self._fields = sorted({*FIELD.findall(source)} - {"session_id"})

    def facts(self) -> Mapping[str, str]:
        """What is wrong with an answer of each route, by its path and the kind of request."""
        found: dict[str, str] = {}
        before = self._listed()
        for path in self._paths:
            session = self._new()
            if session:
                found |= {f"{path}, {kind}": it for kind, it in self._wrong(path, session).items()}
        found |= {f"any route, {kind}": self._any_wrong(kind) for kind in EVERYWHERE}
        self._made |= self._listed() - before  # some routes make sessions
        return found

    def _listed(self) -> set[str]:
        return {row["session_id"] for row in self._web.get("/api/sessions")["sessions"]}

    def _wrong(self, path: str, session: str) -> dict[str, str]:
        """What is wrong with the answers of one route, by the kind of request."""
        before, is_refused, found = self._read(session), True, dict[str, str]()
        for method in ("GET", "POST"):
            status, answer = self._ask(method, path, NO_SESSION)
            if status == NOT_FOUND and answer == NO_ROUTE:
                continue
            self._methods.setdefault(path, []).append(method)
            if problem := _failure(status, method, NO_SESSION, answer):
                found["its id"] = problem
            for kind, what in self._requests(method, session):
                status, answer = self._ask(method, path, what)
                is_refused = is_refused and (status != OK or method == "GET")
                if problem := _failure(status, method, what, answer):
                    found.setdefault(kind, problem)
        after = self._read(session)
        if is_refused and before != after:
            changed = [name for name in before if before[name] != after.get(name)]
            found["refused"] = f"a trace: it was refused, and changed {changed[:3]}"
        return found

    def _any_wrong(self, kind: str) -> str:
        """What is wrong with the first answer to an id of this kind, of any route that fails."""
        for path, methods in self._methods.items():
            for method in methods:
                what = EVERYWHERE[kind]
                status, answer = self._ask(method, path, what)
                if problem := _failure(status, method, what, answer):
                    return f"{problem} of {path}"
        return ""

    def _ask(self, method: str, path: str, what: Any) -> tuple[int, Any]:
        """Send a request; without an answer its status is zero."""
        query = ""
        if method == "GET" and isinstance(what, dict):
            pairs = ((name, "" if value is None else str(value)) for name, value in what.items())
            query = "?" + "&".join(f"{name}={quote(value)}" for name, value in pairs)
        try:
            return self._web.ask(method, f"{path}{query}", None if method == "GET" else what)
        except (TargetLostError, NotReachedError, TimeoutError):
            return 0, ""

    def _requests(self, method: str, session: str) -> Iterator[tuple[str, Any]]:
        """Requests that a client could make by mistake, by their kinds."""
        for id_ in IDS:
            yield "its id", {"session_id": id_}
        if method == "GET":
            for number in NUMBERS:
                yield "its numbers", {**dict.fromkeys(QUERY, number), "session_id": session}
            return
        for value in VALUES:
            yield "its fields", {**dict.fromkeys(self._fields, value), "session_id": session}

    def _new(self) -> str:
        """A session with two messages; an older release may have no way to make one at once."""
        said = [
            {"role": "user", "content": "walked asks", "timestamp": 1.0},
            {"role": "assistant", "content": "walked replied", "timestamp": 2.0},
        ]
        body = {"title": "walked", "messages": said, "model": "scripted"}
        status, answer = self._web.ask("POST", "/api/session/import", body)
        session = answer.get("session") if status == OK and isinstance(answer, dict) else None
        id_ = str(session["session_id"]) if isinstance(session, dict) else ""
        self._made.add(id_)
        return id_

    def _read(self, session: str) -> dict[str, Any]:
        """The session without its times."""
        status, answer = self._web.ask("GET", f"/api/session?session_id={session}")
        if status != OK or not isinstance(answer, dict):
            return {"status": status}
        found = answer["session"]
        return {name: value for name, value in found.items() if name not in VOLATILE}


def _failure(status: int, method: str, what: Any, answer: Any) -> str:
    """What is wrong with an answer; a part that this server lacks is none of its failures."""
    if not status:
        return f"not answered: {method} {_short(what)}"
    is_failure = status >= BROKEN and status not in LACKING
    return f"status {status}: {method} {_short(what)}: {_short(answer)}" if is_failure else ""


def _short(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:60]
