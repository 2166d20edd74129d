"""The OpenAPI description of the HTTP surface, generated from the route table."""

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
            "name": field.name,
            "in": "query",
            "required": field.is_required,
            "schema": _schema(field),
            "description": field.about,
        }
        for field in route.query
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
            "required": any(field.is_required for field in route.body),
            "content": {"application/json": {"schema": _object(route.body, route.either)}},
        }
    if route.is_gone:
        operation["deprecated"] = True
    return operation


def _responses(route: Route) -> dict[str, Any]:
    """Possible responses: 401 and 403 by the access check, 400 for malformed requests."""
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
            # An optional field may be null.
            field.name: _schema(field) if field.is_required else {"anyOf": [_schema(field), _NULL]}
            for field in fields
        },
        "required": [field.name for field in fields if field.is_required],
    }
    if either:
        schema["anyOf"] = [
            {"required": [name], "properties": {name: {"not": _NULL}}} for name in either
        ]
    return schema


def _schema(field: Field) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": field.kind}
    if field.kind == "integer":
        schema |= {"minimum": field.minimum, "maximum": field.maximum}
    if field.kind == "array":
        items = {"type": "string", "maxLength": field.max_length}
        schema |= {"maxItems": field.max_items, "items": items}
    if field.kind == "string":
        schema |= {"maxLength": field.max_length}
        if field.pattern:
            schema["pattern"] = f"^{field.pattern}$"
        elif field.is_required:
            schema |= {"minLength": 1, "pattern": r"\S"}
    return schema
