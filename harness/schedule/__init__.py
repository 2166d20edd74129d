"""Controlled schedules: a sound, fast explorer of thread interleavings with a virtual clock."""

from harness.schedule.explorer import Budget, Result, explore
from harness.schedule.finding import Finding
from harness.schedule.patches import adopt, install, uninstall
from harness.schedule.program import Cell, Run
from harness.schedule.trace import Level

__all__ = [
    "Budget",
    "Cell",
    "Finding",
    "Level",
    "Result",
    "Run",
    "adopt",
    "explore",
    "install",
    "uninstall",
]
