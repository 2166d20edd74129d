"""Checks asyncio under control: every broken program is found, and no corrected one is accused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from harness.core.verdict import Validity
from harness.schedule import (
    Budget,
    Finding,
    LockRules,
    LoopOrder,
    Result,
    Run,
    as_pytest,
    explore,
    install,
    reproduced,
    uninstall,
)
from harness.schedule.finding import as_json
from harness.schedule.program import Body
from tests.schedule import asyncio_programs
from tests.schedule.asyncio_programs import PROGRAMS, Program

FEW = Budget(schedules=60, seconds=20.0)
MORE = Budget(schedules=400, seconds=20.0)
Main = Callable[[Run], Coroutine[Any, Any, Any]]


@pytest.fixture(autouse=True, scope="module")
def _patched() -> Iterator[None]:
    """Patch once for all tests: each search looks through all functions otherwise."""
    install()
    yield
    uninstall()


def body_of(main: Main) -> Body:
    """Make a body that runs this coroutine function."""
    return lambda run: asyncio.run(main(run))


def search(main: Main, **options: Any) -> Result:
    """Explore a coroutine function, in few schedules."""
    return explore(body_of(main), budget=options.pop("budget", FEW), **options)


def found(main: Main, **options: Any) -> Finding:
    """Explore a coroutine function that must fail."""
    finding = search(main, **options).finding
    assert finding is not None
    return finding


# -- the programs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_broken_program_is_found_and_replays(program: Program) -> None:
    body = partial(program, broken=True)
    finding = explore(body, budget=MORE).finding
    assert finding is not None
    assert finding.kind == PROGRAMS[program]
    assert finding.replayed == finding.replays
    assert reproduced(body, finding, times=5) == 5


def test_fifo_does_not_let_patience_run_out() -> None:
    body = partial(asyncio_programs.patience_and_ready_code, broken=True)
    assert explore(body, budget=MORE, order="fifo").exhausted


@pytest.mark.parametrize("order", [LoopOrder.DRIFT, LoopOrder.RELAXED])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_corrected_program_is_valid(program: Program, order: LoopOrder) -> None:
    result = explore(partial(program, broken=False), budget=FEW, order=order)
    assert result.validity is Validity.VALID, result.story


# -- orders ----------------------------------------------------------------------------------------


async def in_turn(_run: Run) -> None:
    """Two tasks whose order asyncio's queue fixes."""
    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)

    await asyncio.gather(note(1), note(2))
    assert order == [1, 2]


def test_relaxed_finding_is_labelled() -> None:
    assert search(in_turn, order="drift").exhausted
    finding = found(in_turn, order="relaxed")
    assert finding.out_of_turn == 1
    assert "another order than that of asyncio's queue" in finding.story
    assert Finding.from_json(json.loads(as_json(finding))) == finding


@pytest.mark.parametrize("is_direct", [False, True])
def test_own_tasks_are_choices(is_direct: bool) -> None:  # noqa: FBT001
    """Tasks of a factory, or made without the loop, have no number of their own at first."""

    async def main(_run: Run) -> str:
        order: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine, **_: asyncio.Task(coroutine, loop=loop))

        async def note(name: str) -> None:
            order.append(name)

        make = asyncio.Task if is_direct else loop.create_task
        await asyncio.gather(*(make(note(name)) for name in "abc"))
        return "".join(order)

    assert outcomes(main, order="drift") == {"abc"}
    assert len(outcomes(main, order="relaxed", budget=MORE)) == 6


def test_queue_order_finding_is_not_labelled() -> None:
    program = partial(asyncio_programs.lost_update, broken=True)
    finding = explore(program, order="relaxed", strategies=["random"], budget=FEW).finding
    assert finding is not None
    assert finding.out_of_turn == 0  # shrinking prefers asyncio's order
    assert "any stock CPython" in finding.story


def outcomes(main: Main, **options: Any) -> set[Any]:
    """Return every outcome of a coroutine function."""
    result = search(main, **options)
    assert result.validity is Validity.VALID, result.story
    assert result.exhausted, str(result)
    return set(result.outcomes)


