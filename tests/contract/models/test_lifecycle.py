"""Tests that the model of the lifecycle accepts a right one, and names the promise of wrong ones.

The toys work in memory and call no provider: their answers name the agents to be called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.lifecycle import LifecycleModel
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import VALID, Validity, Verdict

Answer = dict[str, Any]
WAITING = 0.5  # the share of waiting callers among those that meet a commit in flight


@dataclass
class Segment:
    """Turns of one owner; `is_taken` while they are being committed."""

    owner: str | None
    is_taken: bool = False


@dataclass
class Entry:
    """One session."""

    agent: str | None = None
    generation: int = 0
    segments: list[Segment] = field(default_factory=list)

    @property
    def is_busy(self) -> bool:
        return any(segment.is_taken for segment in self.segments)


class Toy:
    """A right lifecycle, with one small method for each behaviour that a wrong one changes."""

    def __init__(self) -> None:
        self.entries_by_id: dict[str, Entry] = {}

    def entry(self, session: str) -> Entry:
        return self.entries_by_id.setdefault(session, Entry())

    def register(self, session: str, agent: str) -> Answer:
        if session:
            self.entry(session).agent = agent
        return {}

    def unregister(self, session: str) -> Answer:
        if session in self.entries_by_id:
            self.entry(session).agent = None
        return {}

    def complete_turn(self, session: str, agent: str | None) -> Answer:
        if not session:
            return {"generation": 0, "called": []}
        entry = self.entry(session)
        entry.agent = agent or entry.agent
        entry.generation += 1
        last = entry.segments[-1] if entry.segments else None
        if last is None or last.owner != entry.agent or entry.is_busy:
            entry.segments.append(Segment(entry.agent))
        return {"generation": entry.generation, "called": []}

    def dirty(self, session: str) -> Answer:
        return {"dirty": bool(session) and bool(self.peek(session).segments)}

    def peek(self, session: str) -> Entry:
        return self.entries_by_id.get(session, Entry())

    def discard(self, session: str) -> Answer:
        if not session or self.peek(session).segments:
            return {"gone": False}
        self.entries_by_id.pop(session, None)
        return {"gone": True}

    def owner(self, segment: Segment, explicit: str | None, entry: Entry) -> str | None:
        """The agent that commits the segment; the segment keeps the agent that it adopts."""
        segment.owner = segment.owner or explicit or entry.agent
        return segment.owner

    def next(self, session: str, agent: str | None) -> str | None:
        """Take the oldest segment that may be committed, and return its owner."""
        entry = self.peek(session)
        if not session or not entry.segments or entry.is_busy:
            return None
        owner = self.owner(entry.segments[0], agent, entry)
        entry.segments[0].is_taken = owner is not None
        return owner

    def settle(self, session: str, provider: str) -> bool:
        """The provider's call ended with this outcome."""
        segments = self.entry(session).segments
        segments[0].is_taken = False
        if provider == "ok":
            del segments[0]
        return provider == "ok"

    def called(self, session: str, owner: str) -> list[list[str]]:
        return [[session, owner]]

    def commit(
        self, session: str, agent: str | None, provider: str, *, wait: bool = False
    ) -> Answer:
        assert not wait or self.peek(session).is_busy
        early = {"early": False} if wait else {}
        owner = self.next(session, agent)
        if owner is None:
            return {"committed": False, "called": [], "blocked": False, **early}
        called = self.called(session, owner)
        committed = self.settle(session, provider)
        return {"committed": committed, "called": called, "blocked": False, **early}

    def begin_commit(self, session: str, agent: str | None) -> Answer:
        owner = self.next(session, agent)
        if owner is None:
            return {"committed": False, "called": [], "blocked": False}
        return {"committed": None, "called": self.called(session, owner), "blocked": False}

    def finish_commit(self, session: str, provider: str) -> Answer:
        return {"committed": self.settle(session, provider)}

    def drain_and_finish(self, session: str, provider: str) -> Answer:
        committed = self.settle(session, provider)
        return {"committed": committed, "waited": True, **self.drain(provider, 1.0)}

    def drained(self) -> list[str]:
        """The sessions that a shutdown commits."""
        return sorted(self.entries_by_id)

    def drain(self, provider: str, deadline_s: float) -> Answer:
        assert deadline_s > 0
        called = []
        for session in self.drained():
            for _ in tuple(self.entry(session).segments):
                if (owner := self.next(session, None)) is None:
                    break
                called += self.called(session, owner)
                if not self.settle(session, provider):
                    break
        return {"returned": True, "called": sorted(called)}

    def entries(self) -> Answer:
        return {"entries": len(self.entries_by_id)}

    def close(self) -> None:
        self.entries_by_id.clear()


