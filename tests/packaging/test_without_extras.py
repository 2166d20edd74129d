"""Tests of the core in an environment that has none of the optional packages.

The environment is a real one: its site-packages link to the installed distributions that the core
depends on, and to no others. So the optional ones are missing for child processes, too, and so are
the pytest plugins that they bring.
"""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from harness.core.extras import DISTRIBUTION
from tests.packaging.installed import distribution

OPTIONAL = ("gevent", "locust", "numpy", "scipy")
IMPORT_ALL = """
import importlib, json, pkgutil, harness
from harness.core.extras import MissingExtraError
from harness.engine.suite import find_scenarios
missing, optional = [], []
for module in pkgutil.walk_packages(harness.__path__, "harness."):
    try:
        importlib.import_module(module.name)
    except MissingExtraError:
        optional.append(module.name)
    except ModuleNotFoundError as error:
        missing.append(error.name)
print(json.dumps({"missing": missing, "optional": optional, "scenarios": len(find_scenarios())}))
"""
NEEDS_SCIPY = "needs scipy: pip install 'hermes-harness[soak]'"
NEEDS_LOCUST = "needs locust: pip install 'hermes-harness[load]'"
NEEDS_BOTH = "needs locust, scipy: pip install 'hermes-harness[load,soak]'"
CATALOG = "catalog-any-sequence"

CORE = {"extra": ""}  # the markers of an install without extras

Child = Callable[..., subprocess.CompletedProcess[str]]


def core_distributions() -> Iterator[metadata.Distribution]:
    """The distributions that an install without extras brings, with the harness itself."""
    names, seen = [DISTRIBUTION], set[str]()
    while names:
        if (name := names.pop()) in seen:
            continue
        seen.add(name)
        yield (found := distribution(name))
        needed = map(Requirement, found.requires or ())
        names += [one.name for one in needed if not one.marker or one.marker.evaluate(CORE)]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment that has the core alone; its Python."""
    folder = tmp_path_factory.mktemp("core")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    for found in core_distributions():
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            link = packages / top
            if top != "__pycache__" and not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))))
    return folder / "bin" / "python"


@pytest.fixture
def python(core: Path, tmp_path: Path) -> Child:
    """Run the Python of the core in an empty folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603  the command is our own
            [core, *arguments],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def gate(python: Child, *scenarios: str) -> tuple[int, dict[str, Any], str]:
    """Run a small gate; return its exit code, its document and what it printed for people."""
    chosen = (f"--scenario={name}" for name in scenarios)
    done = python(*("-m", "harness", "gate", "--json", "--seed=1", "--budget=30s"), *chosen)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


@pytest.mark.parametrize("package", OPTIONAL)
def test_core_environment_lacks_optional_package(python: Child, package: str) -> None:
    """The other tests mean nothing if it is there."""
    assert "ModuleNotFoundError" in python("-c", f"import {package}").stderr


def test_modules_without_extras_import(python: Child) -> None:
    """No module of the harness and no scenario imports an optional package at its top."""
    done = python("-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout)
    assert imported["scenarios"] > 0
    assert not set(OPTIONAL) & set(imported["missing"])


def test_list_without_extras_prints_everything(python: Child) -> None:
    done = python("-m", "harness", "list", "--json")
    assert done.returncode == 0, done.stderr
    assert all(json.loads(done.stdout)[name] for name in ("scenarios", "targets", "bugs"))


def test_gate_without_extras_judges_the_rest(python: Child) -> None:
    """The skipped scenarios are named with the reason, and canaries that need them are left out."""
    code, document, printed = gate(python, "soak-one-long-session", "load-full-house", CATALOG)
    assert (code, document["conclusion"]) == (0, "valid"), printed
    assert document["skipped"] == {
        "load-full-house": NEEDS_LOCUST,
        "soak-one-long-session": NEEDS_SCIPY,
    }
    assert f"skipped: load-full-house ({NEEDS_LOCUST})" in printed
    assert document["canaries"] == {"commit-every-turn": "detected"}


def test_gate_of_skipped_scenarios_is_unknown(python: Child) -> None:
    """Nothing was judged, so nothing is valid."""
    code, document, _ = gate(python, "soak-one-long-session")
    assert (code, document["conclusion"]) == (2, "unknown")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("soak", "--ops=10"), f"`harness soak` {NEEDS_SCIPY}"),
        (("soak", "--days=1"), f"`harness soak` {NEEDS_SCIPY}"),
        (("load", "--users=10", "--for=1s"), f"`harness load` {NEEDS_LOCUST}"),
        (("profile",), f"`harness profile` {NEEDS_BOTH}"),
        (("mutate", "--sample=1"), f"`harness mutate` {NEEDS_BOTH}"),
        (("prove", "--by=soak"), f"`harness prove` {NEEDS_SCIPY}"),
    ],
)
def test_command_without_extra_names_install(
    python: Child, command: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    done = python("-m", "harness", *command)
    assert (done.returncode, done.stdout) == (254, "")
    assert reason in done.stderr
    assert not (tmp_path / "reports").exists()


def test_growth_without_scipy_names_install(python: Child) -> None:
    """A stored soak, or a scenario of one's own that does not declare the extra."""
    trend = "from harness.core.trend import trend_of; trend_of(range(100), range(100))"
    assert f"MissingExtraError: the judgement of growth {NEEDS_SCIPY}" in python("-c", trend).stderr
