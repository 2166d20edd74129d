"""Runs modules of a hermes-webui checkout in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import TargetLostError, UsageError
from harness.processes.pool import ProcessInstance, ProcessPool
from harness.processes.remote import RefusedError
from harness.targets.paths import import_root

ADAPTERS = {
    "sessions": "session_store.py",
    "watcher": "gateway_watcher.py",
    "catalog": "model_catalog.py",
}
OPENING = "while opening: "  # the prefix of an error that was raised by `open_adapter`


def pool_of(ability: str, checkout: Path, packages: Path, bytecode: Path) -> ProcessPool:
    """The child processes of this ability, with the checkout on their path."""
    environment = {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(map(str, (import_root(), checkout, packages))),
        "PYTHONPYCACHEPREFIX": str(bytecode),
    }
    return ProcessPool([Path(__file__).with_name(ADAPTERS[ability])], environment)


class ModuleInstance(ProcessInstance):
    """An adapter in such a process. After a disk fault the outcome of a call is unknown."""

    def call(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Call the adapter. Raises TargetLostError if the child died, or its disk failed, before.

        Raises UsageError where the modules differ from what the adapter knows: that is no answer.
        """
        try:
            return super().call(function, argument)
        except RefusedError as error:
            if str(error).startswith(OPENING):
                raise UsageError(
                    f"the modules of this checkout do not fit the adapter: {error}"
                ) from error
            if type(error).__name__ == TargetLostError.__name__:
                raise TargetLostError(str(error)) from error
            raise
