"""The reference implementation as a target. The only module of the harness that may know it.

Each adapter turns an ability's JSON questions into calls of one room, and notes what the room did
to its providers. `reference@FOLDER` names a copy of the package elsewhere, a planted one say; a
process can judge one copy only, the first it opens.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import TargetUnavailableError
from harness.target import AdapterInstance, Instance
from harness.targets.scripted import LifecycleAdapter

PACKAGE = "reference_impl"


class ReferenceTarget:
    """Every ability, in this process."""

    abilities = frozenset({"lifecycle"})

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` holds the package `reference_impl`; None means the installed one."""
        self.name = "reference" if folder is None else f"reference@{folder}"
        self._folder = folder

    def prepare(self) -> None:
        """Put the wanted copy first on the path. Raises TargetUnavailableError where it is not."""
        if self._folder is None:
            return
        if not (self._folder / PACKAGE / "__init__.py").is_file():
            raise TargetUnavailableError(f"{self._folder}: there is no {PACKAGE} in it")
        loaded = sys.modules.get(PACKAGE)
        if loaded is not None and Path(str(loaded.__file__)).parent.parent != self._folder:
            raise TargetUnavailableError(f"another {PACKAGE} is loaded: {loaded.__file__}")
        sys.path.insert(0, str(self._folder))

    def open(self, ability: str, folder: Path) -> Instance:
        """A fresh room behind its adapter."""
        return AdapterInstance(_ADAPTERS[ability](folder))

    def standalone(self, ability: str) -> str:
        """Name the adapter; it lives here, with the package that it adapts."""
        here = f"from {__name__} import {_ADAPTERS[ability].__name__} as open_adapter"
        if self._folder is None:
            return here
        return f"import sys\n\nsys.path.insert(0, {str(self._folder)!r})\n\n{here}"


def _room(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


def open_lifecycle(folder: Path) -> Any:  # noqa: ARG001  (the lifecycle keeps no files)
    """The lifecycle room."""
    return LifecycleAdapter(_room("lifecycle").Lifecycle())


_ADAPTERS = {"lifecycle": open_lifecycle}
