"""Reads a server's OpenAPI description, and draws values that its parameters accept or reject.

Supports what such servers use of OpenAPI 3.1: parameters in path, query and header, and one JSON
object as a body, whose fields are strings, integers, arrays or objects, with their bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]
_KINDS = {"string": str, "integer": int, "array": list, "object": dict, "null": type(None)}
_NUMBERS = ("integer", "number")


@dataclass(frozen=True, eq=False)
class Parameter:
    """One named value; `place` is path, query, header or body."""

    name: str
    place: str
    is_required: bool
    schema: Schema


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One method on one path."""

    method: str
    path: str
    parameters: tuple[Parameter, ...]
    has_body: bool
    is_stream: bool


def endpoints(description: Mapping[str, Any]) -> list[Endpoint]:
    """List all endpoints of a description, in its order."""
    return [
        _endpoint(method.upper(), path, operation)
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]


def _endpoint(method: str, path: str, operation: Mapping[str, Any]) -> Endpoint:
    content = operation["responses"].get("200", {}).get("content", {})
    parameters = tuple(_parameters(operation))
    has_body = "requestBody" in operation
    return Endpoint(method, path, parameters, has_body, "text/event-stream" in content)


def _parameters(operation: Mapping[str, Any]) -> Iterator[Parameter]:
    for given in operation["parameters"]:
        yield Parameter(given["name"], given["in"], given.get("required", False), given["schema"])
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        for name, field in schema["properties"].items():
            yield Parameter(name, "body", name in schema["required"], field)


def fits(value: Any, schema: Schema) -> bool:
    """Whether the schema accepts the value."""
    if "anyOf" in schema:
        return any(fits(value, option) for option in schema["anyOf"])
    kind = schema["type"]
    if isinstance(value, bool) or not isinstance(value, _KINDS[kind]):
        return False
    if isinstance(value, str):
        is_short = len(value) <= schema.get("maxLength", len(value))
        is_long = len(value) >= schema.get("minLength", 0)
        return is_short and is_long and re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, list):
        is_short = len(value) <= schema.get("maxItems", len(value))
        items = schema.get("items")
        return is_short and (items is None or all(fits(item, items) for item in value))
    if isinstance(value, int):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True


def good(schema: Schema) -> st.SearchStrategy[Any]:
    """Draw a value that the schema accepts."""
    schema = schema["anyOf"][0] if "anyOf" in schema else schema
    match schema["type"]:
        case "integer":
            return st.integers(schema.get("minimum", 0), min(schema.get("maximum", 100), 100))
        case "array":
            return st.lists(st.text(max_size=5), max_size=3)
        case "object":
            return st.dictionaries(st.text(max_size=5), st.integers(), max_size=3)
    if pattern := schema.get("pattern"):
        texts = st.from_regex(re.compile(pattern, re.ASCII), fullmatch=pattern.startswith("^"))
        return texts.filter(lambda text: fits(text, schema))
    return st.text(min_size=schema.get("minLength", 0), max_size=min(schema["maxLength"], 20))


def bad(schema: Schema, texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Draw a value that the schema rejects: one of the texts, or of another type or size."""
    others: st.SearchStrategy[Any] = st.one_of(
        texts,
        st.sampled_from(
            [True, False, 0, -1, 1.5, 1e300, 10**30, -(10**30), [], [[]], {}, {"a": 1}]
        ),
        st.sampled_from(["", " ", "\0", "x" * 5000, "\ud800", "0x10", "1_0", "٣"]),
    )
    return others.filter(lambda value: not fits(value, schema) and value is not None)
