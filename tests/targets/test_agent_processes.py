"""Tests of the host of hermes-agent's process registry, with a small package of its interface."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.targets.hermes_agent import process_host
from harness.targets.hermes_agent.process_host import OUTPUT_CHARS_MAX, REPORTS_MAX, ProcessHost
from harness.targets.hermes_agent.processes import (
    PATIENCE_S,
    SHORT_PATIENCE_S,
    AgentProcessesAdapter,
    Patience,
)

NOTHING = {"notify_on_complete": True, "watches": [], "session_key": ""}
MODULES = {
    "tools/process_registry.py": """
import contextvars, json, queue, time, uuid

class Session:
    _reader_thread = None
    detached = exited = notify_on_complete = False
    _watch_suppressed = 0
    def __init__(self, command, session_key):
        self.id, self.command, self.session_key = uuid.uuid4().hex, command, session_key
        self.watch_patterns, self.output_buffer, self.exit_code = [], "", None

class ProcessRegistry:
    def __init__(self):
        self.completion_queue, self._running, self._finished = queue.Queue(), {}, {}
        self.consumed = set()
    def recover_from_checkpoint(self):
        return 0
    def spawn_local(self, command, session_key):
        session = Session(command, session_key)
        self._running[session.id] = session
        session.environment = dict(IDENTITY.get())
        if command == "brief":
            self.end(session.id, 3)
        return session
    def end(self, id_, code):
        session = self._finished[id_] = self._running.pop(id_)
        session.exited, session.exit_code = True, code
        if session.notify_on_complete:
            self.put(session, "completion", exit_code=code, output=session.output_buffer[-10:])
    def put(self, session, kind, **more):
        self.completion_queue.put(
            {"session_id": session.id, "command": session.command, "type": kind, **more}
        )
    def get(self, id_):
        return self._running.get(id_) or self._finished.get(id_)
    def is_completion_consumed(self, id_):
        return id_ in self.consumed
    def list_sessions(self):
        return [{"status": "running"} for _ in self._running]
    def kill_process(self, id_):
        if id_ not in self._running:
            return {"status": "already_exited"}
        self.end(id_, -15)
        return {"status": "killed"}

IDENTITY = contextvars.ContextVar("identity", default={})
""",
    "tools/terminal_tool.py": """
import json
from tools import approval, process_registry as module

LATE = True  # the promise is noted after the start, as in the released package

def terminal_tool(command, *, background, force, notify_on_complete, watch_patterns):
    if not isinstance(command, str):
        return json.dumps({"error": "no text"})
    registry = module.process_registry
    if not LATE:
        module.Session.notify_on_complete = notify_on_complete
    session = registry.spawn_local(command, session_key=approval.key.get())
    session.notify_on_complete = notify_on_complete
    session.watch_patterns = watch_patterns or []
    return json.dumps({"session_id": session.id, "error": None})
""",
    "tools/approval.py": """
import contextvars
key = contextvars.ContextVar("key", default="")
set_current_session_key, reset_current_session_key = key.set, key.reset
""",
    "tools/ansi_strip.py": "strip_ansi = str\n",
    "gateway/session_context.py": """
from tools.process_registry import IDENTITY

def set_session_vars(platform="", chat_id="", session_key="", session_id=""):
    IDENTITY.set({"platform": platform, "id": session_id, "key": session_key})

def clear_session_vars(tokens):
    IDENTITY.set({})
""",
}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessHost]:
    """A host of the small package."""
    for name, source in MODULES.items():
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    for name in ("HOME", "HERMES_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "processes").mkdir()
    yield process_host.open_adapter(tmp_path / "processes")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tools", "gateway")]:
        del sys.modules[name]


def registry() -> Any:
    """The registry of the small package."""
    return sys.modules["tools.process_registry"].process_registry


def test_report_of_an_end_is_translated(host: ProcessHost) -> None:
    """The owner is looked up, the shell's own words go, and all that was printed is shown."""
    id_ = host.spawn("p", "s", NOTHING)
    registry().get(id_).output_buffer = f"bash: no job control in this shell\n{'x' * 5000}logout\n"
    registry().end(id_, 3)
    (event,) = host.take(1, 0)
    assert (event["key"], event["exit_code"]) == ("s", 3)
    assert event["output"] == "x" * OUTPUT_CHARS_MAX


def test_report_with_other_output_is_shown_unchanged(host: ProcessHost) -> None:
    """What the package reports wrongly is not mended."""
    id_ = host.spawn("p", "s", NOTHING)
    process = registry().get(id_)
    process.output_buffer = "right"
    registry().put(process, "completion", exit_code=0, output="wrong")
    assert [event["output"] for event in host.take(1, 1)] == ["wrong"]


def test_killed_process_has_the_harness_exit_code(host: ProcessHost) -> None:
    """A process that ends by itself with the same code keeps it."""
    ids = [host.spawn(name, "s", NOTHING) for name in "pq"]
    assert host.kill(ids[0])
    assert not host.kill(ids[0])
    registry().end(ids[1], -15)
    assert [event["exit_code"] for event in host.take(2, 0)] == [-9, -15]


def test_consumed_completion_is_not_taken(host: ProcessHost) -> None:
    id_ = host.spawn("p", "s", NOTHING)
    registry().consumed.add(id_)
    registry().end(id_, 0)
    assert host.take(0, 0) == []


def test_watched_lines_reported_together_count_as_suppressed(host: ProcessHost) -> None:
    """The first line is shown as it was printed, and the others are counted with the next one."""
    process = registry().get(host.spawn("p", "s", {**NOTHING, "watches": ["hit"]}))
    process.output_buffer = "hit 1\nhit 2\nnone\nhit 3\n"
    registry().put(process, "watch_match", pattern="hit", output="hit 1\nhit 2", suppressed=0)
    registry().put(process, "watch_match", pattern="hit", output="hit 3", suppressed=2)
    shown = [(event["output"], event["suppressed"]) for event in host.take(2, 1)]
    assert shown == [("hit 1", 0), ("hit 3", 3)]


