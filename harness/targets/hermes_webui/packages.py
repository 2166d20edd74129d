"""Caches what a hermes-webui server needs: one package, and the scripted agent.

Each has a folder of its own, which the first process that needs it creates, as a whole or not at
all.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import TargetUnavailableError
from harness.targets.hermes_agent.cache import cache_folder, installer
from harness.targets.hermes_webui import scripted_agent as hermes_webui_agent

YAML = "pyyaml==6.0.3"  # the only package that its start-up imports
PATIENCE_S = 120.0


def packages_folder() -> Path:
    """The folder of its packages. Raises TargetUnavailableError where they cannot be installed."""
    return _cached(cache_folder() / YAML, _install)


def agent_folder() -> Path:
    """The folder of the scripted agent. Raises TargetUnavailableError where it cannot be made."""
    content = "".join(hermes_webui_agent.sources().values()).encode()
    name = f"webui-agent-{hashlib.sha256(content).hexdigest()[:12]}"
    return _cached(cache_folder() / name, hermes_webui_agent.place_agent)


def workspace_folder() -> Path:
    """An empty folder, in which every agent works.

    Older releases refuse a workspace below a system folder, and episodes may lie in `/dev/shm`.
    """
    return _cached(cache_folder() / "workspace", Path.mkdir)


def bytecode_folder() -> Path:
    """The folder of compiled modules, so that Python writes nothing into a checkout."""
    return cache_folder() / "bytecode"


def _cached(folder: Path, make: Callable[[Path], None]) -> Path:
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as temporary:
            make(Path(temporary) / "made")
            _rename(Path(temporary) / "made", folder)
    except OSError as error:
        raise TargetUnavailableError(
            f"{folder} cannot be written: {error}; HARNESS_CACHE names another folder"
        ) from error
    return folder


def _rename(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise


def _install(folder: Path) -> None:
    command = [*installer(YAML), "--target", str(folder), YAML]
    try:
        installed = subprocess.run(  # noqa: S603  the command is a constant
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired as error:
        raise TargetUnavailableError(
            f"a hermes-webui server needs {YAML}, which was not installed within {PATIENCE_S:g} s"
        ) from error
    if installed.returncode != 0 or not (folder / "yaml").is_dir():
        *_, last = ["the installer printed no error", *installed.stderr.strip().splitlines()]
        raise TargetUnavailableError(
            f"a hermes-webui server needs {YAML}, which cannot be installed: {last.strip()}"
        )
