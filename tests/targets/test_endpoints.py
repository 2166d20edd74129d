"""Tests of what the endpoints adapter finds on the disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.targets.server.endpoints import NO_CALL, STARTED_AT, EndpointsAdapter, _is_left


def test_empty_folder_counts_as_left(tmp_path: Path) -> None:
    """One with a file does not: the file counts."""
    (tmp_path / "runs").mkdir()
    assert _is_left(tmp_path / "runs")
    (tmp_path / "runs" / "r.jsonl").touch()
    assert not _is_left(tmp_path / "runs")
    assert _is_left(tmp_path / "runs" / "r.jsonl")


def test_late_start_lies_in_no_call() -> None:
    """A server that began with its first request says so after it listened."""
    adapter: Any = object.__new__(EndpointsAdapter)
    adapter._server = SimpleNamespace(listened_at=12.0)
    adapter._began = [10.0, 20.0]
    assert adapter._named({STARTED_AT: 11.5}) == {STARTED_AT: 0}
    assert adapter._named({STARTED_AT: 12.5}) == {STARTED_AT: NO_CALL}
