"""Tests of programs of threads: findings are detected, stored, judged again and replayed.

Each toy stores one list of texts, and most of them have a bug.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.session_writes import check_session_writes
from harness.core import history
from harness.core.errors import UsageError
from harness.core.history import History
from harness.core.verdict import Validity, Verdict
from harness.engine import runner
from harness.engine.runner import Judgement
from harness.engine.scenario import Mode, Scenario
from harness.engine.target import AdapterInstance, Instance
from harness.schedule import Call, LockRules, calling
from harness.workloads.threads import Interleaving, Program

SAY_A = Call("append", {"text": "a"})
SAY_B = Call("append", {"text": "b"})
READ = Call("messages")


def _nothing() -> None:
    """Do nothing; the lock rules observe the call."""


ask_provider = calling("provider", _nothing)


class Store:
    """Correct: it reads and writes under one lock."""

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
        """Do nothing: the store holds no resource."""


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
    """A target of one ability, whose adapters `make` creates."""

    make: type[Store]
    name: str = "toy"
    abilities: frozenset[str] = field(default=frozenset({"toy"}))

    def prepare(self) -> None:
        """Do nothing: a toy needs no preparation."""

    def open(self, ability: str, folder: Path) -> Instance:
        assert ability in self.abilities
        assert folder.is_dir()
        return AdapterInstance(self.make())

    def standalone(self, ability: str) -> str:
        return f"{ability} has none"


class Elsewhere:
    """An instance whose adapter runs in another process."""

    def call(self, function: str, argument: Mapping[str, Any]) -> Any:
        raise AssertionError(f"unexpected call {function}({argument})")

    def close(self) -> None:
        """Do nothing: the instance holds no resource."""


class ElsewhereToy(Toy):
    """A target whose instances run in another process."""

    def open(self, ability: str, folder: Path) -> Instance:  # noqa: ARG002  they have no files
        return Elsewhere()


def appends_met(episode: History) -> bool:
    """Whether two appends were concurrent."""
    writes = [op for op in episode if op.function == "append"]
    return any(first.meets(second) for first, second in itertools.combinations(writes, 2))


MEETINGS = Interleaving(
    programs=(
        Program("one after another", ((SAY_A, SAY_B),), promises.S1, last=(READ,)),
        Program(
            "two at once", ((SAY_A,), (SAY_B,)), promises.S1, last=(READ,), held=(promises.L14,)
        ),
    ),
    check=check_session_writes,
    rules=LockRules(free_during=(("provider", "*"),), ordered=False),
    meetings={"two appends met": appends_met},
)


def scenario(meetings: Interleaving = MEETINGS) -> Scenario:
    return Scenario(
        name="toy-threads",
        mode=Mode.SCHEDULE,
        ability="toy",
        promises=(promises.S2,),
        workload=meetings.explore,
        checker=meetings.judge,
        expectations=tuple(meetings.met(meeting) for meeting in meetings.meetings),
        examples=120,
        replay=meetings.replay,
    )


def explored(make: type[Store], folder: Path, meetings: Interleaving = MEETINGS) -> Judgement:
    """Explore a toy, and judge its journal."""
    return runner.run(scenario(meetings), Toy(make), seed=1, effort=1.0, folder=folder)


def failed(folder: Path) -> History:
    """The stored episode that has a finding."""
    episodes = history.read(folder / runner.HISTORY)
    (found,) = (episode for episode in episodes if episode.notes["finding"])
    return found


def explorations(folder: Path) -> list[History]:
    """The episodes of whole programs."""
    episodes = history.read(folder / runner.HISTORY)
    return [episode for episode in episodes if "bought" in episode.notes]


def samples(folder: Path) -> list[History]:
    """The stored histories without a finding."""
    episodes = history.read(folder / runner.HISTORY)
    return [episode for episode in episodes if "bought" not in episode.notes]


def replayed(make: type[Store], stored: History, folder: Path) -> Judgement:
    """Replay a stored finding on this toy."""
    replaying = replace(scenario(), workload=lambda context: MEETINGS.replay(context, stored))
    return runner.run(replaying, Toy(make), seed=1, effort=1.0, folder=folder)


def test_correct_store_is_valid_with_counted_meetings(tmp_path: Path) -> None:
    """The episode records in how many different histories a meeting happened."""
    judgement = explored(Store, tmp_path)
    (met,) = judgement.verdict.expectations
    alone, together = explorations(tmp_path)

    assert judgement.verdict.is_valid
    assert met.observed >= 1
    assert alone.notes["meetings"]["two appends met"] == 0
    assert together.notes["meetings"]["two appends met"] == met.observed
    assert judgement.episodes == alone.notes["schedules"] + together.notes["schedules"]


def test_missing_meeting_makes_the_verdict_unknown(tmp_path: Path) -> None:
    """A program with one thread has no concurrent calls, so it proves nothing about them."""
    alone = replace(MEETINGS, programs=MEETINGS.programs[:1])

    assert explored(Store, tmp_path, alone).verdict.validity is Validity.UNKNOWN


class OlderToy(Toy):
    """A target that cannot append, and of which a schedule is worth ten."""

    lacking = "append"

    def lacks(self, ability: str) -> frozenset[str]:
        """What it does not offer."""
        return frozenset({self.lacking}) if ability == "toy" else frozenset()

    def cost(self, ability: str) -> int:
        """How many schedules one of it is worth."""
        return 10 if ability == "toy" else 1


@pytest.mark.parametrize("lacking", ["append", "append.text"])
def test_what_a_target_lacks_is_not_asked(lacking: str, tmp_path: Path) -> None:
    """Programs that need it are left out by name, and only a meeting that needs it is excused."""
    reads = Program("reads", ((READ,),), promises.S1)
    needing = replace(MEETINGS, programs=(*MEETINGS.programs, reads))
    toy = OlderToy(Store)
    toy.lacking = lacking

    found = {}
    for name, needs in (("needs", {"two appends met": (lacking,)}), ("needs nothing", {})):
        folder = tmp_path / name
        folder.mkdir()
        asked = scenario(replace(needing, needs=needs))
        found[name] = runner.run(asked, toy, seed=1, effort=1.0, folder=folder)
    unasked, only = history.read(tmp_path / "needs" / runner.HISTORY)[:2]

    assert unasked.notes["unasked"] == ["one after another", "two at once"]
    assert (only.notes["program"], only.notes["schedules"]) == ("reads", 1)
    assert found["needs"].verdict.is_valid
    assert found["needs nothing"].verdict.validity is Validity.UNKNOWN


def test_schedule_that_costs_more_is_asked_less(tmp_path: Path) -> None:
    """The two programs get a tenth of their schedules."""
    toy = OlderToy(Store)
    toy.lacking = "nothing"
    runner.run(scenario(), toy, seed=1, effort=1.0, folder=tmp_path)

    assert [episode.notes["schedules"] for episode in explorations(tmp_path)] == [1, 6]


def test_lost_update_is_found_and_judged_again(tmp_path: Path) -> None:
    """The stored history proves the lost update without the toy.

    C1: |- append a: read []        write [a] -|
    C2:      |- append b: read []                 write [b] -|
    C0:                                                        |- messages -> [b] -|
    """
    judgement = explored(LosesUpdates, tmp_path)
    stored = failed(tmp_path)
    (anomaly,) = judgement.verdict.anomalies

    assert anomaly.promise == promises.S2
    assert stored.notes["program"] == "two at once"
    assert appends_met(stored)
    assert MEETINGS.judge(stored).anomalies == (anomaly,)
    assert runner.judge(scenario(), tmp_path).verdict == judgement.verdict


def test_finding_is_reproduced_by_its_choices(tmp_path: Path) -> None:
    """The schedule fails in the same way on the same toy, and passes on a correct one."""
    explored(LosesUpdates, tmp_path / "found")
    stored = failed(tmp_path / "found")

    seen = replayed(LosesUpdates, stored, tmp_path / "seen")
    fixed = replayed(Store, stored, tmp_path / "fixed")

    assert [anomaly.promise for anomaly in seen.verdict.anomalies] == [promises.S2]
    assert failed(tmp_path / "seen").operations == stored.operations
    assert fixed.verdict.anomalies == ()


def test_replay_with_another_failure_is_no_finding(tmp_path: Path) -> None:
    """Under the choices of a lost update, another toy calls its provider under a lock."""
    explored(LosesUpdates, tmp_path / "found")

    seen = replayed(AsksUnderLock, failed(tmp_path / "found"), tmp_path / "seen")

    assert seen.verdict.anomalies == ()


def test_deadlock_breaks_the_stuck_promise(tmp_path: Path) -> None:
    """Two threads take two locks in different orders.

    C1: [lock]      waits for [other]
    C2:      [other]                  waits for [lock]
    """
    (anomaly,) = explored(LocksTwice, tmp_path).verdict.anomalies

    assert (anomaly.name, anomaly.promise) == ("deadlock", promises.S1)
    assert MEETINGS.judge(failed(tmp_path)).anomalies == (anomaly,)


def test_escaped_exception_breaks_the_stuck_promise(tmp_path: Path) -> None:
    """A refusal is an answer; an exception that ends the thread is not."""
    (anomaly,) = explored(Exits, tmp_path).verdict.anomalies

    assert (anomaly.name, anomaly.promise) == ("exception", promises.S1)


def test_lock_held_during_a_provider_breaks_held(tmp_path: Path) -> None:
    """The program's `held` names the promises; without it the promise `stuck` is broken."""
    (first, _) = MEETINGS.programs
    silent = replace(MEETINGS, programs=(first,))
    loud = replace(MEETINGS, programs=(replace(first, held=(promises.A4, promises.L14)),))

    (stuck,) = explored(AsksUnderLock, tmp_path / "silent", silent).verdict.anomalies
    (held,) = explored(AsksUnderLock, tmp_path / "loud", loud).verdict.anomalies

    assert (stuck.name, stuck.promises) == ("held", frozenset({promises.S1}))
    assert held.promises == frozenset({promises.A4, promises.L14})


