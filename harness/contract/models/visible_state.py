"""Model of the visible state of a server: from it the whole answer of every endpoint is predicted.

The state has every session (title, messages, present run, times, saves), every run (its events, its
end), and what the server has announced. Each call of the *endpoints* ability is one step. A run
that ends by itself does so at an unknown moment, so a workload reads it to its end before it asks
for anything else of its session; until the session was seen to be idle it is *leaving*, and only
whether its run still counts is open. Times are numbers of calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.contract.agent_script import ReplyEnd, Script
from harness.contract.models.answers import TEXT, AtLeast, Difference, OneOf, Span, Text, difference
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

OK, BAD, ABSENT, CONFLICT = 200, 400, 404, 409
UNTITLED = "Untitled"
JSON_HEADERS = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}
STREAM_TYPE = "text/event-stream; charset=utf-8"
SESSION_FIELDS = ("model", "profile", "workspace")
KEPT = ("model", "model_provider", "workspace", "profile", "enabled_toolsets")  # of a request
FOUND_CHARS = 200  # that a search shows of a message
_WORD = re.compile(r"[^\W_]+")
FAILURE = "ScriptedError: the message asked for a failure"  # what the scripted agent raises
STARTED = "server_turn_started"
NOTICES = "notices-[0-9a-f]{12}"  # the id of a session's stream of notices


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `mark` names how its turn ended, where it was not completed."""

    role: str
    content: str
    at: Span
    turn: str
    mark: tuple[tuple[str, Any], ...] = ()
    attachments: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()  # the names of the tools that its turn called

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls of its turn."""
        return [{"name": name, "arguments": {}} for name in self.calls]

    def json(self) -> dict[str, Any]:
        """The message as every endpoint shows it."""
        if self.role == "system":
            about = {"timestamp": self.at, "source": "compress"}
            return {"role": self.role, "content": self.content, **about}
        source = {"source": "user"} if self.role == "user" else {}
        return {
            "role": self.role,
            "content": self.content,
            "timestamp": self.at,
            "turn_id": self.turn,
            **source,
            **({"attachments": [*self.attachments]} if self.attachments else {}),
            **({"tool_calls": self.tool_calls} if self.calls else {}),
            **dict(self.mark),
        }


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a user's turn. `number` is the turn's place in its session, from 1."""

    name: str
    session: str
    text: str
    started: int
    number: int
    asked: tuple[tuple[str, Any], ...] = ()  # what it works with, by name
    end: str = ""  # done, cancelled, error or interrupted
    count: int | None = 0  # messages of the session after the end, where it left any
    is_aside: bool = False  # it leaves nothing in its session

    @property
    def script(self) -> Script:
        """What the agent does."""
        return Script.parse(self.text)

    @property
    def turn(self) -> str:
        """The name of the turn's id."""
        return f"<turn of {self.name[1:-1]}>"

    @property
    def tokens(self) -> list[str]:
        """The parts of the reply that were shown."""
        parts = [f"{at} " for tokens in self.script.tokens for at in range(tokens.count)]
        if self.end == "done":
            parts.append(str(ReplyEnd(self.number, self.session)))
        return parts

    @property
    def calls(self) -> tuple[str, ...]:
        """The names of the tools that it calls."""
        return tuple(data["name"] for _, name, data in self.events if name == "tool")

    @property
    def attachments(self) -> tuple[str, ...]:
        """The attachments of its message."""
        return tuple(dict(self.asked).get("attachments", ()))

    @property
    def source(self) -> str:
        """What began it."""
        return "ephemeral" if self.is_aside else "user"

    @property
    def is_held(self) -> bool:
        """Whether it goes on until it is ended by a call."""
        return self.script.is_held

    @property
    def events(self) -> list[list[Any]]:
        """Its events so far: id, name and data."""
        body: list[tuple[str, Any]] = []
        for directive in self.script.directives:
            if directive.verb == "tokens":
                body += [("token", {"text": f"{at} "}) for at in range(int(directive.value))]
            elif directive.verb == "tool":
                body.append(("tool", {"name": "whose_turn", "arguments": {}}))
                output = {"output": self.session, "output_chars": AtLeast(1)}
                body.append(("tool_complete", {"name": "whose_turn", **output}))
            elif directive.verb == "asked":
                body.append(("tool", {"name": "what_was_asked", "arguments": {}}))
                text = json.dumps(dict(self.asked), sort_keys=True)
                output = {"output": text, "output_chars": AtLeast(1)}
                body.append(("tool_complete", {"name": "what_was_asked", **output}))
        count = {"message_count": self.count}
        match self.end:
            case "done":
                body.append(("token", {"text": self.tokens[-1]}))
                body += [("done", count), ("stream_end", {})]
            case "cancelled":
                body.append(("cancel", count))
            case "error":
                body.append(("apperror", {**count, "error": FAILURE}))
            case "interrupted":
                body.append(("apperror", {"error": TEXT}))
        return [[f"{self.name}:{at}", name, data] for at, (name, data) in enumerate(body, 1)]


@dataclass(frozen=True, slots=True)
class Session:
    """One session. `run` is its registered run, if there is one."""

    name: str
    made: int
    updated: Span
    title: str = UNTITLED
    version: int = 1
    shrinks: int = 0
    messages: tuple[Message, ...] = ()
    run: str | None = None
    is_pending: bool = False  # the run's message is not among the messages yet
    is_leaving: bool = False  # its run is over, and may still be registered
    extra: tuple[tuple[str, Any], ...] = ()

    def changed(self, at: int, **fields: Any) -> Session:
        """This session after a change that is an activity."""
        return replace(self, version=self.version + 1, updated=Span(at, at), **fields)

    def cut(self, keep: int, at: int) -> Session:
        """This session after the user removed its later messages."""
        return self.changed(at, messages=self.messages[:keep], shrinks=self.shrinks + 1)


