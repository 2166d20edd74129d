"""Records which lines of the code on trial run, in every process of a target, cheaply.

`settings` prepares a folder with two files: a map from source files to positions, and a file with
one byte for each line of the source. Every process that finds the settings in its environment maps
that file into memory and sets the byte of a line when it runs for the first time. So a process
needs no file descriptor and makes no system call while it records; a kill, a fork, a full disk and
a target that closes every descriptor lose nothing.

Python 3.12 and later use `sys.monitoring`, which costs nothing after the first hit. 3.11 uses
`sys.settrace`, and stops tracing a function once all of its lines ran.

This file imports the standard library only, since child processes load it by its path.
"""

import json
import mmap
import os
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

FOLDER = "HARNESS_REACH"
SOURCE = "HARNESS_REACH_SOURCE"
CODE = "HARNESS_REACH_CODE"
VARIABLES = (FOLDER, SOURCE, CODE)
LAYOUT, BYTES = "layout.json", "lines.bytes"
TOOL = 4  # of `sys.monitoring`; free by convention

_started = False


def settings(folder: Path, source: Path) -> dict[str, str]:
    """Prepare a folder, and return the environment that makes processes record into it."""
    layout, size = {}, 0
    for path in sorted(source.rglob("*.py")):
        layout[path.relative_to(source).as_posix()] = size
        size += path.read_bytes().count(b"\n") + 2
    (folder / LAYOUT).write_text(json.dumps(layout), encoding="utf-8")
    (folder / BYTES).write_bytes(bytes(size + 1))  # written, so that no page is missing later
    return {FOLDER: str(folder), SOURCE: str(source), CODE: __file__}


def lines_in(folder: Path) -> set[tuple[str, int]]:
    """Every file and line that the processes recorded into a folder."""
    layout = json.loads((folder / LAYOUT).read_text(encoding="utf-8"))
    ran = (folder / BYTES).read_bytes()
    starts = [*layout.values(), len(ran)]
    return {
        (name, position - starts[number])
        for number, name in enumerate(layout)
        for position in range(starts[number], starts[number + 1])
        if ran[position]
    }


def start() -> None:
    """Record from now on, where the environment asks for it; once in a process."""
    global _started  # noqa: PLW0603  a process has one recorder
    if _started or FOLDER not in os.environ:
        return
    _started = True
    recorder = _Recorder(Path(os.environ[FOLDER]), os.environ[SOURCE])
    if sys.version_info >= (3, 12):
        recorder.monitor()
    else:
        recorder.trace()


class _Recorder:
    """The lines that ran in this process."""

    def __init__(self, folder: Path, source: str) -> None:
        layout = json.loads((folder / LAYOUT).read_text(encoding="utf-8"))
        with (folder / BYTES).open("r+b") as file:
            self._ran = mmap.mmap(file.fileno(), 0)
        starts = [*layout.values(), len(self._ran)]
        self._spans = {name: (starts[n], starts[n + 1]) for n, name in enumerate(layout)}
        self._source = source.rstrip("/") + "/"
        self._marker = "/" + os.path.basename(source.rstrip("/")) + "/"  # noqa: PTH119  standard
        self._files: dict[str, tuple[int, int] | None] = {}
        # By file and code: code objects of two files can be equal.
        self._left: dict[tuple[str, CodeType], set[int]] = {}  # lines that did not run yet

    def note(self, file: str, line: int) -> None:
        """Record a line."""
        span = self.span_of(file)
        if span is not None and span[0] + line < span[1]:
            self._ran[span[0] + line] = 1

    def span_of(self, file: str) -> tuple[int, int] | None:
        """The positions of a file of the source, or of a copy of it; None for any other file."""
        if file not in self._files:
            name = ""
            if file.startswith(self._source):
                name = file[len(self._source) :]
            elif self._marker in file:
                name = file.rpartition(self._marker)[2]
            self._files[file] = self._spans.get(name)
        return self._files[file]

    def monitor(self) -> None:
        """Note each line that runs, once, by `sys.monitoring` (Python 3.12 and later)."""
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
                code, line = frame.f_code, frame.f_lineno
                left = self._left[code.co_filename, code]
                if line in left:
                    self.note(code.co_filename, line)
                    left.discard(line)
            return on_line

        def on_call(frame: FrameType, _event: str, _: object) -> Any:
            code = frame.f_code
            left = self._left.get((code.co_filename, code))
            if left is None:
                is_source = self.span_of(code.co_filename) is not None
                left = {line for _, _, line in code.co_lines() if line} if is_source else set()
                if len(left) > 1:
                    left.discard(code.co_firstlineno)  # a header is no line event
                self._left[code.co_filename, code] = left
            return on_line if left else None

        threading.settrace(on_call)
        sys.settrace(on_call)
