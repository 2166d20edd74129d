"""Writes and reads run folders, which can be read at any moment of a run.

Whole files are put in place by renaming, so a kill leaves the old or the new one. The folder of a
run that was killed still contains its plan, and the verdicts of the scenarios that finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from harness.core.errors import UsageError

PLAN = "run.json"
VERDICT = "verdict.json"
FAILURE = "failure.json"  # the shortest; those of further promises: failure-D2.json
BROKEN = "broken.txt"  # how the harness failed in a scenario, so that it has no verdict
LATEST = "latest"
LOCK = ".lock"  # held by the process that writes the run

_held: list[IO[str]] = []  # the lock of the run that this process writes
_created: list[Path] = []  # by this process, so that an interrupt can name the newest


def make_reports(reports: Path) -> Path:
    """Make the folder of the runs. Raises UsageError where that cannot be written."""
    runs = reports / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{reports}: cannot write reports there: {error.strerror}") from error
    return runs


def create(reports: Path, kind: str, seed: int, plan: Mapping[str, Any]) -> Path:
    """Make a new run folder, with its plan, and point `latest` at it.

    Raises UsageError where the folder cannot be written.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S")
    runs = make_reports(reports)
    try:
        folder = _unused(runs, f"{stamp}-{kind}-{seed}")
        write_json(folder / PLAN, {"what": kind, "seed": seed, **plan})
        _point(runs / LATEST, folder.name)
        hold(folder)
    except OSError as error:
        raise UsageError(f"{reports}: cannot write reports there: {error.strerror}") from error
    _created.append(folder)
    return folder


def hold(folder: Path) -> None:
    """Mark a run folder as that of this process, until the process ends or holds another one.

    The lock is the kernel's, so that a kill releases it too. Raises UsageError where another
    process holds it.
    """
    for held in _held:
        held.close()
    lock = (folder / LOCK).open("w")
    _held[:] = [lock]
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"{folder}: another process is writing this run") from error


@contextlib.contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Hold a run folder in the block, although other runs are made and held in it in turn.

    Raises UsageError where another process holds it.
    """
    hold(folder)
    lock = _held.pop()
    try:
        yield
    finally:
        lock.close()


def _is_held(folder: Path) -> bool:
    """Whether a process that lives writes into the run folder."""
    try:
        with (folder / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def newest_of_process() -> Path | None:
    """The run folder that this process made last; None if it made none."""
    return _created[-1] if _created else None


def retain(reports: Path, keep: int) -> None:
    """Delete all but the newest `keep` run folders, and the newest `keep` of those with anomalies.

    A run that another process is writing stays, and so does a folder without a plan.
    """
    runs = reports / "runs"
    plans = [plan for plan in runs.glob(f"*/{PLAN}") if plan.parent.name != LATEST]
    plans.sort(key=lambda plan: plan.stat().st_mtime_ns)  # written once, as the run begins
    folders = [plan.parent for plan in plans]
    older = folders[: max(0, len(folders) - keep)]
    failed = [folder for folder in older if _has_anomaly(folder)]
    for folder in older:
        if folder not in failed[-keep:] and not _is_held(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _has_anomaly(folder: Path) -> bool:
    try:
        return read_json(folder / VERDICT).get("conclusion") == "invalid"
    except UsageError:
        return False


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document, whole."""
    write_text(path, json.dumps(document, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole; a lone surrogate is written as its escape.

    Raises OSError that names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON document of a run. Raises UsageError, naming the file, where that fails."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: damaged: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path}: damaged: expected a JSON object")
    return document


@contextlib.contextmanager
def whole(*runs: Path) -> Iterator[None]:
    """Raise UsageError, naming the runs, where a document in them has another shape."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        named = " or ".join(map(str, runs))
        raise UsageError(f"{named}: damaged: {type(error).__name__}: {error}") from error


def _unused(runs: Path, name: str) -> Path:
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            folder = runs / f"{name}{suffix}"
            folder.mkdir()
            return folder
    raise UsageError(f"{runs}: too many runs are named {name}")


def _point(link: Path, name: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(name)
    temporary.replace(link)