class CommitsWhatIsRegistered(Toy):
    def next(self, session: str, agent: str | None) -> str | None:
        entry = self.peek(session)
        if session and not entry.generation and entry.agent:
            entry.segments.append(Segment(entry.agent))
        return super().next(session, agent)


class LateCommitClearsAll(Toy):
    def settle(self, session: str, provider: str) -> bool:
        if provider == "ok":
            del self.entry(session).segments[1:]
        return super().settle(session, provider)


class ForgetsFailedTurns(Toy):
    def settle(self, session: str, provider: str) -> bool:
        super().settle(session, "ok")
        return provider == "ok"


class ForgetsFailedOwner(Toy):
    def settle(self, session: str, provider: str) -> bool:
        if provider != "ok":
            self.entry(session).segments[0].owner = None
        return super().settle(session, provider)


class ReplacementSteals(Toy):
    def register(self, session: str, agent: str) -> Answer:
        for segment in self.peek(session).segments:
            segment.owner = segment.owner and agent
        return super().register(session, agent)


class ExplicitAgentSteals(Toy):
    def owner(self, segment: Segment, explicit: str | None, entry: Entry) -> str | None:
        adopted = super().owner(segment, explicit, entry)
        return explicit or adopted


class CommitsOverlap(Toy):
    def next(self, session: str, agent: str | None) -> str | None:
        for segment in self.peek(session).segments:
            segment.is_taken = False
        return super().next(session, agent)


class CommitsNothingNew(Toy):
    def next(self, session: str, agent: str | None) -> str | None:
        entry = self.peek(session)
        if session and entry.generation and not entry.segments:
            entry.segments.append(Segment(entry.agent))
        return super().next(session, agent)


class CommitsEachTurn(Toy):
    def called(self, session: str, owner: str) -> list[list[str]]:
        return [[session, owner]] * self.entry(session).generation


class ForgetsAdoptedOwner(Toy):
    def owner(self, segment: Segment, explicit: str | None, entry: Entry) -> str | None:
        return segment.owner or explicit or entry.agent


class CommitsWithoutOwner(Toy):
    def commit(
        self, session: str, agent: str | None, provider: str, *, wait: bool = False
    ) -> Answer:
        answer = super().commit(session, agent, provider, wait=wait)
        segments = self.peek(session).segments
        if segments and segments[0].owner is None and not answer["called"]:
            answer["committed"] = self.settle(session, provider)
        return answer


class DiscardsDirtyWork(Toy):
    def discard(self, session: str) -> Answer:
        return {"gone": bool(session) and [self.entries_by_id.pop(session, None)] != []}


class NeverDiscards(Toy):
    def discard(self, session: str) -> Answer:
        answer = super().discard(session)
        if answer["gone"]:
            self.entry(session)
        return answer


class CountsOnAfterDiscard(Toy):
    def discard(self, session: str) -> Answer:
        generation = self.peek(session).generation
        answer = super().discard(session)
        if answer["gone"] and generation:
            self.entry(session).generation = generation
        return answer


