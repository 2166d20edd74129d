"""Roused: every process that a turn started has woken its session when all is quiet, once.

For visits in which each process says a word of its own (`w17`), by which its wakeup is known: in
its output, or in its command where the output was lost. That a process was started is proven by
what its turn showed or said afterwards; a turn that a death ended before that may have started it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from harness.contract.checkers.server.client_history import (
    CONFLICT,
    NO_WRITES,
    OK,
    Visits,
    rows,
    shown,
)
from harness.core.history import Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly

Rule = Callable[[Visits], Iterable[Anomaly]]
WAKEUPS_MAX = 6  # that may begin while a user waits to be admitted
_PROCESS = re.compile(r"\[process=([^\[\]]*)\]")
_WORD = re.compile(r"\bw\d+\b")
_MATCHED = re.compile(r"^\[IMPORTANT: Background process \S+ printed")


@dataclass(frozen=True, slots=True)
class Spawn:
    """A process that a turn was told to start."""

    word: str
    session: str
    sent: Operation
    is_watched: bool
    is_proven: bool


class Wakeups:
    """Which processes were started, and which wakeups each word has had, by session."""

    def __init__(self, visits: Visits) -> None:
        """Read the last quiet reads."""
        self.visits = visits
        self.ended: dict[str, list[str]] = defaultdict(list)
        self.matched: dict[str, list[str]] = defaultdict(list)
        self.order: dict[str, list[str]] = defaultdict(list)
        self._replied: set[str] = set()
        woken = (
            text
            for read in visits.first.values()
            for role, text, _ in rows(read)
            if role == "wakeup"
        )
        self.at_first = {
            word for text in woken if not _MATCHED.match(text) for word in _WORD.findall(text)
        }
        for session, read in visits.final.items():
            asked = ""
            for role, text, _ in rows(read):
                if role == "wakeup":
                    asked = ""
                    self._note(session, text)
                elif role == "user":
                    asked = text
                elif asked and text:
                    self._replied.add(asked)
        self.spawns = list(self._spawns())

    def _note(self, session: str, text: str) -> None:
        for word in sorted(set(_WORD.findall(text))):
            if _MATCHED.match(text):
                self.matched[word].append(session)
            else:
                self.ended[word].append(session)
                self.order[session].append(word)

    def _spawns(self) -> Iterator[Spawn]:
        for text, sends in self.visits.sends.items():
            sent = sends[-1]
            if sent.outcome is Outcome.FAIL or (
                sent.outcome is Outcome.OK and sent.result["status"] != OK
            ):
                continue
            run = sent.result["run"] if sent.outcome is Outcome.OK else ""
            is_shown = any(shown(relay) for relay in self.visits.relays.get(run, ()))
            for started in _PROCESS.findall(text):
                for word in sorted(set(_WORD.findall(started))):
                    is_proven = is_shown or text in self._replied
                    session = sent.argument["session"]
                    yield Spawn(word, session, sent, "watch=" in started, is_proven)

    def may_be_gone(self, spawn: Spawn) -> bool:
        """Whether somebody may have removed the wakeup with other messages, or the session."""
        lost = spawn.session not in self.visits.final
        return lost or bool(self.visits.removers(spawn.session, spawn.word, spawn.sent))


def processes_wake_their_sessions(visits: Visits) -> Iterator[Anomaly]:
    """Whatever is wrong with wakeups, the root of it first."""
    wakeups = Wakeups(visits)
    for rule in (_misrouted, _doubled, _taken_for_an_end, _lost, _overtaken):
        yield from rule(wakeups)
    yield from _starved(visits)
    yield from _acknowledged(visits)


def _misrouted(wakeups: Wakeups) -> Iterator[Anomaly]:
    """A wakeup in a session that does not own the process (W6)."""
    for spawn in wakeups.spawns:
        for session in (*wakeups.ended[spawn.word], *wakeups.matched[spawn.word]):
            if session != spawn.session:
                message = f"{spawn.word} belongs to {spawn.session}, and woke {session}"
                evidence = (spawn.sent, wakeups.visits.final[session])
                yield Anomaly(Promise.W6, message, evidence, "misrouted", also=(Promise.T7,))


def _doubled(wakeups: Wakeups) -> Iterator[Anomaly]:
    """A process whose end woke more than once (W1), or whose one line did (W13)."""
    for spawn in wakeups.spawns:
        for woken, promise in ((wakeups.ended, Promise.W1), (wakeups.matched, Promise.W13)):
            if len(woken[spawn.word]) > 1:
                message = f"{spawn.word} woke {len(woken[spawn.word])} times"
                evidence = (spawn.sent, wakeups.visits.final[spawn.session])
                yield Anomaly(promise, message, evidence, "double-wakeup", also=(Promise.W1,))


def _taken_for_an_end(wakeups: Wakeups) -> Iterator[Anomaly]:
    """A line that was watched for, and told instead of the end, or not at all (W13).

    A death may have been in the way of either: it takes what was said and not yet heard.
    """
    for spawn in wakeups.spawns:
        if not spawn.is_watched or not spawn.is_proven or wakeups.may_be_gone(spawn):
            continue
        ended, matched = wakeups.ended[spawn.word], wakeups.matched[spawn.word]
        if bool(ended) == bool(matched) or wakeups.visits.deaths_since(spawn.sent):
            continue
        told, missed = ("line", "end") if matched else ("end", "line")
        message = f"the {told} of {spawn.word} was told, and its {missed} was not"
        evidence = (spawn.sent, wakeups.visits.final[spawn.session])
        yield Anomaly(Promise.W13, message, evidence, f"lost-{missed}")


def _lost(wakeups: Wakeups) -> Iterator[Anomaly]:
    """A process that surely was started, and woke nobody (W2 to W5, by what was in the way)."""
    visits = wakeups.visits
    for spawn in wakeups.spawns:
        if spawn.word in wakeups.at_first or not spawn.is_proven or wakeups.may_be_gone(spawn):
            continue
        deaths = wakeups.visits.deaths_since(spawn.sent)
        is_busy = len(visits.accepted_in.get(spawn.session, ())) > 1
        if visits.is_refused_since(spawn.sent):
            broken = Promise.W5
        elif deaths:
            broken = Promise.W4
        else:
            broken = Promise.W3 if is_busy else Promise.W2
        message = f"{spawn.word} ended, and woke nobody"
        evidence = (spawn.sent, *deaths[:1], visits.first[spawn.session])
        also = (Promise.W1, Promise.W12) if deaths else (Promise.W1,)
        yield Anomaly(broken, message, evidence, "lost-wakeup", also=also)


def _overtaken(wakeups: Wakeups) -> Iterator[Anomaly]:
    """Two wakeups of a session in another order than the server said its processes ended (W3)."""
    ends: dict[str, dict[str, tuple[float, Operation]]] = defaultdict(dict)
    for watch in wakeups.visits.done("watch"):
        for _, name, session, task, at in watch.result["rows"]:
            if name == "bg_task_complete":
                ends[session][task] = (at, watch)
    # What the disk refused is in memory only, and a death moves it behind what came later.
    if any(NO_WRITES in fault.name for fault in wakeups.visits.history.faults):
        return
    for session, told in ends.items():
        read = wakeups.visits.final.get(session)
        if read is None:
            continue
        woken = [text for role, text, _ in rows(read) if role == "wakeup"]
        tasks = [task for text in woken if (task := _task(text)) in told]
        for one, other in pairwise(tasks):
            if told[one][0] > told[other][0]:
                message = f"{other} ended before {one}, and woke {session} later"
                evidence = (told[one][1], told[other][1], read)
                yield Anomaly(Promise.W3, message, evidence, "overtaken")


def _task(text: str) -> str:
    match = re.match(r"\[IMPORTANT: Background process (\S+) (?!printed)", text)
    return match[1] if match else ""


def _starved(visits: Visits) -> Iterator[Anomaly]:
    """A user who was refused because of one wakeup after another (W10)."""
    for text, sends in visits.sends.items():
        in_the_way: dict[str, Operation] = {}
        for sent in sends:
            if sent.outcome is Outcome.OK and sent.result["status"] == CONFLICT:
                run = sent.result["run"]
                if run is not None and run not in visits.runs:
                    in_the_way.setdefault(run, sent)
        met = [op for op in visits.deaths_since(sends[0]) if not sends[-1].precedes(op)]
        bound = WAKEUPS_MAX * (1 + len(met)) + _lost_sends(visits, sends[0].argument["session"])
        if len(in_the_way) > bound:
            message = f"{text!r} was refused because of {len(in_the_way)} wakeups"
            evidence = (*in_the_way.values(), sends[-1])
            yield Anomaly(Promise.W10, message, evidence, "starved")


def _lost_sends(visits: Visits, session: str) -> int:
    """How many runs of users nobody can tell from wakeups, because their answers were lost."""
    sends = (op for op in visits.all("send") if op.argument["session"] == session)
    return sum(op.outcome is Outcome.INFO for op in sends)


def _acknowledged(visits: Visits) -> Iterator[Anomaly]:
    """An acknowledgement that is said to have changed something (W11)."""
    for told in visits.done("acknowledge"):
        if told.result is not True:
            yield Anomaly(Promise.W11, f"{told}", (told,), "not-a-noop")
