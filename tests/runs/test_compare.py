"""Tests of the comparison of two targets: quiet without a difference, red for a slow-down."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.cli import main as command
from harness.core.errors import TargetUnavailableError
from harness.runs import compare
from harness.runs.compare import Comparison, drawn_order, judged, log_ratio, markdown
from harness.runs.figures import BOOT, CPU, FIGURES, LIST, SEARCH, TURN
from harness.runs.ratios import (
    ALPHA,
    Word,
    blocks_needed,
    centre,
    chance,
    corrected,
    exit_code,
    interval,
)
from tests.support.simulated_rounds import MACHINES, Blocks, simulated

FEW = 20  # resamples


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
    blocks = simulated(MACHINES["quiet"], Random(1), 12, {CPU: 1.02})
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
        ([0.1] * 7 + [0.0], 2 / 2**7),  # a zero has no sign
        ([0.0] * 12, 1.0),
        ([-1.0, 1.0], 1.0),
    ],
)
def test_chance_is_exact(values: Sequence[float], expected: float) -> None:
    """By the number of assignments of signs."""
    assert chance(values) == pytest.approx(expected)


def test_correction_is_holms() -> None:
    """Sorted, multiplied by how many are left, and never falling."""
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([0.9, 0.8]) == [1.0, 1.0]


def test_enough_blocks_can_be_significant() -> None:
    """One fewer cannot, however large the difference."""
    for figures in (1, 8, 10):
        needed = blocks_needed(figures)
        smallest = [
            chance([float(n) for n in range(1, blocks + 1)]) for blocks in (needed, needed - 1)
        ]
        assert smallest[0] * figures <= ALPHA < smallest[1] * figures


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
        (["reference", "sqlite@jitter-15"], "target 'sqlite@jitter-15' has no ability 'server'"),
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
        compare.hosted(target, tmp_path, []),
    ):
        pytest.fail("it booted")


def test_same_rounds_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All randomness of the judgement is the seed's."""
    monkeypatch.setattr(compare, "cores", lambda: ([], []))
    results: list[dict[str, Any]] = []
    for number in range(2):
        rounds = iter(simulated(MACHINES["shared"], Random(2), 14))
        monkeypatch.setattr(compare, "measure_block", lambda *_, rounds=rounds: next(rounds))
        comparison = Comparison(("reference", "reference"), 2, tmp_path / str(number))
        results.append(comparison.run(lambda _: None)[1])
    assert results[0]["figures"] == results[1]["figures"]
