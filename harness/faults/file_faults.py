"""Faults of single files: corrupt, torn, extended, missing or read-only."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


class CorruptFile:
    """Overwrites some bytes of a file."""

    def __init__(self, path: Path, at: int, data: bytes) -> None:
        self.name = f"{len(data)} bytes of {path.name} at {at} are corrupt"
        self._path = path
        self._at = at
        self._data = data
        self._before = b""

    def available(self) -> bool:
        """Return whether the file is that long."""
        return self._path.stat().st_size >= self._at + len(self._data)

    def inject(self) -> None:
        """Save the bytes, and overwrite them."""
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._at)
            self._before = file.read(len(self._data))
            file.seek(self._at)
            file.write(self._data)

    def heal(self) -> None:
        """Restore the bytes."""
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._at)
            file.write(self._before)


class TornFile:
    """Truncates a file to a length."""

    def __init__(self, path: Path, length_bytes: int) -> None:
        self.name = f"{path.name} ends after {length_bytes} bytes"
        self._path = path
        self._length_bytes = length_bytes
        self._rest = b""

    def available(self) -> bool:
        """Return whether the file is longer than that."""
        return self._path.stat().st_size > self._length_bytes

    def inject(self) -> None:
        """Save the rest, and truncate."""
        self._rest = self._path.read_bytes()[self._length_bytes :]
        os.truncate(self._path, self._length_bytes)

    def heal(self) -> None:
        """Append the rest again, unless the file was written since."""
        if self._path.stat().st_size == self._length_bytes:
            with self._path.open("ab") as file:
                file.write(self._rest)


class AddedBytes:
    """Appends bytes to a file: half a line, for example, or a copy of earlier lines.

    Readers have to tolerate the bytes, so they stay after the fault.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.name = f"{path.name} goes on for {len(data)} bytes"
        self._path = path
        self._data = data

    def available(self) -> bool:
        """Return whether the file exists."""
        return self._path.is_file()

    def inject(self) -> None:
        """Append the bytes."""
        with self._path.open("ab") as file:
            file.write(self._data)

    def heal(self) -> None:
        """Do nothing: the bytes stay."""


class MissingFile:
    """Removes a file's name. Processes that have the file open keep it."""

    def __init__(self, path: Path) -> None:
        self.name = f"{path.name} is gone"
        self._path = path
        self._hidden = path.with_name(f"{path.name}.aside")

    def available(self) -> bool:
        """Return whether the file exists."""
        return self._path.exists()

    def inject(self) -> None:
        """Rename the file."""
        self._path.rename(self._hidden)

    def heal(self) -> None:
        """Rename the file back, unless a new one exists."""
        if self._path.exists():
            self._hidden.unlink()
        else:
            self._hidden.rename(self._path)


class ReadOnlyFile:
    """Makes a file impossible to open for writing, for root too, which ignores file modes.

    Processes that have the file open can still write.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"{path.name} is read-only"
        self._path = path
        self._mode = 0

    def available(self) -> bool:
        """Return whether the fault works, by a trial."""
        try:
            self.inject()
        except OSError:
            return False
        try:
            os.close(os.open(self._path, os.O_WRONLY))
        except OSError:
            return True
        finally:
            self.heal()
        return False

    def inject(self) -> None:
        """Remove the write permission; as root, make the file immutable."""
        self._mode = self._path.stat().st_mode
        if _is_root():
            _set_immutable(self._path, is_set=True)
        else:
            self._path.chmod(0o444)

    def heal(self) -> None:
        """Restore the permission."""
        if _is_root():
            _set_immutable(self._path, is_set=False)
        else:
            self._path.chmod(self._mode)


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10  # linux/fs.h


def _set_immutable(path: Path, *, is_set: bool) -> None:
    """Set or clear the file's immutable flag. Raises OSError where that is unsupported."""
    if sys.platform != "linux":
        raise OSError(f"{path}: immutable files need Linux")
    import fcntl  # noqa: PLC0415  absent on some systems

    flags = ctypes.c_ulong()
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _GET_FLAGS, flags)
        flags.value = flags.value | _IMMUTABLE if is_set else flags.value & ~_IMMUTABLE
        fcntl.ioctl(fd, _SET_FLAGS, flags)
    finally:
        os.close(fd)
