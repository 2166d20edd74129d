"""Endpoints of acknowledgements, the audit of files, and the catalog of models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from reference_impl.sessions import recovery
from reference_impl.web.fields import DISK, SESSION_ID
from reference_impl.web.http_parser import Answer, RefusedError, answer
from reference_impl.web.routes import Args, Field, Route
from reference_impl.web.server import Wake
from reference_impl.web.service import Service


def acknowledge(service: Service, args: Args, _wake: Wake) -> Answer:
    """Accept the acknowledgement, which changes nothing."""
    sid = args["session_id"]
    task_id = args["task_id"] if "task_id" in args else args["process_id"]
    service.app.store.load_metadata_only(sid)
    both = {"task_id": task_id, "process_id": task_id}
    body = {"ok": True, "session_id": sid, **both, "noop": True}
    return answer(body) if "task_id" in args else answer(body, 200, ("Deprecation", "true"))


def acknowledge_as_before(_service: Service, _args: Args, _wake: Wake) -> Answer:
    """Refuse with the new path."""
    new = "/api/bg-task-complete-ack"
    raise RefusedError(410, f"it is {new} now", ("X-Replaced-By", new))


def audit(service: Service, _args: Args, _wake: Wake) -> Answer:
    """Defects of the sessions' files; changes nothing."""
    recovered = {"recovery": service.app.recovered._asdict()}
    return answer({**_audit(recovery.audit(service.app.store)), **recovered})


def models(service: Service, args: Args, _wake: Wake) -> Answer:
    """The models to choose from: the cached ones, or with `refresh` those of the providers."""
    catalog = service.app.catalog
    return answer(dict(catalog.rebuilt() if args.get("refresh") else catalog.shown()))


def _audit(found: recovery.Audit) -> dict[str, Any]:
    items = [asdict(finding) for finding in found.findings]
    repairable = sum(finding.is_repairable for finding in found.findings)
    summary = {"repairable": repairable, "unsafe_to_repair": len(items) - repairable}
    return {"status": found.status, "summary": summary, "items": items}


ROUTES = (
    Route(
        "POST",
        "/api/bg-task-complete-ack",
        acknowledge,
        "acknowledge an ended process, which changes nothing",
        body=(SESSION_ID, Field("task_id", max_length=128), Field("process_id", max_length=128)),
        either=("task_id", "process_id"),
        refusals=(404, 503),
        gives=("ok", "session_id", "task_id", "process_id", "noop"),
    ),
    Route(
        "POST",
        "/api/process-complete-ack",
        acknowledge_as_before,
        "the former path of the endpoint above",
        refusals=(410,),
    ),
    Route(
        "GET",
        "/api/session/recovery/audit",
        audit,
        "defects of the sessions' files",
        refusals=DISK,
        gives=("status", "summary", "items", "recovery"),
    ),
    Route(
        "GET",
        "/api/models",
        models,
        "the models to choose from",
        query=(Field("refresh", max_length=5),),
        gives=("groups", "default_model"),
    ),
)
