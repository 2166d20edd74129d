"""Tests of the sources that targets put into stand-alone test files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.contract.promises import D1
from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly
from harness.engine.target import Target
from harness.report import standalone
from harness.targets.hermes_webui.target import CHECKOUT, HermesWebuiTarget
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
