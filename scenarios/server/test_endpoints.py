"""Scenario of every endpoint in every state of its session and its run, with whole answers.

A session is brought into a state: absent, empty, at rest, with a held run, cancelled but hanging,
failed, just ended, interrupted by a kill. Then one endpoint is asked, and after it every endpoint
that shows the session, at once. Each session is deleted, and its identifiers are asked again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.agent_script import ASKED, FAIL, HANG, TOOL, Tokens, sleep, think
from harness.contract.checkers.server.back_to_zero import resting
from harness.contract.models.visible_state import VisibleStateModel
from harness.core.history import History, Operation
from harness.engine.client import RecordingClient
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

SHOWN = 3
TOKENS = f"{Tokens(SHOWN).directive}"
DONE, TOOLS = f"{TOKENS}{ASKED}", f"{TOKENS}{think(2)}{TOOL}"
HELD = f"{TOKENS}{sleep(900)}{sleep(0)}"  # an agent sees a cancel between two directives
FAILS, HANGS = f"{TOKENS}{FAIL}", f"{TOKENS}{HANG}"
TEXTS = ("ship it", "Grüße, שלום, 你好", "🎈 \\ \"'% ⟨x⟩", "a\tb\nc", "é ≠ é")
TAILS = ("", "\u200b and" + " on" * 20)  # the longer one is more than a title has
TITLES = (
    "plans",
    "Ünï 计划 🎈",
    "'; DROP TABLE sessions; --",
    " Plans\t\n ",
    "a long one " * 45 + "end",
)
STATES = ("empty", "rest", "held", "hanging", "cancelled", "failed", "ended", "interrupted")
ENDED_IN = ("empty", "rest", "held", "interrupted")  # of the states, for a session's end
FOREIGN = "<foreign>"  # a session of another program
POLLED = 4  # turns that end while the list is read
Body = Mapping[str, Any]
# What a turn asks for; the session keeps all but the attachments.
ASKS: tuple[Body, ...] = (
    {},
    {"model": "m2", "model_provider": "p2", "workspace": "/ü", "attachments": ["a.txt", "ä/b 计"]},
    {"profile": "q2", "enabled_toolsets": ["web", "files"], "attachments": []},
    {"model": "", "enabled_toolsets": [], "attachments": ["c"]},
    {"model_provider": "p3"},  # of the default model
    {"workspace": "/only"},
    {"model": "m3"},
)


_NUMBER = re.compile(r" (\d+) \[")  # of the message of a run


class BrokenError(Exception):
    """An answer that the model refused; what follows cannot be judged."""


class Walker:
    """One client that brings sessions into states and asks every endpoint about them."""

    def __init__(self, client: RecordingClient) -> None:
        self._client = client
        self._fold = Fold(VisibleStateModel())
        self.numbers = itertools.count(1)
        self.runs: dict[str, list[str]] = {}
        self.met: set[tuple[str, str]] = set()
        self.titles = itertools.cycle(TITLES)

    def ask(self, function: str, **argument: Any) -> Operation:
        """Call a function; raises BrokenError where the model refuses the answer."""
        operation = self._client.ask(function, argument)
        if self._fold.step(operation):
            raise BrokenError
        return operation

    def get(self, path: str, **query: Any) -> None:
        """Send a GET request."""
        self.ask("call", method="GET", path=path, query=query)

    def post(self, path: str, name: str = "", **body: Any) -> None:
        """Send a POST request."""
        self.ask("call", method="POST", path=path, body=body, name=name)

    # Preparing

    def new(self, **body: Any) -> str:
        """Make a session; returns its name."""
        session = f"<s{next(self.numbers)}>"
        self.post("/api/session/new", session, **body)
        self.runs[session] = []
        return session

    def start(self, session: str, script: str) -> str:
        """Start a turn; returns the name of its run."""
        number = next(self.numbers)
        run = f"<r{number}>"
        text = f"{TEXTS[number % len(TEXTS)]} {number} {script}{TAILS[number % len(TAILS)]}"
        asked = ASKS[number % len(ASKS)]
        self.post("/api/chat/start", run, session_id=session, message=text, **asked)
        self.runs[session].append(run)
        return run

    def aside(self, session: str, script: str) -> str:
        """Begin a turn that leaves nothing in its session; returns the name of its run."""
        number = next(self.numbers)
        run = f"<r{number}>"
        text = f"{TEXTS[number % len(TEXTS)]} {number} {script}"
        self.post("/api/btw", run, session_id=session, question=text)
        self.runs[session].append(run)
        return run

    def again(self, session: str) -> str:
        """Retry the last turn, and read it as far as it goes by itself; the name of its run."""
        run = f"<r{next(self.numbers)}>"
        self.post("/api/session/retry", run, session_id=session)
        self.runs[session].append(run)
        (state,) = self._fold.states
        begun = state.run(run)
        assert begun is not None, run
        if begun.is_held:
            self.show(run)
            return run
        self.ask("read", path="/api/chat/stream", query={"stream_id": run})
        self.ask("conclude", session=session)
        return run

    def show(self, run: str) -> None:
        """Read the tokens of a run that lasts."""
        self.ask("read", path="/api/chat/stream", query={"stream_id": run}, events=SHOWN)

    def talk(self, session: str, script: str = DONE) -> str:
        """Start a turn, read it to its end, and wait until its session is idle."""
        run = self.start(session, script)
        self.ask("read", path="/api/chat/stream", query={"stream_id": run})
        self.ask("conclude", session=session)
        return run

    def hold(self, session: str, script: str = HELD) -> str:
        """Start a turn that lasts, and read its tokens."""
        run = self.start(session, script)
        self.show(run)
        return run

    def over(self, change: str) -> str:
        """A session that is over, or has been; returns its name.

        Only an old one has a turn: a start compares all copies of a session with a recent turn.
        """
        session = self.new()
        if change == "age":
            self.talk(session)
        self.post("/api/session/end", session_id=session)
        if change == "reopen":
            self.post("/api/session/reopen", session_id=session)
        return session

    def prepared(self, state: str) -> tuple[str, str]:
        """A session in that state, and its last run; an interrupted one still needs its kill."""
        session = self.new()
        if state == "empty":
            return session, "<no run>"
        run = self.talk(session, TOOLS)
        if state in ("held", "interrupted"):
            run = self.hold(session)
        elif state == "hanging":
            run = self.hold(session, HANGS)
            self.get("/api/chat/cancel", stream_id=run)
        elif state == "cancelled":
            run = self.hold(session)
            self.get("/api/chat/cancel", stream_id=run)
            self.ask("conclude", session=session)
        elif state == "failed":
            run = self.talk(session, FAILS)
        elif state == "ended":
            run = self.start(session, DONE)
            self.ask("read", path="/api/chat/stream", query={"stream_id": run}, until="done")
        return session, run

    # Seeing

    def see(self, session: str, run: str) -> None:
        """Ask every endpoint that shows the session or the run."""
        self.get("/api/session", session_id=session)
        self.get("/api/session", session_id=session, msg_limit=1, resolve_model=1)
        self.get("/api/session/status", session_id=session)
        self.get("/api/sessions")
        self.get("/api/chat/stream/status", stream_id=run)
        self.greet(session)

    def see_all(self, session: str, run: str) -> None:
        """Ask everything that changes nothing, and with every size of a page."""
        self.see(session, run)
        self.get("/api/session/processes", session_id=session)
        for limit in (0, 3, 10**15 - 1):
            self.get("/api/session", session_id=session, msg_limit=limit)
        self.ask("call", method="HEAD", path="/api/session", query={"session_id": session})
        self.relay(run)
        self.search(session, run)
        if self.find(session).is_leaving:
            self.ask("conclude", session=session)
        self.ask("read", path=f"/api/sessions/{session}/events", events=2)
        self.greet(session, cursor="notices-000000000000:3")
        for field in ("task_id", "process_id"):
            self.post("/api/bg-task-complete-ack", session_id=session, **{field: "t1"})
        self.others()

    def search(self, session: str, run: str) -> None:
        """Search for the number in the run's message, if its copies are surely as they stay."""
        (state,) = self._fold.states
        known, found = state.run(run), state.find(session)
        present = None if found is None else state.run(found.run)
        if known is not None and (present is None or not present.end):
            number = _NUMBER.search(known.text)
            self.get("/api/sessions/search", q=number[1] if number else "nothing")
        if all(known.run is None for known in state.sessions):
            self.get("/api/sessions/search", q="Turn was")  # in each completed reply

    def others(self) -> None:
        """Ask the endpoints that are about no session."""
        for path in ("/", "/health", "/api/system/health", "/api/models"):
            self.get(path)
        self.get("/health", deep=1)
        self.get("/api/session/recovery/audit")
        self.get("/api/sessions/gateway/stream", probe="1")
        self.post("/api/process-complete-ack")

    def greet(self, session: str, cursor: str = "") -> None:
        """Begin to watch a session, with another count of messages than any."""
        events = 2 + bool(cursor) + (self.attachable(session) is not None)
        query = {"session_id": session, "known_count": 10**9}
        self.ask("read", path="/api/session/stream", query=query, cursor=cursor, events=events)

    def attachable(self, session: str) -> Any:
        """The run that a client of the session can attach to."""
        (state,) = self._fold.states
        found = state.find(session)
        return None if found is None else state.attachable(found)

    def record(self, session: str) -> None:
        """Ask for the row in state.db of a session that is at rest."""
        found = self.find(session)
        if found is None or found.run is None:
            self.get("/api/session/record", session_id=session)

    def relay(self, run: str) -> None:
        """Read the run from its start and behind every kind of cursor."""
        lasts = {} if self.is_over(run) else {"events": SHOWN}
        ask = {"path": "/api/chat/stream", "query": {"stream_id": run}}
        self.ask("read", **ask, **lasts)
        lasts = {} if self.is_over(run) else {"events": SHOWN - 1}
        self.ask("read", **ask, cursor=f"{run}:1", **lasts)
        for field, value in (("after_seq", 1), ("after_event_id", f"{run}:1")):
            query = {"stream_id": run, field: value}
            self.ask("read", path="/api/chat/stream", query=query, **lasts)

    def is_over(self, run: str) -> bool:
        """Whether the run has an end, or is not known."""
        (state,) = self._fold.states
        known = state.run(run)
        return known is None or bool(known.end)

    # Acting

    def act(self, action: str, state: str, session: str, run: str) -> None:
        """Ask one endpoint that changes something, in one state; then ask for everything."""
        self.met.add((action, state))
        self.see(session, run)
        after = ACTIONS[action](self, session, run)
        if self.find(session) is not None:
            self.see(session, after or run)
            if (state, action) in WHOLE:
                self.see_all(session, after or run)
        self.finish(session)

    def find(self, session: str) -> Any:
        """The session as the model knows it."""
        (state,) = self._fold.states
        return state.find(session)

    def finish(self, session: str) -> None:
        """End the session's run, compare all copies, delete the session, and ask again."""
        found = self.find(session)
        if found is not None and found.run is not None:
            (state,) = self._fold.states
            run = state.run(found.run)
            assert run is not None, found
            if run.script.hangs:
                return  # until the server is killed
            if run.is_held and not run.end:
                self.get("/api/chat/cancel", stream_id=run.name)
            elif not run.end:
                self.ask("read", path="/api/chat/stream", query={"stream_id": run.name})
            self.ask("conclude", session=session)
            self.see(session, run.name)
        self.record(session)
        self.ask("stored", session=session, runs=self.runs[session])
        for first in self.runs[session][:1]:
            self.search(session, first)
        texts = [message.content for message in getattr(found, "messages", ())]
        self.post("/api/session/delete", session_id=session)
        if number := _NUMBER.search(" ".join(texts)):
            self.get("/api/sessions/search", q=number[1])
        self.gone(session)

    def gone(self, session: str) -> None:
        """Ask for a deleted session and its runs."""
        self.get("/api/session", session_id=session)
        self.get("/api/sessions")
        self.ask("stored", session=session, runs=self.runs[session])
        for run in self.runs[session][-1:]:
            self.ask("read", path="/api/chat/stream", query={"stream_id": run})
            self.get("/api/chat/cancel", stream_id=run)

    def absent(self, session: str, run: str) -> None:
        """Ask every endpoint for a session and a run that do not exist."""
        for action in ACTIONS.values():
            action(self, session, run)
        for path in ("/api/session", "/api/session/status"):
            self.get(path, session_id=session)
        self.get("/api/chat/stream/status", stream_id=run)
        for cursor in ("", f"{run}:1"):
            self.ask("read", path="/api/chat/stream", query={"stream_id": run}, cursor=cursor)
            query = {"session_id": session, "known_count": 1}
            self.ask("read", path="/api/session/stream", query=query, cursor=cursor)
            self.ask("read", path=f"/api/sessions/{session}/events", cursor=cursor)
        self.post("/api/bg-task-complete-ack", session_id=session, task_id="t1")
        self.get("/api/sessions")


