"""Tests of modules of a hermes-webui checkout under explored schedules, right and with a race."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.errors import TargetUnavailableError, UsageError
from harness.core.history import Journal, read
from harness.core.verdict import Verdict, merge
from harness.engine.context import Context
from harness.targets.hermes_webui import checkout as modules_of_a_checkout
from harness.targets.hermes_webui.target import HermesWebuiTarget
from harness.targets.hermes_webui.threads import explored, modules
from harness.workloads.threads import Interleaving
from scenarios.channels.test_threads import MEETINGS as CHANNELS
from scenarios.gateway_watcher.test_threads import MEETINGS as WATCHER
from scenarios.model_catalog.test_threads import MEETINGS as CATALOG
from scenarios.sessions.test_threads import MEETINGS as SESSIONS
from scenarios.turns.test_journal import MEETINGS as JOURNAL
from scenarios.wakeups.test_threads import MEETINGS as WAKEUPS

WATCHER_SOURCE = """
import queue, threading

def read_importable_agent_session_rows(path):
    return []

class GatewayWatcher:
    def __init__(self):
        self._subscribers, self._lock, self._stopped = [], threading.Lock(), False

    def start(self):
        self._stopped = False

    def stop(self):
        with self._lock:
            self._stopped = True
            for subscribed in self._subscribers:
                subscribed.put(None)

    def subscribe(self):
        made = queue.Queue()
        with self._lock:
            self._subscribers.append(made)
            if self._stopped:
                made.put(None)
        return made

    def unsubscribe(self, subscribed):
        with self._lock:
            self._subscribers.remove(subscribed)
"""
LATE_READER = ("            if self._stopped:\n                made.put(None)\n", "")

PACE_SOURCE = WATCHER_SOURCE.replace("rows(path)", "rows()")

JOURNAL_SOURCE = """
import threading

_ROWS = {}

class RunJournalWriter:
    def __init__(self, session, run, *, session_dir):
        self._lock, self._rows = threading.Lock(), _ROWS.setdefault(session_dir, [])
        self._next = 0

    def append_sse_event(self, event, payload):
        with self._lock:
            self._next += 1
            seq = self._next
            row = {"seq": seq, "event": event, "payload": payload}
            self._rows.append(row)
        return row

def read_run_events(session, run, *, session_dir):
    return {"events": list(_ROWS[session_dir])}
"""
APART = (
    (
        '            row = {"seq": seq, "event": event, "payload": payload}\n'
        "            self._rows.append(row)\n"
    ),
    (
        '        row = {"seq": seq, "event": event, "payload": payload}\n'
        "        with self._lock:\n"
        "            self._rows.append(row)\n"
    ),
)

CONFIG_SOURCE = """
import threading

ACTIVE_RUNS, ACTIVE_RUNS_LOCK = {}, threading.Lock()
PROCESS_SESSION_INDEX, DEFERRED_PROCESS_WAKEUPS = {}, {}

def register_active_run(stream_id, **about):
    with ACTIVE_RUNS_LOCK:
        ACTIVE_RUNS[stream_id] = about

def update_active_run(stream_id, **about):
    with ACTIVE_RUNS_LOCK:
        if stream_id in ACTIVE_RUNS:
            ACTIVE_RUNS[stream_id].update(about)

def unregister_active_run(stream_id):
    with ACTIVE_RUNS_LOCK:
        ACTIVE_RUNS.pop(stream_id, None)
"""
LIST_SOURCE = """
def subscribe_session_events():
    raise NotImplementedError

def publish_session_list_changed(reason):
    raise NotImplementedError
"""
CHANNELS_SOURCE = """
import queue, threading, time
from api import config

SESSION_CHANNELS, SESSION_CHANNELS_LOCK = {}, threading.Lock()
_REAPER_STOP = threading.Event()

class SessionChannel:
    def __init__(self):
        self._lock, self._queues, self._left_at = threading.Lock(), [], None

    def subscribe(self):
        made = queue.Queue()
        with self._lock:
            self._queues.append(made)
        return made

    def unsubscribe(self, made):
        with self._lock:
            self._queues.remove(made)
            self._left_at = time.time()

    def subscriber_count(self):
        return len(self._queues)

    def emit(self, event, data):
        with self._lock:
            for made in self._queues:
                made.put((event, data))

    def is_over(self):
        with self._lock:
            return not self._queues and time.time() - self._left_at >= 60

def get_session_channel(session_id):
    with SESSION_CHANNELS_LOCK:
        return SESSION_CHANNELS.get(session_id)

