"""The reference implementation as a target. The only module of the harness that may know it.

Each adapter turns an ability's JSON questions into calls of one room, and notes what the room did
to its providers. `reference@FOLDER` names a copy of the package elsewhere, a planted one say; a
process can judge one copy only, the first it opens.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.core.errors import TargetUnavailableError
from harness.engine.target import AdapterInstance, Instance
from harness.processes.pool import DRIVER, ProcessInstance, Stable
from harness.processes.remote import Remote
from harness.processes.repro_source import in_a_process
from harness.processes.server import ReferenceLaunch
from harness.targets.components.agent_cache import AgentCacheAdapter
from harness.targets.components.gateway_watcher import WatcherAdapter
from harness.targets.components.lifecycle import LifecycleAdapter
from harness.targets.components.model_catalog import CatalogAdapter
from harness.targets.components.run_journal import JournalAdapter
from harness.targets.components.session_store import SessionsAdapter
from harness.targets.components.wakeup_restarts import WakeupsRestartsAdapter
from harness.targets.components.wakeups import WakeupsAdapter
from harness.targets.reference import install as days_adapter
from harness.targets.reference import soak as soak_adapter
from harness.targets.reference import state_db as state_db_adapter
from harness.targets.reference.soak_http import SoakServedAdapter
from harness.targets.server.access_control import DoorsAdapter
from harness.targets.server.backpressure import StreamsAdapter
from harness.targets.server.bad_input import HostileAdapter
from harness.targets.server.external_writer import OutsideAdapter
from harness.targets.server.http import HttpAdapter
from harness.targets.server.lifecycle import ServerAdapter
from harness.targets.server.notifications import TabsAdapter
from harness.targets.threads.channels import ChannelsThreadsAdapter
from harness.targets.threads.gateway_watcher import WatcherThreadsAdapter
from harness.targets.threads.lifecycle import AgentCacheThreadsAdapter, LifecycleThreadsAdapter
from harness.targets.threads.model_catalog import CatalogThreadsAdapter
from harness.targets.threads.session_store import SessionsThreadsAdapter
from harness.targets.threads.turns import TurnsThreadsAdapter
from harness.targets.threads.wakeups import WakeupsThreadsAdapter
from harness.worker import sql_faults
from harness.worker import virtual_time as time_lapse
from harness.worker import writers as sql_crowd

PACKAGE = "reference_impl"
_schedules = itertools.count()


def _room(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


def open_lifecycle(folder: Path) -> Any:  # noqa: ARG001  (the lifecycle keeps no files)
    """The lifecycle room."""
    return LifecycleAdapter(_room("memory.lifecycle").Lifecycle())


def open_agent_cache(folder: Path) -> Any:  # noqa: ARG001  (the cache keeps no files)
    """The agent cache, with a lifecycle behind it."""
    return AgentCacheAdapter(_make_agent_cache)


def open_lifecycle_threads(folder: Path) -> Any:  # noqa: ARG001  (the lifecycle keeps no files)
    """The lifecycle room, for threads."""
    return LifecycleThreadsAdapter(_room("memory.lifecycle").Lifecycle())


def open_agent_cache_threads(folder: Path) -> Any:  # noqa: ARG001  (the cache keeps no files)
    """The agent cache, for threads."""
    return AgentCacheThreadsAdapter(_make_agent_cache)


def _make_agent_cache(live_sessions: Any, cap: int) -> tuple[Any, Any]:
    lifecycle = _room("memory.lifecycle").Lifecycle()
    return _room("memory.agent_cache").AgentCache(lifecycle, live_sessions, cap=cap), lifecycle


def open_sessions(folder: Path) -> Any:
    """The session store, with its files in `folder`."""
    return SessionsAdapter(folder, _room)


def open_sessions_threads(folder: Path) -> Any:
    """The session store, for threads."""
    return SessionsThreadsAdapter(folder, _room)


def open_watcher(folder: Path) -> Any:
    """A watcher, with the database that it watches in `folder`."""
    return WatcherAdapter(folder, _room)


def open_catalog(folder: Path) -> Any:
    """A model catalog, with its sources in `folder`."""
    return CatalogAdapter(folder, _room)


def open_wakeups(folder: Path) -> Any:  # noqa: ARG001  (here they keep no files)
    """Wakeups between a registry and turns that follow the script."""
    return WakeupsAdapter(_room)


def open_journal(folder: Path) -> Any:
    """One run's journal, with its file in `folder`."""
    return JournalAdapter(folder, _room)


def open_wakeups_threads(folder: Path) -> Any:  # noqa: ARG001  (here they keep no files)
    """Wakeups, for threads."""
    return WakeupsThreadsAdapter(_room)


def open_turns_threads(folder: Path) -> Any:  # noqa: ARG001  (here they keep no files)
    """Turns and their wakeups, for threads."""
    return TurnsThreadsAdapter(_room)


def open_channels_threads(folder: Path) -> Any:  # noqa: ARG001  (here they keep no files)
    """The channels, for threads."""
    return ChannelsThreadsAdapter(_room)


def open_watcher_threads(folder: Path) -> Any:
    """A watcher, for threads."""
    return WatcherThreadsAdapter(folder, _room)


def open_catalog_threads(folder: Path) -> Any:
    """A model catalog, for threads."""
    return CatalogThreadsAdapter(folder, _room)


def open_wakeups_restarts(folder: Path) -> Any:
    """Wakeups over a process registry, with its files in `folder`."""
    return WakeupsRestartsAdapter(folder, _room)


