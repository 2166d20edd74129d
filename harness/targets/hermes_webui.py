"""A hermes-webui checkout as a target: `hermes-webui@FOLDER`.

Its server is booted and asked over HTTP like the reference. Modules that stand alone are asked by
themselves: `api/session_lifecycle.py` needs nothing but the standard library, so it is executed
afresh for each instance, in the process of the worker that asks; the command itself never loads it.
A checkout offers what it has the files for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import CodeType
from typing import Any

from harness.errors import TargetUnavailableError
from harness.target import AdapterInstance, Instance
from harness.targets import hermes_webui_module, lifecycle_adapter
from harness.targets.hermes_webui_http_adapter import WebuiHttpAdapter
from harness.targets.hermes_webui_module import ModuleLifecycle, execute
from harness.targets.hermes_webui_packages import agent_folder, bytecode_folder, packages_folder
from harness.targets.hermes_webui_server import WebuiLaunch
from harness.targets.lifecycle_adapter import LifecycleAdapter
from harness.targets.server_adapter import ServerAdapter
from harness.targets.server_process import NotServingError, ServerProcess
from harness.targets.standalone import in_a_process
from harness.targets.threaded_adapters import LifecycleThreadsAdapter

MODULE = Path("api/session_lifecycle.py")
SERVER = Path("server.py")
_LIFECYCLES = {"lifecycle": LifecycleAdapter, "lifecycle_threads": LifecycleThreadsAdapter}
_SERVERS: Mapping[str, Any] = {"http": WebuiHttpAdapter, "server": ServerAdapter}

_OPEN = """

def open_adapter(folder):
    with open({path!r}, encoding="utf-8") as file:
        code = compile(file.read(), {path!r}, "exec")
    return LifecycleAdapter(ModuleLifecycle(execute(code)))
"""
_OPEN_SERVER = """from pathlib import Path

from harness.targets.hermes_webui import HermesWebuiTarget


def open_adapter(folder):
    target = HermesWebuiTarget(Path({path!r}))
    target.prepare()
    return target.open({ability!r}, folder).adapter
"""


class HermesWebuiTarget:
    """One checkout: its server, and its lifecycle."""

    abilities = frozenset({*_LIFECYCLES, *_SERVERS})

    def __init__(self, folder: Path) -> None:
        """`folder` is the top of the checkout."""
        self.name = f"hermes-webui@{folder}"
        self._folder = folder
        self._code: CodeType | None = None
        self._launch: WebuiLaunch | None = None
        has_lifecycle, has_server = (folder / MODULE).is_file(), (folder / SERVER).is_file()
        self.abilities = frozenset(
            {*(_LIFECYCLES if has_lifecycle else ()), *(_SERVERS if has_server else ())}
        )

    def prepare(self) -> None:
        """Compile the module, and have what the server needs.

        Raises TargetUnavailableError where neither is there, or the server cannot be booted.
        """
        if not self.abilities:
            raise TargetUnavailableError(
                f"{self._folder}: no hermes-webui checkout, for there is no {SERVER} in it"
            )
        if "lifecycle" in self.abilities:
            self._code = _compiled(self._folder / MODULE)
        if "server" in self.abilities:
            packages, agent = packages_folder(), agent_folder()
            self._launch = WebuiLaunch(self._folder, packages, agent, bytecode_folder())
            _try(self._launch)

    def open(self, ability: str, folder: Path) -> Instance:
        """The module, executed afresh, or a server that is yet to boot, behind its adapter."""
        if ability in _SERVERS:
            assert self._launch is not None, "it was prepared"
            return AdapterInstance(_SERVERS[ability](folder, self._launch))
        assert self._code is not None, "it was prepared"
        return AdapterInstance(_LIFECYCLES[ability](ModuleLifecycle(execute(self._code))))

    def standalone(self, ability: str) -> str:
        """The lifecycle in a process of its own, over the module where it lies; or a server."""
        if ability in _SERVERS:
            return _OPEN_SERVER.format(path=str(self._folder), ability=ability)
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
