"""The model catalog: reads come from memory, disk or constants, never from the network.

`rebuilt` queries the providers: one query at a time, and no caller waits longer than the budget.
The result is cached under a fingerprint of the *meaning* of config and auth, so a renewed token
changes nothing and an added provider does.
"""

from __future__ import annotations

import copy
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

# Fields that change while the auth store keeps its meaning.
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
    """Digests of two files' meaning. A missing file is marked; an unreadable one counts by stat."""
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
    """Leave out volatile fields at any depth. Raises ValueError for invalid JSON."""

    def lasting(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in pairs if name not in VOLATILE_KEYS}

    return json.dumps(json.loads(data, object_pairs_hook=lasting), sort_keys=True).encode()


@dataclass(slots=True)
class _Rebuild:
    """One rebuild in progress."""

    ends_at: float
    finished: threading.Event


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
        """`fetch` queries the providers; it may be slow, but must end. `minimal` is always valid.

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
        self._rebuild: _Rebuild | None = None
        self._cached: Mapping[str, Any] = {}

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of config and auth now."""
        return fingerprint(self._at("config.yaml"), self._at("auth.json"))

    def shown(self) -> Catalog:
        """The cached catalog, or the minimal one; never empty, never from the network.

        This and `rebuilt` return a copy, so that no caller changes what another one receives.
        """
        return copy.deepcopy(self._known(self.fingerprint()) or self._minimal)

    def resolve(self, model: str | None, provider: str | None) -> tuple[str, str]:
        """The model and provider to work with: what is asked for, else the default.

        By the cached catalog, or the minimal one; never from the network.
        """
        catalog = self._known(self.fingerprint()) or self._minimal
        if not model:
            return catalog["default_model"], provider or catalog["active_provider"]
        listed = (
            group["provider"]
            for group in catalog["groups"]
            for other in group["models"]
            if other["id"] == model
        )
        return model, provider or next(listed, catalog["active_provider"])

    def rebuilt(self) -> Catalog:
        """The cached catalog, or else the providers' answer if it comes within the budget.

        A rebuild in progress is joined, for the rest of its budget; its result is cached even if it
        comes too late for the present callers.
        """
        sources = self.fingerprint()
        known = self._known(sources)
        if known is not None:
            return copy.deepcopy(known)
        rebuild = self._join_rebuild(sources)
        if rebuild is not None:
            rebuild.finished.wait(max(0.0, rebuild.ends_at - time.monotonic()))
        return copy.deepcopy(self._known(sources) or self._minimal)

    def gauges(self) -> dict[str, int]:
        """Whether a catalog is cached, and whether a rebuild is in progress."""
        return {
            "catalogs_kept": int(bool(self._cached)),
            "catalog_flights": int(bool(self._rebuild)),
        }

    def _join_rebuild(self, sources: Fingerprint) -> _Rebuild | None:
        """The rebuild in progress, or a new one; None if one has finished meanwhile."""
        with self._lock:
            if self._rebuild is None and self._known(sources) is None:
                rebuild = _Rebuild(time.monotonic() + self._budget_s, threading.Event())
                act = partial(self._run_rebuild, rebuild, sources)
                threading.Thread(target=act, name="catalog", daemon=True).start()
                self._rebuild = rebuild
            return self._rebuild

    def _run_rebuild(self, rebuild: _Rebuild, sources: Fingerprint) -> None:
        try:
            catalog = self._fetch()
            if _is_catalog(catalog):
                self._cache(catalog, sources)
            else:
                log.warning("the providers returned an empty catalog, which is not cached")
        except BaseException:  # the thread ends here in any case, and the rebuild with it
            log.exception("the catalog could not be rebuilt")
        finally:
            with self._lock:
                self._rebuild = None
            rebuild.finished.set()

    def _cache(self, catalog: Catalog, sources: Fingerprint) -> None:
        self._cached = {
            "_schema_version": _SCHEMA_VERSION,
            "_source_fingerprint": sources,
            "saved_at": self._clock(),
            "catalog": catalog,
        }
        try:
            files.put_unsynced(self._cache_path, json.dumps(self._cached).encode())
        except OSError as error:
            log.warning("%s: the catalog is cached in memory only: %s", self._cache_path, error)

    def _known(self, sources: Fingerprint) -> Catalog | None:
        """The catalog cached for these sources, if it has not expired."""
        cached = self._cached
        if not self._is_valid(cached, sources):
            try:
                cached = json.loads(files.read_whole(self._cache_path))
            except (OSError, ValueError, RecursionError):
                return None
            if not self._is_valid(cached, sources):
                return None
            self._cached = cached
        catalog: Catalog = cached["catalog"]
        return catalog

    def _is_valid(self, cached: Any, sources: Fingerprint) -> bool:
        return (
            isinstance(cached, dict)
            and cached.get("_schema_version") == _SCHEMA_VERSION
            and cached.get("_source_fingerprint") == sources
            and isinstance(cached.get("saved_at"), (int, float))
            and 0 <= self._clock() - cached["saved_at"] < TTL_S
            and _is_catalog(cached.get("catalog"))
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