def test_nested_lock_breaks_nested() -> None:
    """The promises of a lock inside another are `nested`, or those of `held`."""
    (first, _) = MEETINGS.programs
    held = replace(first, held=(promises.A4,))

    assert held.broken_by("nested") == (promises.A4,)
    assert replace(held, nested=(promises.A3,)).broken_by("nested") == (promises.A3,)
    assert replace(held, nested=(promises.A3,)).broken_by("held") == (promises.A4,)


def test_changed_checker_judges_a_stored_schedule(tmp_path: Path) -> None:
    """A schedule that came to its end is judged by its history alone."""
    explored(LosesUpdates, tmp_path)
    kinder = replace(MEETINGS, check=lambda _: Verdict())

    assert kinder.judge(failed(tmp_path)).is_valid


def test_unjudged_history_makes_the_verdict_unknown(tmp_path: Path) -> None:
    """A checker that gives up has not found the store valid."""
    limited = replace(MEETINGS, check=lambda _: Verdict(unknowns=("out of steps",)))
    verdict = explored(Store, tmp_path, limited).verdict

    assert verdict.validity is Validity.UNKNOWN
    assert verdict.unknowns == ("one after another: out of steps", "two at once: out of steps")


@pytest.mark.parametrize("make", [Store, LosesUpdates, LocksTwice])
def test_same_seed_gives_the_same_episodes(make: type[Store], tmp_path: Path) -> None:
    """Everything but the measured time is equal."""

    def recorded(folder: Path) -> list[Mapping[str, Any]]:
        explored(make, folder)
        return [
            {**episode.notes, "bought": "", "digest": history.digest([episode])}
            for episode in history.read(folder / runner.HISTORY)
        ]

    assert recorded(tmp_path / "one") == recorded(tmp_path / "two")


