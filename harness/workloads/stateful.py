"""Rule-based machines: Hypothesis draws the calls, and a model judges each answer at once.

Hypothesis enables a random subset of the rules for each example (swarm testing, Groce et al.,
ISSTA 2012) and shrinks a failing example to the shortest program it can find. The journal contains
everything that the judgement depends on, so a stored history gives the same verdict again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar

import hypothesis
from hypothesis.errors import Flaky, Unsatisfiable, UnsatisfiedAssumption
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from harness.checkers.conformance import Fold
from harness.core.errors import UsageError
from harness.core.history import Operation
from harness.core.model import Model
from harness.core.verdict import Anomaly
from harness.engine.context import Context, Episode, Workload
from harness.engine.minimizing import fewest, unrecorded

STEPS_MAX = 30
MINIMIZING_S_MAX = 5.0  # for each signature
SIGNATURES_MAX = 12  # a search that found this many kinds of anomalies ends
# Examples after the first failure; counted, not timed, so that a seed gives one result. Fewer where
# examples share a server, since each example after a failure boots one.
SHRINKS_MAX = 100
SHARED_SHRINKS_MAX = 10
_PHASES = (hypothesis.Phase.generate, hypothesis.Phase.shrink)


class PromiseBrokenError(AssertionError):
    """Signals to Hypothesis that an example failed, so that it shrinks it."""

    def __init__(self, anomaly: Anomaly) -> None:
        super().__init__(f"{anomaly.promise.id}: {anomaly.message}")


class HarnessFailureError(BaseException):
    """Carries a failure of the harness past Hypothesis, which would retry or call it flaky."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(str(failure))
        self.failure = failure


@contextmanager
def _past_hypothesis() -> Iterator[None]:
    try:
        yield
    except Exception as failure:
        raise HarnessFailureError(failure) from failure


class Machine(RuleBasedStateMachine):
    """A rule-based machine that calls one instance. Subclasses define `model` and rules.

    Each example gets a fresh instance, unless the target has a function `begin`: then
    `examples_per_instance` examples share one. After the first failure each example gets a fresh
    instance again, so that no state is left over.
    """

    model: ClassVar[Model[Any]]
    context: ClassVar[Context]
    examples_per_instance: ClassVar[int] = 1
    examples_of_instance: ClassVar[int] = 0  # that the open instance has had
    open_episode: ClassVar[Episode | None] = None
    examples_begun: ClassVar[int] = 0
    refusals: ClassVar[int] = 0
    tries: ClassVar[int] = 0  # examples since the first refusal of this search
    wasted: ClassVar[int] = 0  # tries of earlier searches: they count as no examples
    sought: ClassVar[str] = ""  # the signature that this search shrinks
    known: ClassVar[frozenset[str]]  # the signatures that earlier searches shrank
    proofs: ClassVar[dict[str, Anomaly]]  # the shortest anomaly of each signature

    def __init__(self) -> None:
        super().__init__()
        machine = type(self)
        machine.examples_begun += 1
        machine.tries += bool(machine.refusals)
        if machine.tries > (SHRINKS_MAX if self.examples_per_instance == 1 else SHARED_SHRINKS_MAX):
            hypothesis.reject()
        with _past_hypothesis():
            self._episode = machine.opened()
        self._fold = Fold(self.model)
        self._is_broken = False
        if self.examples_per_instance > 1:
            self.ask("begin")

    def ask(self, function: str, /, **argument: Any) -> Operation:
        """Call the target, and end the example if the model refuses the answer."""
        with _past_hypothesis():
            operation = self._episode.client.ask(function, argument)
        anomaly = self._fold.step(operation)
        if anomaly is not None:
            type(self).record(anomaly)
            if type(self).stops_at(anomaly):
                self._is_broken = True
                raise PromiseBrokenError(anomaly)
        if self._fold.is_lost:  # a known anomaly, behind which this model cannot judge
            self._is_broken = True
            hypothesis.reject()
        return operation

    @classmethod
    def stops_at(cls, anomaly: Anomaly) -> bool:
        """Whether an example ends with this anomaly: a search stops at one signature only.

        It goes on past signatures that earlier searches found, and past others until the first
        one is minimal; a later search looks for those.
        """
        if not cls.sought and anomaly.signature not in cls.known:
            cls.sought = anomaly.signature
        is_sought = anomaly.signature == cls.sought
        cls.refusals += is_sought
        return is_sought

    @classmethod
    def record(cls, anomaly: Anomaly) -> None:
        """Keep the anomaly as a proof, unless one of the same signature has as little evidence."""
        shortest = cls.proofs.setdefault(anomaly.signature, anomaly)
        cls.proofs[anomaly.signature] = min(shortest, anomaly, key=_length)

    @classmethod
    def search_again(cls) -> None:
        """Begin another search, which goes on past what was found so far."""
        cls.wasted += cls.tries
        cls.known |= {cls.sought}
        cls.refusals, cls.tries, cls.sought = 0, 0, ""

    @classmethod
    def opened(cls) -> Episode:
        """The instance that the next example calls."""
        is_used_up = cls.examples_of_instance >= cls.examples_per_instance
        if cls.open_episode is None or cls.refusals or is_used_up:
            cls.leave()
            cls.open_episode = cls.context.open()
        else:
            cls.context.go_on()
        cls.examples_of_instance += 1
        return cls.open_episode

    @classmethod
    def leave(cls) -> None:
        """Close the instance, if one is open."""
        if cls.open_episode is not None:
            episode, cls.open_episode, cls.examples_of_instance = cls.open_episode, None, 0
            cls.context.close(episode)

    def finish(self) -> None:
        """Make the last calls of an example; a machine may define some."""

    def teardown(self) -> None:
        """Make the last calls, unless the example has failed already."""
        if not self._is_broken:
            with suppress(UnsatisfiedAssumption):  # the example is over anyway
                self.finish()


