"""The suite of the key-value store: its contract, and where its known bugs are planted."""

from __future__ import annotations

import sys
from pathlib import Path

from harness import Contract, Mode, Promise, Suite

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # so that the target can be named without being installed

K1 = Promise(
    "K1",
    "Every addition counts: no update is lost, and each sum is returned once.",
    "key-value store",
)
K2 = Promise("K2", "A key that was never written reads as 0.", "key-value store")

SUITE = Suite(
    contract=Contract("key-value store", (K1, K2)),
    target="key_value_target:KeyValueTarget",
    source=HERE.parent / "key_value.py",
    canaries={Mode.SCHEDULE: "add-outside-lock"},
)
