"""The released package `hermes-agent` as a target, in any version.

The harness never imports the package: it runs in processes of its own. Each version has a folder in
the cache (HARNESS_CACHE, else the platform's cache folder). It is filled once, by the installer of
this interpreter and without the package's dependencies. Its database needs none of them; those of
its other modules have a folder of their own. A version has the abilities whose files it contains.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from harness.core.errors import TargetUnavailableError, UsageError
from harness.engine.target import AdapterInstance, Instance
from harness.processes.pool import ProcessInstance, ProcessPool
from harness.processes.repro_source import (
    in_a_process,
    skip_without_version,
    through_the_harness,
)
from harness.targets.declared_http.adapter import DeclaredAdapter
from harness.targets.declared_http.declaration import Declaration
from harness.targets.hermes_agent import api_server, process_host
from harness.targets.hermes_agent.packages import PROCESSES, SERVER, packages_folder
from harness.targets.hermes_agent.processes import AgentProcessesAdapter, Patience
from harness.targets.package_cache import cache_folder, installer
from harness.worker import sql_faults, writers

PACKAGE = "hermes-agent"
MODULE = "hermes_state.py"  # a file that an installed version must have
ADAPTER = Path(__file__).with_name("state_db.py")
FAULTS = Path(sql_faults.__file__)
WRITERS = Path(writers.__file__)
PATIENCE_S = 600.0  # the timeout of a download over a slow line

_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*[a-z0-9.+]*")
_FILES = {"processes": "tools/process_registry.py"}  # the file that an ability needs
_WRAPPERS = {"state_db": (), "state_db_crash": (FAULTS,), "state_db_crowd": (WRITERS,)}


class HermesAgentTarget:
    """One version, in processes of its own."""

    usage = f"{PACKAGE}==VERSION"
    description = "the released package, in a process of its own"
    abilities = frozenset(
        (*_WRAPPERS, *_FILES, *api_server.SESSIONS, *api_server.RUNS, *api_server.BOTH)
    )

    def __init__(self, version: str) -> None:
        """Raises UsageError where `version` is not a version."""
        if not _VERSION.fullmatch(version):
            raise UsageError(
                f"--target {PACKAGE}=={version}: {version!r} is no version;"
                f" accepted: digits and dots, such as {PACKAGE}==0.19.0"
            )
        self.name = f"{PACKAGE}=={version}"
        self._version = version
        self._folder = cache_folder() / self.name
        self._patience = Patience()
        self._declarations: dict[str, Declaration] = {}
        self._pools = {
            ability: ProcessPool((ADAPTER, *wrappers), self._environment())
            for ability, wrappers in _WRAPPERS.items()
        }

    def prepare(self) -> None:
        """Install the version, and what it imports. Raises TargetUnavailableError if that fails."""
        if not (self._folder / MODULE).is_file():
            self._fill_cache()
        has = {ability for ability, file in _FILES.items() if (self._folder / file).is_file()}
        has |= api_server.offered(self._folder)
        self.abilities = frozenset(_WRAPPERS) | has
        if "processes" in has:
            self._pools["processes"] = self._hosts()
        self._declarations = {
            ability: api_server.declaration(ability, self._folder, packages_folder(SERVER))
            for ability in api_server.offered(self._folder)
        }

    def _hosts(self) -> ProcessPool:
        """Hosts of the process registry; their home is set as they open a folder."""
        path = [str(self._folder), str(packages_folder(PROCESSES))]
        environment = {"PYTHONPATH": os.pathsep.join(path), "PATH": os.defpath}
        return ProcessPool([Path(process_host.__file__)], environment)

    def _fill_cache(self) -> None:
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder.parent, prefix=".new-") as temporary:
                self._install(Path(temporary) / PACKAGE)
        except OSError as error:
            raise TargetUnavailableError(
                f"{self.name} cannot be written to the cache: {error};"
                " HARNESS_CACHE names another folder"
            ) from error

    def _install(self, folder: Path) -> None:
        command = [*installer(PACKAGE), "--target", str(folder), self.name]
        try:
            installed = subprocess.run(  # noqa: S603  the command is a constant
                command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
            )
        except subprocess.TimeoutExpired as error:
            raise TargetUnavailableError(
                f"{self.name} was not installed within {PATIENCE_S:g} s"
            ) from error
        if installed.returncode != 0:
            raise TargetUnavailableError(_explain(self.name, installed.stderr))
        if not (folder / MODULE).is_file():
            raise TargetUnavailableError(f"{self.name} has no {MODULE}")
        try:
            folder.rename(self._folder)
        except OSError:
            if not (self._folder / MODULE).is_file():  # else another process was faster
                raise

    def _environment(self) -> dict[str, str]:
        home = str(self._folder.with_name("home"))  # it does not exist, so it has no settings
        return {"PYTHONPATH": str(self._folder), "HOME": home, "HERMES_HOME": home}

    def open(self, ability: str, folder: Path) -> Instance:
        """Open a fresh `SessionDB`, process registry or server, in a process of its own."""
        if ability in self._declarations:
            return AdapterInstance(DeclaredAdapter(folder, self._declarations[ability]))
        if ability == "processes":
            host = ProcessInstance(self._pools[ability], folder / "processes")
            return AdapterInstance(AgentProcessesAdapter(folder, host, self._patience))
        return ProcessInstance(self._pools[ability], folder)

    def standalone(self, ability: str) -> str:
        """The adapter's source; abilities with faults run it in a process of its own."""
        if ability in _FILES or ability in self._declarations:
            return through_the_harness(repr(self.name), ability)
        adapter = ADAPTER.read_text(encoding="utf-8")
        wrappers = [file.read_text(encoding="utf-8") for file in _WRAPPERS[ability]]
        own = in_a_process(adapter, wrappers) if wrappers else adapter
        return skip_without_version(PACKAGE, self._version) + own


def _explain(name: str, installer_log: str) -> str:
    """One sentence from the installer's error output."""
    if offered := re.search(r"from versions: ([^)]*)\)", installer_log):
        versions = offered[1]
        if versions == "none":
            return f"{name} is not available: no reachable package index offers any version"
        return f"{name} does not exist; known versions: {versions}"
    *_, last = ["the installer printed no error", *installer_log.strip().splitlines()]
    return f"{name} cannot be installed: {last.strip()}"
