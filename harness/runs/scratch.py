"""Temporary folders of runs; what a killed run left is removed when the next one starts.

A folder's name has the pid of its owner. The folder of a process that is gone is swept, and so is
one whose pid another process has by now.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil

PREFIX = "harness-scratch-"
BYTES_MIN = 1 << 30  # free in memory, for the files of a run
CLOCK_S = 60.0  # how far the clocks of processes and of files may differ


def scratch() -> AbstractContextManager[str]:
    """A temporary folder, in memory where there is room; after a kill a later call removes it."""
    memory = _memory()
    sweep(memory or Path(tempfile.gettempdir()))
    return tempfile.TemporaryDirectory(
        prefix=f"{PREFIX}{os.getpid()}-", dir=memory, ignore_cleanup_errors=True
    )


@contextmanager
def temporary_files() -> Iterator[None]:
    """Put all temporary files of this process and its children into one folder, and remove it.

    What earlier processes left is removed first. Without a place for temporary files nothing is
    done; the first use of one reports that.
    """
    with suppress(OSError):
        for parent in {_memory(), Path(tempfile.gettempdir())} - {None}:
            sweep(parent)
    try:
        own = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
    except OSError:
        yield
        return
    before, tempfile.tempdir = tempfile.tempdir, own
    variable, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), own
    try:
        yield
    finally:
        tempfile.tempdir = before
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable
        shutil.rmtree(own, ignore_errors=True)


def sweep(parent: Path | None) -> None:
    """Remove the temporary folders of processes that are gone."""
    for folder in parent.glob(f"{PREFIX}*-*") if parent else ():
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and _is_gone(int(owner), folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_gone(owner: int, folder: Path) -> bool:
    """Whether no process has this pid, or one that began after the folder was used last."""
    try:
        return psutil.Process(owner).create_time() > folder.stat().st_mtime + CLOCK_S
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):
        return False


def _memory() -> Path | None:
    """A file system in memory with enough room; None where there is none.

    Disk faults are simulated, so the syncs of a real disk would cost time and prove nothing.
    """
    memory = Path("/dev/shm")  # noqa: S108  only a folder of our own in it is used
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    return memory if usable and shutil.disk_usage(memory).free > BYTES_MIN else None
