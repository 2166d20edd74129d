"""Programs of calls on one subject, and the answers of each sequential order of them.

A program is data: what each thread or task calls, and the calls before and after. Each sequential
order runs on a fresh subject, as a schedule of its own, so that a call that blocks is seen and time
is virtual. A concurrent history is linearizable if one of those orders respects its times and gives
its answers; the class itself, used in sequence, is the specification (as in Lincheck: Koval et al.,
CAV 2023).

Programs that prove nothing are rejected: those of which some order leaves all callers blocked,
because a deadlock of theirs is no fault of the class, and those with too many orders.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import History, Operation
from harness.core.verdict import VALID, Anomaly, Verdict
from harness.schedule.executor import Executor, Settings
from harness.schedule.operations import Call, Operations
from harness.schedule.program import Body, Run
from harness.schedule.strategies import Replay

LINEARIZABLE = Promise(
    "LINEARIZABLE", "Concurrent calls answer as some sequential order of the same calls does."
)
PAUSE_S = 1e-6  # between two calls of a task, so that others may come first
ORDERS_MAX = 400  # sequential runs for one program
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
Path = tuple[int, ...]  # the process of each call, in the order in which the calls run


class RejectedError(Exception):
    """The program proves nothing about the class; the message says why."""


@dataclass(frozen=True, slots=True)
class Raised:
    """The answer of a call that raised: the type of the exception, since a message may vary."""

    error: str

    def __repr__(self) -> str:
        return f"raised {self.error}"


@dataclass(frozen=True, slots=True)
class Opaque:
    """An answer without a value of its own: only its type is compared."""

    kind: str

    def __repr__(self) -> str:
        return f"<{self.kind}>"


@dataclass(frozen=True, slots=True)
class Answer:
    """An argument that is the answer of an earlier call, by that call's number."""

    number: int

    def __repr__(self) -> str:
        return f"<answer of call {self.number}>"


@dataclass(frozen=True, slots=True)
class MachineCall(Call):
    """One call that a machine made: its number in the program, and its arguments.

    `function` is the name of a method, `.NAME` to read an attribute, `NAME=` to write one.
    """

    number: int = 0
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Fresh:
    """A subject of one run, with what made it, and the answers of its calls."""

    machine: Any
    subject: Any
    answers: dict[int, Any] = field(default_factory=dict)

    def close(self) -> None:
        """Let the machine clean up. Its own model knows none of these calls, so it judges none."""
        with suppress(Exception):
            self.machine.teardown()


@dataclass(frozen=True)
class Program:
    """What each thread or task calls, and the calls before and after them."""

    make: Callable[[], Fresh]
    before: tuple[MachineCall, ...]
    threads: tuple[tuple[MachineCall, ...], ...]
    after: tuple[MachineCall, ...]
    tasks: bool = False

    def __str__(self) -> str:
        rows = [("before", self.before), *self._threads(), ("after", self.after)]
        return "\n".join(
            f"{name}: {', '.join(f'{call}' for call in calls)}" for name, calls in rows if calls
        )

    def _threads(self) -> Iterator[tuple[str, tuple[MachineCall, ...]]]:
        word = "task" if self.tasks else "thread"
        yield from ((f"{word} {n}", calls) for n, calls in enumerate(self.threads, start=1))

    def body(self, check: Callable[[History], Verdict]) -> Body:
        """Return the body that runs one schedule of this program, and checks its history."""
        made: list[Fresh] = []

        def make() -> Fresh:
            made[:] = [self.make()]
            return made[0]

        program = Operations(
            make,
            self.threads,
            check,
            self.before,
            self.after,
            ask=ask,
            tasks=self.tasks,
            arrivals_s=PAUSE_S,
        )

        def body(run: Run) -> None:
            try:
                program(run)
            finally:
                for fresh in made:
                    fresh.close()

        return body


def ask(fresh: Fresh, call: Call) -> Any:
    """Make a call, and return its frozen answer; an awaitable of it, where the subject awaits."""
    assert isinstance(call, MachineCall)
    try:
        answer = _ask(fresh, call)
    except Exception as error:  # noqa: BLE001  an exception is an answer
        return Raised(type(error).__name__)
    if inspect.isawaitable(answer):
        return _awaited(fresh, call, answer)
    fresh.answers[call.number] = answer
    return frozen(answer)


