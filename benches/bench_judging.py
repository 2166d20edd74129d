"""Measures how fast checkers judge histories, beside a peer that judges the same files.

    python benches/bench_judging.py [--histories FOLDER] [--rounds 5] [--peer COMMAND]

The recorded histories are those of `tests/support/recorded_histories.py`; without their folder,
only generated histories are judged. Reading a file is not timed; finding the evidence is. Rounds
are interleaved, and medians shown: compare the ratios, since the absolute numbers depend on the
machine.

`--peer` is run as `COMMAND KIND FILE`, and prints how many milliseconds it took to judge that file.
The kinds are `etcd` (a register, as Jepsen prints it), `kv` (a store, each key by itself) and
`kv-whole` (a store as one object).
"""

# A script, not a package:
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import gc
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


from harness.checkers.linearizability import linearizable  # noqa: E402
from harness.checkers.serializability.checker import Order, serializable  # noqa: E402
from harness.checkers.unique.queue import unique_queue  # noqa: E402
from harness.checkers.unique.register import unique_register  # noqa: E402
from harness.checkers.unique.set import unique_set  # noqa: E402
from harness.contract import promises  # noqa: E402
from harness.core.checker import Checker  # noqa: E402 - the path comes first
from harness.core.history import History, Operation, Outcome  # noqa: E402
from harness.models.key_value import KeyValue, key  # noqa: E402
from harness.models.register import Register  # noqa: E402
from tests.support import recorded_histories as recorded  # noqa: E402
from tests.support.simulated_histories import QUEUE, SET, UNIQUE_REGISTER, history_of  # noqa: E402

REGISTER = linearizable(Register(promises.D1), promises.D1)
STORE = linearizable(KeyValue(promises.D1), promises.D1)
STORE_BY_KEY = linearizable(KeyValue(promises.D1), promises.D1, partition=key)
TRANSACTIONS = 100_000
VALUES = 64  # of each key


@dataclass
class Case:
    """One history with its checking times, one for each round."""

    row: str  # the times of cases with equal rows are summed
    checker: Checker
    history: History
    kind: str = ""
    path: Path | None = None  # for the peer
    ours_ms: list[float] = field(default_factory=list)
    peer_ms: list[float] = field(default_factory=list)


def recorded_cases(folder: Path) -> Iterator[Case]:
    """Yield every recorded history; those of fifty clients are judged by key only."""
    logs = list(recorded.etcd_logs(folder))
    for path, _ in logs:
        yield Case(f"etcd, {len(logs)} logs", REGISTER, recorded.etcd(path), "etcd", path)
    for path, _ in recorded.key_value_logs(folder):
        history = recorded.key_value(path)
        yield Case(f"{path.stem}, by key", STORE_BY_KEY, history, "kv", path)
        if not path.stem.startswith("c50"):
            yield Case(f"{path.stem}, whole", STORE, history, "kv-whole", path)


def unique_cases(folder: Path) -> Iterator[Case]:
    """Yield valid histories with unique values, judged by search and by the linear-time checker."""
    path = folder / "register.log"
    for machine, searched, sweep, size in (
        (UNIQUE_REGISTER, REGISTER, unique_register(promises.D1), 5000),
        (QUEUE, linearizable(QUEUE, promises.D1), unique_queue(promises.D1), 200),
        (SET, linearizable(SET, promises.D1), unique_set(promises.D1), 200),
    ):
        history = history_of(machine, Random(1), operations=size, processes=8, doubt=0)
        given = ("etcd", path) if machine is UNIQUE_REGISTER else ("", None)
        yield Case(f"{machine.name}, searched", searched, history, *given)
        yield Case(f"{machine.name}, swept", sweep, history, *given)
        if machine is UNIQUE_REGISTER:
            path.write_text("".join(_jepsen(history)))
        large = history_of(machine, Random(2), operations=20 * size, processes=8, doubt=0)
        yield Case(f"{machine.name}, swept, twenty times", sweep, large)


