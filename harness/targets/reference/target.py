"""The reference implementation as a target, named `reference` or `reference@FOLDER`.

Each adapter turns an ability's JSON calls into calls of one module, and records the module's calls
of its providers. `reference@FOLDER` names a copy of the package, such as one with a known bug; one
process can import one copy only, the first that it opens.

No other module of the harness may import the reference implementation.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.core.errors import TargetUnavailableError
from harness.core.extras import DISTRIBUTION, harness_version
from harness.engine.target import AdapterInstance, Instance
from harness.processes.pool import DRIVER, ProcessInstance, ProcessPool
from harness.processes.remote import Remote
from harness.processes.repro_source import (
    in_a_process,
    skip_without_folder,
    skip_without_module,
)
from harness.processes.server import ReferenceLaunch
from harness.targets.components.agent_cache import AgentCacheAdapter
from harness.targets.components.catalog_sources import CatalogSourcesAdapter
from harness.targets.components.channels import ChannelsAdapter
from harness.targets.components.durable_map import DurableMapAdapter
from harness.targets.components.gateway_watcher import WatcherAdapter
from harness.targets.components.lifecycle import LifecycleAdapter
from harness.targets.components.model_catalog import CatalogAdapter
from harness.targets.components.processes import ProcessesAdapter
from harness.targets.components.run_journal import JournalAdapter
from harness.targets.components.run_journals import RunJournalsAdapter
from harness.targets.components.session_folder import SessionFolderAdapter
from harness.targets.components.session_store import SessionsAdapter
from harness.targets.components.turns_struck import TurnsStruckAdapter
from harness.targets.components.wakeup_restarts import WakeupsRestartsAdapter
from harness.targets.components.wakeups import WakeupsAdapter
from harness.targets.paths import import_root
from harness.targets.reference import install as install_adapter
from harness.targets.reference import process_host
from harness.targets.reference import soak as soak_adapter
from harness.targets.reference import state_db as state_db_adapter
from harness.targets.reference.soak_http import SoakHttpAdapter
from harness.targets.reference.upkeep import ReferenceUpkeepAdapter
from harness.targets.server.access_control import AccessControlAdapter
from harness.targets.server.backpressure import BackpressureAdapter
from harness.targets.server.bad_input import BadInputAdapter
from harness.targets.server.disturbances import DisturbancesAdapter
from harness.targets.server.endpoints import EndpointsAdapter
from harness.targets.server.external_writer import ExternalWriterAdapter
from harness.targets.server.http import HttpAdapter
from harness.targets.server.leaving_readers import LeavingReadersAdapter
from harness.targets.server.lifecycle import ServerAdapter
from harness.targets.server.measured import SOURCE, MeasuredAdapter, text_of
from harness.targets.server.memory_boundaries import MemoryBoundariesAdapter, MemoryTurnsAdapter
from harness.targets.server.network import NetworkAdapter
from harness.targets.server.next_turn import NextTurnAdapter
from harness.targets.server.notifications import NotificationsAdapter
from harness.targets.server.settings import SettingsAdapter
from harness.targets.server.shapes import ShapesAdapter
from harness.targets.server.stalled_readers import StalledReadersAdapter
from harness.targets.server.stored import StoredFilesAdapter
from harness.targets.server.stream_cursors import StreamCursorsAdapter
from harness.targets.server.turns import TurnsAdapter
from harness.targets.threads.channels import ChannelsThreadsAdapter
from harness.targets.threads.gateway_watcher import WatcherThreadsAdapter
from harness.targets.threads.lifecycle import AgentCacheThreadsAdapter, LifecycleThreadsAdapter
from harness.targets.threads.memory_provider import MemoryProviderThreadsAdapter
from harness.targets.threads.model_catalog import CatalogThreadsAdapter
from harness.targets.threads.processes import ProcessesThreadsAdapter
from harness.targets.threads.run_calls import RunCallsAdapter
from harness.targets.threads.session_store import SessionsThreadsAdapter
from harness.targets.threads.state_db import StateDbThreadsAdapter
from harness.targets.threads.turns import TurnsThreadsAdapter
from harness.targets.threads.wakeups import WakeupsThreadsAdapter
from harness.targets.threads.watcher_pace import WatcherPaceAdapter
from harness.worker import holders, sql_faults, virtual_time, writers

PACKAGE = "reference_impl"
_schedules = itertools.count()


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


def open_lifecycle(folder: Path) -> Any:  # noqa: ARG001  (the lifecycle keeps no files)
    """Open the lifecycle."""
    return LifecycleAdapter(_module("memory.lifecycle").Lifecycle())


def open_agent_cache(folder: Path) -> Any:  # noqa: ARG001  (the cache keeps no files)
    """Open an agent cache and its lifecycle."""
    return AgentCacheAdapter(_make_agent_cache)


def open_lifecycle_threads(folder: Path) -> Any:  # noqa: ARG001  (the lifecycle keeps no files)
    """Open the lifecycle, for threads."""
    return LifecycleThreadsAdapter(_module("memory.lifecycle").Lifecycle())


def open_agent_cache_threads(folder: Path) -> Any:  # noqa: ARG001  (the cache keeps no files)
    """Open an agent cache and its lifecycle, for threads."""
    return AgentCacheThreadsAdapter(_make_agent_cache)


def _make_agent_cache(live_sessions: Any, cap: int | None) -> tuple[Any, Any]:
    lifecycle = _module("memory.lifecycle").Lifecycle()
    return _module("memory.agent_cache").AgentCache(lifecycle, live_sessions, cap=cap), lifecycle


def open_sessions(folder: Path) -> Any:
    """Open a session store with its files in `folder`."""
    return SessionsAdapter(folder, _module)


def open_session_folder(folder: Path) -> Any:
    """Open two session stores on one folder, with all that they write and hold."""
    return SessionFolderAdapter(folder, _module)


def open_sessions_threads(folder: Path) -> Any:
    """Open a session store, for threads."""
    return SessionsThreadsAdapter(folder, _module)


def open_watcher(folder: Path) -> Any:
    """Open a watcher of a database in `folder`."""
    return WatcherAdapter(folder, _module)


def open_catalog(folder: Path) -> Any:
    """Open a model catalog with its sources in `folder`."""
    return CatalogAdapter(folder, _module)


def open_catalog_sources(folder: Path) -> Any:
    """Open a model catalog in `folder`, whose files and providers misbehave."""
    return CatalogSourcesAdapter(folder, _module)


def open_wakeups(folder: Path) -> Any:  # noqa: ARG001  (this ability keeps no files)
    """Open wakeups between a scripted registry and scripted turns."""
    return WakeupsAdapter(_module)


def open_run_journal(folder: Path) -> Any:
    """Open the journal of one run, with its file in `folder`."""
    return JournalAdapter(folder, _module)


def open_run_journals(folder: Path) -> Any:
    """Open the run journals of all sessions, with their files in `folder`."""
    return RunJournalsAdapter(folder, _module)


def open_wakeups_threads(folder: Path) -> Any:  # noqa: ARG001  (this ability keeps no files)
    """Open wakeups, for threads."""
    return WakeupsThreadsAdapter(_module)


def open_turns_threads(folder: Path) -> Any:  # noqa: ARG001  (this ability keeps no files)
    """Open turns and their wakeups, for threads."""
    return TurnsThreadsAdapter(_module)


def open_processes_threads(folder: Path) -> Any:
    """Open a process registry with its files in `folder`, for threads."""
    return ProcessesThreadsAdapter(folder, _module)


def open_run_calls(folder: Path) -> Any:  # noqa: ARG001  (this ability keeps no files)
    """Open turns whose calls meet, for threads."""
    return RunCallsAdapter(_module)


def open_channels_threads(folder: Path) -> Any:  # noqa: ARG001  (this ability keeps no files)
    """Open channels, for threads."""
    return ChannelsThreadsAdapter(_module)


def open_channels(folder: Path) -> Any:  # noqa: ARG001  (this ability keeps no files)
    """Open channels over a scripted journal, in a time of their own."""
    return ChannelsAdapter(_module)


def open_watcher_threads(folder: Path) -> Any:
    """Open a watcher, for threads."""
    return WatcherThreadsAdapter(folder, _module)


def open_watcher_pace(folder: Path) -> Any:
    """Open a watcher on virtual time, with its database in `folder`."""
    return WatcherPaceAdapter(folder, _module)


def open_catalog_threads(folder: Path) -> Any:
    """Open a model catalog, for threads."""
    return CatalogThreadsAdapter(folder, _module)


def open_memory_provider_threads(folder: Path) -> Any:  # noqa: ARG001  (it keeps no files)
    """Open a session's memory, for threads."""
    return MemoryProviderThreadsAdapter(_module)


