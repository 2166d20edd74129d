"""The output of a background process: a file that outlives the host and stays bounded.

The process appends to the file, so neither a restart nor a kill of the host ends the process or
loses what it prints, as the closed end of a pipe would. The host reads what is new, and gives the
disk back the part that is not needed again: the file keeps its length and gets a hole (`fallocate`
with FALLOC_FL_PUNCH_HOLE). Where the file system has no holes, the file grows until the end.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

from reference_impl.storage import files

TAIL_BYTES = 16_000
"""What is kept before the end, for the report of the process's end."""
READ_BYTES_MAX = 1 << 20
"""What `read_new` returns at most."""
SPARE_BYTES = 1 << 20
"""What may lie on the disk before it is given back."""

_KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02
_BLOCK_BYTES = 4096

_fallocate = getattr(ctypes.CDLL(None), "fallocate", None)


class OutputFile:
    """The host's end of the file; for one thread."""

    def __init__(self, path: str, position: int = 0) -> None:
        """`position` is how much of it was read before. Raises OSError."""
        self._freed = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.position = self._first_data(position)

    def _first_data(self, position: int) -> int:
        """The first byte from there on that was not given back."""
        try:
            return os.lseek(self._fd, position, os.SEEK_DATA)
        except OSError:  # there is none
            return position

    def read_new(self) -> bytes:
        """Read on, up to READ_BYTES_MAX; empty if nothing is new. Raises OSError."""
        data = os.pread(self._fd, READ_BYTES_MAX, self.position)
        self.position += len(data)
        self.free(self.position)
        return data

    def tail(self) -> bytes:
        """The last TAIL_BYTES. Raises OSError."""
        return os.pread(self._fd, TAIL_BYTES, max(0, self.size() - TAIL_BYTES))

    def size(self) -> int:
        """How many bytes the process has printed. Raises OSError."""
        return os.fstat(self._fd).st_size

    def free(self, position: int) -> None:
        """Give back the disk space before `position`, except for the tail."""
        end = min(position, self.size() - TAIL_BYTES) // _BLOCK_BYTES * _BLOCK_BYTES
        if end - self._freed < SPARE_BYTES or _fallocate is None:
            return
        offset, length = ctypes.c_int64(0), ctypes.c_int64(end)
        _fallocate(self._fd, _KEEP_SIZE_AND_PUNCH_HOLE, offset, length)
        self._freed = end

    def close(self) -> None:
        """Close the file; it stays."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def remove(path: str) -> None:
    """Remove the file; a process that still has it open writes into nowhere."""
    with suppress(OSError):
        files.remove(path)
