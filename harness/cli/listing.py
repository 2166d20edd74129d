"""`harness list`: lists scenarios, promises, targets and known bugs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from harness.cli.options import Name, as_json, scenarios_option
from harness.cli.output import print_table, table
from harness.engine.suite import find_promises, find_scenarios, tried_by
from harness.mutation.known_bugs import find_bugs
from harness.targets.registry import list_targets


@click.command("list")
@scenarios_option
@click.argument(
    "what", type=Name("listing", ["scenarios", "promises", "targets", "bugs"]), nargs=-1
)
@as_json
def list_command(*, what: tuple[str, ...], wants_json: bool) -> int:
    """List scenarios, promises, targets, bugs; all four by default.

    A promise is listed with the scenarios that put it on trial; some have none yet.

    \b
    harness list targets
    harness list promises bugs --json

    Results go to standard output; nothing is written.
    """  # noqa: D301  click needs the backslash
    listings = {name: LISTINGS[name]() for name in what or tuple(LISTINGS)}
    if wants_json:
        click.echo(json.dumps(listings, indent=2))
        return 0
    for name, rows in listings.items():
        cells = [[_cell(value) for value in row.values()] for row in rows]
        print_table(table(list(rows[0]) if rows else ["none"], cells, title=name))
    return 0


def _list_scenarios() -> list[dict[str, Any]]:
    return [
        {
            "scenario": scenario.name,
            "mode": str(scenario.mode),
            "ability": scenario.ability,
            "promises": [promise.id for promise in scenario.promises],
        }
        for scenario in find_scenarios().values()
    ]


def _list_promises() -> list[dict[str, Any]]:
    scenarios = list(find_scenarios().values())
    return [
        {
            "promise": promise.id,
            "sentence": promise.sentence,
            "tried by": tried_by(promise, scenarios),
        }
        for promise in find_promises()
    ]


def _list_bugs() -> list[dict[str, Any]]:
    return [
        {
            "bug": bug.name,
            "promise": bug.promise.id,
            "mode": str(bug.mode),
            "upstream": bug.upstream,
            "story": bug.story,
        }
        for bug in find_bugs().values()
    ]


LISTINGS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "scenarios": _list_scenarios,
    "promises": _list_promises,
    "targets": list_targets,
    "bugs": _list_bugs,
}


def _cell(value: Any) -> str:
    return (", ".join(value) or "nothing") if isinstance(value, list) else str(value)
