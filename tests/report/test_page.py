"""Tests of the page of a run, and of the index of runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.state_rows import StateRow
from harness.core.verdict import Anomaly, ExpectationCount, Verdict
from harness.report import folder, page
from harness.report.judgement import Record

SAID = Operation(0, "append", {"text": "<script>"}, Outcome.OK, 1, 2, result=["<b>"])


def lost(steps: int) -> Anomaly:
    """The same finding with a proof of that length."""
    return Anomaly(
        promises.D1, "append lost 'x'", (SAID,) * steps, expected="[1, 2]", observed="[1]"
    )


def a_conclusion(*records: Record) -> dict[str, object]:
    return {
        "conclusion": "invalid",
        "target": "reference",
        "seed": 7,
        "seconds": 2.5,
        "scenarios": [record.to_json() for record in records],
        "skipped": {"other": "the target cannot do it"},
        "unfinished": ["late"],
        "broken": {},
        "canaries": {"commit-every-turn": "detected"},
    }


def a_record(name: str, verdict: Verdict) -> Record:
    replay = (f"harness replay runs/{name}/failure.json",)
    return Record(name, "model", ("D1",), verdict, 1, 1_000, "digest", 1.0, replay)


def test_page_groups_one_finding_of_two_scenarios(tmp_path: Path) -> None:
    """The shortest proof stands for both; expected, observed and the replay are there."""
    run = folder.create(tmp_path, "gate", 7, {"target": "reference"})
    records = [a_record("long", Verdict((lost(9),))), a_record("short", Verdict((lost(2),)))]

    text = page.render(a_conclusion(*records), run)

    assert text.count("append lost") == 1
    assert text.count("<li><code>") == 2
    assert "short, long" in text
    assert "harness replay runs/short/failure.json" in text
    assert "[1, 2]" in text
    for name in ("late", "other", "commit-every-turn"):
        assert name in text


def test_page_shows_what_the_model_knows(tmp_path: Path) -> None:
    """Before the operation and after the expected answer; what is the same, changed or unknown."""
    run = folder.create(tmp_path, "gate", 7, {"target": "reference"})
    rows = StateRow("sessions[a].title", "'<old>'", "'new'"), StateRow("clock", "4", "4")

    def rendered(*state: StateRow) -> str:
        record = a_record("one", Verdict((replace(lost(1), state=state),)))
        return page.render(a_conclusion(record), run)

    whole, unknown = rendered(*rows), rendered(StateRow("runs", "()"))

    assert "<code>&#39;&lt;old&gt;&#39;</code>" in whole
    assert '<code>&#39;new&#39;</code> <b class="changed">changed</b>' in whole
    assert 'class="soft">the same</td>' in whole
    assert "the model's state before; after the expected answer it is unknown" in unknown
    assert "the model's state" not in rendered()


def test_page_is_whole_and_escapes_answers(tmp_path: Path) -> None:
    """It opens without a network, and no answer becomes markup."""
    run = folder.create(tmp_path, "gate", 7, {"target": "reference"})

    text = page.render(a_conclusion(a_record("one", Verdict((lost(1),)))), run)

    assert "<script" not in text
    assert "<b>&#39;" not in text
    assert "&lt;script&gt;" in text
    assert "http" not in text
    assert "<link" not in text


def test_page_shows_the_timeline_of_a_failure(tmp_path: Path) -> None:
    run = folder.create(tmp_path, "gate", 7, {"target": "reference"})
    (run / "one").mkdir()
    figure = "<figure><svg></svg></figure>"
    (run / "one" / "timeline.html").write_text(f"<html>{figure}</html>", encoding="utf-8")

    assert figure in page.render(a_conclusion(a_record("one", Verdict((lost(1),)))), run)


def test_page_says_which_expectation_was_not_met(tmp_path: Path) -> None:
    run = folder.create(tmp_path, "gate", 7, {"target": "reference"})
    unmet = Verdict(expectations=(ExpectationCount("a kill", 0, 2),))

    text = page.render(a_conclusion(a_record("one", unmet)), run)

    assert "a kill: 0 of 2 needed" in text
    assert "not met" in text


def test_index_lists_runs_newest_first(tmp_path: Path) -> None:
    """A run that was killed has no verdict, and is listed."""
    for seed, conclusion in ((1, a_conclusion(a_record("one", Verdict((lost(1),))))), (2, None)):
        run = folder.create(tmp_path, "gate", seed, {"target": "reference"})
        if conclusion is not None:
            folder.write_json(run / folder.VERDICT, conclusion)
            folder.write_text(run / page.PAGE, page.render(conclusion, run))

    text = page.render_index(tmp_path)

    assert text.index("gate-2") < text.index("gate-1")
    assert "no verdict" in text
    assert "report.html" in text
    assert ">D1<" in text
