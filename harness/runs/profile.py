"""The profile: where a target's time goes under load, and what each turn costs it.

Every question has a window of its own, because the answer to one disturbs the others: streams at
rest for the memory of one, turns one by one for counts that do not jitter, load for latency and
processor time, load with py-spy for stacks. What this system does not allow is told as unavailable,
with the reason.
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

from harness.contract.clients.event_stream import EventStream, StreamRequest
from harness.contract.workloads.load import Load, booted, crowd, generating, sampled
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
# Nobody who is woken: so each turn is one that was asked for.
PARTS = {"Watcher": 60, "Chatter": 24, "Reconnector": 10, "Poller": 6}
STREAMS = 400
TURNS = 60
TURN = "[tokens=20]"
WARM_UP_S = 3.0
MARGIN_S = 5.0
FLAME, SPEEDSCOPE, PAGE, RESULT = "flame.svg", "speedscope.json", "load.html", "profile.json"
PROBING_S = 15.0  # for strace to begin, and to end
SYSCALLS = ("fsync", "fdatasync", "write", "pwrite64", "futex", "sendto", "sendmsg", "openat")
_COUNTED = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)

Costs = Mapping[str, float | str]


@dataclass(frozen=True)
class Profile:
    """What is asked of a profile; each window under load takes `window_s`."""

    target: str
    seed: int
    users: int
    window_s: float
    reports: Path
    keep: int = 20

    def run(self, progress: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
        """Measure all, and write it down: the run's folder, and what `profile.json` says."""
        target = find_target(self.target)
        target.prepare()
        if ABILITY not in target.abilities:
            raise UsageError(f"{target.name} has no ability {ABILITY!r}")
        plan = {"target": target.name, "users": self.users, "window_s": self.window_s}
        run = folder.create(self.reports, "profile", self.seed, plan)
        told = self._measure(target, run, progress)
        folder.write_json(run / RESULT, told)
        folder.write_text(run / "summary.md", markdown(told))
        folder.retain(self.reports, self.keep)
        return run, told

    def _measure(
        self, target: Target, run: Path, progress: Callable[[str], None]
    ) -> dict[str, Any]:
        load = Load(crowd(self.users, PARTS), for_s=WARM_UP_S + 3 * self.window_s + MARGIN_S)
        locustfile = default_locustfile()
        with ExitStack() as stack:
            journal = stack.enter_context(Journal(run / HISTORY, time.monotonic_ns))
            context = Context(target, ABILITY, f"{self.seed}/profile", 1, journal)
            episode = stack.enter_context(context.episode())
            served = booted(episode, load)
            progress("streams at rest")
            rest = streams_at_rest(served.port, served.pid)
            progress("turns one by one")
            counts = {**counted(served.port, served.pid), **tallied(context, load)}
            windows = Windows(served.pid, self.window_s, run, progress)
            operations = stack.enter_context(generating(load, locustfile, context, episode, served))
            with windows, sampled(served, journal):
                for operation in operations:
                    journal.record(operation)
        told = report.account(history.read(run / HISTORY)[0])
        alone = replace(told, seconds=[each for each in told.seconds if windows.has(each.ended_ns)])
        title = f"{target.name}, profiled"
        folder.write_text(run / PAGE, report.page(told, title, "latencies of all windows"))
        return {
            "target": target.name,
            "users": load.users,
            "memory": rest,
            "per turn": counts,
            "latency": [asdict(each) for each in report.latencies(alone.seconds)],
            "processor": windows.spent | processor(alone.seconds, windows.spent["cpu_s"]),
            "stacks": windows.stacks,
        }


# At rest


def streams_at_rest(port: int, pid: int) -> Costs:
    """Hold many streams on which nothing happens: what one of them takes."""
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


def counted(port: int, pid: int) -> Costs:
    """What one turn costs a target that does nothing else, in counts that do not jitter."""
    web = Web(port)
    session = web.post("/api/session/new")["session"]["session_id"]
    take_turns(web, session, 5)  # so that what is made once is made
    process = psutil.Process(pid)
    before = process.io_counters(), process.num_ctx_switches()
    events = take_turns(web, session, TURNS)
    after = process.io_counters(), process.num_ctx_switches()
    told: dict[str, float | str] = {"events": events / TURNS}
    for name in ("write_count", "write_bytes", "write_chars"):
        spent = getattr(after[0], name, 0) - getattr(before[0], name, 0)
        told[name.replace("_", " ")] = round(spent / TURNS, 1)
    told["times it waited"] = round((after[1].voluntary - before[1].voluntary) / TURNS, 1)
    return {**told, **system_calls(pid, lambda: take_turns(web, session, TURNS))}


