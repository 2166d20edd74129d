"""Tests of finding targets by name."""

from __future__ import annotations

import pytest

from harness.core.errors import UsageError
from harness.targets.registry import find_target, list_targets


@pytest.mark.parametrize("name", ["hermes", "hermes_agent"])
def test_unknown_target_names_the_known_ones(name: str) -> None:
    """The message names what was given, and what is accepted."""
    with pytest.raises(UsageError, match=rf"unknown target '{name}'.*hermes-agent.*reference"):
        find_target(name)


@pytest.mark.parametrize("spec", ["", "reference=x"])
def test_malformed_target_is_a_usage_error(spec: str) -> None:
    """The message names the option, the value and the accepted forms."""
    with pytest.raises(UsageError, match=rf"--target '{spec}': .*NAME==VERSION, NAME@FOLDER"):
        find_target(spec)


@pytest.mark.parametrize("version", ["", "latest", "0.19.0 --index-url=x", "../0.19.0", "-r"])
def test_invalid_version_is_a_usage_error(version: str) -> None:
    """The message names the option, the value and a valid example."""
    with pytest.raises(UsageError, match=r"--target .* is no version; accepted: .*==0\.19\.0"):
        find_target(f"hermes-agent=={version}")


def test_unknown_policy_names_the_known_ones() -> None:
    """A policy close to the given one is suggested."""
    with pytest.raises(UsageError, match=r"unknown policy 'jitter'; did you mean 'jitter-15'"):
        find_target("sqlite@jitter")


def test_target_is_found_by_its_name() -> None:
    """A target states its abilities, and the list names it."""
    assert find_target("reference").name == "reference"
    assert "state_db_crowd" in find_target("hermes-agent==0.19.0").abilities
    usages = {row["target"] for row in list_targets()}
    assert {"reference[@FOLDER]", "hermes-agent==VERSION"} <= usages
