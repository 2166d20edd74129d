"""Tests of the comparison of two targets: quiet without a difference, red for a slow-down."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.cli import main as command
from harness.core.errors import TargetUnavailableError
from harness.runs import compare
from harness.runs import figures as figures_module
from harness.runs.compare import Comparison, Host, drawn_order, judged, log_ratio, markdown
from harness.runs.figures import (
    BOOT,
    CPU,
    EVENT_P99,
    FIGURES,
    LIST,
    SEARCH,
    TAILS,
    TURN,
    idle_shares,
    lock_waits,
)
from harness.runs.ratios import (
    ALPHA,
    Word,
    blocks_needed,
    centre,
    corrected,
    exit_code,
    interval,
)
from harness.targets.reference.target import ReferenceTarget
from tests.support.simulated_rounds import MACHINES, Blocks, simulated

FEW = 20  # resamples
LONG_S = 20.0


class Loop:
    """A process that runs one line, and says when it begins."""

    def __init__(self, line: str) -> None:
        command = [sys.executable, "-S", "-c", f"import time; print(1, flush=True); {line}"]
        command[-1] = command[-1].replace("; while", "\nwhile")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603
        self.pid = self._process.pid

    def await_start(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def words(blocks: Blocks, margin: float = 0.03) -> dict[str, Word]:
    return {row.figure: row.word for row in judged(blocks, FIGURES, margin, 1, FEW)}


@pytest.mark.parametrize("machine", MACHINES)
def test_no_difference_is_quiet(machine: str) -> None:
    """No row is slower or faster: drift and bursts meet both sides alike."""
    for seed in range(2):
        found = words(simulated(MACHINES[machine], Random(seed), 14))
        assert not {Word.SLOWER, Word.FASTER} & set(found.values())


def test_slower_figure_alone_is_named() -> None:
    """On a machine with bursts; the other figures of the run stay quiet."""
    slower = {TURN: 1.2, LIST: 1 / 1.2}
    found = words(simulated(MACHINES["shared"], Random(1), 14, slower))
    assert found.pop(TURN) is Word.SLOWER
    assert found.pop(LIST) is Word.FASTER
    assert not {Word.SLOWER, Word.FASTER} & set(found.values())


def test_slow_down_within_the_margin_is_none() -> None:
    """It is significant on a quiet machine, and yet the same; with a margin of 0 it is slower."""
    blocks = simulated(MACHINES["quiet"], Random(1), 14, {CPU: 1.02})
    assert words(blocks)[CPU] is Word.SAME
    assert words(blocks, 0.0)[CPU] is Word.SLOWER


def test_order_of_sides_is_drawn_evenly() -> None:
    """A fixed order would let what the first round pays count against one side."""
    rng = Random(1)
    first = sum(drawn_order(rng) == ("a", "b") for _ in range(400))
    assert 150 < first < 250


def test_drift_within_a_group_cancels() -> None:
    """A machine that becomes slower with each round: A B B A and B A A B give a ratio of one."""
    costs = [math.exp(0.1 * number) for number in range(8)]
    a, b = [costs[i] for i in (0, 3, 5, 6)], [costs[i] for i in (1, 2, 4, 7)]
    assert log_ratio(a, b) == pytest.approx(0)
    assert log_ratio([2.0], [4.0]) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1 * n for n in range(1, 13)], 2 / 2**12),
        ([0.1] * 8, 2 / 2**8),  # ties
        ([0.1] * 7 + [0.0], 4 / 2**8),  # a zero has no sign
        ([0.0] * 12, 1.0),
        ([-1.0, 1.0], 1.0),
    ],
)
def test_chance_is_exact(values: Sequence[float], expected: float) -> None:
    """By the number of assignments of signs; a figure twice is one figure."""
    assert corrected([values]) == pytest.approx([expected])
    assert corrected([values, values]) == pytest.approx([expected] * 2)


def test_correction_counts_other_figures() -> None:
    """No p-value is below its own alone; that of a large effect stays small."""
    rng = Random(1)
    rows = [[rng.gauss(shift, 1) for _ in range(12)] for shift in (2, 0.4, 0, 0)]
    alone = [corrected([row])[0] for row in rows]
    together = corrected(rows)
    assert all(a <= b for a, b in zip(alone, together, strict=True))
    assert together[0] < 0.01 < min(together[1:])
    assert together[1] > alone[1]
    assert corrected([]) == []


def test_many_blocks_are_drawn() -> None:
    """Above 14 blocks signs are drawn, with nearly the same p-value, and the seed's."""
    rng = Random(1)
    rows = [[rng.gauss(0.5, 1) for _ in range(14)], [rng.gauss(0, 1) for _ in range(14)]]
    padded = [[*row, 0.0] for row in rows]
    assert corrected(padded, 1) == pytest.approx(corrected(rows), abs=0.02)
    assert corrected(padded, 1) == corrected(padded, 1)


