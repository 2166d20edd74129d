"""A hermes-webui checkout as a target: `hermes-webui@FOLDER`, by the modules that stand alone.

Its `api/session_lifecycle.py` needs nothing but the standard library, so it is executed afresh for
each instance, in the process of the worker that asks; the command itself never loads it.
"""

from __future__ import annotations

from pathlib import Path
from types import CodeType

from harness.errors import TargetUnavailableError
from harness.target import AdapterInstance, Instance
from harness.targets import hermes_webui_module, lifecycle_adapter
from harness.targets.hermes_webui_module import ModuleLifecycle, execute
from harness.targets.lifecycle_adapter import LifecycleAdapter
from harness.targets.standalone import in_a_process
from harness.targets.threaded_adapters import LifecycleThreadsAdapter

MODULE = Path("api/session_lifecycle.py")
ADAPTERS = {"lifecycle": LifecycleAdapter, "lifecycle_threads": LifecycleThreadsAdapter}

_OPEN = """

def open_adapter(folder):
    with open({path!r}, encoding="utf-8") as file:
        code = compile(file.read(), {path!r}, "exec")
    return LifecycleAdapter(ModuleLifecycle(execute(code)))
"""


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
        return AdapterInstance(ADAPTERS[ability](ModuleLifecycle(execute(self._code))))

    def standalone(self, ability: str) -> str:  # noqa: ARG002  threads are played by our scheduler
        """The adapter in a process of its own, over the module where it lies."""
        sources = [
            Path(str(part.__file__)).read_text(encoding="utf-8")
            for part in (lifecycle_adapter, hermes_webui_module)
        ]
        future = "from __future__ import annotations\n"
        whole = future + "".join(text.replace(future, "") for text in sources)
        return in_a_process(whole + _OPEN.format(path=str(self._path)), [])
