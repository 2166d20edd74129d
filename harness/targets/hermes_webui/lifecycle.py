"""Turns the module `session_lifecycle` into the object that the lifecycle adapters expect.

It imports the standard library only, so that it can be copied into a stand-alone test file.
"""

from __future__ import annotations

import inspect
from types import CodeType, ModuleType
from typing import Any


def execute(code: CodeType) -> ModuleType:
    """Make a new module from compiled code."""
    module = ModuleType("session_lifecycle")
    module.__file__ = code.co_filename
    exec(code, module.__dict__)  # noqa: S102  the code is the target's
    return module


class ModuleLifecycle:
    """The module's calls; its length is the number of its entries."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __len__(self) -> int:
        return len(self._module._sessions)  # noqa: SLF001  it has no public gauge

    def drain_all_on_shutdown(self, deadline: float) -> None:
        """Shut down; releases before the deadline existed drain without one."""
        drain = self._module.drain_all_on_shutdown
        takes_deadline = bool(inspect.signature(drain).parameters)
        drain(deadline) if takes_deadline else drain()
