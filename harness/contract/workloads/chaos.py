"""Runs many clients of one server concurrently while faults are injected.

A fault is injected after the clients observed a kind of event a number of times, not after a time;
so it hits a server that is at work, on a machine of any speed. The history holds the interval of
each fault; the boots and deaths of the server are operations. After the last fault is healed, the
server is given time to come to rest.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.contract.clients.session_client import Moment, Names, ServerAddress, SessionClient
from harness.core.history import Operation, Outcome
from harness.engine.client import RecordingClient
from harness.engine.context import Context, Episode
from harness.engine.http import NotReachedError
from harness.engine.target import AdapterInstance, Instance
from harness.faults.nemesis import Fault, injecting
from harness.faults.process_faults import Pause, ShortFiles

BOOT_PATIENCE_S = 40.0
MOMENT_PATIENCE_S = 15.0  # a fault is injected after this time even without its moment
CALLS_MAX = 60  # ... and after this number of answered calls
BACK_OFF_S = 0.01
TIMEOUTS_MAX = 4  # calls without an answer, each of which took its whole patience
UNANSWERED_MAX_S = 60.0  # without any answer, besides the time of a boot
NEMESIS = 1_000_000  # the process number of the host, apart from those of clients


class ServerGoneError(Exception):
    """The server is dead, and does not boot again."""


class Moments:
    """Counts the moments that clients observed, and lets a thread wait for more of them."""

    def __init__(self) -> None:
        """All counts are 0."""
        self._changed = threading.Condition()
        self._counts: Counter[Moment] = Counter()
        self.is_over = False

    def observe(self, moment: Moment) -> None:
        """Count a moment, and wake those that wait for more of them."""
        with self._changed:
            self._counts[moment] += 1
            self._changed.notify_all()

    def wait_for_more(self, moment: Moment, times: int) -> None:
        """Wait for this number of further moments, or for CALLS_MAX answered calls."""
        with self._changed:
            wanted = self._counts[moment] + times
            last = self._counts[Moment.ANSWERED] + CALLS_MAX

            def is_due() -> bool:
                return self._counts[moment] >= wanted or self._counts[Moment.ANSWERED] >= last

            self._changed.wait_for(lambda: self.is_over or is_due(), MOMENT_PATIENCE_S)

    def begin(self) -> None:
        """Let calls wait for moments again, until `end`."""
        self.is_over = False

    def end(self) -> None:
        """End every wait, present and future."""
        with self._changed:
            self.is_over = True
            self._changed.notify_all()


Act = Callable[["Chaos"], None]


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault to inject after a moment was observed a number of further times."""

    act: Act
    moment: Moment
    times: int = 1


