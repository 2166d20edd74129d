"""The model catalog: what is shown comes from memory, disk or this file, never from the network.

Asking the providers is a thing of its own, `rebuilt`: one at a time, and nobody waits for it for
longer than the budget. Its answer is kept under a fingerprint of what config and auth *mean*, so a
token that is renewed changes nothing and a provider that is added does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from reference_impl.config import env_seconds
from reference_impl.storage import files

log = logging.getLogger(__name__)

Catalog = Mapping[str, Any]
Fingerprint = Mapping[str, Mapping[str, Any]]

BUDGET_S = 4.0
TTL_S = 86_400.0
_SCHEMA_VERSION = 3

# What changes by itself while the auth store means the same.
VOLATILE_KEYS = frozenset(
    {
        "access_token",
        "refresh_token",
        "id_token",
        "api_key",
        "secret",
        "client_secret",
        "expires_at",
        "expires_at_ms",
        "expires_in",
        "last_status",
        "last_status_at",
        "last_error_code",
        "last_error_reason",
        "last_error_message",
        "last_error_reset_at",
        "request_count",
        "updated_at",
    }
)


def catalog_of(provider: str, *models: str) -> Catalog:
    """A catalog of one provider, whose first model is the default."""
    listed = [{"id": model, "label": model} for model in models]
    return {
        "active_provider": provider,
        "default_model": models[0],
        "groups": [{"provider": provider, "models": listed}],
    }


def fingerprint(config: str, auth: str) -> Fingerprint:
    """What two files mean. A missing one is marked; one that cannot be read counts by its stat."""
    return {"config": _mark(config, bytes), "auth": _mark(auth, _lasting)}


def _mark(path: str, meaning: Callable[[bytes], bytes]) -> Mapping[str, Any]:
    try:
        return {"sha256": hashlib.sha256(meaning(files.read_whole(path))).hexdigest()}
    except FileNotFoundError:
        return {"missing": True}
    except (OSError, ValueError, RecursionError):
        pass
    try:
        signature = files.signature(path)
    except OSError as error:
        return {"unreadable": error.errno}
    return {"missing": True} if signature is None else {"stat": list(signature)}


def _lasting(data: bytes) -> bytes:
    """Leave out what is volatile, however deep it is. Raises ValueError for no JSON."""

    def lasting(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in pairs if name not in VOLATILE_KEYS}

    return json.dumps(json.loads(data, object_pairs_hook=lasting), sort_keys=True).encode()


@dataclass(slots=True)
class _Flight:
    """One rebuild that is under way."""

    ends_at: float
    landed: threading.Event


class ModelCatalog:
    """The catalog of one folder, which holds `config.yaml`, `auth.json` and the cache."""

    def __init__(
        self,
        folder: files.StrPath,
        fetch: Callable[[], Catalog],
        minimal: Catalog,
        *,
        budget_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`fetch` asks the providers; it may be slow, but must end. `minimal` is always true.

        `budget_s` defaults to HERMES_WEBUI_MODELS_REBUILD_BUDGET, and that to 4 s.
        """
        if budget_s is None:
            budget_s = env_seconds("HERMES_WEBUI_MODELS_REBUILD_BUDGET", BUDGET_S)
        self._folder = os.fspath(folder)
        self._fetch = fetch
        self._minimal = minimal
        self._budget_s = budget_s
        self._clock = clock
        self._lock = threading.Lock()
        self._flight: _Flight | None = None
        self._kept: Mapping[str, Any] = {}

    def fingerprint(self) -> Fingerprint:
        """What config and auth mean now."""
        return fingerprint(self._at("config.yaml"), self._at("auth.json"))

    def shown(self) -> Catalog:
        """What is known now, or the minimal catalog; never empty, never from the network."""
        return self._known(self.fingerprint()) or self._minimal

    def rebuilt(self) -> Catalog:
        """What is known, or else what the providers say, if they say it within the budget.

        A rebuild that is under way is joined, for what is left of its budget; its answer is kept
        even if it comes too late for whoever waits now.
        """
        sources = self.fingerprint()
        known = self._known(sources)
        if known is not None:
            return known
        flight = self._joined(sources)
        if flight is not None:
            flight.landed.wait(max(0.0, flight.ends_at - time.monotonic()))
        return self._known(sources) or self._minimal

    def gauges(self) -> dict[str, int]:
        """Whether a catalog is kept, and whether a rebuild is under way."""
        return {"catalogs_kept": int(bool(self._kept)), "catalog_flights": int(bool(self._flight))}

    def _joined(self, sources: Fingerprint) -> _Flight | None:
        """The rebuild that is under way, or a new one; None if one has landed meanwhile."""
        with self._lock:
            if self._flight is None and self._known(sources) is None:
                flight = _Flight(time.monotonic() + self._budget_s, threading.Event())
                act = partial(self._fly, flight, sources)
                threading.Thread(target=act, name="catalog", daemon=True).start()
                self._flight = flight
            return self._flight

    def _fly(self, flight: _Flight, sources: Fingerprint) -> None:
        try:
            catalog = self._fetch()
            if _is_catalog(catalog):
                self._keep(catalog, sources)
            else:
                log.warning("the providers gave an empty catalog, which is not kept")
        except BaseException:  # the thread ends here in any case, and the flight with it
            log.exception("the catalog could not be rebuilt")
        finally:
            with self._lock:
                self._flight = None
            flight.landed.set()

    def _keep(self, catalog: Catalog, sources: Fingerprint) -> None:
        self._kept = {
            "_schema_version": _SCHEMA_VERSION,
            "_source_fingerprint": sources,
            "saved_at": self._clock(),
            "catalog": catalog,
        }
        try:
            files.put_lightly(self._cache_path, json.dumps(self._kept).encode())
        except OSError as error:
            log.warning("%s: the catalog is kept in memory only: %s", self._cache_path, error)

    def _known(self, sources: Fingerprint) -> Catalog | None:
        """The catalog that was kept for these sources, if it is young enough."""
        kept = self._kept
        if not self._is_valid(kept, sources):
            try:
                kept = json.loads(files.read_whole(self._cache_path))
            except (OSError, ValueError, RecursionError):
                return None
            if not self._is_valid(kept, sources):
                return None
            self._kept = kept
        catalog: Catalog = kept["catalog"]
        return catalog

    def _is_valid(self, kept: Any, sources: Fingerprint) -> bool:
        return (
            isinstance(kept, dict)
            and kept.get("_schema_version") == _SCHEMA_VERSION
            and kept.get("_source_fingerprint") == sources
            and isinstance(kept.get("saved_at"), (int, float))
            and 0 <= self._clock() - kept["saved_at"] < TTL_S
            and _is_catalog(kept.get("catalog"))
        )

    @property
    def _cache_path(self) -> str:
        return self._at("models_cache.json")

    def _at(self, name: str) -> str:
        return os.path.join(self._folder, name)


def _is_catalog(catalog: Any) -> bool:
    """Whether it offers at least one model."""
    groups = catalog.get("groups") if isinstance(catalog, dict) else None
    return isinstance(groups, list) and any(
        isinstance(group, dict) and group.get("models") for group in groups
    )
