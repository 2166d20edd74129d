"""Names the optional packages that parts of the harness need, and how to install them.

The core runs without them. A command that needs one calls `require_extras` before it starts; a gate
asks `missing_extra` for each scenario and skips it with that reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from harness.core.errors import UsageError

DISTRIBUTION = "hermes-harness"

# The packages by which an extra is recognised as installed. py-spy is a program without a module;
# what needs it reports stacks as unavailable.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "load": ("locust",),
    "soak": ("scipy",),
}


def harness_version() -> str:
    """The installed version of the harness; "unknown" where it is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


class MissingExtraError(UsageError):
    """An optional package is not installed; the message says how to install it."""


def missing_extra(extras: Iterable[str]) -> str | None:
    """Return what is missing of these extras and how to install it; None if nothing is.

    For `["soak"]` without scipy: "needs scipy: pip install 'hermes-harness[soak]'". Raises
    UsageError for an extra that does not exist.
    """
    lacking = {extra: names for extra in extras if (names := _missing(extra))}
    if not lacking:
        return None
    packages = ", ".join(sorted({name for names in lacking.values() for name in names}))
    return f"needs {packages}: pip install '{DISTRIBUTION}[{','.join(sorted(lacking))}]'"


def require_extras(user: str, *extras: str) -> None:
    """Raise MissingExtraError if a package of these extras is not installed.

    `user` is the command or scenario that needs them, as a reader knows it: "`harness soak`".
    """
    if (reason := missing_extra(extras)) is not None:
        raise MissingExtraError(f"{user} {reason}")


def _missing(extra: str) -> list[str]:
    """Return the packages of one extra that cannot be imported."""
    if extra not in EXTRAS:
        raise UsageError(f"unknown extra {extra!r}; known: {', '.join(EXTRAS)}")
    return [package for package in EXTRAS[extra] if find_spec(package) is None]
