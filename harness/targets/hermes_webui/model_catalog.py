"""The *catalog* ability over the models cache of a hermes-webui checkout, in its own process.

Its own cache on disk decides whether the stored catalog is still valid. Where it is not, scripted
providers answer in the place of those on the network, and the cache stores their models. A config
with unchanged text is not written again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.targets.components.model_catalog import ProviderError
from harness.targets.hermes_webui import checkout

MINIMAL = "minimal"


def open_adapter(folder: Path) -> WebuiCatalogAdapter:
    """Open a cache of two sources in `folder`."""
    return WebuiCatalogAdapter(folder)


class WebuiCatalogAdapter:
    """One folder with config and auth; the providers return a new model for each request."""

    def __init__(self, folder: Path) -> None:
        """Start with an empty cache."""
        checkout.set_environment(folder)
        self._module = checkout.module("config")
        checkout.module("updates")  # it has the version, without which the cache stores nothing
        checkout.reset_globals()
        self._config, self._auth = folder / "config.yaml", folder / "auth.json"
        checkout.bind("_get_config_path", lambda: self._config)
        checkout.bind("_get_auth_store_path", lambda: self._auth)
        checkout.bind("_models_cache_path", folder / "models_cache.json")
        checkout.bind("_get_models_cache_path", lambda: folder / "models_cache.json")
        self._asked = 0
        self._fails = False

    def set_config(self, text: str) -> None:
        """Write the config."""
        if not self._config.exists() or self._config.read_text(encoding="utf-8") != text:
            self._config.write_text(text, encoding="utf-8")

    def set_auth(self, auth: Mapping[str, Any]) -> None:
        """Write the auth store."""
        self._auth.write_text(json.dumps(auth), encoding="utf-8")

    def remove_auth(self) -> None:
        """Remove the auth store."""
        self._auth.unlink(missing_ok=True)

    def fail(self, *, fails: bool) -> None:
        """Let the providers fail, or work again."""
        self._fails = fails

    def restart(self) -> None:
        """Do nothing: the cache reads the folder at every call, as a new process does."""

    def shown(self) -> dict[str, Any]:
        """The models that a display path receives, and the number of provider requests."""
        return {"models": self._cached() or [MINIMAL], "asked": 0}

    def rebuilt(self) -> dict[str, Any]:
        """The models that a refresh returns, and the number of provider requests."""
        if cached := self._cached():
            return {"models": cached, "asked": 0}
        try:
            return {"models": self._fetch(), "asked": 1}
        except ProviderError:
            return {"models": [MINIMAL], "asked": 1}

    def _cached(self) -> list[str]:
        cache = self._module._load_models_cache_from_disk()  # noqa: SLF001
        groups = cache["groups"] if cache else []
        return [model["id"] for group in groups for model in group["models"]]

    def _fetch(self) -> list[str]:
        self._asked += 1
        if self._fails:
            raise ProviderError("the providers are scripted to fail")
        model = f"model-{self._asked}"
        self._module._save_models_cache_to_disk(  # noqa: SLF001
            {
                "active_provider": "live",
                "default_model": model,
                "configured_model_badges": {},
                "groups": [{"provider": "live", "models": [{"id": model, "label": model}]}],
            }
        )
        return [model]

    def close(self) -> None:
        """Do nothing: the cache holds no resource."""
