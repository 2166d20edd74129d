"""Checks that an interpreter on which the explorer's hooks fail is unknown, never green."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core.verdict import Validity
from harness.schedule import Budget, Level, Run, canary, explore
from harness.schedule.accesses import Accesses

ROOT = Path(__file__).parents[2]
HERE = __name__
PROGRAM = f"""
import threading
from harness.schedule import Budget, Level, explore
from {canary.__name__} import Locked, Plain

def body(kind):
    def two(run):
        counter = kind()
        run.thread(counter.add)
        run.thread(counter.add)
        run.join()
        assert counter.value == 2
    return two

for level in Level:
    for kind in (Plain, Locked):
        found = explore(body(kind), level=level, modules=["{canary.__name__}"])
        print(level, kind.__name__, found.validity)
"""


class Counter:
    """A counter that is locked as it should be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self) -> None:
        with self._lock:
            self.value += 1


def counter(run: Run) -> None:
    """Two threads add to one counter."""
    subject = Counter()
    run.thread(subject.add, name="a")
    run.thread(subject.add, name="b")
    run.join()
    assert subject.value == 2


@pytest.fixture(autouse=True)
def _asked_again() -> Iterator[None]:
    canary.forget()
    yield
    canary.forget()


@pytest.mark.parametrize("level", [Level.SYNC, Level.LINE])
def test_canaries_are_found(level: Level) -> None:
    """On the interpreter that runs the tests: a green search stays green."""
    result = explore(counter, level=level, modules=[HERE], budget=Budget(schedules=50))

    assert result.validity is Validity.VALID, result


def test_dead_hook_makes_green_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook of accesses is called, and sees nothing."""

    def blind(_self: Accesses, subject: Any, _number: int) -> Any:
        return subject

    monkeypatch.setattr(Accesses, "_on_access", blind)
    result = explore(counter)

    assert result.validity is Validity.UNKNOWN
    assert "the canary race Plain is not found at sync level on CPython" in str(result)


def test_finding_needs_no_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A race that is found proves the hooks by itself."""
    monkeypatch.setattr(canary, "missed", lambda *_: pytest.fail("asked"))

    def broken(run: Run) -> None:
        counter(run)
        raise ValueError

    assert explore(broken).validity is Validity.INVALID


def interpreters() -> list[str]:
    """The supported interpreters of which pyenv has one here."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    names = [f"3.{minor}" for minor in (11, 12, 13)]
    return [
        str(path / "bin" / "python")
        for name in names
        for path in sorted(versions.glob(f"{name}.*"))[:1]
        if sys.version_info[:2] != tuple(map(int, name.split(".")))
    ]


@pytest.mark.parametrize("python", interpreters())
def test_canary_race_on_other_interpreters(python: str) -> None:
    """Each supported interpreter on this machine finds each race at each level."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [python, "-c", PROGRAM]
    ended = subprocess.run(  # noqa: S603  a known interpreter
        command, env=environment, capture_output=True, text=True, check=False
    )

    rows = [line.split() for line in ended.stdout.splitlines()]
    assert [row[2] for row in rows] == ["invalid"] * 6, ended.stderr


def test_stated_range_is_the_tested_one() -> None:
    """Neither more nor fewer versions than `nox -s tests` runs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["requires-python"] == ">=3.11,<3.14"
    assert 'PYTHONS = ["3.11", "3.12", "3.13"]' in (ROOT / "noxfile.py").read_text(encoding="utf-8")
