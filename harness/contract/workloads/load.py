"""Loads a server with many clients in processes of their own, and journals their operations.

The load generator is locust. It patches the standard library, so it runs in a child process only,
which reports its operations over a supervised socket. When it is done the workload waits until the
target is idle, and reads back every session and the last runs.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from harness.contract.agent_script import WakeupPrompt
from harness.contract.clients.event_stream import EventStream, StreamRequest
from harness.contract.clients.message_format import translated
from harness.core.errors import (
    HarnessError,
    TargetLostError,
    TargetUnavailableError,
    UsageError,
)
from harness.core.history import Journal, Operation, Outcome
from harness.engine.context import Context, Episode, Replay, Workload
from harness.engine.http import LOOPBACK, NotReachedError, StatusError, Web
from harness.engine.supervision import Child
from harness.engine.target import Instance

WORK_BOUND_S = 120.0  # for a load that ends when each user has done its acts
CLOSING_S = 120.0
JOINING_S = 900.0  # for generators that are started on other machines
SETTLE_S = 60.0
LAST_RUNS = 40
POLL_S = 0.1
SECOND_S = 1.0
LOG_CHARS = 2000
MASTER_PORT = 5557
READER = -1
SHAPES = ("steady", "ramp", "spike", "storm")

# The parts of each mix, in hundredths.
MIXED = {
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
WAKEUPS = {
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


def mix_of(users: int, parts: Mapping[str, int] = MIXED) -> dict[str, int]:
    """Distribute users over all kinds, at least one of each: else exactly this number of users.

    What rounding adds or leaves is taken from, or given to, the kind with the most users.
    """
    whole = sum(parts.values())
    mix = {kind: max(1, round(users * part / whole)) for kind, part in parts.items()}
    while (excess := sum(mix.values()) - max(users, len(parts))) != 0:
        largest = max(mix, key=lambda kind: mix[kind])
        mix[largest] -= excess if mix[largest] - excess >= 1 else mix[largest] - 1
    return mix


@dataclass(frozen=True, slots=True)
class Load:
    """The load that a generator makes.

    Without `for_s` each user does as many acts as the context has examples, so that a slow machine
    does the same. Before each act a user waits for `think_s` on average. `settings` are the
    target's; with `kill_every_s` it is killed and booted again at this interval.
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
    master: str = ""  # host:port at which generators on other machines connect

    @property
    def users(self) -> int:
        """The greatest number of users."""
        return sum(self.mix.values())

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return asdict(self)


OnOperation = Callable[[Operation], object]


def load_workload(
    load: Load, locustfile: Path, on_operation: OnOperation = lambda _: None
) -> Workload:
    """Make the workload that boots a server, loads it, and reads back what it stored.

    `on_operation` is called with each operation as it comes, the first of which is the boot.
    """

    def workload(context: Context) -> None:
        with context.episode() as episode:
            server = booted(episode, load, on_operation)
            created = Created()
            sampling = sampled(server, context.journal, on_operation)
            with sampling, generating(load, locustfile, context, episode, server) as operations:
                for operation in operations:
                    context.journal.record(operation)
                    created.add(operation)
                    on_operation(operation)
            _read_back(server.port, created, context.journal)

    return workload


def load_again(workload: Workload) -> Replay:
    """Make a replay that loads a fresh server in the same way."""
    return lambda context, _failed: workload(context)


@dataclass
class Server:
    """The port and the process id of the target at present."""

    port: int
    pid: int


def booted(episode: Episode, load: Load, on_operation: OnOperation = lambda _: None) -> Server:
    """Boot the target. Raises TargetUnavailableError."""
    boot = episode.client.ask("boot", dict(load.settings))
    on_operation(boot)
    if boot.outcome is not Outcome.OK:
        raise TargetUnavailableError(f"the server does not boot: {boot.error}")
    return Server(**boot.result)


# The generator