def sleepers(*delays: tuple[float, ...]) -> Main:
    """Tasks that sleep these times; the outcome is the order in which they end."""

    async def main(_run: Run) -> str:
        order: list[str] = []

        async def sleeper(name: str, parts: tuple[float, ...]) -> None:
            for part in parts:
                await asyncio.sleep(part)
            order.append(name)

        await asyncio.gather(*(sleeper("abc"[i], parts) for i, parts in enumerate(delays)))
        return "".join(order)

    return main


def test_equal_sleeps_end_in_order() -> None:
    assert outcomes(sleepers((1,), (1,), (1,)), order="drift") == {"abc"}


def test_tied_sleeps_end_in_either_order() -> None:
    assert outcomes(sleepers((0.3, 0.7), (0.1, 0.9)), order="fifo") == {"ab", "ba"}
    assert outcomes(sleepers((0.2, 0.8), (1,)), order="fifo") == {"ab", "ba"}


def test_shorter_sleep_ends_first() -> None:
    assert outcomes(sleepers((1.5,), (1,)), order="drift") == {"ba"}


def test_drift_lets_time_pass_while_ready() -> None:
    async def main(_run: Run) -> int:
        steps = 0

        async def step() -> None:
            nonlocal steps
            while True:
                await asyncio.sleep(0)
                steps += 1
                if steps == 3:
                    await asyncio.sleep(60)

        task = asyncio.create_task(step())
        await asyncio.sleep(1)
        task.cancel()
        return steps

    assert outcomes(main, order="fifo") == {3}
    assert outcomes(main, order="drift") == {1, 2, 3}
    assert outcomes(main, order="drift", budget=Budget(150, 20.0, timers=0)) == {3}


