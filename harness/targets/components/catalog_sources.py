"""The *catalog_sources* ability: a model catalog whose sources, cache file and providers misbehave.

Answers contain the whole catalog. `spoil` changes the last answer in place, as a careless caller
would; the next answer must not change with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

START_S = 1_000_000.0
FILES = {"config": "config.yaml", "auth": "auth.json", "cache": "models_cache.json"}
EMPTY: Mapping[str, Any] = {
    "empty": {},
    "none": None,
    "no groups": {"active_provider": "live", "default_model": "m", "groups": []},
    "no models": {"active_provider": "live", "groups": [{"provider": "live", "models": []}]},
    "a list": [{"provider": "live", "models": [{"id": "m", "label": "m"}]}],
}


class ProviderExit(BaseException):
    """The providers end their thread, as a library that calls `sys.exit` does."""


class CatalogSourcesAdapter:
    """One folder, scripted providers that count their requests, and a clock that is set."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._folder = folder
        self._module = modules("model_catalog.catalog")
        self._now_s = START_S
        self._asked = 0
        self._provider = "ok"
        self._last: Any = None
        self._catalog = self._open()

    def _open(self) -> Any:
        minimal = self._module.catalog_of("static", "minimal")
        return self._module.ModelCatalog(
            self._folder, self._fetch, minimal, clock=lambda: self._now_s
        )

    def _fetch(self) -> Any:
        self._asked += 1
        match self._provider:
            case "ok":
                names = f"model-{self._asked}", "other"
                return self._module.catalog_of("live", *names)
            case "raises":
                raise ConnectionRefusedError("the providers are scripted to fail")
            case "exits":
                raise ProviderExit
        return EMPTY[self._provider]

    # Sources, cache, providers and time

    def write(self, file: str, text: str) -> None:
        """Write the text of a file, in place of whatever is there."""
        self.remove(file)
        self._path(file).write_text(text, encoding="utf-8")

    def remove(self, file: str) -> None:
        """Remove a file."""
        if self._path(file).is_dir():
            self._path(file).rmdir()
        self._path(file).unlink(missing_ok=True)

    def obstruct(self, file: str) -> None:
        """Put a folder in the place of a file, which can then be neither read nor written."""
        self.remove(file)
        self._path(file).mkdir()

    def touch(self, file: str) -> None:
        """Move the times of a file, and leave its content."""
        os.utime(self._path(file), (self._now_s, self._now_s))
        self._now_s += 1

    def edit_cache(self, key: str, value: Any) -> None:
        """Change one field of the cache file."""
        cached = json.loads(self._path("cache").read_text(encoding="utf-8"))
        cached[key] = value
        self.write("cache", json.dumps(cached))

    def provide(self, how: str) -> None:
        """Let the providers answer ("ok"), fail ("raises", "exits"), or offer no model."""
        self._provider = how

    def wait(self, seconds: float) -> None:
        """Move the clock, also back."""
        self._now_s += seconds

    def restart(self) -> None:
        """Start a new process, which has the folder only."""
        self._catalog = self._open()

    # Answers

    def shown(self) -> dict[str, Any]:
        """The catalog that a display path receives, and the number of provider requests."""
        return self._counted(self._catalog.shown)

    def rebuilt(self) -> dict[str, Any]:
        """The catalog that a refresh returns, and the number of provider requests."""
        return self._counted(self._catalog.rebuilt)

    def _counted(self, read: Callable[[], Any]) -> dict[str, Any]:
        before = self._asked
        self._last = read()
        catalog = json.loads(json.dumps(self._last))
        return {"catalog": catalog, "asked": self._asked - before}

    def spoil(self) -> None:
        """Change the last answer in place."""
        self._last["groups"][0]["models"].append({"id": "spoiled", "label": "spoiled"})
        self._last["default_model"] = "spoiled"

    def gauges(self) -> dict[str, int]:
        """The sizes of the containers."""
        return {**self._catalog.gauges()}

    def _path(self, file: str) -> Path:
        return self._folder / FILES[file]

    def close(self) -> None:
        """Do nothing: the catalog holds no resource."""
