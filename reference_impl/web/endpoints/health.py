"""Endpoints that say whether the server is well, and what it uses."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

from reference_impl.turns.run import Run
from reference_impl.web.http_parser import Answer, answer
from reference_impl.web.routes import Args, Field, Kind, Route
from reference_impl.web.server import Wake
from reference_impl.web.service import Service


def health(service: Service, args: Args, _wake: Wake) -> Answer:
    """Whether the server is well, and what it is doing."""
    runs = service.app.turns.runs()
    now = time.time()
    body: dict[str, Any] = {
        "status": "draining" if service.is_draining else "ok",
        "sessions": service.app.store.gauges()["sessions_held"],
        "active_streams": sum(run.is_attachable for run in runs),
        "active_runs": len(runs),
        "runs": [_run(run) for run in runs],
        "last_run_finished_at": service.app.announcer.last_run_finished_at,
        "server_started_at": service.started_at,
        "uptime_seconds": now - service.started_at,
        "accept_loop": service.counters(),
        "containers": _containers(service),
        "process": service.process_stats.now(),
        "recovery": service.app.recovered._asdict(),
    }
    if runs:
        body["oldest_run_age_seconds"] = now - min(run.started_at for run in runs)
    if args.get("deep"):
        body["checks"] = _checks(service)
    return answer(body, 503 if service.is_draining else 200)


def system_health(service: Service, _args: Args, _wake: Wake) -> Answer:
    """The resources that the server uses, and the size of every long-lived container."""
    containers = _containers(service)
    disk = shutil.disk_usage(service.app.folder)
    times = os.times()
    stats = service.process_stats.now()
    return answer(
        {
            "status": "ok",
            "cpu": {
                "load_average": os.getloadavg(),
                "process_seconds": times.user + times.system,
            },
            "memory": {"rss_bytes": stats["rss_bytes"]},
            "disk": {"total_bytes": disk.total, "free_bytes": disk.free},
            "process": stats,
            "webui_runtime": {
                "sessions": {
                    "resident": containers["sessions_held"],
                    "cap": service.app.store.cap,
                },
                "streams": {
                    "active": containers["streams"],
                    "agent_instances": containers["agents_cached"],
                    "subscribers": containers["channel_subscribers"],
                    "offline_buffered_events": containers["channel_frames_kept"],
                    "subscribers_dropped": service.counters().get("streams_dropped", 0),
                    "events_skipped": service.app.channels.events_skipped,
                },
                "models_cache": {"resident": containers["catalogs_kept"]},
            },
            "containers": containers,
        }
    )


def _containers(service: Service) -> dict[str, int]:
    return {**service.app.gauges(), **service.gauges()}


def _checks(service: Service) -> dict[str, Any]:
    channels = service.app.channels.gauges()
    has_db = os.path.exists(os.path.join(service.app.folder, "state.db"))
    return {
        "stream_runtime": {
            "total_subscribers": channels["channel_subscribers"],
            "total_offline_buffered_events": channels["channel_frames_kept"],
        },
        "sessions": {"status": "ok", **service.app.store.gauges()},
        "state_db": {
            "status": "ok" if has_db else "missing",
            "is_fair": service.app.writes_are_fair(),
        },
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "session_id": run.session_id,
        "stream_id": run.stream_id,
        "source": str(run.source),
        "phase": run.phase,
        "started_at": run.started_at,
    }


ROUTES = (
    Route(
        "GET",
        "/health",
        health,
        "whether the server is well, and what it is doing",
        Kind.INSTANT,
        query=(Field("deep", max_length=5),),
        refusals=(503,),
        gives=("status", "active_runs", "active_streams", "runs", "containers", "recovery"),
    ),
    Route(
        "GET",
        "/api/system/health",
        system_health,
        "the server's resources, and the size of every long-lived container",
        Kind.INSTANT,
        gives=("cpu", "memory", "disk", "webui_runtime", "containers"),
    ),
)
