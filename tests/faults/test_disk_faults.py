"""Checks that a small disk can be filled and healed, and that a large one is never filled."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.faults.disk_faults import FullDisk, small_disk
from tests.faults.injection import injected


def test_full_disk_refuses_writes_until_healed(tmp_path: Path) -> None:
    """Writes fail with ENOSPC; after the healing there is as much space as before."""
    with small_disk(tmp_path, 1 << 20) as is_mounted:
        if not is_mounted:
            pytest.skip("mounting a small disk is not permitted")
        file = tmp_path / "file"
        file.write_bytes(b"acknowledged")
        with injected(FullDisk(tmp_path)):
            with pytest.raises(OSError, match="No space left"):
                (tmp_path / "more").write_bytes(bytes(1 << 14))
            assert file.read_bytes() == b"acknowledged"
        (tmp_path / "more").write_bytes(bytes(1 << 14))


def test_full_disk_on_large_disk_is_refused(tmp_path: Path) -> None:
    """A disk with more free space than the limit is not filled."""
    fault = FullDisk(tmp_path)
    if fault.available():
        pytest.skip("the temporary folder is on a small disk")
    with pytest.raises(OSError, match="more than"):
        fault.inject()
    assert list(tmp_path.iterdir()) == []
