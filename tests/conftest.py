"""Sets how the tests draw: without deadlines, and reproducibly in CI. Keeps their files in memory.

Disk faults are simulated, so the syncs of a real disk would cost time and prove nothing.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from harness.runs.scratch import scratch

settings.register_profile(
    "tests",
    database=None,
    deadline=None,
    derandomize="CI" in os.environ,  # a green change stays green until the code changes
    suppress_health_check=(HealthCheck.too_slow,),
)
settings.load_profile("tests")

_files = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Put temporary files in memory, where there is room; xdist's workers inherit the folder."""
    if hasattr(config, "workerinput") or config.option.basetemp:
        return
    top = Path(_files.enter_context(scratch()))
    config.option.basetemp = str(top / "tests")
    (top / "other").mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(top / "other")


def pytest_unconfigure() -> None:
    """Remove the files."""
    _files.close()
