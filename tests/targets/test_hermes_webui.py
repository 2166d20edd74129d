"""A hermes-webui checkout as a target, judged without one: our agent, the launcher, the bridges.

The checkout here is a toy of our own, with a server and modules that word things as theirs do.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.checkers.conformance import conforms
from harness.contract.clients.message_format import translated
from harness.contract.models.gateway_watcher import WatcherModel
from harness.contract.models.model_catalog import CatalogModel
from harness.core.errors import TargetUnavailableError, UsageError
from harness.core.history import History, Journal
from harness.core.promises import Promise
from harness.engine.client import RecordingClient
from harness.engine.http import Web
from harness.processes.server import NotServingError, ServerProcess
from harness.targets.hermes_webui import packages
from harness.targets.hermes_webui import scripted_agent as scripted
from harness.targets.hermes_webui.http import WebuiHttpAdapter
from harness.targets.hermes_webui.scripted_agent import (
    AIAgent,
    Process,
    ProcessRegistry,
    place_agent,
)
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.target import HermesWebuiTarget
from harness.targets.registry import find_target

LONG_S = 30.0
PLACE = Path(__file__).parents[2]

SERVER = """
import http.server, json, os, signal, sys, urllib.parse

SESSIONS = {}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query))
        session = SESSIONS.get(asked.get("session_id"))
        match url.path:
            case "/health":
                self.tell(200, {"environment": dict(os.environ), "folder": os.getcwd()})
            case "/api/sessions":
                self.tell(200, {"sessions": [one for one in SESSIONS.values() if one["messages"]]})
            case "/api/session/status" if session:
                self.tell(200, {"agent_running": False})
            case "/api/session" if session:
                self.tell(200, {"session": session})
            case _:
                self.tell(404, {"error": "not found"})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.path == "/api/session/new":
            id_ = f"{os.getpid()}x{len(SESSIONS)}"
            SESSIONS[id_] = {
                "session_id": id_, "messages": [], "active_stream_id": None,
                "pending_user_message": None,
            }
            return self.tell(200, {"session": SESSIONS[id_]})
        session = SESSIONS.get(asked["session_id"])
        if session is None:
            return self.tell(404, {"error": "not found"})
        session["messages"].append({"role": "user", "content": asked["message"]})
        self.tell(200, {"stream_id": "0123"})

    def tell(self, status, told):
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *told):
        pass

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
port = int(os.environ["HERMES_WEBUI_PORT"])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

PARENT = """
import sys
from pathlib import Path
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.processes.server import ServerProcess

place = Path(sys.argv[1])
launch = WebuiLaunch(place, place, place, place / "bytecode")
print(ServerProcess(launch, place / "state").pid, flush=True)
sys.stdin.read()
"""

# The agent ----------------------------------------------------------------------------------------


def test_the_agent_shows_what_it_is_told_to_and_counts_the_turns() -> None:
    """The reply is what was shown, and a word at the end; a threaded show loses nothing."""
    shown: list[str] = []
    agent = AIAgent(session_id="s", stream_delta_callback=shown.append)

    first = agent.run_conversation("[tokens=2]")
    second = agent.run_conversation("[tokens=3x4]", conversation_history=first["messages"])

    assert first["final_response"] == "0 1 That was turn 1 of s."
    assert second["messages"][:2] == first["messages"]
    assert sorted(shown[3:-1]) == sorted(4 * ["0 ", "1 ", "2 "])
    assert shown[-1] == "That was turn 2 of s."


def test_an_interrupt_ends_the_turn_under_way_and_only_that() -> None:
    """What was shown is kept, and the next turn is whole."""
    is_showing = threading.Event()
    agent = AIAgent(session_id="s", stream_delta_callback=lambda _: is_showing.set())
    told: list[dict[str, Any]] = []
    turn = threading.Thread(
        target=lambda: told.append(agent.run_conversation("[tokens=1][sleep=900]"))
    )
    turn.start()
    assert is_showing.wait(LONG_S)
    agent.interrupt("enough")
    turn.join(LONG_S)

    assert [told[0]["final_response"], told[0]["completed"]] == ["0 ", False]
    assert agent.run_conversation("[tokens=1]")["completed"]


