"""Tests of what the endpoints adapter finds on the disk."""

from __future__ import annotations

from pathlib import Path

from harness.targets.server.endpoints import _is_left


def test_empty_folder_counts_as_left(tmp_path: Path) -> None:
    """One with a file does not: the file counts."""
    (tmp_path / "runs").mkdir()
    assert _is_left(tmp_path / "runs")
    (tmp_path / "runs" / "r.jsonl").touch()
    assert not _is_left(tmp_path / "runs")
    assert _is_left(tmp_path / "runs" / "r.jsonl")
