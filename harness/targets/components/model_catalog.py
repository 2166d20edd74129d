"""The *catalog* ability: a model catalog, its two sources, and providers that count requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class ProviderError(Exception):
    """The providers fail, as the script says."""


class CatalogAdapter:
    """One folder with config and auth; the providers return a new model for each request."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._folder = folder
        self._modules = modules
        self._asked = 0
        self._fails = False
        self._catalog = self._open()

    def _open(self) -> Any:
        module = self._modules("model_catalog.catalog")
        minimal = module.catalog_of("static", "minimal")
        return module.ModelCatalog(self._folder, self._fetch, minimal, clock=lambda: 1_000.0)

    def _fetch(self) -> Any:
        self._asked += 1
        if self._fails:
            raise ProviderError("the providers are scripted to fail")
        return self._modules("model_catalog.catalog").catalog_of("live", f"model-{self._asked}")

    def set_config(self, text: str) -> None:
        """Write the config."""
        (self._folder / "config.yaml").write_text(text, encoding="utf-8")

    def set_auth(self, auth: Mapping[str, Any]) -> None:
        """Write the auth store."""
        (self._folder / "auth.json").write_text(json.dumps(auth), encoding="utf-8")

    def remove_auth(self) -> None:
        """Remove the auth store."""
        (self._folder / "auth.json").unlink(missing_ok=True)

    def fail(self, *, fails: bool) -> None:
        """Let the providers fail, or work again."""
        self._fails = fails

    def restart(self) -> None:
        """Start a new process, which has the folder only."""
        self._catalog = self._open()

    def shown(self) -> dict[str, Any]:
        """The models that a display path receives, and the number of provider requests."""
        return self._counted(self._catalog.shown)

    def rebuilt(self) -> dict[str, Any]:
        """The models that a refresh returns, and the number of provider requests."""
        return self._counted(self._catalog.rebuilt)

    def _counted(self, read: Callable[[], Any]) -> dict[str, Any]:
        before = self._asked
        catalog = read()
        groups = (catalog or {}).get("groups", [])
        models = [model["id"] for group in groups for model in group["models"]]
        return {"models": models, "asked": self._asked - before}

    def close(self) -> None:
        """Do nothing: the catalog holds no resource."""
