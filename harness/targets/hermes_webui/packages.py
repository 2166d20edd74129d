"""Caches what a hermes-webui server needs: one package, and the scripted agent."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.core.errors import TargetUnavailableError
from harness.targets.hermes_webui import scripted_agent as hermes_webui_agent
from harness.targets.package_cache import cache_folder, cached, install

YAML = "pyyaml==6.0.3"  # the only package that its start-up imports
PATIENCE_S = 120.0


def packages_folder() -> Path:
    """The folder of its packages. Raises TargetUnavailableError where they cannot be installed."""
    return cached(cache_folder() / YAML, _install)


def agent_folder() -> Path:
    """The folder of the scripted agent. Raises TargetUnavailableError where it cannot be made."""
    content = "".join(hermes_webui_agent.sources().values()).encode()
    name = f"webui-agent-{hashlib.sha256(content).hexdigest()[:12]}"
    return cached(cache_folder() / name, hermes_webui_agent.place_agent)


def workspace_folder() -> Path:
    """An empty folder, in which every agent works.

    Older releases refuse a workspace below a system folder, and episodes may lie in `/dev/shm`.
    """
    return cached(cache_folder() / "workspace", Path.mkdir)


def bytecode_folder() -> Path:
    """The folder of compiled modules, so that Python writes nothing into a checkout."""
    return cache_folder() / "bytecode"


def _install(folder: Path) -> None:
    install([YAML], folder, "a hermes-webui server", PATIENCE_S)
    if not (folder / "yaml").is_dir():
        raise TargetUnavailableError(f"{YAML}, which a hermes-webui server needs, has no yaml")
