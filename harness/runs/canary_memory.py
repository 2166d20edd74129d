"""Remembers which canaries were detected, so that they are not judged again without need.

A canary shows that the checkers work. Its result holds for the same sources of the harness, the
same known bug, and the same interpreter on the same machine; any other is judged anew. Only a
detection is remembered, for a week.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from contextlib import suppress
from pathlib import Path

from harness.mutation.known_bugs import KnownBug
from harness.report import folder
from harness.runs.sources import digest_of

FILE = "canaries.json"
DAYS = 7.0
_DAY_S = 86_400.0


class CanaryMemory:
    """The canaries that were detected before, in a file of the reports folder."""

    def __init__(self, reports: Path) -> None:
        """A file that is missing or damaged remembers nothing."""
        self._path = reports / FILE
        self._detected: dict[str, float] = {}
        with suppress(OSError, ValueError, AttributeError):
            rows = json.loads(self._path.read_text(encoding="utf-8"))
            self._detected = {str(key): float(at) for key, at in rows.items()}

    def detected_at(self, bug: KnownBug) -> float | None:
        """When the canary was detected, in seconds of the epoch; None if it is to be judged."""
        at = self._detected.get(_key(bug))
        return at if at is not None and 0 <= time.time() - at < DAYS * _DAY_S else None

    def remember(self, bug: KnownBug) -> None:
        """Store a detection. Where that fails the canary is judged again the next time."""
        oldest = time.time() - DAYS * _DAY_S
        self._detected = {key: at for key, at in self._detected.items() if at > oldest}
        self._detected[_key(bug)] = time.time()
        with suppress(OSError):
            folder.write_json(self._path, self._detected)


def _key(bug: KnownBug) -> str:
    patch = bug.patch.read_text(encoding="utf-8")
    parts = (digest_of(()), bug.name, patch, sys.version, platform.machine(), platform.node())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