class AcceptsFalsySession(Toy):
    def complete_turn(self, session: str, agent: str | None) -> Answer:
        return super().complete_turn(str(session), agent)


class RaisesForFalsySession(Toy):
    def discard(self, session: str) -> Answer:
        if not session:
            raise KeyError(session)
        return super().discard(session)


class DrainsWhatIsRegistered(Toy):
    def drained(self) -> list[str]:
        return [session for session in super().drained() if self.entry(session).agent]


class NeverEndsItsShutdown(Toy):
    def drain(self, provider: str, deadline_s: float) -> Answer:
        hangs = any(entry.is_busy for entry in self.entries_by_id.values())
        return {**super().drain(provider, deadline_s), "returned": not hangs}


class SkipsCommitsInFlight(Toy):
    def drain_and_finish(self, session: str, provider: str) -> Answer:
        called = self.drain(provider, 1.0)["called"]
        committed = self.settle(session, provider)
        return {"committed": committed, "waited": False, "returned": True, "called": called}


class ForgetsWhatCameLate(Toy):
    def drain_and_finish(self, session: str, provider: str) -> Answer:
        return {**super().drain_and_finish(session, provider), "called": []}


class DrainsAnothersTurns(Toy):
    def drain(self, provider: str, deadline_s: float) -> Answer:
        answer = super().drain(provider, deadline_s)
        return {**answer, "called": [*answer["called"], ["s1", "b"]]}


class RefusesEarly(Toy):
    def commit(
        self, session: str, agent: str | None, provider: str, *, wait: bool = False
    ) -> Answer:
        answer = super().commit(session, agent, provider, wait=wait)
        return {**answer, "early": True} if wait else answer


class CommitsAtOnce(Toy):
    def complete_turn(self, session: str, agent: str | None) -> Answer:
        answer = super().complete_turn(session, agent)
        if owner := self.next(session, None):
            self.settle(session, "ok")
            answer["called"] = self.called(session, owner)
        return answer


class LetsAnExitOut(Toy):
    def settle(self, session: str, provider: str) -> bool:
        if provider == "exit":
            raise SystemExit("the provider exits")
        return super().settle(session, provider)


class StaysWedgedByAnExit(Toy):
    def settle(self, session: str, provider: str) -> bool:
        settled = super().settle(session, provider)
        self.entry(session).segments[:1] = [
            replace(segment, is_taken=provider == "exit")
            for segment in self.entry(session).segments[:1]
        ]
        return settled


class HoldsALock(Toy):
    def commit(
        self, session: str, agent: str | None, provider: str, *, wait: bool = False
    ) -> Answer:
        answer = super().commit(session, agent, provider, wait=wait)
        return {**answer, "blocked": bool(answer["called"])}


def ask(toy: Toy, function: str, **argument: Any) -> Operation:
    """Make a call, and return the operation."""
    invoked = Operation(0, function, argument, Outcome.INFO, 0, None)
    try:
        result = getattr(toy, function)(**argument)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a refusal, whatever its type
        text = f"{type(error).__name__}: {error}"
        return replace(invoked, outcome=Outcome.FAIL, completed_ns=0, error=text)
    return replace(invoked, outcome=Outcome.OK, completed_ns=0, result=result)


def play(toy: Toy, story: str) -> Iterator[Operation]:
    """Play a story about one session: `turn a, fail, register b, ok, begin, finish ok, drain`."""
    for line in story.split(", "):
        verb, _, word = line.partition(" ")
        session = {"session": "s1"}
        agent = {**session, "agent": word or None}
        questions: dict[str, tuple[str, dict[str, Any]]] = {
            "register": ("register", agent),
            "turn": ("complete_turn", agent),
            "ok": ("commit", {**agent, "provider": "ok"}),
            "fail": ("commit", {**agent, "provider": "fail"}),
            "exit": ("commit", {**agent, "provider": "exit"}),
            "begin": ("begin_commit", agent),
            "finish": ("finish_commit", {**session, "provider": word}),
            "wait": ("commit", {**agent, "provider": "ok", "wait": True}),
            "drain-and-finish": ("drain_and_finish", {**session, "provider": word}),
            "drain": ("drain", {"provider": "ok", "deadline_s": 1.0}),
            "entries": ("entries", {}),
            "turn-of-falsy": ("complete_turn", {"session": None, "agent": "a"}),
            "discard-falsy": ("discard", {"session": None}),
        }
        function, argument = questions.get(verb, (verb, session))
        yield ask(toy, function, **argument)


