"""Runs a million schedules of the reference's correct lifecycle, of which none may fail.

    nox -s bench -- clean [--schedules 1000000] [--log reports/clean_schedules.jsonl]

Each chunk has a seed of its own, and adds a line to the log; the same command goes on after the
last one. The level, the strategies and the early deadline are the explorer's defaults. Exits 1 as
soon as a chunk has a finding, or is unknown.
"""

# A script, not a package, which prints:
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import json
import logging
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

from bench_schedules import THREADS, Subject

from harness.schedule import Budget, Run, explore

CHUNK = 20_000  # schedules


def lifecycle(run: Run) -> None:
    """Two commits, and a turn that completes meanwhile."""
    subject = Subject()
    for act in THREADS:
        run.thread(act, subject, name=act.__name__)
    run.join()
    assert subject.is_complete()


def explored(seed: int) -> dict[str, Any]:
    """Explore one chunk; return its line of the log."""
    used_s = time.process_time()
    result = explore(lifecycle, budget=Budget(CHUNK, 3_600.0), seed=seed)
    used_s = time.process_time() - used_s
    return {
        "seed": seed,
        "python": platform.python_version(),
        "schedules": result.schedules,
        "distinct": result.distinct,
        "validity": str(result.validity),
        "processor_s": round(used_s, 1),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "result": result.story if result.finding else str(result),
    }


def main() -> int:
    """Run chunks until the log has enough of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1_000_000)
    parser.add_argument("--log", type=Path, default=Path("reports", "clean_schedules.jsonl"))
    options = parser.parse_args()
    logging.disable()
    options.log.parent.mkdir(parents=True, exist_ok=True)
    lines = options.log.read_text(encoding="utf-8").splitlines() if options.log.exists() else []
    rows = [json.loads(line) for line in lines]
    while (ran := sum(row["schedules"] for row in rows)) < options.schedules:
        row = explored(len(rows))
        rows.append(row)
        with options.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        if row["validity"] != "valid":
            print(row["result"])
            return 1
    print(f"{ran} schedules, {len(rows)} seeds, no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