def test_enough_blocks_can_be_significant() -> None:
    """One fewer cannot, however large the difference, where the figures have nothing in common."""
    for figures in (1, 8, 16):
        needed = blocks_needed(figures)
        assert 2 / 2**needed * figures <= ALPHA < 2 / 2 ** (needed - 1) * figures


def test_interval_holds_the_centre() -> None:
    """One disturbed block hardly moves the centre; equal values need no resampling."""
    values = [0.01 * n for n in range(-5, 6)]
    assert centre(values) == pytest.approx(0)
    assert abs(centre([*values, 9.0])) < 0.02
    low, high = interval(values, 1)
    assert low < 0 < high
    assert interval([0.5] * 3, 1) == (0.5, 0.5)


def test_exit_code_is_1_for_slower_only() -> None:
    """2 where a figure is too noisy, and where there is none."""

    def code(*given: Word) -> int:
        every = judged(simulated(MACHINES["quiet"], Random(1), 12), (TURN,), 0.5, 1, FEW)
        return exit_code([replace(every[0], word=word) for word in given])

    assert code(Word.SAME, Word.FASTER) == 0
    assert code(Word.SAME, Word.TOO_NOISY) == 2
    assert code(Word.TOO_NOISY, Word.SLOWER) == 1
    assert code() == 2


def test_noisy_tail_is_no_verdict() -> None:
    """A high percentile may be too noisy, but not slower; asked for alone it must be clear."""
    (row,) = judged(simulated(MACHINES["quiet"], Random(1), 13), (EVENT_P99,), 0.5, 1, FEW)
    noisy = replace(row, word=Word.TOO_NOISY)
    quiet = replace(row, figure=TURN, word=Word.SAME)
    assert exit_code([noisy, quiet], TAILS) == 0
    assert exit_code([noisy, quiet]) == 2
    assert exit_code([replace(noisy, word=Word.SLOWER), quiet], TAILS) == 1


class ProbeClock:
    """A clock that the pauses of a probe advance; `has_waited` once they are 30 ms."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.has_waited = threading.Event()

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += 0.001
        if self.now_s >= 0.03:
            self.has_waited.set()
        time.sleep(seconds)


def test_lock_wait_shows_a_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait of another writer lasts as long as the lock is held; no file, no wait."""
    clock = ProbeClock()
    monkeypatch.setattr(figures_module, "time", clock)
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("CREATE TABLE held (id)")
        holder.execute("BEGIN IMMEDIATE")
        with lock_waits(str(path)) as waits_ms:
            assert clock.has_waited.wait(LONG_S)
            held = list(waits_ms)
            holder.execute("ROLLBACK")
            while not waits_ms:
                time.sleep(0.001)
    assert held == []
    assert waits_ms[0] >= 30

    with lock_waits(str(tmp_path / "absent.db")) as none:
        pass
    assert none == []
    assert not (tmp_path / "absent.db").exists()


def test_idle_share_shows_a_busy_process() -> None:
    """A process that computes costs nearly a core; one that sleeps counts as the floor."""
    with closing(Loop("while True: pass")) as busy, closing(Loop("time.sleep(60)")) as idle:
        for each in (busy, idle):
            each.await_start()
        shares = idle_shares([busy.pid, idle.pid], 0.3)
    assert shares[0] > 5
    assert shares[1] < shares[0] / 4


