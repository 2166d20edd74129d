"""The cache of installed packages, and the command that fills it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
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
