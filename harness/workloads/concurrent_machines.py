"""Runs the rules of a sequential Hypothesis machine in threads or asyncio tasks.

Hypothesis draws the rules, their arguments, and the thread of each, and runs them in sequence as
ever: preconditions, bundles and the machine's own assertions hold. The calls that the rules make on
the subject are recorded. They are then a program for the explorer, whose every schedule must answer
as some sequential order of the same calls does. Hypothesis shrinks the program, the explorer its
schedule, and both repeat themselves.

Never asked are programs that prove nothing: whose rules would make other calls in another order,
or which precondition an order breaks, or which block in sequence.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NoReturn

from hypothesis import HealthCheck, Phase, reject, settings, stateful
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from hypothesis.stateful import RuleBasedStateMachine

from harness.core.errors import UsageError
from harness.core.verdict import Validity
from harness.schedule import Budget, explore
from harness.schedule.again import again, packed, unpacked
from harness.schedule.finding import Finding
from harness.schedule.patches import Patches
from harness.schedule.program import Body
from harness.workloads.sequential_orders import (
    Answer,
    Fresh,
    MachineCall,
    Program,
    RejectedError,
    Sequential,
    frozen,
    orders_of,
    performed,
)

_RULE = "hypothesis_stateful_rule"  # where Hypothesis keeps what `rule` was given
_INITIALIZE = "hypothesis_stateful_initialize_rule"
_RULE_ORDERS_MAX = 120
SHRINKS_MAX = 60  # programs searched after the first failure
# No deadline passes early: a call that gives up has an answer that no order without a wait gives.
DEFAULT_BUDGET = Budget(schedules=60, seconds=5.0, timers=0)
DEFAULT_SETTINGS = settings(
    max_examples=100,
    stateful_step_count=6,
    deadline=None,
    phases=(Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


class NotLinearizableError(AssertionError):
    """A schedule of a drawn program failed. `program` is the program, `finding` the schedule."""

    def __init__(self, program: Program, finding: Finding, replay: str) -> None:
        super().__init__("\n".join([f"{program}", "", finding.story, "", replay]))
        self.program = program
        self.finding = finding


@dataclass
class Concurrency:
    """How much a search asked: programs, schedules, those exhausted, and why others were not."""

    programs: int = 0
    exhausted: int = 0
    schedules: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unknown: dict[str, None] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [
            f"{self.programs} programs ({self.exhausted} exhausted), {self.schedules} schedules",
            *(f"{number} programs rejected: {why}" for why, number in self.rejected.items()),
            *(f"unknown: {why}" for why in self.unknown),
        ]
        return "; ".join(parts)


def run_concurrently(  # noqa: PLR0913  all but two have defaults
    machine: type[RuleBasedStateMachine],
    subject: str,
    *,
    processes: int = 2,
    tasks: bool = False,
    budget: Budget = DEFAULT_BUDGET,
    settings: settings = DEFAULT_SETTINGS,
    allow_unknown: bool = False,
    replay: str = "",
    **options: Any,
) -> Concurrency:
    """Run the rules of a sequential machine in threads or tasks, under explored schedules.

    `subject` is the attribute of the machine that holds the object under test; its class, in
    sequence, is the specification. Each rule of the machine becomes one of `processes` threads, or
    asyncio tasks with `tasks`, or of the main thread before or after them. `budget` is that of one
    program, and `options` are those of `explore`. `replay` is the text that a failure printed; only
    its schedule is executed.

    Raises NotLinearizableError with the shrunk program and schedule; UsageError if the machine does
    not fit, or if no program could be asked; AssertionError if a search proves nothing and
    `allow_unknown` is not set.
    """
    search = _Search(machine, subject, processes, budget, options, tasks=tasks)
    with Patches():  # once for all programs
        if replay:
            search.replay(replay)
        else:
            with suppress(Unsatisfiable):  # no program could be asked, which `conclude` says
                stateful.run_state_machine_as_test(search.machine(), settings=settings)
            search.conclude(allow_unknown=allow_unknown)
    return search.report


@dataclass(frozen=True)
class _Step:
    """One rule that ran: its process, its arguments, and what it called."""

    rule: Any
    process: int
    arguments: dict[str, Any]
    calls: list[MachineCall] = field(default_factory=list)


class _Search:
    """Explores drawn programs, and remembers what each of them gave."""

    def __init__(  # noqa: PLR0913  what `run_concurrently` has
        self,
        original: type[RuleBasedStateMachine],
        subject: str,
        processes: int,
        budget: Budget,
        options: Mapping[str, Any],
        *,
        tasks: bool,
    ) -> None:
        self.original = original
        self.subject = subject
        self.processes = processes
        self.tasks = tasks
        self.report = Concurrency()
        self.sequential = Sequential()
        self._budget = budget
        self._options = options
        self._known: dict[str, tuple[Program, Finding] | None] = {}
        self._tries: int | None = None  # since the first failure

    # Machines

    def machine(self) -> type[RuleBasedStateMachine]:
        """Derive a machine whose rules take a thread, and which explores at its end."""
        rules = {
            name: function
            for name, function in inspect.getmembers(self.original)
            if getattr(function, _RULE, None) is not None
        }
        if not rules:
            raise UsageError(f"{self.original.__name__} has no rule, expected a machine with rules")
        search = self

        class Concurrent(self.original):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                super().__init__()
                self.harness_recorder = _Recorder(search)
                self.harness_recorder.wrap(self)

            def teardown(self) -> None:
                is_complete = sys.exc_info()[0] is None
                if is_complete:
                    self.harness_recorder.observe(self)
                super().teardown()
                if is_complete:
                    search.ask(self.harness_recorder)

        Concurrent.__name__ = Concurrent.__qualname__ = self.original.__name__
        for name, function in inspect.getmembers(self.original):
            if (rule := getattr(function, _RULE, None)) is not None:
                setattr(Concurrent, name, self._in_thread(rule))
            elif (rule := getattr(function, _INITIALIZE, None)) is not None:
                setattr(Concurrent, name, _initializing(rule))
        return Concurrent

    def _in_thread(self, rule: Any) -> Any:
        word = "task" if self.tasks else "thread"
        while word in rule.arguments:
            word += "_"

        def in_thread(machine: Any, **arguments: Any) -> Any:
            process = arguments.pop(word)
            return machine.harness_recorder.rule(machine, rule, process, arguments)

        in_thread.__name__ = rule.function.__name__
        in_thread.__qualname__ = rule.function.__qualname__
        process = st.integers(0, self.processes)
        made = stateful.rule(targets=_targets(rule), **{**rule.arguments, word: process})(in_thread)
        for condition in rule.preconditions:
            made = stateful.precondition(condition)(made)
        return made

    def fresh(self, initial: Sequence[tuple[Any, dict[str, Any]]]) -> Fresh:
        """Make a machine, and its subject."""
        machine = self.original()
        for rule, arguments in initial:
            rule.function(machine, **arguments)
        return Fresh(machine, subject_of(machine, self.subject))

    # Programs

    def ask(self, recorder: _Recorder) -> None:
        """Explore the program that was drawn, unless it proves nothing."""
        program = recorder.program()
        if sum(map(bool, program.threads)) < 2:  # noqa: PLR2004  two that can meet
            self._reject("fewer than two threads")
        key = repr(program)[repr(program).index("before=") :]
        if key not in self._known:
            if self._tries is not None and self._tries >= SHRINKS_MAX:
                return
            try:
                recorder.check_orders()
                self._known[key] = self._found(program)
            except RejectedError as why:
                self._reject(str(why))
            if self._tries is not None or self._known[key] is not None:
                self._tries = (self._tries or 0) + 1
        if (found := self._known[key]) is not None:
            raise NotLinearizableError(*found, self._command(*found, recorder.initial))

    def _reject(self, why: str) -> NoReturn:
        self.report.rejected[why] += 1
        reject()

    def _found(self, program: Program) -> tuple[Program, Finding] | None:
        orders = orders_of(program, self.sequential)
        result = explore(program.body(orders.judge), budget=self._budget, **self._options)
        self.report.programs += 1
        self.report.exhausted += result.exhausted
        self.report.schedules += result.schedules
        if result.validity is Validity.UNKNOWN:
            self.report.unknown |= dict.fromkeys(result.escapes)
        return None if result.finding is None else (program, result.finding)

    def conclude(self, *, allow_unknown: bool) -> None:
        """Raise if the search proves nothing."""
        if not self.report.programs:
            raise UsageError(
                f"{self.original.__name__}: no program was explored; expected rules that call"
                f" {self.subject!r} from two threads; {self.report}"
            )
        if self.report.unknown and not allow_unknown:
            raise AssertionError(f"no schedule failed, but the verdict is unknown: {self.report}")

    # Replays

    def _command(self, program: Program, finding: Finding, initial: Sequence[Any]) -> str:
        try:
            text = packed(finding, program=_encoded(program, initial))
        except ValueError:
            return "its arguments are no literals: run the test again to execute it again"
        tasks = ", tasks=True" if self.tasks else ""
        name = self.original.__name__
        return f'replay it: run_concurrently({name}, "{self.subject}"{tasks}, replay="{text}")'

    def replay(self, text: str) -> None:
        """Execute the schedule of a failure again, and raise if it fails again."""
        finding, notes = unpacked(text)
        rows = notes["program"]
        initial = [
            (getattr(getattr(self.original, name), _INITIALIZE), ast.literal_eval(arguments))
            for name, arguments in rows["initial"]
        ]
        before, *threads, after = (tuple(map(_decoded, calls)) for calls in rows["calls"])
        program = Program(lambda: self.fresh(initial), before, tuple(threads), after, self.tasks)
        now = again(
            program.body(orders_of(program, self.sequential).judge),
            finding,
            rules=self._options.get("rules"),
        )
        self.report.programs = self.report.schedules = 1
        if now is not None:
            raise NotLinearizableError(program, now, self._command(program, now, initial))


def subject_of(machine: Any, name: str) -> Any:
    """Return the subject of a machine. Raises UsageError where it has none of that name."""
    try:
        return getattr(machine, name)
    except AttributeError:
        raise UsageError(
            f"{type(machine).__name__} has no attribute {name!r}, expected the object under test,"
            " made by __init__ or by an initialize rule"
        ) from None


def _targets(rule: Any) -> tuple[stateful.Bundle[Any], ...]:
    return tuple(stateful.Bundle(name) for name in rule.targets)


def _initializing(rule: Any) -> Any:
    def initializing(machine: Any, **arguments: Any) -> Any:
        result = rule.function(machine, **arguments)
        machine.harness_recorder.initial.append((rule, arguments))
        machine.harness_recorder.wrap(machine)
        return result

    initializing.__name__ = rule.function.__name__
    initializing.__qualname__ = rule.function.__qualname__
    return stateful.initialize(targets=_targets(rule), **rule.arguments)(initializing)


class _Recorder:
    """Records what the rules of one machine call on its subject."""

    def __init__(self, search: _Search) -> None:
        self.search = search
        self.initial: list[tuple[Any, dict[str, Any]]] = []
        self.steps: list[_Step] = []
        self._current: _Step | None = None
        self._numbers = count(1)
        self._answers: list[tuple[int, Any]] = []  # of calls, which later arguments may be
        self.results: list[tuple[_Result, Any]] = []  # of rules, which later arguments may be

    def wrap(self, machine: Any) -> None:
        """Put the recording subject in the place of the subject, once there is one."""
        subject = getattr(machine, self.search.subject, None)
        if subject is not None and not isinstance(subject, _Recorded):
            setattr(machine, self.search.subject, _Recorded(subject, self))

    def rule(self, machine: Any, rule: Any, process: int, arguments: dict[str, Any]) -> Any:
        """Run a rule, and record its calls as those of a process."""
        subject_of(machine, self.search.subject)
        passed = {name: self._as_result(value) for name, value in arguments.items()}
        self._current = _Step(rule, process, passed)
        self.steps.append(self._current)
        try:
            result = rule.function(machine, **arguments)
        finally:
            self._current = None
        number = len(self.steps) - 1
        values = list(result) if isinstance(result, stateful.MultipleResults) else [result]
        self.results += [
            (_Result(number, index), value)
            for index, value in enumerate(values)
            if not _is_plain(value)
        ]
        return result

    def observe(self, machine: Any) -> None:
        """Record what the invariants read: the calls after all threads."""
        self._current = _Step(None, 0, {})
        try:
            for invariant in machine.invariants:
                if all(condition(machine) for condition in invariant.preconditions):
                    invariant.function(machine)
            self.steps.append(self._current)
        finally:
            self._current = None

    def record(self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
        """Record a call, if a rule makes it; its number, or 0."""
        if self._current is None:
            return 0
        number = next(self._numbers)
        passed = tuple(map(self._as_answer, args))
        named = {name: self._as_answer(value) for name, value in kwargs.items()}
        self._current.calls.append(_made(function, number, passed, named))
        return number

    def returned(self, number: int, answer: Any) -> None:
        """Note the answer of a call."""
        if number and not _is_plain(answer):
            self._answers.append((number, answer))

    def _as_answer(self, value: Any) -> Any:
        return next((Answer(n) for n, known in self._answers if known is value), value)

    def _as_result(self, value: Any) -> Any:
        return next((which for which, known in self.results if known is value), value)

    def program(self) -> Program:
        """The drawn program: calls of process 0 are before the first of a thread, or after all."""
        before: list[MachineCall] = []
        after: list[MachineCall] = []
        threads: list[list[MachineCall]] = [[] for _ in range(self.search.processes)]
        for step in self.steps:
            if step.process:
                threads[step.process - 1] += step.calls
            else:
                (after if any(threads) or step.rule is None else before).extend(step.calls)
        initial = tuple(self.initial)
        used = tuple(tuple(calls) for calls in threads if calls)
        make = _Maker(self.search, initial)
        return Program(make, tuple(before), used, tuple(after), self.search.tasks)

    def check_orders(self) -> None:
        """Run the rules in each order. Raises RejectedError if one of them makes other calls."""
        self._check_answers()
        before, rows, after = self._phases()
        orders = 0

        def look(run_one: Callable[[Body], bool]) -> None:
            nonlocal orders
            for order in _merged(rows):
                orders += 1
                if orders > _RULE_ORDERS_MAX:
                    raise RejectedError("too many orders of rules")
                steps = [*before, *order, *after]
                if not run_one(lambda _run, steps=steps: self._rerun(steps)):  # type: ignore[misc]
                    raise RejectedError("a rule blocks in another order")

        self.search.sequential.all(look)

    def _check_answers(self) -> None:
        """Raise RejectedError if a thread needs the answer of another one."""
        home = {call.number: step.process for step in self.steps for call in step.calls}
        for step in self.steps:
            for call in step.calls:
                for value in (*call.args, *call.kwargs.values()):
                    if isinstance(value, Answer) and home[value.number] not in (0, step.process):
                        raise RejectedError("a thread needs the answer of another thread")

    def _phases(self) -> tuple[list[_Step], list[list[_Step]], list[_Step]]:
        before: list[_Step] = []
        after: list[_Step] = []
        rows: list[list[_Step]] = [[] for _ in range(self.search.processes)]
        for step in self.steps:
            if step.process:
                rows[step.process - 1].append(step)
            elif step.rule is not None:
                (after if any(s.calls for row in rows for s in row) else before).append(step)
        return before, rows, after

    def _rerun(self, steps: Sequence[_Step]) -> None:
        """Run these rules in sequence. Raises RejectedError where one makes other calls."""
        machine = self.search.original()
        again = _Recorder(self.search)
        for rule, arguments in self.initial:
            rule.function(machine, **arguments)
        again.wrap(machine)
        numbers = {id(step): number for number, step in enumerate(self.steps)}
        results: dict[_Result, Any] = {}
        try:
            for step in steps:
                arguments = {name: _given(value, results) for name, value in step.arguments.items()}
                again.run_as(step, machine, arguments)
                results |= {
                    _Result(numbers[id(step)], which.index): value
                    for which, value in again.results
                    if which.step == len(again.steps) - 1
                }
        finally:
            with suppress(Exception):
                machine.teardown()

    def run_as(self, step: _Step, machine: Any, arguments: dict[str, Any]) -> None:
        """Run a rule as that step did. Raises RejectedError where it makes other calls."""
        if not all(condition(machine) for condition in step.rule.preconditions):
            raise RejectedError("a precondition does not hold in every order")
        try:
            self.rule(machine, step.rule, 0, arguments)
        except Exception as error:
            raise RejectedError("a rule fails in another order") from error
        if list(map(_shape, self.steps[-1].calls)) != list(map(_shape, step.calls)):
            raise RejectedError("a rule makes other calls in another order")


def _made(function: str, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> MachineCall:
    shown = {**{f"arg{n}": value for n, value in enumerate(args)}, **kwargs}
    return MachineCall(function, shown or None, number, args=args, kwargs=kwargs)


def _named(
    method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Pass arguments by name where they have one, so that a story can be read."""
    try:
        signature = inspect.signature(method)
        given = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):  # built in, or a wrong call, which is to fail as it is
        return args, kwargs
    kinds = {signature.parameters[name].kind for name in given.arguments}
    if kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}:
        return (), dict(given.arguments)
    return args, kwargs


