"""Measures where a target's time goes under load, and what each turn costs it.

Each measurement has a window of its own, because one disturbs the others: streams at rest for the
memory of one, turns one by one for counts that do not vary, load for latency and processor time,
load with py-spy for stacks. What this system does not allow is reported as unavailable, with the
reason.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from harness.contract.agent_script import Tokens
from harness.contract.clients.event_stream import EventStream, StreamRequest
from harness.contract.workloads.load import Load, booted, generating, mix_of, sampled
from harness.core import history
from harness.core.errors import UsageError
from harness.core.history import Journal
from harness.engine.context import Context
from harness.engine.http import LOOPBACK, Web
from harness.engine.runner import HISTORY
from harness.engine.target import Target
from harness.processes import probe
from harness.processes.tracing import counted_calls
from harness.report import folder, page
from harness.report import load as report
from harness.report.origin import origin_line, setting
from harness.runs import counts, server_host
from harness.runs.budgets import Budget, judged_budgets
from harness.runs.budgets import markdown as budget_lines
from harness.runs.compare import Host, count_boot
from harness.runs.load import locustfile as default_locustfile
from harness.runs.scratch import scratch
from harness.targets.registry import find_target
from harness.worker import call_counter

ABILITY = "server"
# No users that are woken, so that each turn is one that a user asked for.
PARTS = {"Watcher": 60, "Chatter": 24, "Reconnector": 10, "Poller": 6}
STREAMS = 400
TURNS = 60
TURN = f"{Tokens(20).directive}"
WARM_UP_S = 3.0
MARGIN_S = 5.0
FLAME, SPEEDSCOPE, PAGE, RESULT = "flame.svg", "speedscope.json", "load.html", "profile.json"
SYSCALLS = ("fsync", "fdatasync", "write", "pwrite64", "futex", "sendto", "sendmsg", "openat")

BUDGET_BOOTS = 2  # of servers that count what a turn costs
LATENCIES = ("event", "send", "turn", "/api/sessions", "/health")
BUDGETED = (  # figures that only a profile has
    *("KiB a stream", "threads a stream", "events a turn", "us an event", "us a call"),
    *(f"{name} {key}, ms" for name in LATENCIES for key in ("p50", "p99", "worst")),
)

INSEPARABLE = "unavailable: events and calls came in one proportion; use a longer window"

Costs = Mapping[str, float | str]


@dataclass(frozen=True)
class Profile:
    """The target and the load on it; each window under load takes `window_s`."""

    target: str
    seed: int
    users: int
    window_s: float
    reports: Path
    keep: int = 20
    budgets: Sequence[Budget] = ()

    def run(self, progress: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
        """Measure, and write the run folder: the folder, and the content of `profile.json`."""
        target = find_target(self.target)
        target.prepare()
        if ABILITY not in target.abilities:
            raise UsageError(f"target {target.name!r} has no ability {ABILITY!r}")
        plan = {
            "target": target.name,
            "users": self.users,
            "window_s": self.window_s,
            **setting(target),
        }
        run = folder.create(self.reports, "profile", self.seed, plan)
        result = {name: plan[name] for name in ("origin", "source", "target_commit")}
        result |= self._measure(target, run, progress)
        counted = self._count(progress)
        result["counts"] = {name: counts.spread(bounds) for name, bounds in counted.items()}
        budgets = judged_budgets(
            self.budgets,
            figures_of(result) | counted,
            (*BUDGETED, *counts.COUNTS),
            target.name,
        )
        result["budgets"] = [budget.to_json() for budget in budgets]
        is_unknown = any(budget.is_unknown for budget in budgets)
        result["exit_code"] = (
            1 if any(budget.is_broken for budget in budgets) else 2 if is_unknown else 0
        )
        folder.write_json(run / RESULT, result)
        folder.write_text(run / "summary.md", markdown(result))
        page.retain(self.reports, self.keep)
        return run, result

    def _count(self, progress: Callable[[str], None]) -> dict[str, tuple[float, float]]:
        """The range of each count, if a budget is about one: in boots as those of a comparison."""
        asked = {budget.figure for budget in self.budgets} & set(counts.COUNTS)
        if not asked or server_host.ABILITY not in find_target(self.target).abilities:
            return {}
        samples = []
        with scratch() as templates:
            for number in range(BUDGET_BOOTS):
                progress(f"counts of boot {number + 1} of {BUDGET_BOOTS}")
                with scratch() as place:
                    host = Host(Path(place), Path(templates) / "filled", ())
                    samples.append(count_boot(self.target, host))
        return {
            name: (min(sample[name] for sample in samples), max(sample[name] for sample in samples))
            for name in counts.COUNTS
            if all(name in sample for sample in samples)
        }

    def _measure(
        self, target: Target, run: Path, progress: Callable[[str], None]
    ) -> dict[str, Any]:
        load = Load(mix_of(self.users, PARTS), for_s=WARM_UP_S + 3 * self.window_s + MARGIN_S)
        locustfile = default_locustfile()
        with ExitStack() as stack:
            journal = stack.enter_context(Journal(run / HISTORY, time.monotonic_ns))
            context = Context(target, ABILITY, f"{self.seed}/profile", 1, journal)
            episode = stack.enter_context(context.episode())
            server = booted(episode, load)
            progress("streams at rest")
            rest = streams_at_rest(server.port, server.pid)
            progress("turns one by one")
            counts = {**turn_costs(server.port, server.pid), **inner_counts(context, load)}
            windows = Windows(server.pid, self.window_s, run, progress)
            operations = stack.enter_context(generating(load, locustfile, context, episode, server))
            with windows, sampled(server, journal):
                for operation in operations:
                    journal.record(operation)
        account = report.account(history.read(run / HISTORY)[0])
        seconds = [second for second in account.seconds if windows.has(second.ended_ns)]
        flame = (run / FLAME).read_bytes() if (run / FLAME).exists() else b""
        title = f"{target.name}, latencies of all windows"
        folder.write_text(run / PAGE, report.page(account, title, "profile", flame=flame))
        return {
            "target": target.name,
            "users": load.users,
            "memory": rest,
            "per turn": counts,
            "latency": [asdict(latency) for latency in report.latencies(seconds)],
            "processor": windows.spent | processor(seconds, windows.spent["cpu_s"]),
            "stacks": windows.stacks,
        }


# At rest


def streams_at_rest(port: int, pid: int) -> Costs:
    """Open many streams on which nothing happens, and divide what they cost by their number."""
    web = Web(port)
    session = web.post("/api/session/new")["session"]["session_id"]
    process = psutil.Process(pid)
    with ExitStack() as stack:
        stack.callback(EventStream((LOOPBACK, port), StreamRequest(session, is_notices=True)).close)
        before, threads = process.memory_info().rss, process.num_threads()
        for _ in range(STREAMS):
            stack.callback(
                EventStream((LOOPBACK, port), StreamRequest(session, is_notices=True)).close
            )
        grown, more = process.memory_info().rss - before, process.num_threads() - threads
    return {
        "streams": STREAMS,
        "KiB a stream": round(grown / 1024 / STREAMS, 2),
        "threads a stream": round(more / STREAMS, 3),
    }


# One by one


def turn_costs(port: int, pid: int) -> Costs:
    """The costs of one turn of a target that does nothing else, in counts that do not vary."""
    web = Web(port)
    session = web.post("/api/session/new")["session"]["session_id"]
    take_turns(web, session, 5)  # creates what is created once
    process = psutil.Process(pid)
    before = process.io_counters(), process.num_ctx_switches()
    events = take_turns(web, session, TURNS)
    after = process.io_counters(), process.num_ctx_switches()
    costs: dict[str, float | str] = {"events": events / TURNS}
    for name in ("write_count", "write_bytes", "write_chars"):
        spent = getattr(after[0], name, 0) - getattr(before[0], name, 0)
        costs[name.replace("_", " ")] = round(spent / TURNS, 1)
    costs["times it waited"] = round((after[1].voluntary - before[1].voluntary) / TURNS, 1)
    return {**costs, **system_calls(pid, lambda: take_turns(web, session, TURNS))}


def inner_counts(context: Context, load: Load) -> Costs:
    """SQL statements and locks for each turn, which an instance of its own counts from inside.

    It has a journal of its own, so that its operations are no part of the load.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-counts-")))
        journal = stack.enter_context(Journal(scratch / HISTORY, time.monotonic_ns))
        episode = stack.enter_context(replace(context, journal=journal).episode())
        path = scratch / "counts"
        counting = replace(load, settings={**load.settings, call_counter.SETTING: str(path)})
        web = Web(booted(episode, counting).port)
        if not path.exists():
            return {"SQL statements": "unavailable: this target does not count them"}
        session = web.post("/api/session/new")["session"]["session_id"]
        take_turns(web, session, 5)
        try:
            before = call_counter.read(path)
            take_turns(web, session, TURNS)
            after = call_counter.read(path)
        except TimeoutError as error:
            return {"SQL statements": f"unavailable: {error}"}
    return {name: round((after[name] - before[name]) / TURNS, 1) for name in after}


