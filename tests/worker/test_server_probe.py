"""Tests of the probe inside a server: constants, sizes, and starts at once."""

from __future__ import annotations

import importlib
import queue
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.worker import server_probe

MODULE = """
import threading
import time

WAIT_S = 30.0
_ROWS_CACHE_MAX = 100
ROWS = {"a": [1, 2]}
_stop = threading.Event()
_thread = None

class Row:
    pass

def start_once():
    global _thread
    with _lock:
        _start()

def start_twice():
    _start()

def _start():
    global _thread
    if _thread is not None and _thread.is_alive():
        return
    time.sleep(0.001)
    _stop.clear()
    _thread = threading.Thread(target=_stop.wait, daemon=True)
    _thread.start()

def stop_once():
    global _thread
    _stop.set()
    if _thread is not None:
        _thread.join()
    _thread = None

stop_twice = stop_once
_lock = threading.Lock()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with one module, which is not imported yet."""
    (tmp_path / "probed").mkdir()
    (tmp_path / "probed" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "probed" / "rows.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    yield "probed"
    for name in [name for name in sys.modules if name.partition(".")[0] == "probed"]:
        del sys.modules[name]


def test_constants_are_changed_at_the_import(package: str) -> None:
    """One by its name, and those that bound a cache; a missing one is left out."""
    server_probe.change_constants(
        {f"{package}.rows.WAIT_S": 1.0, f"{package}.*": 4, f"{package}.rows.NEVER": 1}
    )

    module: Any = importlib.import_module(f"{package}.rows")

    assert module.WAIT_S == 1.0
    assert module._ROWS_CACHE_MAX == 4
    assert not hasattr(module, "NEVER")


def test_size_counts_members_of_members(package: str) -> None:
    """A list that a dictionary holds counts with its elements."""
    importlib.import_module(f"{package}.rows")

    assert server_probe.sizes([], package)["rows.ROWS"] == 3


def test_holders_have_a_text_as_key_or_member(package: str) -> None:
    """In a pair too; a container that only has a longer text holds it not."""
    module: Any = importlib.import_module(f"{package}.rows")
    module.KEYS, module.PAIRS, module.OTHERS = {"x": 1}, {("x", 1)}, ["xy", 1]

    assert server_probe.holders([], package, "x") == ["rows.KEYS", "rows.PAIRS"]
    assert server_probe.holders([], package, "a") == ["rows.ROWS"]


def test_containers_of_objects_are_added_up_by_attribute(package: str) -> None:
    """In attributes and slots of every object of the package's classes."""
    module: Any = importlib.import_module(f"{package}.rows")
    module.KEPT = [module.Row(), module.Row()]
    for row in module.KEPT:
        row.parts, row.number, row.pair = {"x": 1, "y": 2}, 7, (1, 2)

    found = server_probe.held([], package)

    assert found == {f"{package}.rows.Row.parts": 4}


def test_census_counts_what_is_alive(package: str) -> None:
    """Objects of the package's classes, and threads, queues and the like."""
    module: Any = importlib.import_module(f"{package}.rows")
    name = f"objects of {package}.rows.Row"
    before = server_probe.census([], package)
    module.KEPT = [module.Row(), module.Row(), queue.Queue()]

    after = server_probe.census([], package)

    assert after[name] - before.get(name, 0) == 2
    assert after["objects of queue.Queue"] - before.get("objects of queue.Queue", 0) == 1
    assert "objects of builtins.list" not in after


def test_start_at_once_counts_threads_too_many(package: str) -> None:
    """A start that checks without a lock starts several; one with a lock starts one."""
    importlib.import_module(f"{package}.rows")

    assert server_probe.start_at_once([], f"{package}.rows.start_once", 4, 3) == 1
    assert server_probe.start_at_once([], f"{package}.rows.start_twice", 4, 3) > 1
