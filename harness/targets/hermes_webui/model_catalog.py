"""The *catalog* ability over the models cache of a hermes-webui checkout, in its own process.

Whether what it keeps still holds is for its own cache on disk to say. Where it says no, providers
of ours are asked in the place of those on the network, and what they offer is kept there. A config
that is written as it was is not written, for nobody would.
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
    """A cache of two sources in `folder`."""
    return WebuiCatalogAdapter(folder)


class WebuiCatalogAdapter:
    """One folder with config and auth; providers offer a new model each time they are asked."""

    def __init__(self, folder: Path) -> None:
        """Keep nothing yet."""
        checkout.settle(folder)
        self._room = checkout.module("config")
        checkout.module("updates")  # it knows the version, without which nothing is kept
        checkout.be_born_again()
        self._config, self._auth = folder / "config.yaml", folder / "auth.json"
        checkout.put("_get_config_path", lambda: self._config)
        checkout.put("_get_auth_store_path", lambda: self._auth)
        checkout.put("_models_cache_path", folder / "models_cache.json")
        checkout.put("_get_models_cache_path", lambda: folder / "models_cache.json")
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
        """Take the auth store away."""
        self._auth.unlink(missing_ok=True)

    def fail(self, *, fails: bool) -> None:
        """From now on the providers cannot be asked, or can again."""
        self._fails = fails

    def restart(self) -> None:
        """A new process, which has the folder only: so has this one, at all times."""

    def shown(self) -> dict[str, Any]:
        """What a display path is given, and how often the providers were asked for it."""
        return {"models": self._kept() or [MINIMAL], "asked": 0}

    def rebuilt(self) -> dict[str, Any]:
        """What somebody is given who wants it fresh."""
        if kept := self._kept():
            return {"models": kept, "asked": 0}
        try:
            return {"models": self._fetch(), "asked": 1}
        except ProviderError:
            return {"models": [MINIMAL], "asked": 1}

    def _kept(self) -> list[str]:
        cache = self._room._load_models_cache_from_disk()  # noqa: SLF001
        groups = cache["groups"] if cache else []
        return [model["id"] for group in groups for model in group["models"]]

    def _fetch(self) -> list[str]:
        self._asked += 1
        if self._fails:
            raise ProviderError("as told")
        model = f"model-{self._asked}"
        self._room._save_models_cache_to_disk(  # noqa: SLF001
            {
                "active_provider": "live",
                "default_model": model,
                "configured_model_badges": {},
                "groups": [{"provider": "live", "models": [{"id": model, "label": model}]}],
            }
        )
        return [model]

    def close(self) -> None:
        """Nothing is held."""
