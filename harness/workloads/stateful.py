"""Rule-based machines: Hypothesis draws the questions, a model judges each answer as it comes.

Hypothesis enables a random subset of the rules for each example (swarm testing, Groce et al.,
ISSTA 2012) and shrinks what fails to the shortest program it can find. Nothing is decided here
that the journal does not show: the stored history, judged again, tells the same story.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from harness.checkers.conformance import Fold
from harness.core.errors import UsageError
from harness.core.history import Journal, Operation
from harness.core.model import Model
from harness.core.promises import Promise
from harness.core.verdict import Anomaly
from harness.engine.context import Episode, Stage, Workload

STEPS_MAX = 30
MINIMIZING_S_MAX = 5.0
# Examples tried after the first that failed; counted, so that seeds decide. Fewer where an instance
# that was shared until then is a whole server, and each of them boots one.
SHRINKS_MAX = 100
SHARED_SHRINKS_MAX = 10


class PromiseBrokenError(AssertionError):
    """Tells Hypothesis that an example failed, so that it shrinks it. Nobody else sees it."""

    def __init__(self, anomaly: Anomaly) -> None:
        super().__init__(f"{anomaly.promise.name}: {anomaly.message}")


class OurFailureError(BaseException):
    """Takes a failure of ours past Hypothesis, which would try it again, or call it flaky."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(str(failure))
        self.failure = failure


@contextmanager
def _past_hypothesis() -> Iterator[None]:
    try:
        yield
    except Exception as failure:
        raise OurFailureError(failure) from failure


class Machine(RuleBasedStateMachine):
    """A rule-based machine that asks one instance. Subclasses give `model` and rules.

    An instance is fresh, unless its target can `begin` anew: then it serves `served_max` examples,
    and once one has failed each gets a fresh one again, so that nothing is left over.
    """

    model: ClassVar[Model[Any]]
    stage: ClassVar[Stage]
    served_max: ClassVar[int] = 1
    served: ClassVar[int] = 0
    open_episode: ClassVar[Episode | None] = None
    begun: ClassVar[int] = 0
    refusals: ClassVar[int] = 0
    tries: ClassVar[int] = 0  # since the first refusal
    proofs: ClassVar[dict[Promise, Anomaly]]  # of each broken promise the shortest

    def __init__(self) -> None:
        super().__init__()
        machine = type(self)
        machine.begun += 1
        machine.tries += bool(machine.refusals)
        if machine.tries > (SHRINKS_MAX if self.served_max == 1 else SHARED_SHRINKS_MAX):
            hypothesis.reject()
        with _past_hypothesis():
            self._episode = machine.opened()
        self._fold = Fold(self.model)
        self._is_broken = False
        if self.served_max > 1:
            self.ask("begin")

    def ask(self, function: str, /, **argument: Any) -> Operation:
        """Ask the target, and stop the example if the model refuses the answer."""
        with _past_hypothesis():
            operation = self._episode.client.ask(function, argument)
        if anomaly := self._fold.step(operation):
            self._is_broken = True
            type(self).refused(anomaly)
            raise PromiseBrokenError(anomaly)
        return operation

    @classmethod
    def refused(cls, anomaly: Anomaly) -> None:
        """Keep it, unless there is a proof of the same promise with as little evidence."""
        cls.refusals += 1
        shortest = cls.proofs.setdefault(anomaly.promise, anomaly)
        cls.proofs[anomaly.promise] = min(shortest, anomaly, key=_length)

    @classmethod
    def opened(cls) -> Episode:
        """The instance that the next example asks."""
        if cls.open_episode is None or cls.refusals or cls.served >= cls.served_max:
            cls.leave()
            cls.open_episode = cls.stage.open()
        else:
            cls.stage.go_on()
        cls.served += 1
        return cls.open_episode

    @classmethod
    def leave(cls) -> None:
        """Close the instance, if one is open."""
        if cls.open_episode is not None:
            episode, cls.open_episode, cls.served = cls.open_episode, None, 0
            cls.stage.close(episode)

    def finish(self) -> None:
        """Ask once more, when all is quiet. Nothing, unless a machine says what."""

    def teardown(self) -> None:
        """Ask once more, unless the example has failed already."""
        if not self._is_broken:
            self.finish()


def explore(machine: type[Machine], *, steps: int = STEPS_MAX) -> Workload:
    """Make the workload that runs the machine for the stage's number of examples."""

    def workload(stage: Stage) -> None:
        staged: type[Machine] = type(machine.__name__, (machine,), {"stage": stage, "proofs": {}})
        while staged.begun < stage.examples and not staged.proofs:
            _search(staged, f"{stage.seed}/{staged.begun}", stage.examples - staged.begun, steps)
        ends_at = time.monotonic() + MINIMIZING_S_MAX
        for anomaly in sorted(staged.proofs.values(), key=_length):
            minimize(stage, staged.model, anomaly, ends_at)

    return workload


def _search(staged: type[Machine], seed: str, examples: int, steps: int) -> None:
    """Let Hypothesis try so many examples, or fewer.

    It expects the same rules to be enabled after the same draws. A target that answers by the clock
    (the turn before was over, or it was not) enables others, and Hypothesis gives up; all that was
    tried until then counts, and the next search begins elsewhere.
    """
    hypothesis.seed(seed)(staged)
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    begun = staged.begun
    try:
        run_state_machine_as_test(staged, settings=settings)
        staged.begun = max(staged.begun, begun + examples)  # it may find nothing more to draw
    except OurFailureError as ours:
        raise ours.failure from None
    except (PromiseBrokenError, Flaky):
        if staged.begun == begun:
            raise
    finally:
        staged.leave()


def _length(anomaly: Anomaly) -> int:
    return len(anomaly.evidence)


def minimize(stage: Stage, model: Model[Any], anomaly: Anomaly, ends_at: float) -> None:
    """Leave out operations, one at a time, while the same promise breaks; journal what is left.

    This is delta debugging with subsets of one (Zeller and Hildebrandt, "Simplifying and Isolating
    Failure-Inducing Input", TSE 2002). The tries are journalled elsewhere: they are no evidence.
    What is left out may be what kept another operation from hanging, so it ends at a moment of
    `time.monotonic`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="harness-") as place,
        Journal(Path(place) / "tries.jsonl", time.monotonic_ns) as journal,
    ):
        elsewhere = replace(stage, journal=journal)
        smaller: Anomaly | None = anomaly
        while smaller is not None:
            anomaly = smaller
            smaller = _smaller(elsewhere, model, anomaly, ends_at)
    _ask(stage, model, anomaly.evidence)


def _smaller(stage: Stage, model: Model[Any], anomaly: Anomaly, ends_at: float) -> Anomaly | None:
    """The same anomaly without the operations that can go, the last first; None if none can."""
    smallest, index = anomaly, len(anomaly.evidence) - 1
    while index > 0 and time.monotonic() < ends_at:
        index -= 1
        evidence = smallest.evidence
        found = _ask(stage, model, (*evidence[:index], *evidence[index + 1 :]))
        if found is not None and found.promise is anomaly.promise:
            smallest, index = found, min(index, len(found.evidence) - 1)
    return None if smallest is anomaly else smallest


def _ask(stage: Stage, model: Model[Any], asked: Sequence[Operation]) -> Anomaly | None:
    """Ask again as far as a fresh instance can be asked; the first answer that is refused."""
    fold = Fold(model)
    with stage.episode() as episode, suppress(UsageError):
        for operation in asked:
            answer = episode.client.ask(operation.function, operation.argument)
            if anomaly := fold.step(answer):
                return anomaly
    return None