def test_instance_without_an_adapter_is_a_usage_error(tmp_path: Path) -> None:
    """The error names the target, the ability and the missing attribute."""
    with pytest.raises(UsageError, match=r"target toy, ability toy: .*attribute `adapter`"):
        runner.run(scenario(), ElsewhereToy(Store), seed=1, effort=1.0, folder=tmp_path)


def test_clean_histories_are_stored_and_judged(tmp_path: Path) -> None:
    """A few schedules of each program, one with the meeting; a changed answer is noticed."""
    explored(Store, tmp_path)
    stored = samples(tmp_path)
    programs = [sample.notes["program"] for sample in stored]

    assert set(programs) == {"one after another", "two at once"}
    assert programs.count("two at once") <= MEETINGS.samples
    assert any(map(appends_met, stored))
    for sample in stored:
        assert MEETINGS.judge(sample).is_valid
        *calls, read = sample
        lost = replace(read, result=read.result[1:])
        assert not MEETINGS.judge(replace(sample, operations=(*calls, lost))).is_valid


class ReadsTwice(Store):
    """Adds without a lock, with a call between the read and the write."""

    def append(self, text: str) -> None:
        texts = self._texts
        _nothing()
        self._texts = (*texts, text)


def test_unlocked_update_is_found_without_modules(tmp_path: Path) -> None:
    """Accesses that race are points, where a stock CPython can switch."""
    (anomaly,) = explored(ReadsTwice, tmp_path).verdict.anomalies

    assert anomaly.promise == promises.S2
    assert failed(tmp_path).notes["finding"]["points"]


def test_modules_on_trial_are_explored_by_line(tmp_path: Path) -> None:
    """A share of the schedules has points at the lines of the named modules."""
    named = replace(MEETINGS, modules=(__name__, "not.loaded"))
    judgement = explored(Store, tmp_path, named)
    bought = [episode.notes["bought"] for episode in explorations(tmp_path)]

    assert judgement.verdict.is_valid
    assert all(
        "line level, " in text and f"lines of {__name__} are points" in text for text in bought
    )


@pytest.mark.parametrize(("source", "is_explored"), [(Path(__file__).parent, True), ("/x", False)])
def test_modules_of_others_are_not_explored(
    source: Path, *, is_explored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that says where its source is has no lines elsewhere, loaded as they may be."""
    monkeypatch.setattr(Toy, "source", Path(source), raising=False)
    judgement = explored(Store, tmp_path, replace(MEETINGS, modules=(__name__,)))
    bought = [episode.notes["bought"] for episode in explorations(tmp_path)]

    assert judgement.verdict.is_valid
    assert all(("line level, " in text) is is_explored for text in bought)
