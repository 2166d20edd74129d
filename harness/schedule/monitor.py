"""Points at lines and opcodes by `sys.monitoring`, for Python 3.12 and later.

Only functions of the named modules are monitored, so other code runs at full speed. A function that
is created after schedules begin is monitored from its first call on.
"""

from __future__ import annotations

import gc
import sys
from _thread import get_ident
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

from harness.core.errors import UsageError
from harness.schedule.control import in_charge
from harness.schedule.scheduler import Scheduler
from harness.schedule.trace import Level, Place, count_lines, make_point, places

_TOOLS = (3, 4, 1, 0, 2, 5)  # the unnamed ones first


class Monitor:
    """Makes lines or opcodes points by `sys.monitoring`, for 3.12 and later."""

    def __init__(
        self, scheduler: Scheduler, level: Level, modules: Iterable[str], *, stock: bool = False
    ) -> None:
        """Prepare; `stock` leaves out the places where a stock CPython cannot switch."""
        self._stock = stock
        self._begun: set[CodeType] = set()
        self._scheduler = scheduler
        self._level = level
        self._modules = frozenset(modules)
        self._places: dict[CodeType, dict[int, Place]] = {}
        self._api: Any = sys.monitoring  # type: ignore[attr-defined]  # since 3.12
        self._tool = -1

    def begin(self) -> None:
        """Monitor every existing function. Raises UsageError if all tool numbers are in use."""
        api = self._api
        free = [tool for tool in _TOOLS if api.get_tool(tool) is None]
        if not free:
            raise UsageError(
                "sys.monitoring has no free tool number: end other debuggers and profilers"
            )
        self._tool = free[0]
        api.use_tool_id(self._tool, "harness.schedule")
        api.register_callback(self._tool, api.events.PY_START, self._on_start)
        api.register_callback(self._tool, api.events.LINE, self._on_line)
        api.register_callback(self._tool, api.events.INSTRUCTION, self._on_instruction)
        for function in gc.get_objects():
            if isinstance(function, FunctionType) and function.__module__ in self._modules:
                self._monitor(function.__code__)
        api.set_events(self._tool, api.events.PY_START)

    def enter(self) -> None:
        """Do nothing: code is monitored, not threads."""

    def leave(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Stop monitoring."""
        api = self._api
        api.set_events(self._tool, 0)
        for code in self._places:
            api.set_local_events(self._tool, code, 0)
        for event in (api.events.PY_START, api.events.LINE, api.events.INSTRUCTION):
            api.register_callback(self._tool, event, None)
        api.free_tool_id(self._tool)

    @property
    def lines(self) -> int:
        """The number of lines that are points, in functions that ran."""
        return count_lines(self._places[code] for code in self._begun if code in self._places)

    def _monitor(self, code: CodeType) -> None:
        if code in self._places:
            return
        self._places[code] = places(code, self._level, stock=self._stock)
        events = self._api.events
        event = events.LINE if self._level is Level.LINE else events.INSTRUCTION
        self._api.set_local_events(self._tool, code, event)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                self._monitor(inner)

    def _on_start(self, code: CodeType, offset: int) -> Any:  # noqa: ARG002 - its signature
        if sys._getframe(1).f_globals.get("__name__") in self._modules:  # noqa: SLF001
            self._monitor(code)
            self._begun.add(code)
        return self._api.DISABLE

    def _on_line(self, code: CodeType, line: int) -> None:
        self._on_point(code, -line)

    def _on_instruction(self, code: CodeType, offset: int) -> None:
        self._on_point(code, offset)

    def _on_point(self, code: CodeType, key: int) -> None:
        run = self._scheduler
        if in_charge and run.current.ident == get_ident():
            place = self._places[code].get(key)
            if place is not None:
                make_point(run, self._level, place)
