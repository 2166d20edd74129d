"""The cache of installed packages, and the command that fills it.

Each entry has a folder of its own, which the first process that needs it makes, as a whole or not
at all.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.core.errors import TargetUnavailableError


def cache_folder() -> Path:
    """The folder of installed versions."""
    if folder := os.environ.get("HARNESS_CACHE"):
        return Path(folder).expanduser().absolute()
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
    """The command that installs a package. Raises TargetUnavailableError where there is none."""
    if importlib.util.find_spec("pip"):
        quiet = ("--quiet", "--no-input", "--disable-pip-version-check", "--no-compile")
        patience = ("--retries", "1", "--timeout", "30")
        return [sys.executable, "-m", "pip", "install", "--no-deps", *quiet, *patience]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    raise TargetUnavailableError(
        f"{package} needs an installer: neither the module pip nor the command uv was found"
    )


def cached(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder, which `make` fills at another place first where it is not there yet.

    Raises TargetUnavailableError where the cache cannot be written.
    """
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


def install(packages: Sequence[str], folder: Path, user: str, patience_s: float) -> None:
    """Install exactly these packages, without their dependencies, into a folder for `user`.

    Raises TargetUnavailableError where that fails, or takes longer than `patience_s` seconds.
    """
    what = f"{user} needs {', '.join(packages)}"
    command = [*installer(user), "--target", str(folder), *packages]
    try:
        installed = subprocess.run(  # noqa: S603  packages are constants of the targets
            command, capture_output=True, text=True, check=False, timeout=patience_s
        )
    except subprocess.TimeoutExpired as error:
        raise TargetUnavailableError(f"{what}: not installed within {patience_s:g} s") from error
    if installed.returncode != 0 or not folder.is_dir():
        *_, last = ["the installer printed no error", *installed.stderr.strip().splitlines()]
        raise TargetUnavailableError(f"{what}, which cannot be installed: {last.strip()}")
