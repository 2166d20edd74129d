"""The *catalog_threads* ability: one model catalog, asked by threads while its providers hang."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.schedule import calling

BUDGET_S = 4.0
See = Callable[[str, Mapping[str, Any], int], None]

_numbers = itertools.count()  # one folder for each schedule


def _hang(seconds: float) -> None:
    time.sleep(seconds)


# Lock rules know this call by name: while it runs, no lock of the target may be held.
_ask_providers = calling("providers", _hang)


class CatalogThreadsAdapter:
    """One folder, and providers that take as long as they are told to, in virtual time."""

    def __init__(self, folder: Path, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        self._place = folder / f"{next(_numbers)}"
        self._place.mkdir()
        room = rooms("model_catalog.catalog")
        self._catalog_of = room.catalog_of
        minimal = room.catalog_of("static", "minimal")
        self._catalog = room.ModelCatalog(
            self._place, self._fetch, minimal, budget_s=BUDGET_S, clock=lambda: 1_000.0
        )
        self._takes_s = 0.0
        self._asked = 0

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """From now on tell `see`, on the clock `tick`."""
        self._tick, self._see = tick, see

    def hang(self, seconds: float) -> None:
        """From now on the providers take so long."""
        self._takes_s = seconds

    def change_config(self) -> None:
        """What was known is of no use any more."""
        (self._place / "config.yaml").write_text(f"asked: {self._asked}", encoding="utf-8")

    def shown(self) -> dict[str, Any]:
        """What a display is given, and after how long."""
        return self._timed(self._catalog.shown)

    def rebuilt(self) -> dict[str, Any]:
        """What somebody is given who wants it fresh, and after how long."""
        return self._timed(self._catalog.rebuilt)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def close(self) -> None:
        """Nothing is held."""

    def _fetch(self) -> Any:
        begun = self._tick()
        self._asked += 1
        number = self._asked
        _ask_providers(self._takes_s)
        self._see("fetch", {"number": number}, begun)
        return self._catalog_of("live", f"model-{number}")

    def _timed(self, ask: Callable[[], Any]) -> dict[str, Any]:
        began_s = time.monotonic()
        catalog = ask()
        waited_s = round(time.monotonic() - began_s, 3)
        groups = (catalog or {}).get("groups", [])
        models = [model["id"] for group in groups for model in group["models"]]
        return {"models": models, "waited_s": waited_s}
