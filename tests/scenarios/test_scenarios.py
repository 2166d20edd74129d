"""Tests of what all scenarios have in common: their declarations, and verdicts on partial runs."""

from __future__ import annotations

import ast
import fcntl
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import TypeAlias

import pytest

from harness.contract.promises import SESSION_SERVER
from harness.core import history
from harness.core.history import History, Journal, Operation, Outcome
from harness.core.verdict import Validity, Verdict
from harness.engine import runner
from harness.engine.scenario import Mode, Scenario
from harness.engine.suite import find_scenarios
from harness.targets.declared_http.target import DeclaredHttpTarget
from harness.targets.reference.target import ReferenceTarget
from tests.support.paths import PROJECT

SCENARIOS = list(find_scenarios().values())
MODELS = [scenario for scenario in SCENARIOS if scenario.mode is Mode.MODEL]
FILES = sorted((PROJECT / "scenarios").rglob("test_*.py"))
CUTS = 30
WORDS_MAX = 8
DONE = "done"  # marks whole episodes

Episodes: TypeAlias = Callable[[Scenario], list[History]]


def of_name(scenario: Scenario) -> str:
    return scenario.name


# Declarations


@pytest.mark.parametrize("scenario", SCENARIOS, ids=of_name)
def test_scenario_declares_promises_of_the_contract(scenario: Scenario) -> None:
    """At least one, each once, and each with a sentence."""
    assert scenario.promises
    assert len(set(scenario.promises)) == len(scenario.promises)
    for promise in scenario.promises:
        assert SESSION_SERVER.promise(promise.id).sentence == promise.sentence


@pytest.mark.parametrize("scenario", SCENARIOS, ids=of_name)
def test_scenario_has_a_name_and_an_offered_ability(scenario: Scenario) -> None:
    """The reference offers every ability, since each known bug is planted in it.

    Scenarios for any server are asked of a declared one; its example has bugs of its own.
    """
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", scenario.name)
    is_general = scenario.name.startswith("any-server-")
    offered = DeclaredHttpTarget.abilities if is_general else ReferenceTarget().abilities
    assert scenario.ability in offered
    assert scenario.examples > 0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=of_name)
def test_scenario_names_its_expectations(scenario: Scenario) -> None:
    """Each has a name of its own in plain words, and counts nothing in an empty history."""
    names = [expectation.name for expectation in scenario.expectations]

    assert len(set(names)) == len(names)
    for expectation in scenario.expectations:
        assert re.fullmatch(r"\S.{3,79}", expectation.name)
        assert expectation.needed > 0
        assert expectation.count(History()) == 0


def test_expectations_are_declared_by_almost_every_scenario() -> None:
    """A scenario without any states by its checker what it must have run."""
    without = [scenario.name for scenario in SCENARIOS if not scenario.expectations]

    assert without == ["lifecycle-small-scope"]


def test_every_promise_is_on_trial() -> None:
    """No promise of the contract is without a scenario."""
    tried = {promise for scenario in SCENARIOS for promise in scenario.promises}

    assert set(SESSION_SERVER) - tried == set()


