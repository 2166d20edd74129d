"""Options that several commands take, and how they are read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

SEED_MAX = 1 << 31
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
target_option = click.option(
    "--target", default="reference", show_default=True, help="What is on trial."
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
