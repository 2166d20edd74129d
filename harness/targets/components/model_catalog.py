"""The *catalog* ability: a model catalog, its two sources, and providers that count who asks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class ProviderError(Exception):
    """The providers could not be asked, as told."""


class CatalogAdapter:
    """One folder with config and auth; the providers offer a new model each time they are asked."""

    def __init__(self, folder: Path, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        self._folder = folder
        self._rooms = rooms
        self._asked = 0
        self._fails = False
        self._catalog = self._open()

    def _open(self) -> Any:
        room = self._rooms("model_catalog.catalog")
        minimal = room.catalog_of("static", "minimal")
        return room.ModelCatalog(self._folder, self._fetch, minimal, clock=lambda: 1_000.0)

    def _fetch(self) -> Any:
        self._asked += 1
        if self._fails:
            raise ProviderError("as told")
        return self._rooms("model_catalog.catalog").catalog_of("live", f"model-{self._asked}")

    def set_config(self, text: str) -> None:
        """Write the config."""
        (self._folder / "config.yaml").write_text(text, encoding="utf-8")

    def set_auth(self, auth: Mapping[str, Any]) -> None:
        """Write the auth store."""
        (self._folder / "auth.json").write_text(json.dumps(auth), encoding="utf-8")

    def remove_auth(self) -> None:
        """Take the auth store away."""
        (self._folder / "auth.json").unlink(missing_ok=True)

    def fail(self, *, fails: bool) -> None:
        """From now on the providers cannot be asked, or can again."""
        self._fails = fails

    def restart(self) -> None:
        """A new process, which has the folder only."""
        self._catalog = self._open()

    def shown(self) -> dict[str, Any]:
        """What a display path is given, and how often the providers were asked for it."""
        return self._told(self._catalog.shown)

    def rebuilt(self) -> dict[str, Any]:
        """What somebody is given who wants it fresh."""
        return self._told(self._catalog.rebuilt)

    def _told(self, ask: Callable[[], Any]) -> dict[str, Any]:
        before = self._asked
        catalog = ask()
        groups = (catalog or {}).get("groups", [])
        models = [model["id"] for group in groups for model in group["models"]]
        return {"models": models, "asked": self._asked - before}

    def close(self) -> None:
        """Nothing is held."""
