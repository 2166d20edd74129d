"""Digests of sources, by which a stored result is known to hold for the sources of today."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from harness.core import errors


def digest_of(folders: Iterable[Path]) -> str:
    """A digest of the harness's own Python files, and of those in further folders."""
    digest = hashlib.sha256(_digest(Path(errors.__file__).parents[1]))
    for folder in sorted({folder.resolve() for folder in folders}):
        digest.update(_digest(folder))
    return digest.hexdigest()


@cache
def _digest(folder: Path) -> bytes:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.digest()