@dataclass(frozen=True, slots=True)
class State:
    """What clients can see of a server."""

    sessions: tuple[Session, ...] = ()
    runs: tuple[Run, ...] = ()
    deleted: frozenset[str] = frozenset()  # sessions, and their runs
    clock: int = -1  # the number of the present call
    booted: int = 0
    ended: Span | None = None  # when the last run of this boot ended
    version: int = 0  # changes of the list that this boot has announced
    recovered: tuple[int, int] = (0, 0)  # sessions that this boot scanned, and settled

    def find(self, name: Any) -> Session | None:
        """The session of that name, if it exists."""
        return next((session for session in self.sessions if session.name == name), None)

    def run(self, name: Any) -> Run | None:
        """The run of that name, if its session exists."""
        return next((run for run in self.runs if run.name == name), None)

    def put(self, session: Session) -> State:
        """This state with the session as it is now."""
        others = tuple(other for other in self.sessions if other.name != session.name)
        return replace(self, sessions=(*others, session))

    def put_run(self, run: Run) -> State:
        """This state with the run as it is now."""
        return replace(self, runs=(*(known for known in self.runs if known.name != run.name), run))

    def without(self, session: str) -> State:
        """This state without the session and its runs."""
        gone = {session, *(run.name for run in self.runs if run.session == session)}
        return replace(
            self,
            sessions=tuple(known for known in self.sessions if known.name != session),
            runs=tuple(run for run in self.runs if run.session != session),
            deleted=self.deleted | gone,
        )

    def announced(self, changes: int = 1) -> State:
        """This state after further changes of the list of sessions."""
        return replace(self, version=self.version + changes)

    def attachable(self, session: Session) -> Run | None:
        """The run of the session that a client can attach to."""
        run = self.run(session.run)
        return run if run is not None and not run.end else None

    def phase(self, run: Run) -> str:
        """What health says of a registered run."""
        if run.end == "cancelled":
            return "cancelling"
        return "ending" if run.end else "running"

    def with_end(self, run: Run, end: str, first: int | None = None) -> State:
        """This state after the end of a run, whose turn is saved by now.

        `first` is the earliest call in which it may have ended; None means the present one.
        """
        session = self.find(run.session)
        assert session is not None, run.session
        if run.is_aside:
            is_gone = end == "interrupted"
            is_leaving = not is_gone and not run.script.hangs
            after = replace(session, run=None if is_gone else run.name, is_leaving=is_leaving)
            return self.put(after).put_run(replace(run, end=end, count=None))
        span = Span(self.clock if first is None else first, self.clock)
        text = "".join(replace(run, end=end).tokens)
        mark: tuple[tuple[str, Any], ...] = ()
        if end in ("cancelled", "interrupted"):
            mark = ((end, True),)
        elif end == "error":
            mark = (("error", FAILURE),)
        at = Span(run.started, run.started)
        sent = () if end == "error" else mark
        user = Message("user", run.text, at, run.turn, sent, run.attachments)
        messages = [user]
        if text or not mark or end == "error":
            replied = at if end == "interrupted" else span
            calls = () if end == "interrupted" else run.calls
            messages.append(Message("assistant", text, replied, run.turn, mark, calls=calls))
        after = replace(
            session,
            version=session.version + 1,
            updated=session.updated if end == "interrupted" else span,
            messages=(*session.messages, *messages),
            is_pending=False,
            is_leaving=end != "interrupted" and not run.script.hangs,
            run=None if end == "interrupted" else session.run,
        )
        ended = replace(run, end=end, count=len(after.messages))
        return self.put(after).put_run(ended)

    def idle(self, session: Session) -> State:
        """This state after the session's run has left."""
        run = self.run(session.run)
        if run is None:
            return self
        if not run.end:
            ended = self.with_end(run, "error" if run.script.fails else "done", run.started)
            return ended.idle(ended.find(session.name) or session)
        after = self.put(replace(session, run=None, is_leaving=False)).announced()
        return replace(after, ended=Span(run.started, self.clock))

    def struck(self) -> State:
        """This state after a kill and another boot."""
        after, settled = self, 0
        for session in self.sessions:
            run = self.run(session.run)
            if run is not None and session.is_pending:
                after, settled = after.with_end(run, "interrupted"), settled + 1
            elif run is not None and run.is_aside and not run.end:
                after = after.with_end(run, "interrupted")
            else:
                after = after.put(replace(session, run=None, is_leaving=False))
        done = (len(self.sessions), settled)
        return replace(after, booted=self.clock, ended=None, version=0, recovered=done)

    # Views

    def row(self, session: Session) -> dict[str, Any]:
        """The session as lists and other answers show it."""
        run = self.run(session.run)
        pending: dict[str, Any] = {}
        if session.is_pending and run is not None:
            pending = {"pending_turn_id": run.turn, "pending_user_source": "user"}
            if run.attachments:
                pending["pending_attachments"] = [*run.attachments]
        attachable = self.attachable(session)
        return {
            **dict.fromkeys((*SESSION_FIELDS, "personality")),
            "session_id": session.name,
            "version": session.version,
            "title": session.title,
            "created_at": session.made,
            "updated_at": session.updated,
            "active_stream_id": None if attachable is None else attachable.name,
            "pending_started_at": run.started if run and session.is_pending else None,
            "intentional_shrink_generation": session.shrinks,
            "truncation_watermark": None,
            "shrunk_at": None,
            "message_count": len(session.messages),
            "has_pending_user_message": session.is_pending,
            **dict(session.extra),
            **pending,
        }

    def whole(self, session: Session, limit: int | None) -> dict[str, Any]:
        """The session with its messages, or the last of them."""
        count = len(session.messages)
        first = max(0, count - (count if limit is None else limit))
        run = self.run(session.run)
        return {
            **self.row(session),
            "messages": [message.json() for message in session.messages[first:]],
            "tool_calls": [
                {**call, "message_index": at}
                for at, message in enumerate(session.messages[first:], first)
                for call in message.tool_calls
            ],
            "pending_user_message": run.text if run is not None and session.is_pending else None,
            "_messages_truncated": first > 0,
            "_messages_offset": first,
        }

    def recovery(self) -> dict[str, int]:
        """What the start of this boot did."""
        scanned, settled = self.recovered
        return {"scanned": scanned, "restored": 0, "settled": settled}

    def registered(self) -> list[Run]:
        """The runs that surely count as active."""
        found = (self.run(session.run) for session in self.sessions if not session.is_leaving)
        return [run for run in found if run is not None]