def test_an_interrupt_before_the_turn_ends_it_unless_it_is_taken_back() -> None:
    """Whoever cancels early is heeded; whoever uses the agent again says so."""
    agent = AIAgent(session_id="s")
    agent.interrupt("at once")
    assert not agent.run_conversation("[sleep=900]")["completed"]

    agent.interrupt("of old")
    agent._interrupted = False

    assert agent.run_conversation("hello")["completed"]


def test_the_agent_fails_and_leaves_when_it_is_told_to() -> None:
    """A failure is an error, an exit is none that `Exception` catches."""
    with pytest.raises(scripted.ScriptedError):
        AIAgent().run_conversation("[fail]")
    with pytest.raises(SystemExit):
        AIAgent().run_conversation("[exit]")


def test_a_tool_says_whose_turn_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context knows best; where it says nothing, the environment is asked."""
    said: list[str] = []
    agent = AIAgent(tool_complete_callback=lambda *told: said.append(told[3]))
    monkeypatch.setenv("HERMES_SESSION_KEY", "of the process")
    agent.run_conversation("[tool]")
    token = scripted.set_current_session_key("of the context")
    agent.run_conversation("[tool]")
    scripted.reset_current_session_key(token)
    agent.run_conversation("[tool]")

    assert said == ["of the process", "of the context", "of the process"]


def test_a_process_is_reported_with_its_owner_at_spawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its output comes whole, with the code that it left with."""
    registry = ProcessRegistry(tmp_path)
    monkeypatch.setattr(scripted, "process_registry", registry)
    token = scripted.set_current_session_key("s1")
    AIAgent().run_conversation("[process=0:exit=3:{tokens=1} said]")
    scripted.reset_current_session_key(token)

    event = registry.completion_queue.get(timeout=LONG_S)

    told = (event["session_key"], event["exit_code"], event["output"])
    assert told == ("s1", 3, "[tokens=1] said")
    process = registry.get(event["session_id"])
    assert isinstance(process, Process)
    assert registry.list_sessions() == [{"session_id": process.id}]
    assert "said" in scripted.format_process_notification(event)


def test_what_was_not_delivered_is_reported_to_the_next_server(tmp_path: Path) -> None:
    """Whatever the server has not marked is owed still.

    first:  |-- spawn(a), spawn(b) -- a, b end -- a delivered -- killed
    second:                                                           |-- b is reported
    """
    first = ProcessRegistry(tmp_path)
    for says in ("a", "b"):
        first.spawn(0, says, 0)
    ended = [first.completion_queue.get(timeout=LONG_S) for _ in range(2)]
    delivered = next(event for event in ended if event["output"] == "a")
    first._completion_consumed.add(delivered["session_id"])
    assert first.is_completion_consumed(delivered["session_id"])

    second = ProcessRegistry(tmp_path)

    assert second.recover_from_checkpoint() == 1
    assert second.completion_queue.get(timeout=LONG_S)["output"] == "b"


def test_the_agent_is_found_by_the_names_that_the_server_imports(tmp_path: Path) -> None:
    """In a folder of its own, with nothing else on the path."""
    place_agent(tmp_path)
    asks = "; ".join(f"from {name} import {what}" for name, what in scripted.MODULES.items())

    subprocess.run(  # noqa: S603  our own
        [sys.executable, "-S", "-P", "-c", asks],
        env={"PYTHONPATH": str(tmp_path), scripted.SPOOL: str(tmp_path / "spool")},
        check=True,
    )


# The launcher -------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A toy's folder."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "server.py").write_text(SERVER, encoding="utf-8")
    return folder


