"""A scripted agent for a hermes-webui checkout, which follows the directives in a message.

    [sleep=2]                       sleeps for 2 seconds, or until it is interrupted
    [tokens=10]                     shows 10 tokens; `[tokens=10x4]`: on each of 4 threads
    [beat=25:0.04]                  shows 25 tokens, one every 0.04 s, each with its due time
    [tool]                          calls a tool, which returns the session key of the turn
    [heard]                         shows a digest of each message of the history
    [process=0.5:exit=3:hello]      starts a background process that prints after 0.5 s
    [fail]  [exit]                  raises an error; raises SystemExit
    [linger=0.3]                    waits until it is interrupted, and 0.3 s more;
                                    `[linger=0.3:fail]` raises an error after that
    [child=0.5]                     starts a child, which writes into the database after 0.5 s,
                                    by the handle of this agent, whether its turn is over or not
    [steps=2]                       calls 2 tools, which are messages of the conversation
    [compact]                       goes on in a session of another id, whose history is a summary
    [prune]                         goes on in this session, whose history is a summary
    [plain]                         has no token at its end that says which turn it was
    [lacking]                       returns a conversation that lacks the reply
    [twice]                         returns a conversation that has the reply twice
    [reporting]                     returns an error, and a conversation that lacks the reply
    [returns=empty]                 returns another conversation, one of `RETURNS`
    [unkept]                        writes no rows for this turn
    [hang]                          hangs, and ignores interrupts, until the server ends

The steps of `scripted_turns` are directives too.

In a process's output `{` and `}` become `[` and `]`, so that it can contain directives for the
wakeup.

The server imports its agent by the names of certain modules. `place_agent` creates a folder with
these modules: a copy of this file, one of the parser of directives, and one line for each name. It
imports nothing else but the standard library. With a database, which a variable of the environment
asks for, each message of a turn becomes a row, as soon as it is known. Another variable asks for a
note of what each turn was given: a line of a file beside the processes' output.
"""

from __future__ import annotations

import contextvars
import json
import os
import queue
import re
import shlex
import sqlite3
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar, Token
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.contract import agent_script
from harness.targets.hermes_webui import scripted_turns

Message = dict[str, Any]

# The variable that says whether the agent has a database; `all` of its sessions may have rows.
DATABASE = "HARNESS_AGENT_DATABASE"
SPOOL = scripted_turns.SPOOL
MEMORY = "HERMES_MEMORY_URL"  # the variable that names the memory provider, if there is one
TORN = "torn"  # the file of sessions whose agent found its database closed while it worked
CHILD = re.compile(r"\[child=([0-9.]+)\]")
STEPS = re.compile(r"\[steps=([0-9]+)\]")
FOLDER = re.compile(r"\A\[Workspace(?:::v1)?: [^\]\n]*\]\n")  # before what a user has said
COMPACTS, PRUNES, PLAIN = "[compact]", "[prune]", "[plain]"
LACKING, REPORTING, UNKEPT = "[lacking]", "[reporting]", "[unkept]"
TWICE = "[twice]"
RETURNING = re.compile(r"\[returns=([a-z ]+)\]")
RETURNS = (  # instead of the whole conversation, by the words of the directive
    *("empty", "none", "absent", "only the turn", "only the reply", "only the history"),
    *("without its request", "in parts", "with marks", "from its half"),
)
NOTES = "HARNESS_AGENT_NOTES"  # the variable that asks for notes of what turns were given
GIVEN = "given.jsonl"  # the file of these notes
RUNTIME = "resolve_runtime_provider"
CREDENTIALS = "HARNESS_AGENT_CREDENTIALS"  # the variable that asks for keys that change
SUMMARY = {"role": "user", "content": "[CONTEXT COMPACTION] what was said before"}
OF_CHILD = "_child"  # the end of the id of a child's session
PROVIDER_S = 60.0
POLL_S = 0.05
PARSER = "harness_agent_script"  # the name of the parser in the agent's folder
APPROVALS = "tools.approval"
OWN = "from harness.targets.hermes_webui "  # how the parts of the agent import one another
PROMPTS = (
    "_gateway_queues, _lock, _pending, _permanent_approved, approve_permanent, approve_session, "
    "disable_session_yolo, enable_session_yolo, has_blocking_approval, has_pending, is_approved, "
    "is_session_yolo_enabled, pop_pending, register_gateway_notify, resolve_gateway_approval, "
    "save_permanent_allowlist, submit_pending, unregister_gateway_notify"
)
TITLES = "HARNESS_AGENT_TITLES"  # the variable that says whether a model titles sessions
TITLING = "call_llm, _get_auxiliary_task_config"
GOALS = "CONTINUATION_PROMPT_TEMPLATE, DEFAULT_MAX_TURNS, GoalManager, GoalState, judge_goal"
PARTS_OF_AGENT = (  # beside this file
    *("scripted_turns", "scripted_prompts", "scripted_titles", "scripted_goals"),
)
MODULES = {
    "run_agent": "AIAgent",
    "tools.process_registry": "format_process_notification, process_registry",
    APPROVALS: "get_current_session_key, reset_current_session_key, set_current_session_key",
    "gateway.session_context": "_SESSION_KEY, _SESSION_UI_SESSION_ID",
    "hermes_constants": ("get_hermes_home, reset_hermes_home_override, set_hermes_home_override"),
    "tools.skills_tool": "SKILLS_DIR, _SKILLS_DIR_AT_IMPORT, _skills_dir",
    "tools.skill_manager_tool": "SKILLS_DIR, _SKILLS_DIR_AT_IMPORT, _skills_dir",
}
# Absent parts: `HARNESS_AGENT_WITHOUT` names a module, or an attribute of the process registry.
WITHOUT = "HARNESS_AGENT_WITHOUT"
REGISTRY = "process_registry."
PARTS = (
    *("run_agent", "tools.process_registry", "tools.approval", "gateway.session_context"),
    *(f"{REGISTRY}completion_queue", f"{REGISTRY}_completion_consumed", f"{REGISTRY}_lock"),
    *(f"{REGISTRY}get", f"{REGISTRY}list_sessions", f"{REGISTRY}recover_from_checkpoint"),
)