def test_long_watched_line_is_shown_whole(host: ProcessHost) -> None:
    """The package shows the start of a long line; one that was never printed stays as it is."""
    process = registry().get(host.spawn("p", "s", {**NOTHING, "watches": ["hit"]}))
    process.output_buffer = f"{'y' * 3000}hit\n"
    for output in (f"{'y' * 9}\n...(truncated)", "zz\n...(truncated)"):
        registry().put(process, "watch_match", pattern="hit", output=output)
    assert [event["output"] for event in host.take(2, 1)] == [f"{'y' * 3000}hit", "zz"]


def test_watched_line_beyond_the_limit_is_suppressed(host: ProcessHost) -> None:
    """The package bounds the rate of reports only; further ones count at the end."""
    id_ = host.spawn("p", "s", {**NOTHING, "watches": ["hit"]})
    process = registry().get(id_)
    process.output_buffer = "hit\n"
    for _ in range(REPORTS_MAX + 1):
        registry().put(process, "watch_match", pattern="hit", output="hit")
    assert len(host.take(REPORTS_MAX, 1)) == REPORTS_MAX
    registry().end(id_, 0)
    assert [event["suppressed"] for event in host.take(1, 0)] == [1]


@pytest.mark.parametrize("start", [ProcessHost.spawn, ProcessHost.spawn_brief])
def test_process_is_started_in_its_turn(host: ProcessHost, start: Callable[..., str]) -> None:
    options = (NOTHING,) if start is ProcessHost.spawn else ()
    process = registry().get(start(host, "brief", "s", *options))
    assert process.environment == {"platform": "webui", "id": "s", "key": "s"}


def test_turn_beside_another_keeps_its_identity(host: ProcessHost) -> None:
    id_ = host.spawn("p", "s", {**NOTHING, "beside": "t"})
    assert registry().get(id_).environment["id"] == "s"


def test_turn_beside_another_shows_a_global_identity(host: ProcessHost) -> None:
    """A package that binds an identity to the whole process is found."""
    host.spawn("q", "s", NOTHING)
    context: Any = sys.modules["gateway.session_context"]
    where: dict[str, str] = {}
    context.set_session_vars = lambda chat_id="": where.update(id=chat_id)
    module: Any = sys.modules["tools.process_registry"]
    spawn_local = module.ProcessRegistry.spawn_local

    def spawned(*arguments: Any, **options: Any) -> Any:
        process = spawn_local(*arguments, **options)
        process.environment = dict(where)
        return process

    module.ProcessRegistry.spawn_local = spawned
    id_ = host.spawn("p", "s", {**NOTHING, "beside": "t"})
    assert registry().get(id_).environment["id"] == "t"


@pytest.mark.parametrize("is_late", [True, False])
def test_brief_process_meets_a_late_promise(host: ProcessHost, is_late: bool) -> None:  # noqa: FBT001
    """A promise that is noted after the start is lost, and one before it is kept."""
    host.spawn("q", "s", NOTHING)
    tool: Any = sys.modules["tools.terminal_tool"]
    tool.LATE = is_late
    host.spawn_brief("brief", "s")
    assert len(host.take(1, 1)) == (0 if is_late else 1)


def test_start_that_the_tool_refuses_is_an_error(host: ProcessHost) -> None:
    assert host.no_command("empty") == "SpawnRefusedError"
    assert host.no_command("nul") == "none"


class Host:
    """Answers each function as it was set, and notes the arguments."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    def call(self, function: str, argument: dict[str, Any]) -> Any:
        self.asked.append(argument)
        return self.answers.get(function)


def adapter_of(folder: Path, host: Any) -> AgentProcessesAdapter:
    """An adapter that knows one process, `p`."""
    adapter = AgentProcessesAdapter(folder, host, Patience())
    adapter._ids["p"] = "proc_1"
    return adapter


def test_events_name_the_session_of_their_key(tmp_path: Path) -> None:
    """A key that the harness gave is shown, and one that is the session itself is not."""
    event = {"process_id": "proc_1", "command": "", "kind": "completion"}
    host = Host(take=[{**event, "key": "k"}, {**event, "key": "s"}, {**event, "key": "other"}])
    adapter = adapter_of(tmp_path, host)
    adapter._sessions |= {"k": "s", "s": "s"}
    adapter._keys.add("k")
    shown = [(event["owner"], event["key"]) for event in adapter.take(3)]
    assert shown == [("s", "k"), ("s", ""), ("other", "")]
    assert host.asked[-1] == {"count": 3, "running": 0}


def test_proof_has_no_empty_variables(tmp_path: Path) -> None:
    (tmp_path / "proof").write_text("p start A= B=1 C=\np end\n")
    assert adapter_of(tmp_path, Host()).proof() == ["p start B=1", "p end"]


def test_registry_that_reads_late_is_waited_for_once(tmp_path: Path) -> None:
    """The patience comes back with the first text that is read."""
    host = Host(wait_until_printed=False)
    adapter = adapter_of(tmp_path, host)
    for _ in range(2):
        adapter._heard("p", b"x")
    host.answers["wait_until_printed"] = True
    for _ in range(2):
        adapter._heard("p", b"x")
    patiences = [argument["patience_s"] for argument in host.asked if "patience_s" in argument]
    assert patiences == [PATIENCE_S, SHORT_PATIENCE_S, SHORT_PATIENCE_S, PATIENCE_S]
