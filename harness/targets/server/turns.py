"""The *turns* ability: turns of every kind, through each way that they can go.

Turns of many kinds run at once, each in a session of its own. They are seen live, again from
several places, and as they are kept, also after a restart. Some are cancelled, some are struck by a
kill. A fact is named by the way, the kind, and what was looked at; it is empty, or it says what
differs. What depends on the timing of a turn is one fact for all turns of a way.
"""

from __future__ import annotations

import string
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.contract.agent_script import FAIL, REPLY_END, ReplyEnd, Tokens, sleep
from harness.core.errors import TargetLostError
from harness.engine.http import Event, NotReachedError, StatusError, Web
from harness.processes.server import Launch
from harness.processes.waiting import came_true
from harness.targets.server.answers import JsonObject, problem_of
from harness.targets.server.lifecycle import ServerAdapter
from harness.targets.server.turn_facts import (
    BEHIND,
    ENDS,
    Step,
    content_of,
    foreign,
    lacking,
    misnumbered,
    number_of,
    shown_by,
    shown_in,
    unlike,
    without_last_thought,
    wrong_end,
)

PATIENCE_S = 20.0
LACKING_S = 4.0  # once a stream or a view lacked something, so that others need not wait as long
CLOSING_S = 2.5
SETTLED_S = 6.0  # at most, for what a server does behind the end of a turn
OK, NOT_FOUND = 200, 404
LOOKERS = 4  # threads that look at turns
HELD_S = 900.0
FAILED = ("apperror", "error")


@dataclass
class Turn:
    """One turn: its steps, and what was seen of it."""

    name: str
    session: str
    text: str
    steps: list[Step]
    ends: tuple[str, ...] = ENDS
    run: str = ""
    events: list[Event] = field(default_factory=list)
    is_closed: bool = False
    next_status: int = 0
    title: str = ""  # that a client set
    reached: threading.Event = field(default_factory=threading.Event)  # all steps were shown
    others: dict[str, list[Event]] = field(default_factory=dict)  # what other readers saw
    problems: dict[str, str] = field(default_factory=dict)  # that were found on the way


Act = Callable[[Turn], str | None]