@contextmanager
def generating(
    load: Load, locustfile: Path, context: Context, episode: Episode, server: Server
) -> Iterator[Iterator[Operation]]:
    """Start the generator; yields its operations until it ends.

    Raises HarnessError if it fails.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-load-")))
        address = folder / "address"
        _put(address, server.port)
        lasts_s = load.for_s or WORK_BOUND_S
        arguments = [
            *("-f", str(locustfile), "--headless", "--only-summary", "--loglevel=WARNING"),
            f"--host=http://{LOOPBACK}:{server.port}",
            *([] if load.master else [f"--address={address}"]),  # a local file
            *(f"--mix={json.dumps(load.mix)}", f"--shape={load.shape}", f"--seed={context.seed}"),
            *(f"--acts={0 if load.for_s else context.examples}", f"--seconds={lasts_s}"),
            f"--think={load.think_s}",
            f"--write-deadline={load.write_deadline_s}",
            f"--streams-max={load.streams_max}",
        ]
        children = _started(load, arguments, folder, stack)
        if load.kill_every_s is not None:
            stack.enter_context(_killing(load, episode.instance, context.journal, address, server))
        yield _reported(children[0], folder, lasts_s + (JOINING_S if load.master else CLOSING_S))


def _started(load: Load, arguments: list[str], folder: Path, stack: ExitStack) -> list[Child]:
    """Start one generator, or a master and its workers; the one that reports comes first."""
    if load.workers == 1 and not load.master:
        return [_child(arguments, folder, "generator", stack)]
    host, _, port = (load.master or f"{LOOPBACK}:{_free_port()}").rpartition(":")
    bound = [f"--master-bind-host={host}", f"--master-bind-port={port}"]
    expected = f"--expect-workers={load.workers}"
    first = _child([*arguments, "--master", *bound, expected], folder, "generator", stack)
    if load.master:
        return [first]
    joined = ["-f", arguments[1], "--worker", f"--master-host={host}", f"--master-port={port}"]
    numbers = range(load.workers)
    return [first, *(_child(joined, folder, f"worker-{number}", stack) for number in numbers)]


def join(locustfile: Path, master: str) -> int:
    """Run a generator for a master on another machine; returns its exit code."""
    host, _, port = master.partition(":")
    joined = ["-f", str(locustfile), "--worker", f"--master-host={host}"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-load-")))
        child = _child([*joined, f"--master-port={port or MASTER_PORT}"], folder, "worker", stack)
        return child.wait()


def require_free(address: str) -> None:
    """Raise UsageError where nothing can listen at this HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("" if host == "*" else host, int(port)))
    except OSError as error:
        raise UsageError(f"--master {address}: cannot listen there: {error.strerror}") from error


def _child(arguments: list[str], folder: Path, name: str, stack: ExitStack) -> Child:
    command = [sys.executable, "-m", "locust", *arguments]
    # Settings for locust in the caller's environment do not apply here.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
    log = stack.enter_context((folder / f"{name}.log").open("wb"))
    child = Child(command, environment, log, folder)
    stack.callback(child.end)
    return child


def _reported(child: Child, folder: Path, within_s: float) -> Iterator[Operation]:
    try:
        for event in child.events(time.monotonic() + within_s):
            yield Operation.from_json(event["operation"])
    except TimeoutError:
        raise HarnessError(
            f"the load generator did not end within {within_s:g} s: {_logged(folder)}"
        ) from None
    if (code := child.wait()) != 0:
        raise HarnessError(f"the load generator ended with exit code {code}: {_logged(folder)}")


def _logged(folder: Path) -> str:
    logs = [log.read_text(encoding="utf-8", errors="replace") for log in folder.glob("*.log")]
    return "\n".join(log[-LOG_CHARS:] for log in logs)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


def _put(address: Path, port: int) -> None:
    """Publish the target's address, in one step: many users read it at any moment."""
    new = address.with_suffix(".new")
    new.write_text(f"http://{LOOPBACK}:{port}", encoding="ascii")
    new.replace(address)


@contextmanager
def _killing(
    load: Load, instance: Instance, journal: Journal, address: Path, server: Server
) -> Iterator[None]:
    """Kill and boot the target at an interval while the block lasts."""

    def kill() -> None:
        journal.fault("kill")
        instance.call("kill", {})
        boot = instance.call("boot", {})
        server.port, server.pid = boot["port"], boot["pid"]
        _put(address, server.port)
        journal.heal("kill")

    assert load.kill_every_s is not None
    with repeated(load.kill_every_s, kill):
        yield