def open_wakeups_restarts(folder: Path) -> Any:
    """Open wakeups over a process registry with its files in `folder`."""
    return WakeupsRestartsAdapter(folder, _module)


def open_durable_map(folder: Path) -> Any:
    """Open a durable map with its file in `folder`."""
    return DurableMapAdapter(folder, _module)


def open_turns_struck(folder: Path) -> Any:
    """Open turns with their session and journals in `folder`, on a disk that fails."""
    return TurnsStruckAdapter(folder, _module)


def open_processes(folder: Path) -> Any:
    """Open a process registry with its files in `folder`, in a process of its own."""
    hosts = _process_hosts(_launch().package_folder)
    return ProcessesAdapter(folder, ProcessInstance(hosts, folder / "processes"))


@functools.cache
def _process_hosts(package_folder: Path) -> ProcessPool:
    """Hosts whose own environment names a session, as that of a host started by an agent does."""
    files = [Path(process_host.__file__)]
    another = {"HERMES_SESSION_ID": "another", "HERMES_SESSION_CHAT_ID": "another"}
    path = {"PATH": os.defpath, "PYTHONPATH": str(package_folder)}
    return ProcessPool(files, {**path, **another})


def open_state_db_threads(folder: Path) -> Any:
    """Open the database module, with a file of its own for each schedule."""
    own = folder / f"{next(_schedules)}"
    own.mkdir()
    return StateDbThreadsAdapter(own / "state.db")