def sources() -> dict[str, str]:
    """The files of the agent's folder, by path: this module, its parser, and the server's names."""
    name = Path(__file__).stem
    own = Path(__file__).read_text(encoding="utf-8")
    parser = Path(agent_script.__file__).read_text(encoding="utf-8")
    # The server's process need not have the harness: there the parser is a module of its own.
    own = own.replace(
        "from harness.contract import agent_script", f"import {PARSER} as agent_script", 1
    )
    files = {f"{name}.py": own, f"{PARSER}.py": parser}
    for part in PARTS_OF_AGENT:
        files[f"{part}.py"] = Path(__file__).with_name(f"{part}.py").read_text(encoding="utf-8")
    files = {path: source.replace(OWN, "") for path, source in files.items()}
    database = Path(__file__).with_name("scripted_database.py").read_text(encoding="utf-8")
    future = "from __future__ import annotations\n"
    absent = f"import os\nif not os.environ.get({DATABASE!r}):\n    raise ImportError\n"
    files["hermes_state.py"] = database.replace(future, future + absent, 1)
    for module, offered in MODULES.items():
        missing = (
            f"import os\nif os.environ.get({WITHOUT!r}) == {module!r}:\n    raise ImportError\n"
        )
        files[f"{module.replace('.', '/')}.py"] = f"{missing}from {name} import {offered}\n"
    files[f"{APPROVALS.replace('.', '/')}.py"] += f"from scripted_prompts import {PROMPTS}\n"
    absent = f"import os\nif not os.environ.get({TITLES!r}):\n    raise ImportError\n"
    files["agent/auxiliary_client.py"] = f"{absent}from scripted_titles import {TITLING}\n"
    files["hermes_cli/goals.py"] = (
        f"{absent}from scripted_goals import {GOALS}, load_goal, save_goal\n"
    )
    absent = f"import os\nif not os.environ.get({CREDENTIALS!r}):\n    raise ImportError\n"
    files["hermes_cli/runtime_provider.py"] = f"{absent}from {name} import {RUNTIME}\n"
    # The server trusts an agent that has its skills' modules loaded to run turns side by side.
    files["run_agent.py"] += "import tools.skill_manager_tool\nimport tools.skills_tool\n"
    return files


