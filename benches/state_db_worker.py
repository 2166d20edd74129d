"""A worker: one process that writes to a file that others write to, and tells how long it waited.

    python benches/state_db_worker.py work ARM PATH FULL|NORMAL NAME THREADS SECONDS
    python benches/state_db_worker.py come-in ARM PATH NAME

Light, because many start at once.
"""

# A script, not a package, and it speaks to whoever started it:
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
    """Write with each thread for so long; print a list of waits in seconds for each thread.

    They go on writing for a while that does not count: a process that ends needs the processors as
    much as one that writes, and those who write last would pay for it.
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
            except Exception:  # noqa: BLE001  (each arm has its own way of refusing)
                is_refused = True
            if began_s < deadline_s:
                waits[number].append(time.monotonic() - began_s)
                refused[number] += is_refused

    crew = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    print(json.dumps({"waits": waits, "refused": sum(refused)}), flush=True)


def come_in(arm: str, path: Path, name: str) -> None:
    """Open the file as a newcomer, create a session, and print how long that took."""
    importing = ARMS[arm](path.with_name("warm-up.db"), "FULL")  # not what is measured
    importing.create(name)
    began_s = time.monotonic()
    ARMS[arm](path, "FULL").create(name)
    print(time.monotonic() - began_s, flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["work", arm, path, "FULL" | "NORMAL" as synchronous, name, threads, seconds]:
            work(ARMS[arm](Path(path), synchronous), name, int(threads), float(seconds))
        case ["come-in", arm, path, name]:
            come_in(arm, Path(path), name)
        case words:
            sys.exit(f"{words} means nothing here")
