"""A module of calls as the object that the lifecycle's adapters expect.

Imports nothing but the standard library, so that it can stand in a test file of its own.
"""

from __future__ import annotations

import inspect
from types import CodeType, ModuleType
from typing import Any


def execute(code: CodeType) -> ModuleType:
    """A module of its own from code compiled before."""
    module = ModuleType("session_lifecycle")
    module.__file__ = code.co_filename
    exec(code, module.__dict__)  # noqa: S102  the target is what we are here to run
    return module


class ModuleLifecycle:
    """The module's calls; its length is how many entries it has."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __len__(self) -> int:
        return len(self._module._sessions)  # noqa: SLF001  it offers no gauge of its own

    def drain_all_on_shutdown(self, deadline: float) -> None:
        """Shut down; releases before the deadline existed drain without one."""
        drain = self._module.drain_all_on_shutdown
        takes_deadline = bool(inspect.signature(drain).parameters)
        drain(deadline) if takes_deadline else drain()
