"""Checks that what an act keeps is found, with holder and line, and that nothing else is."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import ClassVar

import pytest

from harness.core.errors import UsageError
from harness.runs.growing import SAMPLES, GrowthReport, grows
from harness.worker.holders import path_to

FEW = 2 * SAMPLES


class Entry:
    """What a registry keeps."""

    def __init__(self) -> None:
        self.me: Entry | None = None


class Registry:
    """A registry that is used in different ways."""

    shared: ClassVar[list[Entry]] = []

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.names: set[str] = set()
        self.numbers = itertools.count()

    def keep(self) -> None:
        self.entries[next(self.numbers)] = Entry()

    def keep_name(self) -> None:
        self.names.add(f"name {next(self.numbers)}")

    def keep_sometimes(self) -> None:
        number = next(self.numbers)
        if number % 5 == 0:
            self.shared.append(Entry())

    def fill(self) -> None:
        self.entries[next(self.numbers) % 20] = Entry()

    def leave_garbage(self) -> None:
        entry = Entry()
        entry.me = entry


REGISTRY = Registry()


def used(act: Callable[[], None], **settings: object) -> GrowthReport:
    """The report on an act that is used seldom."""
    return grows(act, operations=FEW, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("act", "rate", "holder", "line"),
    [
        (REGISTRY.keep, 1.0, ".REGISTRY.entries", "self.entries[next(self.numbers)] = Entry()"),
        (REGISTRY.keep_name, 1.0, ".REGISTRY.names", 'self.names.add(f"name {next('),
        (REGISTRY.keep_sometimes, 0.2, "Registry.shared", "self.shared.append(Entry())"),
    ],
)
def test_growth_has_rate_holder_and_line(
    act: Callable[[], None], rate: float, holder: str, line: str
) -> None:
    """Without a gauge: the container is found among all of this process."""
    report = used(act)
    kept = next(kept for kept in report.kept if kept.gauge.startswith("len("))

    assert kept.per_operation == pytest.approx(rate, rel=0.1)
    assert kept.holder.endswith(holder)
    assert any(line in shown for shown in kept.lines), kept
    assert all(shown.startswith("test_growing.py:") for shown in kept.lines)
    assert f"held by {kept.holder}" in str(report)


@pytest.mark.parametrize("act", [Registry().fill, Registry().leave_garbage])
def test_bounded_act_keeps_nothing(act: Callable[[], None]) -> None:
    """A cache that is full, and garbage that a collection frees."""
    report = used(act)

    assert report.is_bounded, report
    assert str(report) == f"{FEW} operations keep nothing"


def test_gauge_of_user_is_judged() -> None:
    """A number or a container; what it returns is looked at no second time."""
    rows: list[int] = []
    total = itertools.count()
    report = used(
        lambda: rows.append(next(total)),
        gauges={"rows": lambda: rows, "half": lambda: len(rows) / 2, "steady": lambda: 7},
    )

    assert [kept.gauge for kept in report.kept] == ["half", "rows"]
    assert report.kept[1].holder.endswith(": rows")


def test_slow_growth_can_be_allowed() -> None:
    """One in five is less than one in two."""
    assert used(Registry().keep_sometimes, per_operation=0.5).is_bounded


def test_too_few_operations_are_usage_error() -> None:
    """A trend needs samples."""
    with pytest.raises(UsageError, match="95 operations are too few, expected 96 or more"):
        grows(REGISTRY.fill, operations=SAMPLES - 1)


def test_objects_are_unfrozen_after_failure() -> None:
    """An act that raises ends the search, and leaves the collector as it was."""
    frozen = gc.get_freeze_count()
    numbers = itertools.count()

    def fail_late() -> None:
        if next(numbers) == FEW:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        used(fail_late)

    assert gc.get_freeze_count() <= frozen


def test_path_names_attributes_and_keys() -> None:
    """From the module down to the object."""
    entry = REGISTRY.entries[-7] = Entry()
    entry.me = Entry()

    path = path_to(entry.me)

    assert path.endswith(".REGISTRY.entries[-7].me")
    del REGISTRY.entries[-7]


def test_path_of_local_names_function() -> None:
    """A running function holds it."""
    held = [Entry()]
    path = path_to(held[0])

    assert path.endswith(": held[0]")
    assert path.startswith("test_path_of_local_names_function() at ")
