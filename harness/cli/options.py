"""Options and arguments that several commands share, and the checks of their values."""

from __future__ import annotations

import functools
import os
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from harness.cli.output import WANTS_JSON
from harness.core.errors import UsageError
from harness.core.partition import WHOLE
from harness.core.suggestions import unknown
from harness.engine.scenario import Mode
from harness.engine.suite import choose, chosen_folders, find_suites, use_folders
from harness.targets.registry import find_target

SEED_MAX = 1 << 31
DURATION_MAX_S = 7 * 24 * 3600
PORTS = range(1, 1 << 16)
REFERENCE = "reference"
WORKERS = 1 + (os.cpu_count() or 1)  # servers and their clients also wait for each other

Value = TypeVar("Value")
Callback = Callable[[click.Context, click.Parameter, Value], Value]
Decorator = Callable[[Any], Any]


class Duration(click.ParamType[float]):
    """A length of time in seconds, written as 90, 120s, 5m or 1h."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds; fails for what is not positive or longer than a week."""
        if isinstance(value, float):
            return value
        unit = {"s": 1, "m": 60, "h": 3600}.get(str(value)[-1:])
        number = str(value)[:-1] if unit else str(value)
        try:
            seconds = float(number) * (unit or 1)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= DURATION_MAX_S:
            self.fail(
                f"expected a time such as 90s, 5m or 1h, up to 168h; got {value!r}", param, ctx
            )
        return seconds


class Seed(click.IntRange):
    """A whole number from 0 to `SEED_MAX`."""

    name = "seed"


class Share(click.ParamType[tuple[int, int]]):
    """A share of all work, written as 2/4: the second of four."""

    name = "k/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """The number of the share, from 1, and how many there are."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)/(\d+)", str(value))
        number, shares = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= shares:
            self.fail(f"expected a share such as 2/4; got {value!r}", param, ctx)
        return number, shares


class Address(click.ParamType[str]):
    """A host and a port of it, written as HOST:PORT; without a port where one is usual."""

    name = "address"

    def __init__(self, *, needs_port: bool) -> None:
        self._needs_port = needs_port

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The same text; fails for what is no address."""
        match = re.fullmatch(r"[^\s:/]+(?::(\d{1,5}))?", str(value))
        port = match[1] if match else None
        if match is None or (port is None and self._needs_port) or int(port or 1) not in PORTS:
            expected = "HOST:PORT" if self._needs_port else "HOST or HOST:PORT"
            self.fail(f"expected {expected}, such as 10.0.0.5:5557; got {value!r}", param, ctx)
        return str(value)


class OutputFile(click.Path):
    """A file that the command writes at its end; its folders are made then."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; fails at once where no file can be written there."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if there != path and not there.is_dir():
            self.fail(f"{path}: {there} is no folder", param, ctx)
        if not os.access(there, os.W_OK):
            self.fail(f"{path}: {there} cannot be written", param, ctx)
        return path


class Name(click.Choice[str]):
    """One of some names; an unknown one gets a suggestion."""

    def __init__(self, kind: str, names: Iterable[object]) -> None:
        super().__init__([str(name) for name in names])
        self._kind = kind

    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:  # noqa: ARG002  click's
        """Name the value, the nearest names, and all names."""
        return unknown(self._kind, str(value), self.choices)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The values of the options that commands share; those that a command lacks have no meaning."""

    seed: int
    workers: int = 1
    keep: int = 1
    reports: Path = Path()
    wants_json: bool = False


_SHARED: dict[str, Decorator] = {
    "workers": click.option(
        "--workers",
        type=click.IntRange(1, 64),
        default=WORKERS,
        help="Worker processes; by default one more than there are cores.",
    ),
    "keep": click.option(
        "--keep",
        type=click.IntRange(1),
        default=20,
        show_default=True,
        help="Run folders to keep; the oldest are deleted.",
    ),
    "seed": click.option(
        "--seed",
        type=Seed(0, SEED_MAX),
        help="Seed of all random choices; by default a new one, which is printed.",
    ),
    "reports": click.option(
        "--reports",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("reports"),
        show_default=True,
        help="Folder in which the run folder `runs/...` is made.",
    ),
    "json": click.option(
        "--json",
        "wants_json",
        is_flag=True,
        is_eager=True,
        callback=lambda context, _, value: context.meta.setdefault(WANTS_JSON, value),
        help="One JSON document on standard output, and results for people on standard error.",
    ),
}
as_json = _SHARED["json"]
budgets_option = click.option(
    "--budgets",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML file of budgets: the most that a figure may be, and why.",
)


def run_options(*names: str) -> Decorator:
    """Add shared options by name, all for none, and pass their values as one `RunOptions`.

    The command gets them as its parameter `options`. A seed that is not given is drawn.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        chosen = names or tuple(_SHARED)
        fields = {_FIELDS.get(name, name) for name in chosen}

        @functools.wraps(command)
        def with_options(**values: Any) -> int:
            shared = {field: values.pop(field) for field in fields}
            shared["seed"] = seed_or_drawn(shared.get("seed"))
            return command(options=RunOptions(**shared), **values)

        decorated: Callable[..., int] = with_options
        for name in reversed(chosen):
            decorated = _SHARED[name](decorated)
        return decorated

    return decorate