def open_state_db(folder: Path) -> Any:
    """Open the database module, with its file in `folder`."""
    return state_db_adapter.open_adapter(folder)


def open_http(folder: Path) -> Any:
    """Open a server in a process of its own, with its files in `folder`, and one client."""
    return HttpAdapter(folder, _launch())


def open_endpoints(folder: Path) -> Any:
    """Open a server in a process of its own, and ask its endpoints for whole answers."""
    return EndpointsAdapter(folder, _launch())


def open_bad_input(folder: Path) -> Any:
    """Open a server in a process of its own, for malformed requests and raw bytes."""
    return BadInputAdapter(folder, _launch())


def open_access_control(folder: Path) -> Any:
    """Open servers in processes of their own, on loopback and another address."""
    return AccessControlAdapter(folder, _launch())


def open_settings(folder: Path) -> Any:
    """Open servers in processes of their own, with settings and texts of every kind."""
    return SettingsAdapter(folder, _launch())


def open_memory_turns(folder: Path) -> Any:
    """Open a server in a process of its own, with a memory provider that gets its turns."""
    return MemoryTurnsAdapter(folder, _launch())


def open_next_turn(folder: Path) -> Any:
    """Open servers in processes of their own, with each path of wakeups on or off."""
    return NextTurnAdapter(folder, _launch())


def open_notifications(folder: Path) -> Any:
    """Open a server in a process of its own, one client, and tabs that subscribe to sessions."""
    return NotificationsAdapter(folder, _launch())


def open_backpressure(folder: Path) -> Any:
    """Open servers in processes of their own, and clients that stall or take every stream."""
    return BackpressureAdapter(folder, _launch())


def open_stream_cursors(folder: Path) -> Any:
    """Open a server in a process of its own, and readers with every kind of cursor."""
    return StreamCursorsAdapter(folder, _launch())


def open_network(folder: Path) -> Any:
    """Open a server in a process of its own, and another way to it."""
    return NetworkAdapter(folder, _launch())


def open_leaving_readers(folder: Path) -> Any:
    """Open a server in a process of its own, and readers that leave."""
    return LeavingReadersAdapter(folder, _launch())


def open_stalled_readers(folder: Path) -> Any:
    """Open a server whose readers take nothing and then leave, with its state in `folder`."""
    return StalledReadersAdapter(folder, _launch())