@pytest.fixture
def launch(checkout: Path, tmp_path: Path) -> WebuiLaunch:
    """How the toy is booted."""
    place_agent(tmp_path / "agent")
    return WebuiLaunch(checkout, tmp_path / "none", tmp_path / "agent", tmp_path / "bytecode")


def test_a_server_sees_the_stated_environment_and_nothing_else(
    checkout: Path, launch: WebuiLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key of ours reaches it, its home is the episode's, and its checkout stays as it was."""
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    server = ServerProcess(launch, tmp_path / "state", {"HERMES_WEBUI_AGENT_CACHE_MAX": "2"})
    try:
        told = Web(server.port).get("/health")
    finally:
        server.kill()

    seen = told["environment"]
    assert "OPENAI_API_KEY" not in seen
    assert seen["HERMES_HOME"] == seen["HOME"] == str(tmp_path)
    assert seen["HERMES_WEBUI_AGENT_CACHE_MAX"] == "2"
    assert seen["HERMES_WEBUI_TEST_NETWORK_BLOCK"] == "1"
    assert told["folder"] == str(checkout)
    assert [path.name for path in checkout.iterdir()] == ["server.py"]


def test_servers_that_boot_together_have_ports_of_their_own(
    launch: WebuiLaunch, tmp_path: Path
) -> None:
    """And each ends when it is told to."""
    homes = [tmp_path / f"home{number}" for number in range(3)]
    for home in homes:
        home.mkdir()
    servers = [ServerProcess(launch, home / "state") for home in homes]
    ports = {server.port for server in servers}

    assert [server.terminate() for server in servers] == [0, 0, 0]
    assert len(ports) == len(homes)


def test_a_server_that_ends_at_once_says_why(
    checkout: Path, launch: WebuiLaunch, tmp_path: Path
) -> None:
    """The last that it logged is in the error."""
    (checkout / "server.py").write_text("raise SystemExit('no such option')", encoding="utf-8")

    with pytest.raises(NotServingError, match="no such option"):
        ServerProcess(launch, tmp_path / "state")


def test_a_server_of_a_checkout_dies_with_whoever_booted_it(checkout: Path) -> None:
    """Killed with kill -9, it can clean up nothing."""
    command = [sys.executable, "-c", PARENT, str(checkout)]
    with subprocess.Popen(  # noqa: S603  our own
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()

    assert psutil.wait_procs([server], LONG_S) == ([server], [])


# The bridges --------------------------------------------------------------------------------------


def test_a_session_is_kept_from_its_first_message_on(launch: WebuiLaunch, tmp_path: Path) -> None:
    """One in which nothing was said is made again after a death; one that was lost is not."""
    adapter = WebuiHttpAdapter(tmp_path, launch)
    try:
        adapter.new("s1")
        adapter.new("s2")
        adapter.send("s2", "r1", "hello")
        assert adapter.sessions() == ["s1", "s2"]
        adapter.kill()

        assert adapter.sessions() == ["s1"]
        assert adapter.messages("s1") == {"said": [], "woken": [], "pending": None}
    finally:
        adapter.close()


def test_what_an_older_server_does_not_tell_is_asked_elsewhere(
    launch: WebuiLaunch, tmp_path: Path
) -> None:
    """The active run; a relay that is not there shows nothing, and a watch offers nothing."""
    adapter = WebuiHttpAdapter(tmp_path, launch)
    try:
        adapter.new("s1")
        adapter.send("s1", "r1", "hello")

        assert adapter.status("s1") == {"busy": False, "active": None}
        assert adapter.events("r1", 0) == {"ids": [], "names": [], "closed": True}
        assert adapter.watch("s1") is None
    finally:
        adapter.close()


def test_messages_are_told_in_the_words_of_the_reference() -> None:
    """A message that only says how a turn ended becomes a mark on the one that asked."""
    told = translated(
        [
            {"role": "user", "content": "stop me"},
            {"role": "assistant", "content": "0 1", "_partial": True},
            {"role": "assistant", "content": "**Task cancelled:** by you", "_error": True},
            {"role": "user", "content": "kill me"},
            {"role": "assistant", "content": "...", "_error": True, "type": "interrupted"},
            {"role": "user", "content": "[IMPORTANT: Background process p completed]"},
            {"role": "assistant", "content": "**Error:** as told", "_error": True},
        ]
    )

    assert [row["content"][:7] for row in told] == [
        *("stop me", "0 1", "kill me", "[IMPORT", "**Error"),
    ]
    assert [bool(row.get("cancelled")) for row in told] == [True, False, False, False, False]
    assert [bool(row.get("interrupted")) for row in told] == [False, False, True, False, False]
    assert [row.get("source") for row in told] == [None, None, None, "process_wakeup", None]


def test_messages_of_the_reference_stay_as_they_are() -> None:
    """Marks and sources that are there already are kept."""
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hello", "cancelled": True},
        {"role": "assistant", "content": "task cancelled? no"},
        {"role": "user", "content": "[IMPORTANT: Background process", "source": "process_wakeup"},
    ]

    assert translated(messages) == messages


# The target ---------------------------------------------------------------------------------------


def test_a_folder_without_a_checkout_is_refused(tmp_path: Path) -> None:
    """The error names the folder, and what is not in it."""
    with pytest.raises(TargetUnavailableError, match=rf"{tmp_path}.*no server\.py"):
        find_target(f"hermes-webui@{tmp_path}").prepare()


def test_a_package_that_cannot_be_had_is_named(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half-made stays in the cache."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    fails = [sys.executable, "-c", "raise OSError"]
    monkeypatch.setattr(packages, "installer", lambda _: fails)

    with pytest.raises(TargetUnavailableError, match=r"pyyaml.*cannot be installed"):
        HermesWebuiTarget(checkout).prepare()

    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which the package is already."""
    folder = tmp_path / "cache"
    (folder / packages.YAML).mkdir(parents=True)
    monkeypatch.setenv("HARNESS_CACHE", str(folder))
    return folder


def test_a_server_that_never_came_up_has_broken_no_promise(checkout: Path, cache: Path) -> None:
    """It is tried once, before anybody asks it anything."""
    (checkout / "server.py").write_text("raise SystemExit('no config')", encoding="utf-8")

    with pytest.raises(TargetUnavailableError, match="no config"):
        HermesWebuiTarget(checkout).prepare()

    assert cache.is_dir()


@pytest.mark.usefixtures("cache")
def test_a_checkout_can_do_what_it_has_the_files_for(checkout: Path, tmp_path: Path) -> None:
    """The toy has no lifecycle; it is booted by the target as by the launcher."""
    target = HermesWebuiTarget(checkout)
    target.prepare()
    instance = target.open("http", tmp_path)
    try:
        instance.call("new", {"session": "s1"})

        assert target.abilities == {"http", "doors"}
        assert instance.call("sessions", {}) == ["s1"]
    finally:
        instance.close()


# Modules, each in a process of its own ------------------------------------------------------------

CONFIG = """
import json
from pathlib import Path

def _get_auth_store_path():
    raise NotImplementedError("is told")

def _models_cache_path():
    raise NotImplementedError("is told")

def fingerprint():
    path = _get_auth_store_path()
    return FINGERPRINT if path.exists() else None

def _load_models_cache_from_disk():
    if not _models_cache_path.exists():
        return None
    kept = json.loads(_models_cache_path.read_text())
    return kept["cache"] if kept["for"] == fingerprint() else None

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


def asked_of(
    target: HermesWebuiTarget, ability: str, folder: Path, asked: Sequence[Any]
) -> History:
    """What a fresh instance answers."""
    instance = target.open(ability, folder)
    with Journal(folder / "history.jsonl", lambda: 0) as journal:
        client = RecordingClient(instance, journal)
        operations = tuple(client.ask(function, argument) for function, argument in asked)
    instance.close()
    return History(operations)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("fingerprint", "broken"), [(BY_MEANING, []), (BY_STAT, [Promise.M3])], ids=["right", "wrong"]
)
def test_a_cache_that_is_keyed_by_stat_is_caught(
    fingerprint: str, broken: list[Promise], tmp_path: Path
) -> None:
    """Its own files decide whether it holds; the model is the one that judges the reference."""
    checkout = tmp_path / "checkout"
    (checkout / "api").mkdir(parents=True)
    (checkout / "api" / "config.py").write_text(CONFIG.replace("FINGERPRINT", fingerprint))
    (checkout / "api" / "updates.py").touch()
    target = HermesWebuiTarget(checkout)
    target.prepare()
    assert target.abilities == {"catalog"}

    history = asked_of(target, "catalog", tmp_path, CACHED)

    verdict = conforms(CatalogModel())(history)
    assert [anomaly.promise for anomaly in verdict.anomalies] == broken


GATEWAY = """
import queue, sqlite3, threading, time

QUERY = (
    "SELECT s.id, s.title, COUNT(m.id) FROM sessions s JOIN messages m ON m.session_id = s.id"
    " WHERE s.source NOT IN ('cron', 'webui') GROUP BY s.id"
)

def _get_state_db_path(*_):
    raise NotImplementedError("is told")

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
    ("on_failure", "broken"), [("None", []), ("[]", [Promise.G3])], ids=["right", "wrong"]
)
def test_a_failure_that_is_announced_as_an_empty_list_is_caught(
    on_failure: str, broken: list[Promise], tmp_path: Path
) -> None:
    """Its own loop is given two turns, and no time passes."""
    checkout = tmp_path / "checkout"
    (checkout / "api").mkdir(parents=True)
    (checkout / "api" / "gateway_watcher.py").write_text(GATEWAY.replace("ON_FAILURE", on_failure))
    target = HermesWebuiTarget(checkout)
    target.prepare()

    history = asked_of(target, "watcher", tmp_path, WATCHED)

    verdict = conforms(WatcherModel())(history)
    assert [anomaly.promise for anomaly in verdict.anomalies] == broken


@pytest.mark.usefixtures("cache")
def test_modules_that_the_adapter_does_not_know_have_broken_no_promise(tmp_path: Path) -> None:
    """That is told as a question that cannot be asked."""
    checkout = tmp_path / "checkout"
    (checkout / "api").mkdir(parents=True)
    (checkout / "api" / "gateway_watcher.py").write_text("class Watcher: pass")
    target = HermesWebuiTarget(checkout)
    target.prepare()

    with pytest.raises(UsageError, match="cannot be asked for that"):
        asked_of(target, "watcher", tmp_path, WATCHED)


AGAIN = """
import sys
from harness.targets.hermes_webui import checkout

first = checkout.module("first")
first.KNOWN["dirty"] = 1
first.count = 3
second = checkout.module("second")
second.KNOWN["dirtier"] = 2
checkout.put("count", 5)
checkout.be_born_again()
assert second.KNOWN is first.KNOWN
print(first.KNOWN, first.count, second.names)
"""


def test_a_module_born_again_knows_what_it_knew_when_it_was_imported(tmp_path: Path) -> None:
    """Also where another, imported later, has the same container by another name."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "first.py").write_text("KNOWN = {}\ncount = 0\n")
    (tmp_path / "api" / "second.py").write_text("from api.first import KNOWN\nnames = ['a']\n")

    told = subprocess.run(  # noqa: S603  our own
        [sys.executable, "-c", AGAIN],
        env={"PYTHONPATH": f"{PLACE}:{tmp_path}"},
        check=True,
        capture_output=True,
        text=True,
    )

    assert told.stdout == "{} 0 ['a']\n"