_FIELDS = {"json": "wants_json"}  # of RunOptions, where it is not the option's name


def seed_or_drawn(seed: int | None) -> int:
    """The seed that was given, or else a random one."""
    return secrets.randbelow(SEED_MAX) if seed is None else seed


def refuse_beside(option: str, others: Iterable[str], reason: str) -> None:
    """Refuse options that would do nothing beside `option`; all are named by their parameters.

    Raises UsageError, with the reason, where `option` and one of the others are given.
    """
    context = click.get_current_context()
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    given = [
        name
        for name in (option, *others)
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if len(given) > 1 and given[0] == option:
        raise UsageError(f"{flags[option]} cannot be combined with {flags[given[1]]}: {reason}")


def checked(check: Callable[[Any], object]) -> Callback[Any]:
    """Make a callback that refuses a value which `check` raises UsageError for, by its option."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if value:
            try:
                check(value)
            except UsageError as error:
                raise click.BadParameter(str(error), ctx, param) from error
        return value

    return callback


def _target(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    """The target that was named, or the suite's own; suites may put it on the path."""
    suites = find_suites() if chosen_folders() else []
    if value is not None:
        return str(checked(find_target)(ctx, param, value))
    declared = [loaded.suite.target for loaded in suites if loaded.suite.target]
    return declared[0] if declared else REFERENCE


def _use_folders(ctx: click.Context, param: click.Parameter, folders: tuple[Path, ...]) -> None:
    checked(use_folders)(ctx, param, folders)


target_option = click.option(
    "--target",
    callback=_target,
    show_default="the suite's own, else reference",
    help="What is on trial: a name of `harness list targets`, or module:Class, and @ARGUMENT.",
)
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
    callback=checked(choose),
    metavar="NAME",
    help="Only scenarios of this name or glob; repeatable.",
)
promise_option = click.option(
    "--promise",
    multiple=True,
    callback=checked(lambda ids: choose(promises=ids)),
    metavar="ID",
    help="Only scenarios that put this promise on trial; repeatable.",
)
mode_option = click.option(
    "--mode",
    multiple=True,
    type=Name("mode", Mode),
    help="Only scenarios of this mode; repeatable.",
)


def _seeds(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    try:
        seeds = [int(seed) for seed in value.split(",")]
    except ValueError as error:
        message = f"--seeds {value!r}: expected numbers, as in 1,2,3"
        raise click.BadParameter(message, ctx, param) from error
    if not all(0 <= seed <= SEED_MAX for seed in seeds):
        raise click.BadParameter(f"--seeds {value!r}: expected 0 to {SEED_MAX}", ctx, param)
    return list(dict.fromkeys(seeds))


seeds_option = click.option(
    "--seeds",
    default="1,2,3",
    show_default=True,
    callback=_seeds,
    help="The seeds of the gates of each revision.",
)
users_option = click.option(
    "--users",
    type=click.IntRange(10, 100_000),
    default=100,
    show_default=True,
    help="Number of users.",
)
shard_option = click.option(
    "--shard",
    type=Share(),
    default=WHOLE,
    help="Judge only the k-th of n shares; `harness merge` puts their runs together.",
)


def effort_option(default: float) -> Decorator:
    """How much a scenario asks, for commands without a budget."""
    return click.option(
        "--effort",
        type=click.FloatRange(0.01, 100),
        default=default,
        show_default=True,
        help="How much each scenario asks; 1 is as much as a gate of 190 s.",
    )


record_option = click.option(
    "--record",
    type=OutputFile(),
    help="Write the figures into this file too, with commit, seed and machine.",
)
