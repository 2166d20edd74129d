"""What there is to run: every scenario that the `scenarios` package defines.

The package is found by name at run time; the harness itself leans on no scenario.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from harness.core.errors import UsageError
from harness.core.promises import Promise
from harness.engine.scenario import Scenario

PACKAGE = "scenarios"


def scenarios_folder() -> Path:
    """Where the scenarios are, with their tests and known bugs."""
    return Path(_package().__path__[0])


def find_scenarios() -> dict[str, Scenario]:
    """Every scenario by name, in the order of the files and of their definitions."""
    found: dict[str, Scenario] = {}
    for module in pkgutil.walk_packages(_package().__path__, prefix=f"{PACKAGE}."):
        if not module.name.rpartition(".")[2].startswith("test_"):
            continue
        names = vars(importlib.import_module(module.name))
        found |= {value.name: value for value in names.values() if isinstance(value, Scenario)}
    return found


def choose(names: Iterable[str]) -> dict[str, Scenario]:
    """The scenarios of these names; all of them for none. Raises UsageError for an unknown one."""
    every = find_scenarios()
    wanted = list(names)
    for name in wanted:
        if name not in every:
            raise UsageError(f"no scenario is called {name!r}; there are {', '.join(every)}")
    return {name: every[name] for name in every if not wanted or name in wanted}


def tried_by(promise: Promise, scenarios: Iterable[Scenario]) -> list[str]:
    """Names of the scenarios that put this promise on trial."""
    return [scenario.name for scenario in scenarios if promise in scenario.promises]


def _package() -> ModuleType:
    return importlib.import_module(PACKAGE)