async def _impatient(run: Run, *, stores_at_once: bool) -> None:  # noqa: ARG001
    """Wait a second for an item that comes after a second: it must not be lost."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    stored: list[str] = []

    async def consume() -> None:
        item = await queue.get()
        if not stores_at_once:
            await asyncio.sleep(0)
        stored.append(item)

    async def produce() -> None:
        await asyncio.sleep(1)
        queue.put_nowait("item")

    producer = asyncio.create_task(produce())
    await asyncio.sleep(0)  # the producer's timer is made first
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(consume(), 1)
    await producer
    assert stored or not queue.empty()


def test_tied_timers_come_rounds_apart() -> None:
    """Of two timers that tie the later one may find the loop busy with what the first one woke."""
    found = search(partial(_impatient, stores_at_once=False))
    assert found.finding is not None, found
    body = body_of(partial(_impatient, stores_at_once=False))
    assert reproduced(body, found.finding, times=5) == 5
    clean = search(partial(_impatient, stores_at_once=True), budget=MORE)
    assert clean.exhausted
    assert clean.timers == 1
    fifo = search(partial(_impatient, stores_at_once=False), budget=MORE, order="fifo")
    assert fifo.exhausted  # there time stands still while the loop is busy


def test_poll_for_time_is_no_livelock() -> None:
    """A task that polls with sleep(0) lets time pass in reality, and so must the explorer."""

    async def main(_run: Run) -> None:
        ended = asyncio.create_task(asyncio.sleep(3600))
        while not ended.done():  # noqa: ASYNC110 - a poll on purpose
            await asyncio.sleep(0)
        until = time.monotonic() + 0.1
        while time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0)

    result = search(main, order="fifo", strategies=["bounded"])
    assert result.validity is Validity.VALID, result.story


def test_endless_poll_is_livelock() -> None:
    async def main(_run: Run) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    budget = Budget(schedules=1, seconds=20.0, steps=3_000)
    assert found(main, budget=budget, strategies=["random"]).kind == "livelock"


def test_stock_outcome_is_among_explored_ones() -> None:
    """What stock asyncio does without control is one of the orders that fifo explores."""

    async def main(_run: Run) -> str:
        order: list[str] = []
        event, queue = asyncio.Event(), asyncio.Queue[str](1)

        async def put(name: str) -> None:
            await queue.put(name)
            order.append(f"+{name}")

        async def take() -> None:
            await event.wait()
            for _ in range(3):
                order.append(await queue.get())  # noqa: PERF401

        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(put(name))
            group.create_task(take())
            asyncio.get_running_loop().call_later(0.01, event.set)
        return " ".join(order)

    stock = asyncio.run(main(None))  # type: ignore[arg-type]
    assert outcomes(main, order="fifo") == {stock}
    assert stock in set(search(main, order="relaxed").outcomes)


@pytest.mark.parametrize("strategy", ["random", "sticky", "pct-2", "pos", "bounded", "reduced"])
def test_every_strategy_cancels_holder(strategy: str) -> None:
    body = partial(asyncio_programs.cancelled_holder, broken=True)
    finding = explore(body, budget=MORE, strategies=[strategy]).finding
    assert finding is not None
    assert finding.kind == "deadlock"


@pytest.mark.parametrize("strategy", ["reduced", "guarded"])
def test_sleep_sets_keep_every_outcome(strategy: str) -> None:
    """A job and a task: pruning must not lose an order of what they do."""

    async def main(run: Run) -> str:
        order: list[str] = []
        cell = run.cell(0)

        def add(name: str) -> None:
            cell.set(cell.get() + 1)
            order.append(name)

        job = asyncio.ensure_future(asyncio.to_thread(add, "j"))
        await asyncio.sleep(0)
        add("t")
        await job
        return f"{''.join(order)}{cell.get()}"

    ample = Budget(schedules=3_000, seconds=20.0)
    assert outcomes(main, strategies=[strategy], budget=ample) == {"jt1", "jt2", "tj1", "tj2"}


def test_many_tasks_are_explored() -> None:
    async def main(_run: Run) -> None:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(260)))

    result = search(main, order="relaxed", budget=Budget(schedules=2, seconds=20.0))
    assert result.validity is Validity.VALID, result.story


# -- what a finding tells --------------------------------------------------------------------------


def test_deadlock_names_locks_and_owners() -> None:
    message = _finding(asyncio_programs.two_locks).message
    assert "waits for Lock inner, which Task-3 both holds at asyncio_programs.py:" in message
    assert "`async with inner:`" in message
    message = _finding(asyncio_programs.cancelled_holder).message
    assert "waits for Lock lock, which holder holds though it has ended" in message


def test_lost_wakeup_names_call_soon() -> None:
    message = _finding(asyncio_programs.unwoken_loop).message
    assert "call_soon_threadsafe wakes the loop" in message


def test_failed_background_task_is_named() -> None:
    finding = _finding(asyncio_programs.unheard_failure)
    assert finding.task == "saver"
    assert "never retrieved" in finding.message
    assert 'raise ValueError("no disk")' in finding.trace


def _finding(program: Program) -> Finding:
    finding = explore(partial(program, broken=True), budget=MORE).finding
    assert finding is not None
    return finding


def test_story_has_columns_and_own_lines() -> None:
    """A column for each task and each job; no line of asyncio."""
    finding = _finding(asyncio_programs.unlocked_workers)
    names = {step.thread for step in finding.steps}
    assert {"Task-1 main", "asyncio_0", "asyncio_1"} <= names
    assert not [step for step in finding.steps if "asyncio/" in step.place]
    files = {step.place.partition(":")[0] for step in finding.steps} - {""}
    assert files == {"asyncio_programs.py"}
    finding = _finding(asyncio_programs.lost_update)
    assert [step.act for step in finding.steps] == [
        *("start", "start", "start", "resume", "resume", "resume")
    ]
    assert finding.steps[3].source == "await asyncio.sleep(0)"


def test_cancellation_is_shown_in_its_task() -> None:
    finding = _finding(asyncio_programs.cancelled_consumer)
    shown = [step for step in finding.steps if step.act == "cancelled"]
    assert shown
    assert shown[0].thread == "Task-2 consume"


def test_written_test_names_order() -> None:
    finding = found(in_turn, order="relaxed")
    assert "order='relaxed'" in as_pytest(finding, f"{__name__}:in_turn")


def test_unwound_schedules_warn_of_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """A schedule that ends early leaves no message of asyncio's, and no pending task."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _finding(asyncio_programs.two_locks)
        _finding(asyncio_programs.cancelled_holder)
        _finding(asyncio_programs.lost_update)
    assert capfd.readouterr().err == ""


