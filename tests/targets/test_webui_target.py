"""Tests of preparing and opening a hermes-webui checkout as a target."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.core.errors import TargetUnavailableError
from harness.targets import package_cache
from harness.targets.hermes_webui.target import HermesWebuiTarget
from harness.targets.registry import find_target


def test_folder_without_a_checkout_is_refused(tmp_path: Path) -> None:
    """The error names the folder and the missing file."""
    with pytest.raises(TargetUnavailableError, match=rf"{tmp_path}.*no server\.py"):
        find_target(f"hermes-webui@{tmp_path}").prepare()


def test_missing_package_is_named(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failed installation leaves nothing in the cache."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    fails = [sys.executable, "-c", "raise OSError"]
    monkeypatch.setattr(package_cache, "installer", lambda _: fails)

    with pytest.raises(TargetUnavailableError, match=r"pyyaml.*cannot be installed"):
        HermesWebuiTarget(checkout).prepare()

    assert list((tmp_path / "cache").iterdir()) == []


def test_server_that_never_boots_is_unavailable(checkout: Path, cache: Path) -> None:
    """The target boots it once before any scenario: it has broken no promise."""
    (checkout / "server.py").write_text("raise SystemExit('no config')", encoding="utf-8")

    with pytest.raises(TargetUnavailableError, match="no config"):
        HermesWebuiTarget(checkout).prepare()

    assert cache.is_dir()


@pytest.mark.usefixtures("cache")
def test_checkout_has_the_abilities_of_its_files(checkout: Path, tmp_path: Path) -> None:
    """The toy has a server and no modules."""
    target = HermesWebuiTarget(checkout)
    target.prepare()
    instance = target.open("http", tmp_path)
    try:
        instance.call("new", {"session": "s1"})

        assert target.abilities == {
            *("http", "doors", "leaving", "upkeep", "disturbed", "memory", "measured"),
            *("shapes", "stored", "turns", "network"),
        }
        assert instance.call("sessions", {}) == ["s1"]
    finally:
        instance.close()
