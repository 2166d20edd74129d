"""Points at lines or opcodes of named modules, by `sys.settrace` for Python 3.11.

At `Level.SYNC` tasks switch only around synchronisation and files: fast, and enough for code that
keeps its shared memory under locks. `LINE` and `OPCODE` add points inside the named modules. At
`OPCODE` only instructions that can touch shared memory count, as no other can affect a schedule.

CPython releases its global lock only where the interpreter checks for requests: on entering a
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
    act: str  # the instruction's effect; empty for a whole line
    feasible: bool  # whether CPython with its global lock can switch here

    @property
    def label(self) -> str:
        """The source line, or the instruction's effect in it."""
        source = linecache.getline(self.file, self.line).strip()
        return f"{self.act} in `{source}`" if self.act else f"`{source}`"


class Tracer(Protocol):
    """Makes the lines or opcodes of the named modules points."""

    def begin(self) -> None:
        """Prepare for schedules."""
        ...

    def enter(self) -> None:
        """Begin a task, on the calling thread."""
        ...

    def leave(self) -> None:
        """End a task, on the calling thread."""
        ...

    def end(self) -> None:
        """Clean up after the last schedule."""
        ...

    @property
    def lines(self) -> int:
        """The number of lines that are points, in functions that ran."""
        ...


class Settrace:
    """Makes lines or opcodes points by `sys.settrace`, for 3.11."""

    def __init__(
        self, scheduler: Scheduler, level: Level, modules: Iterable[str], *, stock: bool = False
    ) -> None:
        """Prepare; `stock` leaves out the places where a stock CPython cannot switch."""
        self._stock = stock
        self._scheduler = scheduler
        self._modules = frozenset(modules)
        self._places: dict[CodeType, dict[int, Place]] = {}
        self._level = level
        self._local = self._on_line if level is Level.LINE else self._on_opcode

    def begin(self) -> None:
        """Do nothing: a trace function belongs to a thread."""

    def enter(self) -> None:
        """Trace the calling thread."""
        sys.settrace(self._on_call)

    def leave(self) -> None:
        """Stop tracing the calling thread."""
        sys.settrace(None)

    def end(self) -> None:
        """Do nothing."""

    @property
    def lines(self) -> int:
        """The number of lines that are points, in functions that ran."""
        return count_lines(self._places.values())

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:  # noqa: ARG002 - the signature of a trace function
        if frame.f_globals.get("__name__") not in self._modules:
            return None
        code = frame.f_code
        if code not in self._places:
            self._places[code] = places(code, self._level, stock=self._stock)
        if self._level is Level.OPCODE:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return self._local

    def _on_line(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:  # noqa: ARG002
        if event == "line":
            place = self._places[frame.f_code].get(-frame.f_lineno)
            if place is not None:
                make_point(self._scheduler, self._level, place)
        return self._on_line

    def _on_opcode(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:  # noqa: ARG002
        if event == "opcode":
            place = self._places[frame.f_code].get(frame.f_lasti)
            if place is not None:
                make_point(self._scheduler, self._level, place)
        return self._on_opcode


def make_point(run: Scheduler, level: Level, place: Place) -> None:
    """Make a point before the current task executes this place."""
    if not run.unwinding:
        run.point(level.value, place)


def places(code: CodeType, level: Level, *, stock: bool = False) -> dict[int, Place]:
    """Return a code object's points: by offset for opcodes, by negative line number for lines.

    With `stock` only those at which a CPython with its global lock can switch.
    """
    every = _lines(code) if level is Level.LINE else _opcodes(code)
    return {key: place for key, place in every.items() if place.feasible or not stock}


def count_lines(tables: Iterable[dict[int, Place]]) -> int:
    """Return the number of lines that have a point in these tables."""
    return len({(place.file, place.line) for table in tables for place in table.values()})


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


def feasibility(code: CodeType) -> dict[tuple[int, int, bool], bool]:
    """Return whether CPython may switch just before an access.

    The key is the end of its expression, and whether it writes. A line as a whole has the keys
    (line, -1, ...). Comprehensions count as part of their function.
    """
    table: dict[tuple[int, int, bool], bool] = {}
    for instruction, feasible in _walk(code):
        positions = instruction.positions
        if positions is None or positions.lineno is None:
            continue
        for writes in (False, True):
            table.setdefault((positions.lineno, -1, writes), feasible)
        act = _act(instruction)
        if act:
            is_write = act.startswith(("write", "delete"))
            end = (positions.end_lineno or 0, positions.end_col_offset or 0, is_write)
            table[end] = table.get(end, False) or feasible
    for inner in code.co_consts:
        if isinstance(inner, CodeType) and inner.co_name.endswith(("comp>", "<genexpr>")):
            table = {**feasibility(inner), **table}
    return table


def _act(instruction: dis.Instruction) -> str:
    name = instruction.opname
    if name in _READS:
        return f"read {instruction.argval}"
    if name in _WRITES:
        return f"write {instruction.argval}"
    return _ITEMS.get(name, "")


def _walk(code: CodeType) -> Iterable[tuple[dis.Instruction, bool]]:
    """Yield each instruction, and whether CPython may release its global lock just before it."""
    instructions = list(dis.get_instructions(code))
    heads = {i.argval for i in instructions if "JUMP_BACKWARD" in i.opname}
    checks = True  # on entering the function
    for instruction in instructions:
        name = instruction.opname
        checks = checks or instruction.offset in heads
        yield instruction, checks
        if name in _CALLS:
            checks = True
        elif _act(instruction):
            checks = False  # instructions in between touch only the stack
