"""Known bugs: real ones, planted in a copy of the reference to see whether they are caught.

A patch opens with its header, one `# key: value` a line (promise, mode, upstream, story), and goes
on as a unified diff against the folder that holds `reference_impl`. It is applied by `git apply`,
to a copy; the reference itself is never touched.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HarnessError, UnknownPromiseError, UsageError
from harness.core.promises import Promise, promise
from harness.engine.discovery import scenarios_folder
from harness.engine.scenario import Mode

PACKAGE = "reference_impl"
CANARIES = {
    Mode.MODEL: "commit-every-turn",
    Mode.SCHEDULE: "late-commit-clears-new-turn",
    Mode.CONTENTION: "read-handle-takes-write-lock",
    Mode.CRASH: "counter-outside-transaction",
    Mode.HTTP: "pending-user-text-dropped",
    Mode.LOAD: "streams-exhaust-health",
    Mode.SOAK: "lifecycle-never-discards",
}


@dataclass(frozen=True, slots=True)
class KnownBug:
    """One historical bug: what goes wrong, whose promise it breaks, and which mode should see it.

    `upstream` says where it lived in the wild, as precisely as is known. `also` are promises that
    the same story breaks by its very nature, so that a kill by one of them is not a false one.
    """

    name: str
    promise: Promise
    mode: Mode
    upstream: str
    story: str
    patch: Path
    also: tuple[Promise, ...] = ()

    def explains(self, broken: AbstractSet[Promise]) -> bool:
        """Whether an anomaly that breaks these promises is this bug's doing."""
        return not broken.isdisjoint({self.promise, *self.also})


def find_bugs(names: Iterable[str] = ()) -> dict[str, KnownBug]:
    """The bugs of these names; all of them for none. Raises UsageError for an unknown one."""
    patches = sorted((scenarios_folder() / "bugs").glob("*.patch"))
    every = {patch.stem: _read(patch) for patch in patches}
    wanted = list(names)
    for name in wanted:
        if name not in every:
            raise UsageError(f"no known bug is called {name!r}; there are {', '.join(every)}")
    return {name: every[name] for name in every if not wanted or name in wanted}


def plant(bug: KnownBug, folder: Path) -> Path:
    """Put a copy of the reference with the bug in it into `folder`, and return the folder.

    Raises HarnessError where the patch no longer fits the reference.
    """
    copy_reference(folder)
    command = ["git", "apply", "-p1", "--whitespace=nowarn", str(bug.patch.resolve())]
    # Inside a checkout git would apply relative to its top, and skip what lies outside.
    environment = {"GIT_CEILING_DIRECTORIES": str(folder.parent), "PATH": _path()}
    applied = subprocess.run(  # noqa: S603  the command is our own
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if applied.returncode != 0:
        raise HarnessError(f"{bug.patch.name} does not fit: {' '.join(applied.stderr.split())}")
    return folder


def reference_folder() -> Path:
    """The reference that the patches came with, not one that is on trial and first on the path."""
    return scenarios_folder().parent / PACKAGE


def copy_reference(folder: Path) -> None:
    """Put a copy of the reference into `folder`."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(reference_folder(), folder / PACKAGE, ignore=ignored)


def _path() -> str:
    git = shutil.which("git")
    if git is None:
        raise UsageError("git is needed to plant known bugs, and is not on the PATH")
    return str(Path(git).parent)


def _read(patch: Path) -> KnownBug:
    lines = patch.read_text(encoding="utf-8").splitlines()
    said = [line.removeprefix("# ").partition(": ") for line in lines if line.startswith("# ")]
    header = {key: value for key, _, value in said}
    try:
        return KnownBug(
            patch.stem,
            promise(header["promise"]),
            Mode(header["mode"]),
            header["upstream"],
            header["story"],
            patch,
            tuple(promise(name) for name in header.get("also", "").split()),
        )
    except (KeyError, ValueError, UnknownPromiseError) as error:
        raise HarnessError(f"{patch.name}: its header is not right: {error!r}") from error