def place_agent(folder: Path) -> None:
    """Create the folder. It is no git repository, so that the server accepts the agent."""
    for name, source in sources().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


# The session of a turn

_SESSION_KEY: ContextVar[str] = ContextVar("session_key", default="")
_SESSION_UI_SESSION_ID: ContextVar[str] = ContextVar("session_ui_session_id", default="")


def set_current_session_key(key: str) -> Token[str]:
    """Set the session key of this context's turn."""
    return _SESSION_KEY.set(key)


def reset_current_session_key(token: Token[str]) -> None:
    """Undo a `set_current_session_key`."""
    _SESSION_KEY.reset(token)


def get_current_session_key(default: str = "") -> str:
    """The session key of the turn, from the context, else from the environment."""
    return _SESSION_KEY.get() or os.environ.get("HERMES_SESSION_KEY", default)


# The home of a turn's profile

_HOME: ContextVar[str] = ContextVar("hermes_home", default="")


def set_hermes_home_override(home: str | Path | None) -> Token[str]:
    """Set the home of this context's turn."""
    return _HOME.set(str(home or ""))


def reset_hermes_home_override(token: Token[str]) -> None:
    """Undo a `set_hermes_home_override`."""
    _HOME.reset(token)


def get_hermes_home() -> Path:
    """The home of the turn, else that of the process."""
    return Path(_HOME.get() or os.environ.get("HERMES_HOME", "."))


def _skills_dir() -> Path:
    return get_hermes_home() / "skills"


SKILLS_DIR = _SKILLS_DIR_AT_IMPORT = _skills_dir()


# Credentials, which a pool of them changes with each request

_pool = object()


def resolve_runtime_provider(requested: str | None = None, **_unused: Any) -> dict[str, Any]:
    """The runtime of the one provider, by the next key of its pool."""
    return {
        "provider": requested or "scripted",
        "api_key": f"key-{uuid.uuid4().hex}",
        "base_url": "http://127.0.0.1:9/v1",
        "credential_pool": _pool,
    }


# Background processes


@dataclass(frozen=True)
class Process:
    """A background process, and the session of the turn that started it."""

    id: str
    session_key: str
    origin_ui_session_id: str
    command: str


class Consumed(set[str]):
    """The ids of delivered completions. The server adds to it."""

    def __init__(self, forget: Callable[[str], None]) -> None:
        super().__init__()
        self._forget = forget

    def add(self, id_: str) -> None:
        """Mark a completion as delivered, so that no restart reports it again."""
        super().add(id_)
        self._forget(id_)


