"""What the turns of a hermes-webui server leave behind for others: readers, agents and programs.

Turns follow each other in one session: cancelled ones, whose messages the agent gets as one, and
ones that use tokens, which are counted once. Two sessions get the same title of a model. A reader
comes back who has missed a turn; two readers share one. An agent stays with its session.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.core.errors import TargetLostError
from harness.engine.http import StatusError
from harness.processes.waiting import came_true
from harness.targets.hermes_webui import lost_readers
from harness.targets.hermes_webui.scripted_agent import CREDENTIALS, GIVEN
from harness.targets.hermes_webui.scripted_titles import ALIKE
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.turns import KINDS, PLAIN
from harness.targets.hermes_webui.turns_beside import WebuiTurnsBesideAdapter
from harness.targets.server.probe import ProbeError, ask_probe
from harness.targets.server.turn_facts import ENDS, content_of, shown_by, shown_in, unlike
from harness.targets.server.turns import LACKING_S, OK, Turn, reading

TITLED_ALIKE = ("titled alike", "titled alike too")
IN_A_ROW, BY_TWO, ROTATING = "in a row", "read by two", "with keys that change"
LOST = "with lost readers"
EFFORT, HIGH = "/api/reasoning", "high"
RUNTIME = "runtime_provider"  # what a server asks for the key of a turn
COUNTED = "counted"
MORE = (80, 10)  # tokens that the turn behind a counted one uses, in and out
SESSION_STREAM = "/api/session/stream"
FIRST = "initial"  # the event that each reader gets, whatever has happened
COMMENTS = 2  # behind which nothing more comes at once
CANCELLED = 2  # turns in a row
EARLY, LATE = "cancelled early", "cancelled at its end"
LOCK = {"module": "api.config", "function": "_get_session_agent_lock"}  # of a session
EARLY_S = 0.5  # for a server that cancels without its gateway


class WebuiTurnsBehindAdapter(WebuiTurnsBesideAdapter):
    """The turns of a server, and what they leave behind."""

    kinds = KINDS | dict.fromkeys(TITLED_ALIKE, PLAIN)

    def __init__(self, folder: Path, launch: WebuiLaunch) -> None:
        """Boot nothing yet."""
        super().__init__(folder, launch)
        self._before: dict[str, list[Turn]] = {}  # cancelled turns of a session
        self._counts: dict[str, str] = {}  # tokens of a session, in and out, where they add up

    def ways(self) -> list[str]:
        """The ways that turns can go on this server, in their order."""
        ways = super().ways()
        at = ways.index("struck")
        ways[at:at] = [IN_A_ROW, BY_TWO, LOST, LATE]
        return [*ways, ROTATING] if RUNTIME in self._source else ways

    def _go_way(self, name: str) -> None:
        match name:
            case "in a row":
                self._go_in_a_row(name)
            case "read by two":
                turn = self._turn(BY_TWO, ["say", "gate", "think", "call", "say"])
                turn.next_status = OK
                self._run_all(name, [turn], self._read_by_two)
            case "cancelled at its end":
                self._go_late(name)
            case "with lost readers":
                found = lost_readers.facts(self._web, self._server.state, self._source)
                self._facts |= {f"{route}, {name}: released": it for route, it in found.items()}
            case "with keys that change":
                self._go_with_changing_keys(name)
            case _:
                super()._go_way(name)

    # Two readers, and one agent

    def _read_by_two(self, turn: Turn) -> None:
        """Let another reader come in the middle of the turn: both are shown the rest of it."""
        self._start(turn)
        path, heard, is_there = f"/api/chat/stream?stream_id={turn.run}", [], threading.Event()

        def read_too() -> None:
            with (
                suppress(StatusError, TimeoutError, TargetLostError),
                replace(self._web, timeout_s=LACKING_S).stream(path, comments=True) as events,
            ):
                is_there.set()
                for event in events:
                    heard.append(event)
                    if event.name in self._last:
                        return

        with reading(partial(self._follow, turn, path)):
            try:
                self._await_first(turn)
                with reading(read_too):
                    is_there.wait(LACKING_S)
                    self._open_all(turn)
            finally:
                self._open_all(turn)
        shown = shown_in([event for event in heard if event.name])
        rest = unlike(shown_by(turn.steps[1:]), shown)
        turn.problems["read too"] = rest and unlike(shown_by(turn.steps), shown)

    def _go_with_changing_keys(self, way: str) -> None:
        """Two turns of a session whose provider has a key of a pool for each of them."""
        self._server.kill()
        self._server.boot(**{CREDENTIALS: "1"})
        knows_effort = self._web.ask("POST", EFFORT, {"effort": HIGH})[0] == OK
        turns = [self._turn(name, ["say"]) for name in ("its first", "its second")]
        turns[1].session = turns[0].session
        for turn in turns:
            turn.next_status = OK
            self._run_all(way, [turn], self._end)
        path = self._server.state.parent / "spool" / GIVEN
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        notes = [note for note in map(json.loads, lines) if note["session_id"] == turns[0].session]
        agents = {note["agent"] for note in notes}
        problem = f"another agent: {len(notes)} turns" if len(agents) > 1 else ""
        self._facts[f"its second, {way}: one agent"] = problem
        found = {note.get("effort") for note in notes}
        if knows_effort and notes:
            problem = "" if found == {HIGH} else f"another effort: {found}, not {HIGH}"
            self._facts[f"its second, {way}: given"] = problem

    def _turn(self, kind: str, verbs: Any) -> Turn:
        turn = super()._turn(kind, verbs)
        if kind in TITLED_ALIKE:
            turn.text = f"{ALIKE} {turn.text}"
        return turn

    def _more_looks(self, turn: Turn) -> Mapping[str, Callable[[], str]]:
        looks: dict[str, Callable[[], str]] = {
            **super()._more_looks(turn),
            "filed": partial(self._untitled, turn),
        }
        if turn.name == "woken" and f'"{SESSION_STREAM}"' in self._source:
            looks["learned"] = partial(self._untold, turn)
        if turn.session in self._before:
            looks["alone"] = partial(self._together, turn)
        looks["named"] = partial(self._unnamed, turn)
        if turn.name == LATE:
            looks["kept at its end"] = partial(self._lacks, turn)
        return looks

    def _unnamed(self, turn: Turn) -> str:
        """Whether a gateway did not learn whose turn it got."""
        runs = [run for run in self._runs() if run.text == turn.text]
        if not runs or turn.session in runs[0].sent:
            return ""
        return "its session is not named: a gateway has its turn"

    # Tokens

    def _begin_next(self, turn: Turn) -> int:
        """Let the turn behind a counted one use tokens as well, if the agent is the server's."""
        used = next((value for verb, value in turn.steps if verb == "usage"), "")
        if turn.name != COUNTED or any(run.text == turn.text for run in self._runs()):
            return super()._begin_next(turn)
        tokens_in, tokens_out = map(int, used.split(":"))
        more = f"[usage={MORE[0]}:{MORE[1]}]"
        body = {"session_id": turn.session, "message": f"{self._next_message()}{more}"}
        status, _ = self._web.ask("POST", "/api/chat/start", body)
        if status == OK:
            self._counts[turn.session] = f"{tokens_in + MORE[0]}:{tokens_out + MORE[1]}"
        return status

    def _runs(self) -> list[Any]:
        return [*self._gateway.runs.values()]

    def _uncounted(self, turn: Turn) -> str:
        """Whether the session has the tokens of all its turns, each once."""
        wanted = self._counts.get(turn.session)
        if wanted is None:
            return super()._uncounted(turn)
        found = self._session(turn)
        counts = f"{found.get('input_tokens')}:{found.get('output_tokens')}"
        return "" if counts == wanted else f"other counts of two turns: {counts}, not {wanted}"

    # Titles

    def _untitled(self, turn: Turn) -> str:
        """Whether the agent's database lacks a title that a model gave."""
        if not any(event.name == "title" for event in turn.events):
            return ""
        titles: list[Any] = []

        def is_titled() -> bool:
            titles[:] = self._titles(turn.session)
            return not titles or bool(titles[0])

        if "sync_session_title" not in self._source or self._settles("filed", is_titled):
            return ""
        return "no title in the database: the session has one"

    def _titles(self, session: str) -> list[Any]:
        """The title that the database has, if it has the session."""
        return self._selected("SELECT title FROM sessions WHERE id = ?", session)

    def _selected(self, select: str, session: str) -> list[Any]:
        """What the agent's database has of a session, if it has tables yet."""
        path = self._server.state.parent / "state.db"
        if not path.exists():
            return []
        with (
            closing(sqlite3.connect(path, LACKING_S)) as connection,
            suppress(sqlite3.OperationalError),
        ):
            return [value for (value,) in connection.execute(select, (session,))]
        return []

    # Readers

    def _untold(self, turn: Turn) -> str:
        """Whether a reader who comes back, and says what it knows, learns of the turn."""
        known = next(
            (
                number
                for number, message in enumerate(self._session(turn)["messages"])
                if message["role"] == "user" and turn.text in content_of(message)
            ),
            None,
        )
        if known is None:
            return ""
        path = f"{SESSION_STREAM}?session_id={turn.session}&known_count={known}"
        comments = 0
        try:
            with replace(self._web, timeout_s=LACKING_S).stream(path, comments=True) as events:
                for event in events:
                    comments += not event.name
                    if event.name not in ("", FIRST):
                        return ""
                    if comments == COMMENTS:
                        break
        except (StatusError, TimeoutError, TargetLostError):
            return "not answered"
        return "nothing of a turn that it missed: a reader came back"

    # A gateway that is slow

    def _go_by_gateway(self, name: str) -> None:
        super()._go_by_gateway(name)
        if name.endswith("cancelled"):
            self._run_all(name, [self._turn(EARLY, ["late", "hold"])], self._cancel_early)
            self._go_late(name)

    def _go_late(self, way: str) -> None:
        turn = self._turn(LATE, ["say", "gate", "say"])
        turn.ends, turn.next_status = ENDS, OK
        self._run_all(way, [turn], self._cancel_late)

    def _cancel_late(self, turn: Turn) -> None:
        """Cancel the turn when it has shown all, and waits to be kept: another has the lock."""
        state = self._server.state
        self._start(turn)
        with reading(partial(self._follow, turn, f"/api/chat/stream?stream_id={turn.run}")):
            self._await_first(turn)
            try:
                with suppress(ProbeError):  # older releases have no lock of a session
                    ask_probe(state, "hold", argument=[turn.session], **LOCK)
                self._open_all(turn)
                whole = shown_by(turn.steps)
                came_true(lambda: shown_in([*turn.events]) == whole, LACKING_S)
                with ThreadPoolExecutor(1) as pool:
                    stopping = pool.submit(self._stop, turn)
                    came_true(stopping.done, EARLY_S)
                    ask_probe(state, "release")
                    stopping.result()
            finally:
                ask_probe(state, "release")
                self._open_all(turn)
        shown = str(shown_in(turn.events))  # what was not shown may be lost
        turn.steps = [step for step in turn.steps if step[1].strip() in shown]
        came_true(lambda: not self._is_waiting(turn) and not self._lacks(turn), LACKING_S)

    def _cancel_early(self, turn: Turn) -> None:
        """Cancel the turn while the gateway has its request, and has not answered it."""
        self._start(turn)
        with reading(partial(self._follow, turn, f"/api/chat/stream?stream_id={turn.run}")):
            came_true(lambda: any(run.text == turn.text for run in self._runs()), self._patience_s)
            with ThreadPoolExecutor(1) as pool:
                stopping = pool.submit(self._stop, turn)
                came_true(stopping.done, EARLY_S)
                self._open(turn.steps[0][1])
                stopping.result()

    # Turns in a row

    def _go_in_a_row(self, way: str) -> None:
        """Turns behind cancelled ones, of an agent that has all those messages as one."""
        turn = self._turn("behind cancelled ones", ["merged", "say"])
        before = [self._turn(f"cancelled {number + 1}", ["hold"]) for number in range(CANCELLED)]
        self._before[turn.session] = before
        for each in (*before, turn):
            each.session, each.next_status = turn.session, OK
        self._run_all(way, [turn], self._go_behind)

    def _start(self, turn: Turn) -> None:
        """Begin a turn; behind cancelled ones, when their runs are over."""
        if turn.session in self._before:
            came_true(partial(self._has_begun, turn), self._patience_s)
        if not turn.run:
            super()._start(turn)

    def _has_begun(self, turn: Turn) -> bool:
        """Whether the turn could begin now. A session that is busy is no error here."""
        with suppress(StatusError):
            super()._start(turn)
        return bool(turn.run)

    def _go_behind(self, turn: Turn) -> None:
        """Cancel a turn, and another one; then begin one that ends well."""
        for before in self._before[turn.session]:
            self._start(before)
            path = f"/api/chat/stream?stream_id={before.run}"
            with reading(partial(self._follow, before, path)):
                came_true(partial(self._is_noted, before), self._patience_s)
                self._stop(before)
        self._end(turn)

    def _is_noted(self, turn: Turn) -> bool:
        """Whether the agent is at work on the turn, and has its message in the database."""
        select = "SELECT content FROM messages WHERE session_id = ?"
        return any(turn.text in str(content) for content in self._selected(select, turn.session))

    def _together(self, turn: Turn) -> str:
        """Whether the message of the turn has become one with those of cancelled turns."""
        for message in self._session(turn)["messages"]:
            text = content_of(message) if message["role"] == "user" else ""
            others = [before.text for before in self._before[turn.session] if before.text in text]
            if others and turn.text in text:
                return f"one message of {1 + len(others)} turns: {text[:60]}"
        return ""
