"""The abilities of a hermes-webui checkout whose threads run under explored schedules.

A checkout offers one of them if its modules are there, and define what the adapter asks of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.targets.hermes_webui.threads import modules
from harness.targets.hermes_webui.threads.channels import WebuiChannelsThreadsAdapter
from harness.targets.hermes_webui.threads.gateway_watcher import (
    WebuiWatcherPaceAdapter,
    WebuiWatcherThreadsAdapter,
)
from harness.targets.hermes_webui.threads.model_catalog import WebuiCatalogThreadsAdapter
from harness.targets.hermes_webui.threads.run_journal import WebuiJournalThreadsAdapter
from harness.targets.hermes_webui.threads.session_store import WebuiSessionsThreadsAdapter
from harness.targets.hermes_webui.threads.wakeups import WebuiWakeupsThreadsAdapter


@dataclass(frozen=True, slots=True)
class Explored:
    """An adapter, and the names that it needs of which modules of the checkout."""

    open: Callable[[Path], Any]
    needs: Mapping[str, Collection[str]]
    lacks: Collection[str] = ()  # functions, or arguments of functions, that it does not have
    cost: int = 1  # how many schedules of the reference one schedule is worth in time

    def is_in(self, folder: Path) -> bool:
        """Whether the checkout has these modules, and their source has these names."""
        return all(
            _has_names(folder / "api" / f"{name}.py", names) for name, names in self.needs.items()
        )


def _has_names(path: Path, names: Collection[str]) -> bool:
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return all(name in text for name in names)


_WATCHER = {"gateway_watcher": ("class GatewayWatcher", "read_importable_agent_session_rows")}
_RUNS = ("ACTIVE_RUNS", "def register_active_run", "def unregister_active_run")

ABILITIES: Mapping[str, Explored] = {
    "catalog_threads": Explored(
        WebuiCatalogThreadsAdapter,
        {
            "config": ("def get_available_models", "prefer_cache", "def _invoke_models_rebuild"),
            "profiles": (),
            "updates": (),  # the version, without which the cache on disk stores nothing
        },
    ),
    "channels_threads": Explored(
        WebuiChannelsThreadsAdapter,
        {
            "background_process": (
                *("def subscribe_to_session_channel", "def active_stream_id_for_session"),
                *("def _emit_to_session_streams", "def _reaper_loop", "_session_has_active_turn"),
            ),
            "config": (*_RUNS, "def update_active_run"),
            "session_events": ("def subscribe_session_events", "def publish_session_list_changed"),
        },
        WebuiChannelsThreadsAdapter.LACKS,
    ),
    "journal_threads": Explored(
        WebuiJournalThreadsAdapter, {"run_journal": ("class RunJournalWriter", "read_run_events")}
    ),
    "sessions_threads": Explored(
        WebuiSessionsThreadsAdapter,
        {
            "config": ("def _get_session_agent_lock", "STREAMS_LOCK"),
            "models": ("def all_sessions", "class Session", "SESSION_INDEX_FILE"),
            "routes": ("def _clear_stale_stream_state", "def handle_post"),
        },
        WebuiSessionsThreadsAdapter.LACKS,
        cost=4,
    ),
    "wakeups_threads": Explored(
        WebuiWakeupsThreadsAdapter,
        {
            "background_process": (
                *("def _process_one", "def drain_deferred_wakeups_for_session", "start_drain"),
                *("def register_process_session", "_PENDING_EMIT_TIMERS", "start_session_turn"),
            ),
            "config": (*_RUNS, "PROCESS_SESSION_INDEX", "DEFERRED_PROCESS_WAKEUPS"),
            "streaming": ("def _drain_webui_process_notifications",),
        },
        WebuiWakeupsThreadsAdapter.LACKS,
        cost=4,
    ),
    "watcher_pace": Explored(WebuiWatcherPaceAdapter, _WATCHER),
    "watcher_threads": Explored(WebuiWatcherThreadsAdapter, _WATCHER),
}


def offered(folder: Path) -> set[str]:
    """The abilities that the checkout in this folder has."""
    return {ability for ability, explored in ABILITIES.items() if explored.is_in(folder)}


def load(folder: Path, abilities: Collection[str], *, packages: Path, bytecode: Path) -> None:
    """Import the modules of these abilities from the checkout in this folder.

    Raises TargetUnavailableError where one of them cannot be imported.
    """
    names = {name for ability in abilities for name in ABILITIES[ability].needs}
    modules.load(folder, sorted(names), packages=packages, bytecode=bytecode)


def open_adapter(ability: str, folder: Path) -> Any:
    """Open an ability for one schedule.

    Raises UsageError where the modules differ from what the adapter knows: that is no answer.
    """
    try:
        return ABILITIES[ability].open(folder)
    except (AttributeError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"the modules of this checkout do not fit the adapter of {ability}: {reason}"
        ) from error
