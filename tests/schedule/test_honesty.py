"""Checks that no verdict says more than was explored: deadlines, chance, files, usage errors."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.core.history import History
from harness.core.verdict import Validity, Verdict
from harness.schedule import (
    Budget,
    Call,
    Level,
    Operations,
    Run,
    explore,
    install,
    reproduced,
    uninstall,
)
from harness.schedule.control import in_charge
from harness.schedule.escapes import StallDetector
from harness.schedule.program import Body
from harness.schedule.scheduler import Scheduler

FEW = Budget(schedules=3_000, seconds=20.0)


@pytest.fixture(autouse=True, scope="module")
def _patched() -> Iterator[None]:
    """Patch once for all tests: each search looks through all objects otherwise."""
    install()
    yield
    uninstall()


def wait_for_worker(run: Run) -> bool:
    """Wait a second for a thread that only has to set an event."""
    done = threading.Event()
    run.thread(done.set, name="worker")
    in_time = done.wait(1.0)
    run.join()
    return in_time


@pytest.mark.parametrize("strategy", ["bounded", "reduced", "guarded"])
def test_deadline_passes_before_ready_thread(strategy: str) -> None:
    """On a busy machine a second passes although the worker could act."""
    result = explore(wait_for_worker, budget=FEW, strategies=[strategy])
    assert result.exhausted
    assert set(result.outcomes) == {True, False}
    assert "exhausted with at most 1 early deadline" in str(result)


def test_early_deadlines_can_be_left_out() -> None:
    budget = Budget(schedules=3_000, seconds=20.0, timers=0)
    result = explore(wait_for_worker, budget=budget, strategies=["bounded"])
    assert result.exhausted
    assert set(result.outcomes) == {True}


def test_early_deadline_costs_one_preemption() -> None:
    result = explore(wait_for_worker, budget=FEW, strategies=["bounded-0"])
    assert set(result.outcomes) == {True}
    result = explore(wait_for_worker, budget=FEW, strategies=["bounded-1"])
    assert set(result.outcomes) == {True, False}


@pytest.mark.parametrize("strategy", ["random", "sticky", "pct-2", "pos", "bounded"])
def test_every_strategy_finds_sleep_as_synchronisation(strategy: str) -> None:
    """A thread that sleeps is assumed to act after one that does not."""

    def body(run: Run) -> None:
        lock = threading.Lock()
        order: list[str] = []

        def enter(name: str, delay_s: float) -> None:
            time.sleep(delay_s)
            with lock:
                order.append(name)

        run.thread(enter, "early", 0.0, name="early")
        run.thread(enter, "late", 5.0, name="late")
        run.join()
        assert order == ["early", "late"]

    finding = explore(body, budget=FEW, strategies=[strategy]).finding
    assert finding is not None
    assert "early timeout" in finding.story
    assert reproduced(body, finding, times=20) == 20


def test_failure_with_address_in_message_is_reproduced() -> None:
    """The message of the error names the future by its address."""

    def work(future: Future[int]) -> None:
        if not future.cancelled():
            future.set_result(1)

    def body(run: Run) -> None:
        future: Future[int] = Future()
        run.thread(work, future, name="worker")
        run.thread(future.cancel, name="user")
        run.join()

    finding = explore(body, budget=FEW).finding
    assert finding is not None
    assert finding.error == "InvalidStateError"
    assert reproduced(body, finding, times=50) == 50


def chancy(probability: float) -> Body:
    """Make a body that fails with a probability, in whatever schedule."""

    def body(run: Run) -> None:
        lock = threading.Lock()
        count = [0]

        def add() -> None:
            with lock:
                count[0] += 1 + (random.random() < probability)  # without a seed

        run.thread(add)
        run.thread(add)
        run.join()
        assert count[0] == 2

    return body


@pytest.mark.parametrize("seed", range(10))
def test_failure_of_chance_is_unknown(seed: int) -> None:
    result = explore(chancy(0.02), seed=seed, budget=FEW)
    assert result.validity is Validity.UNKNOWN, str(result)
    assert not result.exhausted
    assert any("not deterministic" in escape for escape in result.escapes)


def test_search_with_random_numbers_is_not_exhausted() -> None:
    """As far as it was seen each schedule repeats itself; a rare draw might still change one."""
    result = explore(chancy(0.0), budget=Budget(schedules=200, seconds=20.0))
    assert result.finding is None
    assert not result.exhausted
    assert result.chance
    assert "draws without a seed: random at" in str(result)


def test_order_of_identifiers_is_unknown_or_not_exhausted() -> None:
    """Two random names are sorted, and the first one is locked longer."""

    def body(run: Run) -> None:
        lock = threading.Lock()
        names = [uuid.uuid4().hex for _ in range(2)]

        def enter(name: str) -> None:
            for _ in range(1 + (name == min(names))):
                with lock:
                    pass

        for name in names:
            run.thread(enter, name)
        run.join()

    result = explore(body, budget=FEW)
    assert result.validity is Validity.UNKNOWN
    assert not result.exhausted


def test_program_that_changes_late_is_unknown() -> None:
    """State that survives a schedule changes what later ones do."""
    numbers = itertools.count()

    def body(run: Run) -> None:
        lock = threading.Lock()
        number = next(numbers)

        def enter() -> None:
            for _ in range(2 if number > 20 else 1):
                with lock:
                    pass

        run.thread(enter)
        run.thread(enter)
        run.join()

    assert explore(body, budget=FEW).validity is Validity.UNKNOWN


@pytest.mark.parametrize("read", ["exists", "open", "read", "listdir", "scandir"])
def test_reads_of_files_are_points(read: str, tmp_path: Path) -> None:
    """A thread looks twice; between both another one adds a file and replaces a text.

    a: [look]                [look]
    b:        [write, write]
    """

    def look(folder: Path) -> object:
        match read:
            case "exists":
                return (folder / "new").exists()
            case "open":
                with (folder / "text").open() as file:
                    return file.read()
            case "read":
                descriptor = os.open(folder / "text", os.O_RDONLY)
                try:
                    return os.read(descriptor, 10)
                finally:
                    os.close(descriptor)
            case "listdir":
                return os.listdir(folder)  # noqa: PTH208 - the read on trial
        with os.scandir(folder) as entries:
            return len(list(entries))

    def body(run: Run) -> bool:
        folder = tmp_path
        (folder / "text").write_text("old")
        (folder / "new").unlink(missing_ok=True)
        seen: list[object] = []

        def write() -> None:
            (folder / "text").write_text("new")
            (folder / "new").touch()

        run.thread(lambda: seen.extend((look(folder), look(folder))))
        run.thread(write)
        run.join()
        return seen[0] == seen[1]

    result = explore(body, budget=Budget(schedules=400, seconds=30.0))
    assert set(result.outcomes) == {True, False}


def test_file_objects_read_and_write_as_outside(tmp_path: Path) -> None:
    """Text, bytes, both, appending, by lines, and without a buffer."""

    def body(run: Run) -> None:
        path = tmp_path / "file"

        def use() -> None:
            path.write_text("grün\nrot\n", encoding="utf-8")
            with path.open("a", encoding="utf-8") as file:
                file.write("blau")
            with path.open("r+", encoding="utf-8") as file:
                assert file.mode == "r+"
                assert list(file) == ["grün\n", "rot\n", "blau"]
            with path.open("r+b", buffering=0) as file:
                assert file.read(2) == b"gr"
            with path.open("rb") as file:
                assert file.read() == "grün\nrot\nblau".encode()
            with pytest.raises(ValueError, match="mode"):
                path.open("nonsense")
            with pytest.raises(FileExistsError):
                path.open("x")

        run.thread(use)
        run.join()

    result = explore(body, budget=Budget(schedules=5, seconds=20.0))
    assert result.validity is Validity.VALID, result.story


def locked(run: Run) -> None:
    """Two threads take one lock."""
    lock = threading.Lock()

    def enter() -> None:
        with lock:
            pass

    run.thread(enter)
    run.thread(enter)
    run.join()


def test_verdict_names_level_modules_and_lines() -> None:
    fine = explore(locked, budget=FEW, level=Level.LINE, modules=[__name__])
    assert fine.lines > 3
    assert f"line level, {fine.lines} lines of {__name__} are points" in str(fine)
    assert f"sync level, 0 lines of {__name__} are points" in str(explore(locked, budget=FEW))


def test_level_without_points_is_unknown() -> None:
    """No code of that module runs, so no line was a point."""
    for modules in ([], ["colorsys"]):
        result = explore(locked, budget=FEW, level=Level.LINE, modules=modules)
        assert result.validity is Validity.UNKNOWN
        assert any("no line is a point" in escape for escape in result.escapes)


def test_body_without_points_is_unknown() -> None:
    result = explore(lambda run: None, budget=FEW)  # noqa: ARG005 - it starts nothing
    assert result.validity is Validity.UNKNOWN
    assert any("nothing was interleaved" in escape for escape in result.escapes)


def test_unknown_module_is_usage_error() -> None:
    with pytest.raises(UsageError, match=r"unknown module 'no\.such'"):
        explore(locked, budget=FEW, modules=["no.such"])


def test_check_that_returns_nothing_is_usage_error() -> None:
    def check(history: History) -> Verdict:
        """Forget the return statement."""
        assert history
        return None  # type: ignore[return-value]  # the mistake on trial

    program = Operations(dict, [[Call("copy")], [Call("copy")]], check)
    with pytest.raises(UsageError, match="check: check returned NoneType, expected a Verdict"):
        explore(program, budget=FEW)


def test_temporary_files_and_dates_are_controlled() -> None:
    """They take locks of CPython's library that exist before the schedule."""

    def body(run: Run) -> None:
        run.thread(lambda: time.strptime("2026", "%Y"))
        run.thread(lambda: tempfile.TemporaryFile().close())
        run.join()

    time.strptime("2026", "%Y")  # its module must not be imported in a schedule
    result = explore(body, budget=Budget(schedules=20, seconds=20.0))
    assert result.validity is Validity.VALID, result


def test_stall_check_before_first_schedule_is_quiet() -> None:
    """The detector may look before the first schedule has a current task."""
    run = Scheduler(steps=10)
    run.bind_thread()
    in_charge.append(run)
    try:
        assert StallDetector(run).check() == ""
    finally:
        in_charge.clear()
