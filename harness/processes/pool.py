"""An instance in a process of its own: it can be killed, and comes back on the same folder.

Starting a process and importing a package take longer than most episodes, so a target keeps its
idle children in a *stable*: an instance takes one, has it open a fresh adapter, and gives it back.
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


class Stable:
    """The idle children of one target, all running the same adapter."""

    def __init__(self, files: Sequence[Path], environment: Mapping[str, str]) -> None:
        """`files` are the adapter's file and its wrappers'; the environment is all they get."""
        self._files = (DRIVER, *files)
        self._environment = environment
        self._idle: list[Remote] = []
        weakref.finalize(self, _end, self._idle)

    def take(self) -> Remote:
        """A child that has nothing open, or may have: its next question opens a folder."""
        return self._idle.pop() if self._idle else Remote(self._files, self._environment)

    def give_back(self, child: Remote) -> None:
        """Keep a child for the next who needs one, unless it is dead."""
        if child.is_lost:
            child.close()
        else:
            self._idle.append(child)


def _end(children: list[Remote]) -> None:
    while children:
        children.pop().close()


class ProcessInstance:
    """An adapter in a child process, with its files in one folder.

    The folder is opened by the first call, and again by the first call after the child was lost;
    what goes wrong *while opening* is that call's answer, and says so.
    """

    def __init__(self, stable: Stable, folder: Path) -> None:
        self._stable = stable
        self._folder = folder
        self._child = stable.take()
        self._is_open = False
        self._opening = threading.Lock()

    @property
    def pid(self) -> int:
        """The child's process id. A child that was lost is followed by another."""
        return self._child.pid

    def call(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Ask the child. Raises TargetLostError if it went away, or hung, before it answered."""
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
                self._child = self._stable.take()
                self._is_open = False
            if not self._is_open:
                try:
                    self._child.open(self._folder)
                except RefusedError as error:
                    raise refusal(type(error).__name__, f"while opening: {error}") from error
                self._is_open = True
            return self._child

    def kill(self) -> None:
        """Kill the child with kill -9, wherever it is. The next call starts another."""
        self._child.kill()

    def close(self) -> None:
        """Close the adapter and let the child go."""
        with self._opening:
            try:
                if self._is_open and not self._child.is_lost:
                    self._child.ask("close", {})
            except (LostError, RefusedError):
                self._child.kill()  # what it has open goes with it
            finally:
                self._stable.give_back(self._child)