# -- failures that only asyncio knows --------------------------------------------------------------


def test_own_exception_handler_is_asked() -> None:
    """A program that handles its loop's failures is not accused of them."""

    async def main(_run: Run) -> None:
        heard: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: heard.append(context["message"]))
        loop.call_soon(int, "one")
        await asyncio.sleep(0)
        assert heard

    assert search(main).validity is Validity.VALID


def test_daemon_loop_at_end_is_valid() -> None:
    """A loop that runs in a daemon thread may have tasks when the program ends."""

    def body(_run: Run) -> None:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(1), loop).result()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(1000), loop)

    result = explore(body, budget=FEW)
    assert result.validity is Validity.VALID, result.story


def test_job_cancelled_before_start_never_runs() -> None:
    async def main(_run: Run) -> bool:
        ran: list[int] = []
        go = threading.Event()
        loop = asyncio.get_running_loop()
        full = [loop.run_in_executor(None, go.wait) for _ in range(_workers())]
        late = loop.run_in_executor(None, ran.append, 1)
        late.cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*full)
        return bool(ran)

    budget = Budget(schedules=30, seconds=20.0)
    assert set(search(main, budget=budget).outcomes) == {False}


def test_default_pool_starves() -> None:
    """Jobs that wait for a job behind them stop for good if they have all workers."""

    async def main(_run: Run) -> None:
        go = threading.Event()
        jobs = [asyncio.to_thread(go.wait) for _ in range(_workers())]
        await asyncio.gather(*jobs, asyncio.to_thread(go.set))

    assert found(main, budget=Budget(schedules=1, seconds=20.0)).kind == "deadlock"


def _workers() -> int:
    return min(32, (os.cpu_count() or 1) + 4)


# -- the limits of control -------------------------------------------------------------------------


class OtherLoop(asyncio.SelectorEventLoop):
    """A loop that runs its callbacks in its own way."""

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]


def test_other_loop_is_unknown_by_name() -> None:
    async def main() -> None:
        await asyncio.sleep(0)

    def body(_run: Run) -> None:
        loop = OtherLoop()
        loop.run_until_complete(main())
        loop.close()

    result = explore(body, budget=FEW)
    assert result.validity is Validity.UNKNOWN
    assert "tests.schedule.test_asyncio.OtherLoop" in str(result)


def test_earlier_loop_is_unknown_by_name() -> None:
    loop = asyncio.new_event_loop()

    async def main() -> None:
        await asyncio.sleep(0)

    result = explore(lambda _run: loop.run_until_complete(main()), budget=FEW)
    loop.close()
    assert result.validity is Validity.UNKNOWN
    assert "SelectorEventLoop" in str(result)


def test_loop_made_directly_is_controlled() -> None:
    def body(run: Run) -> None:
        loop = asyncio.SelectorEventLoop()
        loop.run_until_complete(in_turn(run))
        loop.close()

    assert explore(body, budget=FEW, order="relaxed").finding is not None


def test_wait_for_outside_pipe_is_unknown() -> None:
    """Nothing in the schedule writes, but something outside may: that is no deadlock."""

    async def main(_run: Run) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        with ours, theirs:
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 1), 5)

    result = search(main)
    assert result.validity is Validity.UNKNOWN
    assert "waits for a socket or pipe" in str(result)


def test_socket_between_tasks_works() -> None:
    async def main(_run: Run) -> bytes:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(0)
            loop = asyncio.get_running_loop()
            read = asyncio.create_task(loop.sock_recv(ours, 1))
            await asyncio.sleep(0)
            theirs.settimeout(0)
            await loop.sock_sendall(theirs, b"x")
            return await read

    result = search(main)
    assert set(result.outcomes) == {b"x"}
    assert result.validity is Validity.VALID
    assert not result.exhausted  # input comes in one order only


