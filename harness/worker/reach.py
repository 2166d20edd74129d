"""Records which lines of the code on trial run, in every process of a target, cheaply.

`HARNESS_REACH` names a folder, `HARNESS_REACH_SOURCE` the top of the source; `HARNESS_REACH_CODE`
is this file, for child processes that load it by its path. The first time that a line runs, one
line `file:number` is appended to a file of this process, by a single write, so that a kill loses
nothing. Python 3.12 and later use `sys.monitoring`, which costs nothing after the first hit;
3.11 uses `sys.settrace`, which slows down what runs.

This file imports the standard library only.
"""

import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any

FOLDER = "HARNESS_REACH"
SOURCE = "HARNESS_REACH_SOURCE"
CODE = "HARNESS_REACH_CODE"
VARIABLES = (FOLDER, SOURCE, CODE)
TOOL = 4  # of `sys.monitoring`; free by convention

_started = False


def start() -> None:
    """Record from now on, where the environment asks for it; once in a process."""
    global _started  # noqa: PLW0603  a process has one recorder
    if _started or FOLDER not in os.environ:
        return
    _started = True
    recorder = _Recorder(os.environ[FOLDER], os.environ[SOURCE])
    if sys.version_info >= (3, 12):
        recorder.monitor()
    else:
        recorder.trace()


class _Recorder:
    """The lines that ran in this process."""

    def __init__(self, folder: str, source: str) -> None:
        self._folder = folder
        self._source = source.rstrip("/") + "/"
        self._marker = "/" + os.path.basename(source.rstrip("/")) + "/"  # noqa: PTH119  standard
        self._pid = -1
        self._fd = -1
        self._seen: set[tuple[str, int]] = set()
        self._names: dict[str, str | None] = {}

    def note(self, file: str, line: int) -> None:
        """Append a line that runs for the first time in this process."""
        key = (file, line)
        if key in self._seen:
            return
        self._seen.add(key)
        name = self.name_of(file)
        if name is None:
            return
        if self._pid != os.getpid():  # also after a fork
            self._pid = os.getpid()
            path = os.path.join(self._folder, f"{self._pid}.lines")  # noqa: PTH118  standard
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self._fd, f"{name}:{line}\n".encode())

    def name_of(self, file: str) -> str | None:
        """A file's path below the source, or below a copy of it; None for any other file."""
        if file not in self._names:
            name = None
            if file.startswith(self._source):
                name = file[len(self._source) :]
            elif self._marker in file:
                name = file.rpartition(self._marker)[2]
            self._names[file] = name
        return self._names[file]

    def monitor(self) -> None:
        """Use `sys.monitoring`."""
        monitoring: Any = getattr(sys, "monitoring")  # noqa: B009  absent before 3.12
        monitoring.use_tool_id(TOOL, "harness reach")

        def on_line(code: CodeType, line: int) -> Any:
            self.note(code.co_filename, line)
            return monitoring.DISABLE

        monitoring.register_callback(TOOL, monitoring.events.LINE, on_line)
        monitoring.set_events(TOOL, monitoring.events.LINE)

    def trace(self) -> None:
        """Use `sys.settrace`, in this thread and in those to come."""

        def on_line(frame: FrameType, event: str, _: object) -> Any:
            if event == "line":
                self.note(frame.f_code.co_filename, frame.f_lineno)
            return on_line

        def on_call(frame: FrameType, _event: str, _: object) -> Any:
            return on_line if self.name_of(frame.f_code.co_filename) is not None else None

        threading.settrace(on_call)
        sys.settrace(on_call)
