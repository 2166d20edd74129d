"""Operations: threads of calls on one fresh subject, whose history a checker judges.

The calls are data, so they can be drawn from the rules of a sequential machine, written down, and
left out one by one. Time in the history is a counter that rises with every invocation and every
answer: an operation precedes another exactly if its answer came before the other was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement, count
from typing import Any, Protocol, runtime_checkable

from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome, call
from harness.core.verdict import Validity, Verdict
from harness.schedule.explorer import Result
from harness.schedule.program import Body, Run

_REMEMBERED = 4_096


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method. A mapping is passed by keyword, None not at all."""

    function: str
    argument: Any = None

    def __str__(self) -> str:
        return call(self.function, self.argument)


class PromiseBrokenError(AssertionError):
    """The history of one schedule is invalid. `verdict` says why, `history` what happened."""

    def __init__(self, verdict: Verdict, history: History) -> None:
        names = (f"{anomaly.promise.name}: {anomaly.message}" for anomaly in verdict.anomalies)
        super().__init__("; ".join(names))
        self.verdict = verdict
        self.history = history


def ask(subject: Any, asked: Call) -> Any:
    """Call the subject's method of that name."""
    method = getattr(subject, asked.function)
    match asked.argument:
        case None:
            return method()
        case Mapping() as keywords:
            return method(**keywords)
        case argument:
            return method(argument)


@runtime_checkable
class Telltale(Protocol):
    """A subject that tells what happens inside its calls, a provider asked say."""

    def watch(self, tick: Callable[[], int], see: Callable[[str, Any, int], None]) -> None:
        """From now on tell `see` what happened, what about, and the `tick` at which it began."""
        ...


@dataclass(frozen=True)
class Operations:
    """A body: `before` in the main thread, `threads` side by side, `after` in the main thread.

    What a `Telltale` subject tells joins the history, as operations of process 0.

    `refusals` are the exceptions that mean a call did not happen and will not; after any other
    nobody knows, and the thread goes on as a new process.
    """

    make: Callable[[], Any]
    threads: Sequence[Sequence[Call]]
    check: Checker
    before: Sequence[Call] = ()
    after: Sequence[Call] = ()
    ask: Callable[[Any, Call], Any] = ask
    refusals: tuple[type[Exception], ...] = ()
    _known: dict[str, Verdict] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, run: Run) -> None:
        """Run one schedule. Raises PromiseBrokenError if its history is invalid."""
        told = _Telling(self)
        told.do(0, self.before)
        for process, calls in enumerate(self.threads, start=1):
            run.thread(told.do, process, calls)
        run.join()
        told.do(0, self.after)
        history = History(tuple(sorted(told.operations, key=lambda o: o.invoked_ns)))
        verdict = self._judge(history)
        if verdict.validity is Validity.INVALID:
            raise PromiseBrokenError(verdict, history)
        if verdict.validity is Validity.UNKNOWN:
            run.met("a history that nobody could judge")

    def _judge(self, history: History) -> Verdict:
        """Judge it, once: most schedules have a history that another one had before."""
        key = repr(history.operations)
        verdict = self._known.get(key)
        if verdict is None:
            verdict = self.check(history)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = verdict
        return verdict


class _Telling:
    """The history of one schedule, while it is made."""

    def __init__(self, program: Operations) -> None:
        self._program = program
        self._now = count(1)
        self._strangers = count(len(program.threads) + 1)
        self.operations: list[Operation] = []
        self._subject = program.make()
        if isinstance(self._subject, Telltale):
            self._subject.watch(self.tick, self.see)

    def tick(self) -> int:
        """The next moment of the history."""
        return next(self._now)

    def see(self, function: str, argument: Any, begun: int) -> None:
        """Something inside a call, which began at that moment, has ended."""
        seen = Operation(0, function, argument, Outcome.OK, begun, next(self._now))
        self.operations.append(seen)

    def do(self, process: int, calls: Sequence[Call]) -> None:
        """Make these calls, one after the other, as this process."""
        for asked in calls:
            invoked = next(self._now)
            outcome, result, error = Outcome.OK, None, ""
            try:
                result = self._program.ask(self._subject, asked)
            except self._program.refusals as refused:
                outcome, error = Outcome.FAIL, f"{type(refused).__name__}: {refused}"
            except Exception as lost:  # noqa: BLE001 - what the call did is not known now
                outcome, error = Outcome.INFO, f"{type(lost).__name__}: {lost}"
            completed = None if outcome is Outcome.INFO else next(self._now)
            self.operations.append(
                Operation(
                    process,
                    asked.function,
                    asked.argument,
                    outcome,
                    invoked,
                    completed,
                    result,
                    error,
                )
            )
            if outcome is Outcome.INFO:
                process = next(self._strangers)


def fewer(program: Operations, explore: Callable[[Body], Result]) -> tuple[Operations, Result]:
    """Leave out calls, one by one, as long as `explore` still finds a failure of the same kind."""
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
            kept = [*calls[:position], *calls[position + 1 :]]
            threads = [*program.threads[:index], *([kept] if kept else [])]
            threads += program.threads[index + 1 :]
            yield replace(program, threads=threads, _known={})
    for position in range(len(program.before)):
        before = [*program.before[:position], *program.before[position + 1 :]]
        yield replace(program, before=before, _known={})


def small_scope(calls: Sequence[Call], operations: int) -> Iterator[tuple[tuple[Call, ...], ...]]:
    """Every way to choose so many of these calls, each in a thread of its own."""
    for chosen in combinations_with_replacement(calls, operations):
        yield tuple((asked,) for asked in chosen)
