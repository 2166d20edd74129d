"""Targets with a known bug in them, named `TARGET+BUG`, such as `reference+commit-every-turn`.

The bug is planted anew wherever the name is used, so a stored failure of one can be replayed on any
machine. All processes of a command share one copy: the first plants it, and removes it at its end.

`TARGET+delays-SEED` is the target with pauses at random places: see `mutation/delays.py`.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import UsageError
from harness.engine.suite import find_suites
from harness.engine.target import Instance, Target
from harness.mutation.delays import delayed_copy
from harness.mutation.known_bugs import KnownBug, find_bugs, plant
from harness.processes.repro_source import through_the_harness

_DELAYS = re.compile(r"delays-(\d+)")
FOLDER = "HARNESS_PLANTED"  # the environment variable that names the folder of the copies


class PlantedTarget:
    """A target whose source has a known bug in it."""

    def __init__(self, name: str, planted: Target) -> None:
        self.name = name
        self._planted = planted

    @property
    def abilities(self) -> frozenset[str]:
        """Those of the target without the bug."""
        return self._planted.abilities

    def prepare(self) -> None:
        """Put the copy first on the path. Raises TargetUnavailableError where that fails."""
        self._planted.prepare()

    def open(self, ability: str, folder: Path) -> Instance:
        """Open a fresh instance of the copy."""
        return self._planted.open(ability, folder)

    def standalone(self, ability: str) -> str:
        """Source that plants the bug again by the harness."""
        return through_the_harness(repr(self.name), ability)


def planted_target(name: str, bug: str, find: Callable[[str], Target]) -> PlantedTarget:
    """The target `name` with a known bug, or with delays; `find` makes that of the copy.

    Raises UsageError where there is no such bug, or it is one of another target.
    """
    if delays := _DELAYS.fullmatch(bug):
        return PlantedTarget(f"{name}+{bug}", find(f"{name}@{_delayed(name, int(delays[1]))}"))
    known = find_bugs([bug])[bug]
    if known.suite.target != name:
        raise UsageError(f"--target {name}+{bug}: this bug is one of {known.suite.target}")
    return PlantedTarget(named(known), find(known.target_in(_copy(known))))


def named(bug: KnownBug) -> str:
    """The name of the target with this bug."""
    return f"{bug.suite.target}+{bug.name}"


def _copy(bug: KnownBug) -> Path:
    return _shared(bug.name, lambda folder: plant(bug, folder))


def _delayed(target: str, seed: int) -> Path:
    source = next(
        (loaded.suite.source for loaded in find_suites() if loaded.suite.target == target), None
    )
    if source is None:
        raise UsageError(f"--target {target}+delays-{seed}: no suite names the source of {target}")

    def make(folder: Path) -> Path:
        delayed_copy(source, folder, seed)
        return folder

    return _shared(f"delays-{seed}", make)


def _shared(name: str, make: Callable[[Path], Path]) -> Path:
    """The folder of this command's copy, which is made as a whole or not at all."""
    top = os.environ.get(FOLDER)
    if top is None:
        top = os.environ[FOLDER] = tempfile.mkdtemp(prefix="harness-planted-")
        atexit.register(shutil.rmtree, top, ignore_errors=True)
    folder = Path(top) / name
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=top, prefix=".new-") as scratch:
            made = make(Path(scratch) / name)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    return folder
