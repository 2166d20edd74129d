"""Tests of the memory of canaries: only a detection by the same sources is remembered."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.mutation.known_bugs import KnownBug, find_bugs
from harness.runs import canary_memory
from harness.runs.canary_memory import FILE, CanaryMemory


@pytest.fixture
def bug() -> KnownBug:
    return find_bugs(["commit-every-turn"])["commit-every-turn"]


def test_detection_is_remembered_for_a_week(
    bug: KnownBug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command finds it, until it is too old."""
    assert CanaryMemory(tmp_path).detected_at(bug) is None
    CanaryMemory(tmp_path).remember(bug)
    at = CanaryMemory(tmp_path).detected_at(bug)
    assert at is not None

    monkeypatch.setattr(time, "time", lambda: at + canary_memory.DAYS * 86_400 + 1)
    assert CanaryMemory(tmp_path).detected_at(bug) is None


def test_other_sources_remember_nothing(
    bug: KnownBug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed harness or a changed patch is judged anew."""
    CanaryMemory(tmp_path).remember(bug)
    changed = tmp_path / "changed.patch"
    changed.write_text(bug.patch.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert CanaryMemory(tmp_path).detected_at(replace(bug, patch=changed)) is None

    monkeypatch.setattr(canary_memory, "digest_of", lambda _: "another digest")
    assert CanaryMemory(tmp_path).detected_at(bug) is None


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({"a": "b"})])
def test_damaged_memory_remembers_nothing(bug: KnownBug, tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")

    memory = CanaryMemory(tmp_path)

    assert memory.detected_at(bug) is None
    memory.remember(bug)
    assert CanaryMemory(tmp_path).detected_at(bug) is not None
