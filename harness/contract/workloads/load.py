"""The load: many clients in processes of their own, and what they did, written down as it comes.

The generator is locust, which patches the standard library, so it never runs in here: it is a
child on a lifeline, and tells its operations over that. When it is done we wait until the target is
idle, and ask once more: what is in each session, and what each of the last runs showed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from harness.contract.clients.event_stream import Tap, Wanted
from harness.contract.clients.message_format import translated
from harness.core.errors import HarnessError, TargetLostError, TargetUnavailableError
from harness.core.history import Journal, Operation, Outcome
from harness.engine.context import Episode, Replay, Stage, Workload
from harness.engine.http import LOOPBACK, NotReachedError, StatusError, Web
from harness.engine.supervision import Child
from harness.engine.target import Instance

WORK_BOUND_S = 120.0  # for a load that ends when everybody has done his acts
CLOSING_S = 120.0
JOINING_S = 900.0  # for generators that somebody has to start elsewhere
SETTLE_S = 60.0
LAST_RUNS = 40
POLL_S = 0.1
SECOND_S = 1.0
LOG_CHARS = 2000
MASTER_PORT = 5557
ASKER = -1
SHAPES = ("steady", "ramp", "spike", "storm")

_OUTPUT = re.compile(r"Output:\n(.*)\]", re.DOTALL)
_COMMAND = re.compile(r"^Command: .*?printf %s (.*?) \|", re.MULTILINE)
_BRACKETS = str.maketrans("{}", "[]")

# How a crowd is made up, in parts of a hundred.
CROWD = {
    "Watcher": 58,
    "Chatter": 20,
    "Reconnector": 10,
    "Waker": 4,
    "SlowReader": 2,
    "Listener": 2,
    "Staller": 1,
    "Presser": 1,
    "Poller": 2,
}
STORM = {
    "Waker": 56,
    "Presser": 30,
    "Watcher": 4,
    "Chatter": 2,
    "Reconnector": 2,
    "Poller": 2,
    "SlowReader": 1,
    "Listener": 1,
    "Staller": 1,
}


def crowd(users: int, parts: Mapping[str, int] = CROWD) -> dict[str, int]:
    """So many users of all kinds, at least one of each."""
    whole = sum(parts.values())
    return {kind: max(1, round(users * part / whole)) for kind, part in parts.items()}


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the generator.

    Without `for_s` each user does as many acts as the stage has examples, so that the same is asked
    of a slow machine. Before each act a user thinks for `think_s` on average. `settings` are the
    target's; `kill_every_s` has it killed and booted again.
    """

    mix: Mapping[str, int]
    for_s: float | None = None
    think_s: float = 0.0
    shape: str = "steady"
    workers: int = 1
    write_deadline_s: float = 20.0
    streams_max: int = 600
    settings: Mapping[str, str] = field(default_factory=dict)
    kill_every_s: float | None = None
    master: str = ""  # where generators on other machines find us, host:port

    @property
    def users(self) -> int:
        """How many there are at most."""
        return sum(self.mix.values())

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return asdict(self)


Heard = Callable[[Operation], object]


def under(load: Load, locustfile: Path, heard: Heard = lambda _: None) -> Workload:
    """Make the workload that boots a server, has it loaded, and asks once more.

    `heard` is told each operation as it comes, the first of which is the boot.
    """

    def workload(stage: Stage) -> None:
        with stage.episode() as episode:
            served = booted(episode, load, heard)
            seen = Seen()
            sampling = sampled(served, stage.journal, heard)
            with sampling, generating(load, locustfile, stage, episode, served) as operations:
                for operation in operations:
                    stage.journal.record(operation)
                    seen.add(operation)
                    heard(operation)
            _look(served.port, seen, stage.journal)

    return workload


def again(workload: Workload) -> Replay:
    """Replay a failure by loading a fresh server alike."""
    return lambda stage, _failed: workload(stage)


@dataclass
class Served:
    """Where the target serves now, and as which process."""

    port: int
    pid: int


def booted(episode: Episode, load: Load, heard: Heard = lambda _: None) -> Served:
    """Boot the target. Raises TargetUnavailableError."""
    told = episode.client.ask("boot", dict(load.settings))
    heard(told)
    if told.outcome is not Outcome.OK:
        raise TargetUnavailableError(f"it does not boot: {told.error}")
    return Served(**told.result)


# The generator


