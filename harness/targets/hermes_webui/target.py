"""A hermes-webui checkout as a target: `hermes-webui@FOLDER`.

The harness boots its server and calls it over HTTP, as it does with the reference. It also calls
single modules, in processes that have the checkout on their path; `api/session_lifecycle.py`, which
needs the standard library only, is executed anew for each instance in the worker's own process. A
checkout has the abilities whose files it contains, and the command itself loads none of them.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import CodeType
from typing import Any

from harness.core.errors import TargetUnavailableError
from harness.engine.target import AdapterInstance, Instance
from harness.processes.pool import ProcessPool
from harness.processes.repro_source import in_a_process, skip_without_folder, through_the_harness
from harness.processes.server import NotServingError, ServerProcess
from harness.targets.components import lifecycle as lifecycle_adapter
from harness.targets.components.lifecycle import LifecycleAdapter
from harness.targets.hermes_webui import lifecycle as hermes_webui_module
from harness.targets.hermes_webui.access_control import WebuiAccessControlAdapter
from harness.targets.hermes_webui.disturbances import WebuiDisturbancesAdapter
from harness.targets.hermes_webui.http import WebuiHttpAdapter
from harness.targets.hermes_webui.leaving_readers import WebuiLeavingReadersAdapter
from harness.targets.hermes_webui.lifecycle import ModuleLifecycle, execute
from harness.targets.hermes_webui.measured import WebuiMeasuredAdapter
from harness.targets.hermes_webui.memory_boundaries import WebuiMemoryBoundariesAdapter
from harness.targets.hermes_webui.module_process import ADAPTERS, ModuleInstance, pool_of
from harness.targets.hermes_webui.network import WebuiNetworkAdapter
from harness.targets.hermes_webui.packages import (
    agent_folder,
    bytecode_folder,
    packages_folder,
    workspace_folder,
)
from harness.targets.hermes_webui.scripted_agent import DATABASE, NOTES, TITLES
from harness.targets.hermes_webui.server import CONSTANTS, WebuiLaunch
from harness.targets.hermes_webui.shapes import WebuiShapesAdapter
from harness.targets.hermes_webui.stored_sessions import WebuiStoredAdapter
from harness.targets.hermes_webui.threads import explored
from harness.targets.hermes_webui.turns_behind import WebuiTurnsBehindAdapter
from harness.targets.hermes_webui.upkeep import WebuiUpkeepAdapter
from harness.targets.threads.lifecycle import LifecycleThreadsAdapter

MODULE = Path("api/session_lifecycle.py")
SERVER = Path("server.py")
_LIFECYCLES = {"lifecycle": LifecycleAdapter, "lifecycle_threads": LifecycleThreadsAdapter}
_OVER_HTTP = {
    "http": WebuiHttpAdapter,
    "doors": WebuiAccessControlAdapter,
    "leaving": WebuiLeavingReadersAdapter,
    "network": WebuiNetworkAdapter,
    "upkeep": WebuiUpkeepAdapter,
    "disturbed": WebuiDisturbancesAdapter,
    "shapes": WebuiShapesAdapter,
    "stored": WebuiStoredAdapter,
    "turns": WebuiTurnsBehindAdapter,
    "memory": WebuiMemoryBoundariesAdapter,
    "measured": WebuiMeasuredAdapter,
}
_SMALL = {"HERMES_WEBUI_SESSIONS_MAX": "2", "HERMES_WEBUI_AGENT_CACHE_MAX": "2"}
_DATABASE, _EVERY = {DATABASE: "1"}, {DATABASE: "all"}
_NOTED = {**_EVERY, NOTES: "1"}
# Settings and constants of the server, by ability.
_SETTINGS = {
    "upkeep": {**_SMALL, **_DATABASE},
    "http": _DATABASE,
    "disturbed": _EVERY,
    "measured": _EVERY,
    "shapes": _NOTED,
    "stored": _NOTED,
    "turns": {**_NOTED, TITLES: "1"},
}
_CONSTANTS: dict[str, dict[str, Any]] = {
    "upkeep": {  # every cache is small; older releases have no setting for these two
        "api.*": 4,
        "api.config.SESSIONS_MAX": 2,
        "api.config.SESSION_AGENT_CACHE_MAX": 2,
    }
}
_STOCK = ("measured",)  # abilities of which no constant is changed
_SMALL_EVERY = {"http": 2}  # each second server has small caches
_FILES = {  # the file that an ability needs
    **dict.fromkeys(_LIFECYCLES, MODULE),
    **dict.fromkeys(_OVER_HTTP, SERVER),
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
CHECKOUT = "HERMES_WEBUI"  # an environment variable that a stand-alone test reads
_CHECKOUT = """import os
import pathlib

CHECKOUT = os.environ.get({variable!r}, {path!r})
if not pathlib.Path(CHECKOUT, {server!r}).is_file():
    pytest.skip("needs a checkout of hermes-webui in {variable}", allow_module_level=True)