def _tests(file: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def _judged(test: ast.FunctionDef) -> list[str]:
    return [
        ast.unparse(node.args[0])
        for node in ast.walk(test)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "judge"
    ]


def test_every_scenario_is_judged_by_one_test() -> None:
    """A scenario without a test would never run."""
    judged = Counter(name for file in FILES for test in _tests(file) for name in _judged(test))

    assert sum(judged.values()) == len(SCENARIOS)
    assert all(len(_judged(test)) == 1 for file in FILES for test in _tests(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_scenario_file_and_its_tests_have_docstrings(file: Path) -> None:
    """A module's first line fits a line; a test's name has at most eight words."""
    first, *_ = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()

    assert first.endswith(".")
    assert len(first) <= 100 - len('"""')
    for test in _tests(file):
        assert ast.get_docstring(test)
        assert len(test.name.removeprefix("test_").split("_")) <= WORDS_MAX


# Partial runs


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Episodes:
    """A few episodes of the clean reference for a model scenario, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    @cache
    def made(scenario: Scenario) -> list[History]:
        folder = shared / scenario.name
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / DONE).exists():
                few = replace(scenario, examples=4)
                runner.run(few, ReferenceTarget(), seed=1, effort=1.0, folder=folder)
                (folder / DONE).touch()
        return [episode for episode in history.read(folder / runner.HISTORY) if len(episode)]

    return made


def judged(scenario: Scenario, operations: tuple[Operation, ...], folder: Path) -> Verdict:
    """The verdict on a run of one episode with these operations."""
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


def assert_no_anomaly(
    scenario: Scenario, verdict: Verdict, *, lost: tuple[Operation, ...] = ()
) -> None:
    """Only unmet expectations, and calls without a reply, make the verdict unknown."""
    assert verdict.anomalies == ()
    assert list(verdict.unknowns) == [f"cut short: {op}" for op in lost][: len(verdict.unknowns)]
    assert [found.name for found in verdict.expectations] == [
        expectation.name for expectation in scenario.expectations
    ]
    assert all(found.observed < found.needed for found in verdict.unmet)
    is_unknown = verdict.unmet or verdict.unknowns
    assert verdict.validity is (Validity.UNKNOWN if is_unknown else Validity.VALID)


@pytest.mark.parametrize("scenario", MODELS, ids=of_name)
def test_run_cut_short_is_never_invalid(
    scenario: Scenario, episodes: Episodes, tmp_path: Path
) -> None:
    """A clean target is not blamed for what was not called when the harness was killed."""
    rng = Random(1)
    for _ in range(CUTS):
        operations = rng.choice(episodes(scenario)).operations
        *before, last = operations[: rng.randint(1, len(operations))]
        lost = replace(last, outcome=Outcome.INFO, completed_ns=None, result=None, error="")

        whole = judged(scenario, (*before, last), tmp_path)
        assert_no_anomaly(scenario, whole)
        cut = judged(scenario, (*before, lost), tmp_path)
        assert_no_anomaly(scenario, cut, lost=(lost,))


@pytest.mark.parametrize("scenario", MODELS, ids=of_name)
def test_run_of_one_call_is_unknown(scenario: Scenario, episodes: Episodes, tmp_path: Path) -> None:
    """One call meets no expectation of several, so at least one of them is named as unmet."""
    verdict = judged(scenario, episodes(scenario)[0].operations[:1], tmp_path)

    assert verdict.validity is Validity.UNKNOWN
    assert verdict.unmet
    assert {found.name for found in verdict.unmet} <= {
        expectation.name for expectation in scenario.expectations
    }


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.INFO])
@pytest.mark.parametrize("scenario", MODELS, ids=of_name)
def test_unexpected_refusal_is_judged_by_its_evidence(
    scenario: Scenario,
    outcome: Outcome,
    episodes: Episodes,
    tmp_path: Path,
) -> None:
    """One call fails with an unforeseen error: an anomaly begins with it, or comes later."""
    rng = Random(1)
    for _ in range(CUTS):
        operations = list(rng.choice(episodes(scenario)).operations)
        at = rng.randrange(len(operations))
        operations[at] = replace(
            operations[at], outcome=outcome, result=None, error="ValueError: unforeseen"
        )
        verdict = judged(scenario, tuple(operations), tmp_path)

        for anomaly in verdict.anomalies:
            assert anomaly.promises <= set(SESSION_SERVER)
            assert anomaly.expected
            assert anomaly.observed
            assert len(anomaly.evidence) > at
            assert anomaly.evidence[at].error == "ValueError: unforeseen"
        if not verdict.anomalies:
            assert_no_anomaly(scenario, verdict, lost=(operations[at],))


@pytest.mark.parametrize("scenario", MODELS, ids=of_name)
def test_refusals_of_a_clean_run_are_noticed(
    scenario: Scenario, episodes: Episodes, tmp_path: Path
) -> None:
    """A target that refuses every call with an unforeseen error is never valid."""
    operations = episodes(scenario)[0].operations
    refused = tuple(
        replace(op, outcome=Outcome.FAIL, result=None, error="ValueError: unforeseen")
        for op in operations
    )
    verdict = judged(scenario, refused, tmp_path)

    assert verdict.anomalies
    assert verdict.validity is Validity.INVALID
