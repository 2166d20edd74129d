"""What is found is a value: told, stored, shrunk, and played again."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from harness.core.errors import UsageError
from harness.core.verdict import Validity
from harness.schedule import (
    Budget,
    Finding,
    Level,
    Run,
    adopt,
    as_pytest,
    causality,
    explore,
    replay,
    reproduced,
)
from harness.schedule.finding import as_json

FEW = Budget(schedules=2_000, seconds=20.0)


class Counter:
    """Adds in two critical sections, and so loses updates."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self) -> None:
        """Read in one section, write in the next."""
        with self._lock:
            seen = self.value
        with self._lock:
            self.value = seen + 1


def counter(run: Run) -> None:
    """Two adds must count two."""
    subject = Counter()
    run.thread(subject.add, name="a")
    run.thread(subject.add, name="b")
    run.join()
    assert subject.value == 2


def found(body: object, **options: object) -> Finding:
    """The finding there must be."""
    finding = explore(body, budget=FEW, **options).finding  # type: ignore[arg-type]
    assert finding is not None
    return finding


def test_a_lost_update_is_found_and_told_in_columns() -> None:
    finding = found(counter)
    assert finding.kind == "assertion"
    assert finding.feasible
    assert "acquire Counter._lock" in finding.story
    assert "with self._lock:" in finding.story
    assert finding.replayed == finding.replays


@pytest.mark.parametrize("strategy", ["random", "sticky", "pct-2", "pos", "bounded", "reduced"])
def test_every_strategy_finds_it(strategy: str) -> None:
    assert found(counter, strategies=[strategy]).strategy == strategy


def test_a_finding_shrinks_to_the_one_switch_it_needs() -> None:
    """A random schedule switches often; one preemption is enough for this.

    a: [read]                 [write]
    b:        [read] [write]
    """
    finding = found(counter, strategies=["random"])
    assert sum(step.preempted for step in finding.steps) == 1


def test_a_finding_fails_again_100_times_of_100() -> None:
    assert reproduced(counter, found(counter), times=100) == 100


def test_the_same_seed_finds_the_same() -> None:
    first, second = (explore(counter, budget=FEW, seed=3, strategies=["random"]) for _ in range(2))
    assert first.finding is not None
    assert second.finding is not None
    assert first.schedules == second.schedules
    assert first.finding.choices == second.finding.choices


def test_a_finding_survives_json() -> None:
    finding = found(counter)
    assert Finding.from_json(json.loads(as_json(finding))) == finding