class TurnsAdapter:
    """One server and its folder, through all its restarts."""

    kinds: Mapping[str, str] = {  # the steps of each kind
        "plain": "say say say",
        "failing": "say raise",
        "failing at first": "raise",
    }
    held: Mapping[str, str] = {"plain": "say say say", "silent": ""}
    joined: tuple[str, ...] = ("plain",)  # kinds that a second reader joins
    twice: tuple[str, ...] = ("plain",)  # kinds that are cancelled twice
    restarted: tuple[str, ...] = ("ended", "cancelled", "struck")  # ways seen after a restart

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._server = ServerAdapter(folder, launch)
        self._facts: dict[str, str] = {}
        self._turns: dict[str, list[Turn]] = {}
        self._words = 0
        self._patience_s = PATIENCE_S
        self._settled_at = 0.0
        self._unsettled: set[str] = set()  # views that did not come to be right in time
        self._last: tuple[str, ...] = BEHIND

    # Calls

    def ways(self) -> list[str]:
        """The ways that turns can go on this server, in their order."""
        return ["ended", "cancelled", "struck"]

    def way(self, name: str) -> list[str]:
        """Let turns of many kinds go this way at once; the names of the facts."""
        self._facts = {}
        self._go_way(name)
        if name not in ("struck", "restarted"):
            self._look(name)
        return [*self._facts]

    def _go_way(self, name: str) -> None:
        match name:
            case "ended":
                self._go(name, self.kinds, self._end)
            case "cancelled":
                self._go(name, self.held, self._cancel, "hold")
            case "struck":
                self._strike(name)
            case "restarted":
                self._restart(name)

    def fact(self, name: str) -> str:
        """What differs from what must be; empty if nothing does."""
        return self._facts[name]

    def close(self) -> None:
        """Kill the server."""
        self._server.close()

    # Ways

    def _go(
        self, way: str, kinds: Mapping[str, str], act: Callable[[Turn], None], *last: str
    ) -> None:
        turns = [self._turn(kind, [*steps.split(), *last]) for kind, steps in kinds.items()]
        self._run_all(way, turns, act)

    def _run_all(self, way: str, turns: Sequence[Turn], act: Act) -> None:
        """Let the turns go on at once, each in a thread."""
        with ThreadPoolExecutor(len(turns)) as pool:
            for turn, problem in zip(
                turns, pool.map(partial(_problem_of, act), turns), strict=True
            ):
                self._turns.setdefault(way, []).append(turn)
                self._facts[f"{turn.name}, {way}: answered"] = problem

    def _word(self) -> str:
        self._words += 1
        number, letters = self._words, ""
        while number:
            number, rest = divmod(number, 26)
            letters += string.ascii_lowercase[rest]
        return f"w{letters}z"

    def _turn(self, kind: str, verbs: Sequence[str]) -> Turn:
        """A turn that takes these steps, in a session of its own."""
        session = self._web.post("/api/session/new")["session"]["session_id"]
        tokens = Tokens(verbs.count("say"))
        says = [("say", tokens.text)] if tokens.count else []
        script = f"{tokens.directive}" if says else ""
        is_held, is_failing = "hold" in verbs, "raise" in verbs
        script += f"{sleep(HELD_S)}" * is_held + f"{FAIL}" * is_failing
        whole = [] if is_held or is_failing else [("say", str(ReplyEnd(1, session)))]
        turn = Turn(kind, session, f"turn {self._word()} {script}", [*says, *whole])
        turn.ends = ("cancel",) if is_held else FAILED if is_failing else ("done",)
        return turn

    def _struck(self) -> list[Turn]:
        """The turns that a kill will strike."""
        return [self._turn(kind, [*steps.split(), "hold"]) for kind, steps in self.held.items()]

    def _begin_next(self, turn: Turn) -> int:
        """Begin the turn behind this one, as a client does that has seen its end."""
        body = {"session_id": turn.session, "message": self._next_message()}
        try:
            return self._web.ask("POST", "/api/chat/start", body)[0]
        except (TargetLostError, NotReachedError):
            return -1

    def _next_message(self) -> str:
        return f"next {self._word()}"

    def _prepare(self, turns: Sequence[Turn]) -> None:
        """Note what is needed before the turns of a way are looked at."""

    def _more_looks(self, turn: Turn) -> Mapping[str, Callable[[], str]]:  # noqa: ARG002  others do
        """What only this server shows of a turn, by view."""
        return {}

    # One turn

    def _start(self, turn: Turn) -> None:
        body = {"session_id": turn.session, "message": turn.text}
        turn.run = self._web.post("/api/chat/start", **body)["stream_id"]

    def _end(self, turn: Turn) -> None:
        """Read the turn to its end, and begin the next one at once."""
        self._start(turn)
        with reading(partial(self._follow, turn, f"/api/chat/stream?stream_id={turn.run}")):
            if turn.name in self.joined:
                self._join(turn)

    def _join(self, turn: Turn) -> None:
        """Read the same stream once more, live, from behind an event that was shown."""
        came_true(lambda: bool(turn.events), self._patience_s)
        if turn.events and turn.events[0].id:
            path = f"/api/chat/stream?stream_id={turn.run}&after_event_id={turn.events[0].id}"
            turn.others["joined"] = self._read(path)[0]

    def _follow(self, turn: Turn, path: str) -> None:
        wanted = without_last_thought(shown_by(turn.steps))

        def note(event: Event) -> None:
            turn.events.append(event)
            if event.name in ENDS and not turn.next_status:
                turn.next_status = self._begin_next(turn)
            if without_last_thought(shown_in(turn.events)) == wanted:
                turn.reached.set()

        if not wanted:
            turn.reached.set()
        _, turn.is_closed = self._read(path, note)
        turn.reached.set()

    def _read(
        self, path: str, note: Callable[[Event], None] = lambda _: None
    ) -> tuple[list[Event], bool]:
        """The events of a stream to its end, and whether it closed."""
        events: list[Event] = []
        web = replace(self._web, timeout_s=self._patience_s, last=self._last, closing_s=CLOSING_S)
        try:
            with web.stream(path) as stream:
                for event in stream:
                    events.append(event)
                    note(event)
        except StatusError as error:
            if error.status != NOT_FOUND:  # it is gone with its run
                raise
        except (TimeoutError, TargetLostError):
            if not events or events[-1].name not in self._last:
                self._patience_s = LACKING_S
            return events, False
        return events, True

    def _cancel(self, turn: Turn) -> None:
        """Cancel the turn when it has shown all."""
        self._start(turn)
        with reading(partial(self._follow, turn, f"/api/chat/stream?stream_id={turn.run}")):
            turn.reached.wait(self._patience_s)
            turn.problems["busy"] = self._idle_though_busy(turn)
            self._stop(turn)
            if turn.name in self.twice:
                self._stop(turn)

    def _stop(self, turn: Turn) -> None:
        self._web.get(f"/api/chat/cancel?stream_id={turn.run}")

    def _idle_though_busy(self, turn: Turn) -> str:
        """Which view says that a turn that goes on is over, or lacks its message."""
        status = self._web.get(f"/api/chat/stream/status?stream_id={turn.run}")
        found = self._session(turn)
        row = self._row(turn)
        views = {
            "the status of its stream": bool(status.get("active")),
            "its session": found.get("active_stream_id") == turn.run,
            "the list": row is None or bool(row.get("is_streaming", True)),
        }
        idle = [view for view, is_busy in views.items() if not is_busy]
        if idle:
            return f"over by {idle[0]}: it goes on"
        shown = [content_of(message) for message in found["messages"]]
        shown.append(str(found.get("pending_user_message", turn.text)))
        return "" if any(turn.text in text for text in shown) else "its message is not shown: yet"

    def _row(self, turn: Turn) -> dict[str, Any] | None:
        rows = self._web.get("/api/sessions")["sessions"]
        return next((row for row in rows if row["session_id"] == turn.session), None)

    def _session(self, turn: Turn) -> dict[str, Any]:
        found: dict[str, Any] = self._web.get(f"/api/session?session_id={turn.session}")["session"]
        return found

    # Kills

    def _strike(self, way: str) -> None:
        """Kill the server while turns of several kinds have shown all."""
        turns = self._struck()
        readers: list[Future[None]] = []
        with ThreadPoolExecutor(len(turns)) as pool:
            for turn in turns:
                turn.next_status = 1  # none follows
                self._start(turn)
                path = f"/api/chat/stream?stream_id={turn.run}"
                readers.append(pool.submit(self._follow, turn, path))
            for turn in turns:
                turn.reached.wait(self._patience_s)
                turn.steps = [step for step in turn.steps if step[0] != "hold"]
                seen = shown_in(turn.events)
                if seen != shown_by(turn.steps):  # what was not shown may be lost
                    turn.steps = [step for step in turn.steps if step[1].strip() in str(seen)]
            self._server.kill()
        self._turns[way] = turns
        self._note_readers(turns, readers, way)
        self._server.boot()
        came_true(lambda: not any(_problem_of(self._lacks, turn) for turn in turns), PATIENCE_S)
        for turn in turns:
            self._note(turn, way, "kept", partial(self._lacks, turn))
        found: dict[str, str] = {}
        for turn in turns:
            if problem := _problem_of(self._unlike_before_a_kill, turn):
                found.setdefault(problem.partition(":")[0], problem)
        self._note_any(way, "again", found)

    def _note_readers(
        self, turns: Sequence[Turn], readers: Sequence[Future[None]], way: str
    ) -> None:
        """Record what readers met, unless the kill came before they were connected."""

        def met(reader: Future[None]) -> None:
            with suppress(NotReachedError):
                reader.result()

        for turn, reader in zip(turns, readers, strict=True):
            self._note(turn, way, "answered", partial(met, reader))

    def _unlike_before_a_kill(self, turn: Turn) -> str:
        """Whether a reader who comes back gets what it has seen, and then one end."""
        events, is_closed = self._read(f"/api/chat/stream?stream_id={turn.run}&replay=1")
        seen = [event for event in turn.events if event.id]
        if not events or len(seen) != len(turn.events):
            return ""  # older releases have nothing of it
        if problem := _unlike_events(seen, events[: len(seen)]):
            return problem
        return wrong_end(events, ENDS, is_closed=is_closed)

    def _is_waiting(self, turn: Turn) -> bool:
        return bool(self._session(turn).get("active_stream_id"))

    def _restart(self, way: str) -> None:
        self._server.kill()
        self._server.boot()
        for before in self.restarted:
            turns = self._turns.get(before, ())
            for turn in turns:
                self._note(turn, f"{before} and {way}", "kept", partial(self._lacks, turn))
            if before != "struck":
                self._look_at_any(turns, f"{before} and {way}", ("again",))

    # Facts

    @property
    def _web(self) -> Web:
        return Web(self._server.boot()["port"], PATIENCE_S, objects=JsonObject)

    def _note(self, turn: Turn, way: str, view: str, look: Callable[[], str | None]) -> None:
        """Record a fact; a call that is refused or not answered is one too."""
        self._facts[f"{turn.name}, {way}: {view}"] = problem_of(look)

    def _look(self, way: str) -> None:
        """Look at every turn that went this way, when all are over."""
        turns = [turn for turn in self._turns.get(way, ()) if turn.run]
        came_true(lambda: not any(map(self._is_waiting, turns)), self._patience_s)
        self._settled_at = time.monotonic() + SETTLED_S
        self._unsettled.clear()
        self._prepare(turns)
        with ThreadPoolExecutor(LOOKERS) as pool:
            list(pool.map(partial(self._look_at, way), turns))
        self._look_at_any(turns, way)
        self._facts[f"all turns, {way}: idle"] = self._at_work()

    def _look_at(self, way: str, turn: Turn) -> None:
        looks: dict[str, Callable[[], str]] = {
            "ends": partial(
                wrong_end, turn.events, turn.ends, is_closed=turn.is_closed or not turn.events
            ),
            "own": partial(foreign, turn.events, turn.session, turn.run),
            "shown": partial(self._hidden, turn),
            "idle": partial(self._busy, turn),
            "kept": partial(self._lacks, turn),
            "final": partial(self._differs_at_its_end, turn),
            "titled": partial(self._title_differs, turn),
            "resumable": partial(self._numbered_again_only, turn),
            **self._more_looks(turn),
        }
        for view, look in looks.items():
            self._note(turn, way, view, look)
        for view, problem in turn.problems.items():
            self._facts[f"{turn.name}, {way}: {view}"] = problem

    def _at_work(self) -> str:
        """What the server counts when every turn is over."""
        names = ("active_runs", "active_streams")
        counts: dict[str, Any] = {}

        def is_idle() -> bool:
            health = self._web.get("/health")
            counts.update({name: health.get(name) or 0 for name in names})
            return not any(counts.values())

        came_true(is_idle, PATIENCE_S)
        busy = [name for name in names if counts[name]]
        return f"{busy[0]} is not zero: every turn is over" if busy else ""

    def _look_at_any(
        self, turns: Sequence[Turn], way: str, views: Sequence[str] = ("numbered", "again", "next")
    ) -> None:
        """Look for what only some turns meet, as their timing has it: one fact for each problem."""
        looks: dict[str, Callable[[Turn], str]] = {
            "numbered": lambda turn: misnumbered(turn.events),
            "again": self._replayed,
            "next": self._refused_next,
        }
        for view in views:
            look, found = looks[view], dict[str, str]()
            for turn in turns:
                if problem := _problem_of(look, turn):
                    found.setdefault(problem.partition(":")[0], f"{problem} ({turn.name})")
            self._note_any(way, view, found)

    def _note_any(self, way: str, view: str, found: Mapping[str, str]) -> None:
        """Record a fact for each kind of problem that some turn had, or one that none had any."""
        for kind, problem in found.items():
            self._facts[f"any turn, {way}, {kind}: {view}"] = problem
        if not found:
            self._facts[f"any turn, {way}: {view}"] = ""

    def _hidden(self, turn: Turn) -> str:
        whole, shown = shown_by(turn.steps), shown_in(turn.events)
        if turn.ends == ("cancel",):  # an agent may say its last words all the same
            shown = [(channel, text.partition(REPLY_END)[0]) for channel, text in shown]
            shown = without_last_thought([(channel, text) for channel, text in shown if text])
            whole = without_last_thought(whole)
        return unlike(whole, shown)

    def _replayed(self, turn: Turn) -> str:
        """Whether each reader that comes later is shown the rest, exactly."""
        numbered = [event for event in turn.events if number_of(event) is not None]
        if not numbered or len(numbered) != len(turn.events):
            return ""  # older releases do not number events
        others, turn.others = turn.others, {}  # they read before a restart
        for name, events in others.items():
            if problem := _unlike_events(turn.events[1:], events):
                return f"{problem}: {name}"
        for after in sorted({0, len(numbered) // 2, len(numbered) - 2}):
            if after < 0:
                continue
            cursor = f"&after_event_id={numbered[after - 1].id}" if after else ""
            events, is_closed = self._read(f"/api/chat/stream?stream_id={turn.run}{cursor}")
            if problem := _unlike_events(turn.events[after:], events):
                return f"{problem}: behind {after} of {len(numbered)}"
            if not is_closed:
                return "a replay stays open: its run is over"
        return ""

    def _numbered_again_only(self, turn: Turn) -> str:
        """Whether a replay numbers what a reader saw without numbers, so that it had no cursor."""
        if not turn.events or any(number_of(event) is not None for event in turn.events):
            return ""
        events, _ = self._read(f"/api/chat/stream?stream_id={turn.run}&replay=1")
        if any(number_of(event) is not None for event in events):
            return "live events have no numbers: a replay has"
        return ""  # older releases do not number events

    def _refused_next(self, turn: Turn) -> str:
        """Whether the turn behind the end of this one was refused."""
        is_ok = turn.next_status in (0, OK)
        return "" if is_ok else f"status {turn.next_status}: for the turn behind its end"

    def _busy(self, turn: Turn) -> str:
        """Which view says that a turn that is over goes on."""
        status = self._web.get(f"/api/chat/stream/status?stream_id={turn.run}")
        if status.get("active"):
            return "busy by the status of its stream: it is over"
        found = self._session(turn)
        if found.get("active_stream_id") or found.get("pending_user_message"):
            return "busy by its session: it is over"
        if (self._row(turn) or {}).get("is_streaming"):
            return "busy by the list: it is over"
        return ""

    def _differs_at_its_end(self, turn: Turn) -> str:
        """What the event of its end lacks of the turn, if it has the messages."""
        done = next((event.data for event in turn.events if event.name == "done"), None)
        session = done.get("session") if isinstance(done, dict) else None
        if not isinstance(session, dict) or "messages" not in session:
            return ""
        return lacking(session, turn.steps, turn.text)

    def _title_differs(self, turn: Turn) -> str:
        """Which title of session and list is not the last one that was set, or announced."""
        # A model may be at work on the title.
        self._settles("titled", lambda: not self._other_title(turn))
        return self._other_title(turn)

    def _settles(self, view: str, is_right: Callable[[], bool]) -> bool:
        """Whether a view comes to be right; once it did not for a turn, others wait with that one.

        Each wait begins with its look, since a slow machine may come to it late.
        """
        patience_s = SETTLED_S
        if view in self._unsettled:
            patience_s = max(0.0, self._settled_at - time.monotonic())
        is_settled = came_true(is_right, patience_s)
        if not is_settled:
            self._unsettled.add(view)
        return is_settled

    def _other_title(self, turn: Turn) -> str:
        announced = [event.data.get("title") for event in turn.events if event.name == "title"]
        title = turn.title or (announced[-1] if announced else "")
        found, row = self._session(turn).get("title"), self._row(turn)
        if title and found != title:
            return f"another title in its session: {found}, not {title}"
        if row is not None and row.get("title") != found:
            return f"another title in the list: {row.get('title')}, not {found}"
        return ""

    def _lacks(self, turn: Turn) -> str:
        return lacking(self._session(turn), turn.steps, turn.text)


def _problem_of(act: Callable[[Turn], str | None], turn: Turn) -> str:
    return problem_of(partial(act, turn))


def _unlike_events(expected: Sequence[Event], observed: Sequence[Event]) -> str:
    wanted, found = [event.id for event in expected], [event.id for event in observed]
    if wanted == found:
        return unlike(shown_in(expected), shown_in(observed))
    if not observed:
        return "no replay"
    names = {event.id: event.name for event in expected}
    lost = [names[id_] for id_ in wanted if id_ not in found]
    if lost:
        return f"a replay lacks {lost[0]}"
    return "a replay has more, or another order"


@contextmanager
def reading(read: Callable[[], None]) -> Iterator[None]:
    """Let a thread read while the block runs, and wait for its end."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(read)
        yield
        future.result()
