"""Checks that every background process wakes its session exactly once.

Each process of such a history prints a word of its own (`w17`). Its wakeup is recognised by that
word: in its output, or in its command where the output was lost. A turn is known to have started
its process when its stream showed a token or a reply to it is stored; a turn that a kill ended
before that may or may not have started it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from harness.contract import promises
from harness.contract.agent_script import Script, WakeupPrompt
from harness.contract.checkers.server.client_history import (
    CONFLICT,
    NO_WRITES,
    OK,
    ClientHistory,
    rows,
    shown,
)
from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly

Rule = Callable[["Wakeups"], Iterable[Anomaly]]
WAKEUPS_MAX = 6  # that may begin while a user waits to be admitted
_WORD = re.compile(r"\bw\d+\b")


@dataclass(frozen=True, slots=True)
class Spawn:
    """A process that the script of a sent message starts."""

    word: str
    session: str
    sent: Operation
    is_watched: bool
    is_proven: bool


class Wakeups:
    """The started processes, and the sessions that each word woke."""

    def __init__(self, view: ClientHistory) -> None:
        """Read the last quiet reads."""
        self.view = view
        self.ended: dict[str, list[str]] = defaultdict(list)
        self.matched: dict[str, list[str]] = defaultdict(list)
        self._replied: set[str] = set()
        first_wakeups = (
            text for read in view.first.values() for role, text, _ in rows(read) if role == "wakeup"
        )
        self.at_first = {
            word for text in first_wakeups if not _is_match(text) for word in _WORD.findall(text)
        }
        for session, read in view.final.items():
            question = ""
            for role, text, _ in rows(read):
                if role == "wakeup":
                    question = ""
                    self._note(session, text)
                elif role == "user":
                    question = text
                elif question and text:
                    self._replied.add(question)
        self.spawns = list(self._spawns())

    def _note(self, session: str, text: str) -> None:
        for word in sorted(set(_WORD.findall(text))):
            if _is_match(text):
                self.matched[word].append(session)
            else:
                self.ended[word].append(session)

    def _spawns(self) -> Iterator[Spawn]:
        for text, sends in self.view.sends.items():
            sent = sends[-1]
            if sent.outcome is Outcome.FAIL or (
                sent.outcome is Outcome.OK and sent.result["status"] != OK
            ):
                continue
            run = sent.result["run"] if sent.outcome is Outcome.OK else ""
            is_shown = any(shown(relay) for relay in self.view.relays.get(run, ()))
            for process in Script.parse(text).processes:
                for word in sorted(set(_WORD.findall(process.printed))):
                    is_proven = is_shown or text in self._replied
                    session = sent.argument["session"]
                    yield Spawn(word, session, sent, process.watch is not None, is_proven)

    def may_be_removed(self, spawn: Spawn) -> bool:
        """Whether a client may have removed the wakeup with other messages, or the session."""
        is_unread = spawn.session not in self.view.final
        return is_unread or bool(self.view.removers(spawn.session, spawn.word, spawn.sent))


def _is_match(text: str) -> bool:
    prompt = WakeupPrompt.parse(text)
    return prompt is not None and prompt.is_match


def wakeup_anomalies(view: ClientHistory) -> Iterator[Anomaly]:
    """Every anomaly of the wakeups, causes before their consequences."""
    wakeups = Wakeups(view)
    rules: tuple[Rule, ...] = (_misrouted, _doubled, _incomplete, _lost, _reordered)
    for rule in rules:
        yield from rule(wakeups)
    yield from _starved(view)
    yield from _acknowledged(view)


def _misrouted(wakeups: Wakeups) -> Iterator[Anomaly]:
    """A wakeup in a session that does not own the process (W6)."""
    for spawn in wakeups.spawns:
        for session in (*wakeups.ended[spawn.word], *wakeups.matched[spawn.word]):
            if session != spawn.session:
                yield Anomaly(
                    promises.W6,
                    f"the process that prints {spawn.word} woke another session than its own",
                    (spawn.sent, wakeups.view.final[session]),
                    "misrouted",
                    also=(promises.T7,),
                    expected=f"a wakeup of {spawn.session}",
                    observed=f"a wakeup of {session}",
                )


def _doubled(wakeups: Wakeups) -> Iterator[Anomaly]:
    """A process whose end woke more than once (W1), or one of whose lines did (W13)."""
    for spawn in wakeups.spawns:
        causes = (("end", wakeups.ended, promises.W1), ("line", wakeups.matched, promises.W13))
        for cause, sessions, promise in causes:
            if len(sessions[spawn.word]) > 1:
                yield Anomaly(
                    promise,
                    f"the {cause} of the process that prints {spawn.word} woke more than once",
                    (spawn.sent, wakeups.view.final[spawn.session]),
                    "double-wakeup",
                    also=(promises.W1,),
                    expected=f"one wakeup of {spawn.session}",
                    observed=f"wakeups of {sessions[spawn.word]}",
                )


def _incomplete(wakeups: Wakeups) -> Iterator[Anomaly]:
    """A watched process of which only the line or only the end woke its session (W13).

    A kill excuses either: what was printed and not yet read is lost with the server.
    """
    for spawn in wakeups.spawns:
        if not spawn.is_watched or not spawn.is_proven or wakeups.may_be_removed(spawn):
            continue
        ended, matched = wakeups.ended[spawn.word], wakeups.matched[spawn.word]
        if bool(ended) == bool(matched) or wakeups.view.deaths_since(spawn.sent):
            continue
        reported, missed = ("line", "end") if matched else ("end", "line")
        yield Anomaly(
            promises.W13,
            f"the {missed} of the watched process that prints {spawn.word} woke no session",
            (spawn.sent, wakeups.view.final[spawn.session]),
            f"lost-{missed}",
            expected=f"a wakeup of {spawn.session} by the line and by the end",
            observed=f"a wakeup by the {reported} only",
        )


def _lost(wakeups: Wakeups) -> Iterator[Anomaly]:
    """A process that was started and woke no session (W2 to W5, by what delayed the wakeup)."""
    view = wakeups.view
    for spawn in wakeups.spawns:
        if spawn.word in wakeups.at_first or not spawn.is_proven or wakeups.may_be_removed(spawn):
            continue
        deaths = view.deaths_since(spawn.sent)
        is_busy = len(view.accepted_in.get(spawn.session, ())) > 1
        if view.is_refused_since(spawn.sent):
            broken = promises.W5
        elif deaths:
            broken = promises.W4
        else:
            broken = promises.W3 if is_busy else promises.W2
        yield Anomaly(
            broken,
            f"the process that prints {spawn.word} ended, and woke no session",
            (spawn.sent, *deaths[:1], view.first[spawn.session]),
            "lost-wakeup",
            also=(promises.W1, promises.W12) if deaths else (promises.W1,),
            expected=f"a wakeup of {spawn.session} with {spawn.word} in the first quiet read",
            observed=f"no wakeup with {spawn.word}",
        )


def _reordered(wakeups: Wakeups) -> Iterator[Anomaly]:
    """Two wakeups of a session in another order than the notices of their processes' ends (W3)."""
    ends: dict[str, dict[str, tuple[float, Operation]]] = defaultdict(dict)
    for watch in wakeups.view.done("watch"):
        for _, name, session, task, at in watch.result["rows"]:
            if name == "bg_task_complete":
                ends[session][task] = (at, watch)
    # A wakeup that the disk refused is in memory only; a kill moves it behind later ones.
    if any(NO_WRITES in fault.name for fault in wakeups.view.history.faults):
        return
    for session, ended in ends.items():
        read = wakeups.view.final.get(session)
        if read is None:
            continue
        prompts = (WakeupPrompt.parse(text) for role, text, _ in rows(read) if role == "wakeup")
        tasks = [
            prompt.process
            for prompt in prompts
            if prompt and not prompt.is_match and prompt.process in ended
        ]
        for one, other in pairwise(tasks):
            if ended[one][0] > ended[other][0]:
                yield Anomaly(
                    promises.W3,
                    f"process {other} ended before {one}, and woke {session} after it",
                    (ended[one][1], ended[other][1], read),
                    "overtaken",
                    expected=f"wakeups in the order of the ends: {other}, {one}",
                    observed=f"wakeups in the order {one}, {other}",
                )


