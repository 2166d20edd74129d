"""`harness load`: loads a target with many clients, and judges every stream meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import click

from harness.cli.options import (
    Address,
    Duration,
    Name,
    RunOptions,
    refuse_beside,
    run_options,
    target_option,
    users_option,
)
from harness.cli.output import print_conclusion, print_result, print_text, progress
from harness.contract.workloads.load import MIXED, SHAPES, WAKEUPS, Load, join, mix_of, require_free
from harness.core.errors import UsageError
from harness.core.extras import require_extras
from harness.core.histogram import Histogram
from harness.core.history import Operation
from harness.report import load as report
from harness.runs.load import LoadRun, account, locustfile

THINK_S = 10.0
WORKER_LACKS = (
    *("target", "users", "for_s", "shape", "think_s", "kill_every_s", "workers", "master"),
    *("deadline", "keep", "seed", "reports", "wants_json"),
)


@click.command("load")
@target_option
@users_option
@click.option(
    "--for", "for_s", type=Duration(), default="60s", show_default=True, help="Length of the load."
)
@click.option(
    "--shape",
    type=Name("shape", SHAPES),
    default="steady",
    show_default=True,
    help="All users at once, more and more, a spike in the middle, or a storm of wakeups.",
)
@click.option(
    "--think",
    "think_s",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="Mean pause of a user before each act.  [default: 10, in a storm 0]",
)
@click.option("--kill-every", "kill_every_s", type=Duration(), help="Kill the target this often.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Generators on this machine; with --master, on others.",
)
@click.option(
    "--master",
    type=Address(needs_port=True),
    metavar="HOST:PORT",
    help="Wait here for the generators.",
)
@click.option(
    "--worker",
    type=Address(needs_port=False),
    metavar="HOST[:PORT]",
    help="Be a generator for the master at this host.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(0.1, 3600),
    default=5.0,
    show_default=True,
    help="The target's write deadline for a stalled reader, in seconds.",
)
@run_options("keep", "seed", "reports", "json")
def load_command(  # noqa: PLR0913  one parameter an option
    *,
    target: str,
    users: int,
    for_s: float,
    shape: str,
    think_s: float | None,
    kill_every_s: float | None,
    workers: int,
    master: str | None,
    worker: str | None,
    deadline: float,
    options: RunOptions,
) -> int:
    """Load a target with many clients, and judge every stream meanwhile.

    Some users chat, most watch; others reconnect, are woken, read slowly or not at all. Where the
    generator was the bottleneck the verdict is unknown, never valid. With --master the users are
    spread over --workers generators on other machines, each started with --worker.

    \b
    harness load --users 200 --for 60s
    harness load --users 500 --for 5m --shape storm --kill-every 30s

    Results go to a new folder REPORTS/runs/..., which REPORTS/runs/latest points to: summary.md,
    load.html with charts, verdict.json, junit.xml and the history.
    """  # noqa: D301  click needs the backslash
    refuse_beside("worker", WORKER_LACKS, "the master decides it")
    require_extras("`harness load`", "load")
    if worker is not None:
        return join(locustfile(), worker)
    if master and kill_every_s is not None:
        raise UsageError(
            "--kill-every cannot be combined with --master: generators on other machines do not "
            "learn the address of a restarted target"
        )
    if master:
        require_free(master)
    mix, default_think_s = (WAKEUPS, 0.0) if shape == "storm" else (MIXED, THINK_S)
    load = Load(
        mix_of(users, mix),
        for_s=for_s,
        think_s=default_think_s if think_s is None else think_s,
        shape=shape,
        workers=workers,
        write_deadline_s=deadline,
        settings={"HERMES_WEBUI_SSE_WRITE_DEADLINE": f"{deadline:g}"},
        kill_every_s=kill_every_s,
        master=master or "",
    )
    print_text(f"load · target {target} · seed {options.seed} · {load.users} users, {shape}")
    load_run = LoadRun(target, options.seed, load, options.reports.resolve(), options.keep)
    with progress() as step:
        conclusion = load_run.run(_progress_of(step))
    print_conclusion(conclusion, wants_json=options.wants_json)
    print_result(report.markdown(account(conclusion.run)))
    return conclusion.exit_code


def _progress_of(step: Callable[[str], None]) -> Callable[[Operation], None]:
    """Make a callback that shows the address at the boot, and then the figures of each second."""

    def show(operation: Operation) -> None:
        if operation.function == "boot" and operation.result is not None:
            step(f"the target serves at 127.0.0.1:{operation.result['port']}")
        if operation.function != "second" or operation.result is None:
            return
        second = operation.result
        latencies = second["latencies"].get("event")
        p99_ms = Histogram.from_json(latencies).quantile(0.99) / 1e3 if latencies else 0.0
        seconds = max(second["seconds"], 1e-3)
        step(
            f"{second['users']} users · {second['streams']} streams"
            f" · {second['counts'].get('events', 0) / seconds:,.0f} events/s"
            f" · late by {p99_ms:.1f} ms at p99"
            f" · generator {100 * second['cpu_s'] / seconds:.0f} % of a core"
        )

    return show
