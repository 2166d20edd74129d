"""The *days* ability: one install under the load of simulated hours and days.

A call simulates one hour: the actions of users, gateways and cron jobs, each at its second. The
host's background work (the watcher's polls, the collection of channels, wakeups, retries, the
renewal of tokens) runs by itself, on the clock that `time` and `threading` have. An answer reports
what was observed; the checker judges it.

Background processes are scripted: the real registry records, numbers, reports and consumes them,
but a timer replaces the child, since a child runs in real time.

Stand-alone, like every adapter that runs in a process of its own: it imports the standard library
and the package `reference_impl`, found on the path.
"""

import functools
import gc
import importlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

COLLECTION_S = 50.0
PATIENCE_S = 900.0
SETTLING_S = 0.05
_COMMAND = re.compile(r"sleep ([0-9.]+);.*exit ([0-9]+)", re.DOTALL)

Act = Mapping[str, Any]


class SlowError(Exception):
    """A turn or process did not end in time."""


class InstallAdapter:
    """One host with its users, and the other processes that write its database."""

    def __init__(self, folder: Path) -> None:
        self._state = (folder / "state").resolve()
        self._stopping = threading.Event()
        self._counts = {"projections": 0, "fetches": 0, "rotations": 0}
        self._ended: list[list[str]] = []
        self._wakeups: list[str] = []
        self._ids: dict[str, str] = {}
        self._tabs: dict[str, tuple[str, Any]] = {}
        self._shown: dict[str, int] = {}  # message counts of the gateway's sessions
        self._timers: dict[str, threading.Timer] = {}  # for processes that have not ended
        self._threads: list[threading.Thread] = []

    # The install

    def move_in(
        self,
        sessions: Sequence[tuple[str, str, int]],
        agents_max: int,
        sessions_max: int,
        rotation_s: float,
    ) -> None:
        """Open an install with these sessions: name, source, number of messages.

        The caches have the given sizes, and tokens are renewed every `rotation_s` seconds.
        """
        os.environ["HERMES_WEBUI_AGENT_CACHE_MAX"] = str(agents_max)
        os.environ["HERMES_WEBUI_SESSIONS_MAX"] = str(sessions_max)
        self._open()
        for name, source, count in sessions:
            if source == "webui":
                self._create_used(name, count)
            elif source == "cron":
                self._run(name, count)
            else:
                self._write(name, source, count)
                self._shown[name] = count
        self._begin(rotation_s)
        gc.collect()
        gc.freeze()

    def _open(self) -> None:
        self._app = module("app").App(self._state)
        self._others = module("state_db.state_db").StateDb(self._state / "state.db")
        self._draft = module("state_db.state_db").Draft
        registry = self._app.processes
        registry._start = self._start_scripted  # noqa: SLF001 - in place of a child
        registry._listen_to = lambda _running: None  # noqa: SLF001 - no child reports
        nothing = SimpleNamespace(unregister=lambda _fd: None, close=lambda: None)
        registry._selector = nothing  # noqa: SLF001 - no child has a descriptor to wait for
        self._watch()
        catalog = module("model_catalog.catalog")
        models = catalog.catalog_of("scripted", "scripted-agent")
        fetch = functools.partial(self._counted, "fetches", lambda: models)
        self._app.catalog = catalog.ModelCatalog(self._state, fetch, models)

    def _watch(self) -> None:
        """Watch the database with a watcher that counts its projections."""
        watcher = module("live.gateway_watcher")
        project = functools.partial(self._counted, "projections", watcher.project)
        self._app.watcher = watcher.GatewayWatcher(self._state / "state.db", project=project)
        self._gateway = self._app.watcher.subscribe(lambda: None)

    def _counted(self, what: str, act: Callable[..., Any], *args: Any) -> Any:
        self._counts[what] += 1
        return act(*args)

    def _begin(self, rotation_s: float) -> None:
        """Start the background work."""
        self._app.turns.listen(self._wakeup_listener())
        self._app.begin()
        self._open_all_readers()
        self._list = self._app.channels.subscribe_sessions(lambda: None)  # a tab on all sessions
        self._every(COLLECTION_S, self._app.channels.collect, "collector")
        self._every(rotation_s, self._renew_tokens, "tokens")

    def _every(self, seconds: float, act: Callable[[], object], name: str) -> None:
        def go() -> None:
            while not self._stopping.wait(seconds):
                act()

        self._threads.append(threading.Thread(target=go, name=name, daemon=True))
        self._threads[-1].start()

    def _wakeup_listener(self) -> Any:
        """A listener that records which wakeups start."""
        listeners, source = module("turns.listeners"), module("turns.run").Source
        wakeups = self._wakeups

        class WakeupListener(listeners.TurnListener):  # type: ignore[misc, name-defined]
            def started(self, run: Any) -> None:
                if run.source is source.WAKEUP:
                    wakeups.append(run.wakeup_id)
                wakeups.extend(wakeup_id for wakeup_id, _ in run.notices)

        return WakeupListener()

    def _renew_tokens(self) -> None:
        """Log in again, as the gateway does, and request the models, as a display path does."""
        self._counts["rotations"] += 1
        tokens = {"access_token": f"t{self._counts['rotations']}", "expires_at": time.time()}
        auth = {"version": 1, "providers": {"scripted": {**tokens, "account": "a"}}}
        (self._state / "auth.json").write_text(json.dumps(auth), encoding="utf-8")
        self._app.catalog.rebuilt()

    # Background processes, scripted

    def _start_scripted(self, running: Any, _cwd: str) -> None:
        match = _COMMAND.match(running.command)
        assert match is not None, running.command
        timer = threading.Timer(float(match[1]), self._end_scripted, (running, int(match[2])))
        timer.daemon = True
        self._timers[running.process_id] = timer
        timer.start()

    def _end_scripted(self, running: Any, exit_code: int) -> None:
        registry = self._app.processes
        del self._timers[running.process_id]
        self._ended.append([running.process_id, running.owner])
        running.is_child = False
        # Python 3.12 interns the name in a `Path`, which would grow the host's memory.
        with open(registry._exit(running), "w", encoding="ascii") as file:  # noqa: PTH123, SLF001
            file.write(str(exit_code))
        registry._end(running)  # noqa: SLF001 - as the watch does when a child ends

    def _open_all_readers(self) -> None:
        """Open as many read connections as the pool keeps, so that timing does not decide it."""
        readers = self._app._opened_db()._readers  # noqa: SLF001
        with ExitStack() as lent:
            for _ in range(module("state_db.read_pool")._IDLE_MAX):  # noqa: SLF001
                lent.enter_context(readers.lend()).execute("SELECT count(*) FROM sessions")

    # Time

    def live(self, seconds: float, acts: Sequence[Act]) -> dict[str, Any]:
        """Let `seconds` pass, and do each act at its second; what was observed."""
        began_s = time.monotonic()
        for act in acts:
            time.sleep(max(0.0, began_s + act["at"] - time.monotonic()))
            argument = {name: value for name, value in act.items() if name not in ("at", "act")}
            getattr(self, f"_{act['act']}")(**argument)
        time.sleep(max(0.0, began_s + seconds - time.monotonic()))
        return self._observed()

    def settle(self) -> None:
        """Wait until all turns and processes have ended and are reported. Raises SlowError."""
        registry = self._app.processes
        ends_s = time.monotonic() + PATIENCE_S
        while registry.running() or registry.gauges()["process_events_pending"]:
            if time.monotonic() > ends_s:
                raise SlowError(f"unreported processes are left after {PATIENCE_S:g} s")
            time.sleep(SETTLING_S)
        self._await(lambda: not self._app.turns.live_sessions(), "a turn")

    def _observed(self) -> dict[str, Any]:
        """What was observed since the last call."""
        frames = self._gateway.take()
        observed = {
            **self._counts,
            "ended": [[id_, self._name(owner)] for id_, owner in self._ended],
            "woken": list(self._wakeups),
            "channels": self._app.gauges()["channels"],
            "announced": _listed(frames[-1].data) if frames else None,
            "shown": dict(self._shown) if frames else None,
        }
        self._counts.update(dict.fromkeys(self._counts, 0))
        self._ended.clear()
        self._wakeups.clear()
        return observed

    def _name(self, session_id: str) -> str | None:
        return next((name for name, id_ in self._ids.items() if id_ == session_id), None)

    # Acts of users

    def _create_used(self, name: str, count: int) -> None:
        """Create a session with `count` messages."""
        self._new(name)
        messages = [_message(number) for number in range(count)]
        self._write(self._ids[name], "webui", count)
        self._app.sync(self._app.store.append(self._ids[name], *messages))

    def _new(self, session: str) -> None:
        id_ = self._ids[session] = self._app.store.new().session_id
        self._app.channels.sessions_changed("created", id_)

    def _chat(self, session: str, text: str) -> None:
        """Start a turn as soon as the last one ended, and do not wait for its end."""
        id_ = self._ids[session]
        while True:
            self._await(lambda: id_ not in self._app.turns.live_sessions(), f"{session}'s turn")
            with suppress(module("turns.run").TurnConflictError):  # a wakeup started first
                self._app.turns.start(id_, text)
                return

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        if not self._app.announcer.wait(is_so, PATIENCE_S):
            raise SlowError(f"{what} did not end within {PATIENCE_S:g} s")

    def _leave(self, session: str) -> None:
        """Leave the session, which is a boundary: its memory is committed."""
        self._app.commit_memory(self._ids[session])

    def _clear(self, session: str) -> None:
        self._app.store.clear(self._ids[session])
        self._app.sync(self._app.store.load(self._ids[session]))

    def _delete(self, session: str) -> None:
        self._app.delete(self._ids.pop(session))

    def _open_tab(self, tab: str, session: str) -> None:
        """Open a tab that reads nothing until it is closed."""
        id_ = self._ids[session]
        self._app.store.load(id_)
        self._tabs[tab] = (session, self._app.channels.subscribe(id_, lambda: None))
        self._app.catalog.shown()

    def _close_tab(self, tab: str) -> None:
        self._tabs.pop(tab)[1].close()

    # Acts of other processes, which have their own handle of the database

    def _gateway_talk(self, session: str, count: int) -> None:
        if session not in self._shown:
            self._others.create_session(session, "telegram")
        for number in range(count):
            self._others.append_message(session, **_message(number))
        self._shown[session] = self._shown.get(session, 0) + count

    def _gateway_drop(self, session: str) -> None:
        self._others.delete_session(session)
        del self._shown[session]

    def _cron(self, session: str, count: int, instead_of: str) -> None:
        self._others.delete_session(instead_of)
        self._run(session, count)

    def _run(self, session: str, count: int) -> None:
        """Create, write and end a cron job's session."""
        self._write(session, "cron", count)
        self._others.end_session(session, "done")

    def _write(self, session: str, source: str, count: int) -> None:
        self._others.create_session(session, source)
        drafts = [self._draft(**_message(number)) for number in range(count)]
        self._others.replace_messages(session, drafts)

    # Costs

    def sample(self, **_: float) -> dict[str, float]:
        """Read every size, by `group/name`. Only the checker reads the arguments."""
        gc.collect()
        return {
            **{f"containers/{name}": size for name, size in self._app.gauges().items()},
            **{f"files/{name}": size for name, size in file_sizes(self._state).items()},
            "process/blocks": sys.getallocatedblocks(),
            "process/threads": threading.active_count(),
            "process/fds": len(list(Path("/proc/self/fd").iterdir())),
        }

    def close(self) -> None:
        """Shut the host down."""
        self._stopping.set()
        timers = list(self._timers.values())
        for timer in timers:
            timer.cancel()
        for thread in (*timers, *self._threads):
            thread.join()
        for _, reader in self._tabs.values():
            reader.close()
        self._list.close()
        self._app.shut_down(PATIENCE_S)
        self._others.close()
        gc.unfreeze()


