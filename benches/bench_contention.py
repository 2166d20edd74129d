"""How long writers wait on one state.db, target by target: what the scenarios judge, as numbers.

    python benches/bench_contention.py [TARGET...] [--rounds 3] [--messages 100]

All targets run in turn, round after round, each on a fresh file, and the median of the rounds is
told: the ratios mean something, the figures are only a scale. `harness list` names the targets; in
place of any stand the reference and the bare policies. Waits, shares and overtaking are those of
`harness.contract.checkers.state_db.wait_times`; how long the lock is held is seen from the statements, in a run apart.
"""

# A script, not a package, and it speaks to the terminal:
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.contract.checkers.state_db.lock_discipline import held_ms
from harness.contract.checkers.state_db.wait_times import Waits, measure, writes_of
from harness.contract.checkers.state_db.wal_size import log_high_water_bytes
from harness.contract.workloads.database_writers import ABILITY, Crowd, Round, Step, crowd
from harness.core.history import History, Journal, read
from harness.engine.context import Stage
from harness.engine.target import Target
from harness.targets.registry import find_target
from harness.targets.sqlite.target import POLICIES

SHAPES = ((8, 1), (32, 1), (8, 4))  # members, and hands of each
TEXT = "the quick brown fox jumps over the lazy dog and then some more of the same " * 3
HEAD = (
    "writes/s     p50     p99   p99.9     max  overtaken  Jain  convoy  log/MiB  held/ms  refused"
)

Play = Callable[[Crowd], None]


def write_at_once(members: int, hands: int, messages: int) -> Play:
    """All begin together once each has written, and write as fast as they can."""

    def play(gathered: Crowd) -> None:
        gathered.ask()  # whoever makes the file is alone: not every target survives it otherwise
        crew = []
        for index in range(members):
            sessions = [f"s{index}-{hand}" for hand in range(hands)]
            create: list[Step] = [
                ("create", {"session": session, "source": "cli"}) for session in sessions
            ]
            begin = Round([*create, ("await", {"name": "all"})])
            crew.append(gathered.fork(*([begin, *_work(each, messages)] for each in sessions)))
        for member in crew:
            gathered.await_told(member, "create", hands * hands)
        gathered.call_out("all")
        gathered.bury_all()

    return play


def _work(session: str, messages: int) -> list[Round]:
    append: Step = ("append", {"session": session, "role": "user", "text": f"{TEXT} {{n}}"})
    return [Round([append, append, append, append, ("log_bytes", {})], messages // 4)]


def watch(gathered: Crowd) -> None:
    """Four writers, whose statements are watched."""
    gathered.ask(*[("create", {"session": f"s{n}", "source": "cli"}) for n in range(4)])
    with gathered.gathered():
        for number in range(4):
            gathered.fork(_work(f"s{number}", 40), watched=True)
    gathered.bury_all()


def played(target: Target, play: Play) -> History:
    """What a crowd of this target noted."""
    with tempfile.TemporaryDirectory(prefix="bench-contention-") as place:
        path = Path(place) / "history.jsonl"
        with (
            Journal(path, time.monotonic_ns) as journal,
            crowd(Stage(target, ABILITY, "bench", 1, journal)) as gathered,
        ):
            play(gathered)
        (history,) = read(path)
        return history


def row(histories: Sequence[History], held: float) -> str:
    """One line of the table: medians over the rounds."""
    waits = [measure(writes_of(history, ("append",))) for history in histories]

    def of(number: Callable[[Waits], float | None]) -> float:
        return statistics.median(value for each in waits if (value := number(each)) is not None)

    log_mib = statistics.median(log_high_water_bytes(each) for each in histories) / 2**20
    return (
        f"{of(lambda w: w.per_s):8.0f}{of(lambda w: w.p50_ms):8.1f}{of(lambda w: w.p99_ms):8.1f}"
        f"{of(lambda w: w.p999_ms):8.1f}{of(lambda w: w.max_ms):8.1f}"
        f"{of(lambda w: w.overtaken_max):11.0f}{of(lambda w: w.jain or 0.0):6.2f}"
        f"{of(lambda w: w.convoy):8.1f}{log_mib:9.1f}{held:9.2f}{of(lambda w: w.refused):9.0f}"
    )


def main() -> None:
    """Measure, and print a table for each shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=100, help="of each hand")
    asked = parser.parse_args()
    names = asked.targets or ["reference", *(f"sqlite@{policy}" for policy in POLICIES)]
    targets = [find_target(name) for name in names]
    for target in targets:
        target.prepare()
    held = {each.name: statistics.median(held_ms(played(each, watch))) for each in targets}
    width = max(map(len, names)) + 2
    for members, hands in SHAPES:
        told: dict[str, list[History]] = {target.name: [] for target in targets}
        for _ in range(asked.rounds):
            for target in targets:
                play = write_at_once(members, hands, asked.messages)
                told[target.name].append(played(target, play))
        print(f"\n{members} processes x {hands} threads; waits in ms\n{'':{width}}{HEAD}")
        for name, histories in told.items():
            print(f"{name:{width}}{row(histories, held[name])}", flush=True)


if __name__ == "__main__":
    main()
