"""The description of the HTTP surface, made from the very table that serves it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reference_impl.web.routes import Field, Kind, Route

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_NULL = {"type": "null"}
_EVENTS = "events, each `[id: <stream_id>:<seq>] event: <name> data: <JSON>`"


def described(routes: Iterable[Route]) -> dict[str, Any]:
    """The routes as an OpenAPI 3.1 document."""
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "A session server for long-running agents",
            "version": "1",
            "description": 'Every refusal is `{"error": one sentence}`.',
        },
        "paths": paths,
    }


def _operation(route: Route) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in route.path_fields
    ]
    parameters += [
        {
            "name": each.name,
            "in": "query",
            "required": each.is_required,
            "schema": _schema(each),
            "description": each.about,
        }
        for each in route.query
    ]
    if route.kind is Kind.STREAM:
        last = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}
        parameters.append(last)
    operation: dict[str, Any] = {
        "operationId": route.act.__name__,
        "summary": route.about,
        "parameters": parameters,
        "responses": _responses(route),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": any(each.is_required for each in route.body),
            "content": {"application/json": {"schema": _object(route.body, route.either)}},
        }
    if route.is_gone:
        operation["deprecated"] = True
    return operation


def _responses(route: Route) -> dict[str, Any]:
    """What may come back: 401 and 403 from whoever guards the door, 400 for what is malformed."""
    refused = {"description": "refused", "content": {"application/json": {"schema": _ERROR}}}
    statuses = sorted({400, 401, 403, 413, 500, *route.refusals})
    done = {} if route.is_gone else {"200": _answer(route)}
    return {**done, **{str(status): refused for status in statuses}}


def _answer(route: Route) -> dict[str, Any]:
    if route.content_type != "application/json":
        description = _EVENTS if route.kind is Kind.STREAM else "a page"
        return {
            "description": description,
            "content": {route.content_type: {"schema": {"type": "string"}}},
        }
    schema = {"type": "object", "required": list(route.gives)}
    return {"description": "done", "content": {"application/json": {"schema": schema}}}


def _object(fields: Iterable[Field], either: Iterable[str]) -> dict[str, Any]:
    fields = tuple(fields)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            # What need not be there may as well be null.
            each.name: _schema(each) if each.is_required else {"anyOf": [_schema(each), _NULL]}
            for each in fields
        },
        "required": [each.name for each in fields if each.is_required],
    }
    if either:
        schema["anyOf"] = [
            {"required": [name], "properties": {name: {"not": _NULL}}} for name in either
        ]
    return schema


def _schema(each: Field) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": each.kind}
    if each.kind == "integer":
        schema |= {"minimum": each.minimum, "maximum": each.maximum}
    if each.kind == "string":
        schema |= {"maxLength": each.max_length}
        if each.pattern:
            schema["pattern"] = f"^{each.pattern}$"
        elif each.is_required:
            schema |= {"minLength": 1, "pattern": r"\S"}
    return schema
