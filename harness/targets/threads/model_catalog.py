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
        self._began_s = time.monotonic()
        self._delay_s = 0.0
        self._ending = "ok"
        self._asked = 0
        self._changed = 0

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """Report events to `see`, with times of the clock `tick`."""
        self._tick, self._see = tick, see

    def hang(self, seconds: float, ending: str = "ok") -> None:
        """Set the delay of the providers, and how they end: `ok`, `failed` or `empty`."""
        self._delay_s, self._ending = seconds, ending

    def change_config(self) -> None:
        """Change the config, which makes the cached catalog stale."""
        self._changed += 1
        (self._folder / "config.yaml").write_text(f"change: {self._changed}", encoding="utf-8")

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
        begun, at_s = self._tick(), self._now_s()
        self._asked += 1
        number, ending = self._asked, self._ending
        _ask_providers(self._delay_s)
        took_s = round(self._now_s() - at_s, 3)
        event = {"number": number, "at_s": at_s, "took_s": took_s, "ended": ending}
        self._see("fetch", event, begun)
        if ending == "failed":
            raise OSError("the providers refuse")
        return self._catalog_of("live", f"model-{number}") if ending == "ok" else {"groups": []}

    def _timed(self, read: Callable[[], Any]) -> dict[str, Any]:
        at_s = self._now_s()
        catalog = read()
        waited_s = round(self._now_s() - at_s, 3)
        groups = (catalog or {}).get("groups", [])
        models = [model["id"] for group in groups for model in group["models"]]
        return {"models": models, "at_s": at_s, "waited_s": waited_s}

    def _now_s(self) -> float:
        """The virtual time since this adapter was made."""
        return round(time.monotonic() - self._began_s, 3)
