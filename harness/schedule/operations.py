"""Runs threads or tasks of calls on one subject, and checks the history of each schedule.

Calls are data, so a sequential machine can generate them, and shrinking can remove them one by one.
The time of a history is a counter that increases with every invocation and completion: an operation
precedes another exactly if it completed before the other was invoked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import isawaitable
from itertools import combinations_with_replacement, count
from typing import Any, Protocol, Self, runtime_checkable

from harness.core.checker import Checker
from harness.core.errors import UsageError
from harness.core.history import History, Operation, Outcome, call
from harness.core.verdict import Validity, Verdict
from harness.schedule.explorer import Result
from harness.schedule.program import Body, Run

_VERDICTS_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method. A mapping is passed as keywords; None means no argument."""

    function: str
    argument: Any = None

    def __str__(self) -> str:
        return call(self.function, self.argument)


class PromiseBrokenError(AssertionError):
    """The history of one schedule is invalid. `verdict` has the anomalies, `history` the events."""

    def __init__(self, verdict: Verdict, history: History) -> None:
        names = (f"{anomaly.promise.id}: {anomaly.message}" for anomaly in verdict.anomalies)
        super().__init__("; ".join(names))
        self.verdict = verdict
        self.history = history


def ask(subject: Any, call: Call) -> Any:
    """Call the subject's method of that name."""
    method = getattr(subject, call.function)
    match call.argument:
        case None:
            return method()
        case Mapping() as keywords:
            return method(**keywords)
        case argument:
            return method(argument)


@runtime_checkable
class Instrumented(Protocol):
    """A subject that reports events inside its calls, for example a call of its provider."""

    def watch(self, tick: Callable[[], int], see: Callable[[str, Any, int], None]) -> None:
        """Report each later event to `see`: its name, its argument, and the `tick` of its begin."""
        ...


@dataclass(frozen=True)
class Operations:
    """A body: `before` in the main thread, `threads` concurrently, `after` in the main thread.

    With `tasks` each sequence of calls is an asyncio task, and an answer that can be awaited is.
    `impatient` are the processes, from 1, whose client cancels such a task wherever it waits: the
    outcome of the cancelled call is unknown. `arrivals_s` is a short time, in whole microseconds:
    each task sleeps before each call, and the sleeps tie, so each order of arrival is explored.

    The events of an `Instrumented` subject join the history as operations of process 0.

    `refusals` are the exceptions after which a call did not happen and will not. After another
    exception the outcome is unknown, and the thread continues as a new process.
    """

    make: Callable[[], Any]
    threads: Sequence[Sequence[Call]]
    check: Checker
    before: Sequence[Call] = ()
    after: Sequence[Call] = ()
    ask: Callable[[Any, Call], Any] = ask
    refusals: tuple[type[Exception], ...] = ()
    tasks: bool = False
    impatient: Collection[int] = ()
    arrivals_s: float = 0.0
    _known: dict[str, Verdict] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, run: Run) -> None:
        """Run one schedule. Raises PromiseBrokenError if its history is invalid."""
        recorder = asyncio.run(self._in_tasks(run)) if self.tasks else self._in_threads(run)
        history = History(tuple(sorted(recorder.operations, key=lambda o: o.invoked_ns)))
        verdict = self._judge(history)
        if verdict.validity is Validity.INVALID:
            raise PromiseBrokenError(verdict, history)
        if verdict.validity is Validity.UNKNOWN:
            run.reached("a history with an unknown verdict")

    def _in_threads(self, run: Run) -> _HistoryRecorder:
        recorder = _HistoryRecorder(self)
        recorder.do(0, self.before)
        for process, calls in enumerate(self.threads, start=1):
            run.thread(recorder.do, process, calls)
        run.join()
        recorder.do(0, self.after)
        return recorder

    async def _in_tasks(self, run: Run) -> _HistoryRecorder:
        recorder = _HistoryRecorder(self)
        await recorder.do_awaited(0, self.before)
        tasks = [
            asyncio.create_task(recorder.do_awaited(process, calls), name=f"process {process}")
            for process, calls in enumerate(self.threads, start=1)
        ]
        for process in self.impatient:
            if process <= len(tasks):
                run.cancel(tasks[process - 1])
        if tasks:
            await asyncio.wait(tasks)
        await recorder.do_awaited(0, self.after)
        return recorder

    def _judge(self, history: History) -> Verdict:
        """Check the history, with a cache: most schedules repeat an earlier history."""
        key = repr(history.operations)
        verdict = self._known.get(key)
        if verdict is None:
            verdict = self.check(history)
            if not isinstance(verdict, Verdict):
                raise UsageError(
                    f"check: {getattr(self.check, '__name__', self.check)} returned"
                    f" {type(verdict).__name__}, expected a Verdict (VALID if all is well)"
                )
            if len(self._known) >= _VERDICTS_MAX:
                self._known.clear()
            self._known[key] = verdict
        return verdict


