"""Injects a fault for the duration of a test's block, or skips the test where it is unavailable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.faults.nemesis import Fault


@contextmanager
def injected(fault: Fault) -> Iterator[None]:
    """Inject the fault, and heal it at the end of the block."""
    if not fault.available():
        pytest.skip(f"fault not available on this system: {fault.name}")
    fault.inject()
    try:
        yield
    finally:
        fault.heal()