def random_calls(toy: Toy, rng: Random, *, waits: bool = False) -> Iterator[Operation]:
    """Make random calls, with one commit in flight at a time, and shut down at the end.

    Where a caller `waits`, it may wait for the commit in flight, and a shutdown may too.
    """
    hanging = None
    for _ in range(15):
        session, agent = rng.choice(["s1", "s1", "s2"]), rng.choice([None, "a", "b"])
        maybe_session = rng.choice([session, session, None])
        provider = rng.choice(["ok", "fail", "exit"])
        questions: dict[str, dict[str, Any]] = {
            "complete_turn": {"session": maybe_session, "agent": agent},
            "commit": {"session": session, "agent": agent, "provider": provider},
            "register": {"session": session, "agent": agent or "a"},
            "unregister": {"session": session},
            "dirty": {"session": session},
            "discard": {"session": maybe_session},
            "entries": {},
        }
        if hanging is None:
            questions["begin_commit"] = {"session": session, "agent": agent}
            questions["drain"] = {"provider": provider, "deadline_s": 1.0}
        else:
            questions["finish_commit"] = {"session": hanging, "provider": provider}
            if waits:
                questions["drain_and_finish"] = {"session": hanging, "provider": provider}
            if waits and rng.random() < WAITING:
                waiting = {"session": hanging, "agent": agent, "provider": "ok", "wait": True}
                questions["commit"] = waiting
        function = rng.choice(list(questions))
        operation = ask(toy, function, **questions[function])
        yield operation
        match function:
            case "begin_commit" if operation.result["committed"] is None:
                hanging = session
            case "finish_commit" | "drain_and_finish":
                hanging = None
    yield ask(toy, "drain", provider="ok", deadline_s=1.0)


STORIES: list[tuple[type[Toy], Promise, str]] = [
    (CommitsWhatIsRegistered, promises.L1, "register a, ok"),
    (LateCommitClearsAll, promises.L2, "turn a, begin, turn a, finish ok, dirty"),
    (LateCommitClearsAll, promises.L2, "turn a, begin, turn a, finish ok, ok"),
    (LateCommitClearsAll, promises.L2, "turn a, begin, turn a, finish ok, discard"),
    (ForgetsFailedTurns, promises.L3, "turn a, fail, dirty"),
    (ForgetsFailedTurns, promises.L3, "turn a, fail, discard"),
    (ForgetsFailedTurns, promises.L3, "turn a, fail, drain"),
    (ForgetsFailedOwner, promises.L3, "turn a, fail, ok b"),
    (ReplacementSteals, promises.L4, "turn a, register b, ok"),
    (ExplicitAgentSteals, promises.L4, "turn a, ok b"),
    (CommitsOverlap, promises.L5, "turn a, begin, ok"),
    (CommitsNothingNew, promises.L6, "turn a, ok, ok"),
    (CommitsEachTurn, promises.L7, "turn a, turn a, ok"),
    (CommitsEachTurn, promises.L7, "turn a, turn a, drain"),
    (ForgetsAdoptedOwner, promises.L8, "turn, fail a, ok b"),
    (CommitsWithoutOwner, promises.L8, "turn, ok"),
    (DiscardsDirtyWork, promises.L9, "turn a, discard"),
    (NeverDiscards, promises.L9, "turn a, ok, discard, entries"),
    (CountsOnAfterDiscard, promises.L9, "turn a, ok, discard, turn a"),
    (AcceptsFalsySession, promises.L10, "turn-of-falsy"),
    (RaisesForFalsySession, promises.L10, "discard-falsy"),
    (DrainsWhatIsRegistered, promises.L11, "turn a, unregister, drain"),
    (NeverEndsItsShutdown, promises.L11, "turn a, begin, drain"),
    (SkipsCommitsInFlight, promises.L11, "turn a, begin, turn a, drain-and-finish ok"),
    (ForgetsWhatCameLate, promises.L11, "turn a, begin, turn a, drain-and-finish ok"),
    (DrainsAnothersTurns, promises.L5, "turn a, begin, drain"),
    (RefusesEarly, promises.L5, "turn a, begin, wait"),
    (CommitsAtOnce, promises.L12, "turn a"),
    (LetsAnExitOut, promises.L13, "turn a, exit"),
    (StaysWedgedByAnExit, promises.L13, "turn a, exit, ok"),
    (HoldsALock, promises.L14, "turn a, ok"),
]
# Some are wrong only while a shutdown or a commit waits, which is rare in random calls.
WAITERS = (SkipsCommitsInFlight, ForgetsWhatCameLate, DrainsAnothersTurns, RefusesEarly)
WRONG = {make: promise for make, promise, _ in STORIES if make not in WAITERS}