def _starved(view: ClientHistory) -> Iterator[Anomaly]:
    """A user's send that was refused because of more wakeups in a row than allowed (W10)."""
    for text, sends in view.sends.items():
        blockers: dict[str, Operation] = {}
        for sent in sends:
            if sent.outcome is Outcome.OK and sent.result["status"] == CONFLICT:
                run = sent.result["run"]
                if run is not None and run not in view.runs:
                    blockers.setdefault(run, sent)
        met = [op for op in view.deaths_since(sends[0]) if not sends[-1].precedes(op)]
        session = sends[0].argument["session"]
        bound = WAKEUPS_MAX * (1 + len(met)) + _unknown_sends(view, session)
        if len(blockers) > bound:
            yield Anomaly(
                promises.W10,
                f"send({session!r}, {text!r}) was refused because of {len(blockers)} wakeups",
                (*blockers.values(), sends[-1]),
                "starved",
                expected=f"at most {bound} wakeups before the user is admitted",
                observed=f"{len(blockers)} wakeups",
            )


def _unknown_sends(view: ClientHistory, session: str) -> int:
    """The number of users' runs that look like wakeups, because their replies were lost."""
    sends = (op for op in view.all("send") if op.argument["session"] == session)
    return sum(op.outcome is Outcome.INFO for op in sends)


def _acknowledged(view: ClientHistory) -> Iterator[Anomaly]:
    """An acknowledgement that had an effect (W11)."""
    for acknowledge in view.done("acknowledge"):
        if acknowledge.result is not True:
            yield Anomaly(
                promises.W11,
                f"{acknowledge.call} changed something",
                (acknowledge,),
                "not-a-noop",
                expected="-> true: accepted, without an effect",
                observed=acknowledge.answer,
            )
