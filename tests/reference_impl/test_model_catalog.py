"""Tests of the model catalog (M1 to M3)."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reference_impl.model_catalog.catalog import (
    VOLATILE_KEYS,
    Catalog,
    ModelCatalog,
    catalog_of,
    fingerprint,
)

MINIMAL = catalog_of("static", "static-1")
LIVE = catalog_of("live", "live-1", "live-2")
PATIENCE_S = 30.0


class Providers:
    """Fake providers: answer when allowed, and count their calls and concurrent calls."""

    def __init__(self, answer: Callable[[], Catalog] = lambda: LIVE) -> None:
        self.calls = 0
        self.at_once = 0
        self.most_at_once = 0
        self.answer = answer
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.was_called = threading.Event()

    def __call__(self) -> Catalog:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.was_called.set()
        try:
            assert self.may_answer.wait(PATIENCE_S)
            return self.answer()
        finally:
            self.at_once -= 1


def opened(folder: Path, providers: Providers, **options: Any) -> ModelCatalog:
    return ModelCatalog(folder, providers, MINIMAL, **options)


def wait_for_rebuild(catalog: ModelCatalog) -> None:
    """Wait until no rebuild is in progress."""
    rebuild = catalog._rebuild
    assert rebuild is None or rebuild.finished.wait(PATIENCE_S)


# M1


def test_shown_without_cache_is_the_minimal_catalog(tmp_path: Path) -> None:
    """M1: without a cache the minimal catalog is shown, and no provider is queried."""
    providers = Providers()
    assert opened(tmp_path, providers).shown() == MINIMAL
    assert providers.calls == 0


@pytest.mark.parametrize(
    "cache",
    [
        "",
        "[]",
        "null",
        '{"_schema_version": 3}',
        "[" * 100_000,
        '{"_schema_version": 3, "_source_fingerprint": {}, "saved_at": 0, "catalog": {}}',
    ],
)
def test_damaged_cache_is_ignored(tmp_path: Path, cache: str) -> None:
    """M1: the answer is never empty, whatever is on the disk."""
    (tmp_path / "models_cache.json").write_text(cache, encoding="utf-8")
    catalog = opened(tmp_path, Providers())
    assert catalog.shown() == MINIMAL
    assert catalog.rebuilt() == LIVE


def test_changed_answer_changes_no_later_one(tmp_path: Path) -> None:
    catalog = ModelCatalog(tmp_path, lambda: catalog_of("live", "live-1"), MINIMAL)
    for read in (catalog.shown, catalog.rebuilt, catalog.rebuilt, catalog.shown):
        before = copy.deepcopy(read())
        read()["groups"].clear()
        assert read() == before or before == MINIMAL
    assert catalog.shown()["groups"]
    assert MINIMAL["groups"]


def test_rebuilt_catalog_is_shown_after_a_restart(tmp_path: Path) -> None:
    """M1: the cache outlives the process."""
    assert opened(tmp_path, Providers()).rebuilt() == LIVE
    providers = Providers()
    catalog = opened(tmp_path, providers)
    assert catalog.shown() == catalog.rebuilt() == LIVE
    assert providers.calls == 0


def test_expired_or_future_cache_is_not_shown(tmp_path: Path) -> None:
    """M1: its time to live is a day, and a clock that jumped back does not extend it."""
    now = [1_000_000.0]
    catalog = opened(tmp_path, Providers(), clock=lambda: now[0])
    catalog.rebuilt()
    for age_s, shown in [(86_399.0, LIVE), (86_400.0, MINIMAL), (-1.0, MINIMAL)]:
        now[0] = 1_000_000.0 + age_s
        assert catalog.shown() == shown


# M2


def test_hanging_rebuild_returns_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M2: leader and followers get the known catalog; the late answer is cached.

    leader:    |- rebuilt ---- budget -| minimal
    follower:      |- rebuilt -- rest -| minimal
    providers:   |------------------------- answer -|   then live
    """
    providers = Providers()
    providers.may_answer.clear()
    catalog = opened(tmp_path, providers, budget_s=0.05)

    assert catalog.rebuilt() == MINIMAL
    waits: list[float | None] = []
    rebuild = catalog._rebuild
    assert rebuild is not None
    monkeypatch.setattr(rebuild.finished, "wait", waits.append)
    monkeypatch.setattr(time, "monotonic", lambda: rebuild.ends_at - 0.02)
    assert catalog.rebuilt() == MINIMAL
    monkeypatch.undo()

    assert waits == [pytest.approx(0.02)], "a follower waits for the rest of the budget"
    assert providers.calls == 1
    providers.may_answer.set()
    wait_for_rebuild(catalog)
    assert catalog.rebuilt() == LIVE
    assert providers.calls == 1


