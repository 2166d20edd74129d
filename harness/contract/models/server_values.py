"""What a server shows of itself, as values: messages, runs, sessions and the whole state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.contract.agent_script import ReplyEnd, Script
from harness.contract.models.answers import TEXT, AtLeast, OneOf, Span
from harness.contract.models.titles import UNTITLED, own_title

SESSION_FIELDS = ("model", "profile", "workspace")
KEPT = ("model", "model_provider", "workspace", "profile", "enabled_toolsets")  # of a request
FAILURE = "ScriptedError: the message asked for a failure"  # what the scripted agent raises
COUNTED = (
    *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "cost_usd"),
)
FOREIGN = "foreign"  # the title of another program's session
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
    thoughts: str = ""
    tokens: int = 0  # that its turn produced

    @property
    def finish_reason(self) -> str | None:
        """Why a reply ends."""
        if self.role != "assistant":
            return None
        return self.mark[0][0] if self.mark else "stop"

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
            **({"reasoning": self.thoughts} if self.thoughts else {}),
            **({"token_count": self.tokens} if self.tokens else {}),
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
    history: int = 0  # messages of its session before it

    @property
    def thoughts(self) -> list[str]:
        """The pieces of reasoning that its script shows, in order."""
        counts = [int(known.value) for known in self.script.directives if known.verb == "think"]
        return [f"thought {number} " for count in counts for number in range(count)]

    @property
    def usage(self) -> dict[str, Any]:
        """What it costs, up to its end."""
        return {
            "input_tokens": self.history + 1,
            "output_tokens": len(self.tokens) + len(self.thoughts),
            "cache_read_tokens": self.history,
            "cache_write_tokens": 1,
            "reasoning_tokens": len(self.thoughts),
            "cost_usd": 0.25,
        }

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
        """What began the turn: a user, or a question that leaves nothing behind."""
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
            elif directive.verb == "think":
                thoughts = [f"thought {number} " for number in range(int(directive.value))]
                body += [("reasoning", {"text": text}) for text in thoughts]
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
    usage: tuple[tuple[str, Any], ...] = ()  # of its runs that ended by themselves or a cancel
    is_prompted: bool = False  # its row has the system prompt of its agent
    ended: tuple[tuple[str, Any], ...] = ()  # when and why a client ended it
    is_old: bool = False  # it began days before the first call, as its row says

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
    pruned: frozenset[str] = frozenset()  # of those that were deleted
    foreign: frozenset[str] = frozenset()  # ended sessions of another program, in state.db only
    clock: int = -1  # the number of the present call
    booted: int = 0
    ended: Span | None = None  # when the last run of this boot ended
    version: int = 0  # changes of the list that this boot has announced
    recovered: tuple[int, int] = (0, 0)  # sessions that this boot scanned, and settled

    def find(self, name: Any) -> Session | None:
        """The session of that name, if it exists."""
        return next((session for session in self.sessions if session.name == name), None)

    def named(self, session: Session) -> Session:
        """The session as this state has it, with its title."""
        return self.find(session.name) or session

    def run(self, name: Any) -> Run | None:
        """The run of that name, if its session exists."""
        return next((run for run in self.runs if run.name == name), None)

    def put(self, session: Session) -> State:
        """This state with the session as it is now; a title of its own follows its messages."""
        known = self.find(session.name)
        is_kept = known is not None and session.title == known.title == self.own_title(known)
        if is_kept or session.title == UNTITLED:
            session = replace(session, title=self.own_title(session))
        others = tuple(other for other in self.sessions if other.name != session.name)
        return replace(self, sessions=(*others, session))

    def own_title(self, session: Session) -> str:
        """The title of the session if no client named it, by its first request."""
        pending = self.run(session.run) if session.is_pending else None
        asked = [message.content for message in session.messages if message.role == "user"]
        return own_title((*asked, None if pending is None else pending.text)[0])

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
        ended = replace(run, end=end)
        text = "".join(ended.tokens)
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
            reply = Message("assistant", text, replied, run.turn, mark, calls=calls)
            if end != "interrupted":
                thoughts, tokens = "".join(run.thoughts), ended.usage["output_tokens"]
                reply = replace(reply, thoughts=thoughts, tokens=tokens)
            messages.append(reply)
        after = replace(
            session,
            version=session.version + 1,
            updated=session.updated if end == "interrupted" else span,
            messages=(*session.messages, *messages),
            is_pending=False,
            is_leaving=end != "interrupted" and not run.script.hangs,
            run=None if end == "interrupted" else session.run,
        )
        if end != "interrupted":
            after = replace(after, usage=_added(session.usage, ended), is_prompted=True)
        return self.put(after).put_run(replace(ended, count=len(after.messages)))

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

    def with_left(self, left: Mapping[str, str]) -> State:
        """This state with what a kill left: sessions that are old, or of another program."""
        foreign = {name for name, what in left.items() if what == "foreign"}
        after = replace(self, foreign=self.foreign | foreign)
        for name, what in left.items():
            session = self.find(name)
            if session is not None and what == "age":
                after = after.put(replace(session, is_old=True))
        return after

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
            **({"usage": dict(session.usage)} if session.usage else {}),
            **dict(session.ended),
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

    def record(self, session: Session) -> dict[str, Any] | None:
        """The row of state.db of a session that is at rest; one that never changed has none."""
        runs = [run for run in self.runs if run.session == session.name]
        if session.version == 1 and not any(run.end == "interrupted" for run in runs):
            return None
        counts = dict(session.usage) or dict.fromkeys(COUNTED, 0)
        ended = dict(session.ended)
        # A title that another session has is not in the database, where titles are unique.
        others = {other.title for other in self.sessions if other.name != session.name}
        title: Any = None if session.title == UNTITLED else session.title
        if title in others:
            title = OneOf((title, None))
        return {
            "id": session.name,
            "source": "webui",
            "title": title,
            "system_prompt": (
                f"You follow the directives of {session.name}." if session.is_prompted else None
            ),
            "started_at": -1 if session.is_old else Span(session.made, self.clock),
            "ended_at": ended.get("ended_at"),
            "end_reason": ended.get("end_reason"),
            "message_count": len(session.messages),
            "tool_call_count": sum(len(message.calls) for message in session.messages),
            **dict.fromkeys(("user_id", "parent_session_id", "model_config")),
            "usage": {"model": None, "billing_mode": None, **counts},
        }

    def recovery(self) -> dict[str, int]:
        """What the start of this boot did."""
        scanned, settled = self.recovered
        return {"scanned": scanned, "restored": 0, "settled": settled}

    def registered(self) -> list[Run]:
        """The runs that surely count as active."""
        found = (self.run(session.run) for session in self.sessions if not session.is_leaving)
        return [run for run in found if run is not None]


def _added(before: tuple[tuple[str, Any], ...], run: Run) -> tuple[tuple[str, Any], ...]:
    """The usage of a session after one more run; the first model stays."""
    known = dict(before)
    model = known.get("model", dict(run.asked)["effective_model"])
    counts = {name: known.get(name, 0) + value for name, value in run.usage.items()}
    return (*counts.items(), ("model", model))
