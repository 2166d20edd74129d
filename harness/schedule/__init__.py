"""Explores thread interleavings under controlled schedules with a virtual clock."""

from harness.schedule.asyncio_tasks.order import LoopOrder
from harness.schedule.causality import Causality, causality
from harness.schedule.explorer import Budget, Result, explore
from harness.schedule.finding import Finding
from harness.schedule.locks import LockRules, calling
from harness.schedule.operations import (
    Call,
    Operations,
    PromiseBrokenError,
    shrink_calls,
    small_scope,
)
from harness.schedule.patches import adopt, install, uninstall
from harness.schedule.program import Cell, Run
from harness.schedule.replay import as_pytest, replay, reproduced
from harness.schedule.trace import Level

__all__ = [
    "Budget",
    "Call",
    "Causality",
    "Cell",
    "Finding",
    "Level",
    "LockRules",
    "LoopOrder",
    "Operations",
    "PromiseBrokenError",
    "Result",
    "Run",
    "adopt",
    "as_pytest",
    "calling",
    "causality",
    "explore",
    "install",
    "replay",
    "reproduced",
    "shrink_calls",
    "small_scope",
    "uninstall",
]