def open_memory(folder: Path) -> Any:
    """Open a server in a process of its own, and a memory provider that counts its requests."""
    return MemoryBoundariesAdapter(folder, _launch())


def open_disturbances(folder: Path) -> Any:
    """Open a server in a process of its own, and what comes in the way of its turns."""
    return DisturbancesAdapter(folder, _launch())


def open_shapes(folder: Path) -> Any:
    """Open a server in a process of its own, and sessions of many shapes."""
    return ShapesAdapter(folder, _launch())


def open_stored(folder: Path) -> Any:
    """Open a server in a process of its own, which boots on files that it has not written."""
    return StoredFilesAdapter(folder, _launch())


def open_turns_every_way(folder: Path) -> Any:
    """Open a server in a process of its own, and turns of every kind."""
    return TurnsAdapter(folder, _launch())


def open_upkeep(folder: Path) -> Any:
    """Open servers in processes of their own, which sessions come to and leave."""
    return ReferenceUpkeepAdapter(folder, _launch())


def open_external_writer(folder: Path) -> Any:
    """Open a server, another process that writes its database, and a provider of models."""
    launch = _launch()
    writer = Remote(
        (DRIVER, Path(state_db_adapter.__file__)), {"PYTHONPATH": str(launch.package_folder)}
    )
    return ExternalWriterAdapter(folder, launch, writer)


def open_server(folder: Path) -> Any:
    """Open a server in a process of its own, with its files in `folder`."""
    return ServerAdapter(folder, _launch())


def open_measured(folder: Path) -> Any:
    """Open a server in a process of its own, whose database another process has filled."""

    def fill(state: Path, sessions: int, messages: int) -> None:
        database = state_db_adapter.open_adapter(state)
        try:
            for number in range(sessions):
                name = f"outside-{number}"
                database.create(name, SOURCE)
                database.set_title(name, name)
                database.replace(name, [["user", text_of(index)] for index in range(messages)])
        finally:
            database.close()

    return MeasuredAdapter(folder, _launch(), folder / "state" / "state.db", fill)


def open_soak_http(folder: Path) -> Any:
    """Open a server in a process of its own, for a soak."""
    return SoakHttpAdapter(folder, _launch())


def _launch() -> ReferenceLaunch:
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None, PACKAGE
    assert found.origin is not None, PACKAGE
    return ReferenceLaunch(Path(found.origin).parent.parent)


_ADAPTERS = {
    "lifecycle": open_lifecycle,
    "lifecycle_threads": open_lifecycle_threads,
    "agent_cache": open_agent_cache,
    "agent_cache_threads": open_agent_cache_threads,
    "sessions": open_sessions,
    "sessions_threads": open_sessions_threads,
    "session_folder": open_session_folder,
    "watcher": open_watcher,
    "catalog": open_catalog,
    "catalog_sources": open_catalog_sources,
    "wakeups": open_wakeups,
    "journal": open_run_journal,
    "journal_threads": open_run_journal,
    "run_journals": open_run_journals,
    "wakeups_threads": open_wakeups_threads,
    "turns_threads": open_turns_threads,
    "run_calls": open_run_calls,
    "processes_threads": open_processes_threads,
    "channels": open_channels,
    "channels_threads": open_channels_threads,
    "catalog_threads": open_catalog_threads,
    "memory_provider_threads": open_memory_provider_threads,
    "watcher_threads": open_watcher_threads,
    "watcher_pace": open_watcher_pace,
    "wakeups_restarts": open_wakeups_restarts,
    "turns_struck": open_turns_struck,
    "durable_map": open_durable_map,
    "processes": open_processes,
    "state_db_threads": open_state_db_threads,
    "state_db": open_state_db,
    "state_db_older": open_state_db,
    "http": open_http,
    "endpoints": open_endpoints,
    "hostile": open_bad_input,
    "doors": open_access_control,
    "settings": open_settings,
    "tabs": open_notifications,
    "streams": open_backpressure,
    "leaving": open_leaving_readers,
    "stalled": open_stalled_readers,
    "network": open_network,
    "cursors": open_stream_cursors,
    "outside": open_external_writer,
    "memory": open_memory,
    "memory_turns": open_memory_turns,
    "next_turn": open_next_turn,
    "upkeep": open_upkeep,
    "disturbed": open_disturbances,
    "shapes": open_shapes,
    "stored": open_stored,
    "turns": open_turns_every_way,
    "server": open_server,
    "measured": open_measured,
    "soak_served": open_soak_http,
}
_DRIVEN = {
    "days": (Path(install_adapter.__file__), Path(virtual_time.__file__)),
    "days_real": (Path(install_adapter.__file__),),
    "state_db_crash": (Path(state_db_adapter.__file__), Path(sql_faults.__file__)),
    "state_db_crowd": (Path(state_db_adapter.__file__), Path(writers.__file__)),
    "state_db_syncs": (Path(state_db_adapter.__file__), Path(writers.__file__)),
    "soak": (Path(soak_adapter.__file__), Path(holders.__file__)),
}


