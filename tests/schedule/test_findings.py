"""Checks that findings are complete, serializable, minimal and reproducible, and escapes known."""

from __future__ import annotations

import gc
import json
import re
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
    """A counter that adds in two critical sections, and so loses updates."""

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
    """Two additions must give two."""
    subject = Counter()
    run.thread(subject.add, name="a")
    run.thread(subject.add, name="b")
    run.join()
    assert subject.value == 2


def found(body: object, **options: object) -> Finding:
    """Explore a body that must fail, and return the finding."""
    finding = explore(body, budget=FEW, **options).finding  # type: ignore[arg-type]
    assert finding is not None
    return finding


def test_lost_update_is_found_and_printed_in_columns() -> None:
    finding = found(counter)
    assert finding.kind == "assertion"
    assert finding.feasible
    assert "acquire Counter._lock" in finding.story
    assert "with self._lock:" in finding.story
    assert re.search(r"\| test_findings\.py:\d+", finding.story)


def test_story_begins_with_deciding_step() -> None:
    """After both threads have read, every continuation loses an update."""
    finding = found(counter)
    (step,) = [step for step in finding.steps if step.decisive]

    line = f"decided at step {step.number}: {step.thread}, {step.act} at test_findings.py:"
    assert finding.story.splitlines()[2].startswith(line)
    assert step.number > 1
    assert any(earlier.thread != step.thread for earlier in finding.steps[: step.number])
    assert finding.replayed == finding.replays


@pytest.mark.parametrize("strategy", ["random", "sticky", "pct-2", "pos", "bounded", "reduced"])
def test_every_strategy_finds_lost_update(strategy: str) -> None:
    assert found(counter, strategies=[strategy]).strategy == strategy


def test_shrink_leaves_one_preemption() -> None:
    """A random schedule switches often; one preemption is enough for the lost update.

    a: [read]                 [write]
    b:        [read] [write]
    """
    finding = found(counter, strategies=["random"])
    assert sum(step.preempted for step in finding.steps) == 1


def test_finding_fails_in_all_replays() -> None:
    assert reproduced(counter, found(counter), times=100) == 100


def test_same_seed_gives_same_finding() -> None:
    first, second = (explore(counter, budget=FEW, seed=3, strategies=["random"]) for _ in range(2))
    assert first.finding is not None
    assert second.finding is not None
    assert first.schedules == second.schedules
    assert first.finding.choices == second.finding.choices


def test_finding_survives_json_round_trip() -> None:
    finding = found(counter)
    assert Finding.from_json(json.loads(as_json(finding))) == finding


def test_written_pytest_file_fails_when_run(tmp_path: Path) -> None:
    """Another process runs the file, and it fails for the reason of the finding."""
    file = tmp_path / "test_replayed.py"
    file.write_text(as_pytest(found(counter), f"{__name__}:counter"))
    root = Path(__file__).parents[2]
    completed = subprocess.run(  # noqa: S603 - it runs the file written above
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", file],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root), "PATH": ""},
        cwd=tmp_path,
        timeout=60.0,
    )
    assert completed.returncode == 1, completed.stdout + completed.stderr
    assert "assertion: AssertionError" in completed.stdout


def test_missing_body_is_usage_error() -> None:
    with pytest.raises(UsageError, match="no body"):
        as_pytest(found(counter), "nowhere:counter")


def test_causality_marks_decisive_step() -> None:
    """The decisive step is a switch between the two sections of one thread."""
    result = causality(counter, found(counter), samples=60)
    first, last = result.odds[0].probability, result.odds[-1].probability
    assert first < 0.9
    assert last == 1.0
    decisive = next(step for step in result.finding.steps if step.decisive)
    assert decisive.number == result.decisive_step
    assert decisive.thread in ("a", "b")


def test_deadlock_finding_has_every_stack() -> None:
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


def test_lock_of_ended_thread_is_deadlock() -> None:
    def body(run: Run) -> None:
        lock = threading.Lock()
        run.thread(lock.acquire, name="a")
        run.thread(lock.acquire, name="b")

    assert found(body).kind == "deadlock"


