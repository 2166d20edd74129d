"""The session-server suite: its contract, and how its known bugs are planted in the reference."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from harness.contract.promises import SESSION_SERVER
from harness.contract.unpredictable import UNPREDICTABLE
from harness.engine.scenario import Mode
from harness.engine.suite import Suite

PACKAGE = "reference_impl"


def _beside() -> Path:
    """The reference that the patches came with, not a copy that is first on the path."""
    beside = Path(__file__).parents[1] / PACKAGE
    if beside.is_dir():
        return beside
    found = find_spec(PACKAGE)
    assert found is not None, PACKAGE
    assert found.origin is not None, PACKAGE
    return Path(found.origin).parent


SUITE = Suite(
    contract=SESSION_SERVER,
    target="reference",
    source=_beside(),
    canaries={
        Mode.MODEL: "commit-every-turn",
        Mode.SCHEDULE: "late-commit-clears-new-turn",
        Mode.CONTENTION: "read-handle-takes-write-lock",
        Mode.CRASH: "counter-outside-transaction",
        Mode.HTTP: "pending-user-text-dropped",
        Mode.LOAD: "streams-exhaust-health",
        Mode.SOAK: "lifecycle-never-discards",
    },
    unpredictable=UNPREDICTABLE,
)
