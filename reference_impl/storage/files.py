"""Files that are whole or absent, and locks among threads and processes.

Knows nothing of the files' content. Every call goes through the `os` module by name, at the time of
the call, so that a simulated disk can replace it. Files are private to their owner.

A path is a `str`, here and for every file of a session, a run or a process. `pathlib` interns every
part of every path that it is given, and on Python 3.12 interned strings are never freed: a host
would keep the name of each file that it ever wrote. So only the folders that components are opened
with may come as a `Path`.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CHUNK_BYTES = 4096
_POLL_S = 0.001

StrPath = str | os.PathLike[str]
"""Type of the folder that a component is given, or of a file with a fixed name."""


class LockBusyError(Exception):
    """Another holder kept the lock for longer than the patience."""


def absolute(path: StrPath) -> str:
    """Make a path absolute, without needless slashes and dots, so that paths compare."""
    return os.fspath(Path(path).absolute())


def read_whole(path: str) -> bytes:
    """Read a file. Raises OSError."""
    return _read(path, b"", 1 << 16)


def read_from(path: str, at: int) -> bytes:
    """Read a file from a position to its end. Raises OSError."""
    data = bytearray()
    fd = os.open(path, os.O_RDONLY)
    try:
        os.lseek(fd, at, os.SEEK_SET)
        while chunk := os.read(fd, 1 << 16):
            data += chunk
    finally:
        os.close(fd)
    return bytes(data)


def read_until(path: str, marker: bytes) -> bytes:
    """Read a file up to the marker, or all of it without one. Raises OSError."""
    return _read(path, marker, _CHUNK_BYTES).partition(marker)[0]


def _read(path: str, marker: bytes, chunk_bytes: int) -> bytes:
    data = bytearray()
    fd = os.open(path, os.O_RDONLY)
    try:
        while chunk := os.read(fd, chunk_bytes):
            seen = max(0, len(data) - len(marker))  # a chunk's edge may cut the marker in two
            data += chunk
            if marker and data.find(marker, seen) >= 0:
                break
    finally:
        os.close(fd)
    return bytes(data)


def put(path: str, data: bytes) -> None:
    """Replace the file's content durably: when this returns, it survives a power loss.

    At any moment the file is the old or the new one, never a mixture: a temporary file beside it
    is written, synced and renamed over it, and then the folder is synced (Pillai et al., "All File
    Systems Are Not Created Equal", OSDI 2014). Raises OSError; then it is the old one, unless
    the last step failed, and then it is either.
    """
    temporary = _temporary(path)
    try:
        _write(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        _discard(temporary)
        raise
    sync_folder(folder_of(path))


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def put_unsynced(path: str, data: bytes) -> None:
    """Replace the file's content atomically, but not durably: a power loss may lose it.

    For data that can be derived again. Raises OSError; then the file is the old one. The kernel's
    clock for files ticks in milliseconds, in which a file can be replaced twice and get its old
    inode back; so the time is set explicitly, and `signature` differs for any two versions.
    """
    temporary = _temporary(path)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(fd, data)
            os.utime(fd, ns=(now_ns := time.time_ns(), now_ns))
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        _discard(temporary)
        raise


def append_unsynced(path: str, data: bytes) -> None:
    """Append to an existing file, not durably.

    Raises OSError; then a part of the data may have been added.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        _write_all(fd, data)
    finally:
        os.close(fd)


def signature(path: str) -> tuple[int, int, int] | None:
    """A value that changes whenever the file does; None for a missing file. Raises OSError."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _temporary(path: str) -> str:
    """Name a file beside `path` that only this thread writes: `<stem>.tmp.<pid>.<tid>`."""
    folder, name = os.path.split(path)
    stem = name.partition(".")[0]
    return os.path.join(folder, f"{stem}.tmp.{os.getpid()}.{threading.get_ident()}")


def _discard(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def rename(path: str, target: str) -> None:
    """Rename a file durably. Raises OSError."""
    os.replace(path, target)
    sync_folder(folder_of(path))


def remove(path: str) -> bool:
    """Remove a file; returns whether it existed. Durable after `sync_folder`. Raises OSError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def folder_of(path: str) -> str:
    """The folder of a file."""
    return os.path.dirname(path) or os.curdir


def names(folder: str) -> list[str]:
    """Names of the entries of a folder, in any order. Raises OSError."""
    return os.listdir(folder)


def sync_folder(folder: str) -> None:
    """Make renames, creations and removals in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: str) -> None:
    """Make a folder and its parents, durably. Raises OSError."""
    if os.path.isdir(folder):
        return
    make_folder(folder_of(folder))
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    sync_folder(folder_of(folder))


class SharedLock:
    """A lock among the threads of all processes: a mutex, and `flock` on a side file.

    Not reentrant. The kernel drops a dead process's lock at once.
    """

    def __init__(self, path: str, patience_s: float) -> None:
        """`path` is the side file, `patience_s` how long to wait before LockBusyError."""
        self._path = path
        self.patience_s = patience_s
        self._mutex = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock. Raises LockBusyError, or OSError if the side file cannot be opened."""
        deadline_s = time.monotonic() + self.patience_s
        if not self._mutex.acquire(timeout=self.patience_s):
            raise LockBusyError(f"{self._path}: another thread held it for {self.patience_s} s")
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._wait(fd, deadline_s)
                yield
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)  # a forked child may have the file open too
                os.close(fd)
        finally:
            self._mutex.release()

    def _wait(self, fd: int, deadline_s: float) -> None:
        # `flock` cannot wait with a deadline; the mutex excludes this process's other threads.
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() >= deadline_s:
                waited = f"{self.patience_s} s"
                raise LockBusyError(f"{self._path}: another process held it for {waited}")
            time.sleep(_POLL_S)
