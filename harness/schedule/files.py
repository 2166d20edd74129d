"""File operations under control: each is a point, and a wait for a file lock is virtual.

Files and their locks are real. Reads are points as writes are: between a look at a file and the use
of what was seen another task may change it. A file object reads and writes its file in the same
steps as outside, and each of them is a point. Two operations differ under control: a blocking
`flock`, `lockf` or lock by `fcntl` becomes a series of non-blocking attempts, one virtual
millisecond apart; and `fsync` returns without a sync, because no schedule ends in a power loss.
"""

from __future__ import annotations

import builtins
import fcntl
import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.schedule.control import scheduler
from harness.schedule.scheduler import Scheduler

_flock = fcntl.flock
_lockf = fcntl.lockf
_fcntl = fcntl.fcntl
_ATTEMPTS = {  # commands that wait for a lock, and their forms that do not wait
    getattr(fcntl, f"{name}W"): getattr(fcntl, name)
    for name in ("F_SETLK", "F_OFD_SETLK")
    if hasattr(fcntl, f"{name}W")
}
_LOCKING = (*_ATTEMPTS, *_ATTEMPTS.values())
_open = builtins.open
_PROC = "/proc/"
_native = {"readlink": os.readlink}  # in a mapping, where it is not replaced
_SYNCS = ("fsync", "fdatasync")
_WRITES = (
    *("open", "write", "pwrite", "rename", "replace", "unlink", "remove", "truncate", "ftruncate"),
    *("link", "symlink", "mkdir", "rmdir", "chmod", "utime"),
)
_READS = ("read", "pread", "stat", "lstat", "fstat", "listdir", "scandir", "readlink", "access")
_CAPABILITIES = (
    os.supports_fd,
    os.supports_dir_fd,
    os.supports_follow_symlinks,
    os.supports_effective_ids,
)


def note(run: Scheduler, kind: str, target: str, *, write: bool = True) -> None:
    """Make a point before a file operation. The file system counts as one shared object."""
    run.point(kind, target)
    if run.footprint is not None:
        run.footprint.touch("files", write=write)


def _with_point(
    original: Callable[..., Any], kind: str, replacement: Any = None, *, write: bool = True
) -> Callable[..., Any]:
    @functools.wraps(original)
    def operation(*args: Any, **kwargs: Any) -> Any:
        run = scheduler()
        if run is None or _is_of_the_system(args[:1]):
            return original(*args, **kwargs)
        target = " -> ".join(_label(arg) for arg in args[:2] if _names_a_file(arg))
        note(run, kind, target, write=write)
        return original(*args, **kwargs) if replacement is None else replacement()

    for capability in _CAPABILITIES:  # `shutil` looks the functions up in these sets
        if original in capability:
            capability.add(operation)
    return operation


def _is_of_the_system(args: tuple[Any, ...]) -> bool:
    """Whether a file operation concerns /proc, which no task writes.

    How much there is to read depends on other processes, and must not decide how many points a
    schedule has.
    """
    match args:
        case (str() as path,):
            return path.startswith(_PROC)
        case (int() as fd,):
            try:
                return _native["readlink"](f"{_PROC}self/fd/{fd}").startswith(_PROC)
            except OSError:
                return False
    return False


def _names_a_file(argument: Any) -> bool:
    return isinstance(argument, str | bytes | os.PathLike) or type(argument) is int


def _label(argument: Any) -> str:
    if type(argument) is int:
        return f"fd {argument}"
    if isinstance(argument, bytes):
        return f"{len(argument)} bytes"
    return Path(argument).name


class _File(io.FileIO):
    """The raw file below a file object: each of its reads and writes is a point."""

    def _note(self, kind: str, *, write: bool) -> None:
        run = scheduler()
        if run is not None and not run.unwinding:
            note(run, kind, _label(self.name), write=write)

    def readinto(self, buffer: Any) -> int | None:
        """See `io.RawIOBase.readinto`."""
        self._note("read", write=False)
        return super().readinto(buffer)

    def readall(self) -> bytes:
        """See `io.RawIOBase.readall`."""
        self._note("read", write=False)
        return super().readall()

    def read(self, size: int | None = -1) -> Any:
        """See `io.RawIOBase.read`."""
        self._note("read", write=False)
        return super().read(-1 if size is None else size)

    def write(self, data: Any) -> Any:
        """See `io.RawIOBase.write`."""
        self._note("write", write=True)
        return super().write(data)


def open_file(  # noqa: PLR0913, PLR0917 - the signature of open
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,  # noqa: FBT001, FBT002 - the signature of open
    opener: Any = None,
) -> Any:
    """`open`; under control the file's reads and writes are points too."""
    run = scheduler()
    if run is None:
        return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    note(run, "open", _label(file) if _names_a_file(file) else "", write=True)
    is_text = "b" not in mode
    if (not is_text and (encoding, errors, newline) != (None, None, None)) or not buffering:
        # Binary files without a buffer, and wrong arguments, for which it raises its own error.
        return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    kinds = mode.replace("b", "").replace("t", "")
    raw = _File(file, kinds, closefd, opener)
    try:
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        buffer: Any
        if "+" in kinds:
            buffer = io.BufferedRandom(raw, size)
        elif "r" in kinds:
            buffer = io.BufferedReader(raw, size)
        else:
            buffer = io.BufferedWriter(raw, size)
        if not is_text:
            return buffer
        is_by_line = buffering == 1 or (buffering < 0 and raw.isatty())
        encoding = io.text_encoding(encoding)
        text = io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering=is_by_line)
        text.mode = mode  # type: ignore[misc]  # as open does
    except BaseException:
        raw.close()
        raise
    return text


def _virtual_wait(original: Callable[..., Any], kind: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def lock(fd: Any, operation: int, *args: Any) -> Any:
        run = scheduler()
        if run is None:
            return original(fd, operation, *args)
        number = fd if type(fd) is int else fd.fileno()
        label = f"{kind} of fd {number}"
        note(run, "unlock" if operation & fcntl.LOCK_UN else "lock", label)
        while True:
            try:
                return original(fd, operation | fcntl.LOCK_NB, *args)
            except BlockingIOError:
                if operation & fcntl.LOCK_NB:
                    raise
                run.poll(label)

    return lock


@functools.wraps(_fcntl)
def lock_record(fd: Any, command: int, argument: Any = 0, /) -> Any:
    """`fcntl.fcntl`; under control a lock is a point, and a wait for one is virtual."""
    run = scheduler()
    if run is None or command not in _LOCKING:
        return _fcntl(fd, command, argument)
    label = f"fcntl of fd {fd if type(fd) is int else fd.fileno()}"
    note(run, "lock", label)
    attempt = _ATTEMPTS.get(command)
    while True:
        try:
            return _fcntl(fd, command if attempt is None else attempt, argument)
        except (BlockingIOError, PermissionError):  # EAGAIN, or EACCES where POSIX allows it
            if attempt is None:
                raise
            run.poll(label)


def replacements() -> list[tuple[Any, Any]]:
    """Return the originals with their replacements."""
    return [
        *((getattr(os, name), _with_point(getattr(os, name), name)) for name in _WRITES),
        *(
            (getattr(os, name), _with_point(getattr(os, name), name, write=False))
            for name in _READS
        ),
        *(
            (getattr(os, name), _with_point(getattr(os, name), name, lambda: None))
            for name in _SYNCS
        ),
        (_open, open_file),
        (_flock, _virtual_wait(_flock, "flock")),
        (_lockf, _virtual_wait(_lockf, "lockf")),
        (_fcntl, lock_record),
    ]
