"""Runs stock asyncio under controlled schedules: its queue, timers, tasks, wakeups and executor."""

from harness.schedule.asyncio_tasks.patch import REPLACEMENTS, patch

__all__ = ["REPLACEMENTS", "patch"]
