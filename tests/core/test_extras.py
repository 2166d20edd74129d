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
    assert missing_extra(["soak"]) == "needs scipy: pip install 'hermes-harness[soak]'"


@pytest.mark.usefixtures("bare")
def test_missing_extra_joins_several_extras() -> None:
    expected = "needs locust, scipy: pip install 'hermes-harness[load,soak]'"
    assert missing_extra(["soak", "load"]) == expected


@pytest.mark.usefixtures("bare")
def test_missing_extra_without_extras_is_none() -> None:
    assert missing_extra([]) is None


def test_missing_extra_omits_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("scipy") is None:
        pytest.skip("scipy is not installed")
    monkeypatch.setitem(sys.modules, "locust", None)
    expected = "needs locust: pip install 'hermes-harness[load]'"
    assert missing_extra(["load", "soak"]) == expected


@pytest.mark.usefixtures("bare")
def test_require_extras_names_user_in_usage_error() -> None:
    expected = r"^`harness load` needs locust: pip install 'hermes-harness\[load\]'$"
    with pytest.raises(MissingExtraError, match=expected) as caught:
        require_extras("`harness load`", "load")
    assert caught.value.exit_code == UsageError.exit_code


def test_unknown_extra_is_refused_with_known_names() -> None:
    with pytest.raises(UsageError, match=r"unknown extra 'soap'; known: load, soak"):
        missing_extra(["soap"])


def test_extras_match_the_project_metadata() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION
    for extra, packages in EXTRAS.items():
        declared = " ".join(project["optional-dependencies"][extra])
        assert all(package in declared for package in packages)
        assert not any(package in " ".join(project["dependencies"]) for package in packages)
