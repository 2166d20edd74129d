"""The run folder: everything a run leaves behind, readable at any moment of its life.

Whole files are put in place by renaming, so a kill leaves the old one or the new one. A folder
that was never finished still says what was planned, and which scenarios came to a verdict.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError

PLAN = "run.json"
VERDICT = "verdict.json"
FAILURE = "failure.json"  # the shortest; that of a further promise bears its name: failure-D2.json
BROKEN = "broken.txt"  # why a scenario came to no verdict, through no fault of the target
LATEST = "latest"


def create(reports: Path, what: str, seed: int, plan: Mapping[str, Any]) -> Path:
    """Make a new run folder, with its plan, and point `latest` at it.

    Raises UsageError where the folder cannot be written.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S")
    try:
        runs = reports / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        folder = _unused(runs, f"{stamp}-{what}-{seed}")
        write_json(folder / PLAN, {"what": what, "seed": seed, **plan})
        _point(runs / LATEST, folder.name)
    except OSError as error:
        raise UsageError(f"{reports}: reports cannot be written there: {error.strerror}") from error
    return folder


def retain(reports: Path, keep: int) -> None:
    """Drop all but the newest `keep` run folders. What holds no plan is no run, and is not ours."""
    runs = reports / "runs"
    plans = [plan for plan in runs.glob(f"*/{PLAN}") if plan.parent.name != LATEST]
    plans.sort(key=lambda plan: plan.stat().st_mtime_ns)  # written once, as the run begins
    for plan in plans[: max(0, len(plans) - keep)]:
        shutil.rmtree(plan.parent, ignore_errors=True)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Put a JSON document in place, whole."""
    write_text(path, json.dumps(document, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Put a text file in place, whole. A character that no file can hold is put as its escape."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON document of a run. Raises UsageError, naming the file, where that fails."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: damaged: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path}: damaged: an object was expected")
    return document


def _unused(runs: Path, name: str) -> Path:
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            folder = runs / f"{name}{suffix}"
            folder.mkdir()
            return folder
    raise UsageError(f"{runs}: too many runs called {name}")


def _point(link: Path, name: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(name)
    temporary.replace(link)
