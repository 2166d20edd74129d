"""Tests that a chosen read of a folder fails once, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.faults.read_faults import ReadFaults


def read_all(folder: Path) -> bytes:
    """List the folder, and read its file: three calls that read."""
    (name,) = os.listdir(folder)  # noqa: PTH208  the functions on trial
    fd = os.open(folder / name, os.O_RDONLY)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_nth_read_of_folder_fails_once(tmp_path: Path, at: int) -> None:
    """The list, the open and the read fail in turn; the next try succeeds."""
    (tmp_path / "file").write_bytes(b"text")

    with ReadFaults(tmp_path, at) as disk:
        with pytest.raises(OSError, match="Input/output"):
            read_all(tmp_path)
        assert read_all(tmp_path) == b"text"

    assert disk.faulted_call is not None


def test_reads_elsewhere_and_writes_do_not_count(tmp_path: Path) -> None:
    """Only reads below the folder are counted."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "file").write_bytes(b"text")

    with ReadFaults(inside, 1) as disk:
        os.close(os.open(inside / "new", os.O_WRONLY | os.O_CREAT))
        assert read_all(outside) == b"text"

    assert disk.faulted_call is None
