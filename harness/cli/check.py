"""`harness check`: tries the file that declares a server, and says what could be asked of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from harness.cli.options import as_json, scenarios_option
from harness.cli.output import print_result, print_table, print_text, table
from harness.engine.suite import find_scenarios
from harness.targets.declared_http.target import ABILITIES, DeclaredHttpTarget


@click.command("check")
@scenarios_option
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@as_json
def check_command(*, file: Path, wants_json: bool) -> int:
    """Try FILE.toml, which declares a server, and list what could be asked of it.

    The server is started once; a session is opened, and one message is sent. Nothing is judged.

    \b
    harness check echo_server.toml
    harness check echo_server.toml --json
    harness gate --target http@echo_server.toml

    Results go to the terminal; nothing is written. A wrong file is a usage error, 254.
    """  # noqa: D301  click needs the backslash
    target = DeclaredHttpTarget(str(file))
    target.prepare()
    rows: list[dict[str, Any]] = []
    for scenario in find_scenarios().values():
        if scenario.ability in ABILITIES:
            is_able = scenario.ability in target.abilities
            ids = [promise.id for promise in scenario.promises if promise.id not in target.design]
            needs = "" if is_able else ABILITIES[scenario.ability]
            rows.append({"scenario": scenario.name, "promises": ids, "needs": needs})
    document = {"target": target.name, "scenarios": rows, "design": target.design}
    if wants_json:
        click.echo(json.dumps(document, indent=2))
        return 0
    print_text(f"{file}: the server starts, opens a session and takes a message")
    cells = [
        [
            row["scenario"],
            " ".join(row["promises"]),
            f"no: needs {row['needs']}" * bool(row["needs"]),
        ]
        for row in rows
    ]
    print_table(table(["scenario", "promises", "left out"], cells))
    for id_, reason in target.design.items():
        print_result(f"by design, not judged: {id_}: {reason}")
    return 0
