"""Finds targets by name: installed ones by their entry points, any other as `module:Class`.

A target is named `NAME`, `NAME==VERSION` or `NAME@ARGUMENT`. NAME is an entry point of the group
`harness.targets`, or `module:Class`; what follows is given to its constructor as text. A class
says in `usage` how it is named, and in `description` what it is. `NAME+BUG` is the target with a
known bug of its suite in it, `NAME+delays-SEED` the target with pauses at random places.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from harness.core.errors import UsageError
from harness.core.installed import installed
from harness.core.suggestions import unknown
from harness.engine.target import Target
from harness.targets.planted import planted_target

GROUP = "harness.targets"
_SPEC = re.compile(r"(?P<name>[^@=]+)(?:(?:==|@)(?P<argument>.*))?", re.DOTALL)

_OF_A_TARGET = ("abilities", "prepare", "open")

_WITH_BUG = re.compile(r"(?P<name>[^@=+]+)\+(?P<bug>[a-z0-9-]+)")


def find_target(spec: str) -> Target:
    """Make the target that `spec` names. Raises UsageError where there is none of that name."""
    if with_bug := _WITH_BUG.fullmatch(spec):
        return planted_target(with_bug["name"], with_bug["bug"], find_target)
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(
            f"--target {spec!r}: say NAME, NAME==VERSION, NAME@FOLDER, NAME+BUG or module:Class"
        )
    kind, argument = find_kind(match["name"]), match["argument"]
    arguments = () if argument is None else (argument,)
    try:
        target: Target = kind(*arguments)
    except TypeError as error:
        usage = getattr(kind, "usage", match["name"])
        raise UsageError(f"--target {spec!r}: say {usage} ({error})") from error
    if lacking := [name for name in _OF_A_TARGET if not hasattr(target, name)]:
        raise UsageError(
            f"--target {spec!r}: expected a class of targets; what it makes has no {lacking[0]!r}"
        )
    return target


def find_kind(name: str) -> Callable[..., Target]:
    """The class that makes targets of this name. Raises UsageError where it cannot be found."""
    if ":" in name:
        return _imported(name)
    points = installed(GROUP)
    if name not in points.names:
        raise UsageError(f"{unknown('target', name, list(points.names))}, or module:Class")
    kind: Callable[..., Target] = points[name].load()
    return kind


def list_targets() -> list[dict[str, Any]]:
    """Every installed kind of target: how it is named, its abilities, what it is."""
    rows = []
    for point in sorted(installed(GROUP), key=lambda point: point.name):
        try:
            kind = point.load()
        except ImportError as error:
            rows.append({"target": point.name, "abilities": [], "what": f"cannot load: {error}"})
            continue
        rows.append(
            {
                "target": getattr(kind, "usage", point.name),
                "abilities": sorted(getattr(kind, "abilities", ())),
                "what": getattr(kind, "description", ""),
            }
        )
    return rows


def _imported(name: str) -> Callable[..., Target]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"--target {name!r}: say module:Class")
    if str(os.getcwd()) not in sys.path:  # noqa: PTH109  as text, like all of sys.path
        sys.path.insert(0, os.getcwd())  # noqa: PTH109  see above
    try:
        found: Callable[..., Target] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--target {name!r}: {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"--target {name!r}: {module} cannot be imported: {reason}") from error
    return found