@dataclass(frozen=True, slots=True)
class Expected:
    """The predicted answer of one call, the state behind it, and the promises that it tests."""

    status: int
    body: Any
    state: State
    promises: tuple[Promise, ...]
    headers: Mapping[str, str] | None = None


class VisibleStateModel:
    """What every endpoint of a server answers."""

    name = "visible-state"

    def initial(self) -> State:
        """No session, and no server."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The state after the operation, or the promise that its answer breaks."""
        state = replace(state, clock=state.clock + 1)
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.H6,
                f"{operation.call} got no answer",
                also=(promises.H3,) if operation.function in ("boot", "kill") else (),
                expected="an answer within the patience of a client",
            )
        argument = operation.argument or {}
        if operation.function == "boot":
            return _nothing(replace(state, booted=state.clock), operation)
        if operation.function == "kill":
            return _nothing(state.struck(), operation)
        if step := _STEPS.get(operation.function):
            return step(state, operation)
        raise ValueError(f"{self.name} has no function {operation.function!r}: {argument}")

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:  # noqa: ARG002
        """What a wrong answer leaves behind is not known: the rest of the history is not judged."""
        return ()


def _nothing(state: State, operation: Operation) -> tuple[State] | Refusal:
    if operation.result is None:
        return (state,)
    return Refusal(promises.H3, f"{operation.call} answers something", (None,), expected="null")


def _refusal(operation: Operation, found: Difference, tested: tuple[Promise, ...]) -> Refusal:
    first, *also = tested
    return Refusal(
        first,
        f"{operation.call}: another answer than the state of the server allows, at {found.path}",
        also=tuple(dict.fromkeys(also)),
        expected=f"{found.expected}",
        observed=f"{found.observed!r}",
    )