class _HistoryRecorder:
    """Records the history of one schedule."""

    def __init__(self, program: Operations) -> None:
        self._program = program
        self._ticks = count(1)
        self._next_process = count(len(program.threads) + 1)
        self.operations: list[Operation] = []
        self._subject = program.make()
        if isinstance(self._subject, Instrumented):
            self._subject.watch(self.tick, self.see)

    def tick(self) -> int:
        """Return the next time of the history."""
        return next(self._ticks)

    def see(self, function: str, argument: Any, begun: int) -> None:
        """Record an event inside a call, which began at `begun` and ends now."""
        operation = Operation(0, function, argument, Outcome.OK, begun, next(self._ticks))
        self.operations.append(operation)

    def do(self, process: int, calls: Sequence[Call]) -> None:
        """Make these calls in order, as this process."""
        for requested in calls:
            with _Attempt(self, process, requested) as attempt:
                attempt.result = self._program.ask(self._subject, requested)
            process = attempt.next_process

    async def do_awaited(self, process: int, calls: Sequence[Call]) -> None:
        """Make these calls in order, as this process, and await their answers."""
        position = process
        pause_s = self._program.arrivals_s if process else 0.0
        parts = len(self._program.threads) + 1
        for requested in calls:
            if pause_s:  # in two parts, for equal sleeps end in the order in which they began
                await asyncio.sleep(pause_s * position)
                await asyncio.sleep(pause_s * (parts - position))
            with _Attempt(self, process, requested) as attempt:
                answer = self._program.ask(self._subject, requested)
                attempt.result = await answer if isawaitable(answer) else answer
            process = attempt.next_process

    def end(self, attempt: _Attempt, error: BaseException | None) -> None:
        """Record how a call ended."""
        outcome = Outcome.OK
        if error is not None:
            refused = isinstance(error, self._program.refusals)
            outcome = Outcome.FAIL if refused else Outcome.INFO
        completed = None if outcome is Outcome.INFO else next(self._ticks)
        self.operations.append(
            Operation(
                attempt.process,
                attempt.requested.function,
                attempt.requested.argument,
                outcome,
                attempt.invoked,
                completed,
                attempt.result,
                "" if error is None else f"{type(error).__name__}: {error}",
            )
        )
        if outcome is Outcome.INFO:
            attempt.next_process = next(self._next_process)


class _Attempt:
    """One call, whose outcome is recorded at the end of the block."""

    def __init__(self, recorder: _HistoryRecorder, process: int, requested: Call) -> None:
        self._recorder = recorder
        self.process = self.next_process = process
        self.requested = requested
        self.invoked = recorder.tick()
        self.result: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> bool:
        """Swallow what the call raised; a cancellation is recorded, and goes on."""
        if error is None or isinstance(error, Exception | asyncio.CancelledError):
            self._recorder.end(self, error)
        return isinstance(error, Exception)


def shrink_calls(
    program: Operations, explore: Callable[[Body], Result]
) -> tuple[Operations, Result]:
    """Remove calls one by one while `explore` still finds a failure of the same kind."""
    best = explore(program)
    if best.finding is None:
        return program, best
    smaller = True
    while smaller:
        smaller = False
        for candidate in _without_one(program):
            result = explore(candidate)
            if result.finding is not None and result.finding.kind == best.finding.kind:
                program, best, smaller = candidate, result, True
                break
    return program, best


def _without_one(program: Operations) -> Iterator[Operations]:
    for index, calls in enumerate(program.threads):
        for position in range(len(calls)):
            rest = [*calls[:position], *calls[position + 1 :]]
            threads = [*program.threads[:index], *([rest] if rest else [])]
            threads += program.threads[index + 1 :]
            yield replace(program, threads=threads, _known={})
    for position in range(len(program.before)):
        before = [*program.before[:position], *program.before[position + 1 :]]
        yield replace(program, before=before, _known={})


def small_scope(calls: Sequence[Call], operations: int) -> Iterator[tuple[tuple[Call, ...], ...]]:
    """Yield every multiset of `operations` of these calls, each call in its own thread."""
    for chosen in combinations_with_replacement(calls, operations):
        yield tuple((call,) for call in chosen)
