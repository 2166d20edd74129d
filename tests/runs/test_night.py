"""Tests of a night: bounded steps, and a kill costs the step that was cut short alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cli import main as command
from harness.core.errors import UsageError
from harness.report import folder
from harness.runs import night as night_module
from harness.runs.night import STEPS, Night, Step


def fake(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[str]:
    """Steps that sleep so long, and a list of those that began."""
    began: list[str] = []

    def arguments(_night: Night, step: Step, *_: object) -> list[str]:
        name = next(name for name, each in night_module.STEPS.items() if each is step)
        began.append(name)
        return [str(seconds[name])]

    steps = {name: Step(0.5, (name,), goes_on=True) for name in seconds}
    monkeypatch.setattr(night_module, "STEPS", steps)
    monkeypatch.setattr(night_module, "STEP", "import sys, time; time.sleep(float(sys.argv[1]))")
    monkeypatch.setattr(night_module, "LOOK_S", 0.05)
    monkeypatch.setattr(night_module, "GRACE_S", 0.1)
    monkeypatch.setattr(Night, "_arguments", arguments)
    return began


def a_night(reports: Path, disk_bytes: int = 10**9, budget_s: float = 1.0) -> Night:
    return Night(reports, "reference", 1, budget_s, disk_bytes, time.time())


def test_step_that_does_not_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step is taken, and the night says which one was cut."""
    fake(monkeypatch, endless=600, short=0)
    night = a_night(tmp_path)
    night.run(lambda _: None)
    assert [step.state for step in night.steps.values()] == ["cut: time", "done"]
    assert [line.split(":")[0] for line in night.unfinished] == ["endless"]
    assert Night.begun(tmp_path, time.time()) is None


def test_step_that_fails_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exit code that is no verdict is in the digest."""
    fake(monkeypatch, broken=0)
    monkeypatch.setattr(night_module, "STEP", "import sys; sys.exit(255)")
    night = a_night(tmp_path)
    night.run(lambda _: None)
    assert night.unfinished[0].startswith("broken: done, exit code 255")


def test_full_disk_cuts_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is begun where there is no room."""
    began = fake(monkeypatch, first=0, second=0)
    (tmp_path / "large").write_bytes(bytes(4000))
    night = a_night(tmp_path, disk_bytes=3000)
    night.run(lambda _: None)
    assert [step.state for step in night.steps.values()] == ["cut: disk", "cut: disk"]
    assert began == []


def test_killed_night_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the step that was cut short, in the time that it has left."""
    began = fake(monkeypatch, first=0, second=0)
    killed = a_night(tmp_path)
    killed.steps = {
        "first": night_module.Progress("done", 0, 0.1),
        "second": night_module.Progress("running", None, 0.4, "a-run"),
    }
    killed.store()
    night = Night.begun(tmp_path, time.time() + 60)
    assert night is not None
    night.run(lambda _: None)
    assert began == ["second"]
    assert night.steps["second"].seconds > 0.4
    assert night.unfinished == []


def test_step_begun_anew_has_its_whole_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate of one second would judge nothing."""
    fake(monkeypatch, gate=0)
    said: list[str] = []
    night = a_night(tmp_path, budget_s=100)
    night.steps = {"gate": night_module.Progress("running", None, 49.0, "a-run")}
    night.run(said.append)
    assert said[0] == "gate: 1 s left"

    monkeypatch.setattr(night_module, "STEPS", {"gate": Step(0.5, ("gate",))})
    night.steps = {"gate": night_module.Progress("running", None, 49.0, "a-run")}
    night.run(said.append)
    assert said[2] == "gate: 50 s"


def test_night_of_another_day_is_over(tmp_path: Path) -> None:
    """A new one begins; so it does without a file, and a damaged one is named."""
    assert Night.begun(tmp_path, time.time()) is None
    a_night(tmp_path).store()
    assert Night.begun(tmp_path, time.time() + 10) is not None
    assert Night.begun(tmp_path, time.time() + 86_400) is None
    (tmp_path / night_module.FILE).write_text('{"steps": 3}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"night\.json: damaged"):
        Night.begun(tmp_path, time.time())


def test_soak_goes_on_in_its_folder(tmp_path: Path) -> None:
    """Other steps begin anew, and mutants in their session."""
    night = a_night(tmp_path, budget_s=1000)
    begun = night_module.Progress("running", None, 10.0, "20261128T020000-soak-1")
    resumed = night._arguments(STEPS["soak"], begun, 50)
    assert resumed[:3] == ["soak", "--resume", str(tmp_path / "runs" / begun.run)]
    anew = night._arguments(STEPS["gate"], begun, 50)
    assert anew[:3] == ["gate", "--budget", "50s"]
    mutants = night._arguments(STEPS["mutants"], begun, 50)
    assert str(tmp_path / night_module.MUTANTS) in mutants


def test_steps_are_commands_with_their_options(tmp_path: Path) -> None:
    """Each can be parsed, and the shares are those of one night."""
    night = a_night(tmp_path, budget_s=1000)
    for step in STEPS.values():
        name, *arguments = night._arguments(step, night_module.Progress(), 50)
        command.cli.commands[name].make_context(name, arguments)
    assert sum(step.share for step in STEPS.values()) == pytest.approx(1)


def test_digest_names_what_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2; the page and the document have the step."""
    fake(monkeypatch, endless=600)
    arguments = ["night", "--budget", "1s", "--reports", str(tmp_path), "--json"]
    assert command.run_command(arguments) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["not_finished"][0].startswith("endless: cut: time")
    assert "Not finished" in (tmp_path / "digest.html").read_text(encoding="utf-8")


PARENT = """
import sys, time
from pathlib import Path
from harness.runs import night

place = Path(sys.argv[1])
night.STEPS = {"one": night.Step(1, ("one",))}
lifeline, _ = night.STEP.split("from harness.__main__")
night.STEP = lifeline + f"exec(open({str(place / 'step.py')!r}).read())"
night.Night(place, "reference", 1, 600, 10**9, time.time()).run(print)
"""
CHILD = """
import os, time

with open({0!r}, "w") as file:
    file.write(str(os.getpid()))
os.rename({0!r}, {1!r})
time.sleep(600)
"""


def test_killed_night_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL of the night ends its step too."""
    pid = tmp_path / "pid"
    (tmp_path / "step.py").write_text(CHILD.format(str(tmp_path / "new"), str(pid)))
    command_line = [sys.executable, "-c", PARENT, str(tmp_path)]
    parent = subprocess.Popen(command_line, cwd=Path(__file__).parents[2])  # noqa: S603
    while not pid.exists():
        assert parent.poll() is None
        time.sleep(0.01)
    step = int(pid.read_text())
    parent.kill()
    parent.wait()
    while _state(step) != "Z":
        time.sleep(0.01)
    assert folder.read_json(tmp_path / night_module.FILE)["steps"]["one"]["state"] == "running"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