def test_lost_wakeup_is_deadlock() -> None:
    """A consumer that checks before it locks may wait without end.

    a: finds no item ................... waits
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


def test_livelock_is_found_after_step_limit() -> None:
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
def test_spin_that_other_thread_ends_is_valid(strategy: str) -> None:
    """In the second half of the steps every strategy is fair, so the spin ends."""

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


def test_thread_that_catches_unwound_is_reported() -> None:
    def body(run: Run) -> None:
        lock = threading.Lock()

        def catch_all() -> None:
            while True:
                try:
                    time.sleep(1.0)
                    lock.acquire(timeout=1.0)
                except BaseException:  # noqa: BLE001, S110 - the bug of this thread
                    pass

        run.thread(catch_all, name="catcher")
        time.sleep(60.0)
        raise KeyError("over")

    result = explore(body, budget=FEW)
    assert result.validity is Validity.UNKNOWN
    assert any(escape.startswith("catcher caught") for escape in result.escapes)


def test_exception_in_thread_is_finding() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - the body starts its thread itself
        thread = threading.Thread(target=lambda: dict[str, int]()["missing"])
        thread.start()
        thread.join()

    finding = found(body)
    assert (finding.kind, finding.message) == ("exception", "KeyError: 'missing'")
    assert "KeyError" in finding.trace


def test_real_wait_makes_verdict_unknown() -> None:
    """A task that waits for a native lock held by a waiting task has escaped control."""

    def body(run: Run) -> None:
        def hold() -> None:
            with _NATIVE[0]:
                time.sleep(0.0)

        run.thread(hold)
        run.thread(hold)
        run.join()

    result = explore(body, budget=Budget(schedules=100, seconds=20.0))
    assert result.validity is Validity.UNKNOWN
    assert any("something real" in escape for escape in result.escapes)


_NATIVE = (threading.Lock(),)  # a tuple cannot be changed


def test_uncontended_native_lock_is_reported() -> None:
    """A lock that is held stays native; no schedule hangs, and the verdict is still unknown."""
    vars(_module)["_HELD"] = threading.Lock()  # one that no other search has replaced

    def body(run: Run) -> None:
        def ask() -> None:
            _HELD.acquire(blocking=False)  # type: ignore[name-defined]  # noqa: F821

        run.thread(ask)
        run.join()

    with _HELD:  # type: ignore[name-defined]  # noqa: F821
        result = explore(body, budget=Budget(schedules=10, seconds=20.0))
    assert result.validity is Validity.UNKNOWN
    assert any("native lock" in escape for escape in result.escapes)


def test_adopted_lock_is_under_control() -> None:
    """A native lock of a named module is replaced and explored like any other."""
    before = vars(_module)["_ADOPTED"]

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
        vars(_module)["_ADOPTED"] = before


_ADOPTED = threading.Lock()
_module = sys.modules[__name__]


def test_existing_locks_of_the_body_are_controlled() -> None:
    """Locks of an unnamed module, those of its classes too, are choices all the same."""

    def body(run: Run) -> None:
        run.thread(Guarded.there)
        run.thread(Guarded.back)
        run.join()

    finding = found(body)
    assert finding.kind == "deadlock"
    assert "Guarded.first" in finding.message
    assert "_SECOND" in finding.message
    assert __name__ in finding.adopted
    assert reproduced(body, Finding.from_json(finding.to_json()), times=5) == 5


class Guarded:
    """Two locks that exist before the search, in two orders."""

    first = threading.Lock()

    @classmethod
    def there(cls) -> None:
        """Take both."""
        with cls.first, _SECOND:
            pass

    @classmethod
    def back(cls) -> None:
        """Take both in the other order."""
        with _SECOND, cls.first:
            pass


_SECOND = threading.Lock()


def test_existing_locks_of_called_modules_are_controlled(tmp_path: Path) -> None:
    """The locks of a module of which code runs are controlled, and stay so in a replay."""
    (tmp_path / "called_locks.py").write_text(CALLED, encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    try:
        import called_locks  # type: ignore[import-not-found]  # noqa: PLC0415
    finally:
        sys.path.remove(str(tmp_path))

    def body(run: Run) -> None:
        called_locks.total = 0
        run.thread(called_locks.add)
        run.thread(called_locks.add)
        run.join()
        assert called_locks.total == 2

    finding = found(body)
    assert "called_locks" in finding.adopted
    called_locks.LOCK = native = threading.Lock()  # as in a process of its own
    assert reproduced(body, finding, times=3) == 3
    assert called_locks.LOCK is not native


CALLED = """
import threading
LOCK = threading.Lock()
total = 0
def add():
    global total
    with LOCK:
        before = total
    with LOCK:
        total = before + 1
"""


def test_search_without_time_runs_one_schedule() -> None:
    """A program that takes all of the time to begin with is judged by one schedule at least."""

    def body(run: Run) -> None:
        lock = threading.Lock()
        run.thread(lock.acquire)
        run.thread(lock.acquire)
        run.join()

    result = explore(body, budget=Budget(seconds=0.0))
    assert result.schedules == 1
    assert result.finding is not None
    assert result.finding.kind == "deadlock"
    clean = explore(lambda run: run.thread(time.sleep, 1), budget=Budget(seconds=0.0))
    assert clean.validity is Validity.UNKNOWN
    assert "was over before the first schedule" in str(clean)


def test_adopt_reaches_classes_containers_and_conditions() -> None:
    """A native lock gets one replacement wherever it is reachable, and a held one stays native."""
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


def test_nondeterministic_program_makes_verdict_unknown() -> None:
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
    assert any("is not deterministic" in escape for escape in result.escapes)


class UnlockedCounter:
    """A counter without a lock, for races between opcodes and between lines."""

    def __init__(self) -> None:
        self.value = 0

    def add(self) -> None:
        """Add in one line."""
        self.value += 1

    def add_by_a_call(self) -> None:
        """Add in three lines, with a call between read and write."""
        seen = self.value
        _pause()
        self.value = seen + 1


def _pause() -> None:
    """Give CPython a point where it may release its global lock."""


def test_race_excluded_by_gil_is_infeasible() -> None:
    """No stock CPython switches between the read and the write of `self.value += 1`."""

    def body(run: Run) -> None:
        subject = UnlockedCounter()
        run.thread(subject.add)
        run.thread(subject.add)
        run.join()
        assert subject.value == 2

    finding = found(body, level=Level.OPCODE, modules=[__name__])
    assert finding.level is Level.OPCODE
    assert not finding.feasible
    assert "free-threaded" in finding.story


def test_race_across_call_is_feasible() -> None:
    def body(run: Run) -> None:
        subject = UnlockedCounter()
        run.thread(subject.add_by_a_call)
        run.thread(subject.add_by_a_call)
        run.join()
        assert subject.value == 2

    assert found(body).feasible
    assert found(body, level=Level.LINE, modules=[__name__]).feasible


def test_missed_bound_falls_with_more_schedules() -> None:
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


@pytest.mark.untraced
def test_thousand_schedules_leak_no_objects_or_threads() -> None:
    """The numbers of threads and of tracked objects are the same afterwards."""

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


def test_replay_without_choices_has_no_preemption() -> None:
    (execution,) = replay(counter, ())
    assert execution.ending is None


def test_unknown_strategy_is_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown strategy 'clever'; known: random"):
        explore(counter, strategies=["clever"])
