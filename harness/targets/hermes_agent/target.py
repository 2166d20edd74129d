"""The released package `hermes-agent` as a target: any version of it, never imported into ours.

Each version has a folder in the cache (HARNESS_CACHE, else where this platform keeps caches). It is
filled once, by the installer of this interpreter and without the package's dependencies, of which
its database needs none.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.core.errors import TargetUnavailableError, UsageError
from harness.engine.target import Instance
from harness.processes.pool import ProcessInstance, Stable
from harness.processes.repro_source import in_a_process
from harness.worker import sql_faults
from harness.worker import writers as sql_crowd

PACKAGE = "hermes-agent"
MODULE = "hermes_state.py"  # what an installed version must have
ADAPTER = Path(__file__).with_name("state_db.py")
FAULTS = Path(sql_faults.__file__)
CROWD = Path(sql_crowd.__file__)
PATIENCE_S = 600.0  # for a download over a slow line

_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*[a-z0-9.+]*")
_WRAPPERS = {"state_db": (), "state_db_crash": (FAULTS,), "state_db_crowd": (CROWD,)}


class HermesAgentTarget:
    """One version, in processes of its own."""

    abilities = frozenset(_WRAPPERS)

    def __init__(self, version: str) -> None:
        """Raises UsageError where `version` is none."""
        if not _VERSION.fullmatch(version):
            raise UsageError(f"{version!r} is no version; say {PACKAGE}==0.19.0, for example")
        self.name = f"{PACKAGE}=={version}"
        self._version = version
        self._folder = cache_folder() / self.name
        self._stables = {
            ability: Stable((ADAPTER, *wrappers), self._environment())
            for ability, wrappers in _WRAPPERS.items()
        }

    def prepare(self) -> None:
        """Have the version in the cache. Raises TargetUnavailableError where it cannot be had."""
        if (self._folder / MODULE).is_file():
            return
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder.parent, prefix=".new-") as place:
                self._install(Path(place) / PACKAGE)
        except OSError as error:
            raise TargetUnavailableError(f"{self.name} cannot be kept: {error}") from error

    def _install(self, place: Path) -> None:
        command = [*installer(PACKAGE), "--target", str(place), self.name]
        try:
            installed = subprocess.run(  # noqa: S603  the command is our own
                command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
            )
        except subprocess.TimeoutExpired as error:
            raise TargetUnavailableError(
                f"{self.name} was not installed within {PATIENCE_S:g} s"
            ) from error
        if installed.returncode != 0:
            raise TargetUnavailableError(_explain(self.name, installed.stderr))
        if not (place / MODULE).is_file():
            raise TargetUnavailableError(f"{self.name} has no {MODULE}")
        try:
            place.rename(self._folder)
        except OSError:
            if not (self._folder / MODULE).is_file():  # else another process was faster
                raise

    def _environment(self) -> dict[str, str]:
        home = str(self._folder.with_name("home"))  # nobody's, so that nothing is found there
        return {"PYTHONPATH": str(self._folder), "HOME": home, "HERMES_HOME": home}

    def open(self, ability: str, folder: Path) -> Instance:
        """A fresh `SessionDB`, in a process of its own."""
        return ProcessInstance(self._stables[ability], folder)

    def standalone(self, ability: str) -> str:
        """The adapter's source, with a process around it where faults may kill it."""
        adapter = ADAPTER.read_text(encoding="utf-8")
        wrappers = [file.read_text(encoding="utf-8") for file in _WRAPPERS[ability]]
        return in_a_process(adapter, wrappers) if wrappers else adapter


def cache_folder() -> Path:
    """Where installed versions are kept."""
    if place := os.environ.get("HARNESS_CACHE"):
        return Path(place).expanduser().absolute()
    home = Path.home()
    match sys.platform:
        case "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        case "darwin":
            base = home / "Library" / "Caches"
        case _:
            base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "hermes-harness"


def installer(package: str) -> list[str]:
    """The command that installs packages. Raises TargetUnavailableError where there is none."""
    if importlib.util.find_spec("pip"):
        quiet = ("--quiet", "--no-input", "--disable-pip-version-check", "--no-compile")
        patience = ("--retries", "1", "--timeout", "30")
        return [sys.executable, "-m", "pip", "install", "--no-deps", *quiet, *patience]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    raise TargetUnavailableError(f"neither pip nor uv is here to install {package}")


def _explain(name: str, said: str) -> str:
    """One sentence from what the installer said."""
    if offered := re.search(r"from versions: ([^)]*)\)", said):
        versions = offered[1]
        if versions == "none":
            return f"{name} cannot be had: no package index that answers offers any version"
        return f"{name} does not exist; there are {versions}"
    *_, last = ["its installer said nothing", *said.strip().splitlines()]
    return f"{name} cannot be installed: {last.strip()}"
