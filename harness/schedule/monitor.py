"""Finer levels on 3.12 and later, by `sys.monitoring`: only the named modules pay for it.

Every function of those modules that exists when schedules begin is watched from then on, and one
that is made later from its first call on.
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
from harness.schedule.trace import Level, Place, places, stop

_TOOLS = (3, 4, 1, 0, 2, 5)  # the unnamed ones first


class Monitor:
    """By `sys.monitoring`, for 3.12 and later."""

    def __init__(self, scheduler: Scheduler, level: Level, modules: Iterable[str]) -> None:
        self._scheduler = scheduler
        self._level = level
        self._modules = frozenset(modules)
        self._places: dict[CodeType, dict[int, Place]] = {}
        self._api: Any = sys.monitoring  # type: ignore[attr-defined]  # since 3.12
        self._tool = -1

    def begin(self) -> None:
        """Watch every function there is. Raises UsageError if all tool numbers are taken."""
        api = self._api
        free = [tool for tool in _TOOLS if api.get_tool(tool) is None]
        if not free:
            raise UsageError(
                "every tool number of sys.monitoring is taken by a debugger or profiler"
            )
        self._tool = free[0]
        api.use_tool_id(self._tool, "harness.schedule")
        api.register_callback(self._tool, api.events.PY_START, self._starts)
        api.register_callback(self._tool, api.events.LINE, self._at_line)
        api.register_callback(self._tool, api.events.INSTRUCTION, self._at_instruction)
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType) and thing.__module__ in self._modules:
                self._watch(thing.__code__)
        api.set_events(self._tool, api.events.PY_START)

    def enter(self) -> None:
        """Nothing to do: code is watched, not threads."""

    def leave(self) -> None:
        """Nothing to do."""

    def end(self) -> None:
        """Watch nothing."""
        api = self._api
        api.set_events(self._tool, 0)
        for code in self._places:
            api.set_local_events(self._tool, code, 0)
        for event in (api.events.PY_START, api.events.LINE, api.events.INSTRUCTION):
            api.register_callback(self._tool, event, None)
        api.free_tool_id(self._tool)
        self._places.clear()

    def _watch(self, code: CodeType) -> None:
        if code in self._places:
            return
        self._places[code] = places(code, self._level)
        events = self._api.events
        wanted = events.LINE if self._level is Level.LINE else events.INSTRUCTION
        self._api.set_local_events(self._tool, code, wanted)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                self._watch(inner)

    def _starts(self, code: CodeType, offset: int) -> Any:  # noqa: ARG002 - its signature
        if sys._getframe(1).f_globals.get("__name__") in self._modules:  # noqa: SLF001
            self._watch(code)
        return self._api.DISABLE

    def _at_line(self, code: CodeType, line: int) -> None:
        self._at(code, -line)

    def _at_instruction(self, code: CodeType, offset: int) -> None:
        self._at(code, offset)

    def _at(self, code: CodeType, key: int) -> None:
        run = self._scheduler
        if in_charge and run.current.ident == get_ident():
            place = self._places[code].get(key)
            if place is not None:
                stop(run, self._level, place)
