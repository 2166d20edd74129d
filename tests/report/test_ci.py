"""Tests of what continuous integration shows: annotations, a comment, outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as command
from harness.contract import promises
from harness.core.verdict import VALID, Anomaly, Verdict
from harness.report import ci, folder
from harness.report.judgement import Record
from harness.runs.accepted import Accepted, Sorted
from harness.runs.gate import Conclusion, store

LOST = Anomaly(promises.S2, "a message is lost")
BACK = Anomaly(promises.S6, "a removed message is back")


def conclusion(*anomalies: Anomaly, **more: Any) -> dict[str, Any]:
    record = Record("turns", "model", ("S2",), Verdict(anomalies), 1, 1, "", 0.0)
    return Conclusion("toy", 1, Path("run"), 1.0, [record], **more).to_json()


def test_annotations_stand_at_lines_of_the_target(tmp_path: Path) -> None:
    """A file is found by its name where only one has it; another root or folder has none."""
    for name in ("pkg/turns.py", "one/same.py", "two/same.py", ".venv/hidden.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def site(text: str) -> str:
        (line,) = ci.workflow_commands(conclusion(LOST), {"turns": text}, tmp_path)
        return line.partition("title=")[0]

    assert site("unsynchronised: turns.py:432 writes") == "::error file=pkg/turns.py,line=432,"
    assert site(f"{tmp_path}/one/same.py:7") == "::error file=one/same.py,line=7,"
    assert site('File "two/same.py", line 9') == "::error file=two/same.py,line=9,"
    for unknown in ("same.py:1", "hidden.py:1", "/etc/turns.py:1", "nowhere.py:1", ""):
        assert site(unknown) == "::error "


def test_text_of_a_target_gives_no_command() -> None:
    """Line ends and signs of commands are escaped; a comment shows the text as code."""
    evil = Anomaly(promises.S2, "a\n::error::b, 100%: ```\n@owner <script>")
    (line,) = ci.workflow_commands(conclusion(evil), {}, None)
    assert "\n" not in line
    assert "100%25" in line
    comment = ci.comment(conclusion(evil))
    assert comment.count("```") == 2


def test_known_findings_are_notices_and_folded() -> None:
    """Only the new one is an error and is shown with its evidence."""
    known = Accepted("toy", "S2", LOST.signature, "its design")
    shown = conclusion(LOST, BACK, findings=Sorted(known=[known], new=[BACK]))

    error, notice = ci.workflow_commands(shown, {}, None)
    assert error.startswith("::error title=S6 broken::")
    assert notice.startswith("::notice title=S2%2C known::")
    comment = ci.comment(shown)
    assert "1 new finding, 1 known" in comment
    assert comment.index(BACK.message) < comment.index("known findings")


def test_gaps_and_failures_of_the_harness_are_shown() -> None:
    """Nothing that was not judged is passed over."""
    gaps = {"unfinished": ["y"], "broken": {"z": "why\nmore"}, "canaries": {"c": False}}
    lines = ci.workflow_commands(conclusion(**gaps), {}, None)
    assert [line.partition("::")[2].partition(" ")[0] for line in lines] == [
        "error",
        "error",
        "warning",
    ]


def test_many_annotations_are_bounded() -> None:
    """The last one says how many more there are."""
    many = [Anomaly(promises.S2, f"kind {chr(97 + n)} is lost") for n in range(25)]
    lines = ci.workflow_commands(conclusion(*many), {}, None)
    assert len(lines) == ci.ANNOTATIONS_MAX
    assert "16 more" in lines[-1]
    assert len(ci.comment(conclusion(*many))) <= ci.COMMENT_CHARS_MAX


def test_killed_gate_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it finished counts; the rest is unknown."""
    plan = {"what": "gate", "target": "toy", "seed": 1, "scenarios": ["a", "b"]}
    folder.write_json(tmp_path / folder.PLAN, plan)
    (tmp_path / "a").mkdir()
    record = Record("a", "model", ("S2",), VALID, 1, 1, "", 0.0)
    folder.write_json(tmp_path / "a" / folder.VERDICT, record.to_json())

    assert command.run_command(["ci", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (
        "::warning title=unknown::b: not finished within the budget\n"
    )
    assert "harness gate: unknown" in (tmp_path / "comment.md").read_text(encoding="utf-8")


def test_run_of_another_command_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a gate has a conclusion to report."""
    folder.write_json(tmp_path / folder.PLAN, {"what": "prove"})
    assert command.run_command(["ci", str(tmp_path)]) == 254
    assert "expected the run of a gate; got one of prove" in capsys.readouterr().err


def test_step_outputs_are_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier line of the file stays."""
    run = tmp_path / "runs" / "gate"
    run.mkdir(parents=True)
    folder.write_json(run / folder.PLAN, {"what": "gate"})
    store(Conclusion("toy", 1, run, 1.0, [Record("a", "model", (), VALID, 1, 1, "", 0.0)]))
    (tmp_path / "out").write_text("before=1\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "out"))

    assert command.run_command(["ci", str(run)]) == 0
    lines = (tmp_path / "out").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["before=1", "conclusion=valid", "exit-code=0"]
