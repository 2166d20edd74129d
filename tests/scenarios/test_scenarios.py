"""Every scenario judges a run that was cut short, or a target that refuses, by what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from harness.core import history
from harness.core.history import History, Journal, Operation, Outcome
from harness.core.verdict import Verdict
from harness.engine import runner
from harness.engine.discovery import find_scenarios
from harness.engine.scenario import Mode, Scenario
from harness.targets.reference.target import ReferenceTarget

MODELS = [one for one in find_scenarios().values() if one.mode is Mode.MODEL]


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[History]]:
    """A few episodes of the clean reference for each scenario."""
    told = {}
    for scenario in MODELS:
        folder = tmp_path_factory.mktemp(scenario.name)
        few = replace(scenario, examples=4)
        runner.run(few, ReferenceTarget(), seed=1, effort=1.0, folder=folder)
        told[scenario.name] = [one for one in history.read(folder / runner.HISTORY) if len(one)]
    return told


def judged(scenario: Scenario, operations: tuple[Operation, ...], folder: Path) -> Verdict:
    """The verdict on a run that went so."""
    path = folder / runner.HISTORY
    path.unlink(missing_ok=True)
    clock = iter(range(1 << 30))
    with Journal(path, clock.__next__) as journal:
        journal.episode()
        for operation in operations:
            number = journal.invoke(operation.process, operation.function, operation.argument)
            if not operation.is_unanswered:
                journal.complete(number, operation.outcome, operation.result, operation.error)
    return runner.judge(scenario, folder).verdict


@pytest.mark.parametrize("scenario", MODELS, ids=lambda scenario: scenario.name)
def test_a_run_that_was_cut_short_is_never_invalid(
    scenario: Scenario, episodes: Mapping[str, list[History]], tmp_path: Path
) -> None:
    """Wherever the harness was killed, a clean target is not blamed for what was not asked."""
    rng = Random(1)
    for _ in range(30):
        operations = rng.choice(episodes[scenario.name]).operations
        *before, last = operations[: rng.randint(1, len(operations))]
        lost = replace(last, outcome=Outcome.INFO, completed_ns=None, result=None, error="")

        assert judged(scenario, (*before, last), tmp_path).anomalies == ()
        assert judged(scenario, (*before, lost), tmp_path).anomalies == ()


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.INFO])
@pytest.mark.parametrize("scenario", MODELS, ids=lambda scenario: scenario.name)
def test_a_target_that_refuses_is_judged_and_breaks_no_judge(
    scenario: Scenario,
    outcome: Outcome,
    episodes: Mapping[str, list[History]],
    tmp_path: Path,
) -> None:
    """Any operation may come back as a refusal, or not at all; there is a verdict all the same."""
    rng = Random(1)
    for _ in range(30):
        operations = list(rng.choice(episodes[scenario.name]).operations)
        at = rng.randrange(len(operations))
        operations[at] = replace(
            operations[at], outcome=outcome, result=None, error="ValueError: unforeseen"
        )

        assert isinstance(judged(scenario, tuple(operations), tmp_path), Verdict)