@contextmanager
def repeated(period_s: float, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` at an interval, on a thread, while the block lasts; raises what it raised."""
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
def sampled(
    server: Server, journal: Journal, on_operation: OnOperation = lambda _: None
) -> Iterator[None]:
    """Sample the cost of the target's process once a second while the block lasts."""

    def record_cost() -> None:
        began_ns = time.monotonic_ns()
        cost = _cost(server.pid)
        if cost is not None:
            ended_ns = time.monotonic_ns()
            sample = Operation(READER, "cost", None, Outcome.OK, began_ns, ended_ns, cost)
            journal.record(sample)
            on_operation(sample)

    with repeated(SECOND_S, record_cost):
        yield


def _cost(pid: int) -> dict[str, Any] | None:
    """What the process has used so far; None if it has ended."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
            cpu_s = round(times.user + times.system, 3)
            return {"pid": pid, "cpu_s": cpu_s, "rss": memory.rss, "threads": process.num_threads()}
    except psutil.Error:
        return None


# Reading back, when all is quiet


class Created:
    """The sessions and runs that the users created."""

    def __init__(self) -> None:
        """None so far."""
        self.sessions: dict[str, None] = {}
        self.runs: dict[str, str] = {}

    def add(self, operation: Operation) -> None:
        """Take note of what an operation created."""
        match operation:
            case Operation(function="new", outcome=Outcome.OK, result={"session": session}):
                self.sessions[session] = None
            case Operation(function="send", outcome=Outcome.OK, result={"stream": str(stream)}):
                self.runs[stream] = operation.argument["session"]


def _read_back(port: int, created: Created, journal: Journal) -> None:
    web = Web(port)
    _settle(web)
    for session in created.sessions:
        _record(journal, "messages", {"session": session}, partial(_messages, web, session))
    for stream, session in list(created.runs.items())[-LAST_RUNS:]:
        request = StreamRequest(session, stream)
        _record(journal, "read", request.to_json(), partial(_read, port, request))


def _settle(web: Web) -> None:
    """Wait until no run is active and no wakeup is pending, SETTLE_S at most."""
    ends_at = time.monotonic() + SETTLE_S
    while time.monotonic() < ends_at:
        health = web.get("/health")
        waiting = ("wakeup_events", "processes_running", "process_events_pending")
        containers = health.get("containers", {})
        if not health["active_runs"] and not any(containers.get(name, 0) for name in waiting):
            return
        time.sleep(POLL_S)


def _record(
    journal: Journal, function: str, argument: Mapping[str, Any], ask: Callable[[], Any]
) -> None:
    number = journal.invoke(READER, function, dict(argument))
    try:
        journal.complete(number, Outcome.OK, ask())
    except TargetLostError as error:
        journal.complete(number, Outcome.INFO, error=f"{type(error).__name__}: {error}")
    except (NotReachedError, StatusError) as error:  # such as for a run that is no longer kept
        journal.complete(number, Outcome.FAIL, error=f"{type(error).__name__}: {error}")


def _messages(web: Web, session: str) -> dict[str, Any]:
    """The users' messages in a session, and the outputs that woke it."""
    messages = web.get(f"/api/session?session_id={session}")["session"]["messages"]
    questions = [message for message in translated(messages) if message["role"] == "user"]
    wakeups = [
        message["content"] for message in questions if message.get("source") == "process_wakeup"
    ]
    return {
        "users": [
            message["content"] for message in questions if message.get("source") != "process_wakeup"
        ],
        "woken": [_output(prompt) for prompt in wakeups],
    }


def _output(prompt: str) -> str:
    """The output in a wakeup, or where it was lost, what its process was to print."""
    wakeup = WakeupPrompt.parse(prompt)
    return wakeup.announced if wakeup else ""


def _read(port: int, request: StreamRequest) -> dict[str, Any]:
    stream = EventStream((LOOPBACK, port), request)
    for _ in stream.frames():
        pass
    return stream.close()
