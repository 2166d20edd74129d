"""Scenario of a catalog whose sources, cache file, providers and callers misbehave."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.catalog_sources import TTL_S, CatalogSourcesModel
from harness.contract.models.model_catalog import VOLATILE_EXAMPLES
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

Step = tuple[str, dict[str, Any]]
Walk = Iterable[Step]

SHOWN: Step = ("shown", {})
REBUILT: Step = ("rebuilt", {})
RESTART: Step = ("restart", {})
SPOIL: Step = ("spoil", {})
GAUGES: Step = ("gauges", {})
FAILURES = ("raises", "exits", "empty", "none", "no groups", "no models", "a list")
# Some of them resemble a volatile key.
LASTING = (
    *("base_url", "kind", "scopes", "region", "enabled", "models", "name", "provider", "type"),
    *("token_url", "token_type", "api_key_env", "api_keys", "secrets", "expires", "status"),
    *("count", "updated", "created_at", "last_used_at", "error", "Access_Token", "tokens"),
)
# Each kind of value of a field; a field that is absent is none of them.
KINDS: tuple[Any, ...] = (None, False, 0, "", [], {}, [None], [[]], {"x": None}, 0.5)
DAMAGE: tuple[tuple[str, Any], ...] = (
    ("_schema_version", 1),
    ("_source_fingerprint", {}),
    ("saved_at", "yesterday"),
    ("saved_at", None),
    ("catalog", None),
    ("catalog", {"groups": []}),
)


def write(file: str, text: str) -> Step:
    """Write a file."""
    return "write", {"file": file, "text": text}


def auth(**fields: Any) -> Step:
    """Write the auth store, with fields at several depths."""
    nested = [{"credentials": fields}]
    return write("auth", json.dumps({"providers": {"x": fields}, "pool": nested, "top": fields}))


def on_file(function: str, file: str) -> Step:
    """Remove, obstruct or touch a file."""
    return function, {"file": file}


def provide(how: str) -> Step:
    """Let the providers answer or fail."""
    return "provide", {"how": how}


def wait(seconds: float) -> Step:
    """Move the clock."""
    return "wait", {"seconds": seconds}


def every_field() -> Walk:
    """A volatile field changes nothing at any depth, any other one does; so does its place."""
    yield from (auth(), SHOWN, REBUILT, SHOWN)
    for key in VOLATILE_EXAMPLES:
        yield from (auth(**{key: "new"}), SHOWN, REBUILT, auth(**{key: 2}), REBUILT)
    for key in LASTING:
        yield from (auth(**{key: "1"}), SHOWN, REBUILT, auth(**{key: 1}), REBUILT, SHOWN)
        yield from (auth(**{key: True}), REBUILT, auth(**{key: [1, 2]}), REBUILT)
        yield from (auth(**{key: [2, 1]}), SHOWN, REBUILT)
    for key in ("base_url", "enabled", "tokens"):
        for value in KINDS:
            yield from (auth(**{key: value}), SHOWN, REBUILT, SHOWN, auth(), SHOWN, REBUILT)
    yield from (write("auth", '{"a": 1, "b": {"c": 2}}'), REBUILT)
    for same in ('{"b": {"c": 2}, "a": 1}', ' {"a" :1,\n"b":{"c":2}}', '{"a":1,"b":{"c":2}}'):
        yield from (write("auth", same), SHOWN, REBUILT)
    for other in ('{"a": 1, "b": {"d": 2}}', '{"a": 1, "c": {"b": 2}}', "[]", "{}", "null", "0"):
        yield from (write("auth", other), SHOWN, REBUILT, SHOWN)
    yield GAUGES


def every_source() -> Walk:
    """Each state of a source counts: missing, empty, valid, broken, unreadable."""
    for file in ("config", "auth"):
        for text in ("{}", "", "{", "\x00", '{"a": 1}', "[" * 5000, '{"a": "\u00e4\u4e2d"}'):
            yield from (write(file, text), SHOWN, REBUILT, SHOWN, on_file("touch", file))
            yield from (SHOWN, REBUILT, on_file("remove", file), SHOWN, REBUILT, SHOWN)
        yield from (on_file("obstruct", file), SHOWN, REBUILT, SHOWN, REBUILT, RESTART, SHOWN)
        yield from (on_file("touch", file), SHOWN, REBUILT, write(file, "{}"), SHOWN, REBUILT)
    yield from (write("config", "model: a"), REBUILT, write("config", "model: a "), SHOWN)
    yield from (REBUILT, write("config", "model: A"), SHOWN, REBUILT, RESTART, SHOWN, REBUILT)


def expiring(seconds: float, *, restarts: bool) -> Walk:
    """A catalog is valid for its time to live, in memory and on disk, and not before it is made."""
    yield from (write("config", "a"), REBUILT, wait(seconds))
    yield from (RESTART,) if restarts else ()
    yield from (SHOWN, REBUILT, SHOWN, wait(TTL_S - 1), SHOWN, wait(1), SHOWN, REBUILT, GAUGES)


def failing(how: str) -> Walk:
    """A provider that fails gives the minimal catalog, caches nothing, and is queried again."""
    yield from (provide(how), SHOWN, REBUILT, REBUILT, SHOWN, GAUGES, provide("ok"), REBUILT)
    yield from (provide(how), SHOWN, REBUILT, GAUGES, write("config", "b"), REBUILT, REBUILT)
    yield from (GAUGES, on_file("remove", "config"), SHOWN, REBUILT, RESTART, SHOWN, REBUILT)
    yield from (wait(TTL_S), SHOWN, REBUILT, provide("ok"), REBUILT, SHOWN, GAUGES)


def damaged(damage: Step) -> Walk:
    """A damaged cache file is no catalog; the one in memory stays valid."""
    yield from (GAUGES, REBUILT, damage, SHOWN, REBUILT, GAUGES, RESTART, GAUGES, SHOWN, GAUGES)
    yield from (provide("raises"), REBUILT, SHOWN, provide("ok"), REBUILT, SHOWN, RESTART, SHOWN)
    yield from (REBUILT, on_file("remove", "cache"), RESTART, SHOWN, REBUILT, RESTART, SHOWN)


def spoiled() -> Walk:
    """A caller that changes an answer changes no later one, in memory, on disk or by default."""
    yield from (SHOWN, SPOIL, SHOWN, provide("raises"), REBUILT, SPOIL, REBUILT, SHOWN)
    yield from (provide("ok"), REBUILT, SPOIL, SHOWN, SPOIL, SHOWN, REBUILT, SPOIL, REBUILT)
    yield from (RESTART, SHOWN, SPOIL, SHOWN, REBUILT, wait(TTL_S), SHOWN)


def every_walk() -> Iterator[Walk]:
    """All walks."""
    yield from (every_field(), every_source(), spoiled())
    for seconds in (-1, 0, 1, TTL_S - 1, TTL_S, TTL_S + 1):
        yield from (expiring(seconds, restarts=restarts) for restarts in (False, True))
    yield from map(failing, FAILURES)
    yield from (damaged(("edit_cache", {"key": key, "value": value})) for key, value in DAMAGE)
    yield from (damaged(write("cache", text)) for text in ("", "{", "[]", "null", "[" * 5000))
    yield from (damaged(on_file(function, "cache")) for function in ("remove", "obstruct"))


def take_every_walk(context: Context) -> None:
    """Take each walk on a fresh instance, in a folder of its own."""
    for walk in every_walk():
        with context.episode() as episode:
            fold = Fold(CatalogSourcesModel())
            for function, argument in walk:
                fold.step(episode.client.ask(function, argument))
                if fold.is_lost:
                    break


def _asked(function: str, number: int) -> Callable[[History], int]:
    def count(history: History) -> int:
        return sum(op.result["asked"] == number for op in history.happened.of(function))

    return count


SOURCES = Scenario(
    name="catalog-sources-and-answers",
    mode=Mode.MODEL,
    ability="catalog_sources",
    promises=(promises.M1, promises.M3, promises.H4),
    workload=take_every_walk,
    checker=conforms(CatalogSourcesModel()),
    expectations=(
        Expectation("the providers were queried", _asked("rebuilt", 1)),
        Expectation("the providers were not queried", _asked("rebuilt", 0)),
        Expectation("an answer was changed by its caller", lambda h: len(h.happened.of("spoil"))),
    ),
    examples=1,
)


def test_catalog_survives_files_providers_and_callers(judge: Judge) -> None:
    """Every answer is the catalog that is known for config and auth, or the minimal one."""
    assert judge(SOURCES).is_valid