def open_state_db_threads(folder: Path) -> Any:
    """The database room, with a file of its own for each schedule."""
    place = folder / f"{next(_schedules)}"
    place.mkdir()
    return state_db_adapter.open_adapter(place)


def open_state_db(folder: Path) -> Any:
    """The database room, with its file in `folder`."""
    return state_db_adapter.open_adapter(folder)


def open_http(folder: Path) -> Any:
    """A whole server in a process of its own, with its files in `folder`, and one client."""
    return HttpAdapter(folder, _launch())


def open_hostile(folder: Path) -> Any:
    """A whole server in a process of its own, to be asked whatever the wire can carry."""
    return HostileAdapter(folder, _launch())


def open_doors(folder: Path) -> Any:
    """Whole servers in processes of their own, on loopback and elsewhere, to be let in."""
    return DoorsAdapter(folder, _launch())


def open_tabs(folder: Path) -> Any:
    """A whole server in a process of its own, one client, and tabs that watch meanwhile."""
    return TabsAdapter(folder, _launch())


def open_streams(folder: Path) -> Any:
    """Whole servers in processes of their own, and readers who take nothing, or too many."""
    return StreamsAdapter(folder, _launch())


def open_outside(folder: Path) -> Any:
    """A whole server, another process that writes its database, and a provider of models."""
    launch = _launch()
    writer = Remote(
        (DRIVER, Path(state_db_adapter.__file__)), {"PYTHONPATH": str(launch.package_folder)}
    )
    return OutsideAdapter(folder, launch, writer)


def open_server(folder: Path) -> Any:
    """A whole server in a process of its own, with its files in `folder`."""
    return ServerAdapter(folder, _launch())


def open_soak_served(folder: Path) -> Any:
    """A whole server in a process of its own, to be lived in."""
    return SoakServedAdapter(folder, _launch())


def _launch() -> ReferenceLaunch:
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None, PACKAGE
    assert found.origin is not None, PACKAGE
    return ReferenceLaunch(Path(found.origin).parents[1])


_ADAPTERS = {
    "lifecycle": open_lifecycle,
    "lifecycle_threads": open_lifecycle_threads,
    "agent_cache": open_agent_cache,
    "agent_cache_threads": open_agent_cache_threads,
    "sessions": open_sessions,
    "sessions_threads": open_sessions_threads,
    "watcher": open_watcher,
    "catalog": open_catalog,
    "wakeups": open_wakeups,
    "journal": open_journal,
    "wakeups_threads": open_wakeups_threads,
    "turns_threads": open_turns_threads,
    "channels_threads": open_channels_threads,
    "catalog_threads": open_catalog_threads,
    "watcher_threads": open_watcher_threads,
    "wakeups_restarts": open_wakeups_restarts,
    "state_db_threads": open_state_db_threads,
    "state_db": open_state_db,
    "http": open_http,
    "hostile": open_hostile,
    "doors": open_doors,
    "tabs": open_tabs,
    "streams": open_streams,
    "outside": open_outside,
    "server": open_server,
    "soak_served": open_soak_served,
}
_DRIVEN = {
    "days": (Path(days_adapter.__file__), Path(time_lapse.__file__)),
    "days_real": (Path(days_adapter.__file__),),
    "state_db_crash": (Path(state_db_adapter.__file__), Path(sql_faults.__file__)),
    "state_db_crowd": (Path(state_db_adapter.__file__), Path(sql_crowd.__file__)),
    "soak": (Path(soak_adapter.__file__),),
}


class ReferenceTarget:
    """Every ability, in this process; those that crash it, or fill it, in one of their own."""

    abilities = frozenset({*_ADAPTERS, *_DRIVEN})

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` holds the package `reference_impl`; None means the installed one."""
        self.name = "reference" if folder is None else f"reference@{folder}"
        self._folder = folder
        path = {"PYTHONPATH": str(folder or Path(__file__).parents[3])}
        self._stables = {ability: Stable(files, path) for ability, files in _DRIVEN.items()}

    def prepare(self) -> None:
        """Put the wanted copy first on the path. Raises TargetUnavailableError where it is not."""
        if self._folder is None:
            return
        if not (self._folder / PACKAGE / "__init__.py").is_file():
            raise TargetUnavailableError(f"{self._folder}: there is no {PACKAGE} in it")
        loaded = sys.modules.get(PACKAGE)
        if loaded is not None and Path(str(loaded.__file__)).parent.parent != self._folder:
            raise TargetUnavailableError(f"another {PACKAGE} is loaded: {loaded.__file__}")
        sys.path.insert(0, str(self._folder))
        # Imported now, since pytest puts other folders first while it sets up its packages.
        importlib.import_module(PACKAGE)

    def open(self, ability: str, folder: Path) -> Instance:
        """A fresh room behind its adapter."""
        if stable := self._stables.get(ability):
            return ProcessInstance(stable, folder)
        return AdapterInstance(_ADAPTERS[ability](folder))

    def standalone(self, ability: str) -> str:
        """Name the adapter; it lives here, with the package that it adapts."""
        place = self._folder or Path(__file__).parents[3]
        path = f"import sys\n\nsys.path.insert(0, {str(place)!r})\n\n"
        if files := _DRIVEN.get(ability):
            adapter, *wrappers = [file.read_text(encoding="utf-8") for file in files]
            return path + in_a_process(adapter, wrappers)
        here = f"from {__name__} import {_ADAPTERS[ability].__name__} as open_adapter"
        return here if self._folder is None else path + here
