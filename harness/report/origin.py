"""Says how figures and findings came about: version, commit, interpreter and machine."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.extras import harness_version
from harness.engine.target import Target


def origin() -> dict[str, Any]:
    """The version and the commit of the harness, the interpreter and the machine."""
    return {
        "version": harness_version(),
        "commit": commit_of(Path(__file__).parent),
        "python": platform.python_version(),
        "machine": machine(),
    }


def origin_line(facts: Mapping[str, Any]) -> str:
    """The same in one line."""
    on = facts["machine"]
    return (
        f"{facts['version']} at {facts['commit']}, Python {facts['python']}, {on['system']}"
        f" {on['release']} on {on['architecture']}, {on['cores']} cores"
    )


def setting(target: Target, source: Path | None = None) -> dict[str, Any]:
    """What the plan of a run says of its beginning: when, by which harness, and what is on trial.

    `source` is the folder of the code on trial; by default the target's own, if it has one.
    """
    top: Path | None = source or getattr(target, "source", None)
    return {
        "began_s": round(time.time(), 3),
        "origin": origin(),
        "source": "" if top is None else str(top),
        "target_commit": "unknown" if top is None else commit_of(top),
    }


def machine() -> dict[str, Any]:
    """What of the machine explains a figure."""
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
    }


def commit_of(folder: Path) -> str:
    """The commit of the checkout that a folder is in; "unknown" outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        described = subprocess.run(  # noqa: S603  the command is fixed
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()
