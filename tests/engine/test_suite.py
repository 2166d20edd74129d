"""Tests of suites: selection by glob, promise and mode, folders from outside, entry points."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.engine.suite import (
    choose,
    declared_in,
    find_promises,
    find_scenarios,
    find_suites,
    load_suite,
    tried_by,
    use_folders,
)
from harness.targets.registry import find_target, list_targets
from tests.support.toy_suites import judging_by, write_suite, write_target


@pytest.fixture(autouse=True)
def _installed_suites() -> Iterator[None]:
    """Judge by the installed suites again after each test."""
    yield
    use_folders([])


@pytest.fixture(scope="module")
def two_suites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two suites with a scenario each."""
    top = tmp_path_factory.mktemp("suites")
    return [
        write_suite(top / "suite_of_models", name="counter-model", prefix="P"),
        write_suite(top / "suite_of_races", name="counter-threads", prefix="Q", mode="SCHEDULE"),
    ]


# Selection


@pytest.mark.parametrize(
    ("names", "promises", "modes", "chosen"),
    [
        ((), (), (), {"counter-model", "counter-threads"}),
        (("counter-model",), (), (), {"counter-model"}),
        (("counter-*",), (), (), {"counter-model", "counter-threads"}),
        (("*-threads", "*-model"), (), (), {"counter-model", "counter-threads"}),
        ((), ("Q2",), (), {"counter-threads"}),
        ((), ("P1", "Q1"), (), {"counter-model", "counter-threads"}),
        ((), (), ("schedule",), {"counter-threads"}),
        (("counter-*",), ("P1",), ("model", "schedule"), {"counter-model"}),
        (("counter-model",), ("Q1",), (), set()),
        ((), ("P1",), ("schedule",), set()),
    ],
)
def test_choose_intersects_names_promises_and_modes(
    names: tuple[str, ...],
    promises: tuple[str, ...],
    modes: tuple[str, ...],
    chosen: set[str],
    two_suites: list[Path],
) -> None:
    """Several values of one kind add up; no value means all."""
    with judging_by(*two_suites):
        assert choose(names, promises, modes).keys() == chosen


@pytest.mark.parametrize(
    ("names", "promises", "message"),
    [
        (("counter-modle",), (), r"unknown scenario 'counter-modle'; did you mean 'counter-model"),
        (("other-*",), (), r"unknown scenario 'other-\*'; known: counter-model, counter-threads"),
        ((), ("P9",), r"unknown promise 'P9'; known: P1, P2, Q1, Q2"),
    ],
)
def test_choose_refuses_what_fits_nothing(
    names: tuple[str, ...], promises: tuple[str, ...], message: str, two_suites: list[Path]
) -> None:
    """The error names the nearest names and the known ones."""
    with judging_by(*two_suites), pytest.raises(UsageError, match=message):
        choose(names, promises)


# Folders


def test_a_folder_replaces_the_installed_suites(two_suites: list[Path]) -> None:
    """Without `suite.py` its contract has the promises of its scenarios."""
    installed = find_scenarios()
    with judging_by(two_suites[0]):
        (suite,) = find_suites()
        assert list(suite.scenarios) == ["counter-model"]
        assert [promise.id for promise in find_promises()] == ["P1", "P2"]
        assert tried_by(find_promises()[1], suite.scenarios.values()) == ["counter-model"]
        assert suite.suite.contract.name == "suite_of_models"

    assert find_scenarios() == installed


def test_a_suite_module_declares_contract_and_target(tmp_path: Path) -> None:
    """`suite.py` is imported beside the scenarios, by the name that pytest gives it."""
    folder = write_suite(tmp_path / "declared_suite")
    (folder / "suite.py").write_text(
        "from harness import Contract, Suite\n"
        "from declared_suite.test_counter import P1\n"
        "SUITE = Suite(Contract('counter', (P1,)), target='toy_target:CounterTarget')\n",
        encoding="utf-8",
    )
    suite = load_suite(folder).suite

    assert (suite.contract.name, suite.target) == ("counter", "toy_target:CounterTarget")
    assert declared_in(folder) is suite


def test_scenarios_of_one_name_are_refused(tmp_path: Path) -> None:
    """The error names both folders."""
    folders = [write_suite(tmp_path / name) for name in ("first_namesake", "second_namesake")]

    with judging_by(*folders), pytest.raises(UsageError, match="toy-counter") as error:
        find_suites()
    assert all(str(folder) in str(error.value) for folder in folders)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """And the suites that were chosen before stay."""
    with pytest.raises(UsageError, match="nowhere: no such folder of scenarios"):
        use_folders([tmp_path / "nowhere"])
    assert find_scenarios()


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    """With the error of its import."""
    folder = write_suite(tmp_path / "broken_suite")
    (folder / "test_broken.py").write_text("import no_such_module\n", encoding="utf-8")

    with pytest.raises(UsageError, match=r"test_broken\.py: cannot be imported: ModuleNotFoundE"):
        load_suite(folder)


def test_a_namesake_of_another_module_is_refused(tmp_path: Path) -> None:
    """A folder that is no package has its modules at the top, where names collide."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test_namesake_at_the_top.py").touch()
    load_suite(tmp_path / "one")

    with pytest.raises(UsageError, match="another module is named 'test_namesake_at_the_top'"):
        load_suite(tmp_path / "two")


def test_a_suite_module_without_suite_is_refused(tmp_path: Path) -> None:
    """The error says what it must define."""
    folder = write_suite(tmp_path / "undeclared_suite")
    (folder / "suite.py").touch()

    with pytest.raises(UsageError, match=r"suite\.py: expected `SUITE = Suite\(\.\.\.\)`"):
        declared_in(folder)


# Entry points


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution on the path that brings a suite and a target, as if it was installed."""
    write_suite(tmp_path / "distributed_suite", name="distributed-counter", prefix="R")
    write_target(tmp_path, "distributed_target")
    info = tmp_path / "toy_counter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-counter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[harness.scenarios]\ntoy = distributed_suite\n"
        "[harness.targets]\ntoy-counter = distributed_target:CounterTarget\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.version("toy-counter") == "1.0"
    return tmp_path


def test_an_entry_point_adds_a_suite(distribution: Path) -> None:
    """Beside the suites that are installed already."""
    installed = {suite.folder for suite in find_suites()}

    assert distribution / "distributed_suite" in installed
    assert len(installed) > 1
    assert find_scenarios()["distributed-counter"].ability == "counter"


@pytest.mark.usefixtures("distribution")
def test_an_entry_point_adds_a_target() -> None:
    """It is listed by its usage, and found by its name with an argument."""
    rows = {row["target"]: row for row in list_targets()}

    assert rows["toy-counter[@MISTAKE]"]["abilities"] == ["counter"]
    assert find_target("toy-counter@7").name == "distributed_target:CounterTarget@7"
    with pytest.raises(UsageError, match="unknown target 'toy-countre'; did you mean 'toy-counter"):
        find_target("toy-countre")


def test_module_and_class_name_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the path or from the current folder, with an argument or without."""
    monkeypatch.chdir(write_target(tmp_path, "local_target"))

    assert find_target("local_target:CounterTarget").name == "local_target:CounterTarget@0"
    assert find_target("local_target:CounterTarget@5").abilities == {"counter"}
    with pytest.raises(UsageError, match="local_target:Nope"):
        find_target("local_target:Nope")