def subscribe_to_session_channel(session_id):
    with SESSION_CHANNELS_LOCK:
        channel = SESSION_CHANNELS.setdefault(session_id, SessionChannel())
        return channel, channel.subscribe()

def active_stream_id_for_session(session_id):
    with config.ACTIVE_RUNS_LOCK:
        runs = list(config.ACTIVE_RUNS.items())
    return next((stream for stream, run in runs if "phase" not in run), None)

def _session_has_active_turn(session_id):
    return bool(config.ACTIVE_RUNS)

def _emit_to_session_streams(session_id, event, data):
    channel = get_session_channel(session_id)
    if channel is not None:
        channel.emit(event, data)

def _reaper_loop():
    while not _REAPER_STOP.is_set():
        with SESSION_CHANNELS_LOCK:
            for session_id, channel in list(SESSION_CHANNELS.items()):
                if channel.is_over():
                    del SESSION_CHANNELS[session_id]
        if _REAPER_STOP.wait(60):
            return
"""
SUBSCRIBES_APART = (
    "        return channel, channel.subscribe()",
    "    return channel, channel.subscribe()",
)

WAKEUPS_SOURCE = """
import queue, threading
from api import config

_PENDING_EMIT_TIMERS, _LOCK, _SEEN = {}, threading.Lock(), set()

def register_process_session(key, session_id):
    config.PROCESS_SESSION_INDEX[key] = session_id

def start_drain_thread():
    raise NotImplementedError

def stop_drain_thread():
    pass

def _process_one(event):
    process, session_id = event["session_id"], event["origin_ui_session_id"]
    is_busy = False
    with _LOCK:
        if process in _SEEN:
            return
        _SEEN.add(process)
        config.DEFERRED_PROCESS_WAKEUPS.setdefault(session_id, []).append(process)
    if not is_busy:
        drain_deferred_wakeups_for_session(session_id)

def drain_deferred_wakeups_for_session(session_id):
    from api.routes import start_session_turn

    with _LOCK:
        waiting = config.DEFERRED_PROCESS_WAKEUPS.get(session_id, [])
        if waiting:
            prompt = f"[IMPORTANT: Background process {waiting[0]} completed"
            status = start_session_turn(session_id, prompt, source="process_wakeup")["_status"]
            if status == 200:
                waiting.pop(0)
            if status == 404 or not waiting:
                del config.DEFERRED_PROCESS_WAKEUPS[session_id]
"""
FORGOTTEN = ("is_busy = False", "is_busy = bool(config.ACTIVE_RUNS)")
STREAMING_SOURCE = """
def _drain_webui_process_notifications(session_id):
    return []
"""

MODELS_SOURCE = """
import json, os, threading
from pathlib import Path

SESSION_DIR, SESSION_INDEX_FILE = Path("none"), Path("none/_index.json")
SESSIONS, LOCK, _INDEX_LOCK = {}, threading.Lock(), threading.Lock()

class Session:
    def __init__(self, session_id, messages=(), active_stream_id=None):
        self.session_id, self.messages = session_id, list(messages)
        self.active_stream_id = active_stream_id

    @classmethod
    def load(cls, session_id):
        found = get_session(session_id)
        return cls(session_id, found.messages, found.active_stream_id)

    def save(self):
        with LOCK:
            SESSIONS[self.session_id] = self
        with _INDEX_LOCK:
            rows = {row["session_id"]: row for row in all_sessions()}
            rows[self.session_id] = self.row()
            path = SESSION_INDEX_FILE.with_suffix(f".{threading.get_ident()}")
            path.write_text(json.dumps(list(rows.values())))
            os.replace(path, SESSION_INDEX_FILE)

    def row(self):
        return {"session_id": self.session_id, "message_count": len(self.messages),
                "updated_at": 0}

def get_session(session_id):
    with LOCK:
        return SESSIONS[session_id]

def all_sessions():
    if not SESSION_INDEX_FILE.exists():
        return []
    return json.loads(SESSION_INDEX_FILE.read_text())
"""
SESSIONS_CONFIG = """
import threading

STREAMS, STREAMS_LOCK, _LOCKS = {}, threading.Lock(), {}

def _get_session_agent_lock(session_id):
    with STREAMS_LOCK:
        return _LOCKS.setdefault(session_id, threading.Lock())
"""
ROUTES_SOURCE = """
from api import config

def handle_post(handler, parsed):
    raise NotImplementedError

def _clear_stale_stream_state(session):
    with config._get_session_agent_lock(session.session_id):
        stream = session.active_stream_id
        if stream and stream not in config.STREAMS:
            session.active_stream_id = None
            session.save()
