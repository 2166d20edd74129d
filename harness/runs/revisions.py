"""Revisions of a Git repository: their order, their files, and a gate of each as a target.

Nothing is written to the repository: a revision's files are in a temporary folder.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from harness.core.errors import UsageError
from harness.runs.gate import Conclusion, Gate

_FIELDS = "%H%x00%P%x00%cs%x00%s"  # hash, parents, date, subject


@dataclass(frozen=True, slots=True)
class Revision:
    """One commit."""

    sha: str
    parents: tuple[str, ...] = ()
    date: str = ""
    subject: str = ""

    @property
    def is_merge(self) -> bool:
        """Whether it joins another line of revisions."""
        return len(self.parents) > 1

    def __str__(self) -> str:
        return f"{self.sha[:9]} ({self.date}) {self.subject}"


@dataclass(frozen=True)
class RevisionGates:
    """The repository, the kind of target that its folders are, and how each gate runs."""

    repository: Path
    kind: str
    budget_s: float
    reports: Path
    workers: int

    @contextmanager
    def checkout(self, revision: str) -> Iterator[Path]:
        """A folder with the files of a revision. Raises UsageError where there is no such one."""
        archived = _git(self.repository, "archive", "--format=tar", revision)
        if archived.returncode != 0:
            message = archived.stderr.decode(errors="replace").strip()
            raise UsageError(f"{self.repository}: revision {revision!r}: {message}")
        with tempfile.TemporaryDirectory(prefix="harness-track-") as folder:
            with tarfile.open(fileobj=BytesIO(archived.stdout)) as archive:
                archive.extractall(folder, filter="data")
            yield Path(folder)

    def gate(self, folder: Path, seed: int, promise: str, scenarios: tuple[str, ...]) -> Conclusion:
        """Judge a revision's folder by these scenarios, or else by all of the promise."""
        return Gate(
            f"{self.kind}@{folder}",
            seed,
            self.budget_s,
            self.reports,
            self.workers,
            scenarios,
            promises=() if scenarios else (promise,),
            asks_canaries=False,
        ).run(_say_nothing)


def require_repository(path: Path) -> None:
    """Raise UsageError where the folder is no Git repository."""
    if _git(path, "rev-parse", "--git-dir").returncode != 0:
        raise UsageError(f"{path}: expected a Git repository; found none")


def resolve(repository: Path, name: str) -> str:
    """The hash of a revision. Raises UsageError where the repository has none of that name."""
    arguments = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    resolved = _git(repository, *arguments)
    if resolved.returncode != 0:
        raise UsageError(f"{repository}: revision {name!r} is not there")
    return resolved.stdout.decode().strip()


def line_between(repository: Path, older: str, newer: str) -> list[Revision]:
    """The revisions from one to another, both included, by the first parent of each.

    Empty where the older one is not among the first parents of the newer one.
    """
    shown = _git(repository, "log", "--first-parent", f"--format={_FIELDS}", newer, f"^{older}^@")
    revisions = [
        Revision(sha, tuple(parents.split()), date, subject)
        for line in shown.stdout.decode(errors="replace").split("\n")[:-1]
        for sha, parents, date, subject in [line.split("\0", 3)]
    ]
    hashes = [revision.sha for revision in revisions]
    if older not in hashes:
        return []
    return revisions[hashes.index(older) :: -1]


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, check=False)  # noqa: S603


def _say_nothing(step: str, *, finding: str = "") -> None:
    """Drop the progress of one gate: it is one step."""
