"""Suites: folders of scenarios, each with its contract and its known bugs.

A suite is a folder of pytest files that define `Scenario` values. Its module `suite.py`, where it
has one, defines `SUITE`: the contract, and how known bugs are planted. Suites come from the entry
points of the group `harness.scenarios` (a module, whose folder is the suite), or from folders
named on the command line. The harness itself imports no scenario.
"""

from __future__ import annotations

import fnmatch
import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

from harness.core.contract import Contract, Promise, Unpredictable
from harness.core.errors import UsageError
from harness.core.installed import installed
from harness.core.suggestions import unknown
from harness.engine.scenario import Mode, Scenario

GROUP = "harness.scenarios"
FOLDERS = "HARNESS_SCENARIOS"  # environment: the folders of suites, separated by os.pathsep
BUGS = "bugs"  # the subfolder of a suite that holds the patches of its known bugs


@dataclass(frozen=True)
class Suite:
    """The declaration of a folder of scenarios: `SUITE` in its module `suite.py`.

    `contract` is what the scenarios put on trial. `target` names the target that they are written
    for, as `--target` takes it. Known bugs are patches in the folder `bugs`; each is applied to a
    copy of `source`, the folder of the package (or the module file) on trial, and judged as
    `TARGET@FOLDER`, where FOLDER holds the copy. `canaries` names, for each mode, the known bug
    that every gate must detect. `unpredictable` lists the fields of answers that no model can
    predict; an audit leaves them out, and counts them.
    """

    contract: Contract
    target: str = ""
    source: Path | None = None
    canaries: Mapping[Mode, str] = field(default_factory=dict)
    unpredictable: tuple[Unpredictable, ...] = ()


@dataclass(frozen=True)
class LoadedSuite:
    """A suite's folder, its declaration, and its scenarios by name, in the order of the files.

    `files` has the file of each scenario.
    """

    folder: Path
    suite: Suite
    scenarios: Mapping[str, Scenario]
    files: Mapping[str, Path]

    @property
    def patches(self) -> list[Path]:
        """The patches of its known bugs."""
        return sorted((self.folder / BUGS).glob("*.patch"))


def use_folders(folders: Iterable[Path]) -> None:
    """Judge by the suites in these folders from now on, in child processes too.

    Raises UsageError for a folder that is not there.
    """
    chosen = [folder.resolve() for folder in folders]
    for folder in chosen:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder of scenarios")
    if chosen:
        os.environ[FOLDERS] = os.pathsep.join(map(str, chosen))
    else:
        os.environ.pop(FOLDERS, None)


def chosen_folders() -> list[Path]:
    """The folders that were named instead of the installed suites; none by default."""
    return [Path(text) for text in os.environ.get(FOLDERS, "").split(os.pathsep) if text]


def find_suites() -> list[LoadedSuite]:
    """Every suite: those of the chosen folders, or else the installed ones.

    Raises UsageError where two scenarios share a name, or a suite cannot be imported.
    """
    suites = [load_suite(folder) for folder in chosen_folders() or installed_folders()]
    owners: dict[str, Path] = {}
    for suite in suites:
        for name in suite.scenarios:
            if name in owners:
                raise UsageError(
                    f"scenario {name!r} is defined in {owners[name]} and in {suite.folder}; "
                    "rename one, or name one folder with --scenarios"
                )
            owners[name] = suite.folder
    return suites


def installed_folders() -> list[Path]:
    """The folders of the suites that entry points name."""
    return [_folder_of(point.value) for point in sorted(installed(GROUP))]


@cache
def load_suite(folder: Path) -> LoadedSuite:
    """Import a folder's test modules under the names that pytest gives them.

    Raises UsageError where one of them cannot be imported.
    """
    scenarios: dict[str, Scenario] = {}
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("test_*.py")):
        for value in vars(_import(file)).values():
            if isinstance(value, Scenario):
                scenarios[value.name] = value
                files[value.name] = file
    return LoadedSuite(folder, _declared(folder, scenarios.values()), scenarios, files)


def suite_with_source() -> Suite:
    """The first suite that names its source: what code mutants are made of.

    Raises UsageError where no suite does.
    """
    for loaded in find_suites():
        if loaded.suite.source is not None:
            return loaded.suite
    raise UsageError("expected `source=...` in a suite's suite.py, to make mutants of; found none")


def find_scenarios() -> dict[str, Scenario]:
    """Every scenario by name, in the order of the suites, files and definitions."""
    return {name: found for suite in find_suites() for name, found in suite.scenarios.items()}


def choose(
    names: Iterable[str] = (),
    promises: Iterable[str] = (),
    modes: Iterable[str] = (),
) -> dict[str, Scenario]:
    """The scenarios of these names or globs, promise IDs and modes; all of them for none.

    Raises UsageError for a name, glob or promise that fits nothing.
    """
    every = find_scenarios()
    wanted = _matching(list(names), every)
    ids, kinds = _known_ids(list(promises)), set(modes)
    return {
        name: scenario
        for name, scenario in every.items()
        if name in wanted
        and (not kinds or str(scenario.mode) in kinds)
        and (not ids or any(promise.id in ids for promise in scenario.promises))
    }


def find_promises() -> list[Promise]:
    """Every promise of the suites' contracts, in their order."""
    return [promise for suite in find_suites() for promise in suite.suite.contract]


def tried_by(promise: Promise, scenarios: Iterable[Scenario]) -> list[str]:
    """Names of the scenarios that put this promise on trial."""
    return [scenario.name for scenario in scenarios if promise in scenario.promises]


def declared_in(folder: Path) -> Suite:
    """The `SUITE` of this folder's module `suite.py`. Raises UsageError where there is none."""
    declared = getattr(_import(folder / "suite.py"), "SUITE", None)
    if not isinstance(declared, Suite):
        raise UsageError(f"{folder / 'suite.py'}: expected `SUITE = Suite(...)`; found none")
    return declared


def _matching(patterns: list[str], every: Iterable[str]) -> set[str]:
    names = list(every)
    if not patterns:
        return set(names)
    matched: set[str] = set()
    for pattern in patterns:
        fitting = fnmatch.filter(names, pattern)
        if not fitting:
            raise UsageError(unknown("scenario", pattern, names))
        matched.update(fitting)
    return matched


def _known_ids(ids: list[str]) -> set[str]:
    known = [promise.id for promise in find_promises()]
    for id_ in ids:
        if id_ not in known:
            raise UsageError(unknown("promise", id_, known))
    return set(ids)


def _declared(folder: Path, scenarios: Iterable[Scenario]) -> Suite:
    """The declared suite, or else one with a contract of the scenarios' promises."""
    if (folder / "suite.py").is_file():
        return declared_in(folder)
    every = (promise for scenario in scenarios for promise in scenario.promises)
    promises = {promise.id: promise for promise in every}
    return Suite(Contract(folder.name, tuple(promises.values())))


def _import(file: Path) -> ModuleType:
    """Import a file by the name that pytest gives it: from the first folder that is no package."""
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    name = ".".join(file.relative_to(root).with_suffix("").parts)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{file}: cannot be imported: {reason}") from error
    if module.__file__ is None or not Path(module.__file__).samefile(file):
        raise UsageError(
            f"{file}: another module is named {name!r}: {module.__file__}; rename one of them"
        )
    return module


def _folder_of(module: str) -> Path:
    found = importlib.import_module(module)
    return Path(next(iter(found.__path__)))
