"""The storm: one server, many visitors at once, and who disturbs it meanwhile.

Nothing here waits for a while where it can wait for a fact: a strike comes after so many moments
of a kind, as the visitors saw them, so it comes to a server that is at work, however slow the
machine is. Each fault's interval is in the history, and so are the server's deaths, which are
operations like any other. When the last fault is healed the server is let come to rest.
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

from harness.contract.clients.session_client import Door, Moment, Names, Visitor
from harness.core.history import Operation, Outcome
from harness.engine.client import RecordingClient
from harness.engine.context import Episode, Stage
from harness.engine.http import NotReachedError
from harness.engine.target import AdapterInstance, Instance
from harness.faults.nemesis import Fault, Pause, ShortFiles, roaming

BOOT_PATIENCE_S = 40.0
MOMENT_PATIENCE_S = 15.0  # a moment that does not come for so long is not waited for
CALLS_MAX = 60  # ... nor one that does not come while so many calls are answered
BACK_OFF_S = 0.01
NEMESIS = 1_000_000  # its process, far from those of visitors


class ServerGoneError(Exception):
    """The server is dead, and does not come up again."""


class Moments:
    """How often each moment was seen; whoever waits for one is told at once."""

    def __init__(self) -> None:
        """None yet."""
        self._changed = threading.Condition()
        self._seen: Counter[Moment] = Counter()
        self.is_over = False

    def see(self, moment: Moment) -> None:
        """It was seen."""
        with self._changed:
            self._seen[moment] += 1
            self._changed.notify_all()

    def await_more(self, moment: Moment, times: int) -> None:
        """Wait until it was seen so many more times; or not at all, after many other calls."""
        with self._changed:
            wanted = self._seen[moment] + times
            last = self._seen[Moment.ASKED] + CALLS_MAX

            def is_time() -> bool:
                return self._seen[moment] >= wanted or self._seen[Moment.ASKED] >= last

            self._changed.wait_for(lambda: self.is_over or is_time(), MOMENT_PATIENCE_S)

    def begin(self) -> None:
        """From now on one can wait."""
        self.is_over = False

    def end(self) -> None:
        """Nobody waits for anything any more."""
        with self._changed:
            self.is_over = True
            self._changed.notify_all()


Act = Callable[["Storm"], None]


@dataclass(frozen=True, slots=True)
class Strike:
    """What befalls the server, after a moment was seen so many more times."""

    act: Act
    moment: Moment
    times: int = 1


@dataclass
class Storm:
    """One server in the storm. It ends with its episode."""

    stage: Stage
    episode: Episode
    settings: Mapping[str, str] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    door: Door = field(default_factory=Door)
    moments: Moments = field(default_factory=Moments)
    pid: int = 0
    is_calm: bool = False  # nothing will befall the server any more
    _guests: Iterator[int] = field(default_factory=itertools.count)
    _processes: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        host = AdapterInstance(Host(self.episode.instance, self.names))
        self._host = RecordingClient(host, self.stage.journal, NEMESIS)

    def visitor(self) -> Guest:
        """One more visitor."""
        return Guest(self, next(self._guests))

    def next_process(self) -> int:
        """A number that no visitor had before."""
        return next(self._processes)

    # The server's lives

    def boot(self) -> None:
        """Boot the server, and let the visitors in. Raises ServerGoneError."""
        told = self._host.ask("boot", self.settings)
        if told.outcome is not Outcome.OK:
            self.door.brick_up()
            raise ServerGoneError(f"the server does not come up: {told.error}")
        self.pid = told.result["pid"]
        self.door.open(told.result["port"])

    def kill(self) -> None:
        """Kill it with kill -9, and boot it again."""
        with self.dead("kill"):
            pass

    def terminate(self) -> None:
        """Ask it to go by SIGTERM, and boot it again."""
        with self.dead("terminate"):
            pass

    @contextmanager
    def dead(self, how: str) -> Iterator[None]:
        """End the server, and boot it again after the block."""
        name = f"the server is dead, by {how}"
        self.stage.journal.fault(name)
        if how == "kill":
            self.door.close()
        self._host.ask(how, {})
        self.door.close()
        yield
        self.boot()
        self.stage.journal.heal(name)

    # Faults that a server lives through

    def pause(self, for_s: float) -> None:
        """Stop it where it is, for a while."""
        with self.roaming(Pause(self.pid)):
            time.sleep(for_s)

    def refuse_writes(self, beyond_bytes: int, until: Callable[[], object]) -> None:
        """Let it write no file beyond so many bytes, until something is so."""
        with self.roaming(ShortFiles(self.pid, beyond_bytes)):
            until()

    def damage(self, found: Callable[[], Iterable[Fault]]) -> None:
        """Kill it, damage what is found on its disk, and boot it again: it mends that by itself."""
        with self.dead("kill"):
            damages = [fault for fault in found() if fault.available()]
            for fault in damages:
                self.stage.journal.fault(fault.name)
                fault.inject()
        for fault in damages:
            self.stage.journal.heal(fault.name)

    @contextmanager
    def roaming(self, fault: Fault) -> Iterator[None]:
        """Let a fault roam while the block lasts, where it can be had."""
        if not fault.available():
            yield
            return
        with roaming(fault, self.stage.journal):
            yield

    # Who does what

    def rage(self, plan: Sequence[Strike], visits: Sequence[Callable[[], None]]) -> None:
        """Let all visits begin, strike as planned meanwhile, and wait until all are over.

        Raises ServerGoneError, or what a visit raised: that is our own failure.
        """
        self.is_calm = False
        self.moments.begin()
        failures: list[BaseException] = []

        def carry_out(act: Callable[[], None]) -> None:
            try:
                act()
            except BaseException as failure:  # noqa: BLE001  it belongs to whoever waits for us
                failures.append(failure)

        striking = threading.Thread(target=carry_out, args=(lambda: self._strike(plan),))
        visiting = [threading.Thread(target=carry_out, args=(visit,)) for visit in visits]
        for thread in (*visiting, striking):
            thread.start()
        for thread in visiting:
            thread.join()
        self.moments.end()
        striking.join()
        for failure in failures:
            raise failure

    def _strike(self, plan: Sequence[Strike]) -> None:
        try:
            for strike in plan:
                self.moments.await_more(strike.moment, strike.times)
                if self.moments.is_over:
                    return
                strike.act(self)
        finally:
            self.is_calm = True

    # Afterwards

    def look_back(self, **at_most: int) -> None:
        """Let the server come to rest, and read everything; twice, with a death in between.

        What a lost answer left running is cancelled first. `at_most` are bounds of containers.
        A server that does not come to rest is read once.
        """
        guest = self.visitor()
        if not self._read_all(guest, at_most):
            return
        with self.dead("kill"):
            for session in self.names.all():
                self._host.ask("kept", {"session": session})
        self._read_all(guest, at_most)

    def _read_all(self, guest: Guest, at_most: Mapping[str, int]) -> bool:
        health = guest.ask("health")
        for _, run, _ in health.result["runs"] if health.result else ():
            guest.ask("cancel", run=run)
        rest = guest.ask("rest", at_most=at_most)
        for session in self.names.all():
            guest.ask("read", session=session)
        guest.ask("sessions")
        return rest.outcome is Outcome.OK and not rest.result["left"]


class Host:
    """Who has the server in hand: its lives and deaths, and what its disk says."""

    def __init__(self, instance: Instance, names: Names) -> None:
        self._instance = instance
        self._names = names

    def boot(self, **settings: str) -> Any:
        """Boot it; its port and process."""
        return self._instance.call("boot", settings)

    def kill(self) -> None:
        """Kill it with kill -9."""
        self._instance.call("kill", {})

    def terminate(self) -> Any:
        """Ask it to go by SIGTERM; the exit code, None if it hung."""
        return self._instance.call("terminate", {})

    def kept(self, session: str) -> dict[str, Any] | None:
        """What the disk keeps of a session, in the words of `Visitor.read`; None for nothing."""
        kept = self._instance.call("kept", {"session_id": self._names.id(session)})
        return None if kept is None else self._names.told(kept["messages"], kept["pending"])

    def close(self) -> None:
        """Leave the server to its episode."""


class Guest:
    """One visitor, who gets a new number whenever an answer was lost."""

    def __init__(self, storm: Storm, number: int) -> None:
        self.number = number
        self._storm = storm
        self._visitor = Visitor(storm.door, storm.names, storm.moments.see)
        self._renew()

    def _renew(self) -> None:
        instance = AdapterInstance(self._visitor)
        process = self._storm.next_process()
        self._client = RecordingClient(instance, self._storm.stage.journal, process)

    def ask(self, function: str, /, **argument: Any) -> Operation:
        """Ask, once there is a server. Raises ServerGoneError where it does not come back."""
        if not self._storm.door.await_open(BOOT_PATIENCE_S):
            raise ServerGoneError("the server did not come back")
        operation = self._client.ask(function, argument)
        if operation.outcome is Outcome.INFO:
            self._renew()
        if operation.error.startswith(NotReachedError.__name__):
            time.sleep(BACK_OFF_S)  # it is going, and whoever ends it will close the door
        return operation