@dataclass(frozen=True)
class _Result:
    """An argument of a rule that is a result of an earlier rule."""

    step: int
    index: int


def _given(value: Any, results: Mapping[_Result, Any]) -> Any:
    if isinstance(value, _Result):
        if value not in results:
            raise RejectedError("a rule needs the result of another thread")
        return results[value]
    return value


def _shape(call: MachineCall) -> tuple[Any, ...]:
    """What of a call is the same in whatever order: not the number of an answer that it has."""
    values = [*call.args, *call.kwargs.items()]
    return call.function, *(Answer(0) if isinstance(v, Answer) else frozen(v) for v in values)


@dataclass(frozen=True)
class _Maker:
    """Makes a fresh machine and subject for each schedule."""

    search: _Search
    initial: tuple[tuple[Any, dict[str, Any]], ...]

    def __call__(self) -> Fresh:
        return self.search.fresh(self.initial)

    def __repr__(self) -> str:
        return f"{self.search.original.__name__}({[arguments for _, arguments in self.initial]})"


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | complex | str | bytes | type(None))


def _merged(rows: Sequence[Sequence[_Step]]) -> Iterator[list[_Step]]:
    """Generate the orders of these rows that keep the order of each."""
    if not any(rows):
        yield []
    for index, row in enumerate(rows):
        if row:
            rest = [*rows[:index], row[1:], *rows[index + 1 :]]
            yield from ([row[0], *order] for order in _merged(rest))