def explore(machine: type[Machine], *, steps: int = STEPS_MAX) -> Workload:
    """Make the workload that runs the machine for `context.examples` examples."""

    def workload(context: Context) -> None:
        attributes: dict[str, Any] = {"context": context, "proofs": {}, "known": frozenset()}
        prepared: type[Machine] = type(machine.__name__, (machine,), attributes)
        while (left := context.examples - prepared.examples_begun + prepared.wasted) > 0:
            if prepared.proofs and (not context.goes_on or len(prepared.proofs) >= SIGNATURES_MAX):
                break
            _search(prepared, f"{context.seed}/{prepared.examples_begun}", left, steps)
            prepared.search_again()
        if not context.minimizes:
            return
        for anomaly in sorted(prepared.proofs.values(), key=_length):
            minimize(context, prepared.model, anomaly, time.monotonic() + MINIMIZING_S_MAX)

    return workload


def _search(prepared: type[Machine], seed: str, examples: int, steps: int) -> None:
    """Let Hypothesis run at most `examples` examples.

    Hypothesis expects the same enabled rules after the same draws. A target whose answers depend on
    timing (a turn has ended or not) enables other rules, and Hypothesis gives up; the examples
    until then count, and the next search starts with another seed.
    """
    hypothesis.seed(seed)(prepared)
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=_PHASES if prepared.context.minimizes else _PHASES[:1],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    begun = prepared.examples_begun
    try:
        run_state_machine_as_test(prepared, settings=settings)
        # The examples may be exhausted before their number is reached.
        prepared.examples_begun = max(prepared.examples_begun, begun + examples)
    except HarnessFailureError as error:
        raise error.failure from None
    except Unsatisfiable:  # what was found comes in the first calls of each example
        if not prepared.proofs:
            raise
        prepared.examples_begun = max(prepared.examples_begun, begun + examples)
    except (PromiseBrokenError, Flaky):
        if prepared.examples_begun == begun:
            raise
    finally:
        prepared.leave()


def _length(anomaly: Anomaly) -> int:
    return len(anomaly.evidence)


def minimize(context: Context, model: Model[Any], anomaly: Anomaly, ends_at: float) -> None:
    """Remove operations while the same promise breaks, and journal the remaining ones.

    The search ends at `ends_at`, a value of `time.monotonic`.
    """
    with unrecorded(context) as tries:
        ask = partial(_ask, tries, model, sought=anomaly)
        smallest = fewest(ask, anomaly, ends_at)
    _ask(context, model, smallest.evidence, anomaly)


def _ask(
    context: Context, model: Model[Any], calls: Sequence[Operation], sought: Anomaly
) -> Anomaly | None:
    """Repeat the calls on a fresh instance, as far as they are possible.

    Returns the first anomaly of the sought promise; it goes on past others.
    """
    fold = Fold(model)
    with context.part() as episode, suppress(UsageError):
        for operation in calls:
            answer = episode.client.ask(operation.function, operation.argument)
            anomaly = fold.step(answer)
            if anomaly is not None and anomaly.promise == sought.promise:
                return anomaly
    return None
