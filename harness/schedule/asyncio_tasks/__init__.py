"""Runs stock asyncio under controlled schedules: its queue, timers, tasks, wakeups and executor."""

from harness.schedule.asyncio_tasks.patch import patch

__all__ = ["patch"]