Action = Callable[[Walker, str, str], str | None]


def _rename(walker: Walker, session: str, _run: str) -> None:
    title = next(walker.titles)
    walker.post("/api/session/rename", session_id=session, title=title)
    words = title[:99]
    walker.get("/api/sessions/search", q=words.upper() if words.isascii() else words)
    walker.get("/api/sessions/search", q=f"{words} nowhere")
    if len(walker.met) % 2:
        walker.post("/api/session/rename", session_id=session, title="\u200b \t")  # removes it


def _clear(walker: Walker, session: str, _run: str) -> None:
    walker.post("/api/session/clear", session_id=session)


def _truncate(walker: Walker, session: str, _run: str) -> None:
    for keep in (9, 4, 3, 2, 1, 0):  # behind the end, at the end, and each count before it
        walker.post("/api/session/truncate", session_id=session, keep_count=keep)


def _undo(walker: Walker, session: str, _run: str) -> None:
    for _ in range(3):  # the last one finds nothing
        walker.post("/api/session/undo", session_id=session)


def _rework(walker: Walker, session: str, run: str) -> str | None:
    _compress(walker, session, run)
    return _retry(walker, session)


def _retry(walker: Walker, session: str) -> str | None:
    found = walker.find(session)
    is_idle = found is not None and (found.run is None or found.is_leaving)
    sent = [message for message in found.messages if message.role == "user"] if is_idle else ()
    if not sent:
        walker.post("/api/session/retry", "<refused>", session_id=session)
        return None
    return walker.again(session)


