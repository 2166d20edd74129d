"""A worker process of the state.db bench: writes to a shared file, and prints its waits.

    python benches/state_db_worker.py work ARM PATH FULL|NORMAL NAME THREADS SECONDS
    python benches/state_db_worker.py join ARM PATH NAME

It imports little, because many workers start together.
"""

# A script, not a package, which prints for its parent:
# ruff: noqa: INP001, T201

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from state_db_arms import ARMS, Store

TEXT = "the quick brown fox jumps over the lazy dog and then some more of the same " * 3
COOL_DOWN_S = 0.5


def work(store: Store, name: str, threads: int, seconds: float) -> None:
    """Write with each thread for `seconds`; print a list of waits in seconds for each thread.

    The threads continue for COOL_DOWN_S without counting: a process that ends uses the processors
    as much as one that writes, which would slow down the last writers.
    """
    sessions = [f"{name}-{number}" for number in range(threads)]
    for session in sessions:
        store.create(session)
    print("ready", flush=True)
    sys.stdin.readline()
    waits: list[list[float]] = [[] for _ in sessions]
    refused = [0 for _ in sessions]
    deadline_s = time.monotonic() + seconds

    def write(number: int) -> None:
        while (began_s := time.monotonic()) < deadline_s + COOL_DOWN_S:
            is_refused = False
            try:
                store.append(sessions[number], f"{TEXT}{len(waits[number])}")
            except Exception:  # noqa: BLE001  each arm raises errors of its own
                is_refused = True
            if began_s < deadline_s:
                waits[number].append(time.monotonic() - began_s)
                refused[number] += is_refused

    writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    print(json.dumps({"waits": waits, "refused": sum(refused)}), flush=True)


def join(arm: str, path: Path, name: str) -> None:
    """Open the file as a new process, create a session, and print how long that took."""
    warm_up = ARMS[arm](path.with_name("warm-up.db"), "FULL")  # imports are not measured
    warm_up.create(name)
    began_s = time.monotonic()
    ARMS[arm](path, "FULL").create(name)
    print(time.monotonic() - began_s, flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["work", arm, path, "FULL" | "NORMAL" as synchronous, name, threads, seconds]:
            work(ARMS[arm](Path(path), synchronous), name, int(threads), float(seconds))
        case ["join", arm, path, name]:
            join(arm, Path(path), name)
        case arguments:
            sys.exit(f"unknown arguments {arguments}; expected: work ... or join ...")