def test_figure_of_one_side_is_unavailable() -> None:
    """It is no row, and the table says so."""
    blocks = simulated(MACHINES["quiet"], Random(1), 12)
    for figures in blocks[0]["b"]:
        figures.pop(SEARCH, None)
    rows = judged(blocks, FIGURES, 0.03, 1, FEW)
    assert SEARCH not in {row.figure for row in rows}
    assert BOOT in {row.figure for row in rows}
    result: dict[str, Any] = {"conclusion": "same", "a": "x", "b": "y", "seed": 1, "blocks": 12}
    result |= {"margin": 0.03, "seconds": 1, "unavailable": [SEARCH]}
    result["figures"] = [row.to_json() for row in rows]
    assert f"| {SEARCH} | - |" in markdown(result)


def test_command_writes_rounds_and_is_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With simulated rounds in place of servers."""
    rounds = iter(simulated(MACHINES["quiet"], Random(2), 14, {TURN: 1.3}))
    monkeypatch.setattr(compare, "measure_block", lambda *_: next(rounds))
    monkeypatch.setattr(compare, "cores", lambda: ([], []))
    monkeypatch.setattr(compare, "count_boot", lambda *_: {})
    arguments = ["compare", "reference", "reference", "--seed", "2", "--json"]

    assert command.run_command([*arguments, "--reports", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["conclusion"] == "slower"
    (red,) = [row for row in document["figures"] if row["word"] == "slower"]
    assert red["figure"] == TURN
    stored = json.loads((Path(document["run"]) / compare.RESULT).read_text(encoding="utf-8"))
    assert len(stored["rounds"]) == 14
    assert f"| {TURN} |" in captured.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["refrence", "reference"], "unknown target 'refrence'"),
        (["reference", "sqlite@jitter-15"], "target 'sqlite@jitter-15' has no ability 'measured'"),
        (["reference", "reference", "--blocks", "5"], "need at least 12 blocks"),
        (["reference", "reference", "--figure", "turns"], "unknown figure 'turns'"),
    ],
)
def test_comparison_that_cannot_be_made_is_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured."""
    assert command.run_command(["compare", *arguments]) == 254
    assert sentence in capsys.readouterr().err


def test_side_that_does_not_boot_is_named(tmp_path: Path) -> None:
    """The message has the target and its reason; no process is left."""
    target = f"reference@{tmp_path}"
    with (
        pytest.raises(TargetUnavailableError, match="contains no package reference_impl"),
        compare.hosted(target, Host(tmp_path, tmp_path / "database", [])),
    ):
        pytest.fail("it booted")


def test_database_is_filled_once_and_copied(tmp_path: Path) -> None:
    """Each block has the same rows, and what a server writes is in no later block."""
    target = ReferenceTarget()
    target.prepare()
    rows = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        instance = target.open("measured", tmp_path / name)
        filling = {"sessions": 3, "messages": 2, "template": str(tmp_path / "template")}
        instance.call("populate", filling)
        with closing(sqlite3.connect(tmp_path / name / "state" / "state.db")) as db, db:
            rows.append(db.execute("SELECT count(*) FROM messages").fetchone())
            db.execute("DELETE FROM messages")
        instance.close()
    assert rows == [(6,), (6,)]


def test_same_rounds_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All randomness of the judgement is the seed's."""
    monkeypatch.setattr(compare, "cores", lambda: ([], []))
    monkeypatch.setattr(compare, "count_boot", lambda *_: {})
    results: list[dict[str, Any]] = []
    for number in range(2):
        rounds = iter(simulated(MACHINES["shared"], Random(2), 14))
        monkeypatch.setattr(compare, "measure_block", lambda *_, rounds=rounds: next(rounds))
        comparison = Comparison(("reference", "reference"), 2, tmp_path / str(number))
        results.append(comparison.run(lambda _: None)[1])
    assert results[0]["figures"] == results[1]["figures"]