def _compress(walker: Walker, session: str, _run: str) -> None:
    found = walker.find(session)
    if found is not None and found.run is None and found.messages:
        walker.talk(session)
    for _ in range(2):  # the last one finds nothing
        walker.post("/api/session/compress", session_id=session)


def _delete(walker: Walker, session: str, _run: str) -> None:
    found = walker.find(session)
    if found is not None and found.run is not None and not walker.attachable(session):
        walker.ask("conclude", session=session)
    walker.post("/api/session/delete", session_id=session)


def _start(walker: Walker, session: str, run: str) -> str | None:
    found = walker.find(session)
    can_start = found is None or found.run is None or found.is_leaving
    if found is None:
        walker.post("/api/chat/start", "<refused>", session_id=session, message="x")
        return None
    if not can_start:
        walker.post("/api/chat/start", "<refused>", session_id=session, message=f"x {DONE}")
        return None
    run = walker.start(session, DONE)
    walker.ask("read", path="/api/chat/stream", query={"stream_id": run})
    walker.ask("conclude", session=session)
    return run


def _aside(walker: Walker, session: str, _run: str) -> str | None:
    found = walker.find(session)
    if found is None or not (found.run is None or found.is_leaving):
        walker.post("/api/btw", "<refused>", session_id=session, question=f"x {DONE}")
        return None
    for script in (DONE, FAILS):
        run = walker.aside(session, script)
        walker.ask("read", path="/api/chat/stream", query={"stream_id": run})
        walker.ask("conclude", session=session)
    walker.relay(run)  # from the journal
    return run