def take_turns(web: Web, session: str, count: int) -> int:
    """Take turns one by one, each read to its end; returns the number of events."""
    events = 0
    for number in range(count):
        while True:
            body = {"session_id": session, "message": f"{number} {TURN}"}
            status, response = web.ask("POST", "/api/chat/start", body)
            if status == 200:  # noqa: PLR2004  the previous turn has ended
                break
            time.sleep(0.01)
        with web.stream(f"/api/chat/stream?stream_id={response['stream_id']}") as stream:
            events += sum(1 for _ in stream)
    return events


def system_calls(pid: int, act: Callable[[], object]) -> Costs:
    """System calls for each turn of `act`, counted by strace."""
    try:
        calls = counted_calls(pid, SYSCALLS, act)
    except probe.UnavailableError as error:
        return {"system calls": f"unavailable: {error}"}
    return {f"{name} calls": round(count / TURNS, 2) for name, count in calls.items()}


# Under load


class Windows:
    """The measurements under load, one after another, on a thread."""

    def __init__(
        self, pid: int, window_s: float, run: Path, progress: Callable[[str], None]
    ) -> None:
        self._pid = pid
        self._window_s = window_s
        self._run = run
        self._progress = progress
        self._thread = threading.Thread(target=self._measure, name="windows")
        self._from_ns = self._to_ns = 0
        self.spent: dict[str, float] = {"cpu_s": 0.0, "wall_s": 0.0}
        self.stacks: dict[str, Any] = {}

    def has(self, at_ns: int) -> bool:
        """Whether this moment was in the window without py-spy."""
        return self._from_ns <= at_ns <= self._to_ns

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _measure(self) -> None:
        time.sleep(WARM_UP_S)
        process = psutil.Process(self._pid)
        self._progress("under load")
        before, self._from_ns = process.cpu_times(), time.monotonic_ns()
        time.sleep(self._window_s)
        after, self._to_ns = process.cpu_times(), time.monotonic_ns()
        cpu_s = sum(after[:2]) - sum(before[:2])
        wall_s = (self._to_ns - self._from_ns) / 1e9
        self.spent = {"cpu_s": round(cpu_s, 3), "wall_s": round(wall_s, 3)}
        threads = process.num_threads()
        self.stacks = {"threads": threads}
        for name in (FLAME, SPEEDSCOPE):
            self._progress(f"stacks for {name}")
            self.stacks[name] = recorded(self._pid, self._window_s, threads, self._run / name)