# The subject, recorded


class _Recorded:
    """Stands in the place of the subject, and records what a rule calls on it."""

    def __init__(self, subject: Any, recorder: _Recorder) -> None:
        object.__setattr__(self, "_harness_subject", subject)
        object.__setattr__(self, "_harness_recorder", recorder)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(object.__getattribute__(self, "_harness_subject"))

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._harness_subject, name)
        if callable(value):
            return lambda *args, **kwargs: _call(self, name, *_named(value, args, kwargs))
        self._harness_recorder.returned(self._harness_recorder.record(f".{name}", (), {}), value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self._harness_recorder.record(f"{name}=", (value,), {})
        setattr(self._harness_subject, name, value)


def _call(recorded: Any, name: str, args: Any, kwargs: Any) -> Any:
    subject = object.__getattribute__(recorded, "_harness_subject")
    recorder = object.__getattribute__(recorded, "_harness_recorder")
    number = recorder.record(name, args, kwargs)
    answer = performed(subject, name, args, kwargs)
    if inspect.isawaitable(answer):
        if not recorder.search.tasks:
            raise UsageError(f"{name}() returns an awaitable; expected tasks=True for such a class")
        return _awaited(answer, recorder, number)
    recorder.returned(number, answer)
    return iter(answer) if name == "__iter__" else answer


async def _awaited(answer: Any, recorder: _Recorder, number: int) -> Any:
    result = await answer
    recorder.returned(number, result)
    return result


_SPECIAL = (
    *("__len__", "__getitem__", "__setitem__", "__delitem__", "__contains__", "__iter__"),
    *("__bool__", "__call__", "__enter__", "__exit__", "__next__", "__reversed__"),
    *("__int__", "__float__"),
)


def _special(name: str) -> Callable[..., Any]:
    def special(self: Any, *args: Any) -> Any:
        subject = object.__getattribute__(self, "_harness_subject")
        if not hasattr(subject, name):
            return _without(subject, name, args)
        return _call(self, name, args, {})

    return special


def _without(subject: Any, name: str, args: tuple[Any, ...]) -> Any:
    """Act as Python does for an object that lacks this method."""
    if name == "__bool__":
        return not hasattr(subject, "__len__") or len(subject) > 0
    if name == "__contains__":
        return args[0] in subject
    if name in {"__int__", "__float__"}:
        return {"__int__": int, "__float__": float}[name](subject)
    raise TypeError(f"{type(subject).__name__} object has no {name}")


for _name in _SPECIAL:
    setattr(_Recorded, _name, _special(_name))


# Literals


def _encoded(program: Program, initial: Sequence[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    """Render a program as JSON. Raises ValueError for an argument that is no literal."""
    rows = [program.before, *program.threads, program.after]
    return {
        "initial": [[rule.function.__name__, _literal(arguments)] for rule, arguments in initial],
        "calls": [[_encoded_call(call) for call in calls] for calls in rows],
    }


def _encoded_call(call: MachineCall) -> list[Any]:
    answers = {i: v.number for i, v in enumerate(call.args) if isinstance(v, Answer)}
    named = {n: v.number for n, v in call.kwargs.items() if isinstance(v, Answer)}
    args = tuple(None if isinstance(v, Answer) else v for v in call.args)
    kwargs = {n: None if isinstance(v, Answer) else v for n, v in call.kwargs.items()}
    return [call.function, call.number, _literal((args, kwargs)), repr((answers, named))]


def _decoded(row: Sequence[Any]) -> MachineCall:
    function, number, literal, references = row
    args, kwargs = ast.literal_eval(literal)
    answers, named = ast.literal_eval(references)
    passed = tuple(Answer(answers[i]) if i in answers else v for i, v in enumerate(args))
    kwargs = {**kwargs, **{name: Answer(n) for name, n in named.items()}}
    return _made(function, number, passed, kwargs)


def _literal(value: Any) -> str:
    """Render a value that `literal_eval` reads. Raises ValueError for another one."""
    text = repr(value)
    if ast.literal_eval(text) != value:
        raise ValueError(f"{text} is no literal")
    return text
