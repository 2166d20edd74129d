"""The interface of targets: what is on trial, and its abilities.

An *ability* is a set of functions that take and return JSON, so that the same operation can be
asked of an object in this process, of a package in a process of its own, or of a server. Each
episode of a run asks a fresh instance in a folder of its own.

An ability's functions are the methods of its adapter; arguments are keywords. By convention the
functions of an ability `*_threads` are called by several threads under a controlled schedule, those
of `*_crash` run in a process that may be killed, and those of `*_crowd` in many processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from harness.core.errors import UsageError


class Instance(Protocol):
    """One fresh instance of a target, with one ability."""

    def call(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Call a function, and return its result as JSON.

        An exception means that the target refused: the call did not happen. TargetLostError means
        that the outcome is unknown, because the target ended before it answered.
        """
        ...

    def close(self) -> None:
        """Release all files, threads and processes."""
        ...


class Target(Protocol):
    """A system under test, which opens any number of fresh instances."""

    name: str

    @property
    def abilities(self) -> frozenset[str]:
        """What the target offers; each names a set of functions of an adapter."""
        ...

    def prepare(self) -> None:
        """Make the target ready to open, once. Raises TargetUnavailableError with the reason."""
        ...

    def open(self, ability: str, folder: Path) -> Instance:
        """A fresh instance with its files in `folder`, which is empty.

        All schedules of a program share one folder: it may hold files of instances that are closed.
        """
        ...

    def standalone(self, ability: str) -> str:
        """Python source that defines `Adapter` for this ability, to be put in a test file."""
        ...


class AdapterInstance:
    """An adapter in this process: an object whose methods are the ability's functions."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.has_epilogue = getattr(adapter, "has_epilogue", False)

    def call(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Call the adapter's method. Raises UsageError where it has none of that name."""
        method = getattr(self.adapter, function, None)
        if method is None or function.startswith("_"):
            raise UsageError(f"{type(self.adapter).__name__} has no function {function!r}")
        return method(**argument)

    def close(self) -> None:
        """Close the adapter."""
        self.adapter.close()