def _called(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    argument = operation.argument
    expected = predicted(state, argument)
    answer = {
        "status": expected.status,
        "headers": expected.headers if expected.headers is not None else JSON_HEADERS,
        "whole": True,
        "body": expected.body,
    }
    found = difference(answer, operation.result)
    if found is None:
        return (_narrowed(expected.state, operation.result["body"]),)
    return _refusal(operation, found, _promises(state, argument, expected, found, operation.result))


def _promises(  # noqa: PLR0911 - one for each kind of difference
    state: State, argument: Mapping[str, Any], expected: Expected, found: Difference, result: Any
) -> tuple[Promise, ...]:
    """The promises that this difference breaks, the plainest first."""
    also = expected.promises
    if result["status"] >= 500:  # noqa: PLR2004
        return (promises.H6 if expected.status != BAD else promises.H2, promises.H2, *also)
    if expected.status == ABSENT:
        subject = _subject(argument)
        if subject in state.deleted:
            return (promises.S6, promises.S15, promises.H2)
        return (promises.H2, *also)
    if expected.status == BAD or found.path == ".headers" or found.path.startswith(".headers"):
        return (promises.H2, *also)
    if "agent_running" in found.path:
        return (promises.T3, promises.T4, promises.S13, promises.S15)
    if "active_stream_id" in found.path and expected.status == OK:
        return (promises.C7, promises.T4, promises.T3, promises.S15)
    for names, tested in _FIELDS.items():
        if any(name in found.path for name in names):
            return tested
    if "messages" in found.path:
        return (*_of_messages(state, argument), promises.S15, *also)
    return also


_FIELDS: Mapping[tuple[str, ...], tuple[Promise, ...]] = {
    ("recovery",): (promises.S16,),
    ("effective_model",): (promises.M4, promises.T9),
    (*KEPT, "attachments", "project_id"): (promises.T9, promises.S15, promises.S14),
    ("shrink", "shrunk", "watermark"): (promises.S6, promises.S15, promises.S5),
    ("updated_at",): (promises.S8, promises.S15, promises.S14),
}


def _of_messages(state: State, argument: Mapping[str, Any]) -> tuple[Promise, ...]:
    """The promises of messages that differ: of the last end of a run of that session."""
    session = state.find(_subject(argument))
    turns = {message.turn for message in session.messages} if session else set()
    ends = {run.end for run in state.runs if run.turn in turns}
    tried = [promises.S2, promises.S14]
    if session is not None and session.shrinks:
        tried.insert(0, promises.S6)
    if "interrupted" in ends:
        tried.append(promises.S13)
    if "cancelled" in ends:
        tried.append(promises.T4)
    return tuple(tried)


def _subject(argument: Mapping[str, Any]) -> Any:
    values = {**(argument.get("query") or {}), **(argument.get("body") or {})}
    in_path = argument["path"].split("/")[3] if argument["path"].count("/") == 4 else None  # noqa: PLR2004
    return values.get("session_id") or values.get("stream_id") or in_path


def _narrowed(state: State, body: Any) -> State:
    """The state, with the times that an answer has shown."""
    rows = []
    if isinstance(body, Mapping):
        if isinstance(body.get("session"), Mapping):
            rows.append(body["session"])
        if isinstance(body.get("sessions"), list):
            rows += body["sessions"]
        if "hermes_home" in body:
            rows.append(body)
    for row in rows:
        session = state.find(row.get("session_id"))
        if session is None:
            continue
        at = row["updated_at"]
        session = replace(session, updated=Span(at, at))
        offset = row.get("_messages_offset", 0)
        for index, shown in enumerate(row.get("messages", ())):
            seen = Span(shown["timestamp"], shown["timestamp"])
            messages = list(session.messages)
            messages[offset + index] = replace(messages[offset + index], at=seen)
            session = replace(session, messages=tuple(messages))
        state = state.put(session)
    return state


# Calls


def predicted(state: State, argument: Mapping[str, Any]) -> Expected:
    """The answer of one call."""
    method, path = argument["method"], argument["path"]
    values = {**(argument.get("query") or {}), **(argument.get("body") or {})}
    values = {name: value for name, value in values.items() if value is not None}
    if method == "HEAD":
        got = predicted(state, {**argument, "method": "GET"})
        return replace(got, body=None)
    predict = _ROUTES.get((method, path))
    if predict is None:
        return Expected(ABSENT, {"error": TEXT}, state, (promises.H2,))
    return predict(state, values, argument.get("name", ""))


def _absent(state: State, tested: Promise = promises.H2) -> Expected:
    return Expected(ABSENT, {"error": TEXT}, state, (tested,))


def _session(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    resolved = _resolved(dict(session.extra)) if values.get("resolve_model") else {}
    body = {"session": {**state.whole(session, values.get("msg_limit")), **resolved}}
    return Expected(OK, body, state, (promises.S15, promises.S14, promises.S2))


def _status(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    is_running: Any = session.run is not None
    if session.is_leaving:
        is_running = OneOf((True, False))
    body = {**state.row(session), "agent_running": is_running, "hermes_home": "<home>"}
    tested = (promises.S15, promises.S14, promises.T3, promises.T4)
    return Expected(OK, body, state, tested)


def _sessions(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    order = sorted(state.sessions, key=lambda session: session.updated.last, reverse=True)
    body = {
        "sessions": [state.row(session) for session in order],
        "webui_session_count": len(order),
        "server_time": state.clock,
        "server_tz": Text(r"[+-]\d{4}"),
    }
    return Expected(OK, body, state, (promises.S15, promises.S11, promises.S14, promises.S8))


def _search(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    """Sessions whose title or messages have all these words, the latest activity first."""
    words = values["q"].casefold().split()
    rows = []
    for session in sorted(state.sessions, key=lambda known: known.updated.last, reverse=True):
        texts = [message.content for message in session.messages]
        found = [text for text in texts if {*words} <= {*_WORD.findall(text.casefold())}]
        if all(word in session.title.casefold() for word in words):
            rows.append({**state.row(session), "match_type": "title"})
        elif found:
            about = {"match_type": "content", "text": found[-1][:FOUND_CHARS]}
            rows.append({**state.row(session), **about})
    body = {"query": values["q"], "count": len(rows), "sessions": rows}
    return Expected(OK, body, state, (promises.S14, promises.S15, promises.S6))


def _new(state: State, values: Mapping[str, Any], name: str) -> Expected:
    extra = tuple(_kept(values, "project_id").items())
    now = Span(state.clock, state.clock)
    session = Session(name, state.clock, now, extra=extra)
    after = state.put(session).announced()
    body = {"session": {**after.row(session), "messages": []}}
    return Expected(OK, body, after, (promises.S15, promises.S11))


def _kept(values: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """What the values say of the session's fields, and of these further ones; hashable."""
    found = {field: values[field] for field in (*KEPT, *more) if field in values}
    return {
        field: tuple(value) if isinstance(value, list) else value for field, value in found.items()
    }


def _resolved(values: Mapping[str, Any]) -> dict[str, Any]:
    """The model and provider of a session, by a catalog that was never rebuilt."""
    provider = values.get("model_provider") or "scripted"
    model = values.get("model") or "scripted-agent"
    return {"effective_model": model, "effective_model_provider": provider}


def _changed(state: State, session: Session, tested: Promise) -> Expected:
    after = state.put(session).announced()
    body = {"ok": True, "session": after.row(session)}
    return Expected(OK, body, after, (promises.S15, tested, promises.S14))


def _rename(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    return _changed(state, session.changed(state.clock, title=values["title"]), promises.S9)


def _clear(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    return _changed(state, session.cut(0, state.clock), promises.S6)


def _truncate(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    keep = values["keep_count"]
    if keep < len(session.messages):
        return _changed(state, session.cut(keep, state.clock), promises.S6)
    return _changed(state, session.changed(state.clock), promises.S2)


def _undo(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    users = [at for at, message in enumerate(session.messages) if message.role == "user"]
    if not users:
        return Expected(CONFLICT, {"error": TEXT}, state, (promises.S10, promises.S6))
    return _changed(state, session.cut(users[-1], state.clock), promises.S6)


def _compress(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    found = _freed(state, values["session_id"])
    if isinstance(found, Expected):
        return found
    state, session = found
    users = [at for at, message in enumerate(session.messages) if message.role == "user"]
    if len(users) < 2:  # noqa: PLR2004
        return Expected(CONFLICT, {"error": TEXT}, state, (promises.S10, promises.S6))
    old, kept = session.messages[: users[-1]], session.messages[users[-1] :]
    asked = "; ".join(message.content[:40] for message in old if message.role == "user")
    text = f"Summary of {len(old)} messages: {asked}"
    summary = Message("system", text, Span(state.clock, state.clock), "")
    shrunk = session.changed(state.clock, messages=(summary, *kept), shrinks=session.shrinks + 1)
    return _changed(state, shrunk, promises.S6)


def _retry(state: State, values: Mapping[str, Any], name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state)
    if session.run is not None and not session.is_leaving:
        return _busy(state, session)
    users = [at for at, message in enumerate(session.messages) if message.role == "user"]
    if not users:
        return Expected(CONFLICT, {"error": TEXT}, state, (promises.S10, promises.S6))
    state = state.idle(session)
    session = state.find(session.name) or session
    sent = session.messages[users[-1]]
    cut = replace(session, messages=session.messages[: users[-1]], shrinks=session.shrinks + 1)
    begun = _began(state, cut, sent.content, {"attachments": sent.attachments}, name)
    return replace(begun, state=begun.state.announced(), promises=(promises.S6, *begun.promises))


def _busy(state: State, session: Session) -> Expected:
    """A session whose run refuses what is asked."""
    run = state.attachable(session)
    body = {"error": TEXT, "active_stream_id": None if run is None else run.name}
    tested = (promises.T1, promises.T4) if run is None else (promises.T1,)
    return Expected(CONFLICT, body, state, tested)


def _freed(state: State, name: str) -> tuple[State, Session] | Expected:
    """The session when its last run has left; or why it cannot be changed."""
    session = state.find(name)
    if session is None:
        return _absent(state)
    if session.run is not None and not session.is_leaving:
        return _busy(state, session)
    state = state.idle(session)
    return state, state.find(name) or session


def _delete(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    after = state
    if session is not None:
        run = state.run(session.run)
        if run is not None:
            after = replace(after.announced(), ended=Span(run.started, state.clock))
        after = after.without(session.name)
    body = {"ok": True, "state_db_cleanup_failed": False}
    return Expected(OK, body, after.announced(), (promises.S6, promises.S15))


def _start(state: State, values: Mapping[str, Any], name: str) -> Expected:
    found = _freed(state, values["session_id"])
    if isinstance(found, Expected):
        return found
    state, session = found
    return _began(state, session, values["message"], values, name)


def _began(
    state: State, session: Session, text: str, values: Mapping[str, Any], name: str
) -> Expected:
    """A turn that starts in an idle session, and what it works with."""
    number = sum(message.role == "user" for message in session.messages) + 1
    extra = {**dict(session.extra), **_kept(values)}
    resolved = _resolved(extra)
    attachments = _kept({"attachments": (), **values}, "attachments")
    asked = {**_kept(extra), **attachments, **resolved}
    run = Run(name, session.name, text, state.clock, number, tuple(asked.items()))
    begun_session = session.changed(
        state.clock, run=name, is_pending=True, extra=tuple(extra.items())
    )
    after = state.put_run(run).put(begun_session)
    begun = {
        "stream_id": name,
        "session_id": session.name,
        "pending_started_at": state.clock,
        "turn_id": run.turn,
        "title": session.title,
        **resolved,
    }
    return Expected(OK, begun, after.announced(), (promises.T8, promises.T3, promises.T2))


def _aside(state: State, values: Mapping[str, Any], name: str) -> Expected:
    found = _freed(state, values["session_id"])
    if isinstance(found, Expected):
        return found
    state, session = found
    number = sum(message.role == "user" for message in session.messages) + 1
    kept = _kept(dict(session.extra))
    asked = {**kept, "attachments": (), **_resolved(dict(session.extra))}
    run = Run(
        *(name, session.name, values["question"], state.clock, number),
        asked=tuple(asked.items()),
        is_aside=True,
    )
    after = state.put_run(run).put(replace(session, run=name, is_leaving=False))
    begun = {
        "stream_id": name,
        "session_id": session.name,
        "started_at": state.clock,
        "turn_id": run.turn,
    }
    return Expected(OK, begun, after.announced(), (promises.T8, promises.T3))


def _cancel(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    run = state.run(values["stream_id"])
    after, is_cancelled = state, False
    if run is not None:
        session = state.find(run.session)
        is_present = session is not None and session.run == run.name
        if is_present and not run.end:
            after, is_cancelled = state.with_end(run, "cancelled"), True
        elif is_present and run.end == "cancelled":
            # Its agent may have unwound by now, unless it hangs.
            is_cancelled = True if session and not session.is_leaving else OneOf((True, False))  # type: ignore[assignment]
    body = {"ok": True, "cancelled": is_cancelled, "stream_id": values["stream_id"]}
    return Expected(OK, body, after, (promises.T4, promises.T3))


def _stream_status(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    run = state.run(values["stream_id"])
    body = {
        "active": run is not None and not run.end,
        "stream_id": values["stream_id"],
        "replay_available": run is not None,
    }
    tested = (promises.T3, promises.C7, promises.S6)
    if run is not None and run.end == "cancelled":  # it is never offered as one to attach to
        tested = (promises.T4, promises.C7, promises.T3)
    return Expected(OK, body, state, tested)


def _acknowledge(state: State, values: Mapping[str, Any], _name: str) -> Expected:
    session = state.find(values["session_id"])
    if session is None:
        return _absent(state, promises.W11)
    is_former = "task_id" not in values
    task = values["process_id" if is_former else "task_id"]
    both = {"task_id": task, "process_id": task}
    body = {"ok": True, "session_id": session.name, **both, "noop": True}
    headers = {**JSON_HEADERS, **({"deprecation": "true"} if is_former else {})}
    return Expected(OK, body, state, (promises.W11,), headers)


def _former(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    headers = {**JSON_HEADERS, "x-replaced-by": "/api/bg-task-complete-ack"}
    return Expected(410, {"error": TEXT}, state, (promises.W11, promises.H2), headers)


def _audit(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    body = {
        "status": "ok",
        "summary": {"repairable": 0, "unsafe_to_repair": 0},
        "items": [],
        "recovery": state.recovery(),
    }
    return Expected(OK, body, state, (promises.S5, promises.S11))


def _models(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    model = {"id": "scripted-agent", "label": "scripted-agent"}
    body = {
        "active_provider": "scripted",
        "default_model": "scripted-agent",
        "groups": [{"provider": "scripted", "models": [model]}],
    }
    return Expected(OK, body, state, (promises.M1,))


def _gateway(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    body = {
        "enabled": True,
        "ok": True,
        "watcher_running": True,
        "fallback_poll_ms": AtLeast(1),
        "scope": "gateway",
        "session_stream_available": True,
        "session_stream_path": "/api/session/stream",
    }
    return Expected(OK, body, state, (promises.G1,))


def _page(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    headers = {**JSON_HEADERS, "content-type": "text/html; charset=utf-8"}
    return Expected(OK, None, state, (promises.H2,), headers)


# Health

_SIZES = (  # of containers that the visible state decides
    *("runs", "streams", "run_writers", "channel_runs", "channel_runs_offered"),
    *("processes_running", "process_events_pending", "process_completion_queue"),
    *("runs_abandoned", "wakeup_events", "wakeup_ready", "wakeup_timers", "sse_stalled"),
)


_BUFFERS = (  # of containers whose size at a moment only the server knows
    *("sessions_held", "session_index_rows", "sessions_listed", "turn_journal", "catalogs_kept"),
    *("processes_finished", "process_ledger", "agents_kept", "agents_leaving", "agents_aside"),
    *("agents_claimed", "agents_cached", "lifecycle_entries", "wakeup_lines", "wakeup_homeless"),
    *("wakeup_index", "wakeup_runs", "channels", "channel_subscribers", "channel_frames_kept"),
    *("channel_bytes_kept", "watcher_subscribers", "watcher_bytes_kept", "catalog_flights"),
    *("connections_idle", "connections_leaving", "calls", "streams_taken", "sse_streams"),
    "sse_ready",
)


def _containers(state: State) -> dict[str, Any]:
    runs = state.registered()
    is_unsure = any(session.is_leaving for session in state.sessions)
    sure = {
        **dict.fromkeys(_SIZES, 0),
        **dict.fromkeys(("runs", "streams", "channel_runs"), len(runs)),
        "run_writers": sum(not run.end for run in runs),
        "channel_runs_offered": sum(not run.end for run in runs),
    }
    buffers = {name: AtLeast(0) for name in _BUFFERS}
    return buffers | ({name: AtLeast(0) for name in sure} if is_unsure else sure)


def _health(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    runs = sorted(state.registered(), key=lambda run: run.started)
    ended: Any = state.ended if state.ended is not None else None
    body: dict[str, Any] = {
        "status": "ok",
        "sessions": AtLeast(0),
        "active_streams": sum(not run.end for run in runs),
        "active_runs": len(runs),
        "runs": [
            {
                "session_id": run.session,
                "stream_id": run.name,
                "source": run.source,
                "phase": state.phase(run),
                "started_at": run.started,
            }
            for run in runs
        ],
        "last_run_finished_at": ended,
        "server_started_at": Span(state.booted, state.booted),
        "uptime_seconds": True,
        "accept_loop": {
            "requests_total": 0,
            "last_request_at": state.clock,
            "streams_dropped": 0,
            "streams_max": AtLeast(1),
        },
        "containers": _containers(state),
        "process": {"threads": AtLeast(1), "fds": AtLeast(1), "rss_bytes": AtLeast(1 << 20)},
        "recovery": state.recovery(),
    }
    if runs:
        body["oldest_run_age_seconds"] = True
    return Expected(OK, body, state, (promises.T3, promises.H4, promises.H8))


def _system_health(state: State, _values: Mapping[str, Any], _name: str) -> Expected:
    running = _containers(state)
    body: dict[str, Any] = {
        "status": "ok",
        "cpu": {"load_average": [AtLeast(0)] * 3, "process_seconds": AtLeast(0)},
        "memory": {"rss_bytes": AtLeast(1 << 20)},
        "disk": {"total_bytes": AtLeast(1), "free_bytes": AtLeast(0)},
        "process": {"threads": AtLeast(1), "fds": AtLeast(1), "rss_bytes": AtLeast(1 << 20)},
        "webui_runtime": {
            "sessions": {"resident": AtLeast(0), "cap": 100},
            "streams": {
                "active": running["streams"],
                "agent_instances": AtLeast(0),
                "subscribers": AtLeast(0),
                "offline_buffered_events": AtLeast(0),
                "subscribers_dropped": 0,
                "events_skipped": 0,
            },
            "models_cache": {"resident": OneOf((0, 1))},
        },
        "containers": running,
    }
    return Expected(OK, body, state, (promises.H4, promises.H8))


_ROUTES = {
    ("GET", "/"): _page,
    ("GET", "/health"): _health,
    ("GET", "/api/system/health"): _system_health,
    ("GET", "/api/session"): _session,
    ("GET", "/api/session/status"): _status,
    ("GET", "/api/sessions"): _sessions,
    ("GET", "/api/sessions/search"): _search,
    ("POST", "/api/session/new"): _new,
    ("POST", "/api/session/rename"): _rename,
    ("POST", "/api/session/clear"): _clear,
    ("POST", "/api/session/truncate"): _truncate,
    ("POST", "/api/session/undo"): _undo,
    ("POST", "/api/session/retry"): _retry,
    ("POST", "/api/session/compress"): _compress,
    ("POST", "/api/session/delete"): _delete,
    ("POST", "/api/chat/start"): _start,
    ("POST", "/api/btw"): _aside,
    ("GET", "/api/chat/cancel"): _cancel,
    ("GET", "/api/chat/stream/status"): _stream_status,
    ("POST", "/api/bg-task-complete-ack"): _acknowledge,
    ("POST", "/api/process-complete-ack"): _former,
    ("GET", "/api/session/recovery/audit"): _audit,
    ("GET", "/api/models"): _models,
    ("GET", "/api/sessions/gateway/stream"): _gateway,
}


# Several starts at once


def _together(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    """Of several starts at the same moment one is accepted; the others name its run."""
    argument = operation.argument
    results = operation.result
    first = results[0]
    body = {**argument["body"], "message": f"{first['name']} {argument['body']['message']}"}
    start = {"method": "POST", "path": "/api/chat/start", "body": body, "name": first["name"]}
    expected = predicted(state, start)
    rows = [{"name": first["name"], "status": expected.status, "body": expected.body}]
    is_begun = expected.status == OK
    refused = {"error": TEXT, "active_stream_id": first["name"]}
    names = sorted({*argument["names"]} - {first["name"]})
    rows += [
        {
            "name": name,
            "status": CONFLICT if is_begun else expected.status,
            "body": refused if is_begun else expected.body,
        }
        for name in names
    ]
    observed = [first, *sorted(results[1:], key=lambda row: str(row["name"]))]
    found = difference(rows, observed)
    if found is None:
        return (expected.state,)
    return _refusal(operation, found, (promises.T1, promises.T3))


# Streams


def _read(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    argument = operation.argument
    path, query = argument["path"], argument.get("query") or {}
    if path == "/api/chat/stream":
        return _relayed(state, operation, state.run(query["stream_id"]))
    name = query.get("session_id") or path.split("/")[3]
    session = state.find(name)
    if session is None:
        return _judged(state, operation, {"status": ABSENT, "body": {"error": TEXT}})
    run = state.run(session.run)
    if path == "/api/session/stream":
        return _greeted(state, operation, session)
    if run is not None:
        return _relayed(state, operation, run)
    rows = [["", "initial", {"session_id": session.name}], _gap(session.name)]
    return _judged(state, operation, _stream(rows, operation, is_over=False))


def _gap(session: str) -> list[Any]:
    stream, id_ = Text(NOTICES), Text(f"{NOTICES}:[0-9]+")
    data = {"session_id": session, "reason": TEXT, "stream_id": stream, "last_event_id": id_}
    return [id_, "session_snapshot", data]


def _stream(rows: list[Any], operation: Operation, *, is_over: bool) -> dict[str, Any]:
    limit = operation.argument.get("events", 1000)
    until = operation.argument.get("until", "")
    stop = next((at for at, row in enumerate(rows, 1) if row[1] == until), len(rows) + 1)
    shown = rows[: min(limit, stop)]
    is_closed = is_over and len(rows) < min(limit, stop)
    return {"status": OK, "type": STREAM_TYPE, "events": shown, "closed": is_closed}


def _greeted(state: State, operation: Operation, session: Session) -> tuple[State] | Refusal:
    """A client that begins to watch a session gets the present run, and the count that it lacks."""
    query = operation.argument["query"]
    rows: list[list[Any]] = [["", "initial", {"session_id": session.name}]]
    if operation.argument.get("cursor"):
        rows.append(_gap(session.name))
    run = state.attachable(session)
    if run is not None:
        data = {
            "session_id": session.name,
            "stream_id": run.name,
            "pending_started_at": run.started,
            "source": run.source,
            "recovered": True,
        }
        rows.append(["", "server_turn_started", data])
    known, count = query.get("known_count"), len(session.messages)
    if known is not None and known != count:
        data = {"session_id": session.name, "message_count": count, "known_count": known}
        rows.append(["", "session-updated", {**data, "source": "subscribe"}])
    wanted = _stream(rows, operation, is_over=False)
    return _judged(state, operation, wanted, (promises.C7, promises.C5, promises.S15))


def _relayed(state: State, operation: Operation, run: Run | None) -> tuple[State] | Refusal:
    """A run's events, from its start or behind a cursor."""
    if run is None:
        absent = {"status": ABSENT, "body": {"error": TEXT}}
        return _judged(state, operation, absent, (promises.S6, promises.H2, promises.C4))
    session = state.find(run.session)
    assert session is not None, run.session
    if session.run == run.name and not run.end and not run.is_held:
        # It ends while it is read.
        state = state.with_end(run, "error" if run.script.fails else "done", run.started)
        run = state.run(run.name)
        assert run is not None
    query = operation.argument.get("query") or {}
    cursor = operation.argument.get("cursor") or query.get("after_event_id") or ""
    if not cursor and "after_seq" in query:
        cursor = f"{run.name}:{query['after_seq']}"
    rows = run.events
    if cursor:
        stream, _, seq = cursor.rpartition(":")
        if stream == run.name:
            rows = rows[int(seq) :]
        else:
            data = {"session_id": run.session, "reason": TEXT}
            rows = [["", "session_snapshot", data], *rows]
    wanted = _stream(rows, operation, is_over=bool(run.end))
    start = operation.argument.get("start")
    if start is None:
        return _judged(state, operation, wanted, _of_stream(operation, run))
    call = {
        "method": "POST",
        "path": "/api/chat/start",
        "body": start,
        "name": operation.argument["name"],
    }
    begun = predicted(state, call)
    answer = {
        "status": begun.status,
        "headers": JSON_HEADERS,
        "whole": True,
        "body": begun.body,
    }
    tested = _of_stream(operation, run)
    if operation.result.get("started", {}).get("status") != begun.status:
        tested = (promises.T8, promises.T3)
    return _judged(begun.state, operation, {**wanted, "started": answer}, tested)


def _of_stream(operation: Operation, run: Run) -> tuple[Promise, ...]:  # noqa: PLR0911
    """The promises that the wrong events of a run break, by how they differ."""
    result = operation.result
    also = (promises.C3, promises.T5, promises.S14)
    if result["status"] != OK:
        return (promises.C3, promises.T3, promises.C4)
    ids = [row[0] for row in result["events"]]
    numbers = [int(id_.rpartition(":")[2]) for id_ in ids if id_.rpartition(":")[2].isdigit()]
    if len({*numbers}) < len(numbers):
        return (promises.C2, *also)
    if numbers != sorted(numbers):
        return (promises.C1, *also)
    if operation.argument.get("cursor") or operation.argument.get("query", {}).keys() - {
        "stream_id"
    }:
        return (promises.C4, *also)
    if run.end and not result["closed"] and "events" not in operation.argument:
        return (promises.C6, promises.T3, *also)
    ends = {row[1] for row in result["events"]} & {"done", "stream_end", "cancel", "apperror"}
    if run.end and not ends:
        return (promises.T3, promises.C3)
    if _tools_differ(run, result["events"]):
        return (promises.T9, *also)
    return (promises.T3, *also, promises.T4)


def _tools_differ(run: Run, events: list[Any]) -> bool:
    """Whether the run works with something else than its start asked for."""

    def shown(rows: list[Any]) -> list[Any]:
        outputs = (data for _, name, data in rows if name == "tool_complete")
        return [data["output"] for data in outputs if data["name"] == "what_was_asked"]

    wanted, found = shown(run.events), shown(events)
    return len(wanted) == len(found) and wanted != found


def _judged(
    state: State,
    operation: Operation,
    wanted: Mapping[str, Any],
    tested: tuple[Promise, ...] = (promises.C3, promises.C4, promises.H2),
) -> tuple[State] | Refusal:
    found = difference(wanted, operation.result)
    return (state,) if found is None else _refusal(operation, found, tested)


def _watched(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    """What a client that watches gets of a call of another client."""
    argument = operation.argument
    call = argument["call"]
    expected = predicted(state, call)
    answer = {
        "status": expected.status,
        "headers": JSON_HEADERS,
        "whole": True,
        "body": expected.body,
    }
    name = argument["query"].get("session_id")
    session = expected.state.find(name)
    rows: list[list[Any]] = []
    if argument["path"] == "/api/sessions/events":
        data = {
            "type": "sessions_changed",
            # The end of the last run may be announced after its session was seen to be idle.
            "version": Span(expected.state.version - 1, expected.state.version),
            "reason": argument["until"],
            "session_id": _subject(call) or call.get("name"),
        }
        rows.append([Text("sessions:[0-9]+"), "sessions_changed", data])
    elif session is not None:
        run = expected.state.run(session.run)
        rows.append(["", "initial", {"session_id": session.name}])
        if run is not None and call["path"] == "/api/chat/start":
            data = {
                "session_id": session.name,
                "stream_id": run.name,
                "pending_started_at": run.started,
                "source": "user",
            }
            rows.append([Text(f"{NOTICES}:[0-9]+"), "turn_started", data])
    wanted = {"status": OK, "events": rows, "answer": answer}
    observed = operation.result
    late = [row for row in observed["events"] if row[2].get("reason") != "turn_ended"]
    found = difference(wanted, {**observed, "events": late})  # a run's end may be announced late
    if found is None:
        return (_narrowed(expected.state, operation.result["answer"]["body"]),)
    tested: tuple[Promise, ...] = (promises.C5, promises.C3, promises.W7, promises.S15)
    if STARTED in [row[1] for row in late]:  # a turn that the client started is none of the server
        tested = (promises.C7, *tested)
    return _refusal(operation, found, tested)


# Rest


def _concluded(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    session = state.find(operation.argument["session"])
    is_stuck = session is not None and session.run is not None and not session.is_leaving
    run = state.run(session.run) if session is not None else None
    ends = run is not None and not run.end and not run.is_held
    wanted = not is_stuck or ends
    if operation.result is not wanted:
        return Refusal(
            promises.T3,
            f"{operation.call}: the session does not become idle, or does with a run",
            (wanted,),
            also=(promises.S13,),
            expected=f"{wanted}",
        )
    return (state.idle(session) if session is not None and wanted else state,)


def _logged(state: State, operation: Operation) -> tuple[State] | Refusal:
    """The log of the start says what recovery did."""
    found = difference(state.recovery(), operation.result)
    return (state,) if found is None else _refusal(operation, found, (promises.S16,))


def _stored(state: State, operation: Operation) -> tuple[State, ...] | Refusal:
    """Every copy on disk of a session that is at rest; nothing of one that was deleted."""
    name = operation.argument["session"]
    session = state.find(name)
    found = difference(_copies(state, name, session, operation.result), operation.result)
    if found is None:
        return (state,)
    tested = (promises.S14,) if session is not None else (promises.S6, promises.S14)
    return _refusal(operation, found, tested)


def _copies(state: State, name: str, session: Session | None, observed: Any) -> dict[str, Any]:
    empty = {"title": UNTITLED, "count": 0, "texts": []}
    if session is None:
        copies: dict[str, Any] = {"database": empty, "search": empty}
        gone = {"count": 0, "calls": []}
        return {"files": [], "index": None, "copies": copies, "runs": {}, "tool_calls": gone}
    texts = [[message.role, message.content] for message in session.messages]
    copy = {"title": session.title, "count": len(texts), "texts": texts}
    calls = [message.tool_calls for message in session.messages]
    # A title that another session has is not in the database, where titles are unique.
    others = {other.title for other in state.sessions if other.name != name}
    title: Any = OneOf((session.title, UNTITLED)) if session.title in others else session.title
    runs = [run for run in state.runs if run.session == name]
    optional = [file for file in observed["files"] if file.endswith(".json.bak")]
    journals = [f"_run_journal/{name}/{run.name}.jsonl" for run in runs]
    is_synced = bool(runs) or session.version > 1
    database = {**copy, "title": title} if is_synced else empty
    return {
        "files": sorted([f"{name}.json", *journals, *(optional if session.shrinks else ())]),
        "index": [session.title, len(texts)],
        "copies": {"database": database, "search": database, "sidecar": copy},
        "runs": {run.name: "".join(run.tokens) for run in runs},
        "tool_calls": {"count": sum(map(len, calls)), "calls": [*filter(None, calls)]},
    }


_STEPS: Mapping[str, Callable[[State, Operation], tuple[State, ...] | Refusal]] = {
    "call": _called,
    "together": _together,
    "read": _read,
    "watch": _watched,
    "conclude": _concluded,
    "stored": _stored,
    "logged": _logged,
}
