"""Tests of trends over stored runs: the history outlives the folders, and a change is news once."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest

from harness.cli import main as command
from harness.core.errors import UsageError
from harness.report import folder
from harness.report.page import render_index
from harness.report.run_drawings import drawings
from harness.runs.run_trends import update

NIGHTS = 24


def night(reports: Path, number: int, seconds: float, target: str = "toy") -> Path:
    """A gate of one night that took so long."""
    run = reports / "runs" / f"202611{number + 1:02}T020000-gate-{target}"
    run.mkdir(parents=True)
    folder.write_json(run / folder.PLAN, {"what": "gate", "target": target, "scenarios": ["a"]})
    folder.write_json(
        run / folder.VERDICT, {"conclusion": "valid", "seconds": seconds, "scenarios": []}
    )
    return run


def nights(reports: Path, slower_from: int, count: int = NIGHTS) -> None:
    rng = Random(1)
    for number in range(count):
        level = 60 if number >= slower_from else 40
        night(reports, number, round(level * rng.uniform(0.97, 1.03), 3))


def test_slower_nights_are_named_with_their_first_run(tmp_path: Path) -> None:
    """The figure, both levels, and the run; other figures are quiet."""
    nights(tmp_path, 16)
    (shift,) = update(tmp_path, tmp_path / "h.sqlite").shifts
    assert (shift.series, shift.figure) == ("gate toy", "seconds")
    assert shift.run == "20261117T020000-gate-toy"
    assert "+50%" in str(shift) or "+49%" in str(shift) or "+51%" in str(shift)


def test_change_is_news_once(tmp_path: Path) -> None:
    """In the first night that shows it; later ones know it."""
    history, seen = tmp_path / "h.sqlite", []
    rng = Random(1)
    nights(tmp_path, 15, 17)
    assert update(tmp_path, history).new == []
    for number in range(17, NIGHTS):
        night(tmp_path, number, 60 * rng.uniform(0.97, 1.03))
        seen.append(len(update(tmp_path, history).new))
    assert sum(seen) == 1
    assert seen.index(1) >= 2


def test_history_outlives_the_run_folders(tmp_path: Path) -> None:
    """A fresh machine has the file alone; the next night is judged beside the former ones."""
    nights(tmp_path / "old", 16, NIGHTS - 1)
    update(tmp_path / "old", tmp_path / "h.sqlite")
    shutil.rmtree(tmp_path / "old")
    night(tmp_path / "new", NIGHTS - 1, 60)
    trends = update(tmp_path / "new", tmp_path / "h.sqlite")
    assert trends.added == 1
    assert len(trends.shifts) == 1


def test_killed_run_is_left_out(tmp_path: Path) -> None:
    """Its figures are those of a part; so is a damaged folder, and a night that is known."""
    killed = night(tmp_path, 1, 40)
    (killed / folder.VERDICT).unlink()
    (night(tmp_path, 2, 40) / folder.VERDICT).write_text("{", encoding="utf-8")
    night(tmp_path, 3, 40)
    history = tmp_path / "h.sqlite"
    assert ">damaged</td>" in render_index(tmp_path)
    assert [update(tmp_path, history).added for _ in range(2)] == [1, 0]


def test_targets_are_series_of_their_own(tmp_path: Path) -> None:
    """Two targets of different speed are no change."""
    for number in range(NIGHTS):
        night(tmp_path, number, 40 + number % 2, "slow" if number >= 12 else "quick")
    assert update(tmp_path, tmp_path / "h.sqlite").shifts == []


def test_damaged_history_is_named(tmp_path: Path) -> None:
    (tmp_path / "h.sqlite").write_text("no database, and longer than a header of one" * 9)
    with pytest.raises(UsageError, match=r"h\.sqlite: expected a history of runs"):
        update(tmp_path, tmp_path / "h.sqlite")


def test_command_is_red_and_marks_the_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 for a new change, 0 when nothing was added; the page marks the place."""
    nights(tmp_path, 19, 21)
    arguments = ["trends", "--reports", str(tmp_path), "--json"]
    codes = [command.run_command(arguments)]
    for number in range(21, NIGHTS + 3):
        night(tmp_path, number, 60 + number % 2)
        codes.append(command.run_command(arguments))
    documents = capsys.readouterr().out
    assert sorted(codes) == [0, 0, 0, 0, 0, 0, 1]
    assert documents.count('"is_new": true') == 1
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert index.count('class="mark"') == 1
    assert "changed</b> from 39.99 to 60 since" in index
    (drawing, *_) = drawings(tmp_path / "history.sqlite")
    assert drawing.dots[18][0] < drawing.marks[0] < drawing.dots[19][0]