def test_concurrent_rebuilds_query_providers_once(tmp_path: Path) -> None:
    """M2: concurrent rebuilds query the providers once, and all get the answer."""
    providers = Providers()
    providers.may_answer.clear()
    catalog = opened(tmp_path, providers, budget_s=PATIENCE_S)
    answers: list[Catalog] = []
    threads = [threading.Thread(target=lambda: answers.append(catalog.rebuilt())) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert providers.was_called.wait(PATIENCE_S)
    assert catalog.shown() == MINIMAL, "M1: not even during a rebuild"
    providers.may_answer.set()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert answers == [LIVE] * 8
    assert (providers.calls, providers.most_at_once) == (1, 1)


def failing() -> Catalog:
    raise SystemExit("a provider that exits")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("answer", [failing, dict, lambda: {"groups": []}, lambda: None])
def test_failed_rebuild_is_retried(tmp_path: Path, answer: Callable[[], Any]) -> None:
    """M2: whatever the providers raise or return, no rebuild is stuck and no catalog empty."""
    providers = Providers(answer)
    catalog = opened(tmp_path, providers)
    assert catalog.rebuilt() == MINIMAL
    wait_for_rebuild(catalog)
    providers.answer = lambda: LIVE
    assert catalog.rebuilt() == LIVE


# M3

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(sorted(VOLATILE_KEYS)), inner)
    ),
    max_leaves=12,
)


def auth_mark(folder: Path, store: Any) -> Any:
    (folder / "auth.json").write_text(json.dumps(store), encoding="utf-8")
    return fingerprint(str(folder / "config.yaml"), str(folder / "auth.json"))["auth"]


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Every object of a JSON value that is not inside a volatile field."""
    if isinstance(value, list):
        return [each for item in value for each in objects_in(item)]
    if not isinstance(value, dict):
        return []
    lasting = [item for name, item in value.items() if name not in VOLATILE_KEYS]
    return [value, *objects_in(lasting)]


def without_volatile(value: Any) -> Any:
    """The meaning of a JSON value, computed independently."""
    if isinstance(value, list):
        return [without_volatile(each) for each in value]
    if isinstance(value, dict):
        return {
            name: without_volatile(each)
            for name, each in value.items()
            if name not in VOLATILE_KEYS
        }
    return value


@given(
    store=json_values,
    which=st.integers(0, 99),
    key=st.sampled_from(sorted(VOLATILE_KEYS)),
    value=json_values,
)
@settings(deadline=None)
def test_volatile_field_changes_no_fingerprint(
    tmp_path_factory: pytest.TempPathFactory, store: Any, which: int, key: str, value: Any
) -> None:
    """M3: a token, expiry, counter or status that appears, disappears or changes, at any depth."""
    folder = tmp_path_factory.mktemp("auth")
    before = auth_mark(folder, store)
    rotated = copy.deepcopy(store)
    objects = objects_in(rotated)
    assume(objects)
    chosen = objects[which % len(objects)]
    chosen[key] = value
    assert auth_mark(folder, rotated) == before
    del chosen[key]
    assert auth_mark(folder, rotated) == before


@given(some=json_values, other=json_values)
@settings(deadline=None)
def test_other_auth_change_changes_the_fingerprint(
    tmp_path_factory: pytest.TempPathFactory, some: Any, other: Any
) -> None:
    """M3: two stores have one mark exactly if they mean the same; there is no allow-list."""
    folder = tmp_path_factory.mktemp("auth")
    meanings = [json.dumps(without_volatile(each), sort_keys=True) for each in (some, other)]
    marks = [auth_mark(folder, each) for each in (some, other)]
    assert (marks[0] == marks[1]) == (meanings[0] == meanings[1])


def test_missing_and_unreadable_files_have_own_marks(tmp_path: Path) -> None:
    """M3: a missing file is marked; invalid JSON counts by the file's stat."""
    auth, config = tmp_path / "auth.json", tmp_path / "config.yaml"
    assert fingerprint(str(config), str(auth)) == {
        "config": {"missing": True},
        "auth": {"missing": True},
    }

    auth.write_text("{half", encoding="utf-8")
    config.write_text("model: x", encoding="utf-8")
    torn = fingerprint(str(config), str(auth))
    assert list(torn["auth"]) == ["stat"]
    auth.write_text("{half more", encoding="utf-8")
    assert fingerprint(str(config), str(auth))["auth"] != torn["auth"]

    auth.unlink()
    auth.mkdir()
    assert fingerprint(str(config), str(auth))["auth"]["stat"]


def test_cache_is_shown_only_for_its_sources(tmp_path: Path) -> None:
    """M3: another config invalidates it; a renewed token does not."""
    auth = tmp_path / "auth.json"
    auth.write_text('{"provider": "p", "access_token": "1"}', encoding="utf-8")
    catalog = opened(tmp_path, Providers())
    catalog.rebuilt()

    auth.write_text('{"access_token": "2", "provider": "p"}', encoding="utf-8")
    assert catalog.shown() == LIVE
    (tmp_path / "config.yaml").write_text("model: other", encoding="utf-8")
    assert catalog.shown() == MINIMAL
