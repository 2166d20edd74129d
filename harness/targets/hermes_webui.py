"""A hermes-webui checkout as a target: `hermes-webui@FOLDER`, by the modules that stand alone.

Its `api/session_lifecycle.py` needs nothing but the standard library, so it is executed afresh for
each instance, in the process of the worker that asks; the command itself never loads it.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from harness.errors import TargetUnavailableError
from harness.target import AdapterInstance, Instance
from harness.targets.scripted import LifecycleAdapter
from harness.targets.threaded_adapters import LifecycleThreadsAdapter

MODULE = Path("api/session_lifecycle.py")
ADAPTERS = {"lifecycle": LifecycleAdapter, "lifecycle_threads": LifecycleThreadsAdapter}


class HermesWebuiTarget:
    """The lifecycle of one checkout."""

    abilities = frozenset(ADAPTERS)

    def __init__(self, folder: Path) -> None:
        """`folder` is the top of the checkout."""
        self.name = f"hermes-webui@{folder}"
        self._path = folder / MODULE
        self._code: CodeType | None = None

    def prepare(self) -> None:
        """Compile the module. Raises TargetUnavailableError where it is not there."""
        try:
            source = self._path.read_text(encoding="utf-8")
            self._code = compile(source, str(self._path), "exec")
        except (OSError, SyntaxError) as error:
            raise TargetUnavailableError(f"{self._path}: no lifecycle there: {error}") from error

    def open(self, ability: str, folder: Path) -> Instance:  # noqa: ARG002  (it keeps no files)
        """The module, executed afresh, behind its adapter."""
        assert self._code is not None, "it was prepared"
        return AdapterInstance(ADAPTERS[ability](_Lifecycle(execute(self._code))))

    def standalone(self, ability: str) -> str:
        """Name the adapter, and the checkout that it is put over."""
        return (
            f"from pathlib import Path\n\n"
            f"from {__name__} import HermesWebuiTarget\n\n\n"
            f"def open_adapter(folder):\n"
            f"    target = HermesWebuiTarget(Path({str(self._path.parents[1])!r}))\n"
            f"    target.prepare()\n"
            f"    return target.open({ability!r}, folder).adapter"
        )


def execute(code: CodeType) -> ModuleType:
    """A module of its own from code compiled before."""
    module = ModuleType("session_lifecycle")
    module.__file__ = code.co_filename
    exec(code, module.__dict__)  # noqa: S102  the target is what we are here to run
    return module


class _Lifecycle:
    """The module as the object that adapters expect: its length is how many entries it has."""

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
