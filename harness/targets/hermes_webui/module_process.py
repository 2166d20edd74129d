"""The modules of a hermes-webui checkout, in a process of their own that sees the checkout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import TargetLostError, UsageError
from harness.processes.pool import ProcessInstance, Stable
from harness.processes.remote import RefusedError

ADAPTERS = {
    "sessions": "session_store.py",
    "watcher": "gateway_watcher.py",
    "catalog": "model_catalog.py",
}
OPENING = "while opening: "  # how the process says so
HARNESS = Path(__file__).parents[3]


def stable(ability: str, checkout: Path, packages: Path, bytecode: Path) -> Stable:
    """The children that serve this ability over the checkout."""
    environment = {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(map(str, (HARNESS, checkout, packages))),
        "PYTHONPYCACHEPREFIX": str(bytecode),
    }
    return Stable([Path(__file__).with_name(ADAPTERS[ability])], environment)


class ModuleInstance(ProcessInstance):
    """An adapter in such a process. Where its disk was struck, nobody knows what happened."""

    def call(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Ask the child. Raises TargetLostError if it was lost, or struck, before it answered.

        Raises UsageError where the modules are not such as the adapter knows: that is no answer.
        """
        try:
            return super().call(function, argument)
        except RefusedError as error:
            if str(error).startswith(OPENING):
                raise UsageError(f"this checkout cannot be asked for that: {error}") from error
            if type(error).__name__ == TargetLostError.__name__:
                raise TargetLostError(str(error)) from error
            raise
