"""The *days* ability: one install, lived in hour by hour.

A question is an hour: what users, gateways and cron jobs do, each at its time. Whatever runs by
itself in a host (the watcher's polls, the collecting of channels, wakeups, retries, the renewal of
tokens) runs by itself here, on whatever clock `time` and `threading` have. An answer is what was
seen: nothing is judged here.

Background processes are scripted: they are promised, numbered, told of and consumed by the real
registry, but a timer stands where the child would be, for a child lives in real time.

Stand-alone like every adapter that is run in a process of its own: the standard library, and the
package `reference_impl`, found on the path.
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
from typing import Any

COLLECTION_S = 50.0
PATIENCE_S = 900.0
SETTLING_S = 0.05
_COMMAND = re.compile(r"sleep ([0-9.]+);.*exit ([0-9]+)", re.DOTALL)

Act = Mapping[str, Any]


class SlowError(Exception):
    """What was begun did not come to its end in time."""


class DaysAdapter:
    """One host with its users, and the other processes that write to its database."""

    def __init__(self, folder: Path) -> None:
        self._state = (folder / "state").resolve()
        self._stopping = threading.Event()
        self._counts = {"projections": 0, "fetches": 0, "rotations": 0}
        self._ended: list[list[str]] = []
        self._woken: list[str] = []
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
        """Open an install that has these sessions: name, source, number of messages.

        Caches are as large as is said, and tokens renewed so often.
        """
        os.environ["HERMES_WEBUI_AGENT_CACHE_MAX"] = str(agents_max)
        os.environ["HERMES_WEBUI_SESSIONS_MAX"] = str(sessions_max)
        self._open()
        for name, source, count in sessions:
            if source == "webui":
                self._furnish(name, count)
            elif source == "cron":
                self._run(name, count)
            else:
                self._write(name, source, count)
                self._shown[name] = count
        self._begin(rotation_s)
        gc.collect()
        gc.freeze()

    def _open(self) -> None:
        self._rooms = room("app").Rooms(self._state)
        self._others = room("state_db.state_db").StateDb(self._state / "state.db")
        self._draft = room("state_db.state_db").Draft
        registry = self._rooms.processes
        registry._start = self._start_scripted  # noqa: SLF001 - where a child would begin
        registry._listen_to = lambda _running: None  # noqa: SLF001 - nobody else will tell
        self._watch()
        catalog = room("model_catalog.catalog")
        models = catalog.catalog_of("scripted", "scripted-agent")
        fetch = functools.partial(self._counted, "fetches", lambda: models)
        self._rooms.catalog = catalog.ModelCatalog(self._state, fetch, models)

    def _watch(self) -> None:
        """Watch the database by a watcher that counts its projections."""
        watcher = room("live.gateway_watcher")
        project = functools.partial(self._counted, "projections", watcher.project)
        self._rooms.watcher = watcher.GatewayWatcher(self._state / "state.db", project=project)
        self._gateway = self._rooms.watcher.subscribe(lambda: None)

    def _counted(self, what: str, act: Callable[..., Any], *args: Any) -> Any:
        self._counts[what] += 1
        return act(*args)

    def _begin(self, rotation_s: float) -> None:
        """Start what runs by itself."""
        self._rooms.turns.listen(self._ear())
        self._rooms.begin()
        self._open_all_readers()
        self._list = self._rooms.channels.subscribe_sessions(lambda: None)  # a tab on all sessions
        self._every(COLLECTION_S, self._rooms.channels.collect, "collector")
        self._every(rotation_s, self._renew_tokens, "tokens")

    def _every(self, seconds: float, act: Callable[[], object], name: str) -> None:
        def go() -> None:
            while not self._stopping.wait(seconds):
                act()

        self._threads.append(threading.Thread(target=go, name=name, daemon=True))
        self._threads[-1].start()

    def _ear(self) -> Any:
        """Hears which wakeups begin."""
        turns = room("turns.turns")
        woken = self._woken

        class Ear(turns.TurnListener):  # type: ignore[misc, name-defined]
            def started(self, run: Any) -> None:
                if run.source is turns.Source.WAKEUP:
                    woken.append(run.wakeup_id)

        return Ear()

    def _renew_tokens(self) -> None:
        """Log in anew, as the gateway does; whoever shows models then asks for them."""
        self._counts["rotations"] += 1
        tokens = {"access_token": f"t{self._counts['rotations']}", "expires_at": time.time()}
        auth = {"version": 1, "providers": {"scripted": {**tokens, "account": "a"}}}
        (self._state / "auth.json").write_text(json.dumps(auth), encoding="utf-8")
        self._rooms.catalog.rebuilt()

    # Background processes, scripted

    def _start_scripted(self, running: Any, _cwd: str) -> None:
        said = _COMMAND.match(running.command)
        assert said is not None, running.command
        timer = threading.Timer(float(said[1]), self._end_scripted, (running, int(said[2])))
        timer.daemon = True
        self._timers[running.process_id] = timer
        timer.start()

    def _end_scripted(self, running: Any, exit_code: int) -> None:
        registry = self._rooms.processes
        del self._timers[running.process_id]
        self._ended.append([running.process_id, running.owner])
        running.is_child = False
        # Python 3.12 would keep the name in a `Path` for ever, and we are in the host.
        with open(registry._exit(running), "w", encoding="ascii") as file:  # noqa: PTH123, SLF001
            file.write(str(exit_code))
        registry._end(running)  # noqa: SLF001 - as the watch does when a child ends

    def _open_all_readers(self) -> None:
        """Open as many read connections as are ever kept, so that no clock decides how many are."""
        readers = self._rooms._opened_db()._readers  # noqa: SLF001
        with ExitStack() as lent:
            for _ in range(room("state_db.read_pool")._KEPT):  # noqa: SLF001
                lent.enter_context(readers.lend()).execute("SELECT count(*) FROM sessions")

    # Living

    def live(self, seconds: float, acts: Sequence[Act]) -> dict[str, Any]:
        """Live so long, and act meanwhile, each act at its second; tells what was seen."""
        began_s = time.monotonic()
        for act in acts:
            time.sleep(max(0.0, began_s + act["at"] - time.monotonic()))
            told = {name: value for name, value in act.items() if name not in ("at", "act")}
            getattr(self, f"_{act['act']}")(**told)
        time.sleep(max(0.0, began_s + seconds - time.monotonic()))
        return self._seen()

    def settle(self) -> None:
        """Wait until all that was begun has ended, and was told of. Raises SlowError."""
        registry = self._rooms.processes
        ends_s = time.monotonic() + PATIENCE_S
        while registry.running() or registry.gauges()["process_events_pending"]:
            if time.monotonic() > ends_s:
                raise SlowError(f"processes are still to be told of after {PATIENCE_S:g} s")
            time.sleep(SETTLING_S)
        self._await(lambda: not self._rooms.turns.live_sessions(), "a turn")

    def _seen(self) -> dict[str, Any]:
        """What was seen since this was asked last."""
        frames = self._gateway.take()
        seen = {
            **self._counts,
            "ended": [[id_, self._name(owner)] for id_, owner in self._ended],
            "woken": list(self._woken),
            "channels": self._rooms.gauges()["channels"],
            "announced": _listed(frames[-1].data) if frames else None,
            "shown": dict(self._shown) if frames else None,
        }
        self._counts.update(dict.fromkeys(self._counts, 0))
        self._ended.clear()
        self._woken.clear()
        return seen

    def _name(self, session_id: str) -> str | None:
        return next((name for name, id_ in self._ids.items() if id_ == session_id), None)

    # What users do

    def _furnish(self, name: str, count: int) -> None:
        """A session that was used before."""
        self._new(name)
        said = [_message(number) for number in range(count)]
        self._write(self._ids[name], "webui", count)
        self._rooms.sync(self._rooms.store.append(self._ids[name], *said))

    def _new(self, session: str) -> None:
        id_ = self._ids[session] = self._rooms.store.new().session_id
        self._rooms.wakeups.index(f"key-{id_}", id_)
        self._rooms.channels.sessions_changed("created", id_)

    def _chat(self, session: str, text: str) -> None:
        """Ask as soon as the last answer is there, and do not wait for this one."""
        id_ = self._ids[session]
        while True:
            self._await(lambda: id_ not in self._rooms.turns.live_sessions(), f"{session}'s turn")
            with suppress(room("turns.turns").TurnConflictError):  # a wakeup was quicker
                self._rooms.turns.start(id_, text)
                return

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        if not self._rooms.herald.wait(is_so, PATIENCE_S):
            raise SlowError(f"{what} did not end within {PATIENCE_S:g} s")

    def _leave(self, session: str) -> None:
        """The user goes on elsewhere: a boundary."""
        self._rooms.commit_memory(self._ids[session])

    def _clear(self, session: str) -> None:
        self._rooms.store.clear(self._ids[session])
        self._rooms.sync(self._rooms.store.load(self._ids[session]))

    def _delete(self, session: str) -> None:
        self._rooms.delete(self._ids.pop(session))

    def _open_tab(self, tab: str, session: str) -> None:
        """Open a tab, which nobody looks at again before it is closed."""
        id_ = self._ids[session]
        self._rooms.store.load(id_)
        self._tabs[tab] = (session, self._rooms.channels.subscribe(id_, lambda: None))
        self._rooms.catalog.shown()

    def _close_tab(self, tab: str) -> None:
        self._tabs.pop(tab)[1].close()

    # What other processes do, by a handle of their own

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
        """A cron job's session, from its beginning to its end."""
        self._write(session, "cron", count)
        self._others.end_session(session, "done")

    def _write(self, session: str, source: str, count: int) -> None:
        self._others.create_session(session, source)
        said = [self._draft(**_message(number)) for number in range(count)]
        self._others.replace_messages(session, said)

    # What it costs

    def sample(self, **_told: float) -> dict[str, float]:
        """Read every size, `group/name` to number; what is told with it is for the judge."""
        gc.collect()
        return {
            **{f"containers/{name}": size for name, size in self._rooms.gauges().items()},
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
        self._rooms.shut_down(PATIENCE_S)
        self._others.close()
        gc.unfreeze()


def _message(number: int) -> dict[str, str]:
    """What was said once."""
    role = "assistant" if number % 2 else "user"
    return {"role": role, "content": f"What was said as number {number}, and not much more."}


def _listed(data: Mapping[str, Any]) -> dict[str, int]:
    return {row["session_id"]: row["message_count"] for row in data["sessions"]}


def room(name: str) -> Any:
    """A module of the reference."""
    return importlib.import_module(f"reference_impl.{name}")


def file_sizes(state: Path) -> dict[str, int]:
    """Bytes of all files below `state`, by kind."""
    sizes = dict.fromkeys(_KINDS.values(), 0)
    for place, _, names in os.walk(state):
        folders = os.path.relpath(place, state).split("/")
        for name in names:
            with suppress(FileNotFoundError):
                sizes[_kind(*folders, name)] += os.stat(f"{place}{os.sep}{name}").st_size  # noqa: PTH116 - of thousands
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
    """By its name, or else by the innermost folder that is known."""
    return next(_KINDS[part] for part in (*reversed(parts), "") if part in _KINDS)


open_adapter = DaysAdapter