"""
CLEARS_UNREAD = (
    (
        "    with config._get_session_agent_lock(session.session_id):\n"
        "        stream = session.active_stream_id\n"
    ),
    (
        "    stream = session.active_stream_id\n"
        "    with config._get_session_agent_lock(session.session_id):\n"
    ),
)

CATALOG_SOURCE = """
import copy, threading, time

_LIVE_REBUILD_BUDGET_SECONDS = 4.0
_LOCK, _build, _cache = threading.Condition(), None, None

def _get_config_path():
    raise NotImplementedError

def _minimal_static_models_catalog():
    raise NotImplementedError

def _invoke_models_rebuild(build):
    raise NotImplementedError

def get_available_models(*, prefer_cache=False):
    global _build
    if prefer_cache:
        return copy.deepcopy(_cache or _minimal_static_models_catalog())
    with _LOCK:
        if _cache is not None:
            return copy.deepcopy(_cache)
        if _build is None:
            _build = threading.Thread(target=_rebuild, daemon=True)
            _build.start()
        ends_s = time.monotonic() + _LIVE_REBUILD_BUDGET_SECONDS
        _LOCK.wait_for(lambda: _cache is not None, ends_s - time.monotonic())
        return copy.deepcopy(_cache or _minimal_static_models_catalog())

def _rebuild():
    global _build, _cache
    found = _invoke_models_rebuild(None)
    with _LOCK:
        _build, _cache = None, found
        _LOCK.notify_all()
