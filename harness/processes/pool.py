"""Instances of a target in child processes, which can be killed and restarted, and their pool.

Starting a process and importing a package take longer than most episodes, so a target keeps its
idle children in a pool: an instance takes a child, opens a fresh adapter in it, and gives it back.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import TargetLostError, UsageError
from harness.processes.remote import LostError, RefusedError, Remote, refusal
from harness.worker import main as driver

DRIVER = Path(driver.__file__)


class ProcessPool:
    """The idle child processes of one target, all running the same adapter."""

    def __init__(self, files: Sequence[Path], environment: Mapping[str, str]) -> None:
        """`files` are the adapter's and its wrappers'; `environment` is a child's whole one."""
        self._files = (DRIVER, *files)
        self._environment = environment
        self._idle: list[Remote] = []
        weakref.finalize(self, _end, self._idle)

    def take(self) -> Remote:
        """Return an idle child, or a new one; its adapter may still be open in another folder."""
        return self._idle.pop() if self._idle else Remote(self._files, self._environment)

    def give_back(self, child: Remote) -> None:
        """Keep a child for reuse, unless it is lost."""
        if child.is_lost:
            child.close()
        else:
            self._idle.append(child)


def _end(children: list[Remote]) -> None:
    while children:
        children.pop().close()


class ProcessInstance:
    """An adapter in a child process, with its files in one folder.

    The first call opens the folder, and so does the first call after the child was lost. An error
    *while opening* is that call's result, and its message says so.
    """

    def __init__(self, pool: ProcessPool, folder: Path) -> None:
        self._pool = pool
        self._folder = folder
        self._child = pool.take()
        self._is_open = False
        self._opening = threading.Lock()

    @property
    def pid(self) -> int:
        """The pid of the present child; it changes after a child was lost."""
        return self._child.pid

    def call(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Call the adapter. Raises TargetLostError if the child died or hung before it replied."""
        try:
            return self._opened().ask(function, argument)
        except LostError as error:
            raise TargetLostError(str(error)) from error
        except RefusedError as error:
            if type(error).__name__ == driver.NoSuchFunctionError.__name__:
                raise UsageError(str(error)) from error
            raise

    def _opened(self) -> Remote:
        with self._opening:
            if self._child.is_lost:
                self._child.close()
                self._child = self._pool.take()
                self._is_open = False
            if not self._is_open:
                try:
                    self._child.open(self._folder)
                except RefusedError as error:
                    raise refusal(type(error).__name__, f"while opening: {error}") from error
                self._is_open = True
            return self._child

    def kill(self) -> None:
        """Kill the child with SIGKILL. The next call starts another."""
        self._child.kill()

    def close(self) -> None:
        """Close the adapter and give the child back."""
        with self._opening:
            try:
                if self._is_open and not self._child.is_lost:
                    self._child.ask("close", {})
            except (LostError, RefusedError):
                self._child.kill()  # which closes what it has open
            finally:
                self._pool.give_back(self._child)
