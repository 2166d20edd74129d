"""The *catalog_threads* ability: one model catalog, read by threads while its providers hang."""

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


# Lock rules name this call: while it runs, the target may hold no lock.
_ask_providers = calling("providers", _hang)


class CatalogThreadsAdapter:
    """One folder, and providers with a scripted delay, in virtual time."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._folder = folder / f"{next(_numbers)}"
        self._folder.mkdir()
        module = modules("model_catalog.catalog")
        self._catalog_of = module.catalog_of
        minimal = module.catalog_of("static", "minimal")
        self._catalog = module.ModelCatalog(
            self._folder, self._fetch, minimal, budget_s=BUDGET_S, clock=lambda: 1_000.0
        )
        self._delay_s = 0.0
        self._asked = 0

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """Report events to `see`, with times of the clock `tick`."""
        self._tick, self._see = tick, see

    def hang(self, seconds: float) -> None:
        """Set the delay of the providers."""
        self._delay_s = seconds

    def change_config(self) -> None:
        """Change the config, which makes the cached catalog stale."""
        (self._folder / "config.yaml").write_text(f"asked: {self._asked}", encoding="utf-8")

    def shown(self) -> dict[str, Any]:
        """The models that a display path receives, and the time that it took."""
        return self._timed(self._catalog.shown)

    def rebuilt(self) -> dict[str, Any]:
        """The models that a refresh returns, and the time that it took."""
        return self._timed(self._catalog.rebuilt)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def close(self) -> None:
        """Do nothing: the catalog holds no resource."""

    def _fetch(self) -> Any:
        begun = self._tick()
        self._asked += 1
        number = self._asked
        _ask_providers(self._delay_s)
        self._see("fetch", {"number": number}, begun)
        return self._catalog_of("live", f"model-{number}")

    def _timed(self, read: Callable[[], Any]) -> dict[str, Any]:
        began_s = time.monotonic()
        catalog = read()
        waited_s = round(time.monotonic() - began_s, 3)
        groups = (catalog or {}).get("groups", [])
        models = [model["id"] for group in groups for model in group["models"]]
        return {"models": models, "waited_s": waited_s}