class ProcessRegistry:
    """Starts processes, and queues an event as each ends.

    It stores each completion, across kills too, until the server marks it as delivered; so it is
    the server that loses a lost completion.
    """

    def __init__(self, spool: Path) -> None:
        """`spool` is the folder of undelivered completions."""
        self.completion_queue: queue.Queue[dict[str, Any]] = queue.Queue()
        self._spool = spool
        self._lock = threading.RLock()
        self._completion_consumed = Consumed(self._forget)
        self._processes: dict[str, Process] = {}
        self._last: dict[str, Any] = {}

    def spawn(self, seconds: float, output: str, exit_code: int) -> None:
        """Start a process that prints `output` after `seconds`."""
        command = f"sleep {seconds}; printf %s {shlex.quote(output)}; exit {exit_code}"
        id_ = f"proc_{uuid.uuid4().hex[:12]}"
        process = Process(id_, get_current_session_key(), _SESSION_UI_SESSION_ID.get(), command)
        self._spool.mkdir(parents=True, exist_ok=True)
        _write_whole(self._spool / f"{id_}.owed", asdict(process))
        out, end = (shlex.quote(str(self._spool / f"{id_}.{kind}")) for kind in ("out", "end"))
        script = f"({command}) >{out}; echo $? >{end}.new; mv {end}.new {end}"
        child = subprocess.Popen(  # noqa: S603  the scenarios state the command
            ["/bin/sh", "-c", script], stdin=subprocess.DEVNULL, start_new_session=True
        )
        self._follow(process, child.wait)

    def recover_from_checkpoint(self) -> int:
        """Follow the processes that a predecessor on this folder left undelivered; their number."""
        owed = [json.loads(path.read_bytes()) for path in sorted(self._spool.glob("*.owed"))]
        for fields in owed:
            self._follow(Process(**fields), lambda: None)
        return len(owed)

    def _follow(self, process: Process, wait: Callable[[], object]) -> None:
        with self._lock:
            self._processes[process.id] = process
        threading.Thread(target=self._report, args=(process, wait), daemon=True).start()

    def _report(self, process: Process, wait: Callable[[], object]) -> None:
        wait()
        ended = self._spool / f"{process.id}.end"
        while not ended.exists():  # a predecessor's child, which still runs
            time.sleep(POLL_S)
        output = (self._spool / f"{process.id}.out").read_text(encoding="utf-8")
        event = {
            "type": "completion",
            "session_id": process.id,
            "session_key": process.session_key,
            "command": process.command,
            "exit_code": int(ended.read_text(encoding="utf-8")),
            "output": output.translate(str.maketrans("{}", "[]")),
            "completed_at": time.time(),
        }
        if process.origin_ui_session_id:
            event["origin_ui_session_id"] = process.origin_ui_session_id
        self._last = event
        self.completion_queue.put(event)

    def repeat(self, changes: dict[str, Any]) -> None:
        """Queue the last event with some changes, and without the fields that are None there."""
        changed = {**self._last, **changes}
        self.completion_queue.put({k: v for k, v in changed.items() if v is not None})

    def _forget(self, id_: str) -> None:
        (self._spool / f"{id_}.owed").unlink(missing_ok=True)

    def is_completion_consumed(self, id_: str) -> bool:
        """Whether the completion was delivered."""
        with self._lock:
            return id_ in self._completion_consumed

    def get(self, id_: str) -> Process | None:
        """A process by its id."""
        with self._lock:
            return self._processes.get(id_)

    def list_sessions(self) -> list[dict[str, str]]:
        """Every process, which the server calls a session."""
        with self._lock:
            return [{"session_id": id_} for id_ in self._processes]


def steps_of(text: str) -> list[Message]:
    """The calls of tools that the message asks for, with their results."""
    found = STEPS.search(text)
    steps: list[Message] = []
    for number in range(int(found[1]) if found else 0):
        call = f"{text.split(maxsplit=1)[0]}-{number}"
        function = {"name": "look", "arguments": json.dumps({"at": call})}
        calls = [{"id": call, "type": "function", "function": function}]
        steps.append({"role": "assistant", "content": "", "tool_calls": calls})
        steps.append({"role": "tool", "content": f"seen {call}", "tool_call_id": call})
    return steps


def _registry() -> Any:
    """The registry, perhaps without one of its parts."""
    registry = ProcessRegistry(Path(os.environ.get(SPOOL, "spool")))
    without = os.environ.get(WITHOUT, "")
    if not without.startswith(REGISTRY):
        return registry
    name = without.removeprefix(REGISTRY)
    if name in vars(registry):
        delattr(registry, name)
    else:
        delattr(ProcessRegistry, name)
    return registry


process_registry = _registry()


def format_process_notification(event: dict[str, Any]) -> str:
    """Render a completion as text for the agent."""
    cause = f"completed (exit_code={event['exit_code']})"
    prompt = agent_script.WakeupPrompt(
        event["session_id"], cause, event["command"], event["output"]
    )
    return str(prompt)


def _said_in(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """Roles and texts of messages, whose contents may have parts; calls and results by their id."""
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, list):
            parts = [part for part in content if isinstance(part, dict)]
            content = "".join(str(part.get("text", "")) for part in parts)
        if message.get("role") == "tool":
            yield "result", str(message.get("tool_call_id"))
        elif content or not message.get("tool_calls"):
            yield str(message.get("role")), FOLDER.sub("", str(content))
        for call in message.get("tool_calls") or ():
            yield "call", str(call.get("id"))


