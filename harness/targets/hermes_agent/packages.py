"""Caches packages that modules of hermes-agent import, each set in a folder of its own.

They are pinned and installed without their dependencies, so that every machine has the same ones.
The first process that needs a set installs it, as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

from harness.core.errors import TargetUnavailableError
from harness.targets.hermes_agent.cache import cache_folder, installer

PATIENCE_S = 300.0
# What the process registry and the terminal tool import.
PROCESSES = (
    *("pyyaml==6.0.3", "requests==2.33.0", "python-dotenv==1.2.2", "psutil==7.2.2"),
    *("certifi==2026.10.19.post1", "charset-normalizer==3.5.3", "idna==3.20", "urllib3==2.8.0"),
)
# What the HTTP server imports besides.
SERVER = (
    *PROCESSES,
    *("aiohttp==3.14.5", "aiohappyeyeballs==2.7.1", "aiosignal==1.4.0", "attrs==26.1.0"),
    *("frozenlist==1.8.0", "multidict==7.2.1", "propcache==0.5.4", "yarl==1.25.1"),
    "typing-extensions==4.16.0",
)


def packages_folder(packages: tuple[str, ...]) -> Path:
    """The folder of these packages. Raises TargetUnavailableError where they cannot be installed.

    A folder is named after what is in it, so another set has another one.
    """
    name = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    folder = cache_folder() / f"hermes-agent-packages-{name}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as temporary:
            _install(packages, Path(temporary) / "made")
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


def _install(packages: tuple[str, ...], folder: Path) -> None:
    what = f"hermes-agent needs {', '.join(packages)}, which"
    command = [*installer("hermes-agent"), "--target", str(folder), *packages]
    try:
        installed = subprocess.run(  # noqa: S603  the command is a constant
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired as error:
        raise TargetUnavailableError(
            f"{what} were not installed within {PATIENCE_S:g} s"
        ) from error
    if installed.returncode != 0 or not folder.is_dir():
        *_, last = ["the installer printed no error", *installed.stderr.strip().splitlines()]
        raise TargetUnavailableError(f"{what} cannot be installed: {last.strip()}")