def test_the_pytest_file_fails_on_its_first_run(tmp_path: Path) -> None:
    """It stands alone: another process runs it, and it fails for the finding's own reason."""
    file = tmp_path / "test_replayed.py"
    file.write_text(as_pytest(found(counter), f"{__name__}:counter"))
    root = Path(__file__).parents[2]
    done = subprocess.run(  # noqa: S603 - it runs what we just wrote
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", file],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root), "PATH": ""},
        cwd=tmp_path,
        timeout=60.0,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "assertion: AssertionError" in done.stdout


def test_a_body_that_cannot_be_imported_makes_no_file() -> None:
    with pytest.raises(UsageError, match="no body"):
        as_pytest(found(counter), "nowhere:counter")


def test_the_step_that_baked_the_failure_in_is_marked() -> None:
    """It is where the second thread comes between the first one's two sections."""
    told = causality(counter, found(counter), samples=60)
    first, last = told.odds[0].probability, told.odds[-1].probability
    assert first < 0.9
    assert last == 1.0
    baked = next(step for step in told.finding.steps if step.baked)
    assert baked.number == told.baked_at
    assert baked.thread in ("a", "b")


def test_a_deadlock_is_found_with_every_stack() -> None:
    def body(run: Run) -> None:
        first, second = threading.Lock(), threading.Lock()

        def nest(outer: threading.Lock, inner: threading.Lock) -> None:
            with outer, inner:
                pass

        run.thread(nest, first, second, name="a")
        run.thread(nest, second, first, name="b")
        run.join()

    finding = found(body)
    assert finding.kind == "deadlock"
    assert {name for name, _ in finding.stacks} == {"main", "a", "b"}
    assert "which b holds" in finding.message


def test_a_lock_that_its_thread_took_to_the_grave_is_a_deadlock() -> None:
    def body(run: Run) -> None:
        lock = threading.Lock()
        run.thread(lock.acquire, name="a")
        run.thread(lock.acquire, name="b")

    assert found(body).kind == "deadlock"


def test_a_lost_wakeup_is_a_deadlock() -> None:
    """Who looks before it locks may wait for ever.

    a: sees no item .................... waits
    b:                 [adds, notifies]
    """

    def body(run: Run) -> None:
        condition = threading.Condition()
        items: list[int] = []

        def consume() -> None:
            if not items:
                with condition:
                    condition.wait()

        def produce() -> None:
            with condition:
                items.append(1)
                condition.notify()

        run.thread(consume)
        run.thread(produce)
        run.join()

    assert found(body).kind == "deadlock"


def test_a_livelock_is_found_after_its_steps() -> None:
    def body(run: Run) -> None:
        stop: list[int] = []

        def spin() -> None:
            while not stop:
                time.sleep(0.001)

        run.thread(spin)
        run.join()

    result = explore(body, budget=Budget(schedules=10, seconds=20.0, steps=500))
    assert result.finding is not None
    assert result.finding.kind == "livelock"


@pytest.mark.parametrize("strategy", ["pct-2", "bounded", "sticky"])
def test_a_spin_that_ends_when_others_act_is_no_livelock(strategy: str) -> None:
    """However long a strategy keeps the other thread waiting, in the end it is fair."""

    def body(run: Run) -> None:
        ready: list[int] = []

        def spin() -> None:
            while not ready:
                time.sleep(0)

        run.thread(spin)
        run.thread(ready.append, 1)
        run.join()

    budget = Budget(schedules=20, seconds=20.0, steps=1_000)
    result = explore(body, budget=budget, strategies=[strategy])
    assert result.validity is Validity.VALID, result.story
    assert not result.exhausted


def test_a_thread_that_catches_its_unwinding_is_told_of() -> None:
    def body(run: Run) -> None:
        lock = threading.Lock()

        def stubborn() -> None:
            while True:
                try:
                    time.sleep(1.0)
                    lock.acquire(timeout=1.0)
                except BaseException:  # noqa: BLE001, S110 - that is what is wrong with it
                    pass

        run.thread(stubborn, name="mule")
        time.sleep(60.0)
        raise KeyError("over")

    result = explore(body, budget=FEW)
    assert result.validity is Validity.UNKNOWN
    assert any(escape.startswith("mule caught") for escape in result.escapes)


def test_an_exception_that_escapes_a_thread_is_a_finding() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - it starts its thread by itself
        thread = threading.Thread(target=lambda: dict[str, int]()["missing"])
        thread.start()
        thread.join()

    finding = found(body)
    assert (finding.kind, finding.message) == ("exception", "KeyError: 'missing'")
    assert "KeyError" in finding.trace


def test_a_real_wait_leaves_the_verdict_unknown() -> None:
    """A task that waits for a native lock, which a parked task holds, has escaped control."""

    def body(run: Run) -> None:
        def hold() -> None:
            with _NATIVE:
                time.sleep(0.0)

        run.thread(hold)
        run.thread(hold)
        run.join()

    result = explore(body, budget=Budget(schedules=100, seconds=20.0))
    assert result.validity is Validity.UNKNOWN
    assert any("something real" in escape for escape in result.escapes)


_NATIVE = threading.Lock()


def test_a_native_lock_is_named_even_where_it_does_no_harm() -> None:
    """Nobody waits for it, so no schedule hangs; still nothing was proven about it."""

    def body(run: Run) -> None:
        def hold() -> None:
            _NATIVE.acquire()
            _NATIVE.release()

        run.thread(hold)
        run.join()

    result = explore(body, budget=Budget(schedules=10, seconds=20.0))
    assert result.validity is Validity.UNKNOWN
    assert any("native lock" in escape for escape in result.escapes)


def test_an_adopted_lock_is_under_control() -> None:
    """The same lock, once its module is named, is replaced and explored like any other."""
    before = vars(_home)["_ADOPTED"]

    def body(run: Run) -> None:
        def hold() -> None:
            with _ADOPTED:
                time.sleep(0.5)

        run.thread(hold)
        run.thread(hold)
        run.join()

    try:
        result = explore(body, budget=Budget(schedules=50, seconds=20.0), modules=[__name__])
        assert not any("_ADOPTED" in escape for escape in result.escapes)
        assert result.finding is None
    finally:
        vars(_home)["_ADOPTED"] = before


_ADOPTED = threading.Lock()
_home = sys.modules[__name__]


def test_adoption_reaches_classes_containers_and_conditions() -> None:
    """Wherever a module's globals lead, one native lock gets one twin, and a held one stays."""
    module = ModuleType("adopted")
    held, shared = threading.Lock(), threading.Lock()
    holder = type("Holder", (), {"guard": threading.RLock(), "__module__": "adopted"})
    condition = threading.Condition(shared)
    vars(module).update(
        held=held,
        by_key={"s": [shared]},
        holder=holder,
        condition=condition,
        done=threading.Event(),
    )
    with held:
        names = adopt(module)
    assert set(names) == {
        "adopted.by_key.s[0]",
        "adopted.holder.guard",
        "adopted.done._cond._lock",
    }
    assert module.held is held
    assert module.by_key["s"][0] is condition._lock  # type: ignore[attr-defined]
    with condition:
        assert module.by_key["s"][0].locked()
    module.done.set()
    assert module.done.wait(timeout=0.0)


def test_a_program_that_does_not_repeat_itself_is_no_proof() -> None:
    flips = [0]

    def body(run: Run) -> None:
        flips[0] += 1
        lock = threading.Lock()

        def enter() -> None:
            with lock:
                pass

        for _ in range(1 + flips[0] % 2):
            run.thread(enter)
        run.join()

    result = explore(body, budget=FEW, strategies=["bounded"])
    assert result.validity is Validity.UNKNOWN
    assert any("does not repeat itself" in escape for escape in result.escapes)


class Straight:
    """An update that loses only where two threads come between two opcodes of one line."""

    def __init__(self) -> None:
        self.value = 0

    def add(self) -> None:
        """One line."""
        self.value += 1

    def add_by_a_call(self) -> None:
        """Read, call, write."""
        seen = self.value
        _pause()
        self.value = seen + 1


def _pause() -> None:
    """Where CPython may hand over its lock."""


def test_a_race_that_the_global_lock_forbids_is_labelled_so() -> None:
    """Between the read and the write of `self.value += 1` no stock CPython hands over."""

    def body(run: Run) -> None:
        subject = Straight()
        run.thread(subject.add)
        run.thread(subject.add)
        run.join()
        assert subject.value == 2

    finding = found(body, level=Level.OPCODE, modules=[__name__])
    assert finding.level is Level.OPCODE
    assert not finding.feasible
    assert "free-threaded" in finding.story


def test_a_race_across_a_call_is_labelled_feasible() -> None:
    def body(run: Run) -> None:
        subject = Straight()
        run.thread(subject.add_by_a_call)
        run.thread(subject.add_by_a_call)
        run.join()
        assert subject.value == 2

    assert explore(body, budget=Budget(schedules=200, seconds=5.0)).finding is None
    finding = found(body, level=Level.LINE, modules=[__name__])
    assert finding.feasible


def test_the_bound_falls_as_schedules_are_bought() -> None:
    def body(run: Run) -> None:
        lock = threading.Lock()

        def enter() -> None:
            with lock:
                pass

        run.thread(enter)
        run.thread(enter)
        run.join()

    few, many = (
        explore(body, budget=Budget(schedules=n, seconds=20.0), strategies=["pct-2"]).missed[2]
        for n in (10, 300)
    )
    assert many < few <= 1.0


def test_a_thousand_schedules_leave_nothing_behind() -> None:
    """Threads, and objects that the collector knows, are as many as before."""

    def body(run: Run) -> None:
        lock = threading.Lock()
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        run.thread(lock.acquire, timeout=1.0)

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    budget = Budget(schedules=300, seconds=30.0)
    explore(body, budget=budget, strategies=["random"])
    before, threads = objects(), threading.active_count()
    explore(body, budget=Budget(schedules=1000, seconds=30.0), strategies=["random"])
    assert objects() - before < 200
    assert threading.active_count() == threads


def test_a_replay_of_nothing_is_the_schedule_without_preemptions() -> None:
    (play,) = replay(counter, ())
    assert play.ending is None


def test_a_strategy_nobody_knows_is_a_bad_question() -> None:
    with pytest.raises(UsageError, match="no strategy"):
        explore(counter, strategies=["clever"])
