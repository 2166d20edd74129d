"""What a hermes-webui server needs beside its checkout, kept in the cache: one package, our agent.

Each lies in a folder of its own, which is made once, as a whole or not at all, by whoever needs it
first.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import TargetUnavailableError
from harness.targets.hermes_agent.target import cache_folder, installer
from harness.targets.hermes_webui import scripted_agent as hermes_webui_agent

YAML = "pyyaml==6.0.3"  # all that its start-up imports from elsewhere
PATIENCE_S = 120.0


def packages_folder() -> Path:
    """Where its packages are. Raises TargetUnavailableError where they cannot be had."""
    return _kept(cache_folder() / YAML, _install)


def agent_folder() -> Path:
    """Where it finds our agent. Raises TargetUnavailableError where that cannot be kept."""
    source = Path(hermes_webui_agent.__file__).read_bytes()
    name = f"webui-agent-{hashlib.sha256(source).hexdigest()[:12]}"
    return _kept(cache_folder() / name, hermes_webui_agent.place_agent)


def bytecode_folder() -> Path:
    """Where its compiled modules go, so that nothing is written into a checkout."""
    return cache_folder() / "bytecode"


def _kept(folder: Path, make: Callable[[Path], None]) -> Path:
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as place:
            make(Path(place) / "made")
            _rename(Path(place) / "made", folder)
    except OSError as error:
        raise TargetUnavailableError(f"{folder} cannot be kept: {error}") from error
    return folder


def _rename(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise


def _install(place: Path) -> None:
    command = [*installer(YAML), "--target", str(place), YAML]
    try:
        installed = subprocess.run(  # noqa: S603  the command is our own
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired as error:
        raise TargetUnavailableError(f"no {YAML} within {PATIENCE_S:g} s") from error
    if installed.returncode != 0 or not (place / "yaml").is_dir():
        *_, last = ["its installer said nothing", *installed.stderr.strip().splitlines()]
        raise TargetUnavailableError(
            f"a hermes-webui server needs {YAML}, which cannot be installed: {last.strip()}"
        )
