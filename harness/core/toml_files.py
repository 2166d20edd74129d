"""Reads the TOML files that users write: each failure is a usage error that names the file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError


def read_toml(path: Path, where: str) -> dict[str, Any]:
    """Read a file. Raises UsageError that begins with `where`: the file, and its option if any."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{where}: expected a TOML file; {error}") from error


def read_tables(path: Path, where: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each table `[[name]]` of a file that has nothing else, and how to name it in an error.

    Raises UsageError for a file with another key, or an entry that is no table.
    """
    document = read_toml(path, where)
    if strange := set(document) - {name}:
        raise UsageError(f"{where}: unknown key {min(strange)!r}; known: [[{name}]]")
    entries = document.get(name, [])
    if not isinstance(entries, list):
        raise UsageError(f"{where}: {name} = {entries!r}; expected tables [[{name}]]")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise UsageError(f"{where}: {name} {number}: {entry!r}; expected a table")
        yield f"{where}: {name} {number}", entry
