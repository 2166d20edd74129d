"""Tests of the pytest plugin: the fixture `judge`, its options, skips and marker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.toy_suites import write_suite, write_target

pytest_plugins = ["pytester"]

TARGET = "toy_target:CounterTarget"
SUITE = f"""
from harness import Contract, Suite
from toy_suite.test_counter import P1, P2

SUITE = Suite(Contract("toy counter", (P1, P2)), target="{TARGET}")
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with the toy suite and the toy target; pytest runs in a process of its own."""
    write_target(pytester.path)
    write_suite(pytester.path / "toy_suite")
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider --strict-markers\npythonpath = .\n")
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest on the project."""
    return project.runpytest_subprocess("-rs", *arguments)


def records(folder: Path) -> dict[str, dict[str, object]]:
    """The verdict of each scenario in a run folder."""
    paths = folder.glob("*/verdict.json")
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def test_judge_runs_a_scenario_on_the_target(project: pytest.Pytester) -> None:
    """Target, seed, effort and run folder are options; results go into the run folder."""
    options = ("--harness-seed=7", "--harness-effort=2", "--harness-run-folder=run")
    result = run(project, f"--harness-target={TARGET}", *options)

    result.assert_outcomes(passed=1)
    (record,) = records(project.path / "run").values()
    assert (record["scenario"], record["validity"]) == ("toy-counter", "valid")
    assert record["episodes"] == 4  # twice as many as at effort 1


def test_the_same_seed_gives_the_same_digest(project: pytest.Pytester) -> None:
    """In another process and run folder too."""
    for folder in ("first", "second"):
        run(project, f"--harness-target={TARGET}", f"--harness-run-folder={folder}")

    (first,) = records(project.path / "first").values()
    (second,) = records(project.path / "second").values()
    assert first["digest"] == second["digest"]


def test_an_anomaly_fails_the_test(project: pytest.Pytester) -> None:
    """With the finding in the output, and the failure file in the run folder."""
    result = run(project, f"--harness-target={TARGET}@5", "--harness-run-folder=run")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*P1: The total is the sum of what was added.*", "*expected: *"])
    assert (project.path / "run" / "toy-counter" / "failure.json").is_file()


def test_the_suite_names_the_default_target(project: pytest.Pytester) -> None:
    """`suite.py` above the test file says which."""
    (project.path / "toy_suite" / "suite.py").write_text(SUITE, encoding="utf-8")

    run(project).assert_outcomes(passed=1)


def test_a_missing_ability_skips_the_test(project: pytest.Pytester) -> None:
    """Without a suite of its own the target is the reference, which counts nothing."""
    result = run(project)

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*target 'reference' has no ability 'counter'*"])


def test_a_missing_package_skips_the_test(project: pytest.Pytester) -> None:
    """The reason says how to install it."""
    path = project.path / "toy_suite" / "test_counter.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("examples=2,", "examples=2, extras=('load',),"), encoding="utf-8")
    (project.path / "conftest.py").write_text(
        "import harness.core.extras\nharness.core.extras.find_spec = lambda name: None\n",
        encoding="utf-8",
    )
    result = run(project, f"--harness-target={TARGET}")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*pip install 'hermes-harness[[]load]'*"])


def test_scenario_option_selects_by_name(project: pytest.Pytester) -> None:
    """The others are skipped, with the option in the reason."""
    target = f"--harness-target={TARGET}"

    run(project, target, "--harness-scenario=toy-counter").assert_outcomes(passed=1)
    others = run(project, target, "--harness-scenario=other", "--harness-scenario=another")
    others.assert_outcomes(skipped=1)
    others.stdout.fnmatch_lines(["*not selected by --harness-scenario*"])


def test_the_marker_separates_scenarios(project: pytest.Pytester) -> None:
    """Every test that uses `judge` has it, and no other; strict markers accept it."""
    (project.path / "test_plain.py").write_text("def test_plain():\n    pass\n", encoding="utf-8")
    target = f"--harness-target={TARGET}"

    run(project, target, "-m", "harness").assert_outcomes(passed=1, deselected=1)
    run(project, target, "-m", "not harness").assert_outcomes(passed=1, deselected=1)
    run(project, target).assert_outcomes(passed=2)


def test_a_failure_of_the_harness_leaves_a_note(project: pytest.Pytester) -> None:
    """In the scenario's folder, in place of a verdict."""
    path = project.path / "toy_target.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("counter = Counter()", "counter = 1 / 0"), encoding="utf-8")
    result = run(project, f"--harness-target={TARGET}", "--harness-run-folder=run")

    result.assert_outcomes(failed=1)
    note = (project.path / "run" / "toy-counter" / "broken.txt").read_text(encoding="utf-8")
    assert note.startswith("ZeroDivisionError: division by zero (more in ")
    assert records(project.path / "run") == {}


def test_an_unknown_target_is_an_error(project: pytest.Pytester) -> None:
    """The error names the target."""
    result = run(project, "--harness-target=toy_target:Nope")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UsageError: --target 'toy_target:Nope':*"])


def test_the_plugin_imports_nothing_heavy(project: pytest.Pytester) -> None:
    """A project that uses no fixture of it pays for no import."""
    (project.path / "test_imports.py").write_text(
        "import sys\n\n"
        "def test_imports():\n"
        "    assert 'harness.engine.runner' not in sys.modules\n",
        encoding="utf-8",
    )

    run(project, "test_imports.py").assert_outcomes(passed=1)