def judged(operations: Iterable[Operation]) -> Verdict:
    """The model's verdict."""
    return conforms(LifecycleModel())(History(tuple(operations)))


@pytest.mark.parametrize(("make", "promise", "story"), STORIES)
def test_wrong_lifecycle_breaks_its_promise(make: type[Toy], promise: Promise, story: str) -> None:
    """The last answer of each story breaks the promise."""
    operations = tuple(play(make(), story))
    (anomaly,) = judged(operations).anomalies

    assert promise in anomaly.promises
    assert anomaly.evidence == operations


@pytest.mark.parametrize(("make", "promise", "story"), STORIES)
def test_same_story_of_a_right_lifecycle_is_valid(
    make: type[Toy], promise: Promise, story: str
) -> None:
    """The model refuses the answer, never the call, and lists the accepted answer."""
    operations = tuple(play(Toy(), story))
    (anomaly,) = judged(play(make(), story)).anomalies

    assert judged(operations) == VALID, promise
    assert operations[-1].result in anomaly.accepted or promise in (promises.L10, promises.L13)


def test_right_lifecycle_is_valid_for_any_calls() -> None:
    """The model refuses no right answer, for any calls in any order."""
    for seed in range(2000):
        assert judged(random_calls(Toy(), Random(seed), waits=seed % 2 == 0)) == VALID, seed


@pytest.mark.parametrize("make", WRONG)
def test_most_anomalies_of_a_bug_name_its_promise(make: type[Toy]) -> None:
    """A bug shows in many ways; at most two in a hundred name another promise.

    A stolen segment can merge with a segment of its new owner, and shows only later.
    """
    verdicts = {seed: judged(random_calls(make(), Random(seed))) for seed in range(300)}
    blamed = {seed: verdict.anomalies[0] for seed, verdict in verdicts.items() if verdict.anomalies}

    other = [seed for seed, anomaly in blamed.items() if WRONG[make] not in anomaly.promises]
    assert 50 * len(other) < len(blamed), [blamed[seed].message for seed in other]


def test_missing_answer_leaves_the_rest_unknown() -> None:
    """A harness that was killed during a call proves nothing about its answer."""
    asked = Operation(0, "complete_turn", {"session": "s1", "agent": "a"}, Outcome.INFO, 0, None)
    verdict = judged([*play(Toy(), "turn a, ok"), asked, *play(Toy(), "dirty")])

    assert verdict.validity is Validity.UNKNOWN
    assert verdict.unknowns == (
        "cut short: complete_turn(session='s1', agent='a') unknown: no reply",
    )
