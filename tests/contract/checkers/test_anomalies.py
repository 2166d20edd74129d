"""Every anomaly of every checker states what was expected, and what was observed.

The other tests of this folder are run here once more, with a recording `Anomaly`: they hold a
wrong history for each rule of each checker.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.contract.checkers.server import sse_delivery
from harness.core.verdict import Anomaly
from tests.support.paths import PROJECT

CHECKERS = sorted((PROJECT / "harness/contract/checkers").rglob("[!_]*.py"))
SCENARIOS = sorted((PROJECT / "scenarios").rglob("*.py"))
BUILDERS = ("Anomaly", "_find")  # `_find` records a finding that becomes an anomaly
Site = tuple[str, int]


def _calls(path: Path, name: str) -> Iterator[ast.Call]:
    """The calls of a function or class, or of a method of the same name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called == name:
                yield node


def _lacks(call: ast.Call, field: str) -> bool:
    values = [keyword.value for keyword in call.keywords if keyword.arg == field]
    return not values or (isinstance(values[0], ast.Constant) and not values[0].value)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_anomaly_in_source_has_both_fields(name: str) -> None:
    """Each call passes `expected` and `observed`, and no empty text."""
    calls = [(path, call) for path in (*CHECKERS, *SCENARIOS) for call in _calls(path, name)]
    incomplete = [
        f"{path.name}:{call.lineno}"
        for path, call in calls
        if _lacks(call, "expected") or _lacks(call, "observed")
    ]

    assert calls
    assert incomplete == []


# Wrong histories, by the other tests of this folder


@pytest.fixture(scope="module")
def recorded() -> dict[Site, list[Anomaly]]:
    """The anomalies that the other tests cause, by file and line of their construction."""
    made: dict[Site, list[Anomaly]] = {}
    construct = Anomaly.__init__

    def record(self: Anomaly, *args: Any, **fields: Any) -> None:
        frame = inspect.currentframe()
        caller = frame.f_back if frame else None
        construct(self, *args, **fields)
        if caller is not None:
            made.setdefault((caller.f_code.co_filename, caller.f_lineno), []).append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Anomaly, "__init__", record)
        for module in _test_modules():
            for test in _tests(module):
                for arguments in _argument_sets(test):
                    test(**arguments)
    return made


def _test_modules() -> Iterator[ModuleType]:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__):
            yield importlib.import_module(f"{__package__}.{path.stem}")


def _tests(module: ModuleType) -> Iterator[Callable[..., None]]:
    return (value for name, value in vars(module).items() if name.startswith("test_"))


def _argument_sets(test: Callable[..., None]) -> list[dict[str, Any]]:
    """The arguments by which pytest calls a test; none of these tests uses a fixture."""
    sets: list[dict[str, Any]] = [{}]
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = mark.args[0]
            names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
            sets = [
                {**known, **dict(zip(names, _values(row, names), strict=True))}
                for known in sets
                for row in mark.args[1]
            ]
    return sets


def _values(row: Any, names: Sequence[str]) -> Sequence[Any]:
    values = getattr(row, "values", row)  # `pytest.param` has values
    if callable(values):  # a mapping as a single value
        values = row
    is_single = len(names) == 1 and not hasattr(row, "marks")
    return [values] if is_single else values


def test_every_anomaly_site_is_reached(recorded: dict[Site, list[Anomaly]]) -> None:
    """So the next test reads an example of each."""
    unreached = [
        f"{path.name}:{call.lineno}"
        for path in CHECKERS
        for call in _calls(path, "Anomaly")
        if not any(
            file == str(path) and call.lineno <= line <= (call.end_lineno or call.lineno)
            for file, line in recorded
        )
    ]

    assert unreached == []


def test_every_recorded_anomaly_is_concrete(recorded: dict[Site, list[Anomaly]]) -> None:
    """Both fields are there and differ, and the message does not repeat the whole evidence."""
    anomalies = [
        anomaly
        for (file, _), made in recorded.items()
        if file in set(map(str, CHECKERS))
        for anomaly in made
    ]

    assert len(anomalies) > len(CHECKERS)
    for anomaly in anomalies:
        assert anomaly.message
        assert anomaly.expected, anomaly.message
        assert anomaly.observed, anomaly.message
        assert anomaly.expected != anomaly.observed, anomaly.message
        assert not any(str(op) in anomaly.message for op in anomaly.evidence), anomaly.message


def test_findings_of_connections_become_anomalies(recorded: dict[Site, list[Anomaly]]) -> None:
    """What a connection found is reported with its own expected and observed."""
    found = [
        anomaly
        for (file, _), made in recorded.items()
        if file == sse_delivery.__file__
        for anomaly in made
        if anomaly.message.startswith("read of ")
    ]

    assert found
    assert all(anomaly.expected and anomaly.observed for anomaly in found)
