"""Faults of a whole disk: no free space, on a small disk that is mounted for the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SMALL_DISK_BYTES = 64 << 20  # a larger free space belongs to a disk in use, which is never filled


class FullDisk:
    """Fills the disk of a folder to the last byte. Works on small disks only."""

    def __init__(self, folder: Path) -> None:
        self.name = f"the disk of {folder.name} is full"
        self._folder = folder
        self._filler = folder / "filler"

    def available(self) -> bool:
        """Return whether the disk is small enough to be filled."""
        return shutil.disk_usage(self._folder).free <= SMALL_DISK_BYTES

    def inject(self) -> None:
        """Write a filler file until no byte fits."""
        if not self.available():
            raise OSError(f"{self._folder}: its disk has more than {SMALL_DISK_BYTES} bytes free")
        with self._filler.open("ab", buffering=0) as filler:
            for block in (b"\0" * (1 << 20), b"\0" * (1 << 12), b"\0"):
                with contextlib.suppress(OSError):
                    while filler.write(block):
                        pass

    def heal(self) -> None:
        """Remove the filler file."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[bool]:
    """Mount a disk in memory on the folder; yield False, without a mount, if not permitted."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    is_mounted = False
    if sys.platform == "linux" and os.geteuid() == 0 and mount and umount:
        options = ["-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(folder)]
        command = [mount, *options]
        is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    try:
        yield is_mounted
    finally:
        if is_mounted and umount:
            subprocess.run([umount, "--lazy", str(folder)], capture_output=True, check=True)  # noqa: S603
