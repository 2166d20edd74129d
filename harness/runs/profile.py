"""Measures where a target's time goes under load, and what each turn costs it.

Each measurement has a window of its own, because one disturbs the others: streams at rest for the
memory of one, turns one by one for counts that do not vary, load for latency and processor time,
load with py-spy for stacks. What this system does not allow is reported as unavailable, with the
reason.
"""

from __future__ import annotations

import re
import shutil
import subprocess
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
from harness.report import folder
from harness.report import load as report
from harness.runs.load import locustfile as default_locustfile
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
PROBING_S = 15.0  # for strace to begin, and to end
SYSCALLS = ("fsync", "fdatasync", "write", "pwrite64", "futex", "sendto", "sendmsg", "openat")
_COUNTED = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)

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

    def run(self, progress: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
        """Measure, and write the run folder: the folder, and the content of `profile.json`."""
        target = find_target(self.target)
        target.prepare()
        if ABILITY not in target.abilities:
            raise UsageError(f"target {target.name!r} has no ability {ABILITY!r}")
        plan = {"target": target.name, "users": self.users, "window_s": self.window_s}
        run = folder.create(self.reports, "profile", self.seed, plan)
        result = self._measure(target, run, progress)
        folder.write_json(run / RESULT, result)
        folder.write_text(run / "summary.md", markdown(result))
        folder.retain(self.reports, self.keep)
        return run, result

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
        title = f"{target.name}, profiled"
        folder.write_text(run / PAGE, report.page(account, title, "latencies of all windows"))
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
    strace = shutil.which("strace")
    if strace is None:
        return {"system calls": "unavailable: strace is not installed"}
    traced = f"trace={','.join(SYSCALLS)}"
    child = subprocess.Popen(  # noqa: S603  a fixed command
        [strace, "-c", "-f", "-q", "-e", traced, "-p", str(pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        is_traced = _wait_for(lambda: _tracer(pid) != 0 or child.poll() is not None)
        if is_traced and child.poll() is None:
            act()
        child.send_signal(2)
        _, output = child.communicate(timeout=PROBING_S)
    finally:
        child.kill()
        child.wait()
    calls = parse_strace(output)
    if not calls:
        return {"system calls": f"unavailable: {' '.join(output.split())[:200]}"}
    return {f"{name} calls": round(calls.get(name, 0) / TURNS, 2) for name in SYSCALLS}


def parse_strace(summary: str) -> dict[str, int]:
    """The number of each system call in the output of `strace -c`."""
    found = _COUNTED.findall(summary)
    return {name: int(count) for count, name in found if name != "total"}


def _tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("TracerPid:")[2].split()[0])


def _wait_for(condition: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + PROBING_S
    while not condition():
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.01)
    return True


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


def processor(seconds: Sequence[report.Second], cpu_s: float) -> dict[str, float]:
    """Divide the processor time into a cost of each event and a cost of each call.

    By least squares over the seconds, neither below zero (Lawson and Hanson).
    """
    from scipy.optimize import nnls  # noqa: PLC0415  slow to import

    rows = [(second.counts.get("events", 0), second.counts.get("calls", 0)) for second in seconds]
    costs = {
        "events": float(sum(events for events, _ in rows)),
        "calls": float(sum(calls for _, calls in rows)),
    }
    spent = [second.target_cpu_s for second in seconds]
    if len(rows) > 2 and cpu_s > 0:  # noqa: PLR2004  unknowns
        with suppress(RuntimeError):  # it does not always converge
            (an_event, a_call), _ = nnls(rows, spent)
            costs["us an event"] = round(1e6 * float(an_event), 1)
            costs["us a call"] = round(1e6 * float(a_call), 1)
    return costs


# As text


def markdown(result: Mapping[str, Any]) -> str:
    """Render the content of `profile.json` as tables that can be pasted."""
    lines = [f"# Profile: {result['target']}, {result['users']} users", ""]
    for title in ("memory", "per turn", "processor", "stacks"):
        lines += [f"| {title} | |", "| --- | --- |", *_rows(result[title].items()), ""]
    lines += ["| latency of | count | p50 ms | p99 ms | worst ms |", "|" + " --- |" * 5]
    lines += [
        f"| {latency['name']} | {latency['count']:,} | {latency['p50']:.1f}"
        f" | {latency['p99']:.1f} | {latency['worst']:.1f} |"
        for latency in result["latency"]
    ]
    return "\n".join(lines) + "\n"


def _rows(facts: Iterable[tuple[str, Any]]) -> list[str]:
    return [
        f"| {name} | {value if isinstance(value, str) else format(value, ',')} |"
        for name, value in facts
    ]
