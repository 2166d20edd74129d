"""A hermes-webui checkout as a target: `hermes-webui@FOLDER`.

Its server is booted and asked over HTTP like the reference. The modules below are asked each by
itself, in processes that see the checkout; `api/session_lifecycle.py`, which needs nothing but the
standard library, afresh for each instance in the process of the worker that asks. A checkout is
able to do what it has the files for, and the command itself never loads any of it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import CodeType

from harness.core.errors import TargetUnavailableError
from harness.engine.target import AdapterInstance, Instance
from harness.processes.pool import Stable
from harness.processes.repro_source import in_a_process
from harness.processes.server import NotServingError, ServerProcess
from harness.targets.components import lifecycle as lifecycle_adapter
from harness.targets.components.lifecycle import LifecycleAdapter
from harness.targets.hermes_webui import lifecycle as hermes_webui_module
from harness.targets.hermes_webui.access_control import WebuiDoorsAdapter
from harness.targets.hermes_webui.http import WebuiHttpAdapter
from harness.targets.hermes_webui.lifecycle import ModuleLifecycle, execute
from harness.targets.hermes_webui.module_process import ADAPTERS, ModuleInstance, stable
from harness.targets.hermes_webui.packages import agent_folder, bytecode_folder, packages_folder
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.threads.lifecycle import LifecycleThreadsAdapter

MODULE = Path("api/session_lifecycle.py")
SERVER = Path("server.py")
_LIFECYCLES = {"lifecycle": LifecycleAdapter, "lifecycle_threads": LifecycleThreadsAdapter}
_SERVED = {"http": WebuiHttpAdapter, "doors": WebuiDoorsAdapter}
_FILES = {  # that an ability needs
    **dict.fromkeys(_LIFECYCLES, MODULE),
    **dict.fromkeys(_SERVED, SERVER),
    "sessions": Path("api/models.py"),
    "watcher": Path("api/gateway_watcher.py"),
    "catalog": Path("api/config.py"),
}

_OPEN = """

def open_adapter(folder):
    with open({path!r}, encoding="utf-8") as file:
        code = compile(file.read(), {path!r}, "exec")
    return LifecycleAdapter(ModuleLifecycle(execute(code)))
"""
_OPEN_INSTANCE = """from pathlib import Path

from harness.targets.hermes_webui.target import HermesWebuiTarget

TARGET = HermesWebuiTarget(Path({path!r}))
TARGET.prepare()


class Adapter:
    def __init__(self, folder):
        self._instance = TARGET.open({ability!r}, folder)
        self.close = self._instance.close

    def __getattr__(self, function):
        return lambda **argument: self._instance.call(function, argument)


open_adapter = Adapter
"""


class HermesWebuiTarget:
    """One checkout: its server, and some of its modules."""

    abilities = frozenset(_FILES)

    def __init__(self, folder: Path) -> None:
        """`folder` is the top of the checkout."""
        self.name = f"hermes-webui@{folder}"
        self._folder = folder
        self._code: CodeType | None = None
        self._launch: WebuiLaunch | None = None
        self._stables: dict[str, Stable] = {}
        has = {ability for ability, file in _FILES.items() if (folder / file).is_file()}
        self.abilities = frozenset(has)

    def prepare(self) -> None:
        """Compile the lifecycle, and have what the rest needs.

        Raises TargetUnavailableError where no checkout is there, or its server cannot be booted.
        """
        if not self.abilities:
            raise TargetUnavailableError(
                f"{self._folder}: no hermes-webui checkout, for there is no {SERVER} in it"
            )
        if "lifecycle" in self.abilities:
            self._code = _compiled(self._folder / MODULE)
        if self.abilities - set(_LIFECYCLES):
            packages, bytecode = packages_folder(), bytecode_folder()
            for ability in self.abilities & set(ADAPTERS):
                self._stables[ability] = stable(ability, self._folder, packages, bytecode)
        if self.abilities & set(_SERVED):
            self._launch = WebuiLaunch(self._folder, packages, agent_folder(), bytecode)
            _try(self._launch)

    def open(self, ability: str, folder: Path) -> Instance:
        """A module, or a server that is yet to boot, behind its adapter."""
        if ability in self._stables:
            return ModuleInstance(self._stables[ability], folder)
        if ability in _SERVED:
            assert self._launch is not None, "it was prepared"
            return AdapterInstance(_SERVED[ability](folder, self._launch))
        assert self._code is not None, "it was prepared"
        return AdapterInstance(_LIFECYCLES[ability](ModuleLifecycle(execute(self._code))))

    def standalone(self, ability: str) -> str:
        """The lifecycle in a process of its own, over the module; of the rest, this target."""
        if ability not in _LIFECYCLES:
            return _OPEN_INSTANCE.format(path=str(self._folder), ability=ability)
        sources = [
            Path(str(part.__file__)).read_text(encoding="utf-8")
            for part in (lifecycle_adapter, hermes_webui_module)
        ]
        future = "from __future__ import annotations\n"
        whole = future + "".join(text.replace(future, "") for text in sources)
        return in_a_process(whole + _OPEN.format(path=str(self._folder / MODULE)), [])


def _try(launch: WebuiLaunch) -> None:
    """Boot it once: what cannot be booted at all has broken no promise."""
    with tempfile.TemporaryDirectory(prefix="harness-") as place:
        try:
            ServerProcess(launch, Path(place) / "state").kill()
        except NotServingError as error:
            raise TargetUnavailableError(f"{launch.checkout / SERVER}: {error}") from error


def _compiled(path: Path) -> CodeType:
    try:
        return compile(path.read_text(encoding="utf-8"), str(path), "exec")
    except (OSError, SyntaxError) as error:
        raise TargetUnavailableError(f"{path}: no lifecycle there: {error}") from error