def test_streams_between_tasks_work() -> None:
    async def main(_run: Run) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
            writer.close()
            await writer.wait_closed()

    assert search(main).validity is Validity.VALID


def test_loops_in_two_threads_are_explored() -> None:
    def body(_run: Run) -> str:
        order: list[str] = []

        async def main(name: str) -> None:
            await asyncio.sleep(1)
            order.append(name)

        threads = [threading.Thread(target=asyncio.run, args=(main(name),)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return "".join(order)

    result = explore(body, budget=FEW)
    assert set(result.outcomes) == {"ab", "ba"}, result.story


def test_group_cancels_in_one_order() -> None:
    """The tasks of a group are a set: without numbers its order would depend on addresses."""

    async def main(_run: Run) -> str:
        order: list[str] = []

        async def wait(name: str) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                order.append(name)

        async def fail() -> None:
            await asyncio.sleep(1)
            raise ValueError

        try:
            async with asyncio.TaskGroup() as group:
                for name in "abcdefgh":
                    group.create_task(wait(name))
                group.create_task(fail())
        except* ValueError:
            pass
        return "".join(order)

    assert len(outcomes(main, order="fifo")) == 1


def test_abandoned_generator_ends_as_in_stock() -> None:
    """Its `aclose`, which is no coroutine, is a task of its own."""
    log: list[str] = []

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            log.append("closed")

    async def main(_run: Any = None) -> None:
        log.clear()
        async for _ in items():
            break
        await asyncio.sleep(0)

    asyncio.run(main())
    assert log == ["closed"]
    result = explore(body_of(main), budget=FEW, rules=LockRules())
    assert result.validity is Validity.VALID, result.story
    assert log == ["closed"]


def test_end_of_run_waits_for_what_is_left() -> None:
    """`asyncio.run` spends no rounds on its end, unless something is left to do."""

    def body(_run: Run) -> tuple[str, ...]:
        log: list[str] = []
        names: list[str] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            names.append(asyncio.current_task().get_name())  # type: ignore[union-attr]
            loop.call_soon(loop.call_soon, loop.call_soon, log.append, "late")

        asyncio.run(main())
        asyncio.run(main())
        return (*log, *names)

    result = explore(body, budget=FEW)
    assert list(result.outcomes) == [("late", "late", "Task-1", "Task-4")]


def test_as_completed_is_repeated() -> None:
    """Its set of coroutines has the order of their addresses."""

    async def main(_run: Run) -> str:
        log = ""

        async def note(letter: str) -> None:
            nonlocal log
            log += letter

        for done in asyncio.as_completed([note(letter) for letter in "abcdefgh"]):
            await done
        return log

    result = search(main)
    assert result.validity is Validity.VALID, result
    assert list(result.outcomes) == ["abcdefgh"]


def test_signal_handler_is_accepted() -> None:
    """As in the main thread of a service; no signal comes, so nothing is exhausted."""

    async def main(_run: Run) -> tuple[bool, ...]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, loop.stop)
        with pytest.raises(TypeError, match="coroutines"):
            loop.add_signal_handler(signal.SIGTERM, main)  # type: ignore[arg-type]
        return tuple(loop.remove_signal_handler(signal.SIGTERM) for _ in range(2))

    handler = signal.getsignal(signal.SIGTERM)
    result = search(main)
    assert result.validity is Validity.VALID, result
    assert not result.exhausted
    assert list(result.outcomes) == [(True, False)]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_asyncio_is_restored() -> None:
    before = vars(asyncio.base_events.BaseEventLoop)["create_task"]
    explore(partial(asyncio_programs.lost_update, broken=False), budget=Budget(schedules=2))
    assert vars(asyncio.base_events.BaseEventLoop)["create_task"] is before
    asyncio.run(asyncio.sleep(0))
