"""Tests of installing the released package hermes-agent into the cache."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.core.errors import TargetUnavailableError
from harness.targets.hermes_agent import target as hermes_agent
from harness.targets.hermes_agent.target import HermesAgentTarget


def _installer(monkeypatch: pytest.MonkeyPatch, cache: Path, script: str) -> None:
    """Let `script` replace pip; its last arguments are --target FOLDER NAME==VERSION."""
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.setattr(hermes_agent, "installer", lambda _: [sys.executable, "-c", script])


INSTALLS = """
import pathlib, sys
folder = pathlib.Path(sys.argv[-2]); folder.mkdir(parents=True)
(folder / "hermes_state.py").write_text("# " + sys.argv[-1])
"""


def test_version_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second target of the same version uses the cache."""
    cache = tmp_path / "cache"
    _installer(monkeypatch, cache, INSTALLS)
    HermesAgentTarget("0.19.0").prepare()
    _installer(monkeypatch, cache, "raise SystemExit(1)")
    HermesAgentTarget("0.19.0").prepare()
    assert [entry.name for entry in cache.iterdir()] == ["hermes-agent==0.19.0"]


def test_concurrent_installations_both_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes first: its folder stays, and the own one is removed."""
    cache = tmp_path / "cache"
    other = cache / "hermes-agent==0.19.0"
    faster = f"import pathlib; pathlib.Path({str(other)!r}).mkdir(parents=True)\n"
    faster += f"pathlib.Path({str(other / 'hermes_state.py')!r}).write_text('# the other one')\n"
    _installer(monkeypatch, cache, faster + INSTALLS)
    HermesAgentTarget("0.19.0").prepare()
    assert [entry.name for entry in cache.iterdir()] == ["hermes-agent==0.19.0"]
    assert (other / "hermes_state.py").read_text() == "# the other one"


@pytest.mark.parametrize(
    ("installer_log", "message"),
    [
        (
            "ERROR: Could not find it (from versions: 0.13.0, 0.19.0)\\nERROR: No distribution",
            r"^hermes-agent==9.9 does not exist; known versions: 0.13.0, 0.19.0$",
        ),
        (
            "WARNING: Retrying\\nERROR: Could not find a version (from versions: none)",
            r"^hermes-agent==9.9 is not available: no reachable package index",
        ),
        ("one\\ntwo\\nERROR: disk on fire", r"cannot be installed: ERROR: disk on fire$"),
        ("", r"cannot be installed: the installer printed no error$"),
    ],
)
def test_failed_installation_is_explained_in_one_sentence(
    installer_log: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message quotes the decisive line of the installer, and nothing stays in the cache."""
    script = f"import sys; sys.stderr.write('{installer_log}'); raise SystemExit(1)"
    _installer(monkeypatch, tmp_path / "cache", script)
    with pytest.raises(TargetUnavailableError, match=message):
        HermesAgentTarget("9.9").prepare()
    assert not list((tmp_path / "cache").iterdir())


def test_unwritable_cache_is_explained_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the variable that moves the cache."""
    (tmp_path / "file").write_text("")
    _installer(monkeypatch, tmp_path / "file", INSTALLS)
    with pytest.raises(TargetUnavailableError, match=r"cannot be written.*HARNESS_CACHE"):
        HermesAgentTarget("0.19.0").prepare()
