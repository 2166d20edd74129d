"""Known bugs: historical bugs, planted in a copy of a target's source to see them detected.

A patch opens with its header, one `# key: value` a line (promise, mode, upstream, story), and goes
on as a unified diff against the folder that holds the suite's source. `git apply` applies it to a
copy; the source itself is never touched.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from harness.core.contract import Promise
from harness.core.errors import HarnessError, UnknownPromiseError, UsageError
from harness.core.suggestions import unknown
from harness.engine.scenario import Mode
from harness.engine.suite import LoadedSuite, Suite, find_suites


@dataclass(frozen=True, slots=True)
class KnownBug:
    """One historical bug: what goes wrong, which promise it breaks, and which mode detects it.

    `upstream` says where it was found, as precisely as is known. `also` are promises that the same
    bug breaks by its nature, so that a detection by one of them is not a false one.
    """

    name: str
    promise: Promise
    mode: Mode
    upstream: str
    story: str
    patch: Path
    suite: Suite
    also: tuple[Promise, ...] = ()

    def explains(self, broken: AbstractSet[Promise]) -> bool:
        """Whether an anomaly that breaks these promises is due to this bug."""
        return not broken.isdisjoint({self.promise, *self.also})

    def target_in(self, folder: Path) -> str:
        """The name of the target whose source is the copy in `folder`."""
        return f"{self.suite.target}@{folder}"


def find_bugs(names: Iterable[str] = ()) -> dict[str, KnownBug]:
    """The bugs of these names; all of them for none. Raises UsageError for an unknown one."""
    every = {patch.stem: _read(patch, suite) for suite in find_suites() for patch in suite.patches}
    wanted = list(names)
    for name in wanted:
        if name not in every:
            raise UsageError(unknown("bug", name, every))
    return {name: every[name] for name in every if not wanted or name in wanted}


def canaries() -> dict[Mode, str]:
    """The known bug of each mode that every gate must detect."""
    return {mode: name for suite in find_suites() for mode, name in suite.suite.canaries.items()}


def plant(bug: KnownBug, folder: Path) -> Path:
    """Put a copy of the source with the bug in it into `folder`, and return the folder.

    Raises HarnessError where the patch does not apply to the source.
    """
    copy_source(bug.suite, folder)
    command = ["git", "apply", "-p1", "--whitespace=nowarn", str(bug.patch.resolve())]
    # Inside a checkout git would apply relative to its top, and skip what lies outside.
    environment = {"GIT_CEILING_DIRECTORIES": str(folder.parent), "PATH": _path()}
    applied = subprocess.run(  # noqa: S603  the command is our own
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if applied.returncode != 0:
        reason = " ".join(applied.stderr.split())
        raise HarnessError(f"{bug.patch.name} does not apply to {bug.suite.source}: {reason}")
    _share_compiled(bug.suite, folder)
    return folder


def copy_source(suite: Suite, folder: Path) -> None:
    """Put a copy of a suite's source into `folder`. Raises UsageError where it names none."""
    source = suite.source
    if source is None or not source.exists():
        raise UsageError(f"suite.py names no `source` to plant a bug in ({source})")
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / source.name, ignore=ignored)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / source.name)


def _share_compiled(suite: Suite, folder: Path) -> None:
    """Copy the compiled modules that the patch left as they are, so that none compiles again.

    A module is recognised by its size and the time of its source, so one that the patch wrote must
    bring none: both may be those of the source by coincidence.
    """
    source = suite.source
    assert source is not None
    for compiled in source.rglob("__pycache__/*.pyc") if source.is_dir() else ():
        cache = compiled.parent.relative_to(source)
        name = compiled.name.partition(".")[0] + ".py"
        original, copy = (top / cache.parent / name for top in (source, folder / source.name))
        if _written_ns(original) == _written_ns(copy) is not None:
            place = folder / source.name / cache
            place.mkdir(exist_ok=True)
            shutil.copy(compiled, place)


def _written_ns(file: Path) -> int | None:
    """When a file was written; None where there is none."""
    return file.stat().st_mtime_ns if file.exists() else None


def _path() -> str:
    git = shutil.which("git")
    if git is None:
        raise UsageError("git is needed to plant known bugs, and is not on the PATH")
    return str(Path(git).parent)


def _read(patch: Path, suite: LoadedSuite) -> KnownBug:
    lines = patch.read_text(encoding="utf-8").splitlines()
    pairs = [line.removeprefix("# ").partition(": ") for line in lines if line.startswith("# ")]
    header = {key: value for key, _, value in pairs}
    contract = suite.suite.contract
    try:
        return KnownBug(
            patch.stem,
            contract.promise(header["promise"]),
            Mode(header["mode"]),
            header.get("upstream", ""),
            header["story"],
            patch,
            suite.suite,
            tuple(contract.promise(name) for name in header.get("also", "").split()),
        )
    except (KeyError, ValueError, UnknownPromiseError) as error:
        raise HarnessError(f"{patch}: its header is wrong: {error!r}") from error
