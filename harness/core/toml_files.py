"""Reads the TOML files that users write: each failure is a usage error that names the file."""

from __future__ import annotations

import tomllib
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