@contextmanager
def generating(
    load: Load, locustfile: Path, stage: Stage, episode: Episode, served: Served
) -> Iterator[Iterator[Operation]]:
    """Start the generator; the operations that it tells, until it has come to its end.

    Raises HarnessError if it breaks.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-load-")))
        address = place / "address"
        _put(address, served.port)
        lasts_s = load.for_s or WORK_BOUND_S
        asked = [
            *("-f", str(locustfile), "--headless", "--only-summary", "--loglevel=WARNING"),
            f"--host=http://{LOOPBACK}:{served.port}",
            *([] if load.master else [f"--address={address}"]),  # others cannot read our files
            *(f"--mix={json.dumps(load.mix)}", f"--shape={load.shape}", f"--seed={stage.seed}"),
            *(f"--acts={0 if load.for_s else stage.examples}", f"--seconds={lasts_s}"),
            f"--think={load.think_s}",
            f"--write-deadline={load.write_deadline_s}",
            f"--streams-max={load.streams_max}",
        ]
        children = _started(load, asked, place, stack)
        if load.kill_every_s is not None:
            stack.enter_context(_killing(load, episode.instance, stage.journal, address, served))
        yield _told(children[0], place, lasts_s + (JOINING_S if load.master else CLOSING_S))


def _started(load: Load, asked: list[str], place: Path, stack: ExitStack) -> list[Child]:
    """One generator, or a master and its workers; the one that tells comes first."""
    if load.workers == 1 and not load.master:
        return [_child(asked, place, "generator", stack)]
    host, _, port = (load.master or f"{LOOPBACK}:{_free_port()}").rpartition(":")
    bound = [f"--master-bind-host={host}", f"--master-bind-port={port}"]
    expected = f"--expect-workers={load.workers}"
    first = _child([*asked, "--master", *bound, expected], place, "generator", stack)
    if load.master:
        return [first]
    joined = ["-f", asked[1], "--worker", f"--master-host={host}", f"--master-port={port}"]
    numbers = range(load.workers)
    return [first, *(_child(joined, place, f"worker-{number}", stack) for number in numbers)]


def join(locustfile: Path, master: str) -> int:
    """Be a generator for a master on another machine, until it is done; the exit code."""
    host, _, port = master.partition(":")
    joined = ["-f", str(locustfile), "--worker", f"--master-host={host}"]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-load-")))
        child = _child([*joined, f"--master-port={port or MASTER_PORT}"], place, "worker", stack)
        return child.wait()


def _child(arguments: list[str], place: Path, name: str, stack: ExitStack) -> Child:
    command = [sys.executable, "-m", "locust", *arguments]
    # Settings of whoever calls us are not ours.
    ours = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
    log = stack.enter_context((place / f"{name}.log").open("wb"))
    child = Child(command, ours, log, place)
    stack.callback(child.end)
    return child


def _told(child: Child, place: Path, within_s: float) -> Iterator[Operation]:
    try:
        for event in child.events(time.monotonic() + within_s):
            yield Operation.from_json(event["operation"])
    except TimeoutError:
        raise HarnessError(
            f"the load did not end within {within_s:g} s: {_logged(place)}"
        ) from None
    if (code := child.wait()) != 0:
        raise HarnessError(f"the generator ended with {code}: {_logged(place)}")


def _logged(place: Path) -> str:
    logs = [log.read_text(encoding="utf-8", errors="replace") for log in place.glob("*.log")]
    return "\n".join(log[-LOG_CHARS:] for log in logs)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


def _put(address: Path, port: int) -> None:
    """Say where the target is, in one step: many read it at any moment."""
    new = address.with_suffix(".new")
    new.write_text(f"http://{LOOPBACK}:{port}", encoding="ascii")
    new.replace(address)


@contextmanager
def _killing(
    load: Load, instance: Instance, journal: Journal, address: Path, served: Served
) -> Iterator[None]:
    """Kill the target now and then while the block lasts, and boot it again."""

    def kill() -> None:
        journal.fault("kill")
        instance.call("kill", {})
        told = instance.call("boot", {})
        served.port, served.pid = told["port"], told["pid"]
        _put(address, served.port)
        journal.heal("kill")

    assert load.kill_every_s is not None
    with repeated(load.kill_every_s, kill):
        yield


@contextmanager
def repeated(period_s: float, act: Callable[[], object]) -> Iterator[None]:
    """Act once every so often, on a thread, while the block lasts; raise what that raised."""
    is_over = threading.Event()
    broken: list[BaseException] = []

    def repeat() -> None:
        while not is_over.wait(period_s):
            try:
                act()
            except BaseException as error:  # noqa: BLE001  it is raised again below
                broken.append(error)
                return

    thread = threading.Thread(target=repeat, name="repeating")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    if broken:
        raise broken[0]


@contextmanager
def sampled(served: Served, journal: Journal, heard: Heard = lambda _: None) -> Iterator[None]:
    """Look at the target's process once a second while the block lasts: what it costs."""

    def sample() -> None:
        began_ns = time.monotonic_ns()
        told = _cost(served.pid)
        if told is not None:
            asked = (ASKER, "cost", None, Outcome.OK, began_ns, time.monotonic_ns(), told)
            journal.record(Operation(*asked))
            heard(Operation(*asked))

    with repeated(SECOND_S, sample):
        yield