def _write_whole(path: Path, content: dict[str, Any]) -> None:
    """Write a file so that it exists as a whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content), encoding="utf-8")
    new.replace(path)


def change_conversation(result: dict[str, Any], kind: str, handed: int) -> None:
    """Give the result another conversation, of which the first messages were handed to the turn."""
    said: list[Message] = result["messages"]
    parts = [{**row, "content": [{"type": "text", "text": row["content"]}]} for row in said]
    marks = {"finish_reason": "stop", "timestamp": time.time()}
    others: dict[str, list[Message] | None] = {
        "empty": [],
        "none": None,
        "absent": None,
        "only the turn": said[handed:],
        "only the reply": said[-1:],
        "only the history": said[:handed],
        "without its request": [*said[:handed], *said[handed + 1 :]],
        "in parts": parts,
        "with marks": [{**row, "id": 1 + at, **marks} for at, row in enumerate(said)],
        "from its half": said[handed // 2 :],
    }
    result["messages"] = others[kind]
    if kind == "absent":
        del result["messages"]


# The agent


class ScriptedError(Exception):
    """The message asked for a failure."""


class AIAgent:
    """One session's agent. The server passes the callbacks, and runs one turn at a time."""

    def __init__(  # noqa: PLR0913  the server passes these by name
        self,
        *,
        session_id: str = "",
        session_db: Any = None,
        stream_delta_callback: Callable[[str], None] | None = None,
        reasoning_callback: Callable[[str], None] | None = None,
        tool_progress_callback: Callable[..., None] | None = None,
        tool_start_callback: Callable[[str, str, Any], None] | None = None,
        tool_complete_callback: Callable[[str, str, Any, str], None] | None = None,
        interim_assistant_callback: Callable[..., None] | None = None,
        clarify_callback: Callable[[str, Any], str] | None = None,
        model: str = "",
        enabled_toolsets: Sequence[str] | None = None,
        credential_pool: Any = None,
        reasoning_config: Any = None,
        **_unused: Any,
    ) -> None:
        self.session_id = session_id
        self.model = model
        self._toolsets = enabled_toolsets
        self._credential_pool = credential_pool
        self.reasoning_config = reasoning_config
        self._id = uuid.uuid4().hex
        self.stream_delta_callback = stream_delta_callback
        self.reasoning_callback = reasoning_callback
        self.tool_progress_callback = tool_progress_callback
        self.tool_start_callback = tool_start_callback
        self.tool_complete_callback = tool_complete_callback
        self.interim_assistant_callback = interim_assistant_callback
        self.clarify_callback = clarify_callback
        self.steering: list[str] = []  # messages beside the turn, which it has not taken
        self.steered = threading.Event()
        self.session_api_calls = 0
        self._handed: list[Message] = []
        self._session_db = session_db
        self._last_error: str | None = None
        self._stop = threading.Event()

    @property
    def _interrupted(self) -> bool:
        return self._stop.is_set()

    @_interrupted.setter
    def _interrupted(self, is_interrupted: bool) -> None:
        """Set or clear an interrupt; the server clears it when it uses an agent again."""
        (self._stop.set if is_interrupted else self._stop.clear)()

    def interrupt(self, message: str | None = None) -> None:  # noqa: ARG002  it is not used
        """Interrupt the current turn, or else the next one."""
        self._stop.set()

    @property
    def is_stopped(self) -> bool:
        """Whether the turn is interrupted."""
        return self._stop.is_set()

    @is_stopped.setter
    def is_stopped(self, is_stopped: bool) -> None:
        self._interrupted = is_stopped

    def wait_until_stopped(self) -> None:
        """Wait for an interrupt."""
        self._stop.wait()

    def steer(self, text: str) -> bool:
        """Take a message beside the turn."""
        self.steering.append(text)
        self.steered.set()
        return True

    def taken_steering(self) -> list[str]:
        """The messages beside the turn, each given once."""
        taken, self.steering = self.steering, []
        return taken

    def _drain_pending_steer(self) -> str | None:
        """The messages that the turn left, for the server."""
        return "\n".join(self.taken_steering()) or None

    def spawn(self, output: str) -> None:
        """Start a background process that prints this at once."""
        process_registry.spawn(0.0, output, 0)

    def run_conversation(
        self,
        user_message: Any,
        system_message: str | None = None,  # noqa: ARG002  it reads the user's message only
        conversation_history: Sequence[Message] | None = None,
        task_id: str | None = None,  # noqa: ARG002
        persist_user_message: str | None = None,
        **_unused: Any,
    ) -> dict[str, Any]:
        """Follow the message's directives; the conversation, with the shown text as the reply."""
        history = list(conversation_history or [])
        self._last_error = None
        text = persist_user_message if persist_user_message is not None else str(user_message)
        shown: list[str] = []
        self.session_api_calls += 1
        history = self._shortened(history, text)
        self._handed = history
        self._note_given(str(user_message), text)
        # Where the user's message is in what this turn returns: servers read it by these names.
        self._persist_user_message_idx: int | None = len(history)
        self._current_turn_id = uuid.uuid4().hex
        note = self._noting(text)
        if script := scripted_turns.steps_in(text):
            turn = scripted_turns.ScriptedTurn(self, get_current_session_key(), note)
            return turn.follow(script, history, text)
        note("user", text)
        steps = steps_of(text)
        for step in steps:
            note(**step)
        try:
            self._start_children(text)
            for directive in agent_script.Script.parse(text).directives:
                if self._stop.is_set():
                    break
                self._obey(directive.verb, directive.value, shown)
            is_whole = not self._stop.is_set()
            if is_whole and PLAIN not in text:
                turn = 1 + sum(message.get("role") == "user" for message in history)
                self._show(shown, str(agent_script.ReplyEnd(turn, self.session_id)))
        finally:
            was_stopped = self._stop.is_set()
            self._stop.clear()
            self._note_reply(shown, note, was_stopped=was_stopped)
        reply = "".join(shown)
        said = [*history, {"role": "user", "content": text}, *steps]
        if REPORTING in text:
            failed = {"error": "the message asked for it", "failed": True, "completed": False}
            return {"final_response": "", "messages": said, **failed}
        if LACKING not in text and (reply or not is_whole):
            said.append({"role": "assistant", "content": reply})
        if TWICE in text:
            said.append({"role": "assistant", "content": reply})
        result = {
            "final_response": reply,
            "messages": said,
            "completed": is_whole,
            "interrupted": not is_whole,
            "api_calls": 1,
        }
        if found := RETURNING.search(text):
            change_conversation(result, found[1], len(history))
        return result

    def _note_given(self, message: str, text: str) -> None:
        """Note what this turn was given, if that is asked for."""
        if not os.environ.get(NOTES):
            return
        spool = Path(os.environ.get(SPOOL, "spool"))
        spool.mkdir(parents=True, exist_ok=True)
        folder = FOLDER.match(message)
        given = {
            "session_id": self.session_id,
            "agent": self._id,
            "model": self.model,
            "toolsets": None if self._toolsets is None else [*self._toolsets],
            "effort": (self.reasoning_config or {}).get("effort"),
            "folder": folder[0].partition(": ")[2].rpartition("]")[0] if folder else None,
            "text": text,
        }
        with (spool / GIVEN).open("a", encoding="utf-8") as file:
            file.write(json.dumps(given) + "\n")

    def _note_reply(
        self, shown: Sequence[str], note: Callable[..., None], *, was_stopped: bool
    ) -> None:
        """Write what was shown; after a cancel the server may have closed the database."""
        if shown:
            try:
                note("assistant", "".join(shown))
            except sqlite3.Error:
                if not was_stopped:
                    self._report_torn()

    def forget_request(self) -> None:
        """No longer say where the user's message is, which was merged with another one."""
        self._persist_user_message_idx = None

    def _shortened(self, history: list[Message], text: str) -> list[Message]:
        """The history, or a summary of it where the message asks for that."""
        if COMPACTS in text and history:
            return self._compacted(text)
        return [dict(SUMMARY)] if PRUNES in text and history else history

    def _compacted(self, text: str) -> list[Message]:
        """Go on in a session of another id; its history."""
        before, self.session_id = self.session_id, uuid.uuid4().hex[:12]
        database = self._session_db
        if database is not None and UNKEPT not in text and database.keeps(before):
            database.end_session(before, "compression")
            database.ensure_session(self.session_id, parent=before)
            database.append_message(self.session_id, **SUMMARY)
        return [dict(SUMMARY)]

    def _noting(self, text: str) -> Callable[..., None]:
        """The function that writes a message of this session to the database, if it has rows."""
        database = self._session_db
        if database is None or UNKEPT in text or not database.keeps(self.session_id):
            return lambda *_message, **_fields: None

        def note(role: str, content: str, **fields: Any) -> None:
            database.ensure_session(self.session_id)
            database.append_message(self.session_id, role, content, **fields)

        return note

    def _obey(self, verb: str, value: str, shown: list[str]) -> None:
        match verb:
            case "sleep":
                self._stop.wait(float(value))
            case "tokens":
                self._show_many(shown, value)
            case "beat":
                self._beat(shown, value)
            case "tool" | "heard":
                self._tell(verb, shown)
            case "process":
                process = agent_script.Process.parse(value)
                process_registry.spawn(process.delay_s, process.output, process.exit_code)
            case "linger":
                self._linger(value)
            case "hang":
                threading.Event().wait()
            case "fail":
                raise ScriptedError("the message contains the directive [fail]")
            case "exit":
                raise SystemExit(1)

    def _tell(self, verb: str, shown: list[str]) -> None:
        """Say by a tool whose turn it is, or in the reply what history was handed."""
        if verb == "tool":
            self._call_tool()
        else:
            self._show(shown, f"{agent_script.Heard.of(_said_in(self._handed))} ")

    def _linger(self, value: str) -> None:
        """Go on for a while after an interrupt; then raise an error, if the value asks for it."""
        seconds, _, end = value.partition(":")
        self._stop.wait()
        time.sleep(float(seconds))
        if end:
            raise ScriptedError("the message asked for a failure after an interrupt")

    def _show_many(self, shown: list[str], value: str) -> None:
        tokens = agent_script.Tokens.parse(value)

        def show() -> None:
            for number in range(tokens.count):
                if self._stop.is_set():
                    return
                self._show(shown, f"{number} ")

        if not tokens.threads:
            show()
            return
        spawned = [
            threading.Thread(target=contextvars.copy_context().run, args=(show,))
            for _ in range(tokens.threads)
        ]
        for thread in spawned:
            thread.start()
        for thread in spawned:
            thread.join()

    def _beat(self, shown: list[str], value: str) -> None:
        beat = agent_script.Beat.parse(value)
        due = time.time()
        for _ in range(beat.count):
            due += beat.interval_s
            if self._stop.wait(max(0.0, due - time.time())):
                return
            self._show(shown, f"@{due:.6f} ")

    def _show(self, shown: list[str], text: str) -> None:
        if self.stream_delta_callback is not None:
            self.stream_delta_callback(text)
        shown.append(text)

    def _call_tool(self) -> None:
        name, call = "session_key", uuid.uuid4().hex
        session_key = get_current_session_key("unknown")
        if self.tool_start_callback is not None:
            self.tool_start_callback(call, name, {})
        elif self.tool_progress_callback is not None:
            self.tool_progress_callback("tool.started", name, "", {})
        if self.tool_complete_callback is not None:
            self.tool_complete_callback(call, name, {}, session_key)
        elif self.tool_progress_callback is not None:
            self.tool_progress_callback("tool.completed", name, session_key, {})

    def _start_children(self, text: str) -> None:
        for seconds in CHILD.findall(text):
            threading.Thread(target=self._work_as_child, args=(float(seconds),)).start()

    def _work_as_child(self, seconds: float) -> None:
        """Write after a while with the handle that the parent has now, as a delegated task does."""
        database, child = self._session_db, f"{self.session_id}{OF_CHILD}"
        time.sleep(seconds)
        try:
            if database is not None:
                database.ensure_session(child, "subagent")
                database.append_message(child, "assistant", "the child is done")
        except sqlite3.Error:
            self._report_torn()

    def _report_torn(self) -> None:
        """Note that the database was closed under a turn."""
        spool = Path(os.environ.get(SPOOL, "spool"))
        spool.mkdir(parents=True, exist_ok=True)
        with (spool / TORN).open("a", encoding="utf-8") as file:
            file.write(f"{self.session_id}\n")

    def commit_memory_session(self) -> None:
        """Let the memory provider extract the session, if there is one. Raises OSError."""
        url = os.environ.get(MEMORY)
        if url:
            path = f"{url}/api/v1/sessions/{self.session_id}/commit"
            request = urllib.request.Request(path, b"", method="POST")  # noqa: S310  ours
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(request, timeout=PROVIDER_S).close()