def _cancel(walker: Walker, _session: str, run: str) -> None:
    walker.get("/api/chat/cancel", stream_id=run)
    walker.get("/api/chat/stream/status", stream_id=run)


def _end(walker: Walker, session: str, _run: str) -> None:
    for reason in ({}, {"reason": "done"}):  # the first end stays
        walker.post("/api/session/end", session_id=session, **reason)
    walker.record(session)
    walker.post("/api/sessions/prune", older_than_days=1)
    walker.post("/api/sessions/prune", older_than_days=0, source="cli")
    found = walker.find(session)
    if found is not None and found.run is None:
        walker.post("/api/session/reopen", session_id=session)
        walker.record(session)
        walker.post("/api/session/end", session_id=session, reason="again")
        walker.talk(session, TOOLS)  # it reopens the session
        walker.record(session)
        walker.post("/api/session/end", session_id=session)
    walker.post("/api/sessions/prune", older_than_days=0)


def _leave(walker: Walker, session: str, _run: str) -> None:
    walker.new(prev_session_id=session)
    other = next(reversed(walker.runs))
    walker.finish(other)


ACTIONS: Mapping[str, Action] = {
    "rename": _rename,
    "clear": _clear,
    "truncate": _truncate,
    "undo": _undo,
    "rework": _rework,
    "delete": _delete,
    "start": _start,
    "aside": _aside,
    "cancel": _cancel,
    "end": _end,
    "leave": _leave,
}
WHOLE = {(state, "rename") for state in STATES} | {(state, "cancel") for state in STATES}


