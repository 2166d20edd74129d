"""`harness load`: many clients, and every stream checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from rich.markup import escape

from harness.cli.options import (
    Budget,
    as_json,
    keep_option,
    reports_option,
    seed_option,
    seed_or_drawn,
    target_option,
)
from harness.cli.people import people, progress, show
from harness.contract.workloads.load import CROWD, SHAPES, STORM, Load, crowd, join
from harness.core.errors import UsageError
from harness.core.histogram import Histogram
from harness.core.history import Operation
from harness.report import load as report
from harness.runs import load as rush

THINK_S = 10.0


@click.command("load")
@target_option
@click.option(
    "--users", type=click.IntRange(10, 100_000), default=100, show_default=True, help="How many."
)
@click.option("--for", "for_s", type=Budget(), default="60s", show_default=True, help="How long.")
@click.option(
    "--shape",
    type=click.Choice(SHAPES),
    default="steady",
    show_default=True,
    help="All at once, more and more, a spike in the middle, or a storm of wakeups.",
)
@click.option(
    "--think",
    "think_s",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="How long a user thinks before each act, on average.  [default: 10, in a storm 0]",
)
@click.option("--kill-every", "kill_every_s", type=Budget(), help="Kill the target so often.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Generators here."
)
@click.option("--master", metavar="HOST:PORT", default="", help="Wait there for generators ...")
@click.option(
    "--worker", metavar="HOST[:PORT]", help="... and be one, for the master of this name."
)
@click.option("--deadline", type=float, default=5.0, show_default=True, help="The write deadline.")
@keep_option
@seed_option
@reports_option
@as_json
def load_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    users: int,
    for_s: float,
    shape: str,
    think_s: float | None,
    kill_every_s: float | None,
    workers: int,
    master: str,
    worker: str | None,
    deadline: float,
    keep: int,
    seed: int | None,
    reports: Path,
    wants_json: bool,
) -> int:
    """Load a target with many clients, and check every stream meanwhile.

    Some chat, most watch; some leave and come back, are woken, read slowly or not at all. Where the
    generator itself was the bottleneck the verdict is unknown, never valid. With --master the users
    are spread over as many --workers as there are to be, each started elsewhere with --worker.
    """
    if worker is not None:
        return join(rush.locustfile(), worker)
    if master and kill_every_s is not None:
        raise UsageError("generators elsewhere cannot be told where a killed target serves again")
    seed = seed_or_drawn(seed)
    parts, thinking_s = (STORM, 0.0) if shape == "storm" else (CROWD, THINK_S)
    asked = Load(
        crowd(users, parts),
        for_s=for_s,
        think_s=thinking_s if think_s is None else think_s,
        shape=shape,
        workers=workers,
        write_deadline_s=deadline,
        settings={"HERMES_WEBUI_SSE_WRITE_DEADLINE": f"{deadline:g}"},
        kill_every_s=kill_every_s,
        master=master,
    )
    people.print(f"load · target {escape(target)} · seed {seed} · {asked.users} users, {shape}")
    with progress() as step:
        conclusion = rush.Rush(target, seed, asked, reports.resolve(), keep).run(_tell_second(step))
    show(conclusion, wants_json=wants_json)
    people.print(escape(report.markdown(rush.account(conclusion.run))), soft_wrap=True)
    return conclusion.exit_code


def _tell_second(step: Callable[[str], None]) -> Callable[[Operation], None]:
    """Say how it goes, whenever a generator tells of another second."""

    def heard(operation: Operation) -> None:
        if operation.function == "boot" and operation.result is not None:
            step(f"the target serves at 127.0.0.1:{operation.result['port']}")
        if operation.function != "second" or operation.result is None:
            return
        told = operation.result
        late = told["latencies"].get("event")
        p99_ms = Histogram.from_json(late).quantile(0.99) / 1e3 if late else 0.0
        step(
            f"{told['users']} users · {told['streams']} streams"
            f" · {told['counts'].get('events', 0) / max(told['seconds'], 1e-3):,.0f} events/s"
            f" · late by {p99_ms:.1f} ms at p99"
            f" · generator {100 * told['cpu_s'] / max(told['seconds'], 1e-3):.0f} % of a core"
        )

    return heard
