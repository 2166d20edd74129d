"""Turns of a hermes-webui server while something else happens to it, or beside it.

A session is changed while its turn goes on, or while the worker of its turn has not begun; a
background process wakes a session; a model is slow to title a session while other turns go on; a
reader comes with a cursor that is no good. A gate is a file for which an agent, or a model, waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.core.errors import TargetLostError
from harness.engine.http import Event, NotReachedError, StatusError, Web
from harness.processes.waiting import came_true
from harness.targets.hermes_webui import terminals
from harness.targets.hermes_webui.scripted_goals import REACHED
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.turns import WebuiTurnsAdapter
from harness.targets.server.answers import problem_of
from harness.targets.server.probe import ask_probe
from harness.targets.server.turn_facts import (
    BEHIND,
    ENDS,
    content_of,
    foreign,
    shown_by,
    shown_in,
    unlike,
    wrong_end,
)
from harness.targets.server.turns import LACKING_S, OK, PATIENCE_S, Turn, reading

CHANGED = {
    "changed": "say gate say",
    "changed, and failing": "say gate raise",
    "changed, and cancelled": "say hold",
}
CHANGED_EARLY = {"changed early": "say say", "changed early, and cancelled": "hold"}
ASIDE = {
    "aside": "say think call say",
    "aside, and failing": "say raise",
    "aside, and cancelled": "say hold",
}
PURSUED = {"with a goal": "say call say", "with a goal that is reached": "say say"}
WOKEN = {
    "woken": "say gate think call say",
    "woken, and failing": "say gate raise",
    "woken, and cancelled": "say hold",
}
PATHS = {  # of ways that have a route
    "aside": "/api/btw",
    "with goals": "/api/goal",
    "with terminals": terminals.PATH,
}
BY_A_USER = (None, "", "webui")  # origins that a row need not name
REFUSED = range(400, 500)
PROFILE = "another"
SNAPSHOT = "session_snapshot"
COMMENTS = 2  # behind which nothing more comes at once
RUN = "{run}"  # in a cursor, the run that the session has had
CURSORS = {
    "of another run": "{other}:1",
    "of no run": "nothing:1",
    "below zero": f"{RUN}:-1",
    "far": f"{RUN}:999999999",
    "no number": f"{RUN}:x",
    "no event": RUN,
    "empty of a run": ":1",
    "a path": "../../etc/passwd:1",
    "a path, and a run": f"../{RUN}:1",
    "a script": "<script>:1",
    "a zero byte": "\0:1",
    "long": f"{'9' * 400}:{'9' * 400}",
}


class WebuiTurnsBesideAdapter(WebuiTurnsAdapter):
    """The turns of a server, and what happens beside them."""

    def __init__(self, folder: Path, launch: WebuiLaunch) -> None:
        """Boot nothing yet."""
        super().__init__(folder, launch)
        self._changes: dict[str, dict[str, Any]] = {}  # of a session, by the name of its field
        self._origins: dict[str, Any] = {}  # of a run, while it goes on
        self._has_woken = (
            "_run_agent_streaming" in self._source
            and (Path(launch.checkout) / "api" / "background_process.py").is_file()
        )

    def ways(self) -> list[str]:
        """The ways that turns can go on this server, in their order."""
        ways = super().ways()
        beside = ["changed", "beside a title", "with cursors"]
        if self._has_woken:
            beside.append("woken")
        beside += [way for way, path in PATHS.items() if f'"{path}"' in self._source]
        at = ways.index("struck")
        return [*ways[:at], *beside, *ways[at:]]

    def _go_way(self, name: str) -> None:
        match name:
            case "changed":
                self._go_changed(name)
            case "woken":
                self._go_woken(name)
            case "beside a title":
                self._go_beside_a_title(name)
            case "aside":
                self._go_aside(name)
            case "with goals":
                self._go_with_goals(name)
            case "with terminals":
                self._go_with_terminals(name)
            case "with cursors":
                self._go_with_cursors(name)
            case _:
                super()._go_way(name)

    def _go_by_gateway(self, name: str) -> None:
        super()._go_by_gateway(name)
        if f'"{PATHS["with goals"]}"' in self._source and "cancelled" not in name:
            self._go_with_goals(name)

    def _more_looks(self, turn: Turn) -> Mapping[str, Callable[[], str]]:
        return {
            **super()._more_looks(turn),
            "set": partial(self._unset, turn),
            "sourced": partial(self._without_origin, turn),
        }

    def _await_first(self, turn: Turn) -> None:
        """Wait until the first step is shown."""
        first = shown_by(turn.steps[:1])
        came_true(lambda: shown_in([*turn.events]) == first, self._patience_s)

    # A session that is changed beside its turn

    def _go_changed(self, way: str) -> None:
        kinds = {**CHANGED, **CHANGED_EARLY}
        turns = [self._turn(kind, steps.split()) for kind, steps in kinds.items()]
        for turn in turns:
            turn.next_status = OK  # none follows
        project = self._web.ask("POST", "/api/projects/create", {"name": f"P {self._word()}"})[1]
        made = project.get("project") if isinstance(project, dict) else None
        self._project = str((made or {}).get("project_id", ""))
        self._run_all(way, turns, self._change)

    def _change(self, turn: Turn) -> None:
        """Change the session in every way while its turn is at its first step, or before it."""
        is_early = "early" in turn.name
        if is_early:
            ask_probe(self._server.state, "hold_workers", key=turn.session)
        try:
            self._start(turn)
            with reading(partial(self._follow, turn, f"/api/chat/stream?stream_id={turn.run}")):
                try:
                    if not is_early:
                        self._await_first(turn)
                    self._set_all(turn)
                    if "cancelled" in turn.name:
                        self._stop(turn)
                finally:
                    self._open_all(turn)
                    ask_probe(self._server.state, "let_workers", key=turn.session)
        finally:
            ask_probe(self._server.state, "let_workers", key=turn.session)

    def _set_all(self, turn: Turn) -> None:
        """Set each field that a client can set beside a turn; what is taken must stay."""
        word = self._word()
        changes: dict[str, tuple[str, Any, dict[str, Any]]] = {
            "title": ("/api/session/rename", f"Title {word}", {"title": f"Title {word}"}),
            "model": ("/api/session/update", f"model-{word}", {"model": f"model-{word}"}),
            "archived": ("/api/session/archive", True, {"archived": True}),
            "project_id": ("/api/session/move", self._project, {"project_id": self._project}),
            "composer_draft": ("/api/session/draft", f"draft {word}", {"text": f"draft {word}"}),
            "enabled_toolsets": ("/api/session/toolsets", [word], {"toolsets": [word]}),
        }
        if turn.name == "changed":  # a server may pin a few only
            changes["pinned"] = ("/api/session/pin", True, {"pinned": True})
        taken = self._changes.setdefault(turn.session, {})
        for name, (path, value, body) in changes.items():
            if f'"{path}"' not in self._source:
                continue
            status, found = self._web.ask("POST", path, {"session_id": turn.session, **body})
            if status != OK:
                continue
            answered = found.get("session") or {}
            taken[name] = answered.get(name, value)
        if "title" in taken:
            turn.title = taken["title"]

    def _unset(self, turn: Turn) -> str:
        """Which field is no longer as it was set beside the turn."""
        views = {"its session": self._session(turn), "the list": self._row(turn) or {}}
        for name, value in self._changes.get(turn.session, {}).items():
            for view, fields in views.items():
                now = _text_of_draft(fields.get(name, value))
                if now != _text_of_draft(value):
                    return f"another {name} in {view}: {now}, not {value}"
        return ""

    # A session that is woken

    def _go_woken(self, way: str) -> None:
        """Turns whose process wakes their session with a turn of its own."""
        turns = []
        for kind, steps in WOKEN.items():
            wakeup = self._turn(kind, steps.split())
            script = wakeup.text.partition("]")[2]
            said = script.replace("[", "{").replace("]", "}")
            wakeup.text = script
            first = Turn(
                kind,
                wakeup.session,
                f"turn {self._word()} [plain][say={self._word()} ][spawn={said}]",
                [],
            )
            first.next_status = wakeup.next_status = OK  # the wakeup comes next
            turns.append((first, wakeup))
        by_session = {wakeup.session: first for first, wakeup in turns}
        self._run_all(
            way,
            [wakeup for _, wakeup in turns],
            lambda wakeup: self._wake(by_session[wakeup.session], wakeup),
        )

    def _wake(self, first: Turn, wakeup: Turn) -> None:
        super()._end(first)

        def has_begun() -> bool:
            wakeup.run = str(self._session(wakeup).get("active_stream_id") or "")
            return wakeup.run not in ("", first.run)

        wakeup.problems["woken"] = ""
        if not came_true(has_begun, self._patience_s):
            wakeup.run = ""
            wakeup.problems["woken"] = "no wakeup: its process ended"
            self._patience_s = LACKING_S
            return
        self._origins[wakeup.run] = self._session(wakeup).get("pending_user_source")
        with reading(partial(self._follow_begun, wakeup)):
            try:
                self._await_first(wakeup)
                if "cancelled" in wakeup.name:
                    self._stop(wakeup)
            finally:
                self._open_all(wakeup)

    def _follow_begun(self, turn: Turn) -> None:
        """Follow a turn that others began: its stream may come behind its name."""

        def was_read() -> bool:
            self._follow(turn, f"/api/chat/stream?stream_id={turn.run}")
            return bool(turn.events) or self._session(turn).get("active_stream_id") != turn.run

        came_true(was_read, self._patience_s)

    def _without_origin(self, turn: Turn) -> str:
        """Whether the kept message names another origin than the turn had while it went on."""
        origin = self._origins.get(turn.run)
        if origin in BY_A_USER:
            return ""
        rows = self._session(turn)["messages"]
        row = next((m for m in rows if m["role"] == "user" and turn.text in content_of(m)), None)
        if row is None or row.get("_source") == origin:
            return ""
        return f"its message lacks its origin, {origin}: {row.get('_source')}"

    # A slow model

    def _go_beside_a_title(self, way: str) -> None:
        """Turns that go on while a model is at work on the title of another session."""
        for profile in ("", PROFILE):
            gate, name = self._word(), f" of {profile}" if profile else ""
            slow = self._turn(f"with a slow title{name}", ["say"])
            if profile and not self._moved_to(slow, profile):
                return
            slow.text = f"title-behind-{gate} {slow.text}"
            beside = self._turn(f"beside a slow title{name}", ["say", "call", "say"])
            beside.next_status = OK
            with (
                reading(partial(self._run_all, way, [slow], self._end)),
                ThreadPoolExecutor(1) as pool,
            ):
                try:
                    if came_true((self._spool / f"{gate}.met").exists, LACKING_S):
                        self._await_end(slow)
                        pool.submit(self._join_late, slow)
                    self._run_all(way, [beside], self._begin_beside)
                finally:
                    self._open(gate)

    def _await_end(self, turn: Turn) -> None:
        """Wait until its run is over, whose stream may have more to say."""
        status = f"/api/chat/stream/status?stream_id={turn.run}"
        came_true(lambda: any(event.name in ENDS for event in [*turn.events]), LACKING_S)
        came_true(lambda: not self._web.get(status).get("active"), LACKING_S)

    def _join_late(self, turn: Turn) -> None:
        """Read the stream of a run that is over while a model looks for its title."""
        if turn.events and turn.events[0].id:
            path = f"/api/chat/stream?stream_id={turn.run}&after_event_id={turn.events[0].id}"
            turn.others["beside its title"] = self._read(path)[0]

    def _moved_to(self, turn: Turn, profile: str) -> bool:
        """Let the turn be in a session of another profile, if this client may use that."""
        (self._server.state.parent / "profiles" / profile).mkdir(parents=True, exist_ok=True)
        try:
            made = self._web.post("/api/session/new", profile=profile)["session"]
            turn.session = made["session_id"]
            return made.get("profile") == profile and bool(self._session(turn))
        except StatusError:
            return False

    def _begin_beside(self, turn: Turn) -> None:
        """Read a turn to its end; what is not answered in time is late."""
        turn.problems["begun"] = ""
        try:
            self._end(turn)
        except (TargetLostError, NotReachedError, TimeoutError):
            turn.problems["begun"] = "not answered: while a model is slow"
            return
        if not any(event.name in ENDS for event in turn.events):
            turn.problems["begun"] = "its turn does not go on: a model is slow"

    # Asides

    def _go_aside(self, way: str) -> None:
        """Questions beside a conversation, which keeps nothing of them."""
        asides = [self._turn(kind, steps.split()) for kind, steps in ASIDE.items()]
        self._last = (*BEHIND, "done")  # no title comes behind it
        with ThreadPoolExecutor(len(asides)) as pool:
            for aside, problem in zip(asides, pool.map(self._tried_aside, asides), strict=True):
                names = {
                    "ends": wrong_end(aside.events, aside.ends, is_closed=aside.is_closed),
                    "shown": self._hidden(aside),
                    "own": foreign(aside.events, aside.session, aside.run),
                    "forgotten": problem,
                }
                for view, found in names.items():
                    self._facts[f"{aside.name}, {way}: {view}"] = found
        self._last = BEHIND

    def _tried_aside(self, aside: Turn) -> str:
        try:
            return self._ask_aside(aside)
        except (StatusError, TargetLostError, NotReachedError, TimeoutError) as error:
            return f"not answered: {type(error).__name__}"

    def _ask_aside(self, aside: Turn) -> str:
        """Ask a question beside a conversation; what that, or the list, has of it afterwards."""
        parent = self._turn("the conversation", ["say"])
        parent.next_status = aside.next_status = OK
        self._end(parent)
        came_true(lambda: not self._is_waiting(parent), self._patience_s)
        before = self._session(parent)["messages"]
        body = {"session_id": parent.session, "question": aside.text}
        asked = self._web.post(PATHS["aside"], **body)
        aside.session, aside.run = asked["session_id"], asked["stream_id"]
        with reading(partial(self._follow, aside, f"/api/chat/stream?stream_id={aside.run}")):
            if "cancelled" in aside.name:
                self._await_first(aside)
                self._stop(aside)
        if self._session(parent)["messages"] != before:
            return "its conversation has it: it was asked aside"
        status = f"/api/chat/stream/status?stream_id={aside.run}"
        came_true(lambda: not self._web.get(status).get("active"), self._patience_s)
        if not came_true(lambda: self._row(aside) is None, LACKING_S):
            return "the list has it: it was asked aside"
        return ""

    # Goals

    def _go_with_goals(self, way: str) -> None:
        """Turns that pursue a goal of their session."""
        turns = [self._turn(kind, steps.split()) for kind, steps in PURSUED.items()]
        for turn in turns:
            turn.next_status = OK
            if "reached" in turn.name:
                turn.text = f"{REACHED} {turn.text}"
        self._run_all(way, turns, self._pursue)

    def _pursue(self, turn: Turn) -> None:
        """Set a goal, whose turn begins at once; the end of it says whether to go on."""
        status, answer = self._web.ask(
            "POST", PATHS["with goals"], {"session_id": turn.session, "args": turn.text}
        )
        turn.run = str(answer.get("stream_id") or "")
        turn.problems["pursued"] = ""
        if not turn.run:
            turn.problems["pursued"] = f"status {status}: no turn for a goal"
            return
        with reading(partial(self._follow, turn, f"/api/chat/stream?stream_id={turn.run}")):
            pass
        names = [event.name for event in turn.events]
        if "goal" not in names:
            turn.problems["pursued"] = "no word on the goal: its turn has ended"
        elif ("goal_continue" in names) == ("reached" in turn.name):
            turn.problems["pursued"] = "another verdict: as the goal says"

    # Terminals

    def _go_with_terminals(self, way: str) -> None:
        """Shells that a user has beside a session."""
        pid = self._server.boot()["pid"]
        found = terminals.Terminals(self._web, pid, self._server.state, self._word).facts()
        for name, problem in found.items():
            thing, _, view = name.rpartition(": ")
            self._facts[f"{thing}, {way}: {view}"] = problem

    # Cursors

    def _go_with_cursors(self, way: str) -> None:
        """Readers who come with cursors that are no good."""
        own, other = (self._turn(kind, ["say"]) for kind in ("with cursors", "another"))
        for turn in (own, other):
            turn.next_status = OK
        self._run_all(way, [own, other], self._end)
        paths = {"its run": f"/api/chat/stream?stream_id={own.run}&after_event_id="}
        if "read_session_run_events" in self._source:
            paths["its session"] = f"/api/sessions/{own.session}/events?after_event_id="
        for stream, path in paths.items():
            for name, cursor in CURSORS.items():
                text = cursor.replace(RUN, own.run).replace("{other}", other.run)
                whole = path + quote(text, safe="")
                problem = self._answered_wrongly(whole) and self._answered_wrongly(whole)
                self._facts[f"{stream}, {way}, a cursor {name}: cursor"] = problem
        if "its session" in paths and own.events and own.events[-1].id:
            path = paths["its session"] + quote(own.events[-1].id, safe="")
            problem = problem_of(partial(self._lost_behind, own, path))
            self._facts[f"its session, {way}, its last event as cursor: again"] = problem

    def _lost_behind(self, before: Turn, path: str) -> str:
        """What a reader lacks of the next turn of a session, who has all of the one before it."""
        turn = self._turn("behind a cursor", ["say", "gate", "say"])
        turn.session, turn.next_status = before.session, OK
        heard: list[Event] = []
        with reading(partial(self._attend, path, heard)):
            came_true(lambda: bool(heard), LACKING_S)
            self._start(turn)
            with reading(partial(self._follow, turn, f"/api/chat/stream?stream_id={turn.run}")):
                try:
                    self._await_first(turn)
                    wanted = shown_by(turn.steps[:1])
                    came_true(lambda: shown_in([*heard]) == wanted, LACKING_S)
                finally:
                    self._open_all(turn)
        named = [event for event in heard if event.name]
        if any(event.name == SNAPSHOT for event in named):
            return "a snapshot: its cursor was good"
        return unlike(shown_in(turn.events), shown_in(named))

    def _attend(self, path: str, heard: list[Event]) -> None:
        """Read a session's events to the end of a turn, with comments."""
        web = replace(self._web, timeout_s=PATIENCE_S)
        with (
            suppress(OSError, HTTPException, StatusError, TargetLostError),
            web.stream(path, comments=True) as events,
        ):
            for event in events:
                heard.append(event)
                if event.name in ENDS:
                    return

    def _answered_wrongly(self, path: str) -> str:
        """What is wrong with the answer to a cursor; an event, an end and a refusal are right."""
        web = Web(self._web.port, LACKING_S)  # several times as long as between two comments
        comments = 0
        try:
            with web.stream(path, comments=True) as events:
                for event in events:
                    comments += not event.name
                    if event.name:
                        return ""
                    if comments == COMMENTS:
                        return "silence"
        except StatusError as error:
            return "" if error.status in REFUSED else f"status {error.status}"
        except TimeoutError:
            return "silence"
        except (TargetLostError, NotReachedError):
            return "not answered"
        return "it ends without an event"


def _text_of_draft(value: Any) -> Any:
    """The text of a draft; any other value as it is."""
    return value.get("text") if isinstance(value, dict) else value