def tallied(context: Context, load: Load) -> Costs:
    """What another instance counts inside of itself, turn by turn, where it can.

    It has a journal of its own: what it is asked is no part of the load.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-tally-")))
        journal = stack.enter_context(Journal(place / HISTORY, time.monotonic_ns))
        episode = stack.enter_context(replace(context, journal=journal).episode())
        path = place / "tally"
        counting = replace(load, settings={**load.settings, call_counter.SETTING: str(path)})
        web = Web(booted(episode, counting).port)
        if not path.exists():
            return {"SQL statements": "unavailable: this target counts none"}
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
    """So many turns, each read to its end; how many events there were."""
    events = 0
    for number in range(count):
        while True:
            body = {"session_id": session, "message": f"{number} {TURN}"}
            status, told = web.ask("POST", "/api/chat/start", body)
            if status == 200:  # noqa: PLR2004  the last one has left
                break
            time.sleep(0.01)
        with web.stream(f"/api/chat/stream?stream_id={told['stream_id']}") as shown:
            events += sum(1 for _ in shown)
    return events


def system_calls(pid: int, act: Callable[[], object]) -> Costs:
    """How many of some system calls each turn of `act` makes, by strace."""
    strace = shutil.which("strace")
    if strace is None:
        return {"system calls": "unavailable: there is no strace here"}
    traced = f"trace={','.join(SYSCALLS)}"
    child = subprocess.Popen(  # noqa: S603  the command is our own
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
        _, said = child.communicate(timeout=PROBING_S)
    finally:
        child.kill()
        child.wait()
    calls = counted_calls(said)
    if not calls:
        return {"system calls": f"unavailable: {' '.join(said.split())[:200]}"}
    return {f"{name} calls": round(calls.get(name, 0) / TURNS, 2) for name in SYSCALLS}


def counted_calls(summary: str) -> dict[str, int]:
    """Read what `strace -c` counted."""
    found = _COUNTED.findall(summary)
    return {name: int(count) for count, name in found if name != "total"}


def _tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("TracerPid:")[2].split()[0])


def _wait_for(is_so: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + PROBING_S
    while not is_so():
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.01)
    return True


# Under load


class Windows:
    """What is looked at while the load goes on, one thing after another, on a thread."""

    def __init__(
        self, pid: int, window_s: float, run: Path, progress: Callable[[str], None]
    ) -> None:
        self._pid = pid
        self._window_s = window_s
        self._run = run
        self._progress = progress
        self._thread = threading.Thread(target=self._look, name="windows")
        self._from_ns = self._to_ns = 0
        self.spent: dict[str, float] = {"cpu_s": 0.0, "wall_s": 0.0}
        self.stacks: dict[str, Any] = {}

    def has(self, at_ns: int) -> bool:
        """Whether this moment was in the window where nothing disturbed."""
        return self._from_ns <= at_ns <= self._to_ns

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _look(self) -> None:
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
    """Divide the processor time into so much an event and so much a call.

    By least squares over the seconds, neither below zero (Lawson and Hanson).
    """
    from scipy.optimize import nnls  # noqa: PLC0415  slow to import

    rows = [(each.counts.get("events", 0), each.counts.get("calls", 0)) for each in seconds]
    told = {
        "events": float(sum(events for events, _ in rows)),
        "calls": float(sum(calls for _, calls in rows)),
    }
    spent = [each.target_cpu_s for each in seconds]
    if len(rows) > 2 and cpu_s > 0:  # noqa: PLR2004  unknowns
        with suppress(RuntimeError):  # it does not always converge
            (an_event, a_call), _ = nnls(rows, spent)
            told["us an event"] = round(1e6 * float(an_event), 1)
            told["us a call"] = round(1e6 * float(a_call), 1)
    return told


# As text


def markdown(told: Mapping[str, Any]) -> str:
    """Tables that can be pasted."""
    lines = [f"# Profile: {told['target']}, {told['users']} users", ""]
    for title in ("memory", "per turn", "processor", "stacks"):
        lines += [f"| {title} | |", "| --- | --- |", *_rows(told[title].items()), ""]
    lines += ["| what came late | count | p50 ms | p99 ms | worst ms |", "|" + " --- |" * 5]
    lines += [
        f"| {each['name']} | {each['count']:,} | {each['p50']:.1f} | {each['p99']:.1f}"
        f" | {each['worst']:.1f} |"
        for each in told["latency"]
    ]
    return "\n".join(lines) + "\n"


def _rows(facts: Iterable[tuple[str, Any]]) -> list[str]:
    return [
        f"| {name} | {value if isinstance(value, str) else format(value, ',')} |"
        for name, value in facts
    ]