def _message(number: int) -> dict[str, str]:
    """Make message number `number` of a session."""
    role = "assistant" if number % 2 else "user"
    return {"role": role, "content": f"What was said as number {number}, and not much more."}


def _listed(data: Mapping[str, Any]) -> dict[str, int]:
    return {row["session_id"]: row["message_count"] for row in data["sessions"]}


def module(name: str) -> Any:
    """Import a module of the reference implementation."""
    return importlib.import_module(f"reference_impl.{name}")


def file_sizes(state: Path) -> dict[str, int]:
    """Bytes of all files below `state`, by kind."""
    sizes = dict.fromkeys(_KINDS.values(), 0)
    for directory, _, names in os.walk(state):
        folders = os.path.relpath(directory, state).split("/")
        for name in names:
            with suppress(FileNotFoundError):
                sizes[_kind(*folders, name)] += os.stat(f"{directory}{os.sep}{name}").st_size  # noqa: PTH116 - faster
    return sizes


_KINDS = {
    "state.db": "state_db_bytes",
    "state.db-wal": "state_db_wal_bytes",
    "_turn_journal.jsonl": "turn_journal_bytes",
    "_run_journal": "run_journal_bytes",
    "ledger.jsonl": "process_ledger_bytes",
    "sessions": "sidecar_bytes",
    "": "other_bytes",
}


def _kind(*parts: str) -> str:
    """The kind of a file, by its name, else by its innermost known folder."""
    return next(_KINDS[part] for part in (*reversed(parts), "") if part in _KINDS)


open_adapter = InstallAdapter