def _ask(fresh: Fresh, call: MachineCall) -> Any:
    args = [_resolved(fresh, value) for value in call.args]
    kwargs = {name: _resolved(fresh, value) for name, value in call.kwargs.items()}
    if call.function.startswith("."):
        return getattr(fresh.subject, call.function[1:])
    if call.function.endswith("="):
        return setattr(fresh.subject, call.function[:-1], *args)
    return performed(fresh.subject, call.function, args, kwargs)


def performed(subject: Any, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a method. What it yields lazily is part of the call."""
    if function == "__iter__":
        return tuple(subject)
    return getattr(subject, function)(*args, **kwargs)


async def _awaited(fresh: Fresh, call: MachineCall, answer: Any) -> Any:
    try:
        fresh.answers[call.number] = result = await answer
    except Exception as error:  # noqa: BLE001  an exception is an answer
        return Raised(type(error).__name__)
    return frozen(result)


def _resolved(fresh: Fresh, value: Any) -> Any:
    return fresh.answers.get(value.number) if isinstance(value, Answer) else value


def frozen(value: Any) -> Any:
    """Return what of an answer is compared, which later calls do not change."""
    if isinstance(value, _PLAIN):
        return value if value == value else Opaque("nan")  # noqa: PLR0124  not a number
    if isinstance(value, tuple | list):
        return type(value).__name__, *map(frozen, value)
    if isinstance(value, Mapping):
        rows = [(frozen(key), frozen(item)) for key, item in value.items()]
        return type(value).__name__, *rows
    if isinstance(value, AbstractSet):
        return type(value).__name__, *sorted(map(frozen, value), key=repr)
    compares = type(value).__eq__
    if compares is object.__eq__ or not _is_stable(value):  # type: ignore[comparison-overlap]
        return Opaque(type(value).__name__)
    return value


def _is_stable(value: Any) -> bool:
    """Whether a value can be compared later: what can be hashed does not change."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


@dataclass(frozen=True)
class Orders:
    """The answer of the last call of each sequential order, by the order."""

    program: Program
    answers: Mapping[Path, Any]

    def judge(self, history: History) -> Verdict:
        """Return whether one order respects the history's times and gives its answers."""
        operations = [[o for o in history if o.process == p] for p in range(self.processes)]
        first, last = len(self.program.before), len(self.program.after)
        before, after = operations[0][:first], operations[0][first:]
        assert len(after) == last, "a call has no answer"
        if self._explain(before, operations[1:], after):
            return VALID
        calls = [f"{o.call} by process {o.process} -> {o.result!r}" for o in history]
        answers = "; ".join(map(_text, self._possible()))
        return Verdict(
            (
                Anomaly(
                    LINEARIZABLE,
                    f"no sequential order gives these answers: {'; '.join(calls)}",
                    tuple(history),
                    "not-linearizable",
                    expected=f"the answers of a sequential order: {answers}",
                    observed=_text([o.result for o in history]),
                ),
            )
        )

    @property
    def processes(self) -> int:
        """The number of processes, with that of the calls before and after."""
        return len(self.program.threads) + 1

    def _possible(self) -> Iterator[list[Any]]:
        length = max(map(len, self.answers))
        for path in self.answers:
            if len(path) == length:
                yield [self.answers[path[: n + 1]] for n in range(length)]

    def _explain(
        self,
        before: Sequence[Operation],
        threads: Sequence[Sequence[Operation]],
        after: Sequence[Operation],
    ) -> bool:
        path = (0,) * len(before)
        if any(self.answers[path[: n + 1]] != o.result for n, o in enumerate(before)):
            return False
        todo = [(path, (0,) * len(threads))]
        while todo:
            path, done = todo.pop()
            open_ = [
                (p, calls[n])
                for p, (calls, n) in enumerate(zip(threads, done, strict=True))
                if n < len(calls)
            ]
            if not open_:
                if self._ends(path, after):
                    return True
                continue
            for p, operation in open_:
                if any(other.precedes(operation) for q, other in open_ if q != p):
                    continue
                longer = (*path, p + 1)
                if longer in self.answers and self.answers[longer] == operation.result:
                    todo.append((longer, (*done[:p], done[p] + 1, *done[p + 1 :])))
        return False

    def _ends(self, path: Path, after: Sequence[Operation]) -> bool:
        for operation in after:
            path = (*path, 0)
            if path not in self.answers or self.answers[path] != operation.result:
                return False
        return True


def _text(values: Sequence[Any]) -> str:
    return f"({', '.join(map(repr, values))})"


class Sequential:
    """Runs functions one after the other, each as a schedule without a switch."""

    def __init__(self) -> None:
        self._body: Body = lambda _run: None
        self._executor = Executor(self._run, Settings(timers=0))

    def _run(self, run: Run) -> Any:
        return self._body(run)

    def all(self, function: Callable[[Callable[[Body], bool]], Any]) -> Any:
        """Call `function` with what runs one body, and returns whether it came to its end."""

        def run_one(body: Body) -> bool:
            self._body = body
            chooser = Replay(())
            chooser.begin()
            ending = self._executor.execute(chooser).ending
            if ending is not None and ending.error is not None:
                raise ending.error
            return ending is None

        return self._executor.supervise(lambda: function(run_one))


def orders_of(program: Program, sequential: Sequential) -> Orders:
    """Run each sequential order of a program. Raises RejectedError if it proves nothing.

    Raises UsageError for a class that answers the same order in two ways.
    """
    answers: dict[Path, Any] = {}
    runs = 0

    def look(run_one: Callable[[Body], bool]) -> None:
        nonlocal runs
        todo: list[Path] = [(0,) * len(program.before)]
        while todo:
            path = todo.pop()
            runs += 1
            if runs > ORDERS_MAX:
                raise RejectedError("too many sequential orders")
            if not _run_path(program, path, answers, run_one):
                if path and path[-1] == 0:
                    raise RejectedError("a call outside of the threads blocks")
                continue
            todo += _longer(program, path)
        _reject_stuck(program, answers)

    sequential.all(look)
    return Orders(program, answers)


def _longer(program: Program, path: Path) -> list[Path]:
    """Return the paths with one more call; all calls of `after` come at once."""
    open_ = [
        (*path, p) for p, calls in enumerate(program.threads, start=1) if path.count(p) < len(calls)
    ]
    is_over = not open_ and path.count(0) == len(program.before)
    return [(*path, *(0,) * len(program.after))] if is_over and program.after else open_


def _reject_stuck(program: Program, answers: Mapping[Path, Any]) -> None:
    """Reject a program of which some order leaves all callers blocked."""
    for path in [(0,) * len(program.before), *answers]:
        longer = _longer(program, path) if len(path) >= len(program.before) else []
        if longer and not any(answer in answers for answer in longer):
            raise RejectedError("in some order all callers block, also in sequence")


def _run_path(
    program: Program, path: Path, answers: dict[Path, Any], run_one: Callable[[Body], bool]
) -> bool:
    """Run one order; whether its last call returned. Its answers are added."""
    given: list[Any] = []

    def check(history: History) -> Verdict:
        given.extend(operation.result for operation in history)
        return VALID

    calls = _calls(program, path)
    body = Program(program.make, calls, (), (), program.tasks).body(check)
    if not run_one(body):
        return False
    for length, answer in enumerate(given, start=1):
        known = answers.setdefault(path[:length], answer)
        if known != answer:
            raise UsageError(
                f"{calls[length - 1]} returned {known!r} and then {answer!r} after the same calls"
                f" in sequence; expected a class that repeats its answers"
            )
    return True


def _calls(program: Program, path: Path) -> tuple[MachineCall, ...]:
    rows = [[*program.before, *program.after], *program.threads]
    positions = [0] * len(rows)
    calls = []
    for process in path:
        calls.append(rows[process][positions[process]])
        positions[process] += 1
    return tuple(calls)