"""
DISPLAY_WAITS = (
    "        return copy.deepcopy(_cache or _minimal_static_models_catalog())\n    with",
    (
        "        with _LOCK:\n            _LOCK.wait_for(lambda: _build is None, 60)\n"
        "            return copy.deepcopy(_cache or _minimal_static_models_catalog())\n    with"
    ),
)

WAKEUP_MODULES = {
    "background_process": "# start_session_turn\n" + WAKEUPS_SOURCE,
    "config": CONFIG_SOURCE,
    "streaming": STREAMING_SOURCE,
}
CHANNEL_MODULES = {
    "background_process": CHANNELS_SOURCE,
    "config": CONFIG_SOURCE,
    "session_events": LIST_SOURCE,
}
SESSION_MODULES = {
    "models": MODELS_SOURCE,
    "config": SESSIONS_CONFIG,
    "routes": ROUTES_SOURCE,
}
CATALOG_MODULES = {"config": CATALOG_SOURCE, "profiles": "", "updates": ""}


@dataclass(frozen=True)
class Case:
    """A checkout, a race in it, and the promise that a program of calls finds broken."""

    ability: str
    sources: dict[str, str]
    race: tuple[str, str]
    meetings: Interleaving
    program: str
    promise: Promise


CASES = {
    "a late reader gets no end": Case(
        "watcher_threads",
        {"gateway_watcher": WATCHER_SOURCE},
        LATE_READER,
        WATCHER,
        "a reader",
        promises.G4,
    ),
    "a number and its row are two steps": Case(
        "journal_threads",
        {"run_journal": JOURNAL_SOURCE},
        APART,
        JOURNAL,
        "two threads emit",
        promises.T5,
    ),
    "a channel is found and subscribed in two steps": Case(
        "channels_threads",
        CHANNEL_MODULES,
        SUBSCRIBES_APART,
        CHANNELS,
        "a reader",
        promises.C9,
    ),
    "a wakeup is put aside behind the end": Case(
        "wakeups_threads",
        WAKEUP_MODULES,
        FORGOTTEN,
        WAKEUPS,
        "a completion as a run leaves",
        promises.W3,
    ),
    "a mark is read outside the lock": Case(
        "sessions_threads",
        SESSION_MODULES,
        CLEARS_UNREAD,
        SESSIONS,
        "a cleanup and a start",
        promises.S7,
    ),
    "a display waits for a rebuild": Case(
        "catalog_threads",
        CATALOG_MODULES,
        DISPLAY_WAITS,
        CATALOG,
        "two rebuilds while providers hang",
        promises.M1,
    ),
}


@pytest.fixture(autouse=True)
def _forgets() -> Iterator[None]:
    yield
    modules.reset()
    modules_of_a_checkout.forget()


def make_checkout(folder: Path, sources: dict[str, str], race: tuple[str, str] = ("", "")) -> Path:
    """Write a checkout with these modules, with or without a race."""
    (folder / "api").mkdir(parents=True)
    old, new = race
    assert not old or any(old in source for source in sources.values())
    for name, source in sources.items():
        text = source.replace(old, new) if old else source
        (folder / "api" / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def judged(target: HermesWebuiTarget, ability: str, part: Interleaving, path: Path) -> Verdict:
    """Explore a few schedules of an interleaving, and judge them."""
    with Journal(path, lambda: 0) as journal:
        examples = 64 * target.cost(ability)
        part.explore(Context(target, ability, "7", examples, journal, minimizes=False))
    return merge([part.judge(history) for history in read(path)])


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_planted_race_is_found_by_its_promise(case: Case, tmp_path: Path) -> None:
    """The module without the race breaks nothing; with it, the promise of that race."""
    (asked,) = [one for one in case.meetings.programs if one.name == case.program]
    part = replace(case.meetings, programs=(asked,))
    verdicts = []
    for name, race in (("right", ("", "")), ("wrong", case.race)):
        target = HermesWebuiTarget(make_checkout(tmp_path / name, case.sources, race))
        target.prepare()
        verdicts.append(judged(target, case.ability, part, tmp_path / f"{name}.jsonl"))

    assert verdicts[0] == Verdict(), [f"{a.message} {a.observed}" for a in verdicts[0].anomalies]
    assert case.promise in {one for found in verdicts[1].anomalies for one in found.promises}


@pytest.mark.usefixtures("cache")
def test_ability_needs_each_of_its_modules(tmp_path: Path) -> None:
    """A module that is not there, or lacks a name, withholds the ability."""
    whole = make_checkout(tmp_path / "whole", WAKEUP_MODULES)
    parts = {name: text for name, text in WAKEUP_MODULES.items() if name != "streaming"}
    part = make_checkout(tmp_path / "part", parts)
    older = make_checkout(
        tmp_path / "older", WAKEUP_MODULES, ("def _process_one", "def _process_another")
    )

    assert explored.offered(whole) == {"wakeups_threads"}
    assert explored.offered(part) == explored.offered(older) == set()


@pytest.mark.usefixtures("cache")
def test_module_that_fails_to_import_is_named(tmp_path: Path) -> None:
    """The error of the import is the reason."""
    broken = {"run_journal": JOURNAL_SOURCE + "raise OSError('no disk')"}
    target = HermesWebuiTarget(make_checkout(tmp_path / "checkout", broken))

    with pytest.raises(TargetUnavailableError, match=r"no api\.run_journal: OSError: no disk"):
        target.prepare()


@pytest.mark.usefixtures("cache")
def test_module_of_another_shape_is_no_answer(tmp_path: Path) -> None:
    """What the adapter cannot open is a usage error, and no broken promise."""
    shaped = {
        "run_journal": JOURNAL_SOURCE.replace("def __init__(self, ", "def __init__(self, x, ")
    }
    target = HermesWebuiTarget(make_checkout(tmp_path / "checkout", shaped))
    target.prepare()

    with pytest.raises(UsageError, match="do not fit the adapter of journal_threads"):
        target.open("journal_threads", tmp_path)


@pytest.mark.usefixtures("cache")
def test_reset_restores_stand_ins_and_replacements(tmp_path: Path) -> None:
    """The next schedule finds each module, and each name, as it was after the import."""
    target = HermesWebuiTarget(make_checkout(tmp_path / "checkout", WAKEUP_MODULES))
    target.prepare()
    module = sys.modules["api.background_process"]
    target.open("wakeups_threads", tmp_path)
    modules.replace(module, "_PENDING_EMIT_TIMERS", None)
    vars(sys.modules["api.config"])["ACTIVE_RUNS"]["run"] = {}
    assert {"tools.process_registry", "api.routes"} <= set(sys.modules)

    modules.reset()

    assert not {"tools", "tools.process_registry", "api.routes"} & set(sys.modules)
    assert vars(module)["_PENDING_EMIT_TIMERS"] == {}
    assert vars(sys.modules["api.config"])["ACTIVE_RUNS"] == {}


@pytest.mark.usefixtures("cache")
def test_look_at_a_damaged_file_is_no_projection(tmp_path: Path) -> None:
    """A look that finds no database costs nothing; one that fails behind it is counted."""
    target = HermesWebuiTarget(make_checkout(tmp_path / "right", {"gateway_watcher": PACE_SOURCE}))
    target.prepare()
    adapter = explored.open_adapter("watcher_pace", tmp_path)
    look = vars(sys.modules["api.gateway_watcher"])["read_importable_agent_session_rows"]
    adapter.write()

    projections = {}
    for how in ("damaged", "none", "missing"):
        adapter.break_off(how)
        before = adapter.projections
        look()
        projections[how] = adapter.projections - before
        adapter.heal()

    assert projections == {"damaged": 0, "none": 1, "missing": 0}