def cases() -> Iterator[tuple[str, str]]:
    """Every action in every state, except those that wait for a hanging agent; few for an end."""
    for state, action in itertools.product(STATES, ACTIONS):
        if action == "end" and state not in ENDED_IN:
            continue
        if state != "hanging" or action not in ("delete", "rework"):
            yield state, action


def walk(context: Context) -> None:
    """Walk through all cases, in a random order; kill the server once in the middle."""
    rng = context.rng("order")
    for _ in range(context.examples):
        with context.episode() as episode:
            walker = Walker(episode.client)
            try:
                walk_once(walker, rng.sample([*cases()], len([*cases()])))
            except BrokenError:
                episode.client.ask("kill", {})  # what the walk held would count as left behind


def walk_once(walker: Walker, order: list[tuple[str, str]]) -> None:
    """Perform all cases with one server; those of a kill come last, behind one kill."""
    walker.ask("boot")
    walker.others()
    walker.absent("<never>", "<no run>")
    for state, action in order:
        if state != "interrupted":
            walker.act(action, state, *walker.prepared(state))
    meet(walker)
    meet_aside(walker)
    poll(walker)
    struck = [(action, walker.prepared(state)) for state, action in order if state == "interrupted"]
    aside = walker.new()
    asked = walker.aside(aside, HELD)
    walker.show(asked)
    short = walker.new()
    for _ in range(2):
        run = walker.talk(short)
    walker.post("/api/session/compress", session_id=short)
    left = {change: walker.over(change) for change in ("end", "reopen", "other end", "age")}
    changes = {session: change for change, session in left.items()}
    walker.ask("kill", left={**changes, FOREIGN: "foreign"})
    walker.ask("logged")
    walker.others()
    for session in left.values():
        walker.record(session)
    walker.absent(FOREIGN, "<no run>")  # the next look at its row shows it as it was
    for query in ({"older_than_days": 1}, {"older_than_days": 0, "source": "webui"}):
        walker.post("/api/sessions/prune", **query)
        walker.ask("stored", session=FOREIGN, runs=[])
    for change in ("age", "end", "other end"):
        walker.finish(left[change])
    walker.post("/api/sessions/prune", older_than_days=0, source="cli")
    walker.ask("stored", session=FOREIGN, runs=[])
    walker.see_all(aside, asked)
    walker.see_all(short, run)  # what it was before is not recovered
    for action, (session, run) in struck:
        walker.see_all(session, run)
        walker.act(action, "interrupted", session, run)
    for session in [session for session in walker.runs if walker.find(session)]:
        walker.finish(session)
    for session, runs in [*walker.runs.items()][:: 3 * len(STATES)]:
        walker.absent(session, (*runs, "<no run>")[0])
    walker.others()


