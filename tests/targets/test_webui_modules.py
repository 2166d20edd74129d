"""Tests of single modules of a hermes-webui checkout, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.gateway_watcher import GatewayWatcherModel
from harness.contract.models.model_catalog import ModelCatalogModel
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import History, Journal
from harness.engine.client import RecordingClient
from harness.targets.hermes_webui.target import HermesWebuiTarget
from tests.support.paths import PROJECT

CONFIG = """
import json
from pathlib import Path

def _get_auth_store_path():
    raise NotImplementedError("replaced by the adapter")

def _models_cache_path():
    raise NotImplementedError("replaced by the adapter")

def fingerprint():
    path = _get_auth_store_path()
    return FINGERPRINT if path.exists() else None

def _load_models_cache_from_disk():
    if not _models_cache_path.exists():
        return None
    stored = json.loads(_models_cache_path.read_text())
    return stored["cache"] if stored["for"] == fingerprint() else None

def _save_models_cache_to_disk(cache):
    _models_cache_path.write_text(json.dumps({"cache": cache, "for": fingerprint()}))
"""
BY_STAT = "path.stat().st_mtime_ns"
BY_MEANING = "sorted(json.loads(path.read_text())['providers'])"

CACHED: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("rebuilt", {}),
    ("set_auth", {"auth": {"providers": {"a": {"id_token": "1"}}}}),
    ("rebuilt", {}),
    ("set_auth", {"auth": {"providers": {"a": {"id_token": "2"}}}}),
    ("rebuilt", {}),
    ("restart", {}),
    ("shown", {}),
    ("remove_auth", {}),
    ("shown", {}),
)


def history_of(
    target: HermesWebuiTarget, ability: str, folder: Path, calls: Sequence[Any]
) -> History:
    """The history of these calls on a fresh instance."""
    instance = target.open(ability, folder)
    with Journal(folder / "history.jsonl", lambda: 0) as journal:
        client = RecordingClient(instance, journal)
        operations = tuple(client.ask(function, argument) for function, argument in calls)
    instance.close()
    return History(operations)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("fingerprint", "broken"), [(BY_MEANING, []), (BY_STAT, [promises.M3])], ids=["right", "wrong"]
)
def test_cache_keyed_by_stat_is_detected(
    fingerprint: str, broken: list[Promise], tmp_path: Path
) -> None:
    """The model of the reference judges it: a new token does not make the cache stale."""
    checkout = tmp_path / "checkout"
    (checkout / "api").mkdir(parents=True)
    (checkout / "api" / "config.py").write_text(CONFIG.replace("FINGERPRINT", fingerprint))
    (checkout / "api" / "updates.py").touch()
    target = HermesWebuiTarget(checkout)
    target.prepare()
    assert target.abilities == {"catalog"}

    history = history_of(target, "catalog", tmp_path, CACHED)

    verdict = conforms(ModelCatalogModel())(history)
    assert [anomaly.promise for anomaly in verdict.anomalies] == broken


GATEWAY = """
import queue, sqlite3, threading, time

QUERY = (
    "SELECT s.id, s.title, COUNT(m.id) FROM sessions s JOIN messages m ON m.session_id = s.id"
    " WHERE s.source NOT IN ('cron', 'webui') GROUP BY s.id"
)

def _get_state_db_path(*_):
    raise NotImplementedError("replaced by the adapter")

def read_importable_agent_session_rows(path):
    with sqlite3.connect(path) as connection:
        return connection.execute(QUERY).fetchall()

class GatewayWatcher:
    POLL_INTERVAL = 5

    def __init__(self):
        self._stop_event = threading.Event()
        self._queue = queue.Queue()
        self._last_hash, self._last_sessions, self._last_print = "", [], ""

    def subscribe(self):
        return self._queue

    def _fingerprint(self):
        with sqlite3.connect(_get_state_db_path()) as connection:
            query = QUERY.replace("s.title", "s.title, s.ended_at")
            return str(connection.execute(query).fetchall())

    def _project(self):
        try:
            rows = read_importable_agent_session_rows(_get_state_db_path())
            return [
                {"session_id": id_, "title": title or "Agent Session", "message_count": count}
                for id_, title, count in rows
            ]
        except Exception:
            return ON_FAILURE

    def _poll_loop(self):
        while not self._stop_event.is_set():
            seen = self._fingerprint()
            if seen != self._last_print and (sessions := self._project()) is not None:
                self._last_print = self._last_hash = seen
                self._last_sessions = sessions
                self._queue.put({"sessions": sessions})
            for _ in range(self.POLL_INTERVAL * 10):
                time.sleep(0.1)
"""
WATCHED: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("create", {"session": "s1", "source": "cli"}),
    ("create", {"session": "s2", "source": "cron"}),
    ("poll", {}),
    ("append", {"session": "s1", "text": "t1"}),
    ("rename", {"session": "s1", "title": "plans"}),
    ("poll", {}),
    ("poll", {}),
    ("fail", {"how": "raises"}),
    ("rewrite", {"session": "s1", "texts": ["t2", "t3"]}),
    ("end", {"session": "s1"}),
    ("poll", {}),
    ("shown", {}),
    ("fail", {"how": ""}),
    ("poll", {}),
    ("shown", {}),
)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("on_failure", "broken"), [("None", []), ("[]", [promises.G3])], ids=["right", "wrong"]
)
def test_failure_announced_as_empty_list_is_detected(
    on_failure: str, broken: list[Promise], tmp_path: Path
) -> None:
    """The watcher's own loop runs two iterations for a poll, without any sleep."""
    checkout = tmp_path / "checkout"
    (checkout / "api").mkdir(parents=True)
    (checkout / "api" / "gateway_watcher.py").write_text(GATEWAY.replace("ON_FAILURE", on_failure))
    target = HermesWebuiTarget(checkout)
    target.prepare()

    history = history_of(target, "watcher", tmp_path, WATCHED)

    verdict = conforms(GatewayWatcherModel())(history)
    assert [anomaly.promise for anomaly in verdict.anomalies] == broken


@pytest.mark.usefixtures("cache")
def test_unknown_modules_are_a_usage_error(tmp_path: Path) -> None:
    """Modules that the adapter does not know have broken no promise."""
    checkout = tmp_path / "checkout"
    (checkout / "api").mkdir(parents=True)
    (checkout / "api" / "gateway_watcher.py").write_text("class Watcher: pass")
    target = HermesWebuiTarget(checkout)
    target.prepare()

    with pytest.raises(UsageError, match="do not fit the adapter"):
        history_of(target, "watcher", tmp_path, WATCHED)


RESET = """
import sys
from harness.targets.hermes_webui import checkout

first = checkout.module("first")
first.KNOWN["dirty"] = 1
first.count = 3
second = checkout.module("second")
second.KNOWN["dirtier"] = 2
checkout.bind("count", 5)
checkout.reset_globals()
assert second.KNOWN is first.KNOWN
print(first.KNOWN, first.count, second.names)
"""


def test_reset_restores_globals_of_all_modules(tmp_path: Path) -> None:
    """Also a container that a module imported later has under a name of its own."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "first.py").write_text("KNOWN = {}\ncount = 0\n")
    (tmp_path / "api" / "second.py").write_text("from api.first import KNOWN\nnames = ['a']\n")

    completed = subprocess.run(  # noqa: S603  the command is a constant
        [sys.executable, "-c", RESET],
        env={"PYTHONPATH": f"{PROJECT}:{tmp_path}"},
        check=True,
        capture_output=True,
        text=True,
    )

    assert completed.stdout == "{} 0 ['a']\n"
