"""Tests of what holds that which grows: its path to a root, and no container that only wobbles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.worker.holders import wrap

KEPT: dict[str, list[int]] = {"entries": []}
ONCE: list[int] = []


class Leaking:
    """An adapter whose reading grows with `KEPT`; `ONCE` grows too, but not with it."""

    def __init__(self, _folder: Path) -> None:
        self.marks = 0

    def mark(self) -> None:
        self.marks += 1

    def sample(self) -> dict[str, float]:
        return {"containers/entries": len(KEPT["entries"]), "containers/steady": 3}

    def act(self, times: int) -> None:
        KEPT["entries"].extend(range(times))
        ONCE.extend(range(times * 3 if not ONCE else 1))


def used() -> Any:
    KEPT["entries"].clear()
    ONCE.clear()
    adapter = wrap(Leaking)(Path())
    for times in (100, 150, 100):
        adapter.mark()
        adapter.act(times)
    return adapter


def test_grown_container_is_named_with_its_path() -> None:
    """From the module; the adapter's other functions are its own."""
    adapter = used()
    (holder,) = adapter.holders("containers/entries")
    assert holder == {"path": f"{__name__}.KEPT['entries']", "entries": 350}
    assert adapter.marks == 3


def test_reading_that_does_not_grow_has_no_holder() -> None:
    adapter = used()
    assert adapter.holders("containers/steady") == []
    assert adapter.holders("containers/unknown") == []
