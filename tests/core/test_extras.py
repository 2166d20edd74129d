"""Tests of the messages about optional packages that are not installed."""

from __future__ import annotations

import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.core.extras import (
    DISTRIBUTION,
    EXTRAS,
    MissingExtraError,
    missing_extra,
    require_extras,
)

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every package that an extra brings; `None` in sys.modules stops its import."""
    for packages in EXTRAS.values():
        for package in packages:
            monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.usefixtures("bare")
def test_missing_extra_names_package_and_command() -> None:
    expected = "`harness soak` needs scipy: pip install 'hermes-harness[soak]'"
    assert missing_extra("`harness soak`", ["soak"]) == expected


@pytest.mark.usefixtures("bare")
def test_missing_extra_joins_several_extras() -> None:
    expected = "`harness profile` needs locust, scipy: pip install 'hermes-harness[load,soak]'"
    assert missing_extra("`harness profile`", ["soak", "load"]) == expected


@pytest.mark.usefixtures("bare")
def test_missing_extra_without_extras_is_none() -> None:
    assert missing_extra("`harness list`", []) is None


def test_missing_extra_ignores_installed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "locust", None)
    if find_spec("scipy") is None:
        pytest.skip("scipy is not installed")
    expected = "it needs locust: pip install 'hermes-harness[load]'"
    assert missing_extra("it", ["load", "soak"]) == expected


@pytest.mark.usefixtures("bare")
def test_require_extras_raises_usage_error() -> None:
    with pytest.raises(MissingExtraError, match="needs locust") as caught:
        require_extras("`harness load`", "load")
    assert caught.value.exit_code == UsageError.exit_code


def test_unknown_extra_is_refused_with_known_names() -> None:
    with pytest.raises(UsageError, match=r"unknown extra 'soap'; known: load, soak"):
        missing_extra("it", ["soap"])


def test_extras_match_the_project_metadata() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION
    for extra, packages in EXTRAS.items():
        declared = " ".join(project["optional-dependencies"][extra])
        assert all(package in declared for package in packages)
        assert not any(package in " ".join(project["dependencies"]) for package in packages)
