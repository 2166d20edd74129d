"""A folder whose Nth read fails once: an open, a stat, a list of names or a read of a file.

Stands in for functions of the `os` module, as `simulated_disk` does, and only for paths below the
folder and files opened there. Writes go through.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

_BY_PATH = ("open", "stat", "lstat", "listdir", "scandir")
_BY_FILE = ("read", "pread", "fstat")


class ReadFaults:
    """A context in which call number `at` of those that read the folder raises EIO."""

    def __init__(self, folder: Path, at: int) -> None:
        """Count from 1."""
        self._folder = os.fspath(folder)
        self._left = at
        self._files: set[int] = set()
        self._originals: dict[str, Callable[..., Any]] = {}
        self.faulted_call: str | None = None

    def __enter__(self) -> Self:
        """Begin to count."""
        for name in (*_BY_PATH, *_BY_FILE):
            self._originals[name] = getattr(os, name)
            setattr(os, name, self._replaced(name))
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the functions."""
        for name, original in self._originals.items():
            setattr(os, name, original)

    def _replaced(self, name: str) -> Callable[..., Any]:
        original = self._originals[name]

        def call(subject: Any = ".", *args: Any, **options: Any) -> Any:
            if self._concerns(name, subject, args):
                self._left -= 1
                if self._left == 0:
                    self.faulted_call = f"{name}({subject!r})"
                    raise OSError(errno.EIO, os.strerror(errno.EIO), str(subject))
            result = original(subject, *args, **options)
            if name == "open":  # its number may be that of a file that was closed since
                (self._files.add if self._is_below(subject) else self._files.discard)(result)
            return result

        return call

    def _concerns(self, name: str, subject: Any, args: tuple[Any, ...]) -> bool:
        if name in _BY_FILE or isinstance(subject, int):
            return subject in self._files
        reads = name != "open" or not (args and args[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return reads and self._is_below(subject)

    def _is_below(self, subject: Any) -> bool:
        if isinstance(subject, int):
            return False
        return str(os.fspath(subject)).startswith(self._folder)
