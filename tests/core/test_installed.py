"""Tests of `harness.core.installed`: entry points, read once for each search path."""

from __future__ import annotations

from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

import pytest

from harness.core import installed as subject
from harness.core.installed import installed


@pytest.mark.parametrize("group", ["harness.scenarios", "harness.targets", "no.such.group"])
def test_entry_points_are_those_of_the_library(group: str) -> None:
    """Also for a group that no package has."""
    assert set(installed(group)) == set(entry_points(group=group))


def test_packages_are_read_once_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed search path may bring other packages."""
    reads: list[str] = []

    def counted(*, group: str) -> EntryPoints:
        reads.append(group)
        return entry_points(group=group)

    monkeypatch.setattr(subject, "entry_points", counted)
    monkeypatch.syspath_prepend(tmp_path)
    first, again = installed("harness.targets"), installed("harness.targets")
    monkeypatch.syspath_prepend(tmp_path / "other")
    installed("harness.targets")

    assert first is again
    assert reads == ["harness.targets", "harness.targets"]
