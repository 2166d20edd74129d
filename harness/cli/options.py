"""Options that several commands take, and how they are read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from harness.engine.scenario import Mode
from harness.engine.suite import chosen_folders, find_suites, use_folders

SEED_MAX = 1 << 31
REFERENCE = "reference"
WORKERS = 1 + (os.cpu_count() or 1)  # servers and their clients also wait for each other


class Budget(click.ParamType[float]):
    """A length of time: 90, 120s, 5m, 1h."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        unit = {"s": 1, "m": 60, "h": 3600}.get(str(value)[-1:])
        number = str(value)[:-1] if unit else str(value)
        try:
            seconds = float(number) * (unit or 1)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= 7 * 24 * 3600:
            self.fail(f"{value!r} is no length of time; say 90s, 5m or 1h", param, ctx)
        return seconds


class Seed(click.IntRange):
    """A whole number in a range."""

    name = "seed"


as_json = click.option("--json", "wants_json", is_flag=True, help="One JSON document on stdout.")
keep_option = click.option(
    "--keep", type=click.IntRange(1), default=20, show_default=True, help="Runs to keep."
)
reports_option = click.option(
    "--reports",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Folder under which runs are written.",
)
seed_option = click.option(
    "--seed",
    type=Seed(0, SEED_MAX),
    help="Where all chance comes from; drawn, and printed, if not given.",
)


def _target(_: click.Context, __: click.Parameter, value: str | None) -> str:
    """The target that was named, or the suite's own; suites may put it on the path."""
    if not chosen_folders():
        return value or REFERENCE
    declared = [loaded.suite.target for loaded in find_suites() if loaded.suite.target]
    return value or (declared[0] if declared else REFERENCE)


target_option = click.option(
    "--target",
    callback=_target,
    show_default="the suite's own, else reference",
    help="What is on trial: a name of `harness list targets`, or module:Class, and @ARGUMENT.",
)


def _use_folders(_: click.Context, __: click.Parameter, folders: tuple[Path, ...]) -> None:
    if folders:
        use_folders(folders)


scenarios_option = click.option(
    "--scenarios",
    multiple=True,
    expose_value=False,
    is_eager=True,
    callback=_use_folders,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Judge by the scenarios in this folder instead of the installed ones; repeatable.",
)
scenario_option = click.option(
    "--scenario",
    multiple=True,
    metavar="NAME",
    help="Only scenarios of this name or glob; repeatable.",
)
promise_option = click.option(
    "--promise",
    multiple=True,
    metavar="ID",
    help="Only scenarios that put this promise on trial; repeatable.",
)
mode_option = click.option(
    "--mode",
    multiple=True,
    type=click.Choice([str(mode) for mode in Mode]),
    help="Only scenarios of this mode; repeatable.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=WORKERS,
    help="Worker processes; one more than there are cores, if not given.",
)


def effort_option(default: float) -> Callable[[Any], Any]:
    """How much a trial asks, where no budget says it."""
    return click.option(
        "--effort",
        type=click.FloatRange(0.01, 100),
        default=default,
        show_default=True,
        help="How much is asked; 1 is as much as a gate of two minutes.",
    )


def seed_or_drawn(seed: int | None) -> int:
    """The seed that was given, or else one that is drawn."""
    return secrets.randbelow(SEED_MAX) if seed is None else seed
