"""A log of JSON rows, one per line: an append is whole or absent, and never follows a torn row.

Knows nothing of the rows' content. A row goes to the operating system at once, so it survives a
kill of this process; `append_durably` survives a power loss too. Every call goes through the `os`
module by name, at the time of the call, so that a simulated disk can replace it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from reference_impl.storage import files

Row = Mapping[str, Any]

_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def encoded(row: Row) -> bytes:
    """Encode a row as its line. Raises TypeError or ValueError for values that are not JSON."""
    return _encoder.encode(row).encode() + b"\n"


class JsonLog:
    """An open log. Not thread-safe: its owner has a lock of its own."""

    def __init__(self, path: str) -> None:
        """Open or create the file, and cut off a row that a dead writer left torn.

        Raises OSError.
        """
        self.path = path
        files.make_folder(files.folder_of(path))
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._is_named = False  # whether the file's name survives a power loss
        try:
            whole = files.read_whole(path)
            self.size_bytes = whole.rfind(b"\n") + 1
            self.rows = whole.count(b"\n")
            self._is_torn = self.size_bytes < len(whole)
            self._cut_torn_row()
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, row: Row) -> None:
        """Add a row. Raises OSError, TypeError or ValueError; then it is absent."""
        self._append(encoded(row), rows=1, sync=False)

    def append_encoded(self, *rows: bytes) -> None:
        """Add encoded rows that survive a kill. Raises OSError; then none is added."""
        self._append(b"".join(rows), rows=len(rows), sync=False)

    def append_durably(self, *rows: bytes) -> None:
        """Add encoded rows that survive a power loss. Raises OSError; then none is added."""
        self._append(b"".join(rows), rows=len(rows), sync=True)

    def _append(self, lines: bytes, *, rows: int, sync: bool) -> None:
        self._cut_torn_row()
        self._is_torn = True
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            if sync:
                self._sync()
        except BaseException:
            with suppress(OSError):  # then the next append cuts it off, or fails
                self._cut_torn_row()
            raise
        self._is_torn = False
        self.size_bytes += len(lines)
        self.rows += rows

    def _cut_torn_row(self) -> None:
        """Cut off everything after the last whole row."""
        if self._is_torn:
            os.ftruncate(self._fd, self.size_bytes)
            self._is_torn = False

    def _sync(self) -> None:
        os.fsync(self._fd)
        if not self._is_named:
            files.sync_folder(files.folder_of(self.path))
            self._is_named = True

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_lines(path: str, size_bytes: int | None = None) -> list[bytes]:
    """Read a log's whole lines, of its first `size_bytes` if given. Raises OSError.

    Bytes after the last newline were torn by a kill, or are being written, and are left out.
    """
    return files.read_whole(path)[:size_bytes].split(b"\n")[:-1]
