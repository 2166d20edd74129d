"""The *catalog_threads* ability over the model catalog of a hermes-webui checkout.

On trial is `get_available_models` of `api/config.py`, with its cache in memory and on disk. A
stand-in is what it asks of its providers, in the place where it calls them. The server's own never
fails, and is never empty: it has a static list for providers that fail. So a query always ends with
models here. The catalog without a query is a stand-in, too: it has one model.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.schedule import calling
from harness.targets.hermes_webui import checkout
from harness.targets.hermes_webui.threads import modules
from harness.targets.threads.model_catalog import BUDGET_S

See = Callable[[str, Mapping[str, Any], int], None]
MINIMAL = "minimal"
_STATIC = ("_minimal_static_models_catalog", "_static_models_catalog_without_live_probes")
_numbers = itertools.count()  # one folder for each schedule


def _hang(seconds: float) -> None:
    time.sleep(seconds)


# Lock rules name this call: while it runs, the target may hold no lock.
_ask_providers = calling("providers", _hang)


class WebuiCatalogThreadsAdapter:
    """One folder, and providers with a scripted delay, in virtual time."""

    def __init__(self, folder: Path) -> None:
        modules.reset()
        own = folder / f"{next(_numbers)}"
        own.mkdir()
        self._config = own / "config.yaml"
        self._module: Any = checkout.module("config")
        checkout.bind("_get_config_path", lambda: self._config)
        checkout.bind("_get_auth_store_path", lambda: own / "auth.json")
        checkout.bind("_models_cache_path", own / "models_cache.json")
        checkout.bind("_get_models_cache_path", lambda: own / "models_cache.json")
        modules.replace(self._module, "_invoke_models_rebuild", lambda _build: self._fetch())
        modules.replace(self._module, "_LIVE_REBUILD_BUDGET_SECONDS", BUDGET_S)
        for name in _STATIC:
            if hasattr(self._module, name):
                modules.replace(self._module, name, lambda *_: catalog_of(MINIMAL))
        self._began_s = time.monotonic()
        self._delay_s = 0.0
        self._asked = self._changed = 0

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """Report events to `see`, with times of the clock `tick`."""
        self._tick, self._see = tick, see

    def hang(self, seconds: float, ending: str = "ok") -> None:  # noqa: ARG002
        """Set the delay of the providers; however they end, the query ends with models."""
        self._delay_s = seconds

    def change_config(self) -> None:
        """Change the config, which makes the cached catalog stale."""
        self._changed += 1
        self._config.write_text(f"change: {self._changed}", encoding="utf-8")

    def shown(self) -> dict[str, Any]:
        """The models that a display path receives, and the time that it took."""
        return self._timed(prefer_cache=True)

    def rebuilt(self) -> dict[str, Any]:
        """The models that a request receives which may ask providers, and the time it took."""
        return self._timed()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def close(self) -> None:
        """Do nothing: the catalog holds no resource."""

    def _fetch(self) -> Any:
        begun, at_s = self._tick(), self._now_s()
        self._asked += 1
        number = self._asked
        _ask_providers(self._delay_s)
        took_s = round(self._now_s() - at_s, 3)
        event = {"number": number, "at_s": at_s, "took_s": took_s, "ended": "ok"}
        self._see("fetch", event, begun)
        return catalog_of(f"model-{number}")

    def _timed(self, **how: bool) -> dict[str, Any]:
        at_s = self._now_s()
        catalog = self._module.get_available_models(**how)
        waited_s = round(self._now_s() - at_s, 3)
        models = [model["id"] for group in catalog["groups"] for model in group["models"]]
        return {"models": models, "at_s": at_s, "waited_s": waited_s}

    def _now_s(self) -> float:
        """The virtual time since this adapter was made."""
        return round(time.monotonic() - self._began_s, 3)


def catalog_of(model: str) -> dict[str, Any]:
    """A catalog of one model."""
    return {
        "active_provider": "live",
        "default_model": model,
        "configured_model_badges": {},
        "groups": [{"provider": "live", "models": [{"id": model, "label": model}]}],
    }
