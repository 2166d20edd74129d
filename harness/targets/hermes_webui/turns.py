"""The *turns* ability of a hermes-webui server, whose turns go to its agent, or to a gateway.

Some turns ask their user, who answers or leaves. Some get a message beside them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from harness.core.errors import TargetLostError
from harness.engine.http import StatusError
from harness.processes.waiting import came_true
from harness.targets.hermes_webui.scripted_agent import UNKEPT
from harness.targets.hermes_webui.scripted_turns import FREED, text_of
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.turn_gateway import TurnGateway
from harness.targets.server.probe import ask_probe
from harness.targets.server.turn_facts import ENDS, Step, shown_by, shown_in
from harness.targets.server.turns import (
    FAILED,
    LACKING_S,
    OK,
    PATIENCE_S,
    Turn,
    TurnsAdapter,
    reading,
)

PACKAGE = "api"
PLAIN = "say say say"
KINDS: dict[str, str] = {  # the steps of each kind, each of which gets a word of its own
    "plain": PLAIN,
    "thinking": "think think say",
    "thinking at last": "say think think",
    "calling": "think call think call say",
    "saying between calls": "say call say call say",
    "all at once": "quiet",
    "failing": "say raise",
    "failing at first": "raise",
    "failing behind calls": "think call say raise",
    "with an error in its result": "say report",
    "without a reply": "usage",
    "at its limit": "call limit",
    "counted": "say usage",
    "renamed": PLAIN,
    "calling at length": "run edit say",
    "denied in its result": "say hint",
    "denied by its last error": "say blame",
    "with an error and no failure": "say hint",
    "echoing its begin": "tell begin",
    "echoing its end": "tell end",
    "in parts": "parts say call say",
    "at its limit, in parts": "parts call limit",
}
HELD = {
    name: KINDS[name]
    for name in (
        *("plain", "thinking", "thinking at last", "calling", "saying between calls"),
        "calling at length",
    )
}
HELD["silent"] = ""
GATEWAY_HELD = {name: steps for name, steps in HELD.items() if name != "calling at length"}
GATEWAY_KINDS = {
    name: KINDS[name]
    for name in ("plain", "thinking", "thinking at last", "calling", "failing", "counted")
}
GATEWAY_KINDS |= {
    "failing at first": "raise",
    "refused": "refuse",
    "cut": "say cut",
    "empty": "usage",
    "asking, and cut": "say forget cut",
}
ERRORS = {  # what an error says, by kind; servers sort errors by their words
    "failing": "the provider said no",
    "failing at first": "Error code: 429 - rate limit exceeded",
    "failing behind calls": "Error code: 401 - invalid api key",
    "with an error in its result": "maximum context length exceeded",
    "denied in its result": "401 invalid api key",
    "denied by its last error": "Error code: 401 - invalid api key",
    "with an error and no failure": "the provider said no",
    "refused": "500",
}
ERRING = ("raise", "report", "hint", "blame", "refuse")
LONG = 300  # characters of an argument that a server might cut
FOLDED = "parts"  # a database keeps no message in parts
QUESTIONS = {
    "approval": "say approve gate say",
    "question": "say clarify gate say",
    "two approvals": "both gate say",
    "asked again": "again gate say",
    "freed": "free free say",
}
FREED_S = 10.0
FREEING = "/api/session/yolo"
VALUES = {"usage": "120:30", "parts": "output"} | dict.fromkeys(
    ("hold", "cut", "steered", "deaf"), ""
)
GONE = ("approval left", "question left")  # a cancel comes instead of an answer
ASKING = ("approve", "clarify", "both", "again", "free")
CHOICE, REPLY = "once", "certainly"
WITHOUT_ROWS = " without rows"  # the agent's database has none of this turn


class WebuiTurnsAdapter(TurnsAdapter):
    """One server and its folder, and a gateway beside it."""

    kinds, held = KINDS, HELD
    joined: tuple[str, ...] = ("plain", "thinking", "calling")
    twice = ("calling",)
    restarted = ("ended", "cancelled", "asked", "struck")

    def __init__(self, folder: Path, launch: WebuiLaunch) -> None:
        """Boot nothing yet. Only routes and ways that the checkout has are asked."""
        super().__init__(folder, launch)
        self._gateway = TurnGateway()
        self._kept_by: set[str] = set()  # what keeps the run of a turn that ended well
        self._view_patience_s = PATIENCE_S
        self._source = launch.source()
        if "subscribe_with_snapshot" not in self._source:
            self.joined = ()  # older releases have one reader

    def ways(self) -> list[str]:
        """The ways that turns can go on this server, in their order."""
        ways = ["ended", "cancelled", "asked", "beside", "struck", "restarted"]
        if "HERMES_WEBUI_CHAT_BACKEND" in self._source:
            ways += ["by a gateway", "by a gateway, cancelled"]
        if "HERMES_WEBUI_GATEWAY_USE_RUNS_API" in self._source:
            ways += ["by runs", "by runs, cancelled"]
        return ways

    def _go_way(self, name: str) -> None:
        if name == "asked":
            self._ask_all(name)
        elif name == "beside":
            self._go_beside(name)
        elif name.startswith("by "):
            self._go_by_gateway(name)
        else:
            super()._go_way(name)

    def close(self) -> None:
        """Kill the server, and close the gateway."""
        super().close()
        self._gateway.close()

    def _go_by_gateway(self, name: str) -> None:
        """Boot a server whose turns go to the gateway."""
        by, _, cancelled = name.partition(", ")
        if not cancelled:
            self._server.kill()
            self._server.boot(
                HERMES_WEBUI_CHAT_BACKEND="gateway",
                HERMES_WEBUI_GATEWAY_BASE_URL=self._gateway.url,
                HERMES_WEBUI_GATEWAY_USE_RUNS_API="1" if by == "by runs" else "",
            )
            self._go(name, GATEWAY_KINDS, self._end)
            self._ask_all(name, ("approval", "freed"))
        else:
            self._go(name, GATEWAY_HELD, self._cancel, "hold")

    def _turn(self, kind: str, verbs: Sequence[str]) -> Turn:
        """A turn with a word for each step, in a session of its own."""
        session = self._web.post("/api/session/new")["session"]["session_id"]
        steps = [self._step(kind, verb) for verb in verbs]
        turn = Turn(kind, session, f"turn {self._word()} [plain]{text_of(*steps)}", steps)
        if FOLDED in verbs:
            turn.text += UNKEPT
        if "hold" in verbs:
            turn.ends = ("cancel",)
        elif set(verbs) & {*ERRING}:
            turn.ends = FAILED
        elif {"say", "tell"} & set(verbs) and "cut" not in verbs:
            turn.ends = ("done",)
        return turn

    def _step(self, kind: str, verb: str) -> Step:
        """A step, for which some verbs stand that say more than one value."""
        if verb in ("begin", "end"):
            return ("echo", verb)
        return ("say", f"{self._long('v')} ") if verb == "tell" else (verb, self._value(kind, verb))

    def _value(self, kind: str, verb: str) -> str:
        match verb:
            case "say" | "think":
                return f"{self._word()} "
            case "both":
                return f"{self._word()}+{self._word()}"
            case "run":
                return self._long("x")
            case "edit":
                return f"{self._long('y')}+{self._long('z')}"
        if verb in ERRING:
            return ERRORS.get(kind, "an error")
        return VALUES[verb] if verb in VALUES else self._word()

    def _long(self, letter: str) -> str:
        """A text that a server might cut, between two words."""
        return f"{self._word()} {letter * LONG} {self._word()}"

    def _struck(self) -> list[Turn]:
        """Turns of every kind, and the same without rows in the agent's database."""
        without = super()._struck()
        for turn in without:
            turn.name += WITHOUT_ROWS
            turn.text += UNKEPT
        return [*super()._struck(), *without]

    def _begin_next(self, turn: Turn) -> int:
        """Begin the turn behind this one, or set the title while a model looks for one."""
        if turn.name != "renamed":
            return super()._begin_next(turn)
        turn.title = f"Renamed {self._word()}"
        body = {"session_id": turn.session, "title": turn.title}
        return self._web.ask("POST", "/api/session/rename", body)[0]

    def _next_message(self) -> str:
        return f"next [plain][say={self._word()} ]"

    # Gates

    @property
    def _spool(self) -> Path:
        return self._server.state.parent / "spool"

    def _open(self, name: str) -> None:
        """Let what waits for this gate go on."""
        self._spool.mkdir(parents=True, exist_ok=True)
        (self._spool / name).touch()
        self._gateway.opened.add(name)

    def _open_all(self, turn: Turn) -> None:
        for verb, value in turn.steps:
            if verb == "gate":
                self._open(value)

    # Questions

    def _ask_all(self, way: str, kinds: Sequence[str] = tuple(QUESTIONS)) -> None:
        """Turns that ask their user, and are answered, or left."""
        kinds = [kind for kind in kinds if kind != "freed" or f'"{FREEING}"' in self._source]
        turns = [self._turn(kind, QUESTIONS[kind].split()) for kind in kinds]
        for kind in GONE:
            if kind.split()[0] in kinds:
                turn = self._turn(kind, QUESTIONS[kind.split()[0]].split())
                turn.ends = ("cancel",)
                turns.append(turn)
        self._run_all(way, turns, self._answer)

    def _answer(self, turn: Turn) -> None:
        """Watch the questions of a session, begin the turn, and answer, or cancel it."""
        turn.problems["asked"] = ""
        kind = "clarify" if "question" in turn.name else "approval"
        heard: list[Any] = []
        is_over = threading.Event()
        verb, words = next(step for step in turn.steps if step[0] in ASKING)
        asked = words.split("+") * (2 if verb == "again" else 1)
        before = turn.steps[: turn.steps.index((verb, words))]
        with reading(partial(self._hear, kind, turn.session, heard, is_over)):
            try:
                came_true(lambda: bool(heard), LACKING_S)
                self._start(turn)
                path = f"/api/chat/stream?stream_id={turn.run}"
                with reading(partial(self._follow, turn, path)):
                    try:
                        if self._answer_each(turn, kind, asked, heard):
                            self._look_answered(turn, kind)
                    finally:
                        self._open_all(turn)
                came_true(lambda: not self._asked(kind, turn.session)[0], LACKING_S)
                self._look_unasked(turn, kind, heard)
            finally:
                is_over.set()
        left = "left" in turn.name
        answer = CHOICE if kind == "approval" else REPLY
        answers = [("say", f"{word} {answer} ") for word in asked]
        rest = turn.steps[len(before) + 1 :]
        turn.steps = before if left else [*before, *answers, *rest]
        if turn.name == "freed":
            freed = [value for step, value in [(verb, words), *rest] if step == "free"]
            turn.steps = [*(("say", f"{word} {FREED} ") for word in freed), rest[-1]]

    def _answer_each(self, turn: Turn, kind: str, asked: list[str], heard: list[Any]) -> bool:
        """Answer each question; whether all answers were taken, and the turn goes on."""
        answered: set[str] = set()
        for number in range(len(asked)):
            self._await_questions(turn, kind, len({*asked[number:]}), answered)
            question, _ = self._asked(kind, turn.session)
            if not question and answered - {""} and asked[number] in asked[:number]:
                turn.problems["taken"] = "an answer for one question: it counts for the next"
                self._stop(turn)
                return False
            question = question or self._asked_live(turn, kind)
            word = next((word for word in asked if word in str(question)), "")
            if not word:
                turn.problems["asked"] = f"no question: it asks {asked}"
                self._stop(turn)
                return False
            if not number:
                self._look_asked(turn, kind, word, heard)
            if "left" in turn.name:
                self._stop(turn)
                return False
            if turn.name == "freed":
                self._free(turn)
                return False
            id_ = str(question.get(f"{kind}_id") or "")
            answered.add(id_)
            answer = {"choice": CHOICE} if kind == "approval" else {"response": REPLY}
            is_shown = bool(self._asked(kind, turn.session)[0])
            wrong = self._respond(turn, kind, "another", answer)
            if is_shown and (wrong or word not in str(self._asked(kind, turn.session)[0])):
                turn.problems["another answer"] = "it was taken: its question is another one"
            if not self._respond(turn, kind, id_, answer):
                turn.problems["taken"] = f"refused: the answer to {id_}"
                self._stop(turn)
                return False
        return True

    def _look_answered(self, turn: Turn, kind: str) -> None:
        """Whether a view still shows a question that was answered, while the turn goes on."""
        views: dict[str, Callable[[], bool]] = {
            "asking for it": lambda: not self._asked(kind, turn.session)[0],
        }
        if "_session_attention_summary" in self._source:
            views["the list"] = lambda: not self._attention(turn)
        turn.problems["answered once"] = ""
        for view, is_gone in views.items():
            if not self._comes_true(is_gone):
                turn.problems["answered once"] = f"still by {view}: it was answered"

    def _free(self, turn: Turn) -> None:
        """Free the session of questions; its turn is stopped if that does not let it go on."""
        body = {"session_id": turn.session, "enabled": True}
        status, _ = self._web.ask("POST", FREEING, body)
        if status != OK:
            turn.problems["taken"] = f"status {status}: the session is not freed"
        within_s = min(FREED_S, self._patience_s / 2)  # before its reader leaves
        if not came_true(lambda: any(event.name in ENDS for event in [*turn.events]), within_s):
            self._stop(turn)

    def _await_questions(self, turn: Turn, kind: str, count: int, answered: set[str]) -> None:
        """Wait for this number of questions, of which the first was not answered yet."""

        def is_asked() -> bool:
            question, shown = self._asked(kind, turn.session)
            id_ = str((question or {}).get(f"{kind}_id") or "")
            return shown == count and (not id_ or id_ not in answered)

        if not came_true(is_asked, self._patience_s):
            shown = self._asked(kind, turn.session)[1]
            turn.problems["asked"] = f"{shown} questions are shown: {count}"
            self._patience_s = LACKING_S

    def _comes_true(self, is_so: Callable[[], bool]) -> bool:
        """Whether a view comes to be so; once one did not, others need not wait as long."""
        if came_true(is_so, self._view_patience_s):
            return True
        self._view_patience_s = LACKING_S
        return False

    def _asked_live(self, turn: Turn, kind: str) -> Any:
        """The last question in the stream of the run, which older releases show nowhere else."""
        questions = [event.data for event in [*turn.events] if event.name == kind]
        return questions[-1] if questions else None

    def _respond(self, turn: Turn, kind: str, id_: str, answer: dict[str, str]) -> bool:
        body = {"session_id": turn.session, f"{kind}_id": id_, **answer}
        status, found = self._web.ask("POST", f"/api/{kind}/respond", body)
        return status == OK and bool(found.get("ok"))

    def _asked(self, kind: str, session: str) -> tuple[Any, int]:
        """The question of a session that is shown, and how many there are."""
        found = self._web.get(f"/api/{kind}/pending?session_id={session}")
        pending = found.get("pending")
        return pending, int(found.get("pending_count", 1)) if pending else 0

    def _look_asked(self, turn: Turn, kind: str, word: str, heard: list[Any]) -> None:
        """Whether each view shows the question, which is certainly open."""
        late: list[Any] = []
        views: dict[str, Callable[[], bool]] = {
            "the stream of its run": lambda: any(
                event.name == kind and word in str(event.data) for event in [*turn.events]
            ),
        }
        if f'"/api/{kind}/stream"' in self._source:
            views["a reader of questions"] = lambda: any(word in str(event) for event in [*heard])
        if "_session_attention_summary" in self._source:
            views["the list"] = lambda: bool(self._attention(turn))
        for view, is_shown in views.items():
            if not self._comes_true(is_shown):
                turn.problems["asked"] = f"not by {view}: {word}"
        if f'"/api/{kind}/stream"' in self._source:
            is_over = threading.Event()
            with reading(partial(self._hear, kind, turn.session, late, is_over)):
                if not self._comes_true(lambda: word in str(late)):
                    turn.problems["asked"] = f"not by a later reader of questions: {word}"
                is_over.set()

    def _look_unasked(self, turn: Turn, kind: str, heard: list[Any]) -> None:
        """Whether a view still shows a question of a turn that is over."""
        views: dict[str, Callable[[], bool]] = {
            "asking for it": lambda: not self._asked(kind, turn.session)[0],
        }
        if heard:
            views["a reader of questions"] = lambda: not heard[-1].get("pending")
        if "_session_attention_summary" in self._source:
            views["the list"] = lambda: not self._attention(turn)
        turn.problems["asked no more"] = ""
        for view, is_gone in views.items():
            if not self._comes_true(is_gone):
                turn.problems["asked no more"] = f"still by {view}: its turn is over"

    def _attention(self, turn: Turn) -> Any:
        return (self._row(turn) or {}).get("attention")

    def _hear(self, kind: str, session: str, heard: list[Any], is_over: threading.Event) -> None:
        """Read what the stream of questions says, until it is enough."""
        web = replace(self._web, lasts=True)
        with (
            suppress(OSError, HTTPException, StatusError, TargetLostError),
            web.stream(f"/api/{kind}/stream?session_id={session}", comments=True) as events,
        ):
            for event in events:
                if is_over.is_set():
                    return
                if event.name:
                    heard.append(event.data)

    # Messages beside a turn

    def _go_beside(self, way: str) -> None:
        if '"/api/chat/steer"' not in self._source:
            return
        turns = [
            self._turn("taken beside", ["say", "steered", "say"]),
            self._turn("left beside", ["say", "deaf", "say"]),
        ]
        for turn in turns:
            turn.ends = ENDS
        self._run_all(way, turns, self._steer)

    def _steer(self, turn: Turn) -> None:
        """Send a message beside the turn; it is refused, or it is shown or given back, once."""
        word = self._word()
        self._start(turn)
        with reading(partial(self._follow, turn, f"/api/chat/stream?stream_id={turn.run}")):
            first = shown_by(turn.steps[:1])
            came_true(lambda: shown_in([*turn.events]) == first, self._patience_s)
            body = {"session_id": turn.session, "text": word}
            answer = self._web.post("/api/chat/steer", **body)
            if not answer.get("accepted"):
                turn.steps = turn.steps[:1]
                self._stop(turn)
                return
            verb = turn.steps[1][0]
        given_back = any(
            event.name == "pending_steer_leftover" and word in str(event.data)
            for event in turn.events
        )
        if verb == "steered":
            turn.steps[1] = ("say", f"{word} ")
        elif not given_back:
            turn.problems["taken"] = f"not given back: {word}"

    # Facts

    def _prepare(self, turns: Sequence[Turn]) -> None:
        """Note which containers keep a run that has ended well."""
        if turns and turns[0].ends == ("done",):
            self._kept_by = self._holders(turns[0])

    def _more_looks(self, turn: Turn) -> Mapping[str, Callable[[], str]]:
        """What only this server shows of a turn, by view."""
        return {
            "left": partial(self._left, turn),
            "counted": partial(self._uncounted, turn),
            "stopped": partial(self._unstopped, turn),
            "agreed": partial(self._disagreed, turn),
        }

    def _disagreed(self, turn: Turn) -> str:
        """Whether the list and a reader of questions agree about what a turn has left behind."""
        if "_session_attention_summary" not in self._source:
            return ""
        kinds = [
            kind for kind in ("approval", "clarify") if f'"/api/{kind}/pending"' in self._source
        ]

        def views() -> tuple[bool, bool]:
            asked = any(self._asked(kind, turn.session)[0] for kind in kinds)
            return asked, bool(self._attention(turn))

        found = [False, False]

        def agree() -> bool:
            found[:] = views()
            return found[0] == found[1]

        if self._settles("agreed", agree):
            return ""
        return "a question that the list lacks" if found[0] else "a question in the list only"

    def _unstopped(self, turn: Turn) -> str:
        """Whether the gateway got a call to stop the run of a turn that was cancelled."""
        runs = [run for run in [*self._gateway.runs.values()] if run.text == turn.text]
        if turn.ends != ("cancel",) or not runs or not runs[0].is_run:
            return ""
        is_stopped = self._settles("stopped", runs[0].stopped.is_set)
        return "" if is_stopped else "its run goes on in the gateway: it was cancelled"

    def _left(self, turn: Turn) -> str:
        """Which global container still has the run, while it has no run that ended well."""
        left: set[str] = set()

        def is_gone() -> bool:
            nonlocal left
            left = self._holders(turn) - self._kept_by
            return not left

        return "" if self._settles("left", is_gone) else f"in {min(left)}: the run is over"

    def _holders(self, turn: Turn) -> set[str]:
        found = ask_probe(self._server.state, "holders", package=PACKAGE, key=turn.run)
        return {name for name in found if "CACHE" not in name}  # which may be older for a while

    def _uncounted(self, turn: Turn) -> str:
        """Whether the session has the tokens that the turn has used."""
        used = next((value for verb, value in turn.steps if verb == "usage"), "")
        if not used or turn.ends != ("done",):
            return ""
        found = self._session(turn)
        counts = f"{found.get('input_tokens')}:{found.get('output_tokens')}"
        return "" if counts == used else f"other counts: {counts}"
