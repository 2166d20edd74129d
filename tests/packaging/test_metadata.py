"""Tests of the project's metadata: package names, dependencies and pinned versions."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.core.extras import DISTRIBUTION
from tests.packaging.installed import distribution

ROOT = Path(__file__).parents[2]
NAMES = {"harness", "hermes_scenarios", "reference_impl"}
PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+( ; python_version .*)?")


def pins() -> dict[str, str]:
    """The version that constraints.txt demands of each distribution on this Python."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if not line.startswith("#")]
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in wanted
        if pin.marker is None or pin.marker.evaluate()
    }


def requirements(name: str, extras: frozenset[str], seen: set[str]) -> Iterator[Requirement]:
    """What a distribution and its extras need, and what that needs in turn."""
    for line in distribution(name).requires or ():
        needed = Requirement(line)
        if needed.marker and not any(
            needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            continue
        if str(needed) not in seen:
            seen.add(str(needed))
            yield needed
            yield from requirements(needed.name, frozenset(needed.extras), seen)


def test_distribution_claims_its_own_names_only() -> None:
    """`scenarios` would collide with packages of other projects."""
    top_level = distribution(DISTRIBUTION).read_text("top_level.txt")
    assert top_level is not None
    assert set(top_level.split()) == NAMES


def test_scenarios_import_each_other_relatively() -> None:
    """An absolute import works in a checkout, and fails where the wheel is installed."""
    for path in sorted((ROOT / "scenarios").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = [
            node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        ]
        imported += [
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        ]
        absolute = [name for name in imported if name.split(".")[0].endswith("scenarios")]
        assert not absolute, f"{path}: {absolute}"


def test_constraints_pin_exact_versions_without_hosts() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert line.startswith("#") or PIN.fullmatch(line), line


def test_constraints_pin_every_requirement() -> None:
    """A version that is pinned is one that the requirement allows."""
    pinned = pins()
    for needed in requirements(DISTRIBUTION, frozenset({"dev"}), set()):
        name = canonicalize_name(needed.name)
        if name in (DISTRIBUTION, "setuptools", "pip"):
            continue
        assert name in pinned, f"{needed}: constraints.txt lacks {name}"
        assert needed.specifier.contains(pinned[name], prereleases=True), (str(needed), pinned)


def test_classifiers_name_supported_pythons() -> None:
    """The classifiers, the sessions and the lower and upper bound say the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classified = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    (pythons,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PYTHONS"
    )
    assert classified == pythons
    allowed = Requirement(f"x{project['requires-python']}").specifier
    assert [minor for minor in range(30) if f"3.{minor}.0" in allowed] == [
        int(version.removeprefix("3.")) for version in classified
    ]


def test_contributing_names_existing_sessions() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    sessions = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(one).startswith("nox.session") for one in node.decorator_list)
    }
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {name for names in re.findall(r"nox -s ([a-z ]+)", text) for name in names.split()}
    assert named, "CONTRIBUTING.md names no session"
    assert named <= sessions