@dataclass
class Chaos:
    """One server, its clients and its faults. It ends with its episode."""

    context: Context
    episode: Episode
    settings: Mapping[str, str] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    address: ServerAddress = field(default_factory=ServerAddress)
    moments: Moments = field(default_factory=Moments)
    pid: int = 0
    faults_are_over: bool = False
    _timeouts: int = 0
    _answered_s: float = field(default_factory=time.monotonic)
    _clients: Iterator[int] = field(default_factory=itertools.count)
    _processes: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        host = AdapterInstance(Host(self.episode.instance, self.names))
        self._host = RecordingClient(host, self.context.journal, NEMESIS)

    def client(self) -> ChaosClient:
        """Make one more client."""
        return ChaosClient(self, next(self._clients))

    def next_process(self) -> int:
        """A process number that no client had before."""
        return next(self._processes)

    # Boots and deaths

    def boot(self) -> None:
        """Boot the server, and give its address to the clients. Raises ServerGoneError."""
        boot = self._host.ask("boot", self.settings)
        if boot.outcome is not Outcome.OK:
            self.address.give_up()
            raise ServerGoneError(f"the server does not boot: {boot.error}")
        self.pid = boot.result["pid"]
        self.address.open(boot.result["port"])

    def kill(self) -> None:
        """Kill it with SIGKILL, and boot it again."""
        with self.down("kill"):
            pass

    def terminate(self) -> None:
        """Terminate it with SIGTERM, and boot it again."""
        with self.down("terminate"):
            pass

    @contextmanager
    def down(self, how: str) -> Iterator[None]:
        """End the server, and boot it again after the block."""
        name = f"the server is dead, by {how}"
        self.context.journal.fault(name)
        if how == "kill":
            self.address.close()
        self._host.ask(how, {})
        self.address.close()
        yield
        self.boot()
        self.context.journal.heal(name)

    def note_answer(self, operation: Operation) -> None:
        """Give the server up when no client gets an answer any more: it hangs, or it has died.

        Raises ServerGoneError. The unanswered calls are in the history.
        """
        is_lost = operation.outcome is Outcome.INFO and "timed out" in operation.error
        is_refused = operation.error.startswith(NotReachedError.__name__)
        now_s = time.monotonic()
        if not is_lost and not is_refused:
            self._answered_s = now_s
            return
        self._timeouts = self._timeouts + 1 if is_lost else self._timeouts
        has_hung = self._timeouts >= TIMEOUTS_MAX
        if has_hung or now_s - self._answered_s > BOOT_PATIENCE_S + UNANSWERED_MAX_S:
            self.address.give_up()
            raise ServerGoneError("the server answers no client any more")

    # Faults that a server survives

    def pause(self, for_s: float) -> None:
        """Stop its process for a time."""
        with self.injected(Pause(self.pid)):
            time.sleep(for_s)

    def refuse_writes(self, beyond_bytes: int, until: Callable[[], object]) -> None:
        """Refuse its writes beyond a file size, until `until` returns."""
        with self.injected(ShortFiles(self.pid, beyond_bytes)):
            until()

    def damage(self, found: Callable[[], Iterable[Fault]]) -> None:
        """Kill it, inject the found damages of its files, and boot it: it repairs them itself."""
        with self.down("kill"):
            damages = [fault for fault in found() if fault.available()]
            for fault in damages:
                self.context.journal.fault(fault.name)
                fault.inject()
        for fault in damages:
            self.context.journal.heal(fault.name)

    @contextmanager
    def injected(self, fault: Fault) -> Iterator[None]:
        """Inject a fault while the block lasts, where this system allows it."""
        if not fault.available():
            yield
            return
        with injecting(fault, self.context.journal):
            yield

    # The run

    def run(self, plan: Sequence[PlannedFault], users: Sequence[Callable[[], None]]) -> None:
        """Run all users concurrently, inject the planned faults, and wait until all are done.

        Raises ServerGoneError, or what a user raised: that is a failure of the harness.
        """
        self.faults_are_over = False
        self.moments.begin()
        failures: list[BaseException] = []

        def carry_out(act: Callable[[], None]) -> None:
            try:
                act()
            except BaseException as failure:  # noqa: BLE001  it is raised again below
                failures.append(failure)

        injection = threading.Thread(target=carry_out, args=(lambda: self._inject(plan),))
        threads = [threading.Thread(target=carry_out, args=(user,)) for user in users]
        for thread in (*threads, injection):
            thread.start()
        for thread in threads:
            thread.join()
        self.moments.end()
        injection.join()
        for failure in failures:
            raise failure

    def _inject(self, plan: Sequence[PlannedFault]) -> None:
        try:
            for fault in plan:
                self.moments.wait_for_more(fault.moment, fault.times)
                if self.moments.is_over:
                    return
                fault.act(self)
        finally:
            self.faults_are_over = True

    # Afterwards

    def read_back(self, **at_most: int) -> None:
        """Wait until the server is at rest, and read everything; twice, with a kill in between.

        Runs that a lost reply left under way are cancelled first. `at_most` are bounds of
        containers. A server that does not come to rest is read once.
        """
        client = self.client()
        if not self._read_all(client, at_most):
            return
        with self.down("kill"):
            for session in self.names.all():
                self._host.ask("kept", {"session": session})
        if self._read_all(client, at_most):
            for session in self.names.all():
                self._host.ask("copies", {"session": session})

    def _read_all(self, client: ChaosClient, at_most: Mapping[str, int]) -> bool:
        runs = client.ask("runs")
        for _, run, _ in runs.result or ():
            client.ask("cancel", run=run)
            client.ask("relay", run=run, after=None, leave=None, stall=False)
        rest = client.ask("rest", at_most=at_most)
        is_at_rest = rest.outcome is Outcome.OK and not rest.result["left"]
        for session in self.names.all():
            read = client.ask("read", session=session)
            if is_at_rest and read.outcome is Outcome.OK:
                client.ask("status", session=session)
                client.ask("offered", session=session)
        client.ask("sessions")
        if is_at_rest:
            client.ask("gauges")
        return is_at_rest


class Host:
    """Adapter of the server's process: its boots, its deaths, and the content of its disk."""

    def __init__(self, instance: Instance, names: Names) -> None:
        self._instance = instance
        self._names = names

    def boot(self, **settings: str) -> Any:
        """Boot it; returns its port and process id."""
        return self._instance.call("boot", settings)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._instance.call("kill", {})

    def terminate(self) -> Any:
        """Terminate it with SIGTERM; returns the exit code, None if it hung."""
        return self._instance.call("terminate", {})

    def kept(self, session: str) -> dict[str, Any] | None:
        """A session's content on disk, in the format of `SessionClient.read`; None for none."""
        stored = self._instance.call("kept", {"session_id": self._names.id(session)})
        return (
            None if stored is None else self._names.content(stored["messages"], stored["pending"])
        )

    def copies(self, session: str) -> dict[str, Any]:
        """A session's texts and counts in each copy on disk; empty where there is none to compare.

        Texts are rows of role and text, with names for the ids of sessions.
        """
        copies: Mapping[str, Any] = self._instance.call(
            "copies", {"session_id": self._names.id(session)}
        )
        named = self._names.named
        return {
            name: [[role, named(text)] for role, text in copy] if isinstance(copy, list) else copy
            for name, copy in copies.items()
        }

    def close(self) -> None:
        """Leave the server to its episode."""


class ChaosClient:
    """One client, which gets a new process number whenever a reply was lost."""

    def __init__(self, chaos: Chaos, number: int) -> None:
        self.number = number
        self._chaos = chaos
        self._client = SessionClient(chaos.address, chaos.names, chaos.moments.observe)
        self._renew()

    def _renew(self) -> None:
        instance = AdapterInstance(self._client)
        process = self._chaos.next_process()
        self._recorder = RecordingClient(instance, self._chaos.context.journal, process)

    def ask(self, function: str, /, **argument: Any) -> Operation:
        """Call a function once there is a server. Raises ServerGoneError where none comes back."""
        if not self._chaos.address.wait_until_open(BOOT_PATIENCE_S):
            raise ServerGoneError("the server did not come back")
        operation = self._recorder.ask(function, argument)
        if operation.outcome is Outcome.INFO:
            self._renew()
        self._chaos.note_answer(operation)
        if operation.error.startswith(NotReachedError.__name__):
            time.sleep(BACK_OFF_S)  # the server is dying; its host closes the address soon
        return operation
