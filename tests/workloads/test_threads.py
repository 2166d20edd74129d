"""What threads that meet do wrong is found, stored, judged again, and seen again.

Each toy keeps one list of texts, and most of them keep it wrongly.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness.contract.checkers.threads.session_writes import writes_are_stored
from harness.core import history
from harness.core.history import History
from harness.core.promises import Promise
from harness.core.verdict import Validity, Verdict
from harness.engine import runner
from harness.engine.runner import Judgement
from harness.engine.scenario import Mode, Scenario
from harness.engine.target import AdapterInstance
from harness.schedule import Call, LockRules, calling
from harness.workloads.threads import Interleaving, Program

SAY_A = Call("append", {"text": "a"})
SAY_B = Call("append", {"text": "b"})
READ = Call("messages")


def _nothing() -> None:
    """What a call does that is only looked at."""


ask_provider = calling("provider", _nothing)


class Store:
    """Right: it reads and writes under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: tuple[str, ...] = ()

    def append(self, text: str) -> None:
        with self._lock:
            self._texts = (*self._texts, text)

    def messages(self) -> list[str]:
        with self._lock:
            return list(self._texts)

    def close(self) -> None:
        """Nothing is held."""


class LosesUpdates(Store):
    def append(self, text: str) -> None:
        texts = self.messages()
        with self._lock:
            self._texts = (*texts, text)


class LocksTwice(Store):
    def __init__(self) -> None:
        super().__init__()
        self._other = threading.Lock()

    def append(self, text: str) -> None:
        first, second = (self._lock, self._other) if text == "a" else (self._other, self._lock)
        with first, second:
            self._texts = (*self._texts, text)


class AsksUnderLock(Store):
    def append(self, text: str) -> None:
        with self._lock:
            ask_provider()
            self._texts = (*self._texts, text)


class Exits(Store):
    def append(self, text: str) -> None:
        raise SystemExit(text)


@dataclass
class Toy:
    """A target of one ability: whatever `make` gives."""

    make: type[Store]
    name: str = "toy"
    abilities: frozenset[str] = field(default=frozenset({"toy"}))

    def prepare(self) -> None:
        """Nothing to make ready."""

    def open(self, ability: str, folder: Path) -> AdapterInstance:
        assert ability in self.abilities
        assert folder.is_dir()
        return AdapterInstance(self.make())

    def standalone(self, ability: str) -> str:
        return f"{ability} has none"


def appends_met(told: History) -> bool:
    """Two texts were written at once."""
    writes = [op for op in told if op.function == "append"]
    return any(one.meets(two) for one, two in itertools.combinations(writes, 2))


MEETINGS = Interleaving(
    programs=(
        Program("one after another", ((SAY_A, SAY_B),), Promise.S1, last=(READ,)),
        Program("two at once", ((SAY_A,), (SAY_B,)), Promise.S1, last=(READ,), held=(Promise.L14,)),
    ),
    check=writes_are_stored,
    rules=LockRules(free_during=(("provider", "*"),), ordered=False),
    meetings={"two appends met": appends_met},
)


def scenario(meetings: Interleaving = MEETINGS) -> Scenario:
    return Scenario(
        name="toy-threads",
        mode=Mode.SCHEDULE,
        ability="toy",
        promises=(Promise.S2,),
        workload=meetings.explore,
        checker=meetings.judge,
        expectations=tuple(meetings.met(meeting) for meeting in meetings.meetings),
        examples=120,
        replay=meetings.replay,
    )


def tried(make: type[Store], folder: Path, meetings: Interleaving = MEETINGS) -> Judgement:
    """Explore a toy, and judge what the journal says."""
    return runner.run(scenario(meetings), Toy(make), seed=1, effort=1.0, folder=folder)


def failed(folder: Path) -> History:
    """The stored episode that has a finding."""
    (found,) = (one for one in history.read(folder / runner.HISTORY) if one.notes["finding"])
    return found


def again(make: type[Store], stored: History, folder: Path) -> Judgement:
    """Play a stored finding again, on this toy."""
    replayed = replace(scenario(), workload=lambda stage: MEETINGS.replay(stage, stored))
    return runner.run(replayed, Toy(make), seed=1, effort=1.0, folder=folder)


def test_a_right_store_is_valid_and_its_meetings_are_counted(tmp_path: Path) -> None:
    """Nothing is found, and how many different histories had a meeting is told."""
    judgement = tried(Store, tmp_path)
    (met,) = judgement.verdict.assumptions
    alone, together = history.read(tmp_path / runner.HISTORY)

    assert judgement.verdict.is_valid
    assert met.observed >= 1
    assert alone.notes["meetings"]["two appends met"] == 0
    assert together.notes["meetings"]["two appends met"] == met.observed
    assert judgement.episodes == alone.notes["schedules"] + together.notes["schedules"]