def meet(walker: Walker) -> None:
    """Starts that meet: at the same moment, and in the moment of a run's end."""
    kept = {"workspace": "/w", "model": "m1", "model_provider": "p", "profile": "q"}
    session = walker.new(**kept, enabled_toolsets=["web"], project_id="j")
    body = {"session_id": session, "message": HELD}
    names = [f"<r{next(walker.numbers)}>" for _ in range(4)]
    begun = walker.ask("together", body=body, names=names).result[0]["name"]
    walker.runs[session].append(begun)
    walker.show(begun)
    walker.see(session, begun)
    walker.get("/api/chat/cancel", stream_id=begun)
    last = begun
    for script, until in ((DONE, "done"), (DONE, "stream_end"), (FAILS, "apperror")):
        walker.ask("conclude", session=session)
        last = walker.start(session, script)
        number = next(walker.numbers)
        run = f"<r{number}>"
        start = {"session_id": session, "message": f"next {number} {DONE}"}
        query = {"stream_id": last}
        walker.ask(
            "read",
            path="/api/chat/stream",
            query=query,
            until=until,
            start=start,
            name=run,
            polls=2,
        )
        walker.runs[session].append(run)
        walker.ask("read", path="/api/chat/stream", query={"stream_id": run}, polls=2)
        last = run
    walker.ask("conclude", session=session)
    walker.see_all(session, last)
    watch(walker, session)
    walker.finish(session)


def meet_aside(walker: Walker) -> None:
    """Let everything meet a turn that is asked aside."""
    session = walker.new(model="m1")
    walker.talk(session)
    run = walker.aside(session, HELD)
    walker.show(run)
    walker.others()
    walker.post("/api/chat/start", "<refused>", session_id=session, message=f"x {DONE}")
    walker.post("/api/session/rename", session_id=session, title="aside")
    walker.see_all(session, run)
    _cancel(walker, session, run)
    walker.ask("conclude", session=session)
    walker.see(session, run)
    walker.finish(session)


def poll(walker: Walker) -> None:
    """Let turns end while the list is read: a list that is made meanwhile must not be kept."""
    session = walker.new(model="", enabled_toolsets=[], project_id="")  # empty is not missing
    for _ in range(POLLED):
        run = walker.start(session, DONE)
        walker.ask("read", path="/api/chat/stream", query={"stream_id": run}, polls=2)
        walker.ask("conclude", session=session)
        walker.get("/api/sessions")
    walker.finish(session)


def watch(walker: Walker, session: str) -> None:
    """Watch a session and the list while other clients change things."""
    other = walker.new()
    for path, until, body in (
        ("/api/session/rename", "renamed", {"title": "seen"}),
        ("/api/session/compress", "compressed", {}),
        ("/api/session/undo", "undone", {}),
        ("/api/session/truncate", "truncated", {"keep_count": 1}),
        ("/api/session/clear", "cleared", {}),
        ("/api/session/delete", "deleted", {}),
    ):
        target = other if until == "deleted" else session
        call = {"method": "POST", "path": path, "body": {"session_id": target, **body}}
        walker.ask(
            "watch", path="/api/sessions/events", query={}, greeting=0, call=call, until=until
        )
    run = f"<r{next(walker.numbers)}>"
    body = {"session_id": session, "message": f"watched {DONE}"}
    call = {"method": "POST", "path": "/api/chat/start", "body": body, "name": run}
    walker.ask(
        "watch",
        path="/api/session/stream",
        query={"session_id": session},
        greeting=1,
        call=call,
        until="turn_started",
    )
    walker.runs[session].append(run)


def _pairs(history: History) -> int:
    """The pairs of an endpoint and a status that were met."""
    calls = history.happened.of("call")
    return len({(op.argument["path"], op.result["status"]) for op in calls})


ENDPOINTS = Scenario(
    name="server-every-state",
    mode=Mode.HTTP,
    ability="endpoints",
    promises=(
        *(promises.S2, promises.S6, promises.S8, promises.S10, promises.S11, promises.S13),
        *(
            promises.S14,
            promises.S15,
            promises.S16,
            promises.T1,
            promises.T2,
            promises.T3,
            promises.T4,
        ),
        *(
            promises.T8,
            promises.T9,
            promises.C1,
            promises.C2,
            promises.C3,
            promises.C4,
            promises.C5,
        ),
        *(
            promises.C6,
            promises.C7,
            promises.W11,
            promises.M4,
            promises.D1,
            promises.D13,
            promises.H2,
            promises.H4,
            promises.H6,
        ),
    ),
    workload=walk,
    checker=resting(conforms(VisibleStateModel())),
    expectations=(Expectation("endpoints answered with a status", _pairs, 25),),
    examples=1,
)


def test_every_endpoint_answers_in_every_state(judge: Judge) -> None:
    """The whole answer of every endpoint, before and after every change, in every state."""
    assert judge(ENDPOINTS).is_valid
