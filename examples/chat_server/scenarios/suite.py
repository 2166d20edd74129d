"""The suite of the chat server: its contract, and where its known bugs are planted."""

from __future__ import annotations

import sys
from pathlib import Path

from harness import Contract, Mode, Promise, Suite

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # so that the target can be named without being installed

FAMILY = "chat server"
C1 = Promise(
    "C1",
    "An acknowledged message is in the history once, in order, until its session is deleted.",
    FAMILY,
)
C2 = Promise(
    "C2",
    "A stream carries every message after its cursor once, in order; none is lost while it opens.",
    FAMILY,
)
C3 = Promise("C3", "A deleted session is empty, and its ids start again at 1.", FAMILY)
C4 = Promise("C4", "The server keeps no stream of a client that left.", FAMILY)

SUITE = Suite(
    contract=Contract("chat server", (C1, C2, C3, C4)),
    target="chat_target:ChatTarget",
    source=HERE.parent / "chat_server.py",
    canaries={Mode.SCHEDULE: "subscribe-in-two-steps", Mode.SOAK: "stream-never-closed"},
)