def test_a_meeting_that_never_was_leaves_the_verdict_unknown(tmp_path: Path) -> None:
    """One thread alone meets nobody, so nothing is said of those that meet."""
    alone = replace(MEETINGS, programs=MEETINGS.programs[:1])

    assert tried(Store, tmp_path, alone).verdict.validity is Validity.UNKNOWN


def test_a_lost_update_is_found_stored_and_judged_again(tmp_path: Path) -> None:
    """A lost update is found; what the journal holds proves it without the toy.

    C1: |- append a: read []        write [a] -|
    C2:      |- append b: read []                 write [b] -|
    C0:                                                        |- messages -> [b] -|
    """
    judgement = tried(LosesUpdates, tmp_path)
    stored = failed(tmp_path)
    (anomaly,) = judgement.verdict.anomalies

    assert anomaly.promise is Promise.S2
    assert stored.notes["program"] == "two at once"
    assert appends_met(stored)
    assert MEETINGS.judge(stored).anomalies == (anomaly,)
    assert runner.judge(scenario(), tmp_path).verdict == judgement.verdict


def test_a_finding_is_seen_again_by_its_choices(tmp_path: Path) -> None:
    """The same schedule fails the same way on the same toy, and is fine on a right one."""
    tried(LosesUpdates, tmp_path / "found")
    stored = failed(tmp_path / "found")

    seen = again(LosesUpdates, stored, tmp_path / "seen")
    fixed = again(Store, stored, tmp_path / "fixed")

    assert [one.promise for one in seen.verdict.anomalies] == [Promise.S2]
    assert failed(tmp_path / "seen").operations == stored.operations
    assert fixed.verdict.anomalies == ()


def test_another_failure_is_not_taken_for_the_same_finding(tmp_path: Path) -> None:
    """Under the choices that once lost an update, another toy asks its provider under a lock."""
    tried(LosesUpdates, tmp_path / "found")

    seen = again(AsksUnderLock, failed(tmp_path / "found"), tmp_path / "seen")

    assert seen.verdict.anomalies == ()


def test_a_deadlock_is_blamed_on_what_is_stuck(tmp_path: Path) -> None:
    """A deadlock is blamed on what is stuck.

    C1: [lock]      waits for [other]
    C2:      [other]                  waits for [lock]
    """
    (anomaly,) = tried(LocksTwice, tmp_path).verdict.anomalies

    assert (anomaly.name, anomaly.promise) == ("deadlock", Promise.S1)
    assert MEETINGS.judge(failed(tmp_path)).anomalies == (anomaly,)


def test_what_leaves_a_thread_is_blamed_on_what_is_stuck(tmp_path: Path) -> None:
    """A refusal is an answer; what takes the thread along is none."""
    (anomaly,) = tried(Exits, tmp_path).verdict.anomalies

    assert (anomaly.name, anomaly.promise) == ("exception", Promise.S1)


def test_a_lock_that_a_provider_meets_is_blamed_on_who_holds_it(tmp_path: Path) -> None:
    """A program says whose promise that is; one that does not is stuck by it."""
    (first, _) = MEETINGS.programs
    silent = replace(MEETINGS, programs=(first,))
    loud = replace(MEETINGS, programs=(replace(first, held=(Promise.A4, Promise.L14)),))

    (stuck,) = tried(AsksUnderLock, tmp_path / "silent", silent).verdict.anomalies
    (held,) = tried(AsksUnderLock, tmp_path / "loud", loud).verdict.anomalies

    assert (stuck.name, stuck.promises) == ("held", frozenset({Promise.S1}))
    assert held.promises == frozenset({Promise.A4, Promise.L14})


def test_a_better_checker_may_acquit_a_stored_schedule(tmp_path: Path) -> None:
    """A schedule that came to its end is judged by its history alone, now as then."""
    tried(LosesUpdates, tmp_path)
    kinder = replace(MEETINGS, check=lambda _: Verdict())

    assert kinder.judge(failed(tmp_path)).is_valid


def test_histories_that_nobody_could_judge_leave_the_verdict_unknown(tmp_path: Path) -> None:
    """A checker that gave up has not found a right store."""
    tired = replace(MEETINGS, check=lambda _: Verdict(unknowns=("out of steps",)))
    verdict = tried(Store, tmp_path, tired).verdict

    assert verdict.validity is Validity.UNKNOWN
    assert verdict.unknowns == ("one after another: out of steps", "two at once: out of steps")


@pytest.mark.parametrize("make", [Store, LosesUpdates, LocksTwice])
def test_the_same_seed_tells_the_same_story(make: type[Store], tmp_path: Path) -> None:
    def told(folder: Path) -> list[Mapping[str, Any]]:
        tried(make, folder)
        episodes = history.read(folder / runner.HISTORY)
        return [{**one.notes, "bought": "", "digest": history.digest([one])} for one in episodes]

    assert told(tmp_path / "one") == told(tmp_path / "two")