class ReferenceTarget:
    """All abilities: in this process, or, where they kill or fill it, in one of their own."""

    usage = "reference[@FOLDER|+BUG|+delays-SEED]"
    description = "the reference implementation, a copy elsewhere, or one with a known bug"
    abilities = frozenset({*_ADAPTERS, *_DRIVEN})

    def __init__(self, place: str | Path | None = None) -> None:
        """`place` is the folder of the package `reference_impl`; None means the installed one."""
        folder = None if place is None else Path(place).resolve()
        self.name = "reference" if folder is None else f"reference@{folder}"
        self._folder = folder
        path = {"PYTHONPATH": str(folder or import_root())}
        self._pools = {ability: ProcessPool(files, path) for ability, files in _DRIVEN.items()}

    def prepare(self) -> None:
        """Put the copy first on the path. Raises TargetUnavailableError where there is none."""
        if self._folder is None:
            return
        if not (self._folder / PACKAGE / "__init__.py").is_file():
            raise TargetUnavailableError(
                f"--target {self.name}: {self._folder} contains no package {PACKAGE}"
            )
        loaded = sys.modules.get(PACKAGE)
        if loaded is not None and Path(str(loaded.__file__)).parent.parent != self._folder:
            raise TargetUnavailableError(
                f"--target {self.name}: this process has imported another {PACKAGE},"
                f" {loaded.__file__}"
            )
        sys.path.insert(0, str(self._folder))
        # Import it now, since pytest puts other folders first while it sets up its packages.
        importlib.import_module(PACKAGE)

    def open(self, ability: str, folder: Path) -> Instance:
        """Open a fresh adapter, in this process or one of its own."""
        if pool := self._pools.get(ability):
            return ProcessInstance(pool, folder)
        return AdapterInstance(_ADAPTERS[ability](folder))

    @property
    def standalone_name(self) -> str:
        """The name of these sources in a stand-alone test: an installed reference is another."""
        return repr(f"reference@{self._folder or import_root()}")

    @property
    def standalone_needs(self) -> str:
        """Source that skips a stand-alone test where these sources are missing."""
        return skip_without_folder(self._folder or import_root())

    def standalone(self, ability: str) -> str:
        """Source that imports the adapter from here, or contains it if it runs in a process."""
        root = self._folder or import_root()
        path = f"import sys\n\nsys.path.insert(0, {str(root)!r})\n\n"
        own = f"{DISTRIBUTION}=={harness_version()}"
        if files := _DRIVEN.get(ability):
            adapter, *wrappers = [file.read_text(encoding="utf-8") for file in files]
            subject = "" if self._folder else skip_without_module(PACKAGE, own)
            return self.standalone_needs + path + subject + in_a_process(adapter, wrappers)
        here = f"from {__name__} import {_ADAPTERS[ability].__name__} as open_adapter"
        harness = skip_without_module("harness", own)
        first = f"{self.standalone_needs}{path}import {PACKAGE}\n\n"
        return f"{first}{harness}{here}\n\n{_assert_place(root)}"


def _assert_place(root: Path) -> str:
    """Source that fails where another copy was imported before: it would be the one on trial."""
    return (
        f"assert {PACKAGE}.__file__.startswith({str(root)!r}), "
        f'f"this process imported {{{PACKAGE}.__file__}}"'
    )
