"""Tests of the sources that targets put into stand-alone test files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.contract.promises import D1
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict
from harness.engine.target import Target
from harness.report import standalone
from harness.runs.replay import ReplayResult
from harness.targets.hermes_webui.target import CHECKOUT, HermesWebuiTarget
from harness.targets.paths import import_root
from harness.targets.reference.target import ReferenceTarget
from harness.targets.registry import find_target

CALL = Operation(0, "call", {}, Outcome.OK, 0, 1, result=1)
PLANTED = "reference+commit-every-turn"


def load(target: Target, ability: str) -> ModuleType:
    """Execute the file of a failure of this target, as pytest does when it collects it."""
    text = standalone.render(
        Anomaly(D1, "wrong", (CALL,)),
        adapter=target.standalone(ability),
        target=target.name,
        scenario="any",
        seed=1,
        file="test_any_d1.py",
    )
    module = ModuleType("test_any_d1")
    exec(compile(text, "test_any_d1.py", "exec"), module.__dict__)  # noqa: S102  source of ours
    return module


@pytest.mark.parametrize(
    ("spec", "ability", "missing"),
    [
        ("hermes-agent==0.19.0", "state_db", "needs: pip install hermes-agent==0.19.0"),
        ("hermes-agent==0.19.0", "state_db_crash", "needs: pip install hermes-agent==0.19.0"),
        ("reference", "lifecycle", "needs: pip install hermes-harness=="),
        (PLANTED, "lifecycle", "needs: pip install hermes-harness=="),
        ("reference@/deleted", "lifecycle", "needs the folder that was judged: /deleted"),
        ("reference@/deleted", "state_db_crash", "needs the folder that was judged: /deleted"),
        ("hermes-webui@/deleted", "http", "needs a checkout of hermes-webui in HERMES_WEBUI"),
        ("hermes-webui@/deleted", "lifecycle", "needs the folder that was judged: /deleted"),
    ],
)
def test_file_without_its_subject_is_skipped(
    spec: str, ability: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to install; it never judges another subject."""
    target = find_target(spec)
    monkeypatch.setitem(sys.modules, "harness", None)  # as where it is not installed
    monkeypatch.delenv(CHECKOUT, raising=False)
    monkeypatch.setattr(sys, "path", sys.path.copy())

    with pytest.raises(pytest.skip.Exception, match=missing):
        load(target, ability)


FAILURE = {
    "scenario": "lifecycle-threads",
    "target": "reference",
    "seed": 1,
    "notes": {},
    "anomaly": Anomaly(D1, "wrong", (CALL,)).to_json(),
}
NEEDED = "pytest.importorskip('harness', reason='needs: pip install hermes-harness==1')"


def load_replay(target_name: str = "'reference'") -> ModuleType:
    """Execute the file of a failure that the harness replays."""
    text = standalone.render_replay(
        FAILURE, Anomaly(D1, "wrong", (CALL,)), "test_d1.py", needed=NEEDED, target_name=target_name
    )
    module = ModuleType("test_d1")
    exec(compile(text, "test_d1.py", "exec"), module.__dict__)  # noqa: S102  source of ours
    return module


def test_replay_without_the_harness_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "harness", None)

    with pytest.raises(pytest.skip.Exception, match="needs: pip install hermes-harness==1"):
        load_replay()


def test_replay_judges_by_the_checker() -> None:
    """An anomaly in any try fails; a missing subject and an unknown verdict are skipped."""
    anomaly = Anomaly(D1, "wrong", (CALL,))
    module = load_replay()
    module.failure_of = lambda failure: failure  # type: ignore[attr-defined]

    def judged(*verdicts: Verdict) -> None:
        results = iter(verdicts)
        module.run = lambda *_: ReplayResult(History(), next(results))  # type: ignore[attr-defined]
        module.test_d1()

    kept = [Verdict()] * standalone.REPLAYS
    judged(*kept)
    with pytest.raises(AssertionError):
        judged(Verdict(), Verdict((anomaly,)))
    with pytest.raises(pytest.skip.Exception, match="could not be judged: no reply"):
        judged(*kept[1:], Verdict(unknowns=("no reply",)))


def test_replay_of_a_missing_copy_is_skipped() -> None:
    """It names the folder, and never judges the reference that is installed."""
    with pytest.raises(pytest.skip.Exception, match=r"needs what was judged: .*/deleted contains"):
        load_replay("'reference@/deleted'").test_d1()


def test_reference_is_named_by_its_folder() -> None:
    """In the files: an installed reference is another subject than that of a checkout."""
    assert ReferenceTarget().standalone_name == repr(f"reference@{import_root()}")
    assert str(import_root()) in ReferenceTarget().standalone_needs
    assert CHECKOUT in HermesWebuiTarget(Path("/a")).standalone_name


def test_file_of_a_copy_refuses_another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was imported before would be the one on trial."""
    (tmp_path / "reference_impl").mkdir()
    monkeypatch.setattr(sys, "path", sys.path.copy())

    with pytest.raises(AssertionError, match="this process imported"):
        load(ReferenceTarget(tmp_path), "lifecycle")


def test_file_of_a_checkout_finds_it_by_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another checkout than that of the run can be judged by the same file."""
    asked: list[str] = []
    (tmp_path / "server.py").touch()
    monkeypatch.setenv(CHECKOUT, str(tmp_path))

    def find(spec: str) -> Target:
        asked.append(spec)
        return HermesWebuiTarget(tmp_path)

    monkeypatch.setattr("harness.targets.registry.find_target", find)
    monkeypatch.setattr(HermesWebuiTarget, "prepare", lambda _: None)
    load(HermesWebuiTarget(Path("/deleted")), "http")

    assert asked == [f"hermes-webui@{tmp_path}"]