def recorded(pid: int, seconds: float, threads: int, path: Path) -> str:
    """Record stacks into a file; its name, or why it is unavailable."""
    try:
        probe.flame(pid, seconds, threads, path)
    except probe.UnavailableError as error:
        return f"unavailable: {error}"
    return path.name


def processor(seconds: Sequence[report.Second], cpu_s: float) -> dict[str, float | str]:
    """Divide the processor time into a cost of each event and a cost of each call.

    By least squares over the seconds, neither below zero (Lawson and Hanson). Where one of them is
    zero, events and calls came in one proportion, and the seconds cannot tell them apart.
    """
    from scipy.optimize import nnls  # noqa: PLC0415  slow to import

    rows = [(second.counts.get("events", 0), second.counts.get("calls", 0)) for second in seconds]
    costs: dict[str, float | str] = {
        "events": float(sum(events for events, _ in rows)),
        "calls": float(sum(calls for _, calls in rows)),
    }
    spent = [second.target_cpu_s for second in seconds]
    if len(rows) > 2 and cpu_s > 0:  # noqa: PLR2004  unknowns
        with suppress(RuntimeError):  # it does not always converge
            solved, _ = nnls(rows, spent)
            for name, cost in zip(("us an event", "us a call"), solved, strict=True):
                costs[name] = round(1e6 * float(cost), 1) if min(solved) > 0 else INSEPARABLE
    return costs


def figures_of(result: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The figures that a budget may name, each as a range of one value."""
    values = {
        **result["memory"],
        "events a turn": result["per turn"].get("events"),
        **{name: result["processor"].get(name) for name in ("us an event", "us a call")},
        **{
            f"{latency['name']} {key}, ms": latency[key]
            for latency in result["latency"]
            for key in ("p50", "p99", "worst")
        },
    }
    return {
        name: (float(value), float(value))
        for name, value in values.items()
        if name in BUDGETED and isinstance(value, int | float)
    }


# As text


def markdown(result: Mapping[str, Any]) -> str:
    """Render the content of `profile.json` as tables that can be pasted."""
    lines = [f"# Profile: {result['target']}, {result['users']} users", ""]
    if "origin" in result:
        commit = result["target_commit"]
        of_target = "" if commit == "unknown" else f"Target at {commit}; harness "
        lines += [f"{of_target or 'Harness '}{origin_line(result['origin'])}", ""]
    for title in ("memory", "per turn", "counts", "processor", "stacks"):
        if not result.get(title):
            continue
        lines += [f"| {title} | |", "| --- | --- |", *_rows(result[title].items()), ""]
    lines += ["| latency of | count | p50 ms | p99 ms | worst ms |", "|" + " --- |" * 5]
    lines += [
        f"| {latency['name']} | {latency['count']:,} | {latency['p50']:.1f}"
        f" | {latency['p99']:.1f} | {latency['worst']:.1f} |"
        for latency in result["latency"]
    ]
    if result.get("budgets"):
        lines += ["", *budget_lines(result["budgets"])]
    return "\n".join(lines) + "\n"


def _rows(facts: Iterable[tuple[str, Any]]) -> list[str]:
    return [
        f"| {name} | {value if isinstance(value, str) else format(value, ',')} |"
        for name, value in facts
    ]
