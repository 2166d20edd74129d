"""Boots the server of one target in a process of its own, and keeps it until the parent ends it.

A process can have one copy of a target's package only, so that each side of a comparison has a host
of its own. The host pins itself first; the server and its threads inherit that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from harness.core.errors import HarnessError
from harness.engine.supervision import Lifeline, inherited_lifeline
from harness.targets.registry import find_target

ABILITY = "measured"
SESSIONS, MESSAGES = 300, 100  # of another program, in the database


def main(target_name: str, folder: str, cores: str, template: str, settings: str) -> int:
    """Boot, and tell the parent the port, the process and how long it took; or why it failed."""
    lifeline = inherited_lifeline()
    assert lifeline is not None, "the parent starts this module"
    lifeline.watch()
    if chosen := json.loads(cores):
        os.sched_setaffinity(0, chosen)
    try:
        _serve(target_name, Path(folder), template, json.loads(settings), lifeline)
    except HarnessError as error:
        lifeline.tell({"error": str(error)})
        return 1
    except Exception as error:  # noqa: BLE001  the parent names it
        lifeline.tell({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _serve(
    target_name: str, folder: Path, template: str, settings: dict[str, str], lifeline: Lifeline
) -> None:
    target = find_target(target_name)
    target.prepare()
    instance = target.open(ABILITY, folder)
    filling = {"sessions": SESSIONS, "messages": MESSAGES, "template": template}
    instance.call("populate", filling)
    began_ns = time.monotonic_ns()
    server = instance.call("measured", settings)
    lifeline.tell({**server, "start_up_ms": (time.monotonic_ns() - began_ns) / 1e6})
    signal.pause()  # until the parent kills the group


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