def _cost(pid: int) -> dict[str, Any] | None:
    """What the process has used by now; None if it is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
            cpu_s = round(times.user + times.system, 3)
            return {"pid": pid, "cpu_s": cpu_s, "rss": memory.rss, "threads": process.num_threads()}
    except psutil.Error:
        return None


# Once more, when all is quiet


class Seen:
    """Which sessions and runs there were."""

    def __init__(self) -> None:
        """None yet."""
        self.sessions: dict[str, None] = {}
        self.runs: dict[str, str] = {}

    def add(self, operation: Operation) -> None:
        """Take note of an operation."""
        match operation:
            case Operation(function="new", outcome=Outcome.OK, result={"session": session}):
                self.sessions[session] = None
            case Operation(function="send", outcome=Outcome.OK, result={"stream": str(stream)}):
                self.runs[stream] = operation.argument["session"]


def _look(port: int, seen: Seen, journal: Journal) -> None:
    web = Web(port)
    _settle(web)
    for session in seen.sessions:
        _asked(journal, "messages", {"session": session}, lambda sid=session: _messages(web, sid))  # type: ignore[misc]
    for stream, session in list(seen.runs.items())[-LAST_RUNS:]:
        wanted = Wanted(session, stream)
        _asked(journal, "read", wanted.to_json(), lambda one=wanted: _read(port, one))  # type: ignore[misc]


def _settle(web: Web) -> None:
    """Wait until nothing goes on any more, or for as long as is sensible."""
    ends_at = time.monotonic() + SETTLE_S
    while time.monotonic() < ends_at:
        told = web.get("/health")
        waiting = ("wakeup_events", "processes_running", "process_events_pending")
        containers = told.get("containers", {})
        if not told["active_runs"] and not any(containers.get(name, 0) for name in waiting):
            return
        time.sleep(POLL_S)


def _asked(
    journal: Journal, function: str, argument: Mapping[str, Any], ask: Callable[[], Any]
) -> None:
    number = journal.invoke(ASKER, function, dict(argument))
    try:
        journal.complete(number, Outcome.OK, ask())
    except TargetLostError as error:
        journal.complete(number, Outcome.INFO, error=f"{type(error).__name__}: {error}")
    except (NotReachedError, StatusError) as error:  # a run of long ago is kept no more, say
        journal.complete(number, Outcome.FAIL, error=f"{type(error).__name__}: {error}")


def _messages(web: Web, session: str) -> dict[str, Any]:
    """What users said in a session, and which outputs woke it."""
    messages = web.get(f"/api/session?session_id={session}")["session"]["messages"]
    asked = [one for one in translated(messages) if one["role"] == "user"]
    woken = [one["content"] for one in asked if one.get("source") == "process_wakeup"]
    return {
        "users": [one["content"] for one in asked if one.get("source") != "process_wakeup"],
        "woken": [_output(prompt) for prompt in woken],
    }


def _output(prompt: str) -> str:
    """What a wakeup says its process printed; of one that was lost, what it was to print."""
    if (output := _OUTPUT.search(prompt)) and output[1]:
        return output[1]
    command = _COMMAND.search(prompt)
    return shlex.split(command[1])[0].translate(_BRACKETS) if command else ""


def _read(port: int, wanted: Wanted) -> dict[str, Any]:
    tap = Tap((LOOPBACK, port), wanted)
    for _ in tap.frames():
        pass
    return tap.close()
