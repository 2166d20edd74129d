"""Checks that faults of single files take effect and are undone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.faults.file_faults import AddedBytes, MissingFile, ReadOnlyFile, TornFile
from tests.faults.injection import injected


def test_added_bytes_stay_after_the_fault(tmp_path: Path) -> None:
    """The bytes follow the previous content; readers have to tolerate them."""
    path = tmp_path / "file"
    assert not AddedBytes(path, b"half a li").available()
    path.write_bytes(b"a line\n")
    with injected(AddedBytes(path, b"half a li")):
        assert path.read_bytes() == b"a line\nhalf a li"

    assert path.read_bytes() == b"a line\nhalf a li"


def test_torn_file_is_restored_unless_rewritten(tmp_path: Path) -> None:
    """The rest returns to its place, and is not appended to new content."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with injected(TornFile(path, 4)):
        assert path.read_bytes() == b"0123"
    assert path.read_bytes() == b"0123456789"
    with injected(TornFile(path, 4)):
        path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_missing_file_returns_unless_recreated(tmp_path: Path) -> None:
    """The file is absent during the fault; a file created meanwhile is not overwritten."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with injected(MissingFile(path)):
        assert not path.exists()
    assert path.read_bytes() == b"old"
    with injected(MissingFile(path)):
        path.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_read_only_file_rejects_writers(tmp_path: Path) -> None:
    """The file can be read, and opening it for writing fails for root too."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with injected(ReadOnlyFile(path)):
        assert path.read_bytes() == b"old"
        with pytest.raises(PermissionError):
            os.close(os.open(path, os.O_WRONLY))
    path.write_bytes(b"new")
