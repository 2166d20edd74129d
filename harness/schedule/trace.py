"""Finer levels: between two lines, or two opcodes, of the modules that are named.

At `Level.SYNC` tasks switch only around synchronisation and files: fast, and enough for code that
keeps its shared memory under locks. `LINE` and `OPCODE` add points inside the named modules. At
`OPCODE` only instructions that can touch shared memory count, for no other can tell.

CPython with its global lock hands it over only where the interpreter looks: on entering a
function, after a call, at the head of a loop. A switch anywhere else cannot happen on a stock
build of this version, only on a free-threaded one; `Place.feasible` says which it is.
"""

from __future__ import annotations

import dis
import linecache
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from types import CodeType, FrameType
from typing import Any, Protocol

from harness.schedule.scheduler import Scheduler

_READS = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME", "LOAD_SUPER_ATTR"}
_WRITES = {"STORE_ATTR", "STORE_GLOBAL", "STORE_DEREF", "STORE_NAME", "DELETE_ATTR"}
_ITEMS = {
    "BINARY_SUBSCR": "read [..]",
    "BINARY_SLICE": "read [..]",
    "STORE_SUBSCR": "write [..]",
    "STORE_SLICE": "write [..]",
    "DELETE_SUBSCR": "delete [..]",
    "CONTAINS_OP": "look in",
    "FOR_ITER": "next of",
    "CALL": "call",
    "CALL_KW": "call",
    "CALL_FUNCTION_EX": "call",
    "UNPACK_SEQUENCE": "unpack",
}
_CALLS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX"}


class Level(StrEnum):
    """How finely tasks are interleaved."""

    SYNC = "sync"
    LINE = "line"
    OPCODE = "opcode"


@dataclass(frozen=True, slots=True)
class Place:
    """A point inside a named module."""

    file: str
    line: int
    act: str  # what the instruction does; empty for a whole line
    feasible: bool  # whether CPython with its global lock can switch here

    @property
    def label(self) -> str:
        """The source line, or what the instruction does on it."""
        source = linecache.getline(self.file, self.line).strip()
        return f"{self.act} in `{source}`" if self.act else f"`{source}`"


class Tracer(Protocol):
    """Makes the lines or opcodes of the named modules into points."""

    def begin(self) -> None:
        """Schedules are about to be played."""
        ...

    def enter(self) -> None:
        """A task begins, on the calling thread."""
        ...

    def leave(self) -> None:
        """It ends."""
        ...

    def end(self) -> None:
        """No more schedules."""
        ...


class Settrace:
    """By `sys.settrace`, for 3.11."""

    def __init__(self, scheduler: Scheduler, level: Level, modules: Iterable[str]) -> None:
        self._scheduler = scheduler
        self._modules = frozenset(modules)
        self._places: dict[CodeType, dict[int, Place]] = {}
        self._level = level
        self._local = self._at_line if level is Level.LINE else self._at_opcode

    def begin(self) -> None:
        """Nothing to prepare: a trace function belongs to a thread."""

    def enter(self) -> None:
        """Trace the calling thread."""
        sys.settrace(self._called)

    def leave(self) -> None:
        """Trace it no more."""
        sys.settrace(None)

    def end(self) -> None:
        """Nothing is left."""

    def _called(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:  # noqa: ARG002 - the signature of a trace function
        if frame.f_globals.get("__name__") not in self._modules:
            return None
        code = frame.f_code
        if code not in self._places:
            self._places[code] = places(code, self._level)
        if self._level is Level.OPCODE:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return self._local

    def _at_line(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:  # noqa: ARG002
        if event == "line":
            stop(self._scheduler, self._level, self._places[frame.f_code][-frame.f_lineno])
        return self._at_line

    def _at_opcode(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:  # noqa: ARG002
        if event == "opcode":
            place = self._places[frame.f_code].get(frame.f_lasti)
            if place is not None:
                stop(self._scheduler, self._level, place)
        return self._at_opcode


def stop(run: Scheduler, level: Level, place: Place) -> None:
    """The current task is about to execute this."""
    if not run.unwinding:
        run.point(level.value, place)


def places(code: CodeType, level: Level) -> dict[int, Place]:
    """The points of a code object: by offset for opcodes, by line under minus its number."""
    return _lines(code) if level is Level.LINE else _opcodes(code)


def _lines(code: CodeType) -> dict[int, Place]:
    places: dict[int, Place] = {}
    for instruction, feasible in _walk(code):
        line = instruction.positions.lineno if instruction.positions else None
        if line is not None:
            places.setdefault(-line, Place(code.co_filename, line, "", feasible))
    return places


def _opcodes(code: CodeType) -> dict[int, Place]:
    places: dict[int, Place] = {}
    for instruction, feasible in _walk(code):
        act = _act(instruction)
        line = instruction.positions.lineno if instruction.positions else None
        if act and line is not None:
            places[instruction.offset] = Place(code.co_filename, line, act, feasible)
    return places


def _act(instruction: dis.Instruction) -> str:
    name = instruction.opname
    if name in _READS:
        return f"read {instruction.argval}"
    if name in _WRITES:
        return f"write {instruction.argval}"
    return _ITEMS.get(name, "")


def _walk(code: CodeType) -> Iterable[tuple[dis.Instruction, bool]]:
    """Each instruction, and whether CPython may hand its global lock over just before it."""
    instructions = list(dis.get_instructions(code))
    heads = {i.argval for i in instructions if "JUMP_BACKWARD" in i.opname}
    looks = True  # on entering the function
    for instruction in instructions:
        name = instruction.opname
        looks = looks or instruction.offset in heads
        yield instruction, looks
        if name in _CALLS:
            looks = True
        elif _act(instruction):
            looks = False  # what touches only the stack in between makes no difference