"""


class HermesWebuiTarget:
    """One checkout: its server, and some of its modules."""

    usage = "hermes-webui@FOLDER"
    description = "a checkout: its server over HTTP, and some of its modules"
    abilities = frozenset({*_FILES, *explored.ABILITIES})

    def __init__(self, place: str | Path) -> None:
        """`place` is the top of the checkout."""
        folder = Path(place).resolve()
        self.name = f"hermes-webui@{folder}"
        self._folder = folder
        self._code: CodeType | None = None
        self._launch: WebuiLaunch | None = None
        self._pools: dict[str, ProcessPool] = {}
        self._opened: Counter[str] = Counter()
        has = {ability for ability, file in _FILES.items() if (folder / file).is_file()}
        self.abilities = frozenset(has | explored.offered(folder))

    @property
    def source(self) -> Path:
        """The folder whose reach is measured."""
        return self._folder / "api"

    def prepare(self) -> None:
        """Compile the lifecycle, and install what the other abilities need.

        Raises TargetUnavailableError where the folder is no checkout, or its server does not boot.
        """
        if not self.abilities:
            raise TargetUnavailableError(
                f"{self.name}: {self._folder} is no hermes-webui checkout: it has no {SERVER}"
            )
        if "lifecycle" in self.abilities:
            self._code = _compiled(self._folder / MODULE)
        if self.abilities - set(_LIFECYCLES):
            packages, bytecode = packages_folder(), bytecode_folder()
            for ability in self.abilities & set(ADAPTERS):
                self._pools[ability] = pool_of(ability, self._folder, packages, bytecode)
            threads = self.abilities & set(explored.ABILITIES)
            explored.load(self._folder, threads, packages=packages, bytecode=bytecode)
        if self.abilities & set(_OVER_HTTP):
            folders = agent_folder(), bytecode, workspace_folder()
            self._launch = WebuiLaunch(self._folder, packages, *folders)
            _check_boots(self._launch)

    def open(self, ability: str, folder: Path) -> Instance:
        """Open a module, or a server that its first call boots, behind its adapter."""
        if ability in self._pools:
            return ModuleInstance(self._pools[ability], folder)
        if ability in explored.ABILITIES:
            return AdapterInstance(explored.open_adapter(ability, folder))
        if ability in _OVER_HTTP:
            assert self._launch is not None, "it was prepared"
            return AdapterInstance(_OVER_HTTP[ability](folder, self._launch_for(ability)))
        assert self._code is not None, "it was prepared"
        return AdapterInstance(_LIFECYCLES[ability](ModuleLifecycle(execute(self._code))))

    def lacks(self, ability: str) -> frozenset[str]:
        """The functions, or arguments of functions, that an ability does not have here."""
        found = explored.ABILITIES.get(ability)
        return frozenset() if found is None else frozenset(found.lacks)

    def cost(self, ability: str) -> int:
        """How many schedules of the reference one of this ability is worth in time."""
        found = explored.ABILITIES.get(ability)
        return 1 if found is None else found.cost

    def _launch_for(self, ability: str) -> WebuiLaunch:
        """How the next server of this ability is started."""
        assert self._launch is not None, "it was prepared"
        self._opened[ability] += 1
        settings = dict(_SETTINGS.get(ability, {}))
        if self._opened[ability] % _SMALL_EVERY.get(ability, 1) == 0 and ability in _SMALL_EVERY:
            settings |= _SMALL
        constants = {**CONSTANTS, **_CONSTANTS.get(ability, {})} if ability not in _STOCK else {}
        return replace(self._launch, settings=settings, constants=constants)

    @property
    def standalone_name(self) -> str:
        """The name in a stand-alone test, which reads the checkout from a variable."""
        return f"'hermes-webui@' + os.environ.get({CHECKOUT!r}, {str(self._folder)!r})"

    @property
    def standalone_needs(self) -> str:
        """Source that skips a stand-alone test where there is no checkout."""
        return _CHECKOUT.format(variable=CHECKOUT, path=str(self._folder), server=str(SERVER))

    def standalone(self, ability: str) -> str:
        """The source of the lifecycle over the module; for other abilities, of this target."""
        if ability not in _LIFECYCLES:
            through = through_the_harness("f'hermes-webui@{CHECKOUT}'", ability)
            return self.standalone_needs + through
        sources = [
            Path(str(part.__file__)).read_text(encoding="utf-8")
            for part in (lifecycle_adapter, hermes_webui_module)
        ]
        future = "from __future__ import annotations\n"
        whole = future + "".join(text.replace(future, "") for text in sources)
        whole += _OPEN.format(path=str(self._folder / MODULE))
        return skip_without_folder(self._folder) + in_a_process(whole, [])


def _check_boots(launch: WebuiLaunch) -> None:
    """Boot the server once: one that never boots has broken no promise."""
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        try:
            ServerProcess(launch, Path(folder) / "state").kill()
        except NotServingError as error:
            raise TargetUnavailableError(f"{launch.checkout / SERVER}: {error}") from error


def _compiled(path: Path) -> CodeType:
    try:
        return compile(path.read_text(encoding="utf-8"), str(path), "exec")
    except (OSError, SyntaxError) as error:
        raise TargetUnavailableError(f"{path} cannot be compiled: {error}") from error
