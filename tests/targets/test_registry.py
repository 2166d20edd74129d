"""Tests of finding targets by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.targets import planted
from harness.targets.registry import find_target, list_targets
from tests.support.paths import PROJECT


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
    assert {"reference[@FOLDER|+BUG|+delays-SEED]", "hermes-agent==VERSION"} <= usages


def test_known_bug_is_planted_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`TARGET+BUG` is a copy with the bug; a second use finds the same copy."""
    monkeypatch.setenv(planted.FOLDER, str(tmp_path))
    name = "reference+commit-every-turn"
    target, again = find_target(name), find_target(name)

    assert target.name == again.name == name
    assert target.abilities == find_target("reference").abilities
    assert [path.name for path in tmp_path.iterdir()] == ["commit-every-turn"]
    lifecycle = "reference_impl/memory/lifecycle.py"
    clean = (PROJECT / lifecycle).read_text("utf-8")
    assert (tmp_path / "commit-every-turn" / lifecycle).read_text("utf-8") != clean


def test_delays_are_planted_by_their_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`TARGET+delays-SEED` is a copy of the suite's source with pauses in it."""
    monkeypatch.setenv(planted.FOLDER, str(tmp_path))
    target = find_target("reference+delays-7")

    assert target.name == "reference+delays-7"
    assert (tmp_path / "delays-7" / "harness_delays.py").exists()
    assert (tmp_path / "delays-7" / "reference_impl" / "app.py").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sqlite+delays-1", "no suite names the source of sqlite"),
        ("reference+no-such-bug", "unknown bug 'no-such-bug'"),
        ("sqlite+commit-every-turn", "this bug is one of reference"),
    ],
)
def test_unknown_bug_is_a_usage_error(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_target(spec)
