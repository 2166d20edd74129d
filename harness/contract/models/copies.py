"""Model of the copies of one session: on disk, in state.db, in its search, and over HTTP.

`views` asks every route for the title and the count of messages, right after an acknowledgement;
`copies` reads every copy, and is judged at rest only: no run is under way, no wakeup is owed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.contract import promises
from harness.contract.agent_script import Script
from harness.contract.models.conversation import Session, Turn
from harness.contract.models.transcripts import is_predictable, is_reply
from harness.core.history import Operation
from harness.core.model import Refusal

UNTITLED = "Untitled"
ROUTES = 4  # the session, its last message, its status, the list
UNIQUE_TITLES = ("database", "search")


def viewed(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """Judge the views: each route has the acknowledged title, and the same number of messages."""
    views = operation.result
    if "titles" not in views:
        return session
    is_quiet = session.is_surely_idle or session.is_surely_busy
    least = len(session.saved)
    for name, right, wanted in (
        ("listed", views["listed"] == 1, "one row in the list"),
        ("titles", len(views["titles"]) == ROUTES, f"a title of each of {ROUTES} routes"),
        ("counts", len(views["counts"]) == ROUTES, f"a count of each of {ROUTES} routes"),
        ("titles", set(views["titles"]) == {session.title}, f"the title {session.title!r}"),
        ("messages", views["messages"] >= least or not is_quiet, f"at least {least} messages"),
        (
            "counts",
            set(views["counts"]) == {views["messages"]} or not is_quiet,
            f"the count {views['messages']} of every route",
        ),
        ("last", views["last"] is True or not is_quiet, "the last message by msg_limit=1"),
        ("busy", views["busy"] == session.is_surely_busy or not is_quiet, "the same status"),
    ):
        if not right:
            return Refusal(
                promises.S15,
                f"{operation.call}: a route does not show what was acknowledged ({name})",
                also=(promises.S14,),
                expected=wanted,
                observed=f"{name} = {views[name]!r}",
            )
    return session


_PENDING = "the session has another pending message"
_SETTLED = (promises.S13,)  # a message that is lost while its run is alive was settled too early


def compared(session: Session, operation: Operation, _turn: Turn | None) -> Session | Refusal:
    """Judge the copies: at rest each has what the session has over HTTP, and nothing else."""
    result = operation.result
    if not result or not (session.is_surely_idle or session.is_surely_busy):
        return session
    for problem, expected, observed in _differences(session, operation, result):
        return Refusal(
            promises.S14,
            f"{operation.call}: {problem}",
            also=_SETTLED if problem == _PENDING and expected is not None else (),
            expected=f"{expected!r}",
            observed=f"{observed!r}",
        )
    return session


def _differences(
    session: Session, operation: Operation, result: Any
) -> Iterator[tuple[str, Any, Any]]:
    """The differences between the copies, the plainest first."""
    http = result["copies"]["http"]
    texts = [text for role, text in http["texts"] if role == "user"]
    sent = [turn.text for turn in session.saved]
    if [text for text in texts if text in sent] != sent:
        yield "the server lacks acknowledged messages", sent, texts
    if session.title != http["title"]:
        yield "the server has another title", session.title, http["title"]
    pending = session.turns[-1].text if session.is_pending else None
    if result["pending"] != pending:
        yield _PENDING, pending, result["pending"]
    if len(http["texts"]) != http["count"]:
        yield "the count differs from the messages", len(http["texts"]), http["count"]
    for name, copy in result["copies"].items():
        yield from _copy_differences(name, copy, http)
    row = [http["title"], http["count"]]
    if result["index"] != row:
        yield "the index has another title or count", row, result["index"]
    yield from _journal_differences(session, operation, result)


def _copy_differences(name: str, copy: Any, http: Any) -> Iterator[tuple[str, Any, Any]]:
    for field in ("texts", "count"):
        if copy[field] != http[field]:
            yield f"the copy `{name}` has other {field}", http[field], copy[field]
    # Titles are unique in the database, so that of a second session may be missing there.
    titles = {http["title"], *([UNTITLED] if name in UNIQUE_TITLES else ())}
    if copy["title"] not in titles:
        yield f"the copy `{name}` has another title", http["title"], copy["title"]


def _is_shown(turn: Turn, session: str, text: str) -> bool:
    """Whether the agent may have shown this text, all of it or its beginning."""
    script = Script.parse(turn.text)
    if not is_predictable(script):
        return True
    return any(is_reply(script, session, text, mark) for mark in ("", "error", "cancelled"))


def _journal_differences(
    session: Session, operation: Operation, result: Any
) -> Iterator[tuple[str, Any, Any]]:
    rows = result["copies"]["http"]["texts"]
    for run, text in result["runs"].items():
        begun = next((turn for turn in session.begun if turn.run == run), None)
        if begun is None or not _is_shown(begun, operation.argument["session"], text):
            yield f"the run journal has another text of {run}", "that of its script", text
    for turn in session.saved:
        at = next(at for at, (_, text) in enumerate(rows) if text == turn.text)
        reply = "".join(text for role, text in rows[at + 1 : at + 2] if role != "user")
        journal = result["runs"].get(turn.run)
        if journal is not None and journal != reply:
            yield f"the run journal has another reply of {turn.run}", reply, journal