def _jepsen(history: History) -> Iterator[str]:
    """Format a history of completed reads and writes as Jepsen does."""
    events = []
    for number, operation in enumerate(history):
        invoked_value = operation.argument.get("value")
        completed_value = operation.result or invoked_value
        events.append((operation.invoked_ns, False, number, "invoke", invoked_value))
        events.append((operation.completed_ns or 0, True, number, "ok", completed_value))
    for _, _, number, kind, value in sorted(events, key=lambda event: event[:3]):
        operation = history.operations[number]
        text = "nil" if value is None else value
        yield f"INFO  jepsen.util - {operation.process}\t:{kind}\t:{operation.function}\t{text}\n"


def transaction_cases() -> Iterator[Case]:
    """Yield one valid log of list-append transactions for each order."""
    history = list_appends(Random(1))
    for order in Order:
        row = f"{len(history)} transactions, {order.value}"
        yield Case(row, serializable(promises.D1, order), history)


def list_appends(rng: Random) -> History:
    """Generate transactions of ten processes, with one to four operations on ten keys each."""
    lists: defaultdict[int, list[int]] = defaultdict(list)
    names, values = list(range(10)), count()
    now, free_ns = 0, [0] * 10
    operations = []
    for _ in range(TRANSACTIONS):
        process = rng.randrange(10)
        invoked_ns = max(free_ns[process], now - rng.randrange(10)) + 1
        now = max(now, invoked_ns) + 1
        free_ns[process] = now + rng.randrange(1, 20)
        result: list[list[Any]] = []
        for name in rng.choices(names, k=rng.randrange(1, 5)):
            if rng.choice((True, False)):
                result.append(["r", name, list(lists[name])])
            else:
                lists[name].append(next(values))
                result.append(["append", name, lists[name][-1]])
        argument = [[what, name, None if what == "r" else value] for what, name, value in result]
        times = (invoked_ns, free_ns[process])
        operations.append(
            Operation(process, "txn", {"operations": argument}, Outcome.OK, *times, result)
        )
        for index, name in enumerate(names):
            if len(lists[name]) >= VALUES:
                names[index] = max(names) + 1
    return History(tuple(sorted(operations, key=lambda operation: operation.invoked_ns)))


def judge(case: Case) -> None:
    """Time one check, after a garbage collection."""
    gc.collect()
    began = time.perf_counter()
    verdict = case.checker(case.history)
    case.ours_ms.append((time.perf_counter() - began) * 1000)
    assert verdict.is_valid or case.kind, f"{case.row} is valid by construction: {verdict}"


def run_peer_ms(command: Sequence[str], case: Case) -> float:
    """Return the time that the peer reports."""
    arguments = [*command, case.kind, str(case.path)]
    answer = subprocess.run(  # noqa: S603 - the user's command
        arguments, check=True, capture_output=True, text=True
    )
    return float(answer.stdout)


def table(title: str, cases: Sequence[Case]) -> Table:
    """Make a table with a row for each group of cases."""
    rows: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        rows[case.row].append(case)
    result = Table(
        "", "operations", "ours, ms", "operations/s", "peer, ms", "ours / peer", title=title
    )
    for row, group in rows.items():
        operations = sum(len(case.history) for case in group)
        ours_ms = sum(median(case.ours_ms) for case in group)
        cells = [row, f"{operations}", f"{ours_ms:.1f}", f"{operations / ours_ms * 1000:,.0f}"]
        if all(case.peer_ms for case in group):
            peer_ms = sum(median(case.peer_ms) for case in group)
            cells += [f"{peer_ms:.1f}", f"{ours_ms / peer_ms:.2f}"]
        result.add_row(*cells)
    return result


def main() -> None:
    """Judge all cases in turn, for a number of rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--histories", type=Path, default=recorded.FOLDER)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", type=shlex.split, default=[])
    options = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        groups = {"unique values": list(unique_cases(Path(folder)))}
        groups["list-append"] = list(transaction_cases())
        if options.histories is not None:
            groups["recorded"] = list(recorded_cases(options.histories))
        for _ in range(options.rounds):
            for case in (case for cases in groups.values() for case in cases):
                judge(case)
                if options.peer and case.path is not None:
                    case.peer_ms.append(run_peer_ms(options.peer, case))
    for title, cases in groups.items():
        console.print(table(title, cases))


if __name__ == "__main__":
    main()
